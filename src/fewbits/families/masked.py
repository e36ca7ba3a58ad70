# SPDX-License-Identifier: MIT
"""What the families `content-weighted`, `resnet-ae` and `cae3` share: a latent of 6-bit values, of which leading bits are kept.

A network gives values v in 0..1; floor(64 v) is the 6-bit latent value. Where b of its bits are kept, they stand for the middle
of the values that begin so: y_hat = (floor(2^b v) + 1/2) / 2^b - 1/2, which is 0 for b = 0. An importance map (Li, Zuo, Gu, Zhao,
Zhang, CVPR 2018) gives b = 0, 2, 4 or 6 at each position; without it the coding side keeps as many as the quality asks for.

Shapes: x (b, 3, h, w) in 0..1, h and w multiples of 8. With `colours` 1 each of R, G and B passes the networks by itself, and
(b, 3, ...) stands for the three; with 3 they pass together. y (b, planes * channels, h/8, w/8).
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fewbits.errors import TrainingError
from fewbits.families.batch_part import own_uniform_like
from fewbits.families.few import Estimate
from fewbits.families.likelihood import entropy_bits
from fewbits.families.losses import Distortion, Penalty, mse

STRIDE = 8
BITS, STEP_BITS = 6, 2  # of a latent value; that one step of importance keeps
HIGHEST = BITS // STEP_BITS
HALO = 10  # latent positions; the widest receptive field reaches 9
DEFAULT_QUALITY = 60  # at which a file is what the model was trained for
START_BATCHES = 4
MARGIN = 0.25  # of importance that training shakes, so that it does not come to lie where rounding could go either way
SOFTNESS = 2.0  # of the soft quantization: distances are in steps


class Parts(NamedTuple):
    """encoder: planes about 0 -> values before the sigmoid, (b, channels, h/8, w/8); importance, or None: the same, (b, 1, ...);
    trunk: what both read. decoder: y_hat -> planes about 0."""

    trunk: nn.Module
    encoder: nn.Module
    importance: nn.Module | None
    decoder: nn.Module


def leading_bits(values: Tensor, bits: Tensor | int) -> Tensor:
    """y_hat of values in 0..1 whose leading `bits` (broadcast, 0..6) are kept. Its slope is 0; see straight() and soft()."""
    levels = torch.as_tensor(2.0, device=values.device) ** bits
    return ((values * levels).floor().clamp(max=levels - 1) + 0.5) / levels - 0.5


def straight(values: Tensor) -> Tensor:
    """All bits kept, the slope that of values: the gradient passes through the quantizer."""
    return values - 0.5 + (leading_bits(values, BITS) - (values - 0.5)).detach()


def soft(values: Tensor) -> Tensor:
    """All bits kept, the slope that of a soft assignment to the 64 levels (Agustsson et al., NeurIPS 2017, section 3.1)."""
    centres = (torch.arange(1 << BITS, device=values.device) + 0.5) / (1 << BITS)
    distance = (values[..., None] - centres).square() * (1 << BITS) ** 2
    blurred = (torch.softmax(-SOFTNESS * distance, -1) * centres).sum(-1) - 0.5
    return blurred + (leading_bits(values, BITS) - blurred).detach()


def unquantized(values: Tensor) -> Tensor:
    return values - 0.5


QUANTIZERS = {"straight": straight, "soft": soft, "none": unquantized}


def masked(values: Tensor, importance: Tensor, quantizer: str) -> Tensor:
    """y_hat of values (b, c, h, w) under an importance (b, 1, h, w) in 0..3, which is rounded.

    Slopes: a value's is that of the quantizer where any bit is kept, else 0; the importance's is what one more step would change.
    """
    steps = importance.round()
    full = QUANTIZERS[quantizer](values)
    kept = leading_bits(values, STEP_BITS * steps)
    hard = torch.where(steps > 0, full + (kept - full).detach(), torch.zeros_like(full))
    low = importance.detach().floor().clamp(0, HIGHEST - 1)
    rise = leading_bits(values, STEP_BITS * (low + 1)) - leading_bits(values, STEP_BITS * low)
    return hard + rise.detach() * (importance - importance.detach())


class MaskedAutoencoder(nn.Module):
    """The trainable model of the three families, which differ in their config and so in their networks."""

    def __init__(self, config: Any) -> None:
        """config: that of one of the three families. Raises TrainingError on settings that no file could hold."""
        super().__init__()
        if config.colours not in (1, 3):
            raise TrainingError(f"colours is {config.colours}, it must be 1 (each plane by itself) or 3 (together)")
        if config.quantizer not in QUANTIZERS:
            raise TrainingError(f"quantizer is {config.quantizer!r}, it must be one of {', '.join(QUANTIZERS)}")
        if config.coder not in ("huffman", "adaptive"):
            raise TrainingError(f"coder is {config.coder!r}, it must be huffman or adaptive")
        self.config = config
        self.trunk, self.encoder, self.importance, self.decoder = config.parts()

    def initialize(self, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        """What the config makes of the first pictures."""
        x = torch.cat(list(islice(pictures, START_BATCHES)))
        self.config.start(Parts(self.trunk, self.encoder, self.importance, self.decoder), self._planes(x))

    def _planes(self, x: Tensor) -> Tensor:
        """x -> (b * planes, colours, h, w) about 0."""
        return x.reshape(-1, self.config.colours, *x.shape[2:]).contiguous() - 0.5

    def analysis(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x -> values in 0..1 and the importance in 0..3, one for each plane or one for all; float32."""
        features = self.trunk(self._planes(x))
        values = torch.sigmoid(self.encoder(features).float())
        if self.importance is None:
            return values, None
        return values, HIGHEST * torch.sigmoid(self.importance(features).float())

    def synthesis(self, y_hat: Tensor, x: Tensor) -> Tensor:
        """y_hat -> x_hat, float32, of the shape of x."""
        return self.decoder(y_hat).float().reshape(x.shape) + 0.5

    @property
    def settings(self) -> tuple[float, ...]:
        """Without a map: bits kept; with one: what is added to it."""
        return (1.0, 2.0, 3.0, 4.0, 6.0) if self.importance is None else (-1.0, -0.5, 0.0, 0.5, 1.0)

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """Reconstruction at a setting, and the order-0 entropy of the kept bits and the map of each picture."""
        values, importance = self.analysis(x)
        if importance is None:
            kept = torch.full_like(values[:, :1], round(setting))
        else:
            kept = STEP_BITS * (importance + setting).round().clamp(0, HIGHEST)
        symbols = ((leading_bits(values, kept) + 0.5) * 2.0**kept).floor()
        per_picture = (each.reshape(len(x), -1) for each in (symbols, kept.expand_as(symbols)))
        bits = x.new_tensor([_grouped_bits(*pair) for pair in zip(*per_picture, strict=True)])
        if importance is not None:
            bits = bits + x.new_tensor([entropy_bits(each) for each in kept.reshape(len(x), -1)])
        x_hat = self.synthesis(leading_bits(values, kept), x)
        return Estimate(x_hat, bits, x.new_zeros(len(x)), values.reshape(len(x), -1, *values.shape[2:]))

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """Without a map the distortion alone, as in the source; with one distortion_weight distortion + kept bits per pixel."""
        if self.config.colours == 1:  # a plane is as good as three, and takes a third of the time
            x = x[:, int(torch.randint(3, ())) :][:, :1]
        values, importance = self.analysis(x)
        if importance is None:
            x_hat = self.synthesis(QUANTIZERS[self.config.quantizer](values), x)
            each, parts = distortion(x, x_hat), dict[str, Tensor]()
        else:
            shaken = importance + MARGIN * (2 * own_uniform_like(importance) - 1)
            x_hat = self.synthesis(masked(values, shaken, self.config.quantizer), x)
            kept = importance.reshape(len(x), -1).sum(1) * STEP_BITS * self.config.channels / x[0, 0].numel()
            each, parts = self.config.distortion_weight * distortion(x, x_hat) + kept, {"kept_bpp": kept.mean().detach()}
        if penalty.terms:
            each = each + penalty(values.reshape(len(x), -1, *values.shape[2:]), x)
        return each.mean(), parts | {"mse": mse(x, x_hat).mean().detach()}

    # The coding side (runtime/masked.py reads what these give)

    crop_multiple = STRIDE
    frozen_networks: frozenset[str] = frozenset()

    def networks(self) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
        config = self.config
        return {
            "analysis": (AnalysisGraph(self), {"x": torch.zeros(1, config.colours, 32, 48)}),
            "synthesis": (SynthesisGraph(self.decoder), {"y_hat": torch.zeros(1, config.channels, 4, 6)}),
        }

    def tables(self) -> dict[str, np.ndarray]:
        return {}

    def coding(self) -> dict[str, Any]:
        """Numbers of the coding pipeline: with a map what each quality adds to it, else the bits that it keeps."""
        levels = [[0, 1], [DEFAULT_QUALITY, BITS]] if self.importance is None else [[0, -2], [DEFAULT_QUALITY, 0], [100, HIGHEST]]
        return {
            "kind": "masked",
            "stride": STRIDE,
            "halo": HALO,
            "colours": self.config.colours,
            "channels": self.config.channels,
            "map": self.importance is not None,
            "coder": self.config.coder,
            "levels": levels,
        }

    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """There are none."""


def _grouped_bits(symbols: Tensor, kept: Tensor) -> float:
    """Order-0 entropy in bits of the symbols, those with equally many bits together."""
    groups = [symbols[kept == bits] for bits in range(1, BITS + 1)]
    return sum(entropy_bits(group) for group in groups if group.numel())


class AnalysisGraph(nn.Module):
    """x - 1/2 (1, colours, h, w) -> values, and below them the importance where there is one. To be exported."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.trunk, self.encoder, self.importance = model.trunk, model.encoder, model.importance

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk(x)
        values = torch.sigmoid(self.encoder(features))
        if self.importance is None:
            return values
        return torch.cat([values, HIGHEST * torch.sigmoid(self.importance(features))], 1)


class SynthesisGraph(nn.Module):
    """y_hat (1, channels, h, w) -> planes about 0. To be exported."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, y_hat: Tensor) -> Tensor:
        planes: Tensor = self.decoder(y_hat)
        return planes

# SPDX-License-Identifier: MIT
"""The convolutional autoencoder with principal components of Cheng, Sun, Takeuchi, Katto, "Deep Convolutional AutoEncoder-based
Lossy Image Compression" (PCS 2018), with the arithmetic coder that its replication left out.

Y, Cb and Cr go through one network, each by itself. After training each plane's maps are rotated to their principal components,
sorted by energy, and quantized with a precision of B bits, the knob of the rate. Trained as the source does (objective `noise`),
the network knows nothing of rates; objective `rate` trains it for what the adaptive coder will make of its maps.

Shapes: x (b, 3, h, w) in 0..1 with h, w multiples of 8; y (b, 3 planes, maps, h/8, w/8).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.errors import TrainingError
from fewbits.families.batch_part import own_draw, own_uniform_like, whole_mean
from fewbits.families.blocks import YCBCR, MatrixConv
from fewbits.families.components import nested_components
from fewbits.families.few import Estimate
from fewbits.families.likelihood import LOG_STEP, SCALE_MIN, entropy_bits, logistic_bits
from fewbits.families.losses import Distortion, Penalty, mse
from fewbits.families.quantize import round_through, uniform_noise
from fewbits.families.settings import Settings, setting

STRIDE = 8
HALO = 4  # latent positions: the synthesis reaches 3.1, the analysis 1.8
N_PLANES = 3
START_BATCHES = 4
PASS_SLOPE = 1.0  # PReLU's, of channels that carry the transform at first
STATISTICS_RATE = 0.02  # a step's share in the running moments
DEVIATIONS = 2.0  # of the first component, that normalised values of magnitude 1 stand for
SLOPE = 18.0  # lambda times the squared quantizer step (of 0-255): least squared error at a rate, on transform codecs
MIDDLE_STEP = 20.0  # quantizer step of 0-255 at which a picture counts once in the loss


@dataclass(frozen=True)
class CaePcaConfig(Settings):
    """The networks, what they are trained for, and the knob of the rate."""

    filters: tuple[int, ...] = setting(
        (32, 32, 64, 64, 64, 32),
        "channels of the encoder's convolutions, six; the last are the maps",
        least=1,
    )
    objective: str = setting("noise", "noise: the distortion behind noise on the maps, as the source; rate: distortion and rate")
    noise: float = setting(2.0**-10, "objective noise: the noise is uniform in plus or minus this; the source's", least=0)
    block: int = setting(
        0,
        "code blocks of so many pixels a side, each by itself, as the source does (128); 0: the whole picture",
        least=0,
    )
    start: str = setting("random", "random: as the source; klt: from principal components, far quicker (docs/adr/0010)")
    lowest: float = setting(3.0, "precision B in bits at quality 0")
    highest: float = setting(8.5, "precision B in bits at quality 100; the source goes to 12")
    levels: int = setting(45, "steps of quality, from the lowest to the highest precision", least=2)

    training: ClassVar[dict[str, Any]] = {"batch": 16, "crop": 128, "lr": 1e-3, "matrix_lr": 1e-3}


def encoder(filters: tuple[int, ...]) -> nn.Sequential:
    """A plane (n, 1, h, w) about 0 -> maps (n, filters[-1], h/8, w/8): pairs of 3x3 convolutions, the second of stride 2."""
    layers: list[nn.Module] = []
    for k, (n_in, n_out) in enumerate(pairwise((1, *filters))):
        layers += [MatrixConv(n_in, n_out, stride=1 + k % 2), nn.PReLU(n_out)]
    return nn.Sequential(*layers[:-1])


def decoder(filters: tuple[int, ...]) -> nn.Sequential:
    """Maps -> a plane about 0: the mirror, pairs of a 3x3 convolution and a transposed 4x4 one of stride 2."""
    layers: list[nn.Module] = []
    for k, (n_in, n_out) in enumerate(pairwise((*filters[::-1], 1))):
        layers += [MatrixConv(n_in, n_out, up=bool(k % 2)), nn.PReLU(n_out)]
    return nn.Sequential(*layers[:-1])


class ContextRate(nn.Module):
    """Bits of an adaptive coder: logistic values whose scale follows the magnitudes around them and in the map before.

    A differentiable stand-in for coding/adaptive.py, with three learned weights a map. In training noise stands for rounding.
    """

    def __init__(self, n_maps: int) -> None:
        super().__init__()
        self.around, self.before = nn.Parameter(torch.full((n_maps,), -1.0)), nn.Parameter(torch.full((n_maps,), -3.0))
        self.alone = nn.Parameter(torch.zeros(n_maps))
        kernel = torch.tensor([[0.0, 0, 1, 0, 0], [0, 1, 2, 1, 0], [1, 2, 0, 0, 0], [0] * 5, [0] * 5]) / 8
        self.register_buffer("kernel", kernel.repeat(n_maps, 1, 1, 1), persistent=False)

    def forward(self, values: Tensor, gain: Tensor) -> Tensor:
        """values (b, maps, h, w) in quantizer steps, float32; gain (b, 1, 1, 1), steps a unit of y. Bits, shaped like values."""
        magnitudes = round_through(values).abs()
        around = F.conv2d(magnitudes, self.get_buffer("kernel"), padding=2, groups=len(self.alone))
        before = F.pad(magnitudes[:, :-1], (0, 0, 0, 0, 1, 0))
        per_map = [torch.exp(weight).view(1, -1, 1, 1) for weight in (self.around, self.before, self.alone)]
        scale = SCALE_MIN + per_map[0] * around + per_map[1] * before + per_map[2] * gain
        coded = uniform_noise(values) if self.training else torch.round(values)
        return logistic_bits(coded, torch.log(scale / SCALE_MIN) / LOG_STEP)

    @torch.no_grad()
    def start(self, y: Tensor) -> None:
        """Weights for latents y (b, maps, h, w)."""
        self.alone.copy_(torch.log(0.2 * y.abs().mean((0, 2, 3)).clamp(min=1e-6)))


class CaePca(nn.Module):
    """The trainable model; see the module's docstring for shapes. A setting is a precision B, a real number of bits."""

    mean: Tensor  # (planes, maps): of the maps, a running mean over training
    square: Tensor  # (planes, maps, maps): of the maps' products, likewise

    def __init__(self, config: CaePcaConfig) -> None:
        super().__init__()
        if len(config.filters) != 6:
            raise TrainingError(f"filters are {config.filters}, there must be 6")
        if config.objective not in ("noise", "rate") or config.start not in ("klt", "random"):
            raise TrainingError(f"objective {config.objective!r} must be noise or rate, and start {config.start!r} klt or random")
        if config.block % STRIDE:
            raise TrainingError(f"block is {config.block}, it must be a multiple of {STRIDE} pixels, or 0 for whole pictures")
        if not config.lowest < config.highest:
            raise TrainingError(f"lowest is {config.lowest}, it must be below highest, {config.highest}")
        carried = 1  # channels that the transform takes through a KLT start
        for wide, narrow in zip(config.filters[::2], config.filters[1::2], strict=True):
            before, carried = carried, min(narrow, 4 * carried)
            if config.start == "klt" and wide < max(before, carried):
                raise TrainingError(
                    f"filters are {config.filters}: for start klt the {wide} must be at least {max(before, carried)}"
                )
        self.config = config
        self.encoder, self.decoder = encoder(config.filters), decoder(config.filters)
        n_maps = config.filters[-1]
        self.rate = ContextRate(N_PLANES * n_maps)
        self.register_buffer("mean", torch.zeros(N_PLANES, n_maps))
        self.register_buffer("square", torch.eye(n_maps).repeat(N_PLANES, 1, 1))

    @torch.no_grad()
    def initialize(self, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        """KLT start, unless the start is random: 8x8 principal components of planes, and channels beside them that can learn."""
        x = torch.cat(list(islice(pictures, START_BATCHES)))
        if self.config.start == "klt":
            features, forth, back = to_planes(x - 0.5).flatten(0, 1)[:, None], [], []
            for n_out in self.config.filters[1::2]:
                n_in = features.shape[1]
                basis = nested_components(features, [n_in], [n_out], 2)
                forth += [torch.eye(n_in).view(n_in, n_in, 1, 1), basis]
                back += [basis, torch.eye(len(basis)).view(len(basis), len(basis), 1, 1)]
                features = F.conv2d(features, basis, stride=2)
            for network, blocks in ((self.encoder, forth), (self.decoder, back[::-1])):
                layers = [part for part in network if isinstance(part, MatrixConv)]
                for layer, block in zip(layers, blocks, strict=True):
                    layer.start(block)
                activations = [part for part in network if isinstance(part, nn.PReLU)]
                for activation, layer, block in zip(activations, layers, blocks, strict=False):
                    activation.weight[: block.shape[1] if layer.up else len(block)] = PASS_SLOPE
        y = self.analysis(x[:START_BATCHES])
        self._follow(y, 1.0)
        self.rate.start(y.flatten(1, 2))

    def analysis(self, x: Tensor) -> Tensor:
        """x -> y, not rotated, float32."""
        planes = to_planes(x - 0.5)
        y = self.encoder(planes.flatten(0, 1)[:, None]).float()
        return y.view(len(x), N_PLANES, *y.shape[1:])

    def synthesis(self, y_hat: Tensor) -> Tensor:
        """y_hat, not rotated -> x_hat, float32."""
        planes = self.decoder(y_hat.flatten(0, 1)).float()
        return to_colours(planes.view(len(y_hat), N_PLANES, *planes.shape[2:])) + 0.5

    @torch.no_grad()
    def _follow(self, y: Tensor, share: float) -> None:
        """Move the running moments by a share towards those of y."""
        samples = y.movedim(1, 0).movedim(2, -1).flatten(1, 3)  # (planes, n, maps)
        with torch.autocast(y.device.type, enabled=False):
            self.mean.lerp_(whole_mean(samples.mean(1)), share)
            self.square.lerp_(whole_mean(samples.mT @ samples / samples.shape[1]), share)

    @torch.no_grad()
    def components(self) -> tuple[Tensor, Tensor]:
        """Of each plane a rotation (planes, maps, maps), its rows by falling energy, and their variances (planes, maps)."""
        covariance = self.square.double() - self.mean.double()[:, :, None] * self.mean.double()[:, None]
        energies, vectors = torch.linalg.eigh(covariance)
        return vectors.flip(2).mT.float(), energies.flip(1).clamp(min=0).float()

    def gain(self, precision: float) -> float:
        """Quantizer steps a unit of y: 2^(B - 1), over the magnitude that normalised values of 1 stand for (`DEVIATIONS`)."""
        return float(2.0 ** (precision - 1) / self._unit())

    def _unit(self) -> float:
        return DEVIATIONS * math.sqrt(max(float(self.components()[1].max()), 1e-12))

    @property
    def settings(self) -> tuple[float, ...]:
        """Five precisions, ends included."""
        return tuple(np.linspace(self.config.lowest, self.config.highest, 5).tolist())

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """Reconstruction at a precision, and the order-0 entropy of each picture's maps in bits; coded whole, not in blocks."""
        gain, (rotation, _) = self.gain(setting), self.components()
        y = self.analysis(x)
        symbols = torch.round(torch.einsum("pij,bpjhw->bpihw", rotation, y) * gain)
        x_hat = self.synthesis(torch.einsum("pji,bpjhw->bpihw", rotation, symbols / gain))
        bits = [sum(map(entropy_bits, picture.flatten(0, 1))) for picture in symbols]
        return Estimate(x_hat, x.new_tensor(bits), x.new_zeros(len(x)), y.flatten(1, 2))

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """`noise`: the distortion behind uniform noise on y. `rate`: for each picture a random precision, rounding, and
        lambda distortion + bpp, lambda as that precision asks for."""
        y = self.analysis(x)
        self._follow(y.detach(), STATISTICS_RATE)
        if self.config.objective == "noise":
            x_hat = self.synthesis(y + self.config.noise * (2 * own_uniform_like(y) - 1))
            each, parts = distortion(x, x_hat), dict[str, Tensor]()
        else:
            bits = own_draw(
                len(x), lambda n: torch.empty(n, 1, 1, 1, device=x.device).uniform_(self.config.lowest, self.config.highest)
            )
            gain = 2 ** (bits - 1) / self._unit()
            values = y.flatten(1, 2) * gain
            x_hat = self.synthesis((round_through(values) / gain).view_as(y))
            with torch.autocast(x.device.type, enabled=False):
                bpp = self.rate(values, gain).sum((1, 2, 3)) / x[0, 0].numel()
            step = 255 / gain.flatten()
            each, parts = step / MIDDLE_STEP * (SLOPE / step**2 * distortion(x, x_hat) + bpp), {"bpp": bpp.mean().detach()}
        if penalty.terms:
            each = each + penalty(y.flatten(1, 2), x)
        return each.mean(), parts | {"mse": mse(x, x_hat).mean().detach()}

    def multiplications(self) -> tuple[float, float]:
        """Multiply-accumulates a pixel of analysis and of synthesis, all three planes."""
        a, b, c, d, e, f = self.config.filters
        there = 9 * (a + a * b / 4 + b * c / 4 + c * d / 16 + d * e / 16 + e * f / 64)
        back = 9 * (f * e / 64 + d * c / 16 + b * a / 4) + 16 * (e * d / 64 + c * b / 16 + a / 4)
        return N_PLANES * there, N_PLANES * back

    # The coding side (runtime/factorized.py reads what these give)

    crop_multiple = STRIDE
    frozen_networks: frozenset[str] = frozenset()

    def networks(self) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
        """Both networks with colour conversion and rotation."""
        rotation = torch.block_diag(*self.components()[0])[:, :, None, None]  # type: ignore[no-untyped-call]
        x, y = torch.zeros(1, N_PLANES, 32, 48), torch.zeros(1, len(rotation), 4, 6)
        return {
            "analysis": (AnalysisGraph(self.encoder, rotation), {"x": x}),
            "synthesis": (SynthesisGraph(self.decoder, rotation.movedim(0, 1)), {"y_hat": y}),
        }

    def tables(self) -> dict[str, np.ndarray]:
        """What load_tables needs; the coding side needs none."""
        rate = {f"rate.{name}": value.detach().numpy().copy() for name, value in self.rate.state_dict().items()}
        return {"mean": self.mean.numpy().copy(), "square": self.square.numpy().copy(), **rate}

    def coding(self) -> dict[str, Any]:
        """Numbers of the coding pipeline: precisions in equal steps."""
        config = self.config
        n_maps = N_PLANES * config.filters[-1]
        found: dict[str, Any] = {
            "kind": "factorized",
            "stride": STRIDE,
            "halo": HALO,
            "coder": "adaptive",
            "levels": [[n_maps, round(self.gain(b), 6)] for b in np.linspace(config.lowest, config.highest, config.levels)],
            "inputs": {},
        }
        return found | ({"block": config.block // STRIDE} if config.block else {})

    @torch.no_grad()
    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of tables()."""
        self.mean.copy_(tables["mean"])
        self.square.copy_(tables["square"])
        self.rate.load_state_dict({name: tables[f"rate.{name}"] for name in self.rate.state_dict()})


class AnalysisGraph(nn.Module):
    """x - 1/2 (1, 3, h, w) -> components (1, 3 maps, h/8, w/8): Y's by falling energy, then Cb's, then Cr's. To be exported."""

    def __init__(self, encoder: nn.Sequential, rotation: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("colour", torch.tensor(YCBCR)[:, :, None, None], persistent=False)
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        planes = F.conv2d(x, self.get_buffer("colour"))
        maps = self.encoder(planes.movedim(1, 0))
        return F.conv2d(maps.flatten(0, 1)[None], self.get_buffer("rotation"))


class SynthesisGraph(nn.Module):
    """The inverse of AnalysisGraph."""

    def __init__(self, decoder: nn.Sequential, rotation: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("rotation", rotation, persistent=False)
        self.register_buffer("colour", torch.linalg.inv(torch.tensor(YCBCR))[:, :, None, None], persistent=False)

    def forward(self, y_hat: Tensor) -> Tensor:
        maps = F.conv2d(y_hat, self.get_buffer("rotation"))
        planes = self.decoder(maps.view(N_PLANES, -1, *maps.shape[2:]))
        return F.conv2d(planes.movedim(1, 0), self.get_buffer("colour"))


def to_planes(x: Tensor) -> Tensor:
    """RGB (b, 3, h, w) about 0 -> Y, Cb, Cr about 0."""
    return _mixed(x.new_tensor(YCBCR), x)


def to_colours(planes: Tensor) -> Tensor:
    """Inverse of to_planes."""
    return _mixed(torch.linalg.inv(planes.new_tensor(YCBCR)), planes)


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (3, 3) times each pixel, without a matrix product, which autocast would make too coarse."""
    return (matrix[:, :, None, None] * x[:, None]).sum(2)

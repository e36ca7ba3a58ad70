# SPDX-License-Identifier: MIT
"""The flagship family `few`: one model with a scale hyperprior for all qualities, with a linear (KLT) shortcut.

Analysis and synthesis are a 16x16 Karhunen-Loeve transform plus a deep branch that starts at zero, so training starts
from a working transform codec. Per-channel gains at the latent set the rate (Cui et al., CVPR 2021). The hyper latent
gives the scale indices through an integer net (after Balle, Johnston, Minnen, ICLR 2019), so what chooses an entropy table is
the same on every machine; means are predicted from decoded values (ADR 20, ADR 27).

Shapes: x (b, 3, h, w) in 0..1 with h, w multiples of 64 in training; y (b, latent, h/16, w/16); z (b, hyper, h/64, w/64).
A level is a real number in 0..N-1, N the number of lambdas; level k is trained for lambdas[k].
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.coding.pyramid import phases, predictions
from fewbits.coding.tables import quantize_frequencies
from fewbits.errors import TrainingError
from fewbits.families.batch_part import own_draw
from fewbits.families.blocks import Blocked, DepthToSpace, Depthwise, DepthwiseBlock, Pointwise, SpaceToDepth
from fewbits.families.eight_bits import STEPS, SUMS, EightBits
from fewbits.families.likelihood import (
    LOG_STEP,
    N_SCALES,
    SCALE_MIN,
    dead_zones,
    logistic_bits,
    logistic_frequencies,
    table_bits,
)
from fewbits.families.losses import Distortion, Penalty, mse
from fewbits.families.means import Means, Regression
from fewbits.families.quantize import (
    ACTIVATION_LIMIT,
    EXACT_LIMIT,
    WEIGHT_LIMIT,
    IntegerConv,
    freeze_integers,
    integer_bias,
    integer_relu,
    round_through,
    round_through_zone,
    uniform_noise,
)
from fewbits.families.settings import Settings, setting

LEARNED_SYMBOLS = 20  # that a table is worth when symbols are counted
LEADING = 32  # channels of the latent, or more, of values so large that 8 bits are too coarse for them (ADR 28)
RUNS_BELOW = 16  # scale indices whose symbols are coded by runs of zeros: 7 of 10 of them, or more, are 0 (ADR 31)
MOST_HYPER_WIDTH = (EXACT_LIMIT // 2 - 1) // (WEIGHT_LIMIT * ACTIVATION_LIMIT)  # channels that IntegerConv sums exactly
# What a scale index is more or less in each phase of the pyramid, from coarse to fine, before training: as photographs have it.
FIRST_PYRAMID_BIAS = (0.0, 3.0, -2.0, 1.0, -1.0, -3.0, -6.0, -9.0, -12.0)


@dataclass(frozen=True)
class FewConfig(Settings):
    """Architecture of `few`."""

    # the shortcut alone reconstructs Kodak at 45 dB with 320 channels, 37 with 192
    latent: int = setting(320, "channels of the latent, at 1/16 of the picture's size", least=1, most=768)
    hyper: int = setting(64, "channels of the hyper latent, at 1/64", least=1)
    width_8: int = setting(128, "channels of the blocks at 1/8", least=1)
    depth_8: int = setting(3, "blocks at 1/8, in analysis and synthesis each", least=0)
    analysis_extra_8: int = setting(0, "further blocks at 1/8 in analysis alone, which may be slower than synthesis", least=0)
    analysis_units_8: tuple[int, ...] = setting(
        (), "of analysis's blocks at 1/8, in turn, the units of spatial mixing and wide layer (may be 0); of others all"
    )
    width_16: int = setting(256, "channels of the blocks at 1/16", least=1)
    depth_16: int = setting(1, "blocks at 1/16, in synthesis alone", least=0)
    synthesis_units_8: tuple[int, ...] = setting((), "like analysis_units_8, of synthesis's blocks at 1/8")
    synthesis_units_16: tuple[int, ...] = setting((), "and of its blocks at 1/16")
    hyper_width: int = setting(128, "channels of the hyper networks", least=1, most=MOST_HYPER_WIDTH)
    hyper_analysis_units: tuple[int, ...] = setting((), "channels of the hyper analysis at 1/16 and 1/32: else hyper_width")
    pyramid: int = setting(
        3, "leading channels of the latent, of blocks' brightness and colours, predicted from coarse to fine", least=0
    )
    means: int = setting(
        29, "at most so many channels after those have means, told by the pyramid around them; others' are 0", least=0
    )
    hyper_limit: int = setting(8, "largest magnitude of a hyper symbol", least=1)
    dead_zone: float = setting(
        0.35, "how readily values are rounded towards 0 to save bits: 0 not at all, 1 as theory says", least=0
    )
    first_coded: int = setting(
        6,
        "scale index, 0 to 63, from which on symbols are coded; others, but for the pyramid's, are 0",
        least=0,
        most=N_SCALES - 1,
    )
    int8: float = setting(
        0.0, "share of the steps in which synthesis is trained as its int8 variant is; 0: not for int8 at all", least=0, most=1
    )
    lambdas: tuple[float, ...] = setting(
        (0.0009, 0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483, 0.09, 0.17, 0.32),
        "weights of the distortion against bits per pixel, one a level; these, of 255^2 MSE, give about 0.1 to 2.5 bpp",
        above=0,
        rising=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pyramid > self.latent:
            raise TrainingError(f"pyramid is {self.pyramid}, it must be at most latent, {self.latent}")
        most = (EXACT_LIMIT // 2 - 1) // (9 * WEIGHT_LIMIT * self.hyper)
        if self.hyper_limit > most:
            raise TrainingError(f"hyper_limit is {self.hyper_limit}, with hyper {self.hyper} it must be at most {most}")

    @property
    def hyper_analysis_widths(self) -> tuple[int, int]:
        """Channels of the hyper analysis at 1/16 and at 1/32. Raises TrainingError where the setting is not of two."""
        found = self.hyper_analysis_units or (self.hyper_width, self.hyper_width)
        if len(found) != 2 or min(found) < 1:
            shown = ",".join(map(str, found))
            raise TrainingError(f"hyper_analysis_units is {shown}, it must be two numbers of 1 or more, or none")
        return found[0], found[1]

    @property
    def n_means(self) -> int:
        """Channels after the pyramid's that have means."""
        return max(0, min(self.means, self.latent - self.pyramid)) if self.pyramid else 0

    @property
    def n_leading(self) -> int:
        """Channels of the latent that are float in the int8 variant: all with means, which are no whole steps."""
        return min(self.latent, max(LEADING, self.pyramid + self.n_means))


class Estimate(NamedTuple):
    """x_hat like x; y_bits and z_bits (b,): estimated bits of each picture; latent (b, c, h, w): not quantized."""

    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor
    latent: Tensor


def at_level(table: Tensor, level: Tensor) -> Tensor:
    """Rows of `table` (levels, ...) at real `level` (b,), interpolated linearly: (b, ...)."""
    left = level.detach().floor().clamp(0, table.shape[0] - 2)
    fraction = (level - left).view(-1, *[1] * (table.dim() - 1))
    index = left.long()
    return torch.lerp(table[index], table[index + 1], fraction)


def per_channel(values: Tensor) -> Tensor:
    """(b, c) -> (b, c, 1, 1)."""
    return values[:, :, None, None]


# not compiled: slices whose number and sizes depend on the picture's size
@torch.compiler.disable  # type: ignore[untyped-decorator]
def from_coarse_to_fine(values: Tensor, zones: Tensor) -> tuple[Tensor, Tensor]:
    """What the pyramid predicts for `values` (b, pyramid, h, w), in steps of the quantizer, and what is decoded; likewise.

    zones: the dead zone of each value, like it.
    """
    means, decoded = torch.zeros_like(values), torch.zeros_like(values)

    def constant(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(values.device)

    for window, mean in predictions(decoded, lambda part: F.pad(part, (1, 1, 1, 1)), constant):
        here = (..., *window)
        means[here] = mean
        decoded[here] = mean + round_through_zone(values[here] - mean, zones[here])
    return means, decoded


@torch.compiler.disable  # type: ignore[untyped-decorator]
def phases_of(index: Tensor) -> Tensor:
    """The pyramid's phase of each position of a (..., h, w): int64 (h, w), on its device."""
    return torch.from_numpy(phases(*index.shape[-2:]).copy()).to(index.device)


def blocks(config: FewConfig, units: str) -> nn.Sequential:
    """The blocks whose units the setting `units` gives: those beyond it have all. Raises TrainingError where it cannot be."""
    width = config.width_16 if units.endswith("_16") else config.width_8
    depth = config.depth_16 if units.endswith("_16") else config.depth_8
    depth += config.analysis_extra_8 if units.startswith("analysis") else 0
    given: tuple[int, ...] = getattr(config, units)
    pairs = list(zip(given[::2], given[1::2], strict=False))
    if len(given) % 2 or len(pairs) > depth or not all(mix > 0 and wide >= 0 for mix, wide in pairs):
        raise TrainingError(
            f"{units} is {','.join(map(str, given))}, it must be two numbers for each of up to {depth} blocks: units of the "
            "spatial mixing, 1 or more, and of the wide layer, 0 or more"
        )
    pairs += [(width, 2 * width)] * (depth - len(pairs))
    return nn.Sequential(*[DepthwiseBlock(width, *pair) for pair in pairs])


class Analysis(nn.Module):
    """x - 1/2, unshuffled by 8: (b, 192, h/8, w/8) -> y (b, latent, h/16, w/16)."""

    def __init__(self, config: FewConfig) -> None:
        super().__init__()
        self.shortcut = Pointwise(192, config.latent, patch=2)
        self.stem = Pointwise(192, config.width_8)
        self.blocks_8 = blocks(config, "analysis_units_8")
        self.head = Pointwise(config.width_8, config.latent, patch=2, bias=False, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.head(self.blocks_8(self.stem(x)))


class Synthesis(nn.Module):
    """y_hat (b, latent, h/16, w/16), already divided by the gains -> x_hat - 1/2 (b, 3, h, w).

    scale and shift (b or 1, width_16, 1, 1), or (..., h/16, w/16), tell the deep branch the quality.
    """

    def __init__(self, config: FewConfig) -> None:
        super().__init__()
        self.from_16, self.from_8, self.whole = DepthToSpace(2), DepthToSpace(8), DepthToSpace(16)
        self.blocked = Blocked()
        self.shortcut_16 = Pointwise(config.latent, 768)  # channel (c, row, column) of the 16x16 block
        self.stem = Pointwise(config.latent, config.width_16)
        self.blocks_16 = blocks(config, "synthesis_units_16")
        self.up = Pointwise(config.width_16, 4 * config.width_8)
        self.blocks_8 = blocks(config, "synthesis_units_8")
        self.head = Pointwise(config.width_8, 192, bias=False, zero=True)

    def forward(self, y_hat: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        deep = self.blocks_16(self.blocked(self.stem(y_hat) * scale + shift))
        deep = self.blocks_8(self.blocked(self.from_16(self.up(deep))))  # (b, width_8, h/8, w/8)
        return self.whole(self.shortcut_16(y_hat)) + self.from_8(self.head(deep))


class HyperAnalysis(nn.Module):
    """y / deviation (b, latent, h, w) -> real z (b, hyper, h/4, w/4); scale and shift tell the quality."""

    def __init__(self, config: FewConfig) -> None:
        super().__init__()
        at_16, at_32 = config.hyper_analysis_widths
        self.stem = Pointwise(2 * config.latent, at_16)
        self.spatial_16, self.spatial_32 = Depthwise(at_16), Depthwise(at_32)
        self.middle = Pointwise(at_16, at_32, patch=2)
        self.head = Pointwise(at_32, config.hyper, patch=2)

    def forward(self, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        both = torch.cat([y, y.abs()], dim=1)  # scales need magnitudes
        h = F.relu(self.spatial_16(F.relu(self.stem(both) * scale + shift)))
        return self.head(F.relu(self.spatial_32(F.relu(self.middle(h)))))


class ScaleNet(nn.Module):
    """z_hat (b, hyper, h/4, w/4), integers -> real scale index (b, latent, h, w), before rounding and clipping to 0..63.

    Integer arithmetic held in float32 (`IntegerConv`). bias_in (b or 1, width, 1, 1) and bias_out (b or 1, latent,
    1, 1) are integer-valued and tell the quality. Activations are in units of 1/16, the index in units of 1/64.
    """

    INDEX_BITS = 6
    MIDDLE_WIDTH = 96  # channels at twice the hyper latent's size

    def __init__(self, config: FewConfig) -> None:
        super().__init__()
        width, act = config.hyper_width, {"input_limit": 255, "input_bits": 4, "output_bits": 4}
        self.up = nn.PixelShuffle(2)
        self.stem = IntegerConv(config.hyper, width, 3, input_limit=config.hyper_limit, input_bits=0, output_bits=4)
        self.to_32 = IntegerConv(width, 4 * self.MIDDLE_WIDTH, 1, **act)
        self.spatial_32 = IntegerConv(self.MIDDLE_WIDTH, self.MIDDLE_WIDTH, 3, groups=self.MIDDLE_WIDTH, **act)
        self.to_16 = IntegerConv(self.MIDDLE_WIDTH, 4 * width, 1, **act)
        self.spatial_16 = IntegerConv(width, width, 3, groups=width, **act)
        head_act = {**act, "output_bits": self.INDEX_BITS}
        self.head = IntegerConv(width, config.latent, 1, **head_act)
        nn.init.zeros_(self.head.weight)

    def forward(self, z_hat: Tensor, bias_in: Tensor, bias_out: Tensor) -> Tensor:
        h = integer_relu(self.stem(z_hat, bias_in))
        h = integer_relu(self.up(self.to_32(h)))
        h = integer_relu(self.spatial_32(h))
        h = integer_relu(self.up(self.to_16(h)))
        h = integer_relu(self.spatial_16(h))
        return self.head(h, bias_out) * 2.0**-self.INDEX_BITS


class Few(nn.Module):
    """The trainable model; see the module's docstring for shapes."""

    may_lack = ("eight_bits.",)  # see training.loop.grown
    deviation: Tensor  # (latent,) of y on the first pictures; scales what the hyper networks see
    zones: Tensor  # (scale indices,): the dead zone of each; follows from the config, so it is no part of the state

    def __init__(self, config: FewConfig) -> None:
        super().__init__()
        self.config = config
        if config.int8 and not (config.depth_8 and config.depth_16):
            raise TrainingError(f"int8 is {config.int8}: without blocks at 1/8 and at 1/16 nothing is in 8 bits, it must be 0")
        levels, latent = len(config.lambdas), config.latent
        self.to_8 = SpaceToDepth(8)
        self.analysis, self.synthesis = Analysis(config), Synthesis(config)
        self.hyper_analysis, self.scale_net = HyperAnalysis(config), ScaleNet(config)
        self.means = Means(config.pyramid, config.n_means) if config.n_means else None
        # A uniform quantizer step that balances rate and distortion at each lambda for an orthonormal transform.
        gain = torch.tensor([13 * math.sqrt(value / 0.0483) for value in config.lambdas])
        self.log_gain = nn.Parameter(gain.log()[:, None].repeat(1, latent))
        self.log_inverse_gain = nn.Parameter(-gain.log()[:, None].repeat(1, latent))
        self.index_bias = nn.Parameter(torch.full((levels, latent), N_SCALES / 2))
        self.scale_bias = nn.Parameter(torch.zeros(levels, config.hyper_width))
        self.pyramid_bias = nn.Parameter(torch.tensor(FIRST_PYRAMID_BIAS).repeat(config.pyramid, 1))
        self.z_logits = nn.Parameter(self._first_z_logits())
        self.synthesis_modulation = nn.Parameter(torch.zeros(levels, 2 * config.width_16))
        self.hyper_modulation = nn.Parameter(torch.zeros(levels, 2 * config.hyper_analysis_widths[0]))
        self.eight_bits = EightBits(self.synthesis) if config.int8 else None
        self.register_buffer("deviation", torch.ones(latent))
        self.register_buffer("zones", dead_zones(config.dead_zone), persistent=False)

    def _first_z_logits(self) -> Tensor:
        config = self.config
        bins = torch.arange(-config.hyper_limit, config.hyper_limit + 1).abs()
        return (-bins / 1.5)[None, None].repeat(len(config.lambdas), config.hyper, 1)

    @torch.no_grad()
    def initialize(self, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        """KLT start: principal components of 16x16x3 patches of `pictures` (b, 3, h, w), in 0..1, h and w multiples of 16."""
        rearrange = nn.Sequential(self.to_8, SpaceToDepth(2))
        total, square, count = torch.zeros(768, dtype=torch.float64), torch.zeros(768, 768, dtype=torch.float64), 0
        for batch in pictures:
            patches = rearrange(batch - 0.5).movedim(1, -1).reshape(-1, 768).double().cpu()
            total += patches.sum(0)
            square += patches.T @ patches
            count += len(patches)
        mean = total / count
        values, vectors = torch.linalg.eigh(square / count - torch.outer(mean, mean))
        values, vectors = values.flip(0)[: self.config.latent], vectors.flip(1).T[: self.config.latent]
        self.analysis.shortcut.weight.copy_(vectors)
        self.analysis.shortcut.bias.copy_(-vectors @ mean)  # type: ignore[union-attr]
        patches = torch.cat([vectors, mean[None]])[:, :, None, None]  # to blocks of 16x16, as synthesis gives them
        blocks = self.synthesis.from_8(self.synthesis.from_16(patches)).flatten(1)
        self.synthesis.shortcut_16.weight.copy_(blocks[:-1].T)
        self.synthesis.shortcut_16.bias.copy_(blocks[-1])  # type: ignore[union-attr]
        self.deviation.copy_(values.clamp(min=1e-8).sqrt())
        # A logistic's deviation is 1.81 times its scale, and most values are far smaller than a deviation that few edges make.
        scale = 0.4 * self.deviation * self.log_gain.exp()
        self.index_bias.copy_((scale / SCALE_MIN).log().div(LOG_STEP).clamp(0, N_SCALES - 1))

    def loss_weight(self, level: Tensor) -> Tensor:
        """lambda at real levels (b,), interpolated geometrically."""
        table = torch.tensor(self.config.lambdas, device=level.device).log()
        return at_level(table[:, None], level)[:, 0].exp()

    def gains(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and inverse gain (b, latent, 1, 1)."""
        return per_channel(at_level(self.log_gain, level).exp()), per_channel(at_level(self.log_inverse_gain, level).exp())

    def modulation(self, table: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Scale (about 1) and shift (b, width, 1, 1) of a level-conditioned layer."""
        scale, shift = at_level(table, level).chunk(2, dim=1)
        return per_channel(1 + scale), per_channel(shift)

    def forward(self, x: Tensor, level: Tensor) -> Estimate:
        """In training straight-through rounding for the nets and the scales, and noise for the rates' other gradients (after
        Minnen, Singh, ICIP 2020, section 3.3). What has too small a scale to be coded is 0 for synthesis (ADR 29)."""
        limit = self.config.hyper_limit
        gain, inverse_gain = self.gains(level)
        y = self.analysis(self.to_8(x - 0.5)).float()
        deviation = per_channel(self.deviation[None])
        z = self.hyper_analysis(y / deviation, *self.modulation(self.hyper_modulation, level)).float()
        nearest = level.round().long()
        z_hat = round_through(z).clamp(-limit, limit)
        z_bits = table_bits(z_hat.detach(), self.z_logits[nearest])
        if self.training:  # tables learn from the symbols that they will code, z from noise
            noisy = table_bits(uniform_noise(z).clamp(-limit, limit), self.z_logits[nearest].detach())
            z_bits = z_bits + noisy - noisy.detach()
        with torch.autocast(x.device.type, enabled=False):
            index = self._in_phases(self.scale_net(z_hat, *self.scale_biases(level)))
        scaled_mean = self._means(y * gain, index, deviation * gain)
        residual = y * gain - scaled_mean
        nearest = self._nearest(index)
        symbols, coded = round_through_zone(residual, self.zones[nearest]), nearest >= self.config.first_coded
        y_bits = logistic_bits(symbols.detach() if self.training else symbols, index)
        if self.training:  # scales learn from the symbols, whose dead zone noise does not show; all else hears noise
            noisy = logistic_bits(uniform_noise(residual), index.detach())
            y_bits = y_bits + noisy - noisy.detach()
        else:  # in training what is not coded has bits, too: else no scale below first_coded would ever rise
            y_bits = y_bits * coded
        left_out = symbols * ~coded
        if self.training:  # straight through: gradients pass as they do where values are rounded to 0
            left_out = left_out.detach()
        y_hat = (symbols - left_out + scaled_mean) * inverse_gain
        x_hat = self._synthesized(y_hat, *self.modulation(self.synthesis_modulation, level)).float() + 0.5
        return Estimate(x_hat, y_bits.sum((1, 2, 3)), z_bits.sum((1, 2, 3)), y)

    def _synthesized(self, y_hat: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Synthesis, with weights of 8 bits where it is trained for int8, and, in a share of training's steps, values."""
        if (rounding := self._rounding()) is None:
            return self.synthesis(y_hat, scale, shift)
        values = self.training and float(torch.rand(())) < self.config.int8
        return rounding(self.synthesis, y_hat, scale, shift, values)

    def _rounding(self) -> EightBits | None:
        """What synthesis is rounded by, where it is trained for int8 and steps are known."""
        return self.eight_bits if self.eight_bits is not None and self.eight_bits.known else None

    @torch.no_grad()
    def measure(self, pictures: Iterable[Tensor]) -> None:
        """The first steps of 8-bit values, where there are none, by `pictures` (b, 3, h, w), in 0..1, sides multiples of 64.

        Synthesis's weights change with them, but not what it computes: see EightBits.begin.
        """
        if self.eight_bits is None or self.eight_bits.known:
            return
        self.eval()
        top, inputs = len(self.config.lambdas) - 1, []
        noting = self.synthesis.register_forward_pre_hook(lambda _, batch: inputs.append(batch))
        for x in pictures:
            self(x, torch.arange(len(x), device=x.device) * 0.7 % 1 * top)
        noting.remove()
        self.eight_bits.begin(self.synthesis, inputs)
        self.train()

    def _in_phases(self, index: Tensor) -> Tensor:
        """Scale indices (b, latent, h, w) with what the pyramid's phases add."""
        n = self.config.pyramid
        bias = integer_bias(self.pyramid_bias, ScaleNet.INDEX_BITS)[:, phases_of(index)] * 2.0**-ScaleNet.INDEX_BITS
        leading = index[:, :n] + bias
        if not self.training:  # as all are coded; in training the rate is of the index as it is, else none below would rise
            leading = leading.clamp(min=self.config.first_coded)
        return torch.cat([leading, index[:, n:]], dim=1)

    def _means(self, values: Tensor, index: Tensor, unit: Tensor) -> Tensor:
        """Of `values` (b, latent, h, w), y times the gains; unit (b, latent, 1, 1): y's deviation times them."""
        n, told = self.config.pyramid, self.config.pyramid + self.config.n_means
        if not n:
            return torch.zeros_like(values)
        found, decoded = from_coarse_to_fine(values[:, :n], self._zones(index[:, :n]))
        means = [found]
        if self.means is not None:
            means.append(self.means(decoded / unit[:, :n]).float() * unit[:, n:told])
        return torch.cat([*means, torch.zeros_like(values[:, told:])], dim=1)

    def _zones(self, index: Tensor) -> Tensor:
        """The dead zone of each value of the first channels, by their real scale indices."""
        return self.zones[self._nearest(index)]

    def _nearest(self, index: Tensor) -> Tensor:
        """The scale indices that coding takes for the real ones (b, channels, h, w) of the first channels: int64, like it."""
        nearest = (index.detach().nan_to_num() + 0.5).floor().clamp(0, N_SCALES - 1).long()  # halves go up
        n, first = self.config.pyramid, self.config.first_coded
        return torch.cat([nearest[:, :n].clamp(min=first), nearest[:, n:]], dim=1)  # all are coded: an error would spread

    def scale_biases(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued biases of the scale net's first and last layer at real levels (b, c, 1, 1)."""
        first = integer_bias(at_level(self.scale_bias, level), self.scale_net.stem.bias_bits)
        last = integer_bias(at_level(self.index_bias, level), self.scale_net.head.bias_bits)
        return per_channel(first), per_channel(last)

    @property
    def settings(self) -> tuple[float, ...]:
        """Levels at which training is validated: spread over the range, ends included."""
        top = len(self.config.lambdas) - 1
        return tuple(top * k / 4 for k in range(5))

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """forward() at one level for the whole batch."""
        return self(x, torch.full((len(x),), float(setting), device=x.device))

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """(lambda distortion + bpp + penalty) / lambda^0.5, at a random level for each picture, so that no rate dominates."""
        level = own_draw(len(x), lambda n: torch.rand(n, device=x.device)) * (len(self.config.lambdas) - 1)
        out, weight = self(x, level), self.loss_weight(level)
        bpp = (out.y_bits + out.z_bits) / x[0, 0].numel()
        middle = math.sqrt(self.config.lambdas[0] * self.config.lambdas[-1])
        each = weight * distortion(x, out.x_hat) + bpp
        if penalty.terms:
            each = each + penalty(out.latent, x)
        each = each * (weight / middle) ** -0.5
        return each.mean(), {"bpp": bpp.mean().detach(), "mse": mse(x, out.x_hat).mean().detach()}

    # The coding side (runtime/hyperprior.py reads what these three give)

    crop_multiple = 64  # pixels: a position of the hyper latent
    frozen_networks = frozenset({"scales"})  # exported as a copy with final integers
    has_gradient = True  # of its synthesis, see training/gradient.py

    def networks(self) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
        """Networks to export by name, each with example inputs by name."""
        config = self.config

        def modulation(width: int) -> dict[str, Tensor]:
            return {"scale": torch.ones(1, width, 1, 1), "shift": torch.zeros(1, width, 1, 1)}

        y, z = torch.zeros(1, config.latent, 16, 24), torch.zeros(1, config.hyper, 4, 6)
        biases = {"bias_in": torch.zeros(1, config.hyper_width, 1, 1), "bias_out": torch.zeros(1, config.latent, 1, 1)}
        found: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
            "analysis": (self.analysis, {"x": torch.zeros(1, 192, 32, 48)}),
            "hyper_analysis": (self.hyper_analysis, {"y": y, **modulation(config.hyper_analysis_widths[0])}),
            "scales": (freeze_integers(self.scale_net), {"z_hat": z, **biases}),
            "synthesis": (self._exported_synthesis(), {"y_hat": y, **modulation(config.width_16)}),
        }
        if self.means is not None:
            found["means"] = self.means, {"pyramid": y[:, : config.pyramid]}
        return found

    def int8_steps(self) -> dict[str, dict[str, np.ndarray]]:
        """Of each network with an int8 variant the steps of its values, see EightBits.steps."""
        return {} if (rounding := self._rounding()) is None else {"synthesis": rounding.steps()}

    def load_int8_steps(self, arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """From the arrays of int8 variants, by network."""
        if self.eight_bits is not None and f"{SUMS[0]}{STEPS}" in arrays["synthesis"]:
            self.eight_bits.load(arrays["synthesis"])

    def _exported_synthesis(self) -> nn.Module:
        """With weights as 8 bits give them, where it is trained so: what decodes in float is what was trained."""
        if (rounding := self._rounding()) is None:
            return self.synthesis
        network = copy.deepcopy(self.synthesis)
        rounding.round_weights(network)
        return network.half().float()

    @torch.no_grad()
    def tables(self) -> dict[str, np.ndarray]:
        """Per-level vectors (levels, channels), and integer probabilities of the hyper symbols (levels, hyper, bins)."""
        levels = torch.arange(len(self.config.lambdas), dtype=torch.float32)
        bias_in, bias_out = (bias[:, :, 0, 0].to(torch.int32) for bias in self.scale_biases(levels))
        z_rows = torch.softmax(self.z_logits.double(), dim=-1).flatten(0, 1).numpy()
        vectors = {"gain": self.log_gain, "inverse_gain": self.log_inverse_gain, "deviation": self.deviation}
        for name in ("hyper", "synthesis"):
            scale, shift = getattr(self, f"{name}_modulation").chunk(2, dim=1)
            vectors |= {f"{name}_scale": 1 + scale, f"{name}_shift": shift}
        y_limits, y_frequencies = logistic_frequencies()
        return {
            "y_limits": y_limits,
            "y_frequencies": y_frequencies,
            **{name: value.numpy().copy() for name, value in vectors.items()},
            "bias_in": bias_in.numpy(),
            "bias_out": bias_out.numpy(),
            "pyramid_bias": integer_bias(self.pyramid_bias, ScaleNet.INDEX_BITS).to(torch.int32).numpy(),
            "z_frequencies": np.stack([quantize_frequencies(row) for row in z_rows])
            .astype(np.uint32)
            .reshape(self.z_logits.shape),
        }

    def coding(self) -> dict[str, Any]:
        """Numbers of the coding pipeline. Halos in latent and hyper positions: how far a network's receptive field reaches."""
        config = self.config
        return {
            "kind": "hyperprior",
            "hyper_limit": self.config.hyper_limit,
            "halo": max(-(-(config.depth_8 + config.analysis_extra_8) // 2), -(-config.depth_8 // 2) + config.depth_16),
            "hyper_halo": 2,
            "first_coded_index": config.first_coded,
            "order": "falling",
            "runs_below": RUNS_BELOW,
            "places": True,
            "pyramid": self.config.pyramid,
            "means": self.config.n_means,
            "index_bits": ScaleNet.INDEX_BITS,
        }

    def scale_shifts(self) -> dict[str, int]:
        """By layer of the network `scales` by which power of 2 its products are divided."""
        return {name: part.shift for name, part in self.scale_net.named_modules() if isinstance(part, IntegerConv)}

    @torch.no_grad()
    def calibrate(self, pictures: Iterable[Tensor]) -> None:
        """Fit to `pictures` (b, 3, h, w), sides multiples of 64, at every level: the tables of hyper symbols, which are counted,
        and the map that tells means, by least squares.

        What training had learned of the tables counts as LEARNED_SYMBOLS of each channel.
        """
        counts = LEARNED_SYMBOLS * torch.softmax(self.z_logits.double(), dim=-1)
        limit, regression = self.config.hyper_limit, None if self.means is None else Regression(self.means)
        for x in pictures:
            y = self.analysis(self.to_8(x - 0.5)).float()
            for k, count in enumerate(counts):
                level = torch.full((len(y),), float(k))
                told = self.modulation(self.hyper_modulation, level)
                z = self.hyper_analysis(y / per_channel(self.deviation[None]), *told).round().clamp(-limit, limit)
                seen = (z + limit).long().transpose(0, 1).flatten(1)  # (hyper, n)
                count.scatter_add_(1, seen, torch.ones_like(seen, dtype=count.dtype))
                if regression is not None:
                    self._add_means(regression, y, z, level)
        self.z_logits.copy_(counts.log())
        if regression is not None:
            regression.solve()

    def _add_means(self, regression: Regression, y: Tensor, z: Tensor, level: Tensor) -> None:
        n, told = self.config.pyramid, self.config.pyramid + self.config.n_means
        index = self._in_phases(self.scale_net(z, *self.scale_biases(level)))[:, :told].clamp(0, N_SCALES - 1)
        gain, deviation = self.gains(level)[0], per_channel(self.deviation[None])
        unit = gain * deviation
        _, decoded = from_coarse_to_fine((y * gain)[:, :n], self._zones(index[:, :n]))
        counted = index[:, n:].clamp(min=self.config.first_coded)  # of what is not coded the mean is all that is decoded
        scales = SCALE_MIN * torch.exp(LOG_STEP * counted) / unit[:, n:told]
        regression.add(decoded / unit[:, :n], y[:, n:told] / deviation[:, n:told], scales)

    def encoder_card(self) -> dict[str, Any]:
        """What encoders choose and decoders need not know: in the model card, since it must not change the model's id."""
        return {"dead_zones": [round(zone, 4) for zone in self.zones.tolist()]}

    @torch.no_grad()
    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of tables() and of the frozen network's export, up to the rounding of probabilities."""
        self.log_gain.copy_(tables["gain"])
        self.log_inverse_gain.copy_(tables["inverse_gain"])
        self.deviation.copy_(tables["deviation"])
        for name in ("hyper", "synthesis"):
            pair = torch.cat([tables[f"{name}_scale"] - 1, tables[f"{name}_shift"]], dim=1)
            getattr(self, f"{name}_modulation").copy_(pair)
        self.scale_bias.copy_(tables["bias_in"] * 2.0**-self.scale_net.stem.bias_bits)
        self.index_bias.copy_(tables["bias_out"] * 2.0**-self.scale_net.head.bias_bits)
        self.pyramid_bias.copy_(tables["pyramid_bias"] * 2.0**-ScaleNet.INDEX_BITS)
        self.z_logits.copy_(tables["z_frequencies"].double().log())
        for name, part in self.scale_net.named_modules():
            if isinstance(part, IntegerConv):
                part.load_integers(arrays["scales"][f"{name}.weight"].float(), arrays["scales"][f"{name}.bias"].float())

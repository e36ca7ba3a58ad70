# SPDX-License-Identifier: MIT
"""Synthesis of `few` as its int8 variant computes it, in training: weights and values on the grids of 8-bit integers.

Values have a step for each channel, which is learned (Esser et al., "Learned Step Size Quantization", ICLR 2020, section 2);
weights follow from them, and have a step for each output channel. Blocks are in 8 bits, what they add up and all else is float.
All that blocks of one size read has its steps in the same proportions, so that the variant holds their sums in units of them.
training/quantization.py makes the variant.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.families.blocks import Depthwise, DepthwiseBlock, Pointwise

if TYPE_CHECKING:
    from fewbits.families.few import Synthesis

LEVELS: Final = 127  # of the magnitude of a signed value, and of a weight
UNSIGNED_LEVELS: Final = 255  # of what a ReLU gives
SMALLEST: Final = 1e-6  # step: a channel that is always 0 has one, too
SUMS: Final = ("blocks_16", "blocks_8")  # what blocks add to
STEPS: Final = "/steps"  # ends the name of a convolution's steps in an int8 variant


class _Rounded(torch.autograd.Function):
    """x to the nearest multiple of `step`, a value for each channel, with `low` to `high` steps."""

    @staticmethod
    def forward(context: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        units = x / step
        codes = units.round().clamp_(low, high)
        context.save_for_backward(units, step)
        context.range = low, high
        return (codes * step).to(x.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        units, step = context.saved_tensors
        low, high = context.range
        inside = (units >= low) & (units <= high)
        error = units.round().clamp_(low, high).sub_(torch.where(inside, units, 0))
        per_step = (gradient * error).sum((0, 2, 3), keepdim=True, dtype=torch.float32)
        per_step = per_step / math.sqrt(LEVELS * units[:, 0].numel())  # see the paper, section 2.2
        return gradient * inside, per_step.to(step.dtype), None, None


def rounded_weight(weight: Tensor, step_in: Tensor) -> Tensor:
    """weight (out, in, ...) as 8-bit integers give it, where it reads channels in units of step_in (in,); gradients pass."""
    by_input = step_in.detach().view(1, -1, *[1] * (weight.dim() - 2))
    with torch.no_grad():
        scaled = weight * by_input
        unit = scaled.abs().flatten(1).amax(1).clamp(min=1e-12).div(LEVELS).view(-1, *[1] * (weight.dim() - 1))
        nearest = (scaled / unit).round() * unit / by_input
    return weight + (nearest - weight).detach()


class EightBits(nn.Module):
    """The steps of values in a synthesis's blocks; forward() computes what synthesis computes, with the blocks' weights rounded.

    Parameters: of each convolution, by its name with / for the dots, the logarithm of the step of what it reads: (channels,), or,
    of what reads a sum, one number beside those of `blocks_16` and `blocks_8`. NaN until they are measured, or loaded.
    """

    starts_as_identity = True  # as long as nothing is measured; so any trained model may begin with it, see training.loop.grown

    def __init__(self, synthesis: "Synthesis") -> None:
        super().__init__()
        self.log_steps = nn.ParameterDict()
        self._peaks: dict[str, Tensor] | None = None  # of what convolutions read, while they are measured
        sizes = {name: _size(name, layer) for name, layer in _layers(synthesis).items()}
        sizes |= {"blocks_16": synthesis.up.weight.shape[1], "blocks_8": synthesis.head.weight.shape[1]}
        for name, size in sizes.items():
            self.log_steps[_key(name)] = nn.Parameter(torch.full((size,), torch.nan))

    @property
    def known(self) -> bool:
        """Whether steps were measured, or loaded, or are being measured."""
        return self._peaks is not None or not any(bool(step.isnan().any()) for step in self.log_steps.values())

    def step(self, name: str) -> Tensor:
        """Of what the convolution `name` reads: (channels,)."""
        own = self.log_steps[_key(name)]
        return (own + self.log_steps[_sum_of(name)] if _reads_sum(name) else own).exp()

    def sum_step(self, name: str) -> Tensor:
        """The unit of what is added up in `blocks_16` or `blocks_8`: (channels,)."""
        return self.log_steps[name].exp()

    def forward(self, synthesis: "Synthesis", y_hat: Tensor, scale: Tensor, shift: Tensor, values: bool) -> Tensor:
        """As synthesis(y_hat, scale, shift). values: whether they are rounded, too."""
        deep = synthesis.stem(y_hat) * scale + shift
        deep = self._blocks(deep, synthesis.blocks_16, "blocks_16", values)
        deep = synthesis.from_16(synthesis.up(deep))
        deep = self._blocks(deep, synthesis.blocks_8, "blocks_8", values)
        deep = synthesis.from_8(synthesis.head(deep))
        return synthesis.whole(synthesis.shortcut_16(y_hat)) + deep

    def _blocks(self, x: Tensor, blocks: nn.Sequential, name: str, values: bool) -> Tensor:
        for k, block in enumerate(blocks):
            assert isinstance(block, DepthwiseBlock)
            x = self._block(x, block, f"{name}.{k}", values)
        return x

    def _block(self, x: Tensor, block: DepthwiseBlock, name: str, values: bool) -> Tensor:
        mixed = F.relu(self._layer(x, block.mix_in, f"{name}.mix_in", values))
        x = x + self._layer(
            self._layer(mixed, block.spatial, f"{name}.spatial", values), block.mix_out, f"{name}.mix_out", values
        )
        return x + self._layer(
            F.relu(self._layer(x, block.expand, f"{name}.expand", values)), block.reduce, f"{name}.reduce", values
        )

    def _layer(self, x: Tensor, layer: Pointwise | Depthwise, name: str, values: bool) -> Tensor:
        if self._peaks is not None:
            peak = x.detach().abs().amax((0, 2, 3)).float()
            self._peaks[name] = torch.maximum(peak, self._peaks.get(name, peak))
            return layer(x)
        step = self.step(name)
        if values:
            low, high = (0, UNSIGNED_LEVELS) if _is_positive(name) else (-LEVELS - 1, LEVELS)
            x = _Rounded.apply(x, step[None, :, None, None], low, high)  # type: ignore[no-untyped-call]
        weight = self._rounded_weight(layer, name)
        if isinstance(layer, Depthwise):
            return F.conv2d(x, weight, layer.bias, padding=1, groups=len(weight))
        return F.conv2d(x, weight[:, :, None, None], layer.bias)

    def _rounded_weight(self, layer: Pointwise | Depthwise, name: str) -> Tensor:
        if isinstance(layer, Depthwise):  # its one input's step changes nothing
            return rounded_weight(layer.weight.flatten(1), torch.ones_like(layer.weight[:1, 0, 0, 0])).view_as(layer.weight)
        return rounded_weight(layer.weight, self.step(name))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """While entered, forward() rounds nothing and notes how large values are; then steps are such that none is clipped."""
        self._peaks = {}
        yield
        peaks, self._peaks = self._peaks, None
        with torch.no_grad():
            for name in SUMS:
                read = [peak for layer, peak in peaks.items() if _reads_sum(layer) and layer.startswith(name)]
                self.log_steps[name].copy_(_log_step(torch.stack(read).amax(0), LEVELS))
            for name, peak in peaks.items():
                if _reads_sum(name):
                    share = peak / (LEVELS * self.sum_step(_sum_of(name)))
                    self.log_steps[_key(name)].copy_(share.amax().clamp(min=SMALLEST).log())
                else:
                    levels = UNSIGNED_LEVELS if _is_positive(name) else LEVELS
                    self.log_steps[_key(name)].copy_(_log_step(peak, levels))

    @torch.no_grad()
    def round_weights(self, synthesis: "Synthesis") -> None:
        """Replace the weights of a synthesis by those that forward() computes with."""
        for name, layer in _layers(synthesis).items():
            layer.weight.copy_(self._rounded_weight(layer, name))

    @torch.no_grad()
    def steps(self) -> dict[str, np.ndarray]:
        """Of what convolutions read, by their names, and of the sums `blocks_16` and `blocks_8`: float32 (channels,)."""
        names = [key.replace("/", ".") for key in self.log_steps]
        return {name: (self.sum_step(name) if name in SUMS else self.step(name)).cpu().numpy() for name in names}

    @torch.no_grad()
    def load(self, arrays: Mapping[str, Tensor]) -> None:
        """Inverse of steps(), of an int8 variant's arrays. Channels that export left out get the largest step of the others, and
        none where it left out all of them."""
        for name in SUMS:
            self.log_steps[name].copy_(arrays[f"{name}{STEPS}"].log())
        for key, parameter in self.log_steps.items():
            name = key.replace("/", ".")
            step = arrays[f"{name}{STEPS}"]
            if _reads_sum(name):
                parameter.copy_((step / self.sum_step(_sum_of(name))).log().median())
            elif name not in SUMS and len(step):
                parameter.fill_(step.max().log())
                parameter[: len(step)] = step.log()


def _log_step(peak: Tensor, levels: int) -> Tensor:
    return peak.div(levels).clamp(min=SMALLEST).log()


def _layers(synthesis: "Synthesis") -> dict[str, Pointwise | Depthwise]:
    """The convolutions that are in 8 bits, by name."""
    layers = {name: layer for name, layer in synthesis.named_modules() if isinstance(layer, (Pointwise, Depthwise))}
    return {name: layer for name, layer in layers.items() if name.startswith(SUMS)}


def _size(name: str, layer: Pointwise | Depthwise) -> int:
    """How many logarithms of steps a convolution has."""
    if _reads_sum(name):
        return 1
    return len(layer.weight) if isinstance(layer, Depthwise) else layer.weight.shape[1]


def _key(name: str) -> str:
    return name.replace(".", "/")


def _reads_sum(name: str) -> bool:
    return name.endswith((".mix_in", ".expand"))


def _sum_of(name: str) -> str:
    """Of which sum a convolution's steps have the proportions."""
    return name.partition(".")[0]


def _is_positive(name: str) -> bool:
    """Whether what a convolution reads comes from a ReLU."""
    return name.endswith((".spatial", ".reduce"))

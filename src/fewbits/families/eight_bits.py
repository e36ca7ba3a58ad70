# SPDX-License-Identifier: MIT
"""Synthesis of `few` as its int8 variant computes it, in training: weights and values on the grids of 8-bit integers.

Values have a step for each channel, such that none is clipped on the pictures that were measured; weights follow from them, and
have a step for each output channel. Gradients pass as if nothing were rounded (Jacob et al., CVPR 2018, section 3). Blocks are in
8 bits, what they add up and all else is float. All that reads one of the SUMS has its steps in the same proportions, so that the
variant holds the sum in units of them. Of the blocks at 1/16 only what hidden units give is in 8 bits: the variant has no sum
there, and of the matrices around it only products (ADR 37). training/quantization.py makes the variant.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.families.basis import LEAST, Reader, change_basis, largest_of, proportional, quiet_basis
from fewbits.families.blocks import Depthwise, DepthwiseBlock, Pointwise

if TYPE_CHECKING:
    from fewbits.families.few import Synthesis

LEVELS: Final = 127  # of the magnitude of a signed value, and of a weight
UNSIGNED_LEVELS: Final = 255  # of what a ReLU gives
SMALLEST: Final = LEAST / LEVELS  # step: a channel that is always 0 has one, too
# What blocks add to; NAME.K: from the middle of block K on. Channels do not grow alike from block to block, so proportions that
# hold all of them are too coarse for most; each change of them takes the variant 1 % of its time.
SUMS: Final = ("blocks_8", "blocks_8.1", "blocks_8.2")
COARSE: Final = "blocks_16"  # the blocks without a sum
_PLACES: Final = 512  # of what a convolution reads of a batch, the furthest from the others: by them a basis is chosen
STEPS: Final = "/steps"  # ends the name of a convolution's steps in an int8 variant

Value = TypeVar("Value")


class _Rounded(torch.autograd.Function):
    """x to the nearest multiple of `step`, a value for each channel, of `low` to `high` steps; gradients pass but beyond them."""

    @staticmethod
    def forward(context: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        units = x / step
        context.save_for_backward((units >= low) & (units <= high))
        return (units.round_().clamp_(low, high) * step).to(x.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return gradient * context.saved_tensors[0], None, None, None


@torch.no_grad()
def _nearest(weight: Tensor, step_in: Tensor) -> Tensor:
    scaled = weight * step_in
    unit = scaled.abs().amax(1, keepdim=True).clamp(min=1e-12) / LEVELS
    return (scaled / unit).round() * unit / step_in


def rounded_weight(weight: Tensor, step_in: Tensor) -> Tensor:
    """weight (out, in) as 8-bit integers give it, where it reads channels in units of step_in (in,); gradients pass."""
    return weight + (_nearest(weight, step_in) - weight).detach()


class EightBits(nn.Module):
    """The steps of values in a synthesis's blocks; forward() computes what synthesis computes, with the blocks' weights rounded.

    Buffers: of each convolution, by its name with / for the dots, the steps of what it reads, and of each of the SUMS that
    something reads: float32 (channels,). NaN until they are measured, or loaded.
    """

    starts_as_identity = True  # as long as nothing is measured; so any trained model may begin with it, see training.loop.grown

    def __init__(self, synthesis: "Synthesis") -> None:
        super().__init__()
        self._seen: _Seen | None = None  # while steps are measured
        sizes = {}
        for name, layer in _layers(synthesis).items():
            sizes[name] = len(layer.weight) if isinstance(layer, Depthwise) else layer.weight.shape[1]
            if _reads_sum(name):
                sizes[sum_of(name)] = sizes[name]
        for name, size in sizes.items():
            self.register_buffer(buffer_name(name), torch.full((size,), torch.nan))

    @property
    def known(self) -> bool:
        """Whether steps were measured, or loaded."""
        return not bool(torch.cat(list(self.buffers())).isnan().any())

    def forget(self) -> None:
        """Nothing is known any more."""
        for step in self.buffers():
            step.fill_(torch.nan)

    def step(self, name: str) -> Tensor:
        """Of what the convolution `name` reads, or of one of the SUMS: (channels,)."""
        return self.get_buffer(buffer_name(name))

    def forward(self, synthesis: "Synthesis", y_hat: Tensor, scale: Tensor, shift: Tensor, values: bool | str) -> Tensor:
        """As synthesis(y_hat, scale, shift). values: whether they are rounded, too; a name: only those that convolution reads."""
        deep = synthesis.stem(y_hat) * scale + shift
        deep = self._blocks(deep, synthesis.blocks_16, "blocks_16", values)
        deep = synthesis.from_16(synthesis.up(deep))
        deep = self._blocks(deep, synthesis.blocks_8, "blocks_8", values)
        deep = synthesis.from_8(synthesis.head(deep))
        return synthesis.whole(synthesis.shortcut_16(y_hat)) + deep

    def _blocks(self, x: Tensor, blocks: nn.Sequential, name: str, values: bool | str) -> Tensor:
        for k, block in enumerate(blocks):
            assert isinstance(block, DepthwiseBlock)
            x = self._block(x, block, f"{name}.{k}", values)
        return x

    def _block(self, x: Tensor, block: DepthwiseBlock, name: str, values: bool | str) -> Tensor:
        mixed = F.relu(self._layer(x, block.mix_in, f"{name}.mix_in", values))
        x = x + self._layer(
            self._layer(mixed, block.spatial, f"{name}.spatial", values), block.mix_out, f"{name}.mix_out", values
        )
        if block.lean:
            return x
        return x + self._layer(
            F.relu(self._layer(x, block.expand, f"{name}.expand", values)), block.reduce, f"{name}.reduce", values
        )

    def _layer(self, x: Tensor, layer: Pointwise | Depthwise, name: str, values: bool | str) -> Tensor:
        if not _reads_codes(name):
            return layer(x)
        if self._seen is not None:
            self._seen.add(name, x)
            return layer(x)
        step = self.step(name)
        if values is True or values == name:
            low, high = (0, UNSIGNED_LEVELS) if is_positive(name) else (-LEVELS - 1, LEVELS)
            x = _Rounded.apply(x, step[None, :, None, None], low, high)  # type: ignore[no-untyped-call]
        weight = self._rounded_weight(layer, name)
        if isinstance(layer, Depthwise):
            return F.conv2d(x, weight, layer.bias, padding=1, groups=len(weight))
        return F.conv2d(x, weight[:, :, None, None], layer.bias)

    def _rounded_weight(self, layer: Pointwise | Depthwise, name: str) -> Tensor:
        if isinstance(layer, Depthwise):  # its one input's step changes nothing
            return rounded_weight(layer.weight.flatten(1), torch.ones_like(layer.weight[:1, 0, 0, 0])).view_as(layer.weight)
        if name.startswith(f"{COARSE}."):
            return layer.weight
        return rounded_weight(layer.weight, self.step(name))

    @torch.no_grad()
    def begin(self, synthesis: "Synthesis", inputs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Steps such that nothing is clipped of what `inputs` lead to: y_hat, scale and shift of batches.

        Before that the sum at 1/8 is put into another basis: the synthesis's weights change, what it computes does not.
        """
        places = self._measure(synthesis, inputs)
        noise = {name: self._noise(synthesis, inputs[0], name) for name in places}
        noise = {name: found for name, found in noise.items() if found}  # what gives nothing has no say
        if noise:
            layers = _layers(synthesis)
            readers = {name: Reader(places[name], layers[name].weight.detach(), found) for name, found in noise.items()}
            change_basis(synthesis, quiet_basis(list(_by_sum(readers).values())))
            self._measure(synthesis, inputs)

    def _measure(self, synthesis: "Synthesis", inputs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
        """Sets the steps. Of each convolution that reads a sum at 1/8: places (n, channels) of it that are far from others."""
        self._seen = seen = _Seen()
        for batch in inputs:
            self(synthesis, *batch, values=False)
        self._seen, peaks = None, seen.peaks
        for total, read in _by_sum({name: peak for name, peak in peaks.items() if _reads_sum(name)}).items():
            self.step(total).copy_(largest_of(list(read.values())) / LEVELS)
            peaks |= dict(zip(read, proportional(list(read.values())), strict=True))
        for name, peak in peaks.items():
            self.step(name).copy_(peak.div(UNSIGNED_LEVELS if is_positive(name) else LEVELS).clamp(min=SMALLEST))
        return {name: torch.cat(parts) for name, parts in seen.places.items()}

    def _noise(self, synthesis: "Synthesis", batch: tuple[Tensor, Tensor, Tensor], name: str) -> float:
        """Mean square of what comes of it that a convolution reads 8-bit values."""
        return float((self(synthesis, *batch, values=name) - self(synthesis, *batch, values=False)).square().mean())

    @torch.no_grad()
    def round_weights(self, synthesis: "Synthesis") -> None:
        """Replace the weights of a synthesis by those that forward() computes with."""
        for name, layer in _layers(synthesis).items():
            layer.weight.copy_(self._rounded_weight(layer, name))

    def steps(self) -> dict[str, np.ndarray]:
        """Of what convolutions read, by their names, and of the SUMS: float32 (channels,)."""
        return {key.replace("/", "."): step.cpu().numpy() for key, step in self.named_buffers()}

    def load(self, arrays: Mapping[str, Tensor]) -> None:
        """Inverse of steps(), of an int8 variant's arrays. Channels that export left out get the largest step of the others, and
        none where it left out all of them, or where an older variant has no such steps."""
        for key, own in self.named_buffers():
            step = arrays.get(f"{key.replace('/', '.')}{STEPS}", own[:0]).flatten()  # (channels, 1, 1); (channels,) in older ones
            if len(step):
                own.fill_(step.max())
                own[: len(step)] = step


class _Seen:
    """What convolutions read while steps are measured: largest magnitudes (channels,), and places far from the others."""

    def __init__(self) -> None:
        self.peaks: dict[str, Tensor] = {}
        self.places: dict[str, list[Tensor]] = {}  # of those that read sums at 1/8

    def add(self, name: str, x: Tensor) -> None:
        peak = x.abs().amax((0, 2, 3)).float()
        self.peaks[name] = torch.maximum(peak, self.peaks.get(name, peak))
        if _reads_sum(name):
            rows = x.float().movedim(1, 3).flatten(0, 2)
            distance = rows.div(rows.square().mean(0).sqrt().clamp(min=SMALLEST)).square().sum(1)
            self.places.setdefault(name, []).append(rows[distance.topk(min(_PLACES, len(rows))).indices])


def _layers(synthesis: "Synthesis") -> dict[str, Pointwise | Depthwise]:
    """The convolutions that are in 8 bits, by name."""
    layers = {name: layer for name, layer in synthesis.named_modules() if isinstance(layer, (Pointwise, Depthwise))}
    return {name: layer for name, layer in layers.items() if name.startswith((COARSE, *SUMS)) and _reads_codes(name)}


def buffer_name(name: str) -> str:
    """That of the steps of a convolution, or of one of the SUMS."""
    return name.replace(".", "/")


def _reads_sum(name: str) -> bool:
    return name.endswith((".mix_in", ".expand"))


def _reads_codes(name: str) -> bool:
    """Whether a convolution of the blocks is in 8 bits."""
    return not (name.startswith(f"{COARSE}.") and _reads_sum(name))


def _by_sum(readers: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """What is given for convolutions that read sums, by sum."""
    found: dict[str, dict[str, Value]] = {}
    for name, value in readers.items():
        found.setdefault(sum_of(name), {})[name] = value
    return found


def sum_of(name: str) -> str:
    """Which of the SUMS a convolution reads that reads one."""
    stack, block, part = name.split(".")
    before = [f"{stack}.{k}" for k in range(int(block) + (part == "expand"))]
    return next((total for total in reversed(before) if total in SUMS), stack)


def is_positive(name: str) -> bool:
    """Whether what a convolution reads comes from a ReLU."""
    return name.endswith((".spatial", ".reduce"))

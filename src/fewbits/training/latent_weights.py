# SPDX-License-Identifier: MIT
"""What reads the latent in the int8 variant of synthesis, and the network that makes its weights for a quality (ADR 37).

Up to where hidden units of the blocks at 1/16 are given a ReLU all is linear in the latent, and so is all that `up` reads but
for those units. So instead of the stem, the sum at 1/16 and `up`, one after the other, each has one product of the latent itself,
whose 8-bit codes are its symbols (ADR 28). Those products' weights follow from quality alone: they are a network of their own,
which is run once for many tiles, and what it gives is an input of the variant.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import helper

from fewbits.families.eight_bits import COARSE, LEVELS
from fewbits.runtime.variants import STEP, WEIGHTS
from fewbits.training.layout import block_order
from fewbits.training.writer import GraphWriter

SMALLEST: Final = 1e-12  # unit of a weight: where all of a row are 0
SIDE: Final = 8  # of the blocks of pixels that the variant gives
HALF_LEVEL: Final = 0.5 / 255  # what is subtracted so that the code of the middle of 0..255, which is no whole number, is 128
SHORTCUT, UP, HIDDEN = "shortcut_16", "up", "hidden"  # the products

Steps = Mapping[str, np.ndarray]  # float32 (channels,): of what a convolution reads, by its name, and of the sums


class Piece(NamedTuple):
    """A part of the array WEIGHTS: as it lies there, and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class LatentReader(GraphWriter):
    """What the writers of both graphs know: the products of the latent, and the weights' order."""

    def __init__(self, source: onnx.GraphProto, steps: Steps, n_leading: int) -> None:
        """n_leading: channels of the latent that stay float."""
        super().__init__(source)
        self._steps, self._n_leading = steps, n_leading
        self.n_latent = self._weights["stem.weight"].shape[1]
        numbers = sorted({int(name.split(".")[1]) for name in self._weights if name.startswith(f"{COARSE}.")})
        names = [f"{COARSE}.{k}.{part}" for k in numbers for part in ("mix_in", "expand")]
        self._hidden = [name for name in names if f"{name}.weight" in self._weights]  # export may have left out any

    @property
    def products(self) -> dict[str, int]:
        """Of the latent, by name: the output channels of each."""
        hidden = sum(map(self._rows, self._hidden))
        return {SHORTCUT: self._rows(SHORTCUT), UP: self._rows(UP), **({HIDDEN: hidden} if hidden else {})}

    def pieces(self) -> tuple[list[Piece], list[Piece]]:
        """Of WEIGHTS: first whole numbers -127..127, the codes of weights that read the latent's later channels (in, out); then
        the weights that read its leading ones, the units of products of codes, and biases. The former are none where no channel
        has codes."""
        n_codes, products = self.n_latent - self._n_leading, self.products.items()
        codes = [Piece(f"{name}/codes", (n_codes, n)) for name, n in products if n_codes]
        units = [Piece(f"{name}/unit", (n,)) for name, n in products if n_codes]
        leading = [Piece(f"{name}/leading", (self._n_leading, n)) for name, n in products]
        return codes, [*leading, *units, *(Piece(f"{name}/bias", (n,)) for name, n in products)]

    def _bias(self, name: str) -> np.ndarray:
        return self._weights.get(f"{name}.bias", np.zeros(self._rows(name), np.float32))

    def _matrix_rows(self, name: str, order: np.ndarray | None = None) -> str:
        """The weights of a convolution of 1x1 as a matrix (out, in), its output channels in that order, or torch's."""
        return self._node("Flatten", [self._ordered(name, order)], f"{name}/rows")

    def _order_and_units(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Of `up`, or of what hidden units at 1/16 read: its output channels in the order in which the variant has them, and the
        units (out,) of those: of the sum at 1/8, or the steps of who reads the hidden units."""
        if name != UP:
            return np.arange(self._rows(name)), self._steps[follower(name)]
        units = self._steps["blocks_8"]
        return block_order(len(units), 2), np.tile(units, 4)


def follower(name: str) -> str:
    """The convolution that reads what a ReLU makes of this one's output."""
    return name.replace("mix_in", "spatial").replace("expand", "reduce")


def pixel_order() -> np.ndarray:
    """Of the shortcut's output channels: from (channel, row, column) of a block of 16x16 to blocks of 8x8 in it, each of them
    (row, column, channel): as the head gives them."""
    return np.arange(3 * 16**2, dtype=np.int32).reshape(3, 2, SIDE, 2, SIDE).transpose(1, 3, 2, 4, 0).ravel()


def weights_network(data: bytes, steps: Steps, n_leading: int) -> bytes:
    """The ONNX file of the network that makes WEIGHTS, float32 (n,), of STEP, scale and shift, all (1, channels, 1, 1), without
    the initializers of the ONNX file `data` of synthesis."""
    model = onnx.load_from_string(data)
    builder = _Builder(model.graph, steps, n_leading)
    builder.build()
    builder.replace(model.graph)
    kept = [item for item in model.graph.input if item.name in ("scale", "shift")]
    step = helper.make_tensor_value_info(STEP, onnx.TensorProto.FLOAT, [1, builder.n_latent, 1, 1])
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend([*kept, step])
    model.graph.output.append(helper.make_tensor_value_info(WEIGHTS, onnx.TensorProto.FLOAT, ["n"]))
    return bytes(model.SerializeToString(deterministic=True))


class _Builder(LatentReader):
    """Writes that network. Vectors are rows (1, channels)."""

    def build(self) -> None:
        codes, others = self.pieces()
        made = dict(self._products())
        parts = [self._node("Flatten", [made[piece.name]], f"{piece.name}/row", axis=0) for piece in (*codes, *others)]
        self._node("Squeeze", [self._concat(parts, "pieces", 1), self._constant("first", np.zeros(1, np.int64))], WEIGHTS)

    def _products(self) -> Iterator[tuple[str, str]]:
        """Every piece's name, and the tensor that is it."""
        yield from self._pieces_of(
            SHORTCUT,
            self._matrix_rows(SHORTCUT, pixel_order()),
            self._constant("shortcut/bias", self._bias(SHORTCUT)[None, pixel_order()] - np.float32(HALF_LEVEL)),
        )
        scale, shift = (self._node("Flatten", [name], f"{name}/row") for name in ("scale", "shift"))
        stem = self._matrix_rows("stem")
        told = self._node("Mul", [self._constant("stem/bias", self._bias("stem")[None]), scale], "stem/scaled_bias")
        told = self._node("Add", [told, shift], "stem/told")
        for name, layers in ((UP, [UP]), (HIDDEN, self._hidden)):
            if not layers:
                continue
            rows, biases = zip(*map(self._of_sum, layers), strict=True)
            of_sum = self._concat(list(rows), f"{name}/of_sum", 0)
            matrix = self._node("MatMul", [self._node("Mul", [of_sum, scale], f"{name}/scaled"), stem], f"{name}/of_latent")
            turned = self._node("Transpose", [of_sum], f"{name}/turned", perm=[1, 0])
            shifted = self._node("MatMul", [told, turned], f"{name}/told")
            bias = self._constant(f"{name}/own_bias", np.concatenate(biases)[None].astype(np.float32))
            yield from self._pieces_of(name, matrix, self._node("Add", [shifted, bias], f"{name}/biases"))

    def _of_sum(self, name: str) -> tuple[str, np.ndarray]:
        """The rows of what reads the sum at 1/16, in its units, and its biases."""
        order, units = self._order_and_units(name)
        divisor = self._constant(f"{name}/divisor", units[:, None])
        return self._node("Div", [self._matrix_rows(name, order), divisor], f"{name}/in_units"), self._bias(name)[order] / units

    def _pieces_of(self, name: str, matrix: str, bias: str) -> Iterator[tuple[str, str]]:
        """Of a product with a matrix (out, latent). An output channel's unit is such that no code is beyond -127..127."""
        yield f"{name}/bias", bias
        yield f"{name}/leading", self._turned(self._channels(matrix, 0, self._n_leading))
        if self._n_leading == self.n_latent:
            return
        step = self._channels(self._node("Flatten", [STEP], f"{name}/step"), self._n_leading, self.n_latent)
        stepped = self._node("Mul", [self._channels(matrix, self._n_leading, self.n_latent), step], f"{name}/stepped")
        largest = self._node("ReduceMax", [self._node("Abs", [stepped], f"{name}/sizes"), self._axis(1)], f"{name}/largest")
        unit = self._node("Mul", [largest, self._constant("per_level", np.float32(1 / LEVELS))], f"{name}/largest_unit")
        unit = self._node("Max", [unit, self._constant("smallest", np.float32(SMALLEST))], f"{name}/own_units")
        yield f"{name}/unit", unit
        yield f"{name}/codes", self._turned(self._node("Div", [stepped, unit], f"{name}/relative"))

    def _channels(self, x: str, start: int, stop: int) -> str:
        """Columns of a matrix."""
        bounds = [self._constant(f"channels/{n}", np.array([n])) for n in (start, stop)]
        return self._node("Slice", [x, *bounds, self._axis(1)], f"{x}/{start}_{stop}")

    def _axis(self, n: int) -> str:
        return self._constant(f"axis/{n}", np.array([n], np.int64))

    def _turned(self, x: str) -> str:
        return self._node("Transpose", [x], f"{x}/turned", perm=[1, 0])

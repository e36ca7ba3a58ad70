# SPDX-License-Identifier: MIT
"""`scales` of `few` -> the same indices in operators of 8-bit integers: another graph for the same weights, which stay in the
float file (ADR 18, ADR 36).

A layer gives floor((conv(x, W) + b) / 2^shift), clipped to 0..255. QLinearConv rounds to the nearest integer, halves to even:
with 2^(shift-1) less in the bias, and LIFT in the scale, which moves halves up and nothing else across one, it gives the same.
The head rounds for good: floor(floor(t / 2^shift) / 2^bits + 1/2) is t / 2^(shift+bits) rounded, halves up. Sums of products
are integers that float32 holds (families/quantize.py), in which ONNX Runtime multiplies them with the scale.

Values lie channel by channel for each place, as kernels for integers want them.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from fewbits.runtime.variants import WEIGHT_ZERO
from fewbits.training.layout import BATCH, TO_PLACES, TO_PLANES, block_order, spread
from fewbits.training.writer import MIDDLE, RUNTIMES_OWN, GraphWriter

LIFT: Final = 1 + 2.0**-20
MOST_SHIFT: Final = 11  # with LIFT, which adds up to 256 * 2^-20 to a value, one that is 2^-shift below a half must stay below it
PHASE_BIAS: Final = "phase_bias"  # the input beside those of the network


def integer_scales(data: bytes, shifts: Mapping[str, int], coding: Mapping[str, Any]) -> bytes:
    """The ONNX file of those indices, without the initializers that the ONNX file `data` has: see runtime/variants.py. b"" where
    8 bits do not hold what the network reads, or its shifts are too large.

    Inputs: those of `data`, biases being (1, channels, 1, 1), and of its first `pyramid` channels, if any, what is added to their
    real index, PHASE_BIAS (1, pyramid, rows, columns), in units of 2^-index_bits. Output: indices uint8 (1, channels, rows,
    columns), of which those above 255 are 255.
    shifts: by layer by which power of 2 its products are divided; coding: the numbers of the bundle's pipeline.
    """
    index_bits, pyramid = coding["index_bits"], coding["pyramid"]
    shifts_to_8_bits = [*shifts.values(), shifts["head"] + index_bits]
    if coding["hyper_limit"] >= MIDDLE or not all(0 < shift <= MOST_SHIFT for shift in shifts_to_8_bits):
        return b""
    model = onnx.load_from_string(data)
    builder = _Builder(model.graph, shifts, index_bits, pyramid)
    builder.build()
    builder.replace(model.graph)
    inputs = {"z_hat": builder.n_read, "bias_in": builder.rows("stem"), "bias_out": builder.rows("head")}
    inputs |= {PHASE_BIAS: pyramid} if pyramid else {}
    sides: dict[str, tuple[str, str]] = {"z_hat": ("hyper_rows", "hyper_columns"), PHASE_BIAS: ("rows", "columns")}
    del model.graph.input[:]
    for name, n in inputs.items():
        shape: list[int | str | None] = [1, n, *sides.get(name, (1, 1))]
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    del model.graph.output[:]
    shape = [1, builder.rows("head"), "rows", "columns"]
    model.graph.output.append(helper.make_tensor_value_info("index", TensorProto.UINT8, shape))
    model.opset_import.append(helper.make_opsetid(RUNTIMES_OWN, 1))
    return bytes(model.SerializeToString(deterministic=True))


class _Builder(GraphWriter):
    """Writes the graph. Tensors are uint8 (1, rows, columns, channels), but for what it reads and gives."""

    def __init__(self, source: onnx.GraphProto, shifts: Mapping[str, int], index_bits: int, pyramid: int) -> None:
        super().__init__(source)
        self._shifts, self._pyramid = shifts, pyramid
        self._whole = shifts["head"] + index_bits  # the shift to an index
        self.n_read = self._weights["stem.weight"].shape[1]

    def rows(self, name: str) -> int:
        """Output channels of a layer."""
        return self._rows(name)

    def build(self) -> None:
        """All nodes, from the inputs to `index`."""
        x = self._node("QuantizeLinear", ["z_hat", self._one(), self._zero(signed=True)], "z_hat/codes")
        x = self._node("Transpose", [x], "z_hat/in_places", perm=TO_PLACES)
        x = self._layer(x, "stem", self._told("stem", "bias_in", self._less_a_half("stem")))
        for size in ("32", "16"):
            x = self._up(x, f"to_{size}")
            x = self._layer(x, f"spatial_{size}")
        codes, bias = self._codes("head", self._kernel("head")), self._told("head", "bias_out", self._bias("head"))
        rounded = self._convolution(x, "head", codes, bias, self._whole)
        if not self._pyramid:
            self._node("Transpose", [rounded], "index", perm=TO_PLANES)
            return
        planes = self._node("Transpose", [rounded], "head/planes", perm=TO_PLANES)
        others = self._part(planes, self._pyramid, self.rows("head"), axis=1)
        self._node("Concat", [self._leading(x, codes, bias), others], "index", axis=1)

    def _leading(self, x: str, codes: str, bias: str) -> str:
        """Indices of the pyramid's channels (1, pyramid, rows, columns): by products in float, which holds them exactly.

        The head gives them, too: without them it takes as long.
        """
        codes, bias = (self._part(each, 0, self._pyramid, axis=0) for each in (codes, bias))
        bias = self._node("Cast", [bias], "leading/bias_float", to=TensorProto.FLOAT)
        unit = self._constant("leading/unit", np.float32(2.0**-self._whole))
        bias = self._node("Mul", [bias, unit], "leading/bias")
        matrix = self._matrix(codes, "leading")
        inputs = [x, matrix, self._one(), unit, self._zero(signed=False), WEIGHT_ZERO, bias]
        real = self._node("MatMulIntegerToFloat", inputs, "leading/in_places", domain=RUNTIMES_OWN)
        real = self._node("Transpose", [real], "leading/planes", perm=TO_PLANES)
        real = self._node("Add", [real, PHASE_BIAS], "leading/real")
        lift = self._constant("leading/lift", np.float32(2.0 ** -(self._whole + 1)))  # halves go up, nothing else reaches one
        real = self._node("Add", [real, lift], "leading/lifted")
        return self._node("QuantizeLinear", [real, self._one(), self._zero(signed=False)], "leading/index")

    def _part(self, x: str, start: int, stop: int, axis: int) -> str:
        bounds = [self._constant(f"number/{n}", np.array([n])) for n in (start, stop, axis)]
        return self._node("Slice", [x, *bounds], f"{x}/from_{start}")

    def _up(self, x: str, name: str) -> str:
        """A layer of 1x1 each of whose positions becomes 2x2."""
        n, order = self.rows(name) // 4, block_order(self.rows(name) // 4, 2)
        bias = self._constant(f"{name}/bias", self._less_a_half(name)[order])
        x = self._convolution(x, name, self._codes(name, self._ordered(name, order)), bias, self._shifts[name])
        picture = spread(x, n, 2, self._node, self._constant)
        return self._node("Unsqueeze", [picture, self._constant("batch", BATCH)], f"{name}/spread")

    def _layer(self, x: str, name: str, bias: str = "") -> str:
        bias = bias or self._constant(f"{name}/bias", self._less_a_half(name))
        return self._convolution(x, name, self._codes(name, self._kernel(name)), bias, self._shifts[name])

    def _convolution(self, x: str, name: str, codes: str, bias: str, shift: int) -> str:
        """8 bits to 8 bits: products and bias divided by 2^shift, and rounded, halves up."""
        size = self._weights[f"{name}.weight"].shape[-1]
        scale = self._constant(f"scale/{shift}", np.float32(2.0**-shift * LIFT))
        zeros = self._zero(signed=name == "stem"), self._zero(signed=False)
        return self._node(
            "QLinearConv",
            [x, self._one(), zeros[0], codes, scale, WEIGHT_ZERO, self._one(), zeros[1], bias],
            f"{name}/out",
            domain=RUNTIMES_OWN,
            channels_last=1,
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            group=self.rows(name) if name.startswith("spatial") else 1,
        )

    def _codes(self, name: str, kernel: str) -> str:
        """Weights as 8-bit codes: they are integers."""
        return self._node("QuantizeLinear", [kernel, self._one(), WEIGHT_ZERO], f"{name}/codes")

    def _bias(self, name: str) -> np.ndarray:
        return self._weights[f"{name}.bias"].astype(np.int32)

    def _less_a_half(self, name: str) -> np.ndarray:
        """A layer's bias such that rounding gives what rounding down does."""
        return self._bias(name) - np.int32(2 ** (self._shifts[name] - 1))

    def _told(self, name: str, told: str, bias: np.ndarray) -> str:
        """A bias and what an input adds to it: int32 (channels,)."""
        whole = self._node("Cast", [told], f"{told}/whole", to=TensorProto.INT32)
        flat = self._node("Reshape", [whole, self._constant("flat", np.array([-1]))], f"{told}/flat")
        return self._node("Add", [flat, self._constant(f"{name}/own_bias", bias)], f"{name}/bias")

# SPDX-License-Identifier: MIT
"""Synthesis of `few` -> its int8 variant: another graph for the same weights, which stay in the float file (ADR 18, ADR 24).

Values lie channel by channel for each place, as kernels for integers want them. Sums stay float, in units of 8-bit steps, a unit
for each channel: so what a convolution reads is one rounding away, and every code stands for itself. The step of a channel is in
the weights that read it. Which steps there are: families/eight_bits.py, which trains with them.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fewbits.families.eight_bits import LEVELS, STEPS, is_positive, sum_of
from fewbits.runtime.variants import WEIGHT_ZERO

MIDDLE: Final = 128  # the code of 0 of a signed value
SMALLEST: Final = 1e-12  # unit of a weight: where all of a row are 0
LARGEST_BIAS: Final = 2**30  # in units of products
RUNTIMES_OWN: Final = "com.microsoft"  # the domain of ONNX Runtime's operators beyond ONNX's

Steps = Mapping[str, np.ndarray]  # float32 (channels,): of what a convolution reads, by its name, and of the sums


def quantized(data: bytes, steps: Steps) -> bytes:
    """The ONNX file of the int8 variant, without the initializers that the ONNX file `data` has: see runtime/variants.py. Biases
    are float32 there, as export writes them.

    steps: as models give them by int8_steps(), of the channels that `data` has.
    """
    model = onnx.load_from_string(data)
    builder = _Builder({item.name: numpy_helper.to_array(item).astype(np.float32) for item in model.graph.initializer}, steps)
    builder.build(model.graph.output[0].name)
    builder.keep()
    del model.graph.node[:]
    del model.graph.initializer[:]
    del model.graph.value_info[:]
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.extend(builder.initializers.values())
    model.opset_import.append(helper.make_opsetid(RUNTIMES_OWN, 1))
    return bytes(model.SerializeToString(deterministic=True))


class _Builder:
    """Writes the graph. Tensors are (1, rows, columns, channels), but for planes at both ends."""

    def __init__(self, weights: dict[str, np.ndarray], steps: Steps) -> None:
        self._matrices = {name for name, value in weights.items() if value.ndim == 2}  # kernels of 1x1 that export has so
        self._weights = {name: _kernel_shaped(value) for name, value in weights.items()}
        self._steps = steps
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def build(self, output: str) -> None:
        """All nodes, from y_hat, scale and shift to `output`."""
        told = self._node(
            "Add", [self._node("Mul", [self._plane_convolution("stem"), "scale"], "stem/scaled"), "shift"], "stem/told"
        )
        unit = self._constant("blocks_16/unit", 1 / self._steps["blocks_16"][:, None, None])
        deep = self._node("Transpose", [self._node("Mul", [told, unit], "blocks_16/planes")], "blocks_16/in", perm=[0, 2, 3, 1])
        deep, total = self._blocks(deep, "blocks_16")
        deep, total = self._blocks(self._doubled(deep, total), "blocks_8")
        pixels = self._float_product(deep, "head", self._kernel("head"), total)
        pixels = self._node("Transpose", [pixels], "head/planes", perm=[0, 3, 1, 2])
        pixels = self._node("DepthToSpace", [pixels], "head/pixels", blocksize=8, mode="CRD")
        linear = self._node(
            "DepthToSpace", [self._plane_convolution("shortcut_16")], "shortcut_16/pixels", blocksize=16, mode="CRD"
        )
        self._node("Add", [linear, pixels], output)

    def keep(self) -> None:
        """All steps, whether or not the graph reads them: training that goes on from the bundle wants them."""
        for name in self._steps:
            self._per_input(name)

    def _blocks(self, x: str, stack: str) -> tuple[str, str]:
        """What blocks make of x, and in which of the SUMS' units; export may have left out a branch of theirs, or both."""
        numbers, total = {int(name.split(".")[1]) for name in self._weights if name.startswith(f"{stack}.")}, stack
        for name in (f"{stack}.{k}" for k in sorted(numbers)):
            for first, *others in ("mix_in", "spatial", "mix_out"), ("expand", "reduce"):
                if f"{name}.{first}.weight" not in self._weights:
                    continue
                x, total = self._in_units(x, total, sum_of(f"{name}.{first}"))
                inside, layer = self._read(x, f"{name}.{first}", total), f"{name}.{first}"
                for reader in (f"{name}.{part}" for part in others):
                    inside, layer = self._convolution(inside, layer, reader), reader
                x = self._node("Add", [x, self._product(inside, layer, self._steps[total])], f"{layer}/sum")
        return x, total

    def _in_units(self, x: str, total: str, other: str) -> tuple[str, str]:
        """The sum x in the units of another of the SUMS."""
        if other == total:
            return x, total
        unit = self._constant(f"{other}/unit", self._steps[total] / self._steps[other])
        return self._node("Mul", [x, unit], f"{other}/in"), other

    def _plane_convolution(self, name: str) -> str:
        """Of the latent, 1x1, as in the float file."""
        return self._node("Conv", ["y_hat", self._kernel(name), f"{name}.bias"], f"{name}/out")

    def _read(self, x: str, name: str, total: str) -> str:
        """The sum x in the steps of what the convolution `name` reads, which are in the proportions of its units."""
        step = self._constant(f"{name}/step", np.median(self._steps[name] / self._steps[total]).astype(np.float32))
        return self._node("QuantizeLinear", [x, step, self._zero(signed=True)], f"{name}/in")

    def _convolution(self, x: str, name: str, reader: str) -> str:
        """8 bits to 8 bits, those that `reader` reads; a ReLU is the lower end of the unsigned result."""
        codes, unit = self._codes(name)
        rows, size = len(unit), self._weights[f"{name}.weight"].shape[-1]
        bias = np.rint(self._bias(name).astype(np.float64) / unit).astype(np.int32)
        scale = self._constant(f"{name}/scale", (unit / self._steps[reader]).astype(np.float32))
        return self._node(
            "QLinearConv",
            [
                *(x, self._one(), self._zero(signed=not is_positive(name))),
                *(codes, scale, self._weight_zeros(rows)),
                *(self._one(), self._zero(signed=not is_positive(reader)), self._constant(f"{name}/bias", bias)),
            ],
            f"{name}/out",
            domain=RUNTIMES_OWN,
            channels_last=1,
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            group=rows if _is_depthwise(name) else 1,
        )

    def _product(self, x: str, name: str, unit_out: np.ndarray) -> str:
        """8 bits to float, in units of unit_out."""
        codes, unit = self._codes(name)
        scale = self._constant(f"{name}/scale", (unit / unit_out).astype(np.float32))
        bias = self._constant(f"{name}/bias", (self._bias(name) / unit_out).astype(np.float32))
        zeros = [self._zero(signed=not is_positive(name)), self._weight_zeros(len(unit))]
        inputs = [x, self._matrix(codes, name), self._one(), scale, *zeros, bias]
        return self._node("MatMulIntegerToFloat", inputs, f"{name}/out", domain=RUNTIMES_OWN)

    def _doubled(self, x: str, total: str) -> str:
        """`up` and a DepthToSpace of 2x2, which runtimes have for planes only: here rows are doubled by a change of places."""
        unit = self._steps["blocks_8"]
        # of channels: from (c, row, column), as planes have them, to (row, column, c)
        order = np.arange(4 * len(unit)).reshape(len(unit), 2, 2).transpose(1, 2, 0).ravel()
        kernel = self._node("Gather", [self._kernel("up"), self._constant("up/order", order)], "up/ordered", axis=0)
        kernel = self._node("Mul", [kernel, self._constant("up/unit", 1 / np.tile(unit, 4)[:, None, None, None])], "up/in_units")
        x = self._float_product(x, "up", kernel, total)
        x = self._node("Add", [x, self._constant("up/bias_in_units", self._bias("up")[order] / np.tile(unit, 4))], "up/sum")

        def shaped(x: str, *shape: int) -> str:
            """0: the side is as it was."""
            return self._node("Reshape", [x, self._constant(f"{x}/shape", np.array(shape, np.int64))], f"{x}/shaped")

        batch = self._constant("batch", np.array([0], np.int64))
        x = shaped(self._node("Squeeze", [x, batch], "up/picture"), 0, 0, 2, 2 * len(unit))  # (rows, columns, 2, 2 x channels)
        x = shaped(self._node("Transpose", [x], "up/two_rows", perm=[0, 2, 1, 3]), 0, 0, -1, len(unit))
        x = shaped(self._node("Flatten", [x], "up/flat", axis=2), 0, -1, len(unit))
        return self._node("Unsqueeze", [x, batch], "blocks_8/in")

    def _float_product(self, x: str, name: str, kernel: str, total: str) -> str:
        """Of the sum x, with weights as `kernel` (out, in, 1, 1) has them."""
        kernel = self._node("Mul", [kernel, self._per_input(total)], f"{name}/of_units")
        return self._node("MatMul", [x, self._matrix(kernel, name)], f"{name}/out")

    def _matrix(self, kernel: str, name: str) -> str:
        """(in, out), of a kernel (out, in, 1, 1) of the convolution `name`."""
        rows = self._node("Flatten", [kernel], f"{name}/rows")
        return self._node("Transpose", [rows], f"{name}/matrix", perm=[1, 0])

    def _per_input(self, name: str) -> str:
        """Steps of what `name` reads, as a constant (in, 1, 1) to multiply a kernel (out, in, 1, 1) with."""
        return self._constant(f"{name}{STEPS}", self._steps[name][:, None, None])

    def _codes(self, name: str) -> tuple[str, np.ndarray]:
        """The weights of a convolution as 8-bit codes, and the unit (out,) of its products: of a weight's and a value's steps."""
        step, kernel, per_input = self._steps[name], self._kernel(name), np.ones(1, np.float32)
        weight = self._weights[f"{name}.weight"]
        if _is_depthwise(name):  # a channel's step is that of all that it reads
            per_input = step
        else:
            kernel = self._node("Mul", [kernel, self._per_input(name)], f"{name}/stepped")
            weight = weight * step[:, None, None]
        unit = np.abs(weight).max((1, 2, 3)) / LEVELS
        unit = np.maximum(unit, np.maximum(np.abs(self._bias(name)) / per_input / LARGEST_BIAS, SMALLEST)).astype(np.float32)
        inputs = [kernel, self._constant(f"{name}/weight_step", unit), self._weight_zeros(len(unit))]
        return self._node("QuantizeLinear", inputs, f"{name}/codes", axis=0), unit * per_input

    def _bias(self, name: str) -> np.ndarray:
        return self._weights.get(f"{name}.bias", np.zeros(len(self._weights[f"{name}.weight"]), np.float32))

    def _kernel(self, name: str) -> str:
        """The weights of a convolution in float (out, in, rows, columns)."""
        weight = f"{name}.weight"
        kernel = self._node("Cast", [weight], f"{weight}/float32", to=TensorProto.FLOAT)
        if weight not in self._matrices:
            return kernel
        return self._node(
            "Reshape", [kernel, self._constant("kernel_shape", np.array([0, 0, 1, 1], np.int64))], f"{weight}/kernel"
        )

    def _one(self) -> str:
        return self._constant("one", np.float32(1))

    def _zero(self, signed: bool) -> str:
        return self._constant(f"zero/{int(signed)}", np.uint8(MIDDLE if signed else 0))

    def _weight_zeros(self, n: int) -> str:
        """The code of a weight of 0, n times: it comes with the weights, since processors want it different."""
        name = f"{WEIGHT_ZERO}/{n}"
        if all(name not in node.output for node in self.nodes):
            self._node("Expand", [WEIGHT_ZERO, self._constant(f"{name}/shape", np.array([n], np.int64))], name)
        return name

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _kernel_shaped(value: np.ndarray) -> np.ndarray:
    return value[:, :, None, None] if value.ndim == 2 else value


def _is_depthwise(name: str) -> bool:
    return name.endswith(".spatial")

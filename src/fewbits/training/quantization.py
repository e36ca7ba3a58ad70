# SPDX-License-Identifier: MIT
"""Synthesis of `few` -> its int8 variant: another graph for the same weights, which stay in the float file (ADR 18, ADR 24).

Values lie channel by channel for each place, as kernels for integers want them, and so do pixels, colour by colour. Sums stay
float, in units of 8-bit steps, a unit for each channel: so what a convolution reads is one rounding away, and every code stands
for itself. The step of a channel is in the weights that read it. Which steps there are: families/eight_bits.py, which trains with
them; those of the latent are the quantizer's, so that its codes are symbols, and come with each tile (ADR 28).
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from fewbits.families.eight_bits import LATENT, LEVELS, STEPS, is_positive, sum_of
from fewbits.runtime.variants import WEIGHT_ZERO
from fewbits.training.layout import BATCH, BLOCKS_OF, block_order, spread
from fewbits.training.writer import GraphWriter

MIDDLE: Final = 128  # the code of 0 of a signed value
SMALLEST: Final = 1e-12  # unit of a weight: where all of a row are 0
LARGEST_BIAS: Final = 2**30  # in units of products
STEP: Final = "step"  # the input that variants have beside those of the network
RUNTIMES_OWN: Final = "com.microsoft"  # the domain of ONNX Runtime's operators beyond ONNX's

Steps = Mapping[str, np.ndarray]  # float32 (channels,): of what a convolution reads, by its name, of the sums, and of LATENT


def quantized(data: bytes, steps: Steps) -> bytes:
    """The ONNX file of the int8 variant, without the initializers that the ONNX file `data` has: see runtime/variants.py. Biases
    are float32 there, as export writes them.

    It has one more input, step (1, channels, 1, 1): of the latent's 8-bit codes.
    steps: as models give them by int8_steps(), of the channels that `data` has.
    """
    model = onnx.load_from_string(data)
    builder = _Builder(model.graph, steps)
    builder.build(model.graph.output[0].name)
    builder.keep()
    builder.replace(model.graph)
    del model.graph.output[1:]
    output = model.graph.output[0]
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["height", "width", 3]))
    model.graph.input.append(helper.make_tensor_value_info(STEP, TensorProto.FLOAT, [1, builder.n_latent, 1, 1]))
    model.opset_import.append(helper.make_opsetid(RUNTIMES_OWN, 1))
    return bytes(model.SerializeToString(deterministic=True))


class _Latent(NamedTuple):
    """Names of the latent's leading channels in float, of the others' 8-bit codes, and of their steps (channels, 1); the last two
    are empty where there are no others."""

    leading: str
    codes: str = ""
    step: str = ""


class _Builder(GraphWriter):
    """Writes the graph. Tensors are (1, rows, columns, channels), but for what it reads."""

    def __init__(self, source: onnx.GraphProto, steps: Steps) -> None:
        super().__init__(source)
        self._steps = steps
        self.n_latent = self._weights["stem.weight"].shape[1]
        self._n_leading = self.n_latent - len(steps[LATENT])

    def build(self, output: str) -> None:
        """All nodes, from y_hat, scale, shift and step, which are planes, to `output`: pixels (height, width, 3)."""
        latent = self._latent()
        scale, shift = (self._in_places(name, name) for name in ("scale", "shift"))
        deep = self._node("Mul", [self._of_latent("stem", 1, latent), scale], "stem/scaled")
        deep = self._node("Add", [deep, shift], "stem/told")
        deep = self._node("Mul", [deep, self._constant("blocks_16/unit", 1 / self._steps["blocks_16"])], "blocks_16/in")
        deep, total = self._blocks(deep, "blocks_16")
        deep, total = self._blocks(self._doubled(deep, total), "blocks_8")
        pixels = self._spread(self._float_product(deep, "head", self._ordered("head", block_order(3, 8)), total), 3, 8)
        linear = self._spread(self._of_latent("shortcut_16", 16, latent), 3, 16)
        self._node("Add", [linear, pixels], output)

    def keep(self) -> None:
        """All steps but the latent's, whether or not the graph reads them: training that goes on from the bundle wants them."""
        for name in self._steps:
            if name != LATENT:
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
                codes, unit = self._codes(layer)
                scale = self._constant(f"{layer}/scale", (unit / self._steps[total]).astype(np.float32))
                bias = self._bias(layer) / self._steps[total]
                added = self._product(inside, layer, self._matrix(codes, layer), scale, bias, signed=not is_positive(layer))
                x = self._node("Add", [x, added], f"{layer}/sum")
        return x, total

    def _in_units(self, x: str, total: str, other: str) -> tuple[str, str]:
        """The sum x in the units of another of the SUMS."""
        if other == total:
            return x, total
        unit = self._constant(f"{other}/unit", self._steps[total] / self._steps[other])
        return self._node("Mul", [x, unit], f"{other}/in"), other

    def _latent(self) -> _Latent:
        leading = self._in_places(self._channels("y_hat", others=False), "leading")
        if self._n_leading == self.n_latent:
            return _Latent(leading)
        units = self._node("Div", ["y_hat", STEP], "latent/units")
        units = self._in_places(self._channels(units, others=True), "latent")
        codes = self._node("QuantizeLinear", [units, self._one(), self._zero(signed=True)], "latent/codes")
        step = self._node("Flatten", [self._channels(STEP, others=True)], "latent/step", axis=2)
        return _Latent(leading, codes, step)

    def _channels(self, x: str, *, others: bool) -> str:
        """Of something of (..., channels of the latent, rows, columns) the leading channels, or the others."""
        start, stop = (self._n_leading, self.n_latent) if others else (0, self._n_leading)
        bounds = [self._constant(f"channels/{n}", np.array([n])) for n in (start, stop, 1)]
        return self._node("Slice", [x, *bounds], f"{x}/{'others' if others else 'leading'}")

    def _in_places(self, planes: str, name: str) -> str:
        return self._node("Transpose", [planes], f"{name}/in_places", perm=[0, 2, 3, 1])

    def _of_latent(self, name: str, size: int, latent: _Latent) -> str:
        """A convolution of 1x1 of the latent, that gives blocks of size x size, (row, column, channel)."""
        order = block_order(self._rows(name) // size**2, size)
        kernel, bias = self._ordered(name, order), self._bias(name)[order]
        matrix = self._matrix(self._channels(kernel, others=False), f"{name}/leading")
        leading = self._node("MatMul", [latent.leading, matrix], f"{name}/of_leading")
        if not latent.codes:
            return self._node("Add", [leading, self._constant(f"{name}/bias", bias)], f"{name}/out")
        weight = self._weights[f"{name}.weight"][order, self._n_leading :]
        codes, unit = self._tile_codes(name, self._channels(kernel, others=True), weight, latent.step)
        others = self._product(latent.codes, name, codes, unit, bias, signed=True)
        return self._node("Add", [others, leading], f"{name}/with_leading")

    def _tile_codes(self, name: str, kernel: str, weight: np.ndarray, step: str) -> tuple[str, str]:
        """Weights that read the latent as a matrix of 8-bit codes (in, out), and the unit (out,) of their products.

        They become codes tile by tile, since the steps of what they read come with it. So that one unit, found from those steps,
        does for all output channels, they are divided by what the largest of their output channel is with usual steps.
        """
        largest = np.maximum(np.abs(weight * self._steps[LATENT][:, None, None]).max((1, 2, 3)), SMALLEST)
        kernel = self._node("Div", [kernel, self._constant(f"{name}/largest", largest[:, None, None, None])], f"{name}/relative")
        most = self._constant(f"{name}/most", np.abs(weight / largest[:, None, None, None]).max((0, 2, 3))[:, None] / LEVELS)
        unit = self._node("ReduceMax", [self._node("Mul", [step, most], f"{name}/most_of_step")], f"{name}/unit", keepdims=0)
        matrix = self._node("Mul", [self._matrix(kernel, name), step], f"{name}/stepped")
        codes = self._node("QuantizeLinear", [matrix, unit, WEIGHT_ZERO], f"{name}/codes")
        return codes, self._node("Mul", [self._constant(f"{name}/largest_of_row", largest), unit], f"{name}/units")

    def _ordered(self, name: str, order: np.ndarray) -> str:
        """The weights of a convolution, its output channels in the order of blocks, in which they may lie already."""
        if BLOCKS_OF in self._held[f"{name}.weight"]:
            return self._kernel(name)
        return self._node("Gather", [self._kernel(name), self._constant(f"{name}/order", order)], f"{name}/ordered", axis=0)

    def _spread(self, x: str, n_channels: int, size: int) -> str:
        return spread(x, n_channels, size, self._node, self._constant)

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

    def _product(self, x: str, name: str, matrix: str, scale: str, bias: np.ndarray, *, signed: bool) -> str:
        """8 bits to float: by a matrix of codes (in, out), of whose products an output channel has a scale."""
        zeros = [self._zero(signed), self._weight_zeros(len(bias))]
        inputs = [x, matrix, self._one(), scale, *zeros, self._constant(f"{name}/bias", bias.astype(np.float32))]
        return self._node("MatMulIntegerToFloat", inputs, f"{name}/out", domain=RUNTIMES_OWN)

    def _doubled(self, x: str, total: str) -> str:
        """`up`, of which each position becomes 2x2."""
        unit = self._steps["blocks_8"]
        units, order = np.tile(unit, 4), block_order(len(unit), 2)
        kernel = self._node(
            "Mul", [self._ordered("up", order), self._constant("up/unit", 1 / units[:, None, None, None])], "up/in_units"
        )
        x = self._float_product(x, "up", kernel, total)
        x = self._node("Add", [x, self._constant("up/bias_in_units", self._bias("up")[order] / units)], "up/sum")
        return self._node("Unsqueeze", [self._spread(x, len(unit), 2), self._constant("batch", BATCH)], "blocks_8/in")

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

    def _rows(self, name: str) -> int:
        """Output channels of a convolution."""
        return len(self._weights[f"{name}.weight"])

    def _bias(self, name: str) -> np.ndarray:
        return self._weights.get(f"{name}.bias", np.zeros(self._rows(name), np.float32))

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


def _is_depthwise(name: str) -> bool:
    return name.endswith(".spatial")

# SPDX-License-Identifier: MIT
"""Synthesis of `few` -> its int8 variant: another graph for the same weights, which stay in the float file (ADR 18, ADR 24).

Values lie channel by channel for each place, as kernels for integers want them, and so do pixels, colour by colour. Sums stay
float, in units of 8-bit steps, a unit for each channel: so what a convolution reads is one rounding away, and every code stands
for itself. The step of a channel is in the weights that read it. Which steps there are: families/eight_bits.py, which trains with
them; those of the latent are the quantizer's, so that its codes are symbols, and come with each tile (ADR 28).
"""

from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from fewbits.families.eight_bits import LEVELS, STEPS, is_positive, sum_of
from fewbits.runtime.variants import STEP, SYNTHESIS_WEIGHTS, WEIGHT_ZERO, WEIGHTS
from fewbits.training.latent_weights import (
    HIDDEN,
    SHORTCUT,
    SIDE,
    SMALLEST,
    UP,
    LatentReader,
    Piece,
    Steps,
    follower,
    weights_network,
)
from fewbits.training.layout import BATCH, block_order, spread
from fewbits.training.writer import MIDDLE, RUNTIMES_OWN

LARGEST_BIAS: Final = 2**30  # in units of products
BLOCKS: Final = "blocks"  # the output: pixels in blocks


def quantized(data: bytes, steps: Steps, n_leading: int) -> dict[str, bytes]:
    """The ONNX files of the int8 variant of synthesis, by the names of networks, without the initializers that the ONNX file
    `data` has: see runtime/variants.py. Biases are float32 there, as export writes them.

    synthesis: of y_hat, STEP (1, channels, 1, 1), which is that of the latent's 8-bit codes, and WEIGHTS, which synthesis_weights
    makes. It gives BLOCKS: pixels uint8 (rows, columns, 192) in blocks of 8x8, (row, column, colour).
    steps: as models give them by int8_steps(), of the channels that `data` has. n_leading: so many channels of the latent come
    first that stay float.
    """
    model = onnx.load_from_string(data)
    builder = _Builder(model.graph, steps, n_leading)
    builder.build()
    builder.keep()
    builder.replace(model.graph)
    kept = [item for item in model.graph.input if item.name == "y_hat"]
    del model.graph.input[:], model.graph.output[:]
    step = helper.make_tensor_value_info(STEP, TensorProto.FLOAT, [1, builder.n_latent, 1, 1])
    model.graph.input.extend([*kept, step, helper.make_tensor_value_info(WEIGHTS, TensorProto.FLOAT, [builder.n_weights])])
    model.graph.output.append(helper.make_tensor_value_info(BLOCKS, TensorProto.UINT8, ["rows", "columns", 3 * SIDE**2]))
    model.opset_import.append(helper.make_opsetid(RUNTIMES_OWN, 1))
    return {
        "synthesis": bytes(model.SerializeToString(deterministic=True)),
        SYNTHESIS_WEIGHTS: weights_network(data, steps, n_leading),
    }


class _Latent(NamedTuple):
    """Names of the latent's leading channels in float, and of the others' 8-bit codes, "" where there are no others."""

    leading: str
    codes: str = ""


class _Given(NamedTuple):
    """8-bit codes of hidden units at 1/16, and the convolution that would bring them back to the sum there."""

    codes: str
    layer: str


class _Builder(LatentReader):
    """Writes the graph. Tensors are (1, rows, columns, channels), but for what it reads and gives."""

    @property
    def n_weights(self) -> int:
        """Numbers in WEIGHTS."""
        codes, others = self.pieces()
        return sum(piece.size for piece in (*codes, *others))

    def build(self) -> None:
        """All nodes, from y_hat, STEP and WEIGHTS to BLOCKS."""
        latent = self._latent()
        self._split_weights()
        deep, given = self._of_latent(UP, latent), self._hidden_units(latent)
        if given:
            deep = self._node("Add", [deep, self._of_given(UP, given)], "up/with_hidden")
        deep = self._node("Unsqueeze", [self._spread(deep, len(self._steps["blocks_8"]), 2), self._batch()], "blocks_8/in")
        deep, total = self._blocks(deep)
        pixels = self._node("Squeeze", [self._head(deep, total), self._batch()], "head/picture")
        pixels = self._node("Add", [pixels, self._spread(self._of_latent(SHORTCUT, latent), 3 * SIDE**2, 2)], "pixels")
        level, middle = self._constant("level", np.float32(1 / 255)), self._constant("middle", np.uint8(MIDDLE))
        self._node("QuantizeLinear", [pixels, level, middle], BLOCKS)

    def keep(self) -> None:
        """All steps, whether or not the graph reads them: training that goes on from the bundle wants them."""
        for name in self._steps:
            self._per_input(name)

    # What reads the latent

    def _latent(self) -> _Latent:
        leading = self._in_places(self._channels("y_hat", others=False), "leading")
        if self._n_leading == self.n_latent:
            return _Latent(leading)
        units = self._node("Div", ["y_hat", STEP], "latent/units")
        units = self._in_places(self._channels(units, others=True), "latent")
        return _Latent(leading, self._node("QuantizeLinear", [units, self._one(), self._zero(signed=True)], "latent/codes"))

    def _channels(self, planes: str, *, others: bool) -> str:
        """Of planes of the latent its leading channels, or the others."""
        start, stop = (self._n_leading, self.n_latent) if others else (0, self._n_leading)
        bounds = [self._constant(f"channels/{n}", np.array([n])) for n in (start, stop, 1)]
        return self._node("Slice", [planes, *bounds], f"{planes}/{'others' if others else 'leading'}")

    def _in_places(self, planes: str, name: str) -> str:
        return self._node("Transpose", [planes], f"{name}/in_places", perm=[0, 2, 3, 1])

    def _split_weights(self) -> None:
        """WEIGHTS in pieces, which are tensors of those names then. All become integers, of which some are codes: so copies are
        small."""
        codes, others = self.pieces()
        start, stop = (self._constant(f"weights/{n}", np.array([n])) for n in (0, self.n_weights))
        rest = WEIGHTS
        if codes:
            n_codes = self._constant("weights/codes", np.array([sum(piece.size for piece in codes)]))
            rounded = self._node("QuantizeLinear", [WEIGHTS, self._one(), WEIGHT_ZERO], "weights/rounded")
            self._split_pieces(self._node("Slice", [rounded, start, n_codes], "codes"), codes)
            rest = self._node("Slice", [WEIGHTS, n_codes, stop], "others")
        self._split_pieces(rest, others)

    def _split_pieces(self, x: str, pieces: list[Piece]) -> None:
        sizes = self._constant(f"{x}/sizes", np.array([piece.size for piece in pieces], np.int64))
        self.nodes.append(helper.make_node("Split", [x, sizes], [f"{piece.name}/flat" for piece in pieces], axis=0))
        for name, shape in pieces:
            self._node("Reshape", [f"{name}/flat", self._constant(f"{name}/shape", np.array(shape, np.int64))], name)

    def _of_latent(self, name: str, latent: _Latent) -> str:
        """One of the latent's products."""
        leading = self._node("MatMul", [latent.leading, f"{name}/leading"], f"{name}/of_leading")
        if not latent.codes:
            return self._node("Add", [leading, f"{name}/bias"], f"{name}/out")
        inputs = latent.codes, f"{name}/codes", f"{name}/unit", f"{name}/bias"
        others = self._to_float(*inputs, f"{name}/of_codes", self.products[name], signed=True)
        return self._node("Add", [others, leading], f"{name}/out")

    def _hidden_units(self, latent: _Latent) -> list[_Given]:
        """Those of the blocks at 1/16: each reads the latent, and those before it."""
        given: list[_Given] = []
        if not self._hidden:
            return given
        before = [f"{name}/of_latent" for name in self._hidden]
        sizes = [self._rows(name) for name in self._hidden]
        sizes_name = self._constant("hidden/sizes", np.array(sizes, np.int64))
        self.nodes.append(helper.make_node("Split", [self._of_latent(HIDDEN, latent), sizes_name], before, axis=-1))
        for name, of_latent in zip(self._hidden, before, strict=True):
            x = self._node("Add", [of_latent, self._of_given(name, given)], f"{name}/sum") if given else of_latent
            layer = follower(name)
            codes = self._node("QuantizeLinear", [x, self._one(), self._zero(signed=False)], f"{name}/out")
            if _is_depthwise(layer):
                first, layer = layer, layer.replace("spatial", "mix_out")
                codes = self._convolution(codes, first, layer)
            given.append(_Given(codes, layer))
        return given

    def _of_given(self, name: str, given: list[_Given]) -> str:
        """What `up`, or what hidden units read, reads of the sum at 1/16 that others give to it: a product of their codes.

        It is small, so its weights are constants of the variant. All codes are read as if 0 stood for 0; what that adds for those
        of which MIDDLE does is taken away again.
        """
        order, units = self._order_and_units(name)
        rows = self._weights[f"{name}.weight"][order, :, 0, 0] / units[:, None]
        matrix = np.concatenate(
            [rows @ (self._weights[f"{layer}.weight"][:, :, 0, 0] * self._steps[layer]) for _, layer in given], 1
        )
        unit = np.maximum(np.abs(matrix).max(1) / LEVELS, SMALLEST).astype(np.float32)
        codes = np.rint(matrix / unit[:, None])
        middles = np.concatenate([np.full(len(self._steps[layer]), 0 if is_positive(layer) else MIDDLE) for _, layer in given])
        bias = np.sum([rows @ self._bias(layer) for _, layer in given], 0) - unit * (codes @ middles)
        held = self._constant(f"{name}/of_hidden", np.ascontiguousarray(codes.T.astype(np.int8)))
        held = self._node("Cast", [held], f"{name}/of_hidden/float", to=TensorProto.FLOAT)
        held = self._node("QuantizeLinear", [held, self._one(), WEIGHT_ZERO], f"{name}/of_hidden/codes")
        read = self._concat([codes for codes, _ in given], f"{name}/hidden_codes", -1)
        unit_name = self._constant(f"{name}/of_hidden/unit", unit)
        bias_name = self._constant(f"{name}/of_hidden/bias", bias.astype(np.float32))
        return self._to_float(read, held, unit_name, bias_name, f"{name}/of_hidden/out", len(unit), signed=False)

    # The blocks at 1/8

    def _blocks(self, x: str) -> tuple[str, str]:
        """What blocks make of x, and in which of the SUMS' units; export may have left out a branch of theirs, or both."""
        stack = total = "blocks_8"
        numbers = {int(name.split(".")[1]) for name in self._weights if name.startswith(f"{stack}.")}
        for name in (f"{stack}.{k}" for k in sorted(numbers)):
            for first, *others in ("mix_in", "spatial", "mix_out"), ("expand", "reduce"):
                if f"{name}.{first}.weight" not in self._weights:
                    continue
                x, total = self._in_units(x, total, sum_of(f"{name}.{first}"))
                inside, layer = self._read(x, f"{name}.{first}", total), f"{name}.{first}"
                for reader in (f"{name}.{part}" for part in others):
                    inside, layer = self._convolution(inside, layer, reader), reader
                x = self._node("Add", [x, self._product(inside, layer, total)], f"{layer}/sum")
        return x, total

    def _in_units(self, x: str, total: str, other: str) -> tuple[str, str]:
        """The sum x in the units of another of the SUMS."""
        if other == total:
            return x, total
        unit = self._constant(f"{other}/unit", self._steps[total] / self._steps[other])
        return self._node("Mul", [x, unit], f"{other}/in"), other

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

    def _product(self, x: str, name: str, total: str) -> str:
        """8 bits to float, in units of the sum `total`."""
        codes, unit = self._codes(name)
        scale = self._constant(f"{name}/scale", (unit / self._steps[total]).astype(np.float32))
        matrix = self._matrix(codes, name)
        bias = self._constant(f"{name}/bias", (self._bias(name) / self._steps[total]).astype(np.float32))
        return self._to_float(x, matrix, scale, bias, f"{name}/out", len(unit), signed=not is_positive(name))

    def _to_float(self, x: str, matrix: str, unit: str, bias: str, output: str, n: int, *, signed: bool) -> str:
        """Codes, MIDDLE being 0 where they are signed, times a matrix of codes (in, n) in units (n,), and a bias."""
        inputs = [x, matrix, self._one(), unit, self._zero(signed), self._weight_zeros(n), bias]
        return self._node("MatMulIntegerToFloat", inputs, output, domain=RUNTIMES_OWN)

    def _head(self, x: str, total: str) -> str:
        """Blocks of 8x8 pixels, in float. Its biases are none where it has none."""
        order = block_order(3, SIDE)
        rows = self._node(
            "Mul", [self._matrix_rows("head", order), self._constant("head/units", self._steps[total][None])], "head/of_units"
        )
        return self._node("MatMul", [x, self._node("Transpose", [rows], "head/matrix", perm=[1, 0])], "head/out")

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

    def _spread(self, x: str, n_channels: int, size: int) -> str:
        return spread(x, n_channels, size, self._node, self._constant)

    def _batch(self) -> str:
        return self._constant("batch", BATCH)

    def _weight_zeros(self, n: int) -> str:
        """The code of a weight of 0, n times: it comes with the weights, since processors want it different."""
        name = f"{WEIGHT_ZERO}/{n}"
        if all(name not in node.output for node in self.nodes):
            self._node("Expand", [WEIGHT_ZERO, self._constant(f"{name}/shape", np.array([n], np.int64))], name)
        return name


def _is_depthwise(name: str) -> bool:
    return name.endswith(".spatial")

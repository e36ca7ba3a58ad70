# SPDX-License-Identifier: MIT
"""A float network -> its int8 variant: the same graph with static scales, and no weights: they stay in the float file (ADR 18).

Sums of branches stay float; inside a branch, values and weights are 8 bits. Every channel has a scale of its own: a convolution
that reads scaled channels has the scales in its weights, so the arithmetic between has one scale, as runtimes want it. What reads
the network's input stays float: the linear transform of the latent needs more than 8 bits.
"""

from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fewbits.training.calibration import Ranges, weights_of

LEVELS: Final = 127  # of the magnitude of a signed value, and of a weight
UNSIGNED_LEVELS: Final = 255  # of what a ReLU gives
MIDDLE: Final = 128  # the code of 0 of a signed value
SMALLEST: Final = 1e-9  # scale: a channel that is always 0 has one, too
LARGEST_BIAS: Final = 2**30  # in units of products


def quantized(data: bytes, ranges: Ranges, layers: tuple[str, ...]) -> bytes:
    """The ONNX file of the int8 variant of a network, without the initializers that `data` has: see runtime/variants.py.

    ranges: of its tensors, from calibration.observed. layers: the beginnings of the names of the convolutions' parameters that
    get 8 bits.
    """
    model = onnx.load_from_string(data)
    builder = _Builder(model, ranges, layers)
    for node in list(model.graph.node):
        builder.add(node)
    del model.graph.node[:]
    del model.graph.initializer[:]
    del model.graph.value_info[:]
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.extend(builder.initializers)
    return bytes(model.SerializeToString(deterministic=True))


class _Builder:
    def __init__(self, model: onnx.ModelProto, ranges: Ranges, layers: tuple[str, ...]) -> None:
        self._weights, self._ranges = weights_of(model), ranges
        self._layers, self._maker = layers, {name: node for node in model.graph.node for name in node.output}
        self._relu = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"}
        self._readers: dict[str, list[str]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.op_type)
        self._coded: dict[str, np.ndarray] = {}  # the scales of tensors that are there in 8 bits, as NAME/8
        self._signed: dict[str, bool] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Conv" and self._parameter(node.input[1]).startswith(self._layers):
            self._convolution(node)
        elif not (node.op_type == "Relu" and node.output[0] in self._coded):
            self.nodes.append(node)

    def _parameter(self, name: str) -> str:
        """The initializer that a weight is made of."""
        while name in self._maker:
            name = self._maker[name].input[0]
        return name

    def _constant(self, name: str, value: np.ndarray) -> str:
        if all(item.name != name for item in self.initializers):
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _scales(self, name: str, signed: bool) -> np.ndarray:
        """A scale for each channel of a tensor."""
        low, high = self._ranges[name]
        reach = np.maximum(-low, high) if signed else np.maximum(high, 0)
        return np.asarray(np.maximum(reach / (LEVELS if signed else UNSIGNED_LEVELS), SMALLEST), np.float32)

    def _code_of_zero(self, signed: bool, n: int = 0) -> str:
        """The name of a constant: one, or one a channel."""
        value = np.uint8(MIDDLE if signed else 0)
        return self._constant(f"zero/{int(signed)}/{n}", np.full(n, value) if n else np.array(value))

    def _one(self) -> str:
        return self._constant("one", np.array(1, np.float32))

    def _input(self, name: str) -> tuple[str, np.ndarray]:
        """A tensor as 8-bit codes that stand for themselves, and the scale of each channel of it."""
        if name not in self._coded:
            scales = self._scales(name, signed=True)
            inputs = [name, self._constant(f"{name}/scale", scales), self._code_of_zero(True, len(scales))]
            self._node("QuantizeLinear", inputs, f"{name}/8", axis=1)
            self._coded[name], self._signed[name] = scales, True
        plain = f"{name}/8/plain"
        if all(plain not in node.output for node in self.nodes):
            self._node("DequantizeLinear", [f"{name}/8", self._one(), self._code_of_zero(self._signed[name])], plain)
        return plain, self._coded[name]

    def _convolution(self, node: onnx.NodeProto) -> None:
        source, scales_in = self._input(node.input[0])
        weight, output = self._weights[node.input[1]], node.output[0]
        relu = self._relu.get(output)
        result = relu or output
        scales_out = self._scales(output, signed=relu is None)
        depthwise = weight.shape[1] == 1 and len(weight) == len(scales_in) > 1
        used = node.input[1]
        if depthwise:
            unit = np.abs(weight).reshape(len(weight), -1).max(1) / LEVELS
            per_input = scales_in
        else:
            used = self._node("Mul", [used, self._constant(f"{node.input[0]}/in", scales_in[None, :, None, None])], f"{output}/w")
            unit = np.abs(weight * scales_in[None, :, None, None]).reshape(len(weight), -1).max(1) / LEVELS
            per_input = np.ones(len(weight), np.float32)
        bias = self._weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(unit), np.float32)
        unit = np.maximum(unit, np.abs(bias) / per_input / LARGEST_BIAS)  # matters where all that is read is 0
        unit = np.maximum(unit, SMALLEST).astype(np.float32)
        no_offset = self._constant(f"{output}/w/zero", np.zeros(len(unit), np.int8))  # its own: ONNX Runtime may replace it
        self._node("QuantizeLinear", [used, self._constant(f"{output}/unit", unit), no_offset], f"{output}/w/8", axis=0)
        step = self._constant(f"{output}/step", np.asarray(unit * per_input / scales_out, np.float32))
        inputs = [source, self._node("DequantizeLinear", [f"{output}/w/8", step, no_offset], f"{output}/w/plain", axis=0)]
        if len(node.input) > 2:
            codes = np.rint(bias.astype(np.float64) / (unit.astype(np.float64) * per_input)).astype(np.int32)
            none = self._constant(f"zero/bias/{len(unit)}", np.zeros(len(unit), np.int32))
            inputs.append(
                self._node("DequantizeLinear", [self._constant(f"{output}/b", codes), step, none], f"{output}/b/plain", axis=0)
            )
        convolution = onnx.NodeProto()
        convolution.CopyFrom(node)
        del convolution.input[:], convolution.output[:]
        convolution.input.extend(inputs)
        convolution.output.append(f"{output}/real")
        self.nodes.append(convolution)
        real = f"{output}/real"
        if relu is not None:
            real = self._node("Relu", [real], f"{relu}/real")
        self._node("QuantizeLinear", [real, self._one(), self._code_of_zero(relu is None)], f"{result}/8")
        self._coded[result], self._signed[result] = scales_out, relu is None
        if any(
            kind != "Conv" for kind in self._readers.get(result, ["nobody: it is the network's result"])
        ):  # what adds it, or moves it, takes it as float
            # not a DequantizeLinear with a scale for each channel: across it ONNX Runtime 1.32 moves layout changes at a price
            plain = self._node(
                "DequantizeLinear", [f"{result}/8", self._one(), self._code_of_zero(relu is None)], f"{result}/units"
            )
            # A product by channel, as a convolution: a layout that ONNX Runtime changes moves past a Mul, at a price.
            scale = self._constant(f"{result}/scale", scales_out[:, None, None, None])
            self._node("Conv", [plain, scale], result, group=len(scales_out), kernel_shape=[1, 1])

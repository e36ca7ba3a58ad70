# SPDX-License-Identifier: MIT
"""Synthesis of `few` -> its gradient: another graph for the same weights, which stay in the float file (ADR 18, ADR 34).

It tells encoders how errors of a picture change with each latent value: squared ones, or others by their slope
(runtime/slopes.py). It is backpropagation written out: products with the weights' transposes, and zeros where a ReLU gave 0.
All is in planes, pixels in 8x8 blocks as analysis reads them.
"""

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from fewbits.training.layout import block_order
from fewbits.training.writer import GraphWriter

STEEP: Final = 1e8  # of a hard sigmoid: 1 where what it reads is above 0, as far as that matters


def gradient(data: bytes) -> bytes:
    """The ONNX file of the gradient of synthesis `data`, without the initializers that it has: see runtime/variants.py.

    Inputs: those of `data`, and target and weight (1, 192, 2 rows, 2 columns). Output: by y_hat (1, channels, rows, columns) the
    derivative of the sum of weight * (x_hat - target)**2 / 2, x_hat being clipped to -1/2..1/2, its slope being 1 there, too.
    """
    model = onnx.load_from_string(data)
    builder = _Builder(model.graph)
    builder.build()
    builder.replace(model.graph)
    del model.graph.output[:]
    [y_hat] = [item for item in model.graph.input if item.name == "y_hat"]
    output = onnx.ValueInfoProto()
    output.CopyFrom(y_hat)
    output.name = "gradient"
    model.graph.output.append(output)
    for name in ("target", "weight"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 192, "rows_8", "columns_8"]))
    return bytes(model.SerializeToString(deterministic=True))


class _Builder(GraphWriter):
    """Writes the graph. Tensors are planes (1, channels, rows, columns)."""

    def __init__(self, source: onnx.GraphProto) -> None:
        super().__init__(source)

    def build(self) -> None:
        """All nodes, from y_hat, scale, shift, target and weight to gradient."""
        whole = np.arange(768).reshape(3, 2, 8, 2, 8).transpose(0, 2, 4, 1, 3).ravel()  # 16x16 blocks as 2x2 of 8x8 ones
        deep = self._node("Mul", [self._conv("y_hat", "stem"), "scale"], "stem/scaled")
        deep = self._node("MaxPool", [self._node("Add", [deep, "shift"], "stem/told")], "stem/blocked", kernel_shape=[1, 1])
        deep, of_16 = self._blocks(deep, "blocks_16")
        deep = self._node("DepthToSpace", [self._conv(deep, "up")], "up/spread", blocksize=2, mode="CRD")
        deep, of_8 = self._blocks(self._node("MaxPool", [deep], "up/blocked", kernel_shape=[1, 1]), "blocks_8")
        linear = self._node("DepthToSpace", [self._conv("y_hat", "shortcut_16", whole)], "linear", blocksize=2, mode="CRD")
        found = self._node("Add", [self._conv(deep, "head"), linear], "x_hat")
        half = [self._constant("least", np.float32(-0.5)), self._constant("most", np.float32(0.5))]
        error = self._node("Sub", [self._node("Clip", [found, *half], "x_hat/clipped"), "target"], "error")
        error = self._node("Mul", [error, "weight"], "error/weighted")

        back = self._blocks_back(self._back(error, "head"), of_8)
        up = block_order(len(self._weights["up.weight"]) // 4, 2)
        back = self._back(self._node("SpaceToDepth", [back], "up/back_blocks", blocksize=2), "up", up)
        back = self._node("Mul", [self._blocks_back(back, of_16), "scale"], "stem/back_scaled")
        straight = self._node("SpaceToDepth", [error], "linear/back_blocks", blocksize=2)
        across = whole[block_order(192, 2)]  # which is how SpaceToDepth has it
        self._node("Add", [self._back(back, "stem"), self._back(straight, "shortcut_16", across)], "gradient")

    def _blocks(self, x: str, stack: str) -> tuple[str, list[tuple[str, list[str], str]]]:
        """What blocks make of x, and of each branch its name, its layers, and what its ReLU gave."""
        found = []
        for k in sorted({int(name.split(".")[1]) for name in self._weights if name.startswith(f"{stack}.")}):
            for layers in (["mix_in", "spatial", "mix_out"], ["expand", "reduce"]):
                if f"{stack}.{k}.{layers[0]}.weight" not in self._weights:  # export left the branch out
                    continue
                names = [f"{stack}.{k}.{layer}" for layer in layers]
                inside = fired = self._node("Relu", [self._conv(x, names[0])], f"{names[0]}/fired")
                for name in names[1:]:
                    inside = self._conv(inside, name)
                x = self._node("Add", [x, inside], f"{names[-1]}/sum")
                found.append((x, names, fired))
        return x, found

    def _blocks_back(self, back: str, branches: list[tuple[str, list[str], str]]) -> str:
        for _, names, fired in reversed(branches):
            inside = back
            for name in reversed(names[1:]):
                inside = self._back(inside, name)
            gate = self._node("HardSigmoid", [fired], f"{names[0]}/gate", alpha=STEEP, beta=0.0)
            inside = self._back(self._node("Mul", [inside, gate], f"{names[0]}/back_gated"), names[0])
            back = self._node("Add", [back, inside], f"{names[0]}/back_sum")
        return back

    def _conv(self, x: str, name: str, order: np.ndarray | None = None) -> str:
        """A convolution, its output channels in that order."""
        inputs = [x, self._ordered(name, order)]
        if f"{name}.bias" in self._weights:
            bias = self._weights[f"{name}.bias"]
            inputs.append(self._constant(f"{name}/bias", bias if order is None else bias[order]))
        return self._node("Conv", inputs, f"{name}/out", **self._shape(name))

    def _back(self, x: str, name: str, order: np.ndarray | None = None) -> str:
        """The transpose of a convolution, of whose output channels x has the derivatives in that order."""
        kernel = self._ordered(name, order)
        if name.endswith(".spatial"):
            turned = [self._constant(f"turned/{n}", np.array(values)) for n, values in
                      (("start", [2, 2]), ("stop", [-4, -4]), ("axes", [2, 3]), ("step", [-1, -1]))]  # fmt: skip
            kernel = self._node("Slice", [kernel, *turned], f"{name}/turned")
        else:
            kernel = self._node("Transpose", [kernel], f"{name}/transposed", perm=[1, 0, 2, 3])
        return self._node("Conv", [x, kernel], f"{name}/back", **self._shape(name))

    def _shape(self, name: str) -> dict[str, Any]:
        rows, size = len(self._weights[f"{name}.weight"]), 3 if name.endswith(".spatial") else 1
        return {"kernel_shape": [size, size], "pads": [size // 2] * 4, "group": rows if size > 1 else 1}

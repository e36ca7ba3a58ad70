# SPDX-License-Identifier: MIT
"""Another graph for a network's weights, node by node: what int8 variants, gradients and integer networks are (ADR 18)."""

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fewbits.training.layout import BLOCKS_OF, block_order, parameters

MIDDLE: Final = 128  # the code of 0 of a signed value
RUNTIMES_OWN: Final = "com.microsoft"  # the domain of ONNX Runtime's operators beyond ONNX's


class GraphWriter:
    """Nodes and constants of a graph that has no weights of its own: they are the initializers of another, by their names."""

    def __init__(self, source: onnx.GraphProto) -> None:
        """source: the graph whose weights these are."""
        weights = parameters(source)
        self._held = {name: held for name, (held, _) in weights.items()}  # by the initializers of those names
        self._matrices = {name for name, (_, value) in weights.items() if value.ndim == 2}  # kernels of 1x1 that export has so
        self._weights = {name: _kernel_shaped(value.astype(np.float32)) for name, (_, value) in weights.items()}
        self._kernels: dict[str, str] = {}  # those that were written
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def replace(self, graph: onnx.GraphProto) -> None:
        """Put what was written in the place of a graph's nodes and initializers."""
        del graph.node[:]
        del graph.initializer[:]
        del graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.initializers.values())

    def _kernel(self, name: str) -> str:
        """The weights of a convolution in float (out, in, rows, columns), as they are held."""
        weight = f"{name}.weight"
        if weight in self._kernels:
            return self._kernels[weight]
        kernel = self._node("Cast", [self._held[weight]], f"{weight}/float32", to=TensorProto.FLOAT)
        if weight in self._matrices:
            shape = self._constant("kernel_shape", np.array([0, 0, 1, 1], np.int64))
            kernel = self._node("Reshape", [kernel, shape], f"{weight}/kernel")
        self._kernels[weight] = kernel
        return kernel

    def _ordered(self, name: str, order: np.ndarray | None = None) -> str:
        """The weights of a convolution, its output channels in that order, or torch's."""
        held, kernel, natural = self._held[f"{name}.weight"], self._kernel(name), np.arange(self._rows(name))
        order = natural if order is None else order
        if BLOCKS_OF in held:
            size = int(held.partition(BLOCKS_OF)[2])
            order = np.argsort(block_order(len(order) // size**2, size))[order]
        if np.array_equal(order, natural):
            return kernel
        ordered = f"{name}/ordered_{len(self.nodes)}"  # it may be wanted in several orders
        return self._node("Gather", [kernel, self._constant(f"{ordered}/order", order)], ordered, axis=0)

    def _rows(self, name: str) -> int:
        """Output channels of a convolution."""
        return len(self._weights[f"{name}.weight"])

    def _matrix(self, kernel: str, name: str) -> str:
        """(in, out), of a kernel (out, in, 1, 1) of the convolution `name`."""
        rows = self._node("Flatten", [kernel], f"{name}/rows")
        return self._node("Transpose", [rows], f"{name}/matrix", perm=[1, 0])

    def _one(self) -> str:
        return self._constant("one", np.float32(1))

    def _zero(self, signed: bool) -> str:
        return self._constant(f"zero/{int(signed)}", np.uint8(MIDDLE if signed else 0))

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _concat(self, parts: list[str], name: str, axis: int) -> str:
        return self._node("Concat", parts, name, axis=axis) if len(parts) > 1 else parts[0]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _kernel_shaped(value: np.ndarray) -> np.ndarray:
    return value[:, :, None, None] if value.ndim == 2 else value

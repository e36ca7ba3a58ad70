# SPDX-License-Identifier: MIT
"""Another graph for a network's weights, node by node: what int8 variants and gradients are (ADR 18)."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fewbits.training.layout import parameters


class GraphWriter:
    """Nodes and constants of a graph that has no weights of its own: they are the initializers of another, by their names."""

    def __init__(self, source: onnx.GraphProto) -> None:
        """source: the graph whose weights these are."""
        weights = parameters(source)
        self._held = {name: held for name, (held, _) in weights.items()}  # by the initializers of those names
        self._matrices = {name for name, (_, value) in weights.items() if value.ndim == 2}  # kernels of 1x1 that export has so
        self._weights = {name: _kernel_shaped(value.astype(np.float32)) for name, (_, value) in weights.items()}
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
        kernel = self._node("Cast", [self._held[weight]], f"{weight}/float32", to=TensorProto.FLOAT)
        if weight not in self._matrices:
            return kernel
        return self._node(
            "Reshape", [kernel, self._constant("kernel_shape", np.array([0, 0, 1, 1], np.int64))], f"{weight}/kernel"
        )

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _kernel_shaped(value: np.ndarray) -> np.ndarray:
    return value[:, :, None, None] if value.ndim == 2 else value

# SPDX-License-Identifier: MIT
"""A DepthToSpace of an exported network as a change of places of channels that lie together (ADR 30).

ONNX Runtime's DepthToSpace moves single numbers, on one thread. Where values lie channel by channel for each place, a block of
size x size places is `size` lines of size * channels numbers, which move as they are, and its convolutions give and take that
order for nothing: they hold channels in blocks. Only the order of the convolution's output channels changes, so the numbers are
the same.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fewbits.runtime.bundle import PIXELS

TO_PLACES: Final = [0, 2, 3, 1]  # of planes (1, channels, rows, columns)
TO_PLANES: Final = [0, 3, 1, 2]
BATCH: Final = np.zeros(1, np.int64)  # the axis of the batch
BLOCKS_OF: Final = "/blocks_of_"  # in the names of parameters that are in the order of blocks; what follows is the blocks' side
ELEMENTWISE: Final = ("Add", "Clip", "Floor", "Relu")  # what keeps the layout that it finds

Node = Callable[..., str]  # (kind, inputs, output, **attributes) -> output
Constant = Callable[[str, np.ndarray], str]  # (name, value) -> name


def block_order(n_channels: int, size: int) -> np.ndarray:
    """Of output channels: from (channel, row, column) of a block of size x size, as planes have it, to (row, column, channel)."""
    return np.arange(n_channels * size**2, dtype=np.int32).reshape(n_channels, size, size).transpose(1, 2, 0).ravel()


def parameters(graph: onnx.GraphProto) -> dict[str, tuple[str, np.ndarray]]:
    """By the names of parameters in torch: the initializer that holds each, and its value in torch's order of channels."""
    found = {}
    for item in graph.initializer:
        (name, _, size), value = item.name.partition(BLOCKS_OF), numpy_helper.to_array(item)
        if size:
            value = value[np.argsort(block_order(len(value) // int(size) ** 2, int(size)))]
        if not size or name not in found:  # both are there where others read it in torch's order
            found[name] = item.name, value
    return found


def spread(x: str, n_channels: int, size: int, node: Node, constant: Constant) -> str:
    """Blocks (1, rows, columns, size**2 * n_channels), channels in block_order, to (size * rows, size * columns, n_channels)."""

    def shaped(x: str, *shape: int) -> str:
        """0: the side is as it was."""
        return node("Reshape", [x, constant(f"{x}/shape", np.array(shape, np.int64))], f"{x}/shaped")

    # Without the batch, as OpenVINO is slow where five sides change places.
    picture = node("Squeeze", [x, constant(f"{x}/batch", BATCH)], f"{x}/picture")
    lines = node("Transpose", [shaped(picture, 0, 0, size, size * n_channels)], f"{x}/lines", perm=[0, 2, 1, 3])
    return shaped(node("Flatten", [lines], f"{x}/flat", axis=2), 0, -1, n_channels)


def channels_last(data: bytes, *, pixels: bool = False) -> bytes:
    """The ONNX file `data`, of one output and batches of one, with each DepthToSpace replaced that follows a convolution, its
    product with a number, and Clip, Floor and ReLU, of which each may be missing. The same bytes where there is none.

    pixels: the output may become (height, width, channels), without a batch, and does where a DepthToSpace leads to it.
    """
    model = onnx.load_from_string(data)
    rewriter = _Rewriter(model.graph)
    if not rewriter.begins:
        return data
    assert len(model.graph.output) == 1, "a network of a bundle has one output"
    rewriter.rewrite(pixels)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def with_pixels(data: bytes) -> bytes:
    """The ONNX file `data` of a network that gives pixels / 255 - 1/2 as (height, width, 3) with those pixels as a second output,
    PIXELS: uint8, rounded and clipped (ADR 32). The first one is as it was. The same bytes where they are there already."""
    model = onnx.load_from_string(data)
    graph, output = model.graph, model.graph.output[0].name
    if any(item.name == PIXELS for item in graph.output):
        return data
    # QuantizeLinear adds a whole number to what it has rounded: 128, half a level more than the middle of 0..255.
    numbers = {"middle": np.float32(-0.5 / 255), "level": np.float32(1 / 255), "zero": np.uint8(128)}
    names = {name: f"{PIXELS}/{name}" for name in numbers}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(numbers[name]), full) for name, full in names.items())
    graph.node.append(helper.make_node("Add", [output, names["middle"]], [f"{PIXELS}/about_128"]))
    graph.node.append(helper.make_node("QuantizeLinear", [f"{PIXELS}/about_128", names["level"], names["zero"]], [PIXELS]))
    graph.output.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["height", "width", 3]))
    return bytes(model.SerializeToString(deterministic=True))


class _Rewriter:
    """Goes through a graph in its order and keeps tensors in places for as long as it can: (1, rows, columns, channels) before a
    DepthToSpace, (rows, columns, channels) after it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph, self._nodes = graph, list(graph.node)
        self._constants = {item.name: item for item in graph.initializer}
        self._maker = {name: node for node in self._nodes for name in node.output}
        self._n_readers = Counter([*(name for node in self._nodes for name in node.input), *(item.name for item in graph.output)])
        self._in_places: dict[str, str] = {}  # planes that lie in places, too, and what they are called there
        self._sizes: dict[str, int] = {}  # of the blocks that convolutions give, by their outputs
        self._n_channels: dict[str, int] = {}  # of what a DepthToSpace gives, by its output
        self._replaced: set[str] = set()  # initializers that no convolution reads any more, and casts of them
        self.begins: set[str] = set()  # planes from which on tensors are kept in places
        for node in self._nodes:
            if node.op_type == "DepthToSpace":
                self._find_begin(node)

    def _find_begin(self, node: onnx.NodeProto) -> None:
        """Note from which tensor on what the DepthToSpace `node` reads is to be kept in places: from the convolution, or from its
        product, which a runtime makes part of it. Not where anything else reads what lies between."""
        size, name, passed = _size(node), str(node.input[0]), []
        while self._is_of_one("Clip", "Floor", "Relu", name=name):
            passed.append(name)
            name = self._tensors(self._maker[name])[0]
        begin = name
        if self._is_of_one("Mul", name=name):
            passed.append(name)
            name = self._tensors(self._maker[name])[0]
        if size and all(self._n_readers[x] == 1 for x in (*passed, name)) and self._has_parameters(name):
            self.begins.add(begin)
            self._sizes[name] = size
            rows = self._constants[self._source(str(self._maker[name].input[1]))].dims[0]
            self._n_channels[str(node.output[0])] = rows // size**2

    def _has_parameters(self, name: str) -> bool:
        """Whether a convolution without groups makes that tensor, of parameters that are initializers, or cast to float32."""
        node = self._maker.get(name)
        if node is None or node.op_type != "Conv" or _attributes(node).get("group", 1) != 1:
            return False
        casts = [self._maker[x] for x in node.input[1:] if x in self._maker]
        to_float = all(cast.op_type == "Cast" and _attributes(cast)["to"] == TensorProto.FLOAT for cast in casts)
        return to_float and all(self._source(str(x)) in self._constants for x in node.input[1:])

    def rewrite(self, pixels: bool) -> None:
        del self._graph.node[:]
        for node in self._nodes:
            name = str(node.output[0])
            if name in self._sizes:
                for k in range(1, len(node.input)):
                    self._reorder(node, k, self._sizes[name])
            self._keep_or_leave(node, name)
            if name in self.begins:
                self._in_places[name] = self._node("Transpose", [name], f"{name}/in_places", perm=TO_PLACES)
        self._finish(self._graph.output[0], pixels)

    def _reorder(self, node: onnx.NodeProto, k: int, size: int) -> None:
        """Let a convolution read its k-th input from an initializer in the order of blocks, of the type that it had."""
        read, old = str(node.input[k]), self._source(str(node.input[k]))
        value, name = numpy_helper.to_array(self._constants[old]), f"{old}{BLOCKS_OF}{size}"
        self._constant(name, np.ascontiguousarray(value[block_order(len(value) // size**2, size)]))
        if read in self._maker:
            cast, name = name, f"{name}/float32"
            if not self._is_there(name):
                self._node("Cast", [cast], name, to=TensorProto.FLOAT)
        node.input[k] = name
        self._n_readers[read] -= 1
        if not self._n_readers[read]:
            self._replaced |= {read, old}

    def _keep_or_leave(self, node: onnx.NodeProto, name: str) -> None:
        """Append a node, in places where all that it reads is there and it can."""
        tensors = self._tensors(node)
        places = [self._in_places.get(x, x) for x in node.input]
        if name in self._n_channels:
            self._in_places[name] = spread(places[0], self._n_channels[name], _size(node), self._node, self._constant)
        elif node.op_type in ELEMENTWISE and tensors and all(x in self._in_places for x in tensors):
            self._in_places[name] = self._node(node.op_type, places, f"{name}/in_places", **_attributes(node))
        else:
            for x in tensors:
                self._need_planes(x)
            self._graph.node.append(node)

    def _finish(self, output: onnx.ValueInfoProto, pixels: bool) -> None:
        """Make the output, and leave out the parameters that were replaced."""
        if pixels and output.name in self._in_places:
            last = self._graph.node[-1]
            assert last.output[0] == self._in_places[output.name]
            last.output[0] = output.name
            n_channels = output.type.tensor_type.shape.dim[1].dim_value
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["height", "width", n_channels]))
        else:
            self._need_planes(output.name)
        for node in [node for node in self._graph.node if node.output[0] in self._replaced]:
            self._graph.node.remove(node)
        read = {name for node in self._graph.node for name in node.input}
        for item in [item for item in self._graph.initializer if item.name in self._replaced - read]:
            self._graph.initializer.remove(item)

    def _need_planes(self, name: str) -> None:
        """Make planes of a tensor that is held in places only."""
        if name not in self._in_places or self._is_there(name):
            return
        picture = self._node("Unsqueeze", [self._in_places[name], self._constant(f"{name}/axis", BATCH)], f"{name}/batch")
        self._node("Transpose", [picture], name, perm=TO_PLANES)

    def _is_there(self, name: str) -> bool:
        """Whether a node that was appended makes that tensor."""
        return any(name in node.output for node in self._graph.node)

    def _is_of_one(self, *kinds: str, name: str) -> bool:
        """Whether a node of one of these kinds makes that tensor from one other, and numbers."""
        return name in self._maker and self._maker[name].op_type in kinds and len(self._tensors(self._maker[name])) == 1

    def _tensors(self, node: onnx.NodeProto) -> list[str]:
        """What a node reads beside single numbers."""
        return [x for x in node.input if x and not (x in self._constants and not self._constants[x].dims)]

    def _source(self, name: str) -> str:
        """The initializer behind a parameter, which may be cast."""
        return str(self._maker[name].input[0]) if name in self._maker else name

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self._constants:
            item = numpy_helper.from_array(value, name)
            self._graph.initializer.append(item)
            self._constants[name] = item
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _size(node: onnx.NodeProto) -> int:
    """The side of the blocks of a DepthToSpace; 0 where their channels come in another order than torch's."""
    found = _attributes(node)
    return int(found["blocksize"]) if found.get("mode", b"DCR") == b"CRD" else 0

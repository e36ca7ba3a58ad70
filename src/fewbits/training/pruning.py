# SPDX-License-Identifier: MIT
"""Hidden units that never fire are left out of a network: exported ReLU networks with the same result and less to do.

A unit is a channel between a convolution with ReLU and the 1x1 convolution that reads it, with a depthwise one between them or
without. Where no picture brings its value above 0, the ReLU gives 0, and what follows is a constant, which goes into the reader's
bias; where none of a branch's units is left, the branch is a constant, which goes into the bias of what it is added to.
"""

from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from fewbits.training.calibration import Peaks, weights_of

BLOCK: Final = 16  # channels that CPU kernels take together: units are kept in multiples of it
Units = dict[str, tuple[int, int]]  # units that are kept and that there were, by the convolution with the ReLU
Channels = dict[str, np.ndarray]  # numbers of the channels that are kept of what a convolution reads, by the convolution


class _Branch(NamedTuple):
    """writer, ReLU, the depthwise convolution where there is one, reader."""

    writer: onnx.NodeProto
    relu: onnx.NodeProto
    depthwise: onnx.NodeProto | None
    reader: onnx.NodeProto


def pruned(data: bytes, peaks: Peaks) -> tuple[bytes, Units, Channels]:
    """ONNX bytes of a network without the units whose peaks, before the ReLU, are 0 or below; and what is left of them."""
    model = onnx.load_from_string(data)
    editor, units, channels = _Editor(model), Units(), Channels()
    for branch in _branches(model.graph, editor.arrays):
        if not all(editor.owns_parameters(node) for node in (branch.writer, branch.depthwise, branch.reader) if node is not None):
            continue
        high = peaks[branch.writer.output[0]]
        alive = np.flatnonzero(high > 0)
        kept = -(-len(alive) // BLOCK) * BLOCK
        if kept >= len(high):
            continue
        spare = np.setdiff1d(np.arange(len(high)), alive)[: kept - len(alive)]
        keep = np.sort(np.concatenate([alive, spare]))
        dropped = np.setdiff1d(np.arange(len(high)), keep)
        reads = editor.array(branch.reader, 1)[:, :, 0, 0]
        idle = np.zeros(len(dropped), np.float32)  # what the reader sees of a unit that gives 0
        if branch.depthwise is not None and len(branch.depthwise.input) > 2:
            idle = editor.array(branch.depthwise, 2)[dropped]
        constant = reads[:, dropped] @ idle
        if not (editor.can_add(branch.reader, constant) if kept else editor.can_drop(branch, constant)):
            continue
        units[editor.layer(branch.writer)] = (kept, len(high))
        channels |= {editor.layer(node): keep for node in (branch.depthwise, branch.reader) if node is not None}
        if kept:
            editor.add_to_bias(branch.reader, constant)
            for node in (branch.writer, branch.depthwise):
                if node is not None:
                    for k in range(1, len(node.input)):
                        editor.take(node, k, keep, 0)
            if branch.depthwise is not None:
                for attribute in branch.depthwise.attribute:
                    if attribute.name == "group":
                        attribute.i = kept
            editor.take(branch.reader, 1, keep, 1)
        else:
            editor.drop(branch, constant)
    editor.finish()
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True)), units, channels


def _branches(graph: onnx.GraphProto, arrays: dict[str, np.ndarray]) -> list[_Branch]:
    maker = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for relu in graph.node:
        if relu.op_type != "Relu" or maker[relu.input[0]].op_type != "Conv":
            continue
        writer = maker[relu.input[0]]
        after = [relu.output[0]]
        depthwise: onnx.NodeProto | None = _only(readers, after[0])
        if depthwise is not None and depthwise.op_type == "Conv" and _group(depthwise) == len(arrays[depthwise.input[1]]):
            after.append(depthwise.output[0])
        else:
            depthwise = None
        reader = _only(readers, after[-1])
        pointwise = reader is not None and reader.op_type == "Conv" and arrays[reader.input[1]].shape[2:] == (1, 1)
        if (
            reader is not None
            and pointwise
            and _group(reader) == _group(writer) == 1
            and _only(readers, writer.output[0]) is not None
        ):
            found.append(_Branch(writer, relu, depthwise, reader))
    return found


def _only(readers: dict[str, list[onnx.NodeProto]], name: str) -> onnx.NodeProto | None:
    """What reads a tensor, where it is one node."""
    found = readers.get(name, [])
    return found[0] if len(found) == 1 else None


def _group(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


class _Editor:
    """Changes a network's parameters behind the Cast nodes that stand between them and the convolutions."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._results = {output.name for output in model.graph.output}
        read = self._drop_idle_nodes()
        self._spare = {item.name for item in model.graph.initializer} - read  # kept for `--init`, see export._name_initializers
        self.arrays = weights_of(model)
        self._maker = {name: node for node in model.graph.node for name in node.output}

    def parameter(self, node: onnx.NodeProto, k: int) -> str:
        """The initializer behind a node's k-th input."""
        name = node.input[k]
        while name in self._maker:
            name = self._maker[name].input[0]
        return str(name)

    def layer(self, node: onnx.NodeProto) -> str:
        """A convolution's name in torch."""
        return self.parameter(node, 1).removesuffix(".weight")

    def owns_parameters(self, node: onnx.NodeProto) -> bool:
        """Whether nothing else reads the node's parameters: the exporter merges those of equal values."""
        names = list(node.input[1:])
        for name in names:  # which grow to what they are made of
            if sum(list(other.input).count(name) for other in self._graph.node) != 1:
                return False
            if name in self._maker:
                names.append(self._maker[name].input[0])
        return True

    def array(self, node: onnx.NodeProto, k: int) -> np.ndarray:
        return self.arrays[node.input[k]]

    def take(self, node: onnx.NodeProto, k: int, keep: np.ndarray, axis: int) -> None:
        self._put(node, k, self.array(node, k).take(keep, axis))

    def can_add(self, node: onnx.NodeProto, constant: np.ndarray) -> bool:
        """Whether a convolution's bias can take a constant; one that the torch layer does not have would be lost by `--init`."""
        return not constant.any() or len(node.input) > 2 or self._idle_bias(node) is not None

    def _idle_bias(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """The bias of zeros that the exporter has taken from a convolution."""
        name = self.parameter(node, 1).removesuffix("weight") + "bias"
        return next((item for item in self._graph.initializer if item.name == name in self._spare), None)

    def add_to_bias(self, node: onnx.NodeProto, constant: np.ndarray) -> None:
        if not constant.any():
            return
        if len(node.input) < 3:
            item = self._idle_bias(node)
            assert item is not None
            zeros = np.zeros(len(constant), np.float32)
            item.CopyFrom(numpy_helper.from_array(zeros, item.name))
            node.input.append(item.name)
            self.arrays[item.name] = zeros
        self._put(node, 2, self.array(node, 2) + constant)

    def _put(self, node: onnx.NodeProto, k: int, array: np.ndarray) -> None:
        """Another parameter: float16 as before where that is exact, else float32."""
        name, used = self.parameter(node, k), node.input[k]
        item = next(item for item in self._graph.initializer if item.name == name)
        halved = array.astype(np.float16)
        exact = item.data_type == TensorProto.FLOAT16 and np.array_equal(halved.astype(np.float32), array)
        stored = halved if exact else array.astype(np.float32)
        item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(stored), name))
        self.arrays[used] = array.astype(np.float32)

    def can_drop(self, branch: _Branch, constant: np.ndarray) -> bool:
        """Whether what a branch is added to ends in a convolution whose bias can take the branch's."""
        before = self._before(branch)
        return before is not None and self.owns_parameters(before) and self.can_add(before, self._value(branch, constant))

    def _value(self, branch: _Branch, constant: np.ndarray) -> np.ndarray:
        """What a branch gives of which no unit is left: the constant and its reader's bias."""
        return constant + self.array(branch.reader, 2) if len(branch.reader.input) > 2 else constant

    def _sum(self, branch: _Branch) -> onnx.NodeProto | None:
        found = [node for node in self._graph.node if branch.reader.output[0] in node.input]
        inside = len(found) == 1 and found[0].op_type == "Add" and found[0].output[0] not in self._results
        return found[0] if inside else None

    def _before(self, branch: _Branch) -> onnx.NodeProto | None:
        """The convolution whose output, or a sum with it, is all that the branch reads and is added to."""
        total = self._sum(branch)
        source = branch.writer.input[0]
        if total is None or source not in total.input:
            return None
        if any(source in node.input for node in self._graph.node if node is not total and node is not branch.writer):
            return None
        maker = self._maker.get(source)
        candidates = [maker] if maker is not None and maker.op_type == "Conv" else []
        if maker is not None and maker.op_type == "Add":
            candidates = [self._maker[name] for name in maker.input if name in self._maker]
        for node in candidates:
            if node.op_type == "Conv" and sum(node.output[0] in other.input for other in self._graph.node) <= 1 + (node is maker):
                return node
        return None

    def drop(self, branch: _Branch, constant: np.ndarray) -> None:
        """Leave a branch out: see can_drop."""
        total, before = self._sum(branch), self._before(branch)
        assert total is not None and before is not None
        self.add_to_bias(before, self._value(branch, constant))
        source, result = branch.writer.input[0], total.output[0]
        for node in self._graph.node:
            for k, name in enumerate(node.input):
                if name == result:
                    node.input[k] = source
        gone = [node for node in (branch.writer, branch.relu, branch.depthwise, branch.reader, total) if node is not None]
        for node in gone:
            self._graph.node.remove(node)

    def finish(self) -> None:
        """Put in order what is left: no node or parameter that nothing reads, Casts only of what is float16."""
        held = {item.name: item for item in self._graph.initializer}
        for node in list(self._graph.node):
            item = held.get(node.input[0]) if node.op_type == "Cast" else None
            if item is not None and item.data_type == TensorProto.FLOAT:
                for other in self._graph.node:
                    for k, name in enumerate(other.input):
                        if name == node.output[0]:
                            other.input[k] = item.name
                self._graph.node.remove(node)
        kept = self._drop_idle_nodes() | self._spare
        for item in [item for item in self._graph.initializer if item.name not in kept]:
            self._graph.initializer.remove(item)

    def _drop_idle_nodes(self) -> set[str]:
        """Remove nodes that nothing reads; what is read by those that stay, and the network's result."""
        while True:
            read = {name for node in self._graph.node for name in node.input} | self._results
            idle = [node for node in self._graph.node if not read.intersection(node.output)]
            if not idle:
                return read
            for node in idle:
                self._graph.node.remove(node)

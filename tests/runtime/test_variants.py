# SPDX-License-Identifier: MIT
"""A graph in one ONNX file runs with the weights of another."""

import numpy as np
import pytest

from fewbits.errors import ModelError
from fewbits.runtime.engines import onnxruntime_engine
from fewbits.runtime.variants import WEIGHT_ZERO, with_weights

onnx = pytest.importorskip("onnx")


def network(kind: str, weights: dict[str, np.ndarray]) -> bytes:
    """OUT = X kind W, float (2,), with such initializers."""
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "out")]
    node = onnx.helper.make_node(kind, ["x", "w"], ["out"])
    held = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph([node], "graph", shape[:1], shape[1:], held)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_the_nodes_are_the_one_files_and_the_weights_are_the_others() -> None:
    source = network("Add", {"w": np.array([2, 3], np.float32), "large": np.zeros(1000, np.float32)})
    merged = with_weights(network("Mul", {}), source, signed=True)
    run = onnxruntime_engine(1)
    assert run(merged)(x=np.array([5, 7], np.float32)).tolist() == [10, 21]
    assert run(source)(x=np.array([5, 7], np.float32)).tolist() == [7, 10]


@pytest.mark.parametrize("source", [b"\x3a\x7f", b"\x3a", b"\x0f", network("Add", {"w": np.ones(2, np.float32)})[:-3]])
def test_a_source_that_is_cut_is_refused(source: bytes) -> None:
    with pytest.raises(ModelError, match="no ONNX file"):
        with_weights(b"", source, signed=True)


@pytest.mark.parametrize(("signed", "kind", "code"), [(True, np.int8, 0), (False, np.uint8, 128)])
def test_the_code_of_a_weight_of_0_comes_with_the_weights(signed: bool, kind: type, code: int) -> None:
    model = onnx.load_from_string(with_weights(network("Mul", {}), network("Add", {"w": np.ones(2, np.float32)}), signed=signed))
    onnx.checker.check_model(model)
    added = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    assert set(added) == {"w", WEIGHT_ZERO}
    assert (added[WEIGHT_ZERO].dtype, added[WEIGHT_ZERO].shape, int(added[WEIGHT_ZERO])) == (kind, (), code)

# SPDX-License-Identifier: MIT
"""Networks whose DepthToSpace has become a change of places give the same numbers, and runtimes have less to move."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.runtime.pipeline import levels_of  # noqa: E402
from fewbits.training.export import export_network  # noqa: E402
from fewbits.training.layout import block_order, channels_last, parameters, with_pixels  # noqa: E402

CHANNELS, SIZE = 3, 2  # of what a DepthToSpace gives, and the side of its blocks


def network(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("out",)) -> bytes:
    """x (1, 5, h, w) -> the outputs, by way of `nodes`, which may read weights, biases and single numbers."""
    rng = np.random.default_rng(1)
    held = {
        "weight": rng.normal(size=(CHANNELS * SIZE**2, 5, 1, 1)),
        "other_weight": rng.normal(size=(CHANNELS * SIZE**2, 5, 1, 1)),
        "bias": rng.normal(size=CHANNELS * SIZE**2),
        "next_weight": rng.normal(size=(4, CHANNELS, 3, 3)),
        "grouped_weight": rng.normal(size=(CHANNELS * SIZE**2, 1, 1, 1)),
        "wide_weight": rng.normal(size=(CHANNELS * SIZE**4, 5, 1, 1)),
        "vector": rng.normal(size=(CHANNELS * SIZE**2, 1, 1)),
        "single": np.array([0.5]),
        "half": np.array(0.5),
        "low": np.array(-1.0),
        "high": np.array(1.0),
        "start": np.array([0]),
        "stop": np.array([CHANNELS * SIZE**2]),
        "axis": np.array([1]),
    }
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, "rows", "columns"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, "height", "width"]) for name in outputs],
        [
            numpy_helper.from_array(value.astype(np.int64 if value.dtype == np.int64 else np.float32), name)
            for name, value in held.items()
            if name in read
        ],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString())


def raised(x: str, out: str, mode: str = "CRD") -> onnx.NodeProto:
    return helper.make_node("DepthToSpace", [x], [out], blocksize=SIZE, mode=mode)


def node(kind: str, *inputs: str, out: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [out], **attributes)


CONVOLUTION = node("Conv", "x", "weight", "bias", out="c")


def run(data: bytes, shape: tuple[int, int] = (3, 7)) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(1, 5, *shape)).astype(np.float32)
    return list(session.run(None, {"x": x}))


def kinds(data: bytes) -> Counter[str]:
    return Counter(item.op_type for item in onnx.load_from_string(data).graph.node)


NETWORKS = {
    "by itself": [CONVOLUTION, raised("c", "out")],
    "with a product, and what is elementwise": [
        CONVOLUTION,
        node("Mul", "c", "half", out="m"),
        node("Floor", "m", out="f"),
        raised("f", "d"),
        node("Clip", "d", "low", "high", out="out"),
    ],
    "halved weights, and what is elementwise before it": [
        node("Cast", "weight", out="w", to=TensorProto.FLOAT),
        node("Conv", "x", "w", out="c"),
        node("Mul", "half", "c", out="m"),
        node("Relu", "m", out="r"),
        node("Clip", "r", "", "high", out="k"),
        raised("k", "out"),
    ],
    "weights that others read, too": [
        node("Cast", "weight", out="w", to=TensorProto.FLOAT),
        node("Conv", "x", "w", "bias", out="c"),
        raised("c", "d"),
        node("Conv", "x", "w", "bias", out="c2"),
        raised("c2", "d2"),
        node("Conv", "x", "w", "bias", out="plain"),
        node("ReduceMax", "plain", out="peak", keepdims=0),
        node("Add", "d", "d2", out="both"),
        node("Mul", "both", "peak", out="out"),
    ],
    "planes that two read": [
        CONVOLUTION,
        raised("c", "d"),
        node("MaxPool", "d", out="p", kernel_shape=[1, 1]),
        node("Mul", "d", "p", out="out"),
    ],
    "a sum of two": [
        CONVOLUTION,
        raised("c", "d"),
        node("Conv", "x", "other_weight", out="c2"),
        raised("c2", "d2"),
        node("Add", "d", "d2", out="out"),
    ],
    "a sum with planes": [
        CONVOLUTION,
        raised("c", "d"),
        node("Relu", "d", out="r"),
        node("MaxPool", "d", out="p", kernel_shape=[1, 1]),
        node("Add", "r", "p", out="out"),
    ],
    "before a convolution": [
        CONVOLUTION,
        raised("c", "d"),
        node("Relu", "d", out="r"),
        node("Conv", "r", "next_weight", out="out", pads=[1, 1, 1, 1]),
    ],
}


# Those in which planes are needed in the end.
PLANES = ("weights that others read, too", "planes that two read", "a sum with planes", "before a convolution")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(3, 7), (1, 1)])
def test_the_numbers_are_the_same(name: str, shape: tuple[int, int]) -> None:
    plain = network(*NETWORKS[name])
    changed = channels_last(plain)
    assert kinds(plain)["DepthToSpace"] and not kinds(changed)["DepthToSpace"]
    [expected], [found] = run(plain, shape), run(changed, shape)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_pixels_come_out_interleaved_where_nothing_needs_planes(name: str) -> None:
    plain = network(*NETWORKS[name])
    changed = channels_last(plain, pixels=True)
    [expected], [found] = run(plain), run(changed)
    if name not in PLANES:
        assert np.array_equal(found, expected[0].transpose(1, 2, 0))
        assert kinds(changed)["Transpose"] < kinds(channels_last(plain))["Transpose"]  # none back to planes
        shape = onnx.load_from_string(changed).graph.output[0].type.tensor_type.shape.dim
        assert len(shape) == 3 and shape[2].dim_value == CHANNELS
    else:
        assert np.array_equal(found, expected)


LEFT = {
    "no DepthToSpace": [node("Conv", "x", "weight", "bias", out="out")],
    "blocks in another order": [CONVOLUTION, raised("c", "out", mode="DCR")],
    "a convolution in groups": [
        node("Concat", "x", "x", "x", out="x3", axis=1),
        node("Slice", "x3", "start", "stop", "axis", out="x12"),
        node("Conv", "x12", "grouped_weight", out="c", group=CHANNELS * SIZE**2),
        raised("c", "out"),
    ],
    "weights that are computed": [
        node("Mul", "weight", "half", out="w"),
        node("Conv", "x", "w", out="c"),
        raised("c", "out"),
    ],
    "weights of another type": [
        node("Cast", "weight", out="w", to=TensorProto.DOUBLE),
        node("Cast", "x", out="x64", to=TensorProto.DOUBLE),
        node("Conv", "x64", "w", out="c"),
        node("Cast", "c", out="c32", to=TensorProto.FLOAT),
        raised("c32", "out"),
    ],
    "a product with a number for each channel": [CONVOLUTION, node("Mul", "c", "vector", out="m"), raised("m", "out")],
    "a product with a tensor of one number": [CONVOLUTION, node("Mul", "c", "single", out="m"), raised("m", "out")],
    "limits that are computed": [
        CONVOLUTION,
        node("Cast", "high", out="limit", to=TensorProto.FLOAT),
        node("Clip", "c", "low", "limit", out="k"),
        raised("k", "out"),
    ],
    "not of a convolution": [node("Relu", "x", out="r"), node("Concat", "r", "r", "r", "r", out="c", axis=1), raised("c", "out")],
}


@pytest.mark.parametrize("name", LEFT)
def test_other_networks_stay_as_they_are(name: str) -> None:
    plain = network(*LEFT[name])
    assert channels_last(plain, pixels=True) is plain


@pytest.mark.parametrize("shared", ["c", "m"])
def test_what_others_read_as_it_is_keeps_its_order(shared: str) -> None:
    """The convolution's output, or its product: as an output of the network, or read by another node."""
    nodes = [CONVOLUTION, node("Mul", "c", "half", out="m"), raised("m", "out")]
    as_output = network(*nodes, outputs=("out", shared))
    assert channels_last(as_output) is as_output
    read = network(*nodes, node("Relu", shared, out="more"), outputs=("out", "more"))
    assert channels_last(read) is read


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_of_two_in_a_row_the_second_stays(mode: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "wide_weight"], ["c"]),
        raised("c", "d"),
        node("Relu", "d", out="r"),
        raised("r", "out", mode=mode),
    ]
    plain = network(*nodes)
    changed = channels_last(plain, pixels=True)
    assert kinds(changed)["DepthToSpace"] == 1
    assert np.array_equal(run(changed)[0], run(plain)[0])


def test_replaced_parameters_are_gone_and_others_stay() -> None:
    def names(name: str) -> set[str]:
        graph = onnx.load_from_string(channels_last(network(*NETWORKS[name]))).graph
        return {item.name for item in graph.initializer if "weight" in item.name or "bias" in item.name}

    in_blocks = {"weight/blocks_of_2", "bias/blocks_of_2"}
    assert names("by itself") == in_blocks
    assert names("weights that others read, too") == in_blocks | {"weight", "bias"}


def test_parameters_are_found_in_torchs_order() -> None:
    for name in ("by itself", "weights that others read, too"):
        plain, changed = (
            onnx.load_from_string(data).graph for data in (network(*NETWORKS[name]), channels_last(network(*NETWORKS[name])))
        )
        expected, found = parameters(plain), parameters(changed)
        for parameter in ("weight", "bias"):
            assert np.array_equal(found[parameter][1], expected[parameter][1])
        assert found["weight"][0] == ("weight/blocks_of_2" if name == "by itself" else "weight")


def test_an_order_of_blocks() -> None:
    """(channel, row, column) 0 to 11 of blocks of 2x2, by row, column, channel."""
    assert block_order(3, 2).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def with_pixels_of(out: np.ndarray) -> list[np.ndarray]:
    """What a network that gives `out` gives with pixels: the float ones, and the levels."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["height", "width", 3]) for name in ("x", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["out"])], "pixels", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    data = with_pixels(model.SerializeToString())
    assert with_pixels(data) == data
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_outputs()] == ["out", "pixels"]
    return list(session.run(None, {"x": out}))


def test_pixels_are_rounded_and_clipped_and_what_is_no_number_is_0() -> None:
    numbers = np.array([0, 1, 127, 128, 254, 255, 0.49, 0.51, 127.49, 127.51, 254.49, 300, -3, np.inf, -np.inf, np.nan])
    out = np.tile((numbers / 255 - 0.5).astype(np.float32)[:, None, None], (1, 5, 3))
    same, pixels = with_pixels_of(out)
    assert np.array_equal(same, out, equal_nan=True) and pixels.dtype == np.uint8 and pixels.shape == out.shape
    assert (pixels == np.array([0, 1, 127, 128, 254, 255, 0, 1, 127, 128, 254, 255, 0, 255, 0, 0])[:, None, None]).all()


def test_pixels_are_the_levels_that_the_coding_side_rounds_to() -> None:
    """Float arithmetic goes another way: half levels may differ."""
    out = np.random.default_rng(0).uniform(-0.6, 0.6, (80, 70, 3)).astype(np.float32)
    pixels, levels = with_pixels_of(out)[1], levels_of(out.transpose(2, 0, 1), np.uint8).transpose(1, 2, 0)
    halves = np.abs((out.astype(float) + 0.5) * 255 % 1 - 0.5) < 1e-4
    assert np.array_equal(pixels[~halves], levels[~halves]) and np.abs(pixels.astype(int) - levels).max() <= 1


def test_runtimes_move_whole_lines(tmp_path: Path) -> None:
    """Of the flagship's own widths: the changes of layout are part of ONNX Runtime's own, those left move lines of blocks."""
    networks = Few(FewConfig()).networks()
    for name, blocks in (("scales", 2), ("synthesis", 3)):
        data = channels_last(export_network(*networks[name]), pixels=name == "synthesis")
        options, optimized = onnxruntime.SessionOptions(), tmp_path / f"{name}.onnx"
        options.optimized_model_filepath, options.log_severity_level = str(optimized), 3
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        left = onnx.load(optimized).graph.node
        if not any(item.op_type == "ReorderInput" for item in left):
            pytest.skip("ONNX Runtime has no layout in blocks of channels on this processor")
        moves = [list(item.attribute[0].ints) for item in left if item.op_type == "Transpose"]
        assert moves == [[0, 2, 1, 3]] * blocks, name

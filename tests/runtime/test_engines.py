# SPDX-License-Identifier: MIT
"""Every engine runs the same networks; what must be exact is exact in each, on extreme inputs too."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fewbits.codec import Model, load_model, read_bundle
from fewbits.errors import ModelError
from fewbits.installed import DEFAULT_MODEL
from fewbits.runtime import engines
from fewbits.runtime.engines import (
    DEFAULT_ENGINE,
    ENGINES,
    Engine,
    FastEngine,
    engine_of,
    engine_state,
    exact_of,
    onnxruntime_engine,
)


@pytest.fixture(params=[name for name in ENGINES if name != DEFAULT_ENGINE])
def name(request: pytest.FixtureRequest) -> str:
    """An engine that is there, beside the default one."""
    state = engine_state(request.param)
    if state.startswith("not"):
        pytest.skip(f"{request.param}: {state}")
    return str(request.param)


def extremes(limit: int) -> list[np.ndarray]:
    """Hyper symbols float32 (1, 64, rows, columns): constants at both limits, both in turns, and noise of limits."""
    rng = np.random.default_rng(0)
    turns = np.where(np.indices((64, 9, 11)).sum(0) % 2, limit, -limit)
    noise = rng.choice([-limit, limit], (64, 9, 11))
    return [np.full((64, 9, 11), value) for value in (0, limit, -limit)] + [turns, noise]


def test_scale_indices_are_exact_in_every_engine(name: str, model: Model) -> None:
    bundle = model.bundle
    run = exact_of(engine_of(name, 1))(bundle.networks["scales"])
    reference = onnxruntime_engine(1, optimize=False)(bundle.networks["scales"])
    for steps in (0, 5000, 10000):
        scales = model.pipeline.level(steps, "rgb").scales
        for z in extremes(int(bundle.coding["hyper_limit"])):
            inputs = {"z_hat": z[None].astype(np.float32), **scales}
            assert np.array_equal(run(**inputs), reference(**inputs))


def test_another_engine_writes_files_that_this_one_reads(name: str, model: Model, picture) -> None:  # type: ignore[no-untyped-def]
    other = load_model(DEFAULT_MODEL, threads=1, precision="fp32", engine=name)
    pixels = picture(70, 150)
    for one, two in ((model, other), (other, model)):
        data = one.encode(pixels, 70)
        assert all(np.array_equal(a, b) for a, b in zip(one.symbols(data), two.symbols(data), strict=True))
        difference = np.asarray(one.decode(data)).astype(int) - np.asarray(two.decode(data))
        assert np.abs(difference).max() <= (3 if name.endswith("bf16") else 1)


@pytest.mark.parametrize("engine", [DEFAULT_ENGINE, "openvino"])
def test_a_network_leaves_out_what_it_does_not_have(engine: str, model: Model) -> None:
    if engine_state(engine).startswith("not"):
        pytest.skip(f"{engine}: {engine_state(engine)}")
    run = engine_of(engine, 1)(model.bundle.networks["analysis"])
    x = np.zeros((1, 192, 4, 4), np.float32)
    assert np.array_equal(run(x=x), run(x=x, step=np.ones((1, 320, 1, 1), np.float32)))
    with pytest.raises(ModelError, match="a network of the bundle reads x, it is given y"):
        run(y=x)


@pytest.mark.parametrize("engine", [DEFAULT_ENGINE, "openvino"])
def test_an_input_may_have_several_names(engine: str) -> None:
    """OpenVINO gives an input the names of what is equal to it, too."""
    onnx = pytest.importorskip("onnx")
    if engine_state(engine).startswith("not"):
        pytest.skip(f"{engine}: {engine_state(engine)}")
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("x", "out")]
    nodes = [onnx.helper.make_node("Identity", ["x"], ["same"]), onnx.helper.make_node("Relu", ["same"], ["out"])]
    graph = onnx.helper.make_graph(nodes, "aliases", infos[:1], infos[1:])
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    x = np.array([[[[1, -1], [2, -2]]]], np.float32)
    assert np.array_equal(engine_of(engine, 1)(data)(x=x), np.maximum(x, 0))


@pytest.mark.parametrize("engine", [DEFAULT_ENGINE, "openvino"])
def test_an_output_may_be_asked_for(engine: str) -> None:
    onnx = pytest.importorskip("onnx")
    if engine_state(engine).startswith("not"):
        pytest.skip(f"{engine}: {engine_state(engine)}")
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("x", "half", "more")]
    numbers = [onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (("one", 1), ("two", 2))]
    nodes = [onnx.helper.make_node("Div", ["x", "two"], ["half"]), onnx.helper.make_node("Add", ["x", "one"], ["more"])]
    graph = onnx.helper.make_graph(nodes, "two", infos[:1], infos[1:], numbers)
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    run, x = engine_of(engine, 1)(data), np.array([[[[1, -1], [2, -2]]]], np.float32)
    assert np.array_equal(run("more", x=x), x + 1 if engine == DEFAULT_ENGINE else x / 2), "others have the first only"
    for first in (run(x=x), run("half", x=x), run("none of them", x=x)):
        assert np.array_equal(first, x / 2)


def test_a_fast_engine_leaves_exact_networks_to_the_other(model: Model) -> None:
    loaded: list[bytes] = []

    def fast(data: bytes) -> engines.Network:
        loaded.append(data)
        return onnxruntime_engine(1)(data)

    folder = Path(engines.__file__).parents[1] / "weights" / DEFAULT_MODEL
    other = Model(read_bundle(folder), "here", FastEngine(fast, onnxruntime_engine(1)))
    other.decode(other.encode(np.zeros((20, 20, 3), np.uint8)))
    assert model.bundle.networks["scales"] not in loaded and len(loaded) == 4


def test_an_exact_engine_is_its_own() -> None:
    engine: Engine = onnxruntime_engine(1)
    assert exact_of(engine) is engine


def test_an_unknown_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="engine is 'abacus', it must be one of onnxruntime, openvino, openvino-bf16, cuda"):
        load_model(DEFAULT_MODEL, engine="abacus")
    monkeypatch.setenv("FEWBITS_ENGINE", "slide rule")
    with pytest.raises(ModelError, match="engine is 'slide rule'"):
        load_model(DEFAULT_MODEL)


def test_an_engine_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ModelError, match=r"not installed: pip install 'fewbits\[openvino\]'"):
        engine_of("openvino", 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engine_state("openvino").startswith("not installed")

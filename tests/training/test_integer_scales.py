# SPDX-License-Identifier: MIT
"""The network of scale indices in 8-bit operators gives what the float one does, rounded: always and exactly."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fewbits.codec import Model  # noqa: E402
from fewbits.codec import load_model as installed  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.families.quantize import EXACT_LIMIT, IntegerConv  # noqa: E402
from fewbits.runtime.bundle import Bundle, parse_bundle  # noqa: E402
from fewbits.runtime.engines import onnxruntime_engine  # noqa: E402
from fewbits.runtime.variants import with_weights  # noqa: E402
from fewbits.training.export import amended, bundle_files, export_network, load_model  # noqa: E402
from fewbits.training.integer_scales import LIFT, MOST_SHIFT, integer_scales  # noqa: E402

Picture = Callable[..., np.ndarray]
Inputs = dict[str, np.ndarray]
LAYERS = {"latent": 12, "hyper": 4, "width_8": 8, "depth_8": 1, "width_16": 8, "hyper_width": 8, "lambdas": (0.0018, 0.17)}


def few(largest: bool = False, **settings: int) -> Few:
    """With integers that are not 0 anywhere. largest: weights of -127 and 127, in a third of the layers each of one sign."""
    torch.manual_seed(1)
    model = Few(FewConfig(**LAYERS | settings)).eval()
    layers = [part for part in model.scale_net.modules() if isinstance(part, IntegerConv)]
    for k, layer in enumerate(layers):
        weight = torch.randint(-127, 128, layer.weight.shape)
        weight = 127 * (weight.sign() if k % 3 == 0 else (-1) ** k * torch.ones_like(weight)) if largest else weight
        layer.load_integers(weight.float(), torch.randint(-20, 2**layer.bias_bits, layer.bias.shape).float())
    return model


def inputs_of(bundle: Bundle, n: int) -> Iterator[Inputs]:
    """Hyper symbols, biases and phases' biases of all kinds."""
    rng, limit = np.random.default_rng(2), bundle.coding["hyper_limit"]
    sizes = {"bias_in": bundle.tables["bias_in"].shape[1], "bias_out": bundle.tables["bias_out"].shape[1]}
    for k in range(n):
        rows, columns = [(1, 1), (2, 5), (7, 3), (1, 9), (4, 4)][k % 5]
        shape = (1, bundle.tables["z_frequencies"].shape[1], rows, columns)
        some = [rng.integers(-limit, limit + 1, shape), rng.choice([-limit, limit], shape), np.full(shape, (-1) ** k * limit)]
        inputs = {"z_hat": some[k % 3]}
        for name, channels in sizes.items():
            most = (100, 3000, 30_000, EXACT_LIMIT // 8)[k % 4]
            own = bundle.tables[name][k % len(bundle.tables[name])]
            given = rng.choice([-most, most], channels) if k % 8 == 7 else rng.integers(-most, most + 1, channels)
            inputs[name] = (own if k % 3 == 1 else given)[None, :, None, None]
        if bundle.coding["pyramid"]:
            most = (200, 64 * 70, EXACT_LIMIT // 8)[k % 3]
            phases = rng.integers(-most, most + 1, (1, bundle.coding["pyramid"], 4 * rows, 4 * columns))
            inputs["phase_bias"] = phases / 2.0 ** bundle.coding["index_bits"]
        yield {name: value.astype(np.float32) for name, value in inputs.items()}


def check(bundle: Bundle, graph: bytes, n: int) -> tuple[int, set[int]]:
    """That a graph gives what the float network does, rounded as the runtime rounds it: on n inputs, with signed and unsigned
    weights, as written and as ONNX Runtime changes it. How many halves there were, and which indices."""
    scales, ties, seen = bundle.networks["scales"], 0, set[int]()
    run = onnxruntime_engine(1)(scales)
    others = {
        (signed, optimize): onnxruntime_engine(1, optimize=optimize)(with_weights(graph, scales, signed=signed))
        for signed in (True, False)
        for optimize in (True, False)
    }
    for inputs in inputs_of(bundle, n):
        real = run(**inputs)
        real[:, : bundle.coding["pyramid"]] += inputs.get("phase_bias", np.float32(0))
        ties += int((real % 1 == 0.5).sum())
        expected = np.clip(np.floor(real + np.float32(0.5)), 0, 255).astype(np.uint8)
        seen |= set(expected.ravel().tolist())
        for how, network in others.items():
            found = network(**inputs)
            assert found.dtype == np.uint8 and np.array_equal(found, expected), f"signed, optimized: {how}"
    return ties, seen


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("settings", [{}, {"pyramid": 0}, {"pyramid": 12}, {"hyper_limit": 127}, {"hyper_limit": 1, "hyper": 1}])
def test_indices_are_those_of_the_float_network(settings: dict[str, int], largest: bool) -> None:
    bundle = parse_bundle(bundle_files("few", few(largest, **settings), {}), "here")
    ties, seen = check(bundle, bundle.integer_scales, 60)
    assert ties > 100 and {0, 255} <= seen and len(seen) > (10 if largest else 50)


@pytest.mark.parametrize("name", ["few", "few-psnr"])
def test_the_shipped_ones_give_the_same_indices(name: str) -> None:
    bundle = installed(name, threads=1, precision="fp32").bundle
    ties, seen = check(bundle, bundle.integer_scales, 40)
    assert ties > 1000 and set(range(64)) <= seen


@pytest.mark.parametrize("name", ["few", "few-psnr"])
def test_the_shipped_ones_are_what_export_writes(name: str) -> None:
    bundle = installed(name, threads=1, precision="fp32").bundle
    model = load_model(bundle)
    assert integer_scales(bundle.networks["scales"], model.scale_shifts(), model.coding()) == bundle.integer_scales


def halves_up(sums: np.ndarray, shift: int) -> np.ndarray:
    """What QLinearConv makes of sums of products: 8 bits, by a scale in float32."""
    scaled = sums.astype(np.float32) * np.float32(2.0**-shift * LIFT)
    return np.clip(np.rint(scaled), 0, 255)


@pytest.mark.parametrize("shift", range(1, MOST_SHIFT + 1))
def test_rounding_is_exact_for_every_sum(shift: int) -> None:
    """All that is not clipped anyway, and what is around it."""
    sums = np.arange(-(4 << shift), 260 << shift)
    half = 1 << shift - 1
    assert np.array_equal(halves_up(sums - half, shift), np.clip(sums >> shift, 0, 255))
    assert np.array_equal(halves_up(sums, shift), np.clip((sums + half) >> shift, 0, 255))


def test_larger_shifts_would_not_be_exact() -> None:
    """Why the test above can fail."""
    sums = np.arange(260 << 14)
    assert not np.array_equal(halves_up(sums - (1 << 13), 14), np.clip(sums >> 14, 0, 255))


def test_it_reads_weights_in_torchs_order_too() -> None:
    """Those of a network before its channels are ordered in blocks."""
    model = few()
    bundle = parse_bundle(bundle_files("few", model, {}), "here")
    planes = export_network(*model.networks()["scales"])
    graph = integer_scales(planes, model.scale_shifts(), model.coding())
    networks = [
        with_weights(graph, planes, signed=True),
        with_weights(bundle.integer_scales, bundle.networks["scales"], signed=True),
    ]
    one, other = map(onnxruntime_engine(1), networks)
    for inputs in inputs_of(bundle, 10):
        assert np.array_equal(one(**inputs), other(**inputs))


def test_what_8_bits_do_not_hold_has_none() -> None:
    model = few(hyper_limit=128)
    assert "scales.integer.onnx" not in bundle_files("few", model, {})
    shifts, coding = model.scale_shifts(), dict(model.coding()) | {"hyper_limit": 127}
    data = export_network(*model.networks()["scales"])
    assert integer_scales(data, shifts, coding)
    for wrong in ({"stem": MOST_SHIFT + 1}, {"stem": 0}, {"head": MOST_SHIFT - coding["index_bits"] + 1}):
        assert not integer_scales(data, shifts | wrong, coding)


def test_amending_and_loading_keep_it() -> None:
    model = few()
    files = bundle_files("few", model, {"architecture": asdict(model.config)})
    again = amended(files, {}, {"name": "other"})
    assert again["scales.integer.onnx"] == files["scales.integer.onnx"]
    assert Model(again, "here").bundle.model_id == Model(files, "here").bundle.model_id
    bundle = parse_bundle(files, "here")
    assert bundle_files("few", load_model(bundle), {})["scales.integer.onnx"] == files["scales.integer.onnx"]


def test_a_file_is_the_same_by_either(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[bool, Any] = {}
    bundle, pixels = bundle_files("few", few(), {}), picture(70, 130)
    for capable in (True, False):
        monkeypatch.setattr("fewbits.runtime.hyperprior.has_int8", lambda capable=capable: capable)
        files[capable] = [Model(bundle, "here", onnxruntime_engine(1)).encode(pixels, quality) for quality in (0, 50, 100)]
    assert files[True] == files[False]

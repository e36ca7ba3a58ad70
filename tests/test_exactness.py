# SPDX-License-Identifier: MIT
"""The bar of the format: decoded symbols are the same on every engine, thread count and optimization level."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewbits.codec import Model
from fewbits.errors import CorruptError, FormatError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.engines import Engine, Network, onnxruntime_engine, taken
from fewbits.runtime.hyperprior import HyperpriorCodec


def with_engine(bundle: Bundle, engine: Engine) -> Model:
    """A bundle on another engine."""
    other = object.__new__(Model)
    other.bundle, other.pipeline = bundle, HyperpriorCodec(bundle, engine)
    return other


def torch_engine(bundle: Bundle) -> Engine:
    """Runs the torch networks whose export the bundle holds, found by the ONNX file's bytes."""
    import torch

    from fewbits.training.export import load_model

    torch.set_num_threads(1)
    names = {data: name for name, data in bundle.networks.items()}
    networks = load_model(bundle).eval().networks()

    def load(data: bytes) -> Network:
        network, examples = networks[names[data]]
        network.eval()

        def call(output: str = "", /, **inputs: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                own = taken(inputs, examples)
                return network(**{name: torch.from_numpy(array.copy()) for name, array in own.items()}).numpy()

        return call

    return load


ENGINES: dict[str, Callable[[Bundle], Engine]] = {
    "1 thread": lambda _: onnxruntime_engine(1),
    "2 threads": lambda _: onnxruntime_engine(2),
    "1 thread, as written": lambda _: onnxruntime_engine(1, optimize=False),
    "2 threads, as written": lambda _: onnxruntime_engine(2, optimize=False),
    "torch": torch_engine,
}


@pytest.fixture(scope="module", params=ENGINES)
def other(request: pytest.FixtureRequest, model: Model) -> Model:
    """The shipped model on another engine."""
    if request.param == "torch":
        for name in ("torch", "onnx"):
            pytest.importorskip(name)
    # torch has no operators of 8-bit integers: there the scale net is the float one
    bundle = replace(model.bundle, integer_scales=b"") if request.param == "torch" else model.bundle
    return with_engine(bundle, ENGINES[request.param](bundle))


@pytest.fixture(scope="module")
def crops(request: pytest.FixtureRequest) -> list[np.ndarray]:
    """Crops of odd sizes: of Kodak where it is there, of one photograph otherwise; the last is higher than a strip."""
    places = [(301, 199, 11), (65, 257, 40), (513, 47, 200)]
    folder = Path(__file__).parents[2] / "shared" / "data" / "kodak"
    found = [folder / f"kodim{k:02}.png" for k in (4, 8, 19)]
    if all(path.exists() for path in found):
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in found]
    else:
        pictures = [request.getfixturevalue("photo")] * 3
    pictures[2] = np.concatenate([pictures[2], pictures[2][::-1]])
    return [p[start : start + h, start : start + w] for p, (h, w, start) in zip(pictures, places, strict=True)]


@pytest.mark.parametrize("quality", [10, 55, 100])
def test_symbols_and_pixels_are_the_same_on_every_engine(
    model: Model, other: Model, crops: list[np.ndarray], quality: float
) -> None:
    for writer, reader in ((model, other), (other, model)):
        for crop in crops:
            data = writer.encode(crop, quality)
            mine, theirs = writer.symbols(data), reader.symbols(data)
            assert np.array_equal(mine.hyper, theirs.hyper) and np.array_equal(mine.latent, theirs.latent)
            pixels = [np.asarray(each.decode(data), int) for each in (writer, reader)]
            assert np.abs(pixels[0] - pixels[1]).max() <= 1


def drifting(network: Network, drift: float) -> Network:
    def call(output: str = "", /, **inputs: np.ndarray) -> np.ndarray:
        found = network(**inputs)  # the first output: float, or indices
        return found + found.dtype.type(drift)

    return call


@pytest.mark.parametrize(
    ("name", "drift", "harmless"), [("scales", 1.0, False), ("means", 1e-4, True), ("synthesis", 1e-4, True)]
)
def test_drift_of_a_float_network_moves_pixels_and_drift_of_the_scale_net_would_be_seen(
    model: Model, photo: np.ndarray, name: str, drift: float, harmless: bool
) -> None:
    """Why the test above can fail, and why means and pixels may be float."""
    load = onnxruntime_engine(1)
    moved = [model.bundle.networks[name], *([model.bundle.integer_network()] if name == "scales" else [])]

    def engine(data: bytes) -> Network:
        return drifting(load(data), drift) if data in moved else load(data)

    data = model.encode(photo[:100, 200:290], 60)
    drifted = with_engine(model.bundle, engine)
    if harmless:
        assert np.array_equal(drifted.symbols(data).latent, model.symbols(data).latent)
        assert np.abs(np.asarray(drifted.decode(data), int) - np.asarray(model.decode(data), int)).max() <= 1
    else:
        with pytest.raises(CorruptError):
            drifted.decode(data)


def windows(x: np.ndarray, kernel: int) -> np.ndarray:
    padding = kernel // 2
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))  # (c, h, w, k, k)


def integer_convolution(x: np.ndarray, layer: Any, extra: np.ndarray | None) -> np.ndarray:
    """floor((conv(x, W) + b + extra) / 2**shift) in int64."""
    weight, bias = (part.numpy().astype(np.int64) for part in (layer.weight, layer.bias))
    parts = windows(x, weight.shape[2])
    groups = np.split(parts, layer.groups)
    weights = np.split(weight, layer.groups)
    total = np.concatenate([np.einsum("ihwkl,oikl->ohw", g, w) for g, w in zip(groups, weights, strict=True)])
    total += bias[:, None, None]
    if extra is not None:
        total += extra.astype(np.int64)[:, None, None]
    return total >> layer.shift


def shuffled_up(x: np.ndarray) -> np.ndarray:
    """(4c, h, w) -> (c, 2h, 2w)"""
    c, h, w = x.shape[0] // 4, *x.shape[1:]
    return x.reshape(c, 2, 2, h, w).transpose(0, 3, 1, 4, 2).reshape(c, 2 * h, 2 * w)


def reference_scales(network: Any, z: np.ndarray, bias_in: np.ndarray, bias_out: np.ndarray) -> np.ndarray:
    """The scale net in int64, from its layers' integers; the result is in float64."""
    h = integer_convolution(z.astype(np.int64), network.stem, bias_in).clip(0, 255)
    h = shuffled_up(integer_convolution(h, network.to_32, None)).clip(0, 255)
    h = integer_convolution(h, network.spatial_32, None).clip(0, 255)
    h = shuffled_up(integer_convolution(h, network.to_16, None)).clip(0, 255)
    h = integer_convolution(h, network.spatial_16, None).clip(0, 255)
    return integer_convolution(h, network.head, bias_out) / 64.0


def extreme_inputs(channels: int, limit: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shape = (channels, 5, 7)
    return {
        "all highest": np.full(shape, limit),
        "all lowest": np.full(shape, -limit),
        "zero": np.zeros(shape, int),
        "random extremes": rng.choice([-limit, limit], shape),
        "random": rng.integers(-limit, limit + 1, shape),
        "chessboard": (np.indices(shape).sum(0) % 2 * 2 - 1) * limit,
        "one": np.eye(1, channels * 35, 17 * 35 + 20, dtype=int).reshape(shape) * limit,
    }


@pytest.mark.parametrize("steps", [0, 3333, 10_000, None])
def test_the_scale_net_is_integer_arithmetic(model: Model, steps: int | None) -> None:
    """ONNX Runtime and torch against int64, on inputs that push every sum to its end; None: the largest biases there are."""
    for name in ("torch", "onnx"):
        pytest.importorskip(name)
    from fewbits.families.quantize import EXACT_LIMIT
    from fewbits.training.export import load_model

    network, _ = load_model(model.bundle).networks()["scales"]
    tables = model.bundle.tables
    limit = model.bundle.coding["hyper_limit"]
    if steps is None:
        ends = EXACT_LIMIT // 8 * np.random.default_rng(1).choice([-1, 1], tables["bias_out"].shape[1])
        biases = {"bias_in": ends[: tables["bias_in"].shape[1]], "bias_out": ends}
        biases = {name: vector.astype(np.float32)[None, :, None, None] for name, vector in biases.items()}
    else:
        biases = model.pipeline.level(steps, "rgb").scales
    engines = {name: make(model.bundle)(model.bundle.networks["scales"]) for name, make in ENGINES.items()}
    for what, z in extreme_inputs(tables["z_frequencies"].shape[1], limit).items():
        expected = reference_scales(network, z, biases["bias_in"].ravel(), biases["bias_out"].ravel())
        for name, run in engines.items():
            found = run(z_hat=z[None].astype(np.float32), **biases)[0]
            assert np.array_equal(found.astype(np.float64), expected), f"{name} on {what}"


def test_a_file_of_another_scale_net_is_never_a_picture(model: Model, photo: np.ndarray) -> None:
    """Biases that differ by a part of one scale index are enough for the checksum to refuse."""
    data = model.encode(photo[:64, 200:264], 60)
    other = with_engine(model.bundle, onnxruntime_engine(1))
    level = other.pipeline.level(6000, "rgb")
    level.scales["bias_out"] += np.float32(1 << 10)
    other.pipeline.level = lambda *_: level  # type: ignore[method-assign]
    with pytest.raises(FormatError):
        other.decode(data)

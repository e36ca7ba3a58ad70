# SPDX-License-Identifier: MIT
"""Which precision decodes where nothing is said, and how near the shipped models' int8 variant is to float32."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fewbits import codec
from fewbits.bench.codecs import BundleCodec
from fewbits.codec import load_model
from fewbits.errors import ModelError
from fewbits.fidelity import psnr
from fewbits.installed import DEFAULT_MODEL, TUNINGS
from fewbits.runtime.engines import DEFAULT_ENGINE


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Models that are loaded for a processor which is not this one are not kept."""
    codec._load.cache_clear(), codec._precision.cache_clear()
    yield
    codec._load.cache_clear(), codec._precision.cache_clear()


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ModelError, match="precision is 'int4', it must be one of fp32, int8, auto"):
        load_model(DEFAULT_MODEL, precision="int4")


def test_int8_is_refused_where_the_engine_has_no_operators_for_it() -> None:
    with pytest.raises(ModelError, match="precision is 'int8', engine openvino-bf16 has fp32 only"):
        load_model(DEFAULT_MODEL, precision="int8", engine="openvino-bf16")


@pytest.mark.parametrize(
    ("manifest", "engine", "capable", "precision"),
    [
        ({"variants": {"synthesis.int8.onnx": "hash"}, "ranges": {"synthesis": [1.0]}}, DEFAULT_ENGINE, True, "int8"),
        ({"variants": {"synthesis.int8.onnx": "hash"}, "ranges": {"synthesis": [1.0]}}, DEFAULT_ENGINE, False, "fp32"),
        ({"variants": {"synthesis.int8.onnx": "hash"}, "ranges": {"synthesis": [1.0]}}, "openvino", True, "fp32"),
        ({"variants": {"synthesis.int8.onnx": "hash"}}, DEFAULT_ENGINE, True, "fp32"),
        ({"variants": {"scales.integer.onnx": "hash"}, "ranges": {"synthesis": [1.0]}}, DEFAULT_ENGINE, True, "fp32"),
        ({}, DEFAULT_ENGINE, True, "fp32"),
    ],
)
def test_auto_is_int8_where_model_engine_and_processor_have_it(
    monkeypatch: pytest.MonkeyPatch, manifest: dict[str, Any], engine: str, capable: bool, precision: str
) -> None:
    monkeypatch.setattr(codec, "has_int8", lambda: capable)
    assert codec.precision_here(manifest, engine, "auto") == precision


@pytest.mark.parametrize("capable", [True, False])
@pytest.mark.usefixtures("forgotten")
def test_a_model_decodes_in_what_is_fast_here_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch, capable: bool) -> None:
    monkeypatch.setattr(codec, "has_int8", lambda: capable)
    model = load_model(DEFAULT_MODEL, threads=1)
    assert model.precision == ("int8" if capable else "fp32")
    assert load_model(DEFAULT_MODEL, threads=1, precision=model.precision) is model  # and is not loaded twice


def test_the_environment_chooses_a_precision_and_an_argument_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, other in (("fp32", "int8"), ("int8", "fp32")):
        monkeypatch.setenv("FEWBITS_PRECISION", said)
        assert load_model(DEFAULT_MODEL, threads=1).precision == said
        assert load_model(DEFAULT_MODEL, threads=1, precision=other).precision == other
    monkeypatch.setenv("FEWBITS_PRECISION", "int8")
    assert load_model("klt", threads=1).precision == "fp32"  # the variable is for all models, an argument for one
    with pytest.raises(ModelError, match="precision is 'int8', this model has fp32"):
        load_model("klt", threads=1, precision="int8")
    monkeypatch.setenv("FEWBITS_PRECISION", "int4")
    with pytest.raises(ModelError, match=r"\$FEWBITS_PRECISION is 'int4', it must be one of fp32, int8, auto"):
        load_model(DEFAULT_MODEL, threads=1)


def test_a_table_is_in_float32_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = BundleCodec("few", "few")
    assert measured.identity().endswith("fp32 by onnxruntime")
    monkeypatch.setenv("FEWBITS_PRECISION", "int8")
    assert measured.identity().endswith("int8 by onnxruntime")


@pytest.mark.parametrize("name", TUNINGS.values())
def test_shipped_models_decode_within_a_tenth_of_a_decibel_in_int8(name: str, photo: np.ndarray) -> None:
    whole, coarse = (load_model(name, threads=1, precision=precision) for precision in ("fp32", "int8"))
    pixels = photo[:256, 128:400]
    for quality in (5, 50, 95):
        data = whole.encode(pixels, quality)
        assert coarse.encode(pixels, quality) == data
        decoded = {model.precision: np.asarray(model.decode(data)) for model in (whole, coarse)}
        assert not np.array_equal(*decoded.values())
        assert abs(psnr(pixels, decoded["fp32"]) - psnr(pixels, decoded["int8"])) < 0.1


@pytest.mark.parametrize("name", TUNINGS.values())
def test_shipped_models_leave_saturated_bars_to_float32(name: str) -> None:
    """Which int8 would clip: they lost up to 3.5 dB."""
    colours = np.array([[k & 4, k & 2, k & 1] for k in range(8)], bool)
    bars = np.broadcast_to(np.repeat(255 * colours.astype(np.uint8), 32, axis=0), (256, 256, 3))
    whole, coarse = (load_model(name, threads=1, precision=precision) for precision in ("fp32", "int8"))
    data = whole.encode(bars, 80)
    assert np.array_equal(whole.decode(data), coarse.decode(data))

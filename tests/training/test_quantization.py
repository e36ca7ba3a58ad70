# SPDX-License-Identifier: MIT
"""An int8 variant is near the float network, needs its file for the weights, and runs on integers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from fewbits.codec import Model  # noqa: E402
from fewbits.errors import ModelError  # noqa: E402
from fewbits.families.blocks import DepthwiseBlock, Pointwise  # noqa: E402
from fewbits.fidelity import psnr  # noqa: E402
from fewbits.runtime.bundle import TABLES, pack_bundle, parse_bundle  # noqa: E402
from fewbits.runtime.engines import onnxruntime_engine  # noqa: E402
from fewbits.runtime.manifest import MANIFEST, manifest_id, parse_manifest  # noqa: E402
from fewbits.runtime.variants import with_weights  # noqa: E402
from fewbits.training.calibration import Ranges, _Observer, observed  # noqa: E402
from fewbits.training.export import amended, export_network, run_files  # noqa: E402
from fewbits.training.quantization import quantized  # noqa: E402

Picture = Callable[..., np.ndarray]


class Net(torch.nn.Module):  # type: ignore[misc]
    """Channels of very different scales, a block, and a unit that never fires though it has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = Pointwise(3, 32), DepthwiseBlock(32), Pointwise(32, 5)
        for layer in (self.block.mix_out, self.block.reduce):
            torch.nn.init.normal_(layer.weight, std=0.1)
        with torch.no_grad():
            self.stem.weight *= torch.logspace(-3, 1, 32)[:, None]
            self.block.expand.bias[:] = -1000.0
            self.block.reduce.bias[:] = 0.5
            self.block.mix_in.bias[3] = -1000.0
            self.block.spatial.bias[3] = 2.0

    def forward(self, x: Any) -> Any:
        return self.head(self.block(self.stem(x)))


def test_the_variant_is_near_the_float_network_and_has_no_weights() -> None:
    torch.manual_seed(0)
    data, ranges = export_network(Net(), {"x": torch.zeros(1, 3, 8, 8)}), Ranges()
    x = np.random.default_rng(0).normal(size=(1, 3, 24, 32)).astype(np.float32)
    _Observer(data, ranges)(x=x)
    graph = quantized(data, ranges, ("block", "head"))
    run = onnxruntime_engine(1)
    with pytest.raises(ModelError):
        run(graph)
    exact, near = run(data)(x=x), run(with_weights(graph, data))(x=x)
    assert 0 < np.sqrt(np.mean((exact - near) ** 2)) < 0.03 * exact.std()


def test_layers_that_are_not_named_stay_as_they_are() -> None:
    torch.manual_seed(0)
    data, ranges = export_network(Net(), {"x": torch.zeros(1, 3, 8, 8)}), Ranges()
    x = np.random.default_rng(0).normal(size=(1, 3, 24, 32)).astype(np.float32)
    _Observer(data, ranges)(x=x)
    run = onnxruntime_engine(1)
    assert np.array_equal(run(data)(x=x), run(with_weights(quantized(data, ranges, ("other",)), data))(x=x))


@pytest.fixture(scope="module")
def files(tiny_run: Any, picture: Picture) -> dict[str, bytes]:
    """The tiny run's bundle with an int8 variant."""
    return run_files(tiny_run.run, {}, [picture(96, 80), picture(64, 130, 1)])


def test_the_models_id_is_that_without_variants(files: dict[str, bytes]) -> None:
    bundle = parse_bundle(files, "here")
    assert list(bundle.variants) == ["int8"] and list(bundle.variants["int8"]) == ["synthesis"]
    plain = {name: data for name, data in files.items() if name not in (MANIFEST, "synthesis.int8.onnx")}
    manifest = parse_manifest(pack_bundle(bundle.family, bundle.coding, {}, plain)[MANIFEST], "here")
    assert "variants" not in manifest and manifest_id(manifest) == bundle.model_id


def test_a_variant_that_is_damaged_or_of_no_network_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ModelError, match="synthesis.int8.onnx is damaged"):
        parse_bundle(files | {"synthesis.int8.onnx": b"?"}, "here")
    bundle = parse_bundle(files, "here")
    networks = {name: files[name] for name in files if name not in (MANIFEST, "synthesis.int8.onnx")}
    for name in ("prior.int8.onnx", "synthesis.int4.onnx", "synthesis.fp32.onnx", "int8.onnx"):
        with pytest.raises(ModelError, match="no variant of a network"):
            parse_bundle(pack_bundle(bundle.family, bundle.coding, {}, networks, {name: b""}), "here")


def test_files_of_one_precision_decode_in_the_other(files: dict[str, bytes], picture: Picture) -> None:
    models = {precision: Model(files, "here", onnxruntime_engine(1), precision=precision) for precision in ("fp32", "int8")}
    pixels = picture(130, 200, 5)
    for quality in (20, 60, 100):
        data = {precision: model.encode(pixels, quality) for precision, model in models.items()}
        assert data["fp32"] == data["int8"]  # only synthesis has a variant
        scores = {name: psnr(pixels, np.asarray(model.decode(data["fp32"]))) for name, model in models.items()}
        assert abs(scores["fp32"] - scores["int8"]) < 0.1
        symbols = [model.symbols(data["fp32"]) for model in models.values()]
        assert all(np.array_equal(one, other) for one, other in zip(*symbols, strict=True))


def test_a_precision_that_a_model_lacks_is_refused(files: dict[str, bytes]) -> None:
    bundle = parse_bundle(files, "here")
    plain = {name: files[name] for name in files if name not in (MANIFEST, "synthesis.int8.onnx")}
    with pytest.raises(ModelError, match="precision is 'int8', this model has fp32"):
        Model(pack_bundle(bundle.family, bundle.coding, {}, plain), "here", precision="int8")


def test_an_amended_bundle_keeps_its_variants(files: dict[str, bytes]) -> None:
    changed = parse_bundle(amended(files, {}, {"name": "other"}), "here")
    assert changed.variants == parse_bundle(files, "here").variants and changed.card["name"] == "other"
    again = parse_bundle(amended(files, {"gain": np.asarray(changed.tables["gain"]) + 1}, {}), "here")
    assert again.model_id != changed.model_id and TABLES in files


def test_ranges_hold_all_that_was_seen(files: dict[str, bytes], picture: Picture) -> None:
    one, two = picture(64, 64, 1), picture(64, 96, 2)
    both = observed(files, [one, two], ["synthesis"])["synthesis"]
    first = observed(files, [one], ["synthesis"])["synthesis"]
    assert set(both) == set(first) and "y_hat" in both
    assert all((both[name].low <= first[name].low).all() and (both[name].high >= first[name].high).all() for name in both)

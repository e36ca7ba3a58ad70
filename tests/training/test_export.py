# SPDX-License-Identifier: MIT
"""A run becomes a bundle and a bundle becomes a model again, with the same weights and the same pictures."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from fewbits.codec import load_model  # noqa: E402
from fewbits.container import QUALITY_STEPS  # noqa: E402
from fewbits.errors import ModelError, TrainingError  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.runtime.bundle import pack_bundle, parse_bundle  # noqa: E402
from fewbits.training import checkpoint, export  # noqa: E402

Picture = Callable[..., np.ndarray]


def state_of(tiny_run) -> dict:
    return checkpoint.load(tiny_run.run / "trunk.pt")


def test_a_bundle_is_five_networks_tables_and_a_manifest(tiny_run) -> None:
    names = sorted(path.name for path in tiny_run.bundle.iterdir())
    networks = ["analysis", "hyper_analysis", "means", "scales", "synthesis"]
    beside = ["synthesis.gradient.onnx", "scales.integer.onnx"]  # the gradient as it was trained for squared error
    assert names == sorted([*(f"{name}.onnx" for name in networks), *beside, "manifest.json", "tables.npz"])
    assert sorted(export.load_bundle(tiny_run.bundle).networks) == networks


def test_the_card_says_how_the_model_was_made(tiny_run) -> None:
    card = json.loads((tiny_run.bundle / "manifest.json").read_text())["card"]
    assert card["steps"] == 5 and card["annealed"] is False and card["licence"] == "MIT" and card["minutes"] >= 0
    assert card["architecture"]["latent"] == 12 and card["architecture"]["lambdas"] == [0.0018, 0.0175, 0.17]
    assert card["training"]["crop"] == 64 and card["training"]["batch"] == 2
    assert card["training_data"] == {"from": [str(tiny_run.data)], "exclude": []}


def test_a_bundle_encodes_and_decodes(tiny_run, picture: Picture) -> None:
    model = load_model(tiny_run.bundle, threads=1)
    pixels = picture(70, 90)
    sizes, errors = [], []
    for quality in (0, 50, 100):
        data = model.encode(pixels, quality)
        sizes.append(len(data))
        errors.append(np.square(np.asarray(model.decode(data), float) - pixels).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_weights_are_stored_in_half_precision_and_computed_in_single(tiny_run) -> None:
    for name, data in export.load_bundle(tiny_run.bundle).networks.items():
        graph = onnx.load_from_string(data).graph
        large = [item for item in graph.initializer if np.prod(item.dims) >= 64]
        assert large and all((item.data_type == onnx.TensorProto.FLOAT16) == (len(item.dims) > 1) for item in large), name
        given = {item.name for item in graph.initializer}
        assert len({item.partition("/blocks_of_")[0] for item in given}) == len(given), "each is there once"
        of_weights = [node.op_type for node in graph.node if given.issuperset(node.input)]
        assert set(of_weights) == {"Cast"}, name  # each takes a runtime time when it loads them
        values = [value.type.tensor_type.elem_type for value in (*graph.input, graph.output[0])]
        assert set(values) == {onnx.TensorProto.FLOAT}
        assert [item.name for item in graph.output] == ["out", "pixels"][: 2 if name == "synthesis" else 1]


def test_a_bundle_says_nothing_of_the_machine_it_was_made_on(tiny_run) -> None:
    for path in tiny_run.bundle.glob("*.onnx"):
        data = path.read_bytes()
        assert b"site-packages" not in data and b"/work" not in data and b".py" not in data, path.name


def test_loading_a_bundle_gives_its_weights_back(tiny_run) -> None:
    """The run's average in half precision; of the scale net, the integers; of the tables, all but a rounding."""
    loaded = export.load_model(export.load_bundle(tiny_run.bundle))
    original = Few(tiny_run.model_config)
    original.load_state_dict(state_of(tiny_run)["averaged"])
    assert loaded.config == original.config
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.copy_(parameter.half().float())
    expected, found = original.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    for name in expected:
        if name.startswith("scale_net."):
            continue
        if name == "z_logits":
            assert torch.allclose(torch.softmax(found[name], -1), torch.softmax(expected[name], -1), atol=1e-5)
        elif name in ("index_bias", "scale_bias", "pyramid_bias"):
            assert torch.allclose(found[name], expected[name], atol=2**-6)
        else:
            assert torch.equal(found[name], expected[name]), name
    for (name, one), (_, other) in zip(
        original.networks()["scales"][0].named_buffers(), loaded.networks()["scales"][0].named_buffers(), strict=True
    ):
        assert torch.equal(one, other), name
    biases = [model.scale_biases(torch.arange(3.0)) for model in (original, loaded)]
    assert all(torch.equal(one, other) for one, other in zip(*biases, strict=True))


def test_a_loaded_model_makes_the_same_pictures(tiny_run, picture: Picture) -> None:
    """Within what half precision takes away: the model before its export, and the model that --init starts from."""
    loaded = export.load_model(export.load_bundle(tiny_run.bundle)).eval()
    original = Few(tiny_run.model_config).eval()
    original.load_state_dict(state_of(tiny_run)["averaged"])
    x = torch.from_numpy(picture(64, 128).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        for level in (0.0, 1.3, 2.0):
            one, other = original.estimate(x, level), loaded.estimate(x, level)
            assert (one.x_hat - other.x_hat).abs().mean() < 1 / 255
            assert other.y_bits.item() == pytest.approx(one.y_bits.item(), rel=0.02, abs=20)


def test_exported_networks_compute_what_torch_computes(tiny_run) -> None:
    """On sizes that are not those of the example inputs, the smallest included."""
    bundle = export.load_bundle(tiny_run.bundle)
    codec, generator = load_model(tiny_run.bundle, threads=1), torch.Generator().manual_seed(0)
    for name, (network, inputs) in export.load_model(bundle).networks().items():
        main = next(iter(inputs))
        unit = 2 if name == "analysis" else 4 if name == "hyper_analysis" else 1
        for rows, columns in ((1, 1), (1, 5), (7, 3)):
            shape = (1, inputs[main].shape[1], rows * unit, columns * unit)
            value = torch.randint(-3, 4, shape, generator=generator).float()
            given = {key: part if key == main else part * 0.5 + 0.25 for key, part in inputs.items()} | {main: value}
            if name == "scales":
                given |= {key: (part + 37).round() for key, part in inputs.items() if key != main}
            with torch.no_grad():
                expected = network.eval()(**given).numpy()
            if name == "synthesis":
                expected = expected[0].transpose(1, 2, 0)
            found = codec.pipeline._network(name)(**{key: part.numpy() for key, part in given.items()})
            assert found.shape == expected.shape
            if name == "scales":
                assert np.array_equal(found, expected)
            else:
                assert np.allclose(found, expected, rtol=1e-4, atol=1e-5), name


def test_runtimes_make_the_sums_of_blocks_part_of_convolutions(tmp_path: Path) -> None:
    """Of the flagship's own widths: narrower ones do not fill ONNX Runtime's blocks of channels."""
    networks = Few(FewConfig()).networks()
    for name, sums in (("analysis", 1), ("synthesis", 2)):  # those of the shortcut and of the quality's shift
        options, optimized = onnxruntime.SessionOptions(), tmp_path / f"{name}.onnx"
        options.optimized_model_filepath, options.log_severity_level = str(optimized), 3
        onnxruntime.InferenceSession(export.export_network(*networks[name]), options, providers=["CPUExecutionProvider"])
        kinds = Counter(node.op_type for node in onnx.load(optimized).graph.node)
        if not kinds["ReorderInput"]:
            pytest.skip("ONNX Runtime has no layout in blocks of channels on this processor")
        assert kinds["Add"] == sums, name


def test_an_annealed_run_is_exported_from_its_anneal(tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(tiny_run.run, tmp_path / "run"))
    state = state_of(tiny_run)
    state["averaged"]["log_gain"] += 1.0
    checkpoint.save(run / checkpoint.ANNEALED, state | {"step": 7, "trunk_step": 5})
    seen = {}
    monkeypatch.setattr(export, "bundle_files", lambda family, model, card, pictures: seen.update(model=model, card=card) or {})
    export.run_files(run, {"licence": "MIT"})
    assert seen["card"]["annealed"] is True and seen["card"]["steps"] == 7
    assert torch.equal(seen["model"].log_gain, state["averaged"]["log_gain"])


def test_the_levels_of_quality_are_those_of_training(tiny_run) -> None:
    """Quality 100 k / (L - 1) is level k: the same gains and the same integer biases as torch has there."""
    pipeline = load_model(tiny_run.bundle, threads=1).pipeline
    model = export.load_model(export.load_bundle(tiny_run.bundle))
    for level in range(3):
        found = pipeline.level(level * QUALITY_STEPS // 2, "rgb")
        with torch.no_grad():
            gain, inverse_gain = model.gains(torch.tensor([float(level)]))
            first, last = model.scale_biases(torch.tensor([float(level)]))
        assert np.allclose(found.gain, gain, rtol=1e-5) and np.allclose(found.inverse_gain, inverse_gain, rtol=1e-5)
        assert np.array_equal(found.scales["bias_in"], first) and np.array_equal(found.scales["bias_out"], last)


# Folders


def test_a_folder_that_is_no_run_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is no training run"):
        export.run_files(tmp_path, {})


def files(text: bytes = b"network") -> dict[str, bytes]:
    return pack_bundle("few", {}, {}, {"means.onnx": text})


def test_a_bundle_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "bundle"
    export.write_folder(target, files())
    (target / "stale.onnx").write_bytes(b"of the older bundle")
    export.write_folder(target, files(b"other"))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == files(b"other")
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "mine"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    else:
        target.write_text("years of work")
    with pytest.raises(TrainingError, match="exists and is no bundle"):
        export.write_folder(target, files())
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["years of work"]


def test_a_bundle_that_cannot_be_written_leaves_the_older_one(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    export.write_folder(target, files())
    with pytest.raises(OSError):
        export.write_folder(target, files(b"other") | {"no/such/folder": b""})
    assert {path.name: path.read_bytes() for path in target.iterdir()} == files()
    assert list(tmp_path.iterdir()) == [target]


def test_bundles_that_do_not_fit_the_family_are_refused(tiny_run, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no manifest"):
        export.load_bundle(tmp_path / "missing")
    bundle = export.load_bundle(tiny_run.bundle)
    swapped = dict(bundle.networks) | {"analysis": bundle.networks["means"]}
    with pytest.raises(ModelError, match="hold no .* of the right size"):
        export.load_model(type(bundle)(bundle.family, bundle.model_id, bundle.coding, bundle.card, swapped, bundle.tables))


def test_amended_bundles_keep_what_is_not_named(tiny_run) -> None:
    files = {path.name: path.read_bytes() for path in tiny_run.bundle.iterdir()}
    same = export.amended(files, {}, {"curve": [1]})
    assert json.loads(same["manifest.json"])["card"]["curve"] == [1]
    before, after = (parse_bundle(each, "here") for each in (files, same))
    assert after.model_id == before.model_id and after.card["licence"] == "MIT"
    gain = before.tables["gain"] + 1
    other = parse_bundle(export.amended(files, {"gain": gain}, {}), "here")
    assert other.model_id != before.model_id
    assert np.array_equal(other.tables["gain"], gain) and np.array_equal(other.tables["deviation"], before.tables["deviation"])

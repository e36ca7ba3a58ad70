# SPDX-License-Identifier: MIT
"""An int8 variant is near the float network, needs its file for the weights, and runs on integers."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from fewbits.codec import Model  # noqa: E402
from fewbits.errors import ModelError  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.fidelity import psnr  # noqa: E402
from fewbits.runtime import hyperprior  # noqa: E402
from fewbits.runtime.bundle import TABLES, pack_bundle, parse_bundle  # noqa: E402
from fewbits.runtime.engines import onnxruntime_engine  # noqa: E402
from fewbits.runtime.levels import floats_at  # noqa: E402
from fewbits.runtime.manifest import MANIFEST, manifest_id, parse_manifest  # noqa: E402
from fewbits.runtime.places import Places  # noqa: E402
from fewbits.runtime.variants import with_weights  # noqa: E402
from fewbits.training import checkpoint, export  # noqa: E402
from fewbits.training.calibration import latent_range, observed  # noqa: E402
from fewbits.training.export import amended, bundle_files, export_network, load_model, run_files  # noqa: E402
from fewbits.training.latent_weights import HALF_LEVEL  # noqa: E402
from fewbits.training.layout import channels_last  # noqa: E402
from fewbits.training.loop import Budget, grown, train  # noqa: E402
from fewbits.training.quantization import quantized  # noqa: E402

Picture = Callable[..., np.ndarray]


# Files that are no part of a model's id
BESIDE = (
    MANIFEST, "synthesis.int8.onnx", "synthesis_weights.int8.onnx", "synthesis.gradient.onnx", "scales.integer.onnx"
)  # fmt: skip
LEADING = 32  # channels of the latent that have means, and stay float
LAYERS = FewConfig(
    latent=40, hyper=4, width_8=32, depth_8=2, width_16=32, depth_16=1, hyper_width=8, lambdas=(0.0018, 0.0175, 0.17), int8=0.5
)


@pytest.fixture(scope="module")
def run(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model trained for int8 for a few steps; some of its units never fire."""
    folder = tmp_path_factory.mktemp("int8") / "run"
    initialize, measure = Few.initialize, Few.measure

    def begin(self: Few, pictures: Any, distortion: Any) -> None:
        initialize(self, islice(pictures, 1), distortion)
        for block in (*self.synthesis.blocks_16, *self.synthesis.blocks_8):  # else they begin as the identity
            for layer in (block.mix_out, block.reduce):
                torch.nn.init.normal_(layer.weight, std=0.05)
        torch.nn.init.normal_(self.synthesis.head.weight, std=0.02)
        with torch.no_grad():
            self.synthesis.blocks_8[0].expand.bias[5:30] = -1000.0
            self.synthesis.blocks_8[1].expand.bias[:] = -1000.0
            for name, bias in self.synthesis.named_parameters():  # equal ones are merged, and then no unit is left out
                if name.endswith("bias"):
                    bias.add_(0.01 * torch.randn(len(bias)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Few, "initialize", begin)
        patch.setattr(Few, "measure", lambda self, pictures: measure(self, islice(pictures, 1)))
        train("few", [tiny_run.data], folder, Budget(steps=4), model_config=LAYERS, config=tiny_run.config, device="cpu")
    return folder


@pytest.fixture(scope="module")
def files(run: Path, picture: Picture) -> dict[str, bytes]:
    """Its bundle, without the units that never fire."""
    return run_files(run, {}, [picture(96, 80), picture(64, 130, 1)])


@pytest.fixture(scope="module")
def bare(run: Path) -> dict[str, bytes]:
    """Its bundle as it is without pictures."""
    return run_files(run, {})


def example(rows: int = 6, columns: int = 10, latent: int = 40) -> dict[str, np.ndarray]:
    """Inputs of the variant of synthesis: those of the network, and the step of later channels of the latent."""
    draw = np.random.default_rng(0)
    shapes = {"y_hat": (1, latent, rows, columns), "scale": (1, 32, 1, 1), "shift": (1, 32, 1, 1)}
    values = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    step = draw.uniform(0.01, 0.03, (1, latent, 1, 1)).astype(np.float32)
    y_hat = 0.3 * values["y_hat"]
    y_hat[:, LEADING:] = (np.rint(y_hat / step) * step)[:, LEADING:]  # whole steps
    return values | {"y_hat": y_hat, "scale": 1 + 0.1 * values["scale"], "step": step}


def variant(files: dict[str, bytes], inputs: dict[str, np.ndarray], *, signed: bool = True) -> np.ndarray:
    """What the int8 variant gives before that becomes bytes: float32 (3, height, width), about 0."""
    load, source = onnxruntime_engine(1), files["synthesis.onnx"]
    graph = onnx.load_from_string(files["synthesis.int8.onnx"])
    graph.graph.output.append(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, None))
    weights = load(with_weights(files["synthesis_weights.int8.onnx"], source, signed=signed))(**inputs)
    network = load(with_weights(graph.SerializeToString(), source, signed=signed))
    blocks = network("pixels", weights=weights, **inputs)
    rows, columns = blocks.shape[:2]
    lines = blocks.reshape(rows, columns, 8, 8, 3).transpose(4, 0, 2, 1, 3)
    return lines.reshape(3, 8 * rows, 8 * columns) + np.float32(HALF_LEVEL)


def in_both(files: dict[str, bytes]) -> tuple[Model, Model]:
    """A bundle's model in float32 and in int8."""
    plain, coarse = (Model(files, "here", onnxruntime_engine(1), precision=precision) for precision in ("fp32", "int8"))
    return plain, coarse


def made_for(picture: np.ndarray, files: dict[str, bytes], share: float) -> dict[str, bytes]:
    """A bundle whose variant is made for that share of what a picture's latent reaches."""
    manifest = json.loads(files[MANIFEST])
    manifest["ranges"]["synthesis"] = (share * latent_range(files, [picture])).tolist()
    return files | {MANIFEST: json.dumps(manifest).encode()}


def noises(model: Any, files: dict[str, bytes]) -> tuple[float, float]:
    """Of 8-bit values, root mean square: what training adds, and how far the exported variant is from that."""
    inputs = example(latent=model.config.latent)
    with torch.no_grad():
        tensors = [torch.from_numpy(inputs[name]) for name in ("y_hat", "scale", "shift")]
        trained, plain = (model.eight_bits(model.synthesis, *tensors, values).numpy() for values in (True, False))
    coded = variant(files, inputs)[None]
    return tuple(float(np.sqrt(np.mean((one - trained) ** 2))) for one in (plain, coded))  # type: ignore[return-value]


def test_the_variant_computes_what_training_computes_with(bare: dict[str, bytes]) -> None:
    noise, error = noises(load_model(parse_bundle(bare, "here")).eval(), bare)
    assert noise > 1e-4
    # Not 0: where a sum of floats is another one in its last digits, a code is, and each that follows from it may be.
    assert error < 0.25 * noise


def test_the_latents_codes_are_symbols_and_its_leading_channels_float(bare: dict[str, bytes]) -> None:
    """With no blocks between only weights of the others are rounded: by half a unit, which a row's largest product gives."""
    model = load_model(parse_bundle(bare, "here")).eval()
    with torch.no_grad():
        model.synthesis.head.weight.zero_()
    files, inputs = bundle_files("few", model, {}), example()

    def difference() -> np.ndarray:
        with torch.no_grad():
            exact = model.synthesis(*(torch.from_numpy(inputs[name]) for name in ("y_hat", "scale", "shift"))).numpy()
        return np.abs(variant(files, inputs) - exact[0])

    weight, step = model.synthesis.shortcut_16.weight.detach().numpy()[:, LEADING:], inputs["step"][0, LEADING:, 0, 0]
    unit = np.abs(weight * step).max() / 127
    n_steps = np.abs(np.rint(inputs["y_hat"][0, LEADING:] / step[:, None, None])).sum(0).max()
    assert 1e-4 < difference().max() < unit / 2 * n_steps
    inputs["y_hat"][:, LEADING:] = 0
    assert difference().max() < 1e-5


def test_weights_in_the_order_of_blocks_give_the_same(bare: dict[str, bytes]) -> None:
    """Where the exporter merged layers of equal weights they stay in torch's order, and the variant brings them to the other."""
    model, inputs = load_model(parse_bundle(bare, "here")).eval(), example()
    plain, steps = export_network(*model.networks()["synthesis"]), model.int8_steps()["synthesis"]
    laid = channels_last(plain, pixels=True)
    one, other = (
        variant({f"{name}.int8.onnx": graph for name, graph in made.items()} | {"synthesis.onnx": data}, inputs)
        for data, made in ((data, quantized(data, steps, LEADING)) for data in (plain, laid))
    )
    assert b"up.weight/blocks_of_2" in laid and b"up.weight/blocks_of_2" not in plain
    assert one.std() > 0.01 and np.array_equal(one, other)


@pytest.mark.parametrize(("change", "n_leading"), [({"latent": 12}, 12), ({"latent": 48, "means": 36}, 39), ({}, LEADING)])
def test_channels_that_are_no_whole_steps_stay_float(change: dict[str, int], n_leading: int) -> None:
    """All with means, and where that is all of them nothing of the latent is in 8 bits."""
    model = Few(replace(LAYERS, **change)).eval()
    with torch.no_grad():
        model.synthesis.head.weight.normal_(std=0.02)
        for block in (*model.synthesis.blocks_16, *model.synthesis.blocks_8):
            block.mix_out.weight.normal_(std=0.05)
            block.reduce.weight.normal_(std=0.05)
    model.measure([torch.rand(2, 3, 64, 64)])
    assert model.eval().config.n_leading == n_leading
    files = bundle_files("few", model, {})
    nodes = onnx.load_from_string(files["synthesis.int8.onnx"]).graph.node
    assert any(node.output[0] == "latent/codes" for node in nodes) == (n_leading < model.config.latent)
    noise, error = noises(model, files)
    assert noise > 1e-4 and error < 0.25 * noise


def test_every_row_of_weights_makes_use_of_all_codes(bare: dict[str, bytes]) -> None:
    """Whatever the steps and the quality's scale are: its unit is of its own."""
    network = onnxruntime_engine(1)(with_weights(bare["synthesis_weights.int8.onnx"], bare["synthesis.onnx"], signed=True))
    wide = example() | {"step": np.geomspace(1e-3, 10, 40, dtype=np.float32)[None, :, None, None]}
    for inputs in (example(), wide):
        weights, place = network(**{name: inputs[name] for name in ("step", "scale", "shift")}), 0
        for n_rows in (768, 4 * 32, 32 + 64):  # the shortcut, up, and hidden units at 1/16
            n_codes = (40 - LEADING) * n_rows
            codes = weights[place : place + n_codes].reshape(40 - LEADING, n_rows)
            assert np.allclose(np.abs(codes).max(0), 127, atol=1e-4)
            place += n_codes


def test_the_steps_of_the_latents_codes(files: dict[str, bytes], bare: dict[str, bytes]) -> None:
    """Those of the quantizer, but no finer than the range allows, and those of the range where qualities differ by place."""
    model, free = (Model(each, "here", onnxruntime_engine(1), precision="int8") for each in (files, bare))
    widest = model.bundle.ranges["synthesis"] / 127
    for steps in (0, 5000, 10000):
        own = np.exp(floats_at(model.bundle.tables["inverse_gain"], steps))[0, :, 0, 0]
        assert np.allclose(model.pipeline.level(steps, "rgb").latent_step[0, :, 0, 0], np.maximum(own, widest))
        assert np.allclose(free.pipeline.level(steps, "rgb").latent_step[0, :, 0, 0], own)
    places = Places((9000, 4000), np.array([[0, 1]], np.uint8))
    assert np.allclose(model.pipeline.level(9000, "rgb", places).latent_step[0, :, 0, 0], widest)
    highest = np.exp(floats_at(model.bundle.tables["inverse_gain"], 9000))[0, :, 0, 0]
    assert np.allclose(free.pipeline.level(9000, "rgb", places).latent_step[0, :, 0, 0], highest)


def test_where_qualities_differ_within_a_tile_it_is_decoded_in_float32(
    files: dict[str, bytes], picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the variant's weights are those of one quality."""
    monkeypatch.setattr(hyperprior, "TILE_COLUMNS", 8)
    calm = picture(96, 768)
    plain, coarse = in_both(made_for(calm, files, 2))
    mask = np.zeros(calm.shape[:2], np.uint8)
    mask[:, 384:] = 255
    data = plain.encode(calm, 75, roi=mask, roi_drop=35)
    exact, rounded = (np.asarray(model.decode(data)).astype(int) for model in (plain, coarse))
    differs = [bool((exact[:, part : part + 128] != rounded[:, part : part + 128]).any()) for part in range(0, 768, 128)]
    assert differs[0] and differs[-1] and not any(differs[2:4])
    assert abs(psnr(calm, exact.astype(np.uint8)) - psnr(calm, rounded.astype(np.uint8))) < 0.1


def test_samples_of_16_bits_are_decoded_in_float32(files: dict[str, bytes], picture: Picture) -> None:
    plain, coarse = in_both(files)
    data = plain.encode(picture(96, 80), 60)
    deep, same = (model.decode_picture(data, depth=16).pixels for model in (plain, coarse))
    assert deep.dtype == np.uint16 and np.array_equal(deep, same)
    assert not np.array_equal(np.asarray(plain.decode(data)), np.asarray(coarse.decode(data)))


def test_weights_are_made_anew_where_the_quality_is_another(files: dict[str, bytes], picture: Picture) -> None:
    plain, coarse = in_both(files)
    pixels = picture(96, 80)
    once = {}
    for quality in (30, 80, 80, 30):
        data = plain.encode(pixels, quality)
        decoded = np.asarray(coarse.decode(data))
        assert abs(psnr(pixels, np.asarray(plain.decode(data))) - psnr(pixels, decoded)) < 0.1
        assert np.array_equal(once.setdefault(quality, decoded), decoded)


def test_a_variant_of_an_older_release_gives_planes_and_knows_no_steps(files: dict[str, bytes], picture: Picture) -> None:
    graph = onnx.load_from_string(files["synthesis.onnx"])
    del graph.graph.initializer[:]
    bundle = parse_bundle(files, "here")
    others = {name: data for name, data in files.items() if name not in BESIDE}
    older = pack_bundle(
        bundle.family, bundle.coding, bundle.card, others, {"synthesis.int8.onnx": graph.SerializeToString()}, bundle.ranges
    )
    pixels = picture(64, 130, 1)
    plain, coarse = in_both(older)
    data = plain.encode(pixels, 60)
    assert np.array_equal(np.asarray(plain.decode(data)), np.asarray(coarse.decode(data)))


def test_layers_with_equal_weights_are_exported_too(bare: dict[str, bytes]) -> None:
    """Export merges them, as in blocks that begin as the identity, and keeps them as matrices."""
    model = load_model(parse_bundle(bare, "here")).eval()
    with torch.no_grad():
        for block in model.synthesis.blocks_8:
            block.mix_out.weight.zero_()
    files = bundle_files("few", model, {})
    kernels = {item.name: item.dims for item in onnx.load_from_string(files["synthesis.onnx"]).graph.initializer}
    assert len(kernels["blocks_8.1.mix_out.weight"]) == 2
    noise, error = noises(model, files)
    assert noise > 1e-4 and error < 0.25 * noise


def test_weights_without_a_sign_give_the_same(files: dict[str, bytes]) -> None:
    signed, unsigned = (variant(files, example(), signed=signed) for signed in (True, False))
    assert np.array_equal(signed, unsigned)


def test_the_variant_has_no_weights_of_its_own(files: dict[str, bytes]) -> None:
    with pytest.raises(ModelError):
        onnxruntime_engine(1)(files["synthesis.int8.onnx"])


def test_its_products_are_of_integers_and_its_layout_never_changes_inside(files: dict[str, bytes], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    network = with_weights(files["synthesis.int8.onnx"], files["synthesis.onnx"], signed=True)
    onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    # At 1/8 a block with both branches, and one whose wider one never fires; at 1/16 only the spatial mixing.
    assert kinds["QLinearConv"] == (2 + 1) + 2 + 1
    # What those give; the latent's products; what the wider branch at 1/16, and `up`, read of hidden units there.
    assert kinds["MatMulIntegerToFloat"] == (1 + 1) + 1 + 3 + 2
    assert (kinds["Conv"], kinds["MatMul"]) == (0, 3 + 1)  # of the latent's leading channels; head
    # Leading channels, others; up to 1/8, and the shortcut to there.
    assert kinds["Transpose"] == 2 + 2
    assert kinds["QuantizeLinear"] == 3 + 2 + 1 + 1 + 1  # what blocks read at 1/8 and give at 1/16; the latent; weights; pixels
    assert not {"DequantizeLinear", "Gather", "Expand", "Cast"} & set(kinds)  # nothing else is computed of weights at every run


def test_training_goes_on_from_a_bundle_with_its_steps(run: Path, bare: dict[str, bytes]) -> None:
    model = load_model(parse_bundle(bare, "here"))
    assert model.eight_bits.known
    own, loaded = (dict(part.items()) for part in (checkpoint.load(run / checkpoint.TRUNK)["averaged"], model.state_dict()))
    names = [name for name in own if name.startswith("eight_bits.")]
    assert len(names) == 2 + 3 + 2 * 5  # sums; what is in 8 bits at 1/16, and in two blocks at 1/8
    assert all(torch.equal(loaded[name], own[name]) for name in names)


def test_the_same_model_gives_the_same_bytes(bare: dict[str, bytes]) -> None:
    """In another process, too, where sets of names have another order."""
    code = (
        "import sys; from pathlib import Path; from fewbits.training.export import load_bundle, load_model;"
        "from fewbits.training.quantization import quantized;"
        "b = load_bundle(Path(sys.argv[1])); steps = load_model(b).int8_steps()['synthesis'];"
        "sys.stdout.buffer.write(b''.join(quantized(b.networks['synthesis'], steps, 32).values()))"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, data in bare.items():
            (Path(folder) / name).write_bytes(data)
        made = [
            subprocess.run(
                [sys.executable, "-c", code, folder], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
            ).stdout
            for seed in ("1", "2")
        ]
    assert made[0] == made[1] == bare["synthesis.int8.onnx"] + bare["synthesis_weights.int8.onnx"]


def test_training_may_go_on_without_int8(bare: dict[str, bytes]) -> None:
    start = load_model(parse_bundle(bare, "here")).state_dict()
    state = grown(start, Few(replace(LAYERS, int8=0.0)))
    assert set(start) - set(state) == {name for name in start if name.startswith("eight_bits.")}


def test_steps_of_a_branch_that_was_left_out_are_measured_anew(files: dict[str, bytes]) -> None:
    model = load_model(parse_bundle(files, "here"))
    assert not model.eight_bits.known
    model.measure([torch.rand(2, 3, 64, 64)])
    assert model.eight_bits.known


def test_the_models_id_is_that_without_variants(files: dict[str, bytes]) -> None:
    bundle = parse_bundle(files, "here")
    assert list(bundle.variants) == ["int8"] and list(bundle.variants["int8"]) == ["synthesis", "synthesis_weights"]
    plain = {name: data for name, data in files.items() if name not in BESIDE}
    manifest = parse_manifest(pack_bundle(bundle.family, bundle.coding, {}, plain)[MANIFEST], "here")
    assert "variants" not in manifest and manifest_id(manifest) == bundle.model_id


def test_a_variant_that_is_damaged_or_of_no_network_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ModelError, match="synthesis.int8.onnx is damaged"):
        parse_bundle(files | {"synthesis.int8.onnx": b"?"}, "here")
    bundle = parse_bundle(files, "here")
    networks = {name: files[name] for name in files if name not in BESIDE}
    for name in ("prior.int8.onnx", "synthesis.int4.onnx", "synthesis.fp32.onnx", "int8.onnx"):
        with pytest.raises(ModelError, match="no variant of a network"):
            parse_bundle(pack_bundle(bundle.family, bundle.coding, {}, networks, {name: b""}), "here")


def test_files_of_one_precision_decode_in_the_other(files: dict[str, bytes], picture: Picture) -> None:
    models = {precision: Model(files, "here", onnxruntime_engine(1), precision=precision) for precision in ("fp32", "int8")}
    pixels = picture(64, 130, 1)  # within the range
    for quality in (20, 60, 100):
        data = {precision: model.encode(pixels, quality) for precision, model in models.items()}
        assert data["fp32"] == data["int8"]  # only synthesis has a variant
        decoded = {name: np.asarray(model.decode(data["fp32"])) for name, model in models.items()}
        assert not np.array_equal(*decoded.values())
        assert abs(psnr(pixels, decoded["fp32"]) - psnr(pixels, decoded["int8"])) < 0.1
        symbols = [model.symbols(data["fp32"]) for model in models.values()]
        assert all(np.array_equal(one, other) for one, other in zip(*symbols, strict=True))


def test_a_tile_beyond_the_range_is_decoded_in_float32(
    files: dict[str, bytes], picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture of which the range was measured is within it; a tile with a latent beyond it is float32's, others are not."""
    monkeypatch.setattr(hyperprior, "TILE_COLUMNS", 8)
    calm = picture(96, 512)
    plain, coarse = in_both(made_for(calm, files, 1.001))
    data = plain.encode(calm, 60)
    exact, rounded = (np.asarray(model.decode(data)).astype(int) for model in (plain, coarse))
    assert all((exact[:, part] != rounded[:, part]).any() for part in (slice(0, 128), slice(128, 384), slice(384, 512)))
    wild = calm.copy()
    wild[16:80, 440:504] = 255 * (np.indices((64, 64)).sum(0) % 2)[:, :, None] * np.array([1, 0, 1])
    data = plain.encode(wild, 60)
    exact, rounded = (np.asarray(model.decode(data)).astype(int) for model in (plain, coarse))
    assert np.array_equal(exact[:, 384:], rounded[:, 384:])
    assert (exact[:, :128] != rounded[:, :128]).any()


def test_a_range_of_other_channels_is_refused(files: dict[str, bytes]) -> None:
    manifest = json.loads(files[MANIFEST])
    manifest["ranges"]["synthesis"].pop()
    with pytest.raises(ModelError, match="the number of ranges of synthesis is missing or wrong"):
        Model(files | {MANIFEST: json.dumps(manifest).encode()}, "here", precision="int8")


def test_no_pictures_no_range(bare: dict[str, bytes]) -> None:
    assert parse_bundle(bare, "here").ranges == {}


def test_a_precision_that_a_model_lacks_is_refused(files: dict[str, bytes]) -> None:
    bundle = parse_bundle(files, "here")
    plain = {name: files[name] for name in files if name not in BESIDE}
    with pytest.raises(ModelError, match="precision is 'int8', this model has fp32"):
        Model(pack_bundle(bundle.family, bundle.coding, {}, plain), "here", precision="int8")


def test_an_amended_bundle_keeps_its_variants(files: dict[str, bytes]) -> None:
    changed, before = parse_bundle(amended(files, {}, {"name": "other"}), "here"), parse_bundle(files, "here")
    assert changed.variants == before.variants and changed.card["name"] == "other"
    assert list(changed.ranges) == ["synthesis"] and np.array_equal(changed.ranges["synthesis"], before.ranges["synthesis"])
    again = parse_bundle(amended(files, {"gain": np.asarray(changed.tables["gain"]) + 1}, {}), "here")
    assert again.model_id != changed.model_id and TABLES in files


def test_the_largest_values_are_those_of_all_pictures(
    files: dict[str, bytes], picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "channels_last", lambda data, *, pixels: data)
    files = bundle_files("few", load_model(parse_bundle(files, "here")), {})
    one, two = picture(64, 64, 1), picture(130, 96, 2)
    both = observed(files, [one, two], ["synthesis"])["synthesis"]
    first = observed(files, [one], ["synthesis"])["synthesis"]
    assert set(both) == set(first) and "y_hat" in both
    assert all((both[name] >= first[name]).all() for name in both)
    assert any((both[name] > first[name]).any() for name in both)

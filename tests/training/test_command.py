# SPDX-License-Identifier: MIT
"""`fewbits train` and `fewbits export`, from their options to files."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits import cli  # noqa: E402
from fewbits.codec import load_model  # noqa: E402
from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families import FAMILIES  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.families.settings import override  # noqa: E402
from fewbits.runtime.manifest import MANIFEST  # noqa: E402
from fewbits.training import checkpoint, command, export  # noqa: E402
from fewbits.training.loop import TrainConfig  # noqa: E402

TINY = [
    "latent=12", "hyper=4", "width_8=8", "depth_8=1", "width_16=8", "depth_16=1", "hyper_width=8",
    "lambdas=0.0018,0.0175,0.17", "batch=2", "crop=64", "warmup_steps=2", "cache_mb=8", "save_minutes=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and one batch instead of 64 for the start."""
    monkeypatch.setattr(command, "cores", lambda: 1)
    initialize = Few.initialize
    monkeypatch.setattr(Few, "initialize", lambda self, pictures, distortion: initialize(self, islice(pictures, 1), distortion))


@pytest.fixture
def fewbits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """fewbits("train", ...): exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fewbits", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize("family", FAMILIES)
def test_the_help_of_a_family_lists_every_setting_with_its_default(
    family: str, fewbits: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = fewbits("train", family, "--help")
    assert code == 0 and f"Settings of {family}" in out and "--anneal" in out
    words = out.split()
    config = FAMILIES[family][0]()
    for field in fields(config):
        value = getattr(config, field.name)
        shown = ",".join(f"{part:.6g}" if isinstance(part, float) else str(part) for part in value) if isinstance(
            value, tuple
        ) else f"{value:.6g}" if isinstance(value, float) else str(value)  # fmt: skip
        assert f"{field.name}={shown}" in words
        assert override(config, [f"{field.name}={shown}"]) == config or isinstance(value, float)
    others = [name for name in FAMILIES if name != family]
    assert not any(f"Settings of {other}" in out for other in others)


def test_the_help_without_a_family_lists_no_settings(fewbits: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = fewbits("train", "--help")
    assert code == 0 and "Settings of" not in out


def settings(values: list[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@pytest.fixture
def quick_export(tiny_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny run's networks as they were exported before: the exporter takes seconds for each."""
    networks = export.load_bundle(tiny_run.bundle).networks
    names = {
        "x": "analysis",
        "y": "hyper_analysis",
        "pyramid": "means",
        "z_hat bias_in bias_out": "scales",
        "y_hat": "synthesis",
    }

    def ready(_: object, inputs: dict[str, object]) -> bytes:
        given = [name for name in inputs if name not in ("scale", "shift")]
        return networks[names[" ".join(given)]]

    monkeypatch.setattr(export, "export_network", ready)


# --set


def test_settings_take_the_type_of_the_field() -> None:
    config = override(TrainConfig(), ["lr=1e-4", "batch=3", "optimizer=adamw"])
    assert config == replace(TrainConfig(), lr=1e-4, batch=3, optimizer="adamw")
    assert override(FewConfig(), ["lambdas=0.1,0.2"]).lambdas == (0.1, 0.2)
    assert override(TrainConfig(), []) == TrainConfig()


@pytest.mark.parametrize(
    "setting", ["nosuch=1", "lr", "=1", "", "batch=1.5", "batch=many", "lr=fast", "lambdas=0.1,x", "lambdas="]
)
def test_wrong_settings_are_named(setting: str) -> None:
    config = FewConfig() if setting.startswith("lambdas") else TrainConfig()
    with pytest.raises(TrainingError, match="--set "):
        override(config, [setting])


# Settings as options


def test_every_setting_is_an_option_of_its_own(
    fewbits: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dashes for underscores, before or after the family, beside --set."""
    given: list[list[str]] = []
    monkeypatch.setattr(command, "run_train", lambda *_, settings, **options: given.append([*settings, *options["exclude"]]))
    common = ["--data", "pictures", "--out", "run", "--steps", 1]
    options = ["--depth", 18, "--keep-epochs=5", "--set", "bits=2", "--vgg", "random", "--penalty", "", "--loss=mse=1e-5,vgg=0.1"]
    wanted = ["depth=18", "keep_epochs=5", "bits=2", "vgg=random", "penalty=", "loss=mse=1e-5,vgg=0.1"]
    assert fewbits("train", "resnet101", *common, *options) == (0, "", "")
    assert fewbits("train", *options, *common, "resnet101") == (0, "", "")
    assert fewbits("train", "slimcae", *common, "--widths", "2,4", "--lambdas", "1,2", "--exclude", "few") == (0, "", "")
    assert given == [wanted, wanted, ["widths=2,4", "lambdas=1,2", "few"]]


def test_options_without_a_value_stand_anywhere(
    fewbits: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, bool, int | None, list[str]]] = []

    def seen(family: str, *_: object, compiled: bool, profile_steps: int | None, settings: list[str], **__: object) -> None:
        given.append((family, compiled, profile_steps, settings))

    monkeypatch.setattr(command, "run_train", seen)
    common = ["--data", "pictures", "--out", "run"]
    assert fewbits("train", "--compile", "few", *common, "--depth-8", 4, "--steps", 1) == (0, "", "")
    assert fewbits("train", *common, "--compile", "few", "--depth-8", 4, "--profile-steps", 3)[0] == 0
    assert given == [("few", True, None, ["depth_8=4"]), ("few", True, 3, ["depth_8=4"])]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["klt", "--depth", 18], "No such option.*--depth"),  # another family's
        (["resnet101", "--nosuch", 1], "No such option.*--nosuch"),
        (["resnet101", "--keep_epochs", 1], "No such option.*--keep_epochs"),
        (["resnet101", "--depth"], "Option '--depth' requires an argument"),
        (["--depth", 18], "No such option.*--depth"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_unknown_options_are_wrong_usage(fewbits: Callable[..., tuple[int, str, str]], options: list[object], said: str) -> None:
    code, _, err = fewbits("train", "--data", "pictures", "--out", "run", "--steps", 1, *options)
    assert code == 2 and re.search(said, err)


def test_the_help_is_that_of_the_family_that_is_named(fewbits: Callable[..., tuple[int, str, str]]) -> None:
    """A folder may be named like a family."""
    code, out, _ = fewbits("train", "--out", "few", "klt", "--help")
    assert code == 0 and "Settings of klt" in out and "Settings of few" not in out
    code, _, err = fewbits("train", "nosuch", "--depth", 18)
    assert code == 1 and "family is 'nosuch', known are few" in err


# train


def test_train_then_anneal_then_export_then_encode(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path, quick_export: None
) -> None:
    """The way of the README, from pictures to a file made with one's own model."""
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    common = ["few", "--data", tiny_run.data, "--out", run, "--device", "cpu", *settings(TINY)]
    code, out, err = fewbits("train", *common, "--steps", 2)
    assert (code, err) == (0, "") and "trunk.pt holds step 2" in out
    code, out, _ = fewbits("train", *common, "--anneal", 1, "--steps", 2)
    assert code == 0 and "annealed.pt holds step 4" in out
    assert fewbits("export", run, bundle)[0] == 0
    assert json.loads((bundle / MANIFEST).read_text())["card"]["annealed"] is True
    Image.new("RGB", (20, 10), (90, 60, 30)).save(tmp_path / "a.png")
    assert fewbits("encode", tmp_path / "a.png", "--model", bundle, "--threads", 1) == (0, "", "")
    assert fewbits("decode", tmp_path / "a.few", tmp_path / "b.png", "--model", bundle)[0] == 0
    code, _, err = fewbits("decode", tmp_path / "a.few", tmp_path / "c.png")
    assert code == 1 and "which is not installed" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["few"], "say how long to train"),
        (["nosuch", "--steps", 1], "family is 'nosuch', known are few"),
        (["few", "--steps", 0], "steps is 0, it must be above 0"),
        (["few", "--anneal", 1, "--minutes", 1], "--anneal brings its own minutes"),
        (["few", "--anneal", 1], "no checkpoint"),
        (["few", "--steps", 1, "--set", "nosuch=1"], "--set nosuch=1"),
        (["few", "--steps", 1, "--init", "missing"], "missing"),
        (["few", "--steps", 1, "--device", "nosuch"], "device is 'nosuch'"),
        (["few", "--steps", 1, "--exclude", "*"], "no pictures"),
        (["few", "--steps", 1, "--validation", "missing"], "missing does not exist"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_cannot_be_trained_is_one_line(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path, options: list[object], message: str
) -> None:
    tiny = settings(TINY) if "nosuch" not in options else []
    code, _, err = fewbits("train", *options, "--data", tiny_run.data, "--out", tmp_path / "run", *tiny)
    assert code == 1 and err.startswith("fewbits: ") and err.count("\n") == 1 and message in err


def test_broken_pictures_are_a_line_each_and_counted(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"broken")
    Image.fromarray(picture(64, 64)).save(tmp_path / "c.png")
    Image.fromarray(picture(20, 64)).save(tmp_path / "small.png")
    held_out = [part for name in ("c.png", "small.png") for part in ("--validation", tmp_path / name)]
    common = ["few", "--data", tmp_path, "--out", tmp_path / "run", "--device", "cpu", "--steps", 1, *settings(TINY)]
    code, out, err = fewbits("train", *common, *held_out)
    assert code == 0 and out.startswith("2 pictures, 1 for validation, 3 skipped, on cpu\n")
    lines = err.splitlines()
    assert len(lines) == 3 and all(line.startswith("fewbits: skipped ") for line in lines)
    assert [sum(name in line for line in lines) for name in ("a.png", "b.jpg", "picture of 64x20")] == [1, 1, 1]


def test_settings_of_the_machine_may_change_from_call_to_call(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_run.run, tmp_path / "run")
    common = ["few", "--data", tiny_run.data, "--out", run, "--device", "cpu", "--steps", 1]
    assert fewbits("train", *common, "--cache-mb", 16, "--save-minutes", 2)[0] == 0
    assert fewbits("train", *common)[0] == 0
    assert checkpoint.load_config(run)["train"]["cache_mb"] == 16


def test_other_settings_for_a_run_that_exists_are_refused(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_run.run, tmp_path / "run")
    changed = settings([*TINY, "lr=0.5"])
    code, _, err = fewbits("train", "few", "--data", tiny_run.data, "--out", run, "--steps", 1, *changed)
    assert code == 1 and "holds other settings than these: lr is 0.003 there, 0.5 here; go on with" in err


def test_settings_that_fail_are_not_kept(fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path) -> None:
    """A first try with wrong data must not bind the next one to its settings."""
    common = ["few", "--out", tmp_path / "run", "--steps", 1, "--device", "cpu", *settings(TINY)]
    assert fewbits("train", *common, "--data", tmp_path / "missing", "--set", "lr=0.5")[0] == 1
    code, _, err = fewbits("train", *common, "--data", tiny_run.data)
    assert (code, err) == (0, "")


def test_init_begins_from_the_weights_of_a_bundle(fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path) -> None:
    """With a learning rate of nearly zero the weights after a step are those of the bundle; so is the architecture."""
    rates = settings(
        [value for value in TINY if value.split("=")[0] not in ("lambdas", "latent")] + ["lr=1e-30", "matrix_lr=1e-30"]
    )
    options = ["--data", tiny_run.data, "--out", tmp_path / "run", "--init", tiny_run.bundle, "--steps", 1, "--device", "cpu"]
    code, out, err = fewbits("train", "few", *options, *rates)
    assert (code, err) == (0, "")
    start = export.load_model(export.load_bundle(tiny_run.bundle)).state_dict()
    state = checkpoint.load(tmp_path / "run" / "trunk.pt")
    for part in ("model", "averaged"):
        assert all(torch.allclose(state[part][name], value, atol=1e-6) for name, value in start.items())


def test_init_from_another_family_is_refused(tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = export.load_bundle(tiny_run.bundle)
    monkeypatch.setattr(export, "load_bundle", lambda _: type(bundle)("other", *list(vars(bundle).values())[1:]))
    options = {"minutes": None, "steps": 1, "anneal": None, "exclude": [], "validation": [], "settings": [], "device": "cpu"}
    with pytest.raises(TrainingError, match="is of family other, not few"):
        command.run_train("few", [], tmp_path, init=tmp_path, **options)


# export


def test_export_makes_the_same_bundle_of_the_same_run(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path, quick_export: None
) -> None:
    assert fewbits("export", tiny_run.run, tmp_path / "again")[0] == 0
    for name in ("tables.npz", "analysis.onnx"):
        assert (tmp_path / "again" / name).read_bytes() == (tiny_run.bundle / name).read_bytes()


def test_export_takes_more_entries_for_the_card_and_measures_a_curve(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path, quick_export: None
) -> None:
    (tmp_path / "card.json").write_text('{"licence": "CC0", "note": "for a test"}')
    options = ["--card", tmp_path / "card.json", "--measure", tiny_run.data]
    code, out, err = fewbits("export", tiny_run.run, tmp_path / "bundle", *options)
    assert (code, err) == (0, "") and f"{tmp_path / 'bundle'} holds a model" in out
    card = json.loads((tmp_path / "bundle" / MANIFEST).read_text())["card"]
    assert (card["licence"], card["note"]) == ("CC0", "for a test")
    assert card["curve"]["pictures"] == [tiny_run.data.name]
    points = card["curve"]["points"]
    assert [point["quality"] for point in points] == [0, 20, 40, 60, 80, 100]
    for name in ("bpp", "psnr"):
        values = [point[name] for point in points]
        assert values == sorted(values) and values[0] > 0
    assert load_model(tmp_path / "bundle").bundle.model_id == load_model(tiny_run.bundle).bundle.model_id


def test_export_tells_that_the_trunk_has_gone_on_since_it_was_annealed(
    fewbits: Callable[..., tuple[int, str, str]], tiny_run, tmp_path: Path, quick_export: None
) -> None:
    run = shutil.copytree(tiny_run.run, tmp_path / "run")
    state = checkpoint.load(run / "trunk.pt")
    for trunk_step, told in (
        (5, ""),
        (3, "is of the trunk's step 3, and the trunk has 2 steps more: --anneal anew takes them in;"),
    ):
        checkpoint.save(run / "annealed.pt", state | {"trunk_step": trunk_step})
        code, _, err = fewbits("export", run, tmp_path / "bundle")
        assert code == 0 and told in err and err.count("\n") == bool(told) and err.startswith("fewbits: " if told else "")


def test_the_curve_is_measured_on_files_and_decoded_pictures(tiny_run, tmp_path: Path) -> None:
    flat = np.full((32, 32, 3), 128, np.uint8)
    Image.fromarray(flat).save(tmp_path / "flat.png")
    model = load_model(tiny_run.bundle, threads=1)
    points = command.measure(model, [tmp_path])
    data = model.encode(flat, 40)
    mse = np.square(np.asarray(model.decode(data), float) - flat).mean()
    assert points[2]["bpp"] == round(8 * len(data) / 1024, 4)
    assert points[2]["psnr"] == pytest.approx(10 * np.log10(255**2 / max(mse, 1e-6)), abs=0.001)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "missing"}, "is no training run"),
        ({"card": "missing.json"}, "--card "),
        ({"card": "broken.json"}, "--card "),
        ({"card": "list.json"}, "--card "),
        ({"bundle": "."}, "exists and is no bundle"),
        ({"measure": "missing"}, "does not exist"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_one_line(
    fewbits: Callable[..., tuple[int, str, str]],
    tiny_run,
    tmp_path: Path,
    quick_export: None,
    change: dict[str, str],
    message: str,
) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1, 2]")
    run = tmp_path / change["run"] if "run" in change else tiny_run.run
    options = [part for name in ("card", "measure") if name in change for part in (f"--{name}", tmp_path / change[name])]
    code, out, err = fewbits("export", run, tmp_path / change.get("bundle", "bundle"), *options)
    assert code == 1 and err.startswith("fewbits: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "bundle").exists()

# SPDX-License-Identifier: MIT
"""The training loop: it goes on after any kill, anneals a copy, and stops on a NaN with the last good checkpoint."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.families.slimcae import SlimCae, SlimCaeConfig  # noqa: E402
from fewbits.training import checkpoint, loop  # noqa: E402
from fewbits.training.loop import Budget, Run, TrainConfig, grown, make_optimizers, pick_device, train  # noqa: E402
from fewbits.training.muon import Muon  # noqa: E402

Picture = Callable[..., np.ndarray]
MODEL = FewConfig(latent=12, hyper=4, width_8=8, depth_8=1, width_16=8, depth_16=1, hyper_width=8, lambdas=(0.0018, 0.0175, 0.17))
CONFIG = TrainConfig(batch=2, crop=64, warmup_steps=2, cache_mb=8, save_minutes=0.0)  # saves after every step


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and one batch instead of 64 for the start."""
    torch.set_num_threads(1)
    initialize = Few.initialize
    monkeypatch.setattr(Few, "initialize", lambda self, pictures, distortion: initialize(self, islice(pictures, 1), distortion))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, size in enumerate([(96, 80), (20, 30)]):  # one is smaller than a crop
        Image.fromarray(picture(*size, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Path:
    """A picture for validation."""
    path = tmp_path_factory.mktemp("held out") / "0.png"
    Image.fromarray(picture(96, 80)).save(path)
    return path


def go(data: Path, out: Path, steps: int, **options: object) -> list[str]:
    """Train in this process; what it reported."""
    said: list[str] = []
    options = {"model_config": MODEL, "config": CONFIG, "device": "cpu", "report": said.append} | options
    train("few", [data], out, Budget(steps=steps), **options)  # type: ignore[arg-type]
    return said


def weights(path: Path) -> torch.Tensor:
    return torch.cat([part.flatten().double() for part in checkpoint.load(path)["model"].values()])


def test_a_trained_model_grows_by_blocks_and_keeps_what_it_computes() -> None:
    torch.manual_seed(0)
    small, large = Few(MODEL).eval(), Few(replace(MODEL, depth_8=2, analysis_extra_8=1, depth_16=2)).eval()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    large.load_state_dict(grown(small.state_dict(), large))
    x = torch.rand(1, 3, 64, 128)
    assert len(large.state_dict()) > len(small.state_dict())
    assert torch.allclose(large.estimate(x, 1.0).x_hat, small.estimate(x, 1.0).x_hat, atol=1e-5)


@pytest.mark.parametrize(("change", "named"), [({"latent": 16}, "analysis.head.weight"), ({"depth_8": 0}, "blocks_8")])
def test_a_model_cannot_grow_wider_nor_lose_blocks(change: dict[str, int], named: str) -> None:
    with pytest.raises(TrainingError, match=f"--init cannot fill .*({named}).*whole blocks"):
        grown(Few(MODEL).state_dict(), Few(replace(MODEL, **change)))


@pytest.fixture
def run(tiny_run, tmp_path: Path) -> Path:
    """A copy of the tiny run, at step 5."""
    assert (tiny_run.model_config, tiny_run.config) == (MODEL, CONFIG)
    return Path(shutil.copytree(tiny_run.run, tmp_path / "copy"))


# Going on


def test_training_moves_the_weights_and_counts_its_steps(data: Path, tmp_path: Path) -> None:
    said = go(data, tmp_path / "run", 2)
    assert said[0] == "2 pictures, 0 for validation, on cpu" and said[1].startswith("train from step 0")
    first = weights(tmp_path / "run" / "trunk.pt")
    assert checkpoint.load(tmp_path / "run" / "trunk.pt")["step"] == 2
    said = go(data, tmp_path / "run", 1)
    assert said[1].startswith("train from step 2")
    assert checkpoint.load(tmp_path / "run" / "trunk.pt")["step"] == 3
    assert not torch.equal(weights(tmp_path / "run" / "trunk.pt"), first)


def test_the_same_seed_trains_the_same_model(data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        go(data, tmp_path / name, 2, config=replace(CONFIG, seed=seed))
    one, two, three = (weights(tmp_path / name / "trunk.pt") for name in ("one", "two", "three"))
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_a_restored_run_is_the_run_that_was_saved() -> None:
    """Weights, averages, optimizers and counters: one more step from either is the same step."""
    first, second = (Run("few", MODEL, CONFIG, torch.device("cpu")) for _ in range(2))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    for _ in range(3):
        first.train_step(pixels, 1.0)
    second.restore(copy.deepcopy(first.state()))
    for each in (first, second):
        torch.manual_seed(1)
        each.train_step(pixels, 0.5)
    assert first.step == second.step == 4
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
        assert torch.equal(first.averaged[key], second.averaged[key]), key


KILLED = """
import os, signal, sys
from itertools import islice
from pathlib import Path
import torch
from fewbits.families.few import Few, FewConfig
from fewbits.training.loop import Budget, TrainConfig, train

torch.set_num_threads(1)
initialize, save, n_saves = Few.initialize, torch.save, 0
Few.initialize = lambda self, pictures, distortion: initialize(self, islice(pictures, 1), distortion)

def killed_in_the_third_save(state, file):
    global n_saves
    n_saves += 1
    if n_saves == 3:
        file.write(b"half of a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)

torch.save = killed_in_the_third_save
data, out = map(Path, sys.argv[1:])
train("few", [data], out, Budget(steps=50), model_config={model!r}, config={config!r}, device="cpu")
"""


def test_a_killed_run_goes_on_from_its_last_save(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code = KILLED.format(model=MODEL, config=CONFIG)
    result = subprocess.run([sys.executable, "-c", code, data, out], check=False, stdout=subprocess.DEVNULL)
    assert result.returncode == -signal.SIGKILL
    assert checkpoint.load(out / "trunk.pt")["step"] == 2
    said = go(data, out, 2)
    assert said[1].startswith("train from step 2")
    assert checkpoint.load(out / "trunk.pt")["step"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_request_saves_and_ends(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    step = Run.train_step

    def stopped(self: Run, *arguments: object) -> object:
        if self.step == 1:
            os.kill(os.getpid(), number)
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "train_step", stopped)
    before = signal.getsignal(number)
    go(data, tmp_path / "run", 50, config=replace(CONFIG, save_minutes=99.0))
    assert checkpoint.load(tmp_path / "run" / "trunk.pt")["step"] == 2
    assert signal.getsignal(number) is before


def test_a_run_with_other_settings_is_refused(data: Path, run: Path) -> None:
    before = (run / "trunk.pt").read_bytes()
    for change in ({"config": replace(CONFIG, lr=1.0)}, {"model_config": replace(MODEL, latent=13)}):
        with pytest.raises(TrainingError, match="holds other settings"):
            go(data, run, 1, **change)
    assert (run / "trunk.pt").read_bytes() == before


# Copies of the trunk


def test_copies_of_the_trunk_are_kept_every_so_many_epochs(data: Path, tmp_path: Path) -> None:
    """Two pictures are one step of two crops; every copy can be gone on from."""
    config = replace(CONFIG, save_minutes=99.0, keep_epochs=2)
    go(data, tmp_path / "run", 3, config=config)
    go(data, tmp_path / "run", 2, config=config)
    kept = sorted(path.name for path in (tmp_path / "run").glob("trunk-*.pt"))
    assert kept == ["trunk-2.pt", "trunk-4.pt"]
    assert [checkpoint.load(tmp_path / "run" / name)["step"] for name in kept] == [2, 4]
    (tmp_path / "run" / kept[0]).replace(tmp_path / "run" / checkpoint.TRUNK)
    assert go(data, tmp_path / "run", 1, config=config)[1].startswith("train from step 2")
    go(data, tmp_path / "run", 4, config=config, anneal=True)
    assert sorted(path.name for path in (tmp_path / "run").glob("trunk-*.pt")) == ["trunk-4.pt"]


def test_two_trainings_do_not_share_a_folder(data: Path, run: Path) -> None:
    pytest.importorskip("fcntl")
    trunk = (run / "trunk.pt").read_bytes()
    with checkpoint.alone(run):
        for anneal in (False, True):
            with pytest.raises(TrainingError, match="another training is writing there: wait for it, or choose another --out"):
                go(data, run, 1, anneal=anneal)
    assert (run / "trunk.pt").read_bytes() == trunk
    go(data, run, 1)
    go(data, run, 1)


def test_a_folder_that_cannot_be_is_refused_before_pictures_are_read(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, why in ((tmp_path / "file", "it is a file, it must be a folder"), (tmp_path / "file" / "run", "Not a directory")):
        with pytest.raises(TrainingError, match=f"--out {out}: {why}"):
            go(tmp_path / "no pictures", out, 1)


def test_what_cannot_begin_does_not_bind_the_next_try(data: Path, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise TrainingError("no weights")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError, match="no weights"):
        patch.setattr(Few, "initialize", broken)
        go(data, tmp_path / "run", 1, config=replace(CONFIG, lr=0.5))
    go(data, tmp_path / "run", 1)


def test_what_fails_before_its_first_weights_does_not_bind_either(data: Path, tmp_path: Path) -> None:
    """The loss refuses the crops only at the first step, when the settings are there."""
    with pytest.raises(TrainingError, match="the loss ms-ssim needs at least 161 pixels a side"):
        go(data, tmp_path / "run", 1, config=replace(CONFIG, loss="ms-ssim=1"))
    assert (tmp_path / "run" / "config.json").exists()
    go(data, tmp_path / "run", 1)
    assert checkpoint.load_config(tmp_path / "run")["train"]["loss"] == "mse"


@pytest.mark.parametrize(
    ("family", "crop", "multiple"),
    [("few", 96, 64), ("slimcae", 72, 16), ("cae-pca", 100, 8), ("resnet-ae", 100, 8), ("resnet101", 96, 64)],
)
def test_a_crop_that_the_networks_cannot_take_is_refused(
    data: Path, tmp_path: Path, family: str, crop: int, multiple: int
) -> None:
    with pytest.raises(TrainingError, match=f"crop is {crop}, it must be a multiple of {multiple} pixels"):
        train(family, [data], tmp_path / "run", Budget(steps=1), config=replace(CONFIG, crop=crop), device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("batch", 0, "at least 1"), ("crop", 0, "at least 1"), ("warmup_steps", -1, "at least 0"),
        ("lr", float("nan"), "above 0"), ("lr", -1.0, "above 0"), ("lr", 0.0, "above 0"), ("lr", float("inf"), "above 0"),
        ("matrix_lr", -1.0, "above 0"),
        ("shortcut_lr", -0.1, "at least 0"), ("seed", -1, "0 to 9223372036854775807"),
        ("ema", 2.0, "0 to 1"), ("ema", -1.0, "0 to 1"),
        ("clip", -1.0, "above 0"), ("clip", 0.0, "above 0"), ("keep_epochs", -1, "at least 0"),
        ("save_minutes", -1.0, "at least 0"), ("validate_minutes", float("nan"), "at least 0"), ("cache_mb", 0, "at least 1"),
        ("schedule_steps", -1, "at least 0"),
    ],
)  # fmt: skip
def test_settings_that_nothing_can_be_trained_with_are_refused(name: str, value: float, allowed: str) -> None:
    with pytest.raises(TrainingError, match=f"^{name} is {value}, it must be {allowed}"):
        replace(CONFIG, **{name: value})


def test_what_has_no_end_may_be_infinite() -> None:
    endless = {"clip": float("inf"), "validate_minutes": float("inf"), "save_minutes": float("inf")}
    assert replace(CONFIG, **endless).clip == float("inf")


def test_a_rate_without_warmup_is_whole_at_once(data: Path, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 1, config=replace(CONFIG, warmup_steps=0))
    for optimizer in checkpoint.load(tmp_path / "run" / "trunk.pt")["optimizers"]:
        assert all(group["lr"] == group["base_lr"] for group in optimizer["param_groups"])


def test_validation_pictures_are_cut_to_whole_positions_and_small_ones_left_out(
    data: Path, tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no bits are counted that no file has."""
    (tmp_path / "held").mkdir()
    for name, size in (("a", (70, 129)), ("b", (64, 63)), ("c", (10, 300))):
        Image.fromarray(picture(*size)).save(tmp_path / "held" / f"{name}.png")
    seen: list[list[np.ndarray]] = []
    validate = Run.validate
    monkeypatch.setattr(Run, "validate", lambda self, pictures: seen.append(pictures) or validate(self, pictures))
    with pytest.warns(UserWarning) as warned:
        said = go(data, tmp_path / "run", 1, validation=[tmp_path / "held"])
    texts = [str(warning.message) for warning in warned]
    assert texts == [f"skipped a validation picture of {size}: it needs 64 pixels a side" for size in ("63x64", "300x10")]
    assert said[0].startswith("2 pictures, 1 for validation")
    assert len(seen) == 1 and np.array_equal(seen[0][0], picture(70, 129)[:64, :128])
    with pytest.warns(UserWarning), pytest.raises(TrainingError, match="validation: none of 1 pictures can be used"):
        go(data, tmp_path / "other", 1, validation=[tmp_path / "held" / "c.png"])


def test_validation_counts_the_bits_that_a_model_estimates_of_the_picture(picture: Picture) -> None:
    run, pixels = Run("few", MODEL, CONFIG, torch.device("cpu")), picture(64, 128)
    run.model.eval()
    with torch.no_grad():
        out = run.model.estimate(loop.to_tensor(pixels[None], torch.device("cpu")), 1.0)
    rows = {row["setting"]: row["bpp"] for row in run.validate([pixels])}
    assert rows[1.0] == pytest.approx((out.y_bits + out.z_bits).item() / (64 * 128), rel=1e-5)


# Lambda scheduling


def test_lambda_scheduling_goes_on_through_kills_until_it_is_done(
    data: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SlimCaeConfig(widths=(3, 5), lambdas=(100.0, 100.0), start="random")
    config = replace(CONFIG, loss="mse=0.001", schedule_steps=2)
    seen: list[list[tuple[float, float]]] = []
    reschedule = SlimCae.reschedule

    def watched(self: SlimCae, points: list[tuple[float, float]]) -> bool:
        seen.append(points)
        return reschedule(self, [(0.2, 1.0), (0.1, 2.0)])  # a narrow width that is worse and larger: lower and lower

    monkeypatch.setattr(SlimCae, "reschedule", watched)
    for steps in (5, 30):
        train("slimcae", [data], tmp_path / "run", Budget(steps=steps), model_config=model, config=config,
              validation=[held_out], device="cpu", report=lambda _: None)  # fmt: skip
    assert len(seen) == 8 and all(len(points) == 2 and np.isfinite(points).all() for points in seen)
    lambdas = checkpoint.load(tmp_path / "run" / "trunk.pt")["model"]["lambdas"]
    assert lambdas.tolist() == pytest.approx([100 * 0.8**7, 100])


def test_lambda_scheduling_needs_a_slimmable_family_and_pictures(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="schedule_steps is 5: that needs a slimmable family and --validation"):
        go(data, tmp_path / "run", 1, config=replace(CONFIG, schedule_steps=5), validation=[data])
    assert not (tmp_path / "run").exists()


# Annealing


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates that steps were made with, as parts of the whole."""
    seen: list[float] = []
    step = Run.train_step

    def recording(self: Run, pixels: np.ndarray, rate: float) -> dict[str, float]:
        seen.append(rate)
        return step(self, pixels, rate)

    monkeypatch.setattr(Run, "train_step", recording)
    return seen


def test_an_anneal_takes_a_copy_to_zero_and_leaves_the_trunk(data: Path, run: Path, rates: list[float]) -> None:
    trunk = (run / "trunk.pt").read_bytes()
    go(data, run, 4, anneal=True)
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25])
    assert (run / "trunk.pt").read_bytes() == trunk
    state = checkpoint.load(run / "annealed.pt")
    assert (state["step"], state["trunk_step"]) == (9, 5) and not (run / "annealing.pt").exists()
    go(data, run, 1)
    assert checkpoint.load(run / "trunk.pt")["step"] == 6 and rates[-1] == 1


def test_an_anneal_that_was_stopped_goes_on(data: Path, run: Path, rates: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    save = checkpoint.save

    def killed(path: Path, state: dict) -> None:  # type: ignore[type-arg]
        save(path, state)
        if state["anneal_steps"] == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save", killed)
        go(data, run, 4, anneal=True)
    assert not (run / "annealed.pt").exists()  # so nothing half annealed is exported
    said = go(data, run, 4, anneal=True)
    assert said[1].startswith("anneal from step 7")
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25])
    assert checkpoint.load(run / "annealed.pt")["step"] == 9


def test_an_anneal_on_its_way_is_not_given_up_for_another(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._StopRequest, "requested", property(lambda self: True, lambda self, value: None), raising=False)
    go(data, run, 4, anneal=True)
    monkeypatch.undo()
    half = (run / "annealing.pt").read_bytes()
    said = "annealing.pt is an anneal begun with --steps 4 at the trunk's step 5, now at step 5: "
    with pytest.raises(TrainingError, match=f"{said}the same goes on with it; delete that file to begin anew"):
        go(data, run, 5, anneal=True)
    go(data, run, 1)
    with pytest.raises(TrainingError, match=f"{said}the trunk has gone on since; delete that file to begin anew"):
        go(data, run, 4, anneal=True)
    assert (run / "annealing.pt").read_bytes() == half
    (run / "annealing.pt").unlink()
    go(data, run, 5, anneal=True)
    assert checkpoint.load(run / "annealed.pt")["step"] == 11


def test_a_budget_of_an_anneal_is_told_by_its_options() -> None:
    assert Budget(minutes=25).of_anneal() == "--anneal 25" and Budget(7.5, 8200).of_anneal() == "--anneal 7.5 --steps 8200"


def test_a_family_that_is_fitted_is_validated_and_says_that_there_is_nothing_to_anneal(
    data: Path, held_out: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    options = {"device": "cpu", "report": said.append, "config": CONFIG, "validation": [held_out]}
    train("klt", [data], tmp_path / "run", Budget(steps=1), **options)  # type: ignore[arg-type]
    assert [line.partition(" bpp")[0][:25] for line in said].count("validation: level 15.00: ") == 1
    assert "validation_bpp@15.00" in (tmp_path / "run" / "log.csv").read_text()
    said.clear()
    train("klt", [data], tmp_path / "run", Budget(minutes=1), anneal=True, **options)  # type: ignore[arg-type]
    assert len(said) == 1 and "the family klt is fitted when its run begins: there is nothing to anneal" in said[0]
    assert not (tmp_path / "run" / "annealing.pt").exists()


def test_a_second_anneal_starts_from_the_trunk_again(data: Path, run: Path, rates: list[float]) -> None:
    go(data, run, 2, anneal=True)
    said = go(data, run, 2, anneal=True)
    assert said[1].startswith("anneal from step 5")
    assert rates == pytest.approx([1, 0.5, 1, 0.5])


def test_there_is_nothing_to_anneal_without_a_trunk(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint .*trunk.pt"):
        go(data, tmp_path / "new", 2, anneal=True)


# Failing


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_nan_stops_the_run_and_keeps_the_last_checkpoint(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    loss, calls = Few.loss, 0

    def failing(self: Few, *args: object) -> object:
        nonlocal calls
        calls += 1
        value, parts = loss(self, *args)
        if calls < 3:
            return value, parts
        if what == "loss":
            return value * float("nan"), parts
        return value + (self.log_gain.sum() * 0).sqrt(), parts  # the root's slope at 0 is infinite, times 0

    monkeypatch.setattr(Few, "loss", failing)
    with pytest.raises(TrainingError, match="nan.* at step 7; the last good checkpoint is kept"):
        go(data, run, 50)
    state = checkpoint.load(run / "trunk.pt")
    assert state["step"] == 7
    assert all(part.isfinite().all() for part in state["model"].values())


def test_wrong_options_are_training_errors(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="optimizer is 'lion', it must be muon, adamw or sgd"):
        go(data, tmp_path / "run", 1, config=replace(CONFIG, optimizer="lion"))
    for name in ("nosuch", "cuda:77", "tpu"):
        with pytest.raises(TrainingError, match=f"device is '{name}'"):
            pick_device(name)
    with pytest.raises(TrainingError, match="family is 'many', known are few"):
        Run("many", MODEL, CONFIG, torch.device("cpu"))
    with pytest.raises(TrainingError, match="precision is 'float16', it must be auto, bfloat16 or float32"):
        Run("few", MODEL, replace(CONFIG, precision="float16"), torch.device("cpu"))
    with pytest.raises(TrainingError, match="does not exist"):
        go(tmp_path / "missing", tmp_path / "run", 1)


@pytest.mark.parametrize(
    ("precision", "capable", "expected"),
    [("auto", True, "bfloat16"), ("auto", False, "float32"), ("float32", True, "float32"), ("bfloat16", False, "bfloat16")],
)
def test_products_are_in_bfloat16_where_that_is_fast_or_asked_for(
    precision: str, capable: bool, expected: str, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "has_bfloat16", lambda: capable)
    run = Run("few", MODEL, replace(CONFIG, precision=precision), torch.device("cpu"))
    seen: list[torch.dtype] = []
    run.model.analysis.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    run.train_step(np.stack([picture(64, 64)] * 2), 1.0)
    assert seen == [getattr(torch, expected)]
    assert [optimizer.dtype for optimizer in run.optimizers if isinstance(optimizer, Muon)] == seen


# Budgets


def test_a_budget_is_spent_by_time_or_steps_whichever_comes_first() -> None:
    assert Budget(minutes=2).spent(30, 10**6) == 0.25
    assert Budget(steps=8).spent(10**6, 2) == 0.25
    assert Budget(minutes=2, steps=8).spent(60, 2) == 0.5
    assert Budget(minutes=2, steps=8).spent(30, 6) == 0.75
    assert Budget(minutes=2, steps=8).spent(1000, 0) == 1


@pytest.mark.parametrize("options", [{}, {"minutes": 0}, {"steps": 0}, {"minutes": -1.0, "steps": 5}, {"minutes": float("nan")}])
def test_a_budget_has_an_end(options: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        Budget(**options)  # type: ignore[arg-type]


# Optimizers, averages, validation


@pytest.mark.parametrize(("name", "types"), [("muon", ["AdamW", "Muon"]), ("adamw", ["AdamW"]), ("sgd", ["SGD"])])
def test_every_parameter_has_one_optimizer(name: str, types: list[str]) -> None:
    model = Few(MODEL)
    optimizers = make_optimizers(model, replace(CONFIG, optimizer=name), torch.float32)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    assert [type(optimizer).__name__ for optimizer in optimizers] == types
    by_id = {id(parameter): group["base_lr"] for group in groups for parameter in group["params"]}
    assert by_id[id(model.analysis.shortcut.weight)] == CONFIG.lr * (1 if name == "sgd" else CONFIG.shortcut_lr)
    assert by_id[id(model.log_gain)] == CONFIG.lr


def test_the_average_follows_the_weights() -> None:
    run = Run("few", MODEL, replace(CONFIG, ema=0.9), torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    expected = run.model.log_gain.detach().clone()
    for step in range(1, 6):
        run.train_step(pixels, 1.0)
        decay = min(0.9, step / (step + 10))
        expected = decay * expected + (1 - decay) * run.model.log_gain.detach()
        assert torch.allclose(run.averaged["log_gain"], expected, atol=1e-6)


def test_the_warm_up_rises_to_the_whole_rate() -> None:
    run = Run("few", MODEL, replace(CONFIG, warmup_steps=4), torch.device("cpu"))
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    seen = []
    for _ in range(6):
        run.train_step(pixels, 0.5)
        seen.append(run.optimizers[0].param_groups[0]["lr"] / CONFIG.lr)
    assert seen == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_validation_measures_the_average_and_changes_nothing(picture: Picture) -> None:
    run = Run("few", MODEL, CONFIG, torch.device("cpu"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    rows = run.validate([picture(64, 64), picture(64, 128)])
    assert [row["setting"] for row in rows] == list(run.model.settings)
    assert all(row["bpp"] > 0 and np.isfinite(row["psnr"]) for row in rows)
    assert run.model.training
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(0 < row["ssim"] < 1 for row in rows)
    run.averaged["log_gain"] += 1  # a finer quantizer, in the average only
    finer = run.validate([picture(64, 64), picture(64, 128)])
    assert all(fine["bpp"] > row["bpp"] for fine, row in zip(finer, rows, strict=True))


def test_the_log_has_a_row_for_each_quantity(data: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "train_step", fake_step)
    go(data, tmp_path / "run", 50, config=replace(CONFIG, save_minutes=99.0), validation=[held_out])
    rows = [line.split(",") for line in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    assert rows[0] == ["phase", "step", "seconds", "quantity", "value"]
    assert rows[1][:2] == ["train", "50"] and rows[1][3:] == ["loss", "25.5"]
    assert rows[2][3] == "data_wait_percent" and 0 <= float(rows[2][4]) <= 100
    assert {row[3] for row in rows[3:]} == {
        f"validation_{name}@{k / 2:.2f}" for k in range(5) for name in ("bpp", "psnr", "ssim")
    }
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_the_log_has_what_is_left_at_the_end(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "train_step", fake_step)
    for steps in (3, 53):
        go(data, tmp_path / "run", steps, config=replace(CONFIG, save_minutes=99.0))
    rows = [line.split(",") for line in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    assert [(row[1], row[4]) for row in rows if row[3] == "loss"] == [("3", "2"), ("53", "28.5"), ("56", "55")]


def test_validation_scores_what_a_viewer_sees(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """PSNR and SSIM are those of the bench for the decoded pixels."""
    pytest.importorskip("scipy")
    from fewbits.fidelity import psnr
    from fewbits.structure import ssim

    run, pixels = Run("few", MODEL, CONFIG, torch.device("cpu")), picture(64, 128)
    estimate, seen = Few.estimate, []

    def watched(self: Few, x: torch.Tensor, level: float) -> object:
        seen.append(estimate(self, x, level))
        return seen[-1]

    monkeypatch.setattr(Few, "estimate", watched)
    rows = run.validate([pixels])
    for row, out in zip(rows, seen, strict=True):
        decoded = out.x_hat[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        assert row["psnr"] == pytest.approx(psnr(pixels, decoded), abs=1e-3)
        assert row["ssim"] == pytest.approx(ssim(pixels, decoded), abs=1e-4)


def fake_step(self: Run, pixels: np.ndarray, rate: float) -> dict[str, float]:
    self.step += 1
    return {"loss": float(self.step)}

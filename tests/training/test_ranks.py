# SPDX-License-Identifier: MIT
"""Several processes train as one does with the whole batch, end together, and go on after any of them was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this torch has no gloo", allow_module_level=True)

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.training import checkpoint  # noqa: E402
from fewbits.training.ranks import Ranks, torchrun_ranks  # noqa: E402

FEW = {
    "latent": 12, "hyper": 4, "width_8": 8, "depth_8": 1, "width_16": 8, "depth_16": 1, "hyper_width": 8,
    "lambdas": [0.0018, 0.0175, 0.17],
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "few": FEW,
    "content-weighted": {"channels": 4, "width": 4, "colours": 3},  # batch norm, and noise on the importance
    "cae-pca": {"filters": [4, 4, 4, 4, 4, 4], "objective": "rate"},  # moments of the batch, and a random precision a picture
}
TRAIN = {
    "batch": 4, "crop": 64, "warmup_steps": 2, "cache_mb": 8, "save_minutes": 0.0, "precision": "float32",
    "optimizer": "sgd", "lr": 0.01, "penalty": "contractive=1e-4",
}  # fmt: skip


class Trained:
    """What scenarios left: their folders, and of each process the exit code and the output."""

    def __init__(self, root: Path, results: dict[str, list[tuple[int, str]]]) -> None:
        self.root, self.results = root, results

    def state(self, name: str, file: str = checkpoint.TRUNK) -> dict[str, Any]:
        return checkpoint.load(self.root / name / file)

    def log(self, name: str) -> dict[tuple[str, str], float]:
        with (self.root / name / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {(row["step"], row["quantity"]): float(row["value"]) for row in rows if row["quantity"] != "data_wait_percent"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, size in enumerate([(96, 80), (70, 66), (64, 64)]):  # validation cannot be dealt out evenly
        Image.fromarray(picture(*size, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All scenarios, by one process that imports torch once."""
    root = tmp_path_factory.mktemp("runs")
    other = tmp_path_factory.mktemp("other")
    Image.new("RGB", (64, 64)).save(other / "0.png")
    scenarios: dict[str, dict[str, Any]] = {}

    def add(name: str, count: int, out: str = "", family: str = "few", steps: int = 3, **more: Any) -> None:
        changes = {"train": TRAIN | more.pop("train", {}), "model": MODELS[family], **more}
        scenarios[name] = {"count": count, "out": str(root / (out or name)), "data": str(data), "family": family, "steps": steps}
        scenarios[name] |= changes

    for family in MODELS:
        add(f"{family} alone", 1, family=family)
        add(f"{family} by two", 2, family=family)
    muon = {"optimizer": "muon", "precision": "bfloat16", "lr": 3e-3, "penalty": ""}
    add("muon alone", 1, train=muon)
    add("muon by two", 2, train=muon)
    add("goes on by two", 2, out="muon by two", steps=1, train=muon)
    add("annealed by two", 2, out="muon by two", steps=2, anneal=True, train=muon)
    add("stopped", 2, steps=500, stop=1)
    add("uneven", 2, train={"batch": 3})
    add("other pictures", 2, last_data=str(other))
    add("other validation", 2, last_validation=str(other))
    add("clocks", 2, clock=1e6, train={"save_minutes": 60.0, "validate_minutes": 60.0})
    add("no pictures", 2, last_data=str(root / "missing"))
    add("nothing to anneal", 2, anneal=True)
    add("not finite", 2, nan=1)
    host = Path(__file__).parent / "ranks_host.py"
    told = json.dumps(list(scenarios.values()))
    done = subprocess.run([sys.executable, host], input=told, check=True, capture_output=True, text=True)
    return Trained(root, dict(zip(scenarios, json.loads(done.stdout), strict=True)))


@pytest.mark.parametrize("family", MODELS)
def test_two_processes_train_as_one_does_with_the_whole_batch(trained: Trained, family: str) -> None:
    """Losses of each step, gradients' norms, validation, weights and their average, in float32."""
    names = f"{family} alone", f"{family} by two"
    assert [code for name in names for code, _ in trained.results[name]] == [0, 0, 0], trained.results[names[1]]
    alone, by_two = map(trained.log, names)
    assert ("3", "loss") in alone and any("validation_psnr" in quantity for _, quantity in alone)
    assert by_two == pytest.approx(alone, rel=1e-4)
    one, two = (trained.state(name) for name in names)
    for part in ("model", "averaged"):
        for name, value in one[part].items():
            assert torch.allclose(two[part][name].double(), value.double(), rtol=1e-4, atol=1e-6), name


def test_two_processes_train_by_muon_in_half_precision(trained: Trained) -> None:
    """Rounding to bfloat16 differs with the size of a part, so they agree to that only."""
    alone, by_two = (trained.log(f"muon {how}") for how in ("alone", "by two"))
    assert all(by_two["1", name] == pytest.approx(alone["1", name], rel=0.02) for name in ("loss", "grad_norm", "bpp", "mse"))
    assert by_two["3", "loss"] == pytest.approx(alone["3", "loss"], rel=0.05)


def test_two_processes_go_on_and_anneal_and_only_the_first_speaks(trained: Trained) -> None:
    first, second = trained.results["goes on by two"]
    assert (first[0], second) == (0, [0, ""]) and "on cpu, 2 processes\ntrain from step 3" in first[1]
    assert trained.results["annealed by two"][0][1].count("holds step 6") == 1
    assert trained.state("muon by two")["step"] == 4
    assert trained.state("muon by two", checkpoint.ANNEALED)["step"] == 6
    assert not (trained.root / "muon by two" / checkpoint.ANNEALING).exists()


def test_a_signal_to_any_process_ends_all_with_a_checkpoint(trained: Trained) -> None:
    (code, said), second = trained.results["stopped"]
    assert (code, second) == (0, [0, ""]) and "trunk.pt holds step 3" in said
    assert trained.state("stopped")["step"] == 3


def test_clocks_that_differ_do_not_hasten_validation(trained: Trained) -> None:
    assert [code for code, _ in trained.results["clocks"]] == [0, 0], trained.results["clocks"]
    assert {step for step, quantity in trained.log("clocks") if quantity.startswith("validation")} == {"3"}


@pytest.mark.parametrize(
    ("name", "speaker", "line"),
    [
        ("uneven", 0, "batch is 3, it must be a multiple of the 2 processes"),
        ("other pictures", 1, "data: rank 1 of 2 finds other pictures than rank 0"),
        ("other validation", 1, "validation: rank 1 of 2 finds other pictures than rank 0"),
        ("no pictures", 1, "missing does not exist"),
        ("nothing to anneal", 0, "no checkpoint "),
        ("not finite", 0, "the loss is nan, its gradient's norm nan at step 2; the last good checkpoint is kept"),
    ],
)
def test_one_process_says_in_one_line_what_is_wrong(trained: Trained, name: str, speaker: int, line: str) -> None:
    results = trained.results[name]
    assert [code for code, _ in results] == [1, 1]
    said = [[part for part in text.splitlines() if part.startswith("fewbits: ") or "Error" in part] for _, text in results]
    assert len(said[speaker]) == 1 and line in said[speaker][0] and said[1 - speaker] == []


def test_a_process_alone_answers_itself() -> None:
    ranks = Ranks()
    assert ranks.first and ranks.part(6) == slice(0, 6) and ranks.joined([1, 2]) == [1, 2]
    assert ranks.mean({"a": 0.1}) == {"a": 0.1} and ranks.any(True) and not ranks.any(False) and ranks.told(lambda: 3) == 3
    assert Ranks(1, 3).part(6) == slice(2, 4)


def test_variables_that_are_missing_or_wrong_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(TrainingError, match="WORLD_SIZE is 2, but RANK, .*MASTER_PORT not set"),
        torchrun_ranks("cpu"),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(TrainingError, match="WORLD_SIZE is 'two'"), torchrun_ranks("cpu"):
        pass


# By torchrun


def torchrun(data: Path, out: Path, steps: int) -> "subprocess.Popen[str]":
    model = [part for name, value in FEW.items() for part in ("--set", f"{name}={_listed(value)}")]
    train = [part for name, value in TRAIN.items() for part in ("--set", f"{name}={value}")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fewbits"]
    command = [*launcher, "train", "few", "--data", data, "--out", out, "--steps", steps, "--device", "cpu", *model, *train]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def children(pid: int) -> list[tuple[int, int]]:
    """Processes that a process started: rank and number."""
    found = []
    for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        environment = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        found += [(int(each[5:]), int(number)) for each in environment if each.startswith(b"RANK=")]
    return sorted(found)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes to kill in /proc")
def test_training_by_torchrun_goes_on_after_a_process_was_killed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with torchrun(data, out, 100_000) as first:
        until = time.monotonic() + 300
        while not (out / "trunk.pt").exists() and first.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        processes = children(first.pid)
        os.kill(dict(processes)[1], signal.SIGKILL)
        _, err = first.communicate(timeout=300)
    assert first.returncode != 0 and [rank for rank, _ in processes] == [0, 1]
    assert not any(Path(f"/proc/{number}").exists() for _, number in processes)
    said = [line for line in err.splitlines() if "fewbits: " in line]
    assert len(said) == 1 and "rank 0 of 2 has lost the others" in said[0], err
    step = checkpoint.load(out / "trunk.pt")["step"]
    assert step > 0
    with torchrun(data, out, 2) as second:
        said, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert f"train from step {step}," in said and said.count("trunk.pt holds step") == 1
    assert checkpoint.load(out / "trunk.pt")["step"] == step + 2

# SPDX-License-Identifier: MIT
"""Checkpoints: the last good one survives everything, and a run keeps its settings."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.training import checkpoint  # noqa: E402


def test_load_undoes_save(tmp_path: Path) -> None:
    state = {"step": 3, "seconds": 1.5, "model": {"weight": torch.arange(4.0)}, "optimizers": [{"state": {}}]}
    checkpoint.save(tmp_path / "new" / "trunk.pt", state)
    found = checkpoint.load(tmp_path / "new" / "trunk.pt")
    assert torch.equal(found["model"].pop("weight"), state["model"].pop("weight"))
    assert found == state


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), TrainingError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError(), RuntimeError),
    ],
    ids=["full disk", "interrupt", "torch's own"],
)
def test_a_failed_save_keeps_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    path = tmp_path / "trunk.pt"
    checkpoint.save(path, {"step": 1})

    def failing(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise error

    with monkeypatch.context() as patch, pytest.raises(raised):
        patch.setattr(torch, "save", failing)
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_named_in_one_line(tmp_path: Path) -> None:
    """torch makes a RuntimeError of it."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(TrainingError) as raised:
            checkpoint.save(tmp_path / "trunk.pt", {"weight": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(raised.value) == f"{tmp_path / 'trunk.pt'} cannot be written: File too large"
    assert not list(tmp_path.iterdir())


def test_damaged_and_missing_checkpoints_are_training_errors(tmp_path: Path) -> None:
    path = tmp_path / "trunk.pt"
    with pytest.raises(TrainingError, match="no checkpoint .*trunk.pt"):
        checkpoint.load(path)
    checkpoint.save(path, {"step": 1})
    good = path.read_bytes()
    for data in (b"", b"junk", good[: len(good) // 2]):
        path.write_bytes(data)
        with pytest.raises(TrainingError, match="trunk.pt cannot be read"):
            checkpoint.load(path)


def test_weights_of_other_layers_are_a_training_error() -> None:
    model, weights = torch.nn.Linear(3, 2), {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    checkpoint.fill(model, weights)
    assert torch.equal(model.weight, weights["weight"]) and torch.equal(model.bias, weights["bias"])
    with pytest.raises(TrainingError, match="other layers, bias: nothing in the checkpoint, 2 in this release"):
        checkpoint.fill(model, {"weight": torch.ones(2, 3)})
    with pytest.raises(TrainingError, match="other layers, more: 1 in the checkpoint, nothing in this release"):
        checkpoint.fill(model, weights | {"more": torch.ones(1)})
    with pytest.raises(TrainingError, match="other layers, weight: 3x2 in the checkpoint, 2x3 in this release"):
        checkpoint.fill(model, weights | {"weight": torch.ones(3, 2)})


class Evil:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("code in a checkpoint was run",))


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    torch.save({"step": Evil()}, tmp_path / "trunk.pt")
    with pytest.raises(TrainingError):
        checkpoint.load(tmp_path / "trunk.pt")


SETTINGS = {"family": "few", "model": {"lambdas": (0.1, 0.2)}, "train": {"lr": 0.1}, "data": {"from": ["a"]}}


def test_a_run_keeps_its_settings_but_not_where_its_data_lies(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoint.save_config(run, SETTINGS | {"train": {"lr": 9.0}})  # without weights it binds nothing
    checkpoint.save_config(run, SETTINGS)
    checkpoint.save(run / checkpoint.TRUNK, {})
    first = (run / "config.json").read_text()
    checkpoint.save_config(run, SETTINGS)
    checkpoint.save_config(run, SETTINGS | {"data": {"from": ["elsewhere"]}})
    assert (run / "config.json").read_text() == first
    assert checkpoint.load_config(run)["model"] == {"lambdas": [0.1, 0.2]}
    for change, named in (
        ({"family": "other"}, "family is few there, other here"),
        ({"model": {"lambdas": (0.1, 0.3)}}, "lambdas is 0.1,0.2 there, 0.1,0.3 here"),
        ({"train": {"lr": 0.2}, "model": {"lambdas": ()}}, "lambdas is 0.1,0.2 there, '' here, lr is 0.1 there, 0.2 here"),
        ({"train": {}}, "lr is 0.1 there, missing here"),
        ({"data": {"from": ["a"], "exclude": ["x*"]}}, "exclude is missing there, x\\* here"),
    ):
        with pytest.raises(TrainingError, match=f"config.json holds other settings than these: {named}; go on with"):
            checkpoint.save_config(run, SETTINGS | change)


def test_settings_of_the_machine_do_not_bind_a_run(tmp_path: Path) -> None:
    run, train = tmp_path / "run", {"lr": 0.1, "cache_mb": 8, "save_minutes": 3.0}
    checkpoint.save_config(run, SETTINGS | {"train": train})
    checkpoint.save(run / checkpoint.TRUNK, {})
    changed = train | {"cache_mb": 16, "save_minutes": 1.0, "validate_minutes": 5.0, "keep_epochs": 2}
    checkpoint.save_config(run, SETTINGS | {"train": changed})
    assert checkpoint.load_config(run)["train"] == changed
    with pytest.raises(TrainingError, match="these: lr is 0.1 there, 0.2 here;"):
        checkpoint.save_config(run, SETTINGS | {"train": changed | {"lr": 0.2}})


def test_a_run_that_is_older_than_a_setting_binds_it_from_then_on(tmp_path: Path) -> None:
    run, newer = tmp_path / "run", SETTINGS | {"model": {"lambdas": (0.1, 0.2), "first_coded": 3}}
    checkpoint.save_config(run, SETTINGS)
    checkpoint.save(run / checkpoint.TRUNK, {})
    checkpoint.save_config(run, newer | {"data": {"from": ["elsewhere"]}})
    found = checkpoint.load_config(run)
    assert found["model"] == {"lambdas": [0.1, 0.2], "first_coded": 3} and found["data"] == {"from": ["a"]}
    with pytest.raises(TrainingError, match="config.json holds other settings"):
        checkpoint.save_config(run, SETTINGS | {"model": {"lambdas": (0.1, 0.2), "first_coded": 6}})


@pytest.mark.parametrize("text", [None, "", "{", "\0"])
def test_a_folder_that_is_no_run_is_a_training_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(TrainingError, match="is no training run"):
        checkpoint.load_config(tmp_path)

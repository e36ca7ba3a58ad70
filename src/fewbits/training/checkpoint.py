# SPDX-License-Identifier: MIT
"""A training run on disk: RUN/config.json, RUN/trunk.pt (flat learning rate), RUN/annealing.pt (on its way to
learning rate zero), RUN/annealed.pt (there), RUN/trunk-STEP.pt (copies of the trunk, where asked for), RUN/log.csv, and
RUN/lock, which is empty: who trains there has it locked.

Every file but the log is written beside its place and renamed, so a kill at any moment leaves the last good one.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor, nn

from fewbits.errors import TrainingError
from fewbits.files import held, no_folder, replacing

TRUNK, ANNEALING, ANNEALED, CONFIG, LOCK = "trunk.pt", "annealing.pt", "annealed.pt", "config.json", "lock"
KEPT = "trunk-{}.pt"  # copies of the trunk, by their steps
FREE: Final = ("cache_mb", "keep_epochs", "save_minutes", "validate_minutes")  # settings that change no weights, so bind no run


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """While entered, the run's folder, which is made where it is not there, is this process's, where files can be locked.

    Raises TrainingError where another process has it, or where there can be no such folder.
    """
    try:
        file = held(run / LOCK)
    except BlockingIOError as error:
        raise TrainingError(f"{run}: another training is writing there: wait for it, or choose another --out") from error
    except OSError as error:
        raise TrainingError(f"--out {run}: {no_folder(run, error)}") from error
    with file:
        yield


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once it is whole. Raises TrainingError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError):  # torch.save makes a RuntimeError of an error of the disk
            cause = cause.__context__
        if not isinstance(cause, OSError):
            raise
        raise TrainingError(f"{path} cannot be written: {cause.strerror or cause}") from error


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises TrainingError where it cannot be written; the last good one is kept then."""
    with written(path) as file:
        torch.save(state, file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises TrainingError where there is none or it is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"no checkpoint {path}") from None
    except Exception as error:
        raise TrainingError(f"checkpoint {path} cannot be read: {error}") from error
    return state


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model the weights of a checkpoint. Raises TrainingError where they are those of other layers."""
    own, found = ({name: value.shape for name, value in each.items()} for each in (model.state_dict(), weights))
    if strange := sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name)):
        what = f"{strange[0]}: {_size(found.get(strange[0]))} in the checkpoint, {_size(own.get(strange[0]))} in this release"
        raise TrainingError(f"the run is one of other layers, {what}")
    model.load_state_dict(weights)


def _size(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else "x".join(map(str, shape)) or "one number"


def has_begun(run: Path) -> bool:
    """Whether the folder has settings that bind: those with weights beside them, which a run that failed early has not."""
    return (run / CONFIG).exists() and any((run / name).exists() for name in (TRUNK, ANNEALING, ANNEALED))


def save_config(run: Path, config: dict[str, Any]) -> None:
    """Write the run's settings; refuse to change those of a run that exists, but for where its data lies and those of FREE.
    Settings that are newer than the run are added to them."""
    path = run / CONFIG
    if has_begun(run):
        old, new = load_config(run), json.loads(json.dumps(config))
        newer = {part: {**new[part], **old[part]} for part in ("model", "train")}  # with settings that the run did not have
        newer["train"] |= {name: new["train"][name] for name in FREE if name in new["train"]}
        config = old | newer
        if changes := _changes(config | {"data": old["data"] | {"from": new["data"]["from"]}}, new):
            what = f"{path} holds other settings than these: {', '.join(changes)}"
            raise TrainingError(f"{what}; go on with those that it has, or choose another --out")
        if config == old:
            return
    with written(path) as file:
        file.write((json.dumps(config, indent=1, sort_keys=True) + "\n").encode())


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' settings, each with both values."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        there, here = old.get(name), new.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += _changes(there, here)
        elif there != here:
            found.append(f"{name} is {_shown(there)} there, {_shown(here)} here")
    return found


def _shown(value: Any) -> str:
    """A setting as --set takes it."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return "missing" if value is None else text or "''"


def plain_settings(saved: dict[str, Any]) -> dict[str, Any]:
    """A config's fields as JSON holds them -> as its dataclass holds them: lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}


def load_config(run: Path) -> dict[str, Any]:
    """The settings that save_config wrote."""
    try:
        config: dict[str, Any] = json.loads((run / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{run} is no training run: {error}") from error
    return config

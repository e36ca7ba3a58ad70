# SPDX-License-Identifier: MIT
"""What becomes of a task: done, skipped or failed, and why. Prints nothing.

A target that is not older than its source is up to date, whatever options made it, and is skipped; `force` does all again. An
older one is made anew where it is a .few file, or empty; any other file is somebody's, and only `force` overwrites it.
"""

import errno
import os
import time
from typing import Final, Literal, NamedTuple

from fewbits import files, remote
from fewbits.container import MAGIC
from fewbits.conversion import Conversion
from fewbits.errors import FewbitsError, ImageError
from fewbits.planning import Task

_DISK_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Result(NamedTuple):
    """What became of a task. seconds: its own. error: one line where it failed. ends_run: others would fail alike.

    note: one line about what was lost on the way, where it was done.
    """

    source: str
    target: str
    status: Literal["done", "skipped", "failed"]
    bytes_in: int = 0
    bytes_out: int = 0
    n_px: int = 0
    seconds: float = 0.0
    error: str = ""
    ends_run: bool = False
    note: str = ""


def without_work(task: Task, force: bool, folders: "Folders") -> Result | None:
    """The result, where a look at the files tells it. Remote ones are looked at by the process that has the task."""
    if task.problem:
        return Result(task.source, task.target, "failed", error=task.problem)
    if remote.is_remote(task.target):
        return None
    try:
        if not remote.is_remote(task.source) and _overwrites(task, force) is None:
            return Result(task.source, task.target, "skipped")
        folders.prepare(os.path.dirname(task.target))
    except ImageError as error:
        return Result(task.source, task.target, "failed", error=str(error))
    except OSError as error:  # a file that vanished between two looks at it
        return Result(task.source, task.target, "failed", error=f"{task.source}: {error.strerror or error}")
    return None


def _overwrites(task: Task, force: bool) -> bool | None:
    """Whether the target is to be overwritten; None where it is up to date. Raises ImageError where it may not be written."""
    source, target = task.source, task.target
    found = files.stat_of(target)
    if found is None:
        return False
    if not remote.is_remote(target) and os.path.isdir(target):
        raise ImageError(f"{target}: is a folder, so {source} cannot become a file of that name")
    if source == target or (
        not remote.is_remote(source)
        and not remote.is_remote(target)
        and os.path.exists(source)
        and os.path.samefile(source, target)
    ):
        raise ImageError(f"{target}: is IN itself, OUT must be another folder")
    if force:
        return True
    size, made = found
    if size == 0:  # nothing that could be lost
        return True
    changed = (files.stat_of(source) or (None, None))[1]
    if made is None or changed is None or made >= changed:
        return None
    if files.read(target, len(MAGIC)) != MAGIC:
        raise ImageError(f"{target}: exists already, and is older than {source}; -f overwrites it")
    return True


def converted(task: Task, convert: Conversion, force: bool) -> Result:
    """Do a task. Never raises an Exception: a batch goes on, whatever a picture does to the libraries that read it."""
    begun, n_bytes = time.monotonic(), 0
    try:
        overwrite = _overwrites(task, force)
        if overwrite is None:
            return Result(task.source, task.target, "skipped")
        held = [files.read(task.source)]
        n_bytes = len(held[0])
        made = convert(held.pop, task.source, task.target, _silent)
        files.write(task.target, made.data, overwrite)
    except Exception as error:
        text = str(error) if isinstance(error, FewbitsError) else f"{task.source}: {str(error) or type(error).__name__}"
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _DISK_FULL
        seconds = time.monotonic() - begun
        return Result(task.source, task.target, "failed", n_bytes, 0, 0, seconds, " ".join(text.split("\n")), full)
    seconds = time.monotonic() - begun
    return Result(task.source, task.target, "done", n_bytes, len(made.data), made.n_px, seconds, note=made.note)


def _silent(_: float) -> None:
    """Progress of one file among many: nobody watches it."""


class Folders:
    """Target folders: each is made, freed of a killed run's parts, and tried, once, before work goes into files for it."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def prepare(self, folder: str) -> None:
        """Raises ImageError where no file can be made in it."""
        if folder not in self._problems:
            self._problems[folder] = self._prepared(folder)
        if self._problems[folder]:
            raise ImageError(self._problems[folder])

    def _prepared(self, folder: str) -> str:
        try:
            os.makedirs(folder or ".", exist_ok=True)
        except OSError as error:
            return f"{folder}: {error.strerror or error}"
        files.sweep(folder or ".")
        return "" if os.access(folder or ".", os.W_OK | os.X_OK) else f"{folder or '.'}: no file may be made in this folder"

# SPDX-License-Identifier: MIT
"""What becomes of a task: done, skipped or failed, and why. Prints nothing.

A target is written with its source's time of last change, and one that has that time is up to date, whatever options made it
(but for `strip`), and is skipped. Any other target that is there was made of another file, or of another state of its source, or
is somebody's own: nobody can tell, so it stays, and the task fails. `update` makes it again where it is a .few file, or a picture
that is older than its .few file and not beside it; `force` overwrites whatever is there. Empty files are nobody's.

URLs keep no times that could be set: there a target that is not older than its source is up to date, and an older .few file is
made again.
"""

import errno
import os
import time
from typing import Final, Literal, NamedTuple

from fewbits import files, remote
from fewbits.container import EXTENSION, MAGIC, MAX_HEADER_BYTES, METADATA_SECTIONS, SECTION_NAMES, parse_header
from fewbits.conversion import Conversion
from fewbits.errors import FewbitsError, FormatError, ImageError
from fewbits.planning import Task

_DISK_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# Nanoseconds. File systems round times: NTFS and networks to less than a microsecond, exFAT to 10 ms, most others that round to
# a second, FAT, and zip archives, to two. A time that may have been rounded so is the same within these two seconds.
_FINE, _COARSE, _ROUNDED = 1_000, 2_000_000_000, 10_000_000


class Result(NamedTuple):
    """What became of a task. seconds: its own. error: one line where it failed. ends_run: others would fail alike.

    note: one line about what was lost on the way, or is worth knowing, where it was done.
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


def without_work(task: Task, convert: Conversion, force: bool, update: bool, folders: "Folders") -> Result | None:
    """The result, where a look at the files tells it. Remote ones are looked at by the process that has the task."""
    if task.problem:
        return Result(task.source, task.target, "failed", error=task.problem)
    if not task.target or remote.is_remote(task.target):
        return None
    try:
        if not remote.is_remote(task.source) and _overwrites(task, convert, force, update) is None:
            return Result(task.source, task.target, "skipped")
        folders.prepare(os.path.dirname(task.target))
    except ImageError as error:
        return Result(task.source, task.target, "failed", error=str(error))
    except OSError as error:  # a file that vanished between two looks at it
        return Result(task.source, task.target, "failed", error=f"{task.source}: {error.strerror or error}")
    return None


def _overwrites(task: Task, convert: Conversion, force: bool, update: bool) -> bool | None:
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
    away = remote.is_remote(source) or remote.is_remote(target)
    origin = files.stat_of(source)
    if origin is None and not away:
        return False  # reading it tells that it is not there
    changed = origin and origin[1]
    older = made is not None and changed is not None and made < changed
    current = not older if away else _same_time(made, changed)
    held = _metadata_of(target) if convert.strip else ""
    if current and not held:
        return None
    is_few = files.read(target, len(MAGIC)) == MAGIC
    decoded = convert.extension != EXTENSION and older and not _beside(source, target)
    if (update and (is_few or decoded)) or (away and is_few and not current):
        return True
    if convert.extension == EXTENSION and not is_few:
        why = f"is no {EXTENSION} file"
    elif current:
        why = f"holds {held}, which --strip leaves out"
    else:
        why = f"was made of another file than {source}, or of another state of it"
    raise ImageError(f"{target}: exists already, and {why}; {'--update or ' if is_few or decoded else ''}-f overwrites it")


def _beside(one: str, other: str) -> bool:
    """Whether two files are in one folder."""
    return os.path.realpath(os.path.dirname(one)) == os.path.realpath(os.path.dirname(other))


def _same_time(one: int | None, other: int | None) -> bool:
    """Whether two times are the same, but for what file systems round."""
    if one is None or other is None:
        return False
    return abs(one - other) <= (_COARSE if not one % _ROUNDED or not other % _ROUNDED else _FINE)


def _metadata_of(target: str) -> str:
    """What a .few file holds of EXIF, XMP and a profile, in words; "" where nothing, or where it is no such file."""
    try:
        parts = parse_header(files.read(target, MAX_HEADER_BYTES)).parts
    except FormatError:
        return ""
    names = [SECTION_NAMES[kind] for kind in METADATA_SECTIONS]
    return ", ".join(name.upper() for name in names if name in parts)


def converted(task: Task, convert: Conversion, force: bool, update: bool) -> Result:
    """Do a task. Never raises an Exception: a batch goes on, whatever a picture does to the libraries that read it."""
    begun, n_bytes = time.monotonic(), 0
    try:
        overwrite = _overwrites(task, convert, force, update) if task.target else False
        if overwrite is None:
            return Result(task.source, task.target, "skipped")
        changed = files.time_of(task.source)  # before it is read: what is written to it meanwhile is another state of it
        held = [files.read(task.source)]
        n_bytes = len(held[0])
        made = convert(held.pop, task.source, task.target, _silent)
        if task.target:
            files.write(task.target, made.data, overwrite, changed)
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

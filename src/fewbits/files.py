# SPDX-License-Identifier: MIT
"""Whole files in and out: read all, or write beside the place and rename, so that nothing is ever half written.

"-" is standard input or output; URLs go to `remote`. read, output_name, stat_of and write raise an ImageError of one line that
names the file. A process that is killed while it writes leaves a hidden part, never half a file by its name; `sweep` removes it.
`held` gives a file to one process alone.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from fewbits import remote
from fewbits.errors import ImageError
from fewbits.stages import stage

try:
    import fcntl
except ImportError:  # Windows, which refuses to remove an open file: no lock is needed
    fcntl = None  # type: ignore[assignment]

STREAM: Final = "-"
_PART: Final = (".fewbits-", ".part")  # how the name of a file that is being written begins and ends


@stage("files")
def read(name: str, limit: int = -1) -> bytes:
    """The file's bytes, at most `limit` of them where that is not negative. Raises ImageError."""
    if remote.is_remote(name):
        return remote.read(name, limit)
    try:
        if name == STREAM:
            if sys.stdin is None:
                raise ImageError("-: standard input is closed")
            return sys.stdin.buffer.read(limit)
        with open(name, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or error}") from error


def output_name(source: str, target: str | None, extension: str, force: bool) -> str:
    """Where to write: `target`, or `source` with another extension. Raises ImageError on what could not be written later."""
    if target is None and source != STREAM and not Path(source).name:
        raise ImageError(f"{source!r}: it must be a file's name")
    if target is None:
        target = STREAM if source == STREAM else with_extension(source, extension)
    if target == STREAM:
        return target
    if remote.is_remote(target):
        if target == source:
            raise ImageError(f"{target}: is IN itself, OUT must be another file")
        if not force and remote.stat(target):
            raise ImageError(f"{target}: exists already; -f overwrites it")
        return target
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.realpath(target))):
            raise ImageError(f"{target}: there is no such folder") from None
        return target
    except OSError as error:
        raise ImageError(f"{target}: {error.strerror or error}") from error
    if stat.S_ISDIR(mode):
        raise ImageError(f"{target}: is a folder, it must be a file's name")
    if stat.S_ISREG(mode) and source != STREAM and os.path.exists(source) and os.path.samefile(source, target):
        raise ImageError(f"{target}: is IN itself, OUT must be another file")
    if stat.S_ISREG(mode) and not force:
        raise ImageError(f"{target}: exists already; -f overwrites it")
    return target


def with_extension(name: str, extension: str) -> str:
    """The name, or the URL without its query, with another extension: "a/b.jpg" -> "a/b.few"."""
    if not remote.is_remote(name):
        return str(Path(name).with_suffix(extension))
    path = remote.path_of(name)
    return name[: name.index("://") + 3] + os.path.splitext(path)[0] + extension


def one_line(text: str) -> str:
    """Text to print: a file's name may hold line breaks, and bytes that are no text."""
    return text.replace("\n", "\\n").replace("\r", "\\r").encode(errors="backslashreplace").decode()


def stat_of(name: str) -> tuple[int | None, int | None] | None:
    """Size in bytes and nanoseconds since 1970 of the last change, None where a store does not tell; None: no such file."""
    if remote.is_remote(name):
        away = remote.stat(name)
        return away and (away[0], None if away[1] is None else round(1e9 * away[1]))
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or error}") from error
    return found.st_size, found.st_mtime_ns


def time_of(name: str) -> int | None:
    """Nanoseconds since 1970 of a file's last change; None of streams, URLs, pipes, devices, and what is not there."""
    found = _regular(name)
    return found and found.st_mtime_ns


def size_of(name: str) -> int | None:
    """A file's size in bytes; None of streams, pipes, devices, and what is not there or does not tell. Raises ImageError."""
    if remote.is_remote(name):
        return (remote.stat(name) or (None, None))[0]
    found = _regular(name)
    return found and found.st_size


def _regular(name: str) -> os.stat_result | None:
    if name == STREAM or remote.is_remote(name):
        return None
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


@stage("files")
def write(name: str, data: bytes, force: bool, changed: int | None = None) -> None:
    """Write the whole file or none. Links are followed; pipes and devices are written into. Raises ImageError.

    changed: the time of last change that a file of this machine gets, in nanoseconds since 1970, in place of now.
    """
    if remote.is_remote(name):
        remote.write(name, data, force)
        return
    if name == STREAM:
        if sys.stdout is None:
            raise ImageError("-: standard output is closed")
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # the reader has seen enough: no failure of ours to tell of
            discard_stdout()
            raise
        except OSError as error:
            discard_stdout()
            raise ImageError(f"-: standard output: {error.strerror or error}") from error
        return
    try:
        if os.path.exists(name) and not os.path.isfile(name):
            Path(name).write_bytes(data)
            return
        with replacing(Path(os.path.realpath(name)), force=force, changed=changed) as file:
            file.write(data)
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or error}") from error


def discard_stdout() -> None:
    """After a failed write: what is left in the buffer must not fail once more when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = True, changed: int | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and vanishes when it does not.

    changed: see write. Raises OSError; FileExistsError where `path` exists and `force` is not given.
    """
    handle, part = _new_part(path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if fcntl:  # the lock goes with the file: it must have its name by then
                _take_place(part, path, force, changed)
        if not fcntl:  # Windows renames no open file
            _take_place(part, path, force, changed)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def held(path: Path) -> BinaryIO:
    """A file to append to, in a folder that is made where it is not there, for this process alone until it is closed.

    Raises OSError; BlockingIOError where another process has it. Where files cannot be locked everybody has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        pass  # some network file systems have no locks
    return file


def no_folder(path: Path, error: OSError) -> str:
    """Why there can be no folder, or nothing in it, at `path`."""
    return "it is a file, it must be a folder" if path.is_file() else error.strerror or str(error)


def sweep(folder: str) -> None:
    """Remove the parts of files that killed processes have left in a folder. Those of living ones are locked, and stay."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        parts = [entry.path for entry in entries if entry.name.startswith(_PART[0]) and entry.name.endswith(_PART[1])]
        for part in parts:
            with contextlib.suppress(OSError), open(part, "r+b") as file:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(part)
            if not fcntl:
                with contextlib.suppress(OSError):
                    os.unlink(part)


def _new_part(folder: Path) -> tuple[int, str]:
    """An open, locked part of a file. A sweep may come between the two: then it is made again."""
    import tempfile  # loads a dozen modules, which only those who write need

    while True:
        handle, part = tempfile.mkstemp(dir=folder, prefix=_PART[0], suffix=_PART[1])
        if fcntl:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink == 0:
                os.close(handle)
                continue
        return handle, part


def _take_place(part: str, path: Path, force: bool, changed: int | None) -> None:
    with contextlib.suppress(OSError):  # some file systems have no modes
        os.chmod(part, _mode_of(path))
    if changed is not None:
        with contextlib.suppress(OSError):  # some take no times
            os.utime(part, ns=(changed, changed))
    if force:
        os.replace(part, path)
        return
    try:
        os.link(part, path)  # unlike a rename, it fails where somebody made the file meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(part, path)
    else:
        os.unlink(part)


def _mode_of(path: Path) -> int:
    """The permissions of a file that is there, so that a private one stays private; those of a new file else."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode) & 0o777
    except OSError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

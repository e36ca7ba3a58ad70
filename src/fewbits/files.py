# SPDX-License-Identifier: MIT
"""Whole files in and out: read all, or write beside the place and rename, so that nothing is ever half written.

"-" is standard input or output. read, output_name and write raise an ImageError of one line that names the file.
"""

import contextlib
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from fewbits.errors import ImageError

STREAM: Final = "-"


def read(name: str, limit: int = -1) -> bytes:
    """The file's bytes, at most `limit` of them where that is not negative. Raises ImageError."""
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
        target = STREAM if source == STREAM else str(Path(source).with_suffix(extension))
    if target == STREAM:
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


def write(name: str, data: bytes, force: bool) -> None:
    """Write the whole file or none. Links are followed; pipes and devices are written into. Raises ImageError."""
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
        with replacing(Path(os.path.realpath(name)), force=force) as file:
            file.write(data)
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or error}") from error


def discard_stdout() -> None:
    """After a failed write: what is left in the buffer must not fail once more when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises OSError; FileExistsError where `path` exists and `force` is not given.
    """
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".fewbits-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        with contextlib.suppress(OSError):  # some file systems have no modes
            os.chmod(part, 0o666 & ~_umask())
        _rename(part, path, force)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _rename(part: str, path: Path, force: bool) -> None:
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

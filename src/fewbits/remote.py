# SPDX-License-Identifier: MIT
"""Files behind a URL (s3://, gs://, https://, memory://), by fsspec and its stores: the extra `remote`.

An object is written whole, in one call, so on stores whose writes are atomic (S3, GCS, Azure, memory) nobody sees half a file.
fsspec is imported when the first URL is met. Every failure is an ImageError of one line that names the URL.
"""

import contextlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from fewbits.errors import ImageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:// is a drive
_PAGES = ("http://", "https://")  # no store's listing: what is a folder there only the name tells


def is_remote(name: str) -> bool:
    """Whether a file's name is a URL."""
    return _URL.match(name) is not None


def path_of(name: str) -> str:
    """The URL without protocol and query: "s3://bucket/a/b.jpg" -> "bucket/a/b.jpg", "https://host/b.jpg?x" -> "host/b.jpg"."""
    if name.startswith(_PAGES):
        parts = urlsplit(name)
        return f"{parts.netloc}{parts.path}"
    return _URL.sub("", name, count=1)


def read(name: str, limit: int = -1) -> bytes:
    """The object's bytes, at most `limit` of them where that is not negative."""
    with _told(name):
        store, path = _store(name)
        if limit < 0:
            return bytes(store.cat_file(path))
        with store.open(path, "rb") as file:  # http servers without ranges have no cat_file of a part
            return bytes(file.read(limit))


def write(name: str, data: bytes, force: bool) -> None:
    """Write the object whole; without `force`, an ImageError where there is one already."""
    with _told(name):
        store, path = _store(name)
        store.pipe_file(path, data, mode="overwrite" if force else "create")


def stat(name: str) -> tuple[int | None, float | None] | None:
    """Size in bytes and seconds since 1970 of the last change, each None where the store does not tell; None: no such object."""
    with _told(name):
        store, path = _store(name)
        try:
            found = store.info(path)
        except FileNotFoundError:
            return None
        try:
            modified = store.modified(path).timestamp()
        except NotImplementedError:
            modified = None
        return found.get("size"), modified


def is_folder(name: str) -> bool:
    """Whether there are files below the URL. Web servers have no folders but for names that end in "/"."""
    if name.endswith("/") or name.startswith(_PAGES):
        return name.endswith("/")
    with _told(name):
        store, path = _store(name)
        return bool(store.isdir(path))


def walk(name: str) -> Iterator[tuple[str, str]]:
    """Every file below a folder, sorted: its URL, and its path from there."""
    with _told(name):
        store, path = _store(name)
        root = path.rstrip("/") + "/"
        for found in sorted(store.find(path)):
            yield store.unstrip_protocol(found), found.removeprefix(root).split("?")[0]


def matching(pattern: str) -> Iterator[tuple[str, str]]:
    """Files that match a pattern (*, ?, [...], **), sorted: the URL, and its path below the pattern's fixed part."""
    with _told(pattern):
        store, path = _store(pattern)
        root = posixpath.dirname(re.split(r"[*?\[]", path, maxsplit=1)[0]).rstrip("/") + "/"
        for found in sorted(store.glob(path)):
            if not store.isdir(found):
                yield store.unstrip_protocol(found), found.removeprefix(root)


def may_match(name: str) -> bool:
    """Whether a URL is a pattern. On the web, ? begins a query and brackets are common."""
    return not name.startswith(_PAGES) and re.search(r"[*?\[]", name) is not None


def _store(name: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # here: an extra, and 50 ms that local files need not pay

    store, path = url_to_fs(name)
    return store, str(path)


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Stores raise nearly anything, their network libraries' errors among them."""
    try:
        yield
    except ImportError as error:
        needs = "fsspec" if (error.name or "").startswith("fsspec") else str(error)
        raise ImageError(f"{name}: remote paths need {needs}: install the extra, pip install '.[remote]' in a clone") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: No such file or directory") from error
    except FileExistsError as error:
        raise ImageError(f"{name}: exists already; -f overwrites it") from error
    except Exception as error:
        raise ImageError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error

# SPDX-License-Identifier: MIT
"""URLs: fsspec's memory filesystem, and a web server of this machine."""

import functools
import http.server
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewbits import batch, cli, files, planning, remote
from fewbits.codec import inspect
from fewbits.conversion import Encoding
from fewbits.errors import ImageError

fsspec = pytest.importorskip("fsspec")
Picture = Callable[..., np.ndarray]
PICTURES = frozenset({".png"})


@pytest.fixture
def png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(24, 32)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fewbits", *map(str, arguments), "--threads", "1"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_what_is_a_url() -> None:
    assert remote.is_remote("s3://bucket/a.jpg") and remote.is_remote("memory://a")
    for name in ("a.jpg", "/a/b.jpg", "C:/a.jpg", "C://a.jpg", "-", "", "a://"[:2]):
        assert not remote.is_remote(name)
    assert remote.path_of("https://host/a/b.jpg?size=1") == "host/a/b.jpg"
    assert files.with_extension("s3://bucket/a.b/c.jpg", ".few") == "s3://bucket/a.b/c.few"


def test_one_file(memory: fsspec.AbstractFileSystem, png: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory.pipe_file("/in/a.png", png)
    assert call(monkeypatch, "encode", "memory://in/a.png") == 0
    assert inspect(memory.cat_file("/in/a.few")).width == 32
    assert call(monkeypatch, "decode", "memory://in/a.few", tmp_path / "a.png") == 0
    with Image.open(tmp_path / "a.png") as back:
        assert back.size == (32, 24)


def test_failures_are_one_line(
    memory: fsspec.AbstractFileSystem, png: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.pipe_file("/a.png", png)
    memory.pipe_file("/a.few", b"mine")
    for arguments, words in (
        (("memory://missing.png", "memory://b.few"), "memory://missing.png: No such file or directory"),
        (("memory://a.png",), "memory://a.few: exists already; -f overwrites it"),
        (("memory://a.png", "memory://a.png", "-f"), "is IN itself"),
        (("nosuch://a.png", "b.few"), "nosuch://a.png: "),
    ):
        assert call(monkeypatch, "encode", *arguments) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    assert memory.cat_file("/a.few") == b"mine" and call(monkeypatch, "encode", "memory://a.png", "-f") == 0
    with pytest.raises(ImageError, match="exists already"):
        remote.write("memory://a.few", b"", force=False)


def test_writes_are_whole(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call with all bytes, not a stream that could end early."""
    seen = []
    monkeypatch.setattr(type(memory), "pipe_file", lambda self, path, data, mode: seen.append((path, data, mode)))
    remote.write("memory://b/c.few", b"all of it", force=True)
    assert seen == [("/b/c.few", b"all of it", "overwrite")]


def test_folders_and_patterns(memory: fsspec.AbstractFileSystem, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("/in/a.png", "/in/sub/b.png", "/in/.git/c.png", "/in/notes.txt"):
        memory.pipe_file(name, png)
    targets = {"memory://out/a.few", "memory://out/sub/b.few"}
    assert {task.target for task in planning.plan(["memory://in/"], "memory://out/", ".few", PICTURES).tasks} == targets
    assert {task.target for task in planning.plan(["memory://in/s*/*.png"], "memory://out", ".few", PICTURES).tasks} == {
        "memory://out/sub/b.few"
    }
    assert call(monkeypatch, "encode", "memory://in", "memory://out/", "-j", 1) == 0
    assert sorted(memory.find("/out")) == ["/out/a.few", "/out/sub/b.few"]
    tasks, passed_by = planning.plan(["memory://in"], "memory://out/", ".few", PICTURES)
    assert passed_by == {".txt": 1}
    again = list(batch.run(tasks, Encoding(60, "few", 1), jobs=1, force=False))
    assert [result.status for result in again] == ["skipped", "skipped"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_web_server(server: str, png: bytes, tmp_path: Path) -> None:
    """In a process of its own, since aiohttp's sessions live as long as it."""
    pytest.importorskip("aiohttp")
    (tmp_path / "www" / "a.png").write_bytes(png)
    (tmp_path / "list").write_text(f"{server}/a.png?size=full\n{server}/missing.png\n")

    def fewbits(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "fewbits.cli", *map(str, arguments)]
        return subprocess.run(command, check=False, stderr=subprocess.PIPE)

    assert fewbits("encode", f"{server}/a.png", tmp_path / "a.few").returncode == 0
    assert inspect((tmp_path / "a.few").read_bytes()).width == 32
    result = fewbits("encode", "--from-list", tmp_path / "list", f"{tmp_path}/out/", "-j", 1)
    assert result.returncode == 1 and b"1 done" in result.stderr
    assert f"{server}/missing.png: No such file or directory".encode() in result.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*.few")] == ["a.few"]
    assert fewbits("encode", f"{server}/a.png").returncode == 1, "it takes no files"
    (tmp_path / "www" / "b.few").write_bytes((tmp_path / "a.few").read_bytes())
    assert fewbits("decode", f"{server}/b.few", tmp_path / "b.png").returncode == 0


def test_without_the_extra_the_message_says_so() -> None:
    code = """
import sys
sys.modules["fsspec"] = sys.modules["fsspec.core"] = None
from fewbits import cli
sys.argv = ["fewbits", "encode", "s3://bucket/a.png", "a.few"]
cli.main()
"""
    result = subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.PIPE)
    assert result.returncode == 1 and result.stderr.decode() == (
        "fewbits: s3://bucket/a.png: remote paths need fsspec: install the extra, pip install '.[remote]' in a clone\n"
    )


def test_a_mask_may_be_a_url(
    memory: fsspec.AbstractFileSystem, png: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory.pipe("/photo.png", png)
    memory.pipe("/mask.png", png)
    assert call(monkeypatch, "encode", "memory://photo.png", tmp_path / "photo.few", "--roi", "memory://mask.png") == 0

# SPDX-License-Identifier: MIT
"""`fewbits encode` and `decode` of many files: rows, lists, the bar, usage; interrupted, killed, and without room."""

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewbits.codec import inspect

Picture = Callable[..., np.ndarray]


def fewbits(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fewbits.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, **options)


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    """Three small pictures in a tree."""
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        Image.fromarray(picture(24, 32, number)).save(root / name)
    return root


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_folder_there_and_back(folder: Path, tmp_path: Path) -> None:
    result = fewbits("encode", folder, tmp_path / "few", "-q", 30, "-j", "all")
    assert (result.returncode, result.stdout) == (0, b"")
    assert result.stderr.startswith(b"3 files: 3 done, 0 up to date, 0 failed; ") and result.stderr.count(b"\n") == 1
    assert names(tmp_path / "few") == ["a.few", "b.few", "sub/c.few"]
    assert inspect((tmp_path / "few" / "a.few").read_bytes()).quality == 30
    assert fewbits("encode", folder, tmp_path / "few").stderr.startswith(b"3 files: 0 done, 3 up to date, 0 failed; ")
    assert fewbits("decode", tmp_path / "few", tmp_path / "back", "--to", "webp", "-j", 1).returncode == 0
    assert names(tmp_path / "back") == ["a.webp", "b.webp", "sub/c.webp"]
    with Image.open(tmp_path / "back" / "sub" / "c.webp") as back:
        assert back.format == "WEBP" and back.size == (32, 24)


def test_another_folder_into_the_same_one_loses_nothing(folder: Path, tmp_path: Path, picture: Picture) -> None:
    """Cameras reuse names, and copies keep dates: pictures of the second folder were skipped, or took the place of others."""
    fewbits("encode", folder, tmp_path / "out", "-j", 1)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    other = tmp_path / "other"
    other.mkdir()
    for name, seconds in (("a.png", 1_000_000_000), ("b.jpg", 4_000_000_000)):
        Image.fromarray(picture(24, 32, 9)).save(other / name)
        os.utime(other / name, (seconds, seconds))
    result = fewbits("encode", other, tmp_path / "out", "-j", 1)
    assert result.returncode == 1 and result.stderr.count(b"of another state of it; --update or -f overwrites it\n") == 2
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")} == before
    assert fewbits("encode", other, tmp_path / "out", "-j", 1, "-u").returncode == 0
    assert (tmp_path / "out" / "a.few").read_bytes() != before["a.few"]
    single = fewbits("encode", folder / "b.jpg", tmp_path / "out" / "b.few", "-f")
    again = fewbits("encode", folder / "b.jpg", f"{tmp_path}/out/", "-j", 1)
    assert single.returncode == 0 and b"1 up to date" in again.stderr, "a file alone takes its source's time, too"


def test_bad_files_are_listed_and_the_others_done(folder: Path, tmp_path: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no picture")
    result = fewbits("encode", folder, tmp_path / "missing.png", f"{tmp_path}/out/", "-j", 1)
    assert result.returncode == 1 and names(tmp_path / "out") == ["in/a.few", "in/b.few", "in/sub/c.few"]
    assert result.stderr.decode().splitlines()[:3] == [
        f"{folder}/empty.png: the file is empty",
        f"{folder}/text.jpg: not a picture in a format that Pillow reads",
        f"{tmp_path}/missing.png: No such file or directory",
    ]
    assert result.stderr.decode().splitlines()[-1] == "fewbits: 3 of 6 files failed"


def test_json_is_a_line_for_each_file_and_one_more(folder: Path, tmp_path: Path) -> None:
    (folder / "empty.png").touch()
    (tmp_path / "out").mkdir()
    assert fewbits("encode", folder / "a.png", tmp_path / "out").returncode == 0, "one file, too, into a folder"
    result = fewbits("encode", folder, tmp_path / "out", "--json", "-j", 1)
    *rows, last = [json.loads(line) for line in result.stdout.splitlines()]
    by_source = {row["source"]: row for row in rows}
    done = by_source[str(folder / "b.jpg")]
    assert done["status"] == "done" and done["pixels"] == 768 and done["error"] is None and done["seconds"] > 0
    assert done["target"] == f"{tmp_path}/out/b.few" and done["bytes_in"] == (folder / "b.jpg").stat().st_size
    assert done["bytes_out"] == (tmp_path / "out" / "b.few").stat().st_size
    assert by_source[str(folder / "a.png")]["status"] == "skipped"
    assert by_source[str(folder / "empty.png")]["error"] == f"{folder}/empty.png: the file is empty"
    summary = last["summary"]
    assert [summary[key] for key in ("files", "done", "skipped", "failed")] == [4, 2, 1, 1] and result.returncode == 1


def test_json_of_one_file(folder: Path, tmp_path: Path) -> None:
    for source, status, code in ((folder / "a.png", "done", 0), (tmp_path / "missing.png", "failed", 1)):
        result = fewbits("encode", source, tmp_path / "one.few", "--json")
        row, last = (json.loads(line) for line in result.stdout.splitlines())
        assert (row["status"], last["summary"]["files"], result.returncode) == (status, 1, code)
        os.unlink(tmp_path / "one.few") if not code else None


def test_what_is_passed_by_is_told(folder: Path, tmp_path: Path) -> None:
    for name in ("x.heic", "sub/y.HEIC", "z", ".hidden"):
        (folder / name).touch()
    result = fewbits("encode", folder, tmp_path / "out", "-j", 1)
    assert result.returncode == 0 and result.stderr.endswith(b" MP/s; 3 others passed by: .heic 2, no extension 1\n")
    result = fewbits("encode", folder, tmp_path / "out", "-j", 1, "--json")
    assert json.loads(result.stdout.splitlines()[-1])["summary"]["passed_by"] == {".heic": 2, "": 1}


def test_a_folder_with_nothing_to_do_is_a_failure_and_an_empty_list_is_none(folder: Path, tmp_path: Path) -> None:
    result = fewbits("decode", folder, tmp_path / "out")
    assert result.returncode == 1 and result.stderr.decode().splitlines() == [
        "0 files: 0 done, 0 up to date, 0 failed; 0.0 -> 0.0 MB, 0.0 MP/s; 1 other passed by: .jpg 1",
        "fewbits: nothing to do: no file was found; decoding takes, in folders, .few",
    ]
    result = fewbits("encode", "--from-list", "-", f"{tmp_path}/out/", input=b"", cwd=tmp_path)
    assert result.returncode == 0 and b"fewbits: warning: nothing to do: no file was found; encoding takes" in result.stderr


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_a_list_from_stdin_or_a_file(folder: Path, tmp_path: Path, separator: bytes) -> None:
    data = b"in/a.png" + separator + b"in/sub/c.png" + separator
    assert fewbits("encode", "--from-list", "-", "out/", "-j", 1, input=data, cwd=tmp_path).returncode == 0
    (tmp_path / "list").write_bytes(data)
    assert fewbits("encode", "--from-list", "list", "in/b.jpg", "too/", "-j", 1, cwd=tmp_path).returncode == 0
    assert names(tmp_path / "out") == ["in/a.few", "in/sub/c.few"]
    assert names(tmp_path / "too") == ["b.few", "in/a.few", "in/sub/c.few"]


def test_wrong_usage(folder: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("encode", folder / "a.png", folder / "b.jpg", tmp_path / "out"), "end in / to be made"),
        (("encode", folder / "a.png", folder / "b.jpg", folder / "sub" / "c.png"), "must be a folder"),
        (("encode", folder, "-"), "among several"),
        (("encode", folder, tmp_path / "out", "--roi", folder / "a.png"), "for one picture"),
        (("encode", folder, tmp_path / "out", "-j", "0"), "neither a number"),
        (("encode", folder / "a.png", "-", "--json"), "standard output"),
        (("encode", folder / "a.png", tmp_path / "a.few", "-u"), "for many files"),
        (("decode", folder, tmp_path / "out", "--to", "xyz"), "writes no pictures"),
    ):
        result = fewbits(*arguments)
        assert result.returncode == 2 and words in " ".join(result.stderr.decode().replace("│", " ").split()), result.stderr
    result = fewbits("encode", folder)
    assert result.returncode == 1 and b"name the folder to write to" in result.stderr
    assert names(tmp_path) == ["in/a.png", "in/b.jpg", "in/sub/c.png"]


def test_the_bar_is_for_terminals(folder: Path, tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 120, 0, 0))
    try:
        command = [sys.executable, "-m", "fewbits.cli", "encode", str(folder), str(tmp_path / "out"), "-j", "1"]
        assert subprocess.run(command, check=False, stderr=terminal, stdout=terminal).returncode == 0
        shown = os.read(master, 100_000).decode()
    finally:
        os.close(master)
        os.close(terminal)
    assert "encoding: " in shown and "3/3" in shown and "MP/s" in shown and "MB saved" in shown
    assert b"\r" not in fewbits("encode", folder, tmp_path / "out", "-f", "-j", 1).stderr


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Path:
    """Enough work to interrupt."""
    root = tmp_path_factory.mktemp("many")
    Image.fromarray(picture(800, 800)).save(root / "00.png")
    for number in range(1, 40):
        shutil.copy(root / "00.png", root / f"{number:02}.png")
    return root


def interrupted(many: Path, out: Path, number: int) -> subprocess.Popen[bytes]:
    """A run in two processes that has got the signal when its first file was there, and has ended."""
    command = [sys.executable, "-m", "fewbits.cli", "encode", str(many), str(out), "-j", "2", "--threads", "1"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and this would with them. No thread runs here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while not list(out.glob("*.few")):
        assert process.poll() is None
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: the whole group
    else:
        process.send_signal(number)
    return process


def test_ctrl_c_ends_without_a_traceback_and_leaves_no_half_file(many: Path, tmp_path: Path) -> None:
    process = interrupted(many, tmp_path / "out", signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode in (1, 130) and b"Traceback" not in said, said
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert 0 < len(left) < 40 and all(name.endswith(".few") for name in left)


def test_a_killed_run_goes_on_and_loses_nothing(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = interrupted(many, out, signal.SIGKILL)
    process.communicate()  # its processes hold the pipes: this returns when they, too, have ended
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.few")}
    assert 0 < len(finished) < 40
    for path in finished:
        inspect(path.read_bytes())
    (out / ".fewbits-killed.part").write_bytes(b"half")  # what such a run may leave
    result = fewbits("encode", many, out, "-j", 2, "--threads", 1)
    assert result.returncode == 0
    assert result.stderr.startswith(b"40 files: %d done, %d up to date, 0 failed; " % (40 - len(finished), len(finished)))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert names(out) == [f"{number:02}.few" for number in range(40)]


def test_a_file_that_cannot_be_written_whole_is_not_there(folder: Path, tmp_path: Path) -> None:
    """No file may be larger than 100 bytes: what a full disk does, for each process by itself."""
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from fewbits import cli
cli.main()
"""
    command = [sys.executable, "-c", code, "encode", str(folder), str(tmp_path / "out"), "-j", "1"]
    result = subprocess.run(command, check=False, stderr=subprocess.PIPE)
    assert result.returncode == 1 and b"File too large" in result.stderr and b"3 of 3 files failed" in result.stderr
    assert names(tmp_path / "out") == []

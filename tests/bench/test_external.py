# SPDX-License-Identifier: MIT
"""Codecs by command: they work, and what goes wrong is told and ended."""

import pickle
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tqdm")

from fewbits.bench import pool  # noqa: E402
from fewbits.bench.external import parse_command  # noqa: E402
from fewbits.errors import FewbitsError, ImageError  # noqa: E402
from fewbits.fidelity import psnr  # noqa: E402

PYTHON = f"{sys.executable} -c 'from PIL import Image; from sys import argv; picture = Image.open(argv[1]);"
ENCODER = PYTHON + ' picture.save(argv[2], "JPEG", quality=int(argv[3]))\' {in} {out} {q}'
DECODER = PYTHON + " picture.save(argv[2])' {in} {out}"
COMMAND = f"mine: {ENCODER} ;; {DECODER}"


def test_a_pair_of_commands_is_a_codec(photo: np.ndarray) -> None:
    codec = parse_command(COMMAND)
    part = photo[:64, :80]
    data = codec.encode(part, 40)
    assert data[:2] == b"\xff\xd8"
    assert 20 < psnr(part, codec.decode(data)) < 60
    assert len(codec.used) == 2 and all(0.001 < used.seconds < 60 for used in codec.used)
    assert pickle.loads(pickle.dumps(codec)) == codec


def test_a_command_may_ask_for_another_format(photo: np.ndarray, tmp_path: Path) -> None:
    script = tmp_path / "copy.py"
    script.write_text("import shutil, sys\nassert sys.argv[1][-4:] in ('.ppm', '.bin'), sys.argv\nshutil.copy(*sys.argv[1:3])\n")
    words = f"{sys.executable} {script}"
    codec = parse_command(f"copy: {words} {{in.ppm}} {{out.bin}} {{q}} ;; {words} {{in}} {{out.ppm}}")
    data = codec.encode(photo[:8, :8], 1)
    assert data.startswith(b"P6")
    assert np.array_equal(codec.decode(data), photo[:8, :8])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("enc {in} {out} {q}", "it must be 'name: encoder"),
        ("x: enc {in} {out} {q}", "it must be 'name: encoder"),
        ("x y: enc {in} {out} {q} ;; dec {in} {out}", "it must be 'name: encoder"),
        ("x: enc {in} {out} ;; dec {in} {out}", "no {q} in 'enc {in} {out}'"),
        ("x: enc {in} {out} {q} ;; dec {in}", "no {out} in 'dec {in}'"),
        ("x: enc '{in} {out} {q} ;; dec {in} {out}", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_work_is_refused(text: str, said: str) -> None:
    with pytest.raises(FewbitsError) as error:
        parse_command(text)
    assert said in str(error.value) and text in str(error.value)


def test_a_command_that_fails_says_so(photo: np.ndarray) -> None:
    python = sys.executable
    failing = parse_command(f"x: {python} -c 'import sys; sys.exit(\"no such luck\")' {{in}} {{out}} {{q}} ;; dec {{in}} {{out}}")
    with pytest.raises(ImageError, match="ended with 1: no such luck"):
        failing.encode(photo[:8, :8], 1)
    idle = parse_command(f"x: {python} -c pass {{in}} {{out}} {{q}} ;; /no/such/decoder {{in}} {{out}}")
    with pytest.raises(ImageError, match="wrote no coded"):
        idle.encode(photo[:8, :8], 1)
    with pytest.raises(ImageError, match="the decoder /no/such/decoder cannot be run: No such file"):
        idle.decode(b"data")


def test_what_is_wrong_with_their_output_is_told(photo: np.ndarray, tmp_path: Path) -> None:
    script = tmp_path / "codec.py"
    script.write_text("import sys\nopen(sys.argv[2], 'w').write(sys.argv[3] if len(sys.argv) > 3 else 'no picture')\n")
    words = f"{sys.executable} {script} {{in}} {{out}}"
    codec = parse_command(f"x: {words} {{q}} ;; {words}")
    with pytest.raises(ImageError, match="what the decoder .* wrote is no picture"):
        codec.decode(codec.encode(photo[:8, :8], 1))
    script.write_text("import sys\nopen(sys.argv[2], 'w')\n")
    with pytest.raises(ImageError, match="the encoder .* wrote an empty file"):
        codec.encode(photo[:8, :8], 1)


def test_a_command_that_hangs_is_ended(photo: np.ndarray) -> None:
    hanging = f"{sys.executable} -c 'import time; time.sleep(60)' {{in}} {{out}}"
    begun = time.monotonic()
    with pytest.raises(ImageError, match=r"the encoder .* took longer than 0.2 seconds \(--time-limit\)"):
        parse_command(f"x: {hanging} {{q}} ;; {hanging}", 0.2).encode(photo[:8, :8], 1)
    assert time.monotonic() - begun < 30


def test_identity_follows_the_files_that_the_commands_name(tmp_path: Path) -> None:
    script = tmp_path / "codec.py"
    script.write_text("one")
    codec = parse_command(f"x: {sys.executable} {script} {{in}} {{out}} {{q}} ;; {sys.executable} {script} {{in}} {{out}}")
    before = codec.identity()
    assert codec.identity() == before
    script.write_text("two")
    assert codec.identity() != before


def test_whole_settings_stay_whole() -> None:
    codec = parse_command("x: a {in} {out} {q} ;; b {in} {out}")
    assert codec.whole_settings and codec.span == (10, 90)
    assert not replace(codec, settings=(1.0, 2.5)).whole_settings


def hang(path: str) -> None:
    """In a worker: a command that says that it runs, and then does not end."""
    code = "import pathlib, sys, time; pathlib.Path(sys.argv[1] + str(time.time_ns())).touch(); time.sleep(60)"
    codec = parse_command(f"x: {sys.executable} -c '{code}' {path} {{in}} {{out}} {{q}} ;; b {{in}} {{out}}")
    codec.encode(np.zeros((8, 8, 3), np.uint8), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupt_ends_workers_and_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, Ctrl-C waited for commands that hang, and began the next ones."""
    marks = tmp_path / "running"

    def interrupted(running: object) -> object:
        while not list(tmp_path.glob("running*")):
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "as_completed", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(pool.in_processes(hang, [str(marks)] * 3, 1, "hanging", False))
    assert time.monotonic() - begun < 40
    time.sleep(0.2)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if str(marks).encode() in command and b"touch()" in command]
    assert threading.active_count() < 20

# SPDX-License-Identifier: MIT
"""Many conversions: what is skipped, what is overwritten, what one bad file, a full disk or a dead process do to the others."""

import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewbits import batch, files, outcome
from fewbits.batch import run
from fewbits.codec import Model, inspect
from fewbits.conversion import Converted, Encoding
from fewbits.errors import ImageError
from fewbits.outcome import Result
from fewbits.planning import Task

NEW = b"\x8fFEW new"


@dataclass(frozen=True)
class Stub:
    """A conversion that costs nothing, but for files that name a trouble. Here, at the top, so that processes find it."""

    threads: int | None = 1
    extension: str = ".few"
    strip: bool = False
    for_one = ""
    what = "copying"
    extensions = frozenset({".png"})

    def __call__(self, take: Callable[[], bytes], source: str, target: str, progress: Callable[[float], None]) -> Converted:
        data = take()
        if data == b"bad":
            raise ImageError(f"{source}: bad")
        if data == b"broken library":
            raise ZeroDivisionError
        if data == b"deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if data == b"slow":
            time.sleep(600)
        return Converted(NEW, 7)


def tasks_of(root: Path, **contents: bytes) -> list[Task]:
    for name, content in contents.items():
        (root / f"{name}.png").write_bytes(content)
    return [Task(f"{root}/{name}.png", f"{root}/out/{name}.few") for name in contents]


def statuses(tasks: list[Task], *, jobs: int = 1, force: bool = False, update: bool = False) -> dict[str, str]:
    return {Path(result.source).stem: result.status for result in run(tasks, Stub(), jobs=jobs, force=force, update=update)}


def test_results_and_files(tmp_path: Path) -> None:
    tasks = [*tasks_of(tmp_path, a=b"fine", b=b"bad", c=b"broken library"), Task("x.png", "", "x.png: a clash")]
    a, b, c, x = run(tasks, Stub(), jobs=1, force=False)
    assert a[:6] == (*tasks[0][:2], "done", 4, len(NEW), 7) and a.error == "" and a.seconds >= 0
    assert b.status == c.status == x.status == "failed"
    assert (
        b.error == f"{tasks[1].source}: bad"
        and c.error == f"{tasks[2].source}: ZeroDivisionError"
        and x.error == "x.png: a clash"
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.few"] and (tmp_path / "out" / "a.few").read_bytes() == NEW


def test_what_is_up_to_date_is_skipped(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, a=b"", b=b"", c=b"")
    assert set(statuses(tasks[:1]).values()) == {"done"}
    assert statuses(tasks) == {"a": "skipped", "b": "done", "c": "done"}
    assert set(statuses(tasks, force=True).values()) == {"done"}
    target = Path(tasks[0].target)
    assert target.stat().st_mtime_ns == Path(tasks[0].source).stat().st_mtime_ns
    target.write_bytes(b"")
    assert statuses(tasks)["a"] == "done", "an empty file is nobody's"


@pytest.mark.parametrize("seconds", [-100, 100], ids=["older", "newer"])
def test_a_source_that_changed_fails_and_is_made_again_by_update(tmp_path: Path, seconds: int) -> None:
    """Nobody can tell it from another picture of the same name: cameras count from IMG_0001, again and again."""
    tasks = tasks_of(tmp_path, a=b"", b=b"")
    statuses(tasks)
    source, target = Path(tasks[0].source), Path(tasks[0].target)
    target.write_bytes(b"\x8fFEW of another")
    changed = source.stat().st_mtime_ns + 10**9 * seconds
    os.utime(target, ns=(changed, changed))
    first, second = run(tasks, Stub(), jobs=1, force=False)
    assert first.error == (
        f"{target}: exists already, and was made of another file than {source}, or of another state of it; "
        "--update or -f overwrites it"
    )
    assert second.status == "skipped" and target.read_bytes() == b"\x8fFEW of another"
    assert statuses(tasks, update=True) == {"a": "done", "b": "skipped"} and target.read_bytes() == NEW
    assert statuses(tasks) == {"a": "skipped", "b": "skipped"}


@pytest.mark.parametrize(
    ("nanoseconds", "rounded", "status"),
    [(0, 1, "skipped"), (900, 1, "skipped"), (500_000_000, 1, "failed"), (0, 10**7, "skipped"), (0, 2 * 10**9, "skipped")],
)
def test_a_time_that_a_file_system_rounded_is_the_same(tmp_path: Path, nanoseconds: int, rounded: int, status: str) -> None:
    tasks = tasks_of(tmp_path, a=b"")
    os.utime(tasks[0].source, ns=(0, 1_700_000_001_234_567_890))
    statuses(tasks)
    time_ns = (1_700_000_001_234_567_890 + nanoseconds) // rounded * rounded
    os.utime(tasks[0].target, ns=(0, time_ns))
    assert statuses(tasks) == {"a": status}


def test_what_is_written_to_a_source_while_it_is_done_is_another_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tasks_of(tmp_path, a=b"")
    read = files.read

    def changing(name: str, limit: int = -1) -> bytes:
        data = read(name, limit)
        os.utime(name, ns=(0, 10**18))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(files, "read", changing)
        assert statuses(tasks) == {"a": "done"}
    assert statuses(tasks) == {"a": "failed"}


def test_the_time_is_set_before_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, seen, link = tasks_of(tmp_path, a=b""), [], os.link
    os.utime(tasks[0].source, ns=(0, 10**18))
    monkeypatch.setattr(files.os, "link", lambda part, path: seen.append(os.stat(part).st_mtime_ns) or link(part, path))
    assert statuses(tasks) == {"a": "done"} and seen == [10**18]


def test_a_file_system_that_takes_no_times_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files.os, "utime", refusing)
    assert statuses(tasks_of(tmp_path, a=b"")) == {"a": "done"}


def test_a_source_that_is_not_there_is_never_up_to_date(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, a=b"")
    statuses(tasks)
    os.unlink(tasks[0].source)
    assert next(run(tasks, Stub(), jobs=1, force=False)).error == f"{tasks[0].source}: No such file or directory"


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize(("folder", "seconds", "made"), [("out", -100, True), ("out", 100, False), ("", -100, False)])
def test_pictures_are_made_again_by_update_where_they_are_older_and_apart(
    tmp_path: Path, folder: str, seconds: int, made: bool, update: bool
) -> None:
    """A picture beside its .few file, or newer than it, may well be the original."""
    source, target = tmp_path / "a.few", tmp_path / folder / "a.png"
    target.parent.mkdir(exist_ok=True)
    source.write_bytes(NEW)
    target.write_bytes(b"a picture")
    changed = source.stat().st_mtime_ns + 10**9 * seconds
    os.utime(target, ns=(changed, changed))
    result = next(run([Task(str(source), str(target))], Stub(extension=".png"), jobs=1, force=False, update=update))
    assert (result.status, target.read_bytes()) == (("done", NEW) if made and update else ("failed", b"a picture"))
    assert result.status == "done" or result.error.endswith(f"; {'--update or ' if made else ''}-f overwrites it")


def test_a_target_with_metadata_is_not_what_strip_makes(tmp_path: Path, model: Model, picture: Callable[..., np.ndarray]) -> None:
    source, target = tmp_path / "a.png", tmp_path / "out" / "a.few"
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.fromarray(picture(16, 16)).save(source, exif=exif)
    tasks = [Task(str(source), str(target))]
    assert next(run(tasks, Encoding(60, "few", 1), jobs=1, force=False)).status == "done"
    result = next(run(tasks, Encoding(60, "few", 1, strip=True), jobs=1, force=False))
    assert result.error == f"{target}: exists already, and holds EXIF, which --strip leaves out; --update or -f overwrites it"
    assert next(run(tasks, Encoding(60, "few", 1, strip=True), jobs=1, force=False, update=True)).status == "done"
    assert "exif" not in inspect(target.read_bytes()).parts
    assert next(run(tasks, Encoding(60, "few", 1, strip=True), jobs=1, force=False)).status == "skipped"


@pytest.mark.parametrize("update", [False, True])
def test_somebodys_file_is_overwritten_by_force_only(tmp_path: Path, update: bool) -> None:
    task = tasks_of(tmp_path, a=b"")[0]
    target = Path(task.target)
    target.parent.mkdir()
    target.write_bytes(b"an original")
    os.utime(target, (1, 1))
    result = next(run([task], Stub(), jobs=1, force=False, update=update))
    assert result.error == f"{target}: exists already, and is no .few file; -f overwrites it"
    assert target.read_bytes() == b"an original"
    assert next(run([task], Stub(), jobs=1, force=True)).status == "done" and target.read_bytes() == NEW


def test_targets_that_are_the_source_or_a_folder(tmp_path: Path) -> None:
    source = tasks_of(tmp_path, a=b"mine")[0].source
    (tmp_path / "x.few").mkdir()
    itself, folder = run([Task(source, source), Task(source, f"{tmp_path}/x.few")], Stub(), jobs=1, force=True)
    assert "is IN itself" in itself.error and "is a folder" in folder.error and Path(source).read_bytes() == b"mine"


def test_a_folder_that_takes_no_files_costs_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tasks_of(tmp_path, a=b"", b=b"")
    monkeypatch.setattr(outcome.os, "access", lambda *_: False)  # what a read-only file system says, to root too
    monkeypatch.setattr(batch, "converted", lambda *_: pytest.fail("work was done"))
    assert {result.error for result in run(tasks, Stub(), jobs=1, force=False)} == {
        f"{tmp_path}/out: no file may be made in this folder"
    }


def test_a_file_that_vanishes_meanwhile_is_a_failed_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tasks_of(tmp_path, a=b"", b=b"")
    statuses(tasks[:1])

    def vanished(*_: object) -> bool:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(outcome.os.path, "samefile", vanished)
    first, second = run(tasks, Stub(), jobs=1, force=False)
    assert first.status == "failed" and first.error == f"{tasks[0].source}: No such file or directory"
    assert second.status == "done"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, a=b"")
    (tmp_path / "out").mkdir(mode=0o555)
    assert statuses(tasks) == {"a": "failed"}


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tasks_of(tmp_path, a=b"", b=b"", c=b"")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "link", full)
    monkeypatch.setattr(files.os, "replace", full)
    results = list(run(tasks, Stub(), jobs=1, force=False))
    assert len(results) == 1 and results[0].ends_run and "No space left on device" in results[0].error
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    assert set(statuses(tasks).values()) == {"done"}, "and goes on when there is room"


def test_parts_of_a_killed_run_are_removed_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, a=b"")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".fewbits-dead.part").write_bytes(b"half")
    with files.replacing(out / "other.few") as file:
        file.write(b"half")
        assert statuses(tasks) == {"a": "done"}
        assert len(list(out.glob(".fewbits-*.part"))) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.few", "other.few"]


def test_processes(tmp_path: Path) -> None:
    contents = {f"n{number}": b"bad" if number == 3 else b"fine" for number in range(12)}
    found = statuses(tasks_of(tmp_path, **contents), jobs=2)
    assert found.pop("n3") == "failed" and len(found) == 11 and set(found.values()) == {"done"}


def test_a_process_that_dies_takes_only_its_task(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, a=b"fine", b=b"deadly", c=b"fine", d=b"fine")
    results = {Path(result.source).stem: result for result in run(tasks, Stub(), jobs=2, force=False)}
    assert results["b"].error == f"{tasks[1].source}: its process died, as a rule for want of memory"
    assert {results[name].status for name in "acd"} == {"done"} and len(results) == 4


def test_closing_ends_the_processes_at_once(tmp_path: Path) -> None:
    results = run(
        tasks_of(tmp_path, a=b"fine", b=b"slow", c=b"slow", d=b"slow", e=b"slow", f=b"slow"), Stub(), jobs=2, force=False
    )
    assert next(results).status == "done"
    results.close()  # would otherwise wait ten minutes
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.few"]


def test_a_generator_of_tasks_is_taken_from_as_results_come(tmp_path: Path) -> None:
    """However many tasks there are, a few are in hand."""
    taken = []

    def endless() -> object:
        for number in range(10**9):
            taken.append(number)
            yield Task(f"{tmp_path}/missing-{number}.png", f"{tmp_path}/{number}.few")

    results = run(endless(), Stub(), jobs=2, force=False)  # type: ignore[arg-type]
    seen = [next(results) for _ in range(20)]
    assert all(isinstance(result, Result) and "No such file" in result.error for result in seen)
    assert len(taken) <= 20 + 2 * 2 + 1
    results.close()


def test_handles_and_memory_stay_flat_over_500_encodes(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("counts handles in Linux's /proc")
    Image.fromarray(picture(16, 16)).save(tmp_path / "in.png")
    tasks = [Task(f"{tmp_path}/in.png", f"{tmp_path}/{number}.few") for number in range(500)]
    handles, pages = [], []
    for number, result in enumerate(run(tasks, Encoding(60, "few", 1), jobs=1, force=False)):
        assert result.status == "done"
        if number in (99, 499):
            handles.append(len(os.listdir("/proc/self/fd")))
            pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert handles[0] == handles[1]
    assert (pages[1] - pages[0]) * os.sysconf("SC_PAGE_SIZE") < 16e6  # a leak of one small picture's arrays would be more

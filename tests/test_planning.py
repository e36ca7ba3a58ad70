# SPDX-License-Identifier: MIT
"""Which file becomes which: the tree, what is taken, clashes, loops, and what ten thousand files cost."""

import os
import tracemalloc
from pathlib import Path

import pytest

from fewbits import planning
from fewbits.planning import paths_of_list, plan

PICTURES = frozenset({".jpg", ".png"})


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def planned(*named: str, listed: tuple[str, ...] = ()) -> dict[str, str]:
    """Source -> target, or the problem."""
    tasks = plan(named, "OUT", ".few", PICTURES, listed=listed).tasks
    assert len({task.source for task in tasks}) == len(tasks)
    return {task.source: task.problem or task.target for task in tasks}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tree_of_one_folder(root: Path) -> None:
    make(root, "in/b.png", "in/a.JPG", "in/sub/deep/c.png", "in/notes.txt", "in/photo", "in/done.few")
    assert list(planned("in/").items()) == [
        ("in/a.JPG", "OUT/a.few"),
        ("in/b.png", "OUT/b.few"),
        ("in/sub/deep/c.png", "OUT/sub/deep/c.few"),
    ]
    os.chdir(root / "in")
    assert planned(".")["./sub/deep/c.png"] == "OUT/sub/deep/c.few"


def test_of_several_each_folder_keeps_its_name(root: Path) -> None:
    make(root, "one/a.png", "x/two/a.png", "notes.txt")
    assert planned("one", "x/two/", "notes.txt", "missing.png") == {
        "one/a.png": "OUT/one/a.few",
        "x/two/a.png": "OUT/two/a.few",
        "notes.txt": "OUT/notes.few",  # what is named is tried, whatever it is called
        "missing.png": "OUT/missing.few",
    }


def test_patterns_keep_the_tree_below_their_fixed_part(root: Path) -> None:
    make(root, "in/a/1.png", "in/a/2.jpg", "in/b/1.png", "in/.hidden/1.png", "in/b/[x].png")
    assert planned("in/**/*.png") == {
        "in/a/1.png": "OUT/a/1.few",
        "in/b/1.png": "OUT/b/1.few",
        "in/b/[x].png": "OUT/b/[x].few",
    }
    assert planned("in/a*") == {"in/a/1.png": "OUT/a/1.few", "in/a/2.jpg": "OUT/a/2.few"}, "a folder that matches is walked"
    assert planned("in/b/[x].png") == {"in/b/[x].png": "OUT/[x].few"}, "a file of that very name is no pattern"
    assert planned("in/*.bmp") == {"in/*.bmp": "in/*.bmp: no file matches"}


def test_lists_keep_paths_as_they_are_written(root: Path) -> None:
    make(root, "in/a.png", "in/sub/b.png")
    absolute = str(root / "in" / "a.png")
    assert planned(listed=("in/a.png", absolute, "../x/c.png", "in/sub")) == {
        "in/a.png": "OUT/in/a.few",
        absolute: f"OUT{root}/in/a.few",
        "../x/c.png": "OUT/x/c.few",
        "in/sub/b.png": "OUT/in/sub/b.few",
    }


def test_lists_by_line_or_by_nul() -> None:
    assert paths_of_list(b"a.png\r\n\n b c.png\nd.png") == ["a.png", " b c.png", "d.png"]
    assert paths_of_list(b"a\nb.png\0c.png\0") == ["a\nb.png", "c.png"]
    assert paths_of_list(b"") == []
    assert os.fsencode(paths_of_list(b"\xff.png\n")[0]) == b"\xff.png"


def test_clashing_names_are_kept_whole(root: Path) -> None:
    make(root, "in/a.jpg", "in/a.png", "in/B.jpg", "in/b.png", "in/c.png", "in/sub/a.png")
    assert planned("in") == {
        "in/a.jpg": "OUT/a.jpg.few",
        "in/a.png": "OUT/a.png.few",
        "in/B.jpg": "OUT/B.jpg.few",
        "in/b.png": "OUT/b.png.few",
        "in/c.png": "OUT/c.few",
        "in/sub/a.png": "OUT/sub/a.few",
    }


def test_a_clash_of_clashes_has_one_taker_each(root: Path) -> None:
    make(root, "in/a.jpg", "in/a.jpg.jpg", "in/a.jpg.png", "in/a.png")
    targets = list(planned("in").values())
    assert len(set(targets)) == 4 and all(target.startswith("OUT/") for target in targets)


def test_two_files_for_one_place_are_a_problem_and_one_file_twice_is_not(root: Path) -> None:
    make(root, "one/a.png", "two/a.png")
    found = planned("one/a.png", "two/a.png", "one/../one/a.png")
    assert found["one/a.png"] == "OUT/a.few"
    assert "two/a.png: its place in OUT is that of one/a.png" in found["two/a.png"] and len(found) == 2


def test_a_folder_named_like_a_target(root: Path) -> None:
    """x.few/ is a folder of pictures: it is walked, and x.jpg must not become a file of its name."""
    make(root, "in/x.few/1.png", "in/x.jpg")
    assert planned("in") == {"in/x.jpg": "OUT/x.jpg.few", "in/x.few/1.png": "OUT/x.few/1.few"}
    assert plan(["in"], "OUT", ".png", frozenset({".few"})).tasks == [], "nor is it a file to decode"


def test_hidden_files_pipes_and_links(root: Path) -> None:
    make(root, "in/a.png", "in/.b.png", "in/.git/c.png", "elsewhere/d.png")
    for name, leads_to in (
        ("loop", "."), ("sub", "../elsewhere"), ("itself.png", "itself.png"), ("gone.png", "nowhere.png"), ("e.png", "a.png"),
    ):  # fmt: skip
        (root / "in" / name).symlink_to(leads_to)
    os.mkfifo(root / "in" / "pipe.png")
    assert sorted(planned("in")) == ["in/a.png", "in/e.png", "in/gone.png", "in/itself.png"]
    assert sorted(planned("in/**/*.png")) == sorted(planned("in")) + ["in/pipe.png"], "a pattern follows no loop either"
    (root / "link").symlink_to("in")
    assert "link/a.png" in planned("link"), "a link that is named is followed"


def test_what_is_passed_by_is_counted_by_its_extension(root: Path) -> None:
    make(root, "in/a.png", "in/b.HEIC", "in/sub/c.heic", "in/d.dng", "in/photo", "elsewhere/x.heic")
    assert plan(["in", "in/sub"], "OUT", ".few", PICTURES).passed_by == {".heic": 2, ".dng": 1, "": 1}
    make(root, "in/.hidden", "in/.git/x.heic", "in/a.xmp", "in/a.AAE", "in/Thumbs.db", "in/desktop.ini", "in/a.few")
    assert plan(["in"], "OUT", ".few", PICTURES).passed_by == {".heic": 2, ".dng": 1, "": 1}, "what nobody misses"
    assert plan(["elsewhere"], "OUT", ".few", PICTURES) == ([], {".heic": 1})


def test_a_folder_that_cannot_be_read_does_not_stop_the_walk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root, "in/a/1.png", "in/b/2.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(planning.os, "scandir", refusing)
    assert planned("in") == {"in/b/2.png": "OUT/b/2.few", "in/a": "in/a: Permission denied"}


def test_ten_thousand_files_cost_a_few_strings_each(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear: each folder is read once, no picture is looked at; what is kept does not grow faster than the files."""
    kept, scanned, looked_at, scandir, stat = [], [], [], os.scandir, os.stat
    for n_folders in (10, 100):
        for folder in range(n_folders):
            (root / f"{n_folders}" / f"{folder}").mkdir(parents=True)
            for number in range(100):
                (root / f"{n_folders}" / f"{folder}" / f"{number}.png").touch()
        with monkeypatch.context() as patch:
            patch.setattr(planning.os, "scandir", lambda path: scanned.append(path) or scandir(path))
            patch.setattr(planning.os, "stat", lambda path, **options: looked_at.append(path) or stat(path, **options))
            tracemalloc.start()
            tasks = plan([f"{n_folders}"], "OUT", ".few", PICTURES).tasks
            kept.append(tracemalloc.get_traced_memory()[0] / len(tasks))
            tracemalloc.stop()
        assert len(tasks) == 100 * n_folders
    assert len(scanned) == 110 + 2 and len(looked_at) <= 2
    assert kept[1] < 1.5 * kept[0] < 1000  # bytes a file

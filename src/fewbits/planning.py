# SPDX-License-Identifier: MIT
"""Which file becomes which: folders, patterns, names and lists -> tasks, each a source and its own target.

The tree. A file that is named becomes OUT/its-name. A folder that is the only one named gives its content, with the tree below
it; of several, each keeps its name. What a pattern finds keeps its path below the pattern's fixed part; a path of a list is kept
as it is written, without a leading / and without "..".

What is taken. A named file is always tried. In a folder, files are told by their extension, and the others are passed by and
counted. Passed by in silence are hidden files and folders (a leading dot), what cameras and systems put beside pictures, files of
the kind that is to be made, and links to folders, so that no loop of links is ever walked.

Clashes. a.jpg becomes a.few; where two pictures of a folder would become the same file (a.jpg and a.png, or A.jpg and a.png,
which some file systems do not tell apart), or a folder of that name is to be made, each keeps its whole name: a.jpg.few and
a.png.few. Where that does not help, the later one is a problem, and is not written.

Memory: a task for each file, two strings long; no more is kept.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from fewbits import remote
from fewbits.errors import ImageError

_MAGIC = re.compile(r"[*?\[]")
_SIDECARS: Final = (".aae", ".xmp", "desktop.ini", "thumbs.db")  # how their names end, in lower case


class Task(NamedTuple):
    """A file to make of another, or to read only: it has no target. problem: where there is one, why it cannot be."""

    source: str
    target: str
    problem: str = ""


class Plan(NamedTuple):
    """What is to be done, and how many files of folders were passed by, for each extension in lower case; "": they have none."""

    tasks: list[Task]
    passed_by: Mapping[str, int]


class _Found(NamedTuple):
    """A source, and where below OUT it belongs: a path with "/", with the source's extension. is_other: it is passed by."""

    source: str
    place: str
    problem: str = ""
    is_other: bool = False


def plan(named: Sequence[str], out: str, extension: str, extensions: frozenset[str], *, listed: Sequence[str] = ()) -> Plan:
    """Tasks in the order of the names, folders sorted; each source once.

    named: files, folders and patterns, local or remote. listed: the same, as a list holds them. extension: of the targets, with
    the dot. extensions: in lower case, of the files to take in folders. Reads folders, opens no file.
    """
    found: dict[str, _Found] = {}  # by place
    problems, others = [], set()
    for one in _all(named, listed, extensions):
        if one.is_other:
            others.add(one.source)
        elif one.problem:
            problems.append(Task(one.source, "", one.problem))
        elif one.place not in found:
            found[one.place] = one
        elif not _same(found[one.place].source, one.source):
            what = f"{one.source}: its place in {out} is that of {found[one.place].source}, which is taken: give it another OUT"
            problems.append(Task(one.source, "", what))
    passed_by = Counter(ending for ending in map(_extension, others) if ending != extension)
    return Plan([*_with_targets(found, out, extension), *problems], passed_by)


def sources(named: Sequence[str], extensions: frozenset[str], *, listed: Sequence[str] = ()) -> Plan:
    """The same for what makes no files: tasks without targets."""
    tasks: dict[str, Task] = {}
    others = set()
    for one in _all(named, listed, extensions):
        if one.is_other:
            others.add(one.source)
        else:
            tasks.setdefault(one.source, Task(one.source, "", one.problem))
    return Plan(list(tasks.values()), Counter(map(_extension, others)))


def is_folder(name: str) -> bool:
    return remote.is_folder(name) if remote.is_remote(name) else os.path.isdir(name)


def is_pattern(name: str) -> bool:
    """Whether a name has *, ? or [ in it, and is not that of a file."""
    if remote.is_remote(name):
        return remote.may_match(name)
    return _MAGIC.search(name) is not None and not os.path.lexists(name)


def paths_of_list(data: bytes) -> list[str]:
    """Paths of a list, one a line, or with NUL after each, as `find -print0` has them."""
    parts = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def _all(named: Sequence[str], listed: Sequence[str], extensions: frozenset[str]) -> Iterator[_Found]:
    alone = len(named) == 1 and not listed
    for name in named:
        yield from _below(name, "" if alone else _own_name(name), _own_name(name), extensions)
    for name in listed:
        yield from _below(name, _as_written(name), _as_written(name), extensions)


def _below(name: str, folder_place: str, file_place: str, extensions: frozenset[str]) -> Iterator[_Found]:
    """What a name stands for. folder_place: where it belongs if it is a folder; file_place: if it is a file."""
    try:
        if is_folder(name):
            yield from _walk(name, folder_place, extensions)
        elif is_pattern(name):
            n_found = 0
            for n_found, (path, place) in enumerate(_matching(name), 1):  # noqa: B007
                if not remote.is_remote(path) and os.path.isdir(path):
                    yield from _walk(path, place, extensions)
                else:
                    yield _Found(path, place)
            if not n_found:
                yield _Found(name, "", f"{name}: no file matches")
        else:
            yield _Found(name, file_place)
    except ImageError as error:
        yield _Found(name, "", str(error))


def _walk(folder: str, place: str, extensions: frozenset[str]) -> Iterator[_Found]:
    if remote.is_remote(folder):
        for path, below in remote.walk(folder):
            hidden = any(part.startswith(".") for part in below.split("/"))
            if not hidden and not below.lower().endswith(_SIDECARS):
                yield _Found(path, posixpath.join(place, below), is_other=_extension(below) not in extensions)
        return
    waiting = [(folder, place)]
    while waiting:
        folder, place = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                here = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            yield _Found(folder, "", f"{folder}: {error.strerror or error}")
            continue
        for entry in here:
            if not entry.name.lower().endswith(_SIDECARS) and _to_be_tried(entry):
                is_other = _extension(entry.name) not in extensions
                yield _Found(entry.path, posixpath.join(place, entry.name), is_other=is_other)
        folders = [entry for entry in here if entry.is_dir(follow_symlinks=False)]
        waiting.extend((entry.path, posixpath.join(place, entry.name)) for entry in reversed(folders))


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _to_be_tried(entry: os.DirEntry[str]) -> bool:
    """Files, links to files, and broken links, which are told of; not pipes and devices, which may never end."""
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)


def _same(first: str, second: str) -> bool:
    local = not remote.is_remote(first) and not remote.is_remote(second)
    return first == second or (local and os.path.realpath(first) == os.path.realpath(second))


def _matching(pattern: str) -> Iterator[tuple[str, str]]:
    """Files and folders that match a pattern, sorted, with their paths below its fixed part."""
    if remote.is_remote(pattern):
        yield from remote.matching(pattern)
        return
    parts = Path(pattern).parts
    n_fixed = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    root, rest = Path(*parts[:n_fixed]), str(PurePath(*parts[n_fixed:]))
    try:
        # pathlib's, since ** of the module glob follows links to folders, and their loops
        for path in sorted(root.glob(rest)):
            below = path.relative_to(root)
            if "/." in f"/{rest}" or not any(part.startswith(".") for part in below.parts):
                yield str(path), below.as_posix()
    except (OSError, ValueError) as error:
        raise ImageError(f"{pattern}: {error}") from error


def _own_name(name: str) -> str:
    if remote.is_remote(name):
        return posixpath.basename(remote.path_of(name).rstrip("/"))
    return Path(name).name or Path(name).resolve().name


def _as_written(name: str) -> str:
    path = remote.path_of(name) if remote.is_remote(name) else Path(name).as_posix().removeprefix(Path(name).anchor)
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


def _with_targets(found: dict[str, _Found], out: str, extension: str) -> Iterator[Task]:
    short = {place: posixpath.splitext(place)[0] + extension for place in found}
    takers = Counter(target.casefold() for target in short.values())
    folders = {folder.casefold() for place in found for folder in _folders_of(place)}
    taken: set[str] = set()
    for place, one in found.items():
        clash = takers[short[place].casefold()] > 1 or short[place].casefold() in folders or short[place] in taken
        below = place + extension if clash else short[place]
        target = f"{out.rstrip('/')}/{below}" if remote.is_remote(out) else os.path.join(out, *below.split("/"))
        if below in taken:
            yield Task(one.source, target, f"{one.source}: its output {target} is that of another: give it another OUT")
            continue
        taken.add(below)
        yield Task(one.source, target)


def _folders_of(place: str) -> Iterator[str]:
    while "/" in place:
        place = place.rpartition("/")[0]
        yield place

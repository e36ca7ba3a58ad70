# SPDX-License-Identifier: MIT
"""What `fewbits encode`, `decode` and `verify` do with the paths on their command line: one file, or many with a bar and a list
of what failed. Only this module and the commands' own print.

Many it is where a folder, a pattern, a list or more than one file is named; then the last path is the folder to write to.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import click

from fewbits import batch, files, planning, stages
from fewbits.container import EXTENSION
from fewbits.conversion import Conversion, Converted, picture_extensions
from fewbits.errors import FewbitsError
from fewbits.outcome import Result
from fewbits.processor import cores

ALL: Final = "all"


def convert_paths(
    paths: Sequence[str],
    listed_in: str | None,
    convert: Any,
    *,
    jobs: int | None,
    force: bool,
    update: bool,
    as_json: bool,
    profile: bool = False,
) -> None:
    """Do a whole command. listed_in: a file with further paths. jobs: None for the default. update: for many files (outcome.py).
    profile: tell where the time went, of one file. Raises FewbitsError, BadParameter."""
    if listed_in is None and _is_single(paths):
        target = paths[1] if len(paths) > 1 else None
        if update:
            raise click.BadParameter("it is for many files: of one, -f overwrites OUT", param_hint="'-u' / '--update'")
        if not profile:
            _one(paths[0], target, convert, force, as_json)
            return
        with stages.watched() as watch:
            _one(paths[0], target, convert, force, as_json)
        sys.stderr.write(f"{watch.table()}\n")
        return
    if profile:
        raise click.BadParameter("it is for one picture, not for several", param_hint="'--profile'")
    *named, out = paths
    listed = planning.paths_of_list(files.read(listed_in)) if listed_in is not None else []
    if not named and listed_in is None:
        raise FewbitsError(f"{out}: is a folder or a pattern: name the folder to write to after it, such as OUT/")
    if files.STREAM in (*named, *listed, out):
        raise click.BadParameter("- is one picture: it cannot be among several", param_hint="'IN'")
    if _looks_like_file(out) and not (len(named) == 1 and not listed and planning.is_folder(named[0])):
        raise click.BadParameter(f"{out!r} must be a folder that is there, or end in / to be made", param_hint="'OUT'")
    if convert.for_one:
        raise click.BadParameter("it is for one picture, not for several", param_hint=f"'{convert.for_one}'")
    plan = planning.plan(named, out, convert.extension, convert.extensions, listed=listed)
    _many(plan, convert, jobs, force, update, as_json)
    if not plan.tasks:
        _nothing_to_do(named, convert)


def verify_paths(paths: Sequence[str], listed_in: str | None, convert: Any, *, jobs: int | None, as_json: bool) -> None:
    """The same for what makes no files. Of one file it prints nothing, but what is wrong with it."""
    listed = planning.paths_of_list(files.read(listed_in)) if listed_in is not None else []
    if not paths and listed_in is None:
        raise click.BadParameter("name files or folders, or give --from-list", param_hint="'PATH...'")
    single = listed_in is None and len(paths) == 1 and not _is_many(paths[0])
    if files.STREAM in (*paths, *listed) and not single:
        raise click.BadParameter("- is one file: it cannot be among several", param_hint="'PATH...'")
    plan = planning.sources(paths, convert.extensions, listed=listed)
    if not single:
        _many(plan, convert, jobs, False, False, as_json)
        if not plan.tasks:
            _nothing_to_do(paths, convert)
        return
    totals = _Totals()
    [result] = batch.run(plan.tasks, convert, jobs=1, force=False)
    if as_json:
        _print_json(result)
        _print_json(totals.plus(result), 1)
    if result.error:
        raise FewbitsError(result.error)


def jobs_of(text: str | None) -> int | None:
    """The value of -j: a number from 1 on, or "all", for as many as there are cores. Raises click.BadParameter."""
    if text is None:
        return None
    if text == ALL:
        return cores()
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither a number from 1 on nor {ALL}", param_hint="'-j' / '--jobs'")
    return int(text)


def default_jobs() -> int:
    """A process a core, of one thread each.

    Only the networks use threads. Reading a photograph and coding its symbols take a third to a half of the processor's time
    (`python benchmarks/batch.py`), so one process could use no more than two or three cores.
    """
    return cores()


def _is_single(paths: Sequence[str]) -> bool:
    if len(paths) > 2 or _is_many(paths[0]):
        return False
    return len(paths) == 1 or _looks_like_file(paths[1])


def _is_many(name: str) -> bool:
    return name != files.STREAM and (planning.is_folder(name) or planning.is_pattern(name))


def _looks_like_file(out: str) -> bool:
    return out == files.STREAM or not (out.endswith(("/", os.sep)) or planning.is_folder(out))


def _is_picture_name(out: str) -> bool:
    suffix = Path(out).suffix.lower()
    return suffix not in ("", EXTENSION) and suffix in picture_extensions()


def _one(source: str, target: str | None, convert: Conversion, force: bool, as_json: bool) -> None:
    to_few = convert.extension == EXTENSION and Path(source).suffix.lower() != EXTENSION
    if to_few and target not in (None, source) and _is_picture_name(target):  # the second of two that the shell found, as a rule
        raise click.BadParameter(
            f"{target} is the name of a picture, OUT must be a {EXTENSION} file, or for several pictures a folder",
            param_hint="OUT",
        )
    out = files.output_name(source, target, convert.extension, force)
    if as_json and out == files.STREAM:
        raise click.BadParameter("standard output holds the file already: name OUT", param_hint="'--json'")
    begun, n_bytes, failure = time.monotonic(), 0, None
    made = Converted(b"", 0)
    try:
        changed = files.time_of(source)  # which OUT gets, as in a batch (outcome.py)
        held = [files.read(source)]
        n_bytes = len(held[0])
        with _percent(convert.what) as show:
            named = "stdout" if out == files.STREAM else out
            made = convert(held.pop, source, named if Path(named).suffix else named + convert.extension, show)
        files.write(out, made.data, force, changed)
    except FewbitsError as error:
        failure = error
    if as_json:
        status: Literal["done", "failed"] = "failed" if failure else "done"
        sizes = (n_bytes, 0, 0) if failure else (n_bytes, len(made.data), made.n_px)
        result = Result(source, out, status, *sizes, time.monotonic() - begun, str(failure or ""), note=made.note)
        _print_json(result)
        _print_json(_Totals(begun=begun).plus(result), 1)
    if failure:
        raise failure
    if made.note:
        sys.stderr.write(f"fewbits: {files.one_line(made.note)}\n")


def _nothing_to_do(named: Sequence[str], convert: Conversion) -> None:
    """Raises FewbitsError where folders were named: they may be the wrong ones. A list without a path may be as it should."""
    text = f"nothing to do: no file was found; {convert.what} takes, in folders, {', '.join(sorted(convert.extensions))}"
    if named:
        raise FewbitsError(text)
    sys.stderr.write(f"fewbits: warning: {text}\n")


def _many(plan: planning.Plan, convert: Any, jobs: int | None, force: bool, update: bool, as_json: bool) -> None:
    tasks, totals, lines, ended = plan.tasks, _Totals(passed_by=plan.passed_by), [], False
    n_jobs = min(jobs or default_jobs(), len(tasks)) or 1
    if convert.threads is None:
        convert = dataclasses.replace(convert, threads=max(1, cores() // n_jobs))
    run = batch.run(tasks, convert, jobs=n_jobs, force=force, update=update)
    with contextlib.closing(run) as results, _Bar(len(tasks), convert.what) as bar:
        for result in results:
            totals = totals.plus(result)
            if result.error or result.note:
                lines.append(result.error or result.note)
            if as_json:
                _print_json(result)
            bar.show(totals)
            ended = result.ends_run
    if as_json:
        _print_json(totals, len(tasks))
    for line in lines:
        sys.stderr.write(f"{files.one_line(line)}\n")
    if not as_json:
        sys.stderr.write(f"{totals.text(len(tasks)) if convert.extension else totals.verified(len(tasks))}\n")
    if ended:
        raise FewbitsError(f"there is no room left: {len(tasks) - totals.files} files were not tried; call again to go on")
    if totals.failed:
        raise FewbitsError(f"{totals.failed} of {len(tasks)} files failed")


@dataclasses.dataclass(frozen=True)
class _Totals:
    """Sums over results. n_px and seconds of those that were done; begun: of the whole command. passed_by: see planning.Plan."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    n_px: int = 0
    begun: float = dataclasses.field(default_factory=time.monotonic)
    passed_by: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def files(self) -> int:
        return self.done + self.skipped + self.failed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    @property
    def mpx_per_s(self) -> float:
        return self.n_px / 1e6 / max(self.seconds, 1e-9)

    def plus(self, result: Result) -> "_Totals":
        more: dict[str, Any] = {result.status: getattr(self, result.status) + 1}
        if result.status == "done":
            more |= {name: getattr(self, name) + getattr(result, name) for name in ("bytes_in", "bytes_out", "n_px")}
        return dataclasses.replace(self, **more)

    def text(self, n_tasks: int) -> str:
        sizes = f"{self.bytes_in / 1e6:.1f} -> {self.bytes_out / 1e6:.1f} MB, {self.mpx_per_s:.1f} MP/s"
        return f"{n_tasks} files: {self.done} done, {self.skipped} up to date, {self.failed} failed; {sizes}{self._others()}"

    def verified(self, n_tasks: int) -> str:
        speed = f"{self.bytes_in / 1e6:.1f} MB, {self.mpx_per_s:.1f} MP/s"
        return f"{n_tasks} files: {self.done} good, {self.failed} failed; {speed}{self._others()}"

    def _others(self) -> str:
        """ "; 4 others passed by: .heic 2, .dng 1, no extension 1", or "" where there are none."""
        most_first = sorted(self.passed_by.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{files.one_line(extension) or 'no extension'} {n_files}" for extension, n_files in most_first)
        number = sum(self.passed_by.values())
        return f"; {number} other{'s' * (number > 1)} passed by: {kinds}" if number else ""


class _Bar:
    """Files, megapixels a second, bytes saved and time left, on stderr where that is a terminal."""

    def __init__(self, n_tasks: int, what: str) -> None:
        from tqdm import tqdm  # here: single files need none

        self._n_tasks = n_tasks
        self._bar = tqdm(total=n_tasks, desc=what, unit="file", disable=None, file=sys.stderr)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, totals: _Totals) -> None:
        if self._bar.disable:
            return
        saved = f", {(totals.bytes_in - totals.bytes_out) / 1e6:.1f} MB saved" if totals.bytes_out else ""
        self._bar.set_postfix_str(f"{totals.mpx_per_s:.1f} MP/s{saved}", refresh=False)
        self._bar.total = self._n_tasks - totals.skipped  # which take no time: the estimate is of the others
        self._bar.update(totals.done + totals.failed - self._bar.n)


def _print_json(value: Result | _Totals, n_tasks: int = 0) -> None:
    """A result as one line, or the totals of so many tasks as another, by whose key `summary` it is told."""
    if isinstance(value, Result):
        row: dict[str, Any] = {
            "source": value.source, "target": value.target, "status": value.status, "bytes_in": value.bytes_in,
            "bytes_out": value.bytes_out, "pixels": value.n_px, "seconds": round(value.seconds, 4), "error": value.error or None,
            "note": value.note or None,
        }  # fmt: skip
    else:
        row = {
            "summary": {
                "files": n_tasks, "done": value.done, "skipped": value.skipped, "failed": value.failed,
                "bytes_in": value.bytes_in, "bytes_out": value.bytes_out, "pixels": value.n_px,
                "seconds": round(value.seconds, 4), "passed_by": dict(value.passed_by),
            }
        }  # fmt: skip
    click.echo(json.dumps(row))


@contextlib.contextmanager
def _percent(what: str) -> Iterator[Callable[[float], None]]:
    """A line on stderr that counts up, from the first second on, where stderr is a terminal."""
    begun, shown = time.monotonic(), False

    def show(fraction: float) -> None:
        nonlocal shown
        if sys.stderr.isatty() and time.monotonic() - begun > 1:
            shown = True
            sys.stderr.write(f"\r{what}: {100 * fraction:3.0f} %")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\r" + " " * (len(what) + 8) + "\r")

# SPDX-License-Identifier: MIT
"""Many conversions, in this process or in several: tasks in, a result for each out. Prints nothing, holds only a few at a time.

A target that is not older than its source is up to date, whatever options made it, and is skipped; `force` does all again. An
older one is made anew where it is a .few file, or empty; any other file is somebody's, and only `force` overwrites it. So a run
that was ended goes on where it was. A task that fails is a result like others; but a full disk ends the run.
"""

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Literal, NamedTuple

from fewbits import files, remote
from fewbits.container import MAGIC
from fewbits.conversion import Conversion
from fewbits.errors import FewbitsError, ImageError
from fewbits.planning import Task
from fewbits.threads import one_thread_each

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_IN_HAND = 2  # tasks for each process: one at work, one waiting


class Result(NamedTuple):
    """What became of a task. seconds: its own. error: one line where it failed. ends_run: others would fail alike.

    note: one line about what was lost on the way, where it was done.
    """

    source: str
    target: str
    status: Literal["done", "skipped", "failed"]
    bytes_in: int = 0
    bytes_out: int = 0
    n_px: int = 0
    seconds: float = 0.0
    error: str = ""
    ends_run: bool = False
    note: str = ""


def run(tasks: Iterable[Task], convert: Conversion, *, jobs: int, force: bool) -> Generator[Result, None, None]:
    """A result for each task, as they come; fewer where one ends the run.

    jobs: processes; 1: this one. Close the iterator to stop early: processes end at once, and leave no half file. A process that
    dies takes its task with it, not the others. As with all of multiprocessing, a script needs `if __name__ == "__main__":`.
    """
    folders = _Folders()
    pool = _Pool(jobs, convert, force) if jobs > 1 else None
    with contextlib.closing(pool) if pool else contextlib.nullcontext():
        for task in tasks:
            known = _without_work(task, force, folders)
            if known:
                results: Iterable[Result] = [known]
            elif pool:
                results = pool.put(task)
            else:
                results = [_converted(task, convert, force)]
            for result in results:
                yield result
                if result.ends_run:
                    return
        if pool:
            yield from pool.rest()


def _without_work(task: Task, force: bool, folders: "_Folders") -> Result | None:
    """The result, where a look at the files tells it. Remote ones are looked at by the process that has the task."""
    if task.problem:
        return Result(task.source, task.target, "failed", error=task.problem)
    if remote.is_remote(task.target):
        return None
    try:
        if not remote.is_remote(task.source) and _overwrites(task, force) is None:
            return Result(task.source, task.target, "skipped")
        folders.prepare(os.path.dirname(task.target))
    except ImageError as error:
        return Result(task.source, task.target, "failed", error=str(error))
    return None


def _overwrites(task: Task, force: bool) -> bool | None:
    """Whether the target is to be overwritten; None where it is up to date. Raises ImageError where it may not be written."""
    source, target = task.source, task.target
    found = files.stat_of(target)
    if found is None:
        return False
    if not remote.is_remote(target) and os.path.isdir(target):
        raise ImageError(f"{target}: is a folder, so {source} cannot become a file of that name")
    if source == target or (
        not remote.is_remote(source)
        and not remote.is_remote(target)
        and os.path.exists(source)
        and os.path.samefile(source, target)
    ):
        raise ImageError(f"{target}: is IN itself, OUT must be another folder")
    if force:
        return True
    size, made = found
    if size == 0:  # nothing that could be lost
        return True
    changed = (files.stat_of(source) or (None, None))[1]
    if made is None or changed is None or made >= changed:
        return None
    if files.read(target, len(MAGIC)) != MAGIC:
        raise ImageError(f"{target}: exists already, and is older than {source}; -f overwrites it")
    return True


def _converted(task: Task, convert: Conversion, force: bool) -> Result:
    """Do a task. Never raises an Exception: a batch goes on, whatever a picture does to the libraries that read it."""
    begun, n_bytes = time.monotonic(), 0
    try:
        overwrite = _overwrites(task, force)
        if overwrite is None:
            return Result(task.source, task.target, "skipped")
        held = [files.read(task.source)]
        n_bytes = len(held[0])
        made = convert(held.pop, task.source, task.target, _silent)
        files.write(task.target, made.data, overwrite)
    except Exception as error:
        text = str(error) if isinstance(error, FewbitsError) else f"{task.source}: {str(error) or type(error).__name__}"
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _DISK_FULL
        seconds = time.monotonic() - begun
        return Result(task.source, task.target, "failed", n_bytes, 0, 0, seconds, " ".join(text.split("\n")), full)
    seconds = time.monotonic() - begun
    return Result(task.source, task.target, "done", n_bytes, len(made.data), made.n_px, seconds, note=made.note)


def _silent(_: float) -> None:
    """Progress of one file among many: nobody watches it."""


class _Folders:
    """Target folders: each is made, freed of a killed run's parts, and tried, once, before work goes into files for it."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def prepare(self, folder: str) -> None:
        """Raises ImageError where no file can be made in it."""
        if folder not in self._problems:
            self._problems[folder] = self._prepared(folder)
        if self._problems[folder]:
            raise ImageError(self._problems[folder])

    def _prepared(self, folder: str) -> str:
        try:
            os.makedirs(folder or ".", exist_ok=True)
        except OSError as error:
            return f"{folder}: {error.strerror or error}"
        files.sweep(folder or ".")
        return "" if os.access(folder or ".", os.W_OK | os.X_OK) else f"{folder or '.'}: no file may be made in this folder"


class _Pool:
    """Processes that have a few tasks in hand, and are replaced when one dies."""

    def __init__(self, jobs: int, convert: Conversion, force: bool) -> None:
        self._jobs, self._convert, self._force = jobs, convert, force
        self._hand: dict[Future[Result], Task] = {}
        self._executor = self._new()

    def put(self, task: Task) -> Iterator[Result]:
        """Take a task; the results that came meanwhile."""
        while len(self._hand) >= _IN_HAND * self._jobs:
            yield from self._some()
        try:
            self._submit(task)
        except BrokenProcessPool:
            yield from self._after_death([task])

    def rest(self) -> Iterator[Result]:
        """The results of all that are in hand."""
        while self._hand:
            yield from self._some()

    def close(self) -> None:
        """End the processes, at work or not. What they were writing vanishes."""
        if self._hand:
            for process in list((self._executor._processes or {}).values()):  # Python 3.14 has kill_workers for this
                process.kill()
        self._executor.shutdown(cancel_futures=True)
        for folder in {os.path.dirname(task.target) or "." for task in self._hand.values() if not remote.is_remote(task.target)}:
            files.sweep(folder)
        self._hand.clear()

    def _new(self) -> ProcessPoolExecutor:
        # Spawned: a fork of a process whose networks have threads may hang.
        return ProcessPoolExecutor(self._jobs, mp_context=get_context("spawn"), initializer=_begin)

    def _submit(self, task: Task) -> Future[Result]:
        with _interrupts_held(), one_thread_each():
            future = self._executor.submit(_converted, task, self._convert, self._force)
        self._hand[future] = task
        return future

    def _some(self) -> Iterator[Result]:
        done, _ = wait(self._hand, return_when=FIRST_COMPLETED)
        dead = []
        for future in done:
            try:
                result = future.result()
            except BrokenProcessPool:
                dead.append(self._hand.pop(future))
            else:
                del self._hand[future]
                yield result
        if dead:
            yield from self._after_death(dead)

    def _after_death(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """A process died, and Python's pool with it. Nobody knows of which task: those that were in hand go one by one."""
        tasks = list(tasks)
        wait(self._hand)  # all of them fail now, but for those that were done already
        for future, task in self._hand.items():
            try:
                yield future.result()
            except BrokenProcessPool:
                tasks.append(task)
        self.close()
        for task in tasks:
            self._executor = self._new()
            try:
                result = self._submit(task).result()
            except BrokenProcessPool:
                why = f"{task.source}: its process died, as a rule for want of memory"
                result = Result(task.source, task.target, "failed", error=why)
            self.close()
            yield result
        self._executor = self._new()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in here never see Ctrl-C, not even while Python starts; it is this process that ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """In a new process: Ctrl-C is the parent's affair, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

# SPDX-License-Identifier: MIT
"""Processes that do tasks side by side, and are replaced when one dies. Loading what starts them takes 10 ms: batch.py does so
only for several."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Final

from fewbits import files, remote
from fewbits.conversion import Conversion
from fewbits.outcome import Result, converted
from fewbits.planning import Task
from fewbits.threads import one_thread_each

_IN_HAND: Final = 2  # tasks for each process: one at work, one waiting


class Pool:
    """Processes that have a few tasks in hand, and are replaced when one dies."""

    def __init__(self, jobs: int, convert: Conversion, force: bool, update: bool) -> None:
        self._jobs, self._convert, self._force, self._update = jobs, convert, force, update
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
        targets = [task.target for task in self._hand.values() if task.target and not remote.is_remote(task.target)]
        for folder in {os.path.dirname(target) or "." for target in targets}:
            files.sweep(folder)
        self._hand.clear()

    def _new(self) -> ProcessPoolExecutor:
        # Spawned: a fork of a process whose networks have threads may hang.
        return ProcessPoolExecutor(self._jobs, mp_context=get_context("spawn"), initializer=_begin)

    def _submit(self, task: Task) -> Future[Result]:
        with _interrupts_held(), one_thread_each():
            future = self._executor.submit(converted, task, self._convert, self._force, self._update)
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

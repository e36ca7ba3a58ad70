# SPDX-License-Identifier: MIT
"""Work on many things in several processes, with a progress bar that says how long it will still take."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from fewbits.errors import FewbitsError
from fewbits.threads import one_thread_each

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, what: str, show: bool | None = None
) -> Iterator[tuple[Task, Result]]:
    """Pairs of task and work(task), as they come, from `jobs` processes; with more than one, each keeps to one thread.

    show: a progress bar called `what`; None: where stderr is a terminal. Raises FewbitsError where a process dies.
    """
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads of its own may hang
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_begin)
    try:
        with tqdm(total=len(tasks), desc=what, unit="", disable=None if show is None else not show) as bar:
            with one_thread_each() if jobs > 1 else contextlib.nullcontext():
                running = {pool.submit(work, task): task for task in tasks}
            for done in as_completed(running):
                yield running[done], done.result()
                bar.update()
    except BrokenProcessPool as error:
        raise FewbitsError(
            "a measuring process died, as a rule for want of memory: lower --jobs and call again to go on"
        ) from error
    except BaseException:
        _end(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def one_at_a_time(
    work: Callable[[Task], Result], tasks: Sequence[Task], lane: Callable[[Task], str], what: str, show: bool | None = None
) -> Iterator[tuple[Task, Result]]:
    """As in_processes, in the order of the tasks and never two at once; each lane has a process of its own, which it keeps."""
    context = multiprocessing.get_context("spawn")
    lanes: dict[str, ProcessPoolExecutor] = {}
    try:
        with tqdm(total=len(tasks), desc=what, unit="", disable=None if show is None else not show) as bar:
            for task in tasks:
                if lane(task) not in lanes:
                    lanes[lane(task)] = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
                yield task, lanes[lane(task)].submit(work, task).result()
                bar.update()
    except BrokenProcessPool as error:
        raise FewbitsError("a timing process died, as a rule for want of memory: --no-timing leaves times out") from error
    except BaseException:
        for pool in lanes.values():
            _end(pool)
        raise
    finally:
        for pool in lanes.values():
            pool.shutdown(cancel_futures=True)


def why(error: Exception) -> str:
    """One line for a row that failed. A foreign codec may raise anything: what is not ours is named with its type."""
    text = str(error) or type(error).__name__
    return " ".join((text if isinstance(error, FewbitsError) else f"{type(error).__name__}: {text}").split())


def _end(pool: ProcessPoolExecutor) -> None:
    """After an interrupt: end the processes, and the commands that they run.

    An exception in them would not do: they would send it, and begin the next task.
    """
    for process in list((pool._processes or {}).values()):  # Python 3.14 has kill_workers, which spares commands
        if process.pid is not None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def _begin() -> None:
    """In a new process: a group of its own with the commands that it will run. Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()

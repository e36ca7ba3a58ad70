# SPDX-License-Identifier: MIT
"""Many conversions, in this process or in several: tasks in, a result for each out. Prints nothing, holds only a few at a time.

What is up to date is skipped (outcome.py), so a run that was ended goes on where it was. A task that fails is a result like
others; but a full disk ends the run.
"""

import contextlib
from collections.abc import Generator, Iterable

from fewbits.conversion import Conversion
from fewbits.outcome import Folders, Result, converted, without_work
from fewbits.planning import Task


def run(
    tasks: Iterable[Task], convert: Conversion, *, jobs: int, force: bool, update: bool = False
) -> Generator[Result, None, None]:
    """A result for each task, as they come; fewer where one ends the run.

    force, update: which targets that are there may be overwritten (outcome.py). jobs: processes; 1: this one. Close the iterator
    to stop early: processes end at once, and leave no half file. A process that dies takes its task with it, not the others. As
    with all of multiprocessing, a script needs `if __name__ == "__main__":`.
    """
    folders = Folders()
    pool = None
    if jobs > 1:
        from fewbits.pool import Pool  # here, because most commands convert one file, and need not wait for it

        pool = Pool(jobs, convert, force, update)
    with contextlib.closing(pool) if pool else contextlib.nullcontext():
        for task in tasks:
            known = without_work(task, convert, force, update, folders)
            if known:
                results: Iterable[Result] = [known]
            elif pool:
                results = pool.put(task)
            else:
                results = [converted(task, convert, force, update)]
            for result in results:
                yield result
                if result.ends_run:
                    return
        if pool:
            yield from pool.rest()

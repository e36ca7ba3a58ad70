# SPDX-License-Identifier: MIT
"""Where the time goes: functions that belong to a stage of the work, and a watch that sums the seconds of each.

Nothing is measured unless somebody watches: then a call costs a look at one variable. A stage in another is not counted twice.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
OTHER: Final = "other"


class Watch:
    """Seconds and calls by stage, in the order in which the stages began; `other` is what belongs to none."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._running, self._since = [OTHER], clock()

    def switch(self, stage: str | None) -> None:
        """Begin a stage inside the one that runs, or end that one (None)."""
        now = self._clock()
        running = self._running[-1]
        self.seconds[running] = self.seconds.get(running, 0.0) + now - self._since
        self._since = now
        if stage is None:
            self._running.pop()
        else:
            self._running.append(stage)
            self.calls[stage] = self.calls.get(stage, 0) + 1

    def table(self) -> str:
        """A line for each stage, the longest first: milliseconds, share, calls."""
        total = sum(self.seconds.values())
        rows = [
            f"{name:16} {1000 * seconds:9.1f} ms {100 * seconds / total:5.1f} %  {self.calls.get(name, 1):5} x"
            for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1])
        ]
        return "\n".join([*rows, f"{'total':16} {1000 * total:9.1f} ms"])


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(clock: Callable[[], float] = time.perf_counter) -> Iterator[Watch]:
    """Measure everything that this thread does inside. clock: seconds since whenever."""
    watch = Watch(clock)
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)
        watch.switch(None)


def stage(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: the function is of that stage."""

    def decorate(call: Callable[P, T]) -> Callable[P, T]:
        @wraps(call)
        def staged(*args: P.args, **kwargs: P.kwargs) -> T:
            watch = _watch.get()
            if watch is None:
                return call(*args, **kwargs)
            watch.switch(name)
            try:
                return call(*args, **kwargs)
            finally:
                watch.switch(None)

        return staged

    return decorate

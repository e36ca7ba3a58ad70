# SPDX-License-Identifier: MIT
"""Processes side by side have one thread each: products of matrices whose threads wait for a core take twenty times as long.
And what may be done beside something else."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started inside compute on one thread.

    Here and not in the new process, where numpy, which reads it once, may have been loaded before anything of ours runs.
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def beside(call: Callable[[], T]) -> Callable[[], T]:
    """Let a thread of its own make a call that does not need Python's lock; it takes 0.1 ms to begin.

    What is returned waits for its result, or raises what it has raised. Where no thread can begin, it makes the call itself.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # whatever it is, it is of whoever asks
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # there are as many as the system allows
        return call

    def result() -> T:
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    return result

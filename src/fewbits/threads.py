# SPDX-License-Identifier: MIT
"""Processes side by side have one thread each: products of matrices whose threads wait for a core take twenty times as long."""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

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

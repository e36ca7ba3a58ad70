# SPDX-License-Identifier: MIT
"""Processes side by side: one thread each, and the process that starts them keeps its own."""

import os

import pytest

from fewbits.bench.pool import in_processes
from fewbits.threads import one_thread_each

NAME = "OPENBLAS_NUM_THREADS"


def threads_here(_: int) -> str | None:
    return os.environ.get(NAME)


@pytest.mark.parametrize("before", [None, "7"])
def test_what_was_said_before_comes_back(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv(NAME, raising=False)
    if before is not None:
        monkeypatch.setenv(NAME, before)
    with pytest.raises(ZeroDivisionError), one_thread_each():
        assert threads_here(0) == "1"
        raise ZeroDivisionError
    assert threads_here(0) == before


@pytest.mark.parametrize(("jobs", "threads"), [(2, "1"), (1, "7")])
def test_processes_begin_with_it(monkeypatch: pytest.MonkeyPatch, jobs: int, threads: str) -> None:
    monkeypatch.setenv(NAME, "7")
    assert {found for _, found in in_processes(threads_here, [1, 2, 3], jobs, "testing", False)} == {threads}

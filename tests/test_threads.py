# SPDX-License-Identifier: MIT
"""Processes side by side: one thread each, and the process that starts them keeps its own."""

import os
import threading

import pytest

from fewbits.bench.pool import in_processes
from fewbits.threads import beside, one_thread_each

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


def test_a_call_beside_is_made_by_another_thread_while_this_one_goes_on() -> None:
    go_on = threading.Event()

    def call() -> str:
        assert go_on.wait(30)
        return threading.current_thread().name

    result = beside(call)
    go_on.set()
    assert result() == result() != threading.current_thread().name


def test_what_a_call_beside_raises_is_raised_where_its_result_is_asked_for() -> None:
    result = beside(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            result()


def test_a_call_is_made_by_who_asks_where_no_thread_can_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert beside(threading.current_thread)() is threading.current_thread()

# SPDX-License-Identifier: MIT
"""A watch sums the seconds of stages, and nothing is measured unless somebody watches."""

import time

import pytest

from fewbits.stages import OTHER, stage, watched


@stage("outer")
def outer() -> int:
    time.sleep(0.01)
    return inner() + inner()


@stage("inner")
def inner() -> int:
    time.sleep(0.02)
    return 1


def test_a_stage_in_another_is_not_counted_twice() -> None:
    with watched() as watch:
        begun = time.perf_counter()
        assert outer() == 2
        passed = time.perf_counter() - begun
    assert watch.calls == {"outer": 1, "inner": 2}
    assert watch.seconds["inner"] >= 0.04 and 0.01 <= watch.seconds["outer"] <= passed - watch.seconds["inner"]
    assert set(watch.seconds) == {"outer", "inner", OTHER}
    assert sum(watch.seconds.values()) >= passed


def test_the_table_has_the_longest_first_and_a_total() -> None:
    with watched() as watch:
        outer()
    lines = watch.table().splitlines()
    assert [line.split()[0] for line in lines] == ["inner", "outer", "other", "total"]
    assert lines[0].endswith("2 x")


def test_a_stage_that_fails_ends() -> None:
    @stage("failing")
    def failing() -> None:
        raise ValueError("no")

    with watched() as watch, pytest.raises(ValueError, match="no"):
        failing()
    assert watch.calls == {"failing": 1}
    with watched() as other:
        pass
    assert list(other.seconds) == [OTHER]


def test_nothing_is_measured_where_nobody_watches() -> None:
    with watched() as watch:
        pass
    assert inner() == 1 and watch.calls == {}

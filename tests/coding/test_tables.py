# SPDX-License-Identifier: MIT
"""Frozen tables: what a table may be, and how weights become one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.coding.tables import TOTAL, FrequencyTable, checked_frequencies, quantize_frequencies

weights = st.lists(st.floats(0, 1e9, allow_subnormal=False), min_size=2, max_size=200).filter(lambda row: sum(row) > 1e-6)


def test_the_precision_is_part_of_the_format() -> None:
    assert TOTAL == 2**24


@given(weights)
def test_quantized_weights_make_a_table(row: list[float]) -> None:
    frequencies = quantize_frequencies(np.array(row))
    assert frequencies.dtype == np.int64
    assert frequencies.min() >= 1 and frequencies.sum() == TOTAL
    assert len(FrequencyTable(frequencies)) == len(row)


@given(weights)
def test_frequencies_are_proportional_but_for_the_one_that_each_gets(row: list[float]) -> None:
    share = np.array(row) / np.sum(row) * (TOTAL - len(row)) + 1
    assert np.abs(quantize_frequencies(np.array(row)) - share).max() <= 1


@given(weights)
def test_a_larger_weight_never_gets_less(row: list[float]) -> None:
    order = np.argsort(row, kind="stable")
    frequencies = quantize_frequencies(np.array(row))
    strictly = np.array(row)[order][1:] > np.array(row)[order][:-1] * (1 + 1e-9)
    assert (np.diff(frequencies[order])[strictly] >= 0).all()


def test_largest_remainders_come_first() -> None:
    # 2**24 - 3 = 16777213 to share out in thirds: 5592404 each and one over, for the first of equals
    assert quantize_frequencies(np.ones(3)).tolist() == [5592406, 5592405, 5592405]
    assert quantize_frequencies(np.array([0.0, 1.0])).tolist() == [1, TOTAL - 1]


@pytest.mark.parametrize(
    "frequencies",
    [
        [TOTAL],
        [[1, TOTAL - 1]],
        [0, TOTAL],
        [-1, TOTAL + 1],
        [1, TOTAL],
        [1, TOTAL - 2],
        [],
    ],
)
def test_what_is_no_table_is_refused(frequencies: list[int]) -> None:
    with pytest.raises(ValueError):
        FrequencyTable(np.array(frequencies, np.int64))


@pytest.mark.parametrize(
    "frequencies",
    [
        np.array([2**63 - 1, 2**63 - 1, 2 + TOTAL]),  # whose sum wraps around to TOTAL
        np.array([2**64 - 1, TOTAL + 1], np.uint64),
        np.array([1.5, TOTAL - 1.5]),
        np.array([np.nan, TOTAL]),
        np.array(["1", str(TOTAL - 1)]),
        np.array(5),
        np.array([True, False]),
    ],
    ids=["wrapping", "unsigned", "fractions", "nan", "text", "one", "truth"],
)
@pytest.mark.filterwarnings("error")
def test_what_only_looks_like_a_table_is_refused(frequencies: np.ndarray) -> None:
    with pytest.raises(ValueError):
        FrequencyTable(frequencies)
    with pytest.raises(ValueError):
        checked_frequencies(np.stack([np.array([1, TOTAL - 1]), frequencies[:2]]) if frequencies.ndim else frequencies)


def test_bits_are_minus_log2_of_the_probability() -> None:
    table = FrequencyTable(np.array([TOTAL // 2, TOTAL // 4, TOTAL // 4 - 1, 1]))
    assert table.bits(np.array([0])) == 1
    assert table.bits(np.array([1])) == 2
    assert table.bits(np.array([3])) == 24
    assert table.bits(np.array([], np.int64)) == 0
    assert table.bits(np.array([0, 1, 1, 3])) == 1 + 2 + 2 + 24
    assert table.bits(np.array([2])) == pytest.approx(2, abs=1e-5)

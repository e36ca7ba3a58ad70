# SPDX-License-Identifier: MIT
"""The order from coarse to fine: every position once, predicted from those before it, and the same back."""

import numpy as np
import pytest

from fewbits.coding.pyramid import N_PHASES, SPACING, bordered, means_of, phases, predictions, quantized

SIZES = [(1, 1), (1, 37), (2, 2), (5, 1), (15, 16), (16, 17), (32, 48), (23, 31), (32, 200)]


def neighbours(row: int, column: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """docs/format.md, "Pyramid", position by position: those that a position is predicted from."""
    distance = 1
    while distance < SPACING and row % (2 * distance) == 0 and column % (2 * distance) == 0:
        distance *= 2
    if distance == SPACING:
        return []
    if row % (2 * distance) and column % (2 * distance):
        around = [(row + dy, column + dx) for dy in (-distance, distance) for dx in (-distance, distance)]
    else:
        pairs = [[(row - distance, column), (row + distance, column)], [(row, column - distance), (row, column + distance)]]
        whole = [pair for pair in pairs if all(0 <= y < rows and 0 <= x < columns for y, x in pair)]
        around = [place for pair in whole or pairs for place in pair]
    return [(y, x) for y, x in around if 0 <= y < rows and 0 <= x < columns]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_position_has_one_phase_and_neighbours_of_earlier_ones(size: tuple[int, int]) -> None:
    found = phases(*size)
    assert found.shape == size and found.min() == 0 and found.max() < N_PHASES
    for row, column in np.ndindex(*size):
        around = neighbours(row, column, *size)
        assert bool(around) == bool(found[row, column])
        assert all(found[place] < found[row, column] for place in around)


def test_all_phases_occur_and_each_halves_the_spacing() -> None:
    counts = np.bincount(phases(64, 64).ravel(), minlength=N_PHASES)
    assert counts.tolist() == [16, 16, 32, 64, 128, 256, 512, 1024, 2048]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_predictions_are_means_of_the_known_neighbours(size: tuple[int, int]) -> None:
    wanted = np.random.default_rng(0).normal(0, 9, (3, *size)).astype(np.float32)
    filled, seen = np.zeros((3, *size), np.float32), np.zeros(size, int)
    for window, found in predictions(filled, bordered):
        seen[window] += 1
        rows, columns = np.arange(size[0])[window[0]], np.arange(size[1])[window[1]]
        for i, row in enumerate(rows):
            for k, column in enumerate(columns):
                around = [wanted[:, y, x] for y, x in neighbours(int(row), int(column), *size)]
                mean = np.mean(around, axis=0) if around else np.zeros(3)
                assert np.allclose(found[:, i, k], mean, atol=1e-5)
        filled[(slice(None), *window)] = wanted[(slice(None), *window)]
    assert (seen == 1).all()


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_decoded_lies_within_half_a_step(size: tuple[int, int], by_place: bool) -> None:
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(0, 1, (3, *size)), axis=2).astype(np.float32)
    gain = rng.uniform(0.5, 9, (3, *(size if by_place else (1, 1)))).astype(np.float32)
    symbols, means = quantized(values, gain, lambda residual, here: np.rint(residual).astype(np.int16))
    assert symbols.dtype == np.int16 and means.dtype == np.float32
    assert np.array_equal(means_of(symbols, gain), means)
    assert (np.abs(means + symbols / gain - values) <= 0.5 / gain + 1e-4).all()


def test_smooth_values_cost_little_once_the_first_are_there() -> None:
    rows, columns = np.mgrid[:32, :64]
    ramp = (3 * rows + 2 * columns)[None].astype(np.float32)
    symbols, _ = quantized(ramp, np.ones((1, 1, 1), np.float32), lambda residual, here: np.rint(residual).astype(np.int16))
    assert np.abs(symbols[0, :17, :49][phases(17, 49) > 0]).max() == 0, "a plane is the mean of what lies around"


def test_tensors_are_predicted_as_arrays_are() -> None:
    torch = pytest.importorskip("torch")
    from torch.nn import functional as F

    values = np.random.default_rng(2).normal(0, 9, (2, 3, 21, 40)).astype(np.float32)
    filled, tensor = np.zeros_like(values[0]), torch.zeros(values.shape)
    of_arrays = predictions(filled, bordered)
    for window, mean in predictions(tensor, lambda part: F.pad(part, (1, 1, 1, 1)), torch.from_numpy):
        same, wanted = next(of_arrays)
        assert same == window and np.allclose(mean[0].numpy(), wanted, atol=1e-5)
        here = (..., *window)
        tensor[here] = torch.from_numpy(values[here])
        filled[here] = values[0][here]
    assert next(of_arrays, None) is None

# SPDX-License-Identifier: MIT
"""The latent's leading channels from coarse to fine: each value is predicted from the known ones around it (ADR 20).

They hold the brightness and the colours of blocks of 16x16 pixels, which are much like their neighbours'. Of every 16th row and
column come first, then, with the distance halved from 16 to 1, those in the middles of four known ones, and those between two
known ones across and two down: each step at once. What is predicted is a mean; tables do not depend on it.

All of it is slices and sums, so that it serves arrays of numpy and, in training, tensors.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

SPACING: Final = 16  # positions between those that come first; part of the format
N_PHASES: Final = 9  # 1, and two for each of the distances 8, 4, 2 and 1

Window = tuple[slice, slice]  # rows, columns


class _Step(NamedTuple):
    """Positions of a phase: where they are in the whole, and in the lattice of known ones and their middles."""

    phase: int
    distance: int  # 0: nothing is known yet
    diagonal: bool
    first: tuple[int, int]  # row and column in the lattice of every `distance`-th position
    window: Window
    shares: tuple[
        np.ndarray, np.ndarray
    ]  # float32: of the neighbours above and below in the mean, and of those beside; diagonal: of all


@lru_cache(maxsize=64)
def _steps(rows: int, columns: int) -> tuple[_Step, ...]:
    nothing = np.zeros((1, 1), np.float32)
    steps = [_Step(0, 0, False, (0, 0), (slice(0, None, SPACING), slice(0, None, SPACING)), (nothing, nothing))]
    distance, phase = SPACING // 2, 1
    while distance:
        for diagonal, firsts in ((True, [(1, 1)]), (False, [(1, 0), (0, 1)])):
            for first in firsts:
                starts = first[0] * distance, first[1] * distance
                down, across = (
                    _known(np.arange(start, side, 2 * distance), side, distance)
                    for start, side in zip(starts, (rows, columns), strict=True)
                )
                if len(down) and len(across):
                    window = slice(starts[0], None, 2 * distance), slice(starts[1], None, 2 * distance)
                    shares = _shares(down[:, None], across[None], diagonal)
                    steps.append(_Step(phase, distance, diagonal, first, window, shares))
            phase += 1
        distance //= 2
    return tuple(steps)


def _known(positions: np.ndarray, side: int, distance: int) -> np.ndarray:
    """How many of the two positions at a distance lie inside."""
    return (positions >= distance).astype(np.int64) + (positions + distance < side)


def _shares(down: np.ndarray, across: np.ndarray, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """_Step.shares, by how many neighbours lie inside above and below, and beside."""
    if diagonal:
        share = (1 / (down * across)).astype(np.float32)
        return share, share
    upright, flat = (down == 2) | (across < 2), (across == 2) | (down < 2)  # a whole pair, or there is none
    count = down * upright + across * flat
    return (upright / count).astype(np.float32), (flat / count).astype(np.float32)


def predictions(
    values: Any, padded: Callable[[Any], Any], constant: Callable[[np.ndarray], Any] = lambda array: array
) -> Iterator[tuple[Window, Any]]:
    """Window by window the means of the known neighbours in `values` (..., rows, columns).

    The caller fills values[..., *window] before it goes on. padded: puts a border of zeros, one wide, around such an array.
    constant: makes of an array of numpy one that can be multiplied with `values`.
    """
    for step in _steps(*values.shape[-2:]):
        if not step.distance:
            yield step.window, 0 * values[(..., *step.window)]
            continue
        lattice = padded(values[..., :: step.distance, :: step.distance])
        # what lies around a position of the window, in the padded lattice: one further down and right than in the lattice
        up, middle, below = (slice(step.first[0] + k, lattice.shape[-2] - 2 + k, 2) for k in range(3))
        left, centre, right = (slice(step.first[1] + k, lattice.shape[-1] - 2 + k, 2) for k in range(3))
        if step.diagonal:
            pairs = ((up, left), (up, right)), ((below, left), (below, right))
        else:
            pairs = ((up, centre), (below, centre)), ((middle, left), (middle, right))
        one, other = (lattice[(..., *first)] + lattice[(..., *second)] for first, second in pairs)
        yield step.window, one * constant(step.shares[0]) + other * constant(step.shares[1])


@lru_cache(maxsize=64)
def phases(rows: int, columns: int) -> np.ndarray:
    """The phase in which each position comes: int64 (rows, columns), 0..N_PHASES - 1."""
    found = np.zeros((rows, columns), np.int64)
    for step in _steps(rows, columns):
        found[step.window] = step.phase
    found.flags.writeable = False
    return found


def bordered(values: np.ndarray) -> np.ndarray:
    """values (channels, rows, columns) with a border of zeros, one wide."""
    channels, rows, columns = values.shape
    wide = np.zeros((channels, rows + 2, columns + 2), values.dtype)  # np.pad takes three times as long for small ones
    wide[:, 1:-1, 1:-1] = values
    return wide


def quantized(
    values: np.ndarray, gain: np.ndarray, rounded: Callable[[np.ndarray, tuple[Any, ...]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """values float32 (channels, rows, columns) -> their symbols int16, and the means float32 that these are added to.

    gain: symbols a unit of value, (channels, rows, columns) or (channels, 1, 1). rounded: of residuals, with where they are.
    """
    symbols = np.zeros(values.shape, np.int16)
    gain = np.broadcast_to(gain, values.shape)

    def filled(here: tuple[Any, ...], mean: np.ndarray) -> None:
        symbols[here] = rounded((values[here] - mean) * gain[here], here)

    return symbols, _means(symbols, gain, filled)


def means_of(symbols: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """The means float32 that symbols int16 (channels, rows, columns) are added to, once they are divided by the gain."""
    return _means(symbols, np.broadcast_to(gain, symbols.shape), lambda here, mean: None)


def _means(symbols: np.ndarray, gain: np.ndarray, fill: Callable[[tuple[Any, ...], np.ndarray], None]) -> np.ndarray:
    means, decoded = np.zeros(symbols.shape, np.float32), np.zeros(symbols.shape, np.float32)
    for window, mean in predictions(decoded, bordered):
        here = (slice(None), *window)
        means[here] = mean
        fill(here, means[here])
        decoded[here] = means[here] + symbols[here] / gain[here]
    return means

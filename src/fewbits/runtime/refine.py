# SPDX-License-Identifier: MIT
"""Symbols that cost fewer bits for the error that they leave: what an encoder does with more time (ADR 34).

Rounding takes each latent value by itself. But synthesis is no orthonormal transform: what one symbol leaves undone, others can
make up for. So after rounding, round after round, symbols move by one where bits and error together become less, as the error's
slope tells. Of the moves that seem to pay a share is made, drawn by lot: those that would mend the same error must not all be.
The next round's slope tells what has come of each move, and those that did not pay are undone (ADR 35). A decoder knows nothing
of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fewbits.coding.tables import PRECISION, FrequencyTable
from fewbits.runtime.slopes import Errors
from fewbits.stages import stage


class Schedule(NamedTuple):
    """From the first round to the last, in equal ratios: what curvature is multiplied with; and which share of moves is made."""

    curvature: tuple[float, float]
    share: float


def schedule(rounds: int) -> Schedule:
    """For so many rounds: the more there are, the bolder are the first ones, and the less is done at once. Numbers: ADR 35."""
    if rounds < 6:
        return Schedule((1.0, 4.0), 0.4)
    return Schedule((0.8, 4.0), 0.3) if rounds < 12 else Schedule((0.7, 4.0), 0.25)


class Patch(NamedTuple):
    """What is refined at once, and what is around it.

    symbols int16, indices uint8: (channels, rows, columns). step float32 (channels, 1, 1) or (channels, rows, columns): of a
    symbol in y_hat. y_hat float32 (1, channels, outer rows, outer columns); inner: where the patch lies in it. errors: what they
    are worth in bits.
    """

    symbols: np.ndarray
    indices: np.ndarray
    step: np.ndarray
    y_hat: np.ndarray
    inner: tuple[slice, slice]
    errors: Errors


class Refiner:
    """Moves symbols of the kind "hyperprior"."""

    def __init__(self, tables: Sequence[FrequencyTable], first_coded: int, fixed: int) -> None:
        """tables: of each scale index, signed. fixed: channels that stay as they are."""
        self._first_coded, self._fixed = first_coded, fixed
        self._costs = _costs(tables)

    @stage("refining")
    def refine(self, patch: Patch, rounds: int, seed: int, progress: Callable[[float], None]) -> None:
        """Moves patch.symbols, and patch.y_hat with them, in place; from the same seed in the same way.

        The last round only undoes. progress is called with the fraction done, 0..1. Raises ModelError.
        """
        if patch.errors.blind:
            return
        lots, (factors, share) = np.random.default_rng(seed), schedule(rounds)
        free = np.flatnonzero(patch.indices[self._fixed :] >= self._first_coded) + self._fixed * patch.indices[0].size
        here = (0, slice(None), *patch.inner)
        step = np.broadcast_to(patch.step, patch.symbols.shape).ravel()[free]
        row = patch.indices.ravel()[free].astype(np.int32) * self._costs.shape[1]
        symbols, costs, last = patch.symbols.ravel()[free].astype(np.int32), self._costs.ravel(), self._costs.shape[1] - 1
        y_hat = patch.y_hat[here].copy()

        def cost(these: np.ndarray | slice, by: np.ndarray | int) -> np.ndarray:
            return np.asarray(costs[row[these] + np.minimum(np.abs(symbols[these] + by), last)])

        shaken = self._shaken(patch, free, step, lots)
        slopes, curvature = patch.errors.slope_and_curvature(patch.y_hat, shaken, lots)
        bent = curvature[here].ravel()[free] * step**2 / 2
        moved, by, before = np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.float32)  # the last round's moves
        for k in range(rounds):
            slope = (patch.errors.slope(patch.y_hat) if k else slopes)[here].ravel()[free] * step
            # The errors' change is, all moves together and but for what is beyond curvature, by the mean slope before and after.
            undone = cost(moved, 0) - cost(moved, -by) + by * (before + slope[moved]) / 2 > 0
            moves = np.zeros(len(free), np.int8)
            if k < rounds - 1:
                factor = factors[0] * (factors[1] / factors[0]) ** (k / max(1, rounds - 2))
                moves = self._wanted(cost, slope, np.float32(factor) * bent)
                moves *= lots.random(len(free), np.float32) < share
            moves[moved] = -by * undone
            moved = np.flatnonzero(moves)
            by, before = moves[moved], slope[moved]
            symbols[moved] += by
            y_hat.reshape(-1)[free[moved]] += by * step[moved]
            patch.y_hat[here] = y_hat
            progress((k + 1) / rounds)
        patch.symbols.reshape(-1)[free] = np.clip(symbols, np.iinfo(np.int16).min, np.iinfo(np.int16).max)

    @staticmethod
    def _shaken(patch: Patch, free: np.ndarray, step: np.ndarray, lots: np.random.Generator) -> np.ndarray:
        """y_hat with the share of symbols moved that errors.shaken asks for, one at least; free: those that may move."""
        if not patch.errors.shaken:
            return patch.y_hat
        drawn = lots.random(len(free), np.float32) < patch.errors.shaken
        drawn[: not drawn.any()] = True
        shaken, inner = patch.y_hat.copy(), patch.y_hat[(0, slice(None), *patch.inner)].copy()
        inner.reshape(-1)[free] += drawn * (2 * lots.integers(0, 2, len(free), np.int8) - 1) * step
        shaken[(0, slice(None), *patch.inner)] = inner
        return shaken

    @staticmethod
    def _wanted(cost: Callable[[slice, int], np.ndarray], slope: np.ndarray, bent: np.ndarray) -> np.ndarray:
        """How each symbol would move by itself: int8, -1, 0 or 1."""
        now, best, moves = cost(slice(None), 0), np.zeros(len(slope), np.float32), np.zeros(len(slope), np.int8)
        for by in (-1, 1):
            change = cost(slice(None), by) - now + bent + by * slope
            better = change < best
            best[better], moves[better] = change[better], by
        return moves


def _costs(tables: Sequence[FrequencyTable]) -> np.ndarray:
    """Bits of a symbol by scale index and magnitude: float32 (indices, magnitudes); beyond a table's limit those of an escape."""
    limits = [len(table) // 2 - 1 for table in tables]
    costs = np.empty((len(tables), max(limits) + 2), np.float32)
    for row, table, limit in zip(costs, tables, limits, strict=True):
        bits = PRECISION - np.log2(table.frequencies)
        row[: limit + 1] = bits[limit : 2 * limit + 1]
        row[limit + 1 :] = bits[-1] + 16
    return costs

# SPDX-License-Identifier: MIT
"""Symbols that cost fewer bits for the error that they leave: what an encoder may do with more time (ADR 33).

Rounding takes each latent value by itself. But synthesis is no orthonormal transform: what one symbol leaves undone, others can
make up for. So after rounding, round after round, symbols move by one where bits and error together become less, as its gradient
tells (runtime/pipeline.py: nothing of it is in the format; a decoder does as ever). All symbols whose moves pay move at once, but
for a share drawn by lot: those that would mend the same error must not all do it.
"""

from typing import Final, NamedTuple

import numpy as np

from fewbits.coding.tables import PRECISION, FrequencyTable
from fewbits.runtime.engines import Network
from fewbits.stages import stage

COLUMNS: Final = 48  # latent positions of a tile; change time and memory, and hardly the result
PROBE: Final = 1e4  # times the error, beside which the error itself is nothing


class Schedule(NamedTuple):
    """From the first round to the last, in equal ratios: what curvature is multiplied with, and which share of moves is made."""

    curvature: tuple[float, float]
    share: tuple[float, float]


class Patch(NamedTuple):
    """What is refined at once, and what is around it.

    symbols int16, index uint8: (channels, rows, columns), of which those beyond `fixed` channels may move; step float32
    (channels, 1, 1) or (channels, rows, columns): of a symbol in y_hat. y_hat float32 (1, channels, outer rows, outer columns);
    inner: where the patch lies in it. inputs: the network's others.
    """

    symbols: np.ndarray
    index: np.ndarray
    step: np.ndarray
    y_hat: np.ndarray
    inner: tuple[slice, slice]
    inputs: dict[str, np.ndarray]


class Refiner:
    """Moves symbols of a kind "hyperprior"."""

    def __init__(self, network: Network, tables: list[FrequencyTable], first_coded: int, fixed: int) -> None:
        """network: see training/gradient.py. tables: of each scale index. fixed: channels that stay as they are."""
        self._network, self._first_coded, self._fixed = network, first_coded, fixed
        self._costs = _costs(tables)

    @stage("refining")
    def refine(self, patch: Patch, rounds: int, schedule: Schedule, seed: int) -> None:
        """Moves patch.symbols, and patch.y_hat with them, in place. The same each time."""
        lots = np.random.default_rng(seed)
        free = np.flatnonzero(patch.index[self._fixed :] >= self._first_coded) + self._fixed * patch.index[0].size
        here = (0, slice(None), *patch.inner)
        bent = self._curvature(patch, here, lots).ravel()[free]
        step = np.broadcast_to(patch.step, patch.symbols.shape).ravel()[free]
        bent *= step * step / 2
        row = patch.index.ravel()[free].astype(np.int32) * self._costs.shape[1]
        symbols = patch.symbols.ravel()[free].astype(np.int32)
        costs, last = self._costs.ravel(), self._costs.shape[1] - 1
        for k in range(rounds):
            part = k / max(1, rounds - 1)
            factor, share = (first * (end / first) ** part for first, end in schedule)
            slope = self._network(y_hat=patch.y_hat, **patch.inputs)[0, :, patch.inner[0], patch.inner[1]].ravel()[free] * step
            now = costs[row + np.minimum(np.abs(symbols), last)]
            best, move = np.zeros(len(free), np.float32), np.zeros(len(free), np.int32)
            for by in (-1, 1):
                change = costs[row + np.minimum(np.abs(symbols + by), last)] - now + by * slope + np.float32(factor) * bent
                better = change < best
                best[better], move[better] = change[better], by
            move[lots.random(len(free), np.float32) >= share] = 0
            moved = np.flatnonzero(move)
            symbols[moved] += move[moved]
            patch.y_hat[here] = _moved(patch.y_hat[here], free[moved], move[moved] * step[moved])
        flat = patch.symbols.reshape(-1)
        flat[free] = symbols

    def _curvature(self, patch: Patch, here: tuple[int | slice, ...], lots: np.random.Generator) -> np.ndarray:
        """Of the error by each value of y_hat: float32 (channels, rows, columns), as if it were a channel's times a place's.

        By one draw of J^T u, u of independent signs, whose squares are those of J's columns on average (Hutchinson).
        """
        weight = patch.inputs["weight"]
        signs = (2 * lots.integers(0, 2, weight.shape, np.int8) - 1).astype(np.float32)
        inputs = patch.inputs | {"target": signs * np.float32(PROBE), "weight": np.sqrt(weight) / np.float32(PROBE)}
        squares: np.ndarray = self._network(y_hat=patch.y_hat, **inputs)[here] ** 2
        of_channel = squares.mean((1, 2), keepdims=True)
        of_place = (squares / np.maximum(of_channel, 1e-30)).mean(0, keepdims=True)
        return of_channel * np.ones_like(of_place)


def _moved(values: np.ndarray, places: np.ndarray, by: np.ndarray) -> np.ndarray:
    moved = np.ascontiguousarray(values)
    moved.reshape(-1)[places] += by
    return moved


def _costs(tables: list[FrequencyTable]) -> np.ndarray:
    """Bits of a symbol by scale index and magnitude: float32 (indices, magnitudes); beyond a table's limit those of an escape."""
    limits = [len(table) // 2 - 1 for table in tables]
    costs = np.empty((len(tables), max(limits) + 2), np.float32)
    for row, table, limit in zip(costs, tables, limits, strict=True):
        bits = PRECISION - np.log2(table.frequencies)
        row[: limit + 1] = bits[limit : 2 * limit + 1]
        row[limit + 1 :] = bits[-1] + 16
    return costs

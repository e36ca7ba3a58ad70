# SPDX-License-Identifier: MIT
"""Symbols that cost fewer bits for the error that they leave: what an encoder does with more time (ADR 34).

Rounding takes each latent value by itself. But synthesis is no orthonormal transform: what one symbol leaves undone, others can
make up for. So after rounding, round after round, symbols move by one where bits and error together become less, as the error's
gradient tells. Of the moves that pay a share is made, drawn by lot: those that would mend the same error must not all be. A
decoder knows nothing of it.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from fewbits.coding.tables import PRECISION, FrequencyTable
from fewbits.errors import ModelError
from fewbits.runtime.engines import Network
from fewbits.stages import stage

PROBE: Final = 1e4  # times the error, beside which the error itself is nothing


class Schedule(NamedTuple):
    """From the first round to the last, in equal ratios: what curvature is multiplied with, and which share of moves is made."""

    curvature: tuple[float, float]
    share: tuple[float, float]


FEW_ROUNDS: Final = Schedule((1.5, 3.0), (0.4, 0.4))
MANY_ROUNDS: Final = Schedule((1.2, 3.0), (0.2, 0.5))  # from MANY on
MANY: Final = 12


class Patch(NamedTuple):
    """What is refined at once, and what is around it.

    symbols int16, indices uint8: (channels, rows, columns). step float32 (channels, 1, 1) or (channels, rows, columns): of a
    symbol in y_hat. y_hat float32 (1, channels, outer rows, outer columns); inner: where the patch lies in it. inputs: the
    network's others, of which `weight` is what squared errors of values in 0..1 are worth in bits, times 2.
    """

    symbols: np.ndarray
    indices: np.ndarray
    step: np.ndarray
    y_hat: np.ndarray
    inner: tuple[slice, slice]
    inputs: dict[str, np.ndarray]


class Refiner:
    """Moves symbols of the kind "hyperprior"."""

    def __init__(self, network: Network, tables: Sequence[FrequencyTable], first_coded: int, fixed: int) -> None:
        """network: of training/gradient.py. tables: of each scale index, signed. fixed: channels that stay as they are."""
        self._network, self._first_coded, self._fixed = network, first_coded, fixed
        self._costs = _costs(tables)

    @stage("refining")
    def refine(self, patch: Patch, rounds: int, seed: int, progress: Callable[[float], None]) -> None:
        """Moves patch.symbols, and patch.y_hat with them, in place; from the same seed in the same way.

        progress is called with the fraction done, 0..1. Raises ModelError.
        """
        lots, schedule = np.random.default_rng(seed), MANY_ROUNDS if rounds >= MANY else FEW_ROUNDS
        free = np.flatnonzero(patch.indices[self._fixed :] >= self._first_coded) + self._fixed * patch.indices[0].size
        here = (0, slice(None), *patch.inner)
        step = np.broadcast_to(patch.step, patch.symbols.shape).ravel()[free]
        bent = self._curvature(patch, lots)[here].ravel()[free] * step**2 / 2
        row = patch.indices.ravel()[free].astype(np.int32) * self._costs.shape[1]
        symbols, costs, last = patch.symbols.ravel()[free].astype(np.int32), self._costs.ravel(), self._costs.shape[1] - 1
        y_hat = np.ascontiguousarray(patch.y_hat[here])
        for k in range(rounds):
            factor, share = (first * (end / first) ** (k / max(1, rounds - 1)) for first, end in schedule)
            slope = self._gradient(patch, patch.inputs)[here].ravel()[free] * step
            now = costs[row + np.minimum(np.abs(symbols), last)] - np.float32(factor) * bent
            best, move = np.zeros(len(free), np.float32), np.zeros(len(free), np.int32)
            for by in (-1, 1):
                change = costs[row + np.minimum(np.abs(symbols + by), last)] - now + by * slope
                better = change < best
                best[better], move[better] = change[better], by
            moved = np.flatnonzero((move != 0) & (lots.random(len(free), np.float32) < share))
            symbols[moved] += move[moved]
            y_hat.reshape(-1)[free[moved]] += move[moved] * step[moved]
            patch.y_hat[here] = y_hat
            progress((k + 1) / rounds)
        patch.symbols.reshape(-1)[free] = np.clip(symbols, np.iinfo(np.int16).min, np.iinfo(np.int16).max)

    def _gradient(self, patch: Patch, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """By y_hat: float32 like it. Raises ModelError."""
        found = self._network(y_hat=patch.y_hat, **inputs)
        if found.shape != patch.y_hat.shape or found.dtype != np.float32:
            what = f"{found.dtype} {found.shape}, it must be float32 {patch.y_hat.shape}"
            raise ModelError(f"network gradient gives {what}")
        return found

    def _curvature(self, patch: Patch, lots: np.random.Generator) -> np.ndarray:
        """Of the error by each value of y_hat: float32 like it, as if it were a channel's times a place's.

        By one draw of J^T u, u of independent signs, whose squares are on average those of J's columns (Hutchinson).
        """
        weight = patch.inputs["weight"]
        signs = (2 * lots.integers(0, 2, weight.shape, np.int8) - 1).astype(np.float32)
        inputs = patch.inputs | {"target": signs * np.float32(PROBE), "weight": np.sqrt(weight) / np.float32(PROBE)}
        squares = self._gradient(patch, inputs) ** 2
        of_channel = squares.mean((2, 3), keepdims=True)
        of_place = (squares / np.maximum(of_channel, 1e-30)).mean(1, keepdims=True)
        found: np.ndarray = of_channel * of_place
        return found


def _costs(tables: Sequence[FrequencyTable]) -> np.ndarray:
    """Bits of a symbol by scale index and magnitude: float32 (indices, magnitudes); beyond a table's limit those of an escape."""
    limits = [len(table) // 2 - 1 for table in tables]
    costs = np.empty((len(tables), max(limits) + 2), np.float32)
    for row, table, limit in zip(costs, tables, limits, strict=True):
        bits = PRECISION - np.log2(table.frequencies)
        row[: limit + 1] = bits[limit : 2 * limit + 1]
        row[limit + 1 :] = bits[-1] + 16
    return costs

# SPDX-License-Identifier: MIT
"""Which level a quality stands for, and what it sets in the kind "hyperprior": vectors and tables, or several by place."""

from typing import NamedTuple

import numpy as np

from fewbits.coding.tables import FrequencyTable
from fewbits.container import QUALITY_STEPS
from fewbits.runtime.places import Places

HYPER_STRIDE = 4  # latent positions a hyper position, which is a place
STRETCH_COLUMNS = 256  # latent positions; changes time and memory, never the result


class Level(NamedTuple):
    """Everything that qualities set. Vectors are float32 (classes, channels, 1, 1), z_tables a list for each class.

    Without places there is one class, and its vectors are ready for the networks.
    """

    gain: np.ndarray
    inverse_gain: np.ndarray
    hyper: dict[str, np.ndarray]
    synthesis: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    z_tables: list[list[FrequencyTable]]
    latent_step: np.ndarray  # float32 (1, channels, 1, 1), of codes in int8
    qualities: tuple[int, ...]  # in hundredths, one for each class
    places: Places | None = None

    def at(self, vectors: np.ndarray, rows: slice, columns: slice, stride: int = HYPER_STRIDE) -> np.ndarray:
        """One of the level's vectors in a window of a grid: (1, channels, rows, columns), or (1, channels, 1, 1) for all of it.

        stride: positions of that grid a hyper position.
        """
        if self.places is None:
            return vectors
        down, across = (np.arange(part.start, part.stop) // stride for part in (rows, columns))
        classes = self.places.classes[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        if (classes == classes[0, 0]).all():
            return np.asarray(vectors[classes[0, 0]][None])
        wide = classes[(down - down[0])[:, None], across - across[0]]
        return np.asarray(np.take(vectors[:, :, 0, 0].T, wide, axis=1)[None])

    def scaled(self, values: np.ndarray, vectors: np.ndarray, rows: slice, out: np.ndarray | None = None) -> np.ndarray:
        """values (channels, rows, columns), of all columns of those latent rows, times one of the level's vectors: float32.

        out: where the result goes, which may be `values`.
        """
        if self.places is None:
            return np.asarray(np.multiply(values, vectors[0], out=out))
        out = np.empty(values.shape, np.float32) if out is None else out
        for start in range(0, values.shape[2], STRETCH_COLUMNS):
            part = slice(start, min(start + STRETCH_COLUMNS, values.shape[2]))
            np.multiply(values[:, :, part], self.at(vectors, rows, part)[0], out=out[:, :, part])
        return out

    def between(self, vectors: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """The same in a window of the latent, interpolated linearly between the middles of hyper positions.

        For the synthesis: borders of steep changes would be seen as lines (ADR 16).
        """
        if self.places is None:
            return vectors
        around = tuple(
            slice(max(part.start // HYPER_STRIDE - 1, 0), min((part.stop - 1) // HYPER_STRIDE + 2, side))
            for part, side in zip((rows, columns), self.places.classes.shape, strict=True)
        )
        classes = self.places.classes[around]
        if (classes == classes[0, 0]).all():
            return np.asarray(vectors[classes[0, 0]][None])
        values = np.take(vectors[:, :, 0, 0].T, classes, axis=1)
        for axis, (part, there) in enumerate(zip((rows, columns), around, strict=True), 1):
            values = _interpolated(values, axis, np.arange(part.start, part.stop) - there.start * HYPER_STRIDE)
        return values[None]

    def groups(self, planes: np.ndarray) -> tuple[list[np.ndarray], list[FrequencyTable]]:
        """Hyper symbols (channels, rows, columns) in groups with a table each: class by class, channel by channel."""
        if self.places is None:
            return list(planes.reshape(len(planes), -1)), self.z_tables[0]
        parts = [planes[:, self.places.classes == k] for k in range(len(self.z_tables))]
        return [group for part in parts for group in part], [table for tables in self.z_tables for table in tables]

    def group_sizes(self, n_positions: int) -> tuple[list[int], list[FrequencyTable]]:
        """How many symbols each of the groups has, with its table."""
        counts = [n_positions]
        if self.places is not None:
            counts = np.bincount(self.places.classes.ravel(), minlength=len(self.z_tables)).tolist()
        sizes = [count for count, tables in zip(counts, self.z_tables, strict=True) for _ in tables]
        return sizes, [table for tables in self.z_tables for table in tables]

    def ungrouped(self, groups: list[np.ndarray], rows: int, columns: int) -> np.ndarray:
        """Inverse of groups(): int32 (channels, rows, columns)."""
        if self.places is None:
            return np.stack(groups).reshape(-1, rows, columns)
        channels = len(self.z_tables[0])
        planes = np.empty((channels, rows, columns), np.int32)
        for k in range(len(self.z_tables)):
            planes[:, self.places.classes == k] = np.stack(groups[k * channels : (k + 1) * channels])
        return planes


def _interpolated(values: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """Values of hyper positions along an axis -> those of latent positions; at the ends the last value goes on.

    Element by element, so that a window's values do not depend on its size.
    """
    nearest, within = positions // HYPER_STRIDE, positions % HYPER_STRIDE
    other = np.clip(nearest + np.where(within < HYPER_STRIDE // 2, -1, 1), 0, values.shape[axis] - 1)
    share = np.abs(2 * within + 1 - HYPER_STRIDE).astype(np.float32) / (2 * HYPER_STRIDE)  # of the other: 3/8, 1/8, 1/8, 3/8
    share = share.reshape([-1 if k == axis else 1 for k in range(values.ndim)])
    here = np.take(values, nearest, axis)
    return np.asarray(here + (np.take(values, other, axis) - here) * share)  # exactly `here` where both are equal


def integers_at(table: np.ndarray, quality_steps: int) -> np.ndarray:
    """Rows of an integer table (levels, c), interpolated at quality_steps / 10000 of the way, rounded down: int64 (c,)."""
    position = quality_steps * (len(table) - 1)
    left = min(position // QUALITY_STEPS, len(table) - 2)
    weight = position - left * QUALITY_STEPS
    rows = table.astype(np.int64)
    return np.asarray((rows[left] * (QUALITY_STEPS - weight) + rows[left + 1] * weight) // QUALITY_STEPS)


def floats_at(table: np.ndarray, quality_steps: int) -> np.ndarray:
    """The same for float tables: float32 (1, c, 1, 1)."""
    position = quality_steps / QUALITY_STEPS * (len(table) - 1)
    left = min(int(position), len(table) - 2)
    row = table[left] * (1 - (position - left)) + table[left + 1] * (position - left)
    return np.asarray(row, np.float32)[None, :, None, None]

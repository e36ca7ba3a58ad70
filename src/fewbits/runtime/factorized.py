# SPDX-License-Identifier: MIT
"""The coding pipeline of the kind "factorized": pixels <-> latent symbols <-> streams, a frozen table for each channel.

A level of quality is a width and a gain. Networks may take weights as inputs, which are the leading slices of the bundle's
arrays: so one file serves all widths (docs/bundle.md). Names as in hyperprior.py.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fewbits.coding.streams import SignedTable, decode_signed, encode_signed
from fewbits.coding.tables import FrequencyTable
from fewbits.container import QUALITY_STEPS, SECTION_LATENT
from fewbits.errors import CorruptError, ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.engines import Engine
from fewbits.runtime.pipeline import NetworkLoader, Progress, Section, extended, latent_strips, levels_of, strips_of
from fewbits.runtime.tiling import scaled, tiles

MAX_CHANNELS = 1024
TILE_ROWS, TILE_COLUMNS = 32, 48  # latent positions; change time and memory, never the result


class LatentSymbols(NamedTuple):
    """What a file holds: latent int16 (width, rows, columns)."""

    latent: np.ndarray

    def crc(self) -> int:
        """CRC-32 over the symbols as little-endian int16, in (c, h, w) order."""
        return zlib.crc32(np.ascontiguousarray(self.latent, "<i2").data)


class WidthLevel:
    """Everything that a quality sets: the channels in use, the gain, and a table for each channel."""

    def __init__(self, width: int, gain: float, limits: np.ndarray, frequencies: np.ndarray) -> None:
        """limits (width,), frequencies: rows of 2 * limit + 2 after each other."""
        self.width, self.gain = width, np.float32(gain)
        self._limits, self._frequencies = limits.astype(np.int64), frequencies

    @cached_property
    def tables(self) -> list[SignedTable]:
        """Raises ValueError where the numbers are no frequencies."""
        parts = np.split(self._frequencies, np.cumsum(2 * self._limits + 2)[:-1])
        return [SignedTable(FrequencyTable(part)) for part in parts]


class FactorizedCodec:
    """A bundle of this kind with an engine to run its networks. Networks are loaded when first used."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self._network = bundle, NetworkLoader(bundle, engine)
        coding, tables = bundle.coding, bundle.tables
        try:
            self._halo, self._stride = int(coding["halo"]), int(coding["stride"])
            self._inputs: Mapping[str, Mapping[str, Sequence[int]]] = coding["inputs"]
            self._levels = [
                WidthLevel(int(width), float(gain), tables[f"limits_{k}"], tables[f"frequencies_{k}"])
                for k, (width, gain) in enumerate(coding["levels"])
            ]
            for k, level in enumerate(self._levels):
                if not 0 < level.width == len(tables[f"limits_{k}"]) <= MAX_CHANNELS or not level.gain > 0:
                    raise ValueError(f"level {k}")
                if len(tables[f"frequencies_{k}"]) != int((2 * tables[f"limits_{k}"].astype(np.int64) + 2).sum()):
                    raise ValueError(f"the number of frequencies of level {k}")
            if not self._levels:
                raise ValueError("levels")
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ModelError(f"model {bundle.model_id.hex()}: {error} is missing or wrong in the bundle") from error
        self._weights: dict[tuple[str, int], dict[str, np.ndarray]] = {}

    def level(self, quality_steps: int) -> WidthLevel:
        """The nearest level of a quality in hundredths, 0..10000."""
        return self._levels[nearest_level(quality_steps, len(self._levels))]

    def analyse(self, pixels: np.ndarray, level: WidthLevel, progress: Progress) -> np.ndarray:
        """uint8 (height, width, 3) -> y float32 (width, rows, columns), before the gain."""
        rows, columns = (-(-side // self._stride) for side in pixels.shape[:2])
        y = np.empty((level.width, rows, columns), np.float32)
        parts = list(tiles(rows, columns, tile_rows=TILE_ROWS, tile_columns=TILE_COLUMNS, halo=self._halo))
        for k, tile in enumerate(parts):
            part = extended(pixels, scaled(tile.outer_rows, self._stride), scaled(tile.outer_columns, self._stride))
            x = np.ascontiguousarray(part.transpose(2, 0, 1)[None]) * np.float32(1 / 255) - np.float32(0.5)
            y[:, tile.inner_rows, tile.inner_columns] = self._run("analysis", level, x=x)[:, tile.cut[0], tile.cut[1]]
            progress((k + 1) / len(parts))
        return y

    def quantize(self, y: np.ndarray, level: WidthLevel) -> tuple[LatentSymbols, list[Section]]:
        """y -> symbols and one section for each strip of latent rows."""
        limits = np.iinfo(np.int16)
        latent = np.clip(np.rint(y * level.gain), limits.min, limits.max).astype(np.int16)
        sections = []
        for strip in strips_of(y.shape[1]):
            values = latent[:, strip]
            sections.append((SECTION_LATENT, encode_signed(values.ravel(), _rows(values.shape), self._tables(level))))
        return LatentSymbols(latent), sections

    def decode_symbols(
        self, sections: Sequence[Section], height: int, width: int, level: WidthLevel
    ) -> tuple[LatentSymbols, np.ndarray]:
        """Sections -> symbols, and y_hat float32 (width, rows, columns)."""
        rows, columns = -(-height // self._stride), -(-width // self._stride)
        if any(kind != SECTION_LATENT for kind, _ in sections):
            raise CorruptError("a section of a type that this model does not have")
        latent = np.empty((level.width, rows, columns), np.int16)
        for strip, stream in latent_strips(sections, rows, height):
            shape = (level.width, strip.stop - strip.start, columns)
            latent[:, strip] = decode_signed(stream, _rows(shape), self._tables(level)).reshape(shape)
        return LatentSymbols(latent), latent / level.gain

    def synthesise(self, y_hat: np.ndarray, height: int, width: int, level: WidthLevel, progress: Progress) -> np.ndarray:
        """y_hat -> uint8 (height, width, 3)."""
        pixels = np.empty((height, width, 3), np.uint8)
        parts = list(tiles(*y_hat.shape[1:], tile_rows=TILE_ROWS, tile_columns=TILE_COLUMNS, halo=self._halo))
        for k, tile in enumerate(parts):
            part = np.ascontiguousarray(y_hat[None, :, tile.outer_rows, tile.outer_columns])
            cut = tuple(scaled(s, self._stride) for s in tile.cut)
            planes = self._run("synthesis", level, y_hat=part)[:, cut[0], cut[1]]
            target = pixels[scaled(tile.inner_rows, self._stride), scaled(tile.inner_columns, self._stride)]
            target[:] = levels_of(planes[:, : target.shape[0], : target.shape[1]]).transpose(1, 2, 0)
            progress((k + 1) / len(parts))
        return pixels

    def ideal_bits(self, symbols: LatentSymbols, level: WidthLevel) -> float:
        """The model's own estimate of the bits of `symbols`: their ideal code length under the tables."""
        return sum(table.bits(plane.ravel()) for table, plane in zip(self._tables(level), symbols.latent, strict=True))

    def _tables(self, level: WidthLevel) -> list[SignedTable]:
        try:
            return level.tables
        except ValueError as error:
            raise ModelError(f"model {self.bundle.model_id.hex()}: {error}") from error

    def _run(self, name: str, level: WidthLevel, **inputs: np.ndarray) -> np.ndarray:
        """The network's output (channels, rows, columns) for one picture."""
        network = self._network(name)
        if (name, level.width) not in self._weights:
            try:
                self._weights[name, level.width] = self._sliced(name, level.width)
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise ModelError(f"model {self.bundle.model_id.hex()}: {error} is missing or wrong in the bundle") from error
        out: np.ndarray = network(**inputs, **self._weights[name, level.width])[0]
        return out

    def _sliced(self, name: str, width: int) -> dict[str, np.ndarray]:
        """A network's weight inputs at a width: `NAME.INPUT.WIDTH` where there is one, else the leading slice of `NAME.INPUT`."""
        found = {}
        for part, axes in self._inputs.get(name, {}).items():
            array: Any = self.bundle.tables.get(f"{name}.{part}.{width}")
            if array is None:
                array = self.bundle.tables[f"{name}.{part}"]
                array = array[tuple(slice(width) if axis in axes else slice(None) for axis in range(array.ndim))]
            found[part] = np.ascontiguousarray(array, np.float32)
        return found


def nearest_level(quality_steps: int, n_levels: int) -> int:
    """The number of the level that a quality in hundredths stands for, in whole numbers: halves go up."""
    return (2 * quality_steps * (n_levels - 1) + QUALITY_STEPS) // (2 * QUALITY_STEPS)


def _rows(shape: tuple[int, ...]) -> np.ndarray:
    """The table of each value of a (channels, rows, columns) array: its channel, uint16 (n,)."""
    return np.repeat(np.arange(shape[0], dtype=np.uint16), shape[1] * shape[2])

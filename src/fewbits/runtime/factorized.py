# SPDX-License-Identifier: MIT
"""The coding pipeline of the kind "factorized": pixels <-> latent symbols <-> streams, each channel by itself.

Symbols are coded by a frozen table for each channel, or by the adaptive coder, which needs none. A level of quality is a
width and a gain. Networks may take weights as inputs, which are the leading slices of the bundle's arrays: so one file serves all
widths (docs/bundle.md). Names as in hyperprior.py.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from fewbits.coding import adaptive
from fewbits.coding.streams import SignedTable, check_length, decode_signed, encode_signed
from fewbits.coding.tables import FrequencyTable
from fewbits.container import QUALITY_STEPS, SECTION_LATENT, Cut
from fewbits.errors import CorruptError, ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.checksum import symbols_crc
from fewbits.runtime.engines import Engine
from fewbits.runtime.manifest import nearest_level
from fewbits.runtime.pipeline import (
    CutSection,
    Effort,
    NetworkLoader,
    Pipeline,
    Samples,
    Section,
    Strip,
    head_stream,
    latent_strips,
    planes_of,
    strips_of,
)
from fewbits.runtime.places import Places
from fewbits.runtime.rows import Rows
from fewbits.runtime.tiling import Tile, TilePlan

MAX_CHANNELS = 2048  # of a ResNet-101
MAX_BLOCK = 1024  # latent positions a side
TILE_ROWS, TILE_COLUMNS = 32, 48  # latent positions; change time and memory, never the result


class LatentSymbols(NamedTuple):
    """What a file holds: latent int16 (width, rows, columns)."""

    latent: np.ndarray

    @property
    def head(self) -> np.ndarray:
        return np.empty(0, np.uint8)

    def crc(self) -> int:
        """CRC-32 over the symbols as little-endian int16, in (c, h, w) order."""
        return symbols_crc(self.head, self.latent)


class WidthLevel:
    """Everything that a quality sets: the channels in use, the gain, and the coder of their symbols."""

    def __init__(self, width: int, gain: float, coder: "AdaptiveCoder | TableCoder") -> None:
        if not 0 < width <= MAX_CHANNELS or not gain > 0:
            raise ValueError(f"a level of width {width} and gain {gain}")
        self.width, self.gain, self.coder = width, np.float32(gain), coder


class TableCoder:
    """A frozen table for each channel, and a range coder. Symbols are int16 (channels, rows, columns)."""

    def __init__(self, width: int, limits: np.ndarray, frequencies: np.ndarray) -> None:
        """limits (width,), frequencies: rows of 2 * limit + 2 after each other. Raises ValueError on other numbers of them."""
        self._limits, self._frequencies = limits.astype(np.int64), frequencies
        if len(limits) != width or len(frequencies) != int((2 * self._limits + 2).sum()):
            raise ValueError("the number of frequencies of a level")

    @cached_property
    def _tables(self) -> list[SignedTable]:
        parts = np.split(self._frequencies, np.cumsum(2 * self._limits + 2)[:-1])
        try:
            return [SignedTable(FrequencyTable(part)) for part in parts]
        except ValueError as error:
            raise ModelError(f"a table of the model is damaged: {error}") from error

    def encode(self, symbols: np.ndarray) -> bytes:
        return encode_signed(symbols.ravel(), _rows(symbols.shape), self._tables)

    def check_length(self, stream: bytes, shape: tuple[int, int, int]) -> None:
        """Raises CorruptError where the stream is too short for any symbols of that shape."""
        check_length(stream, shape[1] * shape[2] * sum(table.table.least_bits for table in self._tables))

    def decode(self, stream: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """Raises CorruptError."""
        return decode_signed(stream, _rows(shape), self._tables).reshape(shape)

    def bits(self, symbols: np.ndarray) -> float:
        """Their ideal code length, which is the same for one strip and for many."""
        return sum(table.bits(plane.ravel()) for table, plane in zip(self._tables, symbols, strict=True))


class AdaptiveCoder:
    """The adaptive binary arithmetic coder, which learns its distributions anew in each strip."""

    def encode(self, symbols: np.ndarray) -> bytes:
        return adaptive.encode_maps(symbols)

    def check_length(self, stream: bytes, shape: tuple[int, int, int]) -> None:
        """Raises CorruptError where the stream is too short for any symbols of that shape."""
        adaptive.check_length(stream, math.prod(shape))

    def decode(self, stream: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """Raises CorruptError."""
        values = adaptive.decode_maps(stream, shape)
        if max(-int(values.min()), int(values.max())) > np.iinfo(np.int16).max:
            raise CorruptError("a latent symbol is out of range: the file is damaged")
        return values.astype(np.int16)

    def bits(self, symbols: np.ndarray) -> float:
        """Their ideal code length in strips."""
        return sum(adaptive.ideal_bits(symbols[:, strip]) for strip in strips_of(symbols.shape[1]))


class FactorizedCodec(Pipeline):
    """A bundle of this kind with an engine to run its networks. Networks are loaded when first used."""

    takes_places = False

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self._network = bundle, NetworkLoader(bundle, engine)
        coding, tables = bundle.coding, bundle.tables
        try:
            self._halo, self.stride = int(coding["halo"]), int(coding["stride"])
            self._block = int(coding.get("block", 0))
            if not 0 <= self._block <= MAX_BLOCK:
                raise ValueError(f"block {self._block}")
            self._inputs: Mapping[str, Mapping[str, Sequence[int]]] = coding["inputs"]
            if coding["coder"] not in ("tables", "adaptive"):
                raise ValueError(f"coder {coding['coder']!r}")
            self._levels = [
                WidthLevel(
                    int(width),
                    float(gain),
                    AdaptiveCoder()
                    if coding["coder"] == "adaptive"
                    else TableCoder(int(width), tables[f"limits_{k}"], tables[f"frequencies_{k}"]),
                )
                for k, (width, gain) in enumerate(coding["levels"])
            ]
            self.qualities = qualities_of(len(self._levels))
            if not self._levels:
                raise ValueError("levels")
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
            raise ModelError(f"model {bundle.model_id.hex()}: {error} is missing or wrong in the bundle") from error
        self._weights: dict[tuple[str, int], dict[str, np.ndarray]] = {}

    def level(self, quality_steps: int, colour: str, places: Places | None = None) -> WidthLevel:
        """The nearest level of a quality in hundredths, 0..10000."""
        return self._levels[nearest_level(quality_steps, len(self._levels))]

    def analysis_key(self, level: WidthLevel) -> Hashable:
        """Those of one width have the same y."""
        return level.width

    def _analysed(self, pixels: np.ndarray, level: WidthLevel) -> np.ndarray:
        """y before the gain."""
        return self._run("analysis", level, x=planes_of(pixels)[None])

    def quantize_strips(self, y: Rows, level: WidthLevel, effort: Effort | None = None) -> Iterator[Strip]:
        limit = np.iinfo(np.int16).max
        for strip in strips_of(y.grid[0]):
            latent = np.clip(np.rint(y.take(strip) * level.gain), -limit, limit).astype(np.int16)
            y.forget(strip.stop)
            yield Strip(LatentSymbols(latent), partial(_coded, latent, level), partial(np.divide, latent, level.gain))

    def _head_sections(self, head: np.ndarray, level: WidthLevel) -> list[Section]:
        return []

    def decode_strips(
        self, sections: Sequence[CutSection], height: int, width: int, level: WidthLevel, wanted: range
    ) -> Iterator[tuple[LatentSymbols | None, np.ndarray]]:
        """Of a strip without symbols y_hat is 0."""
        rows, columns = self.grid(height, width)
        head_stream(sections, None)
        strips = [
            (stream, (level.width, strip.stop - strip.start, columns))
            for strip, stream in latent_strips(sections, rows, height, wanted)
        ]
        for stream, shape in strips:  # before anything of the picture's size is allocated
            if not isinstance(stream, Cut):
                level.coder.check_length(stream, shape)
        for stream, shape in strips:
            if isinstance(stream, Cut):
                yield None, np.zeros(shape, np.float32)
            else:
                latent = level.coder.decode(stream, shape)
                yield LatentSymbols(latent), latent / level.gain

    def _synthesised(self, y_hat: np.ndarray, level: WidthLevel, tile: Tile, dtype: Samples) -> np.ndarray:
        return self._run("synthesis", level, y_hat=y_hat[None])

    def ideal_bits(self, symbols: LatentSymbols, level: WidthLevel) -> float:
        """The model's own estimate of the bits of `symbols`: their ideal code length."""
        return level.coder.bits(symbols.latent)

    def _plan(self) -> TilePlan:
        """Tiles with halos, whose result is that of the whole; or the model's blocks, each by itself."""
        if self._block:
            return TilePlan(self._block, self._block, 0, blocks=True)
        return TilePlan(TILE_ROWS, TILE_COLUMNS, self._halo)

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


def _coded(latent: np.ndarray, level: WidthLevel) -> list[Section]:
    return [(SECTION_LATENT, level.coder.encode(latent))]


def qualities_of(n_levels: int) -> list[int]:
    """A quality in hundredths for each level: the one in the middle of those that stand for it."""
    return [QUALITY_STEPS * level // max(n_levels - 1, 1) for level in range(n_levels)]


def _rows(shape: tuple[int, ...]) -> np.ndarray:
    """The table of each value of a (channels, rows, columns) array: its channel, uint16 (n,)."""
    return np.repeat(np.arange(shape[0], dtype=np.uint16), shape[1] * shape[2])

# SPDX-License-Identifier: MIT
"""The coding pipeline of the kind "hyperprior": pixels <-> hyper symbols and latent symbols <-> streams (docs/format.md).

The scale index of each latent symbol comes from an integer network, so encoder and decoder agree on every machine;
means and pixels pass through float networks, whose drift can move a pixel but never the parse.
Names: y is the latent (channels, rows, columns) at 1/16 of the picture, z the hyper latent at 1/64.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fewbits.coding.streams import SignedTable, check_length, decode_planes, decode_signed, encode_planes, encode_signed
from fewbits.coding.tables import FrequencyTable
from fewbits.container import QUALITY_STEPS, SECTION_HYPER, SECTION_LATENT
from fewbits.errors import CorruptError, ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.engines import Engine
from fewbits.runtime.pipeline import (
    STRIDE,
    NetworkLoader,
    Progress,
    Samples,
    Section,
    centred,
    extended,
    latent_strips,
    levels_of,
    strips_of,
)
from fewbits.runtime.tiling import Tile, scaled, tiles

HYPER_STRIDE = 4  # latent positions a hyper position
# Sizes of tiles change time and memory, never the result.
TILE_ROWS, TILE_COLUMNS = 48, 64  # latent positions
HYPER_ANALYSIS_HALO = 8  # latent positions; its receptive field reaches 3
PRIOR_COLUMNS = 24  # hyper positions; a tile of the prior is as high as a strip
LEVEL_TABLES = (
    "gain", "inverse_gain", "bias_in", "bias_out", "hyper_scale", "hyper_shift", "synthesis_scale", "synthesis_shift",
)  # fmt: skip


class Symbols(NamedTuple):
    """What a file holds: hyper int8 (hyper, rows/4, columns/4) and latent int16 (latent, rows, columns)."""

    hyper: np.ndarray
    latent: np.ndarray

    def crc(self) -> int:
        """CRC-32 over the hyper symbols as bytes, then the latent symbols as little-endian int16, both in (c, h, w) order."""
        hyper, latent = np.ascontiguousarray(self.hyper, "i1"), np.ascontiguousarray(self.latent, "<i2")
        return zlib.crc32(latent.data, zlib.crc32(hyper.data))


class IndexedSymbols(NamedTuple):
    """Coded latent symbols int16 (n,), the scale index uint8 (n,) of each, and their ideal code length in bits."""

    indices: np.ndarray
    values: np.ndarray
    bits: float


class Level(NamedTuple):
    """Everything that a quality sets. Vectors are float32 (1, channels, 1, 1), ready for the networks."""

    gain: np.ndarray
    inverse_gain: np.ndarray
    hyper: dict[str, np.ndarray]
    synthesis: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    z_tables: list[FrequencyTable]


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


class HyperpriorCodec:
    """A bundle of this kind with an engine to run its networks. Networks are loaded when first used."""

    takes_roi = False

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self._network = bundle, NetworkLoader(bundle, engine)
        coding, tables = bundle.coding, bundle.tables
        try:
            self._hyper_limit = int(coding["hyper_limit"])
            self._halo = int(coding["halo"])
            self._hyper_halo = int(coding["hyper_halo"])
            self._first_coded = int(coding["first_coded_index"])
            limits = tables["y_limits"].astype(np.int64)
            if not 0 < len(limits) <= 256:
                raise ValueError(f"the number {len(limits)} of y_limits (1 to 256)")
            # One table a scale index; those under `first_coded_index` are never used, their symbols are 0.
            parts = np.split(tables["y_frequencies"], np.cumsum(2 * limits + 2)[:-1])
            self._y_tables = [SignedTable(FrequencyTable(part)) for part in parts]
            self._least_bits = np.array([table.table.least_bits for table in self._y_tables], np.float32)
            self._least_bits[: self._first_coded] = 0
            self._z_frequencies = tables["z_frequencies"]  # (levels, hyper, 2 * hyper_limit + 1)
            self.latent_channels, self.hyper_channels = tables["gain"].shape[1], self._z_frequencies.shape[1]
            for name in LEVEL_TABLES:
                if len(tables[name]) != len(self._z_frequencies):
                    raise ValueError(f"the number of levels of table {name}")
            self._z_tables = [[FrequencyTable(row) for row in rows] for rows in self._z_frequencies]
            if self._z_frequencies.shape[2] != 2 * self._hyper_limit + 1:
                raise ValueError("the number of hyper symbols in z_frequencies")
            self._deviation = tables["deviation"].astype(np.float32)[:, None, None]
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
            raise ModelError(f"model {bundle.model_id.hex()}: {error} is missing or wrong in the bundle") from error

    def level(self, quality_steps: int, colour: str) -> Level:
        """The level of a quality in hundredths, 0..10000."""
        tables = self.bundle.tables

        def pair(name: str) -> dict[str, np.ndarray]:
            return {part: floats_at(tables[f"{name}_{part}"], quality_steps) for part in ("scale", "shift")}

        scales = {
            name: integers_at(tables[name], quality_steps).astype(np.float32)[None, :, None, None]
            for name in ("bias_in", "bias_out")
        }
        levels = len(self._z_frequencies)
        nearest = (2 * quality_steps * (levels - 1) + QUALITY_STEPS) // (2 * QUALITY_STEPS)
        return Level(
            np.exp(floats_at(tables["gain"], quality_steps)),
            np.exp(floats_at(tables["inverse_gain"], quality_steps)),
            pair("hyper"),
            pair("synthesis"),
            scales,
            self._z_tables[nearest],
        )

    # Shapes

    @staticmethod
    def grid(height: int, width: int) -> tuple[int, int]:
        """Latent rows and columns of a picture."""
        return -(-height // STRIDE), -(-width // STRIDE)

    @staticmethod
    def hyper_grid(rows: int, columns: int) -> tuple[int, int]:
        """Hyper rows and columns of a latent."""
        return -(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE)

    # Encoding

    def analyse(self, pixels: np.ndarray, level: Level, progress: Progress) -> np.ndarray:
        """uint8 or uint16 (height, width, 3) -> y float32 (latent, rows, columns), before the gains. The same at every level."""
        rows, columns = self.grid(*pixels.shape[:2])
        y = np.empty((self.latent_channels, rows, columns), np.float32)
        network = self._network("analysis")
        for tile, done in self._tiles(rows, columns):
            x = extended(pixels, scaled(tile.outer_rows, STRIDE), scaled(tile.outer_columns, STRIDE))
            y[:, tile.inner_rows, tile.inner_columns] = network(x=_unshuffled(x))[0][:, tile.cut[0], tile.cut[1]]
            progress(done)
        return y

    def quantize(self, y: np.ndarray, level: Level, roi: np.ndarray | None = None) -> tuple[Symbols, list[Section]]:
        """y -> symbols and their sections: the hyper stream, then one stream for each strip of latent rows."""
        z = self._hyper_symbols(y, level)
        hyper_stream = encode_planes(z.reshape(len(z), -1).astype(np.int32) + self._hyper_limit, level.z_tables)
        sections = [(SECTION_HYPER, hyper_stream)]
        latent = np.zeros(y.shape, np.int16)
        for strip in strips_of(y.shape[1]):
            index, mean = self._prior(z, strip, y.shape[1:], level)
            residual = y[:, strip] * level.gain[0] - mean
            limits = np.iinfo(np.int16)
            symbols = np.clip(np.rint(residual), limits.min, limits.max).astype(np.int16)
            symbols[index < self._first_coded] = 0
            latent[:, strip] = symbols
            coded = index >= self._first_coded
            sections.append((SECTION_LATENT, encode_signed(symbols[coded], index[coded], self._y_tables)))
        return Symbols(z, latent), sections

    def _hyper_symbols(self, y: np.ndarray, level: Level) -> np.ndarray:
        rows, columns = y.shape[1:]
        z_rows, z_columns = self.hyper_grid(rows, columns)
        z = np.empty((self.hyper_channels, z_rows, z_columns), np.int8)
        network = self._network("hyper_analysis")
        for tile in tiles(
            z_rows * HYPER_STRIDE,
            z_columns * HYPER_STRIDE,
            tile_rows=TILE_ROWS,
            tile_columns=TILE_COLUMNS,
            halo=HYPER_ANALYSIS_HALO,
            align=HYPER_STRIDE,
        ):
            part = extended(y.transpose(1, 2, 0), tile.outer_rows, tile.outer_columns).transpose(2, 0, 1) / self._deviation
            real = network(y=np.ascontiguousarray(part[None]), **level.hyper)[0]
            cut = [
                slice(s.start // HYPER_STRIDE, s.stop // HYPER_STRIDE) for s in (*tile.cut, tile.inner_rows, tile.inner_columns)
            ]
            limited = np.clip(np.rint(real[:, cut[0], cut[1]]), -self._hyper_limit, self._hyper_limit)
            z[:, cut[2], cut[3]] = limited.astype(np.int8)
        return z

    # Both ways

    def _tiles(self, rows: int, columns: int) -> Iterator[tuple[Tile, float]]:
        """Tiles of the latent grid with the fraction that is done after each."""
        parts = list(tiles(rows, columns, tile_rows=TILE_ROWS, tile_columns=TILE_COLUMNS, halo=self._halo))
        for k, tile in enumerate(parts):
            yield tile, (k + 1) / len(parts)

    def _prior(
        self, z: np.ndarray, strip: slice, grid: tuple[int, ...], level: Level, stream: bytes | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scale indices uint8 and scaled means float32 of a strip, both (latent, strip rows, columns).

        stream: the strip's, in decoding; raises CorruptError as soon as it is known to be too short for its symbols.
        """
        shape = (self.latent_channels, strip.stop - strip.start, grid[1])
        index, mean = np.empty(shape, np.uint8), np.empty(shape, np.float32)
        first, stop = strip.start // HYPER_STRIDE, -(-strip.stop // HYPER_STRIDE)
        outer_rows = slice(max(0, first - self._hyper_halo), min(z.shape[1], stop + self._hyper_halo))
        top, bits = (first - outer_rows.start) * HYPER_STRIDE, 0.0
        for tile in tiles(1, z.shape[2], tile_rows=1, tile_columns=PRIOR_COLUMNS, halo=self._hyper_halo):
            z_hat = z[None, :, outer_rows, tile.outer_columns].astype(np.float32)
            target = (slice(None), slice(None), scaled(tile.inner_columns, HYPER_STRIDE))
            rows, columns = index[target].shape[1:]
            left = tile.cut[1].start * HYPER_STRIDE
            cut = (slice(None), slice(top, top + rows), slice(left, left + columns))
            real = self._network("scales")(z_hat=z_hat, **level.scales)[0][cut]
            index[target] = np.clip(np.floor(real + np.float32(0.5)), 0, len(self._y_tables) - 1)
            if stream is not None:
                bits += float(self._least_bits[index[target]].sum(dtype=np.float64))
                check_length(stream, bits)
            mean[target] = self._network("means")(z_hat=z_hat)[0][cut] * (level.gain[0] * self._deviation)
        return index, mean

    # Decoding

    def decode_symbols(self, sections: Sequence[Section], height: int, width: int, level: Level) -> tuple[Symbols, np.ndarray]:
        """Sections -> symbols, and y_hat float32 (latent, rows, columns), the dequantized latent divided by the gains."""
        rows, columns = self.grid(height, width)
        z_rows, z_columns = self.hyper_grid(rows, columns)
        hyper = [stream for kind, stream in sections if kind == SECTION_HYPER]
        if len(hyper) != 1:
            raise CorruptError(f"{len(hyper)} hyper sections, there must be 1")
        if any(kind not in (SECTION_HYPER, SECTION_LATENT) for kind, _ in sections):
            raise CorruptError("a section of a type that this model does not have")
        strips = latent_strips(sections, rows, height)
        # The hyper stream's length is checked against the picture's size before anything of that size is allocated.
        planes = decode_planes(hyper[0], z_rows * z_columns, level.z_tables)
        z = (planes - self._hyper_limit).astype(np.int8).reshape(-1, z_rows, z_columns)
        latent = np.zeros((self.latent_channels, rows, columns), np.int16)
        y_hat = np.empty(latent.shape, np.float32)
        for strip, stream in strips:
            index, mean = self._prior(z, strip, (rows, columns), level, stream)
            coded = index >= self._first_coded
            symbols = np.zeros(index.shape, np.int16)
            symbols[coded] = decode_signed(stream, index[coded], self._y_tables)
            latent[:, strip] = symbols
            y_hat[:, strip] = (symbols + mean) * level.inverse_gain[0]
        return Symbols(z, latent), y_hat

    def synthesise(
        self, y_hat: np.ndarray, height: int, width: int, level: Level, progress: Progress, dtype: Samples = np.uint8
    ) -> np.ndarray:
        """y_hat -> uint8 or uint16 (height, width, 3)."""
        pixels = np.empty((height, width, 3), dtype)
        network = self._network("synthesis")
        for tile, done in self._tiles(*y_hat.shape[1:]):
            part = np.ascontiguousarray(y_hat[None, :, tile.outer_rows, tile.outer_columns])
            cut = tuple(scaled(s, STRIDE) for s in tile.cut)
            planes = network(y_hat=part, **level.synthesis)[0][:, cut[0], cut[1]]
            target = pixels[scaled(tile.inner_rows, STRIDE), scaled(tile.inner_columns, STRIDE)]
            target[:] = levels_of(planes[:, : target.shape[0], : target.shape[1]], dtype).transpose(1, 2, 0)
            progress(done)
        return pixels

    # Rates

    def ideal_bits(self, symbols: Symbols, level: Level) -> float:
        """The model's own estimate of the bits of `symbols`: their ideal code length under the tables."""
        z = symbols.hyper.reshape(len(symbols.hyper), -1).astype(np.int64) + self._hyper_limit
        bits = sum(table.bits(plane) for table, plane in zip(level.z_tables, z, strict=True))
        return bits + self.indexed(symbols, level).bits

    def indexed(self, symbols: Symbols, level: Level) -> IndexedSymbols:
        """The coded latent symbols with the index of each one's table."""
        indices, values = [], []
        for strip in strips_of(symbols.latent.shape[1]):
            index, _ = self._prior(symbols.hyper, strip, symbols.latent.shape[1:], level)
            coded = index >= self._first_coded
            indices.append(index[coded])
            values.append(symbols.latent[:, strip][coded])
        index, value = np.concatenate(indices), np.concatenate(values)
        return IndexedSymbols(index, value, sum(self._y_tables[k].bits(value[index == k]) for k in np.unique(index)))


def _unshuffled(x: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (8h, 8w, 3) -> float32 (1, 192, h, w): centred, channel (c, row, column) of the 8x8 block."""
    height, width = x.shape[0] // 8, x.shape[1] // 8
    blocks = np.ascontiguousarray(x.reshape(height, 8, width, 8, 3).transpose(4, 1, 3, 0, 2))
    return centred(blocks.reshape(1, 192, height, width))

# SPDX-License-Identifier: MIT
"""The coding pipeline of the kind "hyperprior": pixels <-> hyper symbols and latent symbols <-> streams (docs/format.md).

The scale index of each latent symbol comes from an integer network, so encoder and decoder agree on every machine;
means and pixels pass through float networks, whose drift can move a pixel but never the parse.
Names: y is the latent (channels, rows, columns) at 1/16 of the picture, z the hyper latent at 1/64.
"""

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from fewbits.coding.streams import SignedTable, check_length, decode_planes, decode_signed, encode_planes, encode_signed
from fewbits.coding.tables import FrequencyTable
from fewbits.container import QUALITY_STEPS, SECTION_HYPER
from fewbits.errors import ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.checksum import symbols_crc
from fewbits.runtime.engines import Engine
from fewbits.runtime.pipeline import (
    CutSection,
    NetworkLoader,
    Pipeline,
    Section,
    Strip,
    centred,
    extended,
    head_stream,
    latent_strips,
    strips_of,
)
from fewbits.runtime.rows import Rows
from fewbits.runtime.tiling import TilePlan, scaled, tiles
from fewbits.stages import stage

STRIDE = 16  # pixels a latent position
HYPER_STRIDE = 4  # latent positions a hyper position
# Sizes of tiles change time and memory, never the result.
TILE_ROWS, TILE_COLUMNS = 48, 64  # latent positions
HYPER_ANALYSIS_HALO = 8  # latent positions; its receptive field reaches 3
PRIOR_COLUMNS = 24  # hyper positions; a tile of the prior is as high as a strip
EXACT_NETWORKS = frozenset({"scales"})
LEVEL_TABLES = (
    "gain", "inverse_gain", "bias_in", "bias_out", "hyper_scale", "hyper_shift", "synthesis_scale", "synthesis_shift",
)  # fmt: skip


class Symbols(NamedTuple):
    """What a file holds: hyper int8 (hyper, rows/4, columns/4) and latent int16 (latent, rows, columns)."""

    hyper: np.ndarray
    latent: np.ndarray

    @property
    def head(self) -> np.ndarray:
        return self.hyper

    def crc(self) -> int:
        """CRC-32 over the hyper symbols as bytes, then the latent symbols as little-endian int16, both in (c, h, w) order."""
        return symbols_crc(self.hyper, [self.latent])


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


class HyperpriorCodec(Pipeline):
    """A bundle of this kind with an engine to run its networks. Networks are loaded when first used."""

    takes_roi = False
    stride = STRIDE
    qualities = range(QUALITY_STEPS + 1)

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self._network = bundle, NetworkLoader(bundle, engine, EXACT_NETWORKS)
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
            self._rounding = None  # what is added to a magnitude before its fraction is cut off, for each scale index
            if "dead_zones" in bundle.card:  # not in a table: no decoder needs it, so it does not change the model's id
                self._rounding = np.float32(0.5) - np.array(bundle.card["dead_zones"], np.float32)
                if self._rounding.shape != limits.shape or not ((self._rounding >= 0) & (self._rounding <= 0.5)).all():
                    raise ValueError("dead_zones in the card, one of 0 to 0.5 for each scale index,")
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
    def hyper_grid(rows: int, columns: int) -> tuple[int, int]:
        """Hyper rows and columns of a latent."""
        return -(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE)

    # Encoding

    def analysis_key(self, level: Level) -> Hashable:
        """All have the same y."""
        return None

    def _analysed(self, pixels: np.ndarray, level: Level) -> np.ndarray:
        """y before the gains: the same at every level."""
        y: np.ndarray = self._network("analysis")(x=_unshuffled(pixels))[0]
        return y

    def quantize_strips(self, y: Rows, level: Level, roi: np.ndarray | None) -> Iterator[Strip]:
        z_rows, z_columns = self.hyper_grid(*y.grid)
        z = np.zeros((self.hyper_channels, z_rows, z_columns), np.int8)
        filled, ready = self._fill(z, y, level), 0
        for strip in strips_of(y.grid[0]):
            while ready < min(z_rows, -(-strip.stop // HYPER_STRIDE) + self._hyper_halo):
                ready = next(filled)
            index, mean = self._prior(z, strip, y.grid, level)
            residual = y.take(strip) * level.gain[0]
            residual -= mean
            symbols = self._rounded(residual, index)
            del residual
            yield Strip(Symbols(z, symbols), partial(self._coded, symbols, index), partial(_dequantized, symbols, mean, level))
            y.forget(min(strip.stop, ready * HYPER_STRIDE - HYPER_ANALYSIS_HALO))

    @stage("rounding")
    def _rounded(self, residual: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Symbols int16. Values near 1/2 are rounded towards 0 where their scale makes that cheaper (ADR 15); in place."""
        if self._rounding is None:
            np.rint(residual, out=residual)
        else:
            residual += np.copysign(self._rounding.take(index), residual)  # its fraction is cut off where it becomes an integer
        limits = np.iinfo(np.int16)
        np.clip(residual, limits.min, limits.max, out=residual)
        residual *= index >= self._first_coded
        return residual.astype(np.int16)

    @stage("coder")
    def _coded(self, symbols: np.ndarray, index: np.ndarray) -> bytes:
        places = np.flatnonzero(index >= self._first_coded)  # numbers gather twice as fast as a mask
        return encode_signed(symbols.ravel().take(places), index.ravel().take(places), self._y_tables)

    def _head_sections(self, head: np.ndarray, level: Level) -> list[Section]:
        planes = head.reshape(len(head), -1).astype(np.int32) + self._hyper_limit
        return [(SECTION_HYPER, encode_planes(planes, level.z_tables))]

    def _fill(self, z: np.ndarray, y: Rows, level: Level) -> Iterator[int]:
        """Fills the hyper symbols from the top; gives the number of their rows that are there, again and again."""
        network = self._network("hyper_analysis")
        padded = [side * HYPER_STRIDE for side in z.shape[1:]]
        plan = TilePlan(TILE_ROWS, TILE_COLUMNS, HYPER_ANALYSIS_HALO, align=HYPER_STRIDE).cover(*padded)
        for row in plan:
            outer = row[0].outer_rows
            stretch = y.take(slice(outer.start, min(outer.stop, y.grid[0]))).transpose(1, 2, 0)
            for tile in row:
                part = extended(stretch, slice(0, outer.stop - outer.start), tile.outer_columns)
                real = network(y=np.ascontiguousarray((part.transpose(2, 0, 1) / self._deviation)[None]), **level.hyper)[0]
                cut = [
                    slice(s.start // HYPER_STRIDE, s.stop // HYPER_STRIDE)
                    for s in (*tile.cut, tile.inner_rows, tile.inner_columns)
                ]
                limited = np.clip(np.rint(real[:, cut[0], cut[1]]), -self._hyper_limit, self._hyper_limit)
                z[:, cut[2], cut[3]] = limited.astype(np.int8)
            yield cut[2].stop

    # Both ways

    def _plan(self) -> TilePlan:
        return TilePlan(TILE_ROWS, TILE_COLUMNS, self._halo)

    @stage("prior")
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

    def decode_strips(
        self, sections: Sequence[CutSection], height: int, width: int, level: Level, wanted: range
    ) -> Iterator[tuple[Symbols | None, np.ndarray]]:
        """y_hat is the dequantized latent divided by the gains; of a strip without symbols, their means."""
        grid = self.grid(height, width)
        z_rows, z_columns = self.hyper_grid(*grid)
        hyper_stream = head_stream(sections, SECTION_HYPER, "hyper")
        strips = latent_strips(sections, grid[0], height, wanted)
        # The hyper stream's length is checked against the picture's size before anything of that size is allocated.
        planes = decode_planes(hyper_stream, z_rows * z_columns, level.z_tables)
        z = (planes - self._hyper_limit).astype(np.int8).reshape(-1, z_rows, z_columns)
        for strip, stream in strips:
            index, y_hat = self._prior(z, strip, grid, level, stream)
            symbols = None
            if stream is not None:
                places = np.flatnonzero(index >= self._first_coded)
                latent = np.zeros(index.shape, np.int16)
                latent.ravel()[places] = decode_signed(stream, index.ravel().take(places), self._y_tables)
                y_hat += latent
                symbols = Symbols(z, latent)
            del index
            y_hat *= level.inverse_gain[0]
            yield symbols, y_hat

    def _synthesised(self, y_hat: np.ndarray, level: Level) -> np.ndarray:
        planes: np.ndarray = self._network("synthesis")(y_hat=y_hat[None], **level.synthesis)[0]
        return planes

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


def _dequantized(symbols: np.ndarray, mean: np.ndarray, level: Level) -> np.ndarray:
    """y_hat: the dequantized latent divided by the gains."""
    return np.asarray((symbols + mean) * level.inverse_gain[0])


@stage("planes")
def _unshuffled(x: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (8h, 8w, 3) -> float32 (1, 192, h, w): centred, channel (c, row, column) of the 8x8 block."""
    height, width = x.shape[0] // 8, x.shape[1] // 8
    blocks = np.ascontiguousarray(x.reshape(height, 8, width, 8, 3).transpose(4, 1, 3, 0, 2))
    return centred(blocks.reshape(1, 192, height, width))

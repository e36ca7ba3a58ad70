# SPDX-License-Identifier: MIT
"""The coding pipeline of the kind "hyperprior": pixels <-> hyper symbols and latent symbols <-> streams (docs/format.md).

The scale index of each latent symbol comes from an integer network, so encoder and decoder agree on every machine;
means and pixels pass through float networks, whose drift can move a pixel but never the parse.
Names: y is the latent (channels, rows, columns) at 1/16 of the picture, z the hyper latent at 1/64.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from fewbits.coding.falling import decode_falling, encode_falling
from fewbits.coding.pyramid import N_PHASES, means_of, phases, quantized
from fewbits.coding.runs import RunTable
from fewbits.coding.streams import SignedTable, check_length, counted, decode_planes, decode_signed, encode_planes, encode_signed
from fewbits.coding.tables import FrequencyTable, checked_frequencies
from fewbits.container import QUALITY_STEPS, SECTION_COARSE, SECTION_HYPER, SECTION_LATENT, SECTION_QUALITIES, Cut
from fewbits.errors import ModelError
from fewbits.processor import has_int8
from fewbits.runtime.bundle import GRADIENT, PIXELS, WIDE, Bundle
from fewbits.runtime.effort import StripRefiner
from fewbits.runtime.engines import Engine, Network
from fewbits.runtime.latents import STRIDE, Quantized, Symbols, dequantized
from fewbits.runtime.levels import HYPER_STRIDE, Level, floats_at, integers_at
from fewbits.runtime.manifest import nearest_level
from fewbits.runtime.passes import Pass, coarse_content, coarse_shares, pass_ranges, strip_passes
from fewbits.runtime.pipeline import (
    CutSection,
    Effort,
    NetworkLoader,
    Pipeline,
    Samples,
    Section,
    Strip,
    extended,
    head_stream,
    lines_of,
    strips_of,
    unshuffled,
)
from fewbits.runtime.places import Places, pack_places
from fewbits.runtime.refine import Refiner
from fewbits.runtime.rows import Rows
from fewbits.runtime.slopes import MOST_WORTH, SQUARES, Networks, checked_terms
from fewbits.runtime.tiling import Tile, TilePlan, scaled, tiles
from fewbits.runtime.variants import STEP, SYNTHESIS_WEIGHTS, WEIGHTS
from fewbits.stages import stage

# Sizes of tiles change time and memory, never the result.
TILE_ROWS, TILE_COLUMNS = 48, 64  # latent positions
HYPER_ANALYSIS_HALO = 8  # latent positions; its receptive field reaches 3
PRIOR_COLUMNS = 64  # hyper positions; a tile of the prior is as high as a strip
ORDERS = ("rising", "falling")  # of the scale indices in a stream; falling: what is coarse first (ADR 17)
CODES = 127  # largest magnitude of 8-bit codes
SHOWN = "shown"  # synthesis, where effort looks at what becomes of symbols
EXACT_NETWORKS = frozenset({"scales", GRADIENT, SHOWN})  # of the others no decoder knows; bfloat16 is too coarse for effort
LEVEL_TABLES = (
    "gain", "inverse_gain", "bias_in", "bias_out", "hyper_scale", "hyper_shift", "synthesis_scale", "synthesis_shift",
)  # fmt: skip
LATENT_TABLES = ("gain", "inverse_gain", "bias_out")  # those with a column for each channel of the latent

Value = TypeVar("Value")


class IndexedSymbols(NamedTuple):
    """Coded latent symbols int16 (n,), the scale index uint8 (n,) of each, and their ideal code length in bits."""

    indices: np.ndarray
    values: np.ndarray
    bits: float


class _Last(Generic[Value]):
    """What was made last, which is given again where the key is the same. Safe between threads."""

    def __init__(self) -> None:
        self._made: tuple[Hashable, Value] | None = None

    def __call__(self, key: Hashable, make: Callable[[], Value]) -> Value:
        made = self._made
        if made is None or made[0] != key:
            self._made = made = key, make()
        return made[1]


class _PriorPart(NamedTuple):
    """What the networks over the hyper latent read at once: z_hat float32 (1, hyper, rows, columns), which is `hyper_rows` and
    `hyper_columns` of it; of their results `cut` is the strip's latent `columns`."""

    z_hat: np.ndarray
    hyper_rows: slice
    hyper_columns: slice
    columns: slice
    cut: tuple[slice, slice, slice]


def _effort_settings(card: Mapping[str, Any], levels: int) -> tuple[list[float], dict[str, float]]:
    """What effort is told in the card: by level what a distortion is worth, and the weights of its terms. Raises ValueError, and
    what comes of other things where numbers should be."""
    lambdas = [float(value) for value in card["lambdas"]]
    if len(lambdas) != levels or not all(0 < value < MOST_WORTH for value in lambdas):  # false of NaN
        raise ValueError(f"effort in the card, of which lambdas must be {levels} numbers above 0 and below {MOST_WORTH:g},")
    return lambdas, checked_terms(card.get("terms", {SQUARES: 1.0}))


class HyperpriorCodec(Pipeline):
    """A bundle of this kind with an engine to run its networks. Networks are loaded when first used."""

    stride = STRIDE
    qualities = range(QUALITY_STEPS + 1)

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self._network = bundle, NetworkLoader(bundle, engine, EXACT_NETWORKS)
        self._last_level, self._last_weights = _Last[Level](), _Last[np.ndarray]()  # of a quality, which pictures often share
        coding, tables = bundle.coding, bundle.tables
        try:
            self._hyper_limit = int(coding["hyper_limit"])
            self._halo = int(coding["halo"])
            self._hyper_halo = int(coding["hyper_halo"])
            self._first_coded = int(coding["first_coded_index"])
            if coding.get("order", ORDERS[0]) not in ORDERS:
                raise ValueError(f"order {coding['order']!r}")
            self._falling = coding.get("order") == "falling"  # what is older says nothing of it
            self.takes_places = bool(coding.get("places", False))  # networks exported before take one quality only
            self._pyramid = int(coding.get("pyramid", 0))  # leading channels that are predicted from coarse to fine
            # Channels after those whose means a network tells; in older bundles it is all, and that reads the hyper symbols, too
            self._n_means = int(coding["means"]) if "means" in coding else None
            self._phase_bias = np.empty((0, N_PHASES), np.float32)
            if self._pyramid:
                self._phase_bias = (tables["pyramid_bias"] * 2.0 ** -int(coding["index_bits"])).astype(np.float32)
                if self._phase_bias.shape != (self._pyramid, N_PHASES):
                    raise ValueError("the shape of table pyramid_bias")
            limits = tables["y_limits"].astype(np.int64)
            if not 0 < len(limits) <= 256:
                raise ValueError(f"the number {len(limits)} of y_limits (1 to 256)")
            # One table a scale index; those under `first_coded_index` are never used, their symbols are 0.
            parts = np.split(tables["y_frequencies"], np.cumsum(2 * limits + 2)[:-1])
            runs_below = int(coding.get("runs_below", 0))  # in older bundles nothing is coded by runs
            if runs_below and not self._falling:
                raise ValueError("runs_below beside an order that is not falling")
            kinds = [RunTable if self._first_coded <= k < runs_below else SignedTable for k in range(len(parts))]
            self._y_tables = [kind(FrequencyTable(part)) for kind, part in zip(kinds, parts, strict=True)]
            self._least_bits = np.array([table.least_bits for table in self._y_tables])
            self._least_bits[: self._first_coded] = 0
            self._mean_bits = np.array([table.table.mean_bits for table in self._y_tables])
            self._mean_bits[: self._first_coded] = 0
            self._coded_indices = range(self._first_coded, len(limits))
            self._z_frequencies = checked_frequencies(tables["z_frequencies"])  # (levels, hyper, 2 * hyper_limit + 1)
            if self._hyper_limit < 1 or self._z_frequencies.shape[2:] != (2 * self._hyper_limit + 1,):
                raise ValueError("hyper_limit, or the number of hyper symbols in z_frequencies")
            self.latent_channels, self.hyper_channels = tables["gain"].shape[1], self._z_frequencies.shape[1]
            if self._n_means and not 0 < self._n_means <= (self.latent_channels - self._pyramid) * bool(self._pyramid):
                raise ValueError(f"the number {self._n_means} of means beside a pyramid of {self._pyramid}")
            for name in LEVEL_TABLES:
                channels = self.latent_channels if name in LATENT_TABLES else tables[name].shape[-1]
                if tables[name].shape != (len(self._z_frequencies), channels) or tables[name].dtype.kind not in "iuf":
                    raise ValueError(f"the shape or type of table {name}")
            self._z_tables: dict[int, list[FrequencyTable]] = {}  # those of levels that were asked for: all take 7 ms
            self._rounding = None  # what is added to a magnitude before its fraction is cut off, for each scale index
            if "dead_zones" in bundle.card:  # not in a table: no decoder needs it, so it does not change the model's id
                self._rounding = np.float32(0.5) - np.array(bundle.card["dead_zones"], np.float32)
                if self._rounding.shape != limits.shape or not ((self._rounding >= 0) & (self._rounding <= 0.5)).all():
                    raise ValueError("dead_zones in the card, one of 0 to 0.5 for each scale index,")
            self._has_weights = SYNTHESIS_WEIGHTS in bundle.networks  # as variants have them that read the latent directly
            self._range = bundle.ranges.get("synthesis") if f"synthesis{WIDE}" in bundle.networks else None
            if self._range is not None and self._range.shape != (self.latent_channels,):
                raise ValueError("the number of ranges of synthesis")
            self.takes_effort = bool(bundle.gradient)
            if self.takes_effort:
                self._lambdas, self._terms = _effort_settings(bundle.card["effort"], len(self._z_frequencies))
            self._refiner: StripRefiner | None = None
            self._takes_integers = bool(bundle.integer_scales) and has_int8()  # else they gain little
            self._integer_scales: Network | None = None
            self._deviation = tables["deviation"].astype(np.float32)[:, None, None]
            if self._deviation.shape != (self.latent_channels, 1, 1):
                raise ValueError("the shape of table deviation")
        except (KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
            raise ModelError(f"model {bundle.model_id.hex()}: {error} is missing or wrong in the bundle") from error

    def level(self, quality_steps: int, colour: str, places: Places | None = None) -> Level:
        """The level of a quality in hundredths, 0..10000, or of those of a map."""
        if places is not None:
            return self._level_of(quality_steps, places)
        return self._last_level(quality_steps, lambda: self._level_of(quality_steps))

    def _level_of(self, quality_steps: int, places: Places | None = None) -> Level:
        tables, qualities = self.bundle.tables, places.qualities if places else (quality_steps,)

        def floats(name: str) -> np.ndarray:
            return np.concatenate([floats_at(tables[name], steps) for steps in qualities])

        def pair(name: str) -> dict[str, np.ndarray]:
            return {part: floats(f"{name}_{part}") for part in ("scale", "shift")}

        scales = {
            name: np.stack([integers_at(tables[name], steps) for steps in qualities]).astype(np.float32)[:, :, None, None]
            for name in ("bias_in", "bias_out")
        }
        levels = len(self._z_frequencies)
        nearest = [nearest_level(steps, levels) for steps in qualities]
        inverse_gain = np.exp(floats("inverse_gain"))
        return Level(
            np.exp(floats("gain")),
            inverse_gain,
            pair("hyper"),
            pair("synthesis"),
            scales,
            [self._z_tables_of(k) for k in nearest],
            self._latent_step(inverse_gain),
            tuple(qualities),
            places,
        )

    def _latent_step(self, inverse_gain: np.ndarray) -> np.ndarray:
        """Of the latent's 8-bit codes: that of the symbols, if it is one everywhere; or what reaches as far as the range."""
        if self._range is None:
            return inverse_gain[:1]
        widest = self._range[None, :, None, None] / np.float32(CODES)
        return widest if len(inverse_gain) > 1 else np.maximum(inverse_gain, widest)

    def _z_tables_of(self, level: int) -> list[FrequencyTable]:
        if level not in self._z_tables:
            self._z_tables[level] = [FrequencyTable(row) for row in self._z_frequencies[level]]
        return self._z_tables[level]

    def _run(self, name: str, channels: int, **inputs: np.ndarray) -> np.ndarray:
        """What a network makes of one picture: (channels, rows, columns). Raises ModelError where it has other channels."""
        network, where = self._network(name), f"model {self.bundle.model_id.hex()}: network {name}"
        try:
            found: np.ndarray = network(**inputs)[0]
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from error
        if len(found) != channels:
            raise ModelError(f"{where} gives {len(found)} channels, by the bundle's tables it must be {channels}")
        return found

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
        return self._run("analysis", self.latent_channels, x=unshuffled(pixels))

    def quantize_strips(self, y: Rows, level: Level, effort: Effort | None = None) -> Iterator[Strip]:
        z, shares = np.zeros((self.hyper_channels, *self.hyper_grid(*y.grid)), np.int8), list[float]()
        strips = self._quantized(y, z, level, shares)
        for strip in strips if effort is None else self._strip_refiner().refined(strips, level, effort):
            sections = partial(self._coded, strip.symbols, strip.indices, strip.counts, shares)
            y_hat = partial(dequantized, strip.symbols, strip.mean, level, strip.rows)
            done = [Strip(Symbols(z, strip.symbols), sections, y_hat)]
            del strip, sections, y_hat  # the next one is made without it: they are as large as the picture is wide
            yield done.pop()

    def _strip_refiner(self) -> StripRefiner:
        if self._refiner is None:
            tables = [table.table for table in self._y_tables]
            gradient = self._network.other(GRADIENT, self.bundle.gradient_network())
            synthesis = cache(partial(self._network.other, SHOWN, self.bundle.float_synthesis))
            refiner = Refiner(tables, self._first_coded, self._pyramid)
            self._refiner = StripRefiner(refiner, Networks(gradient, synthesis), self._halo, self._lambdas, self._terms)
        return self._refiner

    def _quantized(self, y: Rows, z: np.ndarray, level: Level, shares: list[float]) -> Iterator[Quantized]:
        """Strip by strip. z: filled with the hyper symbols; shares: with those of the coarse passes, for the first strip."""
        filled, ready, strips = self._fill(z, y, level), 0, strips_of(y.grid[0])
        for strip in strips:
            while ready < min(z.shape[1], -(-strip.stop // HYPER_STRIDE) + self._hyper_halo):
                ready = next(filled)
            index, counts = self._indices(z, strip, y.grid, level)
            if self._falling and len(strips) > 1 and strip is strips[0]:
                shares.extend(coarse_shares(counts, self._mean_bits))
            values = y.take(strip)
            leading, means = quantized(
                values[: self._pyramid], self._leading_gain(level, strip, y.grid), partial(self._rounded_in, index)
            )
            residual = level.scaled(values, level.gain, strip)
            del values
            y.forget(min(strip.stop, ready * HYPER_STRIDE - HYPER_ANALYSIS_HALO))
            mean = self._means(z, strip, level, leading, means)
            residual[: len(mean)] -= mean
            symbols = self._rounded(residual, index)
            symbols[: self._pyramid] = leading  # the same but for the last bits of floats
            del residual, leading, means
            done = [Quantized(strip, symbols, index, counts, mean)]
            del index, mean, symbols  # see quantize_strips
            yield done.pop()

    @stage("rounding")
    def _rounded(self, residual: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Symbols int16. Values near 1/2 are rounded towards 0 where their scale makes that cheaper (ADR 15); in place."""
        if self._rounding is None:
            np.rint(residual, out=residual)
        else:
            rounding = self._rounding.take(index)
            residual += np.copysign(rounding, residual, out=rounding)  # its fraction is cut off where it becomes an integer
            del rounding
        limits = np.iinfo(np.int16)
        np.clip(residual, limits.min, limits.max, out=residual)
        residual *= index >= self._first_coded
        return residual.astype(np.int16)

    def _rounded_in(self, index: np.ndarray, residual: np.ndarray, here: tuple[Any, ...]) -> np.ndarray:
        """The symbols of a part of the leading channels. index: of the whole strip."""
        return self._rounded(residual, index[: self._pyramid][here])

    def _coded(self, symbols: np.ndarray, index: np.ndarray, counts: np.ndarray, shares: Sequence[float]) -> list[Section]:
        if not self._falling:
            coded = index >= self._first_coded
            return [(SECTION_LATENT, encode_signed(symbols[coded], index[coded], self._y_tables))]
        ranges = pass_ranges(counts, self._mean_bits, shares, self._coded_indices)
        *coarse, rest = encode_falling(symbols.ravel(), index.ravel(), self._y_tables, ranges, counts)
        contents = [coarse_content(part.start, stream) for part, stream in zip(ranges[:-1], coarse, strict=True)]
        return [*((SECTION_COARSE, content) for content in contents), (SECTION_LATENT, rest)]

    def _head_sections(self, head: np.ndarray, level: Level) -> list[Section]:
        sections = [(SECTION_QUALITIES, pack_places(level.places))] if level.places else []
        return [*sections, (SECTION_HYPER, encode_planes(*level.groups(head.astype(np.int32) + self._hyper_limit)))]

    def _fill(self, z: np.ndarray, y: Rows, level: Level) -> Iterator[int]:
        """Fills the hyper symbols from the top; gives the number of their rows that are there, again and again."""
        padded = [side * HYPER_STRIDE for side in z.shape[1:]]
        plan = TilePlan(TILE_ROWS, TILE_COLUMNS, HYPER_ANALYSIS_HALO, align=HYPER_STRIDE).cover(*padded)
        for row in plan:
            outer = row[0].outer_rows
            stretch = y.take(slice(outer.start, min(outer.stop, y.grid[0]))).transpose(1, 2, 0)
            for tile in row:
                part = extended(stretch, slice(0, outer.stop - outer.start), tile.outer_columns)
                here = {name: level.at(each, outer, tile.outer_columns) for name, each in level.hyper.items()}
                here["y"] = np.ascontiguousarray((part.transpose(2, 0, 1) / self._deviation)[None])
                real = self._run("hyper_analysis", self.hyper_channels, **here)
                cut = [
                    slice(s.start // HYPER_STRIDE, s.stop // HYPER_STRIDE)
                    for s in (*tile.cut, tile.inner_rows, tile.inner_columns)
                ]
                limited = np.clip(np.rint(real[:, cut[0], cut[1]]), -self._hyper_limit, self._hyper_limit)
                z[:, cut[2], cut[3]] = limited.astype(np.int8)
            del stretch, part
            yield cut[2].stop

    # Both ways

    def _plan(self) -> TilePlan:
        return TilePlan(TILE_ROWS, TILE_COLUMNS, self._halo)

    @stage("prior")
    def _indices(
        self, z: np.ndarray, strip: slice, grid: tuple[int, ...], level: Level, streams: Sequence[bytes] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scale indices uint8 (latent, strip rows, columns) of a strip, and how many of its symbols have each: int64 (indices,).

        streams: the strip's, in decoding; raises CorruptError as soon as they are known to be too short for its symbols.
        """
        index = np.empty((self.latent_channels, strip.stop - strip.start, grid[1]), np.uint8)
        counts = np.zeros(len(self._y_tables), np.int64)
        for part in self._prior_parts(z, strip, grid[1]):
            biases = {
                "bias_in": level.at(level.scales["bias_in"], part.hyper_rows, part.hyper_columns, 1),
                "bias_out": level.at(
                    level.scales["bias_out"], scaled(part.hyper_rows, HYPER_STRIDE), scaled(part.hyper_columns, HYPER_STRIDE)
                ),
            }
            phase_bias = self._phase_bias[:, phases(*index.shape[1:])[:, part.columns]]
            found = index[:, :, part.columns]
            if self._takes_integers and all(bias.shape[2:] == (1, 1) for bias in biases.values()):
                self._integer_indices(part, biases, phase_bias, found)
            else:
                real = self._run("scales", self.latent_channels, z_hat=part.z_hat, **biases)[part.cut]
                real[: self._pyramid] += phase_bias
                real += np.float32(0.5)
                np.clip(real, 0, len(self._y_tables) - 1, out=real)
                found[...] = real.astype(np.uint8)  # which cuts the fraction off
            np.maximum(found[: self._pyramid], self._first_coded, out=found[: self._pyramid])  # all: an error would spread
            counts += counted(found, len(counts))
            if streams:
                check_length(streams[0], float(counts @ self._least_bits), *streams[1:])
        return index, counts

    def _integer_indices(
        self, part: "_PriorPart", biases: Mapping[str, np.ndarray], phase_bias: np.ndarray, out: np.ndarray
    ) -> None:
        """Fills `out` with the indices of a part, by the network in integers."""
        rows, columns = (HYPER_STRIDE * side for side in part.z_hat.shape[2:])
        wide = np.zeros((1, self._pyramid, rows, columns), np.float32)
        wide[0][part.cut] = phase_bias
        if self._integer_scales is None:
            self._integer_scales = self._network.other("scales", self.bundle.integer_network())
        found = self._integer_scales(z_hat=part.z_hat, phase_bias=wide, **biases)
        shape = (1, self.latent_channels, rows, columns)
        if found.shape != shape or found.dtype != np.uint8:
            where = f"model {self.bundle.model_id.hex()}: network scales in integers"
            raise ModelError(f"{where} gives {found.dtype} {found.shape}, it must be uint8 {shape}")
        np.clip(found[0][part.cut], np.uint8(0), np.uint8(len(self._y_tables) - 1), out=out)  # np.minimum takes 10 times as long

    @stage("prior")
    def _means(self, z: np.ndarray, strip: slice, level: Level, leading: np.ndarray, leading_means: np.ndarray) -> np.ndarray:
        """Scaled means float32 (channels, strip rows, columns) of a strip's first channels; those of the others are 0.

        leading: its symbols in the leading channels; leading_means: what they are added to, not scaled.
        """
        n, (rows, columns) = self._pyramid, leading.shape[1:]
        n_means = self.latent_channels - n if self._n_means is None else self._n_means
        mean = np.empty((n + n_means, rows, columns), np.float32)
        gain = self._leading_gain(level, strip, (rows, columns))
        mean[:n] = leading_means * gain
        if not n_means:
            return mean
        around = (leading_means + leading / gain) / self._deviation[:n]
        gains, deviation = level.gain[:, n : n + n_means], self._deviation[n : n + n_means]
        if self._n_means is not None:
            found = self._run("means", n_means, pyramid=around[None])
            if found.shape != mean[n:].shape:
                raise ModelError(f"model {self.bundle.model_id.hex()}: network means changes the shape of what it reads")
            mean[n:] = found * (level.at(gains, strip, slice(0, columns))[0] * deviation)
            return mean
        for part in self._prior_parts(z, strip, columns):
            inputs = {"z_hat": part.z_hat}
            if n:  # beyond the strip its outermost values go on: no strip needs another
                down, across = (
                    np.clip(np.arange(HYPER_STRIDE * outer.start, HYPER_STRIDE * outer.stop) - first, 0, side - 1)
                    for outer, first, side in ((part.hyper_rows, strip.start, rows), (part.hyper_columns, 0, columns))
                )
                inputs["pyramid"] = around[None, :, down[:, None], across]
            found = self._run("means", n_means, **inputs)[part.cut]
            mean[n:, :, part.columns] = found * (level.at(gains, strip, part.columns)[0] * deviation)
        return mean

    def _leading_gain(self, level: Level, strip: slice, grid: tuple[int, ...]) -> np.ndarray:
        """Gains float32 of the leading channels, (pyramid, strip rows, columns) or (pyramid, 1, 1)."""
        gain: np.ndarray = level.at(level.gain[:, : self._pyramid], strip, slice(0, grid[-1]))[0]
        return gain

    def _prior_parts(self, z: np.ndarray, strip: slice, columns: int) -> Iterator["_PriorPart"]:
        """What the networks over the hyper latent read for a strip, from left to right."""
        first, stop = strip.start // HYPER_STRIDE, -(-strip.stop // HYPER_STRIDE)
        outer_rows = slice(max(0, first - self._hyper_halo), min(z.shape[1], stop + self._hyper_halo))
        top = (first - outer_rows.start) * HYPER_STRIDE
        for tile in tiles(1, z.shape[2], tile_rows=1, tile_columns=PRIOR_COLUMNS, halo=self._hyper_halo):
            inner, left = scaled(tile.inner_columns, HYPER_STRIDE), tile.cut[1].start * HYPER_STRIDE
            inner = slice(inner.start, min(inner.stop, columns))
            cut = (slice(None), slice(top, top + strip.stop - strip.start), slice(left, left + inner.stop - inner.start))
            z_hat = z[None, :, outer_rows, tile.outer_columns].astype(np.float32)
            yield _PriorPart(z_hat, outer_rows, tile.outer_columns, inner, cut)

    # Decoding

    def decode_strips(
        self, sections: Sequence[CutSection], height: int, width: int, level: Level, wanted: range
    ) -> Iterator[tuple[Symbols | None, np.ndarray]]:
        """y_hat is the dequantized latent divided by the gains; where symbols are missing, their means."""
        grid = self.grid(height, width)
        z_rows, z_columns = self.hyper_grid(*grid)
        beside = [kind for kind, may in ((SECTION_QUALITIES, level.places), (SECTION_COARSE, self._falling)) if may]
        hyper_stream = head_stream(sections, SECTION_HYPER, "hyper", beside)
        strips = strip_passes(sections, grid[0], height, wanted, self._coded_indices)
        # The hyper stream's length is checked against the picture's size before anything of that size is allocated.
        planes = level.ungrouped(decode_planes(hyper_stream, *level.group_sizes(z_rows * z_columns)), z_rows, z_columns)
        z = (planes - self._hyper_limit).astype(np.int8)
        for strip, passes in strips:
            streams = [part.stream for part in passes if not isinstance(part.stream, Cut)]
            whole = len(streams) == len(passes)
            index, counts = self._indices(z, strip, grid, level, streams if whole else ())
            latent = self._decoded(passes, index, counts) if whole or self._falling else np.zeros(index.shape, np.int16)
            del index
            leading = latent[: self._pyramid]
            mean = self._means(z, strip, level, leading, means_of(leading, self._leading_gain(level, strip, grid)))
            done = [(Symbols(z, latent) if whole else None, dequantized(latent, mean, level, strip))]
            del latent, leading, mean  # as in quantize_strips
            yield done.pop()

    def _decoded(self, passes: Sequence[Pass], index: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Latent symbols int16 of a strip, given what _indices gives."""
        if not self._falling:
            [(_, stream)] = passes
            assert not isinstance(stream, Cut), "of which nothing can be said"
            coded, latent = index >= self._first_coded, np.zeros(index.shape, np.int16)
            latent[coded] = decode_signed(stream, index[coded], self._y_tables)
            return latent
        streams, ranges = [part.stream for part in passes], [part.indices for part in passes]
        return decode_falling(streams, index.ravel(), self._y_tables, ranges, counts).reshape(index.shape)

    def _synthesised(self, y_hat: np.ndarray, level: Level, tile: Tile, dtype: Samples) -> np.ndarray:
        here = {name: level.between(each, tile.outer_rows, tile.outer_columns) for name, each in level.synthesis.items()}
        inputs = {"y_hat": y_hat[None], STEP: level.latent_step, **here}
        name = self._synthesis_for(y_hat, here, dtype)
        if name == "synthesis" and self._has_weights:
            inputs[WEIGHTS] = self._weights(level.latent_step, here)
        found = self._network(name)(PIXELS if dtype == np.uint8 else "", **inputs)
        if found.shape[2:] == (192,) and found.dtype == np.uint8:
            found = lines_of(found)
        planes = found.transpose(2, 0, 1) if found.ndim == 3 else found[0]  # planes, in bundles of older releases
        shape = (3, *(STRIDE * side for side in y_hat.shape[1:]))
        if planes.shape != shape or not (planes.dtype == np.float32 or planes.dtype == np.uint8 == dtype):
            where = f"model {self.bundle.model_id.hex()}: network synthesis"
            raise ModelError(f"{where} gives {planes.dtype} {planes.shape}, it must be float32 {shape}")
        return planes

    def _synthesis_for(self, y_hat: np.ndarray, here: Mapping[str, np.ndarray], dtype: Samples) -> str:
        """The network for a tile: not the variant where a magnitude is beyond what it is made for, which it would clip, nor one
        that has weights for one quality, and gives bytes, where there are several, or more bits are wanted."""
        if self._has_weights and (dtype != np.uint8 or here["scale"].shape[2:] != (1, 1)):
            return f"synthesis{WIDE}"
        if self._range is None:
            return "synthesis"
        largest = np.maximum(y_hat.max((1, 2)), -y_hat.min((1, 2)))
        return "synthesis" if (largest <= self._range).all() else f"synthesis{WIDE}"

    def _weights(self, step: np.ndarray, here: Mapping[str, np.ndarray]) -> np.ndarray:
        """The variant's weights for a quality: those of the last one are kept, as tiles, and pictures, often have the same."""
        key = b"".join(array.tobytes() for array in (step, *here.values()))
        return self._last_weights(key, lambda: self._network(SYNTHESIS_WEIGHTS)(**{STEP: step}, **here))

    # Rates

    def ideal_bits(self, symbols: Symbols, level: Level) -> float:
        """The model's own estimate of the bits of `symbols`: their ideal code length under the tables."""
        groups, tables = level.groups(symbols.hyper.astype(np.int64) + self._hyper_limit)
        bits = sum(table.bits(group) for table, group in zip(tables, groups, strict=True))
        return bits + self.indexed(symbols, level).bits

    def indexed(self, symbols: Symbols, level: Level) -> IndexedSymbols:
        """The coded latent symbols with the index of each one's table."""
        indices, values = [], []
        for strip in strips_of(symbols.latent.shape[1]):
            index, _ = self._indices(symbols.hyper, strip, symbols.latent.shape[1:], level)
            coded = index >= self._first_coded
            indices.append(index[coded])
            values.append(symbols.latent[:, strip][coded])
        index, value = np.concatenate(indices), np.concatenate(values)
        return IndexedSymbols(index, value, sum(self._y_tables[k].bits(value[index == k]) for k in np.unique(index)))

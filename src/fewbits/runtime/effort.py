# SPDX-License-Identifier: MIT
"""Strips of the kind "hyperprior" whose symbols are moved, tile by tile (runtime/refine.py).

A tile is read with a halo, as for synthesis. What is above a strip is as it was left, what is below as it was rounded, so each
strip waits for the next one: memory grows by a strip, not with the picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import numpy as np

from fewbits.picture import at_depth
from fewbits.runtime.latents import STRIDE, Quantized, dequantized
from fewbits.runtime.levels import HYPER_STRIDE, Level, floats_at
from fewbits.runtime.pipeline import STRIP_ROWS, Effort, Progress, extended, strips_of, unshuffled
from fewbits.runtime.refine import Patch, Refiner
from fewbits.runtime.slopes import SQUARES, SQUARES_CURVATURE, Errors, Networks, SeenErrors, SquaredErrors, as_blocks
from fewbits.runtime.tiling import scaled, tiles

COLUMNS: Final = 48  # latent positions of a tile; they change time, memory and a little what is chosen: norms are a tile's


class StripRefiner:
    """Moves the symbols of strips."""

    def __init__(
        self, refiner: Refiner, networks: Networks, halo: int, lambdas: Sequence[float], terms: Mapping[str, float]
    ) -> None:
        """halo: latent positions, how far a symbol is seen. lambdas: by level, what the distortion is worth beside bits, both of
        a pixel. terms: the weights of slopes.TERMS in it."""
        self._refiner, self._networks, self._halo, self._lambdas, self._terms = refiner, networks, halo, lambdas, terms

    def refined(self, strips: Iterator[Quantized], level: Level, effort: Effort) -> Iterator[Quantized]:
        """The strips, from the first one on, their symbols moved in place."""
        n_strips = len(strips_of(-(-effort.pixels.shape[0] // STRIDE)))
        above: list[np.ndarray] = []  # one, but above the first strip
        current = next(strips)
        for following in chain(strips, [None]):
            n_above = sum(rows.shape[1] for rows in above)
            parts = [*above, dequantized(current.symbols, current.mean, level, current.rows)]
            if following is not None:
                top = slice(following.rows.start, min(following.rows.start + self._halo, following.rows.stop))
                parts.append(dequantized(following.symbols[:, : self._halo], following.mean[:, : self._halo], level, top))
            y_hat = np.concatenate(parts, axis=1)
            part = _of(effort.progress, current.rows.start // STRIP_ROWS, n_strips)
            self._refine(current, y_hat, n_above, level, effort._replace(progress=part))
            stop = n_above + current.symbols.shape[1]
            above = [y_hat[:, max(0, stop - self._halo) : stop].copy()]
            done = [current]
            if following is not None:
                current = following
            del y_hat, parts, following  # as in quantize_strips
            yield done.pop()

    def _refine(self, strip: Quantized, y_hat: np.ndarray, n_above: int, level: Level, effort: Effort) -> None:
        """y_hat (channels, rows, columns): the strip's with n_above rows more above it, and some below it; changed, too."""
        outer_rows = slice(strip.rows.start - n_above, strip.rows.start - n_above + y_hat.shape[1])
        inner_rows = slice(n_above, n_above + strip.symbols.shape[1])
        width = y_hat.shape[2]
        alike = -(-width // -(-width // COLUMNS))  # of a narrow tile, what eyes see could not be told
        plan = list(tiles(1, width, tile_rows=1, tile_columns=alike, halo=self._halo))
        for number, tile in enumerate(plan):
            outer, columns = tile.outer_columns, tile.inner_columns
            patch = Patch(
                np.ascontiguousarray(strip.symbols[:, :, columns]),
                np.ascontiguousarray(strip.indices[:, :, columns]),
                level.at(level.inverse_gain, strip.rows, columns, stride=HYPER_STRIDE)[0],
                np.ascontiguousarray(y_hat[None, :, :, outer]),
                (inner_rows, tile.cut[1]),
                self._errors(outer_rows, outer, level, effort),
            )
            seed = strip.rows.start << 32 | columns.start
            self._refiner.refine(patch, effort.rounds, seed, _of(effort.progress, number, len(plan)))
            strip.symbols[:, :, columns] = patch.symbols
            y_hat[:, :, outer] = patch.y_hat[0]

    def _errors(self, rows: slice, columns: slice, level: Level, effort: Effort) -> Errors:
        """Of a part of the latent."""
        inputs = {name: level.between(each, rows, columns) for name, each in level.synthesis.items()}
        pixels = extended(effort.pixels, scaled(rows, STRIDE), scaled(columns, STRIDE))
        inside = tuple(
            slice(0, side - part.start * STRIDE) for part, side in zip((rows, columns), effort.pixels.shape[:2], strict=True)
        )
        worth = self._worth(rows, columns, level)[inside]
        if set(self._terms) != {SQUARES}:
            return SeenErrors(self._networks, inputs, at_depth(pixels[inside], 8), worth, self._terms)
        squares = worth * np.float32(self._terms[SQUARES] * SQUARES_CURVATURE)
        grid = rows.stop - rows.start, columns.stop - columns.start
        weight = as_blocks(np.broadcast_to(squares, (3, *squares.shape)), grid)
        return SquaredErrors(self._networks.gradient, inputs, unshuffled(pixels), weight)

    def _worth(self, rows: slice, columns: slice, level: Level) -> np.ndarray:
        """Of the distortion beside bits, by pixel: float32 (rows, columns)."""
        table = np.log(self._lambdas)[:, None]
        by_class = np.exp(np.concatenate([floats_at(table, steps) for steps in level.qualities]))
        grid = rows.stop - rows.start, columns.stop - columns.start
        by_place = np.broadcast_to(level.at(by_class, rows, columns)[0, 0], grid)
        return by_place.repeat(STRIDE, 0).repeat(STRIDE, 1)


def _of(progress: Progress, number: int, count: int) -> Progress:
    """For one of so many parts of what `progress` is of."""
    return lambda part: progress((number + part) / count)

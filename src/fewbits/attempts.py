# SPDX-License-Identifier: MIT
"""A picture, analysed once and coded at as many qualities as a target needs.

What is kept is the latent y; a size is tried by quantizing and coding it anew, a quality by quantizing and synthesis. The
qualities of large pictures are told by one attempt and a sample: windows that stand for it, side by side as a picture of
their own, which any pipeline can code.
"""

import math
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

import numpy as np

from fewbits import fidelity, structure, typical
from fewbits.errors import ImageError
from fewbits.picture import Picture, at_depth, filled, grey_of
from fewbits.runtime.pipeline import Effort, Pipeline, Progress, Section
from fewbits.runtime.places import PLACE_PX, Roi
from fewbits.target import Target, fit_score, fit_size

WINDOW_PX: Final = 128  # a side; a multiple of every stride, and of places
EDGE_PX: Final = 16  # of a window that are not measured: a neighbour is missing there
FEWEST_WINDOWS: Final = 4
SAMPLED_FROM: Final = 12  # windows that fit into the picture; smaller pictures are measured whole
MOST_OF: Final = 1 / 16  # of a very large picture that are sampled
START: Final = 0.5  # of the qualities, for sizes
ANALYSIS_SHARE: Final = 0.5  # of the time, for the display of progress
BEST: Final = 100.0  # scores are limited to so far above what is wanted: equal pictures have an infinite PSNR

Pack = Callable[[int, int, list[Section]], bytes]  # quality in hundredths, the symbols' checksum, sections -> the whole file
Warn = Callable[[str], None]


class Measure(NamedTuple):
    """A metric for targets. axis: its value -> a score in dB or the like; margin: in scores, above the target, that is good
    enough; trust: 0 where windows of a picture are like the whole; of other metrics, how far a last step along the picture's
    typical curve may lead without being measured, of all positions."""

    of: Callable[[np.ndarray, np.ndarray], float]
    axis: Callable[[float], float]
    margin: float
    trust: float = 0


MEASURES: Final = {
    "psnr": Measure(fidelity.psnr, float, 0.1),
    "ssim": Measure(structure.fast_ssim, structure.decibels, 0.1),
    "ssimulacra2": Measure(fidelity.ssimulacra2, float, 0.5, trust=0.055),
}


class Attempts:
    """One picture at the qualities of a pipeline. A position is the place of one in `pipeline.qualities`."""

    def __init__(
        self, pipeline: Pipeline, picture: Picture, roi: Roi | None, pack: Pack, progress: Progress, rounds: int = 0
    ) -> None:
        """Of a region of interest all qualities move together. Qualities are those of the colours, at 8 bits; alpha has none.

        rounds: of effort, in each attempt, so that what is measured is what becomes of it."""
        self._pipeline, self._colour, self._roi, self._pack, self._rounds = pipeline, picture.colour, roi, pack, rounds
        self._source = filled(picture)
        self._pixels = at_depth(self._source, 8)
        self._progress, self._done = progress, 0.0
        self._last = len(pipeline.qualities) - 1
        self._start = round(START * self._last)
        self._corners = window_corners(self._pixels)
        self._latents: dict[tuple[Hashable, bool], np.ndarray] = {}

    def encode(self, target: Target, warn: Warn) -> bytes:
        """The file. Raises ImageError where a size cannot be met; where a quality cannot, that of quality 100, and a warning."""
        limit = target.limit_bytes(self._pixels.shape[0] * self._pixels.shape[1])
        data = self._of_quality(target, warn) if limit is None else self._of_size(target, limit)
        self._progress(1.0)
        return data

    def _of_size(self, target: Target, limit: int) -> bytes:
        best, smallest = b"", 0

        def size(position: int) -> int:
            nonlocal best, smallest
            data = self._file(position)
            if len(best) <= len(data) <= limit:
                best = data
            smallest = min(smallest or len(data), len(data))
            return len(data)

        if fit_size(size, self._last, limit, self._start) is None:
            raise ImageError(
                f"target {target.name}: the file must not have more than {limit} bytes, the smallest possible has {smallest}"
            )
        return best

    def _of_quality(self, target: Target, warn: Warn) -> bytes:
        measure, value = MEASURES[target.name], getattr(target, target.name)
        aim, scale = measure.axis(value), max(self._last, 1)
        corners = [] if measure.trust else self._corners
        original = _cut(mosaic(self._pixels, corners, 1, axis=0)) if corners else self._pixels
        values: dict[int, float] = {}
        curve = typical.curve(target.name, self._pixels)

        def place(score: float) -> float:  # on the scale of positions, scores rise by about 1 at each
            return typical.place(curve, score) * scale

        wanted = place(aim)

        def reached(value: float) -> float:
            return place(min(measure.axis(value), aim + BEST))

        def whole(position: int) -> tuple[float, float]:
            decoded = self._decoded(position, sampled=False)
            values[position] = measure.of(self._pixels, decoded)
            if not corners:
                return reached(values[position]), math.nan
            return reached(values[position]), reached(measure.of(original, _cut(mosaic(decoded, corners, 1, axis=0))))

        def sample(position: int) -> float:
            return reached(measure.of(original, _cut(self._decoded(position, sampled=True))))

        found = fit_score(
            whole,
            sample if corners else None,
            self._last,
            wanted,
            start=round(wanted),
            slope=scale,
            margin=place(aim + measure.margin) - wanted,
            trust=measure.trust if self._corners else 0,
        )
        if found.position == self._last and found.exact and found.score < wanted:
            warn(f"target {target.name}: {value:g} is out of reach, this is the best possible: {values[self._last]:.5g}")
        return self._file(found.position)

    def _level(self, position: int, sampled: bool) -> Any:
        steps, roi = self._pipeline.qualities[position], self._roi
        if roi is not None and sampled:
            roi = roi._replace(wanted=mosaic(roi.wanted, self._corners, PLACE_PX, axis=0))
        return self._pipeline.level(steps, self._colour, None if roi is None else roi.at(steps))

    def _latent(self, level: Any, sampled: bool) -> np.ndarray:
        key = self._pipeline.analysis_key(level)
        if (key, False) not in self._latents:
            show = self._progress if not self._latents else _nothing  # one bar, for the first
            self._latents[key, False] = self._pipeline.analyse(self._source, level, lambda done: show(ANALYSIS_SHARE * done))
            self._done = ANALYSIS_SHARE
        if sampled and (key, True) not in self._latents:
            self._latents[key, True] = mosaic(self._latents[key, False], self._corners, self._pipeline.stride, axis=-2)
        return self._latents[key, sampled]

    def _effort(self, sampled: bool) -> Effort | None:
        if not self._rounds:
            return None
        pixels = mosaic(self._source, self._corners, 1, axis=0) if sampled else self._source
        return Effort(pixels, self._rounds, _nothing)

    def _file(self, position: int) -> bytes:
        level = self._level(position, sampled=False)
        symbols, sections = self._pipeline.quantize(self._latent(level, sampled=False), level, self._effort(sampled=False))
        self._advance()
        return self._pack(self._pipeline.qualities[position], symbols.crc(), sections)

    def _decoded(self, position: int, sampled: bool) -> np.ndarray:
        """What a decoder would show, uint8 (height, width, 3): of the picture, or of the sampled windows."""
        level = self._level(position, sampled)
        height, width = self._pixels.shape[:2]
        if sampled:
            height, width = WINDOW_PX, WINDOW_PX * len(self._corners)
        y_hat = self._pipeline.requantize(self._latent(level, sampled), level, self._effort(sampled))
        pixels = self._pipeline.synthesise(y_hat, height, width, level, _nothing)
        self._advance()
        return pixels if self._colour == "rgb" else np.repeat(grey_of(pixels)[:, :, None], 3, axis=2)

    def _advance(self) -> None:
        """Nobody knows how many attempts are to come: each is a part of what is left."""
        self._done += 0.3 * (1 - self._done)
        self._progress(self._done)


def window_corners(pixels: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners, in pixels, of windows that stand for a picture; none where it is too small to be sampled.

    All are sorted by detail and parted into as many groups; of each the most average one is taken, so that together they are
    as hard to code as the picture. pixels: uint8 (h, w, 3).
    """
    rows, columns = pixels.shape[0] // WINDOW_PX, pixels.shape[1] // WINDOW_PX
    if rows * columns < SAMPLED_FROM:
        return []
    green = pixels[: rows * WINDOW_PX, : columns * WINDOW_PX, 1].astype(np.int16)
    even, odd = green[::2], green[1::2]
    steps = np.abs(np.diff(even, axis=1, append=even[:, -1:])) + np.abs(even - odd)  # across, and down
    detail = steps.reshape(rows, WINDOW_PX // 2, columns, WINDOW_PX).sum((1, 3), dtype=np.int64).ravel()
    groups = np.array_split(np.argsort(detail, kind="stable"), max(FEWEST_WINDOWS, int(len(detail) * MOST_OF)))
    cells = [group[np.argmin(np.abs(detail[group] - detail[group].mean()))] for group in groups]
    return [(int(cell) // columns * WINDOW_PX, int(cell) % columns * WINDOW_PX) for cell in np.sort(cells)]


def mosaic(array: np.ndarray, corners: list[tuple[int, int]], stride: int, axis: int) -> np.ndarray:
    """The windows of an array side by side. stride: pixels a row of it, which are on `axis`, columns on the next one."""
    side = WINDOW_PX // stride
    parts = []
    for row, column in corners:
        part = [slice(None)] * array.ndim
        part[axis] = slice(row // stride, row // stride + side)
        part[axis + 1] = slice(column // stride, column // stride + side)
        parts.append(array[tuple(part)])
    return np.concatenate(parts, axis=axis + 1)


def _cut(pixels: np.ndarray) -> np.ndarray:
    """A mosaic (WINDOW_PX, n * WINDOW_PX, 3) without EDGE_PX around each window."""
    inner = slice(EDGE_PX, WINDOW_PX - EDGE_PX)
    windows = pixels.reshape(WINDOW_PX, -1, WINDOW_PX, pixels.shape[2])[inner, :, inner]
    return windows.reshape(windows.shape[0], -1, pixels.shape[2])


def _nothing(_: float) -> None:
    """Progress that is not shown."""

# SPDX-License-Identifier: MIT
"""The symbols of a strip in two passes: those of large scales, which all strips send first, and the rest (ADR 17).

So the beginning of a file is a coarse picture of the whole. A pass is a range of scale indices; where the coarse one ends is
the encoder's choice, and in the file (docs/format.md, "Coarse").
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from fewbits.container import SECTION_COARSE, SECTION_LATENT, Cut
from fewbits.errors import CorruptError
from fewbits.runtime.pipeline import Content, CutSection, latent_strips, strips_of

COARSE_SHARE: Final = 0.2  # of a strip's bits, so that a quarter of a file shows the whole picture


class Pass(NamedTuple):
    """The symbols of a strip whose scale index is in `indices`, and their stream, or what is there of it."""

    indices: range
    stream: Content

    def of(self, index: np.ndarray) -> np.ndarray:
        """Where the scale indices are among these: bool, of the same shape."""
        return np.asarray((index >= self.indices.start) & (index < self.indices.stop))


def first_coarse_index(index: np.ndarray, mean_bits: np.ndarray) -> int:
    """The least index of the coarse pass, so that it takes COARSE_SHARE of the strip's bits or a little more.

    index: of the strip's coded symbols, uint8 (n,). mean_bits: what a symbol takes on average, for each index.
    """
    bits = np.bincount(index, minlength=len(mean_bits)) * mean_bits
    from_here_on = np.cumsum(bits[::-1])[::-1]
    return int(np.flatnonzero(from_here_on >= COARSE_SHARE * from_here_on[0])[-1])


def coarse_content(first: int, stream: bytes) -> bytes:
    """The content of a coarse section."""
    return bytes([first]) + stream


def strip_passes(
    sections: Sequence[CutSection], rows: int, height: int, wanted: range, coded: range
) -> Iterator[tuple[slice, list[Pass]]]:
    """Each wanted strip of a latent of so many rows with its passes. coded: the scale indices that are coded.

    Raises CorruptError where sections are missing, too many or out of order.
    """
    strips, coarse = latent_strips(sections, rows, height, wanted), [part for kind, part in sections if kind == SECTION_COARSE]
    n_strips = len(strips_of(rows))
    if len(coarse) not in (0, n_strips):
        raise CorruptError(f"{len(coarse)} coarse sections, a picture {height} pixels high has {n_strips} or none")
    kinds = [kind for kind, _ in sections]
    if SECTION_COARSE in kinds[kinds.index(SECTION_LATENT) :]:
        raise CorruptError("a coarse section behind a latent section, all must be before the first")
    if not coarse:
        return ((strip, [Pass(coded, stream)]) for strip, stream in strips)
    both = zip(strips, coarse[wanted.start : wanted.stop], strict=True)
    return ((strip, _two_passes(first, rest, coded)) for (strip, rest), first in both)


def _two_passes(coarse: Content, rest: Content, coded: range) -> list[Pass]:
    there = coarse.there if isinstance(coarse, Cut) else coarse
    if not there and isinstance(coarse, Cut):
        return [Pass(coded, coarse)]
    if not there or not coded.start <= there[0] <= coded.stop:
        raise CorruptError(f"a coarse section begins with {list(there[:1])}, it must be from {coded.start} to {coded.stop}")
    stream = Cut(there[1:]) if isinstance(coarse, Cut) else there[1:]
    return [Pass(range(there[0], coded.stop), stream), Pass(range(coded.start, there[0]), rest)]

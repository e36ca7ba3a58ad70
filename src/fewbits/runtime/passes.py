# SPDX-License-Identifier: MIT
"""The symbols of a picture in passes: those of the largest scales of all strips, then those of smaller ones (ADR 17).

So the beginning of a file is a coarse picture of the whole. A pass is a range of scale indices for each strip; how many passes
there are and where they end is the encoder's choice, and in the file (docs/format.md, "Coarse").
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from fewbits.container import SECTION_COARSE, SECTION_LATENT, Cut
from fewbits.errors import CorruptError
from fewbits.runtime.pipeline import Content, CutSection, latent_strips, strips_of

# From so many bytes of the first strip on: the shares of a strip's bits that are out after each coarse pass. A quarter of a file
# is to be the whole picture, hyper symbols included. A pass costs some 11 bytes a strip, so that large strips have more of them.
SHARES: Final = ((40_000, (0.06, 0.16, 0.5)), (22_000, (0.1, 0.35)), (1_000, (0.2,)), (0, ()))


class Pass(NamedTuple):
    """The symbols of a strip whose scale index is in `indices`, and their stream, or what is there of it."""

    indices: range
    stream: Content


def coarse_shares(counts: np.ndarray, mean_bits: np.ndarray) -> tuple[float, ...]:
    """One of SHARES for a picture. counts: of its first strip's symbols with each scale index; mean_bits: of such a symbol."""
    n_bytes = _bits_from(counts, mean_bits)[0] / 8
    return next(shares for least, shares in SHARES if n_bytes >= least)


def pass_ranges(counts: np.ndarray, mean_bits: np.ndarray, shares: Sequence[float], coded: range) -> list[range]:
    """The scale indices of a strip's passes: after each one its share of the bits is out, or a little more; the rest follow.

    counts: of the strip's symbols with each. coded: the indices that are coded, for which mean_bits may be above 0.
    """
    bits = _bits_from(counts, mean_bits)
    firsts = [int(np.flatnonzero(bits[coded.start :] >= share * bits[0])[-1]) + coded.start for share in shares]
    return [range(first, stop) for first, stop in zip([*firsts, coded.start], [coded.stop, *firsts], strict=True)]


def _bits_from(counts: np.ndarray, mean_bits: np.ndarray) -> np.ndarray:
    """The bits that symbols take on average which have at least each scale index: float64 (indices,), falling."""
    return np.asarray(np.cumsum((counts * mean_bits)[::-1])[::-1])


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
    if len(coarse) % n_strips:
        raise CorruptError(f"{len(coarse)} coarse sections, a picture {height} pixels high has a multiple of {n_strips}")
    kinds = [kind for kind, _ in sections]
    if SECTION_COARSE in kinds[kinds.index(SECTION_LATENT) :]:
        raise CorruptError("a coarse section behind a latent section, all must be before the first")
    return ((strip, _passes(coarse[k::n_strips], rest, coded)) for k, (strip, rest) in zip(wanted, strips, strict=True))


def _passes(coarse: Sequence[Content], rest: Content, coded: range) -> list[Pass]:
    """The passes of one strip. Where a file was cut before a pass says what it has, that is all that is not yet there."""
    passes, stop = [], coded.stop
    for content in coarse:
        there = content.there if isinstance(content, Cut) else content
        if not there and isinstance(content, Cut):
            rest = content
            break
        if not there or not coded.start <= there[0] <= stop:
            raise CorruptError(f"a coarse section begins with {list(there[:1])}, it must be from {coded.start} to {stop}")
        stream = Cut(there[1:]) if isinstance(content, Cut) else there[1:]
        passes.append(Pass(range(there[0], stop), stream))
        stop = there[0]
    return [*passes, Pass(range(coded.start, stop), rest)]

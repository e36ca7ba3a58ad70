# SPDX-License-Identifier: MIT
"""The coding pipeline of the kind "masked": each latent value keeps some of its leading bits, and those are coded.

How many is said by an importance map, 0 to 3 for 0, 2, 4 or 6 bits, or, where the model has none, by the quality. The map is
in the file, as integers, so what is parsed never depends on a network. Networks see one plane at a time, or all three at once.
Names as in hyperprior.py; the importance r is a real number before it is rounded.
"""

import math
import struct
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from fewbits.coding import adaptive, huffman
from fewbits.container import QUALITY_STEPS, SECTION_IMPORTANCE, SECTION_LATENT, Cut
from fewbits.errors import CorruptError, ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.checksum import symbols_crc
from fewbits.runtime.engines import Engine
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
from fewbits.runtime.places import PLACE_PX, Places
from fewbits.runtime.rows import Rows
from fewbits.runtime.tiling import Tile, TilePlan

BITS = 6  # of a latent value, of which the leading ones are kept
STEP_BITS = 2  # that one step of importance is worth
HIGHEST = BITS // STEP_BITS
ALPHABETS = [1 << bits for bits in range(1, BITS + 1)]  # of values of which 1, 2, ... bits are kept
TILE_ROWS, TILE_COLUMNS = 48, 64  # latent positions; change time and memory, never the result


class MaskedSymbols(NamedTuple):
    """What a file holds: importance uint8 (planes or 0, rows, columns), latent uint8 (planes, channels, rows, columns): the
    kept leading bits as a number."""

    importance: np.ndarray
    latent: np.ndarray

    @property
    def head(self) -> np.ndarray:
        return self.importance

    def crc(self) -> int:
        """CRC-32 over the importance, then the latent symbols, both as bytes, in (plane, c, h, w) order."""
        return symbols_crc(self.importance, self.latent)


class MaskedLevel(NamedTuple):
    """shifts: added to the importance, by class; bits: kept of every value where there is no map; planes: that pass the networks.

    places: which class a place has; None where there is one.
    """

    shifts: np.ndarray
    bits: int
    planes: int
    places: Places | None = None

    def shift(self, strip: slice, columns: int, stride: int) -> np.ndarray:
        """What is added to the importance in a strip, float64 (strip rows, columns) or a number for all. stride: in pixels."""
        if self.places is None:
            return self.shifts
        down, across = ((np.arange(part.start, part.stop) * stride) // PLACE_PX for part in (strip, slice(0, columns)))
        return np.asarray(self.shifts[self.places.classes[down[:, None], across]])


class GroupCoder(Protocol):
    """Codes groups of symbols, each from 0 to its alphabet - 1."""

    def encode(self, groups: Sequence[np.ndarray], alphabets: Sequence[int]) -> bytes: ...

    def decode(self, stream: bytes, sizes: Sequence[int], alphabets: Sequence[int]) -> list[np.ndarray]:
        """Raises CorruptError."""

    def bits(self, groups: Sequence[np.ndarray], alphabets: Sequence[int]) -> float: ...


class HuffmanCoder:
    """A Huffman code for each group, its table in the stream."""

    def encode(self, groups: Sequence[np.ndarray], alphabets: Sequence[int]) -> bytes:
        return huffman.encode_huffman(groups, alphabets)

    def decode(self, stream: bytes, sizes: Sequence[int], alphabets: Sequence[int]) -> list[np.ndarray]:
        return huffman.decode_huffman(stream, sizes, alphabets)

    def bits(self, groups: Sequence[np.ndarray], alphabets: Sequence[int]) -> float:
        """The order-0 entropy, tables left out."""
        return huffman.ideal_bits(groups)


class AdaptiveCoder:
    """The adaptive binary arithmetic coder: each group is a stream, symbols counted from the middle of their alphabet."""

    _LENGTH = struct.Struct("<I")

    def encode(self, groups: Sequence[np.ndarray], alphabets: Sequence[int]) -> bytes:
        streams = [adaptive.encode_maps(_centred(*pair)) for pair in zip(groups, alphabets, strict=True)]
        return b"".join(self._LENGTH.pack(len(stream)) for stream in streams[:-1]) + b"".join(streams)

    def decode(self, stream: bytes, sizes: Sequence[int], alphabets: Sequence[int]) -> list[np.ndarray]:
        place = self._LENGTH.size * (len(sizes) - 1)
        if len(stream) < place:
            raise CorruptError("a latent section ends early: the file is damaged")
        lengths = [self._LENGTH.unpack_from(stream, self._LENGTH.size * k)[0] for k in range(len(sizes) - 1)]
        lengths.append(len(stream) - place - sum(lengths))
        groups = []
        for size, alphabet, length in zip(sizes, alphabets, lengths, strict=True):
            if length < 0:
                raise CorruptError("a latent section ends early: the file is damaged")
            values = adaptive.decode_maps(stream[place : place + length], (1, 1, size)).ravel() + alphabet // 2
            if values.size and not 0 <= values.min() <= values.max() < alphabet:
                raise CorruptError("a latent symbol is out of range: the file is damaged")
            place += length
            groups.append(values)
        return groups

    def bits(self, groups: Sequence[np.ndarray], alphabets: Sequence[int]) -> float:
        """The coder's own ideal code length."""
        return sum(adaptive.ideal_bits(_centred(*pair)) for pair in zip(groups, alphabets, strict=True))


def _centred(group: np.ndarray, alphabet: int) -> np.ndarray:
    return group.reshape(1, 1, -1).astype(np.int64) - alphabet // 2


CODERS: dict[str, type[HuffmanCoder] | type[AdaptiveCoder]] = {"huffman": HuffmanCoder, "adaptive": AdaptiveCoder}


class MaskedCodec(Pipeline):
    """A bundle of this kind with an engine to run its networks. Networks are loaded when first used."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self._network = bundle, NetworkLoader(bundle, engine)
        coding = bundle.coding
        try:
            self.stride, self._halo = int(coding["stride"]), int(coding["halo"])
            self._channels, self._colours = int(coding["channels"]), int(coding["colours"])
            if self.stride < 1 or self._halo < 0 or self._channels < 1 or self._colours not in (1, 3):
                raise ValueError(f"stride, halo, channels or colours in {dict(coding)}")
            self.takes_places = bool(coding["map"])
            if self.takes_places and PLACE_PX % self.stride:
                raise ValueError(f"stride {self.stride}, which must divide {PLACE_PX},")
            self._coder: GroupCoder = CODERS[coding["coder"]]()
            self._qualities, self._values = np.array(coding["levels"], np.float64).T
            if (np.diff(self._qualities) <= 0).any():
                raise ValueError("levels, whose qualities must rise")
            self.qualities = range(QUALITY_STEPS + 1)
            if not self.takes_places:  # the first quality of each number of bits
                bits = [self.level(steps, "rgb").bits for steps in self.qualities]
                self.qualities = [int(steps) for steps in np.unique(bits, return_index=True)[1]]
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
            raise ModelError(f"model {bundle.model_id.hex()}: {error} is missing or wrong in the bundle") from error

    def level(self, quality_steps: int, colour: str, places: Places | None = None) -> MaskedLevel:
        """The level of a quality in hundredths and a colour; values are interpolated between the model's."""
        steps = np.array(places.qualities if places else quality_steps)
        values = np.interp(steps / 100, self._qualities, self._values)
        planes = 1 if colour == "grey" or self._colours == 3 else 3
        if self.takes_places:
            return MaskedLevel(np.asarray(values), BITS, planes, places)
        return MaskedLevel(np.zeros(()), int(np.clip(math.floor(float(values) + 0.5), 1, BITS)), planes)

    def analysis_key(self, level: MaskedLevel) -> Hashable:
        """All have the same y."""
        return None

    def _analysed(self, pixels: np.ndarray, level: MaskedLevel) -> np.ndarray:
        """y (planes, channels and importance where there is a map, rows, columns): values in 0..1, then r in 0..3."""
        x = planes_of(pixels).reshape(-1, self._colours, *pixels.shape[:2])[: level.planes]
        return np.concatenate([self._network("analysis")(x=plane[None]) for plane in x])

    def quantize_strips(self, y: Rows, level: MaskedLevel, effort: Effort | None = None) -> Iterator[Strip]:
        importance = np.zeros((level.planes if self.takes_places else 0, *y.grid), np.uint8)
        for strip in strips_of(y.grid[0]):
            part = y.take(strip)
            if self.takes_places:
                r = part[:, -1] + level.shift(strip, y.grid[1], self.stride).astype(np.float32)
                importance[:, strip] = np.clip(np.rint(r), 0, HIGHEST)
            kept = self._kept(importance[:, strip], level, (strip.stop - strip.start, y.grid[1]))
            whole = np.clip(np.floor(part[:, : self._channels] * (1 << BITS)), 0, (1 << BITS) - 1).astype(np.uint8)
            latent = whole >> (BITS - kept[:, None])
            y.forget(strip.stop)
            yield Strip(MaskedSymbols(importance, latent), partial(self._coded, latent, kept), partial(_middles, latent, kept))

    def _coded(self, latent: np.ndarray, kept: np.ndarray) -> list[Section]:
        return [(SECTION_LATENT, self._coder.encode(_groups(latent, kept), ALPHABETS))]

    def _head_sections(self, head: np.ndarray, level: MaskedLevel) -> list[Section]:
        return [(SECTION_IMPORTANCE, self._coder.encode([head.ravel()], [HIGHEST + 1]))] if self.takes_places else []

    def decode_strips(
        self, sections: Sequence[CutSection], height: int, width: int, level: MaskedLevel, wanted: range
    ) -> Iterator[tuple[MaskedSymbols | None, np.ndarray]]:
        """y_hat is about 0, and 0 in a strip without symbols."""
        rows, columns = self.grid(height, width)
        stream = head_stream(sections, SECTION_IMPORTANCE if self.takes_places else None, "importance")
        importance = np.zeros((0, rows, columns), np.uint8)
        if self.takes_places:
            shape = (level.planes, rows, columns)
            importance = self._coder.decode(stream, [math.prod(shape)], [HIGHEST + 1])[0].astype(np.uint8).reshape(shape)
        for strip, content in latent_strips(sections, rows, height, wanted):
            kept = self._kept(importance[:, strip], level, (strip.stop - strip.start, columns))
            latent = np.zeros((level.planes, self._channels, *kept.shape[1:]), np.uint8)
            if isinstance(content, Cut):
                yield None, latent.astype(np.float32)
                continue
            places = _places(kept)
            sizes = [self._channels * int(where.sum()) for where in places]
            for where, values in zip(places, self._coder.decode(content, sizes, ALPHABETS), strict=True):
                latent.swapaxes(0, 1)[:, where] = values.reshape(self._channels, -1)
            yield MaskedSymbols(importance, latent), _middles(latent, kept)

    def _synthesised(self, y_hat: np.ndarray, level: MaskedLevel, tile: Tile, dtype: Samples) -> np.ndarray:
        planes = np.concatenate([self._network("synthesis")(y_hat=plane[None])[0] for plane in y_hat])
        return np.broadcast_to(planes, (3, *planes.shape[1:]))

    def _plan(self) -> TilePlan:
        return TilePlan(TILE_ROWS, TILE_COLUMNS, self._halo)

    def ideal_bits(self, symbols: MaskedSymbols, level: MaskedLevel) -> float:
        """What the coder's model says of `symbols`, strip by strip; with Huffman the order-0 entropy, without tables."""
        kept = self._kept(symbols.importance, level, symbols.latent.shape[2:])
        total = self._coder.bits([symbols.importance.ravel()], [HIGHEST + 1]) if self.takes_places else 0.0
        for strip in strips_of(kept.shape[1]):
            total += self._coder.bits(_groups(symbols.latent[:, :, strip], kept[:, strip]), ALPHABETS)
        return total

    @staticmethod
    def _kept(importance: np.ndarray, level: MaskedLevel, grid: tuple[int, ...]) -> np.ndarray:
        """Leading bits that are kept at each position, uint8 (planes, rows, columns)."""
        if len(importance):
            return importance * np.uint8(STEP_BITS)
        return np.full((level.planes, *grid), level.bits, np.uint8)


def _middles(latent: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The middle of what each symbol stands for, about 0."""
    return np.asarray((latent + np.float32(0.5)) * np.ldexp(np.float32(1), -kept.astype(np.int32))[:, None] - np.float32(0.5))


def _places(kept: np.ndarray) -> list[np.ndarray]:
    """For each number of kept bits from 1 to 6 the positions, bool (planes, rows, columns), whose values keep so many."""
    return [kept == bits for bits in range(1, BITS + 1)]


def _groups(latent: np.ndarray, kept: np.ndarray) -> list[np.ndarray]:
    """The values (channels, n) at each of _places(kept). latent: (planes, channels, rows, columns)."""
    return [latent.swapaxes(0, 1)[:, where] for where in _places(kept)]

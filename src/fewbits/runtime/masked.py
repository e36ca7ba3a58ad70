# SPDX-License-Identifier: MIT
"""The coding pipeline of the kind "masked": each latent value keeps some of its leading bits, and those are coded.

How many is said by an importance map, 0 to 3 for 0, 2, 4 or 6 bits, or, where the model has none, by the quality. The map is
in the file, as integers, so what is parsed never depends on a network. Networks see one plane at a time, or all three at once.
Names as in hyperprior.py; the importance r is a real number before it is rounded.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fewbits.coding import adaptive, huffman
from fewbits.container import SECTION_IMPORTANCE, SECTION_LATENT
from fewbits.errors import CorruptError, ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.engines import Engine
from fewbits.runtime.pipeline import (
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
from fewbits.runtime.tiling import scaled, tiles

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

    def crc(self) -> int:
        """CRC-32 over the importance, then the latent symbols, both as bytes, in (plane, c, h, w) order."""
        return zlib.crc32(np.ascontiguousarray(self.latent).data, zlib.crc32(np.ascontiguousarray(self.importance).data))


class MaskedLevel(NamedTuple):
    """shift: added to the importance; bits: kept of every value where there is no map; planes: that pass the networks."""

    shift: float
    bits: int
    planes: int


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


class MaskedCodec:
    """A bundle of this kind with an engine to run its networks. Networks are loaded when first used."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self._network = bundle, NetworkLoader(bundle, engine)
        coding = bundle.coding
        try:
            self._stride, self._halo = int(coding["stride"]), int(coding["halo"])
            self._channels, self._colours = int(coding["channels"]), int(coding["colours"])
            if self._stride < 1 or self._halo < 0 or self._channels < 1 or self._colours not in (1, 3):
                raise ValueError(f"stride, halo, channels or colours in {dict(coding)}")
            self.takes_roi = bool(coding["map"])
            self._coder: GroupCoder = CODERS[coding["coder"]]()
            self._qualities, self._values = np.array(coding["levels"], np.float64).T
            if (np.diff(self._qualities) <= 0).any():
                raise ValueError("levels, whose qualities must rise")
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
            raise ModelError(f"model {bundle.model_id.hex()}: {error} is missing or wrong in the bundle") from error

    def level(self, quality_steps: int, colour: str) -> MaskedLevel:
        """The level of a quality in hundredths and a colour; its value is interpolated between the model's."""
        value = float(np.interp(quality_steps / 100, self._qualities, self._values))
        planes = 1 if colour == "grey" or self._colours == 3 else 3
        if self.takes_roi:
            return MaskedLevel(value, BITS, planes)
        return MaskedLevel(0.0, int(np.clip(math.floor(value + 0.5), 1, BITS)), planes)

    def analyse(self, pixels: np.ndarray, level: MaskedLevel, progress: Progress) -> np.ndarray:
        """uint8 or uint16 (height, width, 3) -> y float32 (planes, channels and importance where there is a map, rows, columns):
        values in 0..1, then r in 0..3."""
        rows, columns = (-(-side // self._stride) for side in pixels.shape[:2])
        y = np.empty((level.planes, self._channels + self.takes_roi, rows, columns), np.float32)
        parts = list(tiles(rows, columns, tile_rows=TILE_ROWS, tile_columns=TILE_COLUMNS, halo=self._halo))
        for k, tile in enumerate(parts):
            part = extended(pixels, scaled(tile.outer_rows, self._stride), scaled(tile.outer_columns, self._stride))
            x = centred(part.transpose(2, 0, 1).reshape(-1, self._colours, *part.shape[:2])[: level.planes])
            out = np.concatenate([self._network("analysis")(x=plane[None]) for plane in x])
            y[:, :, tile.inner_rows, tile.inner_columns] = out[:, :, tile.cut[0], tile.cut[1]]
            progress((k + 1) / len(parts))
        return y

    def quantize(self, y: np.ndarray, level: MaskedLevel, roi: np.ndarray | None = None) -> tuple[MaskedSymbols, list[Section]]:
        """y -> symbols and their sections: the importance where there is a map, then one for each strip of latent rows.

        roi: float (height, width) in 0..1; where it is 1 all bits are kept.
        """
        importance = np.zeros((0, *y.shape[2:]), np.uint8)
        sections: list[Section] = []
        if self.takes_roi:
            r = y[:, -1] + level.shift
            if roi is not None:
                wanted = _block_maxima(roi, self._stride)
                r = r + wanted * (HIGHEST - r)
            importance = np.clip(np.rint(r), 0, HIGHEST).astype(np.uint8)
            sections.append((SECTION_IMPORTANCE, self._coder.encode([importance.ravel()], [HIGHEST + 1])))
        kept = self._kept(importance, level, y.shape[2:])
        whole = np.clip(np.floor(y[:, : self._channels] * (1 << BITS)), 0, (1 << BITS) - 1).astype(np.uint8)
        latent = whole >> (BITS - kept[:, None])
        for strip in strips_of(y.shape[2]):
            sections.append((SECTION_LATENT, self._coder.encode(_groups(latent[:, :, strip], kept[:, strip]), ALPHABETS)))
        return MaskedSymbols(importance, latent), sections

    def decode_symbols(
        self, sections: Sequence[Section], height: int, width: int, level: MaskedLevel
    ) -> tuple[MaskedSymbols, np.ndarray]:
        """Sections -> symbols, and y_hat float32 (planes, channels, rows, columns), about 0."""
        rows, columns = -(-height // self._stride), -(-width // self._stride)
        maps = [stream for kind, stream in sections if kind == SECTION_IMPORTANCE]
        if len(maps) != self.takes_roi or any(kind not in (SECTION_IMPORTANCE, SECTION_LATENT) for kind, _ in sections):
            raise CorruptError(f"{len(maps)} importance sections, or one of a type that this model does not have")
        strips = latent_strips(sections, rows, height)
        importance = np.zeros((0, rows, columns), np.uint8)
        if maps:
            shape = (level.planes, rows, columns)
            importance = self._coder.decode(maps[0], [math.prod(shape)], [HIGHEST + 1])[0].astype(np.uint8).reshape(shape)
        kept = self._kept(importance, level, (rows, columns))
        latent = np.zeros((level.planes, self._channels, rows, columns), np.uint8)
        for strip, stream in strips:
            places = _places(kept[:, strip])
            sizes = [self._channels * int(where.sum()) for where in places]
            for where, values in zip(places, self._coder.decode(stream, sizes, ALPHABETS), strict=True):
                latent[:, :, strip].swapaxes(0, 1)[:, where] = values.reshape(self._channels, -1)
        y_hat = (latent + np.float32(0.5)) * np.ldexp(np.float32(1), -kept.astype(np.int32))[:, None] - np.float32(0.5)
        return MaskedSymbols(importance, latent), y_hat

    def synthesise(
        self, y_hat: np.ndarray, height: int, width: int, level: MaskedLevel, progress: Progress, dtype: Samples = np.uint8
    ) -> np.ndarray:
        """y_hat -> uint8 or uint16 (height, width, 3)."""
        pixels = np.empty((height, width, 3), dtype)
        parts = list(tiles(*y_hat.shape[2:], tile_rows=TILE_ROWS, tile_columns=TILE_COLUMNS, halo=self._halo))
        for k, tile in enumerate(parts):
            part = np.ascontiguousarray(y_hat[:, :, tile.outer_rows, tile.outer_columns])
            planes = np.concatenate([self._network("synthesis")(y_hat=plane[None])[0] for plane in part])
            cut = tuple(scaled(s, self._stride) for s in tile.cut)
            target = pixels[scaled(tile.inner_rows, self._stride), scaled(tile.inner_columns, self._stride)]
            target[:] = levels_of(planes[:, cut[0], cut[1]][:, : target.shape[0], : target.shape[1]], dtype).transpose(1, 2, 0)
            progress((k + 1) / len(parts))
        return pixels

    def ideal_bits(self, symbols: MaskedSymbols, level: MaskedLevel) -> float:
        """What the coder's model says of `symbols`, strip by strip; with Huffman the order-0 entropy, without tables."""
        kept = self._kept(symbols.importance, level, symbols.latent.shape[2:])
        total = self._coder.bits([symbols.importance.ravel()], [HIGHEST + 1]) if self.takes_roi else 0.0
        for strip in strips_of(kept.shape[1]):
            total += self._coder.bits(_groups(symbols.latent[:, :, strip], kept[:, strip]), ALPHABETS)
        return total

    @staticmethod
    def _kept(importance: np.ndarray, level: MaskedLevel, grid: tuple[int, ...]) -> np.ndarray:
        """Leading bits that are kept at each position, uint8 (planes, rows, columns)."""
        if len(importance):
            return importance * np.uint8(STEP_BITS)
        return np.full((level.planes, *grid), level.bits, np.uint8)


def _places(kept: np.ndarray) -> list[np.ndarray]:
    """For each number of kept bits from 1 to 6 the positions, bool (planes, rows, columns), whose values keep so many."""
    return [kept == bits for bits in range(1, BITS + 1)]


def _groups(latent: np.ndarray, kept: np.ndarray) -> list[np.ndarray]:
    """The values (channels, n) at each of _places(kept). latent: (planes, channels, rows, columns)."""
    return [latent.swapaxes(0, 1)[:, where] for where in _places(kept)]


def _block_maxima(values: np.ndarray, size: int) -> np.ndarray:
    """(height, width) -> the largest of each block of size x size, those at the lower and right edge being smaller."""
    padded = np.pad(values, [(0, -side % size) for side in values.shape], mode="edge")
    return np.asarray(padded.reshape(padded.shape[0] // size, size, -1, size).max((1, 3)))

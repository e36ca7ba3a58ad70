# SPDX-License-Identifier: MIT
"""What every coding pipeline offers, and what they share: tiles, strips of the latent grid, sections of a file.

A picture passes from the top down: analysis makes bands of the latent, strips of it are quantized and coded as soon as what they
need is there, and what is done with is let go; likewise on the way back. So memory beyond the picture's own grows with its width,
not with its height. `analyse` and `quantize` are the same passes over a latent that is held as a whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np

from fewbits.container import SECTION_LATENT, Cut
from fewbits.errors import CorruptError, ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.checksum import StripsChecksum
from fewbits.runtime.engines import Engine, Network, exact_of
from fewbits.runtime.places import Places
from fewbits.runtime.rows import Rows
from fewbits.runtime.tiling import Tile, TilePlan, scaled
from fewbits.stages import stage

STRIP_ROWS = 32  # latent rows in one stream; part of the format
ANALYSIS_SHARE = 0.1  # of the time of encoding with effort, for the display of progress

Progress = Callable[[float], None]
Samples = type[np.uint8] | type[np.uint16]  # of pixels
Section = tuple[int, bytes]  # type, content
Content = bytes | Cut
CutSection = tuple[int, Content]


class HeldSymbols(Protocol):
    """The integers that a file holds, of all strips or of some: a NamedTuple, whose field `latent` is (..., rows, columns)."""

    latent: np.ndarray

    @property
    def head(self) -> np.ndarray:
        """Those that come before all strips, of the whole picture, a byte each."""

    def crc(self) -> int:
        """The checksum in the file's header, where these are the symbols of all of it."""

    def _replace(self, **fields: Any) -> Any: ...


class Effort(NamedTuple):
    """More time for fewer bits: rounds in which symbols are moved. pixels: of the whole picture, as analyse takes them. progress
    is called with the fraction done, 0..1."""

    pixels: np.ndarray
    rounds: int
    progress: Progress


class Strip(NamedTuple):
    """A quantized strip: its symbols (HeldSymbols), and how to come by its sections, and by y_hat (..., strip rows, columns).

    All strips of a picture have as many sections, those first that are to come first in the file.
    """

    symbols: Any
    sections: Callable[[], list[Section]]
    y_hat: Callable[[], np.ndarray]


class Pipeline(ABC):
    """A bundle with an engine: pixels <-> latent <-> symbols and sections. What `level` gives goes into all the others.

    What is abstract here is what makes a kind; nothing else is overridden.
    """

    takes_places: bool  # whether levels may have several qualities, by place
    takes_effort = False  # whether quantize_strips can make use of any
    stride: int  # pixels a latent position
    qualities: Sequence[int]  # in hundredths, rising: one for each level that differs from the others

    # What a kind is

    @abstractmethod
    def level(self, quality_steps: int, colour: str, places: Places | None = None) -> Any:
        """Everything that a quality in hundredths, 0..10000, and a colour, "grey" or "rgb", set.

        places: qualities by place in its stead, the first of which it is; only where takes_places.
        """

    @abstractmethod
    def analysis_key(self, level: Any) -> Hashable:
        """Levels with the same one have the same y, for pictures of one colour."""

    @abstractmethod
    def ideal_bits(self, symbols: Any, level: Any) -> float:
        """The model's own estimate of the bits of `symbols`."""

    @abstractmethod
    def _plan(self) -> TilePlan:
        """Tiles for analysis and synthesis; they change time and memory, never the result."""

    @abstractmethod
    def _analysed(self, pixels: np.ndarray, level: Any) -> np.ndarray:
        """A tile uint8 or uint16 (height, width, 3), both a multiple of the stride -> its y float32 (..., rows, columns)."""

    @abstractmethod
    def _synthesised(self, y_hat: np.ndarray, level: Any, tile: Tile, dtype: Samples) -> np.ndarray:
        """What a tile reads (..., rows, columns) -> planes (3, height, width): float32 about 0, or levels of dtype already.

        y_hat has one dimension less than y.
        """

    @abstractmethod
    def quantize_strips(self, y: Rows, level: Any, effort: Effort | None = None) -> Iterator[Strip]:
        """Strip by strip. The symbols' `head` is complete after the last one. effort: only where takes_effort."""

    @abstractmethod
    def _head_sections(self, head: np.ndarray, level: Any) -> list[Section]:
        """The sections of the symbols before all strips."""

    @abstractmethod
    def decode_strips(
        self, sections: Sequence[CutSection], height: int, width: int, level: Any, wanted: range
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Of each wanted strip the symbols, and y_hat float32 (..., strip rows, columns).

        A strip that is not there as a whole has no symbols (None), and in y_hat what can be said without. Raises CorruptError.
        """

    # What all share

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Latent rows and columns of a picture."""
        return -(-height // self.stride), -(-width // self.stride)

    def encode(self, pixels: np.ndarray, level: Any, progress: Progress, rounds: int = 0) -> tuple[int, list[Section]]:
        """Pixels as analyse takes them -> the symbols' checksum, and the sections. Holds neither the latent nor all symbols.

        rounds: of effort.
        """
        parts = [0.0, 0.0]  # that are done of analysis, and of effort

        def done(which: int, part: float) -> None:
            parts[which] = part
            progress(ANALYSIS_SHARE * parts[0] + (1 - ANALYSIS_SHARE) * parts[1])

        effort = Effort(pixels, rounds, partial(done, 1)) if rounds else None
        latent = self._latent(pixels, level, partial(done, 0) if effort else progress)
        checksum, strips, head = StripsChecksum(latent.grid[0]), [], np.empty(0, np.uint8)
        for strip in self.quantize_strips(latent, level, effort):
            head, sections = strip.symbols.head, strip.sections
            checksum.add(strip.symbols.latent)
            del strip  # what coding it does not need
            strips.append(sections())
            del sections  # before the next strip is made
        return checksum.value(head), [*self._head_sections(head, level), *pass_by_pass(strips)]

    def analyse(self, pixels: np.ndarray, level: Any, progress: Progress) -> np.ndarray:
        """uint8 or uint16 (height, width, 3) -> y float32 (..., rows, columns), whole: for who quantizes it several times."""
        return self._latent(pixels, level, progress).whole()

    def quantize(self, y: np.ndarray, level: Any, effort: Effort | None = None) -> tuple[Any, list[Section]]:
        """y -> its symbols (HeldSymbols), and their sections."""
        parts = [(strip.symbols, strip.sections()) for strip in self.quantize_strips(Rows.of(y), level, effort)]
        symbols = joined([part for part, _ in parts])
        strips = [sections for _, sections in parts]
        return symbols, [*self._head_sections(symbols.head, level), *pass_by_pass(strips)]

    def requantize(self, y: np.ndarray, level: Any, effort: Effort | None = None) -> np.ndarray:
        """y -> the y_hat that quantize leads to, without coding."""
        return np.concatenate([strip.y_hat() for strip in self.quantize_strips(Rows.of(y), level, effort)], axis=-2)

    def decode_symbols(self, sections: Sequence[CutSection], height: int, width: int, level: Any) -> Any:
        """Sections -> all symbols. Raises CorruptError."""
        strips = range(len(strips_of(self.grid(height, width)[0])))
        return joined([symbols for symbols, _ in self.decode_strips(sections, height, width, level, strips)])

    def decode(
        self, sections: Sequence[CutSection], size: tuple[int, int], window: tuple[slice, slice], level: Any, progress: Progress,
        *, symbols_crc: int, dtype: Samples = np.uint8,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """The pixels of a window (rows, columns) of a picture of `size` (height, width): dtype (n, columns, 3), from the top.

        Decodes the strips and tiles that are needed. Raises CorruptError; after the last band where every strip was decoded and
        their checksum is not symbols_crc.
        """
        rows, columns = self.grid(*size)
        plan = self._plan().cover(rows, columns, (_covered(window[0], self.stride), _covered(window[1], self.stride)))
        first, last = plan[0][0].outer_rows.start // STRIP_ROWS, (plan[-1][0].outer_rows.stop - 1) // STRIP_ROWS
        checksum, head = StripsChecksum(rows), np.empty(0, np.uint8)

        def bands() -> Iterator[np.ndarray]:
            nonlocal head
            for symbols, y_hat in self.decode_strips(sections, *size, level, range(first, last + 1)):
                if symbols is not None:
                    checksum.add(symbols.latent)
                    head = symbols.head
                done = [y_hat]
                del symbols, y_hat  # before the next strip is made
                yield done.pop()

        y_hat = Rows((rows, columns), bands(), first * STRIP_ROWS)
        yield from self._pixels(y_hat, plan, window, level, progress, dtype)
        if checksum.rows == rows and checksum.value(head) != symbols_crc:
            raise CorruptError("the checksum of the decoded symbols does not match: the file is damaged")

    def synthesise(self, y_hat: np.ndarray, height: int, width: int, level: Any, progress: Progress) -> np.ndarray:
        """y_hat as a whole -> uint8 (height, width, 3)."""
        plan, whole = self._plan().cover(*self.grid(height, width)), (slice(0, height), slice(0, width))
        return np.concatenate(list(self._pixels(Rows.of(y_hat), plan, whole, level, progress, np.uint8)))

    def _latent(self, pixels: np.ndarray, level: Any, progress: Progress) -> Rows:
        """y in bands, each analysed when it is asked for."""
        grid = self.grid(*pixels.shape[:2])
        plan = self._plan().cover(*grid)
        shown = _counted(progress, plan)

        def bands() -> Iterator[np.ndarray]:
            for row in plan:
                band = np.empty(0, np.float32)
                for tile in row:
                    part = extended(pixels, scaled(tile.outer_rows, self.stride), scaled(tile.outer_columns, self.stride))
                    y = self._analysed(part, level)[..., tile.cut[0], tile.cut[1]]
                    if tile is row[0]:
                        band = np.empty((*y.shape[:-1], grid[1]), np.float32)
                    band[..., tile.inner_columns] = y
                    shown()
                done = [band]
                del band, y  # the caller lets go of it before the next one is made
                yield done.pop()

        return Rows(grid, bands())

    def _pixels(
        self,
        y_hat: Rows,
        plan: list[list[Tile]],
        window: tuple[slice, slice],
        level: Any,
        progress: Progress,
        dtype: Samples,
    ) -> Iterator[np.ndarray]:
        """Rows of tiles -> the pixels in the window."""
        shown = _counted(progress, plan)
        for row in plan:
            outer, wanted = row[0].outer_rows, _common(window[0], scaled(row[0].inner_rows, self.stride))
            stretch = y_hat.take(outer)
            y_hat.forget(row[0].inner_rows.stop - self._plan().halo)
            band = np.empty(0, dtype)
            for tile in row:
                planes = self._synthesised(np.ascontiguousarray(stretch[..., tile.outer_columns]), level, tile, dtype)
                across = _common(window[1], scaled(tile.inner_columns, self.stride))
                cut = _moved(wanted, outer.start * self.stride), _moved(across, tile.outer_columns.start * self.stride)
                part = levels_of(planes[:, cut[0], cut[1]], dtype)
                if len(row) == 1 and part.strides[0] == part.itemsize:
                    band = part.transpose(1, 2, 0)  # as it is
                else:
                    if tile is row[0]:
                        band = np.empty((wanted.stop - wanted.start, window[1].stop - window[1].start, 3), dtype)
                    interleave(part, band[:, _moved(across, window[1].start)])
                del part
                shown()
            done = [band]
            del stretch, band, planes
            yield done.pop()


def pass_by_pass(strips: Sequence[Sequence[Section]]) -> list[Section]:
    """The sections of strips, as many of each, in the order of a file: the first of all strips, then the second, ..."""
    return [section for passed in zip(*strips, strict=True) for section in passed]


def joined(parts: Sequence[Any]) -> Any:
    """The symbols of strips that lie one below the other as those of one."""
    return parts[0]._replace(latent=np.concatenate([part.latent for part in parts], axis=-2))


def _counted(progress: Progress, plan: list[list[Tile]]) -> Callable[[], None]:
    """To be called after each tile: tells `progress` the fraction that is done."""
    numbers, total = count(1), sum(map(len, plan))
    return lambda: progress(next(numbers) / total)


def _covered(pixels: slice, stride: int) -> slice:
    """The latent positions that pixels lie in."""
    return slice(pixels.start // stride, -(-pixels.stop // stride))


def _common(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), min(one.stop, other.stop))


def _moved(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)


class NetworkLoader:
    """A bundle's networks by name, each loaded when it is first asked for. Raises ModelError."""

    def __init__(self, bundle: Bundle, engine: Engine, exact: frozenset[str] = frozenset()) -> None:
        """exact: the networks whose results choose how a file is parsed."""
        self._bundle, self._engine, self._exact = bundle, engine, exact
        self._loaded: dict[str, Network] = {}

    def __call__(self, name: str) -> Network:
        if name not in self._loaded:
            self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> None:
        if name not in self._bundle.networks:
            raise ModelError(f"model {self._bundle.model_id.hex()}: network {name} is missing in the bundle")
        self._loaded[name] = self.other(name, self._bundle.networks[name])

    @stage("load")
    def other(self, name: str, data: bytes) -> Network:
        """A network of an ONNX file that is not among the bundle's."""
        try:
            engine = exact_of(self._engine) if name in self._exact else self._engine
            network: Network = stage(name)(engine(data))
        except ModelError as error:
            raise ModelError(f"model {self._bundle.model_id.hex()}: network {name}: {error}") from error
        return network


def strips_of(rows: int) -> list[slice]:
    """The strips of a latent with so many rows."""
    return [slice(start, min(start + STRIP_ROWS, rows)) for start in range(0, rows, STRIP_ROWS)]


def latent_strips(sections: Sequence[CutSection], rows: int, height: int, wanted: range) -> Iterator[tuple[slice, Content]]:
    """Each wanted strip of a latent of so many rows with its stream. height: of the picture in pixels, for the message.

    Raises CorruptError where there are more or fewer streams than strips.
    """
    streams = [stream for kind, stream in sections if kind == SECTION_LATENT]
    strips = strips_of(rows)
    if len(streams) != len(strips):
        raise CorruptError(f"{len(streams)} latent sections, a picture {height} pixels high has {len(strips)}")
    return zip(strips[wanted.start : wanted.stop], streams[wanted.start : wanted.stop], strict=True)


def head_stream(sections: Sequence[CutSection], kind: int | None, name: str = "", beside: Collection[int] = ()) -> bytes:
    """The content of the one section of that type, which comes before the strips; empty where the model has none (None).

    Raises CorruptError on another number of them and on sections of types that are neither it, the strips' nor in `beside`.
    """
    if any(each not in (kind, SECTION_LATENT, *beside) for each, _ in sections):
        raise CorruptError("a section of a type that this model does not have")
    if kind is None:
        return b""
    found = [content for each, content in sections if each == kind]
    if len(found) != 1:
        raise CorruptError(f"{len(found)} {name} sections, there must be 1")
    assert not isinstance(found[0], Cut), "container.parse refuses such a file"
    return found[0]


@stage("planes")
def unshuffled(x: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (8h, 8w, 3) -> float32 (1, 192, h, w): centred, channel (c, row, column) of the 8x8 block."""
    height, width = x.shape[0] // 8, x.shape[1] // 8
    blocks = np.ascontiguousarray(x.reshape(height, 8, width, 8, 3).transpose(4, 1, 3, 0, 2))
    return centred(blocks.reshape(1, 192, height, width))


def planes_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (h, w, 3) -> float32 (3, h, w), about 0."""
    return centred(pixels.transpose(2, 0, 1))


@stage("planes")
def centred(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 -> float32, C-contiguous: samples / the largest level - 1/2."""
    planes = np.ascontiguousarray(samples) * np.float32(1 / np.iinfo(samples.dtype).max)
    planes -= np.float32(0.5)
    return planes


@stage("planes")
def levels_of(planes: np.ndarray, dtype: Samples) -> np.ndarray:
    """Float planes about 0 -> uint8 or uint16: (plane + 1/2) times the largest level, rounded and clipped. Levels stay so.

    What is no number becomes 0: symbols that no picture has can make networks overflow.
    """
    if planes.dtype == dtype:
        return planes
    top = np.float32(np.iinfo(dtype).max)
    # np.fmax and np.minimum with a number take five times as long.
    levels: np.ndarray = np.clip(planes, np.float32(-0.5), np.float32(0.5))
    levels *= top
    levels += (top + 1) / 2  # half the range, and 0.5 that makes truncation round
    if np.isnan(levels.min(initial=0)):
        np.nan_to_num(levels, copy=False)
    return levels.astype(dtype)


@stage("planes")
def interleave(planes: np.ndarray, target: np.ndarray) -> None:
    """(c, h, w) into (h, w, c). Plane by plane, which numpy does three times as fast as in one assignment, but where they are
    interleaved already."""
    if planes.strides[0] == planes.itemsize:
        target[...] = planes.transpose(1, 2, 0)
        return
    for k, plane in enumerate(planes):
        target[..., k] = plane


@stage("planes")
def lines_of(blocks: np.ndarray) -> np.ndarray:
    """Pixels uint8 (rows, columns, 192) in blocks of 8x8, (row, column, colour) -> (8 rows, 8 columns, 3)."""
    rows, columns = blocks.shape[:2]
    words = np.ascontiguousarray(blocks).view(np.uint64).reshape(rows, columns, 8, 3)  # of 8 numbers: much faster than each
    lines = np.empty((rows, 8, columns, 3), np.uint64)
    for k in range(3):
        lines[..., k] = words[..., k].transpose(0, 2, 1)
    return lines.view(np.uint8).reshape(8 * rows, 8 * columns, 3)


@stage("planes")
def extended(array: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """array[rows, columns] of an (h, w, c) array, its last row and column repeated where the slices reach beyond it."""
    height, width = array.shape[:2]
    part = array[rows.start : min(rows.stop, height), columns.start : min(columns.stop, width)]
    missing = (rows.stop - rows.start - part.shape[0], columns.stop - columns.start - part.shape[1])
    return np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else part

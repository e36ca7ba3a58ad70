# SPDX-License-Identifier: MIT
"""What every coding pipeline offers, and what they share: edges of pictures, strips of the latent grid, sections of a file."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from fewbits.container import SECTION_LATENT
from fewbits.errors import CorruptError, ModelError
from fewbits.runtime.bundle import Bundle
from fewbits.runtime.engines import Engine, Network

STRIDE = 16  # pixels a latent position
STRIP_ROWS = 32  # latent rows in one stream; part of the format

Progress = Callable[[float], None]
Samples = type[np.uint8] | type[np.uint16]
Section = tuple[int, bytes]  # type, content


class HeldSymbols(Protocol):
    """The integers that a file holds."""

    def crc(self) -> int:
        """The checksum in the file's header."""


class Pipeline(Protocol):
    """A bundle with an engine: pixels <-> latent <-> symbols and sections. What `level` gives goes into all the others."""

    takes_roi: bool  # whether quantize takes a region of interest

    def level(self, quality_steps: int, colour: str) -> Any:
        """Everything that a quality in hundredths, 0..10000, and a colour, "grey" or "rgb", set."""

    def analyse(self, pixels: np.ndarray, level: Any, progress: Progress) -> np.ndarray:
        """uint8 or uint16 (height, width, 3) -> y float32 (..., rows, columns)."""

    def quantize(self, y: np.ndarray, level: Any, roi: np.ndarray | None = None) -> tuple[Any, list[Section]]:
        """y -> its symbols (HeldSymbols), and their sections. roi: float (height, width), 1 where bits are wanted."""

    def decode_symbols(self, sections: Sequence[Section], height: int, width: int, level: Any) -> tuple[Any, np.ndarray]:
        """Sections -> the same symbols, and y_hat. Raises CorruptError."""

    def synthesise(
        self, y_hat: np.ndarray, height: int, width: int, level: Any, progress: Progress, dtype: Samples = np.uint8
    ) -> np.ndarray:
        """y_hat -> uint8 or uint16 (height, width, 3)."""

    def ideal_bits(self, symbols: Any, level: Any) -> float:
        """The model's own estimate of the bits of `symbols`."""


class NetworkLoader:
    """A bundle's networks by name, each loaded when it is first asked for. Raises ModelError."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle, self._engine = bundle, engine
        self._loaded: dict[str, Network] = {}

    def __call__(self, name: str) -> Network:
        if name not in self._loaded:
            where = f"model {self._bundle.model_id.hex()}: network {name}"
            try:
                self._loaded[name] = self._engine(self._bundle.networks[name])
            except KeyError:
                raise ModelError(f"{where} is missing in the bundle") from None
            except ModelError as error:
                raise ModelError(f"{where}: {error}") from error
        return self._loaded[name]


def strips_of(rows: int) -> list[slice]:
    """The strips of a latent with so many rows."""
    return [slice(start, min(start + STRIP_ROWS, rows)) for start in range(0, rows, STRIP_ROWS)]


def latent_strips(sections: Sequence[Section], rows: int, height: int) -> Iterator[tuple[slice, bytes]]:
    """Each strip of a latent of so many rows with its stream. height: of the picture in pixels, for the message.

    Raises CorruptError where there are more or fewer streams than strips.
    """
    streams = [stream for kind, stream in sections if kind == SECTION_LATENT]
    strips = strips_of(rows)
    if len(streams) != len(strips):
        raise CorruptError(f"{len(streams)} latent sections, a picture {height} pixels high has {len(strips)}")
    return zip(strips, streams, strict=True)


def levels_of(planes: np.ndarray, dtype: Samples = np.uint8) -> np.ndarray:
    """Float planes about 0 -> uint8 or uint16: (plane + 1/2) times the largest level, rounded and clipped.

    What is no number becomes 0: symbols that no picture has can make networks overflow.
    """
    top = np.float32(np.iinfo(dtype).max)
    levels: np.ndarray = np.fmax(planes, np.float32(-0.5))
    np.minimum(levels, np.float32(0.5), out=levels)
    levels *= top
    levels += (top + 1) / 2  # half the range, and 0.5 that makes truncation round
    return levels.astype(dtype)


def centred(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 -> float32, C-contiguous: samples / the largest level - 1/2. The inverse of levels_of."""
    planes = np.ascontiguousarray(samples) * np.float32(1 / np.iinfo(samples.dtype).max)
    planes -= np.float32(0.5)
    return planes


def extended(array: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """array[rows, columns] of an (h, w, c) array, its last row and column repeated where the slices reach beyond it."""
    height, width = array.shape[:2]
    part = array[rows.start : min(rows.stop, height), columns.start : min(columns.stop, width)]
    missing = (rows.stop - rows.start - part.shape[0], columns.stop - columns.start - part.shape[1])
    return np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else part

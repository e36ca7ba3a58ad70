# SPDX-License-Identifier: MIT
"""A picture as the codec sees it: upright planes of integers, an alpha plane, and what else its file said. Values only."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fewbits.errors import ImageError

LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grey
_BAND_ROWS: Final = 256
DEPTHS: Final = (8, 16)  # bits a sample


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a picture's file said beside its pixels, each as bytes, empty where it said nothing.

    icc: a colour profile. exif: TIFF-structured EXIF data without the prefix of JPEG's segment. xmp: a packet of XML.
    """

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""


@dataclass(frozen=True, slots=True)
class Picture:
    """pixels: uint8 or uint16 (height, width, 3), three equal planes where `colour` is "grey", else "rgb".

    alpha: of the same dtype, (height, width), 0 transparent; straight, not premultiplied; None where all is opaque.
    """

    pixels: np.ndarray
    colour: str
    alpha: np.ndarray | None = None
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def depth(self) -> int:
        """Bits a sample, 8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    def array(self) -> np.ndarray:
        """The samples alone: (height, width) where grey, or (height, width, 2, 3 or 4): grey or RGB, then alpha."""
        planes = grey_of(self.pixels)[:, :, None] if self.colour == "grey" else self.pixels
        if self.alpha is not None:
            return np.concatenate([planes, self.alpha[:, :, None]], axis=2)
        return planes[:, :, 0] if self.colour == "grey" else planes


def dtype_of(depth: int) -> type[np.uint8] | type[np.uint16]:
    """The dtype of samples of so many bits, 8 or 16."""
    return np.uint8 if depth == 8 else np.uint16


def at_depth(samples: np.ndarray, depth: int) -> np.ndarray:
    """uint8 or uint16 samples at 8 or 16 bits: exact on the way up, rounded on the way down."""
    have = 8 * samples.dtype.itemsize
    if have == depth:
        return samples
    return (
        samples.astype(np.uint16) * np.uint16(257) if depth == 16 else ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    )


def flattened(picture: Picture, background: tuple[int, int, int]) -> Picture:
    """The picture laid onto a colour, red, green and blue of 8 bits, in its own colour space; without transparency."""
    if picture.alpha is None:
        return picture
    whole = np.uint32((1 << picture.depth) - 1)
    below = np.array(background, np.uint32) * np.uint32(whole // 255)
    pixels = np.empty_like(picture.pixels)
    for top in range(0, picture.height, _BAND_ROWS):  # 32 bits of all of it would take four times its memory
        rows = slice(top, top + _BAND_ROWS)
        alpha = picture.alpha[rows, :, None].astype(np.uint32)
        pixels[rows] = (picture.pixels[rows] * alpha + below * (whole - alpha) + whole // 2) // whole
    return Picture(pixels, picture.colour if len(set(background)) == 1 else "rgb", None, picture.metadata)


def opaque_bytes(picture: Picture, name: str) -> np.ndarray:
    """What pictures are compared by: uint8 (height, width, 3). Raises ImageError on transparency, which metrics do not know."""
    if picture.alpha is not None:
        raise ImageError(f"{name}: it has transparent pixels, which cannot be measured: flatten it onto a background first")
    return at_depth(picture.pixels, 8)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (h, w, 3) -> its luma, (h, w) of the same dtype."""
    luma, grey = np.array(LUMA, np.float32), np.empty(pixels.shape[:2], pixels.dtype)
    for top in range(0, len(pixels), _BAND_ROWS):  # floats of all of it would take four times its memory
        grey[top : top + _BAND_ROWS] = np.rint(pixels[top : top + _BAND_ROWS] @ luma)
    return grey


def filled(picture: Picture) -> np.ndarray:
    """The pixels to code: those that are fully transparent take colours that cost little, the means of what is around them.

    Nobody sees them. A pyramid of means over 2x2 pixels: each hole takes the finest level that knows a colour there.
    """
    if picture.alpha is None or picture.alpha.all():
        return picture.pixels
    if not picture.alpha.any():
        return np.zeros_like(picture.pixels)
    return np.asarray(np.rint(_without_holes(picture.pixels.astype(np.float32), picture.alpha > 0)), picture.pixels.dtype)


def _without_holes(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float32 (h, w, 3) and bool (h, w), true somewhere -> the same colours where known, means of those around elsewhere."""
    if known.all():
        return colours
    height, width = known.shape
    padding = ((0, height % 2), (0, width % 2))
    weight = np.pad(known, padding).astype(np.float32)[:, :, None]
    summed = _pairs_summed(np.pad(colours, (*padding, (0, 0))) * weight)
    count = _pairs_summed(weight)
    coarse = _without_holes(summed / np.maximum(count, 1), count[:, :, 0] > 0)
    around = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(known[:, :, None], colours, around)


def _pairs_summed(values: np.ndarray) -> np.ndarray:
    rows = values[::2] + values[1::2]
    return np.asarray(rows[:, ::2] + rows[:, 1::2])

# SPDX-License-Identifier: MIT
"""Pictures in and out: Pillow images, arrays and encoded bytes <-> uint8 RGB planes and a colour name.

What this release cannot keep it refuses (transparency) or says in the README (metadata, 16 bit), never drops silently in
the picture itself.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from fewbits.container import MAGIC, MAX_PIXELS, MAX_SIDE
from fewbits.errors import ImageError

_TRANSPARENT = "image: it has transparent pixels, which this release cannot store: flatten it onto a background first"
# A decoded picture loses as little as possible where it is saved in a lossy format.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
}
_BAND_ROWS = 256  # pixel rows that are converted at a time
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grey


def read_image(data: bytes, name: str) -> Image.Image:
    """Any format that Pillow reads; `name` is used in messages. Raises ImageError."""
    if not data:
        raise ImageError(f"{name}: the file is empty")
    if data.startswith(MAGIC):
        raise ImageError(f"{name}: it is a .few file already, which `fewbits decode` reads")
    try:
        with _own_limit(), Image.open(io.BytesIO(data)) as picture:
            _check_size(picture.width, picture.height, name)
            picture.load()
            return picture
    except ImageError:
        raise
    except UnidentifiedImageError as error:  # its own text is the address of an object
        raise ImageError(f"{name}: not a picture in a format that Pillow reads") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise ImageError(
            f"{name}: not a picture that can be read: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error


@contextlib.contextmanager
def _own_limit() -> Iterator[None]:
    """Pillow's guard against huge pictures is lower than ours, which is checked before any decoding."""
    kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def write_image(picture: Image.Image, name: str) -> bytes:
    """Encode by the extension of `name` (PNG where it has none). Raises ImageError where Pillow cannot write it."""
    extension = Path(name).suffix.lower() or ".png"
    format_name = Image.registered_extensions().get(extension)
    if format_name not in Image.SAVE:
        raise ImageError(f"{name}: Pillow writes no pictures with the extension {extension}")
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format_name, **_SAVE_OPTIONS.get(format_name, {}))
    except Exception as error:  # Pillow's writers raise nearly anything on sizes that their format cannot hold
        raise ImageError(f"{name}: {format_name} cannot hold this picture: {error}") from error
    return buffer.getvalue()


def to_planes(image: Any) -> tuple[np.ndarray, str]:
    """Pillow image or uint8 array, (h, w), (h, w, 1) or (h, w, 3) -> uint8 RGB (h, w, 3) and "rgb" or "grey".

    Pillow images are turned upright by their EXIF orientation.
    Raises ImageError on other types, on empty or huge pictures, and on transparency.
    """
    if isinstance(image, Image.Image):
        _check_size(image.width, image.height, "image")
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return _from_pillow(image)
    if isinstance(image, (str, bytes, Path)):
        raise ImageError(f"image: a {type(image).__name__} is no picture: open it with PIL.Image.open first")
    try:
        array = np.asarray(image)
    except ValueError:
        raise ImageError(f"image: a {type(image).__name__} is no Pillow image and no array") from None
    if array.dtype != np.uint8:
        raise ImageError(f"image: its dtype is {array.dtype}, it must be uint8")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ImageError(f"image: its shape is {np.shape(image)}, it must be (height, width), with 1 or 3 channels last")
    _check_size(array.shape[1], array.shape[0], "image")
    if array.shape[2] == 1:
        return _three(array[:, :, 0]), "grey"
    return array, "rgb"


def to_mask(mask: Any, width: int, height: int) -> np.ndarray:
    """Pillow image or uint8 array (h, w) -> float32 (height, width) in 0..1. Raises ImageError on another size or type."""
    array = np.asarray(mask.convert("L") if isinstance(mask, Image.Image) else mask)
    if array.dtype != np.uint8 or array.shape != (height, width):
        what = f"{array.dtype} of shape {array.shape}"
        raise ImageError(f"roi: the mask is {what}, it must be uint8 of the upright picture's {height} rows and {width} columns")
    return array.astype(np.float32) / 255


def _from_pillow(image: Image.Image) -> tuple[np.ndarray, str]:
    if "transparency" in image.info or image.mode.lower() in ("rgba", "la", "pa"):
        image = _without_alpha(image)
    mode = image.mode
    if mode.startswith(("I", "F")):
        return _three(_grey_from_deep(image)), "grey"
    if mode in ("1", "L"):
        return _three(np.asarray(image.convert("L"))), "grey"
    if mode == "CMYK":
        image = _from_cmyk(image)
    return _samples(image if image.mode == "RGB" else image.convert("RGB")), "rgb"


def _three(grey: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3), three equal planes without memory of their own."""
    return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))


def _grey_from_deep(image: Image.Image) -> np.ndarray:
    """16-bit grey -> 8 bits, rounded. Modes I and F carry no range: values in 0..255 are kept, others must fit 16 bits."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"image: mode {image.mode} with values outside 0..65535 is not supported")
    deep = image.mode.startswith("I;16") or values.max() > 255
    return np.rint(values / 257 if deep else values).astype(np.uint8)


def _without_alpha(image: Image.Image) -> Image.Image:
    """The same picture without an alpha channel, where that is opaque; ImageError where it is not."""
    straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    if not straight.mode.endswith("A"):  # one colour is transparent; 16-bit pictures have no mode with alpha
        if straight.mode not in ("1", "L", "P", "RGB"):
            raise ImageError(_TRANSPARENT)
        straight = straight.convert("LA" if straight.mode in ("1", "L") else "RGBA")
    if straight.getchannel("A").getextrema()[0] != 255:
        raise ImageError(_TRANSPARENT)
    return straight.convert("L" if straight.mode == "LA" else "RGB")


def _from_cmyk(image: Image.Image) -> Image.Image:
    """Through the embedded profile where there is a usable one; Pillow's plain conversion otherwise."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < 1:
        raise ImageError(f"{name}: its size is {width}x{height}, both sides must be at least 1")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(f"{name}: its size is {width}x{height}, at most {MAX_SIDE} a side and {MAX_PIXELS} pixels are allowed")


def from_planes(pixels: np.ndarray, colour: str) -> Image.Image:
    """uint8 (h, w, 3) -> a Pillow image of mode RGB, or L where `colour` is "grey"."""
    if colour == "grey":
        luma, grey = np.array(LUMA, np.float32), np.empty(pixels.shape[:2], np.uint8)
        for part in _bands(len(pixels)):
            grey[part] = np.rint(pixels[part] @ luma)
        return Image.fromarray(grey)
    return Image.fromarray(pixels)


def _samples(image: Image.Image) -> np.ndarray:
    """uint8 (h, w, 3) of an image of mode RGB. Band by band: numpy.asarray of all of it would hold it twice."""
    array = np.empty((image.height, image.width, 3), np.uint8)
    for part in _bands(image.height):
        array[part] = np.asarray(image.crop((0, part.start, image.width, part.stop)))
    return array


def _bands(height: int) -> list[slice]:
    return [slice(top, min(top + _BAND_ROWS, height)) for top in range(0, height, _BAND_ROWS)]

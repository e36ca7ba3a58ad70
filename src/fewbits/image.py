# SPDX-License-Identifier: MIT
"""Pillow images and arrays <-> Picture: every mode, upright, with straight alpha and the metadata that its file had."""

import contextlib
import dataclasses
import io
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageCms

from fewbits.container import MAX_PIXELS, MAX_SIDE
from fewbits.errors import ImageError
from fewbits.orientation import of_turned, orientation_of, turned_image
from fewbits.picture import Metadata, Picture, dtype_of

_BAND_ROWS: Final = 256
_EXIF_PREFIX: Final = b"Exif\0\0"
_TIFF_HEADERS: Final = (b"II*\0", b"MM\0*")
_TIFF_TAGS: Final = (270, 271, 272, 305, 306, 315, 33432)  # of a TIFF file's own: description, make, model, ..., copyright
_TIFF_FOLDERS: Final = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


def to_picture(image: Any) -> Picture:
    """A Pillow image, or an array of uint8 or uint16, (h, w) or (h, w, 1, 2, 3 or 4): grey or RGB, then alpha where there is one.

    Pillow images are turned upright by their EXIF orientation, for which the metadata then do not ask again; those in CMYK become
    sRGB through their profile; modes I and F carry no range: values in 0..255 are bytes, others must fit 16 bits, and those of
    F be whole, and not all in 0..1. Raises ImageError on other types, and on empty or huge pictures.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        check_size(image.width, image.height, "image")
        return _from_pillow(image)
    array = _array_of(image, "image")
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(f"image: its dtype is {array.dtype}, it must be uint8 or uint16")
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4):
        raise ImageError(f"image: its shape is {np.shape(image)}, it must be (height, width), with 1 to 4 channels last")
    check_size(array.shape[1], array.shape[0], "image")
    return from_array(array, Metadata())


def _array_of(pixels: Any, name: str) -> np.ndarray:
    """Raises ImageError that begins with `name` on what is none, and on a file's name or content."""
    if isinstance(pixels, str | bytes) or hasattr(pixels, "__fspath__"):
        raise ImageError(f"{name}: a {type(pixels).__name__} is no picture: open it with PIL.Image.open first")
    try:
        return np.asarray(pixels)
    except ValueError:
        raise ImageError(f"{name}: a {type(pixels).__name__} is no Pillow image and no array") from None


def from_array(array: np.ndarray, metadata: Metadata) -> Picture:
    """uint8 or uint16 (h, w) or (h, w, 1..4) of the machine's own or the other byte order."""
    planes = array.astype(dtype_of(8 * array.dtype.itemsize), copy=False)
    planes = planes[:, :, None] if planes.ndim == 2 else planes
    has_alpha = planes.shape[2] in (2, 4)
    alpha = np.ascontiguousarray(planes[:, :, -1]) if has_alpha else None
    if alpha is not None and (alpha == np.iinfo(alpha.dtype).max).all():
        alpha = None
    if planes.shape[2] < 3:
        same = np.broadcast_to(planes[:, :, :1], (*planes.shape[:2], 3))  # three planes without memory of their own
        return Picture(same, "grey", alpha, metadata)
    return Picture(planes[:, :, :3], "rgb", alpha, metadata)


def to_image(picture: Picture) -> Image.Image:
    """A Pillow image of mode L, LA, RGB or RGBA, or I;16 where deep, grey and opaque, with its metadata in `info`.

    Raises ImageError on other pictures of 16 bits, for which Pillow has no mode.
    """
    array = picture.array()
    if picture.depth == 16 and array.ndim == 3:
        raise ImageError("depth is 16: Pillow has no image of 16 bits with colour or alpha; take an array")
    image = Image.fromarray(array)
    for name, value in info_of(picture.metadata).items():
        image.info[name] = value
    return image


def info_of(metadata: Metadata) -> dict[str, bytes]:
    """Metadata under Pillow's names, for `info` and for the options of save(): only what there is."""
    exif = _EXIF_PREFIX + metadata.exif if metadata.exif else b""
    values = {"icc_profile": metadata.icc, "exif": exif, "xmp": metadata.xmp}
    return {name: value for name, value in values.items() if value}


def to_mask(mask: Any, width: int, height: int) -> np.ndarray:
    """Pillow image or uint8 array (h, w) -> float32 (height, width) in 0..1. Raises ImageError on another size or type.

    Pillow images are turned upright by their EXIF orientation, as pictures are: a mask means the parts that a viewer sees.
    """
    if isinstance(mask, Image.Image):
        mask.load()  # some metadata are behind the pixels, and a TIFF file is upright then
        mask = turned_image(mask.convert("L"), orientation_of(mask))
    array = _array_of(mask, "roi")
    if array.dtype != np.uint8 or array.shape != (height, width):
        what = f"{array.dtype} of shape {array.shape}"
        raise ImageError(f"roi: the mask is {what}, it must be uint8 of the upright picture's {height} rows and {width} columns")
    return array.astype(np.float32) / 255


def stripped(picture: Picture) -> Picture:
    """The picture without metadata, and looking the same: colours of 8 bits go from their profile to sRGB, grey to its tones.

    Those of 16 bits cannot be converted here: they keep the profile, without which they would look different, and lose the rest.
    """
    icc = picture.metadata.icc
    if not icc:
        return Picture(picture.pixels, picture.colour, picture.alpha)
    if picture.depth == 16:
        return dataclasses.replace(picture, metadata=Metadata(icc=icc))
    # of a grey picture one plane, as profiles of grey want it; one of RGB, which is of no use to it, leaves it as it is
    planes = picture.pixels[:, :, 0] if picture.colour == "grey" else picture.pixels
    converted = _through_profile(Image.fromarray(np.ascontiguousarray(planes)), icc)
    return Picture(picture.pixels if converted is None else np.asarray(converted), picture.colour, picture.alpha)


def check_size(width: int, height: int, name: str) -> None:
    """Raises ImageError on an empty or huge picture."""
    if min(width, height) < 1:
        raise ImageError(f"{name}: its size is {width}x{height}, both sides must be at least 1")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(f"{name}: its size is {width}x{height}, at most {MAX_SIDE} a side and {MAX_PIXELS} pixels are allowed")


class _PillowLimit:
    """Pillow's guard against huge pictures: one number for all threads, so it comes back when the last of them is done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._pixels: int | None = None

    def lift(self) -> None:
        with self._lock:
            if self._n_users == 0:
                self._pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._n_users += 1

    def restore(self) -> None:
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                Image.MAX_IMAGE_PIXELS = self._pixels


_PILLOW_LIMIT: Final = _PillowLimit()


@contextlib.contextmanager
def own_limit() -> Iterator[None]:
    """Pillow's guard against huge pictures is lower than ours, which is checked before any decoding."""
    _PILLOW_LIMIT.lift()
    try:
        yield
    finally:
        _PILLOW_LIMIT.restore()


def metadata_of(image: Image.Image) -> Metadata:
    """What a Pillow image says beside its pixels."""
    info = image.info
    exif = bytes(info.get("exif") or (_tiff_exif(image) if image.format == "TIFF" else b"")).removeprefix(_EXIF_PREFIX)
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    return Metadata(
        icc=bytes(info.get("icc_profile") or b""),
        exif=exif if exif.startswith(_TIFF_HEADERS) else b"",  # others are no EXIF data, whatever they are called
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp),
    )


def _tiff_exif(image: Image.Image) -> bytes:
    """A TIFF file's own tags are EXIF data already; those that describe its strips and samples are left out."""
    found, kept = image.getexif(), Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in found:
            kept[tag] = found[tag]
    for folder in _TIFF_FOLDERS:
        if tags := found.get_ifd(folder):
            kept.get_ifd(folder).update(tags)
            kept[folder] = tags
    return kept.tobytes() if len(kept) else b""


def _from_pillow(image: Image.Image) -> Picture:
    image.load()  # some metadata are behind the pixels, and a TIFF file is upright then
    orientation, mode = orientation_of(image), image.mode
    metadata, image = of_turned(metadata_of(image), orientation), turned_image(image, orientation)
    if mode.startswith(("I", "F")):
        return from_array(_grey_from_deep(image), metadata)
    if mode == "CMYK":
        without_icc = Metadata(exif=metadata.exif, xmp=metadata.xmp)  # it told about inks
        converted = _through_profile(image, metadata.icc) if metadata.icc else None
        return from_array(np.asarray(converted or image.convert("RGB")), without_icc)
    if "transparency" in image.info or mode.lower() in ("rgba", "la", "pa"):
        image = _with_alpha(image)
    elif mode in ("1", "L"):
        image = image.convert("L")
    elif mode != "RGB":
        image = image.convert("RGB")
    return from_array(_samples(image), metadata)


def _samples(image: Image.Image) -> np.ndarray:
    """uint8 (h, w) or (h, w, c) of an image. Band by band: numpy.asarray of all of it would hold it twice."""
    bands = range(0, image.height, _BAND_ROWS)
    parts = (np.asarray(image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))) for top in bands)
    first = next(parts)
    array = np.empty((image.height, *first.shape[1:]), np.uint8)
    array[: len(first)] = first
    for top, part in zip(bands[1:], parts, strict=True):
        array[top : top + len(part)] = part
    return array


def _grey_from_deep(image: Image.Image) -> np.ndarray:
    """Grey of more than 8 bits -> uint8 or uint16 (h, w), or (h, w, 2) where a value is transparent."""
    values = np.asarray(image)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"image: mode {image.mode} with values outside 0..65535 is not supported")
    if image.mode == "F" and (0 < values.max() <= 1 or (values % 1).any()):
        found = f"values in {values.min():g}..{values.max():g}"
        raise ImageError(f"image: mode F with {found}: it must be whole numbers in 0..255 or 0..65535, so scale and round them")
    deep = image.mode.startswith("I;16") or values.max() > 255
    grey = np.asarray(np.rint(values), np.uint16 if deep else np.uint8)
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    return np.stack([grey, np.where(grey == clear, 0, 65535 if deep else 255).astype(grey.dtype)], axis=2)


def _with_alpha(image: Image.Image) -> Image.Image:
    """The same picture in mode LA or RGBA, with straight alpha."""
    straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    if straight.mode in ("LA", "RGBA"):
        return straight
    return straight.convert("LA" if straight.mode in ("1", "L") else "RGBA")


def _through_profile(image: Image.Image, icc: bytes) -> Image.Image | None:
    """From the colours of its profile to sRGB; None where the profile is of no use."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return None

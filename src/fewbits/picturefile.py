# SPDX-License-Identifier: MIT
"""Encoded pictures (PNG, JPEG, ...) <-> Picture. Pillow reads and writes them; imagecodecs, where it is installed, what has
16 bits and colour, for which Pillow has no mode."""

import contextlib
import importlib.util
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from fewbits.container import EXTENSION, MAGIC
from fewbits.errors import ImageError
from fewbits.image import check_size, from_array, info_of, metadata_of, own_limit, to_image, to_picture
from fewbits.orientation import EXIF_ERRORS, of_turned, orientation_of, turned_array
from fewbits.picture import Metadata, Picture
from fewbits.stages import stage

PNG_LEVEL: Final = 4  # of zlib: half the time of 6, which took more than decoding, for 1 to 3 % more bytes
# Of a PNG file's rows, those by which its strategy is chosen; and how much larger than by PNG_LEVEL they may be by runs alone.
_SAMPLES, _SAMPLE_ROWS, _LARGER = 3, 8, 1.03
# A decoded picture loses as little as possible where it is saved in a lossy format.
_SAVE_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {"compress_level": PNG_LEVEL},
    "WEBP": {"quality": 95},
}
_KEEPS: Final = {  # which metadata Pillow's writers take
    "AVIF": ("icc_profile", "exif", "xmp"), "JPEG": ("icc_profile", "exif", "xmp"), "WEBP": ("icc_profile", "exif", "xmp"),
    "PNG": ("icc_profile", "exif"), "TIFF": ("icc_profile", "exif"),
}  # fmt: skip
# Bytes of metadata in a JPEG file's segment, which is what Pillow writes them into: XMP beside 29 that say so.
_LONGEST: Final = {"JPEG": {"exif": 65533, "xmp": 65533 - 29}}
_OPAQUE: Final = ("JPEG", "BMP", "PPM")  # formats of Pillow's that lose alpha, some of them silently
_ONE_PICTURE: Final = ("JPEG", "MPO", "PSD")  # what Pillow counts as frames are previews (MPO), layers of the first (PSD)
_MOST_PX: Final = {"GIF": 65535, "JPEG": 65500, "MPO": 65500, "WEBP": 16383}  # a side; libjpeg's own is below its format's
_GREY_BITS: Final = {"L;2": 2, "L;4": 4}  # bits of the grey samples of a PNG file by Pillow's raw mode
_WRITING: Final = stage("write picture")
_DEEP_GREY: Final = ("PNG", "TIFF", "JPEG2000", "PPM")  # formats of Pillow's that hold grey of 16 bits; others clip it
_XMP_TAG: Final = 700  # of TIFF
_BITS_TAG, _PLANAR_TAG = 258, 284  # likewise
_PNG_XMP: Final = "XML:com.adobe.xmp"


def _silent(_: str) -> None:
    """Notes that nobody reads."""


@stage("read picture")
def read_picture(data: bytes, name: str, note: Callable[[str], None] = _silent) -> Picture:
    """Any format that Pillow reads, upright; `name` is used in messages. Raises ImageError.

    note is told where something is lost: 16 bits with colour are read as 8 where imagecodecs is not installed, and of an
    animation, or of several pages, the first one is read.
    """
    with _opened(data, name) as image:
        if (n_frames := _frame_count(data, image.format)) > 1:
            note(f"{name}: {n_frames} frames, only the first is kept")
        planar = _is_deep_planar(image)
        if image.format in ("PNG", "TIFF") and image.mode in ("RGB", "RGBA") and (planar or ";16" in _raw_mode(image)):
            if importlib.util.find_spec("imagecodecs"):
                return _read_deep(data, image, planar)
            if planar:
                raise ImageError(f"{name}: its 16 bits lie plane by plane, which needs imagecodecs: install the extra `deep`")
            note(f"{name}: its 16 bits are read as 8; the extra `deep` keeps them")
        clear = _clear_value(image)
        image.load()
        if clear is not None:
            image.info["transparency"] = clear
        # Pillow has 16 bits of a PGM file in mode I, where dark pictures look like 8
        return to_picture(image.convert("I;16") if image.format == "PPM" and image.mode == "I" else image)


def read_image(data: bytes, name: str) -> Image.Image:
    """The same as a Pillow image, as it is: not turned, and of 8 bits where it has colours. Raises ImageError."""
    with _opened(data, name) as image:
        image.load()
        return image


@contextlib.contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """A Pillow image whose header is read and checked. Whatever Pillow's readers raise becomes an ImageError."""
    if not data:
        raise ImageError(f"{name}: the file is empty")
    if data.startswith(MAGIC):
        raise ImageError(f"{name}: it is a .few file already, which `fewbits decode` reads")
    try:
        with own_limit(), Image.open(io.BytesIO(data)) as image:
            check_size(image.width, image.height, name)
            if image.format == "ICO":
                _check_icon(data, name)
            yield image
    except ImageError as error:  # to_picture knows no name
        raise ImageError(f"{name}: {str(error).removeprefix('image: ').removeprefix(f'{name}: ')}") from error
    except UnidentifiedImageError as error:  # its own text is the address of an object
        raise ImageError(f"{name}: not a picture in a format that Pillow reads") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: not a picture that can be read: {text}") from error


def write_picture(picture: Picture, name: str, *, quality: int | None = None, note: Callable[[str], None] = _silent) -> bytes:
    """Encode by the extension of `name` (PNG where it has none). Raises ImageError where that format cannot hold it.

    quality: 0-100, in the format's own measure; a high one where None. note is told of metadata that are too long for the format
    and left out. Where nobody else holds the picture, its memory is free as soon as Pillow has it.
    """
    format_name = _format_of(name)
    most = _MOST_PX.get(format_name)
    if most is not None and max(picture.width, picture.height) > most:
        size = f"this picture has {picture.width}x{picture.height}"
        raise ImageError(f"{name}: {format_name} holds at most {most} pixels a side, {size}: write PNG or TIFF")
    if quality is not None:
        check_takes_quality(name)
    if picture.alpha is not None and format_name in _OPAQUE:
        raise ImageError(f"{name}: {format_name} holds no transparency: write PNG, WebP, AVIF or TIFF, or give a background")
    if picture.depth == 16 and (picture.colour == "rgb" or picture.alpha is not None):
        return _WRITING(_write_deep)(picture, name, format_name)
    if picture.depth == 16 and format_name not in _DEEP_GREY:
        raise ImageError(f"{name}: {format_name} holds no 16 bits here: write PNG or TIFF, or 8 bits")
    image, info = _WRITING(to_image)(picture), info_of(picture.metadata)
    del picture
    for kind, longest in _LONGEST.get(format_name, {}).items():
        if len(info.get(kind, b"")) > longest:
            note(f"{name}: {kind.upper()} of {len(info.pop(kind))} bytes is left out: {format_name} holds {longest}")
    options: dict[str, Any] = {key: value for key, value in info.items() if key in _KEEPS.get(format_name, ())}
    if "xmp" in info and format_name == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt(_PNG_XMP, info["xmp"].decode("utf-8", "replace"))
    elif "xmp" in info and format_name == "TIFF":
        tags = Image.Exif()
        try:
            tags.load(info.get("exif", b""))
        except EXIF_ERRORS as error:
            raise ImageError(f"{name}: its EXIF data cannot be read, which TIFF needs: write PNG, WebP or JPEG") from error
        tags[_XMP_TAG] = info["xmp"]
        options["exif"] = tags
    return _saved(image, name, format_name, options | ({} if quality is None else {"quality": quality}))


@_WRITING
def _saved(image: Image.Image, name: str, format_name: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        image.info.clear()  # some writers would take metadata from there, in their own way
        options = _SAVE_OPTIONS.get(format_name, {}) | options
        if format_name == "PNG" and _runs_do(image.height, partial(_size_of_rows, image)):
            options["compress_type"] = zlib.Z_RLE
        image.save(buffer, format_name, **options)
    except Exception as error:  # Pillow's writers raise nearly anything on what their format cannot hold
        raise ImageError(f"{name}: {format_name} cannot hold this picture: {error}") from error
    return buffer.getvalue()


def _runs_do(height: int, size_of_rows: Callable[[slice, int | None], int]) -> bool:
    """Whether zlib's strategy of runs alone, which takes half the time, makes some of a PNG file's rows hardly larger.

    Behind PNG's filters photographs have runs, and hardly a repetition; graphics have both. size_of_rows: given rows, and a
    strategy or None for the usual one.
    """
    starts = [height * (2 * k + 1) // (2 * _SAMPLES) for k in range(_SAMPLES)]
    parts = [slice(start, min(start + _SAMPLE_ROWS, height)) for start in starts]
    runs, usual = (sum(size_of_rows(part, strategy) for part in parts) for strategy in (zlib.Z_RLE, None))
    return runs <= _LARGER * usual


def _size_of_rows(image: Image.Image, rows: slice, strategy: int | None) -> int:
    buffer = io.BytesIO()
    strategies = {} if strategy is None else {"compress_type": strategy}
    image.crop((0, rows.start, image.width, rows.stop)).save(buffer, "PNG", compress_level=PNG_LEVEL, **strategies)
    return buffer.tell()


def check_takes_quality(name: str) -> None:
    """Raises ImageError where the format of that name has no quality to choose."""
    format_name = _format_of(name)
    if "quality" not in _SAVE_OPTIONS.get(format_name, {}):
        raise ImageError(f"{name}: {format_name} has no quality to choose: write JPEG, WebP or AVIF")


def deepest(name: str, *, colour: bool, note: Callable[[str], None] = _silent) -> int:
    """Bits a sample, 8 or 16, that a file of that name can hold here. colour: beside grey it has colours or transparency.

    Raises ImageError. note is told where it is for want of imagecodecs that they are 8.
    """
    format_name = _format_of(name)
    if not colour:
        return 16 if format_name in _DEEP_GREY else 8
    if format_name != "PNG":
        return 8
    if not importlib.util.find_spec("imagecodecs"):
        note(f"{name}: 16 bits are written as 8; the extra `deep` keeps them")
        return 8
    return 16


def _format_of(name: str) -> str:
    """Pillow's name of the format. Raises ImageError where it writes no such pictures."""
    extension = Path(name).suffix.lower() or ".png"
    if not can_write(extension):
        raise ImageError(f"{name}: Pillow writes no pictures with the extension {extension}")
    return Image.registered_extensions()[extension]


def can_write(extension: str) -> bool:
    """Whether pictures can be written with an extension such as ".jpg"; .few files never, which Pillow may have learned."""
    return extension.lower() != EXTENSION and Image.registered_extensions().get(extension.lower()) in Image.SAVE


def _frame_count(data: bytes, format_name: str | None) -> int:
    """Of a file that Pillow reads. 1 where that cannot be told: damage behind the first frame is no obstacle to it."""
    if format_name in _ONE_PICTURE:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:  # anew: counting moves to other frames
            return int(getattr(image, "n_frames", 1))
    except Exception:  # see _opened
        return 1


def _raw_mode(image: Image.Image) -> str:
    """How the samples lie in the file, in Pillow's words, such as RGB;16B."""
    tile: Any = getattr(image, "tile", None)
    return str(tile[0][3]) if tile else ""


def _clear_value(image: Image.Image) -> Any:
    """A PNG file's transparent value in samples as Pillow gives them, where Pillow leaves it in those of the file, else None."""
    clear, mode = image.info.get("transparency"), _raw_mode(image)
    if image.format != "PNG" or clear is None:
        return None
    if mode in _GREY_BITS:
        return clear * 255 // ((1 << _GREY_BITS[mode]) - 1)
    return tuple(value >> 8 for value in clear) if mode == "RGB;16B" else None


def _check_icon(data: bytes, name: str) -> None:
    """Raises ImageError where a bitmap takes more than the directory gives it: Pillow would take its mask from elsewhere."""
    for k in range(struct.unpack_from("<H", data, 4)[0]):
        size, place = struct.unpack_from("<II", data, 6 + 16 * k + 8)
        if data[place : place + 4] == b"\x89PNG":
            continue
        header, width, doubled, _, bits = struct.unpack_from("<IiiHH", data, place)
        needed = header + doubled // 2 * (-(-width * bits // 32) * 4)
        if needed > size:
            raise ImageError(f"{name}: a picture of the icon has {size} bytes, it takes at least {needed}")


def _is_deep_planar(image: Image.Image) -> bool:
    """Whether a TIFF file has samples of 16 bits, plane by plane: Pillow takes them for bytes."""
    tags: Any = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_PLANAR_TAG) == 2 and max(tags.get(_BITS_TAG, (8,))) > 8


def _read_deep(data: bytes, image: Image.Image, planar: bool) -> Picture:
    """image: the same file, opened by Pillow. planar: it has plane after plane."""
    import imagecodecs

    decode = imagecodecs.png_decode if image.format == "PNG" else imagecodecs.tiff_decode
    array = decode(data)
    if image.format == "PNG":
        image.load()  # some metadata may be behind the pixels
    orientation = orientation_of(image)
    metadata = of_turned(metadata_of(image), orientation)
    return from_array(turned_array(np.moveaxis(array, 0, -1) if planar else array, orientation), metadata)


def _write_deep(picture: Picture, name: str, format_name: str) -> bytes:
    if format_name != "PNG":
        raise ImageError(f"{name}: {format_name} holds no 16 bits with colour or alpha here: write PNG, or 8 bits")
    if not importlib.util.find_spec("imagecodecs"):
        raise ImageError(f"{name}: 16 bits with colour or alpha need imagecodecs: install the extra `deep`, or write 8 bits")
    import imagecodecs

    array = picture.array()

    def encoded(rows: slice, strategy: int | None) -> bytes:
        return bytes(imagecodecs.png_encode(array[rows], level=PNG_LEVEL, strategy=strategy))

    runs = _runs_do(len(array), lambda rows, strategy: len(encoded(rows, strategy)))
    return _with_chunks(encoded(slice(None), zlib.Z_RLE if runs else None), picture.metadata)


def _with_chunks(png: bytes, metadata: Metadata) -> bytes:
    """A PNG file with metadata chunks behind its header (PNG specification, third edition, 11.3)."""
    chunks = b""
    if metadata.icc:
        chunks += _chunk(b"iCCP", b"profile\0\0" + zlib.compress(metadata.icc))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += _chunk(b"iTXt", _PNG_XMP.encode() + b"\0\0\0\0\0" + metadata.xmp)
    header = 8 + 12 + 13  # signature, and the chunk IHDR
    return png[:header] + chunks + png[header:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

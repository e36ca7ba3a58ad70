# SPDX-License-Identifier: MIT
"""What a file holds beside its latent: the alpha plane and the metadata <-> sections (docs/format.md, "Alpha", "Metadata").

Lossless, each with a checksum of its own. Pure: bytes in, values out.
"""

import io
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from fewbits.container import SECTION_ALPHA, SECTION_EXIF, SECTION_ICC, SECTION_XMP
from fewbits.errors import CorruptError, ImageError, LimitError
from fewbits.picture import Metadata, at_depth
from fewbits.sealing import inflated, sealed, unsealed

Section = tuple[int, bytes]

MAX_METADATA: Final = 1 << 24  # bytes of each kind; the largest profiles take some megabytes
CONSTANT, PNG = 0, 1  # how an alpha plane is coded
RAW, DEFLATE = 0, 1  # how metadata are
_METADATA: Final = {"icc": SECTION_ICC, "exif": SECTION_EXIF, "xmp": SECTION_XMP}


def pack_sidecar(alpha: np.ndarray | None, metadata: Metadata) -> list[Section]:
    """Sections for what there is. alpha: uint8 or uint16 (height, width), or None. Raises ImageError on huge metadata."""
    sections = []
    if alpha is not None:
        sections.append((SECTION_ALPHA, sealed(_pack_alpha(alpha))))
    for name, kind in _METADATA.items():
        value: bytes = getattr(metadata, name)
        if len(value) > MAX_METADATA:
            raise ImageError(f"image: its {name} metadata have {len(value)} bytes, at most {MAX_METADATA} are allowed")
        if value:
            small = zlib.compress(value, 9)
            sections.append((kind, sealed(bytes([DEFLATE]) + small if len(small) < len(value) else bytes([RAW]) + value)))
    return sections


def parse_alpha(sections: Sequence[Section], height: int, width: int, depth: int) -> np.ndarray | None:
    """The alpha plane at 8 or 16 bits (height, width), None where the file has none. Raises CorruptError."""
    found = _only(sections, SECTION_ALPHA, "alpha")
    if found is None:
        return None
    method, content = _verified(found, "alpha")
    if method == CONSTANT and len(content) in (1, 2):
        stored = np.frombuffer(content, "u1" if len(content) == 1 else "<u2")
        value = at_depth(stored.astype(f"u{len(content)}"), depth)
        return np.full((height, width), value[0], value.dtype)
    if method != PNG:
        raise CorruptError(
            f"alpha: coded by method {method} in {len(content)} bytes, known are constants of 1 or 2 bytes and PNG"
        )
    try:
        from PIL.PngImagePlugin import PngImageFile  # here, because it takes 10 ms, and few pictures have such a plane

        # not by Image.open, whose guard against huge pictures is lower than ours
        with PngImageFile(io.BytesIO(content)) as image:
            if image.size != (width, height):
                raise CorruptError(f"alpha: it is {image.width}x{image.height}, the picture {width}x{height}")
            if image.mode not in ("L", "I;16"):
                raise CorruptError(f"alpha: its PNG is of mode {image.mode}, it must be grey of 8 or 16 bits")
            return at_depth(np.asarray(image), depth)
    except CorruptError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise CorruptError(f"alpha: its PNG cannot be read: {' '.join(str(error).split())}") from error


def parse_metadata(sections: Sequence[Section]) -> Metadata:
    """Raises CorruptError or LimitError."""
    values = {}
    for name, kind in _METADATA.items():
        found = _only(sections, kind, name)
        if found is None:
            continue
        method, content = _verified(found, name)
        if method not in (RAW, DEFLATE):
            raise CorruptError(f"{name}: coded by method {method}, known are {RAW} and {DEFLATE}")
        if len(content) > MAX_METADATA:
            raise LimitError(f"length of the {name} metadata in bytes", len(content), MAX_METADATA)
        values[name] = content if method == RAW else _inflated(content, name)
    return Metadata(**values)


def _pack_alpha(alpha: np.ndarray) -> bytes:
    first = alpha.flat[0]
    if (alpha == first).all():
        return bytes([CONSTANT]) + int(first).to_bytes(alpha.dtype.itemsize, "little")
    buffer = io.BytesIO()
    Image.fromarray(alpha).save(buffer, "PNG", optimize=True)
    return bytes([PNG]) + buffer.getvalue()


def _verified(section: bytes, name: str) -> tuple[int, bytes]:
    """The first byte, and what follows it."""
    content = unsealed(section, name)
    return content[0], content[1:]


def _only(sections: Sequence[Section], kind: int, name: str) -> bytes | None:
    found = [content for number, content in sections if number == kind]
    if len(found) > 1:
        raise CorruptError(f"{len(found)} sections of {name}, there may be 1")
    return found[0] if found else None


def _inflated(content: bytes, name: str) -> bytes:
    value, whole = inflated(content, MAX_METADATA, f"{name}: it")
    if len(value) > MAX_METADATA:
        raise LimitError(f"length of the {name} metadata in bytes", len(value), MAX_METADATA)
    if not whole:
        raise CorruptError(f"{name}: its deflated bytes end early or go on")
    return value

# SPDX-License-Identifier: MIT
"""Makes Pillow open and save .few files: importing this module registers it. It knows Pillow's conventions, and codec.py.

Opening reads the header and the metadata; pixels are decoded, and the model and its runtime loaded, when they are wanted.
"""

import contextlib
import io
import mimetypes
import threading
from collections.abc import Iterator
from typing import IO, Any, Final

from PIL import Image, ImageFile

from fewbits import container
from fewbits.codec import encode, inspect, model_of
from fewbits.container import METADATA_SECTIONS, Header
from fewbits.errors import FewbitsError, FormatError, ImageError, ModelError, NotFewbitsError, UnsupportedVersionError
from fewbits.image import info_of, metadata_of, to_image
from fewbits.installed import DEFAULT_EFFORT
from fewbits.picture import Metadata
from fewbits.sidecar import parse_metadata

FORMAT: Final = "FEW"
EXTENSION: Final = ".few"
MIME: Final = "image/x-fewbits"
DRAFT_SCALES: Final = (8, 4, 2)  # as of Pillow's JPEG reader
_DEEP_GREY: Final = "I;16"  # Pillow's only mode of 16 bits
_METADATA: Final = ("icc_profile", "exif", "xmp")  # their names in `info` and as options of save()


class FewImageFile(ImageFile.ImageFile):
    """An opened .few file. Its `info` has icc_profile, exif and xmp, where there are any, and quality."""

    format = FORMAT
    format_description = "fewbits"

    def _open(self) -> None:
        assert self.fp is not None
        self._start = self.fp.tell()
        try:
            self._header = inspect(self.fp.read(container.MAX_HEADER_BYTES))
        except FormatError as error:  # Image.open would let it through, and ask no other plugin
            raise SyntaxError(str(error)) from error
        self._loading = threading.Lock()
        self._scale = 1
        self._size = (self._header.width, self._header.height)
        self._mode = _mode_of(self._header)
        self.info["quality"] = self._header.quality
        self.info.update(info_of(self._read_metadata()))
        self.tile = [ImageFile._Tile("few", (0, 0, *self._size), 0, self._mode)]  # one that load() below decodes itself

    def load(self) -> Any:
        """Decodes the pixels, at the first call. Raises OSError where the file is damaged or its model not installed."""
        if self.tile:
            with self._loading:
                if self.tile:  # no other thread was faster
                    self._decode()
        return super().load()

    def load_seek(self, pos: int) -> None:
        """Tells ImageFile.Parser that files are decoded as a whole."""

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Makes load() give 1/2, 1/4 or 1/8 of the picture's size, the smallest that still covers `size`; the mode stays."""
        if not self.tile or not size:
            return None
        width, height = self._header.width, self._header.height
        fits = min(width // max(1, size[0]), height // max(1, size[1]))
        self._scale = next((scale for scale in DRAFT_SCALES if scale <= fits), 1)
        self._size = (-(-width // self._scale), -(-height // self._scale))
        return self._mode, (0, 0, width / self._scale, height / self._scale)

    def verify(self) -> None:
        """Decodes all but the pixels, then closes the file. Raises OSError where load() would."""
        with _pillow_errors():
            data = self._read()
            model_of(inspect(data)).verify(data)
        super().verify()

    def _decode(self) -> None:
        with _pillow_errors():
            data = self._read()
            depth = 16 if self._mode == _DEEP_GREY else 8
            image = to_image(model_of(inspect(data)).decode_picture(data, depth=depth, scale=self._scale))
        self.im, self._mode, self._size, self.readonly = image.im, image.mode, image.size, image.readonly
        self.tile = []
        if self._exclusive_fp and self._close_exclusive_fp_after_loading and self.fp:
            self.fp.close()
        self.fp = None

    def _read(self) -> bytes:
        if self.fp is None:
            raise ValueError("operation on a closed image")
        self.fp.seek(self._start)
        return self.fp.read()

    def _read_metadata(self) -> Metadata:
        """None of a file that is cut or damaged: load() says what is wrong with it."""
        assert self.fp is not None
        if self.fp.seek(0, io.SEEK_END) - self._start < self._header.file_bytes:
            return Metadata()
        sections, place = [], self._start + self._header.header_bytes
        for kind, size in self._header.sections:
            if kind in METADATA_SECTIONS:
                self.fp.seek(place)
                sections.append((kind, self.fp.read(size)))
            place += size
        try:
            return parse_metadata(sections)
        except FormatError:
            return Metadata()


def register() -> None:
    """Makes Pillow and mimetypes know .few files; called when this module is imported. Calling it again changes nothing."""
    Image.register_open(FORMAT, FewImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_save_all(FORMAT, _save_all)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME)
    mimetypes.add_type(MIME, EXTENSION)


def _accept(prefix: bytes) -> bool | str:
    """Whether a file's first 16 bytes are ours; Pillow shows a string as a warning where no other plugin takes the file."""
    try:
        inspect(prefix)
    except NotFewbitsError:
        return False
    except UnsupportedVersionError as error:
        return str(error)
    except FormatError:  # 16 bytes are no whole header
        pass
    return True


def _mode_of(header: Header) -> str:
    """16 bits are kept where Pillow has a mode for them."""
    has_alpha = "alpha" in header.parts
    if header.colour == "grey":
        return "LA" if has_alpha else _DEEP_GREY if header.depth == 16 else "L"
    return "RGBA" if has_alpha else "RGB"


def _save(image: Image.Image, file: IO[bytes], _: str | bytes) -> None:
    """Options of Image.save: those of fewbits.encode, and icc_profile, exif and xmp, by default the image's own.

    Others are left alone, as by Pillow's own formats, but for a promise that would be broken."""
    options = image.encoderinfo
    if options.get("lossless"):
        raise ImageError("lossless: a .few file is never that; quality=100 is the nearest, or save as PNG or WebP")
    described = image.copy()
    described.info = {name: value for name, value in image.info.items() if name == "transparency"}
    described.info.update(info_of(metadata_of(image)))
    described.info.update({name: _metadata_option(name, options[name]) for name in _METADATA if name in options})
    try:
        data = encode(
            described,
            options.get("quality"),
            target=options.get("target"),
            tune=options.get("tune"),
            roi=options.get("roi"),
            roi_drop=options.get("roi_drop"),
            effort=options.get("effort", DEFAULT_EFFORT),
            model=options.get("model"),
        )
    except ModelError as error:
        raise OSError(str(error)) from error
    file.write(data)


def _save_all(image: Image.Image, file: IO[bytes], name: str | bytes) -> None:
    raise ImageError("save_all: a .few file holds one picture; save each frame to a file of its own")


def _metadata_option(name: str, value: Any) -> bytes:
    """As bytes, empty where nothing is to be kept. Raises ImageError on other types, and on bytes that are no EXIF data."""
    if isinstance(value, Image.Exif):
        return value.tobytes() if len(value) else b""
    if isinstance(value, str) and name == "xmp":
        return value.encode()
    if not isinstance(value, bytes | bytearray | None):
        raise ImageError(f"{name} is a {type(value).__name__}, it must be bytes or None")
    if value and name == "exif":
        try:
            Image.Exif().load(bytes(value))
        except SyntaxError as error:
            raise ImageError(f"exif: {error}") from error
    return bytes(value or b"")


@contextlib.contextmanager
def _pillow_errors() -> Iterator[None]:
    """Programs around Pillow expect an OSError from a file that cannot be loaded."""
    try:
        yield
    except FewbitsError as error:
        raise OSError(str(error)) from error


register()

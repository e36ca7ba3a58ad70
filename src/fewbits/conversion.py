# SPDX-License-Identifier: MIT
"""The bytes of a picture's file -> those of a .few file, and back: what one file and a folder of them have in common.

Both are values that travel to other processes; a model is loaded at its first use, once in each process. No files but bundles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from PIL import Image
from PIL.ImageFile import StubImageFile

from fewbits.codec import NO_OTHER_LIMITS, Model, Region, inspect, load_model, model_of
from fewbits.container import EXTENSION, Header, Limits, parse
from fewbits.errors import about
from fewbits.image import stripped
from fewbits.installed import DEFAULT_EFFORT
from fewbits.picture import Picture, flattened
from fewbits.picturefile import check_takes_quality, deepest, read_picture, write_picture
from fewbits.runtime.pipeline import Progress
from fewbits.target import Target


class Converted(NamedTuple):
    """A whole file, the number of pixels of its picture, and a line about what was lost on the way or is worth knowing, or ""."""

    data: bytes
    n_px: int
    note: str = ""


class Conversion(Protocol):
    """One direction, with its options."""

    @property
    def threads(self) -> int | None:
        """CPU threads of the networks; None: one a core."""

    @property
    def for_one(self) -> str:
        """The option that suits one file only, or "" where none is given."""

    @property
    def strip(self) -> bool:
        """Whether the files that it makes hold no metadata."""

    @property
    def what(self) -> str:
        """A word for progress."""

    @property
    def extension(self) -> str:
        """That of the files it makes; "" where it makes none."""

    @property
    def extensions(self) -> frozenset[str]:
        """Those of the files that it takes in a folder, in lower case."""

    def __call__(self, take: Callable[[], bytes], source: str, target: str, progress: Progress) -> Converted:
        """What `target` is to hold, nothing where there is no target. take: gives what the file `source` holds, once, so that
        nobody else need keep it in memory.

        Raises FewbitsError; its text begins with `source`."""


@dataclass(frozen=True)
class Encoding:
    """Pictures -> .few files. quality, target, roi, roi_drop, effort: see fewbits.encode. model: a name or a bundle's folder.

    threads, engine: see load_model. strip: leave out metadata.
    """

    quality: float | None
    model: str
    threads: int | None = None
    roi: Image.Image | None = None
    strip: bool = False
    target: Target | None = None
    roi_drop: float | None = None
    engine: str | None = None
    effort: int = DEFAULT_EFFORT
    what = "encoding"
    extension = EXTENSION

    @property
    def for_one(self) -> str:
        return "--roi" if self.roi is not None else ""

    @property
    def extensions(self) -> frozenset[str]:
        return picture_extensions()

    def __call__(self, take: Callable[[], bytes], source: str, target: str, progress: Progress) -> Converted:
        notes: list[str] = []
        data = take()
        n_bytes, picture = len(data), read_picture(data, source, notes.append)
        del data
        with about(source):
            picture = stripped(picture) if self.strip else picture
            model = load_model(self.model, threads=self.threads, engine=self.engine)
            coded = model.encode(
                picture,
                self.quality,
                target=self.target,
                roi=self.roi,
                roi_drop=self.roi_drop,
                effort=self.effort,
                progress=progress,
                warn=lambda text: notes.append(f"{source}: {text}"),
            )
        if len(coded) > n_bytes:
            notes.append(f"{source}: its .few file is larger: {len(coded)} bytes of {n_bytes}")
        return Converted(coded, picture.width * picture.height, "; ".join(notes))


@dataclass(frozen=True)
class Decoding:
    """.few files -> pictures. extension: of the pictures, with the dot. model: None for the one that each file names.

    threads, precision, engine: see load_model. depth: bits a sample, 8 or 16; None: as many as the picture had that was encoded,
    where the format holds them. region, scale, allow_truncated, limits: see fewbits.decode. quality: of lossy formats, see
    write_picture. background: a colour that transparent pictures are laid onto, which then have no transparency.
    """

    extension: str
    model: str | None = None
    threads: int | None = None
    depth: int | None = 8
    region: Region | None = None
    scale: int = 1
    allow_truncated: bool = False
    limits: Limits = NO_OTHER_LIMITS
    precision: str | None = None
    engine: str | None = None
    quality: int | None = None
    background: tuple[int, int, int] | None = None
    for_one = ""
    strip = False
    what = "decoding"
    extensions = frozenset({EXTENSION})

    def __call__(self, take: Callable[[], bytes], source: str, target: str, progress: Progress) -> Converted:
        data = take()
        with about(source):
            header = inspect(data)
            self.limits.check(header)  # before a network is loaded
        if self.quality is not None:
            check_takes_quality(target)
        there, share = f"{len(data)} of {header.file_bytes} bytes", 100 * len(data) // header.file_bytes
        said = f"truncated file: {there} ({share} %) are there; what is missing of the picture is coarse or flat"
        notes = [f"warning: {source}: {said}"] if len(data) < header.file_bytes else []
        depth = self.depth or (8 if header.depth == 8 else self._deepest(header, target, notes.append))
        written = write_picture(  # which alone holds the picture
            self._decoded(data, header, source, depth, progress), target, quality=self.quality, note=notes.append
        )
        return Converted(written, header.width * header.height, "; ".join(notes))

    def _deepest(self, header: Header, target: str, note: Callable[[str], None]) -> int:
        return deepest(target, colour=header.colour == "rgb" or "alpha" in header.parts, note=note)

    def _decoded(self, data: bytes, header: Header, source: str, depth: int, progress: Progress) -> Picture:
        with about(source):
            model = _model_for(header, self.model, threads=self.threads, precision=self.precision, engine=self.engine)
            picture = model.decode_picture(
                data,
                depth=depth,
                region=self.region,
                scale=self.scale,
                allow_truncated=self.allow_truncated,
                limits=self.limits,
                progress=progress,
            )
        return picture if self.background is None else flattened(picture, self.background)


@dataclass(frozen=True)
class Verifying:
    """.few files -> nothing: they are decoded, all but the pixels. model, threads, engine, limits: as of Decoding."""

    model: str | None = None
    threads: int | None = None
    limits: Limits = NO_OTHER_LIMITS
    engine: str | None = None
    for_one = ""
    strip = False
    what = "verifying"
    extension = ""
    extensions = frozenset({EXTENSION})

    def __call__(self, take: Callable[[], bytes], source: str, target: str, progress: Progress) -> Converted:
        data = take()
        with about(source):
            header, _ = parse(data)
            self.limits.check(header)  # both before a network is loaded: a file that was cut needs none to be told of
            _model_for(header, self.model, threads=self.threads, engine=self.engine).verify(data)
        return Converted(b"", header.width * header.height)


def _model_for(header: Header, name: str | None, **how: Any) -> Model:
    """The model of that name, or the file's own. how: as load_model takes it. Raises ModelError."""
    return load_model(name, **how) if name else model_of(header, **how)


@cache
def picture_extensions() -> frozenset[str]:
    """Extensions of the formats that Pillow reads by itself, in lower case; not those of which it only knows the name."""
    known = Image.registered_extensions()  # loads all of Pillow's readers
    able = {name for name, (reader, _) in Image.OPEN.items() if not _is_stub(reader)}
    return frozenset(extension for extension, name in known.items() if name in able)


def _is_stub(reader: object) -> bool:
    """BUFR, GRIB, HDF5, WMF need another library to draw them; EPS another program; of MPEG only the size is read."""
    kind = isinstance(reader, type) and issubclass(reader, StubImageFile)
    return kind or getattr(reader, "format", None) in ("EPS", "MPEG")

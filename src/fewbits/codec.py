# SPDX-License-Identifier: MIT
"""encode, decode, inspect, and the models they use: bytes and pictures in and out; the only files it opens are bundles."""

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fewbits import container
from fewbits.attempts import Attempts, Warn
from fewbits.container import Cut, Header, Limits
from fewbits.errors import CorruptError, ImageError, ModelError, TargetWarning
from fewbits.heap import keep_freed_memory
from fewbits.image import to_image, to_mask, to_picture
from fewbits.installed import (
    AUTO,
    DEFAULT_EFFORT,
    DEFAULT_MODEL,
    DEFAULT_PRECISION,
    DEFAULT_QUALITY,
    DEFAULT_ROI_DROP,
    MODEL_PATH_VARIABLE,
    PRECISION_CHOICES,
    ROUNDS,
    SHIPPED,
    installed_models,
    tuned_model,
)
from fewbits.picture import DEPTHS, Picture, dtype_of, filled
from fewbits.processor import has_int8
from fewbits.runtime.bundle import Bundle, parse_bundle
from fewbits.runtime.engines import DEFAULT_ENGINE, ENGINES, INT8_ENGINES, Engine, engine_of, onnxruntime_engine
from fewbits.runtime.factorized import FactorizedCodec
from fewbits.runtime.hyperprior import HyperpriorCodec, IndexedSymbols
from fewbits.runtime.manifest import MANIFEST, PRECISIONS, RANGES, VARIANTS, files_of, manifest_id, parse_manifest
from fewbits.runtime.masked import MaskedCodec
from fewbits.runtime.pipeline import CutSection, Pipeline, Progress, Section
from fewbits.runtime.places import Roi, parse_places
from fewbits.sidecar import pack_sidecar, parse_alpha, parse_metadata
from fewbits.target import Target
from fewbits.view import view_of

PIPELINES: dict[str, Callable[[Bundle, Engine], Pipeline]] = {
    "hyperprior": HyperpriorCodec,
    "factorized": FactorizedCodec,
    "masked": MaskedCodec,
}
Region = tuple[int, int, int, int]  # x, y, width, height in pixels
Named = str | os.PathLike[str]  # a model by its name or its bundle's folder
ENGINE_VARIABLE: Final = "FEWBITS_ENGINE"
PRECISION_VARIABLE: Final = "FEWBITS_PRECISION"
NO_OTHER_LIMITS: Final = Limits()  # than the format's own
_LOADING: Final = threading.Lock()
_PACKAGES: Final = tuple(os.path.dirname(path) + os.sep for path in (__file__, Image.__file__))  # Pillow calls our plugin


def _silent(_: float) -> None:
    """Progress that nobody watches."""


def _python_warning(text: str) -> None:
    """A warning of the caller's line: the nearest that is not in this package, nor in Pillow."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, TargetWarning, stacklevel=level)


@contextlib.contextmanager
def _enough_memory(width: int, height: int) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ImageError(f"a picture of {width}x{height} pixels needs more memory than there is") from error


class Model:
    """A bundle ready to encode and decode; keep it to use its networks again. Safe to share between threads."""

    def __init__(
        self, files: dict[str, bytes], where: str, engine: Engine | None = None, *, precision: str = PRECISIONS[0]
    ) -> None:
        """files: a bundle's files by name. engine: what runs its networks, ONNX Runtime by default. precision: "fp32", or
        another that the bundle has variants for. Raises ModelError."""
        bundle = parse_bundle(files, where)
        kind = bundle.coding.get("kind")
        if kind not in PIPELINES or bundle.family not in container.FAMILY_IDS:
            raise ModelError(f"{where}: family {bundle.family} of kind {kind} is not one that this release runs")
        if precision != PRECISIONS[0] and precision not in bundle.variants:
            there = ", ".join([PRECISIONS[0], *bundle.variants])
            raise ModelError(f"{where}: precision is {precision!r}, this model has {there}")
        keep_freed_memory()
        self.bundle, self.precision = bundle, precision
        self.pipeline: Pipeline = PIPELINES[kind](bundle.at(precision), engine or onnxruntime_engine())

    def encode(
        self,
        image: Any,
        quality: float | None = None,
        *,
        target: Target | None = None,
        roi: Any = None,
        roi_drop: float | None = None,
        effort: int = DEFAULT_EFFORT,
        progress: Progress = _silent,
        warn: Warn = _python_warning,
    ) -> bytes:
        """See fewbits.encode. progress is called with the fraction done, 0..1; warn with a line where a target is missed."""
        if not isinstance(target, Target | None):
            raise ImageError(f"target is {target!r}, it must be a fewbits.Target, such as Target(size='200kB')")
        if quality is not None and target is not None:
            raise ImageError(f"quality is {quality} beside a target of {target.name}: give one of them")
        steps = quality_steps(DEFAULT_QUALITY if quality is None else quality)
        self.check_effort(effort)
        rounds = ROUNDS[effort]
        picture = to_picture(image)
        del image  # where it is nobody else's, its memory is free from here on
        region = self._roi(roi, roi_drop, picture)
        beside = pack_sidecar(picture.alpha, picture.metadata)

        def pack(steps: int, symbols_crc: int, latent: list[Section]) -> bytes:
            sections = [*beside, *latent]
            header = Header(
                family=self.bundle.family,
                colour=picture.colour,
                model_id=self.bundle.model_id,
                width=picture.width,
                height=picture.height,
                quality_steps=steps,
                symbols_crc=symbols_crc,
                sections=tuple((kind, len(stream)) for kind, stream in sections),
                depth=picture.depth,
            )
            return container.pack(header, [stream for _, stream in sections])

        with _enough_memory(picture.width, picture.height):
            if target is not None:
                return Attempts(self.pipeline, picture, region, pack, progress, rounds).encode(target, warn)
            level = self.pipeline.level(steps, picture.colour, None if region is None else region.at(steps))
            return pack(steps, *self.pipeline.encode(filled(picture), level, progress, rounds))

    def check_effort(self, effort: int) -> None:
        """Raises ImageError on efforts that there are not, or not with this model."""
        if isinstance(effort, bool) or not isinstance(effort, Integral) or not 0 <= effort < len(ROUNDS):
            raise ImageError(f"effort is {effort!r}, it must be a whole number from 0 to {len(ROUNDS) - 1}")
        if effort and not self.pipeline.takes_effort:
            model = f"{self.bundle.model_id.hex()} of family {self.bundle.family}"
            wanted = "it is for models whose bundle has a gradient, such as few and few-psnr"
            raise ImageError(f"effort is {effort}: {wanted}; of this one, {model}, it must be 0")

    def _roi(self, mask: Any, drop: float | None, picture: Picture) -> Roi | None:
        """Raises ImageError where this model takes none, and on other masks and drops."""
        if drop is not None and (isinstance(drop, bool) or not isinstance(drop, Real) or not 0 <= drop <= 100):
            raise ImageError(f"roi_drop is {drop}, it must be from 0 to 100")
        if mask is None:
            if drop is not None:
                raise ImageError(f"roi_drop is {drop} without a roi: it says how much less its black parts get")
            return None
        if not self.pipeline.takes_places:
            raise ImageError(
                f"roi: this model, of family {self.bundle.family}, has one quality for the whole picture; those of "
                "content-weighted take a mask, and those of few that were exported by this release or a later one"
            )
        return Roi.of(to_mask(mask, picture.width, picture.height), round(100 * (DEFAULT_ROI_DROP if drop is None else drop)))

    def decode(
        self,
        data: bytes,
        *,
        region: Region | None = None,
        scale: int = 1,
        allow_truncated: bool = False,
        limits: Limits = NO_OTHER_LIMITS,
        progress: Progress = _silent,
    ) -> Image.Image:
        """See fewbits.decode. progress is called with the fraction done, 0..1."""
        return to_image(
            self.decode_picture(
                data, region=region, scale=scale, allow_truncated=allow_truncated, limits=limits, progress=progress
            )
        )

    def decode_picture(
        self,
        data: bytes,
        *,
        depth: int = 8,
        region: Region | None = None,
        scale: int = 1,
        allow_truncated: bool = False,
        limits: Limits = NO_OTHER_LIMITS,
        progress: Progress = _silent,
    ) -> Picture:
        """Pixels, alpha and metadata of a file, at 8 or 16 bits a sample. Arguments and errors as those of fewbits.decode."""
        if depth not in DEPTHS:
            raise ImageError(f"depth is {depth}, it must be 8 or 16")
        if not isinstance(limits, Limits):
            raise ImageError(f"limits is {limits!r}, it must be fewbits.Limits, such as Limits(pixels=40_000_000)")
        header, latent, beside = self._parsed(data, allow_truncated)
        limits.check(header)
        metadata = parse_metadata(beside)
        view = view_of(region, scale, header.width, header.height)
        level, size = self._level(header, latent), (header.height, header.width)
        with _enough_memory(header.width, header.height):
            bands = self.pipeline.decode(
                latent, size, (view.rows, view.columns), level, progress, symbols_crc=header.symbols_crc, dtype=dtype_of(depth)
            )
            pixels = view.assemble(bands)
            alpha = parse_alpha(beside, *size, depth)  # only now: a short file could claim a huge plane, but not symbols
            return Picture(pixels, header.colour, None if alpha is None else view.of(alpha), metadata)

    def verify(self, data: bytes) -> None:
        """Decodes all but the pixels, and raises what decode would on damaged bytes."""
        header, _, beside = self._parsed(data)
        parse_metadata(beside)
        self._symbols(data)
        with _enough_memory(header.width, header.height):
            parse_alpha(beside, header.height, header.width, header.depth)

    def symbols(self, data: bytes) -> Any:
        """The integer symbols that a file holds (the pipeline's own kind), checked. The same on every machine."""
        return self._symbols(data)[2]

    def estimated_bits(self, data: bytes) -> float:
        """The model's own estimate of the bits in a file's symbols: their ideal code length."""
        _, level, symbols = self._symbols(data)
        return self.pipeline.ideal_bits(symbols, level)

    def indexed_symbols(self, data: bytes) -> IndexedSymbols:
        """The coded latent symbols of a file, with the scale index that chose the table of each, where a hyperprior did."""
        if not isinstance(self.pipeline, HyperpriorCodec):
            raise ModelError(f"model {self.bundle.model_id.hex()}: its tables are chosen by no index")
        _, level, symbols = self._symbols(data)
        return self.pipeline.indexed(symbols, level)

    def _level(self, header: Header, latent: Sequence[CutSection]) -> Any:
        """What the qualities of a file set, by its header and the latent's sections. Raises CorruptError."""
        places = parse_places(latent, header.height, header.width, header.quality_steps)
        if places is not None and not self.pipeline.takes_places:
            raise CorruptError("a qualities section, which this model cannot have: the file is damaged")
        return self.pipeline.level(header.quality_steps, header.colour, places)

    def _symbols(self, data: bytes) -> tuple[Header, Any, Any]:
        header, latent, _ = self._parsed(data)
        level = self._level(header, latent)
        with _enough_memory(header.width, header.height):
            symbols = self.pipeline.decode_symbols(latent, header.height, header.width, level)
        if symbols.crc() != header.symbols_crc:
            raise CorruptError("the checksum of the decoded symbols does not match: the file is damaged")
        return header, level, symbols

    def _parsed(self, data: bytes, allow_truncated: bool = False) -> tuple[Header, list[CutSection], list[tuple[int, bytes]]]:
        """The header, the latent's sections, and those beside it that are there."""
        header, sections = container.parse(_bytes_of(data), allow_truncated=allow_truncated)
        if header.model_id != self.bundle.model_id:
            raise ModelError(f"made with model {header.model_id.hex()}, not with this one, {self.bundle.model_id.hex()}")
        latent: list[CutSection] = []
        beside = []
        for kind, part in sections:
            if kind in container.LATENT_SECTIONS:
                latent.append((kind, part if isinstance(part, Cut) else bytes(part)))
            elif not isinstance(part, Cut):
                beside.append((kind, bytes(part)))
        return header, latent, beside


def quality_steps(quality: float) -> int:
    """0-100 -> hundredths. Raises ImageError outside."""
    if isinstance(quality, bool) or not isinstance(quality, Real) or not 0 <= quality <= 100:  # also catches NaN
        raise ImageError(f"quality is {quality}, it must be from 0 to 100")
    return round(quality * 100)


def _bytes_of(data: Any) -> bytes:
    """A file's content, of any bytes-like object. Raises ImageError on others."""
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        named = isinstance(data, str | os.PathLike)
        hint = ": read the file first, Path(...).read_bytes()" if named else ": call its read()" if hasattr(data, "read") else ""
        raise ImageError(f"data is a {type(data).__name__}, it must be bytes{hint}") from None


def _given(model: Model | Named | None) -> Model | None:
    """The model that a caller chose, None where that was left to us. Raises ImageError on other types, and ModelError."""
    if isinstance(model, Model | None):
        return model
    if isinstance(model, str | os.PathLike):
        return load_model(model)
    raise ImageError(f"model is a {type(model).__name__}, it must be a fewbits.Model, or a name or folder as load_model takes it")


def encode(
    image: Any,
    quality: float | None = None,
    *,
    target: Target | None = None,
    tune: str | None = None,
    roi: Any = None,
    roi_drop: float | None = None,
    effort: int = DEFAULT_EFFORT,
    model: Model | Named | None = None,
) -> bytes:
    """A picture -> the bytes of a .few file.

    image: Pillow image, whose current frame is taken, or array of uint8 or uint16, (h, w) or (h, w, 1 to 4): grey or RGB, then
    alpha where there is one. Alpha is kept exactly, and so are a Pillow image's colour profile, EXIF and XMP; EXIF's orientation
    is applied.
    quality: 0-100, continuous; higher is better and larger; 60 where neither it nor a target is given. target: a size or a
    quality to reach in its place, such as Target(size="200kB"); a quality that is out of reach gives the best file and a
    TargetWarning. roi: a mask of the upright picture's size, Pillow image or uint8 array (h, w): blocks of 64x64 pixels with
    white in them have that quality, black ones one that is lower by roi_drop, 0-100 (30 where None), others one between. tune:
    "visual", the default, for structure as people see it, or "psnr"; or in its place model, from load_model or as it takes one.
    effort: 0, the default, to 9: fewer bytes for the same quality, and far more time; for models whose bundle has a gradient.
    Raises ImageError on unsuitable pictures or options, whether by type or by value, and where a target size is below the
    smallest possible; ModelError where the model is not installed.
    """
    if tune is not None and model is not None:
        raise ImageError(f"tune is {tune!r} beside a model: give one of them")
    chosen = _given(model) or load_model(tuned_model(tune))
    return chosen.encode(image, quality, target=target, roi=roi, roi_drop=roi_drop, effort=effort)


def decode(
    data: bytes,
    *,
    region: Region | None = None,
    scale: int = 1,
    allow_truncated: bool = False,
    limits: Limits = NO_OTHER_LIMITS,
    model: Model | Named | None = None,
) -> Image.Image:
    """The bytes of a .few file, any bytes-like object, -> a Pillow image of mode RGB, RGBA, L or LA (numpy.asarray: uint8).

    Its `info` has what the file keeps of icc_profile, exif and xmp. Pixels may differ by a few levels from one processor to
    another; by 1 with a model of load_model(..., precision="fp32"), or where $FEWBITS_PRECISION is fp32.
    region: (x, y, width, height) in pixels of the upright picture: decodes only what that part needs. scale: 1, 2, 4 or 8: of
    every block of so many pixels a side, from the region's upper left corner on, their mean. allow_truncated: a file that ends
    too early gives a picture all the same, coarser the less of it is there, and grey where nothing is; inspect(data).file_bytes >
    len(data) tells. Of a picture that is not decoded as a whole the symbols' checksum cannot be checked.
    limits: what the file may ask for at most, such as Limits(pixels=40_000_000) where it comes from strangers.
    model: where None, the file's own, among the shipped ones and those in the folders of $FEWBITS_MODELS.
    Raises FormatError on damaged bytes, ModelError where the model is not installed, ImageError on what is no bytes, and on
    unsuitable options.
    """
    chosen = _given(model) or model_of(inspect(data))
    return chosen.decode(data, region=region, scale=scale, allow_truncated=allow_truncated, limits=limits)


def decode_array(
    data: bytes,
    *,
    depth: int = 8,
    region: Region | None = None,
    scale: int = 1,
    allow_truncated: bool = False,
    limits: Limits = NO_OTHER_LIMITS,
    model: Model | Named | None = None,
) -> np.ndarray:
    """The same as an array, (h, w), or (h, w, 2, 3 or 4): grey or RGB, then alpha; of uint8, or uint16 where `depth` is 16.

    The networks know more than 8 bits of any picture; of one that had 16, `inspect(data).depth` says so.
    """
    chosen = _given(model) or model_of(inspect(data))
    picture = chosen.decode_picture(data, depth=depth, region=region, scale=scale, allow_truncated=allow_truncated, limits=limits)
    return picture.array()


def inspect(data: bytes) -> Header:
    """The header of a .few file; loads no network and needs only the file's beginning. Raises FormatError, and ImageError on what
    is no bytes."""
    return container.parse_header(_bytes_of(data))


def load_model(
    name: Named = DEFAULT_MODEL,
    *,
    threads: int | None = None,
    precision: str | None = None,
    engine: str | None = None,
) -> Model:
    """A model by the name of a shipped bundle ("few") or the path of a bundle's folder. Raises ModelError, on wrong options too.

    Cached: a folder that changes is not read again by the same process.

    threads: CPU threads for the networks, all cores where None. precision: "fp32", which decodes to the same pixels on every
    machine, up to 1 level; "int8", where the model has it: decodes faster on processors with instructions for it
    (docs/performance.md), the same files to pixels that differ a little, and parts that it is not made for, such as graphics,
    in float32; or "auto", int8 where the model has it and the processor is fast at it; where None, the one that
    $FEWBITS_PRECISION names, as far as the model has it, else "auto". engine: "onnxruntime", "openvino", "openvino-bf16" or
    "cuda"; where None, the one that $FEWBITS_ENGINE names, else ONNX Runtime.
    """
    wanted = chosen_precision(precision)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, Integral) or threads < 1):
        raise ModelError(f"threads is {threads!r}, it must be a whole number from 1 on, or None for all cores")
    if not isinstance(name, str | os.PathLike):
        raise ModelError(f"model is a {type(name).__name__}, it must be a name or a bundle's folder")
    path = Path(name)
    try:
        if isinstance(name, str) and name == path.name and (SHIPPED / name / MANIFEST).exists():
            path = SHIPPED / name  # a bare name; ./few is the caller's own folder
        found = path.is_dir()
    except OSError:  # a name that no file system takes
        found = False
    if not found:
        names = ", ".join(sorted(Path(found).name for found in installed_models())) or "none"
        raise ModelError(f"model {name} is neither a bundle's folder nor an installed model (installed: {names})")
    with _LOADING:  # threads that ask at once share one
        path, engine = path.resolve(), chosen_engine(engine)
        return _load(path, threads, _precision(path, engine, wanted, precision is not None), engine)


@lru_cache(maxsize=4)
def _load(path: Path, threads: int | None, precision: str, engine: str) -> Model:
    if precision == "int8" and engine in ENGINES and engine not in INT8_ENGINES:
        raise ModelError(f"precision is 'int8', engine {engine} has fp32 only: leave one of them out")
    return Model(read_bundle(path), str(path), engine_of(engine, threads), precision=precision)


@lru_cache(maxsize=16)
def _precision(path: Path, engine: str, precision: str, by_name: bool) -> str:
    return precision_here(parse_manifest(_manifest_bytes(path), str(path)), engine, precision, by_name=by_name)


def _manifest_bytes(path: Path) -> bytes:
    """Of a bundle's folder. Raises ModelError."""
    try:
        return (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no {MANIFEST}: this is not a bundle") from None
    except OSError as error:
        raise ModelError(f"{path}: the bundle cannot be read: {error}") from error


def chosen_engine(name: str | None = None) -> str:
    """The engine of that name, or the one that the environment asks for, or the default."""
    return name or os.environ.get(ENGINE_VARIABLE) or DEFAULT_ENGINE


def chosen_precision(name: str | None = None) -> str:
    """The precision of that name, or the one that the environment asks for, or the default. Raises ModelError."""
    precision = (os.environ.get(PRECISION_VARIABLE) or DEFAULT_PRECISION) if name is None else name
    if precision not in PRECISION_CHOICES:
        field = "precision" if precision == name else f"${PRECISION_VARIABLE}"
        raise ModelError(f"{field} is {precision!r}, it must be one of {', '.join(PRECISION_CHOICES)}")
    return precision


def precision_here(manifest: dict[str, Any], engine: str, precision: str, *, by_name: bool = False) -> str:
    """What a model decodes in on this machine. by_name: for this model alone, so that what it lacks is an error to come."""
    able = engine in INT8_ENGINES and any(name.endswith(".int8.onnx") for name in manifest.get(VARIANTS, {}))
    if precision == AUTO:  # never a variant of which is not known what it would clip
        return "int8" if able and RANGES in manifest and engine == DEFAULT_ENGINE and has_int8() else PRECISIONS[0]
    return precision if able or by_name else PRECISIONS[0]


def read_bundle(path: Path) -> dict[str, bytes]:
    """The files of a bundle's folder by name: the manifest and those that it names. Raises ModelError."""
    files = {MANIFEST: _manifest_bytes(path)}
    try:
        for name in files_of(parse_manifest(files[MANIFEST], str(path))):
            if name != Path(name).name:
                raise ModelError(f"{path}: {MANIFEST} names {name!r}, which is no file's name")
            files[name] = (path / name).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: the bundle cannot be read: {error}") from error
    return files


def model_of(header: Header, *, threads: int | None = None, precision: str | None = None, engine: str | None = None) -> Model:
    """The installed model that a file was made with, as load_model gives it. Raises ModelError that names it."""
    for path, manifest in installed_models().items():
        if manifest_id(manifest) == header.model_id:
            return load_model(path, threads=threads, precision=precision, engine=engine)
    raise ModelError(
        f"made with model {header.model_id.hex()} of family {header.family}, which is not installed: "
        f"give its folder with --model, or put it in a folder named by ${MODEL_PATH_VARIABLE}"
    )

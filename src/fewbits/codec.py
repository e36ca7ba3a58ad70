# SPDX-License-Identifier: MIT
"""encode, decode, inspect, and the models they use: bytes and pictures in and out; the only files it opens are bundles."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fewbits import container
from fewbits.container import Header, Limits
from fewbits.errors import CorruptError, ImageError, ModelError
from fewbits.image import to_image, to_mask, to_picture
from fewbits.picture import DEPTHS, Picture, dtype_of, filled
from fewbits.runtime.bundle import MANIFEST, Bundle, manifest_id, parse_bundle, parse_manifest
from fewbits.runtime.engines import Engine, onnxruntime_engine
from fewbits.runtime.factorized import FactorizedCodec, nearest_level
from fewbits.runtime.hyperprior import HyperpriorCodec, IndexedSymbols
from fewbits.runtime.masked import MaskedCodec
from fewbits.runtime.pipeline import Pipeline, Progress
from fewbits.sidecar import pack_sidecar, parse_alpha, parse_metadata

PIPELINES: dict[str, Callable[[Bundle, Engine], Pipeline]] = {
    "hyperprior": HyperpriorCodec,
    "factorized": FactorizedCodec,
    "masked": MaskedCodec,
}
TUNINGS: Final = {"visual": "few", "psnr": "few-psnr"}  # of the flagship: the models that ship for each
DEFAULT_TUNING: Final = "visual"
DEFAULT_MODEL: Final = TUNINGS[DEFAULT_TUNING]
DEFAULT_QUALITY = 60.0
MODEL_PATH_VARIABLE = "FEWBITS_MODELS"
NO_OTHER_LIMITS: Final = Limits()  # than the format's own
_SHIPPED = Path(__file__).parent / "weights"


def _silent(_: float) -> None:
    """Progress that nobody watches."""


@contextlib.contextmanager
def _enough_memory(width: int, height: int) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ImageError(f"a picture of {width}x{height} pixels needs more memory than there is") from error


class Model:
    """A bundle ready to encode and decode; keep it to use its networks again. Safe to share between threads."""

    def __init__(self, files: dict[str, bytes], where: str, engine: Engine | None = None) -> None:
        """files: a bundle's files by name. engine: what runs its networks, ONNX Runtime by default. Raises ModelError."""
        bundle = parse_bundle(files, where)
        kind = bundle.coding.get("kind")
        if kind not in PIPELINES or bundle.family not in container.FAMILY_IDS:
            raise ModelError(f"{where}: family {bundle.family} of kind {kind} is not one that this release runs")
        self.bundle = bundle
        self.pipeline: Pipeline = PIPELINES[kind](bundle, engine or onnxruntime_engine())

    def encode(self, image: Any, quality: float = DEFAULT_QUALITY, *, roi: Any = None, progress: Progress = _silent) -> bytes:
        """See fewbits.encode. progress is called with the fraction done, 0..1."""
        steps = quality_steps(quality)
        picture = to_picture(image)
        if roi is not None and not self.pipeline.takes_roi:
            raise ImageError(f"roi: a model of family {self.bundle.family} cannot favour a region; content-weighted can")
        mask = None if roi is None else to_mask(roi, picture.width, picture.height)
        level = self.pipeline.level(steps, picture.colour)
        with _enough_memory(picture.width, picture.height):
            symbols, sections = self.pipeline.quantize(self.pipeline.analyse(filled(picture), level, progress), level, mask)
        sections += pack_sidecar(picture.alpha, picture.metadata)
        header = Header(
            family=self.bundle.family,
            colour=picture.colour,
            model_id=self.bundle.model_id,
            width=picture.width,
            height=picture.height,
            quality_steps=steps,
            symbols_crc=symbols.crc(),
            sections=tuple((kind, len(stream)) for kind, stream in sections),
            depth=picture.depth,
        )
        return container.pack(header, [stream for _, stream in sections])

    def decode(self, data: bytes, *, limits: Limits = NO_OTHER_LIMITS, progress: Progress = _silent) -> Image.Image:
        """See fewbits.decode."""
        return to_image(self.decode_picture(data, limits=limits, progress=progress))

    def decode_picture(
        self, data: bytes, *, depth: int = 8, limits: Limits = NO_OTHER_LIMITS, progress: Progress = _silent
    ) -> Picture:
        """Pixels, alpha and metadata of a file, at 8 or 16 bits a sample. Raises as fewbits.decode."""
        if depth not in DEPTHS:
            raise ImageError(f"depth is {depth}, it must be 8 or 16")
        parsed = container.parse(data)
        header, sections = parsed
        limits.check(header)
        others = [(kind, bytes(payload)) for kind, payload in sections if kind not in container.LATENT_SECTIONS]
        metadata = parse_metadata(others)
        _, y_hat = self._decode_latent(*parsed)
        level = self.pipeline.level(header.quality_steps, header.colour)
        with _enough_memory(header.width, header.height):
            alpha = parse_alpha(others, header.height, header.width, depth)
            pixels = self.pipeline.synthesise(y_hat, header.height, header.width, level, progress, dtype_of(depth))
        return Picture(pixels, header.colour, alpha, metadata)

    def symbols(self, data: bytes) -> Any:
        """The integer symbols that a file holds (the pipeline's own kind), checked. The same on every machine."""
        return self._decode_latent(*container.parse(data))[0]

    def estimated_bits(self, data: bytes) -> float:
        """The model's own estimate of the bits in a file's symbols: their ideal code length."""
        header, sections = container.parse(data)
        symbols, _ = self._decode_latent(header, sections)
        return self.pipeline.ideal_bits(symbols, self.pipeline.level(header.quality_steps, header.colour))

    def indexed_symbols(self, data: bytes) -> IndexedSymbols:
        """The coded latent symbols of a file, with the scale index that chose the table of each, where a hyperprior did."""
        if not isinstance(self.pipeline, HyperpriorCodec):
            raise ModelError(f"model {self.bundle.model_id.hex()}: its tables are chosen by no index")
        header, sections = container.parse(data)
        symbols, _ = self._decode_latent(header, sections)
        return self.pipeline.indexed(symbols, self.pipeline.level(header.quality_steps, header.colour))

    def _decode_latent(self, header: Header, sections: list[tuple[int, memoryview]]) -> tuple[Any, np.ndarray]:
        """The symbols and y_hat."""
        if header.model_id != self.bundle.model_id:
            raise ModelError(f"made with model {header.model_id.hex()}, not with this one, {self.bundle.model_id.hex()}")
        streams = [(kind, bytes(payload)) for kind, payload in sections if kind in container.LATENT_SECTIONS]
        level = self.pipeline.level(header.quality_steps, header.colour)
        with _enough_memory(header.width, header.height):
            symbols, y_hat = self.pipeline.decode_symbols(streams, header.height, header.width, level)
        if symbols.crc() != header.symbols_crc:
            raise CorruptError("the checksum of the decoded symbols does not match: the file is damaged")
        return symbols, y_hat


def quality_steps(quality: float) -> int:
    """0-100 -> hundredths. Raises ImageError outside."""
    if not isinstance(quality, Real) or not 0 <= quality <= 100:  # also catches NaN
        raise ImageError(f"quality is {quality}, it must be from 0 to 100")
    return round(quality * 100)


def encode(
    image: Any, quality: float = DEFAULT_QUALITY, *, tune: str | None = None, roi: Any = None, model: Model | None = None
) -> bytes:
    """A picture -> the bytes of a .few file.

    image: Pillow image, or array of uint8 or uint16, (h, w) or (h, w, 1 to 4): grey or RGB, then alpha where there is one. Alpha
    is kept exactly, and so are a Pillow image's colour profile, EXIF and XMP; EXIF's orientation is applied.
    quality: 0-100, continuous; higher is better and larger. roi: a mask of the upright picture's size, Pillow image or uint8
    array (h, w): white where detail is wanted; only models with an importance map take one. tune: "visual", the default, for
    structure as people see it, or "psnr"; or in its place model, from load_model.
    Raises ImageError on unsuitable pictures or options.
    """
    if tune is not None and model is not None:
        raise ImageError(f"tune is {tune!r} beside a model: give one of them")
    return (model or load_model(tuned_model(tune))).encode(image, quality, roi=roi)


def tuned_model(tune: str | None) -> str:
    """The name of the shipped model for a tuning, the default one where None. Raises ImageError."""
    name = TUNINGS.get(tune or DEFAULT_TUNING)
    if name is None:
        raise ImageError(f"tune is {tune!r}, it must be one of {', '.join(TUNINGS)}")
    return name


def decode(data: bytes, *, limits: Limits = NO_OTHER_LIMITS, model: Model | None = None) -> Image.Image:
    """The bytes of a .few file -> a Pillow image of mode RGB, RGBA, L or LA (numpy.asarray of it is uint8).

    Its `info` has what the file keeps of icc_profile, exif and xmp.

    limits: what the file may ask for at most, such as Limits(pixels=40_000_000) where it comes from strangers.
    model: where None, the file's own, among the shipped ones and those in the folders of $FEWBITS_MODELS.
    Raises FormatError on damaged bytes, ModelError where the model is not installed.
    """
    return (model or model_of(inspect(data))).decode(data, limits=limits)


def decode_array(data: bytes, *, depth: int = 8, limits: Limits = NO_OTHER_LIMITS, model: Model | None = None) -> np.ndarray:
    """The same as an array, (h, w), or (h, w, 2, 3 or 4): grey or RGB, then alpha; of uint8, or uint16 where `depth` is 16.

    The networks know more than 8 bits of any picture; of one that had 16, `inspect(data).depth` says so.
    """
    return (model or model_of(inspect(data))).decode_picture(data, depth=depth, limits=limits).array()


def inspect(data: bytes) -> Header:
    """The header of a .few file; loads no network and needs only the file's beginning. Raises FormatError."""
    return container.parse_header(data)


def installed_models() -> dict[str, dict[str, Any]]:
    """Bundle folder -> its manifest: the shipped ones, then those in $FEWBITS_MODELS; damaged ones are left out."""
    extra = [Path(part) for part in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if part]
    found = {}
    for root in [_SHIPPED, *extra]:
        for path in sorted(root.glob(f"*/{MANIFEST}")) + sorted(root.glob(MANIFEST)):
            with contextlib.suppress(OSError, ModelError):
                found[str(path.parent)] = parse_manifest(path.read_bytes(), str(path.parent))
    return found


def latent_width(manifest: dict[str, Any], header: Header) -> int | None:
    """Channels of the file's latent where its model has several widths; None where it has one, or is not installed."""
    levels = manifest.get("coding", {}).get("levels")
    if not levels or len({width for width, _ in levels}) == 1:
        return None
    return int(levels[nearest_level(header.quality_steps, len(levels))][0])


def load_model(name: str | Path = DEFAULT_MODEL, *, threads: int | None = None) -> Model:
    """A model by the name of a shipped bundle ("few") or the path of a bundle's folder. Raises ModelError.

    Cached: a folder that changes is not read again by the same process.

    threads: CPU threads for the networks, all cores where None.
    """
    path = Path(name)
    try:
        if isinstance(name, str) and name == path.name and (_SHIPPED / name / MANIFEST).exists():
            path = _SHIPPED / name  # a bare name; ./few is the caller's own folder
        found = path.is_dir()
    except OSError:  # a name that no file system takes
        found = False
    if not found:
        names = ", ".join(sorted(Path(found).name for found in installed_models())) or "none"
        raise ModelError(f"model {name} is neither a bundle's folder nor an installed model (installed: {names})")
    return _load(path.resolve(), threads)


@lru_cache(maxsize=4)
def _load(path: Path, threads: int | None) -> Model:
    return Model(read_bundle(path), str(path), onnxruntime_engine(threads))


def read_bundle(path: Path) -> dict[str, bytes]:
    """The files of a bundle's folder by name: the manifest and those that it names. Raises ModelError."""
    if not (path / MANIFEST).exists():
        raise ModelError(f"{path}: no {MANIFEST}: this is not a bundle")
    try:
        files = {MANIFEST: (path / MANIFEST).read_bytes()}
        for name in parse_manifest(files[MANIFEST], str(path))["files"]:
            if name != Path(name).name:
                raise ModelError(f"{path}: {MANIFEST} names {name!r}, which is no file's name")
            files[name] = (path / name).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: the bundle cannot be read: {error}") from error
    return files


def model_of(header: Header, *, threads: int | None = None) -> Model:
    """The installed model that a file was made with. Raises ModelError that names it."""
    for path, manifest in installed_models().items():
        if manifest_id(manifest) == header.model_id:
            return load_model(path, threads=threads)
    raise ModelError(
        f"made with model {header.model_id.hex()} of family {header.family}, which is not installed: "
        f"give its folder with --model, or put it in a folder named by ${MODEL_PATH_VARIABLE}"
    )

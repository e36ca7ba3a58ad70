# SPDX-License-Identifier: MIT
"""The codecs that can be measured: Pillow's, JPEG XL, and our own bundles (external.py has those by command).

Real bytes out, pixels back in: uint8 RGB (h, w, 3). Importing this needs numpy and Pillow only.
"""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import PIL
from PIL import AvifImagePlugin, Image, features

from fewbits import __version__
from fewbits.codec import PRECISION_VARIABLE, Model, chosen_engine, load_model
from fewbits.errors import FewbitsError
from fewbits.fidelity import psnr
from fewbits.runtime.manifest import PRECISIONS

LOWEST_QUALITY: Final = 1  # 0 has meant "not given" to Pillow's JPEG
HIGHEST_QUALITY: Final = 100
SEARCH_STEPS: Final = 12
USUAL_QUALITIES: Final = (10.0, 20.0, 35.0, 50.0, 65.0, 80.0, 90.0)


class Codec(Protocol):
    """What the harness needs of a codec. Instances travel to other processes, so they hold no open thing."""

    @property
    def name(self) -> str:
        """Of the table's column and of --codecs."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def settings(self) -> tuple[float, ...]:
        """Rising. Of no meaning from one codec to another; of a command each next one may give smaller files, as a quantizer's
        step does, of all others larger ones."""

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest setting there is."""

    @property
    def whole_settings(self) -> bool:
        """Whether only integers are settings."""

    @property
    def bounded(self) -> bool:
        """Whether settings outside the span are known to be wrong."""

    def identity(self) -> str:
        """Options and versions: everything but picture and setting that the bytes depend on."""

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes: ...

    def decode(self, data: bytes, threads: int = 1) -> np.ndarray: ...


@dataclass(frozen=True)
class PillowCodec:
    """One of Pillow's codecs; `format` is Pillow's name, `options` what save() gets besides the setting.

    With one thread AVIF writes the same bytes on every machine, and that is what rates are measured with; more threads
    make tiles, as Pillow has it by default, which costs about half a percent.
    """

    name: str
    label: str
    format: str
    feature: str  # Pillow's name of the library's version
    options: Mapping[str, Any]
    settings: tuple[float, ...]
    span: tuple[float, float] = (LOWEST_QUALITY, HIGHEST_QUALITY)
    bounded: bool = True

    @property
    def whole_settings(self) -> bool:
        return self.format != "JPEG2000"

    def identity(self) -> str:
        version = features.version(self.feature)
        return f"{self.format} {dict(sorted(self.options.items()))}, Pillow {PIL.__version__}, {self.feature} {version}"

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes:
        buffer = io.BytesIO()
        options: dict[str, Any] = {"quality": int(setting)}
        if self.format == "AVIF":
            options |= {"max_threads": threads, "autotiling": threads > 1}
        elif self.format == "JPEG2000":  # its setting is bits per pixel; Pillow takes how many times smaller than 24
            options = {"quality_layers": [24 / setting]}
        Image.fromarray(image).save(buffer, self.format, **options, **self.options)
        return buffer.getvalue()

    def decode(self, data: bytes, threads: int = 1) -> np.ndarray:
        AvifImagePlugin.DEFAULT_MAX_THREADS = threads  # Pillow's only way to say it
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))


@dataclass(frozen=True)
class JpegXl:
    """JPEG XL at effort 7, by libjxl in imagecodecs (the extra `jxl`). Settings are cjxl's qualities."""

    name: str = "jxl"
    label: str = "JPEG XL"
    settings: tuple[float, ...] = (5, 20, 40, 60, 75, 85, 92)
    span: tuple[float, float] = (1, 99)
    bounded: bool = True
    whole_settings: bool = False

    def identity(self) -> str:
        codecs = self._library()
        return f"effort 7, {codecs.jpegxl_version()}, imagecodecs {codecs.__version__}"

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes:
        return bytes(self._library().jpegxl_encode(image, level=setting, effort=7, lossless=False, numthreads=threads))

    def decode(self, data: bytes, threads: int = 1) -> np.ndarray:
        return np.asarray(self._library().jpegxl_decode(data, numthreads=threads))

    @staticmethod
    def _library() -> Any:
        try:
            import imagecodecs
        except ImportError as error:
            raise FewbitsError(
                "--codecs jxl: JPEG XL needs imagecodecs: install the extra, pip install '.[jxl]' in a clone"
            ) from error
        return imagecodecs


@dataclass(frozen=True)
class BundleCodec:
    """A bundle of ours, shipped or at a path, at an effort. Settings are qualities, 0-100."""

    shown: str  # the model's name
    model: str  # as load_model takes it
    settings: tuple[float, ...] = (0, 12, 25, 40, 55, 70, 90)
    span: tuple[float, float] = (0, 100)
    bounded: bool = True
    whole_settings: bool = False
    effort: int = 0

    @property
    def name(self) -> str:
        return f"{self.shown}@{self.effort}" if self.effort else self.shown

    @property
    def label(self) -> str:
        label = "fewbits" if self.shown == "few" else f"fewbits {self.shown}"
        return f"{label}, effort {self.effort}" if self.effort else label

    def identity(self) -> str:
        model = self._loaded()
        zones = model.bundle.card.get("dead_zones")  # an encoder's choice, of which the id says nothing
        choice = f" with dead zones from {max(zones):g} to {min(zones):g}" if zones else ""
        choice += f" at effort {self.effort}" if self.effort else ""
        return f"model {model.bundle.model_id.hex()}{choice}, fewbits {__version__}, {model.precision} by {chosen_engine()}"

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes:
        return self._loaded(threads).encode(image, setting, effort=self.effort)

    def decode(self, data: bytes, threads: int = 1) -> np.ndarray:
        return np.asarray(self._loaded(threads).decode(data).convert("RGB"))

    def _loaded(self, threads: int = 1) -> Model:
        return load_model(self.model, threads=threads, precision=bench_precision())


def bench_precision() -> str | None:
    """As load_model takes it: float32 where $FEWBITS_PRECISION asks for nothing else. So a table is the same on every machine,
    and models with an int8 variant compare with those that have none."""
    return None if os.environ.get(PRECISION_VARIABLE) else PRECISIONS[0]


def _avif(name: str, label: str, speed: int, subsampling: str) -> PillowCodec:
    options = {"speed": speed, "subsampling": subsampling}
    return PillowCodec(name, label, "AVIF", "avif", options, (10, 20, 35, 50, 65, 75, 85))


JPEG: Final = PillowCodec("jpeg", "JPEG", "JPEG", "libjpeg_turbo", {"optimize": True}, USUAL_QUALITIES)
WEBP: Final = PillowCodec("webp", "WebP", "WEBP", "webp", {"method": 6}, (1, 10, 25, 45, 65, 80, 90))
AVIF: Final = _avif("avif", "AVIF", 6, "4:2:0")
PILLOW_CODECS: Final = {
    codec.name: codec
    for codec in (
        JPEG,
        PillowCodec(  # with the standard's Huffman tables, as published curves have it: a tenth larger
            "jpeg-default", "JPEG, default tables", "JPEG", "libjpeg_turbo", {}, USUAL_QUALITIES
        ),
        PillowCodec("jpeg-444", "JPEG 4:4:4", "JPEG", "libjpeg_turbo", {"optimize": True, "subsampling": 0}, USUAL_QUALITIES),
        PillowCodec(  # without its colour transform (mct) JPEG 2000 is beaten by JPEG
            "jpeg2000", "JPEG 2000", "JPEG2000", "jpg_2000", {"irreversible": True, "mct": 1, "quality_mode": "rates"},
            (0.125, 0.25, 0.4, 0.6, 0.9, 1.3, 2.0), (0.02, 8.0),
        ),
        WEBP,
        PillowCodec("webp-default", "WebP, method 4", "WEBP", "webp", {}, WEBP.settings),
        AVIF,
        _avif("avif-444", "AVIF 4:4:4", 6, "4:4:4"),
        _avif("avif-s2", "AVIF speed 2", 2, "4:2:0"),
        _avif("avif-444-s2", "AVIF 4:4:4 speed 2", 2, "4:4:4"),
    )
}  # fmt: skip


def find_codec(name: str) -> Codec:
    """One of Pillow's, `jxl`, or a model by its name or its bundle's folder, at an effort where @ and one follow. Raises
    FewbitsError."""
    if name in PILLOW_CODECS:
        return PILLOW_CODECS[name]
    if name == "jxl":
        return JpegXl()
    path, _, effort = name.rpartition("@")
    if not path or not (effort.isascii() and effort.isdecimal()):
        path, effort = name, "0"
    try:
        load_model(path, threads=1, precision=bench_precision()).check_effort(int(effort))
    except FewbitsError as error:
        known = ", ".join([*PILLOW_CODECS, "jxl"])
        raise FewbitsError(f"--codecs {name}: neither a codec ({known}) nor a model: {error}") from error
    shown = Path(path).resolve().name if os.sep in path or path in (".", "..") else path
    return BundleCodec(shown, path, effort=int(effort))


def with_settings(codec: Any, settings: Sequence[float]) -> Any:
    """The codec at other settings, rising. Raises FewbitsError where it does not take them."""
    if codec.whole_settings and any(setting != int(setting) for setting in settings):
        raise FewbitsError(f"--qualities {codec.name}: {settings}, it takes integers only")
    low, high = codec.span
    if bad := [setting for setting in settings if codec.bounded and not low <= setting <= high]:
        raise FewbitsError(f"--qualities {codec.name}: {bad[0]:g}, it must be {low:g} to {high:g}")
    return replace(codec, settings=tuple(sorted(set(map(float, settings)))))


def nearest_psnr(codec: Codec, image: np.ndarray, target_db: float, threads: int = 1) -> tuple[int, bytes]:
    """The integer quality whose RGB PSNR is nearest to `target_db`, and its file."""
    scores: dict[int, tuple[float, bytes]] = {}

    def under(quality: int) -> bool:
        data = codec.encode(image, quality, threads)
        scores[quality] = psnr(image, codec.decode(data, threads)), data
        return scores[quality][0] < target_db

    last = _last_quality(under)
    best = min(scores.keys() & {last, last + 1}, key=lambda quality: abs(scores[quality][0] - target_db))
    return best, scores[best][1]


def nearest_size(codec: Codec, image: np.ndarray, limit_bytes: int, threads: int = 1) -> tuple[float, bytes] | None:
    """The best setting whose file is not larger than `limit_bytes`, and that file; None where there is none.

    Exactly so where settings are integers; otherwise the best of a few tries, as a rule within 1 % of the limit. The best is the
    highest, but of commands the lowest where settings fall with the size of files.
    """
    files: dict[float, bytes] = {}
    smallest, largest = codec.span

    def excess(setting: float) -> float:
        if setting not in files:  # the ends are asked for more than once, and a command may take minutes
            files[setting] = codec.encode(image, setting, threads)
        return math.log(len(files[setting]) / limit_bytes)

    if not codec.bounded and excess(smallest) > excess(largest):
        smallest, largest = largest, smallest
    sign = 1 if smallest <= largest else -1
    if codec.whole_settings:
        n_settings = round(abs(largest - smallest)) + 1
        _last_quality(lambda number: excess(smallest + sign * (number - 1)) <= 0, n_settings)
    elif excess(smallest) <= 0 < excess(largest):
        from scipy.optimize import brentq

        brentq(excess, *codec.span, xtol=1e-3, rtol=1e-3, maxiter=SEARCH_STEPS, disp=False)
    fitting = [setting for setting, data in files.items() if len(data) <= limit_bytes]
    best = max(fitting, key=lambda setting: sign * setting, default=None)
    return None if best is None else (best, files[best])


def _last_quality(holds: Callable[[int], bool], highest: int = HIGHEST_QUALITY) -> int:
    """By bisection, the last quality for which `holds`, which ends somewhere and does not begin again; 0 where there is none.

    It has been asked of the quality returned and of the next one, as far as they are qualities.
    """
    low, high = LOWEST_QUALITY - 1, highest + 1
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low

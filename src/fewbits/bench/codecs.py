# SPDX-License-Identifier: MIT
"""The codecs that can be measured: Pillow's, JPEG XL, our own bundles, and any pair of commands.

Real bytes out, pixels back in: uint8 RGB (h, w, 3). Importing this needs numpy and Pillow only.
"""

import io
import math
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import PIL
from PIL import AvifImagePlugin, Image, features

from fewbits import __version__
from fewbits.bench.metrics import psnr
from fewbits.codec import load_model
from fewbits.errors import FewbitsError, ImageError

LOWEST_QUALITY: Final = 1  # 0 has meant "not given" to Pillow's JPEG
HIGHEST_QUALITY: Final = 100
SEARCH_STEPS: Final = 12


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
        """Rising: each next one gives larger files. Of no meaning from one codec to another."""

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest setting there is."""

    @property
    def whole_settings(self) -> bool:
        """Whether only integers are settings."""

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
    """A bundle of ours, shipped or at a path. Settings are qualities, 0-100."""

    name: str
    model: str  # as load_model takes it
    settings: tuple[float, ...] = (0, 12, 25, 40, 55, 70, 90)
    span: tuple[float, float] = (0, 100)
    whole_settings: bool = False

    @property
    def label(self) -> str:
        return "fewbits" if self.name == "few" else f"fewbits {self.name}"

    def identity(self) -> str:
        return f"model {load_model(self.model, threads=1).bundle.model_id.hex()}, fewbits {__version__}"

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes:
        return load_model(self.model, threads=threads).encode(image, setting)

    def decode(self, data: bytes, threads: int = 1) -> np.ndarray:
        return np.asarray(load_model(self.model, threads=threads).decode(data).convert("RGB"))


@dataclass(frozen=True)
class CommandCodec:
    """An external encoder and decoder: words of two commands, in which {in}, {out} and {q} are replaced; no shell is run.

    {in} and {out} are PNG files on the pixels' side, and a file without extension on the other; {in.ppm} or {out.bin} ask
    for another extension. `peak_bytes` is the most memory that the last commands took.
    """

    name: str
    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    settings: tuple[float, ...]
    whole_settings: bool = False
    peaks: list[int] = field(default_factory=list, compare=False, repr=False)

    @property
    def label(self) -> str:
        return self.name

    @property
    def span(self) -> tuple[float, float]:
        return self.settings[0], self.settings[-1]  # what it takes beyond is not known

    def identity(self) -> str:
        return f"enc {shlex.join(self.encoder)} ;; dec {shlex.join(self.decoder)}"

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes:
        with tempfile.TemporaryDirectory(prefix="fewbits-") as folder:
            source = Path(folder, "picture" + _extension(self.encoder, "in", ".png"))
            target = Path(folder, "coded" + _extension(self.encoder, "out", ""))
            Image.fromarray(image).save(source)
            self._run(self.encoder, source, target, setting)
            return target.read_bytes()

    def decode(self, data: bytes, threads: int = 1) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="fewbits-") as folder:
            source = Path(folder, "coded" + _extension(self.decoder, "in", _extension(self.encoder, "out", "")))
            target = Path(folder, "picture" + _extension(self.decoder, "out", ".png"))
            source.write_bytes(data)
            self._run(self.decoder, source, target, math.nan)
            with Image.open(target) as picture:
                return np.asarray(picture.convert("RGB"))

    def _run(self, words: Sequence[str], source: Path, target: Path, setting: float) -> None:
        values = {"in": str(source), "out": str(target), "q": f"{setting:g}"}
        command = [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in words]
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            except OSError as error:
                raise ImageError(f"{command[0]}: {error.strerror or error}") from error
            status, used = os.wait4(process.pid, 0)[1:]
            process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
            self.peaks.append(used.ru_maxrss * 1024)
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            raise ImageError(f"{command[0]} ended with {process.returncode}{': ' + lines[-1] if lines else ''}")
        if not target.exists():
            raise ImageError(f"{command[0]} wrote no {target.name}")


_PLACEHOLDER: Final = re.compile(r"\{(in|out|q)(\.\w+)?\}")
_QUALITIES: Final = (10.0, 20.0, 35.0, 50.0, 65.0, 80.0, 90.0)


def _extension(words: Sequence[str], placeholder: str, otherwise: str) -> str:
    found = (match[2] for word in words for match in _PLACEHOLDER.finditer(word) if match[1] == placeholder)
    return next((extension for extension in found if extension), otherwise)


def parse_command(text: str) -> CommandCodec:
    """'name: enc {in} {out} -q {q} ;; dec {in} {out}' -> a codec with qualities of 10-90. Raises FewbitsError."""
    name, colon, commands = text.partition(":")
    encoder, separator, decoder = commands.partition(";;")
    wanted = "it must be 'name: encoder {in} {out} {q} ;; decoder {in} {out}'"
    if not (colon and separator and re.fullmatch(r"[\w.+-]+", name.strip())):
        raise FewbitsError(f"--command {text!r}: {wanted}")
    try:
        parts = [tuple(shlex.split(part)) for part in (encoder, decoder)]
    except ValueError as error:
        raise FewbitsError(f"--command {text!r}: {error}") from error
    for part, placeholders in zip(parts, (("in", "out", "q"), ("in", "out")), strict=True):
        found = {match[1] for word in part for match in _PLACEHOLDER.finditer(word)}
        if missing := [name for name in placeholders if name not in found]:
            raise FewbitsError(f"--command {text!r}: no {{{missing[0]}}} in {' '.join(part)!r}: {wanted}")
    return CommandCodec(name.strip(), parts[0], parts[1], _QUALITIES)


def _avif(name: str, label: str, speed: int, subsampling: str) -> PillowCodec:
    options = {"speed": speed, "subsampling": subsampling}
    return PillowCodec(name, label, "AVIF", "avif", options, (10, 20, 35, 50, 65, 75, 85))


JPEG: Final = PillowCodec("jpeg", "JPEG", "JPEG", "libjpeg_turbo", {"optimize": True}, _QUALITIES)
WEBP: Final = PillowCodec("webp", "WebP", "WEBP", "webp", {"method": 6}, (1, 10, 25, 45, 65, 80, 90))
AVIF: Final = _avif("avif", "AVIF", 6, "4:2:0")
PILLOW_CODECS: Final = {
    codec.name: codec
    for codec in (
        JPEG,
        PillowCodec(  # with the standard's Huffman tables, as published curves have it: a tenth larger
            "jpeg-default", "JPEG, default tables", "JPEG", "libjpeg_turbo", {}, _QUALITIES
        ),
        PillowCodec("jpeg-444", "JPEG 4:4:4", "JPEG", "libjpeg_turbo", {"optimize": True, "subsampling": 0}, _QUALITIES),
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
    """One of Pillow's, `jxl`, or a model by its name or its bundle's folder. Raises FewbitsError."""
    if name in PILLOW_CODECS:
        return PILLOW_CODECS[name]
    if name == "jxl":
        return JpegXl()
    try:
        load_model(name, threads=1)
    except FewbitsError as error:
        known = ", ".join([*PILLOW_CODECS, "jxl"])
        raise FewbitsError(f"--codecs {name}: neither a codec ({known}) nor a model: {error}") from error
    return BundleCodec(Path(name).resolve().name if os.sep in name or name in (".", "..") else name, name)


def with_settings(codec: Any, settings: Sequence[float]) -> Any:
    """The codec at other settings, rising. Raises FewbitsError where it takes integers only."""
    if codec.whole_settings and any(setting != int(setting) for setting in settings):
        raise FewbitsError(f"--qualities {codec.name}: {settings}, it takes integers only")
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
    """The highest setting whose file is not larger than `limit_bytes`, and that file; None where there is none.

    Exactly so where settings are integers; otherwise the best of a few tries, as a rule within 1 % of the limit.
    """
    files: dict[float, bytes] = {}

    def excess(setting: float) -> float:
        files[setting] = codec.encode(image, setting, threads)
        return math.log(len(files[setting]) / limit_bytes)

    if codec.whole_settings:
        _last_quality(lambda quality: excess(quality) <= 0)
    elif excess(codec.span[0]) <= 0 < excess(codec.span[1]):
        from scipy.optimize import brentq

        brentq(excess, *codec.span, xtol=1e-3, rtol=1e-3, maxiter=SEARCH_STEPS, disp=False)
    fitting = [setting for setting, data in files.items() if len(data) <= limit_bytes]
    return (max(fitting), files[max(fitting)]) if fitting else None


def _last_quality(holds: Callable[[int], bool]) -> int:
    """By bisection, the last quality for which `holds`, which ends somewhere and does not begin again; 0 where there is none.

    It has been asked of the quality returned and of the next one, as far as they are qualities.
    """
    low, high = LOWEST_QUALITY - 1, HIGHEST_QUALITY + 1
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low

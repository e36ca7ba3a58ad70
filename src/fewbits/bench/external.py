# SPDX-License-Identifier: MIT
"""Any codec as a pair of commands, so that others can join the bench without a line of code here."""

import hashlib
import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from fewbits.bench.codecs import USUAL_QUALITIES
from fewbits.bench.memory import peak_bytes, rss_bytes
from fewbits.errors import FewbitsError, ImageError

_PLACEHOLDER: Final = re.compile(r"\{(in|out|q)(\.\w+)?\}")
TIME_LIMIT_S: Final = 3600.0
_FAR: Final = 1.05  # a peak that is no higher than so many times ours may be ours


class Used(NamedTuple):
    """What a command took: seconds from its start to its end, and the most memory in bytes, None where that is not known."""

    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class CommandCodec:
    """An external encoder and decoder: words of two commands, in which {in}, {out} and {q} are replaced; no shell is run.

    {in} and {out} are PNG files on the pixels' side, and a file without extension on the other; {in.ppm} or {out.bin} ask
    for another extension. A command that takes longer than `limit_s` seconds is ended. `used` collects what commands took.
    """

    name: str
    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    settings: tuple[float, ...]
    limit_s: float = TIME_LIMIT_S
    bounded: bool = False
    used: list[Used] = field(default_factory=list, compare=False, repr=False)

    @property
    def label(self) -> str:
        return self.name

    @property
    def span(self) -> tuple[float, float]:
        return self.settings[0], self.settings[-1]  # what it takes beyond is not known

    @property
    def whole_settings(self) -> bool:
        return all(setting == int(setting) for setting in self.settings)

    def identity(self) -> str:
        """The commands, and the content of every file that they name: a codec in development is not measured by its old self."""
        words = [*self.encoder, *self.decoder]
        paths = {word: Path(shutil.which(word) or word) for word in words}
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in paths.values() if path.is_file()]
        return f"enc {shlex.join(self.encoder)} ;; dec {shlex.join(self.decoder)}, files {' '.join(hashes) or 'none'}"

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes:
        with tempfile.TemporaryDirectory(prefix="fewbits-") as folder:
            source = Path(folder, "picture" + _extension(self.encoder, "in", ".png"))
            target = Path(folder, "coded" + _extension(self.encoder, "out", ""))
            Image.fromarray(image).save(source)
            self._run("encoder", self.encoder, source, target, setting)
            data = target.read_bytes()
        if not data:
            raise ImageError(f"the encoder {self.encoder[0]} wrote an empty file")
        return data

    def decode(self, data: bytes, threads: int = 1) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="fewbits-") as folder:
            source = Path(folder, "coded" + _extension(self.decoder, "in", _extension(self.encoder, "out", "")))
            target = Path(folder, "picture" + _extension(self.decoder, "out", ".png"))
            source.write_bytes(data)
            self._run("decoder", self.decoder, source, target, math.nan)
            try:
                with Image.open(target) as picture:
                    return np.asarray(picture.convert("RGB"))
            except UnidentifiedImageError as error:
                raise ImageError(f"what the decoder {self.decoder[0]} wrote is no picture ({target.name})") from error

    def _run(self, role: str, words: Sequence[str], source: Path, target: Path, setting: float) -> None:
        values = {"in": str(source), "out": str(target), "q": f"{setting:g}"}
        command = [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in words]
        late = threading.Event()
        with tempfile.TemporaryFile() as said:
            ours, begun = peak_bytes(), time.perf_counter()
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            except OSError as error:
                raise ImageError(f"the {role} {command[0]} cannot be run: {error.strerror or error}") from error

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self.limit_s, end)
            timer.start()
            try:
                status, resources = os.wait4(process.pid, 0)[1:]
            except BaseException:  # the bench is ended: so is the command
                process.kill()
                process.wait()
                raise
            finally:
                timer.cancel()
            seconds = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
            peak = rss_bytes(resources.ru_maxrss)  # on Linux it counts what we had when the command was started
            self.used.append(Used(seconds, peak if peak > _FAR * ours else None))
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if late.is_set():
            raise ImageError(f"the {role} {command[0]} took longer than {self.limit_s:g} seconds (--time-limit)")
        if process.returncode:
            raise ImageError(f"the {role} {command[0]} ended with {process.returncode}{': ' + lines[-1] if lines else ''}")
        if not target.exists():
            raise ImageError(f"the {role} {command[0]} wrote no {target.name}")


def _extension(words: Sequence[str], placeholder: str, otherwise: str) -> str:
    found = (match[2] for word in words for match in _PLACEHOLDER.finditer(word) if match[1] == placeholder)
    return next((extension for extension in found if extension), otherwise)


def parse_command(text: str, limit_s: float = TIME_LIMIT_S) -> CommandCodec:
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
    return CommandCodec(name.strip(), parts[0], parts[1], USUAL_QUALITIES, limit_s)

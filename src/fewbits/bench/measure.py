# SPDX-License-Identifier: MIT
"""The measuring itself: every picture by every codec at every setting, with real files; one row each.

Bytes and metrics are measured in parallel, each worker on one thread. Times and peak memory are measured afterwards, one
row at a time and each codec in a process of its own; codecs take turns picture by picture, so that whatever else the machine
does hits all alike. What fails gives a row that says why; the rest goes on.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from fewbits.bench import metrics
from fewbits.bench.codecs import Codec
from fewbits.bench.external import CommandCodec
from fewbits.bench.journal import Journal, key_of
from fewbits.bench.memory import peak_bytes, reset_peak
from fewbits.bench.pool import in_processes, one_at_a_time, why
from fewbits.bench.record import cpu_name
from fewbits.errors import FewbitsError, ImageError
from fewbits.picture import opaque_bytes
from fewbits.picturefile import read_picture

# what is taken for a picture in a folder
SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"}
)
TIMES: Final = ("encode_s", "decode_s", "peak_mb")
Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A file to measure: its name in tables, and the SHA-256 of its bytes."""

    name: str
    path: Path
    digest: str


@dataclass(frozen=True)
class Plan:
    """What to measure. jobs: processes for bytes and metrics. timing: also measure seconds and memory, with `threads` threads."""

    pictures: tuple[Picture, ...]
    codecs: tuple[Codec, ...]
    metrics: tuple[str, ...]
    jobs: int
    threads: int
    timing: bool = True


@dataclass(frozen=True)
class Cell:
    """One picture by one codec at one setting: a row of the table."""

    picture: Picture
    codec: Codec
    setting: float

    @property
    def id(self) -> tuple[str, str, float]:
        return self.picture.name, self.codec.name, self.setting


@dataclass(frozen=True)
class _Task:
    """A cell's work for another process: bytes and metrics, or, where no metrics are named, times and memory."""

    cell: Cell
    metrics: tuple[str, ...]
    threads: int


def find_pictures(
    roots: Sequence[Path], limit: int | None = None, leave_out: Callable[[Path], bool] | None = None
) -> tuple[Picture, ...]:
    """Pictures in folders (searched recursively, in the order of their names) or files. Raises ImageError.

    leave_out: of those in folders the ones that are none of the user's.
    """
    found: list[tuple[str, Path]] = []
    for root in roots:
        if root.is_dir():
            inside = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            if leave_out:
                inside = [path for path in inside if not leave_out(path)]
            found += [(path.relative_to(root).as_posix(), path) for path in inside]
        elif root.is_file():
            found.append((root.name, root))
        else:
            raise ImageError(f"{root}: no such file or folder")
    if not found:
        raise ImageError(f"{', '.join(map(str, roots))}: no pictures ({' '.join(sorted(SUFFIXES))})")
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ImageError(f"two pictures are called {twice[0]}: measure the folders one at a time")
    return tuple(Picture(name, path, _digest(path)) for name, path in found[:limit])


def _digest(path: Path) -> str:
    """SHA-256 of a file; of nothing where it cannot be read, which its row will say."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return hashlib.sha256().hexdigest()


@lru_cache(maxsize=2)
def pixels_of(path: Path) -> np.ndarray:
    """A picture as the codecs get it: upright, 8 bits, RGB (h, w, 3). Raises FewbitsError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path.name}: {error.strerror or error}") from error
    return opaque_bytes(read_picture(data, path.name), path.name)


def measure(plan: Plan, journal: Journal, show: bool | None = None) -> list[Row]:
    """One row for each picture, codec and setting, in that order; what `journal` holds is not measured again.

    A row has image, width, height, codec, setting, bytes, bpp, the metrics, encode_s, decode_s, peak_mb and error; what is
    not known is None. A picture that cannot be read has one row. show: a progress bar; None: where stderr is a terminal.
    """
    sizes, errors = _sizes(plan.pictures, journal)
    cells = [
        Cell(picture, codec, setting)
        for picture in plan.pictures
        if picture.name in sizes
        for codec in plan.codecs
        for setting in codec.settings
    ]
    identities = {codec.name: codec.identity() for codec in plan.codecs}
    coded, timed = {}, {}  # keys of the journal
    for cell in cells:
        parts = (cell.picture.digest, identities[cell.codec.name], cell.setting)
        coded[cell.id] = key_of("coded", *parts)
        timed[cell.id] = key_of("timed", *parts, cpu_name(), plan.threads)

    def collect(results: Iterable[tuple[_Task, dict[str, Any]]], keys: dict[tuple[str, str, float], str], when: str = "") -> None:
        for task, values in results:
            if "error" in values:
                errors[task.cell.id] = when + values["error"]
            else:
                journal.add(keys[task.cell.id], values)

    coding = [
        _Task(cell, missing or plan.metrics[:1], 1)
        for cell in cells
        if (missing := _missing(plan.metrics, journal.get(coded[cell.id]))) or "bytes" not in journal.get(coded[cell.id])
    ]
    collect(in_processes(_work, coding, plan.jobs, "coding", show), coded)
    if plan.timing:
        waiting = [cell for cell in _taking_turns(cells) if cell.id not in errors and not journal.get(timed[cell.id])]
        timing = [_Task(cell, (), plan.threads) for cell in waiting]
        collect(one_at_a_time(_work, timing, lambda task: task.cell.codec.name, "timing", show), timed, "while timed: ")

    rows = [_row(plan.metrics, image=name, error=error) for name, error in errors.items() if isinstance(name, str)]
    for cell in cells:
        width, height = sizes[cell.picture.name]
        row = _row(plan.metrics, image=cell.picture.name, width=width, height=height, codec=cell.codec.name, setting=cell.setting)
        row["error"] = errors.get(cell.id, "")
        if "bytes" in journal.get(coded[cell.id]):
            known, times = journal.get(coded[cell.id]), journal.get(timed[cell.id]) if plan.timing else {}
            row |= {name: known.get(name) for name in ("bytes", *metrics.columns(plan.metrics))}
            row["bpp"] = 8 * known["bytes"] / (width * height)
            row |= {name: times.get(name) for name in TIMES}
        rows.append(row)
    return rows


def column_names(names: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table with these metrics, in order."""
    return ("image", "width", "height", "codec", "setting", "bytes", "bpp", *metrics.columns(names), *TIMES, "error")


def _row(names: Sequence[str], **values: Any) -> Row:
    """A row of a table with these metrics, in which only `values` are known."""
    return dict.fromkeys(column_names(names)) | {"error": ""} | values


def _missing(names: Sequence[str], known: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in known)


def _sizes(pictures: Sequence[Picture], journal: Journal) -> tuple[dict[str, tuple[int, int]], dict[Any, str]]:
    """Width and height by a picture's name, and why by the name of those that cannot be read."""
    sizes, errors = {}, {}
    for picture in pictures:
        key = key_of("picture as codecs get it", picture.digest)
        if not journal.get(key):
            try:
                height, width = pixels_of(picture.path).shape[:2]
            except FewbitsError as error:
                errors[picture.name] = str(error)
                continue
            journal.add(key, {"width": width, "height": height})
        known = journal.get(key)
        sizes[picture.name] = known["width"], known["height"]
    return sizes, errors


def _taking_turns(cells: Sequence[Cell]) -> list[Cell]:
    """Picture by picture, and in each the codecs in turn, setting after setting."""
    places: dict[tuple[str, str], int] = {}
    turns = []
    for cell in cells:
        place = places[cell.picture.name, cell.codec.name] = places.get((cell.picture.name, cell.codec.name), -1) + 1
        turns.append(place)
    pictures = {picture: number for number, picture in enumerate(dict.fromkeys(cell.picture.name for cell in cells))}
    order = sorted(range(len(cells)), key=lambda k: (pictures[cells[k].picture.name], turns[k]))
    return [cells[k] for k in order]


def _work(task: _Task) -> dict[str, Any]:
    """In a worker: bytes and metrics, or seconds and memory, or why not."""
    try:
        pixels = pixels_of(task.cell.picture.path)
        return _code(task, pixels) if task.metrics else _time(task, pixels)
    except Exception as error:
        return {"error": why(error)}


def _code(task: _Task, pixels: np.ndarray) -> dict[str, Any]:
    """Encode into a file, ask the file system for its size, read it back, decode that and compare."""
    codec = task.cell.codec
    data = codec.encode(pixels, task.cell.setting)
    with tempfile.TemporaryDirectory(prefix="fewbits-") as folder:
        path = Path(folder, "coded")
        path.write_bytes(data)
        n_bytes = os.path.getsize(path)
        decoded = codec.decode(path.read_bytes())
    return {"bytes": n_bytes, **metrics.measure(task.metrics, pixels, same_size(decoded, pixels))}


def _time(task: _Task, pixels: np.ndarray) -> dict[str, Any]:
    """Seconds to encode and to decode, pixels to bytes and back, and the most memory that the process had.

    Of commands the seconds are those from start to end, without the files that are written and read for them here.
    """
    codec, setting, threads = task.cell.codec, task.cell.setting, task.threads
    _warm_up(codec, setting, threads)
    reset = reset_peak()
    begun = time.perf_counter()
    data = codec.encode(pixels, setting, threads)
    encoded = time.perf_counter()
    codec.decode(data, threads)
    ended = time.perf_counter()
    if isinstance(codec, CommandCodec):
        encoder, decoder = codec.used
        peaks = [used.peak_bytes for used in codec.used if used.peak_bytes is not None]
        peak_mb = max(peaks) / 1e6 if len(peaks) == 2 else None
        return {"encode_s": encoder.seconds, "decode_s": decoder.seconds, "peak_mb": peak_mb}
    return {"encode_s": encoded - begun, "decode_s": ended - encoded, "peak_mb": peak_bytes() / 1e6 if reset else None}


_warm: set[tuple[str, int]] = set()


def _warm_up(codec: Codec, setting: float, threads: int) -> None:
    """Load libraries and networks before the first time is taken; commands load theirs each time."""
    if isinstance(codec, CommandCodec):
        codec.used.clear()
    elif (codec.name, threads) not in _warm:
        codec.decode(codec.encode(np.zeros((64, 64, 3), np.uint8), setting, threads), threads)
        _warm.add((codec.name, threads))


def same_size(decoded: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """`decoded`, which must have the shape of `pixels`. Raises ImageError."""
    if decoded.shape != pixels.shape:
        sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (pixels, decoded)]
        raise ImageError(f"the picture has {sizes[0]} pixels, decoded it has {sizes[1]}")
    return decoded

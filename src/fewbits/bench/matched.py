# SPDX-License-Identifier: MIT
"""Pictures at an equal number of bytes, for the report's viewer: each codec at the highest setting that fits.

What is shown is what was decoded: pictures are kept without loss, as WebP files in a folder, and found there again.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewbits.bench import metrics
from fewbits.bench.codecs import Codec, nearest_size
from fewbits.bench.journal import Journal, key_of
from fewbits.bench.measure import Picture, pixels_of, same_size
from fewbits.bench.pool import in_processes, why
from fewbits.bench.report import Version, ViewerLevel, ViewerPicture
from fewbits.files import replacing


@dataclass(frozen=True)
class _Task:
    key: str
    picture: Picture
    codec: Codec
    limit_bytes: int
    metrics: tuple[str, ...]
    target: Path


def viewer_pictures(
    pictures: Sequence[Picture],
    sizes: Mapping[str, tuple[int, int]],
    codecs: Sequence[Codec],
    names: tuple[str, ...],
    levels_bpp: Sequence[float],
    folder: Path,
    journal: Journal,
    *,
    jobs: int,
    limit_bytes: int,
    show: bool | None = None,
) -> tuple[list[ViewerPicture], list[str]]:
    """Pictures for the viewer, in order, until their files are `limit_bytes` together; and notes on what is not among them.

    sizes: width and height by a picture's name. names: metrics to give with each version. levels_bpp: numbers of bytes to
    match, as bits per pixel.
    """
    folder.mkdir(exist_ok=True)
    identities = {codec.name: codec.identity() for codec in codecs}
    shown: list[ViewerPicture] = []
    failures: dict[str, list[str]] = {}
    spent = 0
    batch = max(1, 2 * jobs // len(codecs))  # pictures at a time, so that little is made in vain
    for start in range(0, len(pictures), batch):
        tasks = []
        for picture in pictures[start : start + batch]:
            for limit in _limits(sizes[picture.name], levels_bpp):
                for codec in codecs:
                    key = key_of("matched", picture.digest, identities[codec.name], codec.span, limit, names)
                    tasks.append(_Task(key, picture, codec, limit, names, folder / f"{key}.webp"))
        fresh = [task for task in tasks if "setting" not in journal.get(task.key) or not task.target.exists()]
        for task, values in in_processes(_match, fresh, jobs, f"viewer {start + 1}/{len(pictures)}", show):
            if "error" in values:
                failures.setdefault(task.codec.label, []).append(f"{task.picture.name}: {values['error']}")
            else:
                journal.add(task.key, values)
        for picture in pictures[start : start + batch]:
            own = [task for task in tasks if task.picture is picture and "setting" in journal.get(task.key)]
            one, size = _picture(picture, sizes[picture.name], own, levels_bpp, folder, journal)
            spent += size
            if spent > limit_bytes and shown:
                held = f"the viewer holds the first {len(shown)} of {len(pictures)} pictures"
                return shown, [*_folded(failures), f"{held}: more would exceed {limit_bytes / 1e6:g} MB (--viewer-mb)"]
            shown.append(one)
    return shown, _folded(failures)


def _folded(failures: Mapping[str, Sequence[str]]) -> list[str]:
    """One note for each codec that fails."""
    return [
        f"the viewer lacks {len(texts)} picture{'s' if len(texts) > 1 else ''} by {label}, the first: {texts[0]}"
        for label, texts in failures.items()
    ]


def _limits(size: tuple[int, int], levels_bpp: Sequence[float]) -> list[int]:
    width, height = size
    return [max(1, round(bpp * height * width / 8)) for bpp in levels_bpp]


def _picture(
    picture: Picture, size: tuple[int, int], tasks: Sequence[_Task], levels_bpp: Sequence[float], folder: Path, journal: Journal
) -> tuple[ViewerPicture, int]:
    """The picture with what was made of it, and the bytes of its files."""
    width, height = size
    original = folder / f"{picture.digest[:32]}.webp"
    if not original.exists():
        _keep(original, pixels_of(picture.path))
    n_bytes = original.stat().st_size
    levels = []
    for bpp, limit in zip(levels_bpp, _limits(size, levels_bpp), strict=True):
        versions = []
        for task in (task for task in tasks if task.limit_bytes == limit):
            known = journal.get(task.key)
            n_bytes += task.target.stat().st_size
            scores = {name: value for name in task.metrics if (value := metrics.on_axis(name, known[name])) is not None}
            own_bpp = 8 * known["bytes"] / (height * width)
            versions.append(Version(task.codec.name, known["setting"], known["bytes"], own_bpp, scores, _data_uri(task.target)))
        levels.append(ViewerLevel(bpp, limit, tuple(versions)))
    return ViewerPicture(picture.name, width, height, _data_uri(original), tuple(levels)), n_bytes


def _match(task: _Task) -> dict[str, Any]:
    """In a worker: find the setting, keep the decoded picture; why not where it fails."""
    try:
        pixels = pixels_of(task.picture.path)
        found = nearest_size(task.codec, pixels, task.limit_bytes)
        if found is None:
            return {"error": f"no setting gives a file of at most {task.limit_bytes} bytes"}
        setting, data = found
        decoded = same_size(task.codec.decode(data), pixels)
        _keep(task.target, decoded)
        return {"setting": setting, "bytes": len(data), **metrics.measure(task.metrics, pixels, decoded)}
    except Exception as error:
        return {"error": why(error)}


def _keep(path: Path, pixels: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, quality=50, method=3)  # effort: a third of a second a picture
    with replacing(path) as file:
        file.write(buffer.getvalue())


def _data_uri(path: Path) -> str:
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()

# SPDX-License-Identifier: MIT
"""Training pictures: a folder (searched recursively) or tar shards -> random crops as uint8 batches.

Pictures are decoded once and kept; where they do not fit `cache_bytes`, the pool is renewed picture by picture.
"""

import hashlib
import os
import queue
import tarfile
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from fewbits.errors import FewbitsError, TrainingError, about
from fewbits.picture import at_depth, filled
from fewbits.picturefile import read_picture

SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
DECODED_AHEAD = 8  # pictures, where they do not all fit the cache: a decoder takes longer than a GPU for a step


class TrainingWarning(UserWarning):
    """What somebody who trains should know. The commands print it as one line."""


@dataclass(frozen=True)
class Item:
    """One encoded picture: a whole file, or `size` bytes at `offset` of a tar."""

    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def find_pictures(roots: Sequence[Path], exclude: Sequence[str] = ()) -> list[Item]:
    """Every picture under the folders, in the tar files, and among the files given. Raises TrainingError on none.

    exclude: shell patterns; pictures whose file name matches one are left out.
    """

    def wanted(name: str) -> bool:
        name = PurePosixPath(name).name
        return Path(name).suffix.lower() in SUFFIXES and not any(fnmatch(name, pattern) for pattern in exclude)

    items: list[Item] = []
    for root in roots:
        if not root.exists():
            raise TrainingError(f"data: {root} does not exist")
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        for path in files:
            if path.suffix.lower() == ".tar":
                try:
                    with tarfile.open(path, "r:") as tar:  # uncompressed, so that members can be read in place
                        items += [Item(path, m.offset_data, m.size) for m in tar if m.isfile() and wanted(m.name)]
                except (OSError, tarfile.TarError) as error:
                    raise TrainingError(f"data: {path} is no uncompressed tar: {error}") from error
            elif wanted(path.name):
                items.append(Item(path))
    if not items:
        raise TrainingError(f"data: no pictures ({', '.join(sorted(SUFFIXES))}, .tar) in {', '.join(map(str, roots))}")
    return items


def digest(items: Sequence[Item]) -> str:
    """Tells lists of pictures apart by their names, sizes and order, wherever they lie."""
    rows = [(item.path.name, item.offset, item.size if item.size >= 0 else item.path.stat().st_size) for item in items]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def decode_rgb(item: Item) -> np.ndarray | None:
    """uint8 (h, w, 3), upright, the pixels that the codec would code; None (and a warning) where the file cannot be read."""
    name = str(item.path)
    try:
        with about(name):
            return at_depth(filled(read_picture(item.read(), name)), 8)
    except (OSError, FewbitsError) as error:
        warnings.warn(f"skipped {error}", TrainingWarning, stacklevel=2)
        return None


class PicturePool:
    """Decoded pictures, up to `cache_bytes`, drawn in proportion to the square root of their area."""

    def __init__(self, items: list[Item], cache_bytes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._order = [items[i] for i in rng.permutation(len(items))]
        self._pictures: list[np.ndarray] = []
        self._next = 0
        used = 0
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            waiting = iter(self._order)
            while used < cache_bytes and (batch := list(islice(waiting, 32))):
                self._next += len(batch)
                for picture in workers.map(decode_rgb, batch):
                    if picture is not None:
                        self._pictures.append(picture)
                        used += picture.nbytes
        if not self._pictures:
            raise TrainingError(f"data: none of {len(items)} pictures could be read")
        self.n_skipped = self._next - len(self._pictures)  # of those that were read at once
        self.complete = self._next >= len(self._order)
        self._ahead: deque[Future[np.ndarray | None]] = deque()  # the next pictures, being decoded
        self._workers = None if self.complete else ThreadPoolExecutor(min(DECODED_AHEAD, os.cpu_count() or 1))
        self._weigh()

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def n_known(self) -> int:
        """How many pictures there are to train on, as far as is known: those that wait for the cache may be damaged."""
        return len(self._pictures) if self.complete else len(self._order)

    def skip(self, n_pictures: int) -> None:
        """Before the first renewal: so many have been made by earlier calls of the run, so the next ones are others."""
        self._next += n_pictures

    def _weigh(self) -> None:
        weights = np.sqrt([picture.shape[0] * picture.shape[1] for picture in self._pictures])
        self._probabilities = weights / weights.sum()

    def renew(self, rng: np.random.Generator) -> None:
        """Replace one picture by the next one of the data set; those after it are decoded meanwhile. Only where not complete."""
        assert self._workers
        while len(self._ahead) < DECODED_AHEAD:
            self._ahead.append(self._workers.submit(decode_rgb, self._order[self._next % len(self._order)]))
            self._next += 1
        picture = self._ahead.popleft().result()
        if picture is not None:
            self._pictures[rng.integers(len(self._pictures))] = picture
            self._weigh()

    def crops(self, n_crops: int, size_px: int, rng: np.random.Generator, own: slice = slice(None)) -> np.ndarray:
        """uint8 (n_own, size, size, 3): random windows, half of them mirrored; small pictures are extended at their edges.

        own: which of the n_crops that are drawn are made; the others leave `rng` as if they were.
        """
        kept = range(n_crops)[own]
        out = np.empty((len(kept), size_px, size_px, 3), np.uint8)
        for k, which in enumerate(rng.choice(len(self._pictures), n_crops, p=self._probabilities)):
            crop = random_crop(self._pictures[which], size_px, rng)
            if k in kept:
                out[k - kept.start] = crop
        return out


def random_crop(picture: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (size, size, 3) out of (h, w, 3), mirrored half of the time."""
    short = [max(0, size_px - side) for side in picture.shape[:2]]
    if any(short):
        picture = np.pad(picture, ((0, short[0]), (0, short[1]), (0, 0)), mode="symmetric")
    top, left = (rng.integers(side - size_px + 1) for side in picture.shape[:2])
    crop = picture[top : top + size_px, left : left + size_px]
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (b, h, w, 3) -> float32 (b, 3, h, w) in 0..1, channels last in memory."""
    return torch.tensor(pixels, device=device).permute(0, 3, 1, 2).float().div_(255)


def batches(pool: PicturePool, n_crops: int, size_px: int, seed: int, own: slice = slice(None)) -> Iterator[np.ndarray]:
    """Endless crops (see PicturePool.crops), made ahead in a thread of their own."""
    ready: queue.Queue[np.ndarray | BaseException] = queue.Queue(maxsize=8)
    stop = threading.Event()

    def produce() -> None:
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                _put(pool.crops(n_crops, size_px, rng, own))
                if not pool.complete:
                    pool.renew(rng)
        except BaseException as error:
            _put(error)

    def _put(value: "np.ndarray | BaseException") -> None:
        while not stop.is_set():
            try:
                return ready.put(value, timeout=0.5)
            except queue.Full:
                continue

    threading.Thread(target=produce, daemon=True).start()
    try:
        while True:
            value = ready.get()
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        stop.set()

# SPDX-License-Identifier: MIT
"""The codecs that fewbits is compared with, as Pillow brings them: real bytes out, pixels back in. Needs numpy and Pillow."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from fewbits.bench.metrics import psnr

LOWEST_QUALITY: Final = 1  # 0 has meant "not given" to Pillow's JPEG
HIGHEST_QUALITY: Final = 100


@dataclass(frozen=True)
class Peer:
    """One of Pillow's codecs.

    name: also Pillow's own, in any case. options: what save() gets besides the quality. qualities: 1-100, rising, of no
    meaning from one codec to another; on photographs these span 0.12-1.6 bits per pixel and more.
    """

    name: str
    options: Mapping[str, Any]
    qualities: tuple[int, ...]

    def encode(self, image: np.ndarray, quality: int) -> bytes:
        """uint8 RGB (h, w, 3) -> the bytes of a file."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, self.name, quality=quality, **self.options)
        return buffer.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of a file -> uint8 RGB (h, w, 3)."""
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))


def avif(threads: int) -> Peer:
    """AVIF at speed 6, 4:2:0.

    Threads and the tiles made for them change its bytes by about half a percent. One thread and no tiles is what rates
    are measured with: slower, but the same bytes on every machine. With more threads it is as Pillow has it by default.
    """
    options = {"speed": 6, "max_threads": threads, "autotiling": threads > 1}
    return Peer("AVIF", options, (10, 20, 35, 50, 65, 75, 85))


JPEG: Final = Peer("JPEG", {"optimize": True}, (10, 20, 35, 50, 65, 80, 90))  # the anchor of Bjontegaard rates
WEBP: Final = Peer("WebP", {"method": 6}, (1, 10, 25, 45, 65, 80, 90))
AVIF: Final = avif(threads=1)
PEERS: Final = (JPEG, WEBP, AVIF)


def nearest_psnr(peer: Peer, image: np.ndarray, target_db: float) -> tuple[int, bytes]:
    """The quality whose RGB PSNR is nearest to `target_db`, and its file."""
    scores: dict[int, tuple[float, bytes]] = {}

    def under(quality: int) -> bool:
        data = peer.encode(image, quality)
        scores[quality] = psnr(image, peer.decode(data)), data
        return scores[quality][0] < target_db

    last = _last_quality(under)
    best = min(scores.keys() & {last, last + 1}, key=lambda quality: abs(scores[quality][0] - target_db))
    return best, scores[best][1]


def nearest_size(peer: Peer, image: np.ndarray, limit_bytes: int) -> tuple[int, bytes] | None:
    """The highest quality whose file is not larger than `limit_bytes`, and that file; None where there is none."""
    files: dict[int, bytes] = {}

    def fits(quality: int) -> bool:
        files[quality] = peer.encode(image, quality)
        return len(files[quality]) <= limit_bytes

    last = _last_quality(fits)
    return (last, files[last]) if last in files else None


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

# SPDX-License-Identifier: MIT
"""One photograph as .few, and as JPEG and AVIF of the same number of bytes, to look at side by side.

Needs fewbits' base dependencies, and a photograph of scikit-image's: pip install --no-deps scikit-image
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image

import fewbits
from fewbits.bench.codecs import AVIF, JPEG, LOWEST_QUALITY, nearest_size
from fewbits.fidelity import psnr

P = ParamSpec("P")
T = TypeVar("T")
PHOTOGRAPHS = ("coffee.png", "chelsea.png", "astronaut.png")
SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})  # of pictures in a folder


def photographs(names: tuple[str, ...] = PHOTOGRAPHS) -> list[Path]:
    """Those of the named photographs that come with scikit-image; it is found, never imported."""
    found = importlib.util.find_spec("skimage")
    folders = [Path(place, "data") for place in (found.submodule_search_locations or [])] if found else []
    paths = [path for folder in folders for name in names if (path := folder / name).exists()]
    if not paths:
        raise SystemExit(f"no {' or '.join(names)} found: pip install --no-deps scikit-image")
    return paths


def chosen(folder: Path | None) -> list[Path]:
    """The pictures of a folder that a user named, or photographs of scikit-image. Raises SystemExit where there are none."""
    if folder is None:
        return photographs((*PHOTOGRAPHS, "rocket.jpg"))
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no pictures ({', '.join(sorted(SUFFIXES))})")
    return paths


def timed(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """What call(*args, **kwargs) returns, and how many seconds it took."""
    start = time.perf_counter()
    result = call(*args, **kwargs)
    return result, time.perf_counter() - start


def verdict(met: bool) -> str:
    """On a bar, as every benchmark words it."""
    return "met" if met else "NOT MET"


def run(source: Path, out: Path, quality: float) -> None:
    """Write the five files into `out` and print the table."""
    with Image.open(source) as opened:
        photo = opened.convert("RGB")
    pixels = np.asarray(photo)
    out.mkdir(parents=True, exist_ok=True)
    photo.save(out / "photo.png")
    corner = pixels[:64, :64]
    fewbits.decode(fewbits.encode(corner, quality))  # loads the networks, which the times leave out

    print(f"{source.name}, {photo.width} x {photo.height} pixels\n")
    print(f"{'codec':16} {'bytes':>8} {'bpp':>7} {'PSNR dB':>8} {'encode ms':>10} {'decode ms':>10}")

    def row(name: str, data: bytes, decoded: np.ndarray, encode_s: float, decode_s: float) -> None:
        bpp = 8 * len(data) / (photo.width * photo.height)
        score = psnr(pixels, decoded)
        print(f"{name:16} {len(data):8} {bpp:7.3f} {score:8.2f} {1000 * encode_s:10.1f} {1000 * decode_s:10.1f}")

    data, encode_s = timed(fewbits.encode, photo, quality)
    (out / "photo.few").write_bytes(data)
    decoded, decode_s = timed(fewbits.decode, data)
    decoded.save(out / "photo.decoded.png")
    row(f"fewbits Q{quality:g}", data, np.asarray(decoded), encode_s, decode_s)

    notes = []
    threads = os.cpu_count() or 1
    for peer, name in ((JPEG, "photo.jpg"), (AVIF, "photo.avif")):
        found = nearest_size(peer, pixels, len(data), threads)
        chosen = found[0] if found else LOWEST_QUALITY
        if not found:
            notes.append(f"No quality of {peer.label}'s gives a file so small: this is its lowest.")
        peer.decode(peer.encode(corner, chosen, threads), threads)
        peer_data, encode_s = timed(peer.encode, pixels, chosen, threads)
        peer_pixels, decode_s = timed(peer.decode, peer_data, threads)
        (out / name).write_bytes(peer_data)
        row(f"{peer.label} Q{chosen:g}", peer_data, peer_pixels, encode_s, decode_s)
    print("", *notes, sep="\n")
    print(f"Look at {out}/photo.png, the original, beside photo.decoded.png (fewbits), photo.jpg and photo.avif.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", type=float, default=30.0, help="fewbits' quality, 0 to 100 (default %(default)g)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="the folder to write (default %(default)s)")
    options = parser.parse_args()
    run(photographs()[0], options.out, options.quality)


if __name__ == "__main__":
    main()

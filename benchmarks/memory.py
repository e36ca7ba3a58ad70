# SPDX-License-Identifier: MIT
"""Peak resident memory of `fewbits encode` and `fewbits decode` as whole processes, and of a batch in one process.

    python benchmarks/memory.py [6 24 100] [--batch 20]

A picture of so many megapixels is made of scikit-image's photographs, mirrored, with noise. The batch encodes it again and again
in one process, at 2 megapixels: its memory must not grow. A line says where a bar is missed.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from demo import PHOTOGRAPHS, photographs, verdict
from PIL import Image

from fewbits import load_model
from fewbits.bench.memory import peak_bytes, rss_bytes

BARS: Final = ((24.0, 700_000_000), (math.inf, 1_200_000_000))  # bytes, up to so many megapixels
BATCH_MP: Final = 2.0
GROWTH: Final = 1.05  # of a batch's peak over that of its first pictures
BAND_ROWS: Final = 512  # of the noise


class Run(NamedTuple):
    """A command that ended well: its peak of resident memory, and seconds."""

    peak: int
    seconds: float


def made(megapixels: float) -> np.ndarray:
    """uint8 (height, width, 3), 3:2."""
    height = round(math.sqrt(megapixels * 1e6 / 1.5))
    width = round(1.5 * height)
    with Image.open(photographs(PHOTOGRAPHS)[0]) as picture:
        part = np.asarray(picture.convert("RGB"))
    mirrored = np.concatenate([part, part[::-1]])
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], axis=1)
    large = np.tile(mirrored, (-(-height // len(mirrored)), -(-width // mirrored.shape[1]), 1))[:height, :width]
    rng = np.random.default_rng(0)
    for top in range(0, height, BAND_ROWS):
        band = large[top : top + BAND_ROWS]
        band[:] = np.clip(band + rng.normal(0, 3, band.shape), 0, 255)
    return large


def save(megapixels: float, path: str) -> tuple[int, int]:
    """Its height and width."""
    pixels = made(megapixels)
    Image.fromarray(pixels).save(path, compress_level=1)
    return pixels.shape[0], pixels.shape[1]


def process(*arguments: str) -> Run:
    """`fewbits ARGUMENTS` in a process of its own."""
    begun = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "fewbits.cli", *arguments])
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"fewbits {' '.join(arguments)}: exit status {status}")
    return Run(rss_bytes(usage.ru_maxrss), time.monotonic() - begun)


def whole_processes(megapixels: float, folder: Path) -> None:
    """Prints a row."""
    png, few, back = (str(folder / name) for name in ("large.png", "large.few", "back.png"))
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn")
    ) as fresh:  # a child's peak counts what its parent has at the fork
        height, width = fresh.submit(save, megapixels, png).result()
    runs = process("encode", "-f", png, few), process("decode", "-f", few, back)
    figures = " ".join(f"{run.peak / 1e9:10.2f} GB {run.seconds:7.1f} s" for run in runs)
    bar = next(n_bytes for most, n_bytes in BARS if megapixels <= most)
    met = max(run.peak for run in runs) <= bar
    print(f"{f'{width} x {height}':14} {figures}   the bar is {bar / 1e9:g} GB: {verdict(met)}", flush=True)


def batch(n: int) -> None:
    """Prints the peak after a tenth of n encodes and decodes, and after all."""
    pixels, model = made(BATCH_MP), load_model()
    early = 0
    for k in range(n):
        model.decode(model.encode(pixels))
        if k < max(2, n // 10):
            early = peak_bytes()
    flat = peak_bytes() <= GROWTH * early
    print(
        f"\n{n} pictures of {BATCH_MP:g} megapixels in one process: {early / 1e9:.3f} GB, then {peak_bytes() / 1e9:.3f} GB",
        end="",
    )
    print(f"   {'flat' if flat else 'NOT FLAT'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=float, nargs="*", default=[6, 24, 100], metavar="MP", help="megapixels (default 6 24 100)")
    parser.add_argument("--batch", type=int, default=20, metavar="N", help="pictures of the batch, 0: none (default %(default)s)")
    options = parser.parse_args()
    print(f"{'pixels':14} {'encode':>13} {'':>9} {'decode':>13} {'':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            whole_processes(size, Path(folder))
    if options.batch:
        batch(options.batch)


if __name__ == "__main__":
    main()

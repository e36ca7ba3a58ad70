# SPDX-License-Identifier: MIT
"""MNIST's idx files as tars of PNG pictures, resized to a square: what `fewbits train --data` and `fewbits bench` take.

python benchmarks/mnist.py ../shared/data/mnist runs/mnist --train 20000 --test 200

writes runs/mnist/train.tar and the folder runs/mnist/test. The pictures are evenly spread over the files.
"""

import argparse
import gzip
import io
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def read_images(path: Path) -> np.ndarray:
    """uint8 (n, rows, columns) from an idx file, gzipped or not. Raises ValueError where it holds no pictures."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    magic, n_images, rows, columns = struct.unpack_from(">4I", data)
    if magic != 2051 or len(data) != 16 + n_images * rows * columns:
        raise ValueError(f"{path}: magic number {magic} and {len(data)} bytes, these are no pictures of MNIST")
    return np.frombuffer(data, np.uint8, offset=16).reshape(n_images, rows, columns)


def find(folder: Path, name: str) -> Path:
    """The file of that name, with or without .gz. Raises ValueError."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise ValueError(f"{folder}: no {name} or {name}.gz")
    return found[0]


def as_png(digit: np.ndarray, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def chosen(n_images: int, n_wanted: int) -> np.ndarray:
    """Evenly spread numbers of n_wanted of n_images pictures."""
    return np.arange(n_wanted) * n_images // n_wanted


def write(folder: Path, out: Path, n_train: int, n_test: int, side: int) -> None:
    digits = read_images(find(folder, "train-images-idx3-ubyte"))
    out.mkdir(parents=True, exist_ok=True)
    part = out / "train.tar.part"
    with tarfile.open(part, "w") as tar:
        for number in chosen(len(digits), n_train):
            data = as_png(digits[number], side)
            info = tarfile.TarInfo(f"train-{number:05}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    part.replace(out / "train.tar")
    digits = read_images(find(folder, "t10k-images-idx3-ubyte"))
    (out / "test").mkdir(exist_ok=True)
    for number in chosen(len(digits), n_test):
        (out / "test" / f"test-{number:05}.png").write_bytes(as_png(digits[number], side))
    print(f"{out}: {n_train} pictures of {side}x{side} to train, {n_test} to test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path, help="folder with the four idx files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=20000)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args()
    try:
        write(options.mnist, options.out, options.train, options.test, options.side)
    except (OSError, ValueError, struct.error) as error:
        sys.exit(f"mnist: {error}")


if __name__ == "__main__":
    main()

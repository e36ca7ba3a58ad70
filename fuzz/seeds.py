# SPDX-License-Identifier: MIT
"""python fuzz/seeds.py FOLDER: good inputs of every target, FOLDER/TARGET/*, for a fuzzer to begin with."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from targets import PASSES, model, tables

from fewbits.coding.adaptive import encode_maps
from fewbits.coding.falling import encode_falling
from fewbits.coding.huffman import encode_huffman
from fewbits.coding.streams import encode_planes, encode_signed
from fewbits.picture import Metadata
from fewbits.runtime import passes
from fewbits.runtime.bundle import pack_bundle
from fewbits.runtime.places import Roi, pack_places
from fewbits.sidecar import pack_sidecar


def seeds() -> Iterator[tuple[str, bytes]]:
    """Pairs of a target and an input."""
    rng = np.random.default_rng(0)
    passes.SHARES = ((0, (0.1, 0.4)),)  # small files have none
    for name in ("klt", "few", PASSES):
        for data in files(name, rng):
            yield name, data
            if name == "klt":
                yield "header", data
    alphas = [np.full((3, 2), 9, np.uint8), rng.integers(0, 256, (3, 2), np.uint8), rng.integers(0, 65536, (3, 2), np.uint16)]
    for alpha in alphas:
        for _, content in pack_sidecar(alpha, Metadata()):
            yield "sidecar", bytes([0, 2 + 16 * 1]) + content[:-4]
    for k, (_, content) in enumerate(pack_sidecar(None, Metadata(bytes(300), b"MM\0*" + bytes(9), b"<x/>" * 40)), 1):
        yield "sidecar", bytes([k, 0]) + content[:-4]
    for drop in (1, 30, 100):
        places = Roi(rng.random((3, 3), np.float32), drop * 100).at(6000)
        assert places is not None
        yield "qualities", bytes([2, 2]) + pack_places(places)[:-4]
    count = 40
    rows = np.random.default_rng(5).integers(0, len(tables()), count).astype(np.uint8)
    yield (
        "streams",
        struct.pack("<HBB", count, 5, 0) + encode_signed(rng.integers(-30, 31, count).astype(np.int16), rows, tables()),
    )
    planes = rng.integers(0, 4, (len(tables()), count))
    yield "streams", struct.pack("<HBB", count, 5, 1) + encode_planes(planes, [table.table for table in tables()])
    values = rng.integers(-30, 31, count).astype(np.int16)
    first, second = encode_falling(values, rows, tables(), [range(2, len(tables())), range(2)])
    yield "falling", struct.pack("<HBB", count, 5, len(first) // 4) + first + second
    for spread in (0.3, 3.0, 3000.0):
        maps = np.rint(rng.normal(0, spread, (3, 7, 9))).astype(np.int32)
        yield "adaptive", bytes([3, 7, 9, 0]) + encode_maps(maps)
    groups = [rng.integers(0, n, size) for n, size in ((2, 20), (16, 30), (64, 0))]
    yield "huffman", bytes([20, 30, 0, 0]) + encode_huffman(groups, [2, 16, 64])
    yield "huffman", bytes([9, 0, 200, 0]) + encode_huffman([np.zeros(9, int), groups[2], rng.integers(0, 64, 200)], [2, 16, 64])
    yield "manifest", pack_bundle("klt", {"kind": "factorized"}, {}, {"tables.npz": b"0"})["manifest.json"]


def files(name: str, rng: np.random.Generator) -> Iterator[bytes]:
    """Small .few files: one pixel, odd sizes, grey, both ends of the quality, two strips, alpha, metadata."""
    for height, width, channels, quality in ((1, 1, 3, 60), (9, 17, 3, 0), (24, 33, 4, 50), (20, 12, 2, 100)):
        yield model(name).encode(rng.integers(0, 256, (height, width, channels), np.uint8), quality)
    strips = 33 * (8 if name == "klt" else 16)
    yield model(name).encode(np.repeat(rng.integers(0, 256, (strips // 4 + 1, 1, 3), np.uint8), 4, 0), 5)
    if name == "few" and model(name).pipeline.takes_places:
        mask = np.zeros((70, 140), np.uint8)
        mask[:, 70:] = 255
        yield model(name).encode(np.full((70, 140, 3), 90, np.uint8), 20, roi=mask, roi_drop=10)
    picture = Image.fromarray(np.full((5, 6, 4), 77, np.uint8))
    picture.info |= {"icc_profile": bytes(90), "xmp": b"<x/>"}
    yield model(name).encode(picture, 20)


if __name__ == "__main__":
    for number, (target, data) in enumerate(seeds()):
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seed-{number:02}").write_bytes(data)

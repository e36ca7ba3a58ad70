# SPDX-License-Identifier: MIT
"""The adaptive coder on the latents of the shipped models without a hyperprior: bytes against order-0 entropy, and speed.

Order-0 entropy is that of each channel of each picture by itself, its counts given away for nothing. Speed is in binary decisions
a second, on one core, in one run; plain Python is what runs without the extra `fast`.
"""

import argparse
import builtins
import importlib
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from fewbits import FewbitsError, load_model
from fewbits.bench.measure import find_pictures, pixels_of
from fewbits.coding import adaptive, adaptive_loop

QUALITIES: Final = (20.0, 40.0, 60.0, 80.0)
PLAIN_VALUES: Final = 20_000  # plain Python is timed on so many


def entropy_bytes(maps: np.ndarray) -> float:
    """Sum over maps of the entropy of their counts, times their size."""
    bits = 0.0
    for plane in maps:
        counts = np.unique(plane, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / plane.size)).sum())
    return bits / 8


def plain_loop() -> Any:
    """adaptive_loop as it is without numba."""
    importing, compiled = builtins.__import__, sys.modules.pop(adaptive_loop.__name__)

    def refused(module: str, *rest: Any, **named: Any) -> Any:
        if module == "numba":
            raise ImportError
        return importing(module, *rest, **named)

    builtins.__import__ = refused  # type: ignore[assignment]
    try:
        return importlib.import_module(adaptive_loop.__name__)
    finally:
        builtins.__import__ = importing
        sys.modules[adaptive_loop.__name__] = compiled


def speed(maps: np.ndarray) -> tuple[float, float]:
    """Millions of decisions a second, encoding and decoding; the second of two runs."""
    count = adaptive.decisions(maps) / 1e6
    for _ in range(2):
        begun = time.perf_counter()
        data = adaptive.encode_maps(maps)
        encoded = time.perf_counter()
        adaptive.decode_maps(data, maps.shape)
        decoded = time.perf_counter()
    return count / (encoded - begun), count / (decoded - encoded)


def run(options: argparse.Namespace) -> None:
    pictures = find_pictures([options.images], options.limit)
    print(f"{len(pictures)} pictures; bytes of all latents, against the order-0 entropy of each map\n")
    latents: list[np.ndarray] = []
    for name in options.models.split(","):
        model = load_model(name)
        for quality in QUALITIES:
            coded, ideal, entropy = 0, 0.0, 0.0
            for picture in pictures:
                maps = model.symbols(model.encode(pixels_of(picture.path), quality)).latent
                coded += len(adaptive.encode_maps(maps))
                ideal += adaptive.ideal_bits(maps) / 8
                entropy += entropy_bytes(maps)
            latents.append(maps)
            excess = 100 * (coded / ideal - 1)
            print(f"{name:10} quality {quality:3g}  {coded:9} bytes, {excess:+.2f} % of the adaptive model's ideal; "
                  f"order-0 {entropy:11.0f}, {100 * (coded / entropy - 1):+.1f} %")  # fmt: skip
    print(f"\nnumba {'compiles the loop' if adaptive.is_compiled() else 'is not installed'}")
    largest = max(latents, key=lambda maps: maps.size)
    encoding, decoding = speed(largest)
    print(f"{adaptive.decisions(largest) / 1e6:.1f} million decisions: encoding {encoding:.1f} M/s, decoding {decoding:.1f} M/s")
    if adaptive.is_compiled():
        plain = plain_loop()
        adaptive._loop = lambda: plain
        encoding, decoding = speed(largest[: max(1, PLAIN_VALUES // largest[0].size)])
        print(f"plain Python: encoding {encoding:.2f} M/s, decoding {decoding:.2f} M/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of pictures")
    parser.add_argument("--models", default="slimcae,klt,cae-pca", help="names or folders of bundles (default %(default)s)")
    parser.add_argument("--limit", type=int, help="take only the first N pictures")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

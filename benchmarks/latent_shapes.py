# SPDX-License-Identifier: MIT
"""Which distribution fits a model's latent symbols: bytes under the frozen tables, the best fits of three shapes, and entropy.

Symbols of pictures at several qualities are counted by scale index. For each index the scale of a Gaussian, a Laplace and a
logistic distribution is fitted to the counts; the entropy of the counts themselves is the bound that no table can beat.
Needs the extra `bench`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import expit, ndtr

from fewbits import Model, load_model

QUALITIES: Final = (0, 25, 50, 75, 100)
LIMIT: Final = 255  # larger symbols count as this one
FLOOR: Final = 2.0**-24


def laplace(x: np.ndarray) -> np.ndarray:
    """Its cumulative distribution, for x <= 0."""
    return np.asarray(0.5 * np.exp(x))


SHAPES: Final[dict[str, Callable[[np.ndarray], Any]]] = {"Gaussian": ndtr, "Laplace": laplace, "logistic": expit}


def counts_by_index(model: Model, pictures: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Counts (64, LIMIT + 1) of the magnitudes of coded symbols by scale index, and their bits under the frozen tables."""
    counts, bits = np.zeros((64, LIMIT + 1), np.int64), 0.0
    for picture in pictures:
        for quality in QUALITIES:
            found = model.indexed_symbols(model.encode(picture, quality))
            np.add.at(counts, (found.indices, np.minimum(np.abs(found.values), LIMIT)), 1)
            bits += found.bits
    return counts, bits


def fitted_bits(counts: np.ndarray, cumulative: Callable[[np.ndarray], Any]) -> float:
    """Bits of magnitudes (LIMIT + 1) and their signs under the best scale of a shape, symmetric about 0."""
    edges = np.arange(LIMIT + 2) - 0.5

    def bits(log_scale: float) -> float:
        below = cumulative(-np.maximum(edges, 0) / np.exp(log_scale))  # mass beyond each edge, one side
        mass = below[:-1] - below[1:]  # of one sign; 0 has both
        mass[0] *= 2
        return float(-(counts * np.log2(np.maximum(mass, FLOOR))).sum())

    return float(minimize_scalar(bits, bounds=(-4, 6), method="bounded").fun)


def entropy_bits(counts: np.ndarray) -> float:
    """Bits of magnitudes and signs under their own frequencies."""
    share = counts / max(1, counts.sum())
    signs = counts[1:].sum()
    return float(-(counts * np.log2(np.maximum(share, FLOOR))).sum() + signs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of PNG pictures")
    parser.add_argument("--model", default="few", help="a model's name or a bundle's folder (default %(default)s)")
    parser.add_argument("--limit", type=int, default=12, help="at most so many pictures (default %(default)s)")
    options = parser.parse_args()
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(options.folder.glob("*.png"))[: options.limit]]
    if not pictures:
        parser.error(f"no PNG pictures in {options.folder}")
    counts, frozen = counts_by_index(load_model(options.model), pictures)
    used = [row for row in counts if row.sum()]
    bound = sum(map(entropy_bits, used))
    rows = {"frozen tables": frozen} | {name: sum(fitted_bits(row, shape) for row in used) for name, shape in SHAPES.items()}
    print(f"{len(pictures)} pictures, qualities {', '.join(map(str, QUALITIES))}: bytes of the latent symbols")
    for name, bits in (rows | {"entropy of the counts": bound}).items():
        print(f"{name:22} {bits / 8:12.0f} {100 * (bits / bound - 1):+6.2f} %")


if __name__ == "__main__":
    main()

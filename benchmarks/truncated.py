# SPDX-License-Identifier: MIT
"""What is there of a picture when its file was cut: PSNR after 10, 25, 50, 75 and 90 % of the bytes.

    python benchmarks/truncated.py PICTURE... [--quality 60] [--model few] [--out FOLDER]

Besides the pictures themselves a sheet of all of them, two side by side, is cut; it is of many strips. Beside the model with
its scale indices in falling order, and coarse strips first, the same networks in rising order without: what that order costs in
bytes and in processor time is in the same table. Needs fewbits' base dependencies.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from demo import PHOTOGRAPHS, photographs
from PIL import Image

from fewbits.codec import Model, read_bundle
from fewbits.errors import TruncatedError
from fewbits.fidelity import psnr
from fewbits.installed import installed_models
from fewbits.runtime.bundle import pack_bundle
from fewbits.runtime.engines import onnxruntime_engine
from fewbits.runtime.hyperprior import ORDERS
from fewbits.runtime.manifest import MANIFEST, parse_manifest

SHARES: Final = (0.10, 0.25, 0.50, 0.75, 0.90)
COLUMNS: Final = 2  # of the sheet


class Row(NamedTuple):
    """A file: its bytes, dB at each of SHARES and as a whole, and seconds of processor time."""

    order: str
    n_bytes: int
    scores: list[float]
    encode_s: float
    decode_s: float


def in_order(folder: str, order: str, threads: int) -> Model:
    """A bundle with its scale indices in that order; those that rise are of before runs of zeros."""
    files = read_bundle(Path(folder))
    manifest = parse_manifest(files.pop(MANIFEST), folder)
    coding = manifest["coding"] | {"order": order} | ({} if order == "falling" else {"runs_below": 0})
    packed = pack_bundle(manifest["family"], coding, manifest["card"], files)
    return Model(packed, folder, onnxruntime_engine(threads))


def sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of one size, COLUMNS side by side."""
    height, width = (min(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    pictures = [picture[:height, :width] for picture in pictures]
    rows = [np.concatenate(pictures[k : k + COLUMNS], axis=1) for k in range(0, len(pictures) - COLUMNS + 1, COLUMNS)]
    return np.concatenate(rows)


def measured(models: dict[str, Model], pixels: np.ndarray, quality: float, runs: int, out: Path | None) -> Iterator[Row]:
    """The orders take turns, so that whatever else the machine does hits all alike. out: where the decoded cuts go as PNGs."""
    files = {order: model.encode(pixels, quality) for order, model in models.items()}
    seconds: dict[str, list[tuple[float, float]]] = {order: [] for order in models}
    for _ in range(runs):
        for order, model in models.items():
            start = time.process_time()
            model.encode(pixels, quality)
            middle = time.process_time()
            model.decode(files[order])
            seconds[order].append((middle - start, time.process_time() - middle))
    for order, data in files.items():
        scores = []
        for share in (*SHARES, 1.0):
            try:
                decoded = models[order].decode(data[: round(share * len(data))], allow_truncated=True)
            except TruncatedError:  # in the hyper section
                scores.append(math.nan)
                continue
            scores.append(psnr(pixels, np.asarray(decoded)))
            if out:
                decoded.save(f"{out}-{order}-{round(100 * share)}.png")
        yield Row(order, len(data), scores, *(median(times) for times in zip(*seconds[order], strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path, help="default: scikit-image's photographs")
    parser.add_argument("--quality", type=float, nargs="*", default=[60.0])
    parser.add_argument("--model", default="few", help="an installed model of the kind hyperprior")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="of which the times are the medians")
    parser.add_argument("--out", type=Path, help="a folder for what the cut files decode to")
    options = parser.parse_args()
    [folder, *_] = [path for path in installed_models() if Path(path).name == options.model] or [options.model]
    models = {order: in_order(folder, order, options.threads) for order in ORDERS}
    pictures = {}
    for path in options.pictures or photographs(PHOTOGRAPHS):
        with Image.open(path) as opened:
            pictures[path.stem] = np.asarray(opened.convert("RGB"))
    if len(pictures) >= COLUMNS:
        pictures["sheet"] = sheet(list(pictures.values()))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)

    heads = [f"{share:.0%}" for share in (*SHARES, 1.0)]
    print(
        " ".join(
            [f"{'picture':20} {'pixels':>10} {'quality':>7} {'order':8} {'bytes':>8} {'more':>7}", *(f"{h:>6}" for h in heads)]
        ),
        end="",
    )
    print("  encode s  decode s")
    for name, pixels in pictures.items():
        for quality in options.quality:
            place = options.out / f"{name}-{quality:g}" if options.out else None
            rows = list(measured(models, pixels, quality, options.runs, place))
            for row in rows:
                size, more = f"{pixels.shape[1]}x{pixels.shape[0]}", row.n_bytes / rows[0].n_bytes - 1
                scores = " ".join(f"{score:6.2f}" for score in row.scores)
                print(f"{name[:20]:20} {size:>10} {quality:7g} {row.order:8} {row.n_bytes:8} {more:7.2%} {scores}", end="")
                print(f" {row.encode_s:9.3f} {row.decode_s:9.3f}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""How near targets of size and quality are met, and how long the search takes beside one plain encode of the same picture.

A plain encode, at the quality that the search found, and the search take turns on each picture; times are those of the process,
so that what else runs hardly counts, and medians, as is the ratio over pictures. Sizes: file over limit. Qualities: reached less
target; for SSIM also as -10 log10(1 - SSIM). The default photographs come with scikit-image; --large repeats the first by
mirroring it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
from demo import chosen
from PIL import Image

from fewbits import FewbitsError, Target, inspect, load_model
from fewbits.attempts import MEASURES
from fewbits.codec import Model

TARGETS: Final = (
    "bpp=0.3", "bpp=0.5", "bpp=1.0", "psnr=32", "psnr=36", "ssim=0.9", "ssim=0.95", "ssimulacra2=50", "ssimulacra2=70",
)  # fmt: skip


class Row(NamedTuple):
    """One target on one picture. near: file over limit, or what was reached less the target, on the metric's axis too."""

    near: float
    axis: float
    ratio: float
    missed: bool


def seconds(encode: Callable[[], bytes]) -> float:
    """Of the processor, all threads together."""
    start = time.process_time()
    encode()
    return time.process_time() - start


def measured(model: Model, pixels: np.ndarray, target: Target, repeat: int) -> Row | None:
    """None where the smallest file is too large."""
    warnings: list[str] = []
    try:
        data = model.encode(pixels, target=target, warn=warnings.append)
    except FewbitsError:
        return None
    quality = inspect(data).quality
    pairs = []
    for _ in range(repeat):
        plain_s = seconds(lambda: model.encode(pixels, quality))
        pairs.append((plain_s, seconds(lambda: model.encode(pixels, target=target, warn=warnings.append))))
    plain_s, search_s = (median(times) for times in zip(*pairs, strict=True))
    limit = target.limit_bytes(pixels.shape[0] * pixels.shape[1])
    if limit is not None:
        return Row(len(data) / limit, 0.0, search_s / plain_s, quality == 100 and len(data) < 0.97 * limit)
    measure, wanted = MEASURES[target.name], getattr(target, target.name)
    reached = measure.of(pixels, np.asarray(model.decode(data)))
    return Row(reached - wanted, measure.axis(reached) - measure.axis(wanted), search_s / plain_s, bool(warnings))


def pictures(options: argparse.Namespace) -> list[np.ndarray]:
    found = []
    for path in chosen(options.images)[: options.limit]:
        with Image.open(path) as picture:
            found.append(np.asarray(picture.convert("RGB")))
    if options.large:
        width, height = map(int, options.large.split("x"))
        missing = [(0, max(0, want - have)) for want, have in zip((height, width), found[0].shape[:2], strict=True)]
        found = [np.pad(found[0], (*missing, (0, 0)), mode="symmetric")[:height, :width]]
    return found


def run(options: argparse.Namespace) -> None:
    model = load_model(options.model, threads=options.threads, precision="fp32")
    photos = pictures(options)
    model.decode(model.encode(photos[0][:128, :128]))  # loads the networks, which the times leave out
    size = f"{photos[0].shape[1]}x{photos[0].shape[0]}"
    print(f"{options.model}, {len(photos)} pictures, the first of {size}, {options.threads} threads, {options.repeat} repeats\n")
    print(f"{'target':16} {'n':>3} {'missed':>7} {'least':>9} {'median':>9} {'most':>9} {'axis least':>11} {'axis most':>10} "
          f"{'ratio':>7} {'most':>6}")  # fmt: skip
    for text in options.targets.split(","):
        name, _, value = text.partition("=")
        given: dict[str, Any] = {name: value if name == "size" else float(value)}
        target = Target(**given)
        rows = [row for pixels in photos if (row := measured(model, pixels, target, options.repeat))]
        met = [row for row in rows if not row.missed]
        if not met:
            print(f"{text:16} {0:3} {len(photos):7}")
            continue
        near, axis = sorted(row.near for row in met), [row.axis for row in met]
        ratios = [row.ratio for row in rows]
        on_axis = f"{min(axis):11.4f} {max(axis):10.4f}" if name in MEASURES else f"{'':11} {'':10}"
        print(f"{text:16} {len(met):3} {len(photos) - len(met):7} {near[0]:9.4f} {median(near):9.4f} {near[-1]:9.4f} {on_axis} "
              f"{median(ratios):7.2f} {max(ratios):6.2f}", flush=True)  # fmt: skip
    print("\nmissed: out of reach at quality 100, or a size below the smallest possible.")
    print("ratio: time of the search over that of a plain encode, median and most over pictures.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="a folder of photographs (default: three of scikit-image's)")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="as NAME=VALUE,... (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the networks (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="times each is timed (default %(default)s)")
    parser.add_argument("--limit", type=int, default=24, help="take only the first N photographs (default %(default)s)")
    parser.add_argument("--large", metavar="WxH", help="one picture of this size, made of the first")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""What is asked of the flagship on lossless pictures: Bjontegaard rates, and two things that `fewbits bench` leaves open.

These are that bytes, PSNR and MS-SSIM rise with every step of quality on every picture, and that files exceed the model's own
estimate by no more than 1 % and 64 bytes. Measurements are kept in runs/rd, and not done twice. Needs the extra `bench`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from fewbits import FewbitsError, load_model
from fewbits.bench.codecs import AVIF, JPEG, WEBP, BundleCodec, Codec, find_codec
from fewbits.bench.journal import Journal
from fewbits.bench.measure import Picture, Plan, Row, find_pictures, measure, pixels_of
from fewbits.bench.metrics import METRICS
from fewbits.bench.plots import COLOURS, Style, plot
from fewbits.bench.summary import comparisons, mean_curves
from fewbits.processor import cores

QUALITIES: Final = tuple(map(float, range(0, 101, 10)))
BPP_RANGE: Final = (0.12, 1.6)
EXCESS_SHARE, EXCESS_BYTES = 0.01, 64
SCORED: Final = ("psnr", "ms_ssim")
FOLDER: Final = Path("runs/rd")


def not_rising(rows: Sequence[Row], codec: str, metric: str) -> list[str]:
    """Where a higher quality does not give both more bytes and a higher value of the metric."""
    found = []
    for low, high in pairwise(row for row in rows if row["codec"] == codec):
        if low["image"] == high["image"] and not (low["bytes"] < high["bytes"] and low[metric] < high[metric]):
            axis = METRICS[metric].axis
            sizes = f"{low['bytes']} -> {high['bytes']} bytes"
            scores = f"{axis(low[metric]):.3f} -> {axis(high[metric]):.3f} {METRICS[metric].unit}"
            found.append(f"{low['image']} Q{low['setting']:g} -> Q{high['setting']:g}: {sizes}, {scores}")
    return found


def largest_excess(codec: BundleCodec, pictures: Sequence[Picture]) -> tuple[float, float, str]:
    """Bytes over the model's estimate, bytes allowed, and where, of the file with the largest share of what is allowed."""
    model = load_model(codec.model)
    found = []
    for picture in pictures:
        for quality in codec.settings:
            data = model.encode(pixels_of(picture.path), quality)
            estimate = model.estimated_bits(data) / 8
            found.append((len(data) - estimate, EXCESS_SHARE * estimate + EXCESS_BYTES, f"{picture.name} Q{quality:g}"))
    return max(found, key=lambda entry: entry[0] / entry[1])


def run(options: argparse.Namespace) -> None:
    ours = find_codec(options.model)
    if not isinstance(ours, BundleCodec):
        raise SystemExit(f"--model {options.model}: this is no model of ours")
    ours = replace(ours, settings=QUALITIES)
    codecs: tuple[Codec, ...] = (ours, JPEG, WEBP, AVIF)
    pictures = find_pictures([options.images], options.limit)
    FOLDER.mkdir(parents=True, exist_ok=True)
    journal = Journal(FOLDER / "journal.jsonl")
    rows = measure(Plan(pictures, codecs, SCORED, jobs=options.jobs, threads=1, timing=False), journal)
    journal.close()
    if failed := [row for row in rows if row["error"]]:
        raise SystemExit(f"{len(failed)} rows failed, the first: {failed[0]['image']}: {failed[0]['error']}")
    curves = mean_curves(rows, [codec.name for codec in codecs], SCORED)
    labels = {codec.name: codec.label for codec in codecs}
    print(f"{len(pictures)} pictures, {ours.identity()}; {JPEG.identity()}\n")
    for metric in SCORED:
        unit = METRICS[metric].unit
        print(f"{METRICS[metric].label}: quality, bits per pixel, {unit}")
        for curve in (curve for curve in curves if curve.metric == metric):
            print(
                f"{labels[curve.codec]:8}",
                "  ".join(f"{setting:g}: {bpp:.4f} {value:.3f}" for setting, bpp, value in curve.points),
            )
        low, high = BPP_RANGE
        print(f"Bjontegaard rate, {METRICS[metric].label}, {low:g}-{high:g} bits per pixel:")
        for entry in comparisons([curve for curve in curves if curve.metric == metric], [JPEG.name, AVIF.name], BPP_RANGE):
            if entry.anchor == JPEG.name or entry.test == ours.name:
                value = entry.reason if entry.rate_percent is None else f"{entry.rate_percent:+6.1f} %"
                span = "" if entry.rate_percent is None else f"  ({entry.low:.2f} to {entry.high:.2f} {unit})"
                print(f"  {labels[entry.test] + ' against ' + labels[entry.anchor]:24} {value}{span}")
        print()
    for metric in SCORED:
        failures, label = not_rising(rows, ours.name, metric), METRICS[metric].label
        n_steps = len(pictures) * (len(QUALITIES) - 1)
        verdict = f"do not rise at {len(failures)} of {n_steps} steps:" if failures else "rise with every step on every picture"
        print(f"bytes and {label} {verdict}")
        for failure in failures:
            print(f"  {failure}")
    excess, allowed, where = largest_excess(ours, pictures)
    verdict = "within" if excess <= allowed else "OVER"
    bound = f"{allowed:.0f} bytes ({EXCESS_SHARE:.0%} + {EXCESS_BYTES} bytes)"
    print(f"largest excess over the model's estimate: {excess:.0f} bytes, {verdict} the {bound}: {where}")
    if options.plot:
        styles = {codec.name: Style(codec.label, COLOURS[k], False) for k, codec in enumerate(codecs)}
        title = f"{options.images.absolute().name}, {len(pictures)} pictures"
        plot(options.plot, [curve for curve in curves if curve.metric == "psnr"], styles, title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of lossless pictures")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=cores(), help="pictures at a time (default: the cores)")
    parser.add_argument("--limit", type=int, help="take only the first N pictures")
    parser.add_argument("--plot", type=Path, help="an .svg or .png to draw")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

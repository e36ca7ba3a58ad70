# SPDX-License-Identifier: MIT
"""Measure every family beside the others, and write the numbers, the plot and the pictures of docs/families.md.

Each model is measured with real files on photographs, with JPEG, JPEG 2000 and AVIF beside: curves, Bjontegaard rates, speeds,
and one picture by each at about the same number of bytes. Bytes and metrics are kept in runs/families and not measured again;
speeds are measured anew each time, so that they are of one run. The text outside the marked blocks is by hand; a model that the
page does not know yet gets a section at its end. Needs the extras `train` and `bench`.
"""

import argparse
import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fewbits import FewbitsError, load_model
from fewbits.bench.codecs import AVIF, JPEG, PILLOW_CODECS, BundleCodec, Codec, find_codec, nearest_size
from fewbits.bench.journal import Journal
from fewbits.bench.measure import Plan, Row, find_pictures, measure, pixels_of
from fewbits.bench.metrics import METRICS
from fewbits.bench.plots import COLOURS, Style, plot
from fewbits.bench.record import cpu_name
from fewbits.bench.summary import Comparison, CurveData, Speed, comparisons, mean_curves, speeds
from fewbits.bench.text import table, with_block
from fewbits.codec import read_bundle
from fewbits.families import FAMILIES
from fewbits.fidelity import psnr
from fewbits.installed import installed_models
from fewbits.processor import cores
from fewbits.training import export

ROOT: Final = Path(__file__).resolve().parents[1]
WORK: Final = ROOT / "runs" / "families"
PAGE, FOLDER = "families.md", "families"
MAIN: Final = "numbers"  # the block of all families together; each other one is called as its model
END: Final = "<!-- end of numbers -->"
OTHERS: Final[tuple[Codec, ...]] = (JPEG, PILLOW_CODECS["jpeg2000"], AVIF)
GREYS: Final = ("#9e9e9e", "#616161", "#212121")
SCORED: Final = ("psnr", "ms_ssim")
BPP_RANGE: Final = (0.12, 1.6)  # as docs/benchmarks.md
CROP_PX: Final = (384, 256)
SHOWN_BYTES: Final = 36_000  # of each picture on the page
SEARCH_STEPS: Final = 12
N_TIMED: Final = 8  # pictures


@dataclass(frozen=True)
class Shown:
    """A picture by one codec."""

    setting: float
    bpp: float
    psnr_db: float
    pixels: np.ndarray  # of the whole picture


def chosen(options: argparse.Namespace) -> list[BundleCodec]:
    """The models to measure, by the order of the table of families. Raises FewbitsError."""
    codecs, folders = [], {Path(folder).name: folder for folder in installed_models()}
    for name in options.model or folders:
        codec = find_codec(folders.get(name, name))
        if not isinstance(codec, BundleCodec):
            raise FewbitsError(f"--model {name}: this is no model of ours")
        codecs.append(codec)
    for entry in options.bundle:
        name, equals, path = entry.partition("=")
        if not equals:
            raise FewbitsError(f"--bundle {entry}: it must be NAME=PATH")
        codecs.append(BundleCodec(name, path))
    names = [codec.name for codec in [*codecs, *OTHERS]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FewbitsError(f"two are called {twice[0]}: give one of them another name by --bundle NAME=PATH")
    order = list(FAMILIES)
    return sorted(map(at_own_levels, codecs), key=lambda codec: order.index(load_model(codec.model).bundle.family))


def at_own_levels(codec: BundleCodec) -> BundleCodec:
    """At each level that the model has, where its levels are all that it can do and fewer than the usual settings."""
    coding = load_model(codec.model).bundle.coding
    n_levels = len(coding["levels"]) if coding["kind"] == "factorized" else len(codec.settings)
    if n_levels >= len(codec.settings):
        return codec
    steps = max(1, n_levels - 1)  # a single level is measured twice: a point that can be drawn
    return replace(codec, settings=tuple(100 * k / steps for k in range(steps + 1)))


def kmacs(name: str) -> tuple[float, float]:
    """Thousands of multiply-accumulates a pixel to encode and to decode, counted in the networks; at the widest width."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    networks = export.load_model(load_model(name).bundle).eval().networks()
    picture, sums = networks["analysis"][1]["x"], [0.0, 0.0]
    for part, (network, inputs) in networks.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = network(**inputs)
        seen = out if part == "synthesis" else picture  # the examples of the two may be of different sizes
        cost = counter.get_total_flops() / 2000 * min(3, seen.shape[1]) / seen.numel()
        sums[0] += 0 if "synthesis" in part else cost
        sums[1] += 0 if "analysis" in part else cost
    return sums[0], sums[1]


def bundle_mb(folder: str) -> float:
    """Size of a bundle's files."""
    return sum(map(len, read_bundle(Path(folder)).values())) / 1e6


def measured(codecs: Sequence[Codec], options: argparse.Namespace) -> list[Row]:
    """Bytes and metrics; what the journal holds is not measured again."""
    journal = Journal(WORK / "journal.jsonl")
    pictures = find_pictures([options.pictures], options.limit)
    rows = measure(Plan(pictures, tuple(codecs), SCORED, jobs=options.jobs, threads=1, timing=False), journal)
    journal.close()
    return checked(rows)


def timed(codecs: Sequence[Codec], curves: Sequence[CurveData], options: argparse.Namespace) -> dict[str, Speed]:
    """Speeds at the measured setting nearest to the wanted rate, codecs taking turns, all in this run."""
    points = {curve.codec: curve.points for curve in curves if curve.metric == SCORED[0]}
    at = [
        replace(codec, settings=(min(points[codec.name], key=lambda point: abs(math.log(point[1] / options.bpp)))[0],))  # type: ignore[type-var]
        for codec in codecs
    ]
    shutil.copy(WORK / "journal.jsonl", WORK / "times.jsonl")  # has bytes and metrics, and no times
    journal = Journal(WORK / "times.jsonl")
    pictures = find_pictures([options.pictures], min(options.limit or N_TIMED, N_TIMED))
    rows = measure(Plan(pictures, tuple(at), SCORED, jobs=options.jobs, threads=options.threads), journal)
    journal.close()
    return {speed.codec: speed for speed in speeds(checked(rows), [codec.name for codec in codecs], AVIF.name)}


def checked(rows: list[Row]) -> list[Row]:
    """The rows, none of which failed."""
    if failed := [row for row in rows if row["error"]]:
        first = failed[0]
        raise FewbitsError(f"{len(failed)} rows failed, the first: {first['codec']}, {first['image']}: {first['error']}")
    return rows


def nearest_rate(codec: Codec, pixels: np.ndarray, bpp: float) -> Shown:
    """The picture at the setting whose file is nearest to a rate, above or below."""
    files: dict[float, bytes] = {}
    wanted = bpp * pixels[..., 0].size / 8
    low, high = codec.span
    for _ in range(SEARCH_STEPS):
        setting = (low + high) / 2
        tried = round(setting) if codec.whole_settings else setting
        if tried not in files:
            files[tried] = codec.encode(pixels, tried)
        low, high = (setting, high) if len(files[tried]) < wanted else (low, setting)
    best = min(files, key=lambda setting: abs(math.log(len(files[setting]) / wanted)))
    decoded = codec.decode(files[best])
    return Shown(best, 8 * len(files[best]) / pixels[..., 0].size, psnr(pixels, decoded), decoded)


def keep(pixels: np.ndarray, corner: tuple[int, int], target: Path) -> None:
    """Write a crop for the page, as a JPEG without subsampling of at most SHOWN_BYTES."""
    (left, top), (width, height) = corner, CROP_PX
    crop = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    found = nearest_size(PILLOW_CODECS["jpeg-444"], crop, SHOWN_BYTES)
    if found is None:
        raise FewbitsError(f"{target.name}: no JPEG of at most {SHOWN_BYTES} bytes")
    target.write_bytes(found[1])


def picture_of(options: argparse.Namespace) -> tuple[str, np.ndarray]:
    """Name and pixels of the picture to show: one of the folder, or a file elsewhere. Raises ImageError."""
    inside = options.pictures / options.picture
    picture = find_pictures([inside if inside.is_file() else Path(options.picture)])[0]
    return picture.name, pixels_of(picture.path)


def said(shown: Shown) -> str:
    return f"quality {shown.setting:.4g}: {shown.bpp:.3f} bpp, {shown.psnr_db:.2f} dB"


def _or_last(entry: Comparison | None) -> float:
    return math.inf if entry is None or entry.rate_percent is None else entry.rate_percent


def percent(entry: Comparison | None) -> str:
    return "-" if entry is None or entry.rate_percent is None else f"{entry.rate_percent:+.1f} %"


def main_block(
    rows: Sequence[Row],
    codecs: Sequence[Codec],
    speed: Mapping[str, Speed],
    costs: Mapping[str, tuple[float, float]],
    rates: Mapping[tuple[str, str], Comparison],
    options: argparse.Namespace,
) -> str:
    """The plot, and the table of all families, smallest files first."""
    lines, order = [], []
    for codec in codecs:
        ours = isinstance(codec, BundleCodec)
        sizes = [f"{bundle_mb(codec.model):.2f}"] if isinstance(codec, BundleCodec) else [""]
        sizes += [f"{cost:.1f}" for cost in costs[codec.name]] if ours else ["", ""]
        known = speed[codec.name]
        times = ["-" if value is None else f"{value:.3g}" for value in (known.encode_mps, known.decode_mps)]
        own = [percent(rates.get((codec.name, metric))) if codec is not JPEG else "" for metric in SCORED]
        lines.append([f"`{codec.name}`" if ours else codec.label, *own, *sizes, *times])
        order.append(0.0 if codec is JPEG else _or_last(rates.get((codec.name, SCORED[0]))))
    lines = [lines[k] for k in np.argsort(order, kind="stable")]
    scores = [f"by {METRICS[metric].label}" for metric in SCORED]
    head = ["Bjontegaard rate against JPEG", *scores, "bundle, MB", "kMAC/pixel, encoding", "decoding", "encoding, MP/s",
            "decoding, MP/s"]  # fmt: skip
    n_pictures = len({row["image"] for row in rows})
    reasons = [
        f"- {test}, {METRICS[metric].label}: {entry.reason}"
        for (test, metric), entry in rates.items()
        if entry.rate_percent is None
    ]
    command = shlex.join(["python", "benchmarks/families.py", *sys.argv[1:]])
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    alone = load <= 1.2 * max(options.threads, options.jobs)  # this run itself makes some
    busy = "" if alone else f", **beside other work** (load {load:.1f}): compare them with each other only"
    return "\n\n".join(
        [
            f"![PSNR over bits per pixel, all families]({FOLDER}/psnr.svg)",
            f"Printed by `{command}`: {n_pictures} pictures, bytes on disk, means over pictures, compared at "
            f"{BPP_RANGE[0]:g} to {BPP_RANGE[1]:g} bits per pixel; below zero is a smaller file at equal quality.",
            table(head, lines),
            *(["\n".join(reasons)] if reasons else []),
            f"Speeds are medians over {min(n_pictures, N_TIMED)} pictures at the setting nearest to {options.bpp:g} bpp, "
            f"{options.threads} thread{'s' * (options.threads > 1)} of {cpu_name()}, codecs taking turns in one run{busy}.",
        ]
    )  # fmt: skip


def own_block(name: str, picture: str, jpeg: Shown, own: Shown, cost: tuple[float, float], mb: float) -> str:
    """One family's picture, the original and JPEG beside it."""
    images = [f"![{alt}]({FOLDER}/{file}.jpg)" for alt, file in (("original", "original"), ("JPEG", "jpeg"), (name, name))]
    return "\n".join(
        [
            f"| {picture} | JPEG, {said(jpeg)} | {name}, {said(own)} |",
            "|---|---|---|",
            f"| {' | '.join(images)} |",
            "",
            f"{cost[0]:.1f} kMAC a pixel to encode, {cost[1]:.1f} to decode; a bundle of {mb:.2f} MB.",
        ]
    )


def rewritten(page: str, block: str, text: str) -> str:
    """The page with another text in a marked block; a block that it has not yet makes a section at its end."""
    begin = f"<!-- {block}: written by benchmarks/families.py -->"
    if begin not in page:
        print(f"{block}: the page has no such section, it is now the last: write its text", file=sys.stderr)
        return f"{page.rstrip()}\n\n## {block}\n\n{begin}\n{text}\n{END}\n"
    return with_block(page, begin, END, text)


def run(options: argparse.Namespace) -> None:
    ours = chosen(options)
    codecs: list[Codec] = [*ours, *OTHERS]
    WORK.mkdir(parents=True, exist_ok=True)
    folder = options.out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    name, pixels = picture_of(options)

    rows = measured(codecs, options)
    names = [codec.name for codec in codecs]
    curves = mean_curves(rows, names, SCORED)
    rates = {(entry.test, entry.metric): entry for entry in comparisons(curves, [JPEG.name], BPP_RANGE)}
    costs = {codec.name: kmacs(codec.model) for codec in ours}
    blocks = {MAIN: main_block(rows, codecs, timed(codecs, curves, options), costs, rates, options)}

    colours = [*(colour for colour in COLOURS if colour != "#37474f"), *COLOURS][: len(ours)] + list(GREYS)  # a grey among them
    styles = {
        codec.name: Style(codec.name if codec in ours else codec.label, colour, False)
        for codec, colour in zip(codecs, colours, strict=True)
    }
    drawn = [curve for curve in curves if curve.metric == "psnr"]
    n_pictures = len({row["image"] for row in rows})
    plot(folder / "psnr.svg", drawn, styles, f"{options.pictures.resolve().name}, {n_pictures} pictures")

    keep(pixels, options.crop, folder / "original.jpg")
    jpeg = nearest_rate(JPEG, pixels, options.bpp)
    keep(jpeg.pixels, options.crop, folder / "jpeg.jpg")
    for codec in ours:
        shown = nearest_rate(codec, pixels, options.bpp)
        keep(shown.pixels, options.crop, folder / f"{codec.name}.jpg")
        blocks[codec.name] = own_block(codec.name, name, jpeg, shown, costs[codec.name], bundle_mb(codec.model))

    path = options.out / PAGE
    page = path.read_text() if path.exists() else "# Families\n"
    for block, text in blocks.items():
        print(f"{text}\n")
        page = rewritten(page, block, text)
    path.write_text(page)


def corner(word: str) -> tuple[int, int]:
    left, top = word.split(",")
    return int(left), int(top)


def main() -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="a folder of lossless photographs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of families.md (default: docs)")
    parser.add_argument("--model", nargs="+", metavar="NAME_OR_BUNDLE", help="these models (default: every installed one)")
    parser.add_argument("--bundle", action="append", default=[], metavar="NAME=PATH", help="one more; may be given again")
    parser.add_argument("--picture", default="kodim24.png", help="the one shown, of the folder or a file (default %(default)s)")
    parser.add_argument("--crop", type=corner, default=(300, 120), metavar="LEFT,TOP", help="of the part shown, 384x256 pixels")
    parser.add_argument("--bpp", type=float, default=0.5, help="bits per pixel of the picture shown, and of what is timed")
    parser.add_argument("--limit", type=int, help="take only the first N pictures")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (default: the cores)")
    parser.add_argument("--threads", type=int, default=cores(), help="threads of what is timed (default: the cores)")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Rate and distortion of fewbits and of Pillow's JPEG, WebP and AVIF on a folder of pictures: bytes on disk, RGB PSNR.

Curves are means over the pictures at equal quality setting. Peers' results are kept in runs/bench-cache and used again
where picture, codec, settings and Pillow are the same. Needs the extra `bench`.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
from PIL import Image

from fewbits import FewbitsError, Model, load_model
from fewbits.bench.bjontegaard import Curve, crossings, psnr_gap, rate_change
from fewbits.bench.metrics import psnr
from fewbits.bench.peers import PEERS, Peer

QUALITIES: Final = tuple(range(0, 101, 10))
BPP_RANGE: Final = (0.12, 1.6)
CACHE: Final = Path("runs/bench-cache")
SUFFIXES: Final = frozenset({".bmp", ".png", ".ppm", ".tif", ".tiff"})  # lossless ones
EXCESS_SHARE, EXCESS_BYTES = 0.01, 64  # a file may be so much larger than the model's own estimate
PUBLISHED: Final = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "VVC (VTM)")  # drawn for comparison
COLOURS: Final = {"fewbits": "#c2185b", "JPEG": "#6d4c41", "WebP": "#00796b", "AVIF": "#1565c0"}


@dataclass(frozen=True)
class Point:
    """One file: the codec's quality setting, bytes on disk, RGB PSNR in dB, and the model's estimate of its bytes."""

    quality: float
    size_bytes: int
    psnr: float
    estimated_bytes: float | None = None


@dataclass(frozen=True)
class Result:
    """One picture: its file's name, its size, and the points of each codec by name, in the order of the qualities."""

    name: str
    n_px: int
    points: dict[str, list[Point]]


def measured(quality: float, pixels: np.ndarray, data: bytes, decode: Callable[[bytes], np.ndarray]) -> Point:
    """Write the file, ask the file system for its size, read it back and decode that."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture")
        path.write_bytes(data)
        return Point(quality, os.path.getsize(path), psnr(pixels, decode(path.read_bytes())))


def fewbits_points(model: Model, pixels: np.ndarray, qualities: Sequence[float]) -> list[Point]:
    points = []
    for quality in qualities:
        data = model.encode(pixels, quality)
        point = measured(quality, pixels, data, lambda data: np.asarray(model.decode(data)))
        points.append(Point(point.quality, point.size_bytes, point.psnr, model.estimated_bits(data) / 8))
    return points


def peer_points(peer: Peer, pixels: np.ndarray, cache: dict[str, Any]) -> list[Point]:
    """Points that `cache` does not hold are measured and put there."""
    points = []
    for quality in peer.qualities:
        key = f"{peer.name} {json.dumps(peer.options, sort_keys=True)} quality {quality} Pillow {PIL.__version__}"
        if key not in cache:
            point = measured(quality, pixels, peer.encode(pixels, quality), peer.decode)
            cache[key] = [point.size_bytes, point.psnr]
        points.append(Point(quality, *cache[key]))
    return points


def measure_picture(path: Path, model: Model, qualities: Sequence[float]) -> Result:
    raw = path.read_bytes()
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    stored = CACHE / f"{hashlib.sha256(raw).hexdigest()}.json"
    cache = json.loads(stored.read_text()) if stored.exists() else {}
    points = {peer.name: peer_points(peer, pixels, cache) for peer in PEERS}
    CACHE.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(cache, indent=1))
    points = {"fewbits": fewbits_points(model, pixels, qualities)} | points
    print(f"measured {path.name}", file=sys.stderr)
    return Result(path.name, pixels.shape[0] * pixels.shape[1], points)


def mean_curve(results: list[Result], codec: str) -> Curve:
    """Means over the pictures of bits per pixel and of PSNR."""
    bpp = np.mean([[8 * point.size_bytes / result.n_px for point in result.points[codec]] for result in results], axis=0)
    return Curve(bpp.tolist(), np.mean([[point.psnr for point in result.points[codec]] for result in results], axis=0).tolist())


def not_rising(results: list[Result]) -> list[str]:
    """Where a higher quality of fewbits' does not give both more bytes and a higher PSNR."""
    found = []
    for result in results:
        points = result.points["fewbits"]
        for low, high in zip(points, points[1:], strict=False):
            if not (low.size_bytes < high.size_bytes and low.psnr < high.psnr):
                sizes, scores = f"{low.size_bytes} -> {high.size_bytes} bytes", f"{low.psnr:.3f} -> {high.psnr:.3f} dB"
                found.append(f"{result.name} Q{low.quality:g} -> Q{high.quality:g}: {sizes}, {scores}")
    return found


def largest_excess(results: list[Result]) -> dict[str, Any]:
    """The fewbits file that comes nearest to, or goes furthest over, what it may have above the model's estimate."""

    def entry(result: Result, point: Point) -> dict[str, Any]:
        assert point.estimated_bytes is not None
        excess, allowed = point.size_bytes - point.estimated_bytes, EXCESS_SHARE * point.estimated_bytes + EXCESS_BYTES
        return {"picture": result.name, "quality": point.quality, "excess_bytes": excess, "allowed_bytes": allowed}

    entries = [entry(result, point) for result in results for point in result.points["fewbits"]]
    return max(entries, key=lambda e: e["excess_bytes"] / e["allowed_bytes"])


def published_curves(path: Path) -> dict[str, Curve]:
    """Those of PUBLISHED that the file has."""
    curves = json.loads(path.read_text())["curves"]
    return {name: Curve(curves[name]["bpp"], curves[name]["psnr"]) for name in PUBLISHED if name in curves}


def comparisons(curves: dict[str, Curve], published: dict[str, Curve]) -> list[dict[str, Any]]:
    """Bjontegaard rates in percent over BPP_RANGE; None with the reason where the curves cannot be compared."""
    pairs = [("JPEG", name) for name in curves if name != "JPEG"] + [("AVIF", "fewbits")]
    pairs += [("JPEG", name) for name in published]
    found = []
    for anchor, test in pairs:
        entry: dict[str, Any] = {"anchor": anchor, "test": test, "published": test in published, "percent": None}
        try:
            entry["percent"] = rate_change(curves[anchor], (curves | published)[test], BPP_RANGE)
        except ValueError as error:
            entry["reason"] = str(error)
        found.append(entry)
    return found


def against_jpeg(curves: dict[str, Curve]) -> dict[str, Any]:
    """Where fewbits' curve crosses JPEG's, and how far it lies above it in dB at the worst and at the best rate."""
    try:
        bpp, gap = psnr_gap(curves["JPEG"], curves["fewbits"], BPP_RANGE)
        crossed = crossings(curves["JPEG"], curves["fewbits"], BPP_RANGE)
    except ValueError as error:
        return {"reason": str(error)}
    span = [float(bpp[0]), float(bpp[-1])]
    return {"crossings_bpp": crossed, "least_gap_db": float(gap.min()), "largest_gap_db": float(gap.max()), "compared_bpp": span}


def print_report(report: dict[str, Any], curves: dict[str, Curve], settings: dict[str, Sequence[float]]) -> None:
    print(f"{len(report['pictures'])} pictures, model {report['model']}, Pillow {report['pillow']}\n")
    print(f"{'codec':10} {'quality':>8} {'bpp':>8} {'PSNR dB':>8}")
    for name, curve in curves.items():
        for quality, bpp, score in zip(settings[name], *curve, strict=True):
            print(f"{name:10} {quality:8g} {bpp:8.4f} {score:8.3f}")
    low, high = BPP_RANGE
    for name, curve in curves.items():
        if curve.bpp[0] > low or curve.bpp[-1] < high:
            print(f"{name} spans {curve.bpp[0]:.3f}-{curve.bpp[-1]:.3f} bpp only: less than {low:g}-{high:g} is compared")
    print(f"\nBjontegaard rate, PSNR, {low:g}-{high:g} bits per pixel:")
    for entry in report["bjontegaard"]:
        label = entry["test"] + (", published" if entry["published"] else "")
        value = entry["reason"] if entry["percent"] is None else f"{entry['percent']:+6.1f} %"
        print(f"  {label + ' against ' + entry['anchor']:44} {value}")
    jpeg = report["against_jpeg"]
    if "reason" in jpeg:
        print(f"fewbits and JPEG: {jpeg['reason']}")
    else:
        where = ", ".join(f"{bpp:.3f}" for bpp in jpeg["crossings_bpp"])
        side = "above" if jpeg["least_gap_db"] > 0 else "below"
        verdict = f"crosses JPEG's at {where} bpp" if where else f"lies {side} JPEG's everywhere"
        gaps = f"{jpeg['least_gap_db']:+.2f} to {jpeg['largest_gap_db']:+.2f} dB"
        print(f"fewbits' curve {verdict} ({gaps}, {jpeg['compared_bpp'][0]:.3f}-{jpeg['compared_bpp'][1]:.3f} bpp compared)")
    failures = report["not_rising"]
    print("bytes and PSNR rise with every step of quality on every picture" if not failures else "bytes or PSNR do not rise:")
    for failure in failures:
        print(f"  {failure}")
    worst = report["largest_excess"]
    verdict = "within" if worst["excess_bytes"] <= worst["allowed_bytes"] else "OVER"
    bound = f"{worst['allowed_bytes']:.0f} bytes ({EXCESS_SHARE:.0%} + {EXCESS_BYTES} bytes)"
    where = f"{worst['picture']} Q{worst['quality']:g}"
    print(f"largest excess over the model's estimate: {worst['excess_bytes']:.0f} bytes, {verdict} the {bound}: {where}")


def spread(heights: list[float], least: float) -> list[float]:
    """Heights moved apart to be at least `least` from each other, as little as going from the lowest up and back allows."""
    order = np.argsort(heights)
    placed = np.array(heights, np.float64)[order]
    for _ in range(100):
        for k in range(1, len(placed)):
            short = least - (placed[k] - placed[k - 1])
            if short > 1e-9:
                placed[k - 1 : k + 1] += (-short / 2, short / 2)
    out = np.empty_like(placed)
    out[order] = placed
    return [float(height) for height in out]


def plot(path: Path, curves: dict[str, Curve], published: dict[str, Curve], title: str, *, log_x: bool) -> None:
    """PSNR over bits per pixel, 900 px wide, each curve labelled where it ends; the format is that of the extension."""
    import matplotlib
    from matplotlib.figure import Figure

    left, right = (0.1, 2.0) if log_x else (0.0, 1.8)
    figure = Figure(figsize=(9, 5.8), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    ends = {}
    for name, curve in (published | curves).items():
        bpp, score = np.asarray(curve.bpp), np.asarray(curve.psnr)
        last = min(right, curve.bpp[-1])
        inside = bpp < last
        x, y = np.append(bpp[inside], last), np.append(score[inside], np.interp(last, bpp, score))
        ends[name] = (float(x[-1]), float(y[-1]))
        if name in published:
            axes.plot(x, y, color="#9e9e9e", linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)
            continue
        colour, width = COLOURS[name], 2.6 if name == "fewbits" else 1.6
        axes.plot(x, y, color=colour, linewidth=width, zorder=3)
        axes.plot(bpp[bpp <= right], score[bpp <= right], "o", color=colour, markersize=2 * width, zorder=3)
    if log_x:
        axes.set_xscale("log")
        ticks = [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.set_xlim(left, right)
    bottom = min(float(np.interp(max(left, 0.1), curve.bpp, curve.psnr)) for curve in curves.values())
    axes.set_ylim(np.floor(bottom) - 0.5, np.ceil(max(score for _, score in ends.values())) + 0.5)
    low, high = axes.get_ylim()
    heights = spread([score for _, score in ends.values()], (high - low) / 26)
    for (name, end), height in zip(ends.items(), heights, strict=True):
        colour = "#757575" if name in published else COLOURS[name]
        label = f"{name}, published" if name in published else name
        axes.annotate(
            label, end, (right * (1.06 if log_x else 1.025), height), color=colour, va="center", annotation_clip=False,
            fontsize=9 if name in published else 11, fontweight="bold" if name == "fewbits" else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)},
        )  # fmt: skip
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("bits per pixel, bytes on disk")
    axes.set_ylabel("PSNR (RGB), dB")
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fixed = {"Date": None} if path.suffix.lower() == ".svg" else None  # the same curves give the same file
    with matplotlib.rc_context({"svg.hashsalt": "fewbits"}):
        figure.savefig(path, metadata=fixed)


def run(options: argparse.Namespace) -> None:
    every = sorted(path for path in options.images.iterdir() if path.suffix.lower() in SUFFIXES)
    paths = every[: options.limit]
    if not paths:
        raise SystemExit(f"{options.images}: no pictures ({', '.join(sorted(SUFFIXES))})")
    model = load_model(options.model, threads=1 if options.jobs > 1 else None)
    qualities = sorted(set(options.qualities))
    with ThreadPoolExecutor(options.jobs) as workers:
        results = list(workers.map(lambda path: measure_picture(path, model, qualities), paths))
    settings: dict[str, Sequence[float]] = {"fewbits": qualities} | {peer.name: peer.qualities for peer in PEERS}
    curves = {name: mean_curve(results, name) for name in settings}
    source = options.published or options.images.absolute().parent.parent / "reference" / "kodak-published.json"
    whole_kodak = options.images.absolute().name == "kodak" and (paths == every or options.published)
    published = published_curves(source) if whole_kodak and source.exists() else {}
    report = {
        "pictures": [result.name for result in results],
        "model": f"{Path(options.model).name} {model.bundle.model_id.hex()}",
        "pillow": PIL.__version__,
        "curves": {
            name: [
                dict(zip(("quality", "bpp", "psnr"), point, strict=True)) for point in zip(settings[name], *curve, strict=True)
            ]
            for name, curve in curves.items()
        },
        "bjontegaard": comparisons(curves, published),
        "against_jpeg": against_jpeg(curves),
        "not_rising": not_rising(results),
        "largest_excess": largest_excess(results),
        "results": [asdict(result) for result in results],
    }
    print_report(report, curves, settings)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        title = f"{options.images.absolute().name}, {len(results)} pictures"
        plot(options.plot, curves, published, title, log_x=options.log_x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of lossless pictures")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument(
        "--qualities", type=float, nargs="+", default=QUALITIES, help="fewbits' qualities (default 0, 10 ... 100)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="pictures at a time (default %(default)s)")
    parser.add_argument("--limit", type=int, help="take only the first N pictures")
    parser.add_argument("--plot", type=Path, help="an .svg or .png to draw")
    parser.add_argument("--log-x", action="store_true", help="draw the rate on a logarithmic axis")
    parser.add_argument("--published", type=Path, help="curves to draw where the folder is kodak; they are of all of it")
    parser.add_argument("--json", type=Path, help="a file to write every number to")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Speed against the size of the picture and the number of threads, and of a folder of small pictures; for docs/benchmarks.md.

Sizes are crops of photographs, mirrored again and again where they are larger than that; small ones are taken from several. The
numbers of threads take turns, and the fastest turn of each photograph counts: others on the machine only make it slower. For
--profile's stages one thread and a watch are used; they say what small pictures spend their time on. The folder is encoded by
`fewbits encode FOLDER OUT -j N`, and by a process for each picture; its times are always the clock's.

Ten minutes or less on a quiet machine; shorter with fewer --sizes. Writes a block of the page, and the plot in it. Needs
matplotlib (the extra `bench`).
"""

import argparse
import math
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from demo import chosen
from PIL import Image

from fewbits import FewbitsError, load_model
from fewbits.bench.plots import Style, plot_speed
from fewbits.bench.record import cpu_name
from fewbits.bench.text import table, with_block
from fewbits.codec import chosen_engine
from fewbits.installed import DEFAULT_QUALITY
from fewbits.processor import cores
from fewbits.stages import Watch, watched

SIZES: Final = (0.05, 0.1, 0.4, 1.6, 6.0, 24.0, 100.0)  # megapixels
SMALL: Final = (0.05, 0.4)  # of the pictures in folders
ASPECT: Final = 1.5
N_DIFFERENT: Final = 4  # photographs that a size takes turns with, where it is no larger than:
MANY_MP: Final = 2.0
WATCHED_MP: Final = 10.0  # stages of larger pictures are not measured: they say nothing new
STAGES: Final = {  # a row of the table: the stages of --profile in it
    "large networks": ("analysis", "synthesis"),
    "small networks": ("hyper_analysis", "scales", "means"),
    "entropy coding": ("coder", "checksum"),
}
REST: Final = "everything else"
DIRECTIONS: Final = ("encode", "decode")
COLOURS: Final = {"encode": ("#f48fb1", "#c2185b", "#880e4f"), "decode": ("#80cbc4", "#00796b", "#004d40")}  # by threads
ROOT: Final = Path(__file__).resolve().parents[1]
PAGE, PLOT = "benchmarks.md", "scaling.svg"
BEGIN, END = "<!-- scaling: written by benchmarks/scaling.py -->", "<!-- end of scaling -->"

Speeds = dict[tuple[str, int], list[tuple[float, float]]]  # by direction and threads: megapixels, megapixels a second


def sized(photo: np.ndarray, megapixels: float) -> np.ndarray:
    """uint8 (height, width, 3) of so many megapixels, 3:2, from the upper left corner; mirrored where the photograph ends."""
    height = round(math.sqrt(megapixels * 1e6 / ASPECT))
    width = round(height * ASPECT)
    rows, columns = (mirrored(wanted, there) for wanted, there in zip((height, width), photo.shape, strict=False))
    return np.asarray(photo.take(rows, axis=0).take(columns, axis=1))


def mirrored(wanted: int, there: int) -> np.ndarray:
    """Positions 0, 1, ..., there - 1, there - 1, ..., 1, 0, 0, 1, ...: so many as are wanted."""
    positions = np.arange(wanted) % (2 * there)
    return np.asarray(np.minimum(positions, 2 * there - 1 - positions))


def grouped(watch: Watch, n_px: int) -> dict[str, float]:
    """Nanoseconds a pixel by row of STAGES, and the rest."""
    found = {name: sum(watch.seconds.get(stage, 0.0) for stage in stages) for name, stages in STAGES.items()}
    found[REST] = sum(watch.seconds.values()) - sum(found.values())
    return {name: 1e9 * seconds / n_px for name, seconds in found.items()}


def speeds(photos: Sequence[np.ndarray], options: argparse.Namespace) -> tuple[Speeds, dict[str, dict[float, dict[str, float]]]]:
    """Megapixels a second for each size: the fastest turn of a photograph, of several their median; and by direction and size the
    nanoseconds a pixel of each group of stages, on one thread."""
    models = {threads: load_model(options.model, threads=threads) for threads in options.threads}
    alone = load_model(options.model, threads=1)
    clock = time.process_time if options.process_time else time.perf_counter
    found: Speeds = {(direction, threads): [] for direction in DIRECTIONS for threads in options.threads}
    stages: dict[str, dict[float, dict[str, float]]] = {direction: {} for direction in DIRECTIONS}
    for size in options.sizes:
        chosen = photos[:N_DIFFERENT] if size <= MANY_MP else photos[:1]
        pictures = [sized(photo, size) for photo in chosen]
        small = pictures[0][:64, :64]
        for model in (alone, *models.values()):
            model.decode(model.encode(small))  # loads networks
        taken: dict[tuple[str, int], list[float]] = {key: [0.0] * len(pictures) for key in found}
        watches: dict[str, list[dict[str, float]]] = {direction: [] for direction in DIRECTIONS}
        begun, turn = time.monotonic(), 0
        while turn < len(pictures) or time.monotonic() - begun < options.seconds:
            number = turn % len(pictures)
            pixels = pictures[number]
            n_px = pixels.shape[0] * pixels.shape[1]
            for threads, model in models.items():
                begun_s = clock()
                data = model.encode(pixels, options.quality)
                encoded_s = clock()
                model.decode(data)
                for direction, seconds in zip(DIRECTIONS, (encoded_s - begun_s, clock() - encoded_s), strict=True):
                    own = taken[direction, threads]
                    own[number] = max(own[number], n_px / 1e6 / seconds)
            if size <= WATCHED_MP:
                calls: dict[str, Callable[[], object]] = {
                    "encode": lambda pixels=pixels: alone.encode(pixels, options.quality),  # type: ignore[misc]
                    "decode": lambda data=data: alone.decode(data),  # type: ignore[misc]
                }
                for direction, call in calls.items():
                    with watched(clock) as watch:
                        call()
                    watches[direction].append(grouped(watch, n_px))
            turn += 1
        for key, values in taken.items():
            found[key].append((size, median(values)))
        for direction, parts in watches.items():
            if parts:
                stages[direction][size] = min(parts, key=lambda part: sum(part.values()))
        print(f"{size:g} megapixels, {turn} times: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return found, stages


def command(*words: str) -> tuple[float, str]:
    """Seconds of `fewbits WORDS` as a process of its own, and what it says on stderr."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "fewbits", *words], check=True, capture_output=True, text=True)
    return time.monotonic() - begun, done.stderr


def folders(photos: Sequence[np.ndarray], options: argparse.Namespace) -> str:
    """Markdown: pictures a second of a folder by the number of processes, of a process for each picture, and its start."""
    jobs = sorted({1, cores()})
    common = ("-f", "-q", f"{options.quality:g}", "--model", options.model)
    rows, lines = [], []
    for size in options.small:
        with tempfile.TemporaryDirectory() as place:
            pictures, out = Path(place, "pictures"), Path(place, "out")
            pictures.mkdir()
            for k in range(options.batch):
                Image.fromarray(sized(photos[k % len(photos)], size)).save(pictures / f"{k:04}.png")
            one = str(next(pictures.iterdir()))
            taken: dict[str, list[float]] = {}
            starts: list[tuple[float, float, float]] = []
            for _ in range(options.repeat):
                for n in jobs:
                    seconds, _ = command("encode", *common, "-j", str(n), str(pictures), str(out))
                    taken.setdefault(f"a folder, -j {n}", []).append(options.batch / seconds)
                seconds, _ = command("encode", *common, one, str(Path(place, "one.few")))
                taken.setdefault("a process each", []).append(1 / seconds)
                seconds, said = command("encode", *common, "--profile", one, str(Path(place, "one.few")))
                starts.append((seconds, *profiled(said)))
        whole, known, load = min(starts)
        rows.append([f"{size:g}", *(f"{max(values):.1f}" for values in taken.values())])
        lines.append(
            f"- A process for one picture of {size:g} megapixels: {1000 * (whole - known):.0f} ms for Python and the packages, "
            f"{1000 * load:.0f} ms for loading networks, {1000 * (known - load):.0f} ms for the picture and its files."
        )
    head = [f"pictures a second, of {options.batch}; megapixels each", *taken]
    return "\n".join([table(head, rows), "", *lines])


def profiled(said: str) -> tuple[float, float]:
    """Seconds in all, and of loading networks, from what --profile says."""
    stages = {name: float(ms) / 1000 for name, ms in re.findall(r"^(\S.*?) +([\d.]+) ms", said, re.MULTILINE)}
    return stages["total"], stages.get("load", 0.0)


def speed_table(found: Speeds, sizes: Sequence[float]) -> str:
    head = ["megapixels a second; megapixels of the picture", *(f"{size:g}" for size in sizes)]
    return table(
        head,
        [
            [f"{direction}, {named(threads)}", *(f"{value:.2f}" for _, value in points)]
            for (direction, threads), points in found.items()
        ],
    )


def stage_table(direction: str, stages: Mapping[float, Mapping[str, float]]) -> str:
    head = [f"{direction}, ns a pixel; megapixels", *(f"{size:g}" for size in stages)]
    rows = [[name, *(f"{parts[name]:.1f}" for parts in stages.values())] for name in (*STAGES, REST)]
    return table(head, rows)


def named(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def run(options: argparse.Namespace) -> str:
    paths = chosen(options.images)
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths[:N_DIFFERENT]]
    found, stages = speeds(photos, options)
    lines = {f"{direction}, {named(threads)}": points for (direction, threads), points in found.items()}
    styles = {
        f"{direction}, {named(threads)}": Style(f"{direction}, {named(threads)}", COLOURS[direction][k % 3], False)
        for direction in DIRECTIONS
        for k, threads in enumerate(options.threads)
    }
    where = f"decoding in {load_model(options.model, threads=1).precision} by {chosen_engine()}, {cpu_name()}"
    plot_speed(options.out / PLOT, lines, styles, f"{options.model}, quality {options.quality:g}, {where}")
    parts = [
        f"`{shlex.join(['python', 'benchmarks/scaling.py', *sys.argv[1:]])}`, {where}:",
        f"![Speed against size]({PLOT})",
        speed_table(found, options.sizes),
        "Where the time goes on one thread, by the stages of `--profile`:",
        *(stage_table(direction, stages[direction]) for direction in DIRECTIONS if stages[direction]),
    ]
    if options.batch:
        parts.append(folders(photos, options))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="a folder of photographs (default: four of scikit-image's)")
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, metavar="MP", help="megapixels (default: 0.05 to 100)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each size; every picture is done at least once")
    parser.add_argument("--small", type=float, nargs="+", default=SMALL, metavar="MP", help="of the pictures in folders")
    parser.add_argument("--batch", type=int, default=96, help="pictures in a folder, 0: no folders (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="times each folder is encoded (default %(default)s)")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument("--quality", type=float, default=DEFAULT_QUALITY, help="0 to 100 (default %(default)g)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help=f"the folder of {PAGE} and the plot (default: docs)")
    parser.add_argument("--process-time", action="store_true", help="in place of the clock's; for one thread on a busy machine")
    options = parser.parse_args()
    if options.process_time and options.threads != [1]:
        parser.error("--process-time is for --threads 1: on several it counts the time of each")
    try:
        text = run(options)
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error
    print(text)
    page = options.out / PAGE
    if page.exists():
        page.write_text(with_block(page.read_text(), BEGIN, END, text))


if __name__ == "__main__":
    main()

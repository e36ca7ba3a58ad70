# SPDX-License-Identifier: MIT
"""Measure the slimmable autoencoder as the thesis does, and write the numbers, plots and sheets of docs/reproductions/slimcae.md.

For each width at the rate that it was trained for: bytes on disk, MSE, PSNR, MS-SSIM, and how alive colours are, on folders of
pictures; the same for models that were trained with other losses; Bjontegaard rates against JPEG and the KLT. Needs
the extras `train` and `bench`.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fewbits import FewbitsError, load_model
from fewbits.bench.codecs import JPEG, BundleCodec, Codec
from fewbits.bench.gallery import draw_sheet, middle
from fewbits.bench.journal import Journal
from fewbits.bench.measure import Picture, Plan, find_pictures, measure, pixels_of
from fewbits.bench.pool import in_processes
from fewbits.bench.summary import comparisons, mean_curves
from fewbits.bench.text import table, with_block
from fewbits.codec import Model
from fewbits.families.slimcae import SlimCae, SlimCaeConfig
from fewbits.fidelity import mse, psnr
from fewbits.processor import cores
from fewbits.structure import decibels, ms_ssim
from fewbits.training.data import decode_rgb
from fewbits.training.data import find_pictures as find_training_pictures

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reproductions" / "slimcae.md"
BEGIN, END = "<!-- numbers: written by benchmarks/slimcae.py -->", "<!-- end of numbers -->"
WORK: Final = Path("runs/slimcae")
# S3 of the sources: width -> test MSE, PSNR, MS-SSIM, then PSNR and MS-SSIM in training
THESIS: Final = {
    48: (773.0, 19.88, 0.8976, 20.62, 0.9136),
    72: (574.4, 21.25, 0.9179, 22.28, 0.9334),
    96: (521.6, 21.67, 0.9276, 22.71, 0.9412),
    144: (243.2, 25.25, 0.9535, 25.81, 0.9592),
    192: (215.5, 25.88, 0.9582, 26.47, 0.9639),
}
WIDTHS: Final = tuple(THESIS)
TRAINING_PX: Final = 512  # of the training pictures the middle, as large as the faces
N_TRAINING: Final = 26
REPEATS: Final = 7
CURVE: Final = tuple(map(float, range(0, 101, 20)))


@dataclass(frozen=True)
class Task:
    """One picture through one model at each of its widths."""

    model: str
    qualities: tuple[tuple[int, float], ...]  # width, quality
    name: str
    pixels: np.ndarray


def qualities_of(model: Model) -> tuple[tuple[int, float], ...]:
    """Each width with the quality whose gain is nearest to the one that the width was trained with; wide first."""
    levels, own = model.bundle.coding["levels"], dict(zip(WIDTHS, model.bundle.tables["gain"].tolist(), strict=True))
    found = []
    for width in reversed(WIDTHS):
        places = [k for k, (used, _) in enumerate(levels) if used == width]
        best = min(places, key=lambda k: abs(np.log(levels[k][1] / own[width])))
        found.append((width, round(100 * best / (len(levels) - 1), 2)))
    return tuple(found)


def work(task: Task) -> list[dict[str, float]]:
    """A row for each width."""
    import torch

    from fewbits.families.losses import saturation

    torch.set_num_threads(1)
    model, rows = load_model(task.model, threads=1), []

    def chroma_of(pixels: np.ndarray) -> np.ndarray:
        return saturation(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0].numpy()

    wanted = chroma_of(task.pixels)
    for width, quality in task.qualities:
        data = model.encode(task.pixels, quality)
        decoded = np.asarray(model.decode(data))
        found = chroma_of(decoded)
        rows.append(
            {
                "width": width,
                "bpp": 8 * len(data) / wanted.size,
                "mse": mse(task.pixels, decoded),
                "psnr": psnr(task.pixels, decoded),
                "ms_ssim": ms_ssim(task.pixels, decoded),
                "saturation": float(found.mean() / max(wanted.mean(), 1e-6)) if wanted.mean() > 3 else np.nan,
                "chroma_error": float(np.abs(found - wanted).mean()),
            }
        )
    return rows


def training_pictures(tars: Sequence[Path], exclude: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The middles of N_TRAINING pictures, spread over the training set."""
    items = find_training_pictures(tars, exclude)
    for k in np.linspace(0, len(items) - 1, N_TRAINING).astype(int):
        pixels = decode_rgb(items[k])
        if pixels is not None:
            top, left = ((side - min(side, TRAINING_PX)) // 2 for side in pixels.shape[:2])
            yield f"training {k}", np.ascontiguousarray(pixels[top : top + TRAINING_PX, left : left + TRAINING_PX])


def means(rows: Sequence[Mapping[str, float]], width: int) -> dict[str, float]:
    """Over pictures; saturation over those that have colour."""
    chosen = [row for row in rows if row["width"] == width]
    return {name: float(np.nanmean([row[name] for row in chosen])) for name in chosen[0]}


def thesis_table(by_set: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The thesis's table and ours side by side."""
    lines = []
    for width in reversed(WIDTHS):
        test_mse, test_psnr, test_similarity, train_psnr, train_similarity = THESIS[width]
        thesis = f"{test_mse} / {test_psnr} / {test_similarity:.4f}"
        cells = [str(width), thesis, f"{train_psnr} / {train_similarity:.4f}"]
        for rows in by_set.values():
            mean = means(rows, width)
            cells.append(f"{mean['bpp']:.3f}: {mean['mse']:.1f} / {mean['psnr']:.2f} / {mean['ms_ssim']:.4f}")
        lines.append(cells)
    return table(["width", "thesis, test: MSE / PSNR / MS-SSIM", "thesis, training: PSNR / MS-SSIM",
                  *(f"{name}, bpp: MSE / PSNR / MS-SSIM" for name in by_set)], lines)  # fmt: skip


def loss_table(models: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """What each loss gains and loses, width by width."""
    lines = []
    for width in reversed(WIDTHS):
        for label, rows in models.items():
            mean = means(rows, width)
            cells = [f"{mean['bpp']:.3f}", f"{mean['psnr']:.2f}", f"{mean['ms_ssim']:.4f}", f"{decibels(mean['ms_ssim']):.2f}"]
            lines.append([f"{width}, {label}", *cells, f"{mean['saturation']:.3f}", f"{mean['chroma_error']:.2f}"])
    names = ["bpp", "PSNR", "MS-SSIM", "MS-SSIM, dB", "mean saturation over the original's", "CIELAB chroma error"]
    return table(["width, loss", *names], lines)


def histograms(rows: Sequence[Mapping[str, float]], target: Path, title: str) -> None:
    """MS-SSIM of the pictures at each width, as the thesis draws it."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    scores = {width: [row["ms_ssim"] for row in rows if row["width"] == width] for width in reversed(WIDTHS)}
    edges = np.linspace(min(map(min, scores.values())), 1, 31)
    axes = figure.subplots(len(scores), 1, sharex=True, sharey=True)
    for axis, (width, values) in zip(axes, scores.items(), strict=True):
        axis.hist(values, edges, color="#c2185b")
        axis.axvline(THESIS[width][2], color="#37474f", linestyle="--")
        axis.set_ylabel(f"{width}")
    axes[0].set_title(f"{title}: pictures by MS-SSIM at each width; dashed, the thesis's mean", fontsize=10)
    axes[-1].set_xlabel("MS-SSIM")
    with matplotlib.rc_context({"svg.hashsalt": "fewbits"}):
        figure.savefig(target, metadata={"Date": None})


def costs(picture: Picture) -> str:
    """What a width costs: counted, and timed on one picture in this process, the widths taking turns."""
    counted, model, pixels = SlimCae(SlimCaeConfig()), load_model("slimcae"), pixels_of(picture.path)
    megapixels = pixels[..., 0].size / 1e6
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(REPEATS + 1):
        for width, quality in qualities_of(model):
            begun = time.perf_counter()
            data = model.encode(pixels, quality)
            encoded = time.perf_counter()
            model.decode(data)
            seconds.setdefault(("encode", width), []).append(encoded - begun)
            seconds.setdefault(("decode", width), []).append(time.perf_counter() - encoded)
    lines = []
    for which, width in reversed(list(enumerate(WIDTHS))):
        cost = counted.multiplications(which)[0] / 1000
        speeds = [f"{megapixels / float(np.median(seconds[what, width][1:])):.2f}" for what in ("encode", "decode")]
        lines.append([str(width), f"{cost:.1f}", *speeds])
    return table(["width", "kMAC/pixel each way", "encoding, MP/s", "decoding, MP/s"], lines)


def curves(models: Sequence[str], folders: Sequence[Path], jobs: int, limit: int | None) -> str:
    """Bjontegaard rates, and how far each point of the first model's curve lies over JPEG's."""
    WORK.mkdir(parents=True, exist_ok=True)
    codecs: tuple[Codec, ...] = (*(BundleCodec(name, name, settings=CURVE) for name in models), JPEG)
    lines, margins = [], []
    for folder in folders:
        journal = Journal(WORK / f"{folder.name}.jsonl")
        rows = measure(
            Plan(find_pictures([folder], limit), codecs, ("psnr", "ms_ssim"), jobs=jobs, threads=1, timing=False), journal
        )
        journal.close()
        found = mean_curves(rows, [codec.name for codec in codecs], ("psnr", "ms_ssim"))
        rates = {(entry.test, entry.metric): entry.rate_percent for entry in comparisons(found, [JPEG.name])}
        for codec in codecs[:-1]:
            cells = [rates.get((codec.name, metric)) for metric in ("psnr", "ms_ssim")]
            lines.append([f"{folder.name}, {codec.label}", *("-" if cell is None else f"{cell:+.1f} %" for cell in cells)])
        by_codec = {curve.codec: curve.points for curve in found if curve.metric == "ms_ssim"}
        jpeg_bpp, jpeg_value = (np.array([point[k] for point in by_codec[JPEG.name]]) for k in (1, 2))
        for quality, bpp, value in by_codec[codecs[0].name]:
            if jpeg_bpp[0] <= bpp <= jpeg_bpp[-1]:
                gain = value - float(np.interp(bpp, jpeg_bpp, jpeg_value))
                margins.append(f"{folder.name}, quality {quality:3g}: {bpp:.3f} bpp, {value:5.2f} dB, {gain:+.2f} dB")
    text = table(["Bjontegaard rate against JPEG", "PSNR", "MS-SSIM"], lines)
    return text + "\n\nMS-SSIM over JPEG's at the same rate, wherever JPEG goes:\n\n```\n" + "\n".join(margins) + "\n```"


def sheets(models: Mapping[str, str], picture: Picture, target: Path, widths: Sequence[int]) -> None:
    """The picture's middle, then each width of each model, as a JPEG of quality 85."""
    pixels = np.ascontiguousarray(middle(pixels_of(picture.path)))
    tiles, captions = [pixels], [(picture.name, "original")]
    for label, name in models.items():
        model = load_model(name)
        for width, quality in qualities_of(model):
            if width in widths:
                data = model.encode(pixels, quality)
                tiles.append(np.asarray(model.decode(data)))
                bpp, similarity = 8 * len(data) / pixels[..., 0].size, decibels(ms_ssim(pixels, tiles[-1]))
                scores = f"{bpp:.3f} bpp, {psnr(pixels, tiles[-1]):.2f} dB, MS-SSIM {similarity:.2f} dB"
                captions.append((f"{label}: width {width}, quality {quality:g}", scores))
    draw_sheet(tiles, captions).save(target, "JPEG", quality=85)


def run(options: argparse.Namespace) -> None:
    models = {"shipped": "slimcae"} | dict(entry.split("=", 1) for entry in options.loss)
    sets: dict[str, list[tuple[str, np.ndarray]]] = {
        folder.name: [(picture.name, pixels_of(picture.path)) for picture in find_pictures([folder], options.limit)]
        for folder in (options.faces, options.kodak)
    }
    sets["training"] = list(training_pictures(options.train, options.exclude))[: options.limit]
    tasks, places = [], []
    for label, name in models.items():
        for which, pictures in sets.items():
            if label == "shipped" or which == options.kodak.name:
                qualities = qualities_of(load_model(name))
                tasks += [Task(name, qualities, picture, pixels) for picture, pixels in pictures]
                places += [(label, which)] * len(pictures)
    by_task = dict(zip(map(id, tasks), places, strict=True))
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for task, rows in in_processes(work, tasks, options.jobs, "measuring"):
        found.setdefault(by_task[id(task)], []).extend(rows)
    folder = PAGE.parent
    folder.mkdir(parents=True, exist_ok=True)
    histograms(found["shipped", options.faces.name], folder / "slimcae-histograms.svg", options.faces.name)
    face, photo = find_pictures([options.faces])[options.face], find_pictures([options.kodak])[options.photo]
    sheets({"slimcae": "slimcae"}, face, folder / "slimcae-face.jpg", WIDTHS)
    sheets({"slimcae": "slimcae"}, photo, folder / "slimcae-photo.jpg", WIDTHS)
    losses = {label: name for label, name in models.items() if label != "shipped"}
    if losses:
        sheets(losses, photo, folder / "slimcae-losses.jpg", (48, 96))
    command = shlex.join(["python", "benchmarks/slimcae.py", *sys.argv[1:]])
    parts = [f"Printed by `{command}`; bytes on disk, means over pictures.", thesis_table({s: found["shipped", s] for s in sets})]
    if losses:
        parts += [f"By loss, on {options.kodak.name}:", loss_table({label: found[label, options.kodak.name] for label in losses})]
    parts += ["Cost (speeds: medians on one picture, all threads, widths taking turns in one run):", costs(photo)]
    parts.append(curves(["slimcae", "klt"], [options.kodak, options.faces], options.jobs, options.limit))
    text = "\n\n".join(parts)
    print(text)
    PAGE.write_text(with_block(PAGE.read_text(), BEGIN, END, text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="a folder of portraits")
    parser.add_argument("--kodak", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--train", type=Path, action="append", required=True, help="the training pictures; may be given again")
    parser.add_argument("--exclude", action="append", default=[], help="as in `fewbits train`")
    parser.add_argument("--loss", action="append", default=[], metavar="LABEL=BUNDLE", help="a model trained with another loss")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (default: the cores)")
    parser.add_argument("--limit", type=int, help="take only the first N pictures of each set")
    parser.add_argument("--face", type=int, default=0, help="number of the portrait on the sheet")
    parser.add_argument("--photo", type=int, default=22, help="number of the photograph on the sheets")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

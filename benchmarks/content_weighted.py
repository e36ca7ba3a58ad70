# SPDX-License-Identifier: MIT
"""Measure the content-weighted autoencoder and its two baselines as their source does, and write the numbers and pictures of
docs/reproductions/content-weighted.md.

Bits per pixel, MSE and PSNR of MNIST's test pictures from bytes on disk (benchmarks/mnist.py makes them); Huffman beside the
adaptive coder; importance maps over their pictures, and a region of interest. Needs the extra `bench`.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np
from PIL import Image

from fewbits import FewbitsError, load_model
from fewbits.bench.gallery import draw_sheet
from fewbits.bench.metrics import METRICS
from fewbits.bench.text import table, with_block
from fewbits.codec import Model, read_bundle
from fewbits.fidelity import psnr
from fewbits.runtime.bundle import pack_bundle, parse_bundle
from fewbits.runtime.manifest import MANIFEST
from fewbits.runtime.masked import HIGHEST

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reproductions" / "content-weighted.md"
BEGIN, END = "<!-- numbers: written by benchmarks/content_weighted.py -->", "<!-- end of numbers -->"
FAMILIES: Final = ("cae3", "resnet-ae", "content-weighted")
SOURCE: Final = {  # bpp; PSNR and MSE of three test pictures
    "cae3": (0.5735, (31.65, 31.53, 31.46), (44.42, 45.76, 46.51)),
    "resnet-ae": (0.6245, (27.01, 27.94, 27.38), (129.50, 104.49, 118.86)),
    "content-weighted": (0.3566, (27.09, 27.56, 27.50), (127.05, 114.14, 115.64)),
}
N_NAMED: Final = 3
SAVED_BAR, LOST_BAR = 30.0, 1.0  # percent of resnet-ae's bits, dB
CODERS: Final = ("huffman", "adaptive")
QUALITIES: Final = (40.0, 50.0, 60.0, 65.0, 70.0, 80.0)
SHEET_QUALITY: Final = 60.0
ROI_QUALITY: Final = 60.0
ROI_RISE: Final = 40.0  # in the region
ENLARGED_PX: Final = 384


@dataclass(frozen=True)
class Score:
    """Of one picture."""

    bpp: float
    mse: float
    psnr: float


def with_coder(folder: str, coder: str) -> Model:
    """A bundle's networks with another coder of symbols."""
    files = read_bundle(Path(folder))
    bundle = parse_bundle(files, folder)
    del files[MANIFEST]
    return Model(pack_bundle(bundle.family, {**bundle.coding, "coder": coder}, bundle.card, files), folder)


def scores(model: Model, pictures: Sequence[np.ndarray], quality: float) -> list[Score]:
    found = []
    for pixels in pictures:
        data = model.encode(pixels, quality)
        decoded = np.asarray(model.decode(data))
        squared = float(np.square(decoded.astype(float) - pixels).mean())
        size = pixels.shape[0] * pixels.shape[1]
        found.append(Score(8 * len(data) / size, squared, psnr(pixels, decoded)))
    return found


def means(found: Sequence[Score]) -> tuple[float, float, float]:
    return mean(s.bpp for s in found), mean(s.mse for s in found), mean(s.psnr for s in found)


def cells(found: Sequence[Score]) -> list[str]:
    bpp, mse, db = means(found)
    each = found[:N_NAMED]
    return [
        f"{bpp:.4f}",
        " / ".join(f"{s.psnr:.2f}" for s in each),
        " / ".join(f"{s.mse:.2f}" for s in each),
        f"{db:.2f}",
        f"{mse:.2f}",
    ]


def source_table(runs: Mapping[str, Mapping[str, list[Score]]], n_pictures: int) -> str:
    """The source's table, and ours under it for each label of runs."""
    lines = []
    for family in FAMILIES:
        bpp, db, squared = SOURCE[family]
        shown = " / ".join(f"{value:.2f}" for value in db), " / ".join(f"{value:.2f}" for value in squared)
        lines.append([f"{family}, source", f"{bpp:.4f}", *shown, "-", "-"])
        lines += [[f"{family}, {label}", *cells(found[family])] for label, found in runs.items()]
    head = ["MNIST at 128x128", "bpp", "PSNR of pictures 1 / 2 / 3", "MSE of them", f"PSNR, {n_pictures} pictures", "MSE"]
    return table(head, lines)


def bar_lines(models: Mapping[str, Model], pictures: Sequence[np.ndarray]) -> str:
    """Both bars, at the quality of content-weighted that saves most while it loses at most LOST_BAR."""
    base_bpp, _, base_db = means(scores(models["resnet-ae"], pictures, SHEET_QUALITY))
    lines, best, at_source = [], None, None
    for quality in QUALITIES:
        bpp, _, db = means(scores(models["content-weighted"], pictures, quality))
        saved = 100 * (1 - bpp / base_bpp)
        lines.append([f"{quality:g}", f"{bpp:.4f}", f"{db:.2f}", f"{saved:.1f} %", f"{base_db - db:+.2f} dB"])
        if base_db - db <= LOST_BAR and (best is None or saved > best[0]):
            best = saved, quality
        if bpp <= SOURCE["content-weighted"][0] and (at_source is None or db > at_source):
            at_source = db
    met = best is not None and best[0] >= SAVED_BAR
    first = (
        f"at least {SAVED_BAR:g} % fewer bits than resnet-ae at no more than {LOST_BAR:g} dB less: {'met' if met else 'not met'}"
    )
    if best is not None:
        first += f", {best[0]:.1f} % at quality {best[1]:g}"
    source_db = mean(SOURCE["content-weighted"][1])
    second = f"a better PSNR than the source's {source_db:.1f} dB at its {SOURCE['content-weighted'][0]} bpp: "
    second += f"{'met' if at_source is not None and at_source > source_db else 'not met'}, {at_source or 0:.2f} dB"
    head = ["content-weighted at quality", "bpp", "PSNR", "fewer bits than resnet-ae", "PSNR lost to it"]
    return f"{table(head, lines)}\n\n- {first}\n- {second}"


def coder_table(folders: Mapping[str, str], pictures: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Bytes of all files with either coder."""
    lines = []
    for label, folder in folders.items():
        sizes = []
        for coder in CODERS:
            model = with_coder(folder, coder)
            sizes.append(sum(len(model.encode(pixels, SHEET_QUALITY)) for pixels in pictures[label]))
        lines.append([label, *map(str, sizes), f"{100 * (sizes[1] / sizes[0] - 1):+.1f} %"])
    return table([f"bytes of all files, quality {SHEET_QUALITY:g}", *CODERS, "gain"], lines)


def map_over(model: Model, data: bytes, pixels: np.ndarray) -> np.ndarray:
    """The file's importance as grey blocks, 0 black and 3 white, blended over the picture's luma."""
    importance = model.symbols(data).importance.mean(0) * (255 / HIGHEST)
    size = pixels.shape[1], pixels.shape[0]
    stride = int(model.bundle.coding["stride"])
    blocks = np.repeat(np.repeat(importance, stride, 0), stride, 1)[: size[1], : size[0]]
    grey = pixels.mean(2) if pixels.ndim == 3 else pixels
    shade = np.rint(0.7 * blocks + 0.3 * grey).astype(np.uint8)
    return np.repeat(shade[:, :, None], 3, 2)


def rgb(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[:, :, None], 3, 2) if pixels.ndim == 2 else pixels


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Small pictures by a whole factor, of large ones the middle: all of one size."""
    factor = max(1, ENLARGED_PX // max(pixels.shape[:2]))
    large = np.repeat(np.repeat(rgb(pixels), factor, 0), factor, 1)
    top, left = (max(0, (side - ENLARGED_PX) // 2) for side in large.shape[:2])
    return np.ascontiguousarray(large[top : top + ENLARGED_PX, left : left + ENLARGED_PX])


def map_sheet(entries: Sequence[tuple[str, Model, np.ndarray]], target: Path) -> None:
    """Of each picture: itself, its importance, and what is decoded."""
    tiles, captions = [], []
    for name, model, pixels in entries:
        data = model.encode(pixels, SHEET_QUALITY)
        decoded = np.asarray(model.decode(data))
        tiles += [enlarged(pixels), enlarged(map_over(model, data, pixels)), enlarged(decoded)]
        rate = f"{8 * len(data) / (pixels.shape[0] * pixels.shape[1]):.3f} bpp, {psnr(pixels, decoded):.2f} dB"
        captions += [(name, "original"), ("importance", "white: 6 bits kept, black: none"), ("decoded", rate)]
    draw_sheet(tiles, captions).save(target, "JPEG", quality=80)


def roi_sheet(model: Model, name: str, pixels: np.ndarray, target: Path) -> str:
    """One picture at a low quality without and with a disc in its middle as region of interest; PSNR inside and outside."""
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - height / 2, columns - width / 2) < min(height, width) / 4
    tiles, captions, lines = [enlarged(pixels)], [(name, "original")], []
    mask = np.where(inside, 255, 0).astype(np.uint8)
    files = {
        f"without `--roi`, quality {ROI_QUALITY:g}": model.encode(pixels, ROI_QUALITY),
        f"with `--roi`, quality {ROI_QUALITY + ROI_RISE:g}, `--roi-drop` {ROI_RISE:g}": model.encode(
            pixels, ROI_QUALITY + ROI_RISE, roi=mask, roi_drop=ROI_RISE
        ),
    }
    for label, data in files.items():
        decoded = np.asarray(model.decode(data))
        within, outside = (
            10 * np.log10(255**2 / np.square(decoded[where].astype(float) - pixels[where]).mean()) for where in (inside, ~inside)
        )
        bpp = 8 * len(data) / (height * width)
        tiles += [enlarged(decoded), enlarged(map_over(model, data, pixels))]
        captions += [
            (label.split(",")[0].replace("`--roi`", "region of interest"), f"{bpp:.3f} bpp, {within:.2f} dB in it"),
            ("importance", ""),
        ]
        lines.append([label, f"{bpp:.3f}", f"{within:.2f}", f"{outside:.2f}"])
    draw_sheet(tiles, captions).save(target, "JPEG", quality=80)
    return table([name, "bpp", "PSNR in the region", "PSNR outside"], lines)


def pictures_in(folder: Path, limit: int | None) -> dict[str, np.ndarray]:
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".png")[:limit]
    if not paths:
        raise SystemExit(f"{folder}: no PNG pictures")
    return {path.name: np.asarray(Image.open(path)) for path in paths}


def run(options: argparse.Namespace) -> None:
    digits = pictures_in(options.mnist, options.limit)
    photos = pictures_in(options.photos, options.limit)
    models = {family: load_model(f"{options.bundles}-{family}") for family in FAMILIES}
    photo_model = load_model(options.photo_model)
    runs = {"ours": {family: scores(model, list(digits.values()), SHEET_QUALITY) for family, model in models.items()}}
    for entry in options.other:
        label, prefix = entry.split("=", 1)
        found = {family: load_model(f"{prefix}-{family}") for family in FAMILIES}
        runs[label] = {family: scores(model, list(digits.values()), SHEET_QUALITY) for family, model in found.items()}
    folder = PAGE.parent
    named = [list(photos)[k] for k in options.photo if k < len(photos)]
    first = [(name, models["content-weighted"], digits[name]) for name in list(digits)[:2]]
    map_sheet([*first, *((name, photo_model, photos[name]) for name in named)], folder / "content-weighted-maps.jpg")
    roi = roi_sheet(photo_model, named[0], photos[named[0]], folder / "content-weighted-roi.jpg")
    coded = {f"{family}, MNIST": f"{options.bundles}-{family}" for family in FAMILIES}
    coded["content-weighted, photographs"] = options.photo_model
    sets = {label: list(photos.values()) if "photographs" in label else list(digits.values()) for label in coded}
    photo_bpp, _, photo_db = means(scores(photo_model, list(photos.values()), SHEET_QUALITY))
    command = shlex.join(["python", "benchmarks/content_weighted.py", *sys.argv[1:]])
    parts = [
        f"Printed by `{command}`; bytes on disk, with headers and code tables.",
        source_table(runs, len(digits)),
        bar_lines(models, list(digits.values())),
        coder_table(coded, sets),
        f"The colour model on {len(photos)} photographs at quality {SHEET_QUALITY:g}: {photo_bpp:.3f} bpp, "
        f"{METRICS['psnr'].label} {photo_db:.2f} dB.",
        roi,
    ]
    text = "\n\n".join(parts)
    print(text)
    PAGE.write_text(with_block(PAGE.read_text(), BEGIN, END, text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, help="folder of test pictures")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument(
        "--bundles", required=True, metavar="PREFIX", help="models trained on MNIST: PREFIX-FAMILY for each family"
    )
    parser.add_argument("--other", action="append", default=[], metavar="LABEL=PREFIX", help="further ones; may be given again")
    parser.add_argument("--photo-model", required=True, metavar="BUNDLE", help="content-weighted, trained on colour photographs")
    parser.add_argument("--photo", type=int, nargs="+", default=[22, 7], help="numbers of the photographs on the sheet")
    parser.add_argument("--limit", type=int, help="take only the first N pictures of each set")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

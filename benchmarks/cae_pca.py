# SPDX-License-Identifier: MIT
"""Measure the autoencoder with principal components as its source does, and write the numbers, plots and sheet of
docs/reproductions/cae-pca.md.

Rate-distortion on photographs against JPEG and JPEG 2000; file sizes beside the entropy that the replication used as an estimate;
what the rotation, whole pictures and more photographs give; seconds a picture. Needs the extras `train` and `bench`.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
from PIL import Image

from fewbits import FewbitsError, load_model
from fewbits.bench.codecs import JPEG, BundleCodec, Codec, find_codec
from fewbits.bench.gallery import draw_sheet, middle
from fewbits.bench.journal import Journal
from fewbits.bench.measure import Plan, Row, find_pictures, measure, pixels_of
from fewbits.bench.metrics import METRICS
from fewbits.bench.plots import COLOURS, Style, plot
from fewbits.bench.seams import border_excess
from fewbits.bench.summary import comparisons, mean_curves
from fewbits.bench.text import table, with_block
from fewbits.coding.adaptive import encode_maps
from fewbits.coding.huffman import ideal_bits
from fewbits.families.cae_pca import N_PLANES, CaePca
from fewbits.fidelity import psnr
from fewbits.processor import cores
from fewbits.training import export
from fewbits.training.data import decode_rgb
from fewbits.training.data import find_pictures as find_training_pictures

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reproductions" / "cae-pca.md"
BEGIN, END = "<!-- numbers: written by benchmarks/cae_pca.py -->", "<!-- end of numbers -->"
WORK: Final = Path("runs/cae-pca")
SHIPPED: Final = "cae-pca"
CURVE: Final = tuple(map(float, range(0, 101, 20)))
SCORED: Final = ("psnr", "ssim")
BLOCK_PX: Final = 128
TRAINING_PX, N_TRAINING = 512, 24  # of the training pictures the middle
SOURCE_RATE: Final = -13.7  # percent against JPEG 2000 at equal PSNR on Kodak
SOURCE_SECONDS: Final = {"JPEG": 0.39, "JPEG 2000": 0.59, "Balle 2017, CPU": 7.39, "CAE, CPU": 2.29, "CAE, GPU": 0.67}
REPLICATION: Final = ((12, 29.1, 0.91), (12, 29.6, 0.87))  # precision B, PSNR, SSIM; the rate is not told
BAR: Final = (30.0, 0.9, 1.5)  # PSNR, SSIM, bits per pixel
SEAM_QUALITY: Final = 40.0
TIMED: Final = {"jpeg": 75.0, "jpeg2000": 0.9, SHIPPED: 50.0, "few": 60.0}  # near 32 dB on Kodak


@dataclass(frozen=True)
class Sizes:
    """Of one picture at one quality: bytes on disk, and what two estimates say."""

    file: int
    by_plane: float  # bytes; the source's estimate: order-0 entropy of each plane's symbols
    by_map: float  # bytes; that of each map by itself


def entropy_bytes(values: np.ndarray) -> float:
    """Order-0 entropy of all values together, times their number."""
    return ideal_bits([values]) / 8


def sizes_of(model_name: str, pixels: np.ndarray, quality: float) -> Sizes:
    model = load_model(model_name)
    data = model.encode(pixels, quality)
    latent = model.symbols(data).latent
    planes = latent.reshape(N_PLANES, -1)
    return Sizes(len(data), sum(map(entropy_bytes, planes)), sum(map(entropy_bytes, latent)))


def variant(bundle: str, name: str, *, rotate: bool = True, **changes: Any) -> str:
    """A bundle's model with another config, or without the rotation (its maps are then only sorted): its folder."""
    import torch

    model: CaePca = export.load_model(load_model(bundle).bundle)
    changed = CaePca(replace(model.config, **changes))
    changed.load_state_dict(model.state_dict())
    if not rotate:
        outer = changed.mean[:, :, None] * changed.mean[:, None]
        changed.square = torch.diag_embed((changed.square - outer).diagonal(dim1=1, dim2=2)) + outer
    folder = WORK / name
    export.write_folder(folder, export.bundle_files("cae-pca", changed, {"architecture": asdict(changed.config)}))
    return str(folder)


def ours(label: str, model: str) -> BundleCodec:
    return BundleCodec(label, model, settings=CURVE)


def measured(folder: Path, codecs: Sequence[Codec], options: argparse.Namespace, limit: int | None) -> list[Row]:
    WORK.mkdir(parents=True, exist_ok=True)
    journal = Journal(WORK / "journal.jsonl")
    plan = Plan(find_pictures([folder], limit), tuple(codecs), SCORED, jobs=options.jobs, threads=1, timing=False)
    rows = measure(plan, journal)
    journal.close()
    if failed := [row for row in rows if row["error"]]:
        raise SystemExit(f"{len(failed)} rows failed, the first: {failed[0]['image']}: {failed[0]['error']}")
    return rows


def point(rows: Sequence[Row], codec: str, setting: float) -> dict[str, float]:
    """Means over pictures."""
    chosen = [row for row in rows if row["codec"] == codec and row["setting"] == setting]
    return {name: mean(float(row[name]) for row in chosen) for name in ("bpp", *SCORED)}


def rate_table(rows: Sequence[Row], models: Mapping[str, str]) -> str:
    """Every point of every model, and whether the bar is met there."""
    lines = []
    for label, name in models.items():
        coding = load_model(name).bundle.coding
        architecture = load_model(name).bundle.card.get("architecture", {})
        low, high = architecture.get("lowest", np.nan), architecture.get("highest", np.nan)
        for quality in CURVE:
            found = point(rows, label, quality)
            nearest = round(quality / 100 * (len(coding["levels"]) - 1)) / (len(coding["levels"]) - 1)
            met = found["psnr"] > BAR[0] and found["ssim"] > BAR[1] and found["bpp"] < BAR[2]
            cells = [f"{found['bpp']:.3f}", f"{found['psnr']:.2f}", f"{found['ssim']:.4f}", "yes" if met else ""]
            lines.append([f"{label}, quality {quality:g}", f"{low + nearest * (high - low):.2f}", *cells])
    for precision, psnr_db, similarity in REPLICATION:
        lines.append(["the replication", str(precision), "-", f"{psnr_db}", f"{similarity}", ""])
    bar = f"over {BAR[0]:g} dB and {BAR[1]:g} under {BAR[2]:g} bpp"
    return table(["Kodak", "B", "bpp", "PSNR", "SSIM", bar], lines)


def bd_table(rows: Sequence[Row], codecs: Sequence[Codec]) -> str:
    """Bjontegaard rates against JPEG and JPEG 2000."""
    curves = mean_curves(rows, [codec.name for codec in codecs], SCORED)
    rates = {(c.test, c.anchor, c.metric): c.rate_percent for c in comparisons(curves, ["jpeg", "jpeg2000"])}
    lines = []
    for codec in codecs:
        cells = []
        for anchor in ("jpeg", "jpeg2000"):
            for metric in SCORED:
                rate = rates.get((codec.name, anchor, metric))
                cells.append("-" if rate is None else f"{rate:+.1f} %")
        lines.append([codec.label, *cells])
    lines.append(["the paper", "", "", f"{SOURCE_RATE:+.1f} %", ""])
    return table(["Bjontegaard rate", "PSNR, JPEG", "SSIM, JPEG", "PSNR, JPEG 2000", "SSIM, JPEG 2000"], lines)


def size_table(models: Mapping[str, str], pictures: Sequence[np.ndarray]) -> str:
    """Bytes on disk beside the source's estimate of them."""
    lines = []
    for label, name in models.items():
        for quality in CURVE[1:]:
            found = [sizes_of(name, pixels, quality) for pixels in pictures]
            file, plane, by_map = (sum(getattr(each, part) for each in found) for part in ("file", "by_plane", "by_map"))
            longer = sum(each.file > each.by_plane for each in found)
            cells = [f"{file}", f"{plane:.0f}", f"{100 * (file / plane - 1):+.1f} %", f"{100 * (file / by_map - 1):+.1f} %"]
            lines.append([f"{label}, quality {quality:g}", *cells, f"{longer} of {len(found)}"])
    return table(
        ["model", "bytes on disk", "the source's estimate", "files against it", "against the maps' own", "longer"], lines
    )


def time_table(folder: Path, options: argparse.Namespace) -> str:
    """Seconds a Kodak picture, all threads, taking turns in one run; beside the paper's."""
    codecs = [replace(find_codec(name), settings=(setting,)) for name, setting in TIMED.items()]  # type: ignore[type-var]
    journal = Journal(WORK / "times.jsonl")
    pictures = find_pictures([folder], options.limit)
    rows = measure(Plan(pictures, tuple(codecs), SCORED, jobs=options.jobs, threads=cores()), journal)
    journal.close()
    lines = []
    for codec in codecs:
        chosen = [row for row in rows if row["codec"] == codec.name]
        encode, decode, db = (float(np.median([row[name] for row in chosen])) for name in ("encode_s", "decode_s", "psnr"))
        lines.append([f"{codec.label}, {db:.1f} dB", f"{encode:.3f}", f"{decode:.3f}", f"{encode + decode:.3f}"])
    lines += [[f"the paper: {label}", "", "", f"{seconds:.2f}"] for label, seconds in SOURCE_SECONDS.items()]
    return table(["seconds a Kodak picture", "encoding", "decoding", "both"], lines)


def maps_plot(model_name: str, pictures: Sequence[np.ndarray], target: Path) -> str:
    """Energy and bytes of each map, drawn; and how many carry nothing, with what they cost, in words."""
    import matplotlib
    from matplotlib.figure import Figure

    model = load_model(model_name)
    level = model.pipeline.level(round(SEAM_QUALITY * 100), "rgb")
    n_all = level.width
    energy, coded, silent, silent_bytes, total = np.zeros(n_all), np.zeros(n_all), 0, 0, 0
    for pixels in pictures:
        y = model.pipeline.analyse(pixels, level, lambda _: None)
        symbols = model.pipeline.quantize(y, level)[0].latent
        energy += np.square(y - y.mean((1, 2), keepdims=True)).mean((1, 2)) / len(pictures)
        coded += np.array([len(encode_maps(plane[None])) for plane in symbols]) / len(pictures)
        nothing = ~symbols.any((1, 2))
        whole = len(encode_maps(symbols))
        silent += int(nothing.sum())
        silent_bytes += whole - len(encode_maps(symbols[~nothing]))
        total += whole
    n_maps = n_all // N_PLANES
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for plane, (name, colour) in enumerate(zip(("Y", "Cb", "Cr"), ("#37474f", "#1565c0", "#c2185b"), strict=True)):
        part = slice(plane * n_maps, (plane + 1) * n_maps)
        top.semilogy(range(1, n_maps + 1), np.maximum(energy[part], 1e-9), "o-", color=colour, markersize=4, label=name)
        bottom.bar(np.arange(1, n_maps + 1) + 0.27 * (plane - 1), coded[part], 0.27, color=colour)
    top.set_ylabel("energy of the map")
    top.legend(frameon=False)
    top.set_title(
        f"Maps of {len(pictures)} pictures, sorted by energy; bytes at quality {SEAM_QUALITY:g}", loc="left", fontsize=10
    )
    bottom.set_ylabel("bytes, coded alone")
    bottom.set_xlabel("map")
    with matplotlib.rc_context({"svg.hashsalt": "fewbits"}):
        figure.savefig(target, metadata={"Date": None})
    first = 100 * float(energy[0] / energy.sum())
    return (
        f"The first map of Y holds {first:.1f} % of all energy. At quality {SEAM_QUALITY:g} {silent} of "
        f"{energy.size * len(pictures)} maps hold only zeros; leaving them out would save {silent_bytes} of {total} bytes."
    )


def seam_table(models: Mapping[str, str], pictures: Sequence[np.ndarray]) -> str:
    """The coding error's gradient at the borders of 128x128 blocks over that elsewhere, and its mean PSNR."""
    lines = []
    for label, name in models.items():
        model, found = load_model(name), []
        for pixels in pictures:
            decoded = np.asarray(model.decode(model.encode(pixels, SEAM_QUALITY)))
            found.append((border_excess(pixels, decoded, BLOCK_PX, 8), psnr(pixels, decoded)))
        excess, db = np.mean(found, axis=0)
        lines.append([label, f"{excess:.3f}", f"{db:.2f}"])
    return table([f"quality {SEAM_QUALITY:g}", "error's gradient at block borders over elsewhere", "PSNR"], lines)


def training_pictures(tars: Sequence[Path], exclude: Sequence[str]) -> Iterator[np.ndarray]:
    """The middles of N_TRAINING pictures, spread over the training set."""
    items = find_training_pictures(tars, exclude)
    for k in np.linspace(0, len(items) - 1, N_TRAINING).astype(int):
        pixels = decode_rgb(items[k])
        if pixels is not None:
            top, left = ((side - min(side, TRAINING_PX)) // 2 for side in pixels.shape[:2])
            yield np.ascontiguousarray(pixels[top : top + TRAINING_PX, left : left + TRAINING_PX])


def generalization_table(models: Mapping[str, str], kodak: Sequence[Row], options: argparse.Namespace) -> str:
    """Bjontegaard rates against JPEG on pictures that were trained on, beside those on Kodak."""
    folder = WORK / "training"
    folder.mkdir(parents=True, exist_ok=True)
    for k, pixels in enumerate(training_pictures(options.train, options.exclude)):
        Image.fromarray(pixels).save(folder / f"{k:03}.png")
    codecs: list[Codec] = [*(ours(label, name) for label, name in models.items()), JPEG]
    lines = []
    both = {"trained on": measured(folder, codecs, options, options.limit), "Kodak": kodak}
    rates = {
        where: {c.test: c.rate_percent for c in comparisons(mean_curves(rows, [c.name for c in codecs], ("psnr",)), ["jpeg"])}
        for where, rows in both.items()
    }
    for label in models:
        found = [rates[where].get(label) for where in both]
        lines.append([label, *("-" if rate is None else f"{rate:+.1f} %" for rate in found)])
    return table(["Bjontegaard rate against JPEG, PSNR", "pictures trained on", "Kodak"], lines)


def sheet(models: Mapping[str, tuple[str, float]], pixels: np.ndarray, name: str, target: Path) -> None:
    """A picture's middle, then what each model makes of the whole picture at a quality."""
    tiles, captions = [middle(pixels)], [(name, "original")]
    for label, (path, quality) in models.items():
        model = load_model(path)
        data = model.encode(pixels, quality)
        decoded = np.asarray(model.decode(data))
        tiles.append(middle(decoded))
        captions.append((label, f"{8 * len(data) / pixels[..., 0].size:.3f} bpp, {psnr(pixels, decoded):.2f} dB"))
    draw_sheet([np.ascontiguousarray(tile) for tile in tiles], captions).save(target, "JPEG", quality=85)


def quality_near(rows: Sequence[Row], codec: str, image: str, bpp: float) -> float:
    """The measured quality whose file of a picture is nearest to a rate."""
    chosen = [row for row in rows if row["codec"] == codec and row["image"] == image]
    return float(min(chosen, key=lambda row: abs(np.log(row["bpp"] / bpp)))["setting"])


def run(options: argparse.Namespace) -> None:
    models = {"shipped": SHIPPED} | dict(entry.split("=", 1) for entry in options.model)
    source = options.source
    if source:
        models |= {"source": source}
    variants = {"shipped, in blocks": variant(SHIPPED, "blocks", block=BLOCK_PX),
                "shipped, not rotated": variant(SHIPPED, "plain", rotate=False)}  # fmt: skip
    if source:
        variants |= {"source, in blocks": variant(source, "source-blocks", block=BLOCK_PX),
                     "source, to B = 12": variant(source, "source-12", block=BLOCK_PX, highest=12.0, levels=73),
                     "source, not rotated": variant(source, "source-plain", rotate=False)}  # fmt: skip
    everything = models | variants
    codecs: list[Codec] = [*(ours(label, name) for label, name in everything.items()), JPEG, find_codec("jpeg2000")]
    rows = measured(options.kodak, codecs, options, options.limit)
    pictures = [pixels_of(picture.path) for picture in find_pictures([options.kodak], options.limit)]
    folder = PAGE.parent
    tabled = models | {label: name for label, name in variants.items() if "12" in label}
    styles = {codec.name: Style(codec.label, COLOURS[k % len(COLOURS)], False) for k, codec in enumerate(codecs)}
    drawn = [*models, "jpeg", "jpeg2000"]
    for metric in SCORED:
        curves = mean_curves(rows, drawn, (metric,))
        plot(folder / f"cae-pca-{metric}.svg", curves, styles, f"{METRICS[metric].label} on Kodak")
    photo = find_pictures([options.kodak])[options.photo]
    labels = {"shipped": SHIPPED} | ({"source, in blocks": variants["source, in blocks"]} if source else {})
    chosen = {label: (name, quality_near(rows, label, photo.name, 0.6)) for label, name in labels.items()}
    sheet(chosen, pixels_of(photo.path), photo.name, folder / "cae-pca-photo.jpg")
    command = shlex.join(["python", "benchmarks/cae_pca.py", *sys.argv[1:]])
    seams = {label: name for label, name in everything.items() if label in models or "blocks" in label}
    parts = [
        f"Printed by `{command}`; bytes on disk, means over pictures.",
        rate_table(rows, tabled),
        bd_table(rows, codecs),
        "Bytes of all Kodak files:",
        size_table(models, pictures),
        maps_plot(SHIPPED, pictures, folder / "cae-pca-maps.svg"),
        seam_table(seams, pictures),
        generalization_table(models, rows, options),
        "Medians over Kodak, all threads, codecs taking turns in one run:",
        time_table(options.kodak, options),
    ]
    text = "\n\n".join(parts)
    print(text)
    PAGE.write_text(with_block(PAGE.read_text(), BEGIN, END, text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kodak", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--train", type=Path, action="append", required=True, help="the training pictures; may be given again")
    parser.add_argument("--exclude", action="append", default=[], help="as in `fewbits train`")
    parser.add_argument("--source", metavar="BUNDLE", help="a model trained as the source does")
    parser.add_argument("--model", action="append", default=[], metavar="LABEL=BUNDLE", help="another one; may be given again")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (default: the cores)")
    parser.add_argument("--limit", type=int, help="take only the first N pictures of each set")
    parser.add_argument("--photo", type=int, default=22, help="number of the photograph on the sheet")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

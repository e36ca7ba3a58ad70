# SPDX-License-Identifier: MIT
"""Measure the ResNet autoencoder as its source does, and print the numbers of docs/reproductions/resnet101.md.

Bundles that were trained with different losses, each picture at each number of bits: SSIM, PSNR and the bytes of a real file,
the same table from the source, and whether its two claims hold. Needs the extra `bench`.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np

from fewbits import FewbitsError, load_model
from fewbits.bench.measure import find_pictures, pixels_of
from fewbits.bench.text import table
from fewbits.codec import Model
from fewbits.fidelity import psnr
from fewbits.structure import ssim

BEST: Final = "mse+0.1 vgg"  # the loss that the source claims to be better than the others
# S1 of the sources: image, bits -> SSIM, PSNR of MSE, of MSE + 0.1 VGG, of MSE + 1 VGG
SOURCE: Final = {
    ("1", 2): ((0.1934, 27.32), (0.4598, 28.65), (0.2152, 28.33)),
    ("1", 8): ((0.2445, 28.32), (0.5369, 29.12), (0.2194, 28.38)),
    ("2", 2): ((0.5245, 28.13), (0.7252, 29.35), (0.3997, 28.81)),
    ("2", 8): ((0.5634, 29.01), (0.8228, 30.96), (0.4081, 28.53)),
    ("3", 2): ((0.5436, 27.56), (0.7277, 29.52), (0.4322, 28.81)),
    ("3", 8): ((0.6838, 29.95), (0.8283, 31.65), (0.4398, 28.95)),
}
SOURCE_LOSSES: Final = ("mse", BEST, "mse+1 vgg")
SOURCE_KB: Final = {2: 12, 8: 155}


@dataclass(frozen=True)
class Score:
    """Of one picture at one number of bits."""

    ssim: float
    psnr: float
    kilobytes: float = 0.0  # of 1000 bytes


Scores = Mapping[tuple[str, int], Mapping[str, Score]]  # picture, bits -> loss -> score


def quality_of(model: Model, bits: int) -> float:
    """The quality whose level rounds to 2^bits - 1 steps. Raises FewbitsError."""
    gains = [gain for _, gain in model.bundle.coding["levels"]]
    if 2**bits - 1 not in gains:
        raise FewbitsError(f"the model {model.bundle.model_id.hex()} has no level of {bits} bits")
    return 100 * gains.index(2**bits - 1) / (len(gains) - 1)


def measured(models: Mapping[str, Model], pictures: Mapping[str, np.ndarray], bits: Sequence[int]) -> Scores:
    """Every picture through every model, from pixels to a file and back."""
    found: dict[tuple[str, int], dict[str, Score]] = {}
    for name, pixels in pictures.items():
        for n_bits in bits:
            for loss, model in models.items():
                data = model.encode(pixels, quality_of(model, n_bits))
                decoded = np.asarray(model.decode(data))
                score = Score(ssim(pixels, decoded), psnr(pixels, decoded), len(data) / 1000)
                found.setdefault((name, n_bits), {})[loss] = score
    return found


def with_means(scores: Scores) -> Scores:
    """The same, and means over pictures at each number of bits, under the name `mean`."""
    means = {}
    for bits in sorted({bits for _, bits in scores}):
        rows = [by_loss for (_, n_bits), by_loss in scores.items() if n_bits == bits]
        parts = {loss: [row[loss] for row in rows] for loss in rows[0]}
        means["mean", bits] = {
            loss: Score(mean(s.ssim for s in part), mean(s.psnr for s in part), mean(s.kilobytes for s in part))
            for loss, part in parts.items()
        }
    return {**scores, **means}


def score_table(scores: Scores, title: str) -> str:
    """A row for each picture and number of bits, a column for each loss."""
    lines = []
    for (name, bits), by_loss in scores.items():
        cells = []
        for score in by_loss.values():
            size = f", {score.kilobytes:.1f} kB" if score.kilobytes else ""
            cells.append(f"{score.ssim:.4f}, {score.psnr:.2f}{size}")
        lines.append([name, str(bits), *cells])
    return table([title, "bits", *next(iter(scores.values()))], lines)


def more_bits(scores: Scores) -> Iterator[tuple[Score, Score]]:
    """Pairs of which the first should be better: of one picture and loss, with more bits and with fewer."""
    for (name, bits), by_loss in scores.items():
        for (other, fewer), with_fewer in scores.items():
            if name == other and fewer < bits:
                yield from ((score, with_fewer[loss]) for loss, score in by_loss.items())


def better_loss(scores: Scores) -> Iterator[tuple[Score, Score]]:
    """Likewise: of one picture and number of bits, with the loss BEST and with another one."""
    for by_loss in scores.values():
        if BEST in by_loss:
            yield from ((by_loss[BEST], score) for loss, score in by_loss.items() if loss != BEST)


def verdict(claim: str, pairs: Sequence[tuple[Score, Score]]) -> str:
    """One line: whether the first of every pair is better by both metrics, and how often by either."""
    if not pairs:
        return f"- {claim}: not measured"
    by_ssim = sum(first.ssim > second.ssim for first, second in pairs)
    by_psnr = sum(first.psnr > second.psnr for first, second in pairs)
    met = "met" if by_ssim == by_psnr == len(pairs) else "not met"
    return f"- {claim}: **{met}**, in {by_ssim} of {len(pairs)} comparisons by SSIM, in {by_psnr} by PSNR"


def verdicts(scores: Scores) -> str:
    bits = sorted({bits for _, bits in scores})
    return "\n".join(
        [
            verdict(f"{' > '.join(map(str, reversed(bits)))} bits: more are better", list(more_bits(scores))),
            verdict(f"{BEST} beats the other losses", list(better_loss(scores))),
        ]
    )


def run(options: argparse.Namespace) -> None:
    models = {label: load_model(folder) for label, _, folder in (entry.rpartition("=") for entry in options.bundle)}
    pictures = {picture.name: pixels_of(picture.path) for picture in find_pictures(options.pictures, options.limit)}
    scores = measured(models, pictures, options.bits)
    source = {key: {loss: Score(*values) for loss, values in zip(SOURCE_LOSSES, row, strict=True)} for key, row in SOURCE.items()}
    command = shlex.join(["python", "benchmarks/resnet101.py", *sys.argv[1:]])
    sizes = ", ".join(f"{size} kB at {bits} bits" for bits, size in SOURCE_KB.items())
    print(
        f"Printed by `{command}`; SSIM, PSNR and the bytes of a file.",
        score_table(with_means(scores), "picture"),
        verdicts(scores),
        f"The source, on three pictures of its own, about {sizes}, estimated; it wrote no files:",
        score_table(source, "image"),
        verdicts(source),
        sep="\n\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", action="append", required=True, metavar="LOSS=BUNDLE", help="a model; may be given again")
    parser.add_argument("--pictures", type=Path, action="append", required=True, help="a folder; may be given again")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 8], help="numbers of bits (default: 2 8)")
    parser.add_argument("--limit", type=int, help="take only the first N pictures")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Fits what fewbits.typical.LINES says to photographs, prints it, and how well it does on others.

Every picture, its middle where it is large, is coded at eleven qualities and measured. Then: at the middle quality the score as a
line over the picture's detail, at the others as lines over that score; twice, the twentieth that fits worst, graphics as a rule,
left out the second time.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from fewbits import FewbitsError, load_model, typical
from fewbits.attempts import MEASURES
from fewbits.codec import Model

POINTS: Final = 11
MOST_PX: Final = (720, 912)  # of the middle that is taken
FEWEST_PX: Final = 200  # a side
LEFT_OUT: Final = 0.05


def photographs(source: Path, limit: int) -> Iterator[np.ndarray]:
    """Of a folder, sorted, or of a tar archive, as they come."""
    if source.is_dir():
        files: Iterator[io.BytesIO] = (io.BytesIO(path.read_bytes()) for path in sorted(source.iterdir()))
        yield from middles(files, limit)
        return
    with tarfile.open(source) as archive:
        parts = (archive.extractfile(member) for member in archive)
        yield from middles((io.BytesIO(part.read()) for part in parts if part), limit)


def middles(files: Iterator[io.BytesIO], limit: int) -> Iterator[np.ndarray]:
    found = 0
    for file in files:
        if found == limit:
            return
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        if min(pixels.shape[:2]) >= FEWEST_PX:
            cut = [slice((side - most) // 2, (side + most) // 2) if side > most else slice(None)
                   for side, most in zip(pixels.shape, MOST_PX, strict=False)]  # fmt: skip
            found += 1
            yield np.ascontiguousarray(pixels[cut[0], cut[1]])


def scores(model: Model, pixels: np.ndarray) -> np.ndarray:
    """(metrics, POINTS)."""
    pipeline, found = model.pipeline, []
    y = pipeline.analyse(pixels, pipeline.level(0, "rgb"), lambda _: None)
    for position in np.linspace(0, len(pipeline.qualities) - 1, POINTS).round().astype(int):
        level = pipeline.level(pipeline.qualities[position], "rgb")
        decoded = pipeline.synthesise(pipeline.requantize(y, level), pixels.shape[0], pixels.shape[1], level, lambda _: None)
        found.append([measure.axis(measure.of(pixels, decoded)) for measure in MEASURES.values()])
    return np.array(found).T


def fitted(features: np.ndarray, curves: np.ndarray) -> typical.Line:
    """features: (pictures, n); curves: (pictures, POINTS)."""
    middle, kept = curves[:, POINTS // 2], np.arange(len(curves))
    weights = np.zeros(features.shape[1])
    for _ in range(2):
        weights = np.linalg.lstsq(features[kept], middle[kept], rcond=None)[0]
        errors = np.abs(features @ weights - middle)
        kept = np.argsort(errors)[: round(len(errors) * (1 - LEFT_OUT))]
    design = np.stack([np.ones(len(kept)), middle[kept]], axis=1)
    at, by = np.linalg.lstsq(design, curves[kept], rcond=None)[0]
    return typical.Line(tuple(weights.round(4).tolist()), tuple(at.round(3).tolist()), tuple(by.round(4).tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fit", type=Path, help="a folder or a tar archive of photographs to fit to")
    parser.add_argument("check", type=Path, help="others, to see how well it does")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument("--limit", type=int, default=120, help="take only the first N (default %(default)s)")
    options = parser.parse_args()
    try:
        model = load_model(options.model, threads=1, precision="fp32")
        rows = [
            [(typical.features(pixels), scores(model, pixels)) for pixels in photographs(source, options.limit)]
            for source in (options.fit, options.check)
        ]
    except (FewbitsError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{options.model}, fitted to {len(rows[0])} pictures, errors on {len(rows[1])} others, at the middle quality\n")
    for k, name in enumerate(MEASURES):
        (features, curves), (others, theirs) = ((np.stack(side) for side in zip(*part, strict=True)) for part in rows)
        line = fitted(features, curves[:, k])
        errors = np.abs(others @ line.middle - theirs[:, k, POINTS // 2])
        print(f'    "{name}": Line(\n        {line.middle},\n        {line.at},\n        {line.by},\n    ),')
        print(f"    # errors: median {np.median(errors):.2f}, most {errors.max():.2f}")


if __name__ == "__main__":
    main()

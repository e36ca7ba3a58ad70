# SPDX-License-Identifier: MIT
"""Makes the golden files: NAME.few, NAME.png (what it decodes to) and NAME.json (the SHA-256 of its symbols, and versions).

    python tests/golden/make.py [--out FOLDER] [--force]

Released golden files stay for ever: they prove that old files still decode. So this refuses to change one without --force,
and says what would change. Needs scikit-image's data folder. Run it when a new model ships, under new names for it.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fewbits import __version__
from fewbits.codec import load_model
from fewbits.container import parse_header
from fewbits.runtime.hyperprior import Symbols

# name: model, picture of scikit-image, (top, left, height, width), quality
CASES = {
    "rgb-100x70-q25": ("few-psnr", "astronaut.png", (20, 190, 100, 70), 25),
    "rgb-100x70-q80": ("few-psnr", "astronaut.png", (20, 190, 100, 70), 80),
    "grey-61x47-q25": ("few-psnr", "camera.png", (60, 200, 61, 47), 25),
    "grey-61x47-q80": ("few-psnr", "camera.png", (60, 200, 61, 47), 80),
    "visual-rgb-100x70-q25": ("few", "astronaut.png", (20, 190, 100, 70), 25),
    "visual-rgb-100x70-q80": ("few", "astronaut.png", (20, 190, 100, 70), 80),
    "visual-grey-61x47-q25": ("few", "camera.png", (60, 200, 61, 47), 25),
    "visual-grey-61x47-q80": ("few", "camera.png", (60, 200, 61, 47), 80),
}


def symbols_sha256(symbols: Symbols) -> str:
    """Over the hyper symbols as int8, then the latent symbols as little-endian int16, in (channel, row, column) order."""
    return hashlib.sha256(symbols.hyper.astype("i1").tobytes() + symbols.latent.astype("<i2").tobytes()).hexdigest()


def crop(name: str, place: tuple[int, int, int, int]) -> np.ndarray:
    """Part of a picture that comes with scikit-image."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise SystemExit("this needs scikit-image, for its pictures")
    top, left, height, width = place
    with Image.open(Path(found.origin).parent / "data" / name) as picture:
        return np.asarray(picture)[top : top + height, left : left + width]


def make(name: str) -> dict[str, bytes]:
    """The three files of a case by extension."""
    model_name, source, place, quality = CASES[name]
    model = load_model(model_name, threads=1, precision="fp32")
    data = model.encode(crop(source, place), quality)
    png = io.BytesIO()
    model.decode(data).save(png, "PNG", optimize=True)
    header = parse_header(data)
    versions = {part: importlib.metadata.version(part) for part in ("constriction", "numpy", "onnxruntime", "Pillow")}
    described = {
        "symbols_sha256": symbols_sha256(model.symbols(data)),
        "width": header.width,
        "height": header.height,
        "colour": header.colour,
        "quality": header.quality,
        "model_id": header.model_id.hex(),
        "source": f"{source} of scikit-image, top, left, height, width {place}",
        "made_with": {"fewbits": __version__, **versions},
    }
    return {"few": data, "png": png.getvalue(), "json": (json.dumps(described, indent=1) + "\n").encode()}


def described_change(old: bytes, new: bytes, extension: str) -> str:
    """One line on how two versions of a file differ."""
    if extension == "json":
        before, after = json.loads(old), json.loads(new)
        return ", ".join(f"{key} {before.get(key)} -> {after.get(key)}" for key in after if before.get(key) != after.get(key))
    if extension == "png":
        one, other = (np.asarray(Image.open(io.BytesIO(data)), int) for data in (old, new))
        return (
            f"pixels move by up to {np.abs(one - other).max()}" if one.shape == other.shape else f"{one.shape} -> {other.shape}"
        )
    return f"{len(old)} -> {len(new)} bytes"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--force", action="store_true", help="change golden files that exist")
    options = parser.parse_args(arguments)
    files = {f"{name}.{extension}": data for name in CASES for extension, data in make(name).items()}
    changed = []
    for name, data in files.items():
        path = options.out / name
        if not path.exists():
            print(f"new      {name}, {len(data)} bytes")
        elif path.read_bytes() == data:
            print(f"the same {name}")
        else:
            changed.append(name)
            print(f"changed  {name}: {described_change(path.read_bytes(), data, path.suffix[1:])}")
    if changed and not options.force:
        print("nothing was written: golden files that exist are kept; --force changes them", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (options.out / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

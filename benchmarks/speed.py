# SPDX-License-Identifier: MIT
"""Speed of fewbits beside AVIF speed 6, WebP method 6 and JPEG, in one run on the same photographs.

Each peer works at the quality whose PSNR on that photograph is nearest to fewbits'. The codecs take turns photograph by
photograph, so that whatever else the machine does hits all alike. Needs fewbits' base dependencies; the default
photographs come with scikit-image.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Final, NamedTuple

import numpy as np
from demo import chosen, timed, verdict
from PIL import Image

from fewbits import FewbitsError, load_model
from fewbits.bench.codecs import AVIF, JPEG, WEBP, nearest_psnr
from fewbits.bench.record import cpu_name
from fewbits.codec import chosen_engine
from fewbits.fidelity import psnr
from fewbits.runtime.engines import INT8_ENGINES

ENCODE_BAR: Final = 3.0  # times AVIF's MP/s
FLOAT: Final = "fewbits, float"  # fp32, or what an engine of $FEWBITS_ENGINE makes of it
INT8: Final = "fewbits, int8"
DECODE_BARS_MPS: Final = {FLOAT: 9.0, INT8: 20.0}


class Sample(NamedTuple):
    """One codec on one photograph: bits per pixel, dB, and medians in megapixels a second."""

    bpp: float
    psnr: float
    encode_mps: float
    decode_mps: float


class Work(NamedTuple):
    """One codec at work on one photograph: calls that encode it, and that decode what was encoded."""

    data: bytes
    encode: Callable[[], bytes]
    decode: Callable[[], np.ndarray]


def works(pixels: np.ndarray, options: argparse.Namespace) -> dict[str, Work]:
    """Every codec, ready to be timed: networks loaded, qualities found."""
    model = load_model(options.model, threads=options.threads, precision="fp32")
    data = model.encode(pixels, options.quality)
    found = {FLOAT: Work(data, lambda: model.encode(pixels, options.quality), lambda: np.asarray(model.decode(data)))}
    if "int8" in model.bundle.variants and chosen_engine() in INT8_ENGINES:
        coarse = load_model(options.model, threads=options.threads, precision="int8")
        found[INT8] = Work(data, lambda: coarse.encode(pixels, options.quality), lambda: np.asarray(coarse.decode(data)))
    target_db = psnr(pixels, found[FLOAT].decode())
    for peer in (AVIF, WEBP, JPEG):
        quality, peer_data = nearest_psnr(peer, pixels, target_db, options.threads)
        found[peer.label] = Work(
            peer_data,
            lambda peer=peer, quality=quality: peer.encode(pixels, quality, options.threads),  # type: ignore[misc]
            lambda peer=peer, peer_data=peer_data: peer.decode(peer_data, options.threads),  # type: ignore[misc]
        )
    return found


def sample(pixels: np.ndarray, options: argparse.Namespace) -> dict[str, Sample]:
    """Time every codec on one photograph, taking turns."""
    codecs = works(pixels, options)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in codecs}
    for _ in range(options.repeat):
        for name, work in codecs.items():
            seconds[name].append((timed(work.encode)[1], timed(work.decode)[1]))
    n_px = pixels.shape[0] * pixels.shape[1]
    samples = {}
    for name, work in codecs.items():
        encode_s, decode_s = (median(times) for times in zip(*seconds[name], strict=True))
        bpp, score = 8 * len(work.data) / n_px, psnr(pixels, work.decode())
        samples[name] = Sample(bpp, score, n_px / 1e6 / encode_s, n_px / 1e6 / decode_s)
    return samples


def print_speed(samples: list[dict[str, Sample]]) -> None:
    print(f"\n{'codec':14} {'mean bpp':>9} {'mean dB':>8} {'encode MP/s':>12} {'decode MP/s':>12}   (medians)")
    encode_mps, decode_mps = {}, {}
    for name in samples[0]:
        own = [one[name] for one in samples]
        encode_mps[name], decode_mps[name] = median(s.encode_mps for s in own), median(s.decode_mps for s in own)
        means = f"{mean(s.bpp for s in own):9.3f} {mean(s.psnr for s in own):8.2f}"
        print(f"{name:14} {means} {encode_mps[name]:12.2f} {decode_mps[name]:12.2f}")
    faster = encode_mps[FLOAT] / encode_mps["AVIF"]
    print(f"\nencoding: {faster:.2f} times AVIF's speed; the bar is {ENCODE_BAR:g}: {verdict(faster >= ENCODE_BAR)}")
    for name, bar in DECODE_BARS_MPS.items():
        if name in decode_mps:
            mps = decode_mps[name]
            share = f"{mps:.2f} MP/s, 1/{decode_mps['WebP'] / mps:.0f} of WebP's"
            print(f"decoding{name.removeprefix('fewbits')}: {share}; the bar is {bar:g} MP/s: {verdict(mps >= bar)}")


def run(options: argparse.Namespace) -> None:
    paths = chosen(options.images)
    samples = []
    for path in paths[: options.limit]:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        samples.append(sample(pixels, options))
        own = samples[-1][FLOAT]
        print(f"{path.name}: {own.psnr:.2f} dB, {own.encode_mps:.2f} and {own.decode_mps:.2f} MP/s", file=sys.stderr)
    print(cpu_name())
    fewbits = f"fewbits by {chosen_engine()} at quality {options.quality:g}"
    print(f"{len(samples)} photographs, {options.threads} threads, {fewbits}, {options.repeat} repeats")
    print_speed(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="a folder of photographs (default: four of scikit-image's)")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument("--quality", type=float, default=60.0, help="fewbits' quality, 0 to 100 (default %(default)g)")
    parser.add_argument("--threads", type=int, default=2, help="of every codec that has them (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="times each is timed (default %(default)s)")
    parser.add_argument("--limit", type=int, default=8, help="take only the first N photographs (default %(default)s)")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Speed of fewbits beside CompressAI's `mbt2018-mean`, quality 3, its own compress and decompress, on the same pictures.

    python -m venv OTHER && OTHER/bin/pip install compressai
    python benchmarks/compressai.py ../shared/data/kodak --python OTHER/bin/python

CompressAI runs in that other interpreter, with as many threads, and takes turns with fewbits picture by picture. Where its
torchvision cannot be imported an empty package stands in for it: the codec uses nothing of it.

Its trained weights are not at hand: the weights are random, which changes nothing about the time of the networks. Entropy coding
takes the longer the more bits there are, so the last layers are scaled until the rate is --bpp (by default what was published for
quality 3 on Kodak); 0 leaves the weights as they are, which gives nearly empty streams. fewbits works at the quality that gives
each picture the same rate. On one thread times are of the process, which others on the machine change little; on several they
are of the clock. Writes the table into docs/performance.md.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import IO, Any, Final, NamedTuple

import numpy as np
from demo import chosen, verdict
from PIL import Image

from fewbits import FewbitsError, Target, inspect, load_model
from fewbits.bench.text import table, with_block
from fewbits.codec import Model, chosen_engine
from fewbits.stages import watched

BAR: Final = 8.0  # times its speed
QUALITY: Final = 3
PUBLISHED_BPP: Final = 0.307  # of that quality: the mean over Kodak
CODER_STAGES: Final = ("coder", "checksum")
WORKER: Final = Path(__file__).with_name("compressai_worker.py")
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- compressai: written by benchmarks/compressai.py -->", "<!-- end of compressai -->"


class Sample(NamedTuple):
    """A codec on a picture: bits per pixel, megapixels a second, and the shares of the time that its entropy coder took."""

    bpp: float
    encode_mps: float
    decode_mps: float
    encode_coder: float
    decode_coder: float


class Other:
    """CompressAI in its own interpreter; close it. Raises SystemExit where it cannot be used, with what it said."""

    def __init__(self, python: str, threads: int, bpp: float, first: Path, folder: Path) -> None:
        """first: the picture, as .npy, on which the rate is set."""
        found = shutil.which(python)
        if found is None:
            raise SystemExit(f"--python is {python}, which is no interpreter that can be run")
        self._python = os.path.abspath(found)  # it runs in another folder; a virtual environment's link is not to be followed
        stand_ins = folder / "stand-ins"
        (stand_ins / "torchvision").mkdir(parents=True)
        for name in ("__init__", "transforms"):
            (stand_ins / "torchvision" / f"{name}.py").touch()
        settings = {
            "quality": QUALITY,
            "threads": threads,
            "clock": clock_of(threads),
            "bpp": bpp or None,
            "picture": str(first),
            "stand_ins": str(stand_ins),
        }
        self._said = (folder / "stderr").open("w+")
        self._child = subprocess.Popen(
            [self._python, "-c", WORKER.read_text(), json.dumps(settings)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.versions = self._reply()

    def sample(self, path: Path, n_px: int) -> Sample:
        """n_px: of the picture, without what is added to it so that the networks take it."""
        print(json.dumps({"picture": str(path)}), file=self._pipe(self._child.stdin), flush=True)
        told = self._reply()
        return Sample(
            told["bpp"],
            n_px / 1e6 / told["encode_s"],
            n_px / 1e6 / told["decode_s"],
            told["encode_coder_s"] / told["encode_s"],
            told["decode_coder_s"] / told["decode_s"],
        )

    def close(self) -> None:
        self._child.communicate()
        self._said.close()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _reply(self) -> dict[str, Any]:
        line = self._pipe(self._child.stdout).readline()
        if line:
            return dict(json.loads(line))
        self._child.communicate()
        self._said.seek(0)
        said = self._said.read()
        self._said.close()
        raise SystemExit(f"CompressAI cannot be run by {self._python}:\n{said}")


def coder_share(call: Callable[[], object]) -> float:
    """Of the time of a call, that of entropy coding."""
    with watched() as watch:
        call()
    return sum(watch.seconds.get(name, 0.0) for name in CODER_STAGES) / sum(watch.seconds.values())


def clock_of(threads: int) -> str:
    """The function of the module time that tells how long work on so many threads takes."""
    return "process_time" if threads == 1 else "perf_counter"


def own_sample(model: Model, pixels: np.ndarray, quality: float, threads: int) -> Sample:
    """fewbits there and back; the shares are of a second time, with a watch."""
    n_px, clock = pixels.shape[0] * pixels.shape[1], getattr(time, clock_of(threads))
    begun = clock()
    data = model.encode(pixels, quality)
    encoded = clock()
    model.decode(data)
    encode_s, decode_s = encoded - begun, clock() - encoded
    shares = [coder_share(lambda: model.encode(pixels, quality)), coder_share(lambda: model.decode(data))]
    return Sample(8 * len(data) / n_px, n_px / 1e6 / encode_s, n_px / 1e6 / decode_s, *shares)


def report(ours: list[Sample], theirs: list[Sample]) -> str:
    """A table of medians, and lines about the bar. The samples of both are of the same pictures, one by one."""

    def row(name: str, samples: list[Sample]) -> list[str]:
        rate = f"{mean(sample.bpp for sample in samples):.3f}"
        speeds = [f"{median(values):.2f}" for values in list(zip(*samples, strict=True))[1:3]]
        shares = [f"{100 * median(values):.0f} %" for values in list(zip(*samples, strict=True))[3:]]
        return [name, rate, *speeds, *shares]

    head = ["codec", "bits per pixel", "encode MP/s", "decode MP/s", "encode: entropy coding", "decode: entropy coding"]
    rows = [row("fewbits", ours), row(f"mbt2018-mean, quality {QUALITY}", theirs)]
    lines = []
    for name, k in (("encoding", 1), ("decoding", 2)):
        ratio = median(own[k] / other[k] for own, other in zip(ours, theirs, strict=True))
        lines.append(f"- {name}: **{ratio:.1f} times** its speed; the bar is {BAR:g}: {verdict(ratio >= BAR)}")
    return "\n".join([table(head, rows), "", *lines])


def measured(options: argparse.Namespace, folder: Path) -> str:
    paths = chosen(options.images)[: options.limit]
    pictures = {folder / f"{k}.npy": np.asarray(Image.open(path).convert("RGB")) for k, path in enumerate(paths)}
    for path, pixels in pictures.items():
        np.save(path, pixels)
    model = load_model(options.model, threads=options.threads)
    qualities = {path: quality_of(model, pixels, options.bpp) for path, pixels in pictures.items()}
    other = Other(options.python, options.threads, options.bpp, next(iter(pictures)), folder)
    try:
        ours: list[Sample] = []
        theirs: list[Sample] = []
        for turn in range(options.repeat + 1):
            for path, pixels in pictures.items():
                own = own_sample(model, pixels, qualities[path], options.threads)
                its = other.sample(path, pixels.shape[0] * pixels.shape[1])
                if turn:  # the first one warms up
                    ours.append(own)
                    theirs.append(its)
            print(f"turn {turn} of {options.repeat}", file=sys.stderr, flush=True)
    finally:
        other.close()
    used = f"compressai {other.versions['compressai']}, torch {other.versions['torch']}"
    how = f"{len(pictures)} pictures, {options.repeat} repeats, threads of each: {options.threads}"
    how += f"; fewbits decodes in {model.precision} by {chosen_engine()}; {used}, random weights"
    return f"{how}, {'scaled to that rate' if options.bpp else 'as they are'}.\n\n{report(ours, theirs)}"


def quality_of(model: Model, pixels: np.ndarray, bpp: float) -> float:
    """Of fewbits, for that rate; the default one for the weights as they are."""
    data = model.encode(pixels, target=Target(bpp=bpp)) if bpp else model.encode(pixels)
    return inspect(data).quality_steps / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="a folder of photographs (default: four of scikit-image's)")
    parser.add_argument("--python", required=True, help="the interpreter that has the package compressai")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument("--bpp", type=float, default=PUBLISHED_BPP, help="bits per pixel of both (default %(default)g)")
    parser.add_argument("--threads", type=int, default=1, help="of both (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="times each is timed (default %(default)s)")
    parser.add_argument("--limit", type=int, default=8, help="take only the first N photographs (default %(default)s)")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True, help="write docs/performance.md")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = measured(options, Path(folder))
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error
    shown = {options.python: "OTHER/bin/python", "--no-write": "", "--write": ""}
    words = filter(None, (shown.get(word, word) for word in sys.argv[1:]))
    text = f"`{shlex.join(['python', 'benchmarks/compressai.py', *words])}`: {text}"
    print(text)
    if options.write:
        PAGE.write_text(with_block(PAGE.read_text(), BEGIN, END, text))


if __name__ == "__main__":
    main()

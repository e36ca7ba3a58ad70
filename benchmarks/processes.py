# SPDX-License-Identifier: MIT
"""Seconds of whole processes: what a user waits for who starts `fewbits` for one picture. docs/performance.md quotes it.

"model, both sides" is no whole process: what load_model and the first encode and decode, of 16x16 pixels, take in one that has
imported what they need ("imports"). Networks are loaded when they are first used, so that has loaded all of them.

Commands take turns with each other and with a Python that does nothing, so that whatever else the machine does hits all alike.
Files are warm: each command is run once before it counts. Python keeps byte code as it does for whoever installs the package,
even where the environment forbids it (PYTHONDONTWRITEBYTECODE), which would have every process compile all modules. Needs
fewbits' base dependencies; the default photograph comes with scikit-image, Kodak's are the ones that the bars are for.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

from demo import chosen, timed, verdict
from PIL import Image

from fewbits.bench.record import cpu_name

BARS: Final = {"fewbits encode": 0.6, "fewbits info": 0.15, "model, both sides": 0.15}  # seconds
NEEDED: Final = """
import time
begun = time.perf_counter()
import onnxruntime, PIL.Image
from fewbits import load_model
"""
IMPORTS: Final = f"{NEEDED}print(time.perf_counter() - begun)"
MODEL: Final = f"""{NEEDED}
picture = PIL.Image.new("RGB", (16, 16))
begun = time.perf_counter()
model = load_model("few")
model.decode(model.encode(picture))
print(time.perf_counter() - begun)"""


def seconds(command: list[str], folder: Path) -> float:
    """Of a process from its start to its end, or what it says of itself. Raises SystemExit where it fails.

    folder: for byte code.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "byte-code")
    done, elapsed = timed(
        subprocess.run,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(f"error: exit code {done.returncode} of {' '.join(command)}: {done.stderr.strip()}")
    return float(done.stdout) if command[-1] in (IMPORTS, MODEL) else elapsed


def commands(picture: Path, folder: Path) -> dict[str, list[str]]:
    """Each command by what the table calls it; files that they read and write are in `folder`."""
    program, few, out = [sys.executable, "-m", "fewbits"], str(folder / "picture.few"), str(folder / "picture.png")
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "fewbits encode": [*program, "encode", str(picture), few, "--force"],
        "fewbits decode": [*program, "decode", few, out, "--force"],
        "fewbits info": [*program, "info", few],
        "imports": [sys.executable, "-c", IMPORTS],
        "model, both sides": [sys.executable, "-c", MODEL],
    }


def run(options: argparse.Namespace) -> None:
    path = chosen(options.images)[0]
    with Image.open(path) as picture:
        size = f"{picture.width}x{picture.height}"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        turns = commands(path, folder)
        for command in turns.values():
            seconds(command, folder)  # its files are then in the machine's memory, and `fewbits decode` has one to read
        taken: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(options.repeat):
            for name, command in turns.items():
                taken[name].append(seconds(command, folder))
    print(f"{path.name}, {size}; {options.repeat} turns; {cpu_name()}\n")
    print(f"{'':26} {'median s':>8} {'least s':>8}")
    for name, values in taken.items():
        bar = BARS.get(name)
        said = "" if bar is None else f"   the bar is {bar:g}: {verdict(median(values) <= bar)}"
        print(f"{name:26} {median(values):8.3f} {min(values):8.3f}{said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="a folder, whose first picture is taken (default: scikit-image's)")
    parser.add_argument("--repeat", type=int, default=7, help="turns (default %(default)s)")
    run(parser.parse_args())


if __name__ == "__main__":
    main()

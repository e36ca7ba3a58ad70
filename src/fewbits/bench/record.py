# SPDX-License-Identifier: MIT
"""What a measurement was made with: versions, machine, command, colour path. Without it numbers do not reproduce."""

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from fewbits.processor import cores, described

PACKAGES: Final = ("fewbits", "numpy", "scipy", "Pillow", "onnxruntime", "constriction", "imagecodecs", "torch")
COLOUR_PATH: Final = (
    "each picture is turned upright, taken as 8-bit RGB with its profile ignored, encoded, and the decoded 8-bit RGB is compared "
    "with it; conversions to YCbCr, and chroma subsampling, are the codec's own"
)


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor, with its instructions that matter here, and the number of cores that this process may use."""
    return f"{described()}, {cores()} cores"


def record(codecs: dict[str, str], arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Label -> text. codecs: identity by name. arguments: the command line, this process's where None."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    command = ["fewbits", *(sys.argv[1:] if arguments is None else arguments)]
    return {
        "command": shlex.join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "CPU": cpu_name(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{package} {number}" for package, number in found.items()),
        "colour path": COLOUR_PATH,
        "means": "every metric is taken picture by picture; curves show means over the pictures of it and of bits per pixel",
        **{f"codec {name}": text for name, text in codecs.items()},
    }

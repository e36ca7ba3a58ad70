# SPDX-License-Identifier: MIT
"""Which models are installed, and what may be chosen of them. Loads neither numpy nor Pillow: `fewbits info` needs no more."""

import contextlib
import os
from pathlib import Path
from typing import Any, Final

from fewbits.container import Header
from fewbits.errors import ImageError, ModelError
from fewbits.runtime.manifest import MANIFEST, PRECISIONS, nearest_level, parse_manifest

TUNINGS: Final = {"visual": "few", "psnr": "few-psnr"}  # of the flagship: the models that ship for each
DEFAULT_TUNING: Final = "visual"
DEFAULT_MODEL: Final = TUNINGS[DEFAULT_TUNING]
DEFAULT_QUALITY: Final = 60.0
DEFAULT_EFFORT: Final = 0
ROUNDS: Final = (0, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # in which an encoder moves symbols (runtime/refine.py), by effort
DEFAULT_ROI_DROP: Final = 30.0  # points of quality: to less than half the bytes
AUTO: Final = "auto"  # the precision that is fastest here among those that cost little
DEFAULT_PRECISION: Final = AUTO
PRECISION_CHOICES: Final = (*PRECISIONS, AUTO)
MODEL_PATH_VARIABLE: Final = "FEWBITS_MODELS"
SHIPPED: Final = Path(__file__).parent / "weights"


def installed_models() -> dict[str, dict[str, Any]]:
    """Bundle folder -> its manifest: the shipped ones, then those in $FEWBITS_MODELS; damaged ones are left out."""
    extra = [Path(part) for part in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if part]
    found = {}
    for root in [SHIPPED, *extra]:
        for path in sorted(root.glob(f"*/{MANIFEST}")) + sorted(root.glob(MANIFEST)):
            with contextlib.suppress(OSError, ModelError):
                found[str(path.parent)] = parse_manifest(path.read_bytes(), str(path.parent))
    return found


def latent_width(manifest: dict[str, Any], header: Header) -> int | None:
    """Channels of the file's latent where its model has several widths; None where it has one, or is not installed."""
    coding = manifest.get("coding", {})
    levels = coding.get("levels") if coding.get("kind") == "factorized" else None  # those of other kinds are no widths
    if not levels or len({width for width, _ in levels}) == 1:
        return None
    return int(levels[nearest_level(header.quality_steps, len(levels))][0])


def tuned_model(tune: str | None) -> str:
    """The name of the shipped model for a tuning, the default one where None. Raises ImageError."""
    wanted = DEFAULT_TUNING if tune is None else tune
    if not isinstance(wanted, str) or wanted not in TUNINGS:
        raise ImageError(f"tune is {tune!r}, it must be one of {', '.join(TUNINGS)}")
    return TUNINGS[wanted]

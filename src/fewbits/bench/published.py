# SPDX-License-Identifier: MIT
"""Curves that others published, from a JSON file, to be drawn and compared beside measured ones.

The file: {"dataset": text, "source": text, "curves": {name: {"bpp": [...], METRIC: [...], ...}}}, METRIC a metric's name in
metrics.METRICS, its values the mean over pictures (MS-SSIM as such, not in dB).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.bench.metrics import METRICS
from fewbits.bench.summary import CurveData
from fewbits.errors import FewbitsError


@dataclass(frozen=True)
class Published:
    """dataset: what was measured. curves: those in the wanted metrics."""

    dataset: str
    source: str
    curves: tuple[CurveData, ...]


def read_published(path: Path, metrics: Sequence[str], names: Sequence[str] = ()) -> Published:
    """names: of the curves to take, all where there are none. Raises FewbitsError that says what is wrong with which curve."""
    try:
        content = json.loads(path.read_text())
        curves = content["curves"].items()
        if not all(isinstance(columns, dict) for _, columns in curves):
            raise TypeError
        dataset, source = str(content["dataset"]), str(content["source"])
    except (OSError, ValueError) as error:
        raise FewbitsError(f"--published {path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise FewbitsError(f"--published {path}: it must be an object with dataset, source and curves") from error
    if unknown := [name for name in names if name not in dict(curves)]:
        raise FewbitsError(f"--published-curve {unknown[0]}: {path} has {', '.join(dict(curves))}")
    found = []
    for name, columns in ((name, columns) for name, columns in curves if name in names or not names):
        for metric in metrics:
            if metric in columns:
                found.append(_curve(path, name, metric, columns))
    return Published(dataset, source, tuple(found))


def _curve(path: Path, name: str, metric: str, columns: dict[str, Sequence[float]]) -> CurveData:
    try:
        pairs = [
            (float(bpp), METRICS[metric].axis(float(value))) for bpp, value in zip(columns["bpp"], columns[metric], strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise FewbitsError(f"--published {path}: {name}: bpp and {metric} must be lists of as many numbers") from error
    return CurveData(name, metric, tuple((None, bpp, value) for bpp, value in sorted(pairs)))

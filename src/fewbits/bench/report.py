# SPDX-License-Identifier: MIT
"""One HTML file that shows a comparison: curves, tables, histograms, every measured file, and a viewer.

The file holds everything it needs (data as JSON, pictures as data: URIs, plotly.js, our own style and script) and forbids
itself the network by its Content-Security-Policy. A value that is missing, NaN or infinite becomes null and shows as a dash.
"""

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np

from fewbits.bench.summary import Comparison, CurveData, SmallestFile, Speed, Wins
from fewbits.files import replacing


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric: `name` is its key everywhere else, `label` what people read, `unit` "dB" or "" where it has none."""

    name: str
    label: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class CodecInfo:
    """A codec: `colour` is "#rrggbb"; a `published` one was not measured here, its numbers come from elsewhere."""

    name: str
    label: str
    colour: str
    published: bool


@dataclass(frozen=True, slots=True)
class Version:
    """A picture after one codec at one setting: its size in bytes and bits per pixel, its metrics, its pixels as a data: URI.

    The source must be lossless (PNG, lossless WebP): the error map is computed from it.
    """

    codec: str
    setting: float | None
    n_bytes: int
    bpp: float
    metrics: Mapping[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class ViewerLevel:
    """What the codecs make of a picture near one target size, in bits per pixel and in bytes."""

    bpp: float
    n_bytes: int
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class ViewerPicture:
    """A picture to look at: width and height in pixels, the original as a lossless data: URI."""

    image: str
    width: int
    height: int
    original: str
    levels: tuple[ViewerLevel, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that the report shows.

    date: ISO 8601. record: label to text, shown in this order. notes: what the reader must know, shown at the top.
    anchor: name of the codec that the tables compare against at first. rows: one mapping for each picture, codec and setting
    with the keys image, codec, setting, bytes, bpp, each metric's name, encode_s, decode_s (seconds), peak_mb (MB), error
    ("" where there was none); numbers may be None.
    """

    title: str
    date: str
    metrics: tuple[MetricInfo, ...]
    codecs: tuple[CodecInfo, ...]
    curves: tuple[CurveData, ...]
    anchor: str
    record: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bjontegaard: tuple[Comparison, ...] = ()
    smallest: tuple[SmallestFile, ...] = ()
    wins: tuple[Wins, ...] = ()
    speed: tuple[Speed, ...] = ()
    speed_reference: str = ""
    histogram_metrics: tuple[str, ...] = ()
    rows: tuple[Mapping[str, object], ...] = ()
    viewer: tuple[ViewerPicture, ...] = ()


_PLACE: Final = re.compile(r"@@([a-z]+)@@")
"""Where report.html wants a piece put in."""


def write_report(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file, whole or not at all. Raises OSError."""
    with replacing(path) as file:
        for piece in _page(data):
            file.write(piece.encode("utf-8", "replace"))


def _page(data: ReportData) -> Iterator[str]:
    """The page's text, piece by piece. What is put in is not searched for places again."""
    for number, text in enumerate(_PLACE.split(_template("report.html"))):
        yield _piece(text, data) if number % 2 else text


def _piece(name: str, data: ReportData) -> str:
    match name:
        case "title":
            return html.escape(data.title)
        case "style":
            return _template("report.css")
        case "script":
            return _inline_script(_template("report.js"))
        case "plotly":
            from plotly.offline import get_plotlyjs  # type: ignore[import-untyped,unused-ignore]  # only here: it is slow to import

            return _inline_script(str(get_plotlyjs()))
        case "data":
            return embedded_json(data)
    raise ValueError(f"report.html has a place for {name!r}, which nothing fills")


def embedded_json(data: ReportData) -> str:
    """The data as JSON that may stand in a <script> element: nothing in it can end the element or open a comment."""
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # JSON has "<" only within strings


def _inline_script(code: str) -> str:
    """The same script, where no string or pattern in it can end the element that holds it."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE)


def _template(name: str) -> str:
    return files("fewbits.bench").joinpath(name).read_text(encoding="utf-8")


def _plain(value: object) -> object:
    """What JSON knows: dataclasses become objects, NaN and infinity null, NumPy's scalars Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    raise TypeError(f"the report cannot show a {type(value).__name__}")

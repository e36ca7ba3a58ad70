# SPDX-License-Identifier: MIT
"""Plots for papers and pages, with matplotlib, of rate and distortion and of speed: each curve labelled where it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from fewbits.bench.metrics import METRICS
from fewbits.bench.summary import CurveData
from fewbits.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of the codecs in their order, ours first; distinct in print, too
COLOURS: Final = ("#c2185b", "#6d4c41", "#00796b", "#1565c0", "#ef6c00", "#6a1b9a", "#558b2f", "#37474f", "#ad8b00", "#0097a7")
PUBLISHED_COLOUR: Final = "#8d8d8d"
_LEADER: Final = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}


@dataclass(frozen=True)
class Style:
    """How a codec is drawn: label for people, "#rrggbb", and whether it was measured by others."""

    label: str
    colour: str
    published: bool


def plot(path: Path, curves: Sequence[CurveData], styles: Mapping[str, Style], title: str) -> None:
    """One metric's curves, quality over bits per pixel; the format is that of the extension, .svg or .png. Raises OSError.

    The axis ends where the second longest measured curve does, so that one that goes far does not press the rest together.
    """
    from matplotlib.figure import Figure

    metric = METRICS[curves[0].metric]
    ends_bpp = sorted(curve.points[-1][1] for curve in curves if not styles[curve.codec].published)
    right = ends_bpp[-2] if len(ends_bpp) > 1 else ends_bpp[-1]
    if any(curve.points[0][1] >= right for curve in curves if not styles[curve.codec].published):
        right = ends_bpp[-1]  # else a measured curve would lie outside
    figure = Figure(figsize=(9, 5.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    ends, lowest = {}, []
    for data in sorted(curves, key=lambda data: not styles[data.codec].published):  # measured ones on top
        style, (bpp, value) = styles[data.codec], map(np.asarray, data.curve())
        finite = np.isfinite(value)
        bpp, value = bpp[finite], value[finite]
        if len(bpp) < 2 or bpp[0] >= right:
            continue
        last = min(right, bpp[-1])
        inside = bpp < last
        x, y = np.append(bpp[inside], last), np.append(value[inside], np.interp(last, bpp, value))
        ends[data.codec] = float(x[-1]), float(y[-1])
        if style.published:
            axes.plot(x, y, color=style.colour, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)
        else:
            lowest.append(float(y[0]))
            axes.plot(x, y, color=style.colour, linewidth=1.8, zorder=3)
            axes.plot(bpp[bpp <= right], value[bpp <= right], "o", color=style.colour, markersize=4, zorder=3)
    axes.set_xlim(0, right)
    top, bottom = max(value for _, value in ends.values()), min(lowest)
    axes.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))
    _label_ends(axes, ends, styles, right)
    axes.set_xlabel("bits per pixel, bytes on disk")
    axes.set_ylabel(f"{metric.label}, {metric.unit}" if metric.unit else metric.label)
    _save(path, figure, axes, title)


def plot_speed(path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], styles: Mapping[str, Style], title: str) -> None:
    """Megapixels a second over the picture's megapixels, on an axis of logarithms; one line for each name. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for name, points in lines.items():
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "o-", color=styles[name].colour, linewidth=1.8, markersize=4, zorder=3)
    sizes = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
    axes.set_ylim(0, 1.08 * max(y for points in lines.values() for _, y in points))
    _label_ends(axes, {name: points[-1] for name, points in lines.items()}, styles, sizes[-1] * 1.2)
    axes.set_xlabel("megapixels of the picture")
    axes.set_ylabel("megapixels a second")
    _save(path, figure, axes, title)


def _save(path: Path, figure: "Figure", axes: "Axes", title: str) -> None:
    """With what all plots have; the same curves give the same file."""
    import matplotlib

    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    fixed = {"Date": None} if path.suffix.lower() == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "fewbits"}), replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), metadata=fixed)


def _label_ends(axes: "Axes", ends: Mapping[str, tuple[float, float]], styles: Mapping[str, Style], right: float) -> None:
    """Names at the right edge, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    heights = spread([value for _, value in ends.values()], (high - low) / 26)
    for (name, end), height in zip(ends.items(), heights, strict=True):
        style = styles[name]
        axes.annotate(
            f"{style.label}, published" if style.published else style.label, end, (right * 1.025, height),
            color=style.colour, va="center", annotation_clip=False, fontsize=9 if style.published else 11,
            arrowprops=_LEADER | {"color": style.colour},
        )  # fmt: skip


def spread(heights: Sequence[float], least: float) -> list[float]:
    """Heights moved apart to be at least `least` from each other, as little as going from the lowest up and back allows."""
    order = np.argsort(heights)
    placed = np.array(heights, np.float64)[order]
    for _ in range(100):
        for k in range(1, len(placed)):
            short = least - (placed[k] - placed[k - 1])
            if short > 1e-9:
                placed[k - 1 : k + 1] += (-short / 2, short / 2)
    out = np.empty_like(placed)
    out[order] = placed
    return [float(height) for height in out]

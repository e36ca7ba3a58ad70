# SPDX-License-Identifier: MIT
"""Plots of speed: the same lines give the same file, with every name in it."""

from pathlib import Path

import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from fewbits.bench.plots import Style, plot_speed, spread  # noqa: E402

LINES = {"encode": [(0.05, 5.0), (6.0, 8.0)], "decode": [(0.05, 4.9), (6.0, 7.9)]}
STYLES = {name: Style(name, colour, False) for name, colour in (("encode", "#c2185b"), ("decode", "#00796b"))}


def test_a_plot_of_speed_is_the_same_file_again(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot_speed(tmp_path / name, LINES, STYLES, "title")
    first, second = ((tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert first == second
    for word in ("encode", "decode", "title", "0.05", "megapixels a second"):
        assert f"<!-- {word} -->" in first


def test_names_that_would_overlap_are_moved_apart() -> None:
    heights = spread([1.0, 5.0, 1.1], 0.5)
    assert heights[2] - heights[0] == pytest.approx(0.5) and heights[1] == pytest.approx(5.0)

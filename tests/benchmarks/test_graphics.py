# SPDX-License-Identifier: MIT
"""benchmarks/graphics.py: pictures of every kind, the same each time, with what photographs hardly have."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image


def test_pictures_are_the_same_each_time_and_have_hard_edges(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphics = script("graphics")
    number = len(graphics.KINDS) + 1
    for folder in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["graphics.py", str(tmp_path / folder), str(number)])
        graphics.main()
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == number
    pictures = []
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        with Image.open(tmp_path / "one" / name) as opened:
            assert (opened.mode, opened.size) == ("RGB", (512, 512))
            pictures.append(np.asarray(opened).astype(int))
    assert len({picture.tobytes() for picture in pictures}) == number
    for picture in pictures:
        assert np.abs(np.diff(picture, axis=0)).max() > 100  # levels from one row to the next

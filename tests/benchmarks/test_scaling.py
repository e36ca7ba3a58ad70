# SPDX-License-Identifier: MIT
"""benchmarks/scaling.py: pictures of a size, stages in groups, and the page that a short run writes."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fewbits.stages import Watch

Script = Callable[[str], ModuleType]


def test_a_size_is_a_crop_or_mirrored(script: Script, picture: Callable[..., np.ndarray]) -> None:
    module, photo = script("scaling"), picture(200, 300)
    assert np.array_equal(module.sized(photo, 0.015), photo[:100, :150])
    large = module.sized(photo, 0.6)
    assert large.shape[1] == pytest.approx(1.5 * large.shape[0], abs=1) and large.size / 3 == pytest.approx(0.6e6, rel=0.01)
    assert np.array_equal(large[:200, :300], photo)
    assert np.array_equal(large[200:400, :300], photo[::-1]) and np.array_equal(large[400:600, 300:600], photo[:, ::-1])


def test_stages_are_grouped_with_nothing_lost(script: Script) -> None:
    watch = Watch()
    watch.seconds = {"analysis": 3e-3, "scales": 1e-3, "means": 1e-3, "coder": 2e-3, "other": 5e-4, "planes": 5e-4}
    assert script("scaling").grouped(watch, 1000) == pytest.approx(
        {"large networks": 3000, "small networks": 2000, "entropy coding": 2000, "everything else": 1000}
    )


def test_what_profile_says_is_read(script: Script) -> None:
    watch = Watch()
    watch.seconds = {"load": 0.25, "read picture": 0.05, "other": 0.1}
    assert script("scaling").profiled(f"a line\n{watch.table()}\n") == pytest.approx((0.4, 0.25))


def test_time_of_the_process_is_of_one_thread(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scaling.py", "--process-time"])
    with pytest.raises(SystemExit):
        script("scaling").main()
    assert "--process-time is for --threads 1" in capsys.readouterr().err


def test_a_short_run_writes_the_block_and_the_plot(
    script: Script, picture: Callable[..., np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    module = script("scaling")
    Image.fromarray(picture(90, 120)).save(tmp_path / "a.png")
    page = tmp_path / module.PAGE
    page.write_text(f"before\n{module.BEGIN}\nstale\n{module.END}\nafter\n")
    words = [
        "--sizes",
        "0.004",
        "0.012",
        "--threads",
        "1",
        "--process-time",
        "--seconds",
        "0",
        "--small",
        "0.004",
        "--batch",
        "2",
        "--repeat",
        "1",
    ]
    monkeypatch.setattr("sys.argv", ["scaling.py", str(tmp_path), *words, "--out", str(tmp_path)])
    module.main()
    text = page.read_text()
    assert text.startswith(f"before\n{module.BEGIN}\n") and text.endswith(f"{module.END}\nafter\n") and "stale" not in text
    assert "| encode, 1 thread " in text and "| large networks " in text and "ms for loading networks" in text
    assert "<svg" in (tmp_path / module.PLOT).read_text()

# SPDX-License-Identifier: MIT
"""`fewbits train --profile-steps` adds up, writes nothing, and counts what convolutions cost."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families.few import Few  # noqa: E402
from fewbits.families.klt import KltConfig  # noqa: E402
from fewbits.training.loop import Run, TrainConfig  # noqa: E402
from fewbits.training.profile import kmacs_per_pixel, profile, table  # noqa: E402


def test_a_profile_says_where_time_goes_and_writes_nothing(tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    initialize = Few.initialize
    monkeypatch.setattr(Few, "initialize", lambda self, pictures, distortion: initialize(self, islice(pictures, 1), distortion))
    before = {path: path.read_bytes() for path in tiny_run.run.rglob("*") if path.is_file()}
    for out in (tmp_path / "new", tiny_run.run):
        said: list[str] = []
        profile("few", [tiny_run.data], out, 3, model_config=tiny_run.model_config, config=tiny_run.config, device="cpu",
                report=said.append)  # fmt: skip
        rows = {line[:32].strip(): float(line[32:].split()[0]) for line in said[1:-2]}
        assert rows["all"] > 0 and {"analysis", "synthesis", "forward", "backward", "optimizer"} <= set(rows)
        outer = [float(line[32:].split()[0]) for line in said[1:-2] if not line.startswith(" ")]
        assert len(rows) < len(said) - 3  # "all else" stands twice
        assert rows["forward"] + rows["backward"] + rows["optimizer"] < rows["all"]
        assert sum(outer[:-1]) == pytest.approx(outer[-1], rel=1e-2)
        assert "patches/s of 64x64, 2 a step" in said[-2] and "processes: 1" in said[-1]
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in tiny_run.run.rglob("*") if path.is_file()} == before


def test_rows_add_up() -> None:
    seconds = {"forward": 3.0, "forward.a": 1.0, "forward.b": 1.5, "backward": 4.0}
    rows = [(line[:32].rstrip(), *line[32:].split()[:2]) for line in table(seconds, 10.0, 2)][1:]
    assert ("forward", "1500.00", "30.0") in rows and ("    all else", "250.00", "5.0") in rows
    assert ("all else", "1500.00", "30.0") in rows and rows[-1] == ("all", "5000.00", "100.0")
    assert [name for name, *_ in rows].index("    b") < [name for name, *_ in rows].index("    a")


def test_multiplications_are_those_of_the_layers(tiny_run) -> None:
    """One block more is its 3x3 and its 1x1 convolutions, at 1/8 of the size, in analysis and synthesis."""
    device, x = torch.device("cpu"), torch.zeros(2, 3, 64, 64)
    costs = [
        kmacs_per_pixel(Run("few", replace(tiny_run.model_config, depth_8=depth), TrainConfig(), device), x) for depth in (1, 2)
    ]
    block = Few(tiny_run.model_config).analysis.blocks_8[0]
    weights = sum(np.prod(part.shape) for name, part in block.named_parameters() if name.endswith("weight"))
    assert costs[1] - costs[0] == pytest.approx(2 * weights / 64 / 1000, rel=1e-3)


def test_a_family_without_parameters_has_no_steps(tiny_run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the family klt has nothing to train"):
        profile("klt", [tiny_run.data], tmp_path, 1, model_config=KltConfig(), config=TrainConfig(), device="cpu")

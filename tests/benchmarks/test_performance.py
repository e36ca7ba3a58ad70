# SPDX-License-Identifier: MIT
"""benchmarks/performance.py counts what every network of a bundle does."""

import argparse
from collections.abc import Callable
from types import ModuleType

import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

from fewbits.codec import Model, load_model  # noqa: E402


@pytest.mark.parametrize("means", ["new", "older"])
def test_the_budget_has_a_line_for_each_network(
    script: Callable[[str], ModuleType],
    tiny_run,
    by_hyper: Model,
    means: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    performance = script("performance")
    model = load_model(tiny_run.bundle, threads=1) if means == "new" else by_hyper
    monkeypatch.setattr(performance, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(performance, "peaks", lambda: (1e9, 1e9))
    options = argparse.Namespace(model="", size=(64, 64), images=None, precision="fp32")
    performance.budget(options)
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert model.bundle.networks.keys() <= lines.keys()
    assert all(float(lines[name][2]) > 0 for name in model.bundle.networks)

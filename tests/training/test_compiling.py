# SPDX-License-Identifier: MIT
"""`fewbits train --compile`: what is compiled is the step, and where nothing compiles one line says so."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewbits.training.compiling import compiles  # noqa: E402
from fewbits.training.loop import Run  # noqa: E402
from fewbits.training.ranks import Ranks  # noqa: E402

CPU = torch.device("cpu")


def test_without_a_compiler_one_line_says_that_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        def called(*_: object) -> object:
            raise RuntimeError("\nno C++ compiler\nfound anywhere")

        return called

    monkeypatch.setattr(torch, "compile", broken)
    said: list[str] = []
    assert not compiles(CPU, Ranks(), said.append)
    assert said == ["--compile: training goes on without, no C++ compiler"]


def test_a_compiler_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: lambda x: function(x) + 1)
    said: list[str] = []
    assert not compiles(CPU, Ranks(), said.append) and "computes 67.0 where 66 is right" in said[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch, of itself
def test_a_compiled_step_is_the_step(tiny_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch traces it; generating code for it takes minutes on a CPU, and is torch's own affair."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, compiled = (Run("few", tiny_run.model_config, tiny_run.config, CPU) for _ in range(2))
    compiled.share(compiled=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    losses = []
    for run in (plain, compiled):
        torch.manual_seed(1)
        losses.append(run.train_step(pixels, 1.0)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert set(compiled.model.state_dict()) == set(plain.model.state_dict())  # the same checkpoints
    assert isinstance(compiled.loss, torch._dynamo.OptimizedModule)

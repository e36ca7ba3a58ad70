# SPDX-License-Identifier: MIT
"""Units that matter least leave a model's blocks, and what reads the others makes up for them."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.families.klt import Klt, KltConfig  # noqa: E402
from fewbits.training import command, export  # noqa: E402
from fewbits.training.surgeon import UNITS, branches, pruned  # noqa: E402

CONFIG = FewConfig(
    latent=12, hyper=4, width_8=32, depth_8=2, width_16=32, depth_16=1, hyper_width=8, lambdas=(0.0018, 0.0175, 0.17)
)


@pytest.fixture
def model() -> Any:
    """Untrained, but with branches that give something."""
    torch.manual_seed(0)
    model = Few(CONFIG)
    for network in (model.analysis, model.synthesis):
        for name, parameter in network.named_parameters():
            torch.nn.init.normal_(parameter, std=0.2 if name.endswith("weight") else 0.1)
    return model.eval()


@pytest.fixture
def crops() -> list[Any]:
    torch.manual_seed(1)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(6, 3, 68, 68), 5, stride=1)
    return list(smooth.split(2))


def multiplications(model: Any, network: str) -> int:
    return sum(branch.reader.weight.shape[1] * branch.cost for branch in branches(model, network))


def given(model: Any, crops: list[Any]) -> tuple[Any, Any]:
    """The latent, and what synthesis makes of another one."""
    with torch.no_grad():
        y = model.analysis(model.to_8(torch.cat(crops) - 0.5))
        torch.manual_seed(2)
        return y, model.synthesis(torch.randn(2, 12, 4, 4), torch.ones(1, 32, 1, 1), torch.zeros(1, 32, 1, 1))


def twins(block: Any) -> None:
    """The second half of the wide layer's units does what the first half does, but is read otherwise."""
    half = len(block.expand.weight) // 2
    with torch.no_grad():
        for values in (block.expand.weight, block.expand.bias):
            values[half:] = values[:half]


def test_units_that_do_the_same_go_first_and_nothing_changes(model: Any, crops: list[Any]) -> None:
    twins(model.analysis.blocks_8[0])
    share = 32 * 256 / multiplications(model, "analysis")
    found, units = pruned(model, crops, {"analysis": share})
    assert units["analysis.blocks_8.0.reduce"] == (32, 64)
    assert all(left == before for name, (left, before) in units.items() if name != "analysis.blocks_8.0.reduce")
    assert found.config == replace(
        CONFIG, analysis_units_8=(32, 32, 32, 64), synthesis_units_8=(32, 64, 32, 64), synthesis_units_16=(32, 64)
    )
    for before, after in zip(given(model, crops), given(found, crops), strict=True):
        assert (before - after).abs().amax() < 2e-3 * before.abs().amax()


def test_what_reads_the_others_makes_up_for_what_is_gone(model: Any, crops: list[Any]) -> None:
    """Better than leaving out the same units, and nothing else."""
    found, units = pruned(model, crops, {"analysis": 0.3})
    before, after = given(model, crops)[0], given(found, crops)[0]
    plain = Few(model.config)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        for number, (old, new) in enumerate(zip(plain.analysis.blocks_8, found.analysis.blocks_8, strict=True)):
            for first, reader in ("mix_in", "mix_out"), ("expand", "reduce"):
                if units[f"analysis.blocks_8.{number}.{reader}"][0]:
                    kept = (getattr(old, first).weight[:, None] == getattr(new, first).weight[None]).all(2).any(1)
                else:
                    kept = torch.zeros(64, dtype=torch.bool)
                getattr(old, reader).weight[:, ~kept] = 0
    assert (before - after).square().mean() < 0.5 * (before - given(plain, crops)[0]).square().mean()


@pytest.mark.parametrize("network", ["analysis", "synthesis"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_that_was_asked_for_goes(model: Any, crops: list[Any], network: str, share: float) -> None:
    found, units = pruned(model, crops, {network: share})
    wanted = (1 - share) * multiplications(model, network)
    largest = UNITS * max(branch.cost for branch in branches(model, network))
    assert wanted - largest < multiplications(found, network) <= wanted
    assert all(left % UNITS == 0 for left, _ in units.values())
    other = {"analysis": "synthesis", "synthesis": "analysis"}[network]
    assert multiplications(found, other) == multiplications(model, other)


def test_nothing_goes_of_a_share_of_nothing(model: Any, crops: list[Any]) -> None:
    found, units = pruned(model, crops, {"analysis": 0, "synthesis": 0})
    assert all(left == before for left, before in units.values())
    for name, value in found.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_of_a_wide_layer_that_gives_a_constant_nothing_is_left(model: Any, crops: list[Any]) -> None:
    torch.nn.init.zeros_(model.synthesis.blocks_8[0].reduce.weight)
    found, units = pruned(model, crops, {"synthesis": 64 * 256 / multiplications(model, "synthesis")})
    assert units["synthesis.blocks_8.0.reduce"] == (0, 64)
    assert found.synthesis.blocks_8[0].lean and not hasattr(found.synthesis.blocks_8[0], "reduce")
    for before, after in zip(given(model, crops), given(found, crops), strict=True):
        assert torch.allclose(before, after, atol=1e-4)


def test_the_steps_of_8_bit_values_go_with_their_units(crops: list[Any]) -> None:
    torch.manual_seed(0)
    model = Few(replace(CONFIG, int8=0.5))
    for name, parameter in model.synthesis.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2 if name.endswith("weight") else 0.1)
    model.measure(crops)
    model.eval()
    found, units = pruned(model, crops, {"synthesis": 0.3})
    assert found.eight_bits.known and any(left not in (0, before) for left, before in units.values())
    layers = {"reduce": ("expand", ["reduce"]), "mix_out": ("mix_in", ["spatial", "mix_out"])}
    for name, (left, _) in units.items():
        block, _, reader = name.removeprefix("synthesis.").rpartition(".")
        first, readers = layers[reader]
        old, new = (net.synthesis.get_submodule(block) for net in (model, found))
        kept = (
            [(old.get_submodule(first).bias == value).nonzero().item() for value in new.get_submodule(first).bias] if left else []
        )
        for layer in readers if left else []:
            steps = f"{block}.{layer}"
            assert (found.eight_bits.steps()[steps] == model.eight_bits.steps()[steps][kept]).all()


def test_a_model_keeps_its_own_weights(model: Any, crops: list[Any]) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned(model, crops, {"analysis": 0.3, "synthesis": 0.3})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"analysis": 1.0}, r"the share of analysis to leave out is 1, it must be 0 or more and below 1"),
        ({"synthesis": -0.1}, r"the share of synthesis to leave out is -0\.1, it must be"),
        ({"analysis": float("nan")}, r"the share of analysis to leave out is nan, it must be"),
        ({"analysis": 0.9}, r"a share of 0\.9 cannot be left out: each block keeps 16 units"),
    ],
)
def test_shares_that_cannot_be_are_named(model: Any, crops: list[Any], shares: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        pruned(model, crops, shares)


def test_other_families_have_no_such_blocks(crops: list[Any]) -> None:
    with pytest.raises(TrainingError, match="only models of the family few"):
        pruned(Klt(KltConfig()), crops, {"analysis": 0.1})


# `fewbits prune`


def test_a_pruned_bundle_is_written_and_trained_on_from(
    model: Any, tiny_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PRUNING_CROP", 64)
    bundle = tmp_path / "bundle"
    export.write_folder(bundle, export.bundle_files("few", model, {"architecture": asdict(model.config), "curve": {}}))
    command.run_prune(bundle, tmp_path / "pruned", [tiny_run.data], [], {"analysis": 0.4, "synthesis": 0.2})
    assert "analysis.blocks_8.0.reduce" in capsys.readouterr().out
    found = export.load_bundle(tmp_path / "pruned")
    assert "curve" not in found.card
    units = found.card["architecture"]["analysis_units_8"]
    assert len(units) == 4 and sum(units) < 2 * 96
    options = {"minutes": None, "steps": 1, "anneal": None, "exclude": [], "validation": [], "device": "cpu"}
    settings = ["batch=2", "crop=64", "save_minutes=0"]
    command.run_train("few", [tiny_run.data], tmp_path / "run", init=tmp_path / "pruned", settings=settings, **options)
    state = torch.load(tmp_path / "run" / "trunk.pt", weights_only=True)["model"]
    assert state["analysis.blocks_8.0.mix_out.weight"].shape[1] == units[0]


def test_pictures_that_are_too_small_to_prune_by_are_named(tmp_path: Path, tiny_run: Any) -> None:
    with pytest.raises(TrainingError, match="no picture of 256x256 pixels or more to prune by"):
        command.run_prune(tiny_run.bundle, tmp_path / "pruned", [tiny_run.data], [], {"analysis": 0.1, "synthesis": 0.0})
    assert not (tmp_path / "pruned").exists()


def test_a_share_has_to_be_asked_for(tmp_path: Path, tiny_run: Any) -> None:
    with pytest.raises(TrainingError, match="say which share to leave out, --analysis or --synthesis: each is 0"):
        command.run_prune(tiny_run.bundle, tmp_path / "pruned", [tiny_run.data], [], {"analysis": 0.0, "synthesis": 0.0})

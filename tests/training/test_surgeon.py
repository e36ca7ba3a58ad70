# SPDX-License-Identifier: MIT
"""Units that matter least leave a model's blocks, and what reads the others makes up for them."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits.errors import FewbitsError, TrainingError  # noqa: E402
from fewbits.families.blocks import Pointwise  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.installed import SHIPPED  # noqa: E402
from fewbits.training import command, export  # noqa: E402
from fewbits.training.pruning import BLOCK  # noqa: E402
from fewbits.training.stacks import INSIDE, pass_by, stacks  # noqa: E402
from fewbits.training.surgeon import (  # noqa: E402
    _LEAST,
    Branch,
    Order,
    _chosen,
    _held,
    _observed,
    _order,
    _without,
    branches,
    pruned,
)

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


def test_units_that_nothing_hears_go_however_large_they_are(model: Any, crops: list[Any]) -> None:
    """The second half of the last wide layer's units give to channels alone that the head does not read."""
    with torch.no_grad():
        model.analysis.head.weight.view(12, 32, 2, 2)[:, 16:] = 0
        reduce = model.analysis.blocks_8[1].reduce.weight
        reduce[:16, 32:] = 0
        reduce[16:, 32:] *= 10
    found, units = pruned(model, crops, {"analysis": 32 * 256 / multiplications(model, "analysis")})
    assert units["analysis.blocks_8.1.reduce"] == (32, 64)
    assert torch.equal(found.analysis.blocks_8[1].expand.bias, model.analysis.blocks_8[1].expand.bias[:32])
    before, after = given(model, crops)[0], given(found, crops)[0]
    assert (before - after).abs().amax() < 2e-3 * before.abs().amax()


@pytest.mark.parametrize("name", [
    "analysis.blocks_8.0.reduce", "analysis.blocks_8.1.reduce", "synthesis.blocks_8.0.reduce", "synthesis.blocks_8.1.mix_out",
])  # fmt: skip
def test_units_that_never_rest_are_a_sum_of_what_passes_by(model: Any, crops: list[Any], name: str) -> None:
    """And go for nothing; of spatial mixing where the kernels are of one place."""
    branch = next(branch for branch in branches(model, name.split(".")[0]) if branch.name == name)
    block, _, reader = name.rpartition(".")
    with torch.no_grad():
        model.get_submodule(f"{block}.{INSIDE[reader][0]}").bias.fill_(20)
        branch.reader.weight.mul_(0.2)
        kernel = model.get_submodule(f"{block}.spatial").weight
        kernel.copy_(torch.nn.functional.pad(kernel[:, :, 1:2, 1:2], (1, 1, 1, 1)))
    seen = _observed(model.requires_grad_(False), [branch], crops)[name]
    free, held = (_order(branch._replace(free=free), *seen) for free in (True, False))
    last = len(free.left) - 1 - (not branch.optional)
    assert free.harm[last] < 1e-4 * held.harm[last]
    for before, after in zip(given(model, crops), given(_without(model, {name: free.left[last]}), crops), strict=True):
        assert (before - after).abs().amax() < 2e-3 * before.abs().amax()


@pytest.mark.parametrize("setting", ["analysis_units_8", "synthesis_units_8"])
def test_what_passes_by_is_had_in_another_basis(model: Any, crops: list[Any], setting: str) -> None:
    """As if a branch added something of it."""
    stack = stacks(model)[setting]
    torch.manual_seed(4)
    passing = {f"{block}.{reader}": 0.2 * torch.randn(32, 32).double() for block in stack.blocks for reader in INSIDE}
    passing.popitem()
    state = model.state_dict()
    pass_by(state, stack, passing)
    found = Few(CONFIG)
    found.load_state_dict(state)
    seen = {}

    def noted(name: str, own: Any) -> None:
        block, _, reader = name.rpartition(".")
        first = model.get_submodule(f"{block}.{INSIDE[reader][0]}")
        first.register_forward_hook(lambda _, args, out: seen.update({name: args[0]}))
        adds = own.float()[:, :, None, None]
        model.get_submodule(name).register_forward_hook(lambda _, args, out: out + torch.nn.functional.conv2d(seen[name], adds))

    for name, own in passing.items():
        noted(name, own)
    for before, after in zip(given(model, crops), given(found, crops), strict=True):
        assert (before - after).abs().amax() < 1e-4 * before.abs().amax()


def test_beginning_and_end_of_a_stack_share_what_passes_by_is_shortened_by(model: Any) -> None:
    stack, state = stacks(model)["analysis_units_8"], model.state_dict()
    torch.manual_seed(4)
    passing = {f"{block}.{reader}": 0.1 * torch.randn(32, 32).double() for block in stack.blocks for reader in INSIDE}
    whole = torch.eye(32).double()
    for own in passing.values():
        whole = (torch.eye(32) + own) @ whole
    stem, head = (state[f"{layer}.weight"].double() for layer in (stack.begin, stack.end))
    pass_by(state, stack, passing)
    begin = state[f"{stack.begin}.weight"].double() @ torch.linalg.pinv(stem)
    columns = [values.view(12, 32, 4).movedim(1, 0).flatten(1) for values in (head, state[f"{stack.end}.weight"].double())]
    end = columns[0] @ torch.linalg.pinv(columns[1])
    roots = torch.linalg.svdvals(whole).sqrt()
    assert torch.allclose(torch.linalg.svdvals(begin), roots, rtol=1e-3)
    assert torch.allclose(torch.linalg.svdvals(end), (1 / roots).sort(descending=True)[0], rtol=1e-3)


def test_a_branch_that_cancels_what_passes_by_leaves_a_tenth_of_it(model: Any, crops: list[Any]) -> None:
    """And the units that are left make up for that tenth as well as they can."""
    block = model.analysis.blocks_8[0]
    with torch.no_grad():
        block.expand.weight.copy_(torch.eye(32).repeat(2, 1))
        block.expand.bias.fill_(20)
        block.reduce.weight.zero_()[:, :32] = -torch.eye(32)
        block.reduce.weight[:, 32:] = 1e-3 * torch.randn(32, 32)
        block.reduce.bias.fill_(20)
    branch = next(branch for branch in branches(model, "analysis") if branch.name == "analysis.blocks_8.0.reduce")
    read, heard = _observed(model.requires_grad_(False), [branch], crops)[branch.name]
    order = _order(branch, read, heard)
    sizes = torch.linalg.svdvals(torch.eye(32) + order.left[-1].passing)
    assert sizes.amin() == pytest.approx(0.1, rel=1e-3) and sizes.amax() < 0.2
    whole = torch.cat([branch.reader.weight, torch.zeros(32, 32), branch.reader.bias[:, None]], dim=1).double()
    for harm, left in zip(order.harm[2:], order.left[2:], strict=True):
        found = torch.zeros_like(whole)
        found[:, left.units], found[:, 64:96], found[:, 96] = left.weight.double(), left.passing, left.bias.double()
        error = whole - found
        assert harm == pytest.approx(float(torch.trace(error.T @ heard @ error @ read)) / 2, rel=1e-2)
        kept = [*left.units.tolist(), 96]  # nothing is to be gained by any change of what may change
        assert (error @ read)[:, kept].abs().amax() < 1e-3 * (whole @ read)[:, kept].abs().amax()


def test_what_passes_by_is_not_shortened_to_nothing() -> None:
    torch.manual_seed(5)
    passing = torch.randn(8, 8).double()
    passing[:, 0] = 0
    passing[0, 0] = -1  # the first channel: by nothing at all
    sizes = torch.linalg.svdvals(torch.eye(8) + _held(passing))
    assert sizes.min() > 0.99 * _LEAST
    assert torch.allclose(_held(0.1 * passing), 0.1 * passing)  # what shortens less is as it was


def test_levels_weigh_as_in_training(model: Any, crops: list[Any]) -> None:
    """By the root of their lambda, see Few.loss."""
    own, heard = list(branches(model, "analysis")), []
    for factor in (1, 16):
        torch.manual_seed(3)
        model.config = replace(CONFIG, lambdas=tuple(factor * value for value in CONFIG.lambdas))
        heard.append(_observed(model, own, crops)[own[0].name][1])
    assert (heard[1] - 4 * heard[0]).abs().amax() < 1e-4 * heard[1].abs().amax()


def test_of_two_branches_that_harm_alike_the_one_goes_that_takes_more() -> None:
    reader = Pointwise(32, 4)
    own = [Branch("cheap", reader, 100, True, True), Branch("dear", reader, 400, True, True)]
    orders = {"cheap": Order([16.0, 32.0], [None, None]), "dear": Order([32.0, 64.0], [None, None])}
    assert _chosen(own, orders, 0.3) == [0, 1]
    assert _chosen(own, orders, 0.5) == [0, 2]
    assert _chosen(own, orders, 0.85) == [1, 2]
    orders["dear"] = Order([80.0, 160.0], [None, None])
    assert _chosen(own, orders, 0.3) == [2, 1]


def test_of_branches_with_less_than_a_block_nothing_goes() -> None:
    reader = Pointwise(BLOCK - 1, 4)
    own = [Branch(name, reader, 100, name == "optional", True) for name in ("optional", "needed")]
    with pytest.raises(TrainingError, match=r"a share of 0\.1 cannot be left out"):
        _chosen(own, {branch.name: Order([], []) for branch in own}, 0.1)


def test_branches_tell_what_their_units_take(model: Any) -> None:
    """Of each position of the latent: by the sizes of all weights that a unit has."""
    for network, places in {"analysis": {"blocks_8": 4}, "synthesis": {"blocks_8": 4, "blocks_16": 1}}.items():
        for branch in branches(model, network):
            block, _, reader = branch.name.rpartition(".")
            inside = [model.get_submodule(f"{block}.{layer}").weight for layer in INSIDE[reader]]
            a_unit = sum(weight[0].numel() for weight in inside) + len(branch.reader.weight)
            assert branch.cost == places[branch.name.split(".")[1]] * a_unit


@pytest.mark.parametrize("network", ["analysis", "synthesis"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_that_was_asked_for_goes(model: Any, crops: list[Any], network: str, share: float) -> None:
    found, units = pruned(model, crops, {network: share})
    wanted = (1 - share) * multiplications(model, network)
    largest = BLOCK * max(branch.cost for branch in branches(model, network))
    assert wanted - largest < multiplications(found, network) <= wanted
    assert all(left % BLOCK == 0 for left, _ in units.values())
    other = {"analysis": "synthesis", "synthesis": "analysis"}[network]
    assert multiplications(found, other) == multiplications(model, other)


@pytest.mark.parametrize("why", ["nothing reads its units", "none of its units fires", "all of its units are constant"])
def test_of_a_wide_layer_that_gives_a_constant_nothing_is_left(model: Any, crops: list[Any], why: str) -> None:
    block = model.synthesis.blocks_8[0]
    if why == "nothing reads its units":
        torch.nn.init.zeros_(block.reduce.weight)
    else:
        torch.nn.init.zeros_(block.expand.weight)
        torch.nn.init.constant_(block.expand.bias, -1.0 if why == "none of its units fires" else 1.0)
    share = 64 * 256 / multiplications(model, "synthesis")
    shares = {"analysis": 0.01} if why == "nothing reads its units" else {"synthesis": share}  # which go unasked
    found, units = pruned(model, crops, shares)
    assert "synthesis" not in shares or units["synthesis.blocks_8.0.reduce"] == (0, 64)
    assert found.synthesis.blocks_8[0].lean and not hasattr(found.synthesis.blocks_8[0], "reduce")
    before, after = given(model, crops)[1], given(found, crops)[1]
    assert (before - after).abs().amax() < 2e-3 * before.abs().amax()


@pytest.fixture
def of_8_bits(crops: list[Any]) -> Any:
    """A model that knows steps of 8-bit values."""
    torch.manual_seed(0)
    model = Few(replace(CONFIG, int8=0.5))
    for network in (model.analysis, model.synthesis):
        for name, parameter in network.named_parameters():
            torch.nn.init.normal_(parameter, std=0.2 if name.endswith("weight") else 0.1)
    model.measure(crops)
    return model.eval()


def test_steps_of_8_bit_values_are_known_where_synthesis_is_as_it_was(of_8_bits: Any, crops: list[Any]) -> None:
    model = of_8_bits
    kept, changed = (pruned(model, crops, {network: 0.3})[0] for network in ("analysis", "synthesis"))
    assert kept.eight_bits.known and not changed.eight_bits.known
    for name, step in model.eight_bits.steps().items():
        assert (kept.eight_bits.steps()[name] == step).all()
    with torch.no_grad():
        model.eight_bits.round_weights(model.synthesis)
    for name, value in model.synthesis.state_dict().items():  # what decodes is what was looked at
        assert torch.equal(kept.synthesis.state_dict()[name], value)


def test_steps_of_8_bit_values_stay_where_only_idle_units_went(of_8_bits: Any, crops: list[Any]) -> None:
    torch.nn.init.zeros_(of_8_bits.synthesis.blocks_8[0].reduce.weight[:, 48:].detach())
    found, _ = pruned(of_8_bits, crops, {"analysis": 0.2})
    assert found.eight_bits.known and found.config.synthesis_units_8[:2] == (32, 48)
    assert (found.eight_bits.steps()["blocks_8.0.reduce"] == of_8_bits.eight_bits.steps()["blocks_8.0.reduce"][:48]).all()


def test_units_that_nothing_reads_do_not_count(model: Any, crops: list[Any]) -> None:
    """As export leaves them out, and --init gives them fresh weights."""
    for block in model.analysis.blocks_8:
        torch.nn.init.zeros_(block.mix_out.weight)
        with torch.no_grad():
            block.reduce.weight[:, 40:] = 0
    found, units = pruned(model, crops, {"analysis": 0.2})
    assert {name: before for name, (_, before) in units.items()} == {
        f"analysis.blocks_8.{k}.{reader}": before for k in (0, 1) for reader, before in (("mix_out", BLOCK), ("reduce", 40))
    }
    left = 2 * (BLOCK * 4 * (64 + 9) + 40 * 4 * 64)
    assert multiplications(found, "analysis") <= 0.8 * left < multiplications(model, "analysis")


def test_a_model_keeps_its_own_weights(of_8_bits: Any, crops: list[Any]) -> None:
    model = of_8_bits
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned(model, crops, {"analysis": 0.3, "synthesis": 0.3})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.eight_bits is not None


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


# `fewbits prune`


def test_a_pruned_bundle_is_written_and_trained_on_from(
    model: Any, tiny_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PRUNING_CROP", 64)
    bundle, card = tmp_path / "bundle", {"architecture": asdict(model.config), "curve": {}, "training": {"loss": "ms-ssim=1"}}
    export.write_folder(bundle, export.bundle_files("few", model, card))
    command.run_prune(bundle, tmp_path / "pruned", [tiny_run.data], [], {"analysis": 0.4, "synthesis": 0.2})
    printed = capsys.readouterr().out
    assert "analysis.blocks_8.0.reduce" in printed and "--loss ms-ssim=1 " in printed
    found = export.load_bundle(tmp_path / "pruned")
    assert "curve" not in found.card
    assert found.card["pruned"] == {
        "from": export.load_bundle(bundle).model_id.hex(), "crops": 3, "analysis": 0.4, "synthesis": 0.2,
    }  # fmt: skip
    units = found.card["architecture"]["analysis_units_8"]
    assert len(units) == 4 and sum(units) < 2 * 96
    options = {"minutes": None, "steps": 1, "anneal": None, "exclude": [], "validation": [], "device": "cpu"}
    settings = ["batch=2", "crop=64", "save_minutes=0"]
    command.run_train("few", [tiny_run.data], tmp_path / "run", init=tmp_path / "pruned", settings=settings, **options)
    state = torch.load(tmp_path / "run" / "trunk.pt", weights_only=True)["model"]
    assert state["analysis.blocks_8.0.mix_out.weight"].shape[1] == units[0]


def test_without_shares_what_is_silent_goes(
    model: Any, tiny_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PRUNING_CROP", 64)
    wide = Few(replace(CONFIG, hyper_width=48))
    with torch.no_grad():
        wide.hyper_analysis.spatial_16.bias[10:] = -1e4
    export.write_folder(tmp_path / "bundle", export.bundle_files("few", wide, {"architecture": asdict(wide.config)}))
    command.run_prune(tmp_path / "bundle", tmp_path / "pruned", [tiny_run.data], [], {"analysis": 0.0, "synthesis": 0.0})
    assert "hyper_analysis.spatial_16      16 of 48 units" in capsys.readouterr().out
    assert export.load_bundle(tmp_path / "pruned").card["architecture"]["hyper_analysis_units"][0] == 16


def test_pictures_that_are_too_small_to_prune_by_are_named(tmp_path: Path, tiny_run: Any) -> None:
    with pytest.raises(TrainingError, match="no picture of 256x256 pixels or more to prune by"):
        command.run_prune(tiny_run.bundle, tmp_path / "pruned", [tiny_run.data], [], {"analysis": 0.1, "synthesis": 0.0})
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": {"analysis": 1.5}}, "the share of analysis to leave out is 1.5"),
        ({"bundle": SHIPPED / "klt"}, "is of family klt: only models of few"),
        ({"target": "taken/pruned"}, "taken is no folder"),
        ({"target": "."}, "exists and is no bundle"),
    ],
    ids=str,
)
def test_what_cannot_be_pruned_is_told_before_a_picture_is_read(
    tiny_run: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    bundle, target = change.get("bundle", tiny_run.bundle), tmp_path / change.get("target", "pruned")
    with pytest.raises(FewbitsError, match=message):
        command.run_prune(bundle, target, [tmp_path / "no pictures"], [], change.get("shares", {"analysis": 0.1}))

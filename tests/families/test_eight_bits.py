# SPDX-License-Identifier: MIT
"""Training in 8 bits: values and weights lie on grids, gradients pass, and steps are those that were measured."""

import copy
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fewbits.families import eight_bits  # noqa: E402
from fewbits.families.eight_bits import (  # noqa: E402
    LEVELS,
    STEPS,
    SUMS,
    UNSIGNED_LEVELS,
    EightBits,
    _Rounded,
    rounded_weight,
    sum_of,
)
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.families.losses import Distortion, Penalty  # noqa: E402

CONFIG = FewConfig(latent=6, hyper=4, width_8=8, depth_8=2, width_16=8, hyper_width=8, lambdas=(0.002, 0.02), int8=1.0)


@pytest.fixture
def model() -> Any:
    """Untrained, but with branches that give something."""
    torch.manual_seed(0)
    model = Few(CONFIG)
    for name, parameter in model.synthesis.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs() -> tuple[Any, Any, Any]:
    """Of synthesis."""
    torch.manual_seed(1)
    return torch.randn(2, 6, 4, 5), 1 + 0.1 * torch.randn(2, 8, 1, 1), torch.randn(2, 8, 1, 1)


def measured(model: Any) -> EightBits:
    rounding: EightBits = model.eight_bits
    rounding.begin(model.synthesis, [inputs()])
    return rounding


def test_values_are_whole_steps_and_none_is_beyond_the_last() -> None:
    x, step = torch.randn(2, 3, 8, 8), torch.tensor([0.01, 0.02, 0.5]).view(1, 3, 1, 1)
    rounded = _Rounded.apply(x, step, -128, LEVELS)
    codes = rounded / step
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert codes.amin() == -128 and codes.amax() == LEVELS
    inside = (x / step).abs() < LEVELS
    assert inside.any() and not inside.all()
    assert ((rounded - x).abs() <= 0.5 * step + 1e-6)[inside].all()


def test_gradients_pass_where_nothing_is_clipped() -> None:
    x, step = torch.randn(2, 3, 8, 8, requires_grad=True), torch.tensor([0.005, 0.01, 0.5]).view(1, 3, 1, 1)
    _Rounded.apply(x, step, 0, UNSIGNED_LEVELS).sum().backward()
    units = (x / step).detach()
    inside = (units >= 0) & (units <= UNSIGNED_LEVELS)
    assert torch.equal(x.grad, inside.float()) and inside.any() and not inside.all()


def test_weights_have_255_values_for_each_row_and_are_not_rounded_twice() -> None:
    torch.manual_seed(0)
    weight, step = torch.randn(5, 7, requires_grad=True), torch.rand(7) + 0.1
    rounded = rounded_weight(weight, step)
    units = rounded * step
    codes = units / (units.abs().amax(1, keepdim=True) / LEVELS)
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert 0 < (rounded - weight).abs().max() < ((weight * step).abs().amax(1, keepdim=True) / LEVELS / step).max()
    assert torch.allclose(rounded_weight(rounded.detach(), step), rounded)
    rounded.sum().backward()
    assert torch.equal(weight.grad, torch.ones(5, 7))


def test_nothing_is_rounded_until_steps_are_known(model: Any) -> None:
    assert not model.eight_bits.known and not model.int8_steps()
    y_hat, scale, shift = inputs()
    assert torch.equal(model._synthesized(y_hat, scale, shift), model.synthesis(y_hat, scale, shift))


def test_steps_are_such_that_nothing_that_was_measured_is_clipped(model: Any) -> None:
    eight_bits = measured(model)
    assert eight_bits.known
    with torch.no_grad():
        plain, weights, both = (
            model.synthesis(*inputs()),
            *(eight_bits(model.synthesis, *inputs(), values=values) for values in (False, True)),
        )
    assert 0 < (weights - plain).square().mean().sqrt() < 0.02 * plain.std()
    assert 0 < (both - weights).square().mean().sqrt() < 0.02 * plain.std()


def test_blocks_without_a_wide_layer_are_in_8_bits_too() -> None:
    torch.manual_seed(0)
    model = Few(replace(CONFIG, synthesis_units_8=(8, 0, 6, 4), synthesis_units_16=(4, 0)))
    for name, parameter in model.synthesis.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.2)
    eight_bits = measured(model)
    assert {name for name in eight_bits.steps() if name.endswith(("expand", "reduce"))} == {
        "blocks_8.1.expand",
        "blocks_8.1.reduce",
    }
    with torch.no_grad():
        plain, both = model.synthesis(*inputs()), eight_bits(model.synthesis, *inputs(), values=True)
    assert 0 < (both - plain).square().mean().sqrt() < 0.02 * plain.std()


def test_measuring_changes_weights_and_not_what_synthesis_computes(model: Any) -> None:
    for name, parameter in model.synthesis.named_parameters():
        if name.endswith("bias"):  # which are 0 at first
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: value.clone() for name, value in model.synthesis.state_dict().items()}
    with torch.no_grad():
        plain = model.synthesis(*inputs())
        measured(model)
        assert torch.allclose(model.synthesis(*inputs()), plain, atol=1e-5 * plain.std())
    after = model.synthesis.state_dict()
    inside = {name for name in before if name.startswith(("up.", "blocks_8.", "head."))}
    same = {name for name in before if torch.equal(before[name], after[name])}
    hidden = {name for name in inside if ".spatial." in name or name.endswith(("mix_in.bias", "expand.bias"))}
    assert same == set(before) - inside | hidden  # the insides of branches, and all that is not at 1/8


def test_the_other_basis_makes_values_of_8_bits_cost_less(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    rare = torch.where(torch.rand(2, 6, 24, 24) < 0.01, 30.0, 1.0) * torch.randn(2, 6, 24, 24)  # as latents are
    batch = rare, *inputs()[1:]
    start = copy.deepcopy(model.state_dict())

    def cost() -> float:
        model.load_state_dict(start)
        model.eight_bits.begin(model.synthesis, [batch])
        with torch.no_grad():
            coarse, fine = (model.eight_bits(model.synthesis, *batch, values=values) for values in (True, False))
        return float((coarse - fine).square().mean())

    found = cost()
    monkeypatch.setattr(eight_bits, "quiet_basis", lambda sums: torch.eye(8))
    assert found < 0.9 * cost()


def test_what_never_gives_anything_has_no_say_in_the_basis(model: Any) -> None:
    for block in model.synthesis.blocks_8:
        torch.nn.init.zeros_(block.mix_out.weight)
        torch.nn.init.constant_(block.expand.bias, -1e4)
    before = model.synthesis.head.weight.clone()
    measured(model)
    assert model.eight_bits.known and torch.equal(model.synthesis.head.weight, before)


def test_one_convolution_can_read_8_bits_by_itself(model: Any) -> None:
    eight_bits = measured(model)
    with torch.no_grad():
        names = ["blocks_8.0.mix_in", "blocks_8.1.reduce"]
        none, first, second, every = (eight_bits(model.synthesis, *inputs(), values=values) for values in (False, *names, True))
    apart = [float((some - none).square().mean()) for some in (first, second, every)]
    assert 0 < apart[0] < apart[2] and 0 < apart[1] < apart[2] and not torch.equal(first, second)


def test_a_measured_model_is_not_measured_again(model: Any) -> None:
    before = {name: value.copy() for name, value in measured(model).steps().items()}
    model.measure([torch.rand(2, 3, 64, 64)])
    assert all((value == before[name]).all() for name, value in model.eight_bits.steps().items())


def test_what_reads_a_sum_has_its_proportions(model: Any) -> None:
    steps = measured(model).steps()
    for name, step in steps.items():
        if name.endswith((".mix_in", ".expand")):
            share = step / steps[sum_of(name)]
            assert share.max() - share.min() < 1e-5 * share.max() < 1.1e-5  # none reads more than the largest of them
    assert set(steps) & set(SUMS) == {"blocks_8", "blocks_8.1"}  # this model has no third block
    assert not {"up", "head", "stem", "shortcut_16"} & set(steps)


def test_proportions_change_in_the_middle_of_a_block() -> None:
    names = [f"blocks_8.{k}.{part}" for k in range(4) for part in ("mix_in", "expand")]
    assert [sum_of(name) for name in names] == 3 * ["blocks_8"] + 2 * ["blocks_8.1"] + 3 * ["blocks_8.2"]
    assert sum_of("blocks_16.1.expand") == "blocks_16"


def test_steps_are_read_back(model: Any) -> None:
    steps, fresh = measured(model).steps(), Few(CONFIG)
    fresh.load_int8_steps({"synthesis": {f"{name}{STEPS}": torch.from_numpy(value) for name, value in steps.items()}})
    again = fresh.eight_bits.steps()
    assert all((again[name] == value).all() for name, value in steps.items())


def test_steps_that_an_older_variant_lacks_are_measured_anew(model: Any) -> None:
    steps, fresh = measured(model).steps(), Few(CONFIG)
    arrays = {f"{name}{STEPS}": torch.from_numpy(value) for name, value in steps.items() if name != "blocks_8.1"}
    fresh.load_int8_steps({"synthesis": arrays})
    assert not fresh.eight_bits.known and fresh.eight_bits.step("blocks_8").isfinite().all()
    measured(fresh)
    assert fresh.eight_bits.known


def test_training_moves_weights_by_what_8_bits_cost(model: Any) -> None:
    measured(model)
    loss, _ = model.train().loss(torch.rand(2, 3, 64, 64), Distortion("mse"), Penalty(""))
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.synthesis.parameters())
    assert model.synthesis.blocks_8[1].reduce.weight.grad.abs().sum() > 0


def test_what_is_exported_computes_with_the_weights_of_training(model: Any) -> None:
    eight_bits = measured(model)
    with torch.no_grad():
        for parameter in model.parameters():  # as export does first
            parameter.copy_(parameter.half().float())
    network = model.networks()["synthesis"][0]
    with torch.no_grad():
        trained, exported = eight_bits(model.synthesis, *inputs(), values=False), network(*inputs())
    assert torch.allclose(trained, exported, atol=2e-3 * trained.std())  # whose weights float16 holds
    assert (trained - exported).square().mean().sqrt() < 5e-4 * trained.std()
    for block, plain in zip(network.blocks_8, model.synthesis.blocks_8, strict=True):
        assert torch.equal(block.reduce.weight, block.reduce.weight.half().float())
        assert not torch.allclose(block.reduce.weight, plain.reduce.weight, rtol=2e-3, atol=0)  # by more than that
    assert network.up.weight is not model.synthesis.up.weight

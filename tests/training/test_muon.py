# SPDX-License-Identifier: MIT
"""Muon: torch's steps, in the precision that is asked for."""

import pytest

torch = pytest.importorskip("torch")

from fewbits.training.muon import Muon, orthogonalized  # noqa: E402

SHAPES = [(24, 40), (40, 24), (24, 40), (16, 16)]  # two alike, which are orthogonalized together


def weights(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def walk(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, weights(100 + step), strict=True):
            parameter.grad = gradient.detach()
        optimizer.step()


def test_in_bfloat16_it_takes_the_steps_of_torchs() -> None:
    ours, torchs = weights(0), weights(0)
    walk(Muon(ours, 0.1, torch.bfloat16), ours, range(3))
    walk(torch.optim.Muon(torchs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), torchs, range(3))
    for one, two, start in zip(ours, torchs, weights(0), strict=True):
        moved = (two - start).norm()
        assert moved > 0.3
        assert (one - two).norm() < 0.02 * moved  # bfloat16 has 8 bits


def test_in_float32_singular_values_come_near_1_and_directions_stay() -> None:
    matrices = weights(1)[0].detach().repeat(2, 1, 1)
    matrices[1] *= 1000  # the size of a gradient does not matter
    turned = orthogonalized(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert turned.dtype == torch.float32
    assert torch.allclose(turned[0], turned[1], atol=1e-4)
    values = torch.linalg.svdvals(turned[0])
    assert values.min() > 0.6 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices[0], full_matrices=False)
    between = u.T @ turned[0] @ v.T
    assert (between - between.diag().diag()).abs().max() < 1e-4


def test_a_run_goes_on_from_the_states_of_torchs() -> None:
    ours, torchs = weights(0), weights(0)
    before = torch.optim.Muon(torchs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    walk(before, torchs, range(2))
    after = Muon(ours, 0.1, torch.bfloat16)
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        for one, two in zip(ours, torchs, strict=True):
            one.copy_(two)
    walk(before, torchs, range(2, 4))
    walk(after, ours, range(2, 4))
    for one, two in zip(ours, torchs, strict=True):
        assert (one - two).norm() < 0.02 * two.norm()

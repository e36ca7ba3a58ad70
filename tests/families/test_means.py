# SPDX-License-Identifier: MIT
"""Means that neighbours tell: found by least squares, each value in units of its own scale."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewbits.families.means import Means, Regression, edges_repeated  # noqa: E402


@pytest.fixture
def told() -> Means:
    """A map that is not 0."""
    torch.manual_seed(0)
    means = Means(3, 4)
    for parameter in means.parameters():
        torch.nn.init.normal_(parameter)
    return means


def fitted(*examples: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Means:
    means = Means(3, 4)
    regression = Regression(means)
    for example in examples:
        regression.add(*example)
    regression.solve()
    return means


def test_it_tells_nothing_at_first() -> None:
    assert not Means(3, 4)(torch.randn(1, 3, 5, 5)).any()


def test_repeated_edges_are_what_padding_makes_of_them() -> None:
    x = torch.randn(2, 3, 5, 7)
    assert torch.equal(edges_repeated(x), torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"))


def test_a_linear_map_is_found_of_several_pictures(told: Means) -> None:
    with torch.no_grad():
        examples = [(x, told(x), torch.ones(2, 4, 9, 11)) for x in torch.randn(3, 2, 3, 9, 11)]
    found = fitted(*examples)
    for own, other in zip(found.parameters(), told.parameters(), strict=True):
        assert torch.allclose(own, other, atol=2e-3)


@pytest.mark.parametrize("scale", [1.0, 3.0, torch.inf])
def test_each_value_counts_in_units_of_its_scale(told: Means, scale: float) -> None:
    """As numpy's least squares has it, of rows divided by their scales."""
    x = torch.randn(1, 3, 20, 20)
    with torch.no_grad():
        values = told(x)
    values[..., 10:] += 5 * torch.randn_like(values[..., 10:])
    scales = torch.ones_like(values)
    scales[..., 10:] = scale
    found = fitted((x, values, scales))
    rows = torch.nn.functional.unfold(edges_repeated(x), 3)[0].T.double().numpy()
    rows = np.concatenate([rows, np.ones_like(rows[:, :1])], axis=1)
    weights = 1 / scales[0, 0].flatten().numpy()[:, None]
    for k, (weight, bias) in enumerate(zip(found.around.weight, found.around.bias, strict=True)):
        wanted = values[0, k].flatten().numpy()[:, None]
        best = np.linalg.lstsq(rows * weights, wanted * weights, rcond=None)[0][:, 0]
        assert np.abs(best[:-1] - weight.detach().flatten().numpy()).max() < 1e-3 * np.abs(best).max()
        assert best[-1] == pytest.approx(bias.item(), abs=1e-3 * np.abs(best).max())


def test_a_channel_that_never_matters_has_means_of_0(told: Means) -> None:
    x = torch.randn(1, 3, 20, 20)
    scales = torch.ones(1, 4, 20, 20)
    scales[:, 2] = torch.inf
    with torch.no_grad():
        found = fitted((x, told(x), scales))(x)
    assert not found[:, 2].any() and found[:, 1].any()

# SPDX-License-Identifier: MIT
"""Rates: bits are -log2 of a probability, with the gradient that follows from it."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewbits.coding.streams import SignedTable  # noqa: E402
from fewbits.coding.tables import FrequencyTable  # noqa: E402
from fewbits.families.likelihood import (  # noqa: E402
    LOG_STEP,
    N_SCALES,
    SCALE_MAX,
    SCALE_MIN,
    dead_zones,
    logistic_bits,
    logistic_frequencies,
    table_bits,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def plain_bits(residual, index):
    """The formula as it stands, for autograd; good where the mass does not underflow."""
    scale = SCALE_MIN * torch.exp(LOG_STEP * index)
    mass = torch.sigmoid((residual + 0.5) / scale) - torch.sigmoid((residual - 0.5) / scale)
    return -torch.log2(mass)


def inside(n: int = 400):
    """Residuals and indices whose mass is well above the smallest probability, away from 0, where |r| has a corner."""
    index = torch.rand(n, dtype=torch.float64) * (N_SCALES - 1)
    scale = SCALE_MIN * torch.exp(LOG_STEP * index)
    residual = (torch.rand(n, dtype=torch.float64) * 2 - 1) * (0.5 + 9 * scale)
    keep = (plain_bits(residual, index) < 18) & (residual.abs() > 1e-3)
    return residual[keep], index[keep]


def test_the_scales_are_a_geometric_table() -> None:
    assert SCALE_MIN * math.exp(LOG_STEP * (N_SCALES - 1)) == pytest.approx(SCALE_MAX)


def test_bits_are_minus_log2_of_the_mass() -> None:
    residual, index = inside()
    assert len(residual) > 200
    assert torch.allclose(logistic_bits(residual, index), plain_bits(residual, index), rtol=1e-9)


def test_the_gradient_is_that_of_autograd_and_of_differences() -> None:
    residual, index = (part.requires_grad_() for part in inside())
    found = torch.autograd.grad(logistic_bits(residual, index).sum(), (residual, index))
    expected = torch.autograd.grad(plain_bits(residual, index).sum(), (residual, index))
    slope = torch.full_like(residual, 30 / math.log(2))  # the clamp of steep slopes, in bits
    assert torch.allclose(found[0], expected[0].clamp(-slope, slope), rtol=1e-5, atol=1e-7)
    assert torch.allclose(found[1], expected[1].clamp(min=-30 * LOG_STEP / math.log(2)), rtol=1e-5, atol=1e-7)
    gentle = (found[0].abs() < 20) & (found[1].abs() < 2) & (index > 0.01) & (index < N_SCALES - 1.01)
    assert gentle.sum() > 50
    assert torch.autograd.gradcheck(
        logistic_bits, (residual[gentle].detach().requires_grad_(), index[gentle].detach().requires_grad_())
    )


def test_far_out_the_gradient_is_still_that_of_the_mass() -> None:
    """Where the bits are cut off at about what an escape costs, the slope is not."""
    index = torch.linspace(0, N_SCALES - 1, 64, dtype=torch.float64)
    scale = SCALE_MIN * torch.exp(LOG_STEP * index)
    residual = (0.5 + scale * 25 * math.log(2)).requires_grad_()
    slopes = [torch.autograd.grad(bits(residual, index).sum(), residual)[0] for bits in (logistic_bits, plain_bits)]
    assert (plain_bits(residual, index) > 20).all()
    assert torch.allclose(slopes[0], slopes[1].clamp(max=30 / math.log(2)), rtol=1e-4)


@pytest.mark.parametrize("index", [0.0, 10.0, 31.5, 63.0])
def test_probabilities_of_all_integers_sum_to_one(index: float) -> None:
    residual = torch.arange(-2000.0, 2001.0)
    assert (2 ** -logistic_bits(residual, torch.full_like(residual, index))).sum() == pytest.approx(1, abs=0.01)


def test_dead_zones_balance_bits_and_error() -> None:
    """At the edge of the zone of strength 1, 0 and 1 cost alike: bits + error weighed as at 6 dB a bit."""
    zones = dead_zones(1.0)
    assert zones.shape == (N_SCALES,) and (zones.diff() <= 0).all() and zones.min() >= 0 and zones.max() <= 0.45
    assert torch.equal(dead_zones(0.0), torch.zeros(N_SCALES))
    for index in (16, 24, 40, 63):
        edge = 0.5 + float(zones[index])
        bits = [float(logistic_bits(torch.tensor([float(k)]), torch.tensor([float(index)]))) for k in (0, 1)]
        costs = [bits[0] + 6 / math.log(2) * edge**2, bits[1] + 6 / math.log(2) * (1 - edge) ** 2]
        assert costs[0] == pytest.approx(costs[1], rel=1e-3)


def test_bits_are_symmetric_and_rise_with_the_magnitude() -> None:
    residual = torch.linspace(0, 300, 4001)
    for index in (0.0, 20.0, 63.0):
        at = torch.full_like(residual, index)
        bits = logistic_bits(residual, at)
        assert torch.equal(bits, logistic_bits(-residual, at))
        assert (bits.diff() >= -1e-4).all() and bits.max() <= 20


@pytest.mark.parametrize("residual", [0.0, 3.0, 100.0, 1e4, 1e6, -1e6])
@pytest.mark.parametrize("index", [-100.0, 0.0, 30.0, 63.0, 1e4])
def test_gradients_of_outliers_are_finite_and_lead_back(residual: float, index: float) -> None:
    r, i = torch.tensor(residual, requires_grad=True), torch.tensor(index, requires_grad=True)
    bits = logistic_bits(r, i)
    bits.backward()
    assert bits.isfinite() and 0 <= bits <= 20.01
    assert r.grad.isfinite() and i.grad.isfinite()
    assert r.grad * residual >= 0, "a larger residual never costs less"
    if abs(residual) >= 1e4:
        assert r.grad != 0 and (i.grad < 0 or index > 63), "an outlier asks for a larger scale"
    # descent moves against the gradient: outside the table only back inside
    assert not (index < 0 and i.grad > 0) and not (index > N_SCALES - 1 and i.grad < 0)


def test_table_bits_are_minus_log2_of_softmax_at_integers() -> None:
    logits = torch.randn(2, 3, 9)
    values = torch.randint(-4, 5, (2, 3, 5, 6)).float()
    probabilities = torch.softmax(logits, -1)
    expected = -torch.log2(torch.gather(probabilities, 2, (values + 4).long().flatten(2))).view_as(values)
    assert torch.allclose(table_bits(values, logits), expected, atol=1e-5)


def test_table_bits_are_linear_between_integers() -> None:
    logits = torch.randn(1, 1, 9)
    ends = table_bits(torch.tensor([2.0, 3.0]).view(1, 1, 1, 2), logits).ravel()
    for part in (0.0, 0.25, 0.5, 1.0):
        between = table_bits(torch.full((1, 1, 1, 1), 2 + part), logits).item()
        assert between == pytest.approx((ends[0] + part * (ends[1] - ends[0])).item(), abs=1e-5)


def test_table_bits_have_the_gradient_of_differences() -> None:
    logits = torch.randn(1, 2, 7, dtype=torch.float64, requires_grad=True)
    values = (torch.rand(1, 2, 3, 3, dtype=torch.float64) * 5.8 - 2.9).requires_grad_()
    assert torch.autograd.gradcheck(table_bits, (values, logits))


def frozen() -> list[SignedTable]:
    limits, frequencies = logistic_frequencies()
    parts = np.split(frequencies, np.cumsum(2 * limits + 2)[:-1])
    tables = [SignedTable(FrequencyTable(part)) for part in parts]
    assert [table.limit for table in tables] == limits.tolist()
    return tables


def test_frozen_tables_charge_what_training_charged() -> None:
    tables = frozen()
    assert len(tables) == N_SCALES
    for k in range(0, N_SCALES, 7):
        values = np.arange(-tables[k].limit, tables[k].limit + 1)
        trained = logistic_bits(torch.from_numpy(values).double(), torch.full((len(values),), float(k), dtype=torch.float64))
        charged = np.array([tables[k].bits(np.array([value])) for value in values])
        likely = trained.numpy() < 15
        assert np.abs(charged - trained.numpy())[likely].max() < 0.02
        assert charged[tables[k].limit] < 24 and charged.max() <= 24


def test_frozen_tables_reach_as_far_as_symbols_are_likely() -> None:
    tables = frozen()
    limits = [table.limit for table in tables]
    assert limits == sorted(limits) and limits[0] >= 1
    for k, table in enumerate(tables):
        scale = SCALE_MIN * math.exp(LOG_STEP * k)
        outside = 2 / (1 + math.exp((table.limit + 0.5) / scale))
        assert outside <= 2**-20 or table.limit == 1
        escape = table.table.frequencies[-1] / 2**24
        assert escape == pytest.approx(max(outside, 2**-20), rel=0.1)

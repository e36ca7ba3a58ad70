# SPDX-License-Identifier: MIT
"""The factorized density is one, can be learned, and its tables are its masses."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewbits.coding.tables import TOTAL  # noqa: E402
from fewbits.families.factorized import FactorizedDensity  # noqa: E402


@pytest.fixture(scope="module")
def density() -> FactorizedDensity:
    """Fitted to a shifted Laplacian, a narrow and a wide Gaussian."""
    torch.manual_seed(0)
    model = FactorizedDensity(3)
    data = torch.stack(
        [3 + torch.distributions.Laplace(0.0, 2.0).sample((4000,)), torch.randn(4000) * 0.3, torch.randn(4000) * 9]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(300):
        y = (data + torch.rand_like(data) - 0.5)[None, :, None]
        loss = model.bits(y).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_masses_of_all_integers_sum_to_one(density: FactorizedDensity) -> None:
    values = torch.arange(-400, 401).float().expand(3, -1)
    with torch.no_grad():
        for gain in (1.0, 0.6, 2.0):
            assert density.masses(values, gain).sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-4)
        assert bool((density.logits(values).diff(dim=1) > 0).all())


def test_it_learns_what_it_is_shown(density: FactorizedDensity) -> None:
    """Within 3 % of the entropy, from samples that it has not seen."""
    torch.manual_seed(1)
    samples = torch.stack(
        [3 + torch.distributions.Laplace(0.0, 2.0).sample((20000,)), torch.randn(20000) * 0.3, torch.randn(20000) * 9]
    )
    symbols = samples.round()
    with torch.no_grad():
        bits = density.bits(symbols[None, :, None])[0, :, 0].mean(1)
    for channel in range(3):
        counts = np.unique(symbols[channel].numpy(), return_counts=True)[1] / 20000
        assert bits[channel].item() < 1.03 * -(counts * np.log2(counts)).sum() + 0.02


@pytest.mark.parametrize("gain", [1.0, 0.5, 2.0])
def test_tables_are_its_masses(density: FactorizedDensity, gain: float) -> None:
    limits, frequencies = density.tables(gain)
    rows = np.split(frequencies, np.cumsum(2 * limits.astype(int) + 2)[:-1])
    for channel, (limit, row) in enumerate(zip(limits, rows, strict=True)):
        assert row.sum() == TOTAL and row.min() >= 1 and len(row) == 2 * limit + 2
        values = torch.arange(-int(limit), int(limit) + 1).float().expand(3, -1)
        with torch.no_grad():
            masses = density.masses(values, gain)[channel].numpy()
        assert row[:-1] / TOTAL == pytest.approx(masses, abs=2e-4)
    assert limits[2] > limits[1]


def test_it_starts_near_what_it_is_shown() -> None:
    torch.manual_seed(0)
    y = torch.randn(4, 2, 20, 20) * torch.tensor([0.5, 60.0]).view(1, 2, 1, 1)
    density = FactorizedDensity(2)
    with torch.no_grad():
        blind = density.bits(y.round()).mean((0, 2, 3))
        density.start(y)
        found = density.bits(y.round()).mean((0, 2, 3))
    for channel in range(2):
        ideal = np.unique(y[:, channel].round().numpy(), return_counts=True)[1] / 1600
        assert found[channel] < -(ideal * np.log2(ideal)).sum() + 0.5 and found[channel] < blind[channel]


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_its_entropy_is_what_its_tables_would_take(density: FactorizedDensity, gain: float) -> None:
    limits, frequencies = density.tables(gain)
    shares = [row / TOTAL for row in np.split(frequencies, np.cumsum(2 * limits.astype(int) + 2)[:-1])]
    assert density.entropy(gain) == pytest.approx(sum(-(row * np.log2(row)).sum() for row in shares), abs=0.01)

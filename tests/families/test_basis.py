# SPDX-License-Identifier: MIT
"""Another basis for a sum: what is computed stays, and a few large values no longer set all steps."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from fewbits.families.basis import Reader, change_basis, largest_of, proportional, quiet_basis  # noqa: E402
from fewbits.families.few import FewConfig, Synthesis  # noqa: E402

CONFIG = FewConfig(latent=6, hyper=4, width_8=8, depth_8=2, width_16=8, hyper_width=8, lambdas=(0.002, 0.02))


@pytest.mark.parametrize("units", [(), (8, 16, 8, 0), (5, 0, 8, 3)])
def test_synthesis_computes_the_same_in_any_basis(units: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    synthesis = Synthesis(replace(CONFIG, synthesis_units_8=units))
    for parameter in synthesis.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    inputs = torch.randn(2, 6, 4, 5), torch.randn(2, 8, 1, 1), torch.randn(2, 8, 1, 1)
    with torch.no_grad():
        before, head = synthesis(*inputs), synthesis.head.weight.clone()
        change_basis(synthesis, torch.eye(8) + 0.3 * torch.randn(8, 8))
        after = synthesis(*inputs)
    assert not torch.allclose(synthesis.head.weight, head, atol=0.01)
    assert torch.allclose(after, before, atol=1e-4 * before.std())


def test_proportional_peaks_hold_what_was_given() -> None:
    torch.manual_seed(0)
    peaks = [torch.rand(5) + 0.1 for _ in range(3)]
    found = proportional(peaks)
    largest = largest_of(peaks)
    for peak, wide in zip(peaks, found, strict=True):
        assert (wide >= peak * (1 - 1e-6)).all() and torch.isclose(wide, peak, rtol=1e-6).any()
        assert torch.allclose(wide / largest, (wide / largest).mean().expand(5))
    assert largest_of([torch.zeros(2)]).min() > 0


def noise(readers: dict[str, Reader], basis: torch.Tensor) -> float:
    """Of one sum, as steps of 8 bits make it in that basis: a draw of what rounding adds, through the weights."""
    peaks = proportional([(reader.places @ basis.T).abs().amax(0) for reader in readers.values()])
    inverse, total = torch.linalg.inv(basis), 0.0
    for reader, peak in zip(readers.values(), peaks, strict=True):
        rounding = (torch.rand(4000, 8, generator=torch.Generator().manual_seed(1)) - 0.5) * peak / 127
        total += float((rounding @ inverse.T @ reader.weight.T).square().mean())
    return total


def test_a_quiet_basis_spreads_what_is_far_from_the_others() -> None:
    torch.manual_seed(0)
    places = torch.randn(300, 8)
    places[torch.rand(300, 8) < 0.02] *= 20
    readers = {name: Reader(places * size, torch.randn(16, 8), size**2) for name, size in (("first", 1.0), ("second", 1.5))}
    basis = quiet_basis([readers])
    assert basis.isfinite().all() and not basis.requires_grad
    assert noise(readers, basis) < 0.6 * noise(readers, torch.eye(8))


def test_a_channel_that_is_always_0_is_no_obstacle() -> None:
    torch.manual_seed(0)
    places = torch.randn(300, 8)
    places[:, 3] = 0
    basis = quiet_basis([{"first": Reader(places, torch.randn(16, 8), 1.0)}])
    assert basis.isfinite().all() and torch.linalg.cond(basis) < 1e4


def test_the_noise_that_counts_is_that_which_is_heard() -> None:
    """A reader whose noise ends up nowhere does not keep the basis from suiting the other one."""
    torch.manual_seed(0)
    places, other = torch.randn(300, 8), torch.randn(300, 8)
    places[torch.rand(300, 8) < 0.02] *= 20
    other[torch.rand(300, 8) < 0.02] *= 20
    weights = torch.randn(16, 8), torch.randn(16, 8)
    heard = {"first": Reader(places, weights[0], 1.0)}
    sums = [heard, {"second": Reader(other, weights[1], 1e-6)}]
    alone = noise(heard, quiet_basis([heard]))
    assert noise(heard, quiet_basis(sums)) < 1.2 * alone
    loud = [heard, {"second": Reader(other, weights[1], 1e6)}]
    assert noise(heard, quiet_basis(loud)) > 1.2 * alone

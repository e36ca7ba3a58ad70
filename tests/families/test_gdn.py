# SPDX-License-Identifier: MIT
"""GDN against its formula, its inverse, and what is shared between widths in each variant."""

import pytest

torch = pytest.importorskip("torch")

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families.gdn import VARIANTS, SlimGdn  # noqa: E402

WIDTHS = (2, 3, 5)


def scrambled(variant: str, inverse: bool = False) -> SlimGdn:
    torch.manual_seed(0)
    layer = SlimGdn(WIDTHS, variant, inverse=inverse)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.rand_like(parameter))
    return layer


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_it_is_its_formula(variant: str, which: int) -> None:
    layer, width = scrambled(variant), WIDTHS[which]
    x = torch.randn(2, width, 3, 4)
    root_gamma, root_beta, m = layer.parts(which)
    assert root_gamma.shape == (width, width) and root_beta.shape == (width,)
    out = layer(x, which)
    for i in range(width):
        norm = root_beta[i] ** 2 * m[2] + m[3] + sum((root_gamma[i, j] ** 2 * m[0] + m[1]) * x[:, j] ** 2 for j in range(width))
        assert torch.allclose(out[:, i], x[:, i] / norm.sqrt(), atol=1e-6)
        assert torch.allclose(SlimGdn.forward(inverted(layer), x, which)[:, i], x[:, i] * norm.sqrt(), atol=1e-5)


def inverted(layer: SlimGdn) -> SlimGdn:
    twin = SlimGdn(layer.widths, layer.variant, inverse=True)
    twin.load_state_dict(layer.state_dict())
    return twin


def test_what_the_widths_share() -> None:
    """By how a change of the wide coefficients reaches the narrow width."""
    x = torch.randn(1, 2, 3, 3)
    for variant, shared in (("switchable", False), ("slimmable", True), ("modulated", True)):
        layer = scrambled(variant)
        before = layer(x, 0)
        with torch.no_grad():
            layer.root_gamma[-1].add_(1)
        assert torch.equal(layer(x, 0), before) != shared
    layer = scrambled("modulated")
    numbers = layer.modulation.shape
    assert numbers == (3, 4)
    before = [layer(torch.ones(1, width, 2, 2), which) for which, width in enumerate(WIDTHS)]
    with torch.no_grad():
        layer.modulation[1] *= 1.5
    after = [layer(torch.ones(1, width, 2, 2), which) for which, width in enumerate(WIDTHS)]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_negative_modulation_is_held_back() -> None:
    layer = scrambled("modulated")
    with torch.no_grad():
        layer.modulation.fill_(-5)
    assert bool(layer(torch.randn(1, 5, 2, 2), 2).isfinite().all())


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(TrainingError, match="gdn is 'own', it must be one of switchable, slimmable, modulated"):
        SlimGdn(WIDTHS, "own")

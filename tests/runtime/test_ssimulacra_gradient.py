# SPDX-License-Identifier: MIT
"""The slope of SSIMULACRA2 beside what torch makes of the distance that networks are trained with."""

from collections.abc import Callable

import numpy as np
import pytest

from fewbits import ssimulacra
from fewbits.runtime.ssimulacra_gradient import Ssimulacra2Gradient

Picture = Callable[..., np.ndarray]
Noisy = Callable[[np.ndarray, float], np.ndarray]
SIZES = [(8, 8), (11, 11), (15, 40), (40, 33), (97, 131), (176, 243)]  # odd sides, one band and several, one scale and five


def by_torch(original: np.ndarray, decoded: np.ndarray) -> tuple[float, np.ndarray]:
    """In float64."""
    torch = pytest.importorskip("torch")
    from fewbits.families.ssimulacra2 import distance

    x, x_hat = (torch.tensor(pixels).double()[None] / 255 for pixels in (original, decoded))
    found = distance(x, x_hat.requires_grad_())
    found.sum().backward()
    return found.item(), x_hat.grad[0].numpy()


def compare(original: np.ndarray, decoded: np.ndarray, tolerance: float = 4e-4) -> None:
    """tolerance: what float32 leaves of variances, in norm; single values may stray more where they are next to their mean."""
    distance, gradient = Ssimulacra2Gradient(original)(decoded)
    expected, slope = by_torch(original, decoded)
    assert gradient.shape == decoded.shape and gradient.dtype == np.float32
    assert distance == pytest.approx(expected, rel=5e-5)
    assert np.linalg.norm(gradient - slope) < tolerance * np.linalg.norm(slope)
    assert np.abs(gradient - slope).max() < 12 * tolerance * np.abs(slope).max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("deviation", [1, 12])
def test_distance_and_slope_are_those_of_torch(size: tuple[int, int], deviation: float, picture: Picture, noisy: Noisy) -> None:
    original = picture(*size).transpose(2, 0, 1)
    compare(original, noisy(original, deviation))


@pytest.mark.parametrize("norm", [0, 1])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_each_term_has_its_slope(norm: int, kind: int, picture: Picture, monkeypatch: pytest.MonkeyPatch, noisy: Noisy) -> None:
    """Beside the others some weigh too little to be seen: here one alone, in all channels and scales.

    Where edges are lost, values are so near their means that float32 has some on the other side; torch's does so, too.
    """
    weights = np.zeros_like(ssimulacra._WEIGHTS).reshape(3, -1, 2, 3)
    weights[:, :, norm, kind] = 1
    monkeypatch.setattr(ssimulacra, "_WEIGHTS", weights.reshape(ssimulacra._WEIGHTS.shape))
    original = picture(113, 90).transpose(2, 0, 1)
    compare(original, noisy(original, 6), tolerance=1e-2 if kind == 2 else 4e-4)


def test_the_distance_is_what_scores_are_made_of(picture: Picture, noisy: Noisy) -> None:
    original = picture(120, 150)
    decoded = noisy(original, 5)
    distance, _ = Ssimulacra2Gradient(original.transpose(2, 0, 1))(decoded.transpose(2, 0, 1))
    assert ssimulacra.score_of(distance) == pytest.approx(ssimulacra.score(original, decoded), abs=0.01)


def test_equal_pictures_have_no_slope(picture: Picture) -> None:
    original = picture(60, 73).transpose(2, 0, 1)
    distance, gradient = Ssimulacra2Gradient(original)(original)
    assert distance == pytest.approx(0, abs=1e-4) and not gradient.any()


@pytest.mark.parametrize("levels", [(0, 255), (255, 0), (0, 0), (255, 255)])
def test_flat_pictures_have_finite_slopes(levels: tuple[int, int]) -> None:
    original, decoded = (np.full((3, 50, 41), level, np.uint8) for level in levels)
    distance, gradient = Ssimulacra2Gradient(original)(decoded)
    assert np.isfinite(distance) and np.isfinite(gradient).all() and (distance > 1) == (levels[0] != levels[1])

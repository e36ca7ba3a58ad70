# SPDX-License-Identifier: MIT
"""The slope of SSIMULACRA2 beside what torch makes of the distance that networks are trained with."""

from collections.abc import Callable

import numpy as np
import pytest

from fewbits import ssimulacra
from fewbits.runtime.ssimulacra_gradient import Ssimulacra2Gradient

Picture = Callable[..., np.ndarray]
SIZES = [(8, 8), (11, 11), (15, 40), (97, 131), (176, 243)]  # odd sides, one band and several, one scale and all


def noisy(original: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, deviation, original.shape)
    return np.clip(np.rint(original + noise), 0, 255).astype(np.uint8)


def by_torch(original: np.ndarray, decoded: np.ndarray) -> tuple[float, np.ndarray]:
    """In float64."""
    torch = pytest.importorskip("torch")
    from fewbits.families.ssimulacra2 import distance

    x, x_hat = (torch.tensor(pixels).double()[None] / 255 for pixels in (original, decoded))
    found = distance(x, x_hat.requires_grad_())
    found.sum().backward()
    return found.item(), x_hat.grad[0].numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("deviation", [1, 12])
def test_distance_and_slope_are_those_of_torch(size: tuple[int, int], deviation: float, picture: Picture) -> None:
    original = picture(*size).transpose(2, 0, 1)
    decoded = noisy(original, deviation)
    distance, gradient = Ssimulacra2Gradient(original)(decoded)
    expected, slope = by_torch(original, decoded)
    assert gradient.shape == decoded.shape and gradient.dtype == np.float32
    assert distance == pytest.approx(expected, rel=5e-5)
    assert np.linalg.norm(gradient - slope) < 4e-4 * np.linalg.norm(slope)  # what float32 leaves of variances
    assert np.abs(gradient - slope).max() < 1e-3 * np.abs(slope).max()


def test_the_distance_is_what_scores_are_made_of(picture: Picture) -> None:
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


def test_a_step_down_the_slope_is_worth_what_it_says(picture: Picture) -> None:
    original = picture(176, 131).transpose(2, 0, 1)
    decoded, slope_at = noisy(original, 12), Ssimulacra2Gradient(original)
    distance, gradient = slope_at(decoded)
    step = np.rint(-3 * gradient / np.abs(gradient).max())
    nearer = np.clip(decoded + step, 0, 255).astype(np.uint8)
    expected = float((gradient * (nearer - decoded.astype(float)) / 255).sum())
    assert expected < 0 and slope_at(nearer)[0] - distance == pytest.approx(expected, rel=0.2)
    assert slope_at(decoded)[0] == distance  # a call leaves nothing behind

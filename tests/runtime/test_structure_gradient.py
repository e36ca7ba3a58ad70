# SPDX-License-Identifier: MIT
"""The slope of MS-SSIM beside what torch makes of the distance that networks are trained with."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewbits import structure
from fewbits.runtime.structure_gradient import MsSsimGradient

Picture = Callable[..., np.ndarray]
Noisy = Callable[[np.ndarray, float], np.ndarray]


def by_torch(original: np.ndarray, decoded: np.ndarray, distance: Callable[..., Any]) -> tuple[float, np.ndarray]:
    """In float64."""
    torch = pytest.importorskip("torch")
    x, x_hat = (torch.tensor(pixels).double()[None] / 255 for pixels in (original, decoded))
    found = distance(x, x_hat.requires_grad_())
    found.sum().backward()
    return found.item(), x_hat.grad[0].numpy()


def compare(original: np.ndarray, decoded: np.ndarray, distance_by_torch: Callable[..., Any]) -> None:
    distance, gradient = MsSsimGradient(original)(decoded)
    expected, slope = by_torch(original, decoded, distance_by_torch)
    assert gradient.shape == decoded.shape and gradient.dtype == np.float32
    assert distance == pytest.approx(expected, rel=5e-4)
    assert np.linalg.norm(gradient - slope) < 4e-4 * np.linalg.norm(slope)  # what float32 leaves of variances
    assert np.abs(gradient - slope).max() < 1e-3 * np.abs(slope).max()


@pytest.mark.parametrize("size", [(161, 161), (176, 243), (201, 163)])
@pytest.mark.parametrize("deviation", [2, 12])
def test_distance_and_slope_are_those_of_torch(size: tuple[int, int], deviation: float, picture: Picture, noisy: Noisy) -> None:
    pytest.importorskip("pytorch_msssim")
    from fewbits.families.losses import ms_ssim

    original = picture(*size).transpose(2, 0, 1)
    compare(original, noisy(original, deviation), ms_ssim)


def of_fewer_scales(x: Any, x_hat: Any, n_scales: int) -> Any:
    """1 - MS-SSIM, pytorch-msssim's definition written anew, as the library wants five scales."""
    from torch.nn import functional as F

    window = x.new_tensor(structure.gaussian())

    def mean(planes: Any) -> Any:
        rows = F.conv2d(planes.transpose(0, 1), window[None, None, :, None])
        return F.conv2d(rows, window[None, None, None]).transpose(0, 1)

    similarity = 1
    for scale, weight in enumerate(structure.WEIGHTS[:n_scales]):
        mean_x, mean_y = mean(x), mean(x_hat)
        variances = mean(x * x) - mean_x**2 + mean(x_hat * x_hat) - mean_y**2
        terms = (2 * (mean(x * x_hat) - mean_x * mean_y) + 0.03**2) / (variances + 0.03**2)
        if scale == n_scales - 1:
            terms = terms * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        similarity = similarity * F.relu(terms.mean((2, 3))) ** (weight / sum(structure.WEIGHTS[:n_scales]))
        x, x_hat = (F.avg_pool2d(planes, 2, padding=[side % 2 for side in planes.shape[2:]]) for planes in (x, x_hat))
    return 1 - similarity.mean(1)


@pytest.mark.parametrize("size, n_scales", [((11, 11), 1), ((15, 40), 1), ((21, 90), 2), ((97, 131), 4), ((160, 170), 4)])
def test_small_pictures_have_fewer_scales(size: tuple[int, int], n_scales: int, picture: Picture, noisy: Noisy) -> None:
    original = picture(*size).transpose(2, 0, 1)
    compare(original, noisy(original, 6), lambda x, x_hat: of_fewer_scales(x, x_hat, n_scales))


def test_where_no_window_fits_all_pictures_are_alike(picture: Picture) -> None:
    original = picture(10, 40).transpose(2, 0, 1)
    distance, gradient = MsSsimGradient(original)(255 - original)
    assert distance == 0 and gradient.shape == original.shape and gradient.dtype == np.float32 and not gradient.any()


def test_the_distance_is_that_of_the_metric(picture: Picture, noisy: Noisy) -> None:
    original = picture(163, 190)
    decoded = noisy(original, 5)
    distance, _ = MsSsimGradient(original.transpose(2, 0, 1))(decoded.transpose(2, 0, 1))
    assert distance == pytest.approx(1 - structure.ms_ssim(original, decoded), rel=1e-4)


def test_equal_pictures_have_next_to_no_slope(picture: Picture, noisy: Noisy) -> None:
    original = picture(165, 180).transpose(2, 0, 1)
    slope_at = MsSsimGradient(original)
    distance, gradient = slope_at(original)
    assert distance == pytest.approx(0, abs=1e-6)
    assert np.abs(gradient).max() < 1e-3 * np.abs(slope_at(noisy(original, 1))[1]).max()


@pytest.mark.parametrize("levels", [(0, 255), (255, 0), (0, 0), (255, 255)])
def test_flat_pictures_have_finite_slopes(levels: tuple[int, int]) -> None:
    original, decoded = (np.full((3, 161, 170), level, np.uint8) for level in levels)
    distance, gradient = MsSsimGradient(original)(decoded)
    assert np.isfinite(gradient).all() and (distance > 0.1) == (levels[0] != levels[1])


def test_a_channel_that_is_nowhere_alike_has_no_slope(picture: Picture, noisy: Noisy) -> None:
    """Contrasts below 0 count as 0, and a product with 0 is 0 whatever its other factors are."""
    original = picture(161, 170).transpose(2, 0, 1)
    decoded = noisy(original, 6)
    decoded[1] = 255 - decoded[1]
    distance, gradient = MsSsimGradient(original)(decoded)
    assert distance > 1 / 3 and not gradient[1].any() and gradient[0].any() and gradient[2].any()
    pytest.importorskip("pytorch_msssim")
    from fewbits.families.losses import ms_ssim

    compare(original, decoded, ms_ssim)

# SPDX-License-Identifier: MIT
"""What holds of the slopes of both metrics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewbits import ssimulacra, structure
from fewbits.runtime.ssimulacra_gradient import Ssimulacra2Gradient
from fewbits.runtime.structure_gradient import MsSsimGradient

Picture = Callable[..., np.ndarray]
Noisy = Callable[[np.ndarray, float], np.ndarray]


@pytest.mark.parametrize(("gradient_of", "size"), [(MsSsimGradient, (176, 163)), (Ssimulacra2Gradient, (176, 131))])
def test_a_step_down_the_slope_is_worth_what_it_says(
    gradient_of: Callable[[np.ndarray], Any], size: tuple[int, int], picture: Picture, noisy: Noisy
) -> None:
    original = picture(*size).transpose(2, 0, 1)
    decoded, slope_at = noisy(original, 12), gradient_of(original)
    distance, gradient = slope_at(decoded)
    step = np.rint(-3 * gradient / np.abs(gradient).max())
    nearer = np.clip(decoded + step, 0, 255).astype(np.uint8)
    expected = float((gradient * (nearer - decoded.astype(float)) / 255).sum())
    assert expected < 0 and slope_at(nearer)[0] - distance == pytest.approx(expected, rel=0.2)
    assert slope_at(decoded)[0] == distance  # a call leaves nothing behind


@pytest.mark.parametrize("metric", [structure, ssimulacra])
@pytest.mark.parametrize("size", [(8, 12), (9, 12), (8, 13), (9, 13)])
def test_adding_halves_is_the_transpose_of_halving(metric: Any, size: tuple[int, int]) -> None:
    draw = np.random.default_rng(2)
    x, before = draw.random((2, 3, *size)).astype(np.float32)
    halves = metric.halved(x)
    g = draw.random(halves.shape).astype(np.float32)
    after = before.copy()
    metric.add_halves(after, g.copy())
    assert float((halves * g).sum()) == pytest.approx(float((x * (after - before)).sum()), rel=1e-5)

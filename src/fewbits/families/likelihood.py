# SPDX-License-Identifier: MIT
"""Rates in bits, differentiable, in float32: Gaussian bins by scale index, and learned tables."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewbits.coding.tables import quantize_frequencies

SCALE_MIN, SCALE_MAX, N_SCALES = 0.11, 64.0, 64
LOG_STEP = math.log(SCALE_MAX / SCALE_MIN) / (N_SCALES - 1)
_MIN_PROBABILITY = 2.0**-20  # about what an escaped symbol costs
_MAX_SLOPE = 30.0  # nats; keeps the gradient of an outlier finite


class _GaussianBits(torch.autograd.Function):
    """-log2 of a Gaussian's mass in [r - 1/2, r + 1/2], with the analytic gradient also where the mass underflows."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, index: Tensor) -> Tensor:
        clipped = index.clamp(0, N_SCALES - 1)
        inverse = torch.exp(clipped * -LOG_STEP) / SCALE_MIN
        distance = residual.abs()
        upper, lower = (0.5 - distance) * inverse, (-0.5 - distance) * inverse
        mass = torch.special.ndtr(upper) - torch.special.ndtr(lower)
        ctx.save_for_backward(residual, index, upper, lower, mass, inverse)
        return -torch.log2(mass.clamp(min=_MIN_PROBABILITY))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        residual, index, upper, lower, mass, inverse = ctx.saved_tensors
        grad = grads[0]
        root = 1 / math.sqrt(2 * math.pi)
        phi_upper, phi_lower = root * torch.exp(-0.5 * upper**2), root * torch.exp(-0.5 * lower**2)
        safe = mass.clamp(min=_MIN_PROBABILITY)
        tail = mass < _MIN_PROBABILITY
        by_distance = torch.where(tail, -upper * inverse, (phi_upper - phi_lower) * inverse / safe)
        by_log_scale = torch.where(tail, 1 - upper**2, (upper * phi_upper - lower * phi_lower) / safe)
        by_distance = by_distance.clamp(max=_MAX_SLOPE)
        by_index = by_log_scale.clamp(min=-_MAX_SLOPE) * LOG_STEP * grad
        # outside the table of scales only a gradient that leads back inside counts (descent moves against it)
        leaves = ((index < 0) & (by_index > 0)) | ((index > N_SCALES - 1) & (by_index < 0))
        nats_to_bits = 1 / math.log(2)
        return by_distance * residual.sign() * grad * nats_to_bits, by_index.masked_fill(leaves, 0.0) * nats_to_bits


def gaussian_bits(residual: Tensor, index: Tensor) -> Tensor:
    """Bits to code `residual` (float32, any shape) under a zero-mean Gaussian of scale SCALE_MIN * exp(LOG_STEP * index).

    `index` (same shape) is real in training and clipped to 0..63 here. Integrated over bins of width 1
    (Balle et al., ICLR 2018, eq. 8). Differentiable in both.
    """
    bits: Tensor = _GaussianBits.apply(residual, index)  # type: ignore[no-untyped-call]
    return bits


def table_bits(values: Tensor, logits: Tensor) -> Tensor:
    """Bits to code `values` (b, c, h, w), real in -limit..limit, under softmax(logits) (b, c, 2 * limit + 1).

    Between integers the code length is interpolated linearly, so that noisy values carry a gradient.
    """
    lengths = -torch.log_softmax(logits, dim=-1) / math.log(2)  # (b, c, bins)
    limit = (lengths.shape[-1] - 1) // 2
    position = (values + limit).flatten(2)  # (b, c, h * w)
    left = position.detach().floor().clamp(0, 2 * limit - 1)
    fraction = position - left
    low = torch.gather(lengths, 2, left.long())
    high = torch.gather(lengths, 2, left.long() + 1)
    return (low + fraction * (high - low)).view_as(values)


def gaussian_frequencies(scales: np.ndarray, tail: float = 2.0**-20) -> tuple[np.ndarray, np.ndarray]:
    """Frozen tables of zero-mean Gaussians with the given scales: limits int32 (n,) and all frequencies uint32 in one row.

    Table k has the symbols -limit..limit and an escape, whose probability is the mass left outside and at least 2**-20.
    """
    limits, rows = [], []
    for scale in scales:
        edges = torch.arange(0, 4096, dtype=torch.float64) + 0.5
        outside = 2 * torch.special.ndtr(-edges / float(scale))
        limit = max(1, int((outside > tail).sum()))
        bins = torch.arange(-limit, limit + 1, dtype=torch.float64).abs()
        mass = torch.special.ndtr((0.5 - bins) / scale) - torch.special.ndtr((-0.5 - bins) / scale)
        limits.append(limit)
        rows.append(quantize_frequencies(np.append(mass.numpy(), max(tail, float(outside[limit])))))
    return np.array(limits, np.int32), np.concatenate(rows).astype(np.uint32)

# SPDX-License-Identifier: MIT
"""Rates in bits, differentiable, in float32: logistic bins by scale index, and learned tables."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewbits.coding.tables import quantize_frequencies
from fewbits.errors import TrainingError

SCALE_MIN, SCALE_MAX, N_SCALES = 0.06, 35.0, 64  # of logistic distributions; standard deviations are 1.81 times these
LOG_STEP = math.log(SCALE_MAX / SCALE_MIN) / (N_SCALES - 1)
MIN_PROBABILITY = 2.0**-20  # less is not believed; the tables give an escape as much
MAX_DEAD_ZONE = 0.45  # steps
_MAX_SLOPE = 30.0  # nats; keeps the gradient of an outlier finite

CODERS = ("adaptive", "tables")  # of symbols that no hyper latent tells about (runtime/factorized.py)


def check_coder(name: str) -> None:
    """Raises TrainingError on another coder than those of CODERS."""
    if name not in CODERS:
        raise TrainingError(f"coder is {name!r}, it must be one of {', '.join(CODERS)}")


class _LogisticBits(torch.autograd.Function):
    """-log2 of a logistic's mass in [r - 1/2, r + 1/2], with the analytic gradient also where the mass underflows."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, index: Tensor) -> Tensor:
        inverse = torch.exp(index.clamp(0, N_SCALES - 1) * -LOG_STEP) / SCALE_MIN
        distance = residual.abs()
        upper, lower = (0.5 - distance) * inverse, (-0.5 - distance) * inverse
        above, below = torch.sigmoid(upper), torch.sigmoid(lower)
        ctx.save_for_backward(residual, index, upper, lower, above, below, inverse)
        return -torch.log2((above - below).clamp(min=MIN_PROBABILITY))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        residual, index, upper, lower, above, below, inverse = ctx.saved_tensors
        mass = above - below
        tail, safe = mass < MIN_PROBABILITY, mass.clamp(min=MIN_PROBABILITY)
        density_above, density_below = above * (1 - above), below * (1 - below)
        # far out -ln(mass) is about -upper
        by_distance = torch.where(tail, 1.0, (density_above - density_below) / safe) * inverse
        by_log_scale = torch.where(tail, upper, (upper * density_above - lower * density_below) / safe)
        bits_per_nat = grads[0] / math.log(2)
        by_index = by_log_scale.clamp(min=-_MAX_SLOPE) * LOG_STEP * bits_per_nat
        # outside the table of scales only a gradient that leads back inside counts (descent moves against it)
        leaves = ((index < 0) & (by_index > 0)) | ((index > N_SCALES - 1) & (by_index < 0))
        by_residual = by_distance.clamp(max=_MAX_SLOPE) * residual.sign() * bits_per_nat
        return by_residual, by_index.masked_fill(leaves, 0.0)


def logistic_bits(residual: Tensor, index: Tensor) -> Tensor:
    """Bits to code `residual` (float32, any shape) under a zero-mean logistic of scale SCALE_MIN * exp(LOG_STEP * index).

    `index` (same shape) is real in training and clipped to 0..63 here. Integrated over bins of width 1 (as Balle et al.,
    ICLR 2018, eq. 8, do with Gaussians; why a logistic: docs/adr/0005). Differentiable in both.
    """
    bits: Tensor = _LogisticBits.apply(residual, index)  # type: ignore[no-untyped-call]
    return bits


def dead_zones(strength: float) -> Tensor:
    """By how much less than half a step a value is rounded away from 0, for each scale index: float32 (64,).

    Rounding down saves log2(p(0) / p(1)) bits, and a squared step of error is worth 6 / ln 2 bits where the step balances rate
    and distortion (6 dB a bit): where the two are equal is `strength` 1 (as rate-distortion optimized quantization in video
    coders: Sullivan, IEEE Trans. Inf. Theory 1996, has the dead zone of a Laplacian).
    """
    scale = SCALE_MIN * torch.exp(LOG_STEP * torch.arange(N_SCALES, dtype=torch.float64))
    first, second = torch.sigmoid(-0.5 / scale), torch.sigmoid(-1.5 / scale)  # mass beyond half a step, and beyond one and a half
    saved = torch.log2((1 - 2 * first) / (first - second))
    return (strength * saved * math.log(2) / 12).clamp(max=MAX_DEAD_ZONE).float()


def table_bits(values: Tensor, logits: Tensor) -> Tensor:
    """Bits to code `values` (b, c, h, w), real in -limit..limit, under softmax(logits) (b, c, 2 * limit + 1).

    Between integers the code length is interpolated linearly, so that noisy values carry a gradient.
    """
    lengths = -torch.log_softmax(logits, dim=-1) / math.log(2)  # (b, c, bins)
    limit = (lengths.shape[-1] - 1) // 2
    position = (values + limit).flatten(2)  # (b, c, h * w)
    left = position.detach().nan_to_num().floor().clamp(0, 2 * limit - 1)  # a NaN has to come out, as one
    fraction = position - left
    low = torch.gather(lengths, 2, left.long())
    high = torch.gather(lengths, 2, left.long() + 1)
    return (low + fraction * (high - low)).view_as(values)


def entropy_bits(symbols: Tensor) -> float:
    """Order-0 entropy of integers, in bits for all of them."""
    flat = symbols.flatten().long()
    counts = torch.bincount(flat - flat.min()).double()
    counts = counts[counts > 0]
    return float((counts * (symbols.numel() / counts).log2()).sum())


def logistic_frequencies(tail: float = 2.0**-20) -> tuple[np.ndarray, np.ndarray]:
    """Frozen tables of the 64 logistics: limits int32 (64,) and all frequencies uint32 in one row.

    Table k has the symbols -limit..limit and an escape, whose probability is the mass left outside and at least `tail`.
    """
    limits, rows = [], []
    edges = torch.arange(2048, dtype=torch.float64) + 0.5
    for scale in SCALE_MIN * np.exp(LOG_STEP * np.arange(N_SCALES)):
        below = torch.sigmoid(-edges / scale).numpy()  # mass beyond each edge, one side
        limit = max(1, int((2 * below > tail).sum()))
        side = below[:limit] - below[1 : limit + 1]
        mass = np.concatenate([side[::-1], [1 - 2 * below[0]], side])
        limits.append(limit)
        rows.append(quantize_frequencies(np.append(mass, max(tail, 2 * below[limit]))))
    return np.array(limits, np.int32), np.concatenate(rows).astype(np.uint32)


def signed_frequencies(masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frozen tables of probabilities (channels, 2 most + 1) of -most..most: limits int32 (channels,) and all frequencies
    uint32 in one row.

    A channel has the symbols -limit..limit and an escape, whose probability is the mass left outside, at least 2^-20.
    """
    most = masses.shape[1] // 2
    limits, rows = [], []
    for row in masses:
        both = np.maximum(row[most:], row[most::-1])  # of a value and its opposite
        limit = max(1, int(np.flatnonzero(both > MIN_PROBABILITY).max(initial=1)))
        inside = row[most - limit : most + limit + 1]
        limits.append(limit)
        rows.append(quantize_frequencies(np.append(inside, max(MIN_PROBABILITY, 1 - inside.sum()))))
    return np.array(limits, np.int32), np.concatenate(rows).astype(np.uint32)

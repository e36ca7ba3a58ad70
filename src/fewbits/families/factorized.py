# SPDX-License-Identifier: MIT
"""The fully factorized prior: one learned density for each channel, without assumptions of shape and without auxiliary loss.

Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale hyperprior", ICLR 2018, appendix 6.1.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.families.likelihood import MIN_PROBABILITY, signed_frequencies


class FactorizedDensity(nn.Module):
    """Cumulative distributions of `n_channels` scalar variables: a monotone network each."""

    HIDDEN = (3, 3, 3)

    def __init__(self, n_channels: int, first_scale: float = 10.0) -> None:
        """first_scale: about how far from 0 values reach at first."""
        super().__init__()
        widths = (1, *self.HIDDEN, 1)
        scale = first_scale ** (1 / (len(widths) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for inner, outer in zip(widths[:-1], widths[1:], strict=True):
            self.matrices.append(nn.Parameter(torch.full((n_channels, outer, inner), math.log(math.expm1(1 / scale / outer)))))
            self.biases.append(nn.Parameter(torch.rand(n_channels, outer, 1) - 0.5))
        for width in self.HIDDEN:
            self.factors.append(nn.Parameter(torch.zeros(n_channels, width, 1)))

    @torch.no_grad()
    def start(self, y: Tensor) -> None:
        """Become nearly logistic with the mean magnitudes of y (b, channels, h, w), at least a quarter each."""
        scale = y.abs().mean((0, 2, 3)).clamp(min=0.25) / (2 * math.log(2))  # a logistic's mean magnitude is 2 ln 2 times it
        for k, matrix in enumerate(self.matrices):
            each = scale.view(-1, 1, 1) if k == 0 else torch.ones(1)
            matrix.copy_(
                torch.log(torch.expm1(1 / each / matrix.shape[1]))
            )  # softplus of it, summed over what it reads, is 1 / each
        for factor in self.factors:
            factor.zero_()

    def logits(self, values: Tensor) -> Tensor:
        """values (channels, n) -> logits of the cumulative, rising in values, same shape."""
        out = values[:, None]
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            out = F.softplus(matrix) @ out + bias
            if k < len(self.factors):
                out = out + torch.tanh(self.factors[k]) * torch.tanh(out)
        return out[:, 0]

    def masses(self, values: Tensor, gain: float = 1.0) -> Tensor:
        """Probability that gain times the variable lies within 1/2 of `values` (channels, n)."""
        lower, upper = self.logits((values - 0.5) / gain), self.logits((values + 0.5) / gain)
        sign = -torch.sign(lower + upper).detach()  # on the side where sigmoids are small their difference is exact
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    def bits(self, y: Tensor) -> Tensor:
        """Bits to code each of y (b, channels, h, w), float32, as integers; differentiable in y."""
        flat = y.movedim(1, 0).flatten(1)
        bits = -torch.log2(self.masses(flat).clamp(min=MIN_PROBABILITY))
        return bits.view(y.shape[1], y.shape[0], *y.shape[2:]).movedim(0, 1)

    @torch.no_grad()
    def entropy(self, gain: float = 1.0, most: int = 255) -> float:
        """Bits that the rounded product of the gain and all variables takes, at integers of at most `most` in magnitude."""
        values = torch.arange(-most, most + 1, dtype=torch.float32).expand(len(self.matrices[0]), -1)
        masses = self.masses(values, gain)
        return float(torch.special.entr(masses).sum() / math.log(2))

    @torch.no_grad()
    def tables(self, gain: float = 1.0, most: int = 1023) -> tuple[np.ndarray, np.ndarray]:
        """Frozen tables of the channels at a gain (see signed_frequencies), for symbols of at most `most` in magnitude."""
        twin = FactorizedDensity(len(self.matrices[0])).double()
        twin.load_state_dict(self.state_dict())
        values = torch.arange(-most, most + 1, dtype=torch.float64).expand(len(self.matrices[0]), -1)
        return signed_frequencies(twin.masses(values, gain).numpy())

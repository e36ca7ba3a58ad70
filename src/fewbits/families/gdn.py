# SPDX-License-Identifier: MIT
"""Generalized divisive normalization whose layers can run at several widths (Yang et al., CVPR 2021, section 3.2).

GDN (Balle, Laparra, Simoncelli, ICLR 2016): y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2); the inverse multiplies. Three ways
to be slimmable: `switchable`, own gamma and beta for each width; `slimmable`, the leading slices of one pair; `modulated`,
these slices times a scale plus a bias for each width: 4 further numbers a layer and width.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.errors import TrainingError

VARIANTS: Final = ("switchable", "slimmable", "modulated")
BETA_MIN: Final = 1e-6
NO_MODULATION: Final = (1.0, 0.0, 1.0, 0.0)  # scale and bias of gamma, then of beta

MODULATION_UNITS: Final = (1.0, 1e-3, 1.0, 0.1)  # gamma's bias is added width^2 times: an optimizer's step must not be as large


class SlimGdn(nn.Module):
    """One GDN layer, or with inverse=True one IGDN layer, for any of `widths` (rising). (b, width, h, w) -> the same shape."""

    def __init__(self, widths: Sequence[int], variant: str, *, inverse: bool = False) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise TrainingError(f"gdn is {variant!r}, it must be one of {', '.join(VARIANTS)}")
        self.widths, self.variant, self.inverse = tuple(widths), variant, inverse
        own = self.widths if variant == "switchable" else self.widths[-1:]
        # roots, so that squares are never negative
        self.root_gamma = nn.ParameterList([nn.Parameter(0.1**0.5 * torch.eye(width) + 1e-2) for width in own])
        self.root_beta = nn.ParameterList([nn.Parameter(torch.ones(width)) for width in own])
        if variant == "modulated":
            self.modulation = nn.Parameter(torch.zeros(len(self.widths), 4))  # from none, in MODULATION_UNITS

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Nearly so where inputs are about 1 in magnitude; not quite, or gamma could not learn."""
        for gamma in self.root_gamma:
            gamma.fill_(1e-2)

    def parts(self, which: int) -> tuple[Tensor, Tensor, Tensor]:
        """For the width number `which`: roots of gamma (width, width) and of beta (width,), and the modulation (4,)."""
        width = self.widths[which]
        place = which if self.variant == "switchable" else 0
        none = self.root_beta[0].new_tensor(NO_MODULATION)
        modulation = none if self.variant != "modulated" else none + self.modulation[which] * none.new_tensor(MODULATION_UNITS)
        return self.root_gamma[place][:width, :width], self.root_beta[place][:width], modulation

    @torch.no_grad()
    def load(self, which: int, root_gamma: Tensor | None, root_beta: Tensor | None, modulation: Tensor | None) -> None:
        """Take back what parts() gave, each where it is given."""
        own_gamma, own_beta, none = self.parts(which)[:2] + (self.root_beta[0].new_tensor(NO_MODULATION),)
        if root_gamma is not None:
            own_gamma.copy_(root_gamma)
        if root_beta is not None:
            own_beta.copy_(root_beta)
        if modulation is not None and self.variant == "modulated":
            self.modulation[which] = (modulation - none) / none.new_tensor(MODULATION_UNITS)

    def forward(self, x: Tensor, which: int) -> Tensor:
        return normalized(x, *self.parts(which), inverse=self.inverse)


def normalized(x: Tensor, root_gamma: Tensor, root_beta: Tensor, modulation: Tensor, *, inverse: bool) -> Tensor:
    """x (b, c, h, w) divided, or with `inverse` multiplied, by sqrt(beta + gamma x^2).

    modulation (4,): gamma = root_gamma^2 * m[0] + m[1], at least 0, and beta = root_beta^2 * m[2] + m[3], at least BETA_MIN.
    """
    gamma = (root_gamma.square() * modulation[0] + modulation[1]).clamp(min=0)
    beta = (root_beta.square() * modulation[2] + modulation[3]).clamp(min=BETA_MIN)
    norm = F.conv2d(x.square(), gamma[:, :, None, None], beta).sqrt()
    return x * norm if inverse else x / norm

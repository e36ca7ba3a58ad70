# SPDX-License-Identifier: MIT
"""Means of the latent's low frequencies, from the brightness and colours of the blocks around (ADR 27).

A block that gets brighter from left to right lies between darker and brighter ones: what the pyramid has decoded tells the sign
of the lowest frequencies. A linear map of 3x3 positions tells it as well as anything that was tried. Means choose no table, so
floats do.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RIDGE = 1e-4  # of each input's mean square, added to it


def edges_repeated(x: Tensor) -> Tensor:
    """x (b, c, h, w) with its outermost values once more on each side; compiled, F.pad's gradient fails in channels_last."""
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
    return torch.cat([x[..., :1], x, x[..., -1:]], dim=3)


class Means(nn.Module):
    """pyramid (b, pyramid, h, w) -> means of the channels after it (b, means, h, w), in units of y's deviation; 0 at first."""

    starts_as_identity = True  # as long as its means are 0; see training.loop.grown

    def __init__(self, pyramid: int, means: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(pyramid, means, 3)
        for parameter in self.around.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pyramid: Tensor) -> Tensor:
        found: Tensor = self.around(edges_repeated(pyramid))
        return found


class Regression:
    """The best linear map for Means, by least squares in the units of each value's scale."""

    def __init__(self, means: Means) -> None:
        self._means = means
        n_means, n_inputs = len(means.around.weight), means.around.weight[0].numel() + 1
        self._squares = torch.zeros(n_inputs**2, n_means, dtype=torch.float64)
        self._products = torch.zeros(n_inputs, n_means, dtype=torch.float64)

    def add(self, pyramid: Tensor, values: Tensor, scales: Tensor) -> None:
        """pyramid (b, pyramid, h, w): what is told; values (b, means, h, w): what it is to tell; scales like them: of what is
        left."""
        inputs = F.unfold(edges_repeated(pyramid), 3).movedim(1, 2).flatten(0, 1).double()
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        wanted, weights = (part.movedim(1, 3).flatten(0, 2).double() for part in (values, scales**-2))
        self._squares += (inputs[:, :, None] * inputs[:, None]).flatten(1).T @ weights
        self._products += inputs.T @ (weights * wanted)

    def solve(self) -> None:
        """Sets the weights."""
        squares = self._squares.T.reshape(-1, *2 * [len(self._products)])
        ridge = torch.diag_embed(_RIDGE * squares.diagonal(dim1=1, dim2=2) + torch.finfo(torch.float32).tiny)
        found = torch.linalg.solve(squares + ridge, self._products.T).float()
        with torch.no_grad():
            weight, bias = self._means.around.parameters()
            weight.copy_(found[:, :-1].view(weight.shape))
            bias.copy_(found[:, -1])

# SPDX-License-Identifier: MIT
"""Principal components of pictures: what the transform baseline is, and what other families start from (docs/adr/0010)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def components(samples: Tensor) -> Tensor:
    """Principal components (p, p) of samples (n, p) float64, as rows, of falling variance."""
    mean = samples.mean(0)
    covariance = samples.T @ samples / len(samples) - torch.outer(mean, mean)
    return torch.linalg.eigh(covariance).eigenvectors.flip(1).T


def nested_components(x: Tensor, n_in: Sequence[int], n_out: Sequence[int], stride: int) -> Tensor:
    """Principal components of blocks of x (b, c, h, w), as rows (n, n_in[-1], stride, stride), orthonormal, n <= n_out[-1].

    Nested: the leading n_out[k] rows read the leading n_in[k] channels alone, so that each width has its own transform.
    """
    patches = F.unfold(x[:, : n_in[-1]], stride, stride=stride).movedim(1, -1).flatten(0, 1).double().cpu()
    patches = patches - patches.mean(0)
    covariance = patches.T @ patches / len(patches)
    basis = covariance.new_zeros(0, len(covariance))
    for inner, outer in zip(n_in, n_out, strict=True):
        size = inner * stride**2
        rest = torch.eye(size, dtype=torch.float64) - basis[:, :size].T @ basis[:, :size]
        n_more = min(outer, size) - len(basis)
        vectors = torch.linalg.eigh(rest @ covariance[:size, :size] @ rest).eigenvectors.flip(1)[:, :n_more]
        basis = torch.cat([basis, F.pad(vectors.T, (0, len(covariance) - size))])
    return basis.to(x).view(-1, n_in[-1], stride, stride)

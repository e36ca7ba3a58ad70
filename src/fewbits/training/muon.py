# SPDX-License-Identifier: MIT
"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon), for processors with and without bfloat16."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's, with its states, but the products of the Newton-Schulz iteration are in `dtype` instead of always in bfloat16,
    which processors without instructions for it compute slowly; and matrices of one shape are orthogonalized at once.

    Steps are as large as AdamW's (torch's adjust_lr_fn="match_rms_adamw"), without weight decay.
    """

    def __init__(self, params: Any, lr: float, dtype: torch.dtype) -> None:
        super().__init__(params, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon's step takes no closure")
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum_buffer"], group["momentum"])  # Nesterov's
                alike[tuple(parameter.shape)].append((parameter, update))
            for shape, pairs in alike.items():
                updates = torch.stack([update for _, update in pairs]).to(self.dtype)
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                turned = orthogonalized(updates, group["ns_coefficients"], group["ns_steps"], group["eps"])
                for (parameter, _), direction in zip(pairs, turned, strict=True):
                    parameter.add_(direction, alpha=-rate)
        return None


def orthogonalized(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """matrices (n, rows, columns) with their singular values brought near 1, by a quintic Newton-Schulz iteration."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x

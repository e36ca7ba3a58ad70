# SPDX-License-Identifier: MIT
"""The batch of a step, of which this process may hold only a part: what a loss draws and averages over it.

Processes that train together hold equal parts of one batch, in the order of their ranks, and their random generators are in
step. A family that draws and averages by these functions trains as if one process held the whole batch. Alone, a process
holds all of it, and they are torch's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

_index, _count = 0, 1  # which part this process holds, of how many: a fact about the process, as its rank is


@contextmanager
def holding_part(index: int, count: int) -> Iterator[None]:
    """While entered, the pictures of this process are part `index` of `count` of the batch."""
    global _index, _count  # noqa: PLW0603
    before = _index, _count
    _index, _count = index, count
    try:
        yield
    finally:
        _index, _count = before


def own_draw(n_own: int, draw: Callable[[int], Tensor]) -> Tensor:
    """Random numbers (n_own, ...) of this process's pictures. draw: a number of pictures -> numbers for so many, (n, ...)."""
    return draw(n_own * _count)[_index * n_own : (_index + 1) * n_own]


def own_uniform_like(x: Tensor) -> Tensor:
    """torch.rand_like(x), x (n_own, ...): in 0..1, of x's type, device and order in memory."""
    if _count == 1:
        return torch.rand_like(x)
    strides = (x[0].numel(), *x.stride()[1:])  # a lone picture's first stride may be anything
    return own_draw(
        len(x), lambda n: torch.rand_like(torch.empty_strided((n, *x.shape[1:]), strides, dtype=x.dtype, device=x.device))
    )


def is_whole() -> bool:
    """Whether this process holds the whole batch."""
    return _count == 1


def whole_mean(own: Tensor) -> Tensor:
    """The mean over all parts of what is a mean over this one; gradients pass."""
    return own if _count == 1 else _Sum.apply(own) / _count  # type: ignore[no-untyped-call]


def whole_count(own: int) -> int:
    """How many there are of what there are `own` of in this part."""
    return own * _count


class _Sum(torch.autograd.Function):
    """The sum over all processes; each value has a part in the sums, and so in the losses, of all of them."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        total = own.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Sum.apply(gradient)  # type: ignore[no-any-return, no-untyped-call]

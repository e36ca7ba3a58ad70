# SPDX-License-Identifier: MIT
"""Processes that train one model together (`torchrun ... -m fewbits train ...`): what the loop asks of the others.

All processes hold the same weights, the same random numbers and equal parts of the same batch. What depends on a clock, a
signal or a file is decided once and told to all, so that all take the same steps and leave together. Alone there is nobody to
ask: a process is rank 0 of 1, and every question is answered by itself. Knows no models, and nothing of what a step is.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fewbits.errors import FewbitsError, TrainingError

T = TypeVar("T")
PATIENCE: Final = timedelta(hours=1)  # for the slowest process, which may decode pictures or start a model meanwhile
VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun's


@dataclass(frozen=True)
class Ranks:
    """This process's place: rank `index` of `count`, and `local_index` of `local_count` on its machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks for all."""
        return self.index == 0

    def part(self, n_all: int) -> slice:
        """Which of a batch of n_all are this process's own."""
        each = n_all // self.count
        return slice(self.index * each, (self.index + 1) * each)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The means of all processes' values, the same bits in each of them."""
        if self.count == 1:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        distributed.all_reduce(total)
        return dict(zip(values, (total / self.count).tolist(), strict=True))

    def any(self, own: bool) -> bool:
        """Whether it holds in any process."""
        return self.mean({"": float(own)})[""] > 0

    def told(self, find: Callable[[], T]) -> T:
        """What the first process finds, told to all. Where it raises a FewbitsError, the others end without a word."""
        found: list[Any] = [None]
        with self.together():
            if self.first:
                found = [find()]
        if self.count > 1:
            distributed.broadcast_object_list(found, src=0, device=torch.device("cpu"))
        return found[0]

    def joined(self, own: list[T]) -> list[T]:
        """The parts of a list that was dealt out by [index::count], put together again."""
        if self.count == 1:
            return own
        parts: list[list[T]] = [[] for _ in range(self.count)]
        distributed.all_gather_object(parts, own)
        return [parts[k % self.count][k // self.count] for k in range(sum(map(len, parts)))]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What each process does by itself and may fail at: where one raises a FewbitsError none goes on, and one speaks."""
        problem: FewbitsError | None = None
        try:
            yield
        except FewbitsError as error:
            if self.count == 1:
                raise
            problem = error
        if self.count == 1:
            return
        failed: list[bool] = [False] * self.count
        distributed.all_gather_object(failed, problem is not None)
        if any(failed):
            raise self._spoken_once(problem, failed.index(True))

    def same_error(self, error: FewbitsError) -> BaseException:
        """To raise where every process meets the same error in the same place: the first one speaks for all."""
        return self._spoken_once(error, 0)

    def _spoken_once(self, error: FewbitsError | None, speaker: int) -> BaseException:
        return error if error is not None and self.index == speaker else SystemExit(1)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While entered, the loss of another process is a TrainingError."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not (isinstance(error, distributed.DistError) or "gloo" in str(error).lower()):
                raise
            lost = f"rank {self.index} of {self.count} has lost the others ({_first_line(error)})"
            raise TrainingError(f"{lost}; the last good checkpoint is kept: start all of them again") from error

    def spread(self, tensors: dict[str, Tensor]) -> None:
        """Give tensors the values that they have in the first process."""
        if self.count == 1:
            return
        for tensor in tensors.values():
            values = tensor.detach().contiguous()
            distributed.broadcast(values, src=0)
            tensor.detach().copy_(values)

    def averaging(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module, its gradients averaged over all processes as they are made. They start at the same weights: see spread."""
        if self.count == 1:
            return module
        own = [device.index] if device.type == "cuda" else None
        # about 1x1 convolutions, whose weights have two ways to be channels last: it costs a copy
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(module, device_ids=own)


@contextmanager
def torchrun_ranks(device: str) -> Iterator[Ranks]:
    """This process's place by the variables that torchrun sets; alone where there are none. Leaves the others at the end.

    device: auto, cpu or cuda, as for pick_device.

    Raises TrainingError where variables are missing or wrong, or where the others do not come.
    """
    if int_variable("WORLD_SIZE", 1) == 1:
        yield Ranks()
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise TrainingError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set: use torchrun")
    ranks = Ranks(*(int_variable(name, 0) for name in VARIABLES[:4]))
    backend = "cpu:gloo,cuda:nccl" if device != "cpu" and torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"rank {ranks.index} of {ranks.count} cannot join the others: {_first_line(error)}") from error
    yield ranks
    distributed.destroy_process_group()  # not after an error: the others may wait for something else


def int_variable(name: str, default: int) -> int:
    """A whole number of the environment. Raises TrainingError."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise TrainingError(f"{name} is {text!r}, it must be a whole number, as torchrun sets it")
    return int(text)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

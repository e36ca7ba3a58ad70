# SPDX-License-Identifier: MIT
"""`fewbits train --profile-steps N`: how fast steps are, and where their time goes. Trains a copy, writes nothing.

Times are wall-clock, of the first process; on a GPU each phase waits until the device is done, so a step is a little slower
than in training. The parts of the model are timed in forward only; a compiled model has none.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fewbits.errors import TrainingError
from fewbits.training import checkpoint
from fewbits.training.compiling import compiles
from fewbits.training.data import batches, to_tensor
from fewbits.training.loop import Run, TrainConfig, begin, load_data, pick_device
from fewbits.training.ranks import Ranks

WARM_UP_STEPS: Final = 3  # not measured: allocations, and compilation
DATA: Final = "data wait"
PHASES: Final = {
    DATA: "data: waiting for crops", "pixels": "data: bytes to floats", "forward": "forward", "backward": "backward",
    "clip": "clip, loss to log", "optimizer": "optimizer", "average": "average of weights",
}  # fmt: skip


class Stopwatch:
    """Adds up seconds by name; waits for the device at the ends of each stretch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begun = self._now()
        yield
        self.seconds[name] += self._now() - begun

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def watch_parts(self, model: nn.Module) -> None:
        """Time the forward passes of the model's own parts, wherever in the model they are called from."""
        for name, part in model.named_children():
            starts: list[float] = []
            part.register_forward_pre_hook(lambda *_, starts=starts: starts.append(self._now()))
            part.register_forward_hook(lambda *_, starts=starts, name=name: self._add(f"forward.{name}", starts.pop()))

    def _add(self, name: str, begun: float) -> None:
        self.seconds[name] += self._now() - begun


def kmacs_per_pixel(run: Run, x: Tensor) -> float:
    """Thousands of multiply-accumulates of matrices and convolutions a pixel, in the forward pass of the loss."""
    with FlopCounterMode(display=False) as counter:
        run.loss(x)
    return float(counter.get_total_flops()) / 2 / 1000 / (x.shape[0] * x.shape[2] * x.shape[3])


def profile(
    family: str,
    data: Sequence[Path],
    out: Path,
    steps: int,
    *,
    model_config: Any,
    config: TrainConfig,
    exclude: Sequence[str] = (),
    start: dict[str, Tensor] | None = None,
    device: str = "auto",
    compiled: bool = False,
    ranks: Ranks | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Print the table of `steps` training steps of a run: that in `out` where there is one, or a new one. As for train()."""
    ranks = ranks or Ranks()
    with ranks.together():
        run = Run(family, model_config, config, pick_device(device, ranks.local_index), ranks)
        if not run.optimizers:
            raise TrainingError(f"--profile-steps: the family {family} has nothing to train")
    pool, *_ = load_data(data, exclude, (), config, ranks)
    trunk = out / checkpoint.TRUNK
    state = ranks.told(lambda: checkpoint.load(trunk) if trunk.exists() else None)
    if state is not None:
        run.restore(state)
    elif ranks.first:
        begin(run, pool, start)
    torch.manual_seed(config.seed + run.step)
    source = batches(pool, config.batch, config.crop, config.seed + run.step, ranks.part(config.batch))
    cost = kmacs_per_pixel(run, to_tensor(next(source), run.device).requires_grad_(run.penalty.needs_gradient))
    compiled = compiled and compiles(run.device, ranks, lambda line: report(line) if ranks.first else None)
    run.share(compiled)
    watch = Stopwatch(run.device)
    with ranks.watched():
        for _ in range(WARM_UP_STEPS):
            run.train_step(next(source), 1.0)
        run.phase = watch
        if not compiled:
            watch.watch_parts(run.model)
        begun = time.perf_counter()
        for _ in range(steps):
            with watch(DATA):
                crops = next(source)
            run.train_step(crops, 1.0)
        total = time.perf_counter() - begun
    if ranks.first:
        for line in table(watch.seconds, total, steps):
            report(line)
        size, threads = f"{config.crop}x{config.crop}", torch.get_num_threads()
        report(f"{steps * config.batch / total:.2f} patches/s of {size}, {config.batch} a step; {cost:.1f} kMAC/pixel forward")
        report(f"on {run.device.type}; processes: {ranks.count}, threads of each: {threads}")


def table(seconds: dict[str, float], total: float, steps: int) -> Iterator[str]:
    """Lines: phases of a step with their parts, each in milliseconds a step and in percent of all."""

    def row(name: str, taken: float) -> str:
        return f"{name:32} {1000 * taken / steps:10.2f} {100 * taken / total:7.1f} %"

    yield f"{'of a step':32} {'ms':>10} {'share':>9}"
    for phase, name in PHASES.items():
        yield row(name, seconds.get(phase, 0.0))
        parts = {part: taken for part, taken in seconds.items() if part.startswith(f"{phase}.")}
        for part, taken in sorted(parts.items(), key=lambda pair: -pair[1]):
            yield row(f"    {part.partition('.')[2]}", taken)
        if parts:
            yield row("    all else", seconds[phase] - sum(parts.values()))
    yield row("all else", total - sum(seconds.get(phase, 0.0) for phase in PHASES))
    yield row("all", total)

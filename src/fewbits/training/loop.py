# SPDX-License-Identifier: MIT
"""The training loop: one flat trunk that can go on for ever, and annealed copies of it that can be exported.

A run warms up, then keeps its learning rate flat (`trunk.pt`). `anneal` starts from the trunk and takes the rate
to zero over the given minutes (`annealed.pt`; `annealing.pt` on the way), leaving the trunk as it was. Both go on after a
kill. Several processes can share each batch (`ranks.py`): the loop is the same for all, and the first one writes the files.
"""

import dataclasses
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from fewbits.errors import TrainingError
from fewbits.families import FAMILIES
from fewbits.families.batch_part import holding_part
from fewbits.families.losses import Distortion, Penalty, ssim
from fewbits.families.settings import Settings, setting
from fewbits.processor import has_bfloat16
from fewbits.training import checkpoint
from fewbits.training.compiling import compiles
from fewbits.training.data import PicturePool, TrainingWarning, batches, decode_rgb, digest, find_pictures, to_tensor
from fewbits.training.log import Log, SilentLog
from fewbits.training.muon import Muon
from fewbits.training.ranks import Ranks

SCHEDULE_PICTURES = 8  # whose rates and distortions steer lambda scheduling
SCORES = ("bpp", "psnr", "ssim")
LOG_STEPS = 50  # whose means are a row of the log; fewer at the end
MOST_SEED = 2**63 - 1  # as much again is left for the steps that are added
GRID_PX = 64  # validation pictures are cut to multiples of this, so that all bits are of pixels that are there


@dataclass(frozen=True)
class TrainConfig(Settings):
    """What a run trains with; saved in RUN/config.json."""

    batch: int = setting(8, "crops a step, of all processes together", least=1)
    crop: int = setting(256, "their side in pixels", least=1)
    lr: float = setting(3e-3, "AdamW's learning rate", above=0)
    optimizer: str = setting("muon", "muon: for weights that are matrices, AdamW for the rest; adamw or sgd: for all")
    matrix_lr: float = setting(3e-3, "Muon's learning rate", above=0)
    shortcut_lr: float = setting(0.2, "times lr, for linear shortcuts, which start at a good place", least=0)
    warmup_steps: int = setting(300, "steps in which the learning rate rises from 0", least=0)
    ema: float = setting(0.999, "decay of the average of weights, which is what is exported", least=0, most=1)
    loss: str = setting("mse", "distortions, NAME=WEIGHT,...: of mse, l1, ssim, ms-ssim, ssimulacra2, chroma, vgg")
    vgg: str = setting("imagenet", "weights of VGG-19 for the loss vgg: imagenet (a file, see docs/training.md), or random")
    penalty: str = setting("", "on the latent, NAME=WEIGHT,...: of sparse, contractive, contractive-exact")
    clip: float = setting(1.0, "largest norm of the gradient", above=0, most=math.inf)
    precision: str = setting("auto", "of products in training: bfloat16, float32, or auto, the faster of the two")
    seed: int = setting(0, "of weights, crops and noise", least=0, most=MOST_SEED)
    cache_mb: int = setting(4096, "memory for decoded pictures", least=1)
    validate_minutes: float = setting(15.0, "between two validations", least=0, most=math.inf)
    save_minutes: float = setting(3.0, "between two checkpoints", least=0, most=math.inf)
    keep_epochs: int = setting(
        0, "a copy of the trunk is kept every so many epochs, of as many crops as pictures; 0: none", least=0
    )
    schedule_steps: int = setting(0, "slimcae: steps between two steps of lambda scheduling; 0: none", least=0)


@dataclass(frozen=True)
class Budget:
    """When to stop: after so many minutes or steps of this call, whichever comes first."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("minutes", "steps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise TrainingError(f"{name} is {value}, it must be above 0")
        if self.minutes is None and self.steps is None:
            raise TrainingError("say how long to train: --minutes, --steps or --anneal")

    def of_anneal(self) -> str:
        """The options that an anneal has it by."""
        parts = (("--anneal", self.minutes), ("--steps", self.steps))
        return " ".join(f"{option} {value:g}" for option, value in parts if value is not None)

    def spent(self, seconds: float, steps: int) -> float:
        """Fraction of the budget used, 0..1."""
        parts = [0.0]
        if self.minutes is not None:
            parts.append(seconds / (60 * self.minutes))
        if self.steps is not None:
            parts.append(steps / self.steps)
        return min(1.0, max(parts))


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What products are computed in, of `precision` as settings have it. Raises TrainingError on one that there is not."""
    if precision == "auto":
        halved = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else has_bfloat16()
        return torch.bfloat16 if halved else torch.float32
    if precision not in ("bfloat16", "float32"):
        raise TrainingError(f"precision is {precision!r}, it must be auto, bfloat16 or float32")
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def make_optimizers(model: nn.Module, config: TrainConfig, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """SGD or AdamW for all, or Muon, with products in `dtype`, for parts that store their weight as a matrix, AdamW for the rest.

    Linear shortcuts always take AdamW, at a fraction of the rate: Muon moves all directions alike, and theirs are sorted.
    """
    shortcuts, matrices, rest = [], [], []
    matrix_names = {f"{name}.weight" for name, part in model.named_modules() if getattr(part, "matrix_weight", False)}
    for name, parameter in model.named_parameters():
        if ".shortcut" in name:
            shortcuts.append(parameter)
        elif name in matrix_names and config.optimizer == "muon":
            matrices.append(parameter)
        else:
            rest.append(parameter)
    if not (shortcuts or matrices or rest):
        return []  # a family that is fitted when it is initialized
    if config.optimizer == "sgd":
        everything = {"params": [*shortcuts, *matrices, *rest], "base_lr": config.lr}
        return [torch.optim.SGD([everything], lr=config.lr)]
    groups = [{"params": rest, "base_lr": config.lr}]
    if shortcuts:
        groups.append({"params": shortcuts, "base_lr": config.lr * config.shortcut_lr})
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0)]
    if matrices:
        group = {"params": matrices, "base_lr": config.matrix_lr}
        optimizers.append(Muon([group], config.matrix_lr, dtype))
    elif config.optimizer not in ("adamw", "muon"):
        raise TrainingError(f"optimizer is {config.optimizer!r}, it must be muon, adamw or sgd")
    return optimizers


class Loss(nn.Module):
    """A model's loss as a module's forward(): what torch compiles, and what averages gradients over processes."""

    def __init__(self, model: Any, distortion: Distortion, penalty: Penalty) -> None:
        super().__init__()
        self.model, self.distortion, self.penalty = model, distortion, penalty

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.model.loss(x, self.distortion, self.penalty)


class Run:
    """A model in training with its optimizers and its averaged copy; complete after construction.

    Where there are other `ranks`, share() must be called in all of them before the first step.
    """

    def __init__(
        self, family: str, model_config: Any, config: TrainConfig, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        if family not in FAMILIES:
            raise TrainingError(f"family is {family!r}, known are {', '.join(FAMILIES)}")
        self.dtype = training_dtype(config.precision, device)
        torch.manual_seed(config.seed)
        self.family, self.config, self.device, self.ranks = family, config, device, ranks or Ranks()
        self.distortion, self.penalty = Distortion(config.loss, config.vgg), Penalty(config.penalty)
        self.model = FAMILIES[family][1](model_config).to(device, memory_format=torch.channels_last)
        if config.crop % self.model.crop_multiple:
            raise TrainingError(f"crop is {config.crop}, it must be a multiple of {self.model.crop_multiple} pixels")
        self.optimizers = make_optimizers(self.model, config, self.dtype)
        self.loss: nn.Module = Loss(self.model, self.distortion, self.penalty)
        self.phase: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext()  # what measures a step enters here
        self.reset_average()
        self.step, self.seconds = 0, 0.0

    def share(self, compiled: bool = False) -> None:
        """Bring all ranks to the first one's weights, and average their gradients from now on; compiled: by torch.compile."""
        self.ranks.spread(self.model.state_dict())
        if self.optimizers:
            loss = Loss(self.model, self.distortion, self.penalty)
            self.loss = self.ranks.averaging(torch.compile(loss) if compiled else loss, self.device)  # type: ignore[arg-type]

    def reset_average(self) -> None:
        """Start the average anew at the model's weights."""
        self.averaged = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from state(). Raises TrainingError where its weights are of other layers."""
        checkpoint.fill(self.model, state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.averaged = {name: value.to(self.device) for name, value in state["averaged"].items()}
        self.step, self.seconds = state["step"], state["seconds"]

    def train_step(self, pixels: np.ndarray, rate: float) -> dict[str, float]:
        """One update from this rank's uint8 crops at `rate` times the base learning rates. Raises TrainingError on a NaN."""
        ranks = self.ranks
        with self.phase("pixels"):
            x = to_tensor(pixels, self.device).requires_grad_(self.penalty.needs_gradient)
        with holding_part(ranks.index, ranks.count):
            halved = self.dtype == torch.bfloat16
            with self.phase("forward"), torch.autocast(self.device.type, torch.bfloat16, enabled=halved):
                loss, parts = self.loss(x)
            with self.phase("backward"):
                loss.backward()
        with self.phase("clip"):
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
            found = ranks.mean({"loss": loss.item(), **{name: float(part) for name, part in parts.items()}})
            value, length = found["loss"], float(norm)
        if not (np.isfinite(value) and np.isfinite(length)):  # before the weights change
            what = f"the loss is {value}, its gradient's norm {length}"
            raise ranks.same_error(TrainingError(f"{what} at step {self.step}; the last good checkpoint is kept"))
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        with self.phase("optimizer"):
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * rate * warm
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self.step += 1
        with self.phase("average"):
            self._average()
        return {"loss": value, "grad_norm": length, **found}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, self.step / (self.step + 10))
        pairs = [(self.averaged[name], value) for name, value in self.model.state_dict().items()]
        floats = [(old, new) for old, new in pairs if old.is_floating_point()]
        torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - decay)

    @torch.no_grad()
    def validate(self, pictures: list[np.ndarray]) -> list[dict[str, float]]:
        """Mean bpp (estimated), PSNR and SSIM of the averaged weights at each of the model's settings.

        pictures: uint8 (h, w, 3), h and w multiples of GRID_PX, as for reschedule.
        """
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged)
        self.model.eval()
        rows = []
        for knob in self.model.settings:
            own = pictures[self.ranks.index :: self.ranks.count]
            scores = self.ranks.joined([self._score(to_tensor(picture[None], self.device), knob) for picture in own])
            rows.append({"setting": knob, **dict(zip(SCORES, np.mean(scores, axis=0).tolist(), strict=True))})
        self.model.train()
        self.model.load_state_dict(kept)
        return rows

    @torch.no_grad()
    def reschedule(self, pictures: list[np.ndarray]) -> bool:
        """One step of the model's lambda scheduling, at the rates and distortions of `pictures` now. False once it is done."""
        return bool(self.model.reschedule(self.ranks.told(lambda: self._points(pictures))))

    def _points(self, pictures: list[np.ndarray]) -> list[tuple[float, float]]:
        """Bits per pixel and quality in dB at each of the model's settings, means over the pictures."""
        self.model.eval()
        points = []
        for knob in self.model.settings:
            sums = np.zeros(2)
            for picture in pictures:
                x = to_tensor(picture[None], self.device)
                out = self.model.estimate(x, knob)
                distortion = self.distortion(x, out.x_hat.clamp(0, 1)).item()
                sums += (out.y_bits + out.z_bits).item() / x[0, 0].numel(), distortion
            bpp, mean = sums / len(pictures)
            points.append((float(bpp), -10 * math.log10(max(mean, 1e-9))))
        self.model.train()
        return points

    def _score(self, x: Tensor, setting: float) -> tuple[float, float, float]:
        """SCORES of a picture at a setting."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            out = self.model.estimate(x, setting)
        pixels = out.x_hat.clamp(0, 1).mul(255).round()
        mse = F.mse_loss(pixels, x * 255).item()
        bpp, psnr = (out.y_bits + out.z_bits).item() / x[0, 0].numel(), 10 * math.log10(255**2 / max(mse, 1e-6))
        return bpp, psnr, 1 - ssim(x, pixels / 255).item()


def grown(start: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`start` as a state of `model`, which may have more blocks than `start` knows: those that begin as the identity; and it
    may lack what it says that it may.

    Raises TrainingError where `model` differs in any other way.
    """
    state, spare = model.state_dict(), getattr(model, "may_lack", ())
    start = {name: value for name, value in start.items() if name in state or not name.startswith(spare)}
    new = {
        f"{name}.{key}"
        for name, part in model.named_modules()
        if getattr(part, "starts_as_identity", False)
        for key in part.state_dict()
    } - set(start)
    for name in sorted((set(start) | set(state)) - new):
        have, want = (tuple(tensors[name].shape) if name in tensors else "missing" for tensors in (start, state))
        if have != want:
            raise TrainingError(f"--init cannot fill {name}: {have} there, {want} here; a model can grow by whole blocks only")
    return state | start


def pick_device(name: str = "auto", local_index: int = 0) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; each process of a machine takes the CUDA device of its `local_index`.

    Raises TrainingError on a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise TrainingError(f"device is {name!r}, it must be auto, cpu or, where there is one, cuda")
    if name == "cpu":
        return torch.device(name)
    if local_index >= torch.cuda.device_count():
        raise TrainingError(f"process {local_index + 1} of this machine has no GPU, there are {torch.cuda.device_count()}")
    torch.cuda.set_device(local_index)
    return torch.device(name, local_index)


def load_data(
    data: Sequence[Path], exclude: Sequence[str], validation: Sequence[Path], config: TrainConfig, ranks: Ranks
) -> tuple[PicturePool, list[np.ndarray], int]:
    """The pictures to train on, those held out, and how many of both could not be used. Raises TrainingError where there are
    none, or others in another rank."""
    if config.batch % ranks.count:
        raise ranks.same_error(TrainingError(f"batch is {config.batch}, it must be a multiple of the {ranks.count} processes"))
    with ranks.together():
        items, checks = find_pictures(data, exclude), find_pictures(validation) if validation else []
        pool = PicturePool(items, config.cache_mb << 20, config.seed)
        held_out = [cut for p in map(decode_rgb, checks) if p is not None and (cut := _on_grid(p)) is not None]
        if checks and not held_out:
            raise TrainingError(f"validation: none of {len(checks)} pictures can be used")
    own = {"data": (digest(items), len(pool)), "validation": (digest(checks), len(held_out))}  # how many can be read counts, too
    first = ranks.told(lambda: own)
    with ranks.together():
        for name, pictures in own.items():
            if pictures != first[name]:
                raise TrainingError(f"{name}: rank {ranks.index} of {ranks.count} finds other pictures than rank 0")
    return pool, held_out, pool.n_skipped + len(checks) - len(held_out)


def _on_grid(picture: np.ndarray) -> np.ndarray | None:
    """A picture for validation without what is beyond multiples of GRID_PX; None, and a warning, where nothing is left."""
    height, width = (side // GRID_PX * GRID_PX for side in picture.shape[:2])
    if not height or not width:
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        what = f"skipped a validation picture of {size}: it needs {GRID_PX} pixels a side"
        warnings.warn(what, TrainingWarning, stacklevel=2)
        return None
    return picture[:height, :width]


def train(
    family: str,
    data: Sequence[Path],
    out: Path,
    budget: Budget,
    *,
    model_config: Any = None,
    config: TrainConfig | None = None,
    exclude: Sequence[str] = (),
    validation: Sequence[Path] = (),
    anneal: bool = False,
    start: dict[str, Tensor] | None = None,
    device: str = "auto",
    compiled: bool = False,
    ranks: Ranks | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Train, or go on training, the run in folder `out`; with `anneal`, take a copy of its trunk to learning rate zero.

    `start`: weights to begin a new run from (see export.load_model); without it the model initializes itself on the data.
    `ranks`: this process's place among several, all of which call this alike; `out` and `start` are read in the first only.
    """
    config, model_config, ranks = config or TrainConfig(), model_config or FAMILIES[family][0](), ranks or Ranks()
    if not ranks.first:
        report = _say_nothing
    with ExitStack() as folder:
        with ranks.together():
            run = Run(family, model_config, config, pick_device(device, ranks.local_index), ranks)
            settings = {"family": family, "model": dataclasses.asdict(model_config), "train": dataclasses.asdict(config)}
            if config.schedule_steps > 0 and not anneal and not (hasattr(run.model, "reschedule") and validation):
                raise TrainingError(f"schedule_steps is {config.schedule_steps}: that needs a slimmable family and --validation")
            settings["data"] = {"from": [str(path) for path in data], "exclude": list(exclude)}
            if anneal and ranks.first and not (out / checkpoint.TRUNK).exists():
                raise TrainingError(f"no checkpoint {out / checkpoint.TRUNK} to anneal")
            if not run.optimizers and anneal:
                report(f"the family {family} is fitted when its run begins: there is nothing to anneal, export {out} as it is")
                return
            if ranks.first:
                folder.enter_context(checkpoint.alone(out))
        pool, held_out, n_skipped = load_data(data, exclude, validation, config, ranks)
        skipped = f", {n_skipped} skipped" if n_skipped else ""
        processes = f", {ranks.count} processes" if ranks.count > 1 else ""
        pictures = f"{len(pool)} pictures{'' if pool.complete else ' in the cache'}, {len(held_out)} for validation"
        report(f"{pictures}{skipped}, on {run.device.type}{processes}")
        _go_on(run, out, budget, settings, pool, held_out, anneal=anneal, start=start, compiled=compiled, report=report)


def _go_on(
    run: Run,
    out: Path,
    budget: Budget,
    settings: dict[str, Any],
    pool: PicturePool,
    held_out: list[np.ndarray],
    *,
    anneal: bool,
    start: dict[str, Tensor] | None,
    compiled: bool,
    report: Callable[[str], None],
) -> None:
    """train() in a folder that is this process's, with its pictures. settings: what config.json is to hold."""
    config, ranks = run.config, run.ranks
    trunk, target = out / checkpoint.TRUNK, out / (checkpoint.ANNEALING if anneal else checkpoint.TRUNK)
    scheduled = config.schedule_steps > 0 and not anneal

    def found() -> tuple[dict[str, Any] | None, float, int]:
        """The state to go on from, with its anneal's seconds and steps; None where the run is new: it has first weights now."""
        begun = trunk.exists()
        if not begun:
            begin(run, pool, start)
        checkpoint.save_config(out, settings)  # only now: what cannot begin must not bind the next try to its settings
        if not begun:
            return None, 0.0, 0
        state = checkpoint.load(trunk)
        if target.exists() and anneal:
            half = checkpoint.load(target)
            begun_with = Budget(**half["budget"])
            if (half["trunk_step"], begun_with) == (state["step"], budget):
                return half, half["anneal_seconds"], half["anneal_steps"]
            what = f"{target} is an anneal begun with {begun_with.of_anneal()} at the trunk's step {half['trunk_step']}"
            goes_on = "the trunk has gone on since" if half["trunk_step"] != state["step"] else "the same goes on with it"
            raise TrainingError(f"{what}, now at step {half['step']}: {goes_on}; delete that file to begin anew")
        return state, 0.0, 0

    state, spent_seconds, spent_steps = ranks.told(found)  # spent: of this anneal; a trunk's budget counts this call only
    if state is not None:
        run.restore(state)
    trunk_step = (state or {}).get("trunk_step", run.step)
    run.share(compiled and compiles(run.device, ranks, report))
    if state is None:
        run.reset_average()
    torch.manual_seed(config.seed + run.step)  # a resumed run draws other levels and noise than its beginning did
    report(f"{'anneal' if anneal else 'train'} from step {run.step}, {run.seconds / 60:.1f} minutes so far")

    def save() -> None:
        if not ranks.first:
            return
        state = run.state()
        if anneal:
            spent = {"anneal_seconds": spent_seconds, "anneal_steps": spent_steps}
            state |= {"trunk_step": trunk_step, "budget": dataclasses.asdict(budget), **spent}
        checkpoint.save(target, state)

    def log_validation(log: Log | SilentLog) -> list[dict[str, float]]:
        rows = run.validate(held_out)
        log.write(
            phase, run.step, run.seconds, {f"validation_{name}@{r['setting']:.2f}": r[name] for r in rows for name in SCORES}
        )
        return rows

    def report_validation(log: Log | SilentLog) -> None:
        for row in log_validation(log):
            scores = f"{row['bpp']:.4f} bpp, {row['psnr']:.3f} dB, SSIM {row['ssim']:.4f}"
            report(f"validation: level {row['setting']:.2f}: {scores}")

    phase = "anneal" if anneal else "train"
    if not run.optimizers:
        save()
        if held_out:
            with Log(out) if ranks.first else SilentLog() as log:
                report_validation(log)
        report(f"{target} holds what was fitted: the family {run.family} has nothing to train")
        return
    kept_steps = 0 if anneal else config.keep_epochs * max(1, round(pool.n_known / config.batch))
    pool.skip(run.step)
    source = batches(pool, config.batch, config.crop, config.seed + run.step, ranks.part(config.batch))

    def clock() -> float:
        """The mean of all ranks' clocks, whose zeros differ from machine to machine: all ranks ask at the same place."""
        return ranks.mean({"now": time.monotonic()})["now"]

    saved = validated = clock()
    sums: list[dict[str, float]] = []  # of the steps since the log's last row

    def log_means(log: Log | SilentLog) -> None:
        log.write(phase, run.step, run.seconds, {name: float(np.mean([row[name] for row in sums])) for name in sums[0]})
        sums.clear()

    bar_format = "{l_bar}{bar}| {elapsed}<{remaining} {postfix}"
    bar = tqdm(total=100.0, unit="%", disable=None if ranks.first else True, bar_format=bar_format, miniters=0)
    # the request is outermost: a SIGTERM while the log closes must not hide what went wrong (torchrun sends one to who is left)
    with _StopRequest() as stop, Log(out) if ranks.first else SilentLog() as log, bar, ranks.watched():
        while (spent := budget.spent(spent_seconds, spent_steps)) < 1 and not ranks.any(stop.requested):
            begun = time.monotonic()
            crops = next(source)
            waited = time.monotonic() - begun
            sums.append(run.train_step(crops, 1 - spent if anneal else 1.0))
            measured = ranks.mean({"taken": time.monotonic() - begun, "waited": waited, "now": time.monotonic()})
            taken, now = measured["taken"], measured["now"]
            sums[-1]["data_wait_percent"] = 100 * measured["waited"] / taken
            run.seconds, spent_seconds, spent_steps = run.seconds + taken, spent_seconds + taken, spent_steps + 1
            loss, waits = (np.mean([row[name] for row in sums]) for name in ("loss", "data_wait_percent"))
            bar.set_postfix_str(f"step {run.step} loss {loss:.3f}, data wait {waits:.0f} %", refresh=False)
            bar.update(100 * budget.spent(spent_seconds, spent_steps) - bar.n)  # draws it where a tenth of a second has passed
            if len(sums) == LOG_STEPS:
                log_means(log)
            if scheduled and run.step % config.schedule_steps == 0:
                scheduled = run.reschedule(held_out[:SCHEDULE_PICTURES])
                lambdas = {f"lambda_{k}": float(value) for k, value in enumerate(run.model.lambdas)}
                log.write(phase, run.step, run.seconds, lambdas)
            if kept_steps and run.step % kept_steps == 0 and ranks.first:
                checkpoint.save(out / checkpoint.KEPT.format(run.step), run.state())
            if now - saved > 60 * config.save_minutes:
                save()
                saved = clock()
            if held_out and now - validated > 60 * config.validate_minutes:
                log_validation(log)
                validated = clock()
        if sums:
            log_means(log)
        save()
        stopping = ranks.any(stop.requested)
        if anneal and not stopping and ranks.first:
            target = target.replace(out / checkpoint.ANNEALED)
        if held_out and not stopping:
            report_validation(log)
    report(f"{target} holds step {run.step}, {run.seconds / 60:.1f} minutes")


def _say_nothing(_: str) -> None:
    """What ranks that are not the first report."""


def begin(run: Run, pool: PicturePool, start: dict[str, Tensor] | None) -> None:
    """A new run's weights: those of `start`, or what the model makes of the data."""
    crops = np.random.default_rng(run.config.seed)

    def drawn(count: int) -> Iterator[Tensor]:
        return (to_tensor(pool.crops(16, 256, crops), run.device) for _ in range(count))

    if start is not None:
        run.model.load_state_dict(grown(start, run.model))
    else:
        run.model.initialize(drawn(64), run.distortion)
    if hasattr(run.model, "measure"):
        run.model.measure(drawn(8))


class _StopRequest:
    """While entered, Ctrl-C and SIGTERM set `requested`, so that the loop ends between two steps and saves."""

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._request)
        return self

    def _request(self, *_: Any) -> None:
        self.requested = True

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

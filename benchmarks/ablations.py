# SPDX-License-Identifier: MIT
"""Ablations of `few`: what each choice is worth in the first steps of a run from scratch, all with as many steps.

    python benchmarks/ablations.py RUNS base random adamw --data TRAIN --validation VAL

trains each variant in a folder of RUNS (one that is there goes on, or is done), anneals it, and prints a table of all that are
done in RUNS: estimated bits per pixel and PSNR at three levels, and the Bjontegaard rate of five points against `base`. Give
other processes other variants, and the same RUNS. With --init BUNDLE they go on from a trained model, whose sizes they have; then
choices of the training matter (noise, rounding, flat, crop-512), and --set gives it rates that fit. Needs the extra `train`; the
variant `soap` pytorch-optimizer besides.
"""

import argparse
import csv
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor, nn

from fewbits import FewbitsError
from fewbits.bench.bjontegaard import Curve, rate_change
from fewbits.families import few
from fewbits.families.likelihood import LOG_STEP, N_SCALES
from fewbits.families.losses import Distortion
from fewbits.families.quantize import round_through, round_through_zone, uniform_noise
from fewbits.families.settings import override
from fewbits.training import checkpoint, export, loop
from fewbits.training.log import LOG
from fewbits.training.muon import Muon

BASE: Final = "base"
SETTINGS: Final[dict[str, Any]] = {"dead_zone": 0.25}  # of all variants
NO_VALIDATION: Final = 1e6  # minutes: only the last step counts


@contextmanager
def built(change: Callable[[few.Few], None]) -> Iterator[None]:
    """Every new model goes through `change`."""
    construct = few.Few.__init__

    def __init__(self: few.Few, config: few.FewConfig) -> None:
        construct(self, config)
        change(self)

    with mock.patch.object(few.Few, "__init__", __init__):
        yield


def quality_at_latent_only(model: few.Few) -> None:
    """The gains and the scales' last bias know the quality, no layer inside a network."""
    for table in (model.synthesis_modulation, model.hyper_modulation, model.scale_bias):
        table.requires_grad_(False)


def one_hyper_table(model: few.Few) -> None:
    """All levels' hyper tables move as one would, by the sum of their gradients."""

    def shared(gradient: Tensor) -> Tensor:
        return (gradient.sum(0, keepdim=True) / math.sqrt(len(gradient))).expand_as(gradient).clone()

    model.z_logits.register_hook(shared)  # type: ignore[no-untyped-call]


@contextmanager
def random_transforms() -> Iterator[None]:
    """Shortcuts with torch's random weights in place of principal components; what depends on the data is taken from them."""
    initialize = few.Few.initialize

    @torch.no_grad()
    def without_components(self: few.Few, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        batches = list(pictures)
        kept = {name: value.detach().clone() for name, value in self.named_parameters() if ".shortcut" in name}
        initialize(self, batches, distortion)
        for name, value in kept.items():
            self.get_parameter(name).copy_(value)
        latents = [self.analysis.shortcut(self.to_8(batch.to(self.deviation.device) - 0.5)) for batch in batches]
        deviation = torch.cat([latent.movedim(1, -1).flatten(0, -2) for latent in latents]).std(0)
        shift = (deviation / self.deviation).log() / LOG_STEP  # of scales, as initialize() sets them
        self.index_bias.copy_((self.index_bias + shift).clamp(0, N_SCALES - 1))
        self.deviation.copy_(deviation)

    with mock.patch.object(few.Few, "initialize", without_components):
        yield


def noise_for_all() -> AbstractContextManager[Any]:
    """In training synthesis sees noise in place of rounding, as the rates do."""

    def noisy(x: Tensor, zone: Tensor) -> Tensor:
        return uniform_noise(x) if torch.is_grad_enabled() else round_through_zone(x, zone)

    return mock.patch.object(few, "round_through_zone", noisy)


def rounding_for_all() -> AbstractContextManager[Any]:
    """In training the rates see rounded values too."""
    return mock.patch.object(few, "uniform_noise", round_through)


@contextmanager
def soap_for_matrices() -> Iterator[None]:
    """SOAP (Vyas et al., 2024) in place of Muon, at its authors' rate."""
    try:
        from pytorch_optimizer import SOAP  # type: ignore[import-not-found]
    except ImportError as error:
        raise SystemExit("the variant soap needs pytorch-optimizer: pip install pytorch-optimizer") from error
    make = loop.make_optimizers

    def with_soap(model: nn.Module, config: loop.TrainConfig, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
        optimizers = make(model, config, dtype)
        for number, optimizer in enumerate(optimizers):
            if isinstance(optimizer, Muon):
                groups = [{"params": group["params"], "base_lr": 3e-3} for group in optimizer.param_groups]
                optimizers[number] = SOAP(groups, lr=3e-3, betas=(0.95, 0.95), weight_decay=0.0, precondition_frequency=10)
        return optimizers

    with mock.patch.object(loop, "make_optimizers", with_soap):
        yield


@dataclass(frozen=True)
class Variant:
    """How a run differs from `base`."""

    what: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    change: Callable[[], AbstractContextManager[Any]] = nullcontext
    anneal: bool = True
    trunk: str | None = None  # the variant whose trunk it anneals


VARIANTS: Final = {
    BASE: Variant("as `fewbits train few --dead-zone 0.25`"),
    "random": Variant("random weights in place of principal components", change=random_transforms),
    "adamw": Variant("AdamW for all, `--optimizer adamw --lr 1e-3`", training={"optimizer": "adamw", "lr": 1e-3}),
    "soap": Variant("SOAP in place of Muon, at 3e-3", change=soap_for_matrices),
    "wide": Variant("`--depth-8 2 --width-8 160`", model={"depth_8": 2, "width_8": 160}),
    "deep": Variant("`--depth-8 5 --width-8 96`", model={"depth_8": 5, "width_8": 96}),
    "latent": Variant("the quality known at the latent only", change=lambda: built(quality_at_latent_only)),
    "table": Variant("one hyper table for all levels", change=lambda: built(one_hyper_table)),
    "noise": Variant("noise for synthesis, too", change=noise_for_all),
    "rounding": Variant("rounding for the rates, too", change=rounding_for_all),
    "flat": Variant("no anneal, as many steps", anneal=False),
    "crop-512": Variant("`base`'s trunk, annealed on 2 crops of 512", training={"crop": 512, "batch": 2}, trunk=BASE),
}


def train(name: str, options: argparse.Namespace) -> None:
    """A variant's run, to its end."""
    variant, out = VARIANTS[name], options.runs / name
    shared = override(loop.TrainConfig(validate_minutes=NO_VALIDATION, warmup_steps=options.warmup_steps), options.set)
    start = export.load_model(export.load_bundle(options.init)) if options.init else None
    common: dict[str, Any] = {
        "model_config": replace(start.config if start else few.FewConfig(), **SETTINGS, **variant.model),
        "config": replace(shared, **variant.training),
        "start": start.state_dict() if start else None,
        "exclude": options.exclude,
        "validation": options.validation,
        "device": options.device,
    }
    trunk, steps = out / checkpoint.TRUNK, options.steps + (0 if variant.anneal else options.anneal_steps)
    if variant.trunk and not trunk.exists():
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(options.runs / variant.trunk / checkpoint.TRUNK, trunk)
    with variant.change():
        left = steps - (checkpoint.load(trunk)["step"] if trunk.exists() else 0)
        if left > 0:
            loop.train("few", options.data, out, loop.Budget(steps=left), **common)
        stopped = checkpoint.load(trunk)["step"] < steps
        if variant.anneal and not stopped and not (out / checkpoint.ANNEALED).exists():
            loop.train("few", options.data, out, loop.Budget(steps=options.anneal_steps), anneal=True, **common)
            stopped = not (out / checkpoint.ANNEALED).exists()
    if stopped:  # by a signal, which ends a run in order
        raise SystemExit(f"{name} was stopped; the same command goes on")


def last_points(out: Path) -> tuple[int, float, list[tuple[float, float]]] | None:
    """Steps, minutes, and (bits per pixel, PSNR) at the validated levels after a run's last step; None before it."""
    try:
        with (out / LOG).open(newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row["quantity"].startswith("validation_")]
    except FileNotFoundError:
        return None
    if not rows:
        return None
    step, seconds = rows[-1]["step"], float(rows[-1]["seconds"])
    values = {row["quantity"]: float(row["value"]) for row in rows if row["step"] == step}
    rates = [name for name in values if "_bpp@" in name]
    return int(step), seconds / 60, [(values[name], values[name.replace("_bpp@", "_psnr@")]) for name in rates]


def curve(points: list[tuple[float, float]]) -> Curve:
    """Of (bits per pixel, PSNR)."""
    return Curve(*map(list, zip(*points, strict=True)))


def report(options: argparse.Namespace) -> None:
    """A row for each variant that is done."""
    found = {name: last_points(options.runs / name) for name in VARIANTS}
    done = {name: it for name, it in found.items() if it and it[0] == options.steps + options.anneal_steps}
    if BASE not in done:
        return
    print("\n| variant | minutes | level 0 | level 4.5 | level 9 | rate against `base` |\n|---|---:|---:|---:|---:|---:|")
    anchor = curve(done[BASE][2])
    for name, (_, minutes, points) in done.items():
        try:
            change = f"{rate_change(anchor, curve(points)).mean:+.1f} %"
        except ValueError:  # no quality in common
            change = "-"
        shown = " | ".join(f"{bpp:.4f} bpp, {psnr:.3f} dB" for bpp, psnr in points[:: (len(points) - 1) // 2])
        print(f"| {VARIANTS[name].what} | {minutes:.1f} | {shown} | {change} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder for the runs")
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--data", type=Path, action="append", default=[], help="training pictures")
    parser.add_argument("--exclude", action="append", default=[], help="patterns of names of those to leave out")
    parser.add_argument("--validation", type=Path, action="append", default=[], help="held out pictures")
    parser.add_argument("--steps", type=int, default=300, help="of the trunk (default %(default)s)")
    parser.add_argument("--anneal-steps", type=int, default=150, help="after it (default %(default)s)")
    parser.add_argument("--warmup-steps", type=int, default=60, help="of the trunk's (default %(default)s)")
    parser.add_argument("--init", type=Path, metavar="BUNDLE", help="begin every variant from this model's weights")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the training of all")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    unknown = sorted(set(options.variants) - set(VARIANTS))
    if unknown:
        parser.error(f"unknown variants: {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    try:
        for name in options.variants:
            print(f"{name}: {VARIANTS[name].what}", flush=True)
            train(name, options)
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error
    report(options)


if __name__ == "__main__":
    main()

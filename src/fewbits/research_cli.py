# SPDX-License-Identifier: MIT
"""The commands for who trains and compares models: train, export, prune, bench, compare. What they do needs extras."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click

from fewbits.cli_help import CODECS, COMPARING, DATA, MEASURING, PATH, REPORT, RUN, TRAINING, Command, argument, command, option
from fewbits.errors import FewbitsError


class TrainCommand(Command):
    """`fewbits train FAMILY` takes every setting of that family and of its training as an option; --help lists them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["family"] = _first_argument(ctx, args, self.get_params(ctx))
        known = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        unknown = [part for part in args if part.startswith("--") and part.partition("=")[0] not in known]
        names = _extra("train").setting_names(ctx.meta["family"]) if unknown and ctx.meta["family"] else ()
        return super().parse_args(ctx, list(_as_set(ctx, args, {f"--{name.replace('_', '-')}": name for name in names})))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        if ctx.meta["family"]:
            for heading, rows in _extra("train").described_settings(ctx.meta["family"]).items():
                with formatter.section(f"{heading}, each an option of its own, or for --set"):
                    formatter.write_dl(rows, col_max=28)


def _as_set(ctx: Any, args: list[str], names: dict[str, str]) -> Iterator[str]:
    """The arguments with `--some-name VALUE` and `--some-name=VALUE` as `--set some_name=VALUE`. names: setting by option."""
    rest = iter(args)
    for part in rest:
        option, equals, value = part.partition("=")
        if option not in names:
            yield part
            continue
        given = value if equals else next(rest, None)
        if given is None:
            ctx.fail(f"Option '{option}' requires an argument.")
        yield from ("--set", f"{names[option]}={given}")


def _first_argument(ctx: Any, args: list[str], parameters: list[Any]) -> str:
    """The first that is no option and no option's value; settings of a family, which `parameters` lack, have values."""
    alone = {option for parameter in parameters if getattr(parameter, "is_flag", False) for option in parameter.opts}
    alone |= set(ctx.help_option_names)
    rest = iter(args)
    for part in rest:
        if not part.startswith("-"):
            return part
        if "=" not in part and part not in alone:
            next(rest, None)
    return ""


@command(cls=TrainCommand)
@argument("family", metavar="FAMILY", help="The family of models: few (the flagship), or another of docs/families.md.")
@option(
    "--data",
    type=PATH,
    multiple=True,
    required=True,
    metavar="PATH",
    panel=DATA,
    help="A folder of pictures, or a tar of them; may be given again.",
)
@option("--out", type=PATH, required=True, metavar="FOLDER", panel=RUN, help="The run's folder; a run that is there goes on.")
@option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    panel=DATA,
    help="Leave out training pictures whose file name matches, such as 'imagenet__*'; may be given again.",
)
@option(
    "--validation",
    type=PATH,
    multiple=True,
    metavar="PATH",
    panel=DATA,
    help="Pictures for the validation curve; may be given again.",
)
@option("--minutes", type=float, metavar="N", panel=RUN, help="Train for so long, in this call.")
@option("--steps", type=int, metavar="N", panel=RUN, help="Or for so many steps.")
@option(
    "--anneal",
    type=float,
    metavar="MINUTES",
    panel=RUN,
    help="Take a copy of the run's trunk to learning rate zero in so many minutes, ready to export.",
)
@option("--init", type=PATH, metavar="BUNDLE", panel=RUN, help="Begin a new run from a bundle's weights.")
@option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    panel=TRAINING,
    help="Change a setting of the training or of the family; may be given again. --NAME VALUE is the same.",
)
@option("--device", default="auto", metavar="auto|cpu|cuda", panel=TRAINING, help="Where the networks are trained.")
@option("--compile", "compiled", is_flag=True, panel=TRAINING, help="Compile the model by torch.compile, where that works.")
@option(
    "--profile-steps",
    type=click.IntRange(min=1),
    metavar="N",
    panel=RUN,
    help="Only measure so many steps, and say where their time goes; nothing is written.",
)
def train(
    family: str,
    data: tuple[Path, ...],
    out: Path,
    exclude: tuple[str, ...],
    validation: tuple[Path, ...],
    minutes: float | None,
    steps: int | None,
    anneal: float | None,
    init: Path | None,
    settings: tuple[str, ...],
    device: str,
    compiled: bool,
    profile_steps: int | None,
) -> None:
    """Train a model, or go on training it.

    `fewbits train FAMILY --help` lists that family's settings with their defaults. Each is an option too, such as
    --loss ms-ssim=1 (mse, l1, ssim, ms-ssim, ssimulacra2, chroma, vgg), --penalty sparse=1e-4 (sparse, contractive) or --lr 1e-3.
    Processes that torchrun starts share each batch. Needs the extra `train`; docs/training.md tells more.
    """
    _extra("train").run_train(
        family, list(data), out, minutes=minutes, steps=steps, anneal=anneal, init=init,
        exclude=list(exclude), validation=list(validation), settings=list(settings), device=device,
        compiled=compiled, profile_steps=profile_steps,
    )  # fmt: skip


@command()
@argument("run", type=PATH, metavar="RUN", help="A training run's folder.")
@argument("bundle", type=PATH, metavar="BUNDLE", help="The folder to write; a bundle that is there is replaced.")
@option("--card", type=PATH, metavar="FILE", help="A JSON file with more entries for the model card.")
@option(
    "--measure",
    type=PATH,
    multiple=True,
    metavar="PATH",
    help="Pictures to measure the model card's curve on; may be given again.",
)
@option(
    "--calibrate",
    type=PATH,
    multiple=True,
    metavar="PATH",
    help="Make the model faster, by what training pictures show of it: hidden units that none of 200 makes fire are left "
    "out. May be given again.",
)
@option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out pictures of --calibrate whose file name matches; may be given again.",
)
def export(
    run: Path, bundle: Path, card: Path | None, measure: tuple[Path, ...], calibrate: tuple[Path, ...], exclude: tuple[str, ...]
) -> None:
    """Make a bundle of a training run: a model that needs no torch.

    `fewbits encode` and `decode` take it by --model. Needs the extra `train`.
    """
    _extra("train").run_export(run, bundle, card, list(measure), list(calibrate), list(exclude))


@command()
@argument("bundle", type=PATH, metavar="BUNDLE", help="A bundle of the family few.")
@argument("pruned", type=PATH, metavar="PRUNED", help="The folder to write; a bundle that is there is replaced.")
@option(
    "--data",
    type=PATH,
    multiple=True,
    required=True,
    metavar="PATH",
    help="Training pictures: 200 of them choose the units, and calibrate the bundle as `fewbits export` does. May be given "
    "again.",
)
@option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out pictures of --data whose file name matches; may be given again.",
)
@option("--analysis", type=float, default=0.0, metavar="SHARE", help="Of the multiplications of analysis's blocks to leave out.")
@option("--synthesis", type=float, default=0.0, metavar="SHARE", help="Of those of synthesis's blocks.")
def prune(
    bundle: Path, pruned: Path, data: tuple[Path, ...], exclude: tuple[str, ...], analysis: float, synthesis: float
) -> None:
    """Make a model faster: leave out the hidden units that matter least.

    What is left is changed to suit (Optimal Brain Surgeon). Channels of the hyper analysis that fire on no picture go, too;
    without shares only they. The bundle that this writes is meant to be trained on, by `fewbits train few --init PRUNED`. Needs
    the extra `train`.
    """
    _extra("train").run_prune(bundle, pruned, list(data), list(exclude), {"analysis": analysis, "synthesis": synthesis})


@command()
@argument(
    "pictures",
    nargs=-1,
    required=True,
    type=PATH,
    metavar="PATH...",
    help="Folders of pictures, searched recursively, or pictures.",
)
@option(
    "--out",
    type=PATH,
    required=True,
    metavar="FOLDER",
    panel=REPORT,
    help="The report's folder; a measurement that is there goes on.",
)
@option(
    "--codecs",
    multiple=True,
    metavar="NAME,...",
    panel=CODECS,
    help="few or any model's name, a bundle's folder (./mine), jpeg, jpeg-default, jpeg-444, jpeg2000, webp, webp-default, "
    "avif (4:2:0, speed 6), avif-444, avif-s2 (speed 2), avif-444-s2, jxl. A model at an effort: few@5. "
    "Default: few,jpeg,jpeg2000,webp,avif.",
)
@option(
    "--command",
    "commands",
    multiple=True,
    metavar="'NAME: ENC ;; DEC'",
    panel=CODECS,
    help="Any codec by two commands: 'name: enc {in} {out} -q {q} ;; dec {in} {out}'. Pictures are PNG files; {in.ppm} asks "
    "for another format. May be given again.",
)
@option(
    "--qualities",
    multiple=True,
    metavar="CODEC=N,N,...",
    panel=CODECS,
    help="A codec's settings in place of the seven usual ones; may be given again.",
)
@option("--time-limit", type=float, default=3600.0, metavar="SECONDS", panel=CODECS, help="End a --command that takes longer.")
@option(
    "--metrics",
    multiple=True,
    metavar="NAME,...",
    panel=MEASURING,
    help="mse, psnr, psnr_y, ssim, ms_ssim, ssimulacra2, lpips (needs torch and weights). Default: "
    "psnr,psnr_y,ms_ssim,ssimulacra2.",
)
@option("--limit", type=click.IntRange(min=1), metavar="N", panel=MEASURING, help="Take only the first N pictures.")
@option("--timing/--no-timing", default=True, panel=MEASURING, help="Measure seconds and peak memory too, one row at a time.")
@option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    panel=MEASURING,
    help="Processes for bytes and metrics. Default: one a core.",
)
@option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    panel=MEASURING,
    help="Threads of each codec while it is timed. Default: as many as there are cores.",
)
@option(
    "--anchor", metavar="CODEC", panel=COMPARING, help="The codec that tables compare with. Default: jpeg, where it is measured."
)
@option(
    "--speed-reference", metavar="CODEC", panel=COMPARING, help="The codec whose speed is 1. Default: avif, where it is measured."
)
@option(
    "--range", "bpp_range", metavar="LOW:HIGH", panel=COMPARING, help="Compare at these bits per pixel only, such as 0.12:1.6."
)
@option(
    "--at",
    multiple=True,
    metavar="METRIC=QUALITY",
    panel=COMPARING,
    help="A quality for the table of smallest files; may be given again.",
)
@option("--published", type=PATH, metavar="FILE", panel=COMPARING, help="A JSON file of published curves to show beside.")
@option("--published-curve", multiple=True, metavar="NAME", panel=COMPARING, help="Only this one of them; may be given again.")
@option("--gallery", is_flag=True, panel=REPORT, help="Also write sheets of the original and each setting side by side.")
@option(
    "--viewer",
    default="0.5",
    metavar="BPP,...",
    panel=REPORT,
    help="Bits per pixel at which the report's viewer shows pictures; '' for none.",
)
@option(
    "--viewer-mb",
    type=float,
    default=60.0,
    metavar="MB",
    panel=REPORT,
    help="The report shows pictures until they are so many megabytes.",
)
def bench(
    pictures: tuple[Path, ...],
    out: Path,
    codecs: tuple[str, ...],
    commands: tuple[str, ...],
    qualities: tuple[str, ...],
    time_limit: float,
    metrics: tuple[str, ...],
    limit: int | None,
    timing: bool,
    jobs: int | None,
    threads: int | None,
    anchor: str | None,
    speed_reference: str | None,
    bpp_range: str | None,
    at: tuple[str, ...],
    published: Path | None,
    published_curve: tuple[str, ...],
    gallery: bool,
    viewer: str,
    viewer_mb: float,
) -> None:
    """Measure any codecs on any pictures, and write a report.

    The report's folder gets tables, plots and a page with a viewer. Exit 1 where a row failed; the table says why, and the rest
    is measured. Needs the extra `bench`.
    """
    side = _extra("bench")
    n_failed = side.run_bench(
        side.Options(
            list(pictures), out, list(codecs), list(commands), list(qualities), list(metrics), published, list(published_curve),
            anchor, speed_reference,
            bpp_range, list(at), jobs, threads, limit, timing, gallery, [viewer], viewer_mb, time_limit,
        )
    )  # fmt: skip
    if n_failed:
        raise FewbitsError(f"{n_failed} row{'s' if n_failed > 1 else ''} failed: the column `error` of {out}/table.csv says why")


@command()
@argument("first", type=PATH, metavar="A", help="The original; any picture, or a .few file.")
@argument("second", type=PATH, metavar="B", help="The other, of the same size.")
@option(
    "--metrics",
    multiple=True,
    metavar="NAME,...",
    help="Only these: mse, psnr, psnr_y, ssim, ms_ssim, ssimulacra2, lpips (needs torch and weights).",
)
def compare(first: Path, second: Path, metrics: tuple[str, ...]) -> None:
    """Print how near a picture is to another, by every metric.

    Needs the extra `bench`.
    """
    _extra("bench").run_compare(first, second, list(metrics))


def _extra(name: Literal["train", "bench"]) -> Any:
    """The side of the program that needs an extra. Raises FewbitsError where it is not installed."""
    try:
        return importlib.import_module({"train": "fewbits.training.command", "bench": "fewbits.bench.command"}[name])
    except ImportError as error:
        what = {"train": "training", "bench": "measuring"}[name]
        raise FewbitsError(f"{what} needs {error.name}: install the extra, pip install '.[{name}]' in a clone") from error

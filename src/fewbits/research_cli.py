# SPDX-License-Identifier: MIT
"""The commands for who trains and compares models: train, export, bench, compare. What they do needs extras."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fewbits.cli_help import CODECS, COMPARING, DATA, MEASURING, REPORT, RUN, TRAINING, Command
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


def train(
    family: Annotated[
        str, typer.Argument(metavar="FAMILY", help="The family of models: few (the flagship), or another of docs/families.md.")
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", metavar="PATH", rich_help_panel=DATA, help="A folder of pictures, or a tar of them; may be given again."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", rich_help_panel=RUN, help="The run's folder; a run that is there goes on."),
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="PATTERN",
            rich_help_panel=DATA,
            help="Leave out training pictures whose file name matches, such as 'imagenet__*'; may be given again.",
        ),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(
            "--validation",
            metavar="PATH",
            rich_help_panel=DATA,
            help="Pictures for the validation curve; may be given again.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", metavar="N", rich_help_panel=RUN, help="Train for so long, in this call."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", rich_help_panel=RUN, help="Or for so many steps.")] = None,
    anneal: Annotated[
        float | None,
        typer.Option(
            "--anneal",
            metavar="MINUTES",
            rich_help_panel=RUN,
            help="Take a copy of the run's trunk to learning rate zero in so many minutes, ready to export.",
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", metavar="BUNDLE", rich_help_panel=RUN, help="Begin a new run from a bundle's weights."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            rich_help_panel=TRAINING,
            help="Change a setting of the training or of the family; may be given again. --NAME VALUE is the same.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option("--device", metavar="auto|cpu|cuda", rich_help_panel=TRAINING, help="Where the networks are trained."),
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compile", rich_help_panel=TRAINING, help="Compile the model by torch.compile, where that works."),
    ] = False,
    profile_steps: Annotated[
        int | None,
        typer.Option(
            "--profile-steps",
            metavar="N",
            min=1,
            rich_help_panel=RUN,
            help="Only measure so many steps, and say where their time goes; nothing is written.",
        ),
    ] = None,
) -> None:
    """Train a model, or go on training it.

    `fewbits train FAMILY --help` lists that family's settings with their defaults. Each is an option too, such as
    --loss ms-ssim=1 (mse, l1, ssim, ms-ssim, ssimulacra2, chroma, vgg), --penalty sparse=1e-4 (sparse, contractive) or --lr 1e-3.
    Processes that torchrun starts share each batch. Needs the extra `train`; docs/training.md tells more.
    """
    _extra("train").run_train(
        family, data, out, minutes=minutes, steps=steps, anneal=anneal, init=init,
        exclude=exclude or [], validation=validation or [], settings=settings or [], device=device,
        compiled=compiled, profile_steps=profile_steps,
    )  # fmt: skip


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A training run's folder.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder to write; a bundle that is there is replaced.")],
    card: Annotated[
        Path | None, typer.Option("--card", metavar="FILE", help="A JSON file with more entries for the model card.")
    ] = None,
    measure: Annotated[
        list[Path] | None,
        typer.Option("--measure", metavar="PATH", help="Pictures to measure the model card's curve on; may be given again."),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="PATH",
            help="Make the model faster, by what training pictures show of it: hidden units that none of 200 makes fire are left "
            "out, and a flagship's synthesis gets an int8 variant. May be given again.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", metavar="PATTERN", help="Leave out pictures of --calibrate whose file name matches; may be given again."
        ),
    ] = None,
) -> None:
    """Make a bundle of a training run: a model that needs no torch.

    `fewbits encode` and `decode` take it by --model. Needs the extra `train`.
    """
    _extra("train").run_export(run, bundle, card, measure or [], calibrate or [], exclude or [])


def bench(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders of pictures, searched recursively, or pictures.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FOLDER", rich_help_panel=REPORT, help="The report's folder; a measurement that is there goes on."
        ),
    ],
    codecs: Annotated[
        list[str] | None,
        typer.Option(
            "--codecs",
            metavar="NAME,...",
            rich_help_panel=CODECS,
            help="few or any model's name, a bundle's folder (./mine), jpeg, jpeg-default, jpeg-444, jpeg2000, webp, "
            "webp-default, avif (4:2:0, speed 6), avif-444, avif-s2 (speed 2), avif-444-s2, jxl. "
            "Default: few,jpeg,jpeg2000,webp,avif.",
        ),
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            "--command",
            metavar="'NAME: ENC ;; DEC'",
            rich_help_panel=CODECS,
            help="Any codec by two commands: 'name: enc {in} {out} -q {q} ;; dec {in} {out}'. Pictures are PNG files; {in.ppm} "
            "asks for another format. May be given again.",
        ),
    ] = None,
    qualities: Annotated[
        list[str] | None,
        typer.Option(
            "--qualities",
            metavar="CODEC=N,N,...",
            rich_help_panel=CODECS,
            help="A codec's settings in place of the seven usual ones; may be given again.",
        ),
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option("--time-limit", metavar="SECONDS", rich_help_panel=CODECS, help="End a --command that takes longer."),
    ] = 3600.0,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="NAME,...",
            rich_help_panel=MEASURING,
            help="mse, psnr, psnr_y, ssim, ms_ssim, ssimulacra2, lpips (needs torch and weights). "
            "Default: psnr,psnr_y,ms_ssim,ssimulacra2.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, rich_help_panel=MEASURING, help="Take only the first N pictures."),
    ] = None,
    timing: Annotated[
        bool, typer.Option(rich_help_panel=MEASURING, help="Measure seconds and peak memory too, one row at a time.")
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option(
            "-j",
            "--jobs",
            metavar="N",
            min=1,
            rich_help_panel=MEASURING,
            help="Processes for bytes and metrics. Default: one a core.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            rich_help_panel=MEASURING,
            help="Threads of each codec while it is timed. Default: as many as there are cores.",
        ),
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option(
            "--anchor",
            metavar="CODEC",
            rich_help_panel=COMPARING,
            help="The codec that tables compare with. Default: jpeg, where it is measured.",
        ),
    ] = None,
    speed_reference: Annotated[
        str | None,
        typer.Option(
            "--speed-reference",
            metavar="CODEC",
            rich_help_panel=COMPARING,
            help="The codec whose speed is 1. Default: avif, where it is measured.",
        ),
    ] = None,
    bpp_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LOW:HIGH",
            rich_help_panel=COMPARING,
            help="Compare at these bits per pixel only, such as 0.12:1.6.",
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="METRIC=QUALITY",
            rich_help_panel=COMPARING,
            help="A quality for the table of smallest files; may be given again.",
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            "--published", metavar="FILE", rich_help_panel=COMPARING, help="A JSON file of published curves to show beside."
        ),
    ] = None,
    published_curve: Annotated[
        list[str] | None,
        typer.Option(
            "--published-curve", metavar="NAME", rich_help_panel=COMPARING, help="Only this one of them; may be given again."
        ),
    ] = None,
    gallery: Annotated[
        bool,
        typer.Option(
            "--gallery",
            rich_help_panel=REPORT,
            help="Also write sheets of the original and each setting side by side.",
        ),
    ] = False,
    viewer: Annotated[
        str,
        typer.Option(
            "--viewer",
            metavar="BPP,...",
            rich_help_panel=REPORT,
            help="Bits per pixel at which the report's viewer shows pictures; '' for none.",
        ),
    ] = "0.5",
    viewer_mb: Annotated[
        float,
        typer.Option(
            "--viewer-mb",
            metavar="MB",
            rich_help_panel=REPORT,
            help="The report shows pictures until they are so many megabytes.",
        ),
    ] = 60.0,
) -> None:
    """Measure any codecs on any pictures, and write a report.

    The report's folder gets tables, plots and a page with a viewer. Exit 1 where a row failed; the table says why, and the rest
    is measured. Needs the extra `bench`.
    """
    side = _extra("bench")
    n_failed = side.run_bench(
        side.Options(
            pictures, out, codecs or [], command or [], qualities or [], metrics or [], published, published_curve or [],
            anchor, speed_reference,
            bpp_range, at or [], jobs, threads, limit, timing, gallery, [viewer], viewer_mb, time_limit,
        )
    )  # fmt: skip
    if n_failed:
        raise FewbitsError(f"{n_failed} row{'s' if n_failed > 1 else ''} failed: the column `error` of {out}/table.csv says why")


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The original; any picture, or a .few file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other, of the same size.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="NAME,...",
            help="Only these: mse, psnr, psnr_y, ssim, ms_ssim, ssimulacra2, lpips (needs torch and weights).",
        ),
    ] = None,
) -> None:
    """Print how near a picture is to another, by every metric.

    Needs the extra `bench`.
    """
    _extra("bench").run_compare(first, second, metrics or [])


def _extra(name: Literal["train", "bench"]) -> Any:
    """The side of the program that needs an extra. Raises FewbitsError where it is not installed."""
    try:
        return importlib.import_module({"train": "fewbits.training.command", "bench": "fewbits.bench.command"}[name])
    except ImportError as error:
        what = {"train": "training", "bench": "measuring"}[name]
        raise FewbitsError(f"{what} needs {error.name}: install the extra, pip install '.[{name}]' in a clone") from error

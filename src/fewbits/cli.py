# SPDX-License-Identifier: MIT
"""The command line: its commands and options. Exit 0: done; 1: it failed, with one line on stderr; 2: wrong usage."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer
import typer.core

from fewbits import __version__, files
from fewbits.codec import (
    DEFAULT_QUALITY,
    TUNINGS,
    Region,
    inspect,
    installed_models,
    latent_width,
    tuned_model,
)
from fewbits.container import MAX_HEADER_BYTES, MAX_PIXELS, MAX_SIDE, Limits
from fewbits.conversion import Decoding, Encoding, about, can_write
from fewbits.convert_command import convert_paths, jobs_of
from fewbits.errors import FewbitsError, ImageError
from fewbits.picture import DEPTHS
from fewbits.picturefile import read_image
from fewbits.runtime.bundle import manifest_id
from fewbits.target import Target
from fewbits.view import SCALES


class _Command(typer.core.TyperCommand):
    """A command whose --help lists its options by purpose. typer does so only with rich, which our help is to do without."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [parameter for parameter in self.params if parameter.param_type_name == "argument"]
        return [str(self.options_metavar), *(str(argument.metavar) for argument in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if parameter.param_type_name == "argument":
                panels.setdefault("Arguments", []).append((str(parameter.metavar), str(getattr(parameter, "help", ""))))
            elif record:
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
        for heading, rows in panels.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


app = typer.Typer(
    help="Makes pictures small, and pictures again, with learned autoencoders.",
    epilog="fewbits COMMAND --help tells more of one. Examples of everything: docs/cli.md, beside the source.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_EPILOG: Final = "Examples, and what is promised: docs/cli.md, beside the source."

# The headings of --help.
_RATE: Final = "Size and quality"
_CONTENT: Final = "Content"
_PICTURE: Final = "The picture"
_LIMITS: Final = "Limits, for files from strangers"
_MACHINE: Final = "Model and processor"
_FILES: Final = "Files"
_RUN: Final = "The run"
_DATA: Final = "Pictures"
_TRAINING: Final = "Training"
_CODECS: Final = "Codecs"
_MEASURING: Final = "Measuring"
_COMPARING: Final = "Comparing"
_REPORT: Final = "The report"

Force = Annotated[
    bool,
    typer.Option("-f", "--force", rich_help_panel=_FILES, help="Overwrite OUT where it exists, and do again what is up to date."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        rich_help_panel=_MACHINE,
        help="Threads of each process. Default: as many as there are cores, shared among the processes.",
    ),
]
Jobs = Annotated[
    str | None,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N|all",
        rich_help_panel=_FILES,
        help="Processes, for many files. Default: all, which is one a core.",
    ),
]
FromList = Annotated[
    str | None,
    typer.Option(
        "--from-list",
        metavar="FILE",
        rich_help_panel=_FILES,
        help="Take further paths from FILE, or from stdin where it is -: one a line, or each ended by NUL. OUT must be given.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", rich_help_panel=_FILES, help="Print a JSON line for each file, and one with a summary.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        rich_help_panel=_MACHINE,
        help="A model's name (fewbits models lists them), or a bundle's folder.",
    ),
]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails. Goes before COMMAND.")] = False,
) -> None:
    _state["debug"] = debug
    if version:
        typer.echo(f"fewbits {__version__}")
        raise typer.Exit


_state = {"debug": False}


@app.command(cls=_Command, epilog=_EPILOG)
def encode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... [OUT]",
            help="One picture in any format that Pillow reads, or - for stdin; then OUT is the .few file, or - for stdout, and "
            "IN with .few where it is not given. Or folders, quoted patterns and pictures; then OUT is a folder for .few files.",
        ),
    ],
    quality: Annotated[
        float | None,
        typer.Option(
            "-q",
            "--quality",
            metavar="N",
            rich_help_panel=_RATE,
            help=f"0 to 100, continuous; higher is better and larger. Default: {DEFAULT_QUALITY:g}.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            "--target-size",
            metavar="BYTES",
            rich_help_panel=_RATE,
            help="In place of a quality: the best file of at most so many bytes, such as 200kB or 1.5MiB.",
        ),
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option("--target-bpp", metavar="BITS", rich_help_panel=_RATE, help="The same, in bits per pixel.")
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option(
            "--target-psnr",
            metavar="DB",
            rich_help_panel=_RATE,
            help="In place of a quality: the smallest file that reaches this PSNR (RGB), such as 38.",
        ),
    ] = None,
    target_ssim: Annotated[
        float | None,
        typer.Option("--target-ssim", metavar="N", rich_help_panel=_RATE, help="The same for SSIM (not MS-SSIM), such as 0.98."),
    ] = None,
    target_ssimulacra2: Annotated[
        float | None,
        typer.Option(
            "--target-ssimulacra2",
            metavar="N",
            rich_help_panel=_RATE,
            help="The same for SSIMULACRA2, such as 70. Needs the extra `bench`.",
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            "--tune",
            metavar="|".join(TUNINGS),
            rich_help_panel=_RATE,
            help="What the bytes are spent on: structure as people see it (visual, the default), or squared error (psnr).",
        ),
    ] = None,
    roi: Annotated[
        Path | None,
        typer.Option(
            "--roi",
            metavar="MASK",
            rich_help_panel=_CONTENT,
            help="A picture of IN's size, white where detail is wanted. For one IN, and a --model with an importance map.",
        ),
    ] = None,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip",
            rich_help_panel=_CONTENT,
            help="Leave out EXIF, XMP and the colour profile; the colours are converted to sRGB first.",
        ),
    ] = False,
    lossless: Annotated[
        bool,
        typer.Option("--lossless", rich_help_panel=_CONTENT, help="There is no such mode: fails, and says what to use."),
    ] = False,
    model: ModelOption = None,
    threads: Threads = None,
    force: Force = False,
    jobs: Jobs = None,
    from_list: FromList = None,
    as_json: AsJson = False,
) -> None:
    """Make .few files of pictures: of one, or of whole folders.

    Transparency, EXIF, XMP and the colour profile are kept.

    Of many files, an OUT that is not older than its IN is up to date, whatever options made it, and is skipped; -f does all
    again. A file that fails does not stop the others: it is listed at the end, and the exit code is 1.
    """
    if lossless:
        raise typer.BadParameter("a .few file is never exact: use PNG, lossless WebP or JPEG XL", param_hint="'--lossless'")
    aims = {
        "size": target_size, "bpp": target_bpp, "psnr": target_psnr, "ssim": target_ssim, "ssimulacra2": target_ssimulacra2,
    }  # fmt: skip
    goal = _target(quality, {name: value for name, value in aims.items() if value is not None})
    if quality is not None and not 0 <= quality <= 100:
        raise typer.BadParameter(f"{quality} is not in the range 0 to 100", param_hint="'-q' / '--quality'")
    if tune is not None and model is not None:
        raise typer.BadParameter("it chooses among the flagship's models: leave --model out", param_hint="'--tune'")
    if tune is not None and tune not in TUNINGS:
        raise typer.BadParameter(f"{tune!r} is not one of {', '.join(TUNINGS)}", param_hint="'--tune'")
    mask = read_image(files.read(str(roi)), str(roi)) if roi else None
    convert = Encoding(quality, model or tuned_model(tune), threads, mask, strip, goal)
    convert_paths(paths, from_list, convert, jobs=jobs_of(jobs), force=force, as_json=as_json)


def _pixels(text: str | int) -> int:
    """ "268MP" or "268435456" -> a number of pixels. Raises BadParameter. (typer passes defaults through it, too.)"""
    number = str(text).upper()
    try:
        pixels = round(float(number.removesuffix("MP")) * (1_000_000 if number.endswith("MP") else 1))
    except (ValueError, OverflowError):
        pixels = 0
    if pixels < 1:
        raise typer.BadParameter(f"{text!r} is no number of pixels such as 40MP or 40000000")
    return pixels


@app.command(cls=_Command, epilog=_EPILOG)
def decode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... [OUT]",
            help="One .few file, or - for stdin; then OUT is the picture, in the format of its extension, or - for stdout, and "
            "IN with .png where it is not given. Or folders, quoted patterns and files; then OUT is a folder for pictures.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="EXT",
            rich_help_panel=_PICTURE,
            help="The pictures' format where OUT does not say it, such as jpg; any that Pillow writes.",
        ),
    ] = "png",
    depth: Annotated[
        int, typer.Option("--depth", metavar="8|16", rich_help_panel=_PICTURE, help="Bits a sample of the picture.")
    ] = 8,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            metavar="X,Y,W,H",
            rich_help_panel=_PICTURE,
            help="Only this part: left, top, width and height in pixels of the whole picture.",
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale",
            metavar="1/N",
            rich_help_panel=_PICTURE,
            help="Smaller: 1/2, 1/4 or 1/8 of the size, of --region's where that is given.",
        ),
    ] = None,
    allow_truncated: Annotated[
        bool,
        typer.Option(
            "--allow-truncated",
            rich_help_panel=_PICTURE,
            help="Of a file that was cut off, decode what is there; the rest is flat.",
        ),
    ] = False,
    size_limit: Annotated[
        int,
        typer.Option(
            "--size-limit",
            metavar="N[MP]",
            parser=_pixels,
            show_default=False,
            rich_help_panel=_LIMITS,
            help="Refuse a picture of more pixels, such as 40MP. Default: all that the format has, 2^28 or 268MP.",
        ),
    ] = MAX_PIXELS,
    dimension_limit: Annotated[
        int,
        typer.Option(
            "--dimension-limit",
            metavar="PIXELS",
            min=1,
            rich_help_panel=_LIMITS,
            help="Refuse a picture that is wider or higher.",
        ),
    ] = MAX_SIDE,
    model: ModelOption = None,
    threads: Threads = None,
    force: Force = False,
    jobs: Jobs = None,
    from_list: FromList = None,
    as_json: AsJson = False,
) -> None:
    """Make pictures of .few files: of one, or of whole folders.

    A file names its model, which is found among the installed ones; --model takes another. Of many files, what is up to date
    is skipped, and failures are listed at the end, as `fewbits encode` does.
    """
    if depth not in DEPTHS:
        raise typer.BadParameter(f"{depth} is not 8 or 16", param_hint="'--depth'")
    extension = f".{to.removeprefix('.')}"
    if not can_write(extension):
        raise typer.BadParameter(f"Pillow writes no pictures with the extension {extension}", param_hint="'--to'")
    limits = Limits(size_limit, dimension_limit)
    convert = Decoding(extension, model, threads, depth, _numbers(region), _divisor(scale), allow_truncated, limits)
    convert_paths(paths, from_list, convert, jobs=jobs_of(jobs), force=force, as_json=as_json)


def _numbers(region: str | None) -> Region | None:
    """X,Y,W,H as numbers; whether they lie in the picture is for the decoder to say."""
    if region is None:
        return None
    try:
        x, y, width, height = map(int, region.split(","))
    except ValueError:
        raise typer.BadParameter(f"{region!r} is not X,Y,W,H, four whole numbers", param_hint="'--region'") from None
    return x, y, width, height


def _divisor(scale: str | None) -> int:
    names = {f"1/{n}": n for n in SCALES}
    if scale is not None and scale not in names:
        raise typer.BadParameter(f"{scale!r} is not one of {', '.join(names)}", param_hint="'--scale'")
    return names[scale] if scale else 1


@app.command(cls=_Command, epilog=_EPILOG)
def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .few file, or - for stdin.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what a .few file says of itself.

    Size, colour, depth, quality, model, and what the bytes are spent on. Reads the header only, loads no network.
    """
    with about(file):
        header = inspect(files.read(file, MAX_HEADER_BYTES))
    found = {manifest_id(manifest): (Path(path).name, manifest) for path, manifest in installed_models().items()}
    name, manifest = found.get(header.model_id, ("not installed", {}))
    width = latent_width(manifest, header)
    values = (
        asdict(header)
        | {
            "model_id": header.model_id.hex(),
            "model": name,
            "quality": header.quality,
            "bytes": header.file_bytes,
            "header_bytes": header.header_bytes,
            "parts": header.parts,
            "bpp": round(8 * header.file_bytes / (header.width * header.height), 4),
        }
        | ({"channels": width} if width else {})
    )
    del values["quality_steps"]
    if as_json:
        typer.echo(json.dumps(values))
        return
    samples = f"{header.colour}{' with alpha' if 'alpha' in header.parts else ''}, {header.depth} bits"
    typer.echo(f"{header.width} x {header.height} pixels, {samples}, quality {header.quality:g}")
    sizes = ", ".join(f"{name} {size}" for name, size in ({"header": header.header_bytes} | header.parts).items())
    typer.echo(f"{values['bytes']} bytes ({sizes}), {values['bpp']} bits per pixel")
    at_width = f", width {width}" if width else ""
    typer.echo(f"model {values['model']} ({values['model_id']}), family {header.family}{at_width}")


@app.command(cls=_Command, epilog=_EPILOG)
def models() -> None:
    """List the installed models.

    For each a line: its name, its id, its family, how many steps it was trained, its folder. They are the shipped ones, and
    those in the folders of $FEWBITS_MODELS.
    """
    for path, manifest in installed_models().items():
        card = manifest["card"]
        name, steps = Path(path).name, card.get("steps", "?")
        typer.echo(f"{name:12} {manifest_id(manifest).hex()}  family {manifest['family']}, {steps} steps, {path}")


class _TrainCommand(_Command):
    """`fewbits train FAMILY` takes every setting of that family and of its training as an option; --help lists them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["family"] = _first_argument(ctx, args)
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


def _first_argument(ctx: Any, args: list[str]) -> str:
    """The first that is no option and no option's value; all options but --help have one."""
    rest = iter(args)
    for part in rest:
        if not part.startswith("-"):
            return part
        if "=" not in part and part not in ctx.help_option_names:
            next(rest, None)
    return ""


@app.command(cls=_TrainCommand, epilog=_EPILOG)
def train(
    family: Annotated[
        str, typer.Argument(metavar="FAMILY", help="The family of models: few (the flagship), or another of docs/families.md.")
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", metavar="PATH", rich_help_panel=_DATA, help="A folder of pictures, or a tar of them; may be given again."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", rich_help_panel=_RUN, help="The run's folder; a run that is there goes on."),
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="PATTERN",
            rich_help_panel=_DATA,
            help="Leave out training pictures whose file name matches, such as 'imagenet__*'; may be given again.",
        ),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(
            "--validation",
            metavar="PATH",
            rich_help_panel=_DATA,
            help="Pictures for the validation curve; may be given again.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", metavar="N", rich_help_panel=_RUN, help="Train for so long, in this call."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", rich_help_panel=_RUN, help="Or for so many steps.")] = None,
    anneal: Annotated[
        float | None,
        typer.Option(
            "--anneal",
            metavar="MINUTES",
            rich_help_panel=_RUN,
            help="Take a copy of the run's trunk to learning rate zero in so many minutes, ready to export.",
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", metavar="BUNDLE", rich_help_panel=_RUN, help="Begin a new run from a bundle's weights."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            rich_help_panel=_TRAINING,
            help="Change a setting of the training or of the family; may be given again. --NAME VALUE is the same.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option("--device", metavar="auto|cpu|cuda", rich_help_panel=_TRAINING, help="Where the networks are trained."),
    ] = "auto",
) -> None:
    """Train a model, or go on training it.

    `fewbits train FAMILY --help` lists that family's settings with their defaults. Each is an option too, such as
    --loss ms-ssim=1 (mse, l1, ssim, ms-ssim, chroma, vgg), --penalty sparse=1e-4 (sparse, contractive) or --lr 1e-3.
    Needs the extra `train`; docs/training.md tells more.
    """
    _extra("train").run_train(
        family, data, out, minutes=minutes, steps=steps, anneal=anneal, init=init,
        exclude=exclude or [], validation=validation or [], settings=settings or [], device=device,
    )  # fmt: skip


@app.command(cls=_Command, epilog=_EPILOG)
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
) -> None:
    """Make a bundle of a training run: a model that needs no torch.

    `fewbits encode` and `decode` take it by --model. Needs the extra `train`.
    """
    _extra("train").run_export(run, bundle, card, measure or [])


@app.command(cls=_Command, epilog=_EPILOG)
def bench(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders of pictures, searched recursively, or pictures.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FOLDER", rich_help_panel=_REPORT, help="The report's folder; a measurement that is there goes on."
        ),
    ],
    codecs: Annotated[
        list[str] | None,
        typer.Option(
            "--codecs",
            metavar="NAME,...",
            rich_help_panel=_CODECS,
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
            rich_help_panel=_CODECS,
            help="Any codec by two commands: 'name: enc {in} {out} -q {q} ;; dec {in} {out}'. Pictures are PNG files; {in.ppm} "
            "asks for another format. May be given again.",
        ),
    ] = None,
    qualities: Annotated[
        list[str] | None,
        typer.Option(
            "--qualities",
            metavar="CODEC=N,N,...",
            rich_help_panel=_CODECS,
            help="A codec's settings in place of the seven usual ones; may be given again.",
        ),
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option("--time-limit", metavar="SECONDS", rich_help_panel=_CODECS, help="End a --command that takes longer."),
    ] = 3600.0,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="NAME,...",
            rich_help_panel=_MEASURING,
            help="mse, psnr, psnr_y, ssim, ms_ssim, ssimulacra2, lpips (needs torch and weights). "
            "Default: psnr,psnr_y,ms_ssim,ssimulacra2.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, rich_help_panel=_MEASURING, help="Take only the first N pictures."),
    ] = None,
    timing: Annotated[
        bool, typer.Option(rich_help_panel=_MEASURING, help="Measure seconds and peak memory too, one row at a time.")
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option(
            "-j",
            "--jobs",
            metavar="N",
            min=1,
            rich_help_panel=_MEASURING,
            help="Processes for bytes and metrics. Default: one a core.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            rich_help_panel=_MEASURING,
            help="Threads of each codec while it is timed. Default: as many as there are cores.",
        ),
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option(
            "--anchor",
            metavar="CODEC",
            rich_help_panel=_COMPARING,
            help="The codec that tables compare with. Default: jpeg, where it is measured.",
        ),
    ] = None,
    speed_reference: Annotated[
        str | None,
        typer.Option(
            "--speed-reference",
            metavar="CODEC",
            rich_help_panel=_COMPARING,
            help="The codec whose speed is 1. Default: avif, where it is measured.",
        ),
    ] = None,
    bpp_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LOW:HIGH",
            rich_help_panel=_COMPARING,
            help="Compare at these bits per pixel only, such as 0.12:1.6.",
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="METRIC=QUALITY",
            rich_help_panel=_COMPARING,
            help="A quality for the table of smallest files; may be given again.",
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            "--published", metavar="FILE", rich_help_panel=_COMPARING, help="A JSON file of published curves to show beside."
        ),
    ] = None,
    published_curve: Annotated[
        list[str] | None,
        typer.Option(
            "--published-curve", metavar="NAME", rich_help_panel=_COMPARING, help="Only this one of them; may be given again."
        ),
    ] = None,
    gallery: Annotated[
        bool,
        typer.Option(
            "--gallery",
            rich_help_panel=_REPORT,
            help="Also write sheets of the original and each setting side by side.",
        ),
    ] = False,
    viewer: Annotated[
        str,
        typer.Option(
            "--viewer",
            metavar="BPP,...",
            rich_help_panel=_REPORT,
            help="Bits per pixel at which the report's viewer shows pictures; '' for none.",
        ),
    ] = "0.5",
    viewer_mb: Annotated[
        float,
        typer.Option(
            "--viewer-mb",
            metavar="MB",
            rich_help_panel=_REPORT,
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


@app.command(cls=_Command, epilog=_EPILOG)
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


def _target(quality: float | None, given: dict[str, Any]) -> Target | None:
    """The one target that is given. Wrong usage where it is not one, or beside a quality."""
    names = ["--quality"] * (quality is not None) + [f"--target-{name}" for name in given]
    if len(names) > 1:
        raise typer.BadParameter(f"give one of them, not {' and '.join(names)}", param_hint=f"'{names[-1]}'")
    try:
        return Target(**given) if given else None
    except ImageError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{names[0]}'") from error


def _extra(name: Literal["train", "bench"]) -> Any:
    """The side of the program that needs an extra. Raises FewbitsError where it is not installed."""
    try:
        return importlib.import_module({"train": "fewbits.training.command", "bench": "fewbits.bench.command"}[name])
    except ImportError as error:
        what = {"train": "training", "bench": "measuring"}[name]
        raise FewbitsError(f"{what} needs {error.name}: install the extra, pip install '.[{name}]' in a clone") from error


def main() -> None:
    """Entry point of the `fewbits` command."""
    try:
        app(standalone_mode=True)
    except FewbitsError as error:
        if _state["debug"]:
            raise
        _complain(str(error))
    except (MemoryError, OSError) as error:
        if _state["debug"]:
            raise
        files.discard_stdout()
        _complain(str(error) or type(error).__name__)


def _complain(message: str) -> NoReturn:
    """One line on stderr, whatever is in it (a file's name may hold line breaks); exit 1."""
    line = message.replace("\n", "\\n").replace("\r", "\\r")
    sys.stderr.write(f"fewbits: {line}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()

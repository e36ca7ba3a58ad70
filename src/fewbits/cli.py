# SPDX-License-Identifier: MIT
"""The command line: its commands and options. Exit 0: done; 1: it failed, with one line on stderr; 2: wrong usage."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

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

app = typer.Typer(
    help="Makes pictures small with learned autoencoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite OUT where it exists.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of each process; where not given, all cores.")]
Jobs = Annotated[
    str | None,
    typer.Option(
        "-j", "--jobs", metavar="N|all", help="Processes for many files, which share the cores; where not given, one a core."
    ),
]
FromList = Annotated[
    str | None,
    typer.Option(
        "--from-list",
        metavar="FILE",
        help="A file with more paths, one a line or with NUL after each; - for stdin. OUT is needed.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON line for each file, and one with a summary.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="A model's name, or the folder of a bundle.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")] = False,
) -> None:
    _state["debug"] = debug
    if version:
        typer.echo(f"fewbits {__version__}")
        raise typer.Exit


_state = {"debug": False}


@app.command()
def encode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... [OUT]",
            help="A picture in any format that Pillow reads, or - for stdin, and the .few file, or - for stdout; where not "
            "given, IN with .few. Or folders, quoted patterns and pictures, then the folder for the .few files.",
        ),
    ],
    quality: Annotated[
        float | None,
        typer.Option(
            "-q",
            "--quality",
            help=f"0 to 100, continuous; higher is better and larger. Default: {DEFAULT_QUALITY:g}.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option("--target-size", metavar="BYTES", help="The best file of at most so many bytes, such as 200kB or 1.5MiB."),
    ] = None,
    target_bpp: Annotated[float | None, typer.Option("--target-bpp", metavar="BITS", help="The same, in bits per pixel.")] = None,
    target_psnr: Annotated[
        float | None, typer.Option("--target-psnr", metavar="DB", help="The smallest file with this PSNR (RGB), such as 38.")
    ] = None,
    target_ssim: Annotated[
        float | None,
        typer.Option("--target-ssim", metavar="N", help="The smallest file with this SSIM (not MS-SSIM), such as 0.98."),
    ] = None,
    target_ssimulacra2: Annotated[
        float | None,
        typer.Option(
            "--target-ssimulacra2",
            metavar="N",
            help="The smallest file with this SSIMULACRA2, such as 70. Needs extra `bench`.",
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option("--tune", help="visual (the default): for structure as people see it; psnr: for squared error."),
    ] = None,
    roi: Annotated[
        Path | None,
        typer.Option(
            "--roi", metavar="MASK", help="A picture of IN's size, white where detail is wanted; for models with a map."
        ),
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave out the colour profile (colours are converted to sRGB), EXIF and XMP.")
    ] = False,
    lossless: Annotated[bool, typer.Option("--lossless", help="There is no such mode; says what to use.")] = False,
    model: ModelOption = None,
    force: Force = False,
    threads: Threads = None,
    jobs: Jobs = None,
    from_list: FromList = None,
    as_json: AsJson = False,
) -> None:
    """Make a .few file of a picture, or of every picture in folders. Transparency and metadata are kept.

    Of many, an OUT that is newer than its IN is up to date, whatever its options, and is left out; -f does all again. A file
    that fails does not stop the others; it is listed at the end, and the exit code is 1.
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


@app.command()
def decode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... [OUT]",
            help="A .few file, or - for stdin, and the picture, in the format of its extension, or - for stdout; where not "
            "given, IN with .png. Or folders, quoted patterns and files, then the folder for the pictures.",
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="EXT", help="The format of pictures where OUT does not say it, such as jpg.")
    ] = "png",
    depth: Annotated[int, typer.Option("--depth", help="Bits a sample of pictures, 8 or 16.")] = 8,
    region: Annotated[
        str | None,
        typer.Option(
            "--region", metavar="X,Y,W,H", help="Only this part: left, top, width, height in pixels of the upright picture."
        ),
    ] = None,
    scale: Annotated[
        str | None, typer.Option("--scale", metavar="1/N", help="Smaller: 1/2, 1/4 or 1/8 of the size; of --region where given.")
    ] = None,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Decode what is there of a file that was cut off; the rest is flat.")
    ] = False,
    size_limit: Annotated[
        int,
        typer.Option(
            "--size-limit",
            metavar="N[MP]",
            parser=_pixels,
            show_default=False,
            help="Refuse a picture of more pixels, such as 40MP. Default: all that the format has, 2^28 or 268MP.",
        ),
    ] = MAX_PIXELS,
    dimension_limit: Annotated[
        int, typer.Option("--dimension-limit", metavar="PIXELS", min=1, help="Refuse a picture that is wider or higher.")
    ] = MAX_SIDE,
    model: ModelOption = None,
    force: Force = False,
    threads: Threads = None,
    jobs: Jobs = None,
    from_list: FromList = None,
    as_json: AsJson = False,
) -> None:
    """Turn a .few file back into a picture, or every one in folders, as `fewbits encode` does."""
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


@app.command()
def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .few file, or - for stdin.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a .few file says of itself. Reads the header only, loads no network."""
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


@app.command()
def models() -> None:
    """List the installed models."""
    for path, manifest in installed_models().items():
        card = manifest["card"]
        name, steps = Path(path).name, card.get("steps", "?")
        typer.echo(f"{name:12} {manifest_id(manifest).hex()}  family {manifest['family']}, {steps} steps, {path}")


class _TrainCommand(typer.core.TyperCommand):
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


@app.command(cls=_TrainCommand)
def train(
    family: Annotated[
        str, typer.Argument(metavar="FAMILY", help="The family of models: few (the flagship), or another of docs/families.md.")
    ],
    data: Annotated[list[Path], typer.Option("--data", help="A folder of pictures, or a tar of them; may be given again.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; a run that is there goes on.")],
    minutes: Annotated[float | None, typer.Option("--minutes", help="Train for so long, in this call.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Or for so many steps.")] = None,
    anneal: Annotated[
        float | None,
        typer.Option(
            "--anneal",
            metavar="MINUTES",
            help="Take a copy of the run's trunk to learning rate zero in so many minutes, ready to export.",
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="BUNDLE", help="Begin a new run from a bundle's weights.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="PATTERN",
            help="Leave out training pictures whose file name matches, such as 'imagenet__*'; may be given again.",
        ),
    ] = None,
    validation: Annotated[list[Path] | None, typer.Option("--validation", help="Pictures for the validation curve.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a setting of the training or of the family; may be given again. --NAME VALUE is the same.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a model, or go on training it. Needs the extra `train`.

    `fewbits train FAMILY --help` lists that family's settings with their defaults. Each is an option too, such as
    --loss ms-ssim=1 (mse, l1, ssim, ms-ssim, chroma, vgg), --penalty sparse=1e-4 (sparse, contractive) or --lr 1e-3.
    """
    _extra("train").run_train(
        family, data, out, minutes=minutes, steps=steps, anneal=anneal, init=init,
        exclude=exclude or [], validation=validation or [], settings=settings or [], device=device,
    )  # fmt: skip


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A training run's folder.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder to write; a bundle that is there is replaced.")],
    card: Annotated[Path | None, typer.Option("--card", help="A JSON file with more entries for the model card.")] = None,
    measure: Annotated[
        list[Path] | None, typer.Option("--measure", help="Pictures to measure the model card's curve on.")
    ] = None,
) -> None:
    """Turn a training run into a bundle that encodes and decodes without torch. Needs the extra `train`."""
    _extra("train").run_export(run, bundle, card, measure or [])


@app.command()
def bench(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Folders of pictures, searched recursively, or pictures.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The report's folder; a measurement that is there goes on.")],
    codecs: Annotated[
        list[str] | None,
        typer.Option(
            "--codecs",
            metavar="NAME,...",
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
            help="Any codec by two commands: 'name: enc {in} {out} -q {q} ;; dec {in} {out}'. Pictures are PNG files; {in.ppm} "
            "asks for another format. May be given again.",
        ),
    ] = None,
    qualities: Annotated[
        list[str] | None,
        typer.Option(
            "--qualities", metavar="CODEC=N,N,...", help="A codec's settings instead of seven usual ones; may be given again."
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="NAME,...",
            help="mse, psnr, psnr_y, ssim, ms_ssim, ssimulacra2, lpips (needs torch and weights). "
            "Default: psnr,psnr_y,ms_ssim,ssimulacra2.",
        ),
    ] = None,
    published: Annotated[Path | None, typer.Option("--published", help="A JSON file of published curves to show beside.")] = None,
    published_curve: Annotated[
        list[str] | None, typer.Option("--published-curve", metavar="NAME", help="Only this one of them; may be given again.")
    ] = None,
    anchor: Annotated[
        str | None, typer.Option("--anchor", help="The codec that tables compare with; jpeg where it is measured.")
    ] = None,
    speed_reference: Annotated[
        str | None, typer.Option("--speed-reference", help="The codec whose speed is 1; avif where it is measured.")
    ] = None,
    bpp_range: Annotated[
        str | None, typer.Option("--range", metavar="LOW:HIGH", help="Compare at these bits per pixel only, such as 0.12:1.6.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="METRIC=QUALITY", help="A quality for the table of smallest files; may be given again."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, help="Processes for bytes and metrics; all cores where not given.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of each codec while it is timed; all cores where not given.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Take only the first N pictures.")] = None,
    timing: Annotated[bool, typer.Option(help="Measure seconds and peak memory too, one row at a time.")] = True,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", help="End a --command that takes longer.")
    ] = 3600.0,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Also write sheets of the original and each setting side by side.")
    ] = False,
    viewer: Annotated[
        str,
        typer.Option(
            "--viewer", metavar="BPP,...", help="Bits per pixel at which the report's viewer shows pictures; '' for none."
        ),
    ] = "0.5",
    viewer_mb: Annotated[
        float, typer.Option("--viewer-mb", help="The report shows pictures until they are so many megabytes.")
    ] = 60.0,
) -> None:
    """Measure any codecs on any pictures, and write a table, plots and a report. Needs the extra `bench`.

    Exit 1 where a row failed; the table says why, and the rest is measured.
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


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The original; any picture, or a .few file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other, of the same size.")],
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", metavar="NAME,...", help="Only these; see `fewbits bench`.")
    ] = None,
) -> None:
    """Print how near a picture is to another by every metric. Needs the extra `bench`."""
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

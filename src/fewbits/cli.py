# SPDX-License-Identifier: MIT
"""The command line: its commands and options. Exit 0: done; 1: it failed, with one line on stderr; 2: wrong usage."""

import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from fewbits import __version__, files, info_cli, research_cli
from fewbits.cli_help import CONTENT, FILES, LIMITS, MACHINE, PICTURE, RATE, Group, argument, option
from fewbits.container import DEPTH_IDS, MAX_PIXELS, MAX_SIDE, Limits
from fewbits.errors import FewbitsError, ImageError
from fewbits.installed import (
    DEFAULT_EFFORT,
    DEFAULT_QUALITY,
    DEFAULT_ROI_DROP,
    PRECISION_CHOICES,
    ROUNDS,
    TUNINGS,
    tuned_model,
)
from fewbits.target import Target

if TYPE_CHECKING:  # what loads numpy and Pillow is imported by the commands that code: `fewbits info` needs none of it
    from fewbits.codec import Region

SOURCE: Final = "source"  # of --depth: the depth that the encoded picture had
force_option = option(
    "-f", "--force", is_flag=True, panel=FILES, help="Overwrite OUT where it exists, and do again what is up to date."
)
update_option = option(
    "-u",
    "--update",
    is_flag=True,
    panel=FILES,
    help="Of many files, make again what was made of another state of its IN. Of what is there, this overwrites .few files only, "
    "and pictures that are older than their .few file and in another folder.",
)
threads_option = option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    panel=MACHINE,
    help="Threads of each process. Default: as many as there are cores, shared among the processes.",
)
jobs_option = option(
    "-j", "--jobs", metavar="N|all", panel=FILES, help="Processes, for many files. Default: all, which is one a core."
)
list_option = option(
    "--from-list",
    metavar="FILE",
    panel=FILES,
    help="Take further paths from FILE, or from stdin where it is -: one a line, or each ended by NUL. OUT must be given.",
)
json_option = option(
    "--json", "as_json", is_flag=True, panel=FILES, help="Print a JSON line for each file, and one with a summary."
)
model_option = option(
    "--model", metavar="MODEL", panel=MACHINE, help="A model's name (fewbits models lists them), or a bundle's folder."
)
precision_option = option(
    "--precision",
    metavar="|".join(PRECISION_CHOICES),
    panel=MACHINE,
    help="Of the networks. int8, where the model has it, decodes faster; pixels differ a little. auto: int8 where the "
    "processor is fast at it. Default: $FEWBITS_PRECISION, else auto.",
)
engine_option = option(
    "--engine",
    metavar="ENGINE",
    panel=MACHINE,
    help="What runs the networks: see fewbits models --engines. Default: $FEWBITS_ENGINE, else onnxruntime.",
)
profile_option = option("--profile", is_flag=True, panel=MACHINE, help="Of one picture, tell on stderr where the time went.")


def _say_version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"fewbits {__version__}")
        ctx.exit()


@click.group(
    cls=Group,
    epilog="fewbits COMMAND --help tells more of one. Examples of everything: docs/cli.md, beside the source.",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help="Print the version, and exit.")
@option("--debug", is_flag=True, help="Show a traceback where something fails. Goes before COMMAND.")
def app(debug: bool) -> None:
    """Makes pictures small, and pictures again, with learned autoencoders."""
    _state["debug"] = debug


_state = {"debug": False}


@app.command()
@argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="IN... [OUT]",
    help="One picture in any format that Pillow reads, or - for stdin; then OUT is the .few file, or - for stdout, and IN "
    "with .few where it is not given. Or folders, quoted patterns and pictures; then OUT is a folder for .few files.",
)
@option(
    "-q",
    "--quality",
    type=float,
    metavar="N",
    panel=RATE,
    help=f"0 to 100, continuous; higher is better and larger. Default: {DEFAULT_QUALITY:g}.",
)
@option(
    "--target-size",
    metavar="BYTES",
    panel=RATE,
    help="In place of a quality: the best file of at most so many bytes, such as 200kB or 1.5MiB.",
)
@option("--target-bpp", type=float, metavar="BITS", panel=RATE, help="The same, in bits per pixel.")
@option(
    "--target-psnr",
    type=float,
    metavar="DB",
    panel=RATE,
    help="In place of a quality: the smallest file that reaches this PSNR (RGB), such as 38.",
)
@option("--target-ssim", type=float, metavar="N", panel=RATE, help="The same for SSIM (not MS-SSIM), such as 0.98.")
@option("--target-ssimulacra2", type=float, metavar="N", panel=RATE, help="The same for SSIMULACRA2, such as 70.")
@option(
    "--tune",
    metavar="|".join(TUNINGS),
    panel=RATE,
    help="What the bytes are spent on: structure as people see it (visual, the default), or squared error (psnr).",
)
@option(
    "-e",
    "--effort",
    type=click.IntRange(0, len(ROUNDS) - 1),
    default=DEFAULT_EFFORT,
    metavar="N",
    panel=RATE,
    help=f"0 to {len(ROUNDS) - 1}: fewer bytes for the same quality, for far more time.",
)
@option(
    "--roi",
    metavar="MASK",
    panel=CONTENT,
    help="A picture of IN's size: white parts get the quality, black ones less, greys something between. For one IN.",
)
@option(
    "--roi-drop",
    type=float,
    metavar="N",
    panel=CONTENT,
    help=f"By how much the quality of black parts is lower, 0 to 100. Default: {DEFAULT_ROI_DROP:g}.",
)
@option(
    "--strip",
    is_flag=True,
    panel=CONTENT,
    help="Leave out EXIF, XMP and the colour profile; the colours are converted to sRGB first.",
)
@option("--lossless", is_flag=True, panel=CONTENT, help="There is no such mode: fails, and says what to use.")
@model_option
@threads_option
@engine_option
@profile_option
@force_option
@update_option
@jobs_option
@list_option
@json_option
def encode(
    paths: tuple[str, ...],
    quality: float | None,
    target_size: str | None,
    target_bpp: float | None,
    target_psnr: float | None,
    target_ssim: float | None,
    target_ssimulacra2: float | None,
    tune: str | None,
    effort: int,
    roi: str | None,
    roi_drop: float | None,
    strip: bool,
    lossless: bool,
    model: str | None,
    threads: int | None,
    engine: str | None,
    profile: bool,
    force: bool,
    update: bool,
    jobs: str | None,
    from_list: str | None,
    as_json: bool,
) -> None:
    """Make .few files of pictures: of one, or of whole folders.

    Transparency, EXIF, XMP and the colour profile are kept.

    OUT gets IN's time of last change. Of many files, an OUT of that time is up to date, whatever options made it, and is skipped;
    one of another time fails, but with -u or -f. A file that fails does not stop the others: it is listed at the end, and the
    exit code is 1.
    """
    from fewbits.conversion import Encoding
    from fewbits.convert_command import convert_paths, jobs_of
    from fewbits.picturefile import read_image

    if lossless:
        raise click.BadParameter("a .few file is never exact: use PNG, lossless WebP or JPEG XL", param_hint="'--lossless'")
    aims = {
        "size": target_size, "bpp": target_bpp, "psnr": target_psnr, "ssim": target_ssim, "ssimulacra2": target_ssimulacra2,
    }  # fmt: skip
    goal = _target(quality, {name: value for name, value in aims.items() if value is not None})
    if quality is not None and not 0 <= quality <= 100:
        raise click.BadParameter(f"{quality} is not in the range 0 to 100", param_hint="'-q' / '--quality'")
    if tune is not None and model is not None:
        raise click.BadParameter("it chooses among the flagship's models: leave --model out", param_hint="'--tune'")
    if tune is not None and tune not in TUNINGS:
        raise click.BadParameter(f"{tune!r} is not one of {', '.join(TUNINGS)}", param_hint="'--tune'")
    if roi_drop is not None and roi is None:
        raise click.BadParameter("it says what black parts of a mask get: give --roi, too", param_hint="'--roi-drop'")
    if roi_drop is not None and not 0 <= roi_drop <= 100:
        raise click.BadParameter(f"{roi_drop} is not in the range 0 to 100", param_hint="'--roi-drop'")
    mask = read_image(files.read(roi), roi) if roi else None
    convert = Encoding(quality, model or tuned_model(tune), threads, mask, strip, goal, roi_drop, engine, effort)
    convert_paths(paths, from_list, convert, jobs=jobs_of(jobs), force=force, update=update, as_json=as_json, profile=profile)


def _pixels(text: str | int) -> int:
    """ "268MP" or "268435456" -> a number of pixels. Raises BadParameter. (click passes defaults through it, too.)"""
    number = str(text).upper()
    try:
        pixels = round(float(number.removesuffix("MP")) * (1_000_000 if number.endswith("MP") else 1))
    except (ValueError, OverflowError):
        pixels = 0
    if pixels < 1:
        raise click.BadParameter(f"{text!r} is no number of pixels such as 40MP or 40000000")
    return pixels


size_limit_option = option(
    "--size-limit",
    type=_pixels,
    default=MAX_PIXELS,
    show_default=False,
    metavar="N[MP]",
    panel=LIMITS,
    help="Refuse a picture of more pixels, such as 40MP. Default: all that the format has, 2^28 or 268MP.",
)
dimension_limit_option = option(
    "--dimension-limit",
    type=click.IntRange(min=1),
    default=MAX_SIDE,
    metavar="PIXELS",
    panel=LIMITS,
    help="Refuse a picture that is wider or higher.",
)


@app.command()
@argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="IN... [OUT]",
    help="One .few file, or - for stdin; then OUT is the picture, in the format of its extension, or - for stdout, and IN "
    "with .png where it is not given. Or folders, quoted patterns and files; then OUT is a folder for pictures.",
)
@option(
    "--to",
    default="png",
    metavar="EXT",
    panel=PICTURE,
    help="The pictures' format where OUT does not say it, such as jpg; any that Pillow writes.",
)
@option(
    "-q",
    "--quality",
    type=click.IntRange(0, 100),
    show_default=False,
    metavar="N",
    panel=PICTURE,
    help="Of JPEG, WebP and AVIF files, 0 to 100, in that format's own measure. Default: 95.",
)
@option(
    "--background",
    metavar="COLOUR",
    panel=PICTURE,
    help="Lay transparent pictures onto this colour, such as white or '#ff8000', for formats without transparency.",
)
@option(
    "--depth",
    default="8",
    metavar=f"8|16|{SOURCE}",
    panel=PICTURE,
    help="Bits a sample of the picture. source: 16 where the encoded picture had as many and the format holds them, else 8.",
)
@option(
    "--region",
    metavar="X,Y,W,H",
    panel=PICTURE,
    help="Only this part: left, top, width and height in pixels of the whole picture.",
)
@option("--scale", metavar="1/N", panel=PICTURE, help="Smaller: 1/2, 1/4 or 1/8 of the size, of --region's where that is given.")
@option(
    "--allow-truncated",
    is_flag=True,
    panel=PICTURE,
    help="Of a file that was cut off, decode what is there: a coarser picture, or flat where nothing is.",
)
@size_limit_option
@dimension_limit_option
@model_option
@threads_option
@precision_option
@engine_option
@profile_option
@force_option
@update_option
@jobs_option
@list_option
@json_option
def decode(
    paths: tuple[str, ...],
    to: str,
    quality: int | None,
    background: str | None,
    depth: str,
    region: str | None,
    scale: str | None,
    allow_truncated: bool,
    size_limit: int,
    dimension_limit: int,
    model: str | None,
    threads: int | None,
    precision: str | None,
    engine: str | None,
    profile: bool,
    force: bool,
    update: bool,
    jobs: str | None,
    from_list: str | None,
    as_json: bool,
) -> None:
    """Make pictures of .few files: of one, or of whole folders.

    A file names its model, which is found among the installed ones; --model takes another. Of many files, what is up to date
    is skipped, and failures are listed at the end, as `fewbits encode` does.
    """
    from fewbits.conversion import Decoding
    from fewbits.convert_command import convert_paths, jobs_of
    from fewbits.picturefile import can_write

    if depth not in (*map(str, DEPTH_IDS), SOURCE):
        raise click.BadParameter(f"{depth} is not 8, 16 or {SOURCE}", param_hint="'--depth'")
    extension = f".{to.removeprefix('.')}"
    if not can_write(extension):
        raise click.BadParameter(f"Pillow writes no pictures with the extension {extension}", param_hint="'--to'")
    limits = Limits(size_limit, dimension_limit)
    convert = Decoding(
        extension,
        model,
        threads,
        None if depth == SOURCE else int(depth),
        _numbers(region),
        _divisor(scale),
        allow_truncated,
        limits,
        _precision(precision),
        engine,
        quality,
        _colour(background),
    )
    convert_paths(paths, from_list, convert, jobs=jobs_of(jobs), force=force, update=update, as_json=as_json, profile=profile)


def _colour(text: str | None) -> tuple[int, int, int] | None:
    """By its name or in hexadecimal digits -> red, green and blue of 8 bits."""
    from PIL import ImageColor

    if text is None:
        return None
    try:
        red, green, blue, alpha = (*ImageColor.getrgb(text), 255)[:4]
    except ValueError:
        alpha = 0
    if alpha != 255:
        raise click.BadParameter(f"{text!r} is no opaque colour such as white or #ff8000", param_hint="'--background'")
    return red, green, blue


def _precision(text: str | None) -> str | None:
    if text is not None and text not in PRECISION_CHOICES:
        raise click.BadParameter(f"{text!r} is not one of {', '.join(PRECISION_CHOICES)}", param_hint="'--precision'")
    return text


def _numbers(region: str | None) -> "Region | None":
    """X,Y,W,H as numbers; whether they lie in the picture is for the decoder to say."""
    if region is None:
        return None
    try:
        x, y, width, height = map(int, region.split(","))
    except ValueError:
        raise click.BadParameter(f"{region!r} is not X,Y,W,H, four whole numbers", param_hint="'--region'") from None
    return x, y, width, height


def _divisor(scale: str | None) -> int:
    from fewbits.view import SCALES

    names = {f"1/{n}": n for n in SCALES}
    if scale is not None and scale not in names:
        raise click.BadParameter(f"{scale!r} is not one of {', '.join(names)}", param_hint="'--scale'")
    return names[scale] if scale else 1


@app.command()
@argument(
    "paths",
    nargs=-1,
    required=False,
    metavar="PATH...",
    help="Folders, quoted patterns and .few files, or one .few file, or - for stdin.",
)
@size_limit_option
@dimension_limit_option
@model_option
@threads_option
@engine_option
@jobs_option
@option(
    "--from-list",
    metavar="FILE",
    panel=FILES,
    help="Take further paths from FILE, or from stdin where it is -: one a line, or each ended by NUL.",
)
@json_option
def verify(
    paths: tuple[str, ...],
    size_limit: int,
    dimension_limit: int,
    model: str | None,
    threads: int | None,
    engine: str | None,
    jobs: str | None,
    from_list: str | None,
    as_json: bool,
) -> None:
    """Check .few files: a line for each that is damaged.

    Decodes all but the pixels, and compares every checksum that a file has: of its header, of its symbols, of transparency and
    metadata; and its length. Writes nothing. Exit code 1 where a file is damaged or cannot be checked, such as without its model.
    """
    from fewbits.conversion import Verifying
    from fewbits.convert_command import jobs_of, verify_paths

    convert = Verifying(model, threads, Limits(size_limit, dimension_limit), engine)
    verify_paths(paths, from_list, convert, jobs=jobs_of(jobs), as_json=as_json)


def _target(quality: float | None, given: dict[str, Any]) -> Target | None:
    """The one target that is given. Wrong usage where it is not one, or beside a quality."""
    names = ["--quality"] * (quality is not None) + [f"--target-{name}" for name in given]
    if len(names) > 1:
        raise click.BadParameter(f"give one of them, not {' and '.join(names)}", param_hint=f"'{names[-1]}'")
    try:
        return Target(**given) if given else None
    except ImageError as error:
        raise click.BadParameter(str(error), param_hint=f"'{names[0]}'") from error


_RESEARCH = (research_cli.train, research_cli.export, research_cli.prune, research_cli.bench, research_cli.compare)
for other_command in (info_cli.info, info_cli.models, *_RESEARCH):
    app.add_command(other_command)


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
    sys.stderr.write(f"fewbits: {files.one_line(message)}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()

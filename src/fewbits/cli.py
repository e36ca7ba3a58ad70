# SPDX-License-Identifier: MIT
"""The command line: read, call, write. Exit 0: done; 1: it failed, with one line on stderr; 2: wrong usage."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fewbits import __version__, files
from fewbits.codec import DEFAULT_MODEL, DEFAULT_QUALITY, inspect, installed_models, load_model, model_of
from fewbits.container import MAX_SECTIONS
from fewbits.errors import FewbitsError, FormatError, ImageError, TrainingError
from fewbits.image import read_image, write_image
from fewbits.runtime.bundle import manifest_id

app = typer.Typer(
    help="Makes pictures small with learned autoencoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_HEADER_BYTES = 64 + 5 * MAX_SECTIONS  # no header is longer

Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite OUT where it exists.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all cores where not given.")]
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
    source: Annotated[str, typer.Argument(metavar="IN", help="A picture in any format that Pillow reads, or - for stdin.")],
    target: Annotated[
        str | None, typer.Argument(metavar="OUT", help="The .few file, or - for stdout; where not given, IN with .few.")
    ] = None,
    quality: Annotated[
        float, typer.Option("-q", "--quality", help="0 to 100, continuous; higher is better and larger.")
    ] = DEFAULT_QUALITY,
    model: ModelOption = None,
    force: Force = False,
    threads: Threads = None,
) -> None:
    """Make a .few file of a picture."""
    if not 0 <= quality <= 100:
        raise typer.BadParameter(f"{quality} is not in the range 0 to 100", param_hint="'-q' / '--quality'")
    out = files.output_name(source, target, ".few", force)
    picture = read_image(files.read(source), source)
    with _about(source), _progress("encoding") as show:
        data = load_model(model or DEFAULT_MODEL, threads=threads).encode(picture, quality, progress=show)
    files.write(out, data, force)


@app.command()
def decode(
    source: Annotated[str, typer.Argument(metavar="IN", help="A .few file, or - for stdin.")],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="OUT",
            help="The picture, in the format of its extension, or - for PNG on stdout; where not given, IN with .png.",
        ),
    ] = None,
    model: ModelOption = None,
    force: Force = False,
    threads: Threads = None,
) -> None:
    """Turn a .few file back into a picture."""
    out = files.output_name(source, target, ".png", force)
    data = files.read(source)
    with _about(source), _progress("decoding") as show:
        header = inspect(data)
        chosen = load_model(model, threads=threads) if model else model_of(header, threads=threads)
        picture = chosen.decode(data, progress=show)
    files.write(out, write_image(picture, "stdout.png" if out == files.STREAM else out), force)


@app.command()
def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .few file, or - for stdin.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a .few file says of itself. Reads the header only, loads no network."""
    with _about(file):
        header = inspect(files.read(file, _HEADER_BYTES))
    names = {manifest_id(manifest): Path(path).name for path, manifest in installed_models().items()}
    values = asdict(header) | {
        "model_id": header.model_id.hex(),
        "model": names.get(header.model_id, "not installed"),
        "quality": header.quality,
        "bytes": header.file_bytes,
        "header_bytes": header.header_bytes,
        "bpp": round(8 * header.file_bytes / (header.width * header.height), 4),
    }
    del values["quality_steps"]
    if as_json:
        typer.echo(json.dumps(values))
        return
    typer.echo(f"{header.width} x {header.height} pixels, {header.colour}, quality {header.quality:g}")
    typer.echo(f"{values['bytes']} bytes, {values['bpp']} bits per pixel, {len(header.sections)} sections")
    typer.echo(f"model {values['model']} ({values['model_id']}), family {header.family}")


@app.command()
def models() -> None:
    """List the installed models."""
    for path, manifest in installed_models().items():
        card = manifest["card"]
        name, steps = Path(path).name, card.get("steps", "?")
        typer.echo(f"{name:12} {manifest_id(manifest).hex()}  family {manifest['family']}, {steps} steps, {path}")


@app.command()
def train(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="The family of models; `few` is the flagship.")],
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
            "--set", metavar="NAME=VALUE", help="Change a setting of the training or of the family; may be given again."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a model, or go on training it. Needs the extra `train`."""
    _training_side().run_train(
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
    _training_side().run_export(run, bundle, card, measure or [])


def _training_side() -> Any:
    try:
        from fewbits.training import command
    except ImportError as error:
        raise TrainingError(f"training needs {error.name}: install the extra, pip install '.[train]' in a clone") from error
    return command


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Messages about a file's content begin with its name."""
    try:
        yield
    except (FormatError, ImageError) as error:
        text = str(error).removeprefix("image: ")
        raise FewbitsError(text if text.startswith(f"{name}: ") else f"{name}: {text}") from error


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[float], None]]:
    """A line on stderr that counts up, from the first second on, where stderr is a terminal."""
    begun, shown = time.monotonic(), False

    def show(fraction: float) -> None:
        nonlocal shown
        if sys.stderr.isatty() and time.monotonic() - begun > 1:
            shown = True
            sys.stderr.write(f"\r{what}: {100 * fraction:3.0f} %")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\r" + " " * (len(what) + 8) + "\r")


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

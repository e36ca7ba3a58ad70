# SPDX-License-Identifier: MIT
"""The commands that only tell: of files and of models. `fewbits info` loads neither numpy nor Pillow."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fewbits import files
from fewbits.cli_help import argument, command, option
from fewbits.container import MAX_HEADER_BYTES, parse_header
from fewbits.errors import FewbitsError, about
from fewbits.installed import installed_models, latent_width
from fewbits.runtime.manifest import manifest_id


@command()
@argument("names", nargs=-1, required=True, metavar="FILE...", help=".few files, or - for stdin.")
@option("--json", "as_json", is_flag=True, help="Print a JSON object for each file, in a line.")
def info(names: tuple[str, ...], as_json: bool) -> None:
    """Print what .few files say of themselves.

    Size, colour, depth, quality, model, what the bytes are spent on, and whether as many are there. Reads headers only, loads no
    network.
    """
    installed = {manifest_id(manifest): (Path(path).name, manifest) for path, manifest in installed_models().items()}
    n_failed = 0
    for name in names:
        try:
            values = _values_of(name, installed)
        except FewbitsError as error:
            if len(names) == 1:
                raise
            n_failed += 1
            sys.stderr.write(f"{files.one_line(str(error))}\n")
            continue
        if as_json:
            click.echo(json.dumps(values))
            continue
        if len(names) > 1:
            click.echo(f"{files.one_line(name)}:")
        _print_values(values)
    if n_failed:
        raise FewbitsError(f"{n_failed} of {len(names)} files failed")


def _values_of(name: str, installed: dict[bytes, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What there is to tell of a .few file, by its header and its size. installed: models by their id. Raises FewbitsError."""
    with about(name):
        header = parse_header(files.read(name, MAX_HEADER_BYTES))
        n_there = files.size_of(name)
    model, manifest = installed.get(header.model_id, ("not installed", {}))
    width = latent_width(manifest, header)
    values = (
        {"file": name}
        | asdict(header)
        | {
            "model_id": header.model_id.hex(),
            "model": model,
            "quality": header.quality,
            "bytes": header.file_bytes,
            "bytes_there": n_there,
            "header_bytes": header.header_bytes,
            "parts": header.parts,
            "region_of_interest": header.has_places,
            "bpp": round(8 * header.file_bytes / (header.width * header.height), 4),
        }
        | ({"channels": width} if width else {})
    )
    del values["quality_steps"]
    return values


def _print_values(values: dict[str, Any]) -> None:
    samples = f"{values['colour']}{' with alpha' if 'alpha' in values['parts'] else ''}, {values['depth']} bits"
    less = " in a region of interest, less elsewhere" if values["region_of_interest"] else ""
    click.echo(f"{values['width']} x {values['height']} pixels, {samples}, quality {values['quality']:g}{less}")
    sizes = ", ".join(f"{name} {size}" for name, size in ({"header": values["header_bytes"]} | values["parts"]).items())
    click.echo(f"{values['bytes']} bytes ({sizes}), {values['bpp']} bits per pixel")
    if values["bytes_there"] not in (None, values["bytes"]):
        what = "the file was cut off" if values["bytes_there"] < values["bytes"] else "there should be no more"
        click.echo(f"{values['bytes_there']} of {values['bytes']} bytes are there: {what}")
    at_width = f", width {values['channels']}" if "channels" in values else ""
    click.echo(f"model {values['model']} ({values['model_id']}), family {values['family']}{at_width}")


@command()
@option("--engines", is_flag=True, help="List what can run them on this machine, and what is chosen, in their place.")
def models(engines: bool) -> None:
    """List the installed models.

    For each a line: its name, its id, its family, how many steps it was trained, its folder. They are the shipped ones, and
    those in the folders of $FEWBITS_MODELS.
    """
    if engines:
        _list_engines()
        return
    for path, manifest in installed_models().items():
        card = manifest["card"]
        name, steps = Path(path).name, card.get("steps", "?")
        click.echo(f"{name:12} {manifest_id(manifest).hex()}  family {manifest['family']}, {steps} steps, {path}")


def _list_engines() -> None:
    from fewbits.codec import chosen_engine, chosen_precision, precision_here
    from fewbits.runtime.engines import ENGINES, engine_state

    chosen = chosen_engine()
    for name in ENGINES:
        click.echo(f"{'*' if name == chosen else ' '} {name:14} {engine_state(name)}")
    if chosen not in ENGINES:
        raise FewbitsError(f"$FEWBITS_ENGINE is {chosen!r}, it must be one of {', '.join(ENGINES)}")
    precision = chosen_precision()
    for path, manifest in installed_models().items():
        click.echo(f"{Path(path).name}: decodes in {precision_here(manifest, chosen, precision)} (asked for: {precision})")

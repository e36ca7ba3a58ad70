# SPDX-License-Identifier: MIT
"""What the commands are made of: options and arguments, and how `--help` shows them, by purpose, under these headings."""

from functools import partial
from pathlib import Path
from typing import Any, Final

import click

EPILOG: Final = "Examples, and what is promised: docs/cli.md, beside the source."
PATH: Final = click.Path(path_type=Path)

# The headings of --help.
OPTIONS: Final = "Options"
RATE: Final = "Size and quality"
CONTENT: Final = "Content"
PICTURE: Final = "The picture"
LIMITS: Final = "Limits, for files from strangers"
MACHINE: Final = "Model and processor"
FILES: Final = "Files"
RUN: Final = "The run"
DATA: Final = "Pictures"
TRAINING: Final = "Training"
CODECS: Final = "Codecs"
MEASURING: Final = "Measuring"
COMPARING: Final = "Comparing"
REPORT: Final = "The report"


class Option(click.Option):
    """panel: the heading under which it stands."""

    def __init__(self, *names: Any, panel: str = OPTIONS, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.panel = panel


class Argument(click.Argument):
    """help: what it is, which older releases of click take for options only."""

    def __init__(self, *names: Any, help: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.meaning = help


class Command(click.Command):
    """A command whose --help tells of its arguments, and lists its options by purpose."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **({"epilog": EPILOG} | settings))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, Argument):
                panels.setdefault("Arguments", []).append((str(parameter.metavar), parameter.meaning))
            elif record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "panel", OPTIONS), []).append(record)
        for heading, rows in panels.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class Group(click.Group):
    """Commands in the order in which they were made."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


option = partial(click.option, cls=Option)
argument = partial(click.argument, cls=Argument)
command = partial(click.command, cls=Command)

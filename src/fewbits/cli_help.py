# SPDX-License-Identifier: MIT
"""How `--help` looks: options by purpose, under these headings."""

from typing import Any, Final

import typer.core

EPILOG: Final = "Examples, and what is promised: docs/cli.md, beside the source."

# The headings of --help.
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


class Command(typer.core.TyperCommand):
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

# SPDX-License-Identifier: MIT
"""The second half of docs/cli.md, from what `fewbits COMMAND --help` says. `python tests/cli_reference.py` writes it there."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fewbits import cli

PAGE: Final = Path(__file__).parents[1] / "docs" / "cli.md"
MARKS: Final = ("<!-- options: written by tests/cli_reference.py -->\n", "<!-- end of options -->\n")
COMMANDS: Final[dict[str, Any]] = cli.app.commands


def options_of(command: Any) -> set[str]:
    """Every way to write every option of a command: {"-q", "--quality", ...}."""
    return {word for option in _of_kind("option", command) for word in (*option.opts, *option.secondary_opts)} | {"-h", "--help"}


def reference() -> str:
    """A heading for each command, then its help, and its options under the headings of --help."""
    return "\n".join("\n".join(_section(name, command)) for name, command in COMMANDS.items())


def _section(name: str, command: Any) -> Iterator[str]:
    arguments = _of_kind("argument", command)
    yield from (f"## fewbits {name}", "")
    yield from (f"`{' '.join(['fewbits', name, '[OPTIONS]', *(argument.metavar for argument in arguments)])}`", "")
    yield from (*inspect.cleandoc(command.help).split("\n"), "")
    if arguments:
        yield from (*(f"- `{argument.metavar}`: {argument.meaning}" for argument in arguments), "")
    panels: dict[str, list[Any]] = {}
    for option in _of_kind("option", command):
        panels.setdefault(option.panel, []).append(option)
    for number, (heading, options) in enumerate(panels.items()):
        yield from (["| | |", "|---|---|"] if not number else [])
        yield f"| **{heading}** | |"
        yield from map(_row, options)
    if panels:
        yield ""


def _row(option: Any) -> str:
    spelling = ", ".join([*option.opts, *option.secondary_opts]) + (f" {option.metavar}" if option.metavar else "")
    text = option.help + (" Required." if option.required else "")
    if (
        option.show_default is not False
        and isinstance(option.default, str | int | float)
        and not isinstance(option.default, bool)
    ):
        text += f" Default: {option.default}."
    return " | ".join(["", f"`{spelling}`".replace("|", r"\|"), text.replace("|", r"\|"), ""]).strip()


def _of_kind(kind: str, command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == kind]


def main() -> None:
    text = PAGE.read_text()
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    PAGE.write_text(f"{text[:begin]}{reference()}{text[end:]}")


if __name__ == "__main__":
    main()

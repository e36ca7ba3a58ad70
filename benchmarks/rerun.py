# SPDX-License-Identifier: MIT
"""Run again the commands whose output documents quote, and put what they print now in its place.

A quotation is a paragraph that ends with the command and a colon, and the output in a block of its own:

    How near it comes, `python benchmarks/targets.py ../shared/data/kodak --targets bpp=0.5`:

    ```
    what it printed
    ```

Commands run at the root of the repository with this Python; `NAME=VALUE` before `python` is in their environment. After each one
the document is written anew, so what has been measured is kept if a later one fails or is stopped. Text around quotations stays:
read it again, as it may speak of the numbers.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from fewbits.files import replacing

ROOT: Final = Path(__file__).parents[1]
QUOTATION: Final = re.compile(r"`((?:\w+=\S+ )*python benchmarks/[^`]+)`:\n\n```\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Quotation(NamedTuple):
    command: str
    printed: str


def quotations(text: str) -> list[Quotation]:
    return [Quotation(*found) for found in QUOTATION.findall(text)]


def replaced(text: str, old: Quotation, printed: str) -> str:
    """The document with other output of that command, which ends with a line break."""
    head = f"`{old.command}`:\n\n```\n"
    return text.replace(f"{head}{old.printed}```", f"{head}{printed}```")


def output(command: str) -> str:
    """What the command prints on stdout, without empty lines at its end. Raises SystemExit where it fails."""
    words = shlex.split(command)
    n_settings = words.index("python")
    settings = dict(word.split("=", 1) for word in words[:n_settings])
    done = subprocess.run(
        [sys.executable, *words[n_settings + 1 :]],
        cwd=ROOT,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"error: exit code {done.returncode} of: {command}")
    return done.stdout.rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="+", help="Markdown files")
    parser.add_argument("--only", metavar="TEXT", default="", help="only commands that contain this")
    parser.add_argument("--list", action="store_true", help="print the commands, and run none")
    options = parser.parse_args()
    for document in options.documents:
        chosen = [each for each in quotations(document.read_text()) if options.only in each.command]
        if not chosen:
            raise SystemExit(f"error: {document}: it quotes no output of a command of benchmarks/ with {options.only!r} in it")
        for each in chosen:
            print(each.command, flush=True)
            if not options.list:
                new = replaced(document.read_text(), each, output(each.command))
                with replacing(document) as file:
                    file.write(new.encode())


if __name__ == "__main__":
    main()

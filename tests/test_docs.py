# SPDX-License-Identifier: MIT
"""What the documents say: their examples run, in Python and in the shell, and docs/cli.md has every option."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import fewbits
from fewbits import container
from fewbits.cli_help import Argument

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = [(page, number, code) for page in PAGES for number, code in enumerate(BLOCK.findall(page.read_text()))]
OPTIONAL = {"imageio", "torch"}  # what examples may import beside our dependencies
# A block of shell commands; what it prints stands below it, in a block of its own, where that is to be compared.
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
SHELL_EXAMPLES = [(page, number, *found) for page in PAGES for number, found in enumerate(SHELL_BLOCK.findall(page.read_text()))]
NEEDS = {
    "fewbits compare": "scipy",
}  # words of commands: the package behind an extra
CLI_PAGE = ROOT / "docs" / "cli.md"


def cli_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "tests" / "cli_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = cli_reference()
COMMANDS = REFERENCE.COMMANDS


def imported(code: str) -> set[str]:
    """The packages that code imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("page", "number", "code"), EXAMPLES, ids=[f"{page.name}-{number}" for page, number, _ in EXAMPLES])
def test_examples_run(
    page: Path, number: int, code: str, picture: Callable[..., np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block by itself, in a folder with photo.jpg and photo.few; skipped where an optional package is not installed."""
    absent = [name for name in imported(code) & OPTIONAL if not importlib.util.find_spec(name)]
    if absent:
        pytest.skip(f"{absent[0]} is not installed")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(120, 160)).save("photo.jpg")
    (tmp_path / "photo.few").write_bytes(fewbits.encode(Image.open("photo.jpg")))
    exec(compile(code, f"{page.name}, example {number}", "exec"), {"__name__": "example"})


@pytest.fixture(scope="session")
def shell_files(picture: Callable[..., np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the shell examples need, small, so that it is copied for each."""
    folder = tmp_path_factory.mktemp("shell")
    photo = picture(96, 128)
    for name in ("photo.jpg", "photos/a.jpg", "photos/a.png", "photos/trip/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(folder / name)
    Image.fromarray(np.dstack([photo, photo[:, :, 0]])).save(folder / "logo.png")
    Image.fromarray(photo[:, :, 0].astype(np.uint16) * 257).save(folder / "scan.png")
    Image.fromarray(photo[:, :, 0]).save(folder / "mask.png")
    (folder / "photo.few").write_bytes(fewbits.encode(Image.open(folder / "photo.jpg")))
    return folder


@pytest.fixture(scope="session")
def shell_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """$PATH with the commands `fewbits`, of these sources, and `python`."""
    folder = tmp_path_factory.mktemp("bin")
    for name, command in (("fewbits", [sys.executable, "-m", "fewbits.cli"]), ("python", [sys.executable])):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("number", "commands", "printed"),
    [example[1:] for example in SHELL_EXAMPLES],
    ids=[f"{page.name}-{number}" for page, number, _, _ in SHELL_EXAMPLES],
)
def test_shell_examples_run(number: int, commands: str, printed: str, shell_files: Path, shell_path: str, tmp_path: Path) -> None:
    """Each block by itself, in a copy of `shell_files`. A command that fails ends it, but for one before `||`."""
    for words, package in NEEDS.items():
        if words in commands and not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    folder = tmp_path / "here"
    shutil.copytree(shell_files, folder)
    environment = os.environ | {"PATH": shell_path, "PYTHONPATH": str(Path(fewbits.__file__).parents[1])}
    call = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(
        call, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    if printed:
        assert comparable(done.stdout) == comparable(printed)


def comparable(printed: str) -> str:
    """Without numbers of bytes, their shares and speeds, which depend on the model and the machine."""
    return re.sub(r"[\d.]+(?= (?:-> |MB|MP/s|bytes|of \d|are left|%\) are))", "N", printed)


def test_the_pages_for_newcomers_have_examples() -> None:
    assert any(page.name == "README.md" for page, *_ in EXAMPLES)
    assert {"README.md", "cli.md"} <= {page.name for page, *_ in SHELL_EXAMPLES}


def test_the_command_line_page_has_every_option_as_help_says_it() -> None:
    begin, end = REFERENCE.MARKS
    there = CLI_PAGE.read_text().partition(begin)[2].partition(end)[0]
    assert there == REFERENCE.reference(), "run python tests/cli_reference.py"
    for name, command in COMMANDS.items():
        section = there.partition(f"## fewbits {name}\n")[2].partition("\n## ")[0]
        for option in REFERENCE.options_of(command) - {"-h", "--help"}:
            assert re.search(rf"^\| `[^`]*{option}\b", section, re.MULTILINE), f"{name}: {option} is not on the page"


def test_every_option_on_the_command_line_page_exists() -> None:
    """In its text, of any command; in an example, of the command that it is given to."""
    text = CLI_PAGE.read_text()
    known = {"--version", "--debug"}.union(*map(REFERENCE.options_of, COMMANDS.values()))
    spans = [
        word for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) for word in span.split()
    ]
    named = {word.partition("=")[0].rstrip(",") for word in spans if re.match(r"--?[a-z]", word)}
    assert len(named) > 30 and named <= known
    n_calls = 0
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for call in re.findall(r"\bfewbits ([a-z].*?)(?: \|\|?| > |  +#|$)", block, re.MULTILINE):
            name, *words = shlex.split(call, comments=True)
            options = {word for word in words if re.match(r"--?[a-z]", word)}
            assert options <= REFERENCE.options_of(COMMANDS[name]), call
            n_calls += 1
    assert n_calls > 40


def test_the_python_page_names_everything_public() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    for name in fewbits.__all__:
        assert f"fewbits.{name}" in text, name
    errors = [value for value in vars(fewbits.errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert errors and all(f"`{error.__name__}`" in text for error in errors)
    methods = [name for name, value in vars(fewbits.Model).items() if callable(value) and not name.startswith("_")]
    assert methods and all(f"`{name}" in text for name in methods)
    fields = [name for name in dir(fewbits.Header) if not name.startswith("_")]
    assert fields and all(f"`{name}`" in text for name in fields)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_is_in_the_documents(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "meaning" if isinstance(parameter, Argument) else "help"), (
            f"{name}: {parameter.name} has no help"
        )
    assert any(f"`{name}`" in page.read_text() or f"fewbits {name}" in page.read_text() for page in PAGES)


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_format_page_says_what_the_code_does() -> None:
    text = (ROOT / "docs" / "format.md").read_text()
    assert f"`{container.MAGIC.hex(' ').upper()}`" in text
    assert f"| {container.VERSION} |" in text
    for name, number in container.FAMILY_IDS.items():
        assert f"{number} = `{name}`" in text
    for limit in ("2^20", "2^28", "2^16"):
        assert limit in text

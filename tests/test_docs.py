# SPDX-License-Identifier: MIT
"""What the documents say: their Python examples run, and they name every command."""

import ast
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import fewbits
from fewbits import cli, container

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = [(page, number, code) for page in PAGES for number, code in enumerate(BLOCK.findall(page.read_text()))]
OPTIONAL = {"imageio", "torch"}  # what examples may import beside our dependencies
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


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


def test_the_readme_has_an_example() -> None:
    assert any(page.name == "README.md" for page, _, _ in EXAMPLES)


def test_the_python_page_names_everything_public() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    for name in fewbits.__all__:
        assert f"fewbits.{name}" in text, name
    errors = [value for value in vars(fewbits.errors).values() if isinstance(value, type)]
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
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
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

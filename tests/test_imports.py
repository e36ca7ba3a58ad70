# SPDX-License-Identifier: MIT
"""What may be imported: the coding side never loads torch, and the import contracts of pyproject.toml hold."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fewbits

ROOT = Path(__file__).parents[1]
ENCODE_AND_DECODE = "fewbits.decode(fewbits.encode(numpy.zeros((3, 4, 3), numpy.uint8)))"


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few") / "small.few"
    path.write_bytes(fewbits.encode(np.zeros((3, 4, 3), np.uint8)))
    return path


def loads(module: str, code: str) -> bool:
    """Whether a fresh Python that runs `code` has loaded `module` at its end."""
    whole = f"{code}\nimport sys; sys.exit(3 if {module!r} in sys.modules else 4)"
    result = subprocess.run([sys.executable, "-c", whole], check=False)
    assert result.returncode in (3, 4), "the code itself failed"
    return result.returncode == 3


@pytest.mark.parametrize(
    "code",
    [
        "import fewbits",
        "import fewbits.cli",
        "import fewbits.codec, fewbits.runtime.hyperprior, fewbits.coding.streams, fewbits.image",
        f"import fewbits, numpy; {ENCODE_AND_DECODE}",
    ],
)
def test_the_coding_side_loads_no_torch(code: str) -> None:
    assert not loads("torch", code)


def test_that_check_can_fail() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    assert loads("torch", "import fewbits.families")


def test_encoding_and_decoding_work_where_torch_cannot_be_imported() -> None:
    code = f"import sys; sys.modules['torch'] = None; import fewbits, numpy; {ENCODE_AND_DECODE}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_fewbits_loads_no_runtime() -> None:
    """`fewbits info` and programs that only inspect need not wait for it."""
    assert not loads("onnxruntime", "import fewbits.cli")
    assert loads("onnxruntime", f"import fewbits, numpy; {ENCODE_AND_DECODE}")


@pytest.mark.parametrize("module", ["multiprocessing", "concurrent.futures.process"])
def test_converting_one_file_loads_no_pool_of_processes(module: str, small_file: Path) -> None:
    code = f"from fewbits.cli import main\nimport sys; sys.argv = ['fewbits', 'decode', {str(small_file)!r}, '{{}}', '-f']\n"
    code += "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code"
    assert not loads(module, code.format(small_file.with_suffix(".png")))
    assert loads(module, "import fewbits.pool")


def test_only_a_coded_alpha_plane_loads_png(tmp_path: Path) -> None:
    assert not loads("PIL.PngImagePlugin", f"import fewbits, numpy; {ENCODE_AND_DECODE}")
    path = tmp_path / "alpha.few"
    path.write_bytes(fewbits.encode(np.arange(48, dtype=np.uint8).reshape(3, 4, 4)))
    assert loads("PIL.PngImagePlugin", f"import fewbits; fewbits.decode(open({str(path)!r}, 'rb').read())")


HEAVY = ("numpy", "PIL", "constriction", "onnxruntime", "multiprocessing", "concurrent")


def loaded_by_info(few: Path, before: str = "pass") -> list[str]:
    """The modules that `fewbits info` has loaded at its end, without those that Python begins with."""
    code = f"""
import sys
plain = set(sys.modules)
{before}
from fewbits import cli
sys.argv = ["fewbits", "info", {str(few)!r}]
try:
    cli.main()
except SystemExit as done:
    assert not done.code
print("\\n" + " ".join(sorted(set(sys.modules) - plain)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1].split()


def test_info_loads_little(small_file: Path) -> None:
    """By number of modules, which no machine changes."""
    loaded = loaded_by_info(small_file)
    assert not [name for name in loaded if name.partition(".")[0] in HEAVY]
    assert len([name for name in loaded if name.partition(".")[0] == "fewbits"]) <= 14
    assert len(loaded) <= 110  # with typer, which had been left out of the count, they were 242
    more = loaded_by_info(small_file, "import fewbits.codec")
    assert len(more) > 100 and "numpy" in more and "PIL" in more


@pytest.mark.parametrize("module", ["numpy", "PIL", "constriction", "click", "fewbits.codec"])
def test_importing_fewbits_loads_nothing_heavy(module: str) -> None:
    assert not loads(module, "import fewbits; fewbits.__version__; dir(fewbits)")
    assert loads("numpy", "import fewbits; fewbits.encode")


def test_what_is_public_is_there_and_what_is_not_is_not() -> None:
    code = (
        "import fewbits, pytest; assert all(getattr(fewbits, name) is not None for name in fewbits.__all__); "
        "assert set(fewbits.__all__) <= set(dir(fewbits)); "
        "from fewbits import *; assert Target and load_model; "
        "pytest.raises(AttributeError, getattr, fewbits, 'nothing')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_layers_hold() -> None:
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    result = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_says_what_it_is() -> None:
    """A first line with the licence, then a docstring; empty files have nothing to say."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        lines = path.read_text().splitlines()
        if lines:
            assert lines[0] == "# SPDX-License-Identifier: MIT" and lines[1].startswith('"""'), path

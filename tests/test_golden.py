# SPDX-License-Identifier: MIT
"""Released streams decode to the same symbols for ever, and to pixels within 1. tests/golden/make.py makes them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fewbits.codec import inspect, model_of
from fewbits.coding.falling import encode_falling
from fewbits.coding.streams import encode_planes
from fewbits.container import parse
from fewbits.runtime import hyperprior

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.few"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tests/golden/make.py as a module."""
    spec = importlib.util.spec_from_file_location("golden_make", FOLDER / "make.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_golden(folder: Path, name: str, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (folder / f"{name}.few").read_bytes()
    described = json.loads((folder / f"{name}.json").read_text())
    header = inspect(data)
    for field in ("width", "height", "colour", "quality"):
        assert getattr(header, field) == described[field]
    assert header.model_id.hex() == described["model_id"]

    made_again: list[bytes] = []  # symbols -> streams, with what the decoder was given

    def planes(stream: bytes, sizes: list[int], tables: list) -> list[np.ndarray]:  # type: ignore[type-arg]
        symbols = real_planes(stream, sizes, tables)
        made_again.append(encode_planes(symbols, tables))
        return symbols

    def falling(streams: list[bytes], rows: np.ndarray, tables: list, ranges: list[range], counts: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        values = real_falling(streams, rows, tables, ranges, counts)
        assert np.array_equal(counts, np.bincount(rows, minlength=len(tables)))
        made_again.extend(encode_falling(values, rows, tables, ranges))
        return values

    real_planes, real_falling = hyperprior.decode_planes, hyperprior.decode_falling
    monkeypatch.setattr(hyperprior, "decode_planes", planes)
    monkeypatch.setattr(hyperprior, "decode_falling", falling)
    symbols = model_of(header).symbols(data)
    assert tool.symbols_sha256(symbols) == described["symbols_sha256"]
    assert made_again == [bytes(payload) for _, payload in parse(data)[1]]

    with Image.open(folder / f"{name}.png") as expected:
        found = model_of(header, precision="fp32").decode(data)
        assert found.mode == expected.mode and found.size == expected.size
        assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 1


def test_there_are_golden_files() -> None:
    assert len(NAMES) >= 4, "make them for the shipped model: python tests/golden/make.py"
    for name in NAMES:
        assert (FOLDER / f"{name}.png").exists() and (FOLDER / f"{name}.json").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_decodes_as_ever(name: str, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    check_golden(FOLDER, name, tool, monkeypatch)


@pytest.fixture
def made(tool: ModuleType, photo: np.ndarray, tmp_path: Path) -> Path:
    assert tool.main(["--out", str(tmp_path)]) == 0
    return tmp_path


def test_the_tool_makes_golden_files(made: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(path.name for path in made.iterdir()) == sorted(f"{n}.{e}" for n in tool.CASES for e in ("few", "json", "png"))
    for name in tool.CASES:
        check_golden(made, name, tool, monkeypatch)


def test_other_symbols_and_other_pixels_would_be_noticed(made: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, grey, last = list(tool.CASES)[:4]
    (made / f"{one}.json").write_bytes(
        (made / f"{one}.json").read_bytes().replace(b'"symbols_sha256": "', b'"symbols_sha256": "0')
    )
    with Image.open(made / f"{other}.png") as picture:
        pixels = np.asarray(picture).copy()
    pixels[3, 4, 1] ^= 2
    Image.fromarray(pixels).save(made / f"{other}.png")
    (made / f"{grey}.few").write_bytes((made / f"{last}.few").read_bytes())
    for name in (one, other, grey):
        with pytest.raises(AssertionError):
            check_golden(made, name, tool, monkeypatch)


def test_the_tool_keeps_what_is_there(made: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--out", str(made)]) == 0
    assert "changed" not in capsys.readouterr().out
    name = next(iter(tool.CASES))
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    described = json.loads(before[f"{name}.json"])
    (made / f"{name}.json").write_text(json.dumps(described | {"quality": 99}))
    (made / f"{name}.few").unlink()
    assert tool.main(["--out", str(made)]) == 1
    captured = capsys.readouterr()
    assert f"changed  {name}.json: quality 99 -> 25" in captured.out and f"new      {name}.few" in captured.out
    assert "nothing was written" in captured.err and not (made / f"{name}.few").exists()
    assert tool.main(["--out", str(made), "--force"]) == 0
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before

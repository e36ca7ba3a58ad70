# SPDX-License-Identifier: MIT
"""benchmarks/rerun.py: what documents quote is found, and made anew; all else stays."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]
LIST = "python benchmarks/rerun.py docs/targets.md --list"  # a command that is quick
PAGE = f"""# A page

`A=1 {LIST} --only klt`:

```
old
lines
```

`{LIST} --only nothing-has-this`:

```
old, too
```

`python benchmarks/rerun.py --list` is told of, not quoted:

- so this stays.
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def run(script: Script, monkeypatch: pytest.MonkeyPatch, *words: str) -> ModuleType:
    module = script("rerun")
    monkeypatch.setattr("sys.argv", ["rerun.py", *words])
    module.main()
    return module


def test_output_is_put_in_place(script: Script, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = run(script, monkeypatch, str(page), "--only", "klt")
    targets = (module.ROOT / "docs" / "targets.md").read_text()
    printed = "".join(f"{each.command}\n" for each in module.quotations(targets) if "klt" in each.command)
    assert printed and page.read_text() == PAGE.replace("old\nlines\n", printed)


def test_a_failure_ends_it_and_keeps_the_document(script: Script, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=f"exit code 1 of: {LIST} --only nothing-has-this"):
        run(script, monkeypatch, str(page), "--only", "nothing")
    assert page.read_text() == PAGE


def test_a_list_runs_nothing(
    script: Script, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(script, monkeypatch, str(page), "--list")
    assert capsys.readouterr().out == f"A=1 {LIST} --only klt\n{LIST} --only nothing-has-this\n"
    assert page.read_text() == PAGE


def test_every_quotation_of_our_documents_names_a_script(script: Script) -> None:
    module = script("rerun")
    found = [each for page in (module.ROOT / "docs").rglob("*.md") for each in module.quotations(page.read_text())]
    assert found
    for each in found:
        words = each.command.split()
        assert (module.ROOT / words[words.index("python") + 1]).is_file()

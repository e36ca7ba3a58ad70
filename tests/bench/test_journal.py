# SPDX-License-Identifier: MIT
"""A journal keeps what was added, through kills."""

import json
import math
from pathlib import Path

import pytest

from fewbits.bench.journal import Journal, key_of
from fewbits.errors import FewbitsError


def test_it_remembers_and_later_lines_add(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    first.add("a", {"bytes": 5, "psnr": math.inf})
    first.add("b", {"bytes": 6})
    first.add("a", {"ssim": 0.5})
    first.close()
    second = Journal(path)
    assert second.get("a") == {"bytes": 5, "psnr": math.inf, "ssim": 0.5}
    assert second.get("b") == {"bytes": 6} and second.get("c") == {}
    second.close()


def test_a_line_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"key": "a", "bytes": 5}\n{"key": "b", "byt')
    journal = Journal(path)
    assert journal.get("a") == {"bytes": 5} and journal.get("b") == {}
    journal.add("c", {"bytes": 7})
    journal.close()
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b'{"bytes": 5}\n'])
def test_a_damaged_line_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"key": "a", "bytes": 5}\n' + line)
    with pytest.raises(FewbitsError, match="line 2 is damaged"):
        Journal(path)
    assert path.read_bytes().endswith(line)


def test_two_measurements_do_not_share_a_journal(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = Journal(tmp_path / "journal")
    with pytest.raises(FewbitsError, match="another measurement is writing there"):
        Journal(tmp_path / "journal")
    first.close()
    Journal(tmp_path / "journal").close()


def test_keys_depend_on_every_part() -> None:
    keys = {key_of("coded", "digest", "jpeg", 10), key_of("coded", "digest", "jpeg", 10.5), key_of("timed", "digest", "jpeg", 10)}
    assert len(keys) == 3
    assert key_of(1, "a") == key_of(1, "a")

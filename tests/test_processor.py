# SPDX-License-Identifier: MIT
"""What the processor can do, by Linux's description of it."""

import platform
from pathlib import Path

import pytest

from fewbits import processor

ZEN_5 = "processor : 0\nmodel name : AMD EPYC 9575F\nflags : fpu avx2 avx512f avx512_vnni avx512_bf16\n"
ZEN_3 = "processor : 0\nmodel name : AMD EPYC 7763\nflags : fpu avx avx2\n\nprocessor : 1\nflags : avx512f\n"
GRAVITON = "processor : 0\nFeatures : fp asimd asimddp bf16\n"


@pytest.mark.parametrize(
    ("text", "int8", "bfloat16", "described"),
    [
        (ZEN_5, True, True, "AMD EPYC 9575F with AVX-512, int8 and bfloat16"),
        (ZEN_3, False, False, "AMD EPYC 7763 with AVX2"),
        (GRAVITON, True, True, "aarch64 with NEON, int8 and bfloat16"),
        ("", False, False, "aarch64"),
    ],
)
def test_a_processor_is_known_by_its_flags(
    text: str, int8: bool, bfloat16: bool, described: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert (processor.has_int8(), processor.has_bfloat16(), processor.described()) == (int8, bfloat16, described)


def test_where_nothing_describes_it_float32_is_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6")
    assert (processor.has_int8(), processor.has_bfloat16(), processor.described()) == (False, False, "Intel64 Family 6")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")  # macOS
    assert processor.has_int8()

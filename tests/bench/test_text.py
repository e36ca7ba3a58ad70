# SPDX-License-Identifier: MIT
"""Markdown of the bench: blocks of a page that a command writes."""

import pytest

pytest.importorskip("scipy")

from fewbits.bench.report import CodecInfo, MetricInfo, ReportData  # noqa: E402
from fewbits.bench.summary import SmallestFile  # noqa: E402
from fewbits.bench.text import summary, with_block  # noqa: E402

PAGE = "before\n<!-- a (1) -->\nold\nlines\n<!-- end -->\nbetween\n<!-- b -->\nother\n<!-- end -->\nafter\n"


def test_a_block_is_replaced_and_all_else_stays() -> None:
    written = with_block(PAGE, "<!-- a (1) -->", "<!-- end -->", r"new \1 text")
    assert written == PAGE.replace("old\nlines", r"new \1 text")
    assert with_block(written, "<!-- a (1) -->", "<!-- end -->", "old\nlines") == PAGE
    assert with_block(PAGE, "<!-- b -->", "<!-- end -->", "") == PAGE.replace("other", "")


def test_a_codec_without_a_number_has_its_reason_below_the_table() -> None:
    codecs = tuple(CodecInfo(name, name.upper(), "#000", False) for name in ("good", "weak"))
    smallest = SmallestFile("psnr", 35.0, "good", 0.5, 24, ""), SmallestFile("psnr", 35.0, "weak", None, 24, "reached on 3 of 24")
    metrics = (MetricInfo("psnr", "PSNR (RGB)", "dB", True),)
    data = ReportData("Test", "2026-11-21", metrics, codecs, (), "good", smallest=smallest)
    text = summary(data)
    assert "| PSNR (RGB) 35 dB  |       24 | 0.500* |    - |" in text
    assert text.endswith("every codec that has a number reaches that quality\n\n- WEAK, PSNR (RGB) 35 dB: reached on 3 of 24")

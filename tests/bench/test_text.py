# SPDX-License-Identifier: MIT
"""Markdown of the bench: blocks of a page that a command writes."""

import pytest

pytest.importorskip("scipy")

from fewbits.bench.text import with_block  # noqa: E402

PAGE = "before\n<!-- a (1) -->\nold\nlines\n<!-- end -->\nbetween\n<!-- b -->\nother\n<!-- end -->\nafter\n"


def test_a_block_is_replaced_and_all_else_stays() -> None:
    written = with_block(PAGE, "<!-- a (1) -->", "<!-- end -->", r"new \1 text")
    assert written == PAGE.replace("old\nlines", r"new \1 text")
    assert with_block(written, "<!-- a (1) -->", "<!-- end -->", "old\nlines") == PAGE
    assert with_block(PAGE, "<!-- b -->", "<!-- end -->", "") == PAGE.replace("other", "")

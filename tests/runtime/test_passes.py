# SPDX-License-Identifier: MIT
"""Coarse passes: every number of them holds the same symbols, and files that were cut show the whole picture."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.codec import Model
from fewbits.container import SECTION_COARSE, SECTION_HYPER, SECTION_LATENT, pack, parse, parse_header
from fewbits.errors import CorruptError, ModelError, TruncatedError
from fewbits.fidelity import psnr
from fewbits.runtime import passes
from fewbits.runtime.engines import onnxruntime_engine
from fewbits.runtime.hyperprior import HyperpriorCodec
from fewbits.runtime.passes import SHARES, coarse_shares, pass_ranges

Parts = list[tuple[int, bytes]]
QUALITY = 60
N_STRIPS = 3


@pytest.fixture(scope="module")
def pixels(photo: np.ndarray) -> np.ndarray:
    """A photograph of three strips, with sides that are no multiples of anything."""
    return np.concatenate([photo, photo[::-1], photo])[:1100, 150:297]


@pytest.fixture(scope="module")
def data(falling: Model, pixels: np.ndarray) -> bytes:
    return falling.encode(pixels, QUALITY)


@pytest.fixture(scope="module")
def several(falling: Model, pixels: np.ndarray) -> bytes:
    """With as many passes as large pictures have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "SHARES", ((0, SHARES[0][1]),))
        return falling.encode(pixels, QUALITY)


def kinds(data: bytes) -> list[int]:
    return [kind for kind, _ in parse_header(data).sections]


def changed(data: bytes, change: Callable[[Parts], Parts]) -> bytes:
    """The file with other sections, and a right header."""
    header, sections = parse(data)
    parts = change([(kind, bytes(part)) for kind, part in sections])  # type: ignore[arg-type]
    return pack(replace(header, sections=tuple((kind, len(part)) for kind, part in parts)), [part for _, part in parts])


def scores(model: Model, data: bytes, pixels: np.ndarray, lengths: list[int]) -> list[float]:
    return [psnr(pixels, np.asarray(model.decode(data[:length], allow_truncated=True))) for length in lengths]


@given(st.lists(st.integers(1, 63), min_size=1, max_size=300), st.sampled_from([shares for _, shares in SHARES]))
def test_passes_are_all_indices_and_reach_their_shares(indices: list[int], shares: tuple[float, ...]) -> None:
    index, bits = np.array(indices, np.uint8), np.linspace(0, 8, 64)
    ranges = pass_ranges(np.bincount(index, minlength=64), bits, shares, range(1, 64))
    assert [k for part in ranges[::-1] for k in part] == list(range(1, 64)) and len(ranges) == len(shares) + 1
    total = bits[index].sum()
    for share, part in zip(shares, ranges, strict=False):
        assert bits[index[index >= part.start]].sum() >= share * total * (1 - 1e-9)
        assert bits[index[index > part.start]].sum() < share * total, "and with one index less they would not"


def test_large_strips_have_more_passes_and_tiny_ones_none() -> None:
    bits = np.full(64, 8.0)
    for n_bytes, n_passes in ((40_000, 3), (39_999, 2), (22_000, 2), (21_999, 1), (1_000, 1), (999, 0), (0, 0)):
        assert len(coarse_shares(np.bincount([30], [n_bytes], minlength=64), bits)) == n_passes


def test_every_number_of_passes_holds_the_same_symbols(
    falling: Model, rising: Model, pixels: np.ndarray, data: bytes, several: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, symbols = [SECTION_HYPER, *[SECTION_LATENT] * N_STRIPS], rising.symbols(rising.encode(pixels, QUALITY))
    monkeypatch.setattr(passes, "SHARES", ((0, ()),))
    none = falling.encode(pixels, QUALITY)
    for n_passes, file in ((0, none), (1, data), (3, several)):
        assert kinds(file) == expected[:1] + [SECTION_COARSE] * (n_passes * N_STRIPS) + expected[1:]
        assert all(np.array_equal(one, other) for one, other in zip(falling.symbols(file), symbols, strict=True))
        falling.verify(file)
    assert np.array_equal(falling.decode(several), falling.decode(none)) and np.array_equal(
        falling.decode(data), falling.decode(none)
    )
    y = falling.pipeline.analyse(pixels, falling.pipeline.level(100 * QUALITY, "rgb"), lambda _: None)
    assert len(data) - len(none) <= 16 * N_STRIPS and len(several) - len(none) <= 3 * 16 * N_STRIPS
    _, sections = falling.pipeline.quantize(y, falling.pipeline.level(100 * QUALITY, "rgb"))
    assert [kind for kind, _ in sections] == kinds(none), "a latent that is held is coded likewise"


def test_one_strip_has_no_coarse_section(falling: Model, without_runs: Model, rising: Model, photo: np.ndarray) -> None:
    part = photo[:512, :256]
    file, plain = falling.encode(part, QUALITY), without_runs.encode(part, QUALITY)
    assert kinds(file) == kinds(plain) == [SECTION_HYPER, SECTION_LATENT]
    assert abs(len(plain) - len(rising.encode(part, QUALITY))) <= 4
    assert 0 < abs(len(file) - len(plain)) < 0.002 * len(plain), "runs cost next to nothing"


def test_runs_tell_the_same_symbols(falling: Model, without_runs: Model, pixels: np.ndarray) -> None:
    for quality in (0, QUALITY, 100):
        assert np.array_equal(*(each.symbols(each.encode(pixels, quality)).latent for each in (falling, without_runs)))


@pytest.mark.parametrize("which", ["data", "several"])
def test_the_beginning_is_the_whole_picture(
    falling: Model, rising: Model, pixels: np.ndarray, which: str, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(which)
    lengths = [round(share * len(file)) for share in (0.25, 0.5, 0.75, 0.9, 1)]
    found = scores(falling, file, pixels, lengths)
    assert found == sorted(found), "more bytes are a better picture"
    for top in range(0, len(pixels), 100):  # everywhere, also where no detail is there yet
        part = np.asarray(falling.decode(file[: lengths[0]], allow_truncated=True))[top : top + 100]
        assert psnr(pixels[top : top + 100], part) > 17
    old = rising.encode(pixels, QUALITY)
    assert found[0] > scores(rising, old, pixels, [len(old) // 2])[0] + 5
    whole = falling.decode(file)
    assert np.array_equal(falling.decode(file, allow_truncated=True), whole), "what is whole is decoded as ever"


def test_one_strip_that_is_cut_is_the_whole_picture(falling: Model, photo: np.ndarray) -> None:
    file = falling.encode(photo, QUALITY)
    found = scores(falling, file, photo, [len(file) // 4, len(file) // 2, len(file) - 1, len(file)])
    assert found == sorted(found) and found[0] > 20 and found[2] > found[3] - 0.3


@pytest.mark.parametrize("which", ["data", "several"])
def test_cuts_everywhere_are_pictures(
    falling: Model, pixels: np.ndarray, which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every border of sections, beside it, and anywhere: the symbols are those of the whole, or 0."""
    file = request.getfixturevalue(which)
    decode, told = falling.pipeline._decoded, []  # type: ignore[attr-defined]
    monkeypatch.setattr(falling.pipeline, "_decoded", lambda *arguments: told.append(decode(*arguments)) or told[-1])
    falling.symbols(file)
    expected = np.concatenate(told, axis=1)
    header, level = parse_header(file), falling.pipeline.level(100 * QUALITY, "rgb")
    borders = header.header_bytes + np.cumsum([size for _, size in header.sections])
    rng = np.random.default_rng(0)
    lengths = {*borders.tolist(), *(borders[:-1] + 1).tolist(), *(borders - 1).tolist(), *(borders[:-1] + 2).tolist()}
    lengths |= set(rng.integers(borders[0], len(file), 12).tolist())
    whole = np.asarray(falling.decode(file))
    held = [0.0]
    for length in sorted(lengths):
        if length < borders[0]:
            with pytest.raises(TruncatedError, match="hyper section"):
                falling.decode(file[:length], allow_truncated=True)
            continue
        _, latent, _ = falling._parsed(file[:length], allow_truncated=True)
        told.clear()
        strips = list(falling.pipeline.decode_strips(latent, *pixels.shape[:2], level, range(N_STRIPS)))
        found = np.concatenate(told, axis=1)
        assert ((found == expected) | (found == 0)).all()
        held.append(float(np.abs(found).sum()))
        assert all(symbols is None for symbols, _ in strips) or length >= borders[-N_STRIPS]
        decoded = np.asarray(falling.decode(file[:length], allow_truncated=True))
        assert decoded.shape == whole.shape
        with pytest.raises(TruncatedError):
            falling.decode(file[: min(length, len(file) - 1)])
    assert np.array_equal(decoded, whole) and len(set(held)) > len(held) // 2


def test_a_region_needs_its_own_strips_only(falling: Model, several: bytes) -> None:
    """The other strips' sections may hold anything."""
    region = (10, 300, 90, 60)  # in the first strip, out of reach of the second one

    def damage(parts: Parts) -> Parts:
        count = {SECTION_HYPER: 0, SECTION_COARSE: 0, SECTION_LATENT: 0}
        out = []
        for kind, part in parts:
            first = kind == SECTION_HYPER or count[kind] % N_STRIPS == 0
            count[kind] += 1
            out.append((kind, part if first else bytes(len(part))))
        return out

    damaged = changed(several, damage)
    assert np.array_equal(falling.decode(damaged, region=region), falling.decode(several, region=region))
    with pytest.raises(CorruptError):
        falling.decode(damaged)
    full = np.asarray(falling.decode(several), int)[300:360, 10:100]
    assert np.abs(np.asarray(falling.decode(several, region=region), int) - full).max() <= 1
    assert falling.decode(several[: len(several) // 3], region=region, scale=2, allow_truncated=True).size == (45, 30)


def first_of(index: int, n: int) -> Callable[[Parts], Parts]:
    """Another first byte of the n-th coarse section (from 1: the hyper section is before it)."""
    return lambda parts: [*parts[:n], (SECTION_COARSE, bytes([index]) + parts[n][1][1:]), *parts[n + 1 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts[:1] + parts[2:], "8 coarse sections, a picture 1100 pixels high has a multiple of 3"),
        (lambda parts: parts[:2] + parts[10:], "1 coarse sections, a picture 1100"),
        (lambda parts: [*parts[:9], *parts[10:], parts[9]], "behind a latent section"),
        (lambda parts: [parts[0], *parts[10:], *parts[1:10]], "behind a latent section"),
        (lambda parts: [*parts[:1], (SECTION_COARSE, b""), *parts[2:]], r"begins with \[\], it must be from FIRST to 64"),
        (first_of(0, 1), r"begins with \[0\], it must be from FIRST to 64"),
        (first_of(5, 1), r"begins with \[5\], it must be from FIRST to 64"),
        (first_of(65, 1), r"begins with \[65\], it must be from FIRST to 64"),
        (first_of(255, 3), r"begins with \[255\], it must be from FIRST to 64"),
        (first_of(64, 4), r"begins with \[64\], it must be from FIRST to "),  # it must not rise from pass to pass
        (lambda parts: parts[:1] + parts[10:], "file is damaged"),
        (lambda parts: [*parts[:1], (SECTION_COARSE, parts[1][1][:-4]), *parts[2:]], "file is damaged"),
        (lambda parts: [*parts[:1], (SECTION_COARSE, parts[1][1][:-1]), *parts[2:]], "multiple of 4"),
        (lambda parts: [(kind, part[:1]) for kind, part in parts], "file is damaged|multiple of 4"),
        (lambda parts: [*parts, (SECTION_LATENT, b"")], "4 latent sections"),
    ],
)
def test_wrong_coarse_sections_are_refused(
    falling: Model, several: bytes, change: Callable[[Parts], Parts], message: str
) -> None:
    bad = changed(several, change)
    for call in (falling.decode, falling.verify):
        with pytest.raises(CorruptError, match=message.replace("FIRST", str(falling.bundle.coding["first_coded_index"]))):
            call(bad)


def test_a_cut_file_is_no_less_checked_before_its_cut(falling: Model, several: bytes) -> None:
    cut = changed(several, first_of(65, 1))[: len(several) // 2]
    with pytest.raises(CorruptError, match=f"it must be from {falling.bundle.coding['first_coded_index']} to 64"):
        falling.decode(cut, allow_truncated=True)
    short = changed(several, lambda parts: [*parts[:1], (SECTION_COARSE, parts[1][1][:1]), *parts[2:]])[: len(several) // 2]
    with pytest.raises(CorruptError, match="or more: the file is damaged"):
        falling.decode(short, allow_truncated=True)


def test_files_of_older_models_have_no_coarse_section(rising: Model, pixels: np.ndarray) -> None:
    old = rising.encode(pixels, QUALITY)
    bad = changed(old, lambda parts: [parts[0], *[(SECTION_COARSE, b"\x40")] * N_STRIPS, *parts[1:]])
    with pytest.raises(CorruptError, match="a section of a type that this model does not have"):
        rising.decode(bad)


def test_an_order_that_nobody_knows_is_refused(falling: Model) -> None:
    bundle = replace(falling.bundle, coding=dict(falling.bundle.coding) | {"order": "sideways"})
    with pytest.raises(ModelError, match="order 'sideways' is missing or wrong"):
        HyperpriorCodec(bundle, onnxruntime_engine(1))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"order": "rising"}, "runs_below beside an order that is not falling"),
        ({"runs_below": 30}, "for runs of zeros"),
        ({"runs_below": "many"}, "many"),
    ],
    ids=str,
)
def test_runs_that_cannot_be_are_refused(falling: Model, numbers: dict[str, Any], words: str) -> None:
    bundle = replace(falling.bundle, coding=dict(falling.bundle.coding) | numbers)
    with pytest.raises(ModelError, match=f"{words}.* is missing or wrong"):
        HyperpriorCodec(bundle, onnxruntime_engine(1))

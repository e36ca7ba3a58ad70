# SPDX-License-Identifier: MIT
"""What all kinds share, with every shipped model: strips on their way, parts of pictures, scales, and files that were cut."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewbits.codec import Model, load_model
from fewbits.container import SECTION_COARSE, SECTION_LATENT, Cut, pack, parse
from fewbits.errors import CorruptError, FewbitsError, FormatError, TruncatedError
from fewbits.installed import installed_models
from fewbits.runtime import factorized, hyperprior
from fewbits.runtime.pipeline import STRIP_ROWS, interleave, levels_of
from fewbits.runtime.rows import Rows
from fewbits.view import box_averaged

Picture = Callable[..., np.ndarray]
QUALITY = 50
COLUMNS = 6  # of the latent
EXTRA_ROWS = 9  # of the last of three strips


@pytest.fixture(scope="module", params=sorted(Path(path).name for path in installed_models()))
def each(request: pytest.FixtureRequest) -> Model:
    """Every shipped model."""
    return load_model(request.param, threads=1, precision="fp32")


@pytest.fixture(scope="module")
def pixels(each: Model, photo: np.ndarray) -> np.ndarray:
    """A photograph of three strips, whatever the stride, with sides that are no multiples of it."""
    stride = each.pipeline.stride
    height, width = (2 * STRIP_ROWS + EXTRA_ROWS) * stride - 3, COLUMNS * stride - 5
    tall = np.concatenate([photo, photo[::-1], photo])
    return tall[:height, 180 : 180 + width]


@pytest.fixture(scope="module")
def data(each: Model, pixels: np.ndarray) -> bytes:
    return each.encode(pixels, QUALITY)


@pytest.fixture(scope="module")
def whole(each: Model, data: bytes) -> np.ndarray:
    return np.asarray(each.decode(data), int)


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (factorized, hyperprior):
        monkeypatch.setattr(module, "TILE_ROWS", 4)
        monkeypatch.setattr(module, "TILE_COLUMNS", 3)


def with_strips(data: bytes, change: Callable[[int, bytes], bytes]) -> bytes:
    """The file with other strips: change(number, content)."""
    header, sections = parse(data)
    first = next(k for k, (kind, _) in enumerate(sections) if kind == SECTION_LATENT)
    parts = [(kind, bytes(part)) for kind, part in sections]  # type: ignore[arg-type]
    parts = [(kind, change(k - first, part) if kind == SECTION_LATENT else part) for k, (kind, part) in enumerate(parts)]
    return pack(replace(header, sections=tuple((kind, len(part)) for kind, part in parts)), [part for _, part in parts])


# Encoding on the way


def test_what_is_coded_on_the_way_is_what_a_whole_latent_gives(each: Model, pixels: np.ndarray) -> None:
    """And a whole latent can be quantized again and again, at any level."""
    pipeline = each.pipeline
    levels = [pipeline.level(steps, "rgb") for steps in (8000, 2000, 8000)]
    found = [pipeline.encode(pixels, level, lambda _: None) for level in levels[:2]]
    if type(pipeline) is hyperprior.HyperpriorCodec:
        y = pipeline.analyse(pixels, levels[0], lambda _: None)  # the same at every level
        held = [pipeline.quantize(y, level) for level in levels]
        assert held[0][1] == held[2][1]
    else:
        held = [pipeline.quantize(pipeline.analyse(pixels, level, lambda _: None), level) for level in levels[:2]]
    for (crc, sections), (symbols, held_sections) in zip(found, held[:2], strict=True):
        assert crc == symbols.crc() and sections == held_sections


def test_neither_the_latent_nor_y_hat_is_held(each: Model, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture of many tiles only those around one strip."""
    small_tiles(monkeypatch)
    held = []
    take = Rows.take

    def counted(self: Rows, part: slice) -> np.ndarray:
        found = take(self, part)
        held.append(sum(band.shape[-2] for _, band in self._held))
        return found

    monkeypatch.setattr(Rows, "take", counted)
    rows = 8 * STRIP_ROWS
    each.decode(each.encode(picture(rows * each.pipeline.stride, 2 * each.pipeline.stride), 0))
    assert held and max(held) <= 2 * STRIP_ROWS + 16 < rows


# Parts


def regions(height: int, width: int, stride: int) -> dict[str, tuple[int, int, int, int]]:
    """x, y, width, height"""
    strip = STRIP_ROWS * stride
    return {
        "all": (0, 0, width, height),
        "a pixel": (width // 2, height // 2, 1, 1),
        "the last pixel": (width - 1, height - 1, 1, 1),
        "across strips": (3, strip - 11, width - 7, 23),
        "a column": (width // 2 + 1, 0, 1, height),
        "in a tile": (stride + 1, 2 * stride + 1, stride - 2, stride - 2),
    }


@pytest.mark.parametrize("tiled", [False, True])
def test_a_region_is_a_part_of_the_whole(
    each: Model, data: bytes, whole: np.ndarray, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiled:
        small_tiles(monkeypatch)
    for name, (x, y, w, h) in regions(*whole.shape[:2], each.pipeline.stride).items():
        part = whole[y : y + h, x : x + w]
        found = np.asarray(each.decode(data, region=(x, y, w, h)), int)
        assert found.shape == part.shape and np.abs(found - part).max() <= 1, name
        for scale in (2, 8):
            small = np.asarray(each.decode(data, region=(x, y, w, h), scale=scale), int)
            assert np.abs(small - box_averaged(part, scale)).max() <= 1, name


def test_a_region_needs_only_its_strips_and_its_tiles(
    each: Model, data: bytes, whole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other strips may hold anything; few tiles pass the network."""
    small_tiles(monkeypatch)
    stride = each.pipeline.stride
    region = 2, (STRIP_ROWS + 12) * stride, 4, 4  # in the middle of the second strip
    spoilt = with_strips(data, lambda k, part: part if k == 1 else b"\xff\xff\xff")
    shapes = []
    synthesised = each.pipeline._synthesised

    def counted(y_hat: np.ndarray, *rest: object) -> np.ndarray:
        shapes.append(y_hat.shape)
        return synthesised(y_hat, *rest)

    monkeypatch.setattr(each.pipeline, "_synthesised", counted)
    x, y, w, h = region
    assert np.abs(np.asarray(each.decode(spoilt, region=region), int) - whole[y : y + h, x : x + w]).max() <= 1
    assert len(shapes) == 1 and shapes[0][-2] <= 1 + 2 * each.pipeline._halo
    with pytest.raises(FormatError):
        each.decode(spoilt)
    with pytest.raises(FormatError):
        each.decode(spoilt, region=(0, STRIP_ROWS * stride - 1, 4, 4))


def test_the_checksum_is_checked_where_all_strips_are_decoded(each: Model, data: bytes) -> None:
    header, sections = parse(data)
    wrong = pack(replace(header, symbols_crc=header.symbols_crc ^ 1), [bytes(part) for _, part in sections])  # type: ignore[arg-type]
    for options in ({}, {"scale": 4}, {"region": (1, 0, 2, header.height)}, {"allow_truncated": True}):
        with pytest.raises(CorruptError, match="the checksum of the decoded symbols"):
            each.decode(wrong, **options)  # type: ignore[arg-type]
    each.decode(wrong, region=(1, 0, 2, 2))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_scale_is_the_mean_of_blocks(each: Model, data: bytes, whole: np.ndarray, scale: int) -> None:
    small = np.asarray(each.decode(data, scale=scale), int)
    assert small.shape == (math.ceil(whole.shape[0] / scale), math.ceil(whole.shape[1] / scale), 3)
    assert np.abs(small - box_averaged(whole, scale)).max() <= 1


# Files that were cut


def test_strips_that_are_there_are_exact_and_the_others_flat(each: Model, data: bytes, whole: np.ndarray) -> None:
    header, stride = parse(data)[0], each.pipeline.stride
    strip = STRIP_ROWS * stride
    sizes = [size for kind, size in header.sections if kind == SECTION_LATENT]
    n_coarse = sum(kind == SECTION_COARSE for kind, _ in header.sections)
    for n_whole in range(3):
        cut = data[: len(data) - sum(sizes[n_whole:]) + (sizes[n_whole] - 1)]  # the next one lacks a byte
        with pytest.raises(TruncatedError):
            each.decode(cut)
        coarse = np.asarray(each.decode(cut, allow_truncated=True), int)
        assert coarse.shape == whole.shape
        exact = max(0, n_whole * strip - (each.pipeline._halo + 1) * stride)  # what lies below is in the last rows' reach
        assert np.abs(coarse[:exact] - whole[:exact]).max(initial=0) <= 1
        below = coarse[n_whole * strip + 6 * stride :]
        if not n_coarse:  # else test_passes.py says what they are
            assert np.ptp(below, axis=(0, 1)).max() <= 24 and 90 < below.mean() < 140, (
                "grey: the shipped means tell next to nothing"
            )


def test_a_strip_that_is_missing_has_the_means_of_symbols_of_0(model: Model, photo: np.ndarray) -> None:
    """docs/format.md: the others' pixels need not change for it."""
    header, sections = parse(model.encode(photo, QUALITY))
    level, grid = model.pipeline.level(header.quality_steps, "rgb"), model.pipeline.grid(512, 512)
    hyper = (sections[0][0], bytes(sections[0][1]))  # type: ignore[arg-type]
    [(symbols, y_hat)] = model.pipeline.decode_strips([hyper, (SECTION_LATENT, Cut(b""))], 512, 512, level, range(1))
    held = model.symbols(model.encode(photo, QUALITY)).hyper
    nothing = np.zeros((model.bundle.coding["pyramid"], STRIP_ROWS, grid[1]), np.int16)
    mean = model.pipeline._means(held, slice(0, STRIP_ROWS), level, nothing, nothing)  # type: ignore[attr-defined]
    told = len(mean)
    assert symbols is None and not y_hat[told:].any()
    assert mean.any() and np.array_equal(y_hat[:told], mean * level.inverse_gain[0, :told])


def test_a_cut_before_the_strips_cannot_be_decoded_where_all_strips_need_what_is_missing(each: Model, data: bytes) -> None:
    header = parse(data)[0]
    has_head = header.sections[0][0] != SECTION_LATENT
    for length in (header.header_bytes, header.header_bytes + has_head * (header.sections[0][1] - 1)):
        if has_head:
            with pytest.raises(TruncatedError, match="hyper section"):
                each.decode(data[:length], allow_truncated=True)
        else:
            assert each.decode(data[:length], allow_truncated=True).size == (header.width, header.height)
    with pytest.raises(TruncatedError, match="section list"):
        each.decode(data[: header.header_bytes - 1], allow_truncated=True)


def test_every_cut_is_a_picture_or_one_line(model: Model, picture: Picture) -> None:
    data = model.encode(picture(520, 8), 20)
    kinds = set()
    for length in range(len(data)):
        try:
            kinds.add(model.decode(data[:length], allow_truncated=True).size)
        except FewbitsError as error:
            assert "\n" not in str(error)
            kinds.add(type(error))
    assert (8, 520) in kinds and TruncatedError in kinds
    assert np.array_equal(model.decode(data, allow_truncated=True), model.decode(data)), "what is whole is decoded as ever"
    with pytest.raises(CorruptError, match="1 bytes follow"):
        model.decode(data + b"\0", allow_truncated=True)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_levels_are_rounded_and_clipped_and_what_is_no_number_is_0(dtype: type, top: int) -> None:
    numbers = np.array([0, 1, top - 1, top, 0.49, 0.51, top - 0.51, top + 3, -3, np.inf, -np.inf])
    planes = np.tile((numbers / top - 0.5).astype(np.float32), (3, 2, 1))
    expected = [0, 1, top - 1, top, 0, 1, top - 1, top, 0, top, 0]
    assert levels_of(planes, dtype).dtype == dtype and (levels_of(planes, dtype) == expected).all()
    planes[1, 1] = np.nan
    assert (levels_of(planes, dtype)[0] == expected).all() and (levels_of(planes, dtype)[1, 1] == 0).all()
    assert levels_of(planes[:, :0], dtype).shape == (3, 0, 11)
    levels = levels_of(planes, dtype)
    assert levels_of(levels, dtype) is levels


def test_pixels_that_are_interleaved_already_stay_so() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for planes in (pixels.transpose(2, 0, 1), np.ascontiguousarray(pixels.transpose(2, 0, 1))):
        target = np.empty((4, 6, 3), np.uint8)
        interleave(planes, target[:, :5])
        assert np.array_equal(target[:, :5], pixels)

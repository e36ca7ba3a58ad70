# SPDX-License-Identifier: MIT
"""The coding pipeline: levels in whole numbers, tiles and strips that change nothing, checksums."""

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.codec import Model
from fewbits.coding.streams import SignedTable
from fewbits.coding.tables import FrequencyTable
from fewbits.container import Header, pack, parse
from fewbits.errors import CorruptError, FormatError, ModelError
from fewbits.runtime import hyperprior
from fewbits.runtime.engines import Network, onnxruntime_engine
from fewbits.runtime.hyperprior import HyperpriorCodec, Symbols
from fewbits.runtime.levels import floats_at, integers_at
from fewbits.runtime.pipeline import strips_of
from fewbits.runtime.places import Places

Picture = Callable[..., np.ndarray]

integer_tables = st.lists(
    st.lists(st.integers(-(2**21), 2**21), min_size=3, max_size=3), min_size=2, max_size=9
)  # 2**21 is the largest bias that IntegerConv allows


@given(integer_tables, st.integers(0, 10_000))
def test_integer_levels_are_interpolated_and_rounded_down_exactly(table: list[list[int]], quality: int) -> None:
    position = Fraction(quality * (len(table) - 1), 10_000)
    left = min(int(position), len(table) - 2)
    expected = [
        (low * (1 - (position - left)) + high * (position - left)).__floor__()
        for low, high in zip(table[left], table[left + 1], strict=True)
    ]
    assert integers_at(np.array(table, np.int32), quality).tolist() == expected


@given(integer_tables)
def test_the_ends_of_the_quality_range_are_the_ends_of_the_table(table: list[list[int]]) -> None:
    assert integers_at(np.array(table), 0).tolist() == table[0]
    assert integers_at(np.array(table), 10_000).tolist() == table[-1]
    floats = np.array(table, np.float32)
    assert np.array_equal(floats_at(floats, 0)[0, :, 0, 0], floats[0])
    assert np.array_equal(floats_at(floats, 10_000)[0, :, 0, 0], floats[-1])


@given(st.integers(0, 10_000), st.integers(2, 9))
def test_float_levels_are_interpolated(quality: int, levels: int) -> None:
    row = floats_at(np.arange(levels, dtype=np.float32)[:, None].repeat(2, 1), quality)
    assert row.dtype == np.float32 and row.shape == (1, 2, 1, 1)
    assert np.allclose(row, quality / 10_000 * (levels - 1), rtol=1e-6, atol=1e-6)


@given(st.integers(1, 2**20), st.integers(1, 2**20))
def test_grids_cover_the_picture_and_no_more(model: Model, height: int, width: int) -> None:
    rows, columns = model.pipeline.grid(height, width)
    assert 16 * (rows - 1) < height <= 16 * rows and 16 * (columns - 1) < width <= 16 * columns
    z_rows, z_columns = HyperpriorCodec.hyper_grid(rows, columns)
    assert 4 * (z_rows - 1) < rows <= 4 * z_rows and 4 * (z_columns - 1) < columns <= 4 * z_columns


def test_the_checksum_is_pinned() -> None:
    """docs/format.md: hyper symbols as int8, latent symbols as little-endian int16, each channel by channel, row by row."""
    symbols = Symbols(np.array([[[1, -1]]], np.int8), np.array([[[-32768, 258]], [[0, 7]]], np.int16))
    assert symbols.crc() == zlib.crc32(bytes.fromhex("01ff 0080 0201 0000 0700"))
    turned = Symbols(symbols.hyper, np.asfortranarray(symbols.latent))
    assert turned.crc() == symbols.crc()


def test_the_frozen_tables_of_the_shipped_model_are_tables(model: Model) -> None:
    tables = model.bundle.tables
    limits = tables["y_limits"]
    stops = np.cumsum(2 * limits.astype(int) + 2)
    assert stops[-1] == len(tables["y_frequencies"]) and len(limits) == 64
    rows = [SignedTable(FrequencyTable(part)) for part in np.split(tables["y_frequencies"], stops[:-1])]
    assert [row.limit for row in rows] == limits.tolist()
    assert (np.diff(limits) >= 0).all(), "a larger scale needs no narrower table"
    for row in rows:
        values = row.table.frequencies[:-1]
        assert np.abs(values - values[::-1]).max() <= 1, "bells are symmetric"
        assert (np.diff(values[row.limit :]) <= 1).all(), "and fall"
    for row in tables["z_frequencies"].reshape(-1, 17):
        FrequencyTable(row)


def with_dead_zones(model: Model, zones: list[float]) -> HyperpriorCodec:
    bundle = replace(model.bundle, card=dict(model.bundle.card) | {"dead_zones": zones})
    return HyperpriorCodec(bundle, onnxruntime_engine(1))


def test_a_dead_zone_rounds_to_zero_what_is_near_and_changes_nothing_else(model: Model, photo: np.ndarray) -> None:
    plain, zoned = with_dead_zones(model, [0.0] * 64), with_dead_zones(model, [0.2] * 64)
    rng = np.random.default_rng(0)
    residual, index = rng.normal(0, 3, (320, 7, 8)).astype(np.float32), rng.integers(0, 64, (320, 7, 8), np.uint8)
    before, after = plain._rounded(residual.copy(), index), zoned._rounded(residual.copy(), index)
    moved = before - after
    assert set(np.unique(moved)) == {-1, 0, 1} and (moved != 0).mean() > 0.1
    coded = index >= model.bundle.coding["first_coded_index"]
    assert (np.abs(after) <= np.abs(before)).all() and (np.abs(residual - after)[coded] <= 0.7 + 1e-5).all()
    assert not before[~coded].any() and (~coded).mean() > 0.05

    level = plain.level(5000, "rgb")
    y = plain.analyse(photo[:100, :120], level, lambda _: None)
    (few, _), (fewer, sections) = plain.quantize(y, level), zoned.quantize(y, level)
    assert np.array_equal(few.hyper, fewer.hyper) and (fewer.latent != 0).sum() < (few.latent != 0).sum()
    decoded = model.pipeline.decode_symbols(sections, 100, 120, level)  # the decoder needs to know nothing of it
    assert np.array_equal(decoded.latent, fewer.latent)


@pytest.mark.parametrize("zones", [[0.0] * 63, [0.6] * 64, [-0.1] * 64, ["x"] * 64, "zones", 0.1])
def test_other_dead_zones_than_one_a_scale_are_refused(model: Model, zones: Any) -> None:
    with pytest.raises(ModelError):
        with_dead_zones(model, zones)


@pytest.mark.parametrize("means", [-1, 318, 10**30, float("nan"), float("inf"), None, [5], "x"], ids=str)
def test_numbers_of_means_that_cannot_be_are_refused(model: Model, means: Any) -> None:
    bundle = replace(model.bundle, coding=dict(model.bundle.coding) | {"means": means})
    with pytest.raises(ModelError, match="is missing or wrong in the bundle"):
        HyperpriorCodec(bundle, onnxruntime_engine(1))


@pytest.mark.parametrize("means", [1, 30, 317])
def test_a_network_of_other_means_is_refused(model: Model, picture: Picture, means: int) -> None:
    bundle = replace(model.bundle, coding=dict(model.bundle.coding) | {"means": means})
    codec = HyperpriorCodec(bundle, onnxruntime_engine(1))
    with pytest.raises(ModelError, match="network means gives"):
        codec.encode(picture(40, 40), codec.level(6000, "rgb"), lambda _: None)


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("TILE_ROWS", 4), ("TILE_COLUMNS", 8), ("PRIOR_COLUMNS", 1)):
        monkeypatch.setattr(hyperprior, name, size)


def test_tiles_change_time_and_memory_but_not_the_result(
    model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = photo[30:231, 140:299]  # 13 x 10 latent positions
    whole_y = model.pipeline.analyse(crop, model.pipeline.level(6000, "rgb"), lambda _: None)
    data = model.encode(crop, 70)
    whole, whole_symbols = model.decode(data), model.symbols(data)
    small_tiles(monkeypatch)
    done: list[float] = []
    tiled_y = model.pipeline.analyse(crop, model.pipeline.level(6000, "rgb"), done.append)
    assert len(done) == 8 and done[-1] == 1 and sorted(done) == done
    assert np.abs(tiled_y - whole_y).max() < 2e-5 * np.abs(whole_y).max()
    tiled_data = model.encode(crop, 70)
    assert all(np.array_equal(one, other) for one, other in zip(model.symbols(data), whole_symbols, strict=True))
    symbols, tiled_symbols = model.symbols(data), model.symbols(tiled_data)
    # Sums in another order may put a value on the other side of a half; nothing else.
    for one, other in zip(symbols, tiled_symbols, strict=True):
        apart = one != other
        assert np.abs(one[apart].astype(int) - other[apart]).max(initial=0) <= 1 and apart.mean() < 1e-3
    levels = np.abs(np.asarray(model.decode(data), int) - np.asarray(whole, int))
    assert levels.max() <= 1


def test_a_halo_that_is_too_narrow_would_show(model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the test above."""
    crop = photo[30:231, 140:299]
    whole_y = model.pipeline.analyse(crop, model.pipeline.level(6000, "rgb"), lambda _: None)
    small_tiles(monkeypatch)
    monkeypatch.setattr(model.pipeline, "_halo", 0)
    assert (
        np.abs(model.pipeline.analyse(crop, model.pipeline.level(6000, "rgb"), lambda _: None) - whole_y).max()
        > 2e-5 * np.abs(whole_y).max()
    )


def test_hyper_tiles_change_nothing(model: Model, monkeypatch: pytest.MonkeyPatch, picture: Picture) -> None:
    """A picture of more latent rows and columns than one hyper tile: the same hyper symbols with and without tiles."""
    pixels = picture(16 * 70, 16 * 5)
    tiled = model.symbols(model.encode(pixels, 30)).hyper
    monkeypatch.setattr(hyperprior, "TILE_ROWS", 4096)
    whole = model.symbols(model.encode(pixels, 30)).hyper
    assert tiled.shape[1:] == (18, 2)
    assert (tiled != whole).mean() < 1e-2 and np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("height", "n_strips"), [(1, 1), (511, 1), (512, 1), (513, 2), (1025, 3)])
def test_every_512_rows_begin_a_strip(model: Model, picture: Picture, height: int, n_strips: int) -> None:
    pixels = picture(height, 20)
    data = model.encode(pixels, 40)
    header, sections = parse(data)
    assert [kind for kind, _ in sections] == [1] + [2] * n_strips
    assert model.symbols(data).latent.shape == (model.pipeline.latent_channels, -(-height // 16), 2)
    assert np.asarray(model.decode(data)).shape == pixels.shape
    for count in {n_strips - 1, n_strips + 1}:
        kept = [bytes(payload) for _, payload in (sections + sections[-1:])[: count + 1]]
        kinds = tuple((kind, len(payload)) for kind, payload in zip([1] + [2] * count, kept, strict=True))
        with pytest.raises(CorruptError, match=f"{count} latent sections, a picture {height} pixels high has {n_strips}"):
            model.decode(pack(with_sections(header, kinds), kept))


def with_sections(header: Header, sections: tuple[tuple[int, int], ...]) -> Header:
    return Header(
        header.family, header.colour, header.model_id, header.width, header.height,
        header.quality_steps, header.symbols_crc, sections,
    )  # fmt: skip


def test_strips_are_coded_by_themselves(model: Model, picture: Picture) -> None:
    """Damage in one strip's stream leaves the symbols of the others as they were."""
    pixels = picture(1100, 40)
    header, sections = parse(model.encode(pixels, 60))
    streams = [(kind, bytes(payload)) for kind, payload in sections]
    level = model.pipeline.level(header.quality_steps, "rgb")
    good = model.pipeline.decode_symbols(streams, 1100, 40, level)
    bad = None
    kind, stream = streams[-2]
    for place in range(len(stream) // 2, len(stream)):  # not all damage leaves a stream that can be decoded
        damaged = kind, stream[:place] + bytes([stream[place] ^ 0x55]) + stream[place + 1 :]
        with contextlib.suppress(FormatError):
            bad = model.pipeline.decode_symbols([*streams[:-2], damaged, streams[-1]], 1100, 40, level)
            break
    assert bad is not None
    assert np.array_equal(bad.latent[:, :32], good.latent[:, :32]) and np.array_equal(bad.latent[:, 64:], good.latent[:, 64:])
    assert not np.array_equal(bad.latent[:, 32:64], good.latent[:, 32:64])
    assert bad.crc() != good.crc()


def test_a_strip_sees_as_far_as_its_networks_reach(model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale indices of a strip are those of the whole picture; with a narrower halo the files could not be read."""
    pixels = np.concatenate([photo, photo[::-1], photo[:80]])[:, 100:164]
    data = model.encode(pixels, 50)
    symbols, decoded = model.symbols(data), np.asarray(model.decode(data), int)
    monkeypatch.setattr(model.pipeline, "_hyper_halo", 1000)
    assert all(np.array_equal(one, other) for one, other in zip(symbols, model.symbols(data), strict=True))
    assert np.abs(np.asarray(model.decode(data), int) - decoded).max() <= 1
    monkeypatch.setattr(model.pipeline, "_hyper_halo", 0)
    with pytest.raises(CorruptError):
        model.symbols(data)


@pytest.mark.parametrize("quality", [0, 33, 100])
@pytest.mark.parametrize("what", ["black", "white", "noise", "stripes", "red"])
def test_extreme_pictures_come_back(model: Model, what: str, quality: int) -> None:
    pixels = np.zeros((45, 67, 3), np.uint8)
    pixels[:] = {
        "black": 0,
        "white": 255,
        "noise": np.random.default_rng(0).integers(0, 256, (45, 67, 3)),
        "stripes": np.indices((45, 67))[1][:, :, None] % 2 * 255,
        "red": np.array([255, 0, 0]),
    }[what]
    data = model.encode(pixels, quality)
    decoded = np.asarray(model.decode(data), int)
    assert decoded.shape == pixels.shape
    if what not in ("noise", "stripes"):
        assert np.abs(decoded - pixels).mean() < 16, "a flat picture stays flat"
    assert model.pipeline.ideal_bits(model.symbols(data), model.pipeline.level(100 * quality, "rgb")) <= 8 * len(data)


class Loaded:
    """An engine that notes which files it was given."""

    def __init__(self) -> None:
        self.files, self._load = list[bytes](), onnxruntime_engine(1)

    def __call__(self, data: bytes) -> Network:
        self.files.append(data)
        return self._load(data)


@pytest.fixture
def with_integers(model: Model, monkeypatch: pytest.MonkeyPatch) -> tuple[HyperpriorCodec, Loaded]:
    """The shipped model, as where the processor has instructions for 8 bits, and its engine."""
    monkeypatch.setattr(hyperprior, "has_int8", lambda: True)
    engine = Loaded()
    return HyperpriorCodec(model.bundle, engine), engine


@pytest.fixture
def without_integers(model: Model) -> HyperpriorCodec:
    return HyperpriorCodec(replace(model.bundle, integer_scales=b""), onnxruntime_engine(1))


@pytest.mark.parametrize("grid", [(1, 1), (7, 30), (32, 48), (41, 13), (35, 523)])  # the last is wider than a tile of the prior
def test_indices_in_integers_are_those_in_float(
    with_integers: tuple[HyperpriorCodec, Loaded], without_integers: HyperpriorCodec, grid: tuple[int, int]
) -> None:
    pipeline, engine = with_integers
    rng = np.random.default_rng(grid[0])
    for k, quality in enumerate((0, 3217, 6000, 10_000)):
        shape = (pipeline.hyper_channels, *pipeline.hyper_grid(*grid))
        z = (rng.choice([-8, 8], shape) if k % 2 else rng.integers(-8, 9, shape)).astype(np.int8)
        for strip in strips_of(grid[0]):
            (index, counts), (other, others) = (
                each._indices(z, strip, grid, each.level(quality, "rgb")) for each in (pipeline, without_integers)
            )
            assert index.dtype == np.uint8 and np.array_equal(index, other) and np.array_equal(counts, others)
    assert engine.files == [pipeline.bundle.integer_network()]


def test_without_instructions_for_8_bits_indices_come_from_the_float_network(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hyperprior, "has_int8", lambda: False)
    engine = Loaded()
    pipeline = HyperpriorCodec(model.bundle, engine)
    pipeline._indices(np.zeros((pipeline.hyper_channels, 2, 2), np.int8), slice(0, 8), (8, 8), pipeline.level(5000, "rgb"))
    assert engine.files == [model.bundle.networks["scales"]]


def test_several_qualities_in_a_tile_are_for_the_float_network(
    with_integers: tuple[HyperpriorCodec, Loaded], without_integers: HyperpriorCodec
) -> None:
    """Of a map whose first strip has one quality, the second two, and the third the other."""
    pipeline, engine = with_integers
    grid = (96, 40)
    classes = np.zeros(pipeline.hyper_grid(*grid), np.uint8)
    classes[12:, 5:] = 1
    classes[14:] = 1
    places = Places((8000, 3000), classes)
    z = np.random.default_rng(1).integers(-8, 9, (pipeline.hyper_channels, *classes.shape)).astype(np.int8)
    loaded = []
    for strip in strips_of(grid[0]):
        (index, counts), (other, others) = (
            each._indices(z, strip, grid, each.level(8000, "rgb", places)) for each in (pipeline, without_integers)
        )
        assert np.array_equal(index, other) and np.array_equal(counts, others)
        loaded.append(len(engine.files))
    assert engine.files == [pipeline.bundle.integer_network(), pipeline.bundle.networks["scales"]] and loaded == [1, 2, 2]


@pytest.mark.parametrize(
    "made", [np.zeros((1, 320, 4, 8), np.uint8), np.zeros((1, 320, 8, 8), np.float32), np.zeros(3, np.uint8)]
)
def test_indices_of_another_shape_or_type_are_a_model_error(
    model: Model, monkeypatch: pytest.MonkeyPatch, made: np.ndarray
) -> None:
    monkeypatch.setattr(hyperprior, "has_int8", lambda: True)
    pipeline = HyperpriorCodec(model.bundle, lambda data: lambda output="", /, **inputs: made)
    z = np.zeros((pipeline.hyper_channels, 2, 2), np.int8)
    with pytest.raises(ModelError, match=r"network scales in integers gives .*, it must be uint8 \(1, 320, 8, 8\)"):
        pipeline._indices(z, slice(0, 8), (8, 8), pipeline.level(5000, "rgb"))


def test_indices_beyond_the_tables_are_the_last_one(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hyperprior, "has_int8", lambda: True)
    made = np.full((1, 320, 8, 8), 255, np.uint8)
    pipeline = HyperpriorCodec(model.bundle, lambda data: lambda output="", /, **inputs: made)
    z = np.zeros((pipeline.hyper_channels, 2, 2), np.int8)
    index, counts = pipeline._indices(z, slice(0, 7), (7, 5), pipeline.level(5000, "rgb"))
    assert (index == 63).all() and index.shape == (320, 7, 5) and counts[63] == counts.sum() == index.size


def test_a_network_in_integers_that_cannot_be_loaded_is_a_model_error(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hyperprior, "has_int8", lambda: True)
    pipeline = HyperpriorCodec(replace(model.bundle, integer_scales=b"no network"), onnxruntime_engine(1))
    z = np.zeros((pipeline.hyper_channels, 2, 2), np.int8)
    with pytest.raises(ModelError, match="network scales: it cannot be loaded"):
        pipeline._indices(z, slice(0, 8), (8, 8), pipeline.level(5000, "rgb"))

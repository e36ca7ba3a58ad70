# SPDX-License-Identifier: MIT
"""A region of interest: files whose quality depends on the place, with the flagship's networks as they are exported now."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fewbits
from fewbits import Target, cli, container
from fewbits.codec import Model, inspect, load_model
from fewbits.container import SECTION_QUALITIES, Header, pack, parse
from fewbits.errors import CorruptError, FewbitsError, FormatError, ImageError, TruncatedError
from fewbits.fidelity import psnr_of
from fewbits.runtime import hyperprior, levels
from fewbits.runtime.engines import onnxruntime_engine
from fewbits.runtime.levels import Level
from fewbits.runtime.places import Places

Picture = Callable[..., np.ndarray]
HIGH, DROP = 70, 40


@pytest.fixture(scope="module")
def pixels(photo: np.ndarray) -> np.ndarray:
    """Of two strips, with sides that are multiples of nothing."""
    return np.concatenate([photo, photo[::-1]])[:631, 100:347]


@pytest.fixture(scope="module")
def mask(pixels: np.ndarray) -> np.ndarray:
    """A disc across the border of the strips, with a soft edge."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    return np.clip(255 * (1.5 - np.hypot(rows - 490, columns - 120) / 90), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(model: Model, pixels: np.ndarray, mask: np.ndarray) -> bytes:
    return model.encode(pixels, HIGH, roi=mask, roi_drop=DROP)


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("TILE_ROWS", 4), ("TILE_COLUMNS", 8), ("PRIOR_COLUMNS", 1)):
        monkeypatch.setattr(hyperprior, name, size)


def with_qualities(data: bytes, *contents: bytes) -> bytes:
    """The file with other qualities sections."""
    header, sections = parse(data)
    parts = [(kind, bytes(part)) for kind, part in sections if kind != SECTION_QUALITIES]  # type: ignore[arg-type]
    parts = [*((SECTION_QUALITIES, content) for content in contents), *parts]
    return pack(replace(header, sections=tuple((kind, len(part)) for kind, part in parts)), [part for _, part in parts])


def qualities_of(data: bytes) -> bytes:
    return next(bytes(part) for kind, part in parse(data)[1] if kind == SECTION_QUALITIES)  # type: ignore[arg-type]


def error_in(pixels: np.ndarray, decoded: np.ndarray, where: np.ndarray) -> float:
    return psnr_of(float(np.square(decoded[where].astype(float) - pixels[where]).mean()))


# What it does


def test_white_parts_are_as_good_as_in_a_file_of_their_quality_and_black_ones_as_in_theirs(
    model: Model, pixels: np.ndarray
) -> None:
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[70:440, 70:120] = 255
    white, black = np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
    white[64:448, 64:128] = True
    black[512:], black[:448, 192:] = True, True  # a block away from what is white
    files = {
        "high": model.encode(pixels, HIGH), "low": model.encode(pixels, HIGH - DROP),
        "roi": model.encode(pixels, HIGH, roi=mask, roi_drop=DROP),
    }  # fmt: skip
    decoded = {name: np.asarray(model.decode(file)) for name, file in files.items()}
    assert len(files["low"]) < len(files["roi"]) < len(files["high"])
    assert error_in(pixels, decoded["roi"], white) > error_in(pixels, decoded["high"], white) - 0.2
    assert error_in(pixels, decoded["low"], white) < error_in(pixels, decoded["high"], white) - 2
    assert abs(error_in(pixels, decoded["roi"], black) - error_in(pixels, decoded["low"], black)) < 0.2


def test_the_middle_of_a_large_area_is_that_of_a_plain_file(model: Model, picture: Picture) -> None:
    """As far from the border as all networks together reach, 360 pixels, symbols and pixels are the same. To its right not before
    column 64 of the latent: the pyramid predicts what lies between columns 48 and 64 from both of them."""
    pixels = picture(160, 1200)
    mask = np.zeros((160, 1200), np.uint8)
    mask[:, 600:] = 255
    found = model.encode(pixels, 60, roi=mask, roi_drop=30)
    for quality, part in ((60, np.s_[:, 1024:]), (30, np.s_[:, :280])):
        plain = model.encode(pixels, quality)
        latent = np.s_[:, :, part[1].start and part[1].start // 16 : part[1].stop and part[1].stop // 16]
        assert np.array_equal(model.symbols(found).latent[latent], model.symbols(plain).latent[latent])
        mine, theirs = (np.asarray(model.decode(data), int)[part] for data in (found, plain))
        assert np.abs(mine - theirs).max() <= 1


def test_no_line_is_seen_where_the_quality_steps(model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error's gradient across the four borders, over that at the latent's next borders. Its twin: without interpolation."""
    pixels, mask = photo[:320, 64:448], np.zeros((320, 384), np.uint8)
    mask[128:192, 128:256] = 255
    data = model.encode(pixels, 60, roi=mask, roi_drop=45)

    def excess() -> float:
        error = np.asarray(model.decode(data), float) - pixels
        across = np.abs(np.diff(error[128:192], axis=1)).mean((0, 2))  # [k] lies between columns k and k + 1
        down = np.abs(np.diff(error[:, 128:256], axis=0)).mean((1, 2))
        columns = across[[127, 255]].mean() / across[[111, 143, 239, 271]].mean()  # the photo itself has an edge there
        rows = down[[127, 191]].mean() / down[[111, 143, 175, 207]].mean()
        return float(columns + rows) / 2

    assert excess() < 1.35
    monkeypatch.setattr(Level, "between", Level.at)
    assert excess() > 1.5


def test_the_default_drop_and_the_module_s_functions(model: Model, pixels: np.ndarray, mask: np.ndarray) -> None:
    image, picture = Image.fromarray(mask), Image.fromarray(pixels)
    data = fewbits.encode(picture, 60, roi=image, model=model)
    assert data == model.encode(pixels, 60, roi=mask, roi_drop=30)
    header = inspect(data)
    assert header.quality == 60 and header.has_places and header.parts["qualities"] < 100
    assert np.array_equal(np.asarray(fewbits.decode(data, model=model)), np.asarray(model.decode(data)))


def test_a_mask_that_wants_all_alike_makes_a_plain_file(model: Model, picture: Picture) -> None:
    pixels, white = picture(70, 130), np.full((70, 130), 255, np.uint8)
    assert model.encode(pixels, 50, roi=white) == model.encode(pixels, 50)
    assert model.encode(pixels, 50, roi=white // 2, roi_drop=0) == model.encode(pixels, 50)
    black = model.encode(pixels, 50, roi=0 * white, roi_drop=20)
    plain = model.encode(pixels, 30)
    assert np.array_equal(model.symbols(black).latent, model.symbols(plain).latent)
    assert np.array_equal(np.asarray(model.decode(black)), np.asarray(model.decode(plain)))


@pytest.mark.parametrize("size", [(1, 1), (1, 65), (64, 64), (65, 63), (129, 200)])
@pytest.mark.parametrize("channels", [1, 4])
def test_odd_sizes_grey_and_alpha(model: Model, picture: Picture, size: tuple[int, int], channels: int) -> None:
    pixels = picture(*size)
    pixels = pixels[:, :, :1] if channels == 1 else np.dstack([pixels, pixels[:, :, 0]])
    mask = np.random.default_rng(1).integers(0, 200, size, np.uint8)
    data = model.encode(pixels, 55, roi=mask)
    model.verify(data)
    assert inspect(data).has_places and fewbits.decode_array(data, model=model).shape[:2] == size


# Exactness


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimize", [True, False])
def test_symbols_are_the_same_on_every_engine(
    model: Model, data: bytes, pixels: np.ndarray, mask: np.ndarray, threads: int, optimize: bool
) -> None:
    other = object.__new__(Model)
    engine = onnxruntime_engine(threads, optimize=optimize)
    other.bundle, other.pipeline = model.bundle, hyperprior.HyperpriorCodec(model.bundle, engine)
    made = other.encode(pixels, HIGH, roi=mask, roi_drop=DROP)
    for file in (data, made):
        mine, theirs = model.symbols(file), other.symbols(file)
        assert np.array_equal(mine.hyper, theirs.hyper) and np.array_equal(mine.latent, theirs.latent)
        assert np.abs(np.asarray(model.decode(file), int) - np.asarray(other.decode(file), int)).max() <= 1


def test_tiles_change_nothing(
    model: Model, data: bytes, pixels: np.ndarray, mask: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, symbols = np.asarray(model.decode(data), int), model.symbols(data)
    small_tiles(monkeypatch)
    assert all(np.array_equal(*pair) for pair in zip(model.symbols(data), symbols, strict=True))
    assert np.abs(np.asarray(model.decode(data), int) - whole).max() <= 1
    again = model.symbols(model.encode(pixels, HIGH, roi=mask, roi_drop=DROP))
    for one, other in zip(symbols, again, strict=True):
        apart = one != other
        assert np.abs(one[apart].astype(int) - other[apart]).max(initial=0) <= 1 and apart.mean() < 1e-3


@pytest.mark.parametrize("tiled", [False, True])
def test_regions_and_scales(model: Model, data: bytes, tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.asarray(model.decode(data), int)
    if tiled:
        small_tiles(monkeypatch)
    for x, y, w, h in ((0, 0, 247, 631), (70, 440, 100, 120), (246, 630, 1, 1), (0, 511, 247, 2)):
        part = np.asarray(model.decode(data, region=(x, y, w, h)), int)
        assert np.abs(part - whole[y : y + h, x : x + w]).max() <= 1
    assert model.decode(data, region=(70, 440, 100, 120), scale=4).size == (25, 30)


def test_networks_give_the_same_for_one_value_and_for_the_same_value_at_each_place(model: Model) -> None:
    rng = np.random.default_rng(3)
    level = model.pipeline.level(4321, "rgb")
    y = rng.normal(0, 3, (1, model.pipeline.latent_channels, 8, 12)).astype(np.float32)
    z = rng.integers(-3, 4, (1, model.pipeline.hyper_channels, 2, 3)).astype(np.float32)
    sizes = {"bias_in": (2, 3)}
    cases = {
        "hyper_analysis": ({"y": y}, level.hyper),
        "synthesis": ({"y_hat": y}, level.synthesis),
        "scales": ({"z_hat": z}, level.scales),
    }
    for name, (main, inputs) in cases.items():
        network = model.pipeline._network(name)
        wide = {key: np.tile(value, (1, 1, *sizes.get(key, (8, 12)))) for key, value in inputs.items()}
        assert np.array_equal(network(**main, **inputs), network(**main, **wide)), name


def test_what_holds_at_a_place_does_not_depend_on_the_window(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
    level = model.pipeline.level(9000, "rgb", Places((9000, 5000, 100), classes))
    for values in (level.at, level.between):
        whole = values(level.gain, slice(0, 20), slice(0, 28))
        assert whole.shape[2:] == (20, 28) and whole.dtype == np.float32
        for rows, columns in ((slice(3, 4), slice(0, 28)), (slice(0, 20), slice(27, 28)), (slice(7, 18), slice(5, 6))):
            assert (values(level.gain, rows, columns) == whole[:, :, rows, columns]).all()
    steps = level.at(level.gain, slice(0, 20), slice(0, 28))
    for row, column in ((0, 0), (2, 1), (4, 6)):
        assert np.array_equal(steps[0, :, 4 * row, 4 * column + 3], level.gain[classes[row, column], :, 0, 0])
    assert (level.at(level.gain, slice(0, 5), slice(0, 7), 1) == steps[:, :, ::4, ::4]).all()
    values = np.random.default_rng(1).normal(0, 9, (level.gain.shape[1], 20, 28)).astype(np.float32)
    monkeypatch.setattr(levels, "STRETCH_COLUMNS", 9)
    assert (level.scaled(values, level.gain, slice(0, 20)) == values * steps[0]).all()
    smooth = level.between(level.gain, slice(0, 20), slice(0, 28))
    corners = smooth[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.array_equal(corners, steps[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]), "at the ends the last value goes on"
    assert np.abs(np.diff(smooth, axis=3)).max() < 0.3 * np.abs(np.diff(steps, axis=3)).max()


# Rates, targets, reports


def test_the_estimated_bits_are_those_of_the_file(model: Model, data: bytes) -> None:
    parts = inspect(data).parts
    bits = model.estimated_bits(data)
    assert bits <= 8 * (parts["hyper"] + parts.get("coarse", 0) + parts["latent"]) <= 1.02 * bits + 300
    indexed = model.indexed_symbols(data)
    assert len(indexed.indices) == len(indexed.values) and indexed.bits < bits


@pytest.mark.parametrize("target", [Target(size=6000), Target(psnr=30.0)])
def test_targets_move_all_qualities_together(model: Model, pixels: np.ndarray, mask: np.ndarray, target: Target) -> None:
    data = model.encode(pixels, target=target, roi=mask, roi_drop=DROP)
    header = inspect(data)
    assert header.has_places and data == model.encode(pixels, header.quality, roi=mask, roi_drop=DROP)
    if target.size is not None:
        assert 0.97 * 6000 <= len(data) <= 6000
    else:
        reached = error_in(pixels, np.asarray(model.decode(data)), np.ones(mask.shape, bool))
        assert 30.0 <= reached < 30.4


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_a_mask_is_turned_upright_as_the_picture_is(
    model: Model, picture: Picture, orientation: int, format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue of a review: the mask's EXIF orientation was ignored."""
    turns = {1: 0, 3: 2, 6: 1}[orientation]  # quarters to the left, from what is seen to what is stored
    pixels, mask, exif = picture(150, 140), np.zeros((150, 140), np.uint8), Image.Exif()
    mask[:60, :60], exif[0x0112] = 255, orientation
    for name, array in (("photo", pixels), ("mask", mask)):
        Image.fromarray(np.rot90(array, turns)).save(tmp_path / name, format_name, exif=exif)
    opened = {name: Image.open(io.BytesIO((tmp_path / name).read_bytes())) for name in ("photo", "mask")}
    files = [model.encode(pixels, 70, roi=mask), model.encode(opened["photo"], 70, roi=opened["mask"])]
    paths = [str(tmp_path / name) for name in ("photo", "out.few", "mask")]
    monkeypatch.setattr("sys.argv", ["fewbits", "encode", *paths[:2], "-q", "70", "--roi", paths[2]])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    files.append((tmp_path / "out.few").read_bytes())
    assert not exit_.value.code and len({(inspect(file).symbols_crc, qualities_of(file)) for file in files}) == 1


def test_the_command_line(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(150, 140)).save(tmp_path / "in.png")
    mask = np.zeros((150, 140), np.uint8)
    mask[:60, :60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fewbits", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), *capsys.readouterr()

    encode = ["encode", tmp_path / "in.png", tmp_path / "out.few", "-q", 70]
    assert run(*encode, "--roi", tmp_path / "mask.png", "--roi-drop", 25)[0] == 0
    data = (tmp_path / "out.few").read_bytes()
    assert data == load_model().encode(picture(150, 140), 70, roi=mask, roi_drop=25)
    code, out, _ = run("info", tmp_path / "out.few")
    assert code == 0 and "quality 70 in a region of interest, less elsewhere" in out and "qualities 2" in out
    assert json.loads(run("info", "--json", tmp_path / "out.few")[1])["region_of_interest"] is True
    assert run("decode", tmp_path / "out.few", tmp_path / "out.png", "--region", "0,0,70,70")[0] == 0
    for wrong, message in (
        (["--roi-drop", 25], "give --roi, too"),
        (["--roi", tmp_path / "mask.png", "--roi-drop", 101], "range"),
    ):
        code, _, err = run(*encode, "-f", *wrong)
        assert code == 2 and message in err


# What is refused


def test_options_that_are_wrong(model: Model, picture: Picture) -> None:
    pixels, mask = picture(20, 30), np.zeros((20, 30), np.uint8)
    for options, message in (
        ({"roi_drop": 20}, "roi_drop is 20 without a roi"),
        ({"roi": mask, "roi_drop": -1}, "roi_drop is -1, it must be from 0 to 100"),
        ({"roi": mask, "roi_drop": float("nan")}, "roi_drop is nan"),
        ({"roi": mask.T}, "roi: the mask is uint8 of shape"),
        ({"roi": "mask.png"}, r"roi: a str is no picture: open it with PIL\.Image\.open first"),
        ({"roi": [[1], [1, 2]]}, "roi: a list is no Pillow image and no array"),
        ({"roi": mask, "roi_drop": True}, "roi_drop is True"),
    ):
        with pytest.raises(ImageError, match=message):
            model.encode(pixels, 50, **options)  # type: ignore[arg-type]


def without_places(model: Model) -> Model:
    """The same bundle, as one that was exported before there were places."""
    older = object.__new__(Model)
    coding = {name: value for name, value in model.bundle.coding.items() if name != "places"}
    older.bundle = replace(model.bundle, coding=coding)
    older.pipeline = hyperprior.HyperpriorCodec(older.bundle, onnxruntime_engine(1))
    return older


def test_models_that_know_one_quality_only_refuse(model: Model, data: bytes, picture: Picture) -> None:
    older = without_places(model)
    with pytest.raises(ImageError, match="roi: this model, of family few, has one quality for the whole picture"):
        older.encode(picture(20, 30), roi=np.zeros((20, 30), np.uint8))
    klt = load_model("klt", threads=1)
    with pytest.raises(ImageError, match="of family klt, has one quality"):
        klt.encode(picture(20, 30), roi=np.zeros((20, 30), np.uint8))
    for other, file in ((older, data), (klt, with_qualities(klt.encode(picture(631, 247), HIGH), qualities_of(data)))):
        for call in (other.decode, other.verify, other.symbols):
            with pytest.raises(CorruptError, match="a qualities section, which this model cannot have"):
                call(file)


def test_files_without_their_map_or_with_another_are_refused(model: Model, data: bytes) -> None:
    good, other = (
        qualities_of(data),
        qualities_of(model.encode(np.zeros((64, 128, 3), np.uint8), HIGH, roi=np.eye(64, 128, dtype=np.uint8))),
    )
    for contents, message in (
        ([good, good], "2 qualities sections"),
        ([good[:-1]], "qualities: the section's checksum"),
        ([other], "not the picture's 40 places"),
    ):
        for call in (model.decode, model.verify, model.estimated_bits):
            with pytest.raises(CorruptError, match=message):
                call(with_qualities(data, *contents))
    with pytest.raises(FormatError):
        model.decode(with_qualities(data))  # the symbols are no others' than the map's


def test_a_map_of_a_huge_picture_costs_nothing(model: Model, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    header = replace(inspect(data), width=1 << 14, height=1 << 14)
    huge = pack(header, [bytes(part) for _, part in parse(data)[1]])  # type: ignore[arg-type]
    monkeypatch.setattr(model.pipeline, "decode_strips", lambda *_: pytest.fail("the map is read first"))
    with pytest.raises(CorruptError, match="not the picture's 65536 places"):
        model.decode(huge)


def test_truncated_files(model: Model, data: bytes) -> None:
    header: Header = inspect(data)
    with pytest.raises(TruncatedError, match="qualities section"):
        model.decode(data[: header.header_bytes + 3], allow_truncated=True)
    whole = np.asarray(model.decode(data), int)
    cut = np.asarray(model.decode(data[:-5], allow_truncated=True), int)
    assert np.abs(cut - whole)[:400].max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_refused_or_harmless(model: Model, picture: Picture, seed: int) -> None:
    mask = np.zeros((70, 140), np.uint8)
    mask[:, 100:] = 255
    data = model.encode(picture(70, 140), 40, roi=mask)
    good, rng, refused = model.decode(data), np.random.default_rng(seed), 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            found: Any = model.decode(bytes(damaged))
        except FewbitsError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert np.array_equal(np.asarray(found), np.asarray(good))
    assert refused > 40


def test_the_section_number_is_pinned() -> None:
    assert container.SECTION_QUALITIES == 5 and 5 in container.CRITICAL

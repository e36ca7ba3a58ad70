# SPDX-License-Identifier: MIT
"""encode, decode, inspect and the models they use: what goes in comes out, at the size the model promises."""

import functools
import inspect as python_inspect
import io
import math
import shutil
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fewbits
from fewbits import Target, codec, installed
from fewbits.codec import Model, decode, decode_array, encode, inspect, load_model, model_of, quality_steps
from fewbits.container import Header, Limits, pack, parse
from fewbits.errors import CorruptError, FewbitsError, FormatError, ImageError, LimitError, ModelError, NotFewbitsError
from fewbits.fidelity import ssimulacra2
from fewbits.picture import Metadata, Picture
from fewbits.picturefile import read_picture
from fewbits.structure import decibels, ssim

Draw = Callable[..., np.ndarray]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(1e-6, np.square(np.asarray(a, float) - np.asarray(b, float)).mean()))


# Public names


def test_public_names_are_those_of_all() -> None:
    public = {name for name in dir(fewbits) if not name.startswith("_") and not python_inspect.ismodule(getattr(fewbits, name))}
    assert sorted(public | {"__version__"}) == sorted(fewbits.__all__) == fewbits.__all__
    assert all(hasattr(fewbits, name) for name in fewbits.__all__)


# Round trips


@pytest.mark.parametrize("quality", [0, 0.01, 25, 60.5, 99.99, 100])
def test_a_photo_comes_back(model: Model, photo: np.ndarray, quality: float) -> None:
    crop = photo[:200, 150:333]
    data = model.encode(crop, quality)
    header = inspect(data)
    assert isinstance(header, Header)
    assert (header.width, header.height, header.colour, header.family) == (183, 200, "rgb", "few")
    assert header.quality == pytest.approx(quality) and header.model_id == model.bundle.model_id
    assert header.file_bytes == len(data)
    decoded = model.decode(data)
    assert decoded.mode == "RGB" and decoded.size == (183, 200)
    assert psnr(crop, decoded) > 20
    assert np.array_equal(decode(data), model_of(header).decode(data))
    own = model_of(header, precision="fp32").decode(data)
    assert np.abs(np.asarray(own, int) - np.asarray(decoded, int)).max() <= 1


@pytest.mark.parametrize("name", sorted(Path(path).name for path in installed.installed_models()))
def test_more_quality_means_more_bytes_and_better_pictures_whatever_the_model(name: str, photo: np.ndarray) -> None:
    """By PSNR, or by MS-SSIM where a model was trained for that."""
    model, crop = load_model(name, threads=1), photo[:256, 100:356]
    score = psnr
    if "ms-ssim" in model.bundle.card["training"].get("loss", "mse"):
        pytest.importorskip("scipy")
        from fewbits.structure import ms_ssim as score
    files = [model.encode(crop, quality) for quality in range(0, 101, 10)]
    sizes = [len(data) for data in files]
    scores = [score(crop, np.asarray(model.decode(data))) for data in files]
    assert sizes == sorted(set(sizes))
    assert scores == sorted(set(scores))


def test_files_are_made_the_same_twice(model: Model, picture: Draw) -> None:
    pixels = picture(70, 90)
    assert model.encode(pixels, 50) == model.encode(pixels.copy(), 50) == encode(pixels, 50, model=model)


SIZES = [
    (1, 1),
    (1, 2),
    (2, 1),
    (3, 2),
    (15, 16),
    (16, 16),
    (16, 17),
    (17, 1),
    (1, 65),
    (63, 65),
    (64, 64),
    (65, 63),
    (1, 1000),
    (1000, 1),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_every_size_comes_back(model: Model, picture: Draw, size: tuple[int, int], colour: str) -> None:
    pixels = picture(*size) if colour == "rgb" else picture(*size)[:, :, 0]
    for quality in (0, 100):
        decoded = model.decode(model.encode(pixels, quality))
        assert decoded.mode == ("RGB" if colour == "rgb" else "L") and np.asarray(decoded).shape == pixels.shape
    assert psnr(pixels, decoded) > 22


@pytest.mark.parametrize("name", ["1x1", "1x17", "17x1", "1x1000", "1000x1", "2x3", "7x9", "63x65", "64x64", "65x63", "129x31"])
def test_the_odd_sizes_of_the_edge_set_come_back(model: Model, shared: Path, name: str) -> None:
    path = shared / "edge" / "odd" / f"size_{name}.png"
    picture = read_picture(path.read_bytes(), path.name)
    pixels, decoded = picture.pixels, np.asarray(model.decode(model.encode(picture, 90)))
    assert decoded.shape[:2] == pixels.shape[:2]
    assert psnr(decoded if decoded.ndim == 3 else decoded[:, :, None], pixels) > 24


@pytest.mark.parametrize(("quality", "limit"), [(0, 100), (installed.DEFAULT_QUALITY, 100), (100, 200)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_one_pixel_costs_less_than_a_hundred_bytes(model: Model, quality: float, limit: int, value: int) -> None:
    assert len(model.encode(np.full((1, 1, 3), value, np.uint8), quality)) < limit


@pytest.mark.parametrize("quality", [0, 50, 100])
def test_size_is_the_estimate_and_at_most_one_percent_and_64_bytes(model: Model, photo: np.ndarray, quality: float) -> None:
    for pixels in (photo[:256, :256], photo[100:101, 100:101], photo[:61, :33]):
        data = model.encode(pixels, quality)
        ideal = model.estimated_bits(data) / 8
        assert ideal < len(data) <= 1.01 * ideal + 64


def test_every_strip_adds_no_more_than_its_own_overhead(model: Model, photo: np.ndarray) -> None:
    tall = np.concatenate([photo, photo[::-1], photo])[:, 200:300]
    data = model.encode(tall, 50)
    n_streams = len(inspect(data).sections) - 1
    assert n_streams % 3 == 0 and len(data) <= 1.01 * model.estimated_bits(data) / 8 + 64 + 16 * (n_streams - 1)


def test_progress_rises_to_one(model: Model, picture: Draw) -> None:
    encoding: list[float] = []
    decoding: list[float] = []
    model.decode(model.encode(picture(50, 1100), progress=encoding.append), progress=decoding.append)
    for done in (encoding, decoding):
        assert len(done) > 1 and done == sorted(done) and done[0] > 0 and done[-1] == 1


def test_kinds_of_input_make_no_difference(model: Model, picture: Draw) -> None:
    pixels = picture(20, 30)
    data = model.encode(pixels)
    assert model.encode(Image.fromarray(pixels)) == data
    for kind in (bytearray, memoryview):
        assert np.array_equal(model.decode(kind(data)), model.decode(data))


def test_a_model_may_be_shared_between_threads(model: Model, picture: Draw) -> None:
    fresh = Model({p.name: p.read_bytes() for p in (Path(codec.__file__).parent / "weights/few").iterdir()}, "few")
    pictures = [picture(40 + k, 50, k) for k in range(4)]
    expected = [model.encode(pixels) for pixels in pictures]
    found: list[bytes | BaseException | None] = [None] * 4

    def work(k: int) -> None:
        try:
            data = fresh.encode(pictures[k])
            fresh.decode(data)
            found[k] = data
        except BaseException as error:
            found[k] = error

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, bytes), one
        assert len(one) == pytest.approx(len(other), rel=0.02), "thread counts may differ in the last bits of a float"


def test_parts_and_scales_of_grey_pictures_too(model: Model, picture: Picture) -> None:
    for pixels in (picture(50, 70), picture(50, 70)[:, :, 0]):
        data = model.encode(pixels)
        whole = np.asarray(decode(data, model=model), int)
        part = decode(data, region=(3, 5, 40, 30), scale=2, model=model)
        assert part.size == (20, 15) and part.mode == ("RGB" if pixels.ndim == 3 else "L")
        means = whole[5:35, 3:43].reshape(15, 2, 20, 2, *pixels.shape[2:]).mean((1, 3))
        assert np.abs(np.asarray(part) - means).max() <= 1.5


def test_a_cut_file_is_decoded_on_request(model: Model, picture: Picture) -> None:
    cut = model.encode(picture(530, 30))[:-7]
    assert inspect(cut).file_bytes == len(cut) + 7
    with pytest.raises(FewbitsError, match="truncated"):
        decode(cut, model=model)
    assert decode(cut, allow_truncated=True, model=model).size == (30, 530)


def test_a_picture_that_is_given_away_is_not_held_while_it_is_coded(
    model: Model, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Image.fromarray(picture(40, 40))
    alive = weakref.ref(given)
    encoding = model.pipeline.encode
    seen = []
    monkeypatch.setattr(model.pipeline, "encode", lambda *rest: (seen.append(alive() is None), encoding(*rest))[1])
    pictures = [given]
    del given
    model.encode(pictures.pop(), 50)
    assert seen == [True]


# Options


@pytest.mark.parametrize(
    ("quality", "steps"),
    [(0, 0), (100, 10_000), (60, 6000), (33.333, 3333), (0.29, 29), (0.999, 100), (0.004, 0), (np.float32(50), 5000)],
)
def test_quality_is_kept_in_hundredths(quality: float, steps: int) -> None:
    assert quality_steps(quality) == steps


@pytest.mark.parametrize("quality", [-0.01, 100.01, math.nan, math.inf, -math.inf])
def test_other_qualities_are_refused(quality: float) -> None:
    with pytest.raises(ImageError, match=f"quality is {quality}, it must be from 0 to 100"):
        encode(np.zeros((1, 1, 3), np.uint8), quality)


def test_unsuitable_pictures_are_value_errors() -> None:
    with pytest.raises(ValueError, match="dtype is float64"):
        encode(np.zeros((4, 4, 3)))
    with pytest.raises(FewbitsError, match="is no picture"):
        encode("photo.jpg")


# What a file keeps beside its colours


def test_alpha_and_metadata_are_kept_exactly(model: Model, picture: Draw) -> None:
    image = Image.fromarray(np.dstack([picture(30, 41), picture(30, 41)[:, :, 0]]))
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    image.info |= {"icc_profile": b"a profile", "exif": exif.tobytes(), "xmp": b"<xmp/>"}
    plain = model.encode(image.convert("RGB"), 70)
    decoded = model.decode(model.encode(image, 70))
    assert decoded.mode == "RGBA" and decoded.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert decoded.info == image.info
    opaque = Image.fromarray(np.asarray(image)[:, :, :3])
    opaque.putalpha(255)
    assert len(model.encode(opaque, 70)) < len(plain) and model.decode(model.encode(opaque, 70)).mode == "RGB"


def test_colours_under_full_transparency_cost_nothing(model: Model, picture: Draw) -> None:
    pixels, alpha = picture(96, 128), np.zeros((96, 128), np.uint8)
    alpha[:, :64] = 255
    noisy = pixels.copy()
    noisy[:, 64:] = np.random.default_rng(2).integers(0, 256, (96, 64, 3))
    opaque, hidden = model.encode(noisy, 80), model.encode(np.dstack([noisy, alpha]), 80)
    shown = model.encode(pixels[:, :64], 80)
    assert len(hidden) < 1.3 * len(shown) + 200 and len(hidden) < 0.5 * len(opaque)
    decoded = np.asarray(model.decode(hidden))
    assert psnr(decoded[:, :64, :3], np.asarray(model.decode(shown))) > 30


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_stay_finer_than_eight(model: Model, channels: int) -> None:
    """A gradient that spans a few of 256 levels: at 16 bits it has far more than these few."""
    ramp = np.linspace(30_000, 31_000, 64 * 64).reshape(64, 64, 1).repeat(channels, 2).astype(np.uint16)
    data = model.encode(ramp, 95)
    assert inspect(data).depth == 16
    deep = model.decode_picture(data, depth=16).array()
    assert deep.dtype == np.uint16 and deep.shape == ramp.squeeze().shape
    if channels in (2, 4):
        assert np.array_equal(deep[:, :, -1], ramp[:, :, -1])
    assert np.abs(deep.astype(int) - ramp.squeeze()).mean() < 257 and len(np.unique(deep.reshape(64, 64, -1)[:, :, 0])) > 100
    shallow = model.decode_picture(data).array()
    assert shallow.dtype == np.uint8 and np.abs(shallow.astype(int) * 257 - deep)[..., 0].max() <= 257


def test_arrays_come_back_as_arrays(picture: Draw) -> None:
    data = encode(picture(20, 30)[:, :, :2], 50)
    array = decode_array(data)
    assert array.shape == (20, 30, 2) and np.array_equal(array, np.asarray(decode(data)))
    assert decode_array(data, depth=16).dtype == np.uint16
    with pytest.raises(ImageError, match="depth is 12, it must be 8 or 16"):
        decode_array(data, depth=12)


def test_grey_costs_less_than_colour(model: Model, picture: Draw) -> None:
    """It is one plane of information: that its three planes are equal must cost next to nothing."""
    pixels = picture(128, 128)
    grey = model.encode(pixels[:, :, 0], 60)
    as_rgb = model.encode(np.repeat(pixels[:, :, :1], 3, 2), 60)
    assert len(grey) < len(model.encode(pixels, 60)) and abs(len(grey) - len(as_rgb)) <= 8


def test_damage_beside_the_latent_is_noticed(model: Model, picture: Draw) -> None:
    data = model.encode(Picture(picture(16, 16), "rgb", picture(16, 16)[:, :, 0], Metadata(icc=b"a profile")), 50)
    header = inspect(data)
    beside = header.header_bytes + header.parts["alpha"] + header.parts["icc"]  # they come first
    for place in range(header.header_bytes, beside):
        with pytest.raises(FewbitsError):
            model.decode(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])


def test_verifying_finds_what_decoding_finds(model: Model, picture: Draw) -> None:
    image = Image.fromarray(np.dstack([picture(20, 30), np.arange(600).reshape(20, 30) // 3]).astype(np.uint8))
    image.info["xmp"] = b"<x/>"
    data = model.encode(image)
    model.verify(data)
    assert {"alpha", "xmp", "latent"} <= inspect(data).parts.keys()
    place = inspect(data).header_bytes
    for _, size in inspect(data).sections:
        damaged = data[: place + size // 2] + bytes([data[place + size // 2] ^ 0x55]) + data[place + size // 2 + 1 :]
        for use in (model.verify, model.decode):
            with pytest.raises(FormatError):
                use(damaged)
        place += size


# Files that are not what they say


@pytest.fixture(scope="module")
def small(model: Model) -> bytes:
    rng = np.random.default_rng(1)
    return model.encode(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8), 50)


def repacked(data: bytes, change: Callable[[list[tuple[int, bytes]]], list[tuple[int, bytes]]], **fields: object) -> bytes:
    """The file with other sections and header fields, and right checksums of the header."""
    header, sections = parse(data)
    parts = change([(kind, bytes(payload)) for kind, payload in sections])
    sizes = tuple((kind, len(payload)) for kind, payload in parts)
    return pack(replace(header, sections=sizes, **fields), [payload for _, payload in parts])


def test_sections_that_may_be_skipped_change_nothing(model: Model, small: bytes) -> None:
    expected = model.decode(small)
    for place in (0, 1, 2):
        for kind in (131, 255):
            extra = (kind, b"from the future")
            changed = repacked(small, lambda parts, place=place, extra=extra: [*parts[:place], extra, *parts[place:]])
            assert len(changed) == len(small) + 5 + 15
            assert np.array_equal(model.decode(changed), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: [], "0 hyper sections"),
        (lambda parts: parts[1:], "0 hyper sections"),
        (lambda parts: parts[:1] + parts, "2 hyper sections"),
        (lambda parts: parts[:1], "0 latent sections"),
        (lambda parts: [*parts, parts[1]], "2 latent sections"),
        (lambda parts: [(1, parts[0][1][:-1]), parts[1]], "multiple of 4"),
        (lambda parts: [parts[0], (2, b"")], None),
        (lambda parts: [(1, b""), parts[1]], None),
        (lambda parts: [parts[0], (2, b"\xff" * 8)], None),
        (lambda parts: [parts[1], (2, parts[0][1])], None),
    ],
)
def test_wrong_sections_are_refused(model: Model, small: bytes, change: Callable, message: str | None) -> None:  # type: ignore[type-arg]
    with pytest.raises(CorruptError, match=message):
        model.decode(repacked(small, change))


@pytest.mark.parametrize(
    "fields",
    [
        {"symbols_crc": 0},
        {"quality_steps": 7000},
        {"quality_steps": 0},
        {"width": 24},
        {"height": 20},
        {"width": 80},
        {"height": 49},
        {"height": 1000},
    ],
    ids=str,
)
def test_wrong_header_fields_are_refused(model: Model, small: bytes, fields: dict[str, int]) -> None:
    """What the symbols depend on cannot be changed without their checksum."""
    with pytest.raises(CorruptError):
        model.decode(repacked(small, lambda parts: parts, **fields))


def test_more_than_the_caller_allows_is_refused(model: Model, small: bytes) -> None:
    header = inspect(small)
    n_pixels = header.width * header.height
    assert model.decode(small, limits=Limits(pixels=n_pixels)).size == (header.width, header.height)
    for read in (decode, decode_array):
        with pytest.raises(LimitError, match=f"width times height is {n_pixels}, at most {n_pixels - 1}"):
            read(small, limits=Limits(pixels=n_pixels - 1))


HUGE = [(1 << 20, 1 << 8), (1 << 14, 1 << 14)]  # one strip, and 32 or 64


@pytest.mark.parametrize("name", ["few", "klt", "slimcae"])
@pytest.mark.parametrize(("width", "height"), HUGE)
@pytest.mark.parametrize("n_bytes", [0, 4, 40])
def test_few_bytes_are_not_268_megapixels(name: str, width: int, height: int, n_bytes: int) -> None:
    """They were: gigabytes were allocated by the header's word."""
    chosen = load_model(name, threads=1)
    good = chosen.encode(np.zeros((1, 1, 3), np.uint8))
    chosen.decode(good)  # loads what is loaded once
    with Tracked() as peak:
        header, sections = parse(good)
        rows = height // (8 if name == "klt" else 16)
        strips = [(2, b"\1" * n_bytes)] * -(-rows // 32)
        parts = [(kind, b"\1" * n_bytes) for kind, _ in sections if kind != 2] + strips
        forged = replace(header, width=width, height=height, sections=tuple((kind, len(part)) for kind, part in parts))
        with pytest.raises(CorruptError, match="or more: the file is damaged|latent sections"):
            chosen.decode(pack(forged, [part for _, part in parts]))
    assert peak() < 30e6


def parts_asked_for(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Fills with the parts of strips of which the prior's networks are run."""
    asked: list[object] = []
    parts = model.pipeline._prior_parts  # type: ignore[attr-defined]

    def noted(*strip: object) -> Iterator[object]:
        for part in parts(*strip):
            asked.append(part)
            yield part

    monkeypatch.setattr(model.pipeline, "_prior_parts", noted)
    return asked


def test_a_strip_too_short_is_noticed_before_all_of_its_prior_is_known(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One strip may be a million pixels wide: two minutes of networks went before its stream of no bytes was looked at."""
    data = model.encode(np.random.default_rng(0).integers(0, 256, (16, 6400, 3), np.uint8), 90)
    asked = parts_asked_for(model, monkeypatch)
    with pytest.raises(CorruptError, match="a stream has 0 bytes, its symbols take"):
        model.decode(repacked(data, lambda parts: [parts[0], (2, b"")]))
    assert len(asked) == 1


def test_the_parts_of_a_strip_are_summed_for_that(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three parts that need 43, 43 and 15 % of its bits, two are too many for 60 % of the bytes."""
    data = model.encode(np.random.default_rng(0).integers(0, 256, (16, 9600, 3), np.uint8), 90)
    pipeline, symbols = model.pipeline, model.symbols(data)
    level = pipeline.level(9000, "rgb")
    _, counts = pipeline._indices(symbols.hyper, slice(0, 1), symbols.latent.shape[1:], level)  # type: ignore[attr-defined]
    n_bytes = int(0.6 / 32 * (counts @ pipeline._least_bits)) * 4  # type: ignore[attr-defined]
    asked = parts_asked_for(model, monkeypatch)
    with pytest.raises(CorruptError, match=f"a stream has {n_bytes} bytes, its symbols take"):
        model.decode(repacked(data, lambda parts: [parts[0], (2, bytes(n_bytes))]))
    assert n_bytes > 100 and len(asked) == 2


def test_symbols_that_are_not_coded_take_nothing() -> None:
    """Nearly all of a flat picture's are: their tables have no say in how long its stream must be."""
    few = load_model("few", threads=1, precision="fp32")
    flat = np.full((64, 4000), 128, np.uint8)
    assert np.abs(np.asarray(few.decode(few.encode(flat, 0)), int) - 128).max() < 9


class Tracked:
    """The most bytes that Python and numpy have allocated inside the block."""

    def __enter__(self) -> Callable[[], float]:
        tracemalloc.start()
        self._peak = 0.0
        return lambda: self._peak

    def __exit__(self, *_: object) -> None:
        self._peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def test_a_missing_model_is_named(small: bytes) -> None:
    other = repacked(small, lambda parts: parts, model_id=b"\x01" * 8)
    with pytest.raises(ModelError, match="made with model 0101010101010101 of family few, which is not installed"):
        decode(other)
    with pytest.raises(ModelError, match="made with model 0101010101010101, not with"):
        decode(other, model=load_model())


# Models


def test_the_shipped_model_is_found_by_name_path_and_header(model: Model, small: bytes) -> None:
    folder = Path(codec.__file__).parent / "weights" / "few"
    assert load_model("few", threads=1) is load_model(folder, threads=1) is load_model(str(folder), threads=1)
    assert load_model().bundle.model_id == model.bundle.model_id == model_of(inspect(small)).bundle.model_id


def test_a_tuning_is_one_of_the_flagship_s_models(picture: Draw) -> None:
    ids = {tune: inspect(encode(picture(20, 30), 40, tune=tune)).model_id for tune in (None, "visual", "psnr")}
    assert ids[None] == ids["visual"] == load_model("few").bundle.model_id
    assert ids["psnr"] == load_model("few-psnr").bundle.model_id != ids["visual"]
    with pytest.raises(ImageError, match="tune is 'speed', it must be one of visual, psnr"):
        encode(picture(20, 30), tune="speed")
    with pytest.raises(ImageError, match="tune is 'psnr' beside a model: give one of them"):
        encode(picture(20, 30), tune="psnr", model=load_model())


def test_models_in_the_folders_of_the_variable_are_found(small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either a bundle itself or a folder of bundles."""
    shipped = Path(codec.__file__).parent / "weights"
    shutil.copytree(shipped / "few", tmp_path / "many" / "copy")
    for module in (codec, installed):
        monkeypatch.setattr(module, "SHIPPED", tmp_path / "none")
    with pytest.raises(ModelError, match="not installed"):
        decode(small)
    for value in (tmp_path / "many", tmp_path / "many" / "copy", f"{tmp_path}/missing:{tmp_path}/many:"):
        monkeypatch.setenv("FEWBITS_MODELS", str(value))
        assert decode(small).size == (40, 40)


def test_threads_that_ask_for_the_same_model_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made, gate = [], threading.Barrier(4)

    def slow_model(*_: object, **__: object) -> object:
        made.append(object())
        time.sleep(0.2)
        return made[-1]

    monkeypatch.setattr(codec, "Model", slow_model)
    monkeypatch.setattr(codec, "_load", functools.lru_cache(codec._load.__wrapped__))  # an empty cache

    def ask(_: int) -> object:
        gate.wait()
        return load_model("klt")

    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(ask, range(4))))) == 1 == len(made)


def test_folders_that_are_no_bundles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no manifest.json: this is not a bundle"):
        load_model(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ModelError, match="manifest.json is damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["", "..", "few/..", "a\0b", "x" * 5000, None, 3], ids=lambda name: repr(name)[:6])
def test_odd_names_of_models_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        load_model(name)


def test_an_upright_picture_comes_back_whoever_opened_it(model: Model) -> None:
    """EXIF orientation is applied in Python as on the command line: nothing in the file could repair it later."""
    pixels = np.zeros((40, 24, 3), np.uint8)
    pixels[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left edge is the top
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    decoded = np.asarray(model.decode(model.encode(Image.open(buffer), 90)))
    assert decoded.shape == (24, 40, 3)
    assert decoded[:, -8:].mean() > 240 and decoded[:, :20].mean() < 15


@pytest.mark.parametrize("image", ["photo.jpg", b"abc", Path("photo.jpg")])
def test_a_name_is_no_picture(model: Model, image: object) -> None:
    with pytest.raises(ImageError, match=r"is no picture: open it with PIL\.Image\.open"):
        model.encode(image)


READ_FIRST = r"read the file first, Path\(\.\.\.\)\.read_bytes\(\)"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("photo.few", f"^data is a str, it must be bytes: {READ_FIRST}$"),
        (Path("photo.few"), f"^data is a \\w+Path, it must be bytes: {READ_FIRST}$"),
        (io.BytesIO(b""), r"^data is a BytesIO, it must be bytes: call its read\(\)$"),
        (None, "^data is a NoneType, it must be bytes$"),
        (Image.new("L", (2, 2)), "^data is a Image, it must be bytes$"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_bytes_is_refused(model: Model, data: object, message: str) -> None:
    for read in (inspect, decode, decode_array, model.decode, model.verify, model.symbols):
        with pytest.raises(ImageError, match=message):
            read(data)  # type: ignore[operator]


@pytest.mark.parametrize(
    "alike",
    [
        bytearray,
        memoryview,
        lambda data: np.frombuffer(data, np.uint8),
        lambda data: np.frombuffer(data, np.uint8).repeat(2)[::2],
    ],
    ids=["bytearray", "memoryview", "array", "strided"],
)
def test_bytes_of_any_kind_are_taken(model: Model, small: bytes, alike: Callable[[bytes], bytes]) -> None:
    assert inspect(alike(small)) == inspect(small)
    assert np.array_equal(model.decode(alike(small)), model.decode(small))
    assert np.array_equal(decode_array(alike(small), model=model), decode_array(small, model=model))
    with pytest.raises(NotFewbitsError, match="it is empty"):
        decode(alike(b""))


def test_a_model_is_taken_by_its_name_and_by_its_folder(picture: Draw) -> None:
    pixels = picture(20, 30)
    data = load_model("klt").encode(pixels)
    assert encode(pixels, model="klt") == encode(pixels, model=installed.SHIPPED / "klt") == data
    assert np.array_equal(decode(data, model="klt"), decode(data))
    assert np.array_equal(decode_array(data, model=str(installed.SHIPPED / "klt")), decode(data))


def test_options_of_other_types_are_refused(small: bytes) -> None:
    pixels = np.zeros((4, 4), np.uint8)
    chosen = "model is a int, it must be a fewbits.Model, or a name or folder as load_model takes it"
    for call, message in (
        (lambda: encode(pixels, model=3), chosen),  # type: ignore[arg-type]
        (lambda: decode(small, model=3), chosen),  # type: ignore[arg-type]
        (lambda: encode(pixels, tune=["psnr"]), "tune is .*, it must be one of visual, psnr"),  # type: ignore[arg-type]
        (lambda: encode(pixels, target="200kB"), r"target is '200kB', it must be a fewbits\.Target, such as"),  # type: ignore[arg-type]
        (lambda: decode(small, limits=10), r"limits is 10, it must be fewbits\.Limits, such as"),  # type: ignore[arg-type]
        (lambda: Limits(pixels="40MP"), "limits: pixels is '40MP', it must be a number"),  # type: ignore[arg-type]
        (lambda: Limits(side=math.nan), "limits: side is nan, it must be a number"),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(ImageError, match=message):
            call()


@pytest.mark.parametrize("threads", [0, -1, "2", 1.5, True])
def test_threads_are_a_whole_number(threads: object) -> None:
    with pytest.raises(ModelError, match=f"threads is {threads!r}, it must be a whole number from 1 on"):
        load_model(threads=threads)  # type: ignore[arg-type]


@pytest.mark.parametrize("quality", ["60", [60], True])
def test_a_quality_is_a_number(model: Model, quality: object) -> None:
    with pytest.raises(ImageError, match="quality is"):
        model.encode(np.zeros((4, 4), np.uint8), quality)  # type: ignore[arg-type]


# Targets

MODELS = sorted(Path(path).name for path in installed.installed_models())
FINE = ("few", "few-psnr")  # with a quality in hundredths; the others have some 30 levels


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_is_as_large_as_it_may_be_and_never_larger(name: str, share: float, photo: np.ndarray) -> None:
    crop = photo[40:200, 100:300]
    model = load_model(name, threads=1)
    least, most = (math.log(len(model.encode(crop, quality))) for quality in (0, 100))
    limit = int(math.exp(least + share * (most - least)))
    data = model.encode(crop, target=Target(size=limit))
    assert len(data) <= limit and np.asarray(model.decode(data)).shape == crop.shape
    assert data == model.encode(crop, inspect(data).quality), "it is a plain file of some quality"
    if name in FINE:
        assert len(data) >= 0.97 * limit
    else:
        levels = list(model.pipeline.qualities)
        following = levels[levels.index(inspect(data).quality_steps) + 1]
        assert len(model.encode(crop, following / 100)) > limit, "the next level is too large"


def test_sizes_beyond_both_ends(model: Model, photo: np.ndarray) -> None:
    crop = photo[:200, :100]
    smallest = len(model.encode(crop, 0))
    with pytest.raises(ImageError, match=f"target size: .* more than 99 bytes, the smallest possible has {smallest}$"):
        model.encode(crop, target=Target(size=99))
    with pytest.raises(ImageError, match=f"target bpp: .* more than 25 bytes, the smallest possible has {smallest}$"):
        encode(crop, target=Target(bpp=0.01), model=model)
    found = model.encode(crop, target=Target(size=smallest))  # qualities a few hundredths up may take as many bytes
    assert len(found) <= smallest and inspect(found).quality < 1
    assert model.encode(crop, target=Target(size="1MB")) == model.encode(crop, 100)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 16)], ids=str)
def test_tiny_pictures_keep_to_sizes(model: Model, picture: Picture, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    smallest = len(model.encode(pixels, 0))
    for limit in range(smallest, smallest + 40, 7):
        assert smallest <= len(model.encode(pixels, target=Target(size=limit))) <= limit


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pixels", ["rgb", "grey"])
def test_a_quality_is_reached_and_not_by_far(name: str, pixels: str, photo: np.ndarray) -> None:
    """A small picture: every attempt is measured whole."""
    crop = photo[40:200, 100:300] if pixels == "rgb" else photo[40:200, 100:300, 1]
    model = load_model(name, threads=1)
    qualities = [model.pipeline.qualities[int(part * (len(model.pipeline.qualities) - 1))] / 100 for part in (0.3, 0.8)]
    scores = [psnr(crop, np.asarray(model.decode(model.encode(crop, quality)))) for quality in qualities]
    for wanted in (scores[0], sum(scores) / 2):
        data = model.encode(crop, target=Target(psnr=wanted))
        reached = psnr(crop, np.asarray(model.decode(data)))
        assert reached >= wanted - 1e-6
        levels = list(model.pipeline.qualities)
        step = 0 if name in FINE else 1
        before = levels[max(levels.index(inspect(data).quality_steps) - step, 0)]
        assert psnr(crop, np.asarray(model.decode(model.encode(crop, before / 100)))) < wanted + (0.11 if name in FINE else 0)


@pytest.mark.parametrize("target", [Target(psnr=33), Target(ssim=0.93)], ids=str)
def test_a_quality_is_reached_by_way_of_a_sample(model: Model, photo: np.ndarray, target: Target) -> None:
    """512 x 512: windows lead, to a tenth of a dB below the target at the least."""
    decoded = np.asarray(model.decode(model.encode(photo, target=target)))
    reached, wanted = (
        (psnr(photo, decoded), target.psnr) if target.psnr else (decibels(ssim(photo, decoded)), decibels(target.ssim or 0))
    )
    assert wanted is not None and wanted - 0.1 <= reached <= wanted + 0.3


def test_a_quality_out_of_reach_gives_the_best_file_and_a_warning(model: Model, picture: Picture) -> None:
    pixels = picture(60, 70)
    with pytest.warns(fewbits.TargetWarning, match="target psnr: 60 is out of reach, this is the best possible: [34]"):
        data = encode(pixels, target=Target(psnr=60), model=model)
    assert data == model.encode(pixels, 100)
    lines: list[str] = []
    assert model.encode(pixels, target=Target(psnr=60), warn=lines.append) == data and len(lines) == 1
    assert model.encode(pixels, target=Target(psnr=1)) == model.encode(pixels, 0)


def test_that_warning_is_of_the_line_that_asked(model: Model, picture: Picture, tmp_path: Path) -> None:
    import fewbits.pillow_plugin

    pixels, target = picture(20, 30), Target(psnr=99)
    for call in (
        lambda: encode(pixels, target=target, model=model),
        lambda: model.encode(pixels, target=target),
        lambda: Image.fromarray(pixels).save(tmp_path / "x.few", target=target, model=model),
    ):
        with pytest.warns(fewbits.TargetWarning) as caught:
            call()
        assert [(each.filename, each.lineno) for each in caught] == [(__file__, call.__code__.co_firstlineno)]


def test_flat_pictures_are_no_trap(model: Model) -> None:
    flat = np.full((40, 40, 3), 255, np.uint8)
    for target in (Target(psnr=30), Target(ssim=0.9), Target(size=5000)):
        assert model.decode(model.encode(flat, target=target, warn=lambda _: None)).size == (40, 40)


def test_a_target_of_ssimulacra2_is_reached(model: Model, photo: np.ndarray) -> None:
    crop = photo[40:140, 100:220]
    data = model.encode(crop, target=Target(ssimulacra2=50))
    assert 50 <= ssimulacra2(crop, np.asarray(model.decode(data))) <= 51


def test_a_quality_beside_a_target_is_refused(model: Model) -> None:
    with pytest.raises(ImageError, match="quality is 60 beside a target of psnr: give one of them"):
        encode(np.zeros((4, 4), np.uint8), 60, target=Target(psnr=30), model=model)


def test_pictures_too_small_for_a_metric_are_refused(model: Model, picture: Picture) -> None:
    with pytest.raises(ImageError, match="SSIM needs pictures of at least 11x11 pixels, this is 30x10"):
        model.encode(picture(10, 30), target=Target(ssim=0.9))


def test_progress_of_a_search_rises_to_one(model: Model, picture: Picture) -> None:
    done: list[float] = []
    model.encode(picture(50, 600), target=Target(size=2000), progress=done.append)
    assert len(done) > 2 and done == sorted(done) and done[-1] == 1


@pytest.mark.parametrize("name", MODELS)
def test_requantized_is_what_a_decoder_gets(name: str, photo: np.ndarray) -> None:
    pipeline = load_model(name, threads=1).pipeline
    assert list(pipeline.qualities) == sorted(set(pipeline.qualities)) and pipeline.qualities[-1] <= 10_000
    level = pipeline.level(pipeline.qualities[len(pipeline.qualities) // 2], "rgb")
    y = pipeline.analyse(photo[:80, :150], level, lambda _: None)
    _, sections = pipeline.quantize(y, level)
    [(_, y_hat)] = pipeline.decode_strips(sections, 80, 150, level, range(1))
    assert np.array_equal(pipeline.requantize(y, level), y_hat)

# SPDX-License-Identifier: MIT
"""Pillow opens and saves .few files as it does its own formats. Many checks are what Pillow's tests ask of AVIF and WebP."""

import copy
import io
import mimetypes
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

import fewbits
from fewbits import container, pillow_plugin
from fewbits.codec import Model
from fewbits.pillow_plugin import FewImageFile

Draw = Callable[..., np.ndarray]
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
MODEL_TAG, ORIENTATION_TAG = 0x0110, 0x0112


def exif_of(orientation: int | None = None, camera: str = "few") -> Image.Exif:
    exif = Image.Exif()
    exif[MODEL_TAG] = camera
    if orientation:
        exif[ORIENTATION_TAG] = orientation
    return exif


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "FEW", **options)
    return buffer.getvalue()


def opened(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data))


def changed(data: bytes, **fields: Any) -> bytes:
    """The file with other values in its header, whose checksum holds."""
    header, sections = container.parse(data)
    return container.pack(replace(header, **fields), [bytes(payload) for _, payload in sections])


def with_byte(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([value]) + data[place + 1 :]


@pytest.fixture(scope="module")
def image() -> Image.Image:
    rows, columns = np.mgrid[:70, :90]
    return Image.fromarray(np.stack([rows * 3, columns * 2, rows + columns], axis=2).astype(np.uint8))


@pytest.fixture(scope="module")
def data(image: Image.Image) -> bytes:
    return saved(image)


@pytest.fixture(scope="module")
def rich(image: Image.Image) -> bytes:
    """With alpha and all kinds of metadata."""
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    return saved(clear, icc_profile=ICC, exif=exif_of(), xmp=XMP)


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever decodes now fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("decoded too early")

    monkeypatch.setattr(pillow_plugin, "model_of", refuse)


# Registration


def test_pillow_and_mimetypes_know_the_format() -> None:
    assert Image.registered_extensions()[".few"] == "FEW"
    assert Image.MIME["FEW"] == "image/x-fewbits" == mimetypes.guess_type("a/photo.few")[0]


def test_registering_again_changes_nothing(data: bytes) -> None:
    pillow_plugin.register()
    pillow_plugin.register()
    assert Image.ID.count("FEW") == 1 and opened(data).format == "FEW"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import fewbits", ("fewbits.pillow_plugin",)),
        ("import fewbits.pillow_plugin", ("onnxruntime", "numba", "torch", "scipy")),
        ("import fewbits.pillow_plugin; from PIL import Image; Image.open(sys.argv[1]).info", ("onnxruntime", "numba", "torch")),
    ],
)
def test_little_is_loaded_before_pixels_are_wanted(code: str, absent: tuple[str, ...], data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.few").write_bytes(data)
    whole = f"import sys; {code}; sys.exit(sum(name in sys.modules for name in {absent!r}))"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", whole, str(tmp_path / "x.few")], check=False).returncode == 0


def test_that_check_can_fail(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.few").write_bytes(data)
    code = "import sys, fewbits.pillow_plugin; from PIL import Image; Image.open(sys.argv[1]).load(); "
    code += "sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.few")], check=False).returncode == 1


# Opening


def test_a_file_says_what_it_is(rich: bytes, no_decoder: None) -> None:
    with opened(rich) as found:
        assert isinstance(found, FewImageFile) and found.format_description
        assert (found.format, found.mode, found.size) == ("FEW", "RGBA", (90, 70))
        assert found.get_format_mimetype() == "image/x-fewbits"
        assert found.info["quality"] == 60.0
        assert found.info["icc_profile"] == ICC and found.info["xmp"] == XMP
        assert found.getexif()[MODEL_TAG] == "few"
        assert found.tell() == 0
        found.seek(0)
        with pytest.raises(EOFError):
            found.seek(1)


def test_its_pixels_are_those_of_decode(data: bytes, rich: bytes) -> None:
    for each in (data, rich):
        assert np.array_equal(np.asarray(opened(each)), fewbits.decode_array(each))


def test_opening_takes_paths_files_and_streams(data: bytes, tmp_path: Path) -> None:
    class Pipe:  # cannot seek
        def __init__(self) -> None:
            self.read = io.BytesIO(data).read

    path = tmp_path / "photo.few"
    path.write_bytes(data)
    expected = fewbits.decode_array(data)
    with path.open("rb") as file:
        for source in (path, str(path), file, io.BytesIO(data), Pipe()):
            with Image.open(source, formats=["FEW"]) as found:  # type: ignore[arg-type]
                assert np.array_equal(np.asarray(found), expected)
        assert not file.closed


def test_a_name_says_nothing(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(data)
    with Image.open(tmp_path / "photo.png") as found:
        assert found.format == "FEW"


def test_a_path_is_closed_after_loading_and_a_file_is_not(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.few").write_bytes(data)
    found = Image.open(tmp_path / "photo.few")
    file = found.fp
    found.load()
    assert file is not None and file.closed and found.fp is None
    stream = io.BytesIO(data)
    Image.open(stream).load()
    Image.open(stream).load()


def test_a_closed_image_says_so(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.few").write_bytes(data)
    with Image.open(tmp_path / "photo.few") as found:
        pass
    with pytest.raises(ValueError, match="closed"):
        found.load()
    with opened(data) as found:
        found.load()
    assert found.getpixel((0, 0))  # loaded in time


def test_data_that_come_in_pieces(rich: bytes) -> None:
    parser = ImageFile.Parser()
    for start in range(0, len(rich), 100):
        parser.feed(rich[start : start + 100])
    with parser.close() as found:
        assert found.mode == "RGBA" and found.info["xmp"] == XMP
        assert np.array_equal(np.asarray(found), fewbits.decode_array(rich))


def test_pixels_may_be_written_to(data: bytes, rich: bytes) -> None:
    for each in (data, rich):
        with opened(each) as found:
            found.putpixel((3, 4), (1, 2, 3))
            assert found.getpixel((3, 4))[:3] == (1, 2, 3)  # type: ignore[index]


@pytest.mark.parametrize(
    "twin",
    [lambda im: pickle.loads(pickle.dumps(im)), copy.copy, copy.deepcopy, lambda im: im.copy(), lambda im: im.convert(im.mode)],
    ids=["pickle", "copy", "deepcopy", "Image.copy", "convert"],
)
def test_copies(rich: bytes, twin: Callable[[Image.Image], Image.Image]) -> None:
    other = twin(opened(rich))
    assert (other.mode, other.size, other.info["xmp"]) == ("RGBA", (90, 70), XMP)
    assert np.array_equal(np.asarray(other), fewbits.decode_array(rich))
    assert saved(other)


# Modes


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("L", "L"), ("LA", "LA"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"),
        ("HSV", "RGB"), ("RGBX", "RGB"), ("La", "LA"), ("RGBa", "RGBA"), ("PA", "RGBA"), ("I", "L"), ("F", "L"), ("I;16", "I;16"),
    ],
)  # fmt: skip
def test_modes(image: Image.Image, mode: str, expected: str) -> None:
    clear = image.copy()
    clear.putalpha(100)
    if mode == "I;16":
        source = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    else:
        first = {"La": "LA", "RGBa": "RGBA", "PA": "P", "HSV": "RGB", "LA": "LA", "RGBA": "RGBA", "F": "L"}.get(mode, mode)
        source = (clear if first in ("LA", "RGBA") else image).convert(first).convert(mode)
    if mode == "PA":
        source.putalpha(100)
    found = opened(saved(source))
    assert found.mode == expected and found.size == image.size
    assert np.array_equal(np.asarray(found), fewbits.decode_array(saved(source), depth=16 if mode == "I;16" else 8))
    assert found.mode == expected  # as promised before loading
    if expected.endswith("A"):
        assert found.getchannel("A").getextrema() == (100, 100)


def test_a_palette_with_a_clear_colour(image: Image.Image) -> None:
    source = image.quantize(16)
    source.info["transparency"] = int(np.asarray(source)[0, 0])
    found = opened(saved(source))
    assert found.mode == "RGBA"
    assert np.array_equal(np.asarray(found)[:, :, 3] == 0, np.asarray(source) == source.info["transparency"])


def test_alpha_comes_back_exactly(rich: bytes, image: Image.Image) -> None:
    alpha = Image.linear_gradient("L").resize(image.size)
    assert np.array_equal(opened(rich).getchannel("A"), alpha)
    assert opened(saved(Image.new("RGBA", (10, 10)))).getchannel("A").getcolors() == [(100, 0)]


def test_16_bits_with_colour_or_alpha_open_as_8(picture: Draw, model: Model) -> None:
    deep = picture(40, 30).astype(np.uint16) * 257
    for source, mode in ((deep, "RGB"), (deep[:, :, :2], "LA")):
        found = opened(model.encode(source))
        assert found.mode == mode and found.getextrema()
        assert np.asarray(found).dtype == np.uint8


@pytest.mark.parametrize(
    "source",
    [Image.new("I", (4, 4), -1), Image.new("F", (4, 4), float("nan")), Image.new("RGB", (0, 4))],
    ids=["negative", "no number", "empty"],
)
def test_pictures_that_cannot_be_saved_leave_no_file(source: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        source.save(tmp_path / "photo.few")
    assert not list(tmp_path.iterdir())


# Saving


def test_saving_is_encode(image: Image.Image, data: bytes, tmp_path: Path) -> None:
    assert data == fewbits.encode(image)
    image.save(tmp_path / "photo.few", quality=33.25, tune="psnr")
    assert (tmp_path / "photo.few").read_bytes() == fewbits.encode(image, 33.25, tune="psnr")
    with Image.open(tmp_path / "photo.few") as found:
        assert found.info["quality"] == 33.25


def test_a_model_of_ones_own(image: Image.Image) -> None:
    klt = fewbits.load_model("klt")
    with opened(saved(image, model=klt)) as found:
        assert np.array_equal(np.asarray(found), np.asarray(klt.decode(klt.encode(image))))
    assert saved(image, model="klt") == saved(image, model=klt, lossless=False)
    with pytest.raises(OSError, match="model klt-2 is neither a bundle's folder nor an installed model"):
        saved(image, model="klt-2")


def test_more_quality_is_nearer_and_larger(image: Image.Image) -> None:
    files = [saved(image, quality=quality) for quality in (0, 50, 100)]
    errors = [np.abs(np.asarray(opened(each), int) - np.asarray(image)).mean() for each in files]
    assert [len(each) for each in files] == sorted(len(each) for each in files) and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 101}, "quality is 101, it must be from 0 to 100"),
        ({"quality": "best"}, "quality is best"),
        ({"tune": "ear"}, "tune is 'ear', it must be one of visual, psnr"),
        ({"roi_drop": 20}, "roi_drop is 20 without a roi"),
        ({"target": "2kB"}, "target is '2kB', it must be a fewbits.Target, such as Target(size='200kB')"),
        ({"model": 3}, "model is a int, it must be a fewbits.Model"),
        ({"lossless": True}, "lossless: a .few file is never that"),
        ({"save_all": True}, "save_all: a .few file holds one picture"),
        ({"append_images": [Image.new("L", (1, 1))]}, "save_all: a .few file holds one picture"),
        ({"exif": b"invalid"}, "exif: not a TIFF file"),
        ({"exif": 3}, "exif is a int, it must be bytes or None"),
        ({"icc_profile": "sRGB"}, "icc_profile is a str, it must be bytes or None"),
    ],
)
def test_options_that_are_wrong(image: Image.Image, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        image.save(tmp_path / "photo.few", **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_saved_over_itself(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.few").write_bytes(data)
    with Image.open(tmp_path / "photo.few") as found:
        found.save(tmp_path / "photo.few", quality=10)
    with Image.open(tmp_path / "photo.few") as again:
        assert again.info["quality"] == 10
        again.load()


def test_saving_changes_nothing_in_the_image(image: Image.Image) -> None:
    source = image.copy()
    source.info.update(exif=exif_of(6).tobytes(), dpi=(72, 72))
    before = dict(source.info), source.tobytes()
    saved(source, exif=None, xmp=XMP)
    assert (dict(source.info), source.tobytes()) == before


def test_other_formats_are_made_from_an_opened_file(rich: bytes) -> None:
    found, buffer = opened(rich), io.BytesIO()
    found.save(buffer, "PNG")
    assert np.array_equal(np.asarray(Image.open(buffer)), np.asarray(found)) and Image.open(buffer).info["icc_profile"] == ICC


# Metadata


def test_metadata_are_kept_through_generations(rich: bytes) -> None:
    again = opened(saved(opened(rich)))
    for name in ("icc_profile", "exif", "xmp"):
        assert again.info[name] == opened(rich).info[name]


def test_metadata_come_from_a_photo(image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif_of(), icc_profile=ICC, xmp=XMP)
    found = opened(saved(Image.open(buffer)))
    assert found.getexif()[MODEL_TAG] == "few" and found.info["icc_profile"] == ICC and found.info["xmp"] == XMP


def test_metadata_come_from_tiff_tags(image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", tiffinfo={MODEL_TAG: "few"})
    assert opened(saved(Image.open(buffer))).getexif()[MODEL_TAG] == "few"


@pytest.mark.parametrize("nothing", [None, b""])
def test_metadata_can_be_dropped(rich: bytes, nothing: bytes | None) -> None:
    for name in ("icc_profile", "exif", "xmp"):
        found = opened(saved(opened(rich), **{name: nothing}))
        assert {"icc_profile", "exif", "xmp"} - found.info.keys() == {name}
    assert not opened(saved(opened(rich), exif=nothing)).getexif()


def test_an_image_without_metadata_has_none(data: bytes) -> None:
    assert opened(data).info.keys() == {"quality"} and not opened(data).getexif()


@pytest.mark.parametrize("kind", ["Exif", "bytes", "without prefix"])
def test_exif_of_every_kind(image: Image.Image, kind: str) -> None:
    exif = exif_of()
    given: Any = exif if kind == "Exif" else exif.tobytes() if kind == "bytes" else exif.tobytes()[6:]
    found = opened(saved(image, exif=given))
    assert found.info["exif"] == exif.tobytes() and dict(found.getexif()) == {MODEL_TAG: "few"}
    assert "exif" not in opened(saved(image, exif=Image.Exif())).info


def test_given_metadata_stand_in_place_of_the_images_own(rich: bytes) -> None:
    found = opened(saved(opened(rich), exif=exif_of(camera="other"), xmp="<x>\u00fc</x>"))
    assert found.getexif()[MODEL_TAG] == "other" and found.info["xmp"] == "<x>\u00fc</x>".encode()
    assert found.info["icc_profile"] == ICC


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("given", [True, False], ids=["option", "info"])
def test_a_picture_is_saved_as_its_exif_says_it_is_to_be_seen(image: Image.Image, orientation: int, given: bool) -> None:
    source, exif = image.copy(), exif_of(orientation)
    if not given:
        source.info["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    expected = fewbits.encode(Image.open(buffer))
    found = opened(saved(source, exif=exif) if given else saved(source))
    assert np.array_equal(np.asarray(found), fewbits.decode_array(expected))
    assert found.getexif().get(ORIENTATION_TAG, 1) == 1 and found.getexif()[MODEL_TAG] == "few"


def test_dropped_exif_turns_nothing(image: Image.Image) -> None:
    """As in Pillow's own formats."""
    source = image.copy()
    source.info["exif"] = exif_of(6).tobytes()
    assert opened(saved(source, exif=None)).size == image.size
    assert opened(saved(source)).size == image.size[::-1]


def test_exif_that_cannot_be_read_does_not_stop_a_photo(image: Image.Image) -> None:
    source = image.copy()
    source.info["exif"] = b"Exif\0\0no TIFF header"
    assert opened(saved(source)).size == image.size


def test_inks_lose_their_profile(image: Image.Image) -> None:
    source = image.convert("CMYK")
    source.info["icc_profile"] = ICC  # of no use for inks
    assert "icc_profile" not in opened(saved(source)).info


# Files that are not as they should be


def test_other_files_are_left_to_other_plugins(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "photo.png")
    for start in (b"\x89PNG\r\n\x1a\n", b"", b"\x8e", b"\x8fFEX", b"RIFF"):
        assert pillow_plugin._accept(start) is False
    with pytest.raises(SyntaxError, match="not a fewbits file"):
        FewImageFile(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as found:
        assert found.format == "PNG"
    with pytest.raises(UnidentifiedImageError):
        Image.open(tmp_path / "photo.png", formats=["FEW"])


def test_a_damaged_header_lets_other_plugins_try(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Other(FewImageFile):
        def _open(self) -> None:
            tried.append("other")
            raise SyntaxError("not mine either")

    monkeypatch.setattr(Image, "ID", [*Image.ID, "OTHER"])
    monkeypatch.setitem(Image.OPEN, "OTHER", (Other, None))
    for damaged in (with_byte(data, 20, data[20] ^ 1), data[:20], data[:5], data[:2]):
        tried.clear()
        with pytest.raises(UnidentifiedImageError):
            opened(damaged)
        assert tried == ["other"]
        with pytest.raises(SyntaxError) as caught:
            FewImageFile(io.BytesIO(damaged))
        assert isinstance(caught.value.__cause__, fewbits.FewbitsError)


def test_a_newer_file_says_what_to_do(data: bytes) -> None:
    with pytest.warns(UserWarning, match="format version is 2, this release reads 1: update fewbits"):  # noqa: SIM117
        with pytest.raises(UnidentifiedImageError):
            opened(with_byte(data, 4, 2))


@pytest.mark.parametrize("allowed", [False, True])
def test_a_cut_file_fails_when_it_is_loaded(rich: bytes, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)  # which is for formats that can show a part
    start = fewbits.inspect(rich).header_bytes
    for end in (start, start + 1, len(rich) // 2, len(rich) - 1):
        with opened(rich[:end]) as found:
            assert found.size == (90, 70)
            for _ in range(2):
                with pytest.raises(OSError, match="truncated file: .* bytes are needed"):
                    found.load()


def test_a_damaged_file_fails_when_it_is_loaded_and_when_it_is_verified(rich: bytes) -> None:
    header, place = fewbits.inspect(rich), fewbits.inspect(rich).header_bytes
    for kind, size in header.sections:
        damaged = with_byte(rich, place + size // 2, rich[place + size // 2] ^ 0x55)
        for use in (lambda im: im.load(), lambda im: im.verify()):
            with opened(damaged) as found, pytest.raises(OSError) as caught:
                use(found)
            assert isinstance(caught.value.__cause__, fewbits.FewbitsError), kind
            assert str(caught.value) == str(caught.value.__cause__)
        place += size
    with opened(rich + b"more") as found, pytest.raises(OSError, match="4 bytes follow the last section"):
        found.load()


def test_damaged_metadata_do_not_stop_opening(rich: bytes) -> None:
    header = fewbits.inspect(rich)
    place = header.header_bytes + sum(header.parts.get(name, 0) for name in ("alpha", "icc", "exif", "xmp")) - 1
    assert opened(with_byte(rich, place, rich[place] ^ 1)).info.keys() == {"quality"}


def test_a_model_that_is_not_installed_is_named(data: bytes) -> None:
    found = opened(changed(data, model_id=b"\1" * 8))
    for use in (found.load, found.verify):
        with pytest.raises(OSError, match="made with model 0101010101010101 .* not installed"):
            use()


def test_saving_with_a_damaged_installation_is_an_oserror(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fewbits.errors.ModelError("no models here")

    monkeypatch.setattr(pillow_plugin, "encode", fail)
    with pytest.raises(OSError, match="no models here"):
        saved(image)


def test_a_whole_file_verifies_and_is_closed(rich: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.few").write_bytes(rich)
    found = Image.open(tmp_path / "photo.few")
    file = found.fp
    found.verify()
    assert file is not None and file.closed
    with pytest.raises(ValueError, match="closed"):
        found.load()


def test_pillows_guard_against_huge_pictures(data: bytes, no_decoder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Image.DecompressionBombError):
        opened(changed(data, width=1 << 14, height=1 << 14))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 70 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        opened(data)


# Smaller pictures


@pytest.mark.parametrize(
    ("wanted", "scale"),
    [((90, 70), 1), ((46, 10), 1), ((45, 35), 2), ((23, 17), 2), ((22, 17), 4), ((11, 8), 8), ((1, 1), 8), ((0, 0), 8)],
)
def test_a_draft(data: bytes, wanted: tuple[int, int], scale: int) -> None:
    whole = fewbits.decode(data)
    with opened(data) as found:
        mode, box = found.draft("L", wanted)  # type: ignore[misc]
        assert (mode, box) == ("RGB", (0, 0, 90 / scale, 70 / scale))
        assert found.size == (-(-90 // scale), -(-70 // scale))
        assert np.array_equal(np.asarray(found), np.asarray(fewbits.decode(data, scale=scale)))
        if scale > 1:
            assert np.abs(np.asarray(found, int) - np.asarray(whole.reduce(scale))).max() <= 1  # which rounds otherwise
        assert found.draft(None, (10, 10)) is None  # too late


def test_the_last_draft_counts(data: bytes) -> None:
    with opened(data) as found:
        assert found.draft(None, None) is None
        for wanted, size in (((1, 1), (12, 9)), ((45, 35), (45, 35)), ((400, 400), (90, 70))):
            found.draft(None, wanted)
            assert found.size == size


def test_a_thumbnail(rich: bytes) -> None:
    with opened(rich) as found:
        found.thumbnail((20, 20))
        assert found.size == (20, 16) and found.mode == "RGBA"
        whole = fewbits.decode(rich)
        whole.thumbnail((20, 20))
        assert np.abs(np.asarray(found, int) - np.asarray(whole)).mean() < 3


def test_a_draft_of_deep_grey(image: Image.Image) -> None:
    deep = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    with opened(saved(deep)) as found:
        assert found.draft(None, (10, 8)) is not None and found.size == (12, 9)
        assert np.abs(np.asarray(found, int) - fewbits.decode_array(saved(deep), depth=16, scale=8)).max() == 0


# Threads


def test_many_threads_open_and_load_the_same_file(rich: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.few").write_bytes(rich)
    expected, limit = fewbits.decode_array(rich), Image.MAX_IMAGE_PIXELS

    def load(_: int) -> bool:
        with Image.open(tmp_path / "photo.few") as found:
            return np.array_equal(np.asarray(found), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(load, range(24)))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_threads_that_share_an_image_decode_it_once(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls, original, gate = opened(data), [], FewImageFile._decode, threading.Barrier(6)

    def decode(self: FewImageFile) -> None:
        calls.append(1)
        original(self)

    def load(_: int) -> bytes:
        gate.wait()
        return found.tobytes()

    monkeypatch.setattr(FewImageFile, "_decode", decode)
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(load, range(6)))) == 1
    assert len(calls) == 1


def test_nothing_warns(data: bytes, rich: bytes, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (data, rich):
            (tmp_path / "photo.few").write_bytes(each)
            with Image.open(tmp_path / "photo.few") as found:
                found.save(tmp_path / "again.few")

# SPDX-License-Identifier: MIT
"""Pictures in and out: every file is a picture or an ImageError of one line, and nothing is dropped silently."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from fewbits.errors import ImageError
from fewbits.image import from_planes, read_image, to_planes, write_image

Picture = Callable[..., np.ndarray]


def encoded(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def planes(image: Image.Image) -> tuple[np.ndarray, str]:
    """Through a file and back, as the command line takes a picture."""
    return to_planes(read_image(encoded(image), "test.png"))


# The whole folder of odd files


def edge_files() -> list[Path]:
    folder = Path(__file__).parents[2] / "shared" / "data" / "edge"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".txt", ".md"))


@pytest.mark.skipif(not edge_files(), reason="no image data beside the repository")
@pytest.mark.parametrize("path", edge_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of some damage and reads on
def test_a_file_is_a_picture_or_an_image_error(path: Path) -> None:
    try:
        pixels, colour = to_planes(read_image(path.read_bytes(), path.name))
    except ImageError as error:
        assert str(error) and "\n" not in str(error)
        assert str(error).startswith((f"{path.name}: ", "image: "))
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    assert colour in ("rgb", "grey")
    if colour == "grey":
        assert (pixels == pixels[:, :, :1]).all()


READABLE = {
    "odd": ["size_1x1.png", "size_1000x1.png", "flat_black.png", "noise.png", "cat.jpg", "l1.tiff", "simple-gray.webp"],
    "colour": [
        "bilevel.png",
        "cmyk.jpg",
        "exif_rotated_6.jpg",
        "gray.jpg",
        "gray16.png",
        "gray8.png",
        "palette64.png",
        "rgb_q30.jpg",
    ],
    "pngsuite": ["basn0g01.png", "basn0g16.png", "basn2c08.png", "basn2c16.png", "basn3p08.png"],
}
REFUSED = {
    "colour": ["rgba_gradient_alpha.png"],
    "corrupt": ["empty.png", "not_an_image.png", "huge_dimensions_60000x60000.png", "zero_width.png", "truncated_header.png"],
    "pngsuite": ["basn4a08.png", "basn6a16.png", "tbwn0g16.png", "tbgn2c16.png", "tbrn2c08.png", "tp1n3p08.png"],
    "odd": ["lossy_alpha.webp", "rgb32f_color.tiff", "rgba32.bmp"],
}


def named(table: dict[str, list[str]]) -> list[str]:
    return [f"{folder}/{name}" for folder, names in table.items() for name in names]


@pytest.mark.parametrize("name", named(READABLE))
def test_these_files_are_read(shared: Path, name: str) -> None:
    to_planes(read_image((shared / "edge" / name).read_bytes(), name))


@pytest.mark.parametrize("name", named(REFUSED))
def test_these_files_are_refused(shared: Path, name: str) -> None:
    with pytest.raises(ImageError):
        to_planes(read_image((shared / "edge" / name).read_bytes(), name))


# Colour, depth, orientation


def test_rgb_is_kept_as_it_is(picture: Picture) -> None:
    pixels = picture(13, 17)
    found, colour = planes(Image.fromarray(pixels))
    assert colour == "rgb" and np.array_equal(found, pixels)
    assert np.array_equal(np.asarray(from_planes(found, colour)), pixels)


def test_grey_is_three_equal_planes_and_comes_back_as_grey(picture: Picture) -> None:
    grey = picture(13, 17)[:, :, 0]
    found, colour = planes(Image.fromarray(grey))
    assert colour == "grey" and np.array_equal(found, np.repeat(grey[:, :, None], 3, 2))
    back = from_planes(found, colour)
    assert back.mode == "L" and np.array_equal(np.asarray(back), grey)


def test_bilevel_is_black_and_white_grey() -> None:
    bits = np.indices((5, 6)).sum(0) % 2 == 0
    found, colour = planes(Image.fromarray(bits))
    assert colour == "grey" and np.array_equal(found[:, :, 0], bits * 255)


def test_a_palette_is_looked_up(picture: Picture) -> None:
    image = Image.fromarray(picture(20, 20)).quantize(16)
    found, colour = planes(image)
    assert colour == "rgb" and np.array_equal(found, np.asarray(image.convert("RGB")))


def test_deep_grey_is_rounded_to_eight_bits() -> None:
    values = np.array([[0, 128, 129, 257], [65535, 65406, 65407, 32768]], np.uint16)
    found, colour = planes(Image.fromarray(values))
    assert colour == "grey" and found[:, :, 0].tolist() == [[0, 0, 1, 1], [255, 254, 255, 128]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_bytes_where_they_fit_and_sixteen_bits_otherwise(mode: str) -> None:
    small, _ = to_planes(Image.fromarray(np.array([[0, 255, 7]], np.int32)).convert(mode))
    large, _ = to_planes(Image.fromarray(np.array([[0, 65535, 257]], np.int32)).convert(mode))
    assert small[0, :, 0].tolist() == [0, 255, 7] and large[0, :, 0].tolist() == [0, 255, 1]
    for bad in (-1, 70_000):
        with pytest.raises(ImageError, match="outside 0..65535"):
            to_planes(Image.fromarray(np.array([[bad]], np.int32)).convert(mode))
    with pytest.raises(ImageError, match="outside"):
        to_planes(Image.fromarray(np.array([[np.nan]], np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(picture: Picture, orientation: int) -> None:
    """EXIF orientation k: what the camera stored, turned as the standard says, is the upright picture."""
    stored = picture(5, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    flipped = stored[:, ::-1] if orientation in (2, 4, 5, 7) else stored
    quarter_turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    upright = np.rot90(flipped, quarter_turns)
    found, _ = to_planes(read_image(encoded(Image.fromarray(stored), exif=exif), "test.png"))
    assert np.array_equal(found, upright)


def test_cmyk_without_a_usable_profile_is_converted_plainly() -> None:
    ink = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    found, colour = to_planes(ink)
    assert colour == "rgb" and found[0, 0].tolist() == [255, 0, 0]
    ink.info["icc_profile"] = b"no profile"
    assert np.array_equal(to_planes(ink)[0], found)
    ink.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # of another colour space
    assert np.array_equal(to_planes(ink)[0], found)


def test_a_cmyk_photograph_is_read(shared: Path) -> None:
    pixels, colour = to_planes(read_image((shared / "edge/colour/cmyk.jpg").read_bytes(), "cmyk.jpg"))
    assert colour == "rgb" and pixels.std() > 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"])
def test_opaque_modes_are_taken(mode: str) -> None:
    pixels, colour = to_planes(Image.new(mode, (3, 2)))
    assert pixels.shape == (2, 3, 3) and pixels.dtype == np.uint8
    assert colour == ("grey" if mode in ("1", "L", "I", "F", "I;16", "I;16B") else "rgb")


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_transparency_is_refused(mode: str) -> None:
    with pytest.raises(ImageError):
        to_planes(Image.new(mode, (3, 2)))


@pytest.mark.parametrize("alpha", [0, 128, 254])
def test_one_pixel_that_is_hardly_transparent_is_refused(picture: Picture, alpha: int) -> None:
    image = Image.fromarray(picture(6, 5)).convert("RGBA")
    image.putpixel((2, 3), (1, 2, 3, alpha))
    with pytest.raises(ImageError, match="transparent"):
        planes(image)


@pytest.mark.parametrize(("mode", "colour"), [("LA", "grey"), ("RGBA", "rgb")])
def test_an_opaque_alpha_channel_is_no_transparency(picture: Picture, mode: str, colour: str) -> None:
    image = Image.fromarray(picture(6, 5)).convert(mode)
    assert image.getchannel("A").getextrema() == (255, 255)
    pixels, found = planes(image)
    assert found == colour and np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_transparent_colour_is_refused(mode: str) -> None:
    """PNG's tRNS chunk, which Pillow keeps in `info` and not in the pixels."""
    image = Image.new(mode, (3, 2))
    image.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    with pytest.raises(ImageError, match="transparent"):
        to_planes(image)


# Size


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (2**20 + 1, 1), (1, 2**20 + 1), (2**15, 2**14), (2**31 - 1, 2**31 - 1)]
)
def test_bombs_are_refused_before_they_are_decoded(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoding has begun"))
    with pytest.raises(ImageError, match="bomb.png: "):
        read_image(png_header(width, height), "bomb.png")


def test_our_limit_is_the_limit_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """2**28 pixels are allowed, so they must get as far as decoding (which fails here: the pixels are missing)."""
    reached = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: reached.append(self.size))
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", lambda image, **_: image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(png_header(2**14, 2**14), "large.png")
    assert reached == [(2**14, 2**14)]


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0), (2**20 + 1, 1, 3), (2**15, 2**14, 1)])
def test_arrays_of_impossible_sizes_are_refused(shape: tuple[int, ...]) -> None:
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), shape, (0,) * len(shape))
    with pytest.raises(ImageError, match="image: its size is"):
        to_planes(array)


# Arrays


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_grey_arrays(shape: tuple[int, ...]) -> None:
    array = np.arange(20, dtype=np.uint8).reshape(shape)
    pixels, colour = to_planes(array)
    assert colour == "grey" and pixels.shape == (4, 5, 3) and np.array_equal(pixels[:, :, 1].ravel(), np.arange(20))


def test_rgb_arrays_may_lie_anyhow_in_memory(picture: Picture) -> None:
    array = picture(9, 7)
    for turned in (np.asfortranarray(array), array[::-1, ::2][:, ::-1], array.tolist()):
        pixels, colour = to_planes(np.asarray(turned, np.uint8))
        assert colour == "rgb" and np.array_equal(pixels, turned)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 3), np.int64),
        np.zeros((4, 5, 3), bool),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.uint8(3),
        None,
        "photo.jpg",
        [[1], [1, 2]],
    ],
    ids=lambda value: f"{type(value).__name__}-{np.asarray(value, object).shape}",
)
def test_other_arrays_are_refused(array: object) -> None:
    with pytest.raises(ImageError, match="image: "):
        to_planes(array)


# Writing


@pytest.mark.parametrize("extension", ["png", "PNG", "bmp", "ppm", "tif", "tga"])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_lossless_formats_give_the_pixels_back(picture: Picture, extension: str, colour: str) -> None:
    pixels = picture(11, 6) if colour == "rgb" else np.repeat(picture(11, 6)[:, :, :1], 3, 2)
    data = write_image(from_planes(pixels, colour), f"out.{extension}")
    found, found_colour = to_planes(read_image(data, "back"))
    assert np.array_equal(found, pixels) and found_colour == colour


@pytest.mark.parametrize("name", ["out", "folder.d/out"])
def test_no_extension_means_png(name: str) -> None:
    assert write_image(Image.new("L", (2, 2)), name).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["out.xyz", "out.few", "out.psd", "out.few.txt"])
def test_formats_that_cannot_be_written_are_refused(name: str) -> None:
    with pytest.raises(ImageError, match=f"{name}: Pillow writes no pictures"):
        write_image(Image.new("L", (2, 2)), name)


def writable() -> list[str]:
    Image.init()
    one_of_each = {name: extension for extension, name in sorted(Image.registered_extensions().items()) if name in Image.SAVE}
    return sorted(one_of_each.values())


@pytest.mark.parametrize("extension", writable())
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (70_000, 1), (1, 70_000)], ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:PIL", "ignore::DeprecationWarning:fewbits")
def test_every_format_is_written_or_refused(extension: str, size: tuple[int, int]) -> None:
    for mode in ("L", "RGB"):
        try:
            assert write_image(Image.new(mode, size), f"out{extension}")
        except ImageError as error:
            assert "\n" not in str(error)


# Damage


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "ICO", "PCX", "TGA", "SGI", "PPM"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")
def test_damaged_pictures_are_read_or_refused(picture: Picture, format_name: str) -> None:
    good = encoded(Image.fromarray(picture(24, 40)), format_name)
    rng = np.random.default_rng(11)
    for _ in range(60):
        data = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.3 else good)
        for place in rng.integers(0, len(data), rng.integers(1, 6)) if data else []:
            data[place] = rng.integers(256)
        try:
            pixels, _ = to_planes(read_image(bytes(data), "damaged"))
        except ImageError as error:
            assert "\n" not in str(error)
            continue
        assert pixels.dtype == np.uint8


def test_metadata_that_is_no_metadata_is_no_obstacle(picture: Picture) -> None:
    tiff = TiffImagePlugin.ImageFileDirectory_v2()
    tiff[0x0112] = 99  # no such orientation
    data = encoded(Image.fromarray(picture(8, 9)), "TIFF", tiffinfo=tiff)
    assert to_planes(read_image(data, "x.tif"))[0].shape == (8, 9, 3)

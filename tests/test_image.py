# SPDX-License-Identifier: MIT
"""Pillow images and arrays as pictures: every mode, upright, nothing dropped silently."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from fewbits.errors import ImageError
from fewbits.image import info_of, own_limit, stripped, to_image, to_picture
from fewbits.picture import Metadata, Picture
from fewbits.picturefile import read_picture

Draw = Callable[..., np.ndarray]


def some_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    return exif.tobytes()


EXIF = some_exif()


def encoded(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def planes(image: object) -> tuple[np.ndarray, str]:
    found = to_picture(image)
    return found.pixels, found.colour


def through_a_file(image: Image.Image) -> Picture:
    """As the command line takes a picture."""
    return read_picture(encoded(image), "test.png")


# Colour, depth, orientation


def test_rgb_is_kept_as_it_is(picture: Draw) -> None:
    pixels = picture(13, 17)
    found = through_a_file(Image.fromarray(pixels))
    assert found.colour == "rgb" and np.array_equal(found.pixels, pixels) and found.alpha is None
    assert np.array_equal(np.asarray(to_image(found)), pixels)


def test_grey_is_three_equal_planes_and_comes_back_as_grey(picture: Draw) -> None:
    grey = picture(13, 17)[:, :, 0]
    found = through_a_file(Image.fromarray(grey))
    assert found.colour == "grey" and np.array_equal(found.pixels, np.repeat(grey[:, :, None], 3, 2))
    back = to_image(found)
    assert back.mode == "L" and np.array_equal(np.asarray(back), grey)


def test_bilevel_is_black_and_white_grey() -> None:
    bits = np.indices((5, 6)).sum(0) % 2 == 0
    found, colour = planes(Image.fromarray(bits))
    assert colour == "grey" and np.array_equal(found[:, :, 0], bits * 255)


def test_a_palette_is_looked_up(picture: Draw) -> None:
    image = Image.fromarray(picture(20, 20)).quantize(16)
    found, colour = planes(image)
    assert colour == "rgb" and np.array_equal(found, np.asarray(image.convert("RGB")))


def test_deep_grey_keeps_its_sixteen_bits() -> None:
    values = np.array([[0, 128, 129, 257], [65535, 65406, 65407, 32768]], np.uint16)
    found = through_a_file(Image.fromarray(values))
    assert found.colour == "grey" and found.depth == 16 and np.array_equal(found.pixels[:, :, 0], values)
    back = to_image(found)
    assert back.mode == "I;16" and np.array_equal(np.asarray(back), values)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_bytes_where_they_fit_and_sixteen_bits_otherwise(mode: str) -> None:
    small, _ = planes(Image.fromarray(np.array([[0, 255, 7]], np.int32)).convert(mode))
    large, _ = planes(Image.fromarray(np.array([[0, 65535, 257]], np.int32)).convert(mode))
    assert small[0, :, 0].tolist() == [0, 255, 7] and large[0, :, 0].tolist() == [0, 65535, 257]
    assert (small.dtype, large.dtype) == (np.uint8, np.uint16)
    for bad in (-1, 70_000):
        with pytest.raises(ImageError, match="outside 0..65535"):
            planes(Image.fromarray(np.array([[bad]], np.int32)).convert(mode))
    with pytest.raises(ImageError, match="outside"):
        planes(Image.fromarray(np.array([[np.nan]], np.float32)))


@pytest.mark.parametrize("values", [[0, 0.5, 1], [0, 1, 1], [0, 0.001, 0.002], [0, 3.5, 255], [0, 0.25, 65535]])
def test_floats_that_are_no_whole_numbers_are_refused(values: list[float]) -> None:
    """Those in 0..1 became black without a word."""
    image = Image.fromarray(np.array([values], np.float32))
    message = f"mode F with values in 0..{values[-1]:g}: it must be whole numbers in 0..255 or 0..65535, so scale and round them$"
    with pytest.raises(ImageError, match=f"^image: {message}"):
        planes(image)
    with pytest.raises(ImageError, match=f"^scan.tif: {message}"):
        read_picture(encoded(image, "TIFF"), "scan.tif")


def test_black_in_floats_is_black() -> None:
    assert not planes(Image.new("F", (3, 2)))[0].any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(picture: Draw, orientation: int) -> None:
    """EXIF orientation k: what the camera stored, turned as the standard says, is the upright picture."""
    stored = picture(5, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    flipped = stored[:, ::-1] if orientation in (2, 4, 5, 7) else stored
    quarter_turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    upright = np.rot90(flipped, quarter_turns)
    exif[0x010F] = "a camera"
    found = read_picture(encoded(Image.fromarray(stored), exif=exif), "test.png")
    assert np.array_equal(found.pixels, upright)
    again = to_image(found)
    assert again.getexif().get(0x0112, 1) == 1 and again.getexif()[0x010F] == "a camera"


def test_cmyk_without_a_usable_profile_is_converted_plainly() -> None:
    ink = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    found, colour = planes(ink)
    assert colour == "rgb" and found[0, 0].tolist() == [255, 0, 0]
    ink.info["icc_profile"] = b"no profile"
    assert np.array_equal(planes(ink)[0], found)
    ink.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # of another colour space
    assert np.array_equal(planes(ink)[0], found)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"])
def test_opaque_modes_are_taken(mode: str) -> None:
    pixels, colour = planes(Image.new(mode, (3, 2)))
    assert pixels.shape == (2, 3, 3) and pixels.dtype == (np.uint16 if mode.startswith("I;16") else np.uint8)
    assert colour == ("grey" if mode in ("1", "L", "I", "F", "I;16", "I;16B") else "rgb")


@pytest.mark.parametrize(("mode", "colour"), [("LA", "grey"), ("La", "grey"), ("PA", "rgb"), ("RGBA", "rgb"), ("RGBa", "rgb")])
def test_modes_with_alpha_give_straight_alpha(mode: str, colour: str) -> None:
    image = Image.new("P" if mode == "PA" else "L" if colour == "grey" else "RGB", (3, 2), "#c8c8c8")
    image.putalpha(128)
    found = to_picture(image.convert(mode))
    assert found.colour == colour and found.alpha is not None and (found.alpha == 128).all()
    assert np.abs(found.pixels.astype(int) - 200).max() <= 1  # premultiplied modes round


@pytest.mark.parametrize(("mode", "colour"), [("LA", "grey"), ("RGBA", "rgb")])
def test_an_opaque_alpha_channel_is_dropped(picture: Draw, mode: str, colour: str) -> None:
    image = Image.fromarray(picture(6, 5)).convert(mode)
    found = through_a_file(image)
    assert found.colour == colour and found.alpha is None and np.array_equal(found.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_transparent_colour_becomes_alpha(mode: str) -> None:
    """PNG's tRNS chunk, which Pillow keeps in `info` and not in the pixels."""
    image = Image.new(mode, (3, 2))
    image.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    image.putpixel((1, 1), (9, 9, 9) if mode == "RGB" else 1)
    alpha = to_picture(image).alpha
    assert alpha is not None and alpha.tolist() == [[0, 0, 0], [0, np.iinfo(alpha.dtype).max if mode != "P" else 255, 0]]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_images_come_back_in_their_mode(picture: Draw, mode: str) -> None:
    image = Image.fromarray(picture(6, 5)).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(picture(6, 5)[:, :, 0]))
    image.info |= {"icc_profile": b"a profile", "exif": EXIF, "xmp": b"<xmp/>"}
    found = to_picture(image)
    assert found.metadata == Metadata(b"a profile", EXIF.removeprefix(b"Exif\0\0"), b"<xmp/>")
    back = to_image(found)
    assert back.mode == mode and back.tobytes() == image.tobytes() and back.info == image.info == info_of(found.metadata)


def test_exif_that_is_none_is_dropped(picture: Draw) -> None:
    image = Image.fromarray(picture(4, 5))
    image.info["exif"] = b"Exif\0\0no TIFF header"
    assert to_picture(image).metadata == Metadata()


def test_pillow_has_no_mode_for_deep_colours() -> None:
    with pytest.raises(ImageError, match="depth is 16"):
        to_image(to_picture(np.zeros((2, 3, 3), np.uint16)))


# Without metadata


def test_stripping_converts_the_colours_to_srgb() -> None:
    """A profile in which red and blue are exchanged: what looks blue in it is blue without it."""
    rgb = np.zeros((4, 5, 3), np.uint8)
    rgb[:] = (250, 30, 20)
    swapped = swapped_srgb()
    found = stripped(Picture(rgb, "rgb", None, Metadata(icc=swapped, xmp=b"<xmp/>")))
    assert found.metadata == Metadata() and np.abs(found.pixels[0, 0].astype(int) - (20, 30, 250)).max() <= 4


def test_stripping_leaves_pixels_without_a_profile_alone(picture: Draw) -> None:
    pixels = picture(4, 5)
    for icc in (b"", b"no profile"):
        found = stripped(Picture(pixels, "rgb", pixels[:, :, 0], Metadata(icc, b"exif", b"xmp")))
        assert found.metadata == Metadata() and np.array_equal(found.pixels, pixels) and found.alpha is not None


@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_deep_pictures_keep_their_profile_and_lose_all_else(colour: str) -> None:
    icc = swapped_srgb() if colour == "rgb" else grey_profile()
    pixels, alpha = np.full((2, 3, 3), 300, np.uint16), np.full((2, 3), 7, np.uint16)
    found = stripped(Picture(pixels, colour, alpha, Metadata(icc, b"exif", b"xmp")))
    assert found.metadata == Metadata(icc=icc) and found.colour == colour
    assert np.array_equal(found.pixels, pixels) and np.array_equal(found.alpha, alpha)


def swapped_srgb() -> bytes:
    """sRGB's profile with the tags of its red and blue primaries exchanged."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = icc.index(b"rXYZ"), icc.index(b"bXYZ")
    icc[red : red + 4], icc[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(icc)


# Size


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0), (2**20 + 1, 1, 3), (2**15, 2**14, 1)])
def test_arrays_of_impossible_sizes_are_refused(shape: tuple[int, ...]) -> None:
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), shape, (0,) * len(shape))
    with pytest.raises(ImageError, match="image: its size is"):
        planes(array)


def test_pillows_own_limit_comes_back_when_the_last_user_is_done() -> None:
    """Threads overlap: the second to lift it must not take the lifted limit for Pillow's own."""
    limit, first, second = Image.MAX_IMAGE_PIXELS, own_limit(), own_limit()
    assert limit is not None
    for step, expected in ((first.__enter__, None), (second.__enter__, None), (lambda: first.__exit__(None, None, None), None)):
        step()
        assert Image.MAX_IMAGE_PIXELS is expected
    second.__exit__(None, None, None)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_exif_that_cannot_be_read_leaves_a_picture_as_it_is(picture: Draw) -> None:
    image = Image.fromarray(picture(4, 6))
    image.info["exif"] = b"Exif\0\0no TIFF header"
    assert np.array_equal(to_picture(image).pixels, picture(4, 6))


# Arrays


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_grey_arrays(shape: tuple[int, ...]) -> None:
    array = np.arange(20, dtype=np.uint8).reshape(shape)
    pixels, colour = planes(array)
    assert colour == "grey" and pixels.shape == (4, 5, 3) and np.array_equal(pixels[:, :, 1].ravel(), np.arange(20))


def test_rgb_arrays_may_lie_anyhow_in_memory(picture: Draw) -> None:
    array = picture(9, 7)
    for turned in (np.asfortranarray(array), array[::-1, ::2][:, ::-1], array.tolist()):
        pixels, colour = planes(np.asarray(turned, np.uint8))
        assert colour == "rgb" and np.array_equal(pixels, turned)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
@pytest.mark.parametrize("channels", [2, 4])
def test_arrays_with_alpha(channels: int, dtype: type) -> None:
    array = np.random.default_rng(3).integers(0, 255, (4, 5, channels)).astype(dtype)
    found = to_picture(array)
    assert (
        found.alpha is not None and np.array_equal(found.alpha, array[:, :, -1]) and found.pixels.dtype in (np.uint8, np.uint16)
    )
    assert np.array_equal(found.array(), array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 3), np.int64),
        np.zeros((4, 5, 3), bool),
        np.zeros((4, 5, 5), np.uint8),
        np.zeros((4, 5, 0), np.uint8),
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
        planes(array)


def test_a_photo_whose_exif_cannot_be_written_again_is_turned_all_the_same(picture: Draw) -> None:
    """Pillow writes no rational number where it expects a short one; files of real cameras have such."""
    photo = picture(6, 9)
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x0128, 5, 1, 38)  # ResolutionUnit, a rational
    exif = b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<II", 2, 1)
    for data in (
        encoded(Image.fromarray(photo), "PNG", exif=exif),
        encoded(Image.fromarray(photo), "WEBP", exif=exif, lossless=True),
    ):
        with Image.open(io.BytesIO(data)) as opened:
            found = to_picture(opened)
        assert np.array_equal(found.pixels, np.rot90(photo, -1))
        assert np.array_equal(read_picture(data, "photo").pixels, found.pixels)
    short = encoded(Image.fromarray(photo), "WEBP", exif=b"II*\0", lossless=True)
    assert np.array_equal(read_picture(short, "short.webp").pixels, photo)


def grey_profile() -> bytes:
    """A profile of grey whose values are linear in light."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))

    white = fixed(0.9642, 1, 0.8249)
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey" + bytes(1 + 78)
    parts = {b"wtpt": b"XYZ " + bytes(4) + white, b"kTRC": b"curv" + bytes(4) + struct.pack(">IHH", 1, 256, 0),
             b"desc": description + bytes(-len(description) % 4), b"cprt": b"text" + bytes(4) + b"cc" + bytes(2)}  # fmt: skip
    table, body, begin = struct.pack(">I", len(parts)), b"", 132 + 12 * len(parts)
    for name, part in parts.items():
        table += struct.pack(">4sII", name, begin + len(body), len(part))
        body += part
    head = struct.pack(">I4sI4s4s4s6H", begin + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ", 2020, 1, 1, 0, 0, 0)
    return (head + b"acsp" + bytes(28) + white).ljust(128, b"\0") + table + body


def test_stripping_converts_grey_too(picture: Draw) -> None:
    grey = np.full((8, 8), 55, np.uint8)
    linear = to_picture(Image.open(io.BytesIO(encoded(Image.fromarray(grey), icc_profile=grey_profile()))))
    found = stripped(linear)
    assert found.colour == "grey" and np.ptp(found.pixels) == 0 and abs(int(found.pixels[0, 0, 0]) - 128) <= 1
    of_colours = Picture(linear.pixels, "grey", None, Metadata(icc=swapped_srgb()))
    assert np.array_equal(stripped(of_colours).pixels, linear.pixels)

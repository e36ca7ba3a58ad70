# SPDX-License-Identifier: MIT
"""Encoded pictures in and out: every file is a picture or an ImageError of one line, and nothing is dropped silently."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from fewbits.errors import ImageError
from fewbits.image import from_array, to_picture
from fewbits.picture import Metadata, Picture
from fewbits.picturefile import deepest, read_picture, write_picture

Draw = Callable[..., np.ndarray]


def encoded(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


# Transparent values and icons


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", ["least", "largest"])
def test_a_transparent_value_of_few_bits_is_transparent(bits: int, clear: str) -> None:
    top = (1 << bits) - 1
    value = 0 if clear == "least" else top
    row = sum(sample << bits * (8 // bits - 1 - k) for k, sample in enumerate([0, top, top][: 8 // bits])) if bits < 8 else 0
    rows = zlib.compress(bytes([0]) + (bytes([row]) if bits < 8 else bytes([0, top])))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0))
    data += chunk(b"tRNS", struct.pack(">H", value)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    found = read_picture(data, "clear.png")
    assert found.alpha is not None and found.alpha[0].tolist() == [0 if value == 0 else 255, 255 if value == 0 else 0]
    assert found.colour == "grey" and found.pixels[0, :, 0].tolist() == [0, 255]


def test_a_transparent_deep_colour_is_transparent_without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data += (
        chunk(b"tRNS", struct.pack(">HHH", *[65535] * 3))
        + chunk(b"IDAT", zlib.compress(bytes(7) + b"\xff" * 6))
        + chunk(b"IEND", b"")
    )
    found = read_picture(data, "clear.png")
    assert found.alpha is not None and found.alpha.tolist() == [[255, 0]]


@pytest.mark.parametrize("bitmap_format", ["bmp", "png"])
@pytest.mark.parametrize("side", [16, 33])
def test_icons_are_read_unless_their_directory_is_too_short(picture: Draw, bitmap_format: str, side: int) -> None:
    whole = np.dstack([picture(side, side), np.full((side, side), 200, np.uint8)])
    data = encoded(Image.fromarray(whole), "ICO", bitmap_format=bitmap_format, sizes=[(side, side)])
    assert np.array_equal(read_picture(data, "x.ico").array(), whole)
    if bitmap_format == "bmp":
        short = data[:14] + struct.pack("<I", 100) + data[18:]
        with pytest.raises(ImageError, match="a picture of the icon has 100 bytes, it takes at least"):
            read_picture(short, "x.ico")


# Frames


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_read_with_a_note(format_name: str) -> None:
    frames = [Image.new("RGB", (30, 20), (value, value, value)) for value in (10, 100, 200)]
    for n_frames, expected in ((3, ["x: 3 frames, only the first is kept"]), (1, [])):
        notes: list[str] = []
        data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:n_frames])
        assert read_picture(data, "x", notes.append).pixels[0, 0].tolist() == [10, 10, 10] and notes == expected


def test_the_further_pictures_of_a_camera_are_previews() -> None:
    notes: list[str] = []
    data = encoded(Image.new("RGB", (30, 20)), "MPO", save_all=True, append_images=[Image.new("RGB", (15, 10))])
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    assert read_picture(data, "x.jpg", notes.append).width == 30 and not notes


def test_damage_behind_the_first_frame_is_no_obstacle() -> None:
    frames = [Image.effect_noise((30, 20), 50) for _ in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for n_bytes in range(len(data) // 2, len(data)):
        assert np.array_equal(read_picture(data[:n_bytes], "x.gif").array(), read_picture(data, "x.gif").array())


# Sixteen bits


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_any_kind_go_into_a_png_and_come_back(channels: int) -> None:
    pytest.importorskip("imagecodecs")
    array = np.random.default_rng(channels).integers(0, 65536, (7, 9, channels)).astype(np.uint16)
    metadata = Metadata(srgb(), some_exif(), b"<xmp/>")
    data = write_picture(from_array(array, metadata), "deep.png")
    found = read_picture(data, "deep.png")
    assert found.depth == 16 and np.array_equal(found.array(), array[:, :, 0] if channels == 1 else array)
    assert found.metadata == metadata


@pytest.mark.parametrize("behind", [(b"iTXt",), (b"eXIf",), (b"iTXt", b"eXIf")])
def test_metadata_behind_deep_pixels_are_found(behind: tuple[bytes, ...]) -> None:
    pytest.importorskip("imagecodecs")
    array = np.random.default_rng(0).integers(0, 65536, (7, 9, 3)).astype(np.uint16)
    metadata = Metadata(exif=some_exif(), xmp=b"<xmp/>")
    data = write_picture(from_array(array, metadata), "deep.png")
    chunks, place = [], 8
    while place < len(data):
        size = 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place : place + size])
        place += size
    moved = [chunk for chunk in chunks if chunk[4:8] in behind]
    assert {chunk[4:8] for chunk in moved} == set(behind)
    kept = [chunk for chunk in chunks if chunk[4:8] not in behind]
    assert read_picture(b"".join([data[:8], *kept[:-1], *moved, kept[-1]]), "deep.png").metadata == metadata


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colours_are_turned_upright(orientation: int) -> None:
    pytest.importorskip("imagecodecs")
    array = np.random.default_rng(orientation).integers(0, 65536, (4, 7, 3)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = write_picture(from_array(array, Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0"))), "deep.png")
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))  # at 8 bits, by Pillow
    found = read_picture(data, "deep.png")
    assert found.pixels.dtype == np.uint16 and np.array_equal(found.pixels >> 8, np.asarray(expected))


def test_without_imagecodecs_deep_colours_are_read_as_bytes_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    notes: list[str] = []
    assert read_picture(deep_png(), "deep.png", notes.append).depth == 8
    assert notes == ["deep.png: its 16 bits are read as 8; the extra `deep` keeps them"]
    with pytest.raises(ImageError, match="install the extra `deep`"):
        write_picture(from_array(np.zeros((2, 3, 3), np.uint16), Metadata()), "out.png")


def deep_png() -> bytes:
    """A PNG of 2x1 pixels with 16 bits of red, green and blue."""
    rows = zlib.compress(b"\0" + bytes(range(12)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def some_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    return exif.tobytes().removeprefix(b"Exif\0\0")


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# Size


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (2**20 + 1, 1), (1, 2**20 + 1), (2**15, 2**14), (2**31 - 1, 2**31 - 1)]
)
def test_bombs_are_refused_before_they_are_decoded(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoding has begun"))
    with pytest.raises(ImageError, match="bomb.png: "):
        read_picture(png_header(width, height), "bomb.png")


def test_our_limit_is_the_limit_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """2**28 pixels are allowed, so they must get as far as decoding (which fails here: the pixels are missing)."""
    reached = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: reached.append(self.size))
    monkeypatch.setattr("fewbits.picturefile.to_picture", lambda image: image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_picture(png_header(2**14, 2**14), "large.png")
    assert reached == [(2**14, 2**14)]


# Writing


@pytest.mark.parametrize("extension", ["png", "PNG", "bmp", "ppm", "tif", "tga"])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_lossless_formats_give_the_pixels_back(picture: Draw, extension: str, colour: str) -> None:
    pixels = picture(11, 6) if colour == "rgb" else np.repeat(picture(11, 6)[:, :, :1], 3, 2)
    found = read_picture(write_picture(Picture(pixels, colour), f"out.{extension}"), "back")
    assert np.array_equal(found.pixels, pixels) and found.colour == colour


@pytest.mark.parametrize("extension", ["png", "webp", "avif", "tif"])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_formats_with_alpha_take_it(picture: Draw, extension: str, colour: str) -> None:
    alpha = picture(11, 6)[:, :, 1]
    pixels = picture(11, 6) if colour == "rgb" else np.repeat(picture(11, 6)[:, :, :1], 3, 2)
    found = read_picture(write_picture(Picture(pixels, colour, alpha), f"out.{extension}"), "back")
    assert found.alpha is not None
    assert np.abs(found.alpha.astype(int) - alpha).max() <= (6 if extension == "avif" else 0)


@pytest.mark.parametrize("extension", ["jpg", "bmp", "ppm"])
def test_formats_without_alpha_refuse_it(picture: Draw, extension: str) -> None:
    with pytest.raises(ImageError, match="holds no transparency"):
        write_picture(Picture(picture(4, 4), "rgb", picture(4, 4)[:, :, 0]), f"out.{extension}")


@pytest.mark.parametrize("extension", ["jpg", "webp", "avif"])
def test_lossy_formats_take_a_quality(picture: Draw, extension: str) -> None:
    sizes = [
        len(write_picture(Picture(picture(64, 64), "rgb"), f"out.{extension}", quality=quality)) for quality in (0, 50, 95, None)
    ]
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]


@pytest.mark.parametrize("extension", ["png", "tif", "bmp"])
def test_other_formats_refuse_a_quality(picture: Draw, extension: str) -> None:
    with pytest.raises(ImageError, match="has no quality to choose"):
        write_picture(Picture(picture(4, 4), "rgb"), f"out.{extension}", quality=50)


@pytest.mark.parametrize(("kind", "longest"), [("exif", 65533 - 6), ("xmp", 65533 - 29)])
def test_metadata_that_are_too_long_for_jpeg_are_left_out_with_a_note(picture: Draw, kind: str, longest: int) -> None:
    begin = {"exif": b"II*\0\x08\0\0\0\0\0\0\0\0\0", "xmp": b"<x/>"}[kind]
    for n_bytes, said in (longest, False), (longest + 1, True):
        notes: list[str] = []
        metadata = Metadata(srgb(), **{kind: begin.ljust(n_bytes, b" " if kind == "xmp" else b"\0")})
        found = read_picture(write_picture(Picture(picture(9, 8), "rgb", None, metadata), "x.jpg", note=notes.append), "x.jpg")
        assert bool(getattr(found.metadata, kind)) is not said and found.metadata.icc == metadata.icc
        assert [note.startswith(f"x.jpg: {kind.upper()} of ") for note in notes] == [True] * said
        assert write_picture(Picture(picture(9, 8), "rgb", None, metadata), "x.png", note=notes.append) and len(notes) == said


def test_how_deep_a_format_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagecodecs")
    notes: list[str] = []
    names = ("x.png", "x", "x.tif", "x.jpg", "x.webp", "x.pgm")
    assert [deepest(name, colour=True, note=notes.append) for name in names] == [16, 16, 8, 8, 8, 8] and not notes
    assert [deepest(name, colour=False) for name in names] == [16, 16, 16, 8, 8, 16]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert deepest("x.png", colour=False) == 16 and deepest("x.png", colour=True, note=notes.append) == 8
    assert notes == ["x.png: 16 bits are written as 8; the extra `deep` keeps them"]


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "avif", "tif"])
def test_metadata_go_into_a_file_and_come_back(picture: Draw, extension: str) -> None:
    metadata = Metadata(srgb(), some_exif(), b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    found = read_picture(write_picture(Picture(picture(9, 8), "rgb", None, metadata), f"out.{extension}"), "back").metadata
    assert (found.icc, found.xmp) == (metadata.icc, metadata.xmp)
    again = Image.Exif()
    again.load(found.exif)
    assert again[0x010F] == "a camera"


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("height", [1, 5, 300])
def test_png_files_of_photographs_are_made_quickly_and_those_of_graphics_small(height: int, depth: int) -> None:
    """By zlib's strategy of runs, where that costs next to nothing."""
    rng = np.random.default_rng(0)
    natural = np.cumsum(rng.normal(0, 9, (height, 400, 3)), axis=1) % 251
    pattern = np.tile(rng.integers(0, 251, (10, 20, 3)), (30, 20, 1))[:height]
    for pixels, strategy in ((natural, zlib.Z_RLE), (pattern, None)):
        array = pixels.astype(np.uint8) if depth == 8 else (257 * pixels).astype(np.uint16)
        if depth == 8:
            expected = encoded(Image.fromarray(array), compress_level=4, compress_type=-1 if strategy is None else strategy)
        else:
            codecs = pytest.importorskip("imagecodecs")
            expected = bytes(codecs.png_encode(array, level=4, strategy=strategy))
        found = write_picture(from_array(array, Metadata()), "x.png")
        assert found == expected and np.array_equal(read_picture(found, "x.png").array(), array)


@pytest.mark.parametrize("name", ["out", "folder.d/out"])
def test_no_extension_means_png(name: str) -> None:
    assert write_picture(to_picture(Image.new("L", (2, 2))), name).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["out.xyz", "out.few", "out.psd", "out.few.txt"])
def test_formats_that_cannot_be_written_are_refused(name: str) -> None:
    with pytest.raises(ImageError, match=f"{name}: Pillow writes no pictures"):
        write_picture(to_picture(Image.new("L", (2, 2))), name)


@pytest.mark.parametrize(("extension", "most"), [("gif", 65535), ("jpg", 65500), ("webp", 16383)])
def test_formats_with_short_sides_refuse_longer_ones_before_they_try(
    extension: str, most: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Issue of a review: libjpeg printed a line of its own."""
    wide = np.zeros((1, most + 1, 3), np.uint8)
    assert read_picture(write_picture(Picture(wide[:, :most], "rgb"), f"x.{extension}"), "x").width == most
    for pixels, size in ((wide, f"{most + 1}x1"), (wide.swapaxes(0, 1), f"1x{most + 1}")):
        message = f"^x.{extension}: [A-Z]+ holds at most {most} pixels a side, this picture has {size}: write PNG or TIFF$"
        with pytest.raises(ImageError, match=message):
            write_picture(Picture(pixels, "rgb"), f"x.{extension}")
    assert not any(capfd.readouterr())


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
            assert write_picture(to_picture(Image.new(mode, size)), f"out{extension}")
        except ImageError as error:
            assert "\n" not in str(error)


# Damage


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "ICO", "PCX", "TGA", "SGI", "PPM"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")
def test_damaged_pictures_are_read_or_refused(picture: Draw, format_name: str) -> None:
    good = encoded(Image.fromarray(picture(24, 40)), format_name)
    rng = np.random.default_rng(11)
    for _ in range(60):
        data = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.3 else good)
        for place in rng.integers(0, len(data), rng.integers(1, 6)) if data else []:
            data[place] = rng.integers(256)
        try:
            pixels = read_picture(bytes(data), "damaged").pixels
        except ImageError as error:
            assert "\n" not in str(error)
            continue
        assert pixels.dtype in (np.uint8, np.uint16)


def test_metadata_that_is_no_metadata_is_no_obstacle(picture: Draw) -> None:
    tiff = TiffImagePlugin.ImageFileDirectory_v2()
    tiff[0x0112] = 99  # no such orientation
    data = encoded(Image.fromarray(picture(8, 9)), "TIFF", tiffinfo=tiff)
    assert read_picture(data, "x.tif").pixels.shape == (8, 9, 3)


# Sixteen bits where formats and Pillow know few of them


@pytest.mark.parametrize("extension", [".webp", ".avif", ".gif", ".jpg", ".bmp"])
def test_formats_of_bytes_refuse_deep_grey(extension: str) -> None:
    deep = from_array(np.full((16, 16), 300, np.uint16), Metadata())
    with pytest.raises(ImageError, match="holds no 16 bits here: write PNG or TIFF, or 8 bits"):
        write_picture(deep, f"deep{extension}")


@pytest.mark.parametrize("extension", [".png", ".tif", ".jp2", ".pgm"])
def test_deep_grey_comes_back_however_dark(extension: str) -> None:
    deep = from_array(np.arange(256, dtype=np.uint16).reshape(16, 16) // 2, Metadata())
    found = read_picture(write_picture(deep, f"deep{extension}"), f"deep{extension}")
    assert found.depth == 16 and np.array_equal(found.pixels, deep.pixels)


def planar_tiff(pixels: np.ndarray) -> bytes:
    """uint16 (h, w, 3) -> a TIFF file with plane after plane, uncompressed."""
    height, width = pixels.shape[:2]
    planes, size = np.moveaxis(pixels, 2, 0).astype("<u2").tobytes(), 2 * height * width
    begin = 8 + 2 + 12 * 10 + 4  # of what does not fit its tag: 3 short values, and twice 3 long ones
    places = [begin + 3 * 2 + 2 * 3 * 4 + k * size for k in range(3)]
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [16] * 3), (259, 3, [1]), (262, 3, [2]), (273, 4, places),
            (277, 3, [3]), (278, 3, [height]), (279, 4, [size] * 3), (284, 3, [2])]  # fmt: skip
    extra = entries = b""
    for tag, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", begin + len(extra))
        extra += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, len(values)) + place
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + extra + planes


def test_deep_planes_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes their samples for bytes, and says nothing."""
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    data = planar_tiff(pixels)
    with monkeypatch.context() as patch, pytest.raises(ImageError, match=r"plane by plane, which needs imagecodecs"):
        patch.setattr("importlib.util.find_spec", lambda name: None)
        read_picture(data, "planes.tif")
    pytest.importorskip("imagecodecs")
    found = read_picture(data, "planes.tif")
    assert found.depth == 16 and np.array_equal(found.pixels, pixels)


def test_exif_that_tiff_cannot_hold_is_refused_in_one_line(picture: Draw) -> None:
    found = Picture(picture(8, 8), "rgb", None, Metadata(exif=b"II*\0", xmp=b"<x/>"))
    with pytest.raises(ImageError, match="its EXIF data cannot be read, which TIFF needs"):
        write_picture(found, "a.tif")
    assert read_picture(write_picture(found, "a.png"), "a.png").metadata.xmp == b"<x/>"

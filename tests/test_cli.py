# SPDX-License-Identifier: MIT
"""The command line: exit codes, one line for each failure, whole files or none."""

import contextlib
import errno
import io
import json
import os
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageCms

from fewbits import __version__, cli, container, conversion, files
from fewbits.codec import Model, inspect
from fewbits.installed import latent_width

Picture = Callable[..., np.ndarray]


class Result(NamedTuple):
    code: int
    out: bytes
    err: str


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, model: Model) -> Callable[..., Result]:
    """run("encode", path, ..., stdin=b""): the command in this process, on one thread."""
    monkeypatch.setattr(conversion, "load_model", lambda name, **how: real_load_model(name, **how | {"threads": 1}))
    monkeypatch.setattr(conversion, "model_of", lambda header, **how: real_model_of(header, **how | {"threads": 1}))

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["fewbits", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        sys.stdout.flush()
        captured = capfdbinary.readouterr()
        return Result(int(exit_.value.code or 0), captured.out, captured.err.decode())

    return call


real_load_model, real_model_of = conversion.load_model, conversion.model_of


def failed(result: Result, *words: object) -> bool:
    """Exit code 1, nothing on stdout, one line on stderr that says `words`."""
    assert result.code == 1, result
    assert result.out == b""
    assert result.err.startswith("fewbits: ") and result.err.count("\n") == 1 and result.err.endswith("\n"), result.err
    for word in words:
        assert str(word) in result.err
    return True


@pytest.fixture
def png(tmp_path: Path, picture: Picture) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(picture(30, 44)).save(path)
    return path


@pytest.fixture
def few(tmp_path: Path, picture: Picture, model: Model) -> Path:
    path = tmp_path / "small.few"
    path.write_bytes(model.encode(picture(30, 44), 60))
    return path


# What works


def test_there_and_back(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    assert run("encode", png) == Result(0, b"", "")
    coded = tmp_path / "photo.few"
    assert inspect(coded.read_bytes()).quality == 60
    assert run("decode", coded, tmp_path / "back.bmp") == Result(0, b"", "")
    with Image.open(tmp_path / "back.bmp") as back:
        assert back.format == "BMP" and back.size == (44, 30) and back.mode == "RGB"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.bmp", "photo.few", "photo.png"]


def test_names_that_are_not_given(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    assert run("decode", few).code == 0
    with Image.open(tmp_path / "small.png") as decoded:
        assert decoded.format == "PNG"


def test_targets(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    coded = tmp_path / "photo.few"
    assert run("encode", png, "--target-size", "0.3kB") == Result(0, b"", "")
    assert 290 <= coded.stat().st_size <= 300
    assert run("encode", png, "-f", "--target-bpp", "1.5") == Result(0, b"", "")
    assert 236 <= coded.stat().st_size <= 247
    assert run("encode", png, "-f", "--target-psnr", "30").code == 0
    assert run("encode", png, "-f", "--target-ssim", "0.8").code == 0
    before = coded.read_bytes()
    assert failed(run("encode", png, "-f", "--target-size", "50B"), png, "more than 50 bytes, the smallest possible has")
    assert coded.read_bytes() == before
    best = run("encode", png, "-f", "--target-psnr", "70")
    assert best.code == 0 and best.err.count("\n") == 1
    assert best.err.startswith(f"fewbits: {png}: target psnr: 70 is out of reach")
    assert inspect(coded.read_bytes()).quality == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target-size", "20", "-q", "60"], "give one of them, not --quality and --target-size"),
        (["--target-psnr", "30", "--target-bpp", "1"], "give one of them, not --target-bpp and --target-psnr"),
        (["--target-size", "20 GB"], "it must be a number with B, kB, KiB, MB or MiB"),
        (["--target-ssim", "1.5"], "target ssim is 1.5, it must be a number above 0 and below 1"),
    ],
)
def test_wrong_targets_are_wrong_usage(run: Callable[..., Result], png: Path, arguments: list[str], words: str) -> None:
    result = run("encode", png, *arguments)
    assert result.code == 2 and words in " ".join(result.err.replace("\u2502", " ").split())
    assert not png.with_suffix(".few").exists()


def test_new_files_have_the_usual_rights(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        assert run("encode", png).code == 0
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "photo.few").stat().st_mode) == 0o640


def test_streams(run: Callable[..., Result], png: Path, few: Path, tmp_path: Path) -> None:
    coded = run("encode", "-", stdin=png.read_bytes())
    assert coded.code == 0 and coded.err == "" and inspect(coded.out).width == 44
    assert run("encode", png, "-").out == coded.out
    decoded = run("decode", "-", stdin=coded.out)
    assert decoded.out.startswith(b"\x89PNG") and run("decode", "-", "-", stdin=coded.out) == decoded
    assert run("encode", "-", tmp_path / "other.few", stdin=png.read_bytes()).code == 0
    assert (tmp_path / "other.few").read_bytes() == coded.out


@pytest.mark.parametrize("quality", ["0", "100", "12.5"])
def test_quality(run: Callable[..., Result], png: Path, quality: str) -> None:
    assert inspect(run("encode", png, "-", "-q", quality).out).quality == float(quality)


def test_info(run: Callable[..., Result], few: Path, model: Model) -> None:
    text = run("info", few).out.decode()
    size = few.stat().st_size
    assert "44 x 30 pixels, rgb, 8 bits, quality 60" in text and f"{size} bytes" in text and "model few" in text
    values = json.loads(run("info", "--json", few).out)
    assert (values["width"], values["height"], values["bytes"], values["model"]) == (44, 30, size, "few")
    assert (
        values["model_id"] == model.bundle.model_id.hex()
        and values["quality"] == 60
        and values["bpp"] == round(8 * size / 1320, 4)
    )
    assert values["header_bytes"] == 48 and len(values["sections"]) == 2
    assert values["file"] == str(few) and values["bytes_there"] == size
    header = json.loads(run("info", "--json", "-", stdin=few.read_bytes()[:48]).out)
    assert header == values | {"file": "-", "bytes_there": None}, "the header is enough"


def test_info_of_several_files(run: Callable[..., Result], few: Path, png: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.few").write_bytes(few.read_bytes()[:-9])
    alone = run("info", few).out.decode()
    result = run("info", few, png, tmp_path / "cut.few")
    lines = result.out.decode().splitlines()
    assert lines[:4] == [f"{few}:", *alone.splitlines()] and lines[4] == f"{tmp_path}/cut.few:" and len(lines) == 9
    assert result.code == 1 and result.err.splitlines()[-1] == "fewbits: 1 of 3 files failed"
    assert result.err.startswith(f"{png}: not a fewbits file") and result.err.count("\n") == 2
    rows = [json.loads(line) for line in run("info", "--json", few, tmp_path / "cut.few").out.splitlines()]
    assert [row["bytes"] - row["bytes_there"] for row in rows] == [0, 9]


def test_info_tells_when_a_file_is_too_short_or_too_long(run: Callable[..., Result], few: Path) -> None:
    data = few.read_bytes()
    assert b"there" not in run("info", few).out
    for content, words in ((data[:60], "the file was cut off"), (data + bytes(5), "there should be no more")):
        few.write_bytes(content)
        assert f"{len(content)} of {len(data)} bytes are there: {words}\n" in run("info", few).out.decode()


# Verifying


def with_a_flipped_bit(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def test_a_good_file_says_nothing(run: Callable[..., Result], few: Path) -> None:
    assert run("verify", few) == Result(0, b"", "") and run("verify", "-", stdin=few.read_bytes()) == Result(0, b"", "")
    row, totals = (json.loads(line) for line in run("verify", few, "--json").out.splitlines())
    assert (row["status"], row["target"], row["bytes_out"], totals["summary"]["done"]) == ("done", "", 0, 1)
    assert list(few.parent.iterdir()) == [few]


@pytest.mark.parametrize(
    "how", [with_a_flipped_bit, lambda data: data[:-9], lambda data: data + b"x", lambda data: b"", lambda data: b"GIF89a"]
)
def test_a_bad_file_is_a_line_and_exit_code_1(run: Callable[..., Result], few: Path, how: Callable[[bytes], bytes]) -> None:
    few.write_bytes(how(few.read_bytes()))
    assert failed(run("verify", few), few)
    result = run("verify", few, "--json")
    assert result.code == 1 and json.loads(result.out.splitlines()[0])["status"] == "failed"


def test_transparency_and_metadata_are_verified(
    run: Callable[..., Result], tmp_path: Path, picture: Picture, model: Model
) -> None:
    data = model.encode(np.dstack([picture(20, 24), picture(20, 24)[:, :, 0]]), 60)
    header = inspect(data)
    place, sizes = header.header_bytes, dict(header.sections)
    assert header.sections[0][0] == container.SECTION_ALPHA
    path = tmp_path / "x.few"
    path.write_bytes(data[: place + 20] + bytes([data[place + 20] ^ 1]) + data[place + 21 :])
    assert sizes[container.SECTION_ALPHA] > 20 and failed(run("verify", path), path, "alpha")


def test_a_cut_file_needs_no_model_to_be_told_of(run: Callable[..., Result], few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few.write_bytes(few.read_bytes()[:-9])
    monkeypatch.setattr(conversion, "model_of", lambda *_, **__: pytest.fail("a model was loaded"))
    assert failed(run("verify", few), few, "truncated file")


def test_many_files_are_verified_wherever_they_are(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    for name in ("in/a.few", "in/sub/a.few", "in/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(few.read_bytes())
    result = run("verify", tmp_path / "in", few, "-j", 1)
    assert result.code == 0 and result.err.startswith("3 files: 3 good, 0 failed; 0.0 MB, ") and result.out == b""
    assert result.err.endswith("; 1 other passed by: .txt 1\n")
    bad = tmp_path / "in" / "sub" / "a.few"
    bad.write_bytes(with_a_flipped_bit(few.read_bytes()))
    result = run("verify", "--from-list", "-", "-j", 1, stdin=f"{bad}\n{few}\n".encode())
    lines = result.err.splitlines()
    assert result.code == 1 and lines[0].startswith(f"{bad}: ") and len(lines) == 3
    assert lines[1].startswith("2 files: 1 good, 1 failed; ") and lines[2] == "fewbits: 1 of 2 files failed"
    assert run("verify").code == 2 and run("verify", few, "-").code == 2
    assert run("verify", few, "--size-limit", "10").code == 1
    (tmp_path / "none").mkdir()
    assert run("verify", tmp_path / "none").err.endswith("verifying takes, in folders, .few\n")


def test_models(run: Callable[..., Result], model: Model) -> None:
    lines = run("models").out.decode().splitlines()
    assert any(line.startswith("few ") and model.bundle.model_id.hex() in line for line in lines)


def test_version_and_help(run: Callable[..., Result]) -> None:
    assert run("--version").out.decode() == f"fewbits {__version__}\n"
    for command in ([], ["encode"], ["decode"], ["verify"], ["info"], ["models"], ["train"], ["export"]):
        for flag in ("-h", "--help"):
            result = run(*command, flag)
            assert result.code == 0 and b"Usage: " in result.out and b"--help" in result.out


def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, int)


def test_a_region_and_a_scale(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    assert run("decode", few, "--precision", "fp32").code == 0
    whole = decoded(tmp_path / "small.png")
    assert run("decode", few, tmp_path / "part.png", "--region", "5,20,17,10", "--precision", "fp32").code == 0
    assert np.abs(decoded(tmp_path / "part.png") - whole[20:30, 5:22]).max() <= 1
    assert run("decode", few, tmp_path / "both.png", "--region", "5,20,17,10", "--scale", "1/4").code == 0
    assert decoded(tmp_path / "both.png").shape == (3, 5, 3)
    assert Image.open(io.BytesIO(run("decode", few, "-", "--scale", "1/8").out)).size == (6, 4)


@pytest.mark.parametrize("region", ["40,0,5,5", "0,0,0,1", "-1,0,4,4", "0,30,1,1"])
def test_regions_outside_the_picture(run: Callable[..., Result], few: Path, region: str) -> None:
    words = f"{few}: region is {region} (x, y, width, height), it must lie in the picture, 44x30 pixels"
    assert failed(run("decode", few, f"--region={region}"), words)
    assert list(few.parent.iterdir()) == [few]


def test_a_file_that_was_cut_is_decoded_on_request(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    data = few.read_bytes()
    cut = tmp_path / "cut.few"
    cut.write_bytes(data[:-9])
    assert failed(run("decode", cut), "truncated")
    result = run("decode", cut, "--allow-truncated")
    assert result.code == 0 and result.out == b""
    share = 100 * (len(data) - 9) // len(data)
    said = f"{len(data) - 9} of {len(data)} bytes ({share} %) are there; what is missing of the picture is coarse or flat"
    assert result.err == f"fewbits: warning: {cut}: truncated file: {said}\n"
    assert decoded(tmp_path / "cut.png").shape == (30, 44, 3)
    line = f"{len(data) - 9} of {len(data)} bytes are there: the file was cut off"
    assert [*run("info", cut).out.decode().splitlines()] == [
        *(lines := run("info", few).out.decode().splitlines())[:2], line, *lines[2:]
    ]  # fmt: skip
    cut.write_bytes(data[:49])
    assert failed(run("decode", cut, tmp_path / "none.png", "--allow-truncated"), cut, "hyper section")
    assert run("decode", few, "-", "--allow-truncated") == run("decode", few, "-"), "no warning where nothing is missing"


# Wrong usage: 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nosuch"],
        ["encode"],
        ["decode"],
        ["info"],
        ["encode", "in.png", "out.few", "more"],
        ["encode", "in.png", "-q", "101"],
        ["encode", "in.png", "-q", "-1"],
        ["encode", "in.png", "-q", "nan"],
        ["encode", "in.png", "-q", "much"],
        ["encode", "in.png", "--threads", "0"],
        ["encode", "in.png", "--nosuch"],
        ["encode", "in.png", "--tune", "speed"],
        ["encode", "in.png", "--effort", "10"],
        ["encode", "in.png", "--tune", "psnr", "--model", "few"],
        ["decode", "in.few", "--region", "1,2,3"],
        ["decode", "in.few", "--region", "1,2,3,x"],
        ["decode", "in.few", "--scale", "2"],
        ["decode", "in.few", "--scale", "1/3"],
        ["decode", "in.few", "--depth", "12"],
        ["decode", "in.few", "--quality", "101"],
        ["decode", "in.few", "--background", "no colour"],
        ["decode", "in.few", "--background", "#ff800080"],
        ["decode", "in.few", "--size-limit", "0"],
        ["decode", "in.few", "--size-limit", "3GB"],
        ["decode", "in.few", "--size-limit", "nan"],
        ["decode", "in.few", "--dimension-limit", "0"],
        ["train", "few"],
        ["export"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(run: Callable[..., Result], arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 2 and "Usage: " in result.err + result.out.decode()


# Failures: 1, one line, and nothing left behind


def test_a_file_that_is_there_is_not_overwritten(run: Callable[..., Result], png: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.few").write_bytes(b"mine")
    assert failed(run("encode", png), tmp_path / "photo.few", "exists already; -f overwrites it")
    (tmp_path / "small.png").write_bytes(b"mine")
    assert failed(run("decode", few), tmp_path / "small.png", "exists already")
    assert (tmp_path / "photo.few").read_bytes() == (tmp_path / "small.png").read_bytes() == b"mine"
    assert run("encode", png, "-f").code == 0 and run("decode", few, "--force").code == 0
    assert inspect((tmp_path / "photo.few").read_bytes()).width == 44


def test_a_file_made_meanwhile_is_not_overwritten(
    run: Callable[..., Result], png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "photo.few"
    make = Model.encode

    def slowly(self: Model, *arguments: Any, **options: Any) -> bytes:
        out.write_bytes(b"theirs")
        return make(self, *arguments, **options)

    monkeypatch.setattr(Model, "encode", slowly)
    assert failed(run("encode", png), out, "File exists")
    assert out.read_bytes() == b"theirs" and sorted(tmp_path.iterdir()) == [out, png]


def test_paths_that_cannot_be_read(run: Callable[..., Result], tmp_path: Path) -> None:
    for command in ("encode", "decode", "info"):
        assert failed(run(command, tmp_path / "missing.png"), tmp_path / "missing.png", "No such file")
        assert failed(run(command, tmp_path), tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_without_the_right_to_read_them(run: Callable[..., Result], png: Path) -> None:
    png.chmod(0)
    assert failed(run("encode", png), png, "Permission denied")


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_names_that_are_no_files(run: Callable[..., Result], command: str, name: str) -> None:
    assert failed(run(command, name))


def test_a_line_break_in_a_name_is_no_second_line(run: Callable[..., Result], tmp_path: Path) -> None:
    assert failed(run("encode", tmp_path / "two\nlines.png"), "No such file")


def test_a_name_that_is_too_long(run: Callable[..., Result], png: Path) -> None:
    assert failed(run("encode", png, png.parent / ("x" * 300)), "too long")
    assert list(png.parent.iterdir()) == [png]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\x8fFEW"])
def test_what_is_no_picture(run: Callable[..., Result], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(content)
    assert failed(run("encode", path), path)
    assert failed(run("encode", "-", stdin=content), "-: ")
    assert list(tmp_path.iterdir()) == [path]


def test_truncated_pictures(run: Callable[..., Result], png: Path) -> None:
    png.write_bytes(png.read_bytes()[:-500])
    assert failed(run("encode", png), png)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_transparent_pictures(run: Callable[..., Result], tmp_path: Path) -> None:
    Image.new("RGBA", (5, 5)).save(tmp_path / "clear.png")
    assert run("encode", tmp_path / "clear.png").code == 0
    assert run("decode", tmp_path / "clear.few", tmp_path / "back.png").code == 0
    assert opened(tmp_path / "back.png").mode == "RGBA"
    assert failed(run("decode", tmp_path / "clear.few", tmp_path / "back.jpg"), "JPEG holds no transparency", "give a background")
    assert not (tmp_path / "back.jpg").exists()
    assert run("decode", tmp_path / "clear.few", tmp_path / "back.jpg", "--background", "#ff8000") == Result(0, b"", "")
    assert np.abs(np.asarray(opened(tmp_path / "back.jpg"), int) - (255, 128, 0)).max() <= 3


def test_a_quality_of_the_picture(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    for quality in (20, 90):
        assert run("decode", few, tmp_path / f"{quality}.jpg", "--quality", quality) == Result(0, b"", "")
    assert (tmp_path / "20.jpg").stat().st_size < (tmp_path / "90.jpg").stat().st_size
    assert failed(run("decode", few, tmp_path / "x.png", "-q", 90), tmp_path / "x.png", "PNG has no quality to choose")


def test_a_picture_as_deep_as_its_source(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    Image.fromarray((np.arange(1200).reshape(30, 40) * 50).astype(np.uint16)).save(tmp_path / "deep.png")
    assert run("encode", tmp_path / "deep.png").code == 0
    for source, name, mode in (
        (tmp_path / "deep.few", "deep.tif", "I;16"), (tmp_path / "deep.few", "deep.webp", "RGB"), (few, "small.png", "RGB"),
    ):  # fmt: skip
        assert run("decode", source, tmp_path / name, "--depth", "source") == Result(0, b"", "")
        assert opened(tmp_path / name).mode == mode


def test_metadata_are_kept_unless_stripped(run: Callable[..., Result], tmp_path: Path, picture: Picture) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture(9, 12)).save(tmp_path / "in.png", icc_profile=icc)
    for options, expected in ([], icc), (["--strip"], None):
        assert run("encode", tmp_path / "in.png", tmp_path / "x.few", "-f", *options).code == 0
        assert run("decode", tmp_path / "x.few", tmp_path / "out.png", "-f").code == 0
        assert opened(tmp_path / "out.png").info.get("icc_profile") == expected


def test_sixteen_bits_on_request(run: Callable[..., Result], tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)).save(tmp_path / "in.png")
    assert run("encode", tmp_path / "in.png").code == 0
    for options, mode in ([], "L"), (["--depth", "16"], "I;16"):
        assert run("decode", tmp_path / "in.few", tmp_path / "out.png", "-f", *options).code == 0
        assert opened(tmp_path / "out.png").mode == mode
    assert run("decode", tmp_path / "in.few", tmp_path / "out.png", "--depth", "12").code == 2


def test_lossless_is_refused_with_what_to_use(run: Callable[..., Result], png: Path) -> None:
    result = run("encode", png, "--lossless")
    assert result.code == 2 and "use PNG, lossless WebP or JPEG XL" in " ".join(result.err.split())


def damaged(data: bytes) -> dict[str, tuple[bytes, str]]:
    flipped = bytearray(data)
    flipped[51] ^= 0x40  # high in the first word of the first stream: the last bits of a stream may mean nothing
    head = bytearray(data)
    head[20] ^= 1
    newer = bytearray(data[:48])
    newer[4] = 2
    newer[44:48] = zlib.crc32(newer[:44]).to_bytes(4, "little")
    other = bytearray(data)
    other[8:16] = b"\xaa" * 8
    other[44:48] = zlib.crc32(other[:44]).to_bytes(4, "little")
    return {
        "empty": (b"", "not a fewbits file"),
        "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "not a fewbits file"),
        "a part of the header": (data[:30], "truncated"),
        "a part of the sections": (data[:-4], "truncated"),
        "more": (data + b"\0", "1 bytes follow"),
        "a flipped bit in a section": (bytes(flipped), "damaged"),
        "a flipped bit in the header": (bytes(head), "checksum"),
        "a newer version": (bytes(newer) + data[48:], "format version is 2"),
        "another model": (bytes(other), "made with model aaaaaaaaaaaaaaaa of family few, which is not installed"),
    }


@pytest.mark.parametrize("name", damaged(bytes(60)))
def test_damaged_files(run: Callable[..., Result], few: Path, name: str) -> None:
    data, message = damaged(few.read_bytes())[name]
    few.write_bytes(data)
    assert failed(run("decode", few), message)
    assert failed(run("decode", "-", stdin=data), message)
    assert list(few.parent.iterdir()) == [few]


@pytest.mark.parametrize("option", [("--size-limit", "{less}"), ("--size-limit", "0.0001MP"), ("--dimension-limit", "30")])
def test_a_picture_above_the_limits_is_refused(run: Callable[..., Result], few: Path, option: tuple[str, str]) -> None:
    header = inspect(few.read_bytes())
    name, value = option
    said = failed(run("decode", few, name, value.format(less=header.width * header.height - 1)), f"{few}: ", "at most")
    assert said and list(few.parent.iterdir()) == [few]
    assert run("decode", few, "--size-limit", "0.1mp", "--dimension-limit", max(header.width, header.height)).code == 0


def test_wrong_models(run: Callable[..., Result], png: Path, few: Path, tmp_path: Path) -> None:
    assert failed(run("encode", png, "--model", "nosuch"), "model nosuch is neither", "(installed: ", "few, few-psnr, klt")
    assert failed(run("decode", few, "--model", tmp_path), "no manifest.json")
    assert sorted(tmp_path.iterdir()) == [png, few]


def test_targets_that_cannot_be_written(run: Callable[..., Result], png: Path, few: Path, tmp_path: Path) -> None:
    assert failed(run("encode", png, tmp_path / "none" / "out.few"), tmp_path / "none" / "out.few", "no such folder")
    assert failed(run("encode", png, few / "out.few"), few / "out.few", "Not a directory")
    assert failed(run("decode", few, tmp_path / "out.xyz"), tmp_path / "out.xyz", "no pictures with the extension .xyz")
    assert sorted(tmp_path.iterdir()) == [png, few]


class FullDisk(io.FileIO):
    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_no_part_of_a_file(
    run: Callable[..., Result], png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    out = tmp_path / "photo.few"
    if force:
        out.write_bytes(b"older")
    monkeypatch.setattr(files.os, "fdopen", lambda handle, mode: io.BufferedWriter(FullDisk(handle, mode)))
    assert failed(run("encode", png, *["-f"] * force), out, "No space left on device")
    assert sorted(tmp_path.iterdir()) == ([out, png] if force else [png])
    assert not force or out.read_bytes() == b"older"


def test_an_interrupt_leaves_no_part_of_a_file(
    run: Callable[..., Result], png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "link", interrupted)
    assert run("encode", png).code in (1, 130)
    assert list(tmp_path.iterdir()) == [png]


def test_a_target_on_a_file_system_without_links(
    run: Callable[..., Result], png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT has no hard links: the file must be written all the same."""

    def unsupported(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files.os, "link", unsupported)
    assert run("encode", png).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.few", "photo.png"]


def test_a_target_that_is_no_usual_file_is_written_into(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    """A named pipe (or /dev/null) is written into, never replaced by a file; a symbolic link stays one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("encode", png, pipe, "-f").code == 0
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(handle, 4) == b"\x8fFEW"
    finally:
        os.close(handle)


def test_a_link_is_followed(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    (tmp_path / "real.few").write_bytes(b"older")
    (tmp_path / "link.few").symlink_to("real.few")
    assert run("encode", png, tmp_path / "link.few", "-f").code == 0
    assert (tmp_path / "link.few").is_symlink() and inspect((tmp_path / "real.few").read_bytes()).width == 44


# Debug


def test_debug_shows_where_it_failed(run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewbits.errors import ImageError

    monkeypatch.setattr(sys, "argv", ["fewbits", "--debug", "encode", str(tmp_path / "missing.png")])
    with pytest.raises(ImageError, match="No such file"):
        cli.main()
    assert failed(run("encode", tmp_path / "missing.png")), "and is off again in the next call"


# A process of its own


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fewbits.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, stderr=subprocess.PIPE, **options)


def test_standard_output_that_is_full(few: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        result = process("decode", few, "-", stdout=full)
    assert result.returncode == 1
    assert result.stderr.decode() == "fewbits: -: standard output: No space left on device\n"


def test_standard_output_by_its_name(png: Path) -> None:
    if not Path("/dev/stdout").exists():
        pytest.skip("this system has no /dev/stdout")
    result = process("encode", png, "/dev/stdout", stdout=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"") and inspect(result.stdout).width == 44


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(("command", "closed"), [("encode -", "<&-"), ("decode IN -", ">&-")])
def test_closed_streams_are_one_line(few: Path, command: str, closed: str) -> None:
    line = f'"{sys.executable}" -m fewbits.cli {command.replace("IN", f"{few}")} {closed}'
    result = subprocess.run(["sh", "-c", line], check=False, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr.startswith(b"fewbits: ") and result.stderr.count(b"\n") == 1


def test_a_bundle_that_is_broken_does_not_stand_in_the_way_of_others(
    run: Callable[..., Result], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the shipped model decode even where a folder of $FEWBITS_MODELS holds a damaged bundle."""
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "manifest.json").write_text("{")
    monkeypatch.setenv("FEWBITS_MODELS", str(tmp_path / "models"))
    assert run("info", few).code == 0
    assert run("decode", few, tmp_path / "out.png").code == 0


def test_a_reader_that_goes_away_is_no_traceback(few: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.closing(os.fdopen(writing, "wb")) as broken:
        result = process("decode", few, "-", stdout=broken)
    assert result.returncode == 1 and result.stderr == b""


def test_info_loads_no_network(few: Path) -> None:
    code = """
import sys
from fewbits import cli
sys.argv = ["fewbits", "info", sys.argv[1]]
try:
    cli.main()
except SystemExit as done:
    assert not done.code
    sys.exit("onnxruntime" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code, few], check=False, stdout=subprocess.DEVNULL).returncode == 0
    twin = code.replace('"info"', '"decode"').replace("sys.argv[1]]", 'sys.argv[1], "-"]')
    assert subprocess.run([sys.executable, "-c", twin, few], check=False, stdout=subprocess.DEVNULL).returncode == 1


def test_training_without_torch_says_what_is_missing(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from fewbits import cli
sys.argv = ["fewbits", "train", "few", "--data", {str(tmp_path)!r}, "--out", {str(tmp_path / "run")!r}, "--steps", "1"]
cli.main()
"""
    result = subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr.decode() == "fewbits: training needs torch: install the extra, pip install '.[train]' in a clone\n"


def test_measuring_without_its_extra_says_what_is_missing(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["scipy"] = None
sys.modules["tqdm"] = None
from fewbits import cli
sys.argv = ["fewbits", "bench", {str(tmp_path)!r}, "--out", {str(tmp_path / "report")!r}]
cli.main()
"""
    result = subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.PIPE)
    assert result.returncode == 1
    said = result.stderr.decode()
    assert said.startswith("fewbits: measuring needs ") and said.endswith(
        ": install the extra, pip install '.[bench]' in a clone\n"
    )


def test_the_source_is_never_overwritten(run: Callable[..., Result], png: Path, few: Path) -> None:
    for command, path in (("encode", png), ("decode", few)):
        before = path.read_bytes()
        assert failed(run(command, path, path, "-f"), path, "is IN itself")
        assert path.read_bytes() == before


def test_messages_name_the_file_and_what_it_is(run: Callable[..., Result], png: Path, few: Path, tmp_path: Path) -> None:
    for command, path, words in (
        ("encode", few, "it is a .few file already"),
        ("decode", png, "not a fewbits file"),
        ("info", png, "not a fewbits file"),
    ):
        out = [tmp_path / "out.png"] if command != "info" else []
        assert failed(run(command, path, *out), path, words)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    result = run("encode", text)
    assert failed(result, text, "not a picture in a format that Pillow reads") and "0x" not in result.err


def test_a_profile_tells_on_stderr_where_the_time_went(run: Callable[..., Result], tmp_path: Path, png: Path) -> None:
    out = tmp_path / "out.few"
    result = run("encode", png, out, "--profile")
    assert result.code == 0 and result.out == b""
    stages = {line.split()[0] for line in result.err.splitlines()}
    assert {"analysis", "hyper_analysis", "scales", "coder", "files", "total"} <= stages
    result = run("decode", out, tmp_path / "back.png", "--profile")
    assert {"synthesis", "scales", "coder", "total"} <= {line.split()[0] for line in result.err.splitlines()}
    assert run("decode", out, "-f").err == ""
    result = run("decode", out, out, f"{tmp_path}/folder/", "--profile")
    assert result.code == 2 and "for one picture" in result.err


def test_engines_are_listed_with_the_one_that_is_chosen(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("models", "--engines").out.decode().splitlines()
    assert lines[0].startswith("* onnxruntime") and lines[1].startswith("  openvino")
    assert any(line.startswith("few: decodes in ") and line.endswith(" (asked for: auto)") for line in lines)
    monkeypatch.setenv("FEWBITS_PRECISION", "int8")
    lines = run("models", "--engines").out.decode().splitlines()
    assert {"few: decodes in int8 (asked for: int8)", "klt: decodes in fp32 (asked for: int8)"} <= set(lines)
    monkeypatch.setenv("FEWBITS_ENGINE", "abacus")
    result = run("models", "--engines")
    assert result.code == 1 and "$FEWBITS_ENGINE is 'abacus'" in result.err


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--precision", "fp32"), 0, ""),
        (("--precision", "int4"), 2, "'int4' is not one of fp32, int8, auto"),
        (("--engine", "abacus"), 1, "engine is 'abacus'"),
    ],
)
def test_precision_and_engine_are_checked(
    run: Callable[..., Result], tmp_path: Path, png: Path, options: tuple[str, ...], code: int, text: str
) -> None:
    assert run("encode", png, tmp_path / "out.few").code == 0
    result = run("decode", tmp_path / "out.few", tmp_path / "back.png", *options)
    assert result.code == code and text in " ".join(result.err.split())


# What strangers found


def test_the_second_of_two_pictures_is_not_overwritten(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    """`encode -f *.jpg` where there are two."""
    other = tmp_path / "other.jpg"
    other.write_bytes(png.read_bytes())
    for options in ([], ["-f"]):  # which is of no use, so no message may ask for it
        result = run("encode", *options, png, other)
        assert result.code == 2 and "is the name of a picture, OUT must be a .few file" in result.err
    assert other.read_bytes() == png.read_bytes()


def test_a_file_that_is_larger_than_its_source_is_told_of(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.webp"
    opened(png).save(small, quality=1)
    result = run("encode", small, "-q", "100", "--json")
    sizes = [(tmp_path / "small.few").stat().st_size, small.stat().st_size]
    said = f"{small}: its .few file is larger: {sizes[0]} bytes of {sizes[1]}"
    assert sizes[0] > sizes[1] and result.code == 0 and result.err == f"fewbits: {said}\n"
    assert json.loads(result.out.splitlines()[0])["note"] == said


def test_a_file_that_is_replaced_keeps_its_rights(run: Callable[..., Result], png: Path, tmp_path: Path) -> None:
    target = tmp_path / "private.few"
    target.touch(0o600)
    assert run("encode", "-f", png, target).code == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_to_names_the_format_of_a_name_without_one(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    assert run("decode", few, tmp_path / "picture", "--to", "jpg").code == 0
    with Image.open(tmp_path / "picture") as image:
        assert image.format == "JPEG"


def test_a_model_that_is_not_there_is_said_of_the_file(run: Callable[..., Result], few: Path, tmp_path: Path) -> None:
    data = bytearray(few.read_bytes())
    data[8:16] = b"unknown!"
    n_sections = int.from_bytes(data[30:34], "little")
    end = 34 + 5 * n_sections
    data[end : end + 4] = zlib.crc32(data[:end]).to_bytes(4, "little")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "lost.few").write_bytes(data)
    for source in (tmp_path / "in" / "lost.few", tmp_path / "in"):
        result = run("decode", source, tmp_path / "out.png" if source.is_file() else tmp_path / "out")
        assert result.code == 1 and f"lost.few: made with model {b'unknown!'.hex()}" in result.err


@pytest.mark.parametrize(
    "target",
    [("--target-bpp", "1e308"), ("--target-ssimulacra2", "-1e308"), ("--target-size", "9" * 400), ("--target-psnr", "1e99")],
)
def test_targets_beyond_all_pictures_are_wrong_usage(run: Callable[..., Result], png: Path, target: tuple[str, str]) -> None:
    result = run("encode", png, *target)
    assert result.code == 2 and "it must be a number above" in result.err and "Traceback" not in result.err


def test_levels_of_the_kind_masked_are_no_widths(few: Path) -> None:
    """They are pairs, too: of a quality and of bits."""
    header, levels = container.parse_header(few.read_bytes()), [[10, 1], [40, 3], [80, 6]]
    assert latent_width({"coding": {"kind": "factorized", "levels": levels}}, header) in (10, 40, 80)
    assert latent_width({"coding": {"kind": "masked", "levels": levels}}, header) is None

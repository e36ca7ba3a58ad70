# SPDX-License-Identifier: MIT
"""Every file of the folder of odd and broken pictures: the right picture, there and back, or one clear line.

edge_files.txt says what each is. It was written from what the reader found, then looked at, and compared with Pillow.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageOps

from fewbits.codec import Model, load_model
from fewbits.errors import ImageError
from fewbits.picture import Picture, at_depth
from fewbits.picturefile import read_picture, write_picture

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "edge"
TABLE = Path(__file__).with_name("edge_files.txt")

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no image data beside the repository"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),  # Pillow warns of some damage and reads on
]


class Expected(NamedTuple):
    """kind: size, colour, depth; alpha: "opaque", or its mean; colours: mean of what is visible; metadata: names."""

    kind: str
    alpha: str
    colours: list[float]
    metadata: list[str]


def table() -> dict[str, Expected | str]:
    """By file what it is, or the words that refuse it."""
    found: dict[str, Expected | str] = {}
    for line in TABLE.read_text().splitlines():
        name, *columns = line.split(" | ")
        if columns[0].startswith("refused: "):
            found[name] = columns[0].removeprefix("refused: ")
        else:
            colours = [float(number) for number in columns[2].split()]
            found[name] = Expected(columns[0], columns[1], colours, columns[3].split() if len(columns) > 3 else [])
    return found


ALL = table()
READ = {name: expected for name, expected in ALL.items() if isinstance(expected, Expected)}
REFUSED = {name: words for name, words in ALL.items() if isinstance(words, str)}


@pytest.fixture(scope="module")
def klt() -> Model:
    """The fastest model that ships."""
    return load_model("klt", threads=1)


def read(name: str) -> Picture:
    expected = ALL[name]
    if (
        isinstance(expected, Expected)
        and expected.kind.endswith(" 16")
        and ("rgb" in expected.kind or expected.alpha != "opaque")
    ):
        pytest.importorskip("imagecodecs")  # 16 bits with colour or alpha
    return read_picture((FOLDER / name).read_bytes(), Path(name).name)


def visible(picture: Picture) -> np.ndarray:
    """bool (height, width)."""
    return np.ones(picture.pixels.shape[:2], bool) if picture.alpha is None else picture.alpha > 0


def by_pillow(name: str) -> np.ndarray:
    """The colours as Pillow converts them by itself, uint8 (height, width, 3)."""
    with Image.open(io.BytesIO((FOLDER / name).read_bytes())) as image:
        if image.mode == "I;16":
            return np.repeat(at_depth(np.asarray(image, np.uint16), 8)[:, :, None], 3, 2)
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def test_the_table_has_every_file() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".txt", ".md")}
    assert files == set(ALL)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        read(name)
    assert str(caught.value).startswith(f"{Path(name).name}: {REFUSED[name]}")  # Pillow's own words may follow
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READ)
def test_it_is_the_right_picture_there_and_back(klt: Model, name: str) -> None:
    expected, found = READ[name], read(name)
    assert f"{found.width}x{found.height} {found.colour} {found.depth}" == expected.kind
    assert [part for part in ("icc", "exif", "xmp") if getattr(found.metadata, part)] == expected.metadata
    alpha = "opaque" if found.alpha is None else f"alpha {at_depth(found.alpha, 8).mean():.1f}"
    assert alpha == expected.alpha
    pixels, seen = at_depth(found.pixels, 8).astype(float), visible(found)
    assert np.allclose(pixels[seen].mean(0), expected.colours, atol=1)  # decoders of JPEG differ a little
    assert np.abs(pixels - by_pillow(name))[seen].max() <= 1

    back = klt.decode_picture(klt.encode(found, 100), depth=found.depth)
    assert (back.colour, back.depth, back.metadata) == (found.colour, found.depth, found.metadata)
    assert np.array_equal(back.alpha, found.alpha) if found.alpha is not None else back.alpha is None
    assert np.abs(at_depth(back.pixels, 8) - pixels)[seen].mean() < 4
    written = read_picture(write_picture(back, "again.png"), "again.png")
    assert np.array_equal(written.array(), back.array())

# SPDX-License-Identifier: MIT
"""A folder of made graphics to train with: screens, charts, drawings, patterns and pixel art, as PNG files of 512x512.

python benchmarks/graphics.py FOLDER [NUMBER]

Photographs hardly have what these have: hard edges, flat areas, colours at the corners of the RGB cube. Picture K is the same
on every machine with the same Pillow. What `performance.py graphics` measures is none of them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE: Final = 512  # pixels
SMOOTH: Final = 3  # times as large drawings are made, that their edges are smooth
TEXT: Final = (
    "File Edit View Insert Tools Window Help Settings Cancel OK Save as Search results 2 of 17 items Price 12.50 Total 1 024 MB "
    "The latent is quantized and coded; what remains is sent Error: no such file /home/user/pictures/IMG_0042.jpg 09:41 100 %"
)

Colour = tuple[int, int, int]
Drawing = Callable[[np.random.Generator], Image.Image]


def colour(rng: np.random.Generator) -> Colour:
    """A corner of the RGB cube, a grey, or any."""
    kind = rng.integers(3)
    values = rng.choice([0, 255], 3) if kind == 0 else np.repeat(rng.integers(256), 3) if kind == 1 else rng.integers(0, 256, 3)
    return int(values[0]), int(values[1]), int(values[2])


def ground(rng: np.random.Generator) -> Colour:
    """Of a page: white, nearly black, or any."""
    pages: list[Colour] = [(255, 255, 255), (255, 255, 255), (245, 245, 247), (24, 24, 28), (0, 0, 0), colour(rng)]
    return pages[rng.integers(len(pages))]


def ink(rng: np.random.Generator, page: Colour) -> Colour:
    """Of writing: mostly what is far from the page's colour."""
    far = (0, 0, 0) if sum(page) > 382 else (255, 255, 255)
    return colour(rng) if rng.random() < 0.3 else far


def write(draw: ImageDraw.ImageDraw, rng: np.random.Generator, place: tuple[int, int], fill: Colour, lines: int) -> None:
    size = int(rng.integers(9, 17) if lines > 1 else rng.integers(9, 48))
    font = ImageFont.load_default(size)
    for k in range(lines):
        text = " ".join(rng.choice(TEXT.split(), int(rng.integers(1, 12 if lines > 1 else 4))))
        draw.text((place[0], place[1] + k * int(1.35 * size)), text, fill=fill, font=font)


def box(rng: np.random.Generator, least: int, most: int, side: int = SIDE) -> tuple[int, int, int, int]:
    left, top = (int(value) for value in rng.integers(-most // 4, side, 2))
    width, height = (int(value) for value in rng.integers(least, most, 2))
    return left, top, left + width, top + height


def screen(rng: np.random.Generator) -> Image.Image:
    """Panels, buttons, lines and writing, as an interface has them."""
    page = ground(rng)
    picture = Image.new("RGB", (SIDE, SIDE), page)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 9))):
        fill = ground(rng) if rng.random() < 0.6 else colour(rng)
        place = box(rng, 24, 320)
        if rng.random() < 0.5:
            draw.rounded_rectangle(place, int(rng.integers(2, 12)), fill=fill, outline=colour(rng), width=int(rng.integers(0, 3)))
        else:
            draw.rectangle(place, fill=fill, outline=colour(rng) if rng.random() < 0.5 else None)
        write(draw, rng, (place[0] + 6, place[1] + 4), ink(rng, fill), int(rng.integers(1, 9)))
    for _ in range(int(rng.integers(0, 6))):
        level = int(rng.integers(SIDE))
        draw.line((0, level, SIDE, level) if rng.random() < 0.5 else (level, 0, level, SIDE), fill=colour(rng))
    return picture


def chart(rng: np.random.Generator) -> Image.Image:
    """Axes, a grid, and bars or lines with names."""
    page = ground(rng)
    picture = Image.new("RGB", (SIDE, SIDE), page)
    draw = ImageDraw.Draw(picture)
    for level in range(40, SIDE - 20, int(rng.integers(24, 64))):
        draw.line((40, level, SIDE, level), fill=colour(rng) if rng.random() < 0.1 else (200, 200, 200))
        draw.text((4, level - 6), str(level), fill=ink(rng, page), font=ImageFont.load_default(11))
    count = int(rng.integers(4, 20))
    step = (SIDE - 50) / count
    heights = rng.integers(60, SIDE - 40, (3, count))
    if rng.random() < 0.5:
        for k, top in enumerate(heights[0]):
            draw.rectangle((45 + k * step, top, 45 + (k + 0.7) * step, SIDE - 20), fill=colour(rng))
    else:
        for row in heights:
            points = [(45 + k * step, int(top)) for k, top in enumerate(row)]
            draw.line(points, fill=colour(rng), width=int(rng.integers(1, 5)))
    write(draw, rng, (60, 8), ink(rng, page), 1)
    return picture


def drawing(rng: np.random.Generator) -> Image.Image:
    """Flat shapes with smooth edges, as logos and clip art have them, at times on a gradient."""
    side = SMOOTH * SIDE
    picture = Image.new("RGB", (side, side), colour(rng))
    if rng.random() < 0.4:
        ends = rng.integers(0, 256, (2, 3))
        mixed = np.linspace(0, 1, side)[:, None] * (ends[1] - ends[0]) + ends[0]
        picture = Image.fromarray(np.repeat(mixed[:, None], side, 1).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 24))):
        place, kind = box(rng, 30, 240 * SMOOTH, side), rng.integers(4)
        if kind == 0:
            draw.ellipse(place, fill=colour(rng), outline=colour(rng), width=int(rng.integers(0, 18)))
        elif kind == 1:
            draw.polygon([(place[0], place[3]), (place[2], place[1]), (place[2], place[3])], fill=colour(rng))
        elif kind == 2:
            draw.rectangle(place, fill=colour(rng))
        else:
            draw.line(place, fill=colour(rng), width=int(rng.integers(3, 30)))
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def pattern(rng: np.random.Generator) -> Image.Image:
    """Stripes, checks, or cells of colours, of one size each in four quarters."""
    rows, columns = np.indices((SIDE, SIDE))
    out = np.zeros((SIDE, SIDE, 3), np.uint8)
    for quarter in range(4):
        size, shift = int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])), int(rng.integers(64))
        down, across = (rows + shift) // size, (columns + int(rng.integers(64))) // size
        kind = rng.integers(4 if size >= 8 else 3)
        if kind == 3:  # of as many colours as there are cells; smaller ones would be noise
            palette = rng.choice([0, 255], (4096, 3)) if rng.random() < 0.5 else rng.integers(0, 256, (4096, 3))
            which = (down * 61 + across * 17) % len(palette)
        else:
            palette = np.array([colour(rng) for _ in range(int(rng.choice([2, 2, 3, 8])))])
            which = (down if kind == 0 else across if kind == 1 else down + across) % len(palette)
        inside = (rows // (SIDE // 2) * 2 + columns // (SIDE // 2)) == quarter
        out[inside] = palette[which][inside]
    return Image.fromarray(out)


def pixel_art(rng: np.random.Generator) -> Image.Image:
    """Figures of few colours, mirrored, enlarged without smoothing."""
    size = int(rng.choice([4, 8, 16]))
    cells = SIDE // size
    palette = np.array([colour(rng) for _ in range(5)])
    figure = rng.integers(0, 5, (8, 4)) * (rng.random((8, 4)) < 0.7)
    tiles = np.tile(np.concatenate([figure, figure[:, ::-1]], 1), (cells // 8, cells // 8))
    return Image.fromarray(palette[tiles].astype(np.uint8).repeat(size, 0).repeat(size, 1))


KINDS: Final[tuple[Drawing, ...]] = (screen, chart, drawing, pattern, screen, pixel_art)  # screens are what people have most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int, nargs="?", default=36, help="of pictures (default %(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for k in range(options.number):
        KINDS[k % len(KINDS)](np.random.default_rng(k)).save(options.folder / f"graphics-{k:03}.png")
    print(f"{options.number} pictures in {options.folder}")


if __name__ == "__main__":
    main()

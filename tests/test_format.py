# SPDX-License-Identifier: MIT
"""docs/format.md read to the letter: a second, slow decoder of whole files that shares no code with the first."""

import itertools
import math
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import onnxruntime
import pytest

from fewbits.codec import Model, inspect

Picture = Callable[..., np.ndarray]


class Stream:
    """ "Streams": the range decoder, one symbol at a time."""

    def __init__(self, data: bytes) -> None:
        assert len(data) % 4 == 0
        self.words = iter(struct.unpack(f"<{len(data) // 4}I", data))
        self.lower, self.range = 0, 2**64 - 1
        self.point = next(self.words, 0) * 2**32 + next(self.words, 0)

    def symbol(self, before: list[int]) -> int:
        """before[s]: the sum of the frequencies of the symbols before s, and 2**24 at the end."""
        scale = self.range // 2**24
        quantile = (self.point - self.lower) % 2**64 // scale
        assert quantile < 2**24
        symbol = bisect_right(before, quantile) - 1
        self.lower = (self.lower + scale * before[symbol]) % 2**64
        self.range = scale * (before[symbol + 1] - before[symbol])
        if self.range < 2**32:
            self.lower, self.range = self.lower * 2**32 % 2**64, self.range * 2**32
            self.point = (self.point * 2**32 + next(self.words, 0)) % 2**64
        return symbol


def sums(frequencies: np.ndarray) -> list[int]:
    return list(accumulate(map(int, frequencies), initial=0))


def run(model: Model, name: str, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.bundle.networks[name], providers=["CPUExecutionProvider"])
    found = session.run(None, {key: value.astype(np.float32) for key, value in inputs.items()})[0]
    return found.transpose(2, 0, 1) if found.ndim == 3 else found[0]


def integer_level(table: np.ndarray, quality: int) -> np.ndarray:
    position = quality * (len(table) - 1)
    left = min(position // 10_000, len(table) - 2)
    weight = position - 10_000 * left
    rows = [[int(value) for value in row] for row in table]
    return np.array([(a * (10_000 - weight) + b * weight) // 10_000 for a, b in zip(rows[left], rows[left + 1], strict=True)])


def float_level(table: np.ndarray, quality: int) -> np.ndarray:
    place = quality / 10_000 * (len(table) - 1)
    return np.array([np.interp(place, range(len(table)), column) for column in table.T])


def column(vector: np.ndarray) -> np.ndarray:
    return vector[None, :, None, None]


def placed(vectors: list[np.ndarray], classes: np.ndarray, zoom: int = 1) -> np.ndarray:
    """The vector of each position's class: (1, channels, rows, columns), or (1, channels, 1, 1) where there is one class."""
    if len(vectors) == 1:
        return column(vectors[0])
    return np.array(vectors)[classes.repeat(zoom, 0).repeat(zoom, 1)].transpose(2, 0, 1)[None]


def interpolated(vectors: list[np.ndarray], classes: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """ "Pixels": of a latent of so many rows and columns, position by position."""
    if len(vectors) == 1:
        return column(vectors[0])

    def shares(position: int, side: int) -> list[tuple[int, float]]:
        h, s = position // 4, (3 / 8, 1 / 8, 1 / 8, 3 / 8)[position % 4]
        other = min(max(h - 1 if position % 4 < 2 else h + 1, 0), side - 1)
        return [(h, 1 - s), (other, s)]

    out = np.zeros((1, len(vectors[0]), rows, columns))
    for row in range(rows):
        for place in range(columns):
            for k, share in shares(row, classes.shape[0]):
                for j, part in shares(place, classes.shape[1]):
                    out[0, :, row, place] += share * part * vectors[classes[k, j]]
    return out


def phase_of(row: int, column: int) -> int:
    """ "Pyramid": of a position of a strip."""
    for k, distance in enumerate((1, 2, 4, 8)):
        if row % (2 * distance) or column % (2 * distance):
            return 8 - 2 * k - bool(row % (2 * distance) and column % (2 * distance))
    return 0


def predicted(steps: np.ndarray) -> np.ndarray:
    """ "Pyramid": values (channels, rows, columns) of a strip from its symbols over the gains, position by position."""
    values, (rows, columns) = np.zeros(steps.shape), steps.shape[1:]
    for row, column in sorted(np.ndindex(rows, columns), key=lambda place: phase_of(*place)):
        phase = phase_of(row, column)
        d = (0, 8, 8, 4, 4, 2, 2, 1, 1)[phase]
        if phase % 2:
            pairs = [[(row - d, column - d), (row - d, column + d)], [(row + d, column - d), (row + d, column + d)]]
        else:
            pairs = [[(row - d, column), (row + d, column)], [(row, column - d), (row, column + d)]] if phase else []
        pairs = [[place for place in pair if 0 <= place[0] < rows and 0 <= place[1] < columns] for pair in pairs]
        if phase % 2 == 0 and any(len(pair) == 2 for pair in pairs):
            pairs = [pair for pair in pairs if len(pair) == 2]
        around = [values[:, y, x] for pair in pairs for y, x in pair]
        values[:, row, column] = steps[:, row, column] + (np.mean(around, axis=0) if around else 0)
    return values


def runs_by_the_page(stream: Stream, before: list[int], n: int) -> list[tuple[int, int]]:
    """ "Runs": of a group of n values the places of those that are not 0, and what they are. before: as sums() gives it."""
    limit = len(before) // 2 - 1
    f = before[limit + 1] - before[limit]

    def equal(size: int) -> list[int]:
        return [k * (2**24 // size) for k in range(size)] + [2**24]

    e = n * (2**24 - f) // 2**24
    r = 4 * int(math.sqrt(e)) + 4
    a, b = max(0, e - r), min(n, e + r)
    m = a + stream.symbol(equal(b - a + 2))
    if m > b:
        m = 65_536 * stream.symbol(equal(65_536)) + stream.symbol(equal(65_536))
    longer = [2**24]
    while len(longer) < 256 and longer[-1] >= 256:
        longer.append(longer[-1] * f // 2**24)
    runs = [2**24 - left for left in longer] + [2**24]
    places, reached = [], 0
    while len(places) < m:
        run = stream.symbol(runs)
        reached += run
        if run < len(longer) - 1:
            places.append(reached)
            reached += 1
    others = [(high - low) * 2**24 // (2**24 - f) for low, high in itertools.pairwise(before)]
    del others[limit]
    others[limit] += 2**24 - sum(others)
    table = sums(np.array(others))
    values = [(symbol := stream.symbol(table)) - limit + (symbol >= limit) for _ in places]
    escape = [256 * k for k in range(65_537)]
    values = [stream.symbol(escape) - 32_768 if value > limit else value for value in values]
    assert reached <= n
    return list(zip(places, values, strict=True))


def decode_by_the_page(model: Model, data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hyper symbols, latent symbols and real pixel values (3, height, width) in 0..255."""
    tables, coding = model.bundle.tables, model.bundle.coding

    # Header
    magic, version, family, colour, depth, model_id, width, height, quality, crc, n_sections = struct.unpack_from(
        "<4sBBBB8sIIHII", data
    )
    assert (magic, version, family, depth) == (b"\x8fFEW", 1, 1, 0) and colour in (0, 1)
    assert model_id == model.bundle.model_id
    end = 34 + 5 * n_sections
    assert zlib.crc32(data[:end]) == struct.unpack_from("<I", data, end)[0]

    # Sections
    place, hyper, coarse, strips, maps = end + 4, [], [], [], []
    for kind, size in struct.iter_unpack("<BI", data[34:end]):
        part = data[place : place + size]
        if kind == 5:
            maps.append(part)
        elif kind == 6:
            assert not strips
            coarse.append((part[0], Stream(part[1:])))
        else:
            {1: hyper, 2: strips}[kind].append(Stream(part))
        place += size
    assert place == len(data) and len(hyper) == 1

    # Symbols, 1
    rows, columns = -(-height // 16), -(-width // 16)
    z_rows, z_columns = -(-rows // 4), -(-columns // 4)
    qualities, classes = [quality], np.zeros((z_rows, z_columns), int)
    for part in maps:  # Qualities
        assert zlib.crc32(part[:-4]) == struct.unpack("<I", part[-4:])[0]
        qualities = list(struct.unpack_from(f"<{part[0]}H", part, 1))
        assert qualities[0] == quality and qualities == sorted(set(qualities), reverse=True)
        classes = np.array(list(zlib.decompress(part[1 + 2 * part[0] : -4]))).reshape(z_rows, z_columns)
    levels, n_hyper, bins = tables["z_frequencies"].shape
    limit = coding["hyper_limit"]
    assert bins == 2 * limit + 1
    z = np.zeros((n_hyper, z_rows, z_columns), np.int64)
    for k, steps in enumerate(qualities):
        level = (2 * steps * (levels - 1) + 10_000) // 20_000
        for channel in range(n_hyper):
            before = sums(tables["z_frequencies"][level][channel])
            for row in range(z_rows):
                for place in range(z_columns):
                    if classes[row, place] == k:
                        z[channel, row, place] = hyper[0].symbol(before) - limit

    # Symbols, 2
    biases = {
        name: placed([integer_level(tables[name], steps) for steps in qualities], classes, zoom)
        for name, zoom in (("bias_in", 1), ("bias_out", 4))
    }
    real = run(model, "scales", z_hat=z[None], **biases)[:, :rows, :columns].astype(np.float64)
    leading = coding.get("pyramid", 0)
    for row in range(rows if leading else 0):
        for place in range(columns):
            real[:leading, row, place] += tables["pyramid_bias"][:, phase_of(row, place)] * 2.0 ** -coding["index_bits"]
    index = np.clip(np.floor(real + 0.5), 0, 63).astype(int)
    index[:leading] = np.maximum(index[:leading], coding["first_coded_index"])

    # Symbols, 3
    limits = [int(value) for value in tables["y_limits"]]
    ends = np.cumsum([2 * value + 2 for value in limits])
    before_of = [sums(part) for part in np.split(tables["y_frequencies"], ends[:-1])]
    escape = [256 * k for k in range(65_537)]
    latent = np.zeros((len(index), rows, columns), np.int64)
    assert len(strips) == -(-rows // 32)
    falling = coding.get("order", "rising") == "falling"
    assert len(coarse) % len(strips) == 0 and (falling or not coarse)
    for number, rest in enumerate(strips):
        top = len(limits)
        for least, stream in [*coarse[number :: len(strips)], (coding["first_coded_index"], rest)]:  # Coarse
            assert coding["first_coded_index"] <= least <= top
            those = index[:, 32 * number : 32 * number + 32]
            places = (np.argwhere((those >= least) & (those < top)) + [0, 32 * number, 0]).tolist()
            escaped = []
            for k in sorted(range(least, top), reverse=falling):
                group = sorted(place for place in map(tuple, places) if index[place] == k)
                if k < coding.get("runs_below", 0) and len(group) >= 512:
                    for place, value in runs_by_the_page(stream, before_of[k], len(group)):
                        latent[group[place]] = value
                    continue
                for place in group:
                    latent[place] = stream.symbol(before_of[k]) - limits[k]
                    if latent[place] > limits[k]:
                        escaped.append(place)
                if falling or k == top - 1:
                    for place in escaped:
                        latent[place] = stream.symbol(escape) - 32_768
                    escaped = []
            top = least
    assert zlib.crc32(z.astype("i1").tobytes() + latent.astype("<i2").tobytes()) == crc

    # Pixels
    gain, inverse_gain = (
        placed([np.exp(float_level(tables[name], steps)) for steps in qualities], classes, 4)[0, :, :rows, :columns]
        for name in ("gain", "inverse_gain")
    )
    unit = tables["deviation"][:, None, None] * gain * np.ones((1, rows, columns))
    mean = np.zeros((len(latent), rows, columns))
    told = coding.get("means")
    if told is None and not leading:
        mean = run(model, "means", z_hat=z[None])[:, :rows, :columns] * unit
    for top in range(0, rows if leading else 0, 32):  # Pyramid
        strip = slice(top, min(top + 32, rows))
        values = predicted(latent[:leading, strip] / (gain * np.ones((1, rows, columns)))[:leading, strip])
        mean[:leading, strip] = values * gain[:leading, strip if gain.shape[1] > 1 else slice(None)] - latent[:leading, strip]
        here = values / tables["deviation"][:leading, None, None]
        if told is None:
            wide = here[
                :,
                np.clip(np.arange(4 * z_rows) - top, 0, strip.stop - top - 1)[:, None],
                np.clip(np.arange(4 * z_columns), 0, columns - 1),
            ]
            others = run(model, "means", z_hat=z[None], pyramid=wide[None])[:, strip, :columns]
            mean[leading:, strip] = others * unit[leading:, strip]
        elif told:
            few = slice(leading, leading + told)
            mean[few, strip] = run(model, "means", pyramid=here[None]) * unit[few, strip]
    y_hat = (latent + mean) * inverse_gain
    modulation = {
        name: interpolated([float_level(tables[f"synthesis_{name}"], steps) for steps in qualities], classes, rows, columns)
        for name in ("scale", "shift")
    }
    pixels = np.clip((run(model, "synthesis", y_hat=y_hat[None], **modulation) + 0.5) * 255, 0, 255)
    return z, latent, pixels[:, :height, :width]


@pytest.mark.parametrize(
    ("size", "quality", "grey"),
    [((1, 1), 60, False), ((70, 41), 0, False), ((70, 41), 33.33, True), ((70, 41), 100, False), ((530, 60), 71.5, False)],
    ids=str,
)
def test_the_page_decodes_what_we_encode(
    model: Model, picture: Picture, size: tuple[int, int], quality: float, grey: bool
) -> None:
    pixels = picture(*size, 3)
    data = model.encode(pixels[:, :, 0] if grey else pixels, quality)
    hyper, latent, real = decode_by_the_page(model, data)
    found = model.symbols(data)
    assert ("coarse" in inspect(data).parts) == (size[0] > 512), "of two strips"
    assert np.array_equal(found.hyper, hyper) and np.array_equal(found.latent, latent)
    if grey:
        real = np.tensordot([0.299, 0.587, 0.114], np.rint(real), 1)[None]
    decoded = np.atleast_3d(np.asarray(model.decode(data), float)).transpose(2, 0, 1)
    assert np.abs(decoded - real).max() <= 1


def test_the_page_decodes_what_older_bundles_encoded(rising: Model, picture: Picture) -> None:
    data = rising.encode(picture(70, 41, 3), 60)
    assert np.array_equal(decode_by_the_page(rising, data)[1], rising.symbols(data).latent)


@pytest.mark.parametrize("size", [(70, 41), (530, 60), (16, 4200)], ids=str)
def test_the_page_decodes_what_older_means_encoded(by_hyper: Model, picture: Picture, size: tuple[int, int]) -> None:
    mask = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size)
    for roi in ({}, {"roi": mask, "roi_drop": 50}):
        data = by_hyper.encode(picture(*size, 3), 60, **roi)
        _, latent, real = decode_by_the_page(by_hyper, data)
        assert np.array_equal(latent, by_hyper.symbols(data).latent)
        assert np.abs(np.asarray(by_hyper.decode(data), float).transpose(2, 0, 1) - real).max() <= 1


@pytest.mark.parametrize("size", [(150, 141), (530, 70)], ids=str)
def test_the_page_decodes_a_region_of_interest(model: Model, picture: Picture, size: tuple[int, int]) -> None:
    mask = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size)
    data = model.encode(picture(*size, 3), 80, roi=mask, roi_drop=61)
    hyper, latent, real = decode_by_the_page(model, data)
    found = model.symbols(data)
    assert np.array_equal(found.hyper, hyper) and np.array_equal(found.latent, latent)
    assert np.abs(np.asarray(model.decode(data), float).transpose(2, 0, 1) - real).max() <= 1


def test_escapes_are_where_the_page_says(model: Model, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latent values far outside every table, which no usual picture has."""
    analysed = model.pipeline._analysed

    def enlarged(*arguments: object) -> np.ndarray:
        y = analysed(*arguments).copy()  # type: ignore[arg-type]
        y[::7] *= 3000
        return y

    monkeypatch.setattr(model.pipeline, "_analysed", enlarged)
    data = model.encode(picture(40, 40), 80)
    found = model.symbols(data)
    assert np.abs(found.latent.astype(int)).max() > 1000
    hyper, latent, _ = decode_by_the_page(model, data)
    assert np.array_equal(found.hyper, hyper) and np.array_equal(found.latent, latent)

# SPDX-License-Identifier: MIT
"""Effort: fewer bits and errors together, files as ever."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fewbits
from fewbits.codec import Model, load_model, read_bundle
from fewbits.errors import ImageError, ModelError
from fewbits.fidelity import psnr
from fewbits.installed import ROUNDS, SHIPPED
from fewbits.runtime.manifest import MANIFEST
from fewbits.runtime.pipeline import STRIP_ROWS
from fewbits.target import Target

Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def squared() -> Model:
    """The shipped model that takes effort, in float32, so that figures are the same everywhere."""
    return load_model("few-psnr", threads=1, precision="fp32")


def cost(model: Model, pixels: np.ndarray, data: bytes, quality: float) -> float:
    """Bits a pixel of a file, and its error at what it is worth beside them."""
    lambdas = np.log(model.bundle.card["effort"]["lambdas"])
    worth = np.exp(np.interp(quality / 100 * (len(lambdas) - 1), np.arange(len(lambdas)), lambdas))
    error = np.square(np.asarray(model.decode(data), float) - pixels).mean()
    return float(8 * len(data) / pixels[..., 0].size + worth * error)


@pytest.mark.parametrize("quality", [5, 50, 95])
def test_more_effort_costs_less(squared: Model, photo: np.ndarray, quality: int) -> None:
    costs = [cost(squared, photo, squared.encode(photo, quality, effort=effort), quality) for effort in (0, 1, 5)]
    assert costs == sorted(costs, reverse=True)
    bits = 8 * len(squared.encode(photo, quality)) / photo[..., 0].size
    assert costs[0] - costs[2] > 0.015 * bits


def test_files_are_as_ever(squared: Model, photo: np.ndarray) -> None:
    data = squared.encode(photo, 50, effort=2)
    squared.verify(data)
    assert data == squared.encode(photo, 50, effort=2)  # the same lots each time
    assert fewbits.inspect(data).quality == 50 and psnr(np.asarray(load_model("few-psnr").decode(data)), photo) > 28


def test_efforts_are_fast_to_slow() -> None:
    assert ROUNDS[0] == 0 and list(ROUNDS) == sorted(set(ROUNDS))


def test_symbols_that_are_known_to_others_stay(squared: Model, photo: np.ndarray) -> None:
    plain, better = (squared.symbols(squared.encode(photo, 50, effort=effort)) for effort in (0, 5))
    assert np.array_equal(plain.hyper, better.hyper)
    assert np.array_equal(plain.latent[:3], better.latent[:3])  # the pyramid, which predicts others
    moved = (better.latent - plain.latent)[3:]
    assert moved.any() and np.abs(moved).max() < 5


def test_strips_and_tiles_have_no_seams(squared: Model, photo: np.ndarray) -> None:
    """What is gained beside the border of strips is like what is gained elsewhere."""
    high = np.concatenate([photo, photo[::-1]], axis=0)[: 16 * STRIP_ROWS + 96, :256]
    plain, better = (np.asarray(squared.decode(squared.encode(high, 60, effort=effort)), float) for effort in (0, 5))
    border = slice(16 * STRIP_ROWS - 32, 16 * STRIP_ROWS + 32)
    errors = [np.square(decoded - high) for decoded in (plain, better)]
    assert errors[1].mean() < errors[0].mean() and errors[1][border].mean() < 1.01 * errors[0][border].mean()


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 40, 3), (33, 17), (20, 30, 4)])
def test_any_picture(squared: Model, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    decoded = np.asarray(squared.decode(squared.encode(pixels, 70, effort=3)))
    assert decoded.shape == shape and decoded.dtype == np.uint8


def test_pixels_beyond_the_picture_are_worth_nothing(squared: Model) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (17, 17, 3), np.uint8)  # the last latent position has one pixel of it
    plain, better = (squared.symbols(squared.encode(noise, 50, effort=effort)).latent[3:, 1, 1] for effort in (0, 9))
    assert np.count_nonzero(better) < 0.5 * np.count_nonzero(plain)


def test_16_bits_and_a_region_of_interest(squared: Model, photo: np.ndarray) -> None:
    crop = np.ascontiguousarray(photo[:192, :192])
    mask = np.zeros((192, 192), np.uint8)
    mask[:96] = 255
    for pixels in (crop, crop.astype(np.uint16) * 257):
        plain, better = (squared.encode(pixels, 60, roi=mask, effort=effort) for effort in (0, 5))
        decoded = [np.asarray(squared.decode(data), float) for data in (plain, better)]
        errors = [np.square(each - crop)[:64].mean() for each in decoded]
        assert errors[1] < errors[0] and len(better) < 1.02 * len(plain)


def test_targets_are_met_with_it(squared: Model, photo: np.ndarray) -> None:
    limit = len(squared.encode(photo, 40))
    data = squared.encode(photo, target=Target(size=limit), effort=2)
    assert len(data) <= limit and psnr(np.asarray(squared.decode(data)), photo) > psnr(
        np.asarray(squared.decode(squared.encode(photo, 40))), photo
    )
    reached = squared.encode(photo, target=Target(psnr=32), effort=2)
    assert 32 <= psnr(np.asarray(squared.decode(reached)), photo) < 32.3
    assert len(reached) < len(squared.encode(photo, target=Target(psnr=32)))


@pytest.mark.parametrize("effort", [-1, 10, 1.5, True, "5", None])
def test_other_efforts_are_refused(squared: Model, photo: np.ndarray, effort: Any) -> None:
    with pytest.raises(ImageError, match="^effort is .*, it must be a whole number from 0 to 9$"):
        squared.encode(photo, effort=effort)


def test_other_models_take_none(photo: np.ndarray) -> None:
    for name in ("few", "klt"):
        with pytest.raises(ImageError, match="^effort is 1: .* it must be 0$"):
            fewbits.encode(photo, effort=1, model=name)


@pytest.fixture
def files() -> Iterator[dict[str, bytes]]:
    yield read_bundle(SHIPPED / "few-psnr")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"lambdas": [\n    0.0009', b'"lambdas": [\n    -0.0009'), (b'"effort"', b'"other"'), (b"    0.0009,\n", b"")],
)
def test_a_damaged_card_is_told_of(files: dict[str, bytes], old: bytes, new: bytes) -> None:
    head, effort, tail = files[MANIFEST].rpartition(b'"effort"')
    files[MANIFEST] = head + (effort + tail).replace(old, new, 1)
    with pytest.raises(ModelError, match="is missing or wrong in the bundle"):
        Model(files, "here")


def test_pillow_saves_with_it(photo: np.ndarray, tmp_path: Any) -> None:
    import fewbits.pillow_plugin  # noqa: F401

    image = Image.fromarray(photo[:128, :128])
    image.save(tmp_path / "plain.few", tune="psnr")
    image.save(tmp_path / "better.few", tune="psnr", effort=3)
    assert (tmp_path / "plain.few").read_bytes() != (tmp_path / "better.few").read_bytes()
    with pytest.raises(ValueError, match="effort is 12"):
        image.save(tmp_path / "none.few", tune="psnr", effort=12)

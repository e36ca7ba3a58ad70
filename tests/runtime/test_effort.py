# SPDX-License-Identifier: MIT
"""Effort: fewer bits and errors together, files as ever."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fewbits
from fewbits.codec import Model, load_model, read_bundle
from fewbits.coding.tables import FrequencyTable
from fewbits.errors import ImageError, ModelError
from fewbits.fidelity import psnr
from fewbits.installed import ROUNDS, SHIPPED
from fewbits.runtime import effort
from fewbits.runtime.manifest import MANIFEST
from fewbits.runtime.pipeline import STRIP_ROWS, Effort
from fewbits.runtime.refine import Patch, Refiner
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


def test_tiles_change_little(squared: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = [cost(squared, photo, squared.encode(photo, 50), 50)]
    for columns in (effort.COLUMNS, 8):  # which are far more tiles than there would be
        monkeypatch.setattr(effort, "COLUMNS", columns)
        costs.append(cost(squared, photo, squared.encode(photo, 50, effort=5), 50))
    assert abs(costs[2] - costs[1]) < 0.1 * (costs[0] - costs[1])


def test_the_next_patch_sees_what_was_moved(squared: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a patch takes for y_hat is what its symbols stand for, those of patches before it included."""
    seen = []
    refine = Refiner.refine

    def noted(self: Refiner, patch: Patch, *others: Any) -> None:
        refine(self, patch, *others)
        seen.append(patch)

    monkeypatch.setattr(effort, "COLUMNS", 8)
    monkeypatch.setattr(Refiner, "refine", noted)
    pixels = np.ascontiguousarray(photo[:160, :160])
    level = squared.pipeline.level(5000, "rgb")
    y = squared.pipeline.analyse(pixels, level, lambda done: None)
    y_hat = squared.pipeline.requantize(y, level, Effort(pixels, 4, lambda done: None))
    left, right = seen
    assert np.allclose(left.y_hat[0, :, :, :8], y_hat[:, :, :8], atol=1e-5)
    assert np.allclose(right.y_hat[0], y_hat[:, :, 5:], atol=1e-5)  # three columns of the left one


def test_progress_tells_of_rounds(squared: Model, photo: np.ndarray) -> None:
    told: list[float] = []
    squared.encode(photo[:, :64], 50, effort=2, progress=told.append)
    assert told == sorted(told) and len(told) == 1 + ROUNDS[2] and told[0] < 0.2 and told[-1] == pytest.approx(1)


def test_a_graph_that_gives_something_else_is_told_of(squared: Model) -> None:
    patch = Patch(*(np.zeros((1, 2, 2), kind) for kind in (np.int16, np.uint8, np.float32)), np.zeros((1, 1, 2, 2), np.float32),
                  (slice(0, 2), slice(0, 2)), {"weight": np.ones((1, 192, 4, 4), np.float32)})  # fmt: skip
    for found in (np.zeros((), np.float32), np.zeros((1, 1, 2, 3), np.float32), np.zeros((1, 1, 2, 2))):
        refiner = Refiner(lambda output="", /, found=found, **inputs: found, [FrequencyTable(np.full(4, 1 << 22))], 0, 0)
        with pytest.raises(ModelError, match="^network gradient gives .*, it must be float32"):
            refiner.refine(patch, 2, 0, lambda done: None)


def test_threads_may_share_a_model(photo: np.ndarray) -> None:
    pixels = np.ascontiguousarray(photo[:96, :96])
    model = Model(read_bundle(SHIPPED / "few-psnr"), "here")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: model.encode(pixels, 50, effort=1), range(8)))
    assert len(found) == 1


def test_strips_have_no_seams(squared: Model, photo: np.ndarray) -> None:
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
    [(b"0.0009,", b"-0.0009,"), (b"0.0009,", b"NaN,"), (b"0.0009,", b"1e300,"), (b"0.0009,", b""), (b'"effort"', b'"other"')],
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

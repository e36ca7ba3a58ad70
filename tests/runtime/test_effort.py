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
from fewbits.fidelity import psnr, ssimulacra2
from fewbits.installed import ROUNDS, SHIPPED
from fewbits.runtime import effort
from fewbits.runtime.latents import STRIDE
from fewbits.runtime.manifest import MANIFEST
from fewbits.runtime.pipeline import STRIP_ROWS, Effort
from fewbits.runtime.refine import Patch, Refiner
from fewbits.runtime.slopes import Networks, SeenErrors, SquaredErrors
from fewbits.runtime.ssimulacra_gradient import Ssimulacra2Gradient
from fewbits.structure import ms_ssim
from fewbits.target import Target

Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def squared() -> Model:
    """The shipped model of squared error, in float32, so that figures are the same everywhere."""
    return load_model("few-psnr", threads=1, precision="fp32")


@pytest.fixture(scope="module")
def seen() -> Model:
    """The default, likewise."""
    return load_model("few", threads=1, precision="fp32")


@pytest.fixture(params=["few", "few-psnr"])
def either(request: pytest.FixtureRequest, squared: Model, seen: Model) -> Model:
    return seen if request.param == "few" else squared


def cost(model: Model, pixels: np.ndarray, data: bytes, quality: float) -> float:
    """Bits a pixel of a file, and its distortion at what it is worth beside them."""
    card = model.bundle.card["effort"]
    lambdas, terms = np.log(card["lambdas"]), card["terms"]
    worth = np.exp(np.interp(quality / 100 * (len(lambdas) - 1), np.arange(len(lambdas)), lambdas))
    decoded = np.asarray(model.decode(data))
    distortion = terms["mse"] * np.square(decoded.astype(float) - pixels).mean()
    if "ms-ssim" in terms:
        distances = Ssimulacra2Gradient(pixels.transpose(2, 0, 1))
        distortion += terms["ms-ssim"] * (1 - ms_ssim(pixels, decoded))
        distortion += terms["ssimulacra2"] * distances(decoded.transpose(2, 0, 1))[0]
    return float(8 * len(data) / pixels[..., 0].size + worth * distortion)


@pytest.mark.parametrize("quality", [5, 50, 95])
def test_more_effort_costs_less(either: Model, photo: np.ndarray, quality: int) -> None:
    costs = [cost(either, photo, either.encode(photo, quality, effort=effort), quality) for effort in (0, 1, 5)]
    assert costs == sorted(costs, reverse=True)
    bits = 8 * len(either.encode(photo, quality)) / photo[..., 0].size
    assert costs[0] - costs[2] > 0.025 * bits


def test_eyes_see_the_difference(seen: Model, photo: np.ndarray) -> None:
    """The default model's effort is not at the cost of what it is tuned for."""
    plain, better = (seen.encode(photo, 60, effort=effort) for effort in (0, 5))
    scores = [ssimulacra2(photo, np.asarray(seen.decode(data))) for data in (plain, better)]
    assert scores[1] > scores[0] + 1 and len(better) < 1.01 * len(plain)


def test_files_are_as_ever(either: Model, photo: np.ndarray) -> None:
    data = either.encode(photo, 50, effort=2)
    either.verify(data)
    assert data == either.encode(photo, 50, effort=2)  # the same lots each time
    assert fewbits.inspect(data).quality == 50 and psnr(np.asarray(fewbits.decode(data)), photo) > 28


def test_efforts_are_fast_to_slow() -> None:
    assert ROUNDS[0] == 0 and list(ROUNDS) == sorted(set(ROUNDS))


def test_symbols_that_are_known_to_others_stay(squared: Model, photo: np.ndarray) -> None:
    plain, better = (squared.symbols(squared.encode(photo, 50, effort=effort)) for effort in (0, 5))
    assert np.array_equal(plain.hyper, better.hyper)
    assert np.array_equal(plain.latent[:3], better.latent[:3])  # the pyramid, which predicts others
    moved = (better.latent - plain.latent)[3:]
    assert moved.any() and np.abs(moved).max() < 5


@pytest.mark.parametrize(("name", "share"), [("few-psnr", 0.1), ("few", 0.25)])  # norms of the latter are a tile's
def test_tiles_change_little(name: str, share: float, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(name, threads=1, precision="fp32")
    costs = [cost(model, photo, model.encode(photo, 50), 50)]
    for columns in (effort.COLUMNS, 16):  # which are more tiles than there would be
        monkeypatch.setattr(effort, "COLUMNS", columns)
        costs.append(cost(model, photo, model.encode(photo, 50, effort=5), 50))
    assert abs(costs[2] - costs[1]) < share * (costs[0] - costs[1])


def test_the_next_patch_sees_what_was_moved(squared: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a patch takes for y_hat is what its symbols stand for, those of patches before it included."""
    seen = []
    refine = Refiner.refine

    def noted(self: Refiner, patch: Patch, *others: Any) -> None:
        refine(self, patch, *others)
        seen.append(patch)

    monkeypatch.setattr(effort, "COLUMNS", 8)
    monkeypatch.setattr(Refiner, "refine", noted)
    pixels = np.ascontiguousarray(photo[:160, : 16 * STRIDE])
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


def patch_of(symbols: np.ndarray, errors: Any) -> Patch:
    """Of one row of symbols, one channel, each of step 1."""
    y_hat, everything = symbols.astype(np.float32)[None, None, None], (slice(0, 1), slice(0, len(symbols)))
    indices, step = np.zeros((1, 1, len(symbols)), np.uint8), np.ones((1, 1, 1), np.float32)
    return Patch(symbols[None, None].astype(np.int16), indices, step, y_hat, everything, errors)


@pytest.mark.parametrize("found", [np.zeros((), np.float32), np.zeros((1, 1, 1, 3), np.float32), np.zeros((1, 1, 1, 4))])
def test_a_graph_that_gives_something_else_is_told_of(found: np.ndarray) -> None:
    blocks, refiner = np.ones((1, 192, 2, 8), np.float32), Refiner([FrequencyTable(np.full(4, 1 << 22))], 0, 0)
    errors = SquaredErrors(lambda output="", /, **inputs: found, {}, blocks, blocks)
    with pytest.raises(ModelError, match="^network gradient gives .*, it must be float32"):
        refiner.refine(patch_of(np.zeros(4, int), errors), 2, 0, lambda done: None)


class Bowls:
    """Errors of each symbol by itself, worth * (symbol - aim)**2, of which it says another curvature than they have."""

    shaken, blind = 0.0, False

    def __init__(self, aims: np.ndarray, worth: np.ndarray, said: float) -> None:
        self.aims, self.worth, self.said = aims, worth, said

    def slope(self, y_hat: np.ndarray) -> np.ndarray:
        return (2 * self.worth * (y_hat - self.aims)).astype(np.float32)

    def slope_and_curvature(
        self, y_hat: np.ndarray, shaken: np.ndarray, lots: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.slope(y_hat), np.full(y_hat.shape, self.said, np.float32)


@pytest.mark.parametrize("rounds", [2, 3, 8, 32])
def test_moves_that_did_not_pay_are_undone(rounds: int) -> None:
    """All symbols seem to gain by a move, as they are said to have no curvature; half of them do."""
    table = FrequencyTable(np.full(16, 1 << 20))  # all symbols cost the same
    aims = np.tile([0.9, 0.3], 200)
    patch = patch_of(np.zeros(400, int), Bowls(aims, np.full(400, 5.0), 0.0))
    Refiner([table], 0, 0).refine(patch, rounds, 1, lambda done: None)
    assert not patch.symbols[0, 0, 1::2].any()
    assert set(np.unique(patch.symbols)) == {0, 1} and patch.symbols[0, 0, ::2].mean() > (0.3 if rounds < 8 else 0.8)
    assert np.array_equal(patch.y_hat[0], patch.symbols)


def test_what_eyes_see_has_the_slope_of_bits(seen: Model, photo: np.ndarray) -> None:
    """Along a direction, the slope by y_hat is the difference of the distortion's worth, for pixels that are not rounded."""
    pixels = np.ascontiguousarray(photo[:176, :192])
    pipeline, terms = seen.pipeline, {"mse": 0.3, "ms-ssim": 800.0, "ssimulacra2": 2.0}
    level = pipeline.level(6000, "rgb")
    y_hat = pipeline.requantize(pipeline.analyse(pixels, level, lambda done: None), level)[None]
    draw = np.random.default_rng(5)
    worth = np.full(pixels.shape[:2], 0.03, np.float32)
    gradient, synthesis = (pipeline._network.other(*each) for each in  # type: ignore[attr-defined]
                           (("gradient", seen.bundle.gradient_network()), ("shown", seen.bundle.float_synthesis)))  # fmt: skip
    errors = SeenErrors(Networks(gradient, lambda: synthesis), level.synthesis, pixels, worth, terms)
    scores = Ssimulacra2Gradient(pixels.transpose(2, 0, 1))

    def bits(moved: np.ndarray) -> float:
        shown = np.asarray(synthesis("pixels", y_hat=moved, **level.synthesis))
        squares = np.square(shown.astype(float) - pixels).mean()
        distortion = 0.3 * squares + 800 * (1 - ms_ssim(pixels, shown)) + 2 * scores(shown.transpose(2, 0, 1))[0]
        return float(0.03 * distortion * worth.size)

    slope = errors.slope(y_hat)
    for _ in range(3):
        by = (draw.standard_normal(y_hat.shape) * 0.1 * level.inverse_gain).astype(np.float32)
        by = np.where(by * slope > 0, by, 0)  # uphill, so that rounding hardly counts
        rise = (bits(y_hat + by) - bits(y_hat - by)) / 2
        assert rise == pytest.approx(float((slope * by).sum()), rel=0.1)


def test_small_tiles_are_alike(seen: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tile of a strip is no sliver, of which nothing could be told."""
    widths = []
    refine = Refiner.refine

    def noted(self: Refiner, patch: Patch, *others: Any) -> None:
        widths.append(patch.symbols.shape[2])
        refine(self, patch, *others)

    monkeypatch.setattr(effort, "COLUMNS", 8)
    monkeypatch.setattr(Refiner, "refine", noted)
    seen.encode(np.ascontiguousarray(photo[:64, : 17 * STRIDE]), 50, effort=1)
    assert widths == [6, 6, 5]


@pytest.mark.parametrize("name", ["few", "few-psnr"])
def test_threads_may_share_a_model(name: str, photo: np.ndarray) -> None:
    pixels = np.ascontiguousarray(photo[:96, :96])
    model = Model(read_bundle(SHIPPED / name), "here")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: model.encode(pixels, 50, effort=1), range(8)))
    assert len(found) == 1


def test_strips_have_no_seams(either: Model, photo: np.ndarray) -> None:
    """What is gained beside the border of strips is like what is gained elsewhere."""
    high = np.concatenate([photo, photo[::-1]], axis=0)[: 16 * STRIP_ROWS + 96, :256]
    plain, better = (np.asarray(either.decode(either.encode(high, 60, effort=effort)), float) for effort in (0, 5))
    border = slice(16 * STRIP_ROWS - 32, 16 * STRIP_ROWS + 32)
    errors = [np.square(decoded - high) for decoded in (plain, better)]
    assert errors[1].mean() < errors[0].mean() and errors[1][border].mean() < 1.01 * errors[0][border].mean()


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 40, 3), (33, 17), (20, 30, 4), (9, 9, 3), (12, 300, 3)])
def test_any_picture(either: Model, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    decoded = np.asarray(either.decode(either.encode(pixels, 70, effort=3)))
    assert decoded.shape == shape and decoded.dtype == np.uint8


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_flat_picture(either: Model, value: int) -> None:
    """Where there is nothing to gain, and slopes are 0, or of what is clipped."""
    pixels = np.full((64, 80, 3), value, np.uint8)
    plain, better = (either.encode(pixels, 60, effort=effort) for effort in (0, 5))
    errors = [np.square(np.asarray(either.decode(data), float) - value).mean() for data in (plain, better)]
    assert len(better) < len(plain) + 20 and errors[1] <= errors[0] + 0.1 < 1


def test_pixels_beyond_the_picture_are_worth_nothing(either: Model) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (17, 17, 3), np.uint8)  # the last latent position has one pixel of it
    plain, better = (either.symbols(either.encode(noise, 50, effort=effort)).latent[3:, 1, 1] for effort in (0, 9))
    assert np.count_nonzero(better) < 0.5 * np.count_nonzero(plain)


def test_16_bits_and_a_region_of_interest(either: Model, photo: np.ndarray) -> None:
    crop = np.ascontiguousarray(photo[:192, :192])
    mask = np.zeros((192, 192), np.uint8)
    mask[:96] = 255
    for pixels in (crop, crop.astype(np.uint16) * 257):
        plain, better = (either.encode(pixels, 60, roi=mask, effort=effort) for effort in (0, 5))
        decoded = [np.asarray(either.decode(data), float) for data in (plain, better)]
        errors = [np.square(each - crop)[:64].mean() for each in decoded]
        assert errors[1] < errors[0] and len(better) < 1.02 * len(plain)


def test_targets_are_met_with_it(either: Model, photo: np.ndarray) -> None:
    limit = len(either.encode(photo, 40))
    data = either.encode(photo, target=Target(size=limit), effort=2)
    assert 0.98 * limit < len(data) <= limit
    reached = either.encode(photo, target=Target(psnr=32), effort=2)
    assert 32 <= psnr(np.asarray(either.decode(reached)), photo) < 32.3
    assert len(reached) < len(either.encode(photo, target=Target(psnr=32)))


def test_a_sampled_target_is_met_with_it(seen: Model, photo: np.ndarray) -> None:
    """Of a picture large enough for windows to be tried in its place, which lie side by side."""
    large = np.concatenate([np.concatenate([photo, photo[:, ::-1]], 1)] * 2)
    data = seen.encode(large, target=Target(ssimulacra2=60), effort=1)
    assert ssimulacra2(large, np.asarray(seen.decode(data))) == pytest.approx(60, abs=0.6)


@pytest.mark.parametrize("effort", [-1, 10, 1.5, True, "5", None])
def test_other_efforts_are_refused(squared: Model, photo: np.ndarray, effort: Any) -> None:
    with pytest.raises(ImageError, match="^effort is .*, it must be a whole number from 0 to 9$"):
        squared.encode(photo, effort=effort)


def test_other_models_take_none(photo: np.ndarray) -> None:
    with pytest.raises(ImageError, match="^effort is 1: .* it must be 0$"):
        fewbits.encode(photo, effort=1, model="klt")


@pytest.fixture
def files() -> Iterator[dict[str, bytes]]:
    yield read_bundle(SHIPPED / "few-psnr")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0.0009,", b"-0.0009,"),
        (b"0.0009,", b"NaN,"),
        (b"0.0009,", b"1e300,"),
        (b"0.0009,", b""),
        (b'"effort"', b'"other"'),
        (b'"mse"', b'"l1"'),
        (b'"mse": 1.0', b'"mse": 0'),
        (b'"mse": 1.0', b'"mse": "much"'),
        (b'"mse": 1.0', b""),
        (b'"mse": 1.0', b'"mse": [1]'),
    ],
)
def test_a_damaged_card_is_told_of(files: dict[str, bytes], old: bytes, new: bytes) -> None:
    head, effort, tail = files[MANIFEST].rpartition(b'"effort"')
    files[MANIFEST] = head + (effort + tail).replace(old, new, 1)
    with pytest.raises(ModelError, match="is missing or wrong in the bundle"):
        Model(files, "here")


def test_terms_that_are_not_there_are_squared_errors(files: dict[str, bytes], photo: np.ndarray) -> None:
    """So it was in the first bundles with a gradient."""
    head, terms, tail = files[MANIFEST].rpartition(b'"terms"')
    pixels = np.ascontiguousarray(photo[:64, :64])
    plain = Model(files, "here").encode(pixels, 60, effort=1)
    assert Model(files | {MANIFEST: head + b'"others"' + tail}, "here").encode(pixels, 60, effort=1) == plain


@pytest.mark.parametrize(("terms", "size"), [('"ms-ssim": 9', (10, 100)), ('"ms-ssim": 9, "ssimulacra2": 1', (7, 40))])
def test_where_nothing_can_be_told_nothing_moves(files: dict[str, bytes], terms: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (*size, 3), np.uint8)
    card = files[MANIFEST].replace(b'"mse": 1.0', terms.encode())
    assert card != files[MANIFEST]
    model = Model(files | {MANIFEST: card}, "here")
    assert model.encode(pixels, 70, effort=5) == model.encode(pixels, 70)


def test_a_synthesis_without_pixels_is_told_of(photo: np.ndarray) -> None:
    pixels, y_hat = photo[:16, :32], np.zeros((1, 1, 1, 2), np.float32)
    planes = Networks(lambda *given, **inputs: y_hat, lambda: lambda *given, **inputs: np.zeros((1, 3, 16, 32), np.float32))
    errors = SeenErrors(planes, {}, pixels, np.ones((16, 32), np.float32), {"mse": 1.0, "ssimulacra2": 1.0})
    with pytest.raises(ModelError, match="^network synthesis gives float32 .*, effort needs uint8"):
        errors.slope(y_hat)


def test_pillow_saves_with_it(photo: np.ndarray, tmp_path: Any) -> None:
    import fewbits.pillow_plugin  # noqa: F401

    image = Image.fromarray(photo[:128, :128])
    image.save(tmp_path / "plain.few", tune="psnr")
    image.save(tmp_path / "better.few", tune="psnr", effort=3)
    assert (tmp_path / "plain.few").read_bytes() != (tmp_path / "better.few").read_bytes()
    with pytest.raises(ValueError, match="effort is 12"):
        image.save(tmp_path / "none.few", tune="psnr", effort=12)

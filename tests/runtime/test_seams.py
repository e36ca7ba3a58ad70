# SPDX-License-Identifier: MIT
"""Large pictures in tiles, without edges: every shipped model, beside naive blocks, which have them."""

import numpy as np
import pytest

from fewbits.bench.seams import border_excess
from fewbits.codec import Model, load_model
from fewbits.installed import installed_models
from fewbits.runtime import factorized, hyperprior

TILE_PX = 128
MODELS = sorted({manifest["family"] for manifest in installed_models().values()})  # shipped bundles have their family's name


def small_tiles(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    for module in (factorized, hyperprior):
        monkeypatch.setattr(module, "TILE_ROWS", positions)
        monkeypatch.setattr(module, "TILE_COLUMNS", positions)


@pytest.mark.parametrize("name", MODELS)
def test_tiles_leave_no_seam(name: str, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = photo[:320, 80:400]
    model = load_model(name, threads=1, precision="fp32")
    stride = int(model.bundle.coding.get("stride", 16))
    whole = model.encode(photo, 30)
    as_whole = np.asarray(model.decode(whole)).astype(int)
    small_tiles(monkeypatch, TILE_PX // stride)
    tiled = model.encode(photo, 30)
    as_tiles = np.asarray(model.decode(tiled))
    for ours, theirs in zip(model.symbols(tiled), model.symbols(whole), strict=True):
        assert (ours != theirs).mean() < 1e-5  # float sums in another order may move a value from one side of 1/2 to the other
    if np.array_equal(model.symbols(tiled)[0], model.symbols(whole)[0]):
        assert np.abs(as_tiles - as_whole).max() <= 1
    # the photograph's own content makes some of it: nothing is added
    without = border_excess(photo, as_whole.astype(np.uint8), TILE_PX, stride)
    assert border_excess(photo, as_tiles, TILE_PX, stride) == pytest.approx(without, rel=0.01)


def test_naive_blocks_have_seams(photo: np.ndarray, model: Model) -> None:
    blocks = np.empty_like(photo)
    for top in range(0, 512, TILE_PX):
        for left in range(0, 512, TILE_PX):
            part = np.s_[top : top + TILE_PX, left : left + TILE_PX]
            blocks[part] = np.asarray(model.decode(model.encode(photo[part], 30)))
    whole = np.asarray(model.decode(model.encode(photo, 30)))
    assert border_excess(photo, blocks, TILE_PX, 16) > 1.1 * border_excess(photo, whole, TILE_PX, 16)


def test_the_measure_sees_a_seam_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    original = np.full((256, 256, 3), 100, np.uint8)
    noisy = (original + rng.integers(-4, 5, original.shape)).astype(np.uint8)
    assert border_excess(original, noisy, 64, 16) == pytest.approx(1, abs=0.05)
    noisy[64:128] += 10
    assert border_excess(original, noisy, 64, 16) > 1.2
    with pytest.raises(ValueError, match="period 60 must be a multiple of the stride 16"):
        border_excess(original, noisy, 60, 16)

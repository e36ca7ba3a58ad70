# SPDX-License-Identifier: MIT
"""Training pictures: found in folders and tars, broken ones skipped, cut to crops of one size."""

import io
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.training.data import Item, PicturePool, batches, decode_rgb, find_pictures, random_crop, to_tensor  # noqa: E402

Picture = Callable[..., np.ndarray]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    """Pictures in two folders and a tar, beside files that are none."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.png").write_bytes(png(picture(8, 9, 1)))
    (tmp_path / "deep" / "B.PNG").write_bytes(png(picture(8, 9, 2)))
    (tmp_path / "deep" / "er" / "notes.txt").write_text("no picture")
    (tmp_path / "deep" / "er" / "made__c.png").write_bytes(png(picture(8, 9, 3)))
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, data in [("d.png", png(picture(8, 9, 4))), ("sub/made__e.jpg", b"broken"), ("index.csv", b"1,2")]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return tmp_path


def test_pictures_are_found_in_folders_and_tars(folder: Path) -> None:
    items = find_pictures([folder])
    assert [item.path.name for item in items] == ["a.png", "B.PNG", "made__c.png", "shard.tar", "shard.tar"]
    assert len(find_pictures([folder / "shard.tar"])) == 2
    assert len(find_pictures([folder / "a.png", folder / "deep"])) == 3


def test_what_was_written_is_read(folder: Path, picture: Picture) -> None:
    """Items of a tar are parts of it."""
    items = find_pictures([folder])
    for item, seed in zip(items[:4], (1, 2, 3, 4), strict=True):
        assert np.array_equal(decode_rgb(item), picture(8, 9, seed))


def test_excluded_names_are_left_out(folder: Path) -> None:
    assert len(find_pictures([folder], ["made__*"])) == 3
    assert len(find_pictures([folder], ["made__*", "?.png"])) == 1
    with pytest.raises(TrainingError, match="no pictures"):
        find_pictures([folder], ["*"])


def test_data_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        find_pictures([tmp_path / "missing"])
    with pytest.raises(TrainingError, match="no pictures"):
        find_pictures([tmp_path])
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    with pytest.raises(TrainingError, match="broken.tar"):
        find_pictures([tmp_path])


def test_shared_shards_are_read(shared: Path) -> None:
    names = [row.split(",")[1] for row in (shared / "train" / "index.csv").read_text().splitlines()[1:]]
    items = find_pictures([shared / "train"], ["imagenet__*"])
    assert len(items) == sum(not name.startswith("imagenet__") for name in names) < len(names)
    pixels = decode_rgb(items[len(items) // 2])
    assert pixels is not None and pixels.dtype == np.uint8 and pixels.shape[2] == 3


def test_broken_pictures_are_skipped_with_a_warning(folder: Path) -> None:
    items = find_pictures([folder])
    with pytest.warns(UserWarning, match="skipped .*shard.tar"):
        pool = PicturePool(items, 1 << 20, seed=0)
    assert len(pool) == 4
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(TrainingError, match="none of 1 pictures could be read"):
        PicturePool(items[-1:], 1 << 20, seed=0)
    with pytest.warns(UserWarning, match="skipped"):
        assert decode_rgb(Item(folder / "removed.png")) is None
    Image.fromarray(np.full((4, 4), 1e9, np.float32)).save(folder / "wide.tif")
    with pytest.warns(UserWarning, match=r"skipped .*wide\.tif: mode F with values outside"):
        assert decode_rgb(Item(folder / "wide.tif")) is None


def test_pixels_are_those_that_the_codec_codes(tmp_path: Path, picture: Picture) -> None:
    """Grey of 16 bits is no white, and what is fully transparent has no colours of its own."""
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(8, 0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert np.array_equal(
        decode_rgb(Item(tmp_path / "deep.png")), np.arange(256, dtype=np.uint8)[None, :, None].repeat(8, 0).repeat(3, 2)
    )
    photo = picture(16, 16)
    hidden = np.dstack([photo, np.full((16, 16), 255, np.uint8)])
    hidden[4:8, 4:8] = (255, 0, 255, 0)
    Image.fromarray(hidden).save(tmp_path / "hidden.png")
    decoded = decode_rgb(Item(tmp_path / "hidden.png"))
    assert decoded is not None and not (decoded[4:8, 4:8] == (255, 0, 255)).all(2).any()
    clear = hidden[..., 3] == 255
    assert np.array_equal(decoded[clear], photo[clear])


def test_pictures_are_turned_upright_and_made_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "grey.png", exif=exif)
    pixels = decode_rgb(Item(tmp_path / "grey.png"))
    assert pixels is not None and pixels.shape == (4, 3, 3)
    assert pixels[:, :, 0].tolist() == [[8, 4, 0], [9, 5, 1], [10, 6, 2], [11, 7, 3]]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 200), (1, 1), (20, 300), (300, 20), (63, 64)])
def test_crops_have_one_size_and_are_cut_from_the_picture(picture: Picture, height: int, width: int) -> None:
    """A small picture is extended by its mirror image; its own pixels are all there."""
    pixels = picture(height, width)
    rng = np.random.default_rng(0)
    for _ in range(20):
        crop = random_crop(pixels, 64, rng)
        assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
        extended = np.pad(pixels, ((0, max(0, 64 - height)), (0, max(0, 64 - width)), (0, 0)), mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(extended, (64, 64), (0, 1))
        found = [(windows == side.transpose(2, 0, 1)).all((2, 3, 4)).any() for side in (crop, crop[:, ::-1])]
        assert any(found)


def test_half_of_the_crops_are_mirrored(picture: Picture) -> None:
    pixels = picture(16, 16)
    rng = np.random.default_rng(0)
    mirrored = sum(np.array_equal(random_crop(pixels, 16, rng), pixels[:, ::-1]) for _ in range(400))
    assert 160 < mirrored < 240


def flat_items(folder: Path, sizes: list[tuple[int, int]]) -> list[Item]:
    """Pictures of one grey value each: their number."""
    for k, size in enumerate(sizes):
        Image.fromarray(np.full((*size, 3), k, np.uint8)).save(folder / f"{k:03}.png")
    return find_pictures([folder])


def test_large_pictures_are_drawn_by_the_root_of_their_area(tmp_path: Path) -> None:
    pool = PicturePool(flat_items(tmp_path, [(32, 32), (96, 96)]), 1 << 20, seed=0)
    crops = pool.crops(2000, 8, np.random.default_rng(0))
    assert 0.7 < crops[:, 0, 0, 0].mean() < 0.8  # 3 of 4 come from the one that is three times as wide


def test_a_pool_that_does_not_fit_is_renewed_until_all_were_seen(tmp_path: Path) -> None:
    items = flat_items(tmp_path, [(16, 16)] * 80)
    pool = PicturePool(items, cache_bytes=16 * 16 * 3 * 20, seed=0)
    assert not pool.complete and len(pool) < 80
    rng = np.random.default_rng(0)
    size, seen = len(pool), set(pool.crops(2000, 4, rng)[:, 0, 0, 0].tolist())
    assert len(seen) == size
    for _ in range(80):
        pool.renew(rng)
        assert len(pool) == size
        seen |= set(pool.crops(400, 4, rng)[:, 0, 0, 0].tolist())
    assert seen == set(range(80))
    assert PicturePool(items, 1 << 20, seed=0).complete


def test_a_run_that_goes_on_renews_where_it_stopped(tmp_path: Path) -> None:
    """Three calls of ten steps see the pictures that one call of thirty sees."""
    for number in range(100):
        (tmp_path / f"{number:03}.png").write_bytes(png(np.full((8, 8, 3), number, np.uint8)))
    items = find_pictures([tmp_path])
    seen: list[set[int]] = []
    for steps in ([30], [10, 10, 10]):
        values: set[int] = set()
        done = 0
        for count in steps:
            pool, rng = PicturePool(items, 1, seed=0), np.random.default_rng(done)
            assert len(pool) == 32 and pool.n_known == 100
            pool.skip(done)
            for _ in range(count):
                values |= set(pool.crops(800, 4, rng)[:, 0, 0, 0].tolist())
                pool.renew(rng)
            values |= set(pool.crops(800, 4, rng)[:, 0, 0, 0].tolist())
            done += count
        seen.append(values)
    assert len(seen[0]) == 62 and seen[0] == seen[1]


def test_batches_are_those_of_their_seed(tmp_path: Path) -> None:
    pool = PicturePool(flat_items(tmp_path, [(32, 32)] * 9), 1 << 20, seed=0)
    first, again, other = (np.stack(list(islice(batches(pool, 4, 16, seed), 12))) for seed in (1, 1, 2))
    assert first.shape == (12, 4, 16, 16, 3)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_errors_in_the_thread_of_the_batches_come_out(tmp_path: Path) -> None:
    pool = PicturePool(flat_items(tmp_path, [(32, 32)]), 1 << 20, seed=0)
    pool.crops = lambda *_: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        next(batches(pool, 4, 16, 0))


def test_tensors_are_in_0_to_1_and_channels_first() -> None:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    pixels[0, 0, 0] = 255
    x = to_tensor(pixels, torch.device("cpu"))
    assert x.shape == (2, 3, 3, 4) and x.dtype == torch.float32 and x.max() == 1 and x.min() >= 0
    assert np.array_equal((x.permute(0, 2, 3, 1) * 255).round().numpy(), pixels)

# SPDX-License-Identifier: MIT
"""Codecs write real files, travel to other processes, and the searches find what trying every quality finds."""

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fewbits.bench.codecs import (
    AVIF,
    JPEG,
    PILLOW_CODECS,
    BundleCodec,
    Codec,
    JpegXl,
    find_codec,
    nearest_psnr,
    nearest_size,
    with_settings,
)
from fewbits.errors import FewbitsError
from fewbits.fidelity import psnr

ALL: list[Codec] = [*PILLOW_CODECS.values(), JpegXl(), BundleCodec("few", "few")]


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
def test_a_higher_setting_comes_nearer(codec: Codec, photo: np.ndarray) -> None:
    if codec.name == "jxl":
        pytest.importorskip("imagecodecs")
    part = photo[:128, :96]
    low, high = (codec.encode(part, setting) for setting in (codec.settings[1], codec.settings[-1]))
    assert len(low) < len(high)
    assert 20 < psnr(part, codec.decode(low)) < psnr(part, codec.decode(high))
    assert codec.decode(low).shape == part.shape and codec.decode(low).dtype == np.uint8
    assert len(codec.settings) >= 7 and list(codec.settings) == sorted(set(codec.settings))
    assert pickle.loads(pickle.dumps(codec)) == codec and pickle.loads(pickle.dumps(codec)).identity() == codec.identity()


def test_identities_differ() -> None:
    identities = [codec.identity() for codec in PILLOW_CODECS.values()]
    assert len(set(identities)) == len(identities)
    assert all("Pillow" in identity for identity in identities)


def test_jpeg_2000_has_its_colour_transform_and_the_asked_rate(photo: np.ndarray) -> None:
    codec = PILLOW_CODECS["jpeg2000"]
    data = codec.encode(photo, 1.0)
    assert 8 * len(data) / photo[..., 0].size == pytest.approx(1.0, rel=0.02)
    without = with_settings(codec, [1.0])
    plain = type(codec)(codec.name, codec.label, codec.format, codec.feature, {**codec.options, "mct": 0}, without.settings)
    assert psnr(photo, codec.decode(data)) > psnr(photo, plain.decode(plain.encode(photo, 1.0))) + 0.5


def test_subsampling_and_speed_reach_avif(photo: np.ndarray) -> None:
    part = photo[:128, :128]
    files = {name: codec.encode(part, 50) for name, codec in PILLOW_CODECS.items() if codec.format == "AVIF"}
    assert len(files) == 4 and len(set(files.values())) == 4


def test_codecs_are_found_by_name(tiny_run: object) -> None:
    assert find_codec("avif") is AVIF
    assert find_codec("few").label == "fewbits"
    bundle = tiny_run.bundle  # type: ignore[attr-defined]
    found = find_codec(str(bundle))
    assert (found.name, found.label) == (bundle.name, f"fewbits {bundle.name}")
    with pytest.raises(FewbitsError, match=r"--codecs jpg: neither a codec \(jpeg, .*jxl\) nor a model"):
        find_codec("jpg")


def test_a_model_at_an_effort_is_a_codec_of_its_own(photo: np.ndarray) -> None:
    found = find_codec("few-psnr@3")
    assert (found.name, found.label) == ("few-psnr@3", "fewbits few-psnr, effort 3")
    assert "at effort 3" in found.identity() and found.identity() != find_codec("few-psnr").identity()
    assert found.encode(photo[:64, :64], 50) != find_codec("few-psnr").encode(photo[:64, :64], 50)
    for name in ("klt@1", "few-psnr@10", "jpeg@3", "few-psnr@²", "@5"):
        with pytest.raises(FewbitsError, match=f"^--codecs {name}: neither"):
            find_codec(name)


def test_settings_can_be_chosen() -> None:
    assert with_settings(JPEG, [50, 10, 50]).settings == (10, 50)
    with pytest.raises(FewbitsError, match="--qualities jpeg: .*12.5.* integers only"):
        with_settings(JPEG, [12.5])
    for codec, setting, span in (
        (JPEG, 150.0, "1 to 100"),
        (BundleCodec("few", "few"), 101.0, "0 to 100"),
        (JpegXl(), 0.0, "1 to 99"),
    ):
        with pytest.raises(FewbitsError, match=f"--qualities {codec.name}: {setting:g}, it must be {span}"):
            with_settings(codec, [50, setting])


def test_searches_find_the_best_quality(photo: np.ndarray) -> None:
    part = photo[:96, :96]
    files = {quality: JPEG.encode(part, quality) for quality in range(1, 96)}
    limit = len(files[37])
    found = nearest_size(JPEG, part, limit)
    assert found is not None
    assert found[0] == max(quality for quality, data in files.items() if len(data) <= limit)
    assert nearest_size(JPEG, part, 10) is None
    scores = {quality: psnr(part, JPEG.decode(data)) for quality, data in files.items()}
    target = scores[50] + 0.01
    best = min(scores, key=lambda quality: abs(scores[quality] - target))
    assert nearest_psnr(JPEG, part, target)[0] == best


@pytest.mark.parametrize("name", ["few", "jpeg2000", "jxl"])
def test_continuous_settings_come_within_a_few_percent_of_a_size(name: str, photo: np.ndarray) -> None:
    pytest.importorskip("scipy")
    if name == "jxl":
        pytest.importorskip("imagecodecs")
    part = photo[:256, :256]
    found = nearest_size(find_codec(name), part, 6000)
    assert found is not None
    assert 5700 < len(found[1]) <= 6000
    assert nearest_size(find_codec(name), part, 50) is None


@dataclass(frozen=True)
class Steps:
    """JPEG by a setting that falls with the size of its files, as a quantizer's step does, where only some settings are known."""

    settings: tuple[float, ...] = (10, 20, 30, 40)
    whole_settings: bool = True
    bounded: bool = False
    span: tuple[float, float] = (10, 40)

    def encode(self, image: np.ndarray, setting: float, threads: int = 1) -> bytes:
        assert 10 <= setting <= 40
        return JPEG.encode(image, 100 - 2 * setting)


@pytest.mark.parametrize("whole", [True, False])
def test_a_size_is_found_where_settings_fall_with_it(whole: bool, photo: np.ndarray) -> None:
    pytest.importorskip("scipy")
    part = photo[:96, :96]
    codec: Any = Steps(whole_settings=whole)
    limit = len(codec.encode(part, 23))
    found = nearest_size(codec, part, limit)
    assert found is not None
    fits = [step for step in range(10, 41) if len(codec.encode(part, step)) <= limit]
    assert found[0] == min(fits) if whole else 0.95 * limit < len(found[1]) <= limit
    assert nearest_size(codec, part, 10) is None
    largest = nearest_size(codec, part, 10**6)
    assert largest is not None and largest[0] == 10

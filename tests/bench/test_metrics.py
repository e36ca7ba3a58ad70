# SPDX-License-Identifier: MIT
"""Metrics against their definitions and against second implementations."""

import io
import math
import warnings

import numpy as np
import pytest
from PIL import Image

from fewbits.bench import metrics
from fewbits.bench.metrics import DEFAULT_METRICS, METRICS, measure, psnr_y
from fewbits.errors import ImageError
from fewbits.fidelity import mse, psnr, ssimulacra2
from fewbits.structure import SMALLEST, decibels, fast_ssim, ms_ssim, ssim

FRAME = 96


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("shape", [(512, 512), (201, 333), (175, 161)])
@pytest.mark.parametrize("quality", [5, 40, 95])
def test_ssim_and_ms_ssim_are_those_of_other_libraries(shape: tuple[int, int], quality: int, photo: np.ndarray) -> None:
    pytest.importorskip("scipy")
    torch, other = pytest.importorskip("torch"), pytest.importorskip("pytorch_msssim")
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    x = photo[: shape[0], : shape[1]]
    y = jpeg(x, quality)
    a, b = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() for pixels in (x, y))
    taps = torch.exp(-((torch.arange(11) - 5).double() ** 2) / (2 * 1.5**2))  # its own window has rounding errors of float32
    options = {"data_range": 255, "win": (taps / taps.sum()).view(1, 1, 1, 11).repeat(3, 1, 1, 1)}
    assert ms_ssim(x, y) == pytest.approx(other.ms_ssim(a, b, **options).item(), abs=1e-9)
    assert ssim(x, y) == pytest.approx(other.ssim(a, b, **options).item(), abs=1e-9)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert ssim(x, y) == pytest.approx(structural_similarity(x, y, channel_axis=2, **options), abs=1e-12)


@pytest.mark.parametrize("metric", ["ssim", "ms_ssim", "ssimulacra2", "psnr", "psnr_y"])
def test_equal_pictures_are_best_and_worse_ones_worse(metric: str, photo: np.ndarray) -> None:
    pytest.importorskip("scipy")
    part = photo[:200, :200]
    best = {"ssim": 1.0, "ms_ssim": 1.0, "ssimulacra2": 100.0, "psnr": math.inf, "psnr_y": math.inf}[metric]
    scores = [METRICS[metric].measure(part, other) for other in (jpeg(part, 5), jpeg(part, 30), jpeg(part, 95), part)]
    assert scores == sorted(scores) and len(set(scores)) == 4
    assert scores[-1] == pytest.approx(best)
    axis = [METRICS[metric].axis(score) for score in scores]
    assert axis == sorted(axis)


def test_psnr_is_its_definition() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 1) == pytest.approx(20 * np.log10(255))
    assert mse(black, black + 3) == 9
    red = black.copy()
    red[..., 0] = 100
    assert psnr_y(black, red) == pytest.approx(20 * np.log10(255 / (0.299 * 100)))


def test_psnr_is_that_of_scikit_image(photo: np.ndarray) -> None:
    other = pytest.importorskip("skimage.metrics").peak_signal_noise_ratio
    assert psnr(photo, jpeg(photo, 30)) == pytest.approx(other(photo, jpeg(photo, 30)), abs=1e-9)


def reference_ssimulacra2(x: np.ndarray, y: np.ndarray) -> float:
    """SSIMULACRA 2.1 once more, from its description (github.com/cloudinary/ssimulacra2), with the package's weights only.

    Written channel by channel over plain loops; windows by scikit-image's Gaussian in place of scipy's.
    """
    from skimage.filters import gaussian
    from ssimulacra2.ssimulacra2 import weights

    def xyb(rgb: np.ndarray) -> np.ndarray:
        r, g, b = np.moveaxis(rgb, -1, 0)
        bias = 0.0037930732552754493
        rows = [(0.30, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342268924547819, 0.20476744424496821, 0.5518098665095536)]
        long, middle, short = (np.cbrt(np.maximum(p * r + q * g + s * b + bias, 0)) - np.cbrt(bias) for p, q, s in rows)
        x, y = (long - middle) / 2, (long + middle) / 2
        return np.stack([14 * x + 0.42, y + 0.01, short - y + 0.55])

    def blur(plane: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian(plane, 1.5, mode="constant", truncate=3.33, preserve_range=True))

    def half(rgb: np.ndarray) -> np.ndarray:
        return rgb.reshape(rgb.shape[0] // 2, 2, rgb.shape[1] // 2, 2, 3).mean((1, 3))

    linear = [np.where(p <= 0.04045, p / 12.92, ((p + 0.055) / 1.055) ** 2.4) for p in (x / 255.0, y / 255.0)]
    norms: list[list[list[float]]] = [[], [], []]  # channel, scale, (ssim, ringing, blur) x (mean, 4-norm)
    for _ in range(6):
        first, second = map(xyb, linear)
        for channel, (p, q) in enumerate(zip(first, second, strict=True)):
            mp, mq = blur(p), blur(q)
            luminance = 1 - (mp - mq) ** 2
            structure = (2 * (blur(p * q) - mp * mq) + 0.0009) / (blur(p * p) - mp**2 + blur(q * q) - mq**2 + 0.0009)
            error = np.maximum(1 - luminance * structure, 0)
            ratio = (1 + abs(q - mq)) / (1 + abs(p - mp)) - 1
            maps = (error, np.maximum(ratio, 0), np.maximum(-ratio, 0))
            norms[channel].append([f for m in maps for f in (m.mean(), (m**4).mean() ** 0.25)])
        linear = [half(p) for p in linear]
    order = [norms[c][s][2 * m + n] for c in range(3) for s in range(6) for n in range(2) for m in range(3)]
    score = float(np.dot(weights, np.abs(order))) * 0.9562382616834844
    score = 2.326765642916932 * score - 0.020884521182843837 * score**2 + 6.248496625763138e-05 * score**3
    return 100 - 10 * score**0.6276336467831387 if score > 0 else 100


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_ssimulacra2_is_its_description(quality: int, photo: np.ndarray) -> None:
    """Where nothing differs near the edges: windows that cross two of the four are taken otherwise by the package."""
    pytest.importorskip("ssimulacra2")
    pytest.importorskip("skimage.filters")
    y = photo.copy()
    y[FRAME:-FRAME, FRAME:-FRAME] = jpeg(photo, quality)[FRAME:-FRAME, FRAME:-FRAME]
    assert ssimulacra2(photo, y) == pytest.approx(reference_ssimulacra2(photo, y), abs=0.25)


def test_what_cannot_be_compared_is_refused(photo: np.ndarray) -> None:
    pytest.importorskip("scipy")
    for name in DEFAULT_METRICS:
        with pytest.raises(ImageError):
            METRICS[name].measure(photo, photo[:-1])
    with pytest.raises(ImageError, match="at least 161x161 pixels, this is 160x512"):
        ms_ssim(photo[:, :160], photo[:, :160])
    with pytest.raises(ImageError, match="both must be uint8"):
        psnr(photo, photo.astype(np.float64))


def test_a_small_picture_has_no_ms_ssim_but_the_rest(photo: np.ndarray) -> None:
    part = photo[: SMALLEST - 1, : SMALLEST - 1]
    values = measure(["psnr", "ms_ssim", "ssimulacra2"], part, jpeg(part, 50))
    assert list(values) == list(metrics.columns(["psnr", "ms_ssim", "ssimulacra2"]))
    assert values["ms_ssim"] is None and values["ms_ssim_db"] is None
    assert values["psnr"] is not None and values["ssimulacra2"] is not None


def test_decibels_of_ms_ssim() -> None:
    assert decibels(0.99) == pytest.approx(20)
    assert decibels(1.0) == math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS["lpips"].axis(0.1) == pytest.approx(10)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_fast_ssim_is_near_ssim(quality: int, photo: np.ndarray) -> None:
    """Also of odd sides, in dB."""
    x = photo[:301, :207]
    y = jpeg(x, quality)
    assert decibels(fast_ssim(x, y)) == pytest.approx(decibels(ssim(x, y)), abs=0.05)

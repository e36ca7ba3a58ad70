# SPDX-License-Identifier: MIT
"""The Karhunen-Loeve baseline: orthonormal, decorrelating, fitted without training, and really coded."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits.codec import Model  # noqa: E402
from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families.klt import Klt, KltConfig  # noqa: E402
from fewbits.families.losses import Distortion  # noqa: E402
from fewbits.fidelity import psnr  # noqa: E402
from fewbits.training import checkpoint  # noqa: E402
from fewbits.training.export import bundle_files, load_model, parse_bundle, run_files  # noqa: E402
from fewbits.training.loop import Budget, TrainConfig, train  # noqa: E402

Picture = Callable[..., np.ndarray]


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module", params=["rgb", "ycbcr"])
def fitted(request: pytest.FixtureRequest, photo: np.ndarray) -> Klt:
    """8x8 blocks, on three quarters of a photograph."""
    model = Klt(KltConfig(block=8, colour=request.param, levels=7, coder="tables"))
    model.initialize([tensor(photo[:, :384])], Distortion("mse"))
    return model


@pytest.fixture(scope="module")
def codec(fitted: Klt) -> Model:
    return Model(bundle_files("klt", fitted, {"architecture": asdict(fitted.config)}), "made here")


def test_the_transform_is_undone_by_its_inverse(fitted: Klt, photo: np.ndarray) -> None:
    forward, inverse = (kernel.double().flatten(1) for kernel in (fitted.forward_kernel, fitted.inverse_kernel))
    assert torch.allclose(forward @ inverse.T, torch.eye(192).double(), atol=1e-4)
    if fitted.config.colour == "rgb":
        assert torch.allclose(forward @ forward.T, torch.eye(192).double(), atol=1e-5)


def test_coefficients_are_uncorrelated_and_sorted(fitted: Klt, photo: np.ndarray) -> None:
    with torch.no_grad():
        y = fitted.estimate(tensor(photo[:, :384]), 0).latent[0].flatten(1).double()
    assert bool((y.square().mean(1).diff() <= 1e-9).all())
    if fitted.config.colour == "rgb":
        covariance = torch.cov(y)
        scale = covariance.diag().sqrt()
        assert ((covariance / torch.outer(scale, scale) - torch.eye(192)).abs()[:100, :100]).max() < 1e-2


def test_components_beat_any_other_basis_of_as_many(photo: np.ndarray) -> None:
    """Energy in the first ten coefficients, against the cosine transform that JPEG has."""
    from scipy.fft import dct

    model = Klt(KltConfig(block=8))
    x = tensor(photo[:, :384])
    model.initialize([x], Distortion("mse"))
    with torch.no_grad():
        y = model.estimate(x, 0).latent[0].flatten(1).double().square().sum(1)
    cosine = dct(np.eye(8), axis=0, norm="ortho")
    blocks = (photo[:, :384] / 255 - 0.5).reshape(64, 8, 48, 8, 3)
    energies = np.sort((np.einsum("ui,vj,ribjc->uvcrb", cosine, cosine, blocks) ** 2).sum((3, 4)).ravel())[::-1]
    assert y[:10].sum().item() / y.sum().item() > energies[:10].sum() / energies.sum()


def test_masses_sum_to_one_and_follow_the_data(fitted: Klt, photo: np.ndarray) -> None:
    gain = fitted.gains()[3]
    masses = fitted.masses(gain)
    assert np.abs(masses.sum(1) - 1).max() < 1e-6 and masses.min() >= 0
    with torch.no_grad():
        symbols = (fitted.estimate(tensor(photo[:, :384]), 3).latent[0].flatten(1) * gain).round().numpy()
    middle = masses.shape[1] // 2
    for channel in (0, 5, 60):
        found = (symbols[channel] == 0).mean()
        assert masses[channel, middle] == pytest.approx(found, abs=0.05)


@pytest.mark.parametrize("size", [(1, 1), (75, 90), (300, 20)])
def test_files_come_back_and_finer_steps_are_better_and_larger(codec: Model, photo: np.ndarray, size: tuple[int, int]) -> None:
    pixels = photo[100 : 100 + size[0], 390 : 390 + size[1]]
    sizes, scores = [], []
    for quality in (0, 35, 70, 100):
        data = codec.encode(pixels, quality)
        decoded = np.asarray(codec.decode(data))
        assert decoded.shape == pixels.shape
        assert len(data) <= 1.01 * codec.estimated_bits(data) / 8 + 64 + 16 * 2
        sizes.append(len(data))
        scores.append(psnr(pixels, decoded))
    if size != (1, 1):
        assert sizes == sorted(sizes) and scores == sorted(scores) and scores[-1] > 35


def test_the_adaptive_coder_needs_fewer_bytes_for_the_same_picture(codec: Model, fitted: Klt, photo: np.ndarray) -> None:
    files = bundle_files("klt", fitted, {"architecture": asdict(fitted.config)})
    adaptive = Klt(replace(fitted.config, coder="adaptive"))
    adaptive.load_state_dict(fitted.state_dict())
    twin = Model(bundle_files("klt", adaptive, {}), "made here")
    assert sum(map(len, files.values())) > 2 * len(files["analysis.onnx"])  # tables are most of a bundle
    for quality in (20, 60):
        data, other = codec.encode(photo, quality), twin.encode(photo, quality)
        assert len(other) < 0.9 * len(data)
        assert np.array_equal(codec.symbols(data).latent, twin.symbols(other).latent)
        assert np.array_equal(np.asarray(codec.decode(data)), np.asarray(twin.decode(other)))


def test_a_bundle_codes_as_torch_does(codec: Model, fitted: Klt, photo: np.ndarray) -> None:
    pixels = photo[64:128, 384:480]
    data = codec.encode(pixels, 50)
    with torch.no_grad():
        out = fitted.estimate(tensor(pixels), 3)
    assert codec.estimated_bits(data) == pytest.approx(out.y_bits.item(), rel=0.02)
    expected = (out.x_hat[0].permute(1, 2, 0).numpy() * 255).round().clip(0, 255)
    assert np.abs(np.asarray(codec.decode(data)) - expected).mean() < 0.1  # weights in float16


def test_training_it_is_fitting_it(tmp_path: Path, picture: Picture) -> None:
    from PIL import Image

    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(picture(300, 320)).save(data / "one.png")
    said: list[str] = []
    config = KltConfig(block=8, levels=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewbits.families.klt.MOST_BATCHES", 1)
        train("klt", [data], tmp_path / "run", Budget(steps=1), model_config=config, config=TrainConfig(), report=said.append)
    assert "nothing to train" in said[-1]
    assert checkpoint.load(tmp_path / "run" / "trunk.pt")["step"] == 0
    files = run_files(tmp_path / "run", {})
    again = load_model(parse_bundle(files, "made here"))
    pixels = picture(64, 64)
    assert psnr(pixels, np.asarray(Model(files, "made here").decode(Model(files, "made here").encode(pixels, 100)))) > 35
    assert again.forward_kernel.shape == (192, 3, 8, 8) and again.forward_kernel.std() > 0.01


@pytest.mark.parametrize("change", [{"block": 12}, {"colour": "lab"}])
def test_what_it_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="block must be 8 or 16, colour rgb or ycbcr"):
        Klt(KltConfig(**change))  # type: ignore[arg-type]

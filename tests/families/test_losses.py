# SPDX-License-Identifier: MIT
"""Losses against other libraries and against autograd's own Jacobian."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from fewbits import ssimulacra  # noqa: E402
from fewbits.errors import ModelError, TrainingError  # noqa: E402
from fewbits.families import losses  # noqa: E402
from fewbits.families.losses import DISTORTIONS, Distortion, Penalty, contractive, contractive_exact, lab, sparse  # noqa: E402

WITHOUT_WEIGHTS = [name for name in DISTORTIONS if name != "vgg"]
Picture = Callable[..., np.ndarray]


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None].float()


def test_cielab_is_that_of_scikit_image(photo: np.ndarray) -> None:
    rgb2lab = pytest.importorskip("skimage.color").rgb2lab
    corners = np.array([[[r, g, b] for r in (0, 128, 255) for g in (0, 7, 255)] for b in (0, 60, 255)], np.uint8)
    for pixels in (photo[:64, :64], corners):
        found = lab(tensor(pixels))[0].permute(1, 2, 0).numpy()
        assert np.abs(found - rgb2lab(pixels)).max() < 0.02  # of a range of 100 and more; float32


def test_chroma_sees_colour_that_is_lost_and_nothing_else(photo: np.ndarray) -> None:
    pytest.importorskip("skimage.color")
    x = tensor(photo[:64, :64])
    grey = x.mean(1, keepdim=True).expand_as(x)
    assert losses.chroma(x, grey).item() == pytest.approx(losses.saturation(x).mean().item(), rel=0.1)
    assert losses.chroma(x, x.flip(1)).item() < losses.chroma(x, grey).item()
    assert losses.saturation(grey).max().item() < 0.2


@pytest.mark.parametrize("size", [(256, 256), (101, 77), (12, 9)])
def test_ssimulacra2_is_what_its_score_is_made_of(size: tuple[int, int], photo: np.ndarray) -> None:
    """Of a batch, of odd sides, and where scales are missing."""
    x = photo[100 : 100 + size[0], 150 : 150 + size[1]]
    rng = np.random.default_rng(0)
    decoded = [np.clip(x + rng.normal(size=x.shape) * deviation, 0, 255).astype(np.uint8) for deviation in (2, 12, 40)]
    found = DISTORTIONS["ssimulacra2"](tensor(x).repeat(3, 1, 1, 1), torch.cat([tensor(y) for y in decoded])).tolist()
    for value, y in zip(found, decoded, strict=True):
        assert ssimulacra.score_of(value) == pytest.approx(ssimulacra.score(x, y), abs=0.05)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_distortion_is_none_at_equal_pictures_and_rises(name: str, picture: Picture) -> None:
    x = torch.cat([tensor(picture(176, 192, seed)) for seed in (0, 1)])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    far = (x + 0.1 * noise).requires_grad_()
    values = [DISTORTIONS[name](x, other) for other in (x, x + 0.01 * noise, far)]
    assert all(value.shape == (2,) for value in values)
    assert values[0].abs().max().item() < 1e-5
    assert bool((values[0] < values[1]).all()) and bool((values[1] < values[2]).all())
    values[2].sum().backward()
    assert far.grad is not None and bool(far.grad.isfinite().all()) and far.grad.abs().sum().item() > 0


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_gradients_are_finite_where_pictures_are_equal_or_grey(name: str) -> None:
    for x in (torch.full((1, 3, 176, 176), 0.5), torch.zeros(1, 3, 176, 176)):
        x_hat = x.clone().requires_grad_()
        DISTORTIONS[name](x, x_hat).sum().backward()
        assert x_hat.grad is not None and bool(x_hat.grad.isfinite().all())


def test_ms_ssim_is_that_of_the_bench(photo: np.ndarray) -> None:
    pytest.importorskip("scipy")
    from fewbits.structure import ms_ssim, ssim

    x = photo[:200, :240]
    y = (x // 16 * 16).astype(np.uint8)
    assert losses.ms_ssim(tensor(x), tensor(y)).item() == pytest.approx(1 - ms_ssim(x, y), abs=1e-4)
    assert losses.ssim(tensor(x), tensor(y)).item() == pytest.approx(1 - ssim(x, y), abs=1e-4)
    with pytest.raises(TrainingError, match="ms-ssim needs at least 161 pixels a side, the crops have 160x200"):
        losses.ms_ssim(tensor(x)[..., :160], tensor(y)[..., :160])


def test_distortions_are_not_computed_in_bfloat16(photo: np.ndarray) -> None:
    """Under autocast the variances of MS-SSIM were differences of rounded numbers, and losses infinite."""
    x = tensor(photo[:200, :240])
    y = (x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for text in ("ms-ssim", "ssim", "mse", "l1", "chroma"):
        wanted = Distortion(text)(x, y)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(Distortion(text)(x, y), wanted)


def test_ms_ssim_has_a_finite_gradient_where_nothing_is_alike(photo: np.ndarray) -> None:
    x = tensor(photo[:200, :240])
    y = torch.cat([1 - x, (x + 0.01).clamp(0, 1)]).requires_grad_()  # the first: every contrast is opposite
    loss = losses.ms_ssim(x.repeat(2, 1, 1, 1), y)
    loss.sum().backward()
    assert loss[0] > 0.9 and loss[1] < 0.1
    assert y.grad is not None and bool(y.grad.isfinite().all()) and y.grad[1].abs().sum() > 0


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 2, 3, stride=2)).double()


def test_the_contractive_penalty_is_the_norm_of_the_jacobian(network: nn.Module) -> None:
    x = torch.rand(2, 3, 11, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    jacobian = [torch.autograd.functional.jacobian(lambda one: network(one[None])[0], one) for one in x.detach()]
    wanted = torch.stack([part.square().sum() for part in jacobian]) / (11 * 9)
    assert torch.allclose(contractive_exact(network(x), x), wanted)
    torch.manual_seed(2)
    estimate = contractive(network(x), x, probes=2000)
    assert torch.allclose(estimate, wanted, rtol=0.05)
    (gradient,) = torch.autograd.grad(contractive_exact(network(x), x).sum(), next(network.parameters()))
    assert gradient.abs().sum() > 0  # it can be trained with


def test_the_sparse_penalty_is_the_sum_of_magnitudes() -> None:
    latent = torch.tensor([[[[1.0, -2.0]]], [[[0.0, 3.0]]]])
    assert sparse(latent, torch.zeros(2, 3, 4, 5)).tolist() == pytest.approx([3 / 20, 3 / 20])


def test_terms_are_weighted_sums(picture: Picture) -> None:
    x = tensor(picture(176, 176))
    y = (x + 0.1).clamp(0, 1)
    both = Distortion("ms-ssim=100,mse=0.5")(x, y)
    assert both.item() == pytest.approx(100 * losses.ms_ssim(x, y).item() + 0.5 * losses.mse(x, y).item())
    assert not Penalty("").terms and not Penalty("sparse").needs_gradient and Penalty("contractive=2").needs_gradient


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "must name at least one"), ("psnr", "'psnr' must be one of mse"), ("mse,mse", "only once"),
     ("mse=x", "'x' of mse is not a number"), ("mse=-1", "above 0"), ("mse=inf", "finite")],
)  # fmt: skip
def test_wrong_terms_are_refused(text: str, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Distortion(text)


def test_vgg_features_are_those_of_torchvision(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights made here: torchvision's numbering of VGG-19 is written out once more."""
    generator = torch.Generator().manual_seed(0)
    convolutions = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 19: (256, 512)}
    convolutions |= {index: (256, 256) for index in (12, 14, 16)}
    convolutions |= {index: (512, 512) for index in (21, 23, 25, 28, 30, 32, 34)}
    state = {}
    for index, (inner, outer) in convolutions.items():
        state[f"features.{index}.weight"] = torch.randn(outer, inner, 3, 3, generator=generator) * (2 / (9 * inner)) ** 0.5
        state[f"features.{index}.bias"] = torch.randn(outer, generator=generator) * 0.1
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, tmp_path / losses.VGG_FILE)
    monkeypatch.setenv(losses.VGG_VARIABLE, str(tmp_path))
    losses.installed_vgg.cache_clear()
    x, y = tensor(photo[:48, :64]), tensor(photo[:48, :64] // 64 * 64)

    def features(value: Tensor) -> Tensor:
        value = (value - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        for index in range(36):
            if index in convolutions:
                weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
                value = torch.conv2d(value, weight, bias, padding=1)
            elif index in (4, 9, 18, 27):
                value = torch.max_pool2d(value, 2)
            else:
                value = value.relu()
        return value

    assert losses.vgg(x, y).item() == pytest.approx((features(x) - features(y)).abs().mean().item(), rel=1e-4)
    assert losses.vgg(x, x).item() == 0
    losses.installed_vgg.cache_clear()
    del state["features.34.bias"]
    torch.save(state, tmp_path / losses.VGG_FILE)
    with pytest.raises(ModelError, match="no weights of VGG-19"):
        losses.installed_vgg()
    monkeypatch.setenv(losses.VGG_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=f"the loss vgg needs {losses.VGG_FILE}: not found in .*--vgg random"):
        losses.installed_vgg()
    with pytest.raises(ModelError, match="needs"):  # at once, not at the first step
        Distortion("mse,vgg")


def test_random_features_are_the_same_ones_each_time_and_only_for_those_who_ask(photo: np.ndarray) -> None:
    x, y = tensor(photo[:48, :64]), tensor(photo[:48, :64] // 64 * 64)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.random_vgg.cache_clear()
        found.append(Distortion("vgg=2", "random")(x, y).item())
    assert found[0] == found[1] == pytest.approx(2 * losses.vgg(x, y, "random").item())
    assert 0.05 < found[0] < 5  # features keep the magnitude of what they are made of
    assert Distortion("vgg", "random")(x, x).item() == 0
    weights = dict(losses.random_vgg().named_parameters())
    assert len(weights) == 32 and weights["features.34.weight"].shape == (512, 512, 3, 3)
    with pytest.raises(TrainingError, match="vgg is 'trained', it must be one of imagenet, random"):
        Distortion("mse", "trained")

# SPDX-License-Identifier: MIT
"""Distortions and penalties that any family can be trained with, by name and weight: "ms-ssim=1,chroma=0.01".

Pictures are (b, 3, h, w) sRGB in 0..1; a distortion is (b,), one number for each picture, and 0 for equal ones. Units: `mse`
in squared steps of 0-255, `l1` in steps of 0-255, `ssim` and `ms-ssim` 1 - similarity, `ssimulacra2` what its score is made
of (ssimulacra2.py), `chroma` in CIELAB units, `vgg` in those of the features.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.errors import ModelError, TrainingError
from fewbits.families import ssimulacra2
from fewbits.families.batch_part import own_draw
from fewbits.pretrained import find_weights, hub_checkpoints

MS_SSIM_SMALLEST_PX: Final = 161
VGG_SEED: Final = 19
VGG_VARIABLE, VGG_FILE = "FEWBITS_VGG", "vgg19-dcbb9e9d.pth"
VGG_CHANNELS: Final = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)  # 0: max pooling
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_XYZ: Final = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))  # sRGB, D65
WHITE: Final = (0.95047, 1.0, 1.08883)


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    return 255**2 * F.mse_loss(x_hat, x, reduction="none").mean((1, 2, 3))


def l1(x: Tensor, x_hat: Tensor) -> Tensor:
    return 255 * (x_hat - x).abs().mean((1, 2, 3))


def ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """1 - SSIM (Wang et al., TIP 2004), of R, G and B by themselves."""
    from pytorch_msssim import ssim as similarity

    return 1 - similarity(x_hat, x, data_range=1.0, size_average=False)


def ms_ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang, Simoncelli, Bovik, Asilomar 2003), of R, G and B by themselves. Raises TrainingError on small crops."""
    from pytorch_msssim import ms_ssim as similarity

    if min(x.shape[-2:]) < MS_SSIM_SMALLEST_PX:
        size = f"{x.shape[-1]}x{x.shape[-2]}"
        raise TrainingError(f"crop: the loss ms-ssim needs at least {MS_SSIM_SMALLEST_PX} pixels a side, the crops have {size}")
    watched = x_hat.view_as(x_hat)
    if watched.requires_grad:  # where a scale's similarity is 0 the slope of its power is infinite: that picture waits
        watched.register_hook(lambda gradient: torch.nan_to_num(gradient, 0.0, 0.0, 0.0))  # type: ignore[no-untyped-call]
    return 1 - similarity(watched, x, data_range=1.0, size_average=False)


def lab(x: Tensor) -> Tensor:
    """sRGB in 0..1 -> CIELAB under D65, (b, 3, h, w): L in 0..100, a, b. Values outside 0..1 are clamped."""
    x = x.clamp(0, 1)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,bjhw->bihw", x.new_tensor(TO_XYZ), linear) / x.new_tensor(WHITE)[:, None, None]
    small = 0.008856  # CIE's limit of the linear part, and its slope
    f = torch.where(xyz > small, xyz.clamp(min=small) ** (1 / 3), 7.787 * xyz + 16 / 116)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def saturation(x: Tensor) -> Tensor:
    """CIELAB chroma sqrt(a^2 + b^2) of each pixel, (b, h, w); its gradient is finite at grey."""
    return lab(x)[:, 1:].square().sum(1).add(1e-6).sqrt()


def chroma(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean absolute difference of CIELAB chroma: blind to lightness and hue, awake to colours that go grey."""
    return (saturation(x_hat) - saturation(x)).abs().mean((1, 2))


def vgg(x: Tensor, x_hat: Tensor, weights: str = "imagenet") -> Tensor:
    """Mean absolute difference of VGG-19's features after its 36th layer. weights: a name in VGG_WEIGHTS. Raises ModelError."""
    network = VGG_WEIGHTS[weights]().to(x.device)
    return (network(x_hat) - network(x)).abs().mean((1, 2, 3))


class VggFeatures(nn.Module):
    """The 36 layers of torchvision's `vgg19().features` before its last pooling: (b, 3, h, w) in 0..1 -> (b, 512, h/16, w/16)."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """state: that of torchvision's VGG-19. Raises ModelError where a tensor is missing or has another shape."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG_CHANNELS:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
            channels = width or channels
        self.features = nn.Sequential(*layers)
        try:
            self.load_state_dict({name: value for name, value in state.items() if name.startswith("features.")})
        except RuntimeError as error:
            raise ModelError(f"these are no weights of VGG-19: {' '.join(str(error).split())}") from error
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = (x.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        out: Tensor = self.features((x - mean) / deviation)
        return out


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a file that torch wrote. Raises ModelError."""
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler meets
        raise ModelError(f"{path}: these are no weights: {' '.join(str(error).split())}") from error
    return state


@lru_cache(maxsize=1)
def installed_vgg() -> VggFeatures:
    """VGG-19 from torch's hub cache or the folder $FEWBITS_VGG. Raises ModelError."""
    try:
        path = find_weights([VGG_FILE], "the loss vgg", VGG_VARIABLE, [hub_checkpoints()])
    except ModelError as error:
        raise ModelError(f"{error}; or take features of random weights: --vgg random") from error
    return VggFeatures(read_state(path))


@lru_cache(maxsize=1)
def random_vgg() -> VggFeatures:
    """VGG-19 with random weights that keep the magnitude of features (He et al., ICCV 2015), the same ones each time."""
    generator, state = torch.Generator().manual_seed(VGG_SEED), dict[str, Tensor]()
    index, inner = 0, 3
    for width in VGG_CHANNELS:
        if width:
            weight = torch.randn(width, inner, 3, 3, generator=generator) * (2 / (9 * inner)) ** 0.5
            state |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(width)}
            inner = width
        index += 2 if width else 1  # a ReLU follows a convolution
    return VggFeatures(state)


VGG_WEIGHTS: Final[dict[str, Callable[[], VggFeatures]]] = {"imagenet": installed_vgg, "random": random_vgg}


def sparse(latent: Tensor, x: Tensor) -> Tensor:
    """Sum of magnitudes of each picture's latent, for each pixel of the picture: the Laplace prior."""
    return latent.abs().sum((1, 2, 3)) / x[0, 0].numel()


def contractive(latent: Tensor, x: Tensor, probes: int = 1) -> Tensor:
    """Squared Frobenius norm of d latent / d x of each picture (Rifai et al., ICML 2011), for each pixel of it.

    By Hutchinson's estimate: E |J^T v|^2 = |J|_F^2 for v of independent +1 and -1. `x` must require its gradient.
    """
    total = x.new_zeros(len(x))
    for _ in range(probes):
        signs = own_draw(len(latent), lambda n: torch.randint(0, 2, (n, *latent.shape[1:]), device=latent.device))
        v = signs.to(latent.dtype) * 2 - 1
        (gradient,) = torch.autograd.grad((latent * v).sum(), x, create_graph=True)
        total = total + gradient.square().sum((1, 2, 3))
    return total / probes / x[0, 0].numel()


def contractive_exact(latent: Tensor, x: Tensor) -> Tensor:
    """What contractive() estimates, one backward pass for each value of a latent: for small networks."""
    total = x.new_zeros(len(x))
    for column in latent.flatten(1).unbind(1):
        (gradient,) = torch.autograd.grad(column.sum(), x, create_graph=True)
        total = total + gradient.square().sum((1, 2, 3))
    return total / x[0, 0].numel()


DISTORTIONS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "mse": mse, "l1": l1, "ssim": ssim, "ms-ssim": ms_ssim, "ssimulacra2": ssimulacra2.distance, "chroma": chroma, "vgg": vgg,
}  # fmt: skip
PENALTIES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "sparse": sparse, "contractive": contractive, "contractive-exact": contractive_exact,
}  # fmt: skip


def parse_terms(option: str, text: str, known: Mapping[str, object]) -> dict[str, float]:
    """ "a=2,b" -> {"a": 2.0, "b": 1.0}. Raises TrainingError that names the option."""
    terms: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = part.partition("=")
        if name not in known or name in terms:
            raise TrainingError(f"{option} {text}: {name!r} must be one of {', '.join(known)}, and only once")
        try:
            terms[name] = float(number) if equals else 1.0
        except ValueError:
            raise TrainingError(f"{option} {text}: the weight {number!r} of {name} is not a number") from None
        if not 0 < terms[name] < float("inf"):
            raise TrainingError(f"{option} {text}: the weight of {name} must be above 0, and finite")
    return terms


class Distortion:
    """A weighted sum of distortions; called with x and x_hat it gives (b,)."""

    def __init__(self, text: str, vgg_weights: str = "imagenet") -> None:
        """text: "NAME=WEIGHT,..."; a weight that is not given is 1. vgg_weights: a name in VGG_WEIGHTS, loaded here where `vgg`
        is in the sum. Raises TrainingError, and ModelError without those weights."""
        self.terms = parse_terms("loss", text, DISTORTIONS)
        if not self.terms:
            raise TrainingError(f"loss is {text!r}, it must name at least one of {', '.join(DISTORTIONS)}")
        if vgg_weights not in VGG_WEIGHTS:
            raise TrainingError(f"vgg is {vgg_weights!r}, it must be one of {', '.join(VGG_WEIGHTS)}")
        if "vgg" in self.terms:
            VGG_WEIGHTS[vgg_weights]()
        self._measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = DISTORTIONS | {"vgg": partial(vgg, weights=vgg_weights)}

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # in bfloat16 a variance is a difference of two rounded numbers
            return torch.stack([weight * self._measures[name](x, x_hat) for name, weight in self.terms.items()]).sum(0)


class Penalty:
    """A weighted sum of penalties on the latent; called with latent and x it gives (b,)."""

    def __init__(self, text: str) -> None:
        """text: as for Distortion; "" is none. Raises TrainingError."""
        self.terms = parse_terms("penalty", text, PENALTIES)

    def __call__(self, latent: Tensor, x: Tensor) -> Tensor:
        return torch.stack([weight * PENALTIES[name](latent, x) for name, weight in self.terms.items()]).sum(0)

    @property
    def needs_gradient(self) -> bool:
        """Whether x must require its gradient when the latent is computed."""
        return any(name.startswith("contractive") for name in self.terms)

# SPDX-License-Identifier: MIT
"""The slimmable compressive autoencoder (Yang, Herranz, Cheng, Mozerov, CVPR 2021): one set of weights, several widths.

A narrower network is the leading slice of the wider one's convolutions, and only the slices in use are computed. Each
width has its own factorized prior and its own lambda; all are trained together.

Shapes: x (b, 3, h, w) in 0..1 with h, w multiples of 16; y (b, width, h/16, w/16).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.errors import TrainingError
from fewbits.families.factorized import FactorizedDensity
from fewbits.families.few import Estimate
from fewbits.families.gdn import SlimGdn, normalized
from fewbits.families.losses import Distortion, Penalty, mse
from fewbits.families.quantize import round_through, uniform_noise


@dataclass(frozen=True)
class SlimCaeConfig:
    """widths in channels, rising; lambdas: the weight of the distortion against bits per pixel, one a width.

    A bundle's levels of quality lie `levels_between` to each step from lambda to lambda, and go on beyond the ends.
    """

    widths: tuple[int, ...] = (48, 72, 96, 144, 192)
    lambdas: tuple[float, ...] = (128, 256, 512, 1024, 2048)  # for 1 - MS-SSIM
    gdn: str = "modulated"  # switchable | slimmable | modulated
    levels_between: int = 4


class SlimConv(nn.Module):
    """Convolution, or its transpose, of which the leading slice that belongs to a width is computed."""

    def __init__(
        self, n_in: Sequence[int], n_out: Sequence[int], kernel: int, stride: int, *, transposed: bool = False, bias: bool = True
    ) -> None:
        """n_in, n_out: channels at each width, rising or equal."""
        super().__init__()
        self.n_in, self.n_out, self.stride, self.transposed = tuple(n_in), tuple(n_out), stride, transposed
        shape = (n_in[-1], n_out[-1]) if transposed else (n_out[-1], n_in[-1])
        self.weight = nn.Parameter(torch.empty(*shape, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out[-1])) if bias else None
        fan = n_in[-1] * kernel**2 / (stride**2 if transposed else 1)
        nn.init.normal_(self.weight, std=fan**-0.5)

    def slices(self, which: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias at the width number `which`."""
        first, second = self.n_out[which], self.n_in[which]
        if self.transposed:
            first, second = second, first
        return self.weight[:first, :second], None if self.bias is None else self.bias[: self.n_out[which]]

    def forward(self, x: Tensor, which: int) -> Tensor:
        weight, bias = self.slices(which)
        padding = weight.shape[-1] // 2
        if self.transposed:
            return F.conv_transpose2d(x, weight, bias, self.stride, padding, output_padding=self.stride - 1)
        return F.conv2d(x, weight, bias, self.stride, padding)


class SlimNetwork(nn.Module):
    """Three convolutions and three GDN layers, and their slices by the names that the exported graphs have."""

    convolutions: nn.ModuleList
    gdn: nn.ModuleList

    def inputs(self, which: int) -> dict[str, Tensor]:
        """w, b of the convolutions, g, e, m of the GDN layers (see gdn.normalized) at a width, as views of the parameters."""
        found: dict[str, Tensor] = {}
        for k, (convolution, gdn) in enumerate(zip(self.convolutions, self.gdn, strict=True)):
            slices = cast(SlimConv, convolution).slices(which)
            found |= {f"w{k}": slices[0]} | ({} if slices[1] is None else {f"b{k}": slices[1]})
            found |= dict(zip((f"g{k}", f"e{k}", f"m{k}"), cast(SlimGdn, gdn).parts(which), strict=True))
        return found


class SlimAnalysis(SlimNetwork):
    """x - 1/2 -> y: 9x9 stride 4, then twice 5x5 stride 2, each followed by GDN."""

    def __init__(self, config: SlimCaeConfig) -> None:
        super().__init__()
        wide, colours = config.widths, (3,) * len(config.widths)
        self.convolutions = nn.ModuleList(
            [SlimConv(colours, wide, 9, 4), SlimConv(wide, wide, 5, 2), SlimConv(wide, wide, 5, 2, bias=False)]
        )
        self.gdn = nn.ModuleList([SlimGdn(wide, config.gdn) for _ in range(3)])

    def forward(self, x: Tensor, which: int) -> Tensor:
        for convolution, gdn in zip(self.convolutions, self.gdn, strict=True):
            x = gdn(convolution(x, which), which)
        return x


class SlimSynthesis(SlimNetwork):
    """y_hat -> x_hat - 1/2: the mirror of the analysis, inverse GDN before each transposed convolution."""

    def __init__(self, config: SlimCaeConfig) -> None:
        super().__init__()
        wide, colours = config.widths, (3,) * len(config.widths)
        self.gdn = nn.ModuleList([SlimGdn(wide, config.gdn, inverse=True) for _ in range(3)])
        self.convolutions = nn.ModuleList(
            [SlimConv(wide, wide, 5, 2, transposed=True), SlimConv(wide, wide, 5, 2, transposed=True),
             SlimConv(wide, colours, 9, 4, transposed=True)]
        )  # fmt: skip

    def forward(self, y_hat: Tensor, which: int) -> Tensor:
        x = y_hat
        for gdn, convolution in zip(self.gdn, self.convolutions, strict=True):
            x = convolution(gdn(x, which), which)
        return x


class SlimCae(nn.Module):
    """The trainable model; see the module's docstring for shapes. A setting is the number of a width, 0 for the narrowest."""

    def __init__(self, config: SlimCaeConfig) -> None:
        super().__init__()
        if list(config.widths) != sorted(set(config.widths)) or len(config.lambdas) != len(config.widths):
            raise TrainingError(
                f"widths {config.widths} must rise, and there must be as many lambdas as widths: {config.lambdas}"
            )
        self.config = config
        self.analysis, self.synthesis = SlimAnalysis(config), SlimSynthesis(config)
        self.priors = nn.ModuleList([FactorizedDensity(width) for width in config.widths])

    def prior(self, which: int) -> FactorizedDensity:
        """The density of a width's latent."""
        return cast(FactorizedDensity, self.priors[which])

    def initialize(self, pictures: Iterable[Tensor]) -> None:
        """Nothing depends on the data."""

    @property
    def settings(self) -> tuple[float, ...]:
        """All widths."""
        return tuple(map(float, range(len(self.config.widths))))

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """Reconstruction and bits at one width. In training noise for rates, straight-through rounding for the synthesis."""
        which = int(setting)
        y: Tensor = self.analysis(x - 0.5, which).float()
        prior = self.prior(which)
        symbols = round_through(y)
        with torch.autocast(x.device.type, enabled=False):
            bits = prior.bits(uniform_noise(y) if self.training else symbols)
        x_hat = self.synthesis(symbols, which).float() + 0.5
        return Estimate(x_hat, bits.sum((1, 2, 3)), torch.zeros_like(bits[:, 0, 0, 0]), y)

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the widths of lambda distortion + bpp + penalty (equation 3 of the paper, which sums)."""
        total, parts = x.new_zeros(()), dict[str, Tensor]()
        for which, (width, weight) in enumerate(zip(self.config.widths, self.config.lambdas, strict=True)):
            out = self.estimate(x, which)
            bpp = out.y_bits / x[0, 0].numel()
            each = weight * distortion(x, out.x_hat) + bpp
            if penalty.terms:
                each = each + penalty(out.latent, x)
            total = total + each.mean() / len(self.config.widths)
            parts |= {f"bpp_{width}": bpp.mean().detach(), f"mse_{width}": mse(x, out.x_hat).mean().detach()}
        return total, parts

    def multiplications(self, which: int) -> tuple[float, float]:
        """Multiply-accumulates a pixel of analysis and of synthesis at a width, GDN included."""
        width = self.config.widths[which]
        convolutions = 243 * width / 16 + 25 * width**2 / 64 + 25 * width**2 / 256
        normalizations = width**2 * (1 / 16 + 1 / 64 + 1 / 256)
        return convolutions + normalizations, convolutions + normalizations

    # The coding side (runtime/factorized.py reads what these give)

    frozen_networks = frozenset({"analysis", "synthesis"})  # their weights are inputs, which load_tables takes back

    def networks(self) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
        """Both networks with the widest weights as example inputs; one file serves all widths."""
        widest = len(self.config.widths) - 1
        x, y = torch.zeros(1, 3, 32, 48), torch.zeros(1, self.config.widths[-1], 3, 5)
        return {
            "analysis": (AnalysisGraph(), {"x": x, **self.analysis.inputs(widest)}),
            "synthesis": (SynthesisGraph(), {"y_hat": y, **self.synthesis.inputs(widest)}),
        }

    @torch.no_grad()
    def tables(self) -> dict[str, np.ndarray]:
        """Weights as float16 under `NETWORK.INPUT`, those that are not slices of the widest under `NETWORK.INPUT.WIDTH`; and
        the frequencies of each level's symbols."""
        found: dict[str, np.ndarray] = {}
        for name, network in (("analysis", self.analysis), ("synthesis", self.synthesis)):
            for which, width in enumerate(self.config.widths):
                for part, value in network.inputs(which).items():
                    own = part[0] == "m" or (part[0] in "ge" and self.config.gdn == "switchable")
                    if own or width == self.config.widths[-1]:
                        found[f"{name}.{part}.{width}" if own else f"{name}.{part}"] = value.half().numpy().copy()
        for k, (width, gain) in enumerate(self.levels()):
            found[f"limits_{k}"], found[f"frequencies_{k}"] = self.prior(self.config.widths.index(width)).tables(gain)
        return found

    def levels(self) -> list[tuple[int, float]]:
        """Width and gain of each level, by rising quality: a finer lambda is a finer quantizer step, lambda ~ gain^2."""
        widths, n = self.config.widths, self.config.levels_between
        logs = [math.log(value) for value in self.config.lambdas]
        below = logs[0] - (logs[1] - logs[0] if len(logs) > 1 else math.log(2))
        found: list[tuple[int, float]] = []
        for width, low, high in zip(widths, [below, *logs], logs, strict=False):
            found += [(width, math.exp((low - high) * (1 - k / n) / 2)) for k in range(0 if not found else 1, n + 1)]
        return found + [(widths[-1], 2 ** (k / n / 2)) for k in range(1, 2 * n + 1)]

    def coding(self) -> dict[str, Any]:
        """Numbers of the coding pipeline. The receptive fields reach 28 pixels, and 1.75 latent positions."""
        sliced = {"analysis": AnalysisGraph.sliced_axes, "synthesis": SynthesisGraph.sliced_axes}
        axes = {name: {part: list(where) for part, where in parts.items()} for name, parts in sliced.items()}
        return {
            "kind": "factorized",
            "stride": 16,
            "halo": 3,
            "levels": [[width, round(gain, 6)] for width, gain in self.levels()],
            "inputs": axes,
        }

    @torch.no_grad()
    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of tables(), but for the priors, which begin anew: frequencies do not give them back."""
        for name, network in (("analysis", self.analysis), ("synthesis", self.synthesis)):
            for which, width in enumerate(self.config.widths):
                for part, value in network.inputs(which).items():
                    own = tables.get(
                        f"{name}.{part}.{width}", tables.get(f"{name}.{part}") if which + 1 == len(self.config.widths) else None
                    )
                    if own is not None:
                        value.copy_(own)


class AnalysisGraph(nn.Module):
    """SlimAnalysis as it is exported, its weights given as inputs."""

    sliced_axes: ClassVar[dict[str, tuple[int, ...]]] = {
        "w0": (0,), "b0": (0,), "w1": (0, 1), "b1": (0,), "w2": (0, 1),
        **{f"{part}{k}": axes for k in range(3) for part, axes in (("g", (0, 1)), ("e", (0,)), ("m", ()))},
    }  # fmt: skip
    dynamic_axes: ClassVar[dict[str, tuple[int, ...]]] = {"x": (2, 3), **sliced_axes}

    def forward(
        self, x: Tensor, w0: Tensor, b0: Tensor, g0: Tensor, e0: Tensor, m0: Tensor, w1: Tensor, b1: Tensor, g1: Tensor,
        e1: Tensor, m1: Tensor, w2: Tensor, g2: Tensor, e2: Tensor, m2: Tensor,
    ) -> Tensor:  # fmt: skip
        x = normalized(F.conv2d(x, w0, b0, 4, 4), g0, e0, m0, inverse=False)
        x = normalized(F.conv2d(x, w1, b1, 2, 2), g1, e1, m1, inverse=False)
        return normalized(F.conv2d(x, w2, None, 2, 2), g2, e2, m2, inverse=False)


class SynthesisGraph(nn.Module):
    """SlimSynthesis as it is exported, its weights given as inputs."""

    sliced_axes: ClassVar[dict[str, tuple[int, ...]]] = {
        "w0": (0, 1), "b0": (0,), "w1": (0, 1), "b1": (0,), "w2": (0,), "b2": (),
        **{f"{part}{k}": axes for k in range(3) for part, axes in (("g", (0, 1)), ("e", (0,)), ("m", ()))},
    }  # fmt: skip
    dynamic_axes: ClassVar[dict[str, tuple[int, ...]]] = {"y_hat": (1, 2, 3), **sliced_axes}

    def forward(
        self, y_hat: Tensor, g0: Tensor, e0: Tensor, m0: Tensor, w0: Tensor, b0: Tensor, g1: Tensor, e1: Tensor, m1: Tensor,
        w1: Tensor, b1: Tensor, g2: Tensor, e2: Tensor, m2: Tensor, w2: Tensor, b2: Tensor,
    ) -> Tensor:  # fmt: skip
        x = F.conv_transpose2d(normalized(y_hat, g0, e0, m0, inverse=True), w0, b0, 2, 2, output_padding=1)
        x = F.conv_transpose2d(normalized(x, g1, e1, m1, inverse=True), w1, b1, 2, 2, output_padding=1)
        return F.conv_transpose2d(normalized(x, g2, e2, m2, inverse=True), w2, b2, 4, 4, output_padding=3)

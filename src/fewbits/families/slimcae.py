# SPDX-License-Identifier: MIT
"""The slimmable compressive autoencoder (Yang, Herranz, Cheng, Mozerov, CVPR 2021): one set of weights, several widths.

A narrower network is the leading slice of the wider one's convolutions, and only the slices in use are computed. Each
width has its own factorized prior and its own lambda; all are trained together. Beyond the paper: training starts from a working
transform codec (nested principal components, docs/adr/0010), so that hours, not weeks, give a model.

Shapes: x (b, 3, h, w) in 0..1 with h, w multiples of 16; y (b, width, h/16, w/16).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.errors import TrainingError
from fewbits.families.components import nested_components
from fewbits.families.factorized import FactorizedDensity
from fewbits.families.few import Estimate
from fewbits.families.gdn import SlimGdn, normalized
from fewbits.families.likelihood import check_coder, entropy_bits
from fewbits.families.losses import Distortion, Penalty, mse
from fewbits.families.quantize import round_through, uniform_noise
from fewbits.families.settings import Settings, setting

PIXEL_GAIN = 4.0  # what the networks see is about 1 in magnitude, so that GDN has something to divide by
LEVEL_GAINS = 2.0 ** np.arange(-4, 1.51, 0.25)  # where rates are looked up
COARSEST_GAIN, FINEST_GAIN = 0.5, 2.0  # quality 0, of the narrowest width, and quality 100, of the widest
LAMBDA_FACTOR, LAMBDA_TIMES = 0.8, 7
START_BATCHES, START_PICTURES = 8, 6  # for the components, and for the gains
START_GAINS = tuple(2.0 ** (k / 2) for k in range(-4, 11))


@dataclass(frozen=True)
class SlimCaeConfig(Settings):
    """Widths and their lambdas, and what all of them share."""

    widths: tuple[int, ...] = setting((48, 72, 96, 144, 192), "channels, rising; as in the paper", least=1)
    lambdas: tuple[float, ...] = setting(
        (3.0, 6.0, 12.0, 24.0, 48.0),
        "weights of the distortion against bits per pixel, one a width; these, of 1 - MS-SSIM, give about 0.2 to 1 bpp",
        above=0,
    )
    gdn: str = setting("modulated", "how widths share GDN: switchable, slimmable, or modulated (the paper's choice)")
    start: str = setting("klt", "klt: from principal components; random: as in the paper")
    levels: int = setting(33, "steps of quality, in a bundle", least=1)
    coder: str = setting("adaptive", "adaptive (fewer bytes), or tables: those of the priors")

    # Kernels of 4800 taps a channel want small steps; the lambdas are meant for this loss.
    training: ClassVar[dict[str, Any]] = {"lr": 5e-4, "matrix_lr": 3e-4, "loss": "ms-ssim=1,chroma=0.01"}


class SlimConv(nn.Module):
    """The parameters of a convolution, or its transpose, of which a width uses the leading slice.

    The weight is stored as a matrix, as matrix optimizers want it: (out, in * kernel^2), transposed (in, out * kernel^2).
    """

    matrix_weight = True  # see training.loop.make_optimizers

    def __init__(
        self, n_in: Sequence[int], n_out: Sequence[int], kernel: int, stride: int, *, transposed: bool = False, bias: bool = True
    ) -> None:
        """n_in, n_out: channels at each width, rising or equal."""
        super().__init__()
        self.n_in, self.n_out, self.stride, self.transposed = tuple(n_in), tuple(n_out), stride, transposed
        first, second = (n_in[-1], n_out[-1]) if transposed else (n_out[-1], n_in[-1])
        self.shape = (first, second, kernel, kernel)
        self.weight = nn.Parameter(torch.empty(first, second * kernel**2))
        self.bias = nn.Parameter(torch.zeros(n_out[-1])) if bias else None
        fan = n_in[-1] * kernel**2 / (stride**2 if transposed else 1)
        nn.init.normal_(self.weight, std=(3 * fan) ** -0.5)

    def slices(self, which: int) -> tuple[Tensor, Tensor | None]:
        """Weight (4 dimensions) and bias at the width number `which`, as views of the parameters."""
        first, second = self.n_out[which], self.n_in[which]
        if self.transposed:
            first, second = second, first
        weight = self.weight.view(self.shape)[:first, :second]
        return weight, None if self.bias is None else self.bias[: self.n_out[which]]

    @torch.no_grad()
    def start(self, basis: Tensor) -> None:
        """Become the block transform `basis` (rows, inner, stride, stride), or its transpose, on the leading channels.

        Channels beyond it are computed with small random weights, and read with weights of 0, so that they can learn.
        """
        rows, inner = basis.shape[:2]
        kernel = self.weight.view(self.shape)
        if self.transposed:
            kernel[rows:] = 0
        else:
            kernel[:, inner:] = 0
        at = self.shape[-1] // 2
        block = kernel[:rows, :inner]
        block.zero_()
        block[:, :, at : at + self.stride, at : at + self.stride] = basis


class SlimNetwork(nn.Module):
    """Three convolutions and three GDN layers, and their slices by the names that the exported graphs have."""

    convolutions: nn.ModuleList
    gdn: nn.ModuleList

    def layers(self) -> list[tuple[SlimConv, SlimGdn]]:
        """Convolution k and GDN layer k, as the graphs number them."""
        return cast(list[tuple[SlimConv, SlimGdn]], list(zip(self.convolutions, self.gdn, strict=True)))

    def inputs(self, which: int) -> dict[str, Tensor]:
        """w, b of the convolutions, g, e, m of the GDN layers (see gdn.normalized) at a width; load() takes them back."""
        found: dict[str, Tensor] = {}
        for k, (convolution, gdn) in enumerate(self.layers()):
            weight, bias = convolution.slices(which)
            found |= {f"w{k}": weight} | ({} if bias is None else {f"b{k}": bias})
            found |= dict(zip((f"g{k}", f"e{k}", f"m{k}"), gdn.parts(which), strict=True))
        return found

    @torch.no_grad()
    def load(self, which: int, values: Mapping[str, Tensor]) -> None:
        """Take back some of what inputs() gave."""
        for k, (convolution, gdn) in enumerate(self.layers()):
            for name, own in zip((f"w{k}", f"b{k}"), convolution.slices(which), strict=True):
                if own is not None and name in values:
                    own.copy_(values[name])
            gdn.load(which, *(values.get(f"{part}{k}") for part in "gem"))


class SlimAnalysis(SlimNetwork):
    """x - 1/2 -> y / gain: 9x9 stride 4, then twice 5x5 stride 2, each followed by GDN."""

    def __init__(self, config: SlimCaeConfig) -> None:
        super().__init__()
        wide, colours = config.widths, (3,) * len(config.widths)
        self.convolutions = nn.ModuleList(
            [SlimConv(colours, wide, 9, 4), SlimConv(wide, wide, 5, 2), SlimConv(wide, wide, 5, 2, bias=False)]
        )
        self.gdn = nn.ModuleList([SlimGdn(wide, config.gdn) for _ in range(3)])
        self.graph = AnalysisGraph()

    def forward(self, x: Tensor, which: int) -> Tensor:
        out: Tensor = self.graph(x, **self.inputs(which))
        return out


class SlimSynthesis(SlimNetwork):
    """y_hat / gain -> x_hat - 1/2: the mirror of the analysis, inverse GDN before each transposed convolution."""

    def __init__(self, config: SlimCaeConfig) -> None:
        super().__init__()
        wide, colours = config.widths, (3,) * len(config.widths)
        self.gdn = nn.ModuleList([SlimGdn(wide, config.gdn, inverse=True) for _ in range(3)])
        self.convolutions = nn.ModuleList(
            [SlimConv(wide, wide, 5, 2, transposed=True), SlimConv(wide, wide, 5, 2, transposed=True),
             SlimConv(wide, colours, 9, 4, transposed=True)]
        )  # fmt: skip
        self.graph = SynthesisGraph()

    def forward(self, y_hat: Tensor, which: int) -> Tensor:
        out: Tensor = self.graph(y_hat, **self.inputs(which))
        return out


class SlimCae(nn.Module):
    """The trainable model; see the module's docstring for shapes. A setting is the number of a width, 0 for the narrowest."""

    gain: Tensor  # (widths,): the latent is rounded in units of 1 / gain; chosen once, by initialize
    lambdas: Tensor  # (widths,): the config's, until lambda scheduling lowers them
    schedule: Tensor  # (3,): where lambda scheduling stands, see reschedule

    def __init__(self, config: SlimCaeConfig) -> None:
        super().__init__()
        if list(config.widths) != sorted(set(config.widths)) or len(config.lambdas) != len(config.widths):
            raise TrainingError(
                f"widths {config.widths} must rise, and there must be as many lambdas as widths: {config.lambdas}"
            )
        if config.start not in ("klt", "random"):
            raise TrainingError(f"start is {config.start!r}, it must be klt or random")
        check_coder(config.coder)
        self.config = config
        self.analysis, self.synthesis = SlimAnalysis(config), SlimSynthesis(config)
        self.priors = nn.ModuleList([FactorizedDensity(width) for width in config.widths])
        self.register_buffer("gain", torch.ones(len(config.widths)))
        self.register_buffer("lambdas", torch.tensor(config.lambdas, dtype=torch.float32))
        self.register_buffer("schedule", torch.tensor([len(config.widths) - 1, -math.inf, 0]))

    def prior(self, which: int) -> FactorizedDensity:
        """The density of a width's latent."""
        return cast(FactorizedDensity, self.priors[which])

    @torch.no_grad()
    def initialize(self, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        """KLT start: block transforms from principal components, nested by width, and the gain of least loss for each width."""
        if self.config.start == "random":
            return
        batches = list(islice(pictures, START_BATCHES))
        features = torch.cat(batches) - 0.5
        for (there, _), (back, _) in zip(self.analysis.layers(), reversed(self.synthesis.layers()), strict=True):
            n_in = [min(count, features.shape[1]) for count in there.n_in]
            basis = nested_components(features, n_in, there.n_out, there.stride)
            there.start(basis)
            back.start(basis)
            features = F.conv2d(features, basis, stride=there.stride)
        for _, gdn in (*self.analysis.layers(), *self.synthesis.layers()):
            gdn.start_as_identity()
        for which, weight in enumerate(self.lambdas.tolist()):
            self._start_gain(batches[0][:START_PICTURES], which, weight, distortion)

    def _start_gain(self, x: Tensor, which: int, weight: float, distortion: Distortion) -> None:
        """The gain of least loss at a width, by the entropy of the symbols of x; and a prior to match."""
        y = self.analysis(x - 0.5, which)
        found = []
        for gain in START_GAINS:
            symbols = torch.round(y * gain)
            bpp = sum(map(entropy_bits, symbols.movedim(1, 0))) / x[:, 0].numel()
            x_hat = self.synthesis(symbols / gain, which) + 0.5
            found.append((float(weight * distortion(x, x_hat).mean() + bpp), gain))
        self.gain[which] = min(found)[1]
        self.prior(which).start(y * self.gain[which])

    @property
    def settings(self) -> tuple[float, ...]:
        """All widths."""
        return tuple(map(float, range(len(self.config.widths))))

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """Reconstruction and bits at one width. In training noise for rates, straight-through rounding for the synthesis."""
        which = int(setting)
        gain = self.gain[which]
        y: Tensor = self.analysis(x - 0.5, which).float() * gain
        prior = self.prior(which)
        symbols = round_through(y)
        with torch.autocast(x.device.type, enabled=False):
            bits = prior.bits(uniform_noise(y) if self.training else symbols)
        x_hat = self.synthesis(symbols / gain, which).float() + 0.5
        return Estimate(x_hat, bits.sum((1, 2, 3)), torch.zeros_like(bits[:, 0, 0, 0]), y)

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the widths of lambda distortion + bpp + penalty (equation 3 of the paper, which sums)."""
        total, parts = x.new_zeros(()), dict[str, Tensor]()
        for which, (width, weight) in enumerate(zip(self.config.widths, self.lambdas.tolist(), strict=True)):
            out = self.estimate(x, which)
            bpp = out.y_bits / x[0, 0].numel()
            each = weight * distortion(x, out.x_hat) + bpp
            if penalty.terms:
                each = each + penalty(out.latent, x)
            total = total + each.mean() / len(self.config.widths)
            parts |= {f"bpp_{width}": bpp.mean().detach(), f"mse_{width}": mse(x, out.x_hat).mean().detach()}
        return total, parts

    @torch.no_grad()
    def reschedule(self, points: Sequence[tuple[float, float]]) -> bool:
        """The paper's lambda scheduling: one step of it, after some steps of training.

        points: bits per pixel and quality in dB at each width now. From the widest pair of neighbours down, the lambdas of all
        widths below the pair's upper one are lowered by LAMBDA_FACTOR, again and again while the slope of the rate-distortion
        curve between the two falls. False once all pairs are done. `schedule` holds the pair, its last slope, and how often.
        """
        pair, before, times = int(self.schedule[0]), float(self.schedule[1]), int(self.schedule[2])
        while pair > 0:
            (low_bpp, low_quality), (bpp, quality) = points[pair - 1], points[pair]
            slope = (quality - low_quality) / (bpp - low_bpp) if bpp > low_bpp else math.inf
            if times == 0 or (slope <= before and times < LAMBDA_TIMES):
                self.lambdas[:pair] *= LAMBDA_FACTOR
                self.schedule.copy_(torch.tensor([pair, slope, times + 1]))
                return True
            pair, times = pair - 1, 0
        self.schedule.copy_(torch.tensor([0, math.inf, 0]))
        return False

    def multiplications(self, which: int) -> tuple[float, float]:
        """Multiply-accumulates a pixel of analysis and of synthesis at a width, GDN included."""
        width = self.config.widths[which]
        convolutions = 243 * width / 16 + 25 * width**2 / 64 + 25 * width**2 / 256
        normalizations = width**2 * (1 / 16 + 1 / 64 + 1 / 256)
        return convolutions + normalizations, convolutions + normalizations

    # The coding side (runtime/factorized.py reads what these give)

    crop_multiple = 16
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
        """Weights, most as float16, under `NETWORK.INPUT`, or `NETWORK.INPUT.WIDTH` where they are no slices of the widest; the
        frequencies of each level's symbols where tables code them; and what load_tables needs."""
        found: dict[str, np.ndarray] = {}
        for name, network in (("analysis", self.analysis), ("synthesis", self.synthesis)):
            for which, width in enumerate(self.config.widths):
                for part, value in network.inputs(which).items():
                    own = part[0] == "m" or (part[0] in "ge" and self.config.gdn == "switchable")
                    if own or width == self.config.widths[-1]:
                        kept = value if part[0] == "m" else value.half()  # 4 numbers, some of them beside 1: not worth halving
                        found[f"{name}.{part}.{width}" if own else f"{name}.{part}"] = kept.numpy().copy()
        for k, (width, gain) in enumerate(self.levels() if self.config.coder == "tables" else ()):
            found[f"limits_{k}"], found[f"frequencies_{k}"] = self.prior(self.config.widths.index(width)).tables(gain)
        return found | {"gain": self.gain.numpy().copy(), "lambdas": self.lambdas.numpy().copy()}

    @torch.no_grad()
    def levels(self) -> list[tuple[int, float]]:
        """Width and gain relative to the width's own, of each level of quality: expected rates rise in equal ratios.

        The expected rate is the entropy of the tables, so it rises by construction. A level is coded at the narrowest width
        that was trained for its rate or a higher one, where quantizer steps are the least coarser than the trained ones.
        """
        widths = self.config.widths
        rates = [np.log([self.prior(which).entropy(gain) for gain in LEVEL_GAINS]) for which in range(len(widths))]
        grid = np.log(LEVEL_GAINS)
        own = [float(np.interp(0, grid, rate)) for rate in rates]
        ends = float(np.interp(math.log(COARSEST_GAIN), grid, rates[0])), float(np.interp(math.log(FINEST_GAIN), grid, rates[-1]))
        found = []
        for target in np.linspace(*ends, self.config.levels):
            which = next((k for k, rate in enumerate(own) if rate >= target - 1e-9), len(widths) - 1)
            gain = math.exp(float(np.interp(target, rates[which], grid)))
            found.append((widths[which], gain))
        return found

    def coding(self) -> dict[str, Any]:
        """Numbers of the coding pipeline. The receptive fields reach 28 pixels, and 1.75 latent positions."""
        sliced = {"analysis": AnalysisGraph.sliced_axes, "synthesis": SynthesisGraph.sliced_axes}
        own = dict(zip(self.config.widths, self.gain.tolist(), strict=True))
        axes = {name: {part: list(where) for part, where in parts.items()} for name, parts in sliced.items()}
        return {
            "kind": "factorized",
            "stride": 16,
            "halo": 3,
            "coder": self.config.coder,
            "levels": [[width, round(gain * own[width], 6)] for width, gain in self.levels()],
            "inputs": axes,
        }

    @torch.no_grad()
    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of tables(), but for the priors, which begin anew: frequencies do not give them back."""
        self.gain.copy_(tables["gain"])
        self.lambdas.copy_(tables["lambdas"])
        widest = len(self.config.widths) - 1
        for name, network in (("analysis", self.analysis), ("synthesis", self.synthesis)):
            for which, width in enumerate(self.config.widths):
                given = {part: tables.get(f"{name}.{part}.{width}") for part in network.inputs(which)}
                if which == widest:
                    given = {part: tables.get(f"{name}.{part}") if own is None else own for part, own in given.items()}
                network.load(which, {part: value for part, value in given.items() if value is not None})


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
        x = normalized(F.conv2d(PIXEL_GAIN * x, w0, b0, 4, 4), g0, e0, m0, inverse=False)
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
        return F.conv_transpose2d(normalized(x, g2, e2, m2, inverse=True), w2, b2, 4, 4, output_padding=3) / PIXEL_GAIN

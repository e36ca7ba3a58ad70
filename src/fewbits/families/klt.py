# SPDX-License-Identifier: MIT
"""The Karhunen-Loeve transform of picture blocks, really coded: the baseline that every learned transform must beat.

The principal components of BxBx3 blocks are a convolution of stride B and its transpose. Nothing is trained: `initialize`
finds components and the distribution of each coefficient on the data. The quantizer's step is the rate knob.

Shapes: x (b, 3, h, w) in 0..1 with h, w multiples of B; y (b, components, h/B, w/B).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.errors import TrainingError
from fewbits.families.blocks import YCBCR
from fewbits.families.components import components
from fewbits.families.few import Estimate
from fewbits.families.likelihood import MIN_PROBABILITY, check_coder, signed_frequencies
from fewbits.families.losses import Distortion, Penalty, mse
from fewbits.families.settings import Settings, setting

N_QUANTILES = 2049
MOST_BATCHES = 16  # of 16 crops of 256x256 each, as training gives them: enough for both, and little memory
_MOST = 1024  # no coefficient of the widest block reaches so far at a step of 4


@dataclass(frozen=True)
class KltConfig(Settings):
    """The transform, and its levels of quality."""

    block: int = setting(8, "side of a block in pixels, 8 or 16")
    colour: str = setting("rgb", "rgb: components over all three planes together; ycbcr: of each plane by itself")
    coarsest: float = setting(320.0, "quantizer step at quality 0, in units of 0-255", above=0)
    finest: float = setting(5.0, "quantizer step at quality 100", above=0)
    levels: int = setting(31, "steps of quality, from the coarsest to the finest in equal ratios", least=2)
    coder: str = setting("adaptive", "adaptive (fewer bytes), or tables: a frozen one for each component")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.finest < self.coarsest:
            raise TrainingError(f"finest is {self.finest}, it must be below coarsest, {self.coarsest}")


class Klt(nn.Module):
    """The fitted transform; see the module's docstring for shapes. A setting is a level, 0 the coarsest."""

    forward_kernel: Tensor  # (components, 3, block, block)
    inverse_kernel: Tensor  # likewise, for the transposed convolution
    quantiles: Tensor  # (components, N_QUANTILES), of y, rising

    def __init__(self, config: KltConfig) -> None:
        super().__init__()
        if config.block not in (8, 16) or config.colour not in ("rgb", "ycbcr"):
            settings = f"block {config.block} and colour {config.colour!r}"
            raise TrainingError(f"{settings}: block must be 8 or 16, colour rgb or ycbcr")
        check_coder(config.coder)
        self.config = config
        count = 3 * config.block**2
        identity = torch.eye(count).view(count, 3, config.block, config.block)
        self.register_buffer("forward_kernel", identity)
        self.register_buffer("inverse_kernel", identity.clone())
        self.register_buffer("quantiles", torch.linspace(-1, 1, N_QUANTILES).repeat(count, 1))

    @torch.no_grad()
    def initialize(self, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        """Components and distributions from pictures (b, 3, h, w), in 0..1, h and w multiples of the block."""
        block, count = self.config.block, 3 * self.config.block**2
        patches = []
        for batch in islice(pictures, MOST_BATCHES):
            patches.append(F.unfold(batch - 0.5, block, stride=block).movedim(1, -1).reshape(-1, count).cpu())
        samples = torch.cat(patches).double()
        colour = torch.tensor(YCBCR if self.config.colour == "ycbcr" else np.eye(3)).double()
        planes = torch.einsum("ij,njp->nip", colour, samples.view(-1, 3, block**2))
        if self.config.colour == "rgb":
            basis = components(planes.flatten(1))
        else:
            basis = torch.block_diag(*[components(plane) for plane in planes.unbind(1)])  # type: ignore[no-untyped-call]
        y = planes.flatten(1) @ basis.T
        order = y.square().mean(0).argsort(descending=True)
        basis, y = basis[order], y[:, order]
        kernels = basis.view(count, 3, block**2)
        shape = (count, 3, block, block)
        self.forward_kernel.copy_(torch.einsum("cip,ij->cjp", kernels, colour).reshape(shape))
        self.inverse_kernel.copy_(torch.einsum("cip,ji->cjp", kernels, torch.linalg.inv(colour)).reshape(shape))
        places = torch.linspace(0, len(y) - 1, N_QUANTILES, dtype=torch.float64).round().long()
        self.quantiles.copy_(y.sort(0).values[places].T)

    def gains(self) -> list[float]:
        """Of each level, coarse to fine: 255 over the step."""
        config = self.config
        ratio = (config.finest / config.coarsest) ** (1 / (config.levels - 1))
        return [255 / (config.coarsest * ratio**k) for k in range(config.levels)]

    def masses(self, gain: float, most: int = _MOST) -> np.ndarray:
        """Probabilities (components, 2 most + 1) of the symbols -most..most: the empirical distribution, between its
        quantiles linear, and beyond them falling to nothing over a quarter of its deviation."""
        edges = (np.arange(-most, most + 2) - 0.5) / gain
        rows = []
        for quantiles in self.quantiles.double().cpu().numpy():
            reach = 0.25 * max(quantiles.std(), 1e-4)
            places = np.concatenate([[quantiles[0] - reach], quantiles, [quantiles[-1] + reach]])
            places = np.maximum.accumulate(places + 1e-9 * np.arange(len(places)))  # equal quantiles: a step
            levels = np.concatenate([[0], (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES, [1]])
            rows.append(np.diff(np.interp(edges, places, levels)))
        return np.stack(rows)

    @property
    def settings(self) -> tuple[float, ...]:
        """Five levels, ends included."""
        return tuple(float(round(k * (self.config.levels - 1) / 4)) for k in range(5))

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """Reconstruction and bits at one level."""
        gain = self.gains()[int(setting)]
        y = F.conv2d(x - 0.5, self.forward_kernel, stride=self.config.block).float()
        symbols = torch.round(y * gain)
        x_hat = F.conv_transpose2d(symbols / gain, self.inverse_kernel, stride=self.config.block) + 0.5
        lengths = torch.from_numpy(-np.log2(np.maximum(self.masses(gain), MIN_PROBABILITY))).to(x)
        places = symbols.clamp(-_MOST, _MOST).long().add(_MOST).movedim(1, 0).flatten(1)
        bits = torch.gather(lengths, 1, places).view(y.shape[1], len(y), -1).sum((0, 2))
        return Estimate(x_hat, bits, torch.zeros_like(bits), y)

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """What a trained family would minimise, at the middle level; there is nothing to train."""
        out = self.estimate(x, self.settings[2])
        bpp = out.y_bits / x[0, 0].numel()
        return (distortion(x, out.x_hat) + bpp).mean(), {"bpp": bpp.mean(), "mse": mse(x, out.x_hat).mean()}

    # The coding side (runtime/factorized.py reads what these give)

    crop_multiple = 1
    frozen_networks: frozenset[str] = frozenset()

    def networks(self) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
        """The transform and its inverse."""
        block, count = self.config.block, len(self.forward_kernel)
        x, y = torch.zeros(1, 3, 4 * block, 6 * block), torch.zeros(1, count, 4, 6)
        return {
            "analysis": (BlockTransform(self.forward_kernel, inverse=False), {"x": x}),
            "synthesis": (BlockTransform(self.inverse_kernel, inverse=True), {"y_hat": y}),
        }

    def tables(self) -> dict[str, np.ndarray]:
        """Frequencies of each level's symbols where tables code them (docs/bundle.md, kind factorized)."""
        found: dict[str, np.ndarray] = {}
        for k, gain in enumerate(self.gains() if self.config.coder == "tables" else ()):
            found[f"limits_{k}"], found[f"frequencies_{k}"] = signed_frequencies(self.masses(gain))
        return found

    def coding(self) -> dict[str, Any]:
        """Numbers of the coding pipeline; blocks need no halo."""
        count = len(self.forward_kernel)
        levels = [[count, round(gain, 6)] for gain in self.gains()]
        return {
            "kind": "factorized",
            "stride": self.config.block,
            "halo": 0,
            "coder": self.config.coder,
            "levels": levels,
            "inputs": {},
        }

    @torch.no_grad()
    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The transform comes back; the distributions do not, frequencies are too coarse for them."""
        self.forward_kernel.copy_(arrays["analysis"]["kernel"].float().view_as(self.forward_kernel))
        self.inverse_kernel.copy_(arrays["synthesis"]["kernel"].float().view_as(self.inverse_kernel))


class BlockTransform(nn.Module):
    """The transform or its inverse as it is exported."""

    def __init__(self, kernel: Tensor, *, inverse: bool) -> None:
        super().__init__()
        self.kernel, self.inverse = nn.Parameter(kernel.clone()), inverse

    def forward(self, x: Tensor | None = None, y_hat: Tensor | None = None) -> Tensor:
        stride = self.kernel.shape[-1]
        if self.inverse:
            assert y_hat is not None
            return F.conv_transpose2d(y_hat, self.kernel, stride=stride)
        assert x is not None
        return F.conv2d(x, self.kernel, stride=stride)

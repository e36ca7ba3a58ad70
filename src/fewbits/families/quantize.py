# SPDX-License-Identifier: MIT
"""Quantizers with a gradient, and the integer layers of networks that choose entropy tables."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.families.batch_part import own_uniform_like


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest integer; the gradient passes as if nothing had happened (straight-through)."""
    return x + (torch.round(x) - x).detach()


def round_through_zone(x: Tensor, zone: Tensor) -> Tensor:
    """Round, but towards 0 where the fraction is under 1/2 + zone (like x, at least 0); straight-through."""
    with torch.no_grad():
        rounded = torch.trunc(x + torch.copysign(0.5 - zone, x))
    return x + (rounded - x).detach()


def floor_through(x: Tensor) -> Tensor:
    """Round down; the gradient passes as if nothing had happened."""
    return x + (torch.floor(x) - x).detach()


def uniform_noise(x: Tensor) -> Tensor:
    """x + U(-1/2, 1/2): the training stand-in for rounding (Balle et al., ICLR 2017, section 3)."""
    return x + own_uniform_like(x) - 0.5


WEIGHT_LIMIT = 127  # signed 8-bit weights, symmetric
ACTIVATION_LIMIT = 255  # unsigned 8-bit activations
EXACT_LIMIT = 1 << 24  # float32 holds every integer below this


class IntegerConv(nn.Module):
    """Convolution with integer weights and bias on integer inputs, then a division by a power of two.

    Output: floor((conv(x, W) + b) / 2**shift), an integer; W is in -127..127. `integers()` gives W and b;
    training keeps float copies and rounds them with a straight-through gradient. Inputs are integers of magnitude
    at most `input_limit`. While taps * 127 * input_limit stays under 2**23 (checked here; biases take less than as much
    again) every partial sum is exact in float32 in any order, so the output is the same on every machine. Weights are in
    units of 2**-weight_bits.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int, *, groups: int = 1, input_limit: int, input_bits: int, output_bits: int
    ) -> None:
        super().__init__()
        taps = n_in // groups * kernel * kernel
        if taps * WEIGHT_LIMIT * input_limit >= EXACT_LIMIT // 2:  # the other half is for the bias
            raise ValueError(f"{taps} taps of inputs up to {input_limit} could leave the exact range of float32")
        deviation = math.sqrt(2.0 / taps)
        self.weight_bits = int(math.floor(math.log2(WEIGHT_LIMIT / (6 * deviation))))
        self.shift = input_bits + self.weight_bits - output_bits
        self.padding, self.groups, self.input_limit = kernel // 2, groups, input_limit
        self.weight = nn.Parameter(torch.randn(n_out, n_in // groups, kernel, kernel) * deviation)
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.bias_bits = input_bits + self.weight_bits

    def integers(self) -> tuple[Tensor, Tensor]:
        """Integer-valued float tensors W (out, in, kh, kw) and b (out)."""
        weight = round_through(self.weight * 2**self.weight_bits).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        return weight, integer_bias(self.bias, self.bias_bits)

    @torch.no_grad()
    def load_integers(self, weight: Tensor, bias: Tensor) -> None:
        """Inverse of integers()."""
        self.weight.copy_(weight.reshape(self.weight.shape) * 2.0**-self.weight_bits)
        self.bias.copy_(bias.reshape(self.bias.shape) * 2.0**-self.bias_bits)

    def forward(self, x: Tensor, extra_bias: Tensor | None = None) -> Tensor:
        """x: integer-valued (b, in, h, w); extra_bias: integer-valued (b or 1, out, 1, 1). Integer-valued result."""
        weight, bias = self.integers()
        total = F.conv2d(x, weight, bias, padding=self.padding, groups=self.groups)
        if extra_bias is not None:
            total = total + extra_bias
        return floor_through(total * 2.0**-self.shift)


class FrozenIntegerConv(nn.Module):
    """An IntegerConv whose integers are final: the form that is exported. Weights and bias are integer-valued float32."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: IntegerConv) -> None:
        super().__init__()
        weight, bias = source.integers()
        room = source.input_limit * weight.abs().sum((1, 2, 3)) + bias.abs() + EXACT_LIMIT // 8
        assert room.max() < EXACT_LIMIT, "IntegerConv let weights leave the exact range"
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", bias.detach())
        self.shift, self.padding, self.groups = source.shift, source.padding, source.groups

    def forward(self, x: Tensor, extra_bias: Tensor | None = None) -> Tensor:
        total = F.conv2d(x, self.weight, self.bias, padding=self.padding, groups=self.groups)
        if extra_bias is not None:
            total = total + extra_bias
        return torch.floor(total * 2.0**-self.shift)


def freeze_integers(network: nn.Module) -> nn.Module:
    """A copy of `network` whose IntegerConv layers are FrozenIntegerConv."""
    frozen = copy.deepcopy(network)
    for name, part in list(frozen.named_modules()):
        if isinstance(part, IntegerConv):
            frozen.set_submodule(name, FrozenIntegerConv(part))
    return frozen


def integer_bias(bias: Tensor, bits: int) -> Tensor:
    """Real bias -> integer-valued, in units of 2**-bits, held far inside the exact range of float32."""
    return round_through(bias * 2**bits).clamp(-EXACT_LIMIT // 8, EXACT_LIMIT // 8)


def integer_relu(x: Tensor) -> Tensor:
    """Clip to the unsigned 8-bit range of an integer activation."""
    return x.clamp(0, ACTIVATION_LIMIT)

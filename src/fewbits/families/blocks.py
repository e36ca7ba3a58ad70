# SPDX-License-Identifier: MIT
"""Network parts that several families share. Tensors are (batch, channels, height, width)."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.families.batch_part import is_whole, whole_count, whole_mean

YCBCR: Final = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # ITU-R BT.601, full range


class Pointwise(nn.Module):
    """1x1 convolution whose weight is stored as a matrix (out, in), as matrix optimizers want it.

    With patch=2 it reads 2x2 patches instead of single positions and halves the size: the same as a 1x1 convolution
    after pixel_unshuffle(2), weight (out, 4 in), but without the unshuffle, which runtimes do slowly.
    """

    matrix_weight = True  # see training.loop.make_optimizers

    def __init__(self, n_in: int, n_out: int, *, patch: int = 1, bias: bool = True, zero: bool = False) -> None:
        super().__init__()
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(n_out, n_in * patch**2))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        if zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.view(len(self.weight), -1, self.patch, self.patch)
        return F.conv2d(x, kernel, self.bias, stride=self.patch)


class MatrixConv(nn.Module):
    """3x3 convolution of stride 1 or 2, or the transpose of a 4x4 one of stride 2 (up=True); zero padded by 1.

    The weight is stored as a matrix, as matrix optimizers want it: (out, 9 in), or (in, 16 out).
    """

    matrix_weight = True

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.stride, self.up = stride, up
        self.shape = (n_in, n_out, 4, 4) if up else (n_out, n_in, 3, 3)
        self.weight = nn.Parameter(torch.empty(self.shape[0], self.shape[1] * self.shape[2] ** 2))
        self.bias = nn.Parameter(torch.zeros(n_out))
        taps = n_in * (4 if up else 9)  # that reach an output
        nn.init.normal_(self.weight, std=taps**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.view(self.shape)
        if self.up:
            return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)
        return F.conv2d(x, kernel, self.bias, stride=self.stride, padding=1)

    @torch.no_grad()
    def start(self, block: Tensor) -> None:
        """Become a linear map on the leading channels: `block` (out, in, 1, 1) at each place, or (out, in, 2, 2) of each 2x2
        block, or, with up, its transpose. Channels beyond it keep their random weights and are read with weights of 0."""
        rows, inner, size = block.shape[:3]
        kernel = self.weight.view(self.shape)
        if self.up:
            kernel[rows:] = 0
        else:
            kernel[:, inner:] = 0
        kernel[:rows, :inner] = 0
        kernel[:rows, :inner, 1 : 1 + size, 1 : 1 + size] = block


class Depthwise(nn.Conv2d):
    """3x3 convolution of each channel by itself, zero padded."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels, n_channels, 3, padding=1, groups=n_channels)


class DepthwiseBlock(nn.Module):
    """Spatial mixing (1x1, ReLU, depthwise 3x3, 1x1), then channel mixing (1x1 up, ReLU, 1x1 down), both residual.

    After the blocks of DCVC-RT (Jia et al., CVPR 2025, section 3.2), with ReLU so that int8 runtimes fuse it.
    It starts as the identity: the last layer of either branch is zero. 2 (mix + wide) C + 9 mix multiplications a position, of
    `mix` hidden units in the one and `wide` in the other, C and 2 C where nothing is said; 0 wide: there is no second branch.
    """

    starts_as_identity = True  # so a trained model may grow by it, see training.loop.grown

    def __init__(self, n_channels: int, mix: int | None = None, wide: int | None = None) -> None:
        super().__init__()
        mix, wide = n_channels if mix is None else mix, 2 * n_channels if wide is None else wide
        self.mix_in = Pointwise(n_channels, mix)
        self.spatial = Depthwise(mix)
        self.mix_out = Pointwise(mix, n_channels, zero=True)
        self.lean = not wide
        if wide:
            self.expand = Pointwise(n_channels, wide)
            self.reduce = Pointwise(wide, n_channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix_out(self.spatial(F.relu(self.mix_in(x))))
        return x if self.lean else x + self.reduce(F.relu(self.expand(x)))


class Blocked(nn.Module):
    """The identity; an exported network has a max pooling of 1x1 in its place.

    For a tensor that blocks begin with and that no convolution made: pooling gives it the layout in blocks of channels (NCHWc)
    that ONNX Runtime's convolutions use, so that the sums after it need no other one and become part of convolutions.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 1) if torch.compiler.is_exporting() else x


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that is a product and a sum once it is trained.

    The exporter folds the usual one into the convolution before it: then no weight is a float16 any more, and nothing can be
    read back. A runtime folds these when it loads them.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x) if is_whole() else self._normalized_by_whole_batch(x)
        slope = self.weight * torch.rsqrt(self.get_buffer("running_var") + self.eps)
        return x * slope[:, None, None] + (self.bias - self.get_buffer("running_mean") * slope)[:, None, None]

    def _normalized_by_whole_batch(self, x: Tensor) -> Tensor:
        """What nn.BatchNorm2d does in training, by the moments of all processes' pictures (nn.SyncBatchNorm knows CUDA only)."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float()
            mean = whole_mean(wide.mean((0, 2, 3)))
            centred = wide - mean[:, None, None]
            variance = whole_mean(centred.square().mean((0, 2, 3)))
            n, share = whole_count(wide[:, 0].numel()), self.momentum or 0.0
            with torch.no_grad():
                self.get_buffer("num_batches_tracked").add_(1)
                self.get_buffer("running_mean").lerp_(mean, share)
                self.get_buffer("running_var").lerp_(variance * n / (n - 1), share)
            slope = self.weight * torch.rsqrt(variance + self.eps)
            return (centred * slope[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class SpaceToDepth(nn.Module):
    """(c, h, w) -> (c * factor**2, h / factor, w / factor)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.factor).contiguous(memory_format=torch.channels_last)


class DepthToSpace(nn.Module):
    """(c * factor**2, h, w) -> (c, h * factor, w * factor)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.factor).contiguous(memory_format=torch.channels_last)

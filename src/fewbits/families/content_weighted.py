# SPDX-License-Identifier: MIT
"""The family `content-weighted`, a residual autoencoder with an importance map (after Li et al., CVPR 2018), and its baselines.

`resnet-ae` is the same autoencoder without map and quantizer, `cae3` three convolutions with batch norm and max-pooling.
What their latents become is in masked.py. Defaults are the source's; --set colours=3 channels=24 makes models for photographs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.families.blocks import BatchNorm, MatrixConv
from fewbits.families.components import nested_components
from fewbits.families.masked import Parts
from fewbits.families.settings import Settings, setting

COLOURS = "1: each of R, G and B by itself, and grey pictures cost a third; 3: together"
CHANNELS = "of the latent, at 1/8 of the picture's size, 6 bits a value"
WIDTH = "channels of the hidden layers"
QUANTIZER = "whose slope training takes: straight (through), soft (assignment to the levels), none (not quantized in training)"
CODER = "huffman, with code tables in the file, or adaptive: the binary arithmetic coder"
SPREAD = 0.7  # deviation of the largest component before the sigmoid
TRAINING = {"crop": 128, "batch": 16, "lr": 1e-2, "matrix_lr": 1e-2}


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions of as many channels and a shortcut; it starts as the identity."""

    starts_as_identity = True

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(MatrixConv(n_channels, n_channels) for _ in range(3))
        last = self.convolutions[-1]
        assert isinstance(last, MatrixConv)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for convolution in self.convolutions:
            out = convolution(F.relu(out))
        return x + out


def resnet_trunk(colours: int, width: int) -> nn.Module:
    """Planes -> features (b, width, h/4, w/4)."""
    down = [MatrixConv(colours, width, stride=2), nn.ReLU(), MatrixConv(width, width, stride=2)]
    return nn.Sequential(*down, ResidualBlock(width), ResidualBlock(width), nn.ReLU())


def resnet_decoder(channels: int, width: int, colours: int) -> nn.Module:
    """The inverse, with transposed convolutions."""
    blocks = [MatrixConv(channels, width, up=True), ResidualBlock(width), ResidualBlock(width), nn.ReLU()]
    return nn.Sequential(*blocks, MatrixConv(width, width, up=True), nn.ReLU(), MatrixConv(width, colours, up=True))


@torch.no_grad()
def klt_start(parts: Parts, planes: Tensor) -> None:
    """Make a residual autoencoder one of 8x8 principal components of planes (b, colours, h, w) about 0.

    Biases lift what passes a ReLU above 0; in the decoder a last channel of ones takes that away again, which a bias could not do
    for each place of a block. The sigmoid is taken for a line, SPREAD deviations of a component wide.
    """
    down = [part for part in parts.trunk.modules() if isinstance(part, MatrixConv) and part.stride == 2]
    up = [part for part in parts.decoder.modules() if isinstance(part, MatrixConv) and part.up]
    features, bases, lifts = planes, list[Tensor](), list[Tensor]()
    for layer in down:
        bases.append(nested_components(features, [features.shape[1]], [layer.shape[0] - 1], 2))
        layer.start(bases[-1])
        carried = F.conv2d(features, bases[-1], stride=2)
        lifts.append(-carried.amin((0, 2, 3)))
        layer.bias[: len(lifts[-1])] = lifts[-1]
        features = carried + lifts[-1][:, None, None]
    encoder = parts.encoder
    assert isinstance(encoder, MatrixConv)
    basis = nested_components(features, [features.shape[1]], [encoder.shape[0]], 2)
    values = F.conv2d(features, basis, stride=2)
    deviation = values.std((0, 2, 3)).clamp(min=1e-6)
    scale = SPREAD / (deviation * deviation.max()).sqrt()  # finer for small ones than an orthonormal transform would have them
    encoder.start(basis * scale[:, None, None, None])
    encoder.bias[: len(scale)] = -values.mean((0, 2, 3)) * scale
    bases.append(basis * 4 / scale[:, None, None, None])  # a quarter is the sigmoid's slope
    up[0].bias[: features.shape[1]] = features.mean((0, 2, 3))  # components are about their means
    for layer, block, lift in zip(up, bases[::-1], [None, *lifts[::-1]], strict=True):
        layer.start(block)
        kernel = layer.weight.view(layer.shape)
        if lift is not None:
            kernel[-1, : block.shape[1], 1:3, 1:3] = -torch.einsum("i,iojk->ojk", lift, block)
            layer.bias.zero_()
        if layer is not up[-1]:
            kernel[:, -1], layer.bias[-1] = 0, 1


def importance_network(width: int) -> nn.Module:
    """Features (b, width, h/4, w/4) -> one value a latent position: a residual group."""
    return nn.Sequential(MatrixConv(width, width // 2, stride=2), ResidualBlock(width // 2), nn.ReLU(), MatrixConv(width // 2, 1))


def resnet_parts(colours: int, channels: int, width: int, importance: nn.Module | None) -> Parts:
    trunk, decoder = resnet_trunk(colours, width), resnet_decoder(channels, width, colours)
    return Parts(trunk, MatrixConv(width, channels, stride=2), importance, decoder)


@dataclass(frozen=True)
class ContentWeightedConfig(Settings):
    """A residual autoencoder, whose importance map says how many bits of each latent value are kept."""

    training: ClassVar = TRAINING

    colours: int = setting(1, COLOURS)
    channels: int = setting(4, CHANNELS, least=1)
    width: int = setting(32, WIDTH, least=2)
    quantizer: str = setting("straight", QUANTIZER)
    coder: str = setting("huffman", CODER)
    distortion_weight: float = setting(0.01, "of the distortion against the bits that are kept, a pixel", above=0)

    def parts(self) -> Parts:
        return resnet_parts(self.colours, self.channels, self.width, importance_network(self.width))

    def start(self, parts: Parts, planes: Tensor) -> None:
        klt_start(parts, planes)


@dataclass(frozen=True)
class ResnetAeConfig(Settings):
    """The same without the map: trained for the distortion alone, as in the source; the quality says how many bits are kept."""

    training: ClassVar = TRAINING

    colours: int = setting(1, COLOURS)
    channels: int = setting(4, CHANNELS, least=1)
    width: int = setting(32, WIDTH, least=2)
    quantizer: str = setting("none", QUANTIZER)
    coder: str = setting("huffman", CODER)

    def parts(self) -> Parts:
        return resnet_parts(self.colours, self.channels, self.width, None)

    def start(self, parts: Parts, planes: Tensor) -> None:
        klt_start(parts, planes)


@dataclass(frozen=True)
class Cae3Config(Settings):
    """Three convolutions, two of them followed by max-pooling, and a symmetric decoder; otherwise as resnet-ae."""

    training: ClassVar = TRAINING

    colours: int = setting(1, COLOURS)
    channels: int = setting(4, CHANNELS, least=1)
    width: int = setting(32, WIDTH, least=1)
    quantizer: str = setting("none", QUANTIZER)
    coder: str = setting("huffman", CODER)

    def parts(self) -> Parts:
        width = self.width
        trunk = nn.Sequential(
            MatrixConv(self.colours, width, stride=2), BatchNorm(width), nn.ReLU(), nn.MaxPool2d(2),
            MatrixConv(width, 2 * width), BatchNorm(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        decoder = nn.Sequential(
            MatrixConv(self.channels, 2 * width), BatchNorm(2 * width), nn.ReLU(), nn.Upsample(scale_factor=2),
            MatrixConv(2 * width, width), BatchNorm(width), nn.ReLU(), nn.Upsample(scale_factor=2),
            last := MatrixConv(width, self.colours, up=True),
        )  # fmt: skip
        with torch.no_grad():
            last.weight.mul_(0.3)  # what batch norm gives it is large: nearer to grey it has less noise to unlearn
        return Parts(trunk, MatrixConv(2 * width, self.channels), None, decoder)

    def start(self, parts: Parts, planes: Tensor) -> None:
        """Random weights, as they are: max-pooling and batch norm carry no linear transform."""

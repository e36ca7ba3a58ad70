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

from fewbits.families.blocks import MatrixConv
from fewbits.families.masked import Parts
from fewbits.families.settings import setting

COLOURS = "1: each of R, G and B by itself, and grey pictures cost a third; 3: together"
CHANNELS = "of the latent, at 1/8 of the picture's size, 6 bits a value"
WIDTH = "channels of the hidden layers"
QUANTIZER = "whose slope training takes: straight (through), soft (assignment to the levels), none (not quantized in training)"
CODER = "huffman, with code tables in the file, or adaptive: the binary arithmetic coder"
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


def importance_network(width: int) -> nn.Module:
    """Features (b, width, h/4, w/4) -> one value a latent position: a residual group."""
    return nn.Sequential(MatrixConv(width, width // 2, stride=2), ResidualBlock(width // 2), nn.ReLU(), MatrixConv(width // 2, 1))


@dataclass(frozen=True)
class ContentWeightedConfig:
    """A residual autoencoder, whose importance map says how many bits of each latent value are kept."""

    training: ClassVar = TRAINING

    colours: int = setting(1, COLOURS)
    channels: int = setting(4, CHANNELS)
    width: int = setting(32, WIDTH)
    quantizer: str = setting("straight", QUANTIZER)
    coder: str = setting("huffman", CODER)
    distortion_weight: float = setting(0.01, "of the distortion against the bits that are kept, a pixel")

    def parts(self) -> Parts:
        trunk, decoder = resnet_trunk(self.colours, self.width), resnet_decoder(self.channels, self.width, self.colours)
        return Parts(trunk, MatrixConv(self.width, self.channels, stride=2), importance_network(self.width), decoder)


@dataclass(frozen=True)
class ResnetAeConfig:
    """The same without the map: trained for the distortion alone, as in the source; the quality says how many bits are kept."""

    training: ClassVar = TRAINING

    colours: int = setting(1, COLOURS)
    channels: int = setting(4, CHANNELS)
    width: int = setting(32, WIDTH)
    quantizer: str = setting("none", QUANTIZER)
    coder: str = setting("huffman", CODER)

    def parts(self) -> Parts:
        trunk, decoder = resnet_trunk(self.colours, self.width), resnet_decoder(self.channels, self.width, self.colours)
        return Parts(trunk, MatrixConv(self.width, self.channels, stride=2), None, decoder)


@dataclass(frozen=True)
class Cae3Config:
    """Three convolutions, two of them followed by max-pooling, and a symmetric decoder; otherwise as resnet-ae."""

    training: ClassVar = TRAINING

    colours: int = setting(1, COLOURS)
    channels: int = setting(4, CHANNELS)
    width: int = setting(32, WIDTH)
    quantizer: str = setting("none", QUANTIZER)
    coder: str = setting("huffman", CODER)

    def parts(self) -> Parts:
        width = self.width
        trunk = nn.Sequential(
            MatrixConv(self.colours, width, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            MatrixConv(width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        decoder = nn.Sequential(
            MatrixConv(self.channels, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Upsample(scale_factor=2),
            MatrixConv(2 * width, width), nn.BatchNorm2d(width), nn.ReLU(), nn.Upsample(scale_factor=2),
            last := MatrixConv(width, self.colours, up=True),
        )  # fmt: skip
        with torch.no_grad():
            last.weight.mul_(0.3)  # what batch norm gives it is large: nearer to grey it has less noise to unlearn
        return Parts(trunk, MatrixConv(2 * width, self.channels), None, decoder)

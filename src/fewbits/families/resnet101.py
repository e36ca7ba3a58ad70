# SPDX-License-Identifier: MIT
"""A ResNet as an autoencoder, quantized at its bottleneck (He, Zhang, Ren, Sun, CVPR 2016, up to its average pooling), with a
mirrored decoder, trained for squared error and VGG-19's features; and the files that its source never wrote.

The encoder's parameters have torchvision's names, so that its ImageNet weights load as they are. The latent is clamped to 0..1
and rounded to 2^q - 1 steps, q bits, the knob of the rate; training hears the noise of one q only and knows nothing of rates.

`--loss mse=1.5379e-5,vgg=0.1` is the source's MSE + 0.1 VGG: its squared error is of values in 0..1, ours in squared steps
of 0-255, 255^2 = 1 / 1.5379e-5 times as large. Without VGG-19's weights, `--loss mse` alone or `--vgg random` trains.

Shapes: x (b, 3, h, w) in 0..1 with h, w multiples of 32 pool; y (b, channels, h / (32 pool), w / (32 pool)) in 0..1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.errors import ModelError, TrainingError
from fewbits.families.batch_part import own_uniform_like
from fewbits.families.blocks import BatchNorm
from fewbits.families.few import Estimate
from fewbits.families.likelihood import entropy_bits
from fewbits.families.losses import IMAGENET_DEVIATION, IMAGENET_MEAN, Distortion, Penalty, mse, read_state
from fewbits.families.quantize import uniform_noise
from fewbits.families.settings import Settings, setting
from fewbits.pretrained import find_weights, hub_checkpoints

RESNET_STRIDE = 32  # before the pooling
MAX_BITS = 8
VALIDATED_BITS = (2.0, 4.0, 6.0, 8.0)
START_BATCHES = 2
INSIDE = 0.999  # of a channel's values in a new model lie in 0..1
WEIGHTS_VARIABLE = "FEWBITS_RESNET"
WEIGHTS_FILES: Final = {  # torchvision's, of two trainings where there are two
    18: ("resnet18-f37072fd.pth",),
    50: ("resnet50-11ad3fa6.pth", "resnet50-0676ba61.pth"),
    101: ("resnet101-cd907fc2.pth", "resnet101-63fe2227.pth"),
}


@dataclass(frozen=True)
class Resnet101Config(Settings):
    """The networks, the weights that the encoder starts from, and what stands for the quantizer in training."""

    depth: int = setting(101, "layers of the ResNet: 18, 50 or 101")
    width: int = setting(64, "channels of its first convolution, all others in proportion; 64 as torchvision's", least=1)
    pool: int = setting(2, "window of the average pooling, 1 or 2: the latent is at 1/32 or 1/64", least=1, most=2)
    bits: int = setting(
        8, "of the quantizer whose noise training hears, 1 to 8; files can have any of them", least=1, most=MAX_BITS
    )
    noise: str = setting("centred", "centred: uniform, a whole step wide, as rounding's; source: half as wide, and never above 0")
    weights: str = setting(
        "", "the encoder's at first: hub (torchvision's, ImageNet, from torch's hub cache), a file of them, or none: random"
    )

    training: ClassVar[dict[str, Any]] = {"batch": 8, "crop": 128, "optimizer": "adamw", "keep_epochs": 5}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    expansion = 1  # output channels a unit of width

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm(width)
        self.downsample = projection(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + beside)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions likewise; the stride is the 3x3's, as torchvision has it."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = self.expansion * width
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm(width)
        self.conv3 = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = BatchNorm(n_out)
        self.downsample = projection(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + beside)


def projection(n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
    """What a block's input goes through beside it; None where that is nothing."""
    if (n_in, stride) == (n_out, 1):
        return None
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), BatchNorm(n_out))


RESNETS: Final[dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """torchvision's ResNet up to `layer4`, its parameters under the same names: (b, 3, h, w) in 0..1 -> (b, c, h/32, w/32)."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        block, counts = RESNETS[depth]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = BatchNorm(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.n_out = width
        layers = []
        for k, count in enumerate(counts):
            parts = []
            for place in range(count):
                parts.append(block(self.n_out, width << k, 2 if k and place == 0 else 1))
                self.n_out = block.expansion * (width << k)
            layers.append(nn.Sequential(*parts))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(part, BasicBlock | Bottleneck):  # begins as what is beside it
                nn.init.zeros_((part.bn2 if isinstance(part, BasicBlock) else part.bn3).weight)

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = (x.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        x = self.maxpool(F.relu(self.bn1(self.conv1((x - mean) / deviation))))
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out

    def load(self, state: Mapping[str, Tensor], where: str) -> None:
        """state: of torchvision's ResNet, whose classifier is left out. Raises ModelError that says `where` it is from."""
        try:
            self.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
        except (RuntimeError, AttributeError) as error:
            raise ModelError(f"{where}: these are no weights of this ResNet: {' '.join(str(error).split())[:300]}") from error


class MirrorBlock(nn.Module):
    """Two convolutions with batch norm and leaky ReLU, and a connection round them, which alone carries something at first."""

    def __init__(self, n_in: int, n_out: int, factor: int = 0) -> None:
        """factor: 1 or 2, how many times the size is taken; 0: size and channels are kept."""
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, 1, 1, bias=False)
        self.bn1 = BatchNorm(n_out)
        self.conv2 = doubling(n_out, n_out, bias=False) if factor == 2 else nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm(n_out)
        nn.init.zeros_(self.bn2.weight)
        self.beside = nn.ConvTranspose2d(n_in, n_out, factor, factor) if factor else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(leaky(self.bn1(self.conv1(x)))))
        return leaky(inside + self.beside(x))


class Decoder(nn.Module):
    """The encoder's mirror: y (b, channels, h, w) -> (b, 3, 32 pool h, 32 pool w) in 0..1, float32.

    For the pooling, and for layer4, layer3 and layer2, a block that doubles the size and one that keeps it; then two
    transposed convolutions and a sigmoid. No batch norm lies on the way of the connections: absolute levels get through.
    """

    def __init__(self, channels: int, width: int, pool: int) -> None:
        super().__init__()
        blocks = [MirrorBlock(channels, 8 * width, pool), MirrorBlock(8 * width, 8 * width)]
        for k in (4, 2, 1):
            blocks += [MirrorBlock(2 * k * width, k * width, 2), MirrorBlock(k * width, k * width)]
        self.blocks = nn.Sequential(*blocks)
        self.to_half, self.to_whole = doubling(width, width), doubling(width, 3)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                taps = part.in_channels * part.kernel_size[0] ** 2 // (part.stride[0] ** 2)  # that reach an output
                nn.init.normal_(part.weight, std=(2 / taps) ** 0.5)

    def forward(self, y_hat: Tensor) -> Tensor:
        x = leaky(self.to_half(self.blocks(y_hat)))
        return torch.sigmoid(self.to_whole(x).float())


def doubling(n_in: int, n_out: int, *, bias: bool = True) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(n_in, n_out, 4, 2, 1, bias=bias)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


class Resnet101(nn.Module):
    """The trainable model; see the module's docstring for shapes. A setting is a number of bits."""

    scale: Tensor  # (channels, 1, 1): of the pooled features, so that they fill 0..1

    def __init__(self, config: Resnet101Config) -> None:
        super().__init__()
        if config.depth not in RESNETS or config.noise not in ("centred", "source"):
            named = ", ".join(map(str, RESNETS))
            raise TrainingError(f"depth {config.depth} must be one of {named}, and noise {config.noise!r} centred or source")
        self.config = config
        self.encoder = ResNet(config.depth, config.width)
        self.decoder = Decoder(self.encoder.n_out, config.width, config.pool)
        self.register_buffer("scale", torch.ones(self.encoder.n_out, 1, 1))

    @torch.no_grad()
    def initialize(self, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        """The encoder's weights, where asked for; statistics for all batch norms, the latent's scale, and the mean colour."""
        x = list(islice(pictures, START_BATCHES))
        if self.config.weights:
            load_imagenet(self.encoder, self.config)
        else:
            measure_statistics(self.encoder, x)
        self.eval()
        pooled = torch.cat([self._pooled(part) for part in x]).movedim(1, 0).flatten(1)
        self.scale.copy_(1 / pooled.quantile(INSIDE, 1).clamp(min=1e-3)[:, None, None])
        measure_statistics(self.decoder, [self.analysis(part) for part in x])
        assert self.decoder.to_whole.bias is not None
        self.decoder.to_whole.bias.copy_(torch.logit(torch.cat(x).mean((0, 2, 3)).clamp(0.01, 0.99)))
        self.train()

    def _pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.encoder(x), self.config.pool).float()

    def features(self, x: Tensor) -> Tensor:
        """x -> y before its clamp: at least 0, float32."""
        return self._pooled(x) * self.scale

    def analysis(self, x: Tensor) -> Tensor:
        """x -> y."""
        return self.features(x).clamp(0, 1)

    def synthesis(self, y_hat: Tensor) -> Tensor:
        """y_hat -> x_hat in 0..1, float32."""
        x_hat: Tensor = self.decoder(y_hat)
        return x_hat

    def noisy(self, y: Tensor) -> Tensor:
        """y, not clamped -> what training decodes: noise instead of the quantizer, and the clamp."""
        if self.config.noise == "source":
            return (y + 2**-self.config.bits * (own_uniform_like(y) * 0.5 - 0.5)).clamp(0, 1)
        steps = 2**self.config.bits - 1
        return (uniform_noise(y * steps) / steps).clamp(0, 1)

    settings: tuple[float, ...] = VALIDATED_BITS

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """Reconstruction at so many bits, and the order-0 entropy of each picture's channels in bits."""
        steps = 2**setting - 1
        y = self.analysis(x)
        symbols = torch.round(y * steps)
        bits = [sum(map(entropy_bits, picture)) for picture in symbols]
        return Estimate(self.synthesis(symbols / steps), x.new_tensor(bits), x.new_zeros(len(x)), y)

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """The distortion behind noise on y."""
        y = self.features(x)
        x_hat = self.synthesis(self.noisy(y))
        each = distortion(x, x_hat)
        if penalty.terms:
            each = each + penalty(y, x)
        return each.mean(), {"mse": mse(x, x_hat).mean().detach()}

    # The coding side (runtime/factorized.py reads what these give)

    @property
    def crop_multiple(self) -> int:
        return RESNET_STRIDE * self.config.pool

    frozen_networks: frozenset[str] = frozenset()

    def networks(self) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
        """Both networks, batch norms with the statistics of training."""
        stride = RESNET_STRIDE * self.config.pool
        x, y = torch.zeros(1, 3, 2 * stride, 3 * stride), torch.zeros(1, self.encoder.n_out, 2, 3)
        return {
            "analysis": (AnalysisGraph(self.encoder, self.scale, self.config.pool), {"x": x}),
            "synthesis": (SynthesisGraph(self.decoder), {"y_hat": y}),
        }

    def tables(self) -> dict[str, np.ndarray]:
        """None: the networks hold everything, and the adaptive coder needs none."""
        return {}

    def coding(self) -> dict[str, Any]:
        """Numbers of the coding pipeline: a level for each number of bits."""
        stride = RESNET_STRIDE * self.config.pool
        halo = max(-(-reach_px(self.encoder) // stride), -(-reach_px(self.decoder, stride) // stride))
        levels = [[self.encoder.n_out, 2**bits - 1] for bits in range(1, MAX_BITS + 1)]
        return {"kind": "factorized", "stride": stride, "halo": halo, "coder": "adaptive", "levels": levels, "inputs": {}}

    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Nothing: the networks hold everything."""


class AnalysisGraph(nn.Module):
    """x - 1/2 (1, 3, h, w) -> y. To be exported."""

    def __init__(self, encoder: ResNet, scale: Tensor, pool: int) -> None:
        super().__init__()
        self.encoder, self.pool = encoder, pool
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(self.encoder(x + 0.5), self.pool)
        return (y * self.get_buffer("scale")).clamp(0, 1)


class SynthesisGraph(nn.Module):
    """y_hat (1, channels, h, w) -> x_hat - 1/2. To be exported."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, y_hat: Tensor) -> Tensor:
        return self.decoder(y_hat) - 0.5


def load_imagenet(encoder: ResNet, config: Resnet101Config) -> None:
    """Fill the encoder from the file that the setting `weights` means. Raises ModelError."""
    if config.weights == "hub":
        path = find_weights(WEIGHTS_FILES[config.depth], "weights=hub", WEIGHTS_VARIABLE, [hub_checkpoints()])
    else:
        path = Path(config.weights)
    if not path.exists():
        raise ModelError(f"weights: there is no file {path}; give torchvision's {WEIGHTS_FILES[config.depth][0]}")
    encoder.load(read_state(path), str(path))


def measure_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to the means over these batches."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    for batch in batches:
        network(batch)
    for norm in norms:
        norm.momentum = 0.1


def reach_px(network: nn.Module, start_px: int = 1) -> int:
    """How far beyond its own pixels a value of the output, or of the latent, depends on the other side, in pixels at most.

    start_px: pixels a position of the input.
    """
    total, step = 0.0, float(start_px)
    for name, part in network.named_modules():
        if isinstance(part, nn.ConvTranspose2d) and "beside" not in name:
            total += step
            step /= 2
        elif isinstance(part, nn.Conv2d | nn.MaxPool2d) and "beside" not in name and "downsample" not in name:
            size, stride = (value if isinstance(value, int) else value[0] for value in (part.kernel_size, part.stride))
            total += size // 2 * step
            step *= stride
    return int(total)

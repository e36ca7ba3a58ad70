# SPDX-License-Identifier: MIT
"""A basis for what the blocks at 1/8 of `few`'s synthesis add up, in which steps of 8-bit values add little noise (ADR 24).

Blocks read that sum, and add to it, by products of matrices alone: held in another basis, with the matrices changed to suit it,
synthesis computes the same. A channel's step is as large as its largest value asks for, so that a few places in a few channels
make all of the noise; in a basis that spreads them there is a third of it. Such bases, rotations among them that are learned, are
known from language models (Liu et al., SpinQuant, ICLR 2025, section 3); nothing here needs a rotation.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from fewbits.families.blocks import DepthwiseBlock

if TYPE_CHECKING:
    from fewbits.families.few import Synthesis

LEAST: Final = 1.27e-4  # magnitude
_UPDATES: Final = 400
_RATE: Final = 2e-2  # of Adam, times the deviation of the entries of a rotation
_POWER: Final = 8  # of the mean that stands for the largest magnitude: bases that are chosen by the largest alone suit it alone


class Reader(NamedTuple):
    """A convolution that reads a sum.

    places: (n, channels) of what it reads, those that are far from others. weight: (out, channels). noise: what the steps of
    what it reads add in the end, in the basis that there is.
    """

    places: Tensor
    weight: Tensor
    noise: float


def largest_of(peaks: Sequence[Tensor]) -> Tensor:
    """Of magnitudes (channels,); at least LEAST, so that a channel that is always 0 has a step, too."""
    return torch.stack(list(peaks)).amax(0).clamp(min=LEAST)


def proportional(peaks: Sequence[Tensor]) -> list[Tensor]:
    """Magnitudes (channels,) in the proportions of the largest of them all, none of them smaller than it was."""
    largest = largest_of(peaks)
    return [largest * (peak / largest).amax() for peak in peaks]


@torch.enable_grad()  # type: ignore[untyped-decorator]
def quiet_basis(sums: Sequence[Mapping[str, Reader]]) -> Tensor:
    """A matrix (channels, channels) to multiply sums with, such that all noise together is small: by gradient descent.

    sums: the readers of each; those of one have their steps in the same proportions.
    """
    readers = [reader for own in sums for reader in own.values()]
    size = readers[0].weight.shape[1]

    def power(basis: Tensor) -> list[Tensor]:
        """Of the noise in what each reader gives, but for a factor."""
        inverse, found = torch.linalg.inv(basis), []
        for own in sums:
            peaks = [_large(reader.places @ basis.T) for reader in own.values()]
            for reader, peak in zip(own.values(), proportional(peaks), strict=True):
                found.append((peak.square() * (reader.weight @ inverse).square().sum(0)).sum())
        return found

    basis = torch.eye(size, device=readers[0].weight.device)
    shares = [reader.noise / float(found) for reader, found in zip(readers, power(basis), strict=True)]
    basis.requires_grad_()
    adam = torch.optim.Adam([basis])
    for k in range(_UPDATES):
        adam.param_groups[0]["lr"] = _RATE * size**-0.5 * (1 - k / _UPDATES)
        adam.zero_grad()
        noise = torch.stack([share * found for share, found in zip(shares, power(basis), strict=True)]).sum()
        noise.log().backward()  # type: ignore[no-untyped-call]
        adam.step()
    return basis.detach()


def _large(places: Tensor) -> Tensor:
    """About the largest magnitude (channels,), but smooth."""
    magnitudes = places.abs()
    largest = magnitudes.amax(0).detach().clamp(min=1e-12)
    return largest * (magnitudes / largest).pow(_POWER).mean(0).clamp(min=1e-12).pow(1 / _POWER)


@torch.no_grad()
def change_basis(synthesis: "Synthesis", basis: Tensor) -> None:
    """Multiply the sum of the blocks at 1/8 with `basis` (channels, channels), in place: what comes of it is the same."""
    wide = basis.double()
    readers, givers = [synthesis.head], [synthesis.up]
    for block in synthesis.blocks_8:
        assert isinstance(block, DepthwiseBlock)
        pairs = [(block.mix_in, block.mix_out)] if block.lean else [(block.mix_in, block.mix_out), (block.expand, block.reduce)]
        for first, last in pairs:
            readers.append(first)
            givers.append(last)
    for layer in readers:
        layer.weight.copy_(reading(layer.weight, wide))
    for layer in givers:
        assert layer.bias is not None
        layer.weight.copy_(giving(layer.weight, wide))
        layer.bias.copy_(giving(layer.bias, wide))


def giving(values: Tensor, basis: Tensor) -> Tensor:
    """Weight or bias of a layer, as many rows a channel, such that what it gives is multiplied with `basis`, float64."""
    return (basis @ values.double().reshape(len(basis), -1)).to(values.dtype).view(values.shape)


def reading(weight: Tensor, basis: Tensor) -> Tensor:
    """Weight (out, in) of a layer, as many columns a channel, such that it gives the same of what was multiplied with `basis`."""
    channels = weight.double().view(len(weight), len(basis), weight.shape[1] // len(basis)).movedim(1, 0)
    found = torch.linalg.solve(basis.T, channels.reshape(len(basis), -1)).view(channels.shape).movedim(0, 1)
    return found.to(weight.dtype).reshape(weight.shape)

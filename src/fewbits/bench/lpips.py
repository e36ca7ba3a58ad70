# SPDX-License-Identifier: MIT
"""LPIPS 0.1 with AlexNet (Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018), where its weights are.

Ours, since the package `lpips` imports torchvision; a test compares it with the definition. Two files are looked for in the
folder $FEWBITS_LPIPS, else in torch's hub cache and in the installed package `lpips`: AlexNet's ImageNet weights as torchvision
ships them, and the package's linear weights.
"""

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fewbits.errors import ModelError
from fewbits.pretrained import find_weights, hub_checkpoints

FOLDER_VARIABLE: Final = "FEWBITS_LPIPS"
ALEXNET: Final = "alexnet-owt-7be5be79.pth"
LINEAR: Final = "alex.pth"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of inputs in -1..1
# index of the layer in torchvision's `features`, stride, padding, and whether a 3x3 max pooling of stride 2 comes before
LAYERS: Final = ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False))


class Lpips:
    """The metric with its weights loaded."""

    def __init__(self, alexnet: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        """alexnet: state of torchvision's AlexNet; linear: lin0.model.1.weight (1, c, 1, 1) to lin4. Raises ModelError."""
        try:
            self._layers = [
                (alexnet[f"features.{index}.weight"], alexnet[f"features.{index}.bias"], linear[f"lin{k}.model.1.weight"])
                for k, (index, *_) in enumerate(LAYERS)
            ]
        except KeyError as error:
            raise ModelError(f"LPIPS: {error} is missing in the weights") from error

    @torch.no_grad()
    def distance(self, original: np.ndarray, decoded: np.ndarray) -> float:
        """Distance of two uint8 RGB pictures (h, w, 3) of at least 32 pixels a side; 0 is equal."""
        shift, scale = (torch.tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        x = torch.from_numpy(np.stack([original, decoded])).permute(0, 3, 1, 2) / 127.5 - 1
        x = (x - shift) / scale
        total = 0.0
        for (weight, bias, linear), (_, stride, padding, pooled) in zip(self._layers, LAYERS, strict=True):
            x = F.relu(F.conv2d(F.max_pool2d(x, 3, 2) if pooled else x, weight, bias, stride, padding))
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            total += F.conv2d((unit[:1] - unit[1:]).square(), linear).mean().item()
        return total


def weight_files() -> tuple[Path, Path]:
    """Where AlexNet's and the linear weights are. Raises ModelError that says where they were looked for."""
    package = importlib.util.find_spec("lpips")
    inside = [Path(place, "weights", "v0.1") for place in (package.submodule_search_locations or [])] if package else []
    alexnet = find_weights([ALEXNET], "LPIPS", FOLDER_VARIABLE, [hub_checkpoints()])
    return alexnet, find_weights([LINEAR], "LPIPS", FOLDER_VARIABLE, inside)


@lru_cache(maxsize=1)
def installed_lpips() -> Lpips:
    """Lpips with the weights that weight_files() finds. Raises ModelError."""
    states = []
    for path in weight_files():
        try:
            states.append(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises what its unpickler meets
            raise ModelError(f"{path}: these are no weights: {error}") from error
    return Lpips(*states)

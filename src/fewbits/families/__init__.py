# SPDX-License-Identifier: MIT
"""The one table of families that can be trained, and what each must offer."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from fewbits.families.cae_pca import CaePca, CaePcaConfig
from fewbits.families.content_weighted import Cae3Config, ContentWeightedConfig, ResnetAeConfig
from fewbits.families.few import Estimate, Few, FewConfig
from fewbits.families.klt import Klt, KltConfig
from fewbits.families.losses import Distortion, Penalty
from fewbits.families.masked import MaskedAutoencoder
from fewbits.families.resnet101 import Resnet101, Resnet101Config
from fewbits.families.slimcae import SlimCae, SlimCaeConfig


@runtime_checkable
class Family(Protocol):
    """What training and export ask of a model, beside being an nn.Module that is complete when built from its config."""

    config: Any  # frozen dataclass, saved with the weights
    settings: tuple[float, ...]  # points of its rate knob at which training is validated
    crop_multiple: int  # pixels: what a crop's side must be a multiple of
    frozen_networks: frozenset[str]  # networks exported as copies, whose weights load_tables takes back

    def initialize(self, pictures: Iterable[Tensor], distortion: Distortion) -> None:
        """Start from data: (b, 3, h, w) in 0..1; distortion: that of the loss."""

    def loss(self, x: Tensor, distortion: Distortion, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch (b, 3, h, w) in 0..1 -> the scalar to minimise, and scalars for the log.

        x requires its gradient where the penalty needs that.
        """

    def estimate(self, x: Tensor, setting: float) -> Estimate:
        """Reconstruction and bits of each picture at one setting."""

    def networks(self) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
        """What becomes ONNX files: modules by name, each with example inputs by name."""

    def tables(self) -> dict[str, np.ndarray]:
        """What becomes tables.npz."""

    def coding(self) -> dict[str, Any]:
        """Numbers of its coding pipeline; "kind" names the pipeline in runtime/."""

    def load_tables(self, tables: Mapping[str, Tensor], arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of tables() and of the frozen networks' export."""


FAMILIES: Final[dict[str, tuple[type[Any], type[Any]]]] = {
    "few": (FewConfig, Few),
    "slimcae": (SlimCaeConfig, SlimCae),
    "klt": (KltConfig, Klt),
    "cae-pca": (CaePcaConfig, CaePca),
    "content-weighted": (ContentWeightedConfig, MaskedAutoencoder),
    "resnet-ae": (ResnetAeConfig, MaskedAutoencoder),
    "cae3": (Cae3Config, MaskedAutoencoder),
    "resnet101": (Resnet101Config, Resnet101),
}

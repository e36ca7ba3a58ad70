# SPDX-License-Identifier: MIT
"""Channels of the hyper analysis that never fire are left out of a trained `few`: the same model with less to do in encoding.

A channel is silent where, after its depthwise convolution, no crop brings it above 0: what reads it then reads only zeros.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from fewbits.training.pruning import BLOCK

_SPATIAL: Final = {"spatial_16": ("stem", "middle"), "spatial_32": ("middle", "head")}  # what writes each, what reads it


@torch.no_grad()
def without_silent(model: Any, crops: Iterable[Tensor]) -> tuple[Any, dict[str, tuple[int, int]]]:
    """A copy of the model without them; and, by the depthwise convolutions, channels left, a multiple of BLOCK
    or all, and before.

    crops: batches (b, 3, h, w), in 0..1, sides multiples of 64; each is looked at at every level.
    """
    loudest = _loudest(model, crops)
    kept = {name: _kept(peaks) for name, peaks in loudest.items()}
    state, prefix = model.state_dict(), "hyper_analysis"
    for name, (writer, reader) in _SPATIAL.items():
        channels = kept[name]
        for layer in (writer, name):
            for kind in ("weight", "bias"):
                state[f"{prefix}.{layer}.{kind}"] = state[f"{prefix}.{layer}.{kind}"][channels]
        reads = state[f"{prefix}.{reader}.weight"]
        state[f"{prefix}.{reader}.weight"] = reads.view(len(reads), len(loudest[name]), -1)[:, channels].flatten(1)
    told = [part[:, kept["spatial_16"]] for part in state["hyper_modulation"].chunk(2, dim=1)]
    state["hyper_modulation"] = torch.cat(told, dim=1)
    fresh = type(model)(replace(model.config, hyper_analysis_units=tuple(len(channels) for channels in kept.values())))
    fresh.load_state_dict(state)
    return fresh.train(model.training), {f"{prefix}.{name}": (len(kept[name]), len(loudest[name])) for name in kept}


def _loudest(model: Any, crops: Iterable[Tensor]) -> dict[str, Tensor]:
    """The largest value of each channel by the depthwise convolution that gives it."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def after(module: Any, args: tuple[Tensor], out: Tensor) -> None:
            here = out.amax((0, 2, 3))
            found[name] = torch.maximum(found.get(name, here), here)

        return model.hyper_analysis.get_submodule(name).register_forward_hook(after)

    hooks = [watch(name) for name in _SPATIAL]
    for x in crops:
        y = model.analysis(model.to_8(x - 0.5)).float() / model.deviation[:, None, None]
        for level in range(len(model.config.lambdas)):
            told = model.modulation(model.hyper_modulation, torch.full((len(x),), float(level)))
            model.hyper_analysis(y, *told)
    for hook in hooks:
        hook.remove()
    return found


def _kept(peaks: Tensor) -> Tensor:
    """Numbers of the channels above 0, and of the least silent others up to a multiple of BLOCK, or all that there are."""
    n_kept = max(1, -(-int((peaks > 0).sum()) // BLOCK)) * BLOCK
    return peaks.argsort(descending=True, stable=True)[:n_kept].sort().values

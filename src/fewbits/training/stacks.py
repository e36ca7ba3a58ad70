# SPDX-License-Identifier: MIT
"""The blocks of a `few` in stacks, and what passes them by in another basis (ADR 27)."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from fewbits.families.basis import giving, reading

# By what reads units in a block, the layers whose channels they are
INSIDE: Final = {"mix_out": ("mix_in", "spatial"), "reduce": ("expand",)}


class Stack(NamedTuple):
    """Blocks one after the other, each of which adds to what passes it by.

    network: of NETWORKS. places: positions for one of the latent. begin: the layer that gives what passes the first block by, and
    end: that which reads what passes the last one; begin is empty where the quality scales what it gives.
    """

    network: str
    blocks: tuple[str, ...]
    places: int
    begin: str
    end: str


def stacks(model: Any) -> dict[str, Stack]:
    """All of a model's, by the setting that gives their units."""

    def blocks(where: str) -> tuple[str, ...]:
        return tuple(f"{where}.{number}" for number in range(len(model.get_submodule(where))))

    return {
        "analysis_units_8": Stack("analysis", blocks("analysis.blocks_8"), 4, "analysis.stem", "analysis.head"),
        "synthesis_units_16": Stack("synthesis", blocks("synthesis.blocks_16"), 1, "", "synthesis.up"),
        "synthesis_units_8": Stack("synthesis", blocks("synthesis.blocks_8"), 4, "synthesis.up", "synthesis.head"),
    }


def one_and(passing: Tensor) -> Tensor:
    """1 + passing, (channels, channels)."""
    return torch.eye(len(passing), dtype=passing.dtype) + passing


def pass_by(state: dict[str, Tensor], stack: Stack, passing: Mapping[str, Tensor]) -> None:
    """Has each branch of a stack add to what passes it by as it is, where it was to add to (1 + passing) times it.

    state: the model's. passing: float64 (channels, channels), by what reads units, BLOCK.READER, for those that it is not 0 for.
    What comes before the branch is had in the basis in which that is so: what gives it is multiplied by a matrix, what reads it
    by the inverse. That shortens some directions by a lot, all branches together; the basis at the end is chosen so that
    beginning and end share that.
    """
    adders = [f"{block}.{reader}" for block in stack.blocks for reader in INSIDE]
    changed = [one_and(passing[name]) for name in adders if name in passing and passing[name].any()]
    if not stack.begin or not changed:
        return
    whole = changed[0]
    for own in changed[1:]:
        whole = own @ whole
    left, sizes, _ = torch.linalg.svd(whole)
    basis = (left / sizes.sqrt()).T

    def change(layer: str, changed: Callable[[Tensor, Tensor], Tensor], *kinds: str) -> None:
        for kind in kinds:
            state[f"{layer}.{kind}"] = changed(state[f"{layer}.{kind}"], basis)

    change(stack.end, reading, "weight")
    for name in reversed([name for name in adders if f"{name}.weight" in state]):
        block, _, reader = name.rpartition(".")
        change(name, giving, "weight", "bias")
        if name in passing:
            basis = basis @ one_and(passing[name])
        change(f"{block}.{INSIDE[reader][0]}", reading, "weight")
    change(stack.begin, giving, "weight", "bias")

# SPDX-License-Identifier: MIT
"""Hidden units that matter least are left out of the blocks of a trained model, and what reads the others makes up for them.

Optimal Brain Surgeon (Hassibi, Stork, NIPS 1992) for whole units: a unit is a column of the matrix that reads it, and the change
of the distortion that comes of a change of that matrix is told by its curvature, taken to be a product of two small matrices
(K-FAC; Martens, Grosse, ICML 2015): what the readers see, and how much the decoded picture hears of what they give (Gauss-Newton,
of the squared error, levels weighed as in training). No other weights change. Units go where they are worth least for the
multiplications that they take. Train on from what is left: docs/training.md.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from fewbits.errors import TrainingError
from fewbits.families.blocks import DepthwiseBlock, Pointwise
from fewbits.families.eight_bits import buffer_name
from fewbits.training.pruning import BLOCK

# By what reads units in a block, the layers whose channels they are
INSIDE: Final = {"mix_out": ("mix_in", "spatial"), "reduce": ("expand",)}
PROBES: Final = 2  # random directions a picture in which the decoded picture is felt
_DAMPING: Final = 1e-4  # of a unit's mean square, added to it
_FLOOR: Final = 1e-9  # of the mean square of all, likewise: of units that never fire

# By the setting that gives their units, the blocks: network, stack, and positions a side for one of the latent
STACKS: Final = {
    "analysis_units_8": ("analysis", "blocks_8", 2),
    "synthesis_units_8": ("synthesis", "blocks_8", 2),
    "synthesis_units_16": ("synthesis", "blocks_16", 1),
}
NETWORKS: Final = tuple(dict.fromkeys(network for network, _, _ in STACKS.values()))


class Branch(NamedTuple):
    """Half of a block: what reads its units, the multiplications a unit takes for each position of the latent, and whether a
    block may lack it."""

    name: str  # NETWORK.STACK.NUMBER.READER, as in the model's state
    reader: Pointwise
    cost: int
    optional: bool


class Order(NamedTuple):
    """How a branch's units go, least first.

    harm: by how much the distortion's part of the loss, of all pictures, is expected to rise when the first k + 1 have gone.
    readers: after each BLOCK of them the units that are left, and weight (out, units) and bias (out,) of what reads them.
    """

    harm: Tensor
    readers: list[tuple[Tensor, Tensor, Tensor]]


def branches(model: nn.Module, network: str) -> Iterator[Branch]:
    """Of all blocks of a network, in order."""
    for name, stack, sides in STACKS.values():
        if name != network:
            continue
        for number, block in enumerate(getattr(getattr(model, network), stack)):
            assert isinstance(block, DepthwiseBlock)
            width, places = len(block.mix_out.weight), sides**2
            yield Branch(f"{network}.{stack}.{number}.mix_out", block.mix_out, places * (2 * width + 9), False)
            if not block.lean:
                yield Branch(f"{network}.{stack}.{number}.reduce", block.reduce, places * 2 * width, True)


def pruned(model: Any, crops: Iterable[Tensor], shares: Mapping[str, float]) -> tuple[Any, dict[str, tuple[int, int]]]:
    """A copy of a trained model whose blocks take fewer multiplications; and, by what reads them, units left and before.

    crops: batches (b, 3, h, w), in 0..1, sides multiples of 64. shares: of the multiplications of a network's blocks, what
    goes. Units that nothing reads, as there are where export had left out some, go first, and are not counted. Raises
    TrainingError on a share that cannot be.
    """
    check_shares(shares)
    model = _in_float(_without_idle(model))
    found = {network: list(branches(model, network)) for network in shares}
    seen = _observed(model, [branch for own in found.values() for branch in own], crops)
    readers, units = {}, {}
    for network, own in found.items():
        orders = {branch.name: _order(branch.reader, *seen[branch.name]) for branch in own}
        for branch, gone in zip(own, _chosen(own, orders, shares[network]), strict=True):
            n = branch.reader.weight.shape[1]
            units[branch.name] = (n - gone * BLOCK, n)
            if gone:
                readers[branch.name] = orders[branch.name].readers[gone - 1]
    return _without(model, readers), units


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises TrainingError where one is below 0, or not below 1, or all are 0."""
    for network, share in shares.items():
        if not 0 <= share < 1:
            raise TrainingError(f"the share of {network} to leave out is {share:g}, it must be 0 or more and below 1")
    if not any(shares.values()):
        raise TrainingError(f"say which share to leave out, of {' or '.join(shares)}: each is 0")


@torch.no_grad()
def _without_idle(model: Any) -> Any:
    """A copy of the model without the units whose columns in what reads them are 0."""
    readers = {}
    for branch in (branch for network in NETWORKS for branch in branches(model, network)):
        read = branch.reader.weight.any(0)
        if not branch.optional and not read.any():
            read[:BLOCK] = True
        if not read.all():
            assert branch.reader.bias is not None
            readers[branch.name] = (read.nonzero()[:, 0], branch.reader.weight[:, read], branch.reader.bias)
    return _without(model, readers)


def _in_float(model: Any) -> Any:
    """The model, for good; where it is trained for int8, with synthesis's weights as 8 bits give them, in float."""
    model = model.eval().requires_grad_(False)
    if (rounding := model.eight_bits) is not None and rounding.known:
        rounding.round_weights(model.synthesis)
    return model


def _observed(model: Any, own: Sequence[Branch], crops: Iterable[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """By branch the mean of h h^T, h what its reader reads and a 1; and the sum of g g^T over all positions, g the gradient of
    probes by what its reader gives."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            rows = _rows(args[0].detach())
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
            read, heard = sums.get(name, (torch.zeros(()), torch.zeros(())))
            sums[name] = (read + rows.T @ rows, heard)
            counts[name] = counts.get(name, 0) + len(rows)

            def feel(gradient: Tensor) -> None:
                rows = _rows(gradient)
                sums[name] = (sums[name][0], sums[name][1] + rows.T @ rows)

            out.register_hook(feel)  # type: ignore[no-untyped-call]

        return hook

    hooks = [branch.reader.register_forward_hook(watch(branch.name)) for branch in own]
    rounding, model.eight_bits = model.eight_bits, None  # which would compute without the layers that are watched
    top = len(model.config.lambdas) - 1
    for x in crops:
        level = torch.rand(len(x)) * top
        out, weight = model(x.detach().requires_grad_(), level), model.loss_weight(level)
        # the root of the curvature of lambda 255^2 MSE / lambda^0.5, as Few.loss has it
        root = (2 * weight.sqrt() * 255**2 / x[0].numel()).sqrt().view(-1, 1, 1, 1)
        for _ in range(PROBES):
            (out.x_hat * root * torch.randn_like(x) * PROBES**-0.5).sum().backward(retain_graph=True)
    model.eight_bits = rounding
    for hook in hooks:
        hook.remove()
    return {name: (read / counts[name], heard) for name, (read, heard) in sums.items()}


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2).double()


@torch.no_grad()
def _order(reader: Pointwise, read: Tensor, heard: Tensor) -> Order:
    """One unit after the other goes that harms least, and each time the weights of the others change to suit."""
    assert reader.bias is not None
    weight = torch.cat([reader.weight, reader.bias[:, None]], dim=1).double()
    n = weight.shape[1] - 1
    squares = read.diagonal()
    inverse = torch.linalg.inv(read + torch.diag(_DAMPING * squares + _FLOOR * squares.mean()))
    left = torch.ones(n, dtype=torch.bool)
    harm, readers = torch.zeros(n, dtype=torch.float64), []
    for k in range(n):
        each = (weight[:, :n] * (heard @ weight[:, :n])).sum(0) / inverse.diagonal()[:n] / 2
        each[~left] = torch.inf
        unit = int(each.argmin())
        harm[k] = each[unit] + (harm[k - 1] if k else 0)
        column = inverse[:, unit] / inverse[unit, unit]
        weight -= torch.outer(weight[:, unit], column)
        inverse -= torch.outer(column, inverse[unit])
        inverse[unit, unit] = 1.0  # what is gone takes no part any more
        weight[:, unit], left[unit] = 0, False
        if (k + 1) % BLOCK == 0:
            readers.append((left.nonzero()[:, 0], weight[:, :n][:, left].float(), weight[:, n].float()))
    return Order(harm, readers)


def _chosen(own: Sequence[Branch], orders: Mapping[str, Order], share: float) -> list[int]:
    """How many times BLOCK go from each branch: the least harmful ones for what they cost, until a share of all costs is gone."""
    sizes = [branch.reader.weight.shape[1] for branch in own]
    wanted = share * sum(size * branch.cost for size, branch in zip(sizes, own, strict=True))
    gone = [0] * len(own)
    while sum(BLOCK * k * branch.cost for k, branch in zip(gone, own, strict=True)) < wanted:
        harms = []
        for k, branch in zip(gone, own, strict=True):
            order = orders[branch.name]
            if k + (not branch.optional) >= len(order.readers):
                harms.append(torch.inf)
                continue
            before = float(order.harm[BLOCK * k - 1]) if k else 0.0
            harms.append((float(order.harm[BLOCK * (k + 1) - 1]) - before) / branch.cost)
        least = min(range(len(own)), key=harms.__getitem__)
        if harms[least] == torch.inf:
            raise TrainingError(f"a share of {share:g} cannot be left out: each block keeps {BLOCK} units of its spatial mixing")
        gone[least] += 1
    return gone


@torch.no_grad()
def _without(model: Any, readers: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Any:
    """The model with those readers, of the units that are left, and without what gave them the others."""
    state = model.state_dict()
    for name, (left, weight, bias) in readers.items():
        block, _, reader = name.rpartition(".")
        inside = INSIDE[reader]
        if not len(left):  # the branch is a constant, which the other one can add as well
            state[f"{block}.mix_out.bias"] = state[f"{block}.mix_out.bias"] + bias
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias
        for layer in inside:
            for kind in ("weight", "bias"):
                state[f"{block}.{layer}.{kind}"] = state[f"{block}.{layer}.{kind}"][left]
        for layer in (*inside[1:], reader):  # each has a step for each unit
            steps = f"eight_bits.{buffer_name(f'{block}.{layer}'.removeprefix('synthesis.'))}"
            if steps in state:
                state[steps] = state[steps][left]
    units: dict[str, tuple[int, ...]] = {}
    for setting, (network, stack, _) in STACKS.items():
        blocks = range(len(getattr(getattr(model, network), stack)))
        names = [f"{network}.{stack}.{k}.{reader}.weight" for k in blocks for reader in ("mix_out", "reduce")]
        units[setting] = tuple(state[name].shape[1] if name in state else 0 for name in names)
    fresh = type(model)(replace(model.config, **units))
    fresh.load_state_dict({name: state[name] for name in fresh.state_dict()})
    return fresh

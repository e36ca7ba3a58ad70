# SPDX-License-Identifier: MIT
"""Hidden units that matter least are left out of the blocks of a trained model, and what is left makes up for them.

Optimal Brain Surgeon (Hassibi, Stork, NIPS 1992) for whole units: a unit is a column of the matrix that reads it, and the change
of the loss that comes of a change of that matrix is told by its curvature, taken to be a product of two small matrices (K-FAC;
Martens, Grosse, ICML 2015): what the readers see, and how much the decoded picture hears of what they give (Gauss-Newton, of the
squared error, levels weighed as in training). Readers see what passes a block by, too: a unit that hardly ever rests is nearly a
sum of that, and a sum of what passes by costs nothing, since what comes before the block can be given in another basis (ADR 27).
Units go where they are worth least for the multiplications that they take. Train on from what is left: docs/training.md.
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
from fewbits.training.stacks import INSIDE, one_and, pass_by, stacks

PROBES: Final = 2  # random directions a picture in which the decoded picture is felt
_DAMPING: Final = 1e-6  # of a unit's mean square, added to it
_FLOOR: Final = 1e-9  # of the mean square of all, likewise: of units that never fire
_LEAST: Final = 0.1  # size to which what passes a branch by may be shortened in any direction
NETWORKS: Final = ("analysis", "synthesis")


class Branch(NamedTuple):
    """Half of a block: what reads its units, the multiplications a unit takes for each position of the latent, whether a block
    may lack it, and whether what passes it by may be had in another basis."""

    name: str  # BLOCK.READER, as in the model's state
    reader: Pointwise
    cost: int
    optional: bool
    free: bool


class Left(NamedTuple):
    """Of a branch: numbers of the units that are left, weight (out, units) and bias (out,) of what reads them, and, out of
    what passes by, what is added to it, (out, out)."""

    units: Tensor
    weight: Tensor
    bias: Tensor
    passing: Tensor


class Order(NamedTuple):
    """How a branch's units go, least first.

    harm: by how much the distortion's part of the loss, of all pictures, is expected to rise with each BLOCK that has gone.
    left: what there is then.
    """

    harm: list[float]
    left: list[Left]


def branches(model: Any, network: str) -> Iterator[Branch]:
    """Of all blocks of a network, in order."""
    for stack in stacks(model).values():
        for name in stack.blocks if stack.network == network else ():
            block, free = model.get_submodule(name), bool(stack.begin)
            assert isinstance(block, DepthwiseBlock)
            width = len(block.mix_out.weight)
            yield Branch(f"{name}.mix_out", block.mix_out, stack.places * (2 * width + 9), False, free)
            if not block.lean:
                yield Branch(f"{name}.reduce", block.reduce, stack.places * 2 * width, True, free)


def pruned(model: Any, crops: Iterable[Tensor], shares: Mapping[str, float]) -> tuple[Any, dict[str, tuple[int, int]]]:
    """A copy of a trained model whose blocks take fewer multiplications; and, by what reads them, units left and before.

    crops: batches (b, 3, h, w), in 0..1, sides multiples of 64. shares: of the multiplications of a network's blocks, what
    goes. Units that nothing reads, as there are where export had left out some, go first, and are not counted. Where units of
    synthesis go otherwise, steps of its 8-bit values are not known any more. Raises TrainingError on a share that cannot be.
    """
    check_shares(shares)
    model = _in_float(_without_idle(model))
    found = {network: list(branches(model, network)) for network in shares}
    seen = _observed(model, [branch for own in found.values() for branch in own], crops)
    left, units = {}, {}
    for network, own in found.items():
        orders = {branch.name: _order(branch, *seen[branch.name]) for branch in own}
        for branch, gone in zip(own, _chosen(own, orders, shares[network]), strict=True):
            n = branch.reader.weight.shape[1]
            units[branch.name] = (n - gone * BLOCK, n)
            if gone:
                left[branch.name] = orders[branch.name].left[gone - 1]
    found_model = _without(model, left)
    if found_model.eight_bits is not None and any(name.startswith("synthesis.") for name in left):
        found_model.eight_bits.forget()  # other values have other steps: a run with --int8 measures them anew
    return found_model, units


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises TrainingError where one is below 0, or not below 1."""
    for network, share in shares.items():
        if not 0 <= share < 1:
            raise TrainingError(f"the share of {network} to leave out is {share:g}, it must be 0 or more and below 1")


@torch.no_grad()
def _without_idle(model: Any) -> Any:
    """A copy of the model without the units whose columns in what reads them are 0."""
    left = {}
    for branch in (branch for network in NETWORKS for branch in branches(model, network)):
        read = branch.reader.weight.any(0)
        if not branch.optional and not read.any():
            read[:BLOCK] = True
        if not read.all():
            assert branch.reader.bias is not None
            nothing = torch.zeros(2 * [len(branch.reader.weight)], dtype=torch.float64)
            left[branch.name] = Left(read.nonzero()[:, 0], branch.reader.weight[:, read], branch.reader.bias, nothing)
    return _without(model, left)


def _in_float(model: Any) -> Any:
    """The model, for good; where it is trained for int8, with synthesis's weights as 8 bits give them, in float."""
    model = model.eval().requires_grad_(False)
    if (rounding := model.eight_bits) is not None and rounding.known:
        rounding.round_weights(model.synthesis)
    return model


def _observed(model: Any, own: Sequence[Branch], crops: Iterable[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """By branch the mean of h h^T, h what its reader reads, what passes the branch by, and a 1; and the sum of g g^T over all
    positions, g the gradient of probes by what its reader gives."""
    read: dict[str, Tensor] = {}
    heard: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    passing: dict[str, Tensor] = {}

    def watch(branch: Branch) -> list[Any]:
        name, block = branch.name, model.get_submodule(branch.name.rpartition(".")[0])
        first = getattr(block, INSIDE[name.rpartition(".")[2]][0])

        def before(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            passing[name] = _rows(args[0].detach())

        def after(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            rows = _rows(args[0].detach())
            rows = torch.cat([rows, passing.pop(name), torch.ones_like(rows[:, :1])], dim=1)
            read[name] = read.get(name, torch.zeros(())) + rows.T @ rows
            counts[name] = counts.get(name, 0) + len(rows)

            def feel(gradient: Tensor) -> None:
                rows = _rows(gradient)
                heard[name] = heard.get(name, torch.zeros(())) + rows.T @ rows

            out.register_hook(feel)  # type: ignore[no-untyped-call]

        return [first.register_forward_hook(before), branch.reader.register_forward_hook(after)]

    hooks = [hook for branch in own for hook in watch(branch)]
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
    return {name: (read[name] / counts[name], heard[name]) for name in read}


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2).double()


@torch.no_grad()
def _order(branch: Branch, read: Tensor, heard: Tensor) -> Order:
    """One unit after the other goes that harms least, and each time what is made of the others, and of what passes by, changes
    to suit."""
    assert branch.reader.bias is not None
    width, n = branch.reader.weight.shape
    whole = torch.cat([branch.reader.weight, torch.zeros(width, width), branch.reader.bias[:, None]], dim=1).double()
    passing, squares = slice(n, -1), read.diagonal()
    damped = read + torch.diag(_DAMPING * squares + _FLOOR * squares.mean())
    units, seen = (torch.ones(len(read), dtype=torch.bool) for _ in range(2))
    units[n:], seen[passing] = False, branch.free
    weight, inverse = whole.clone(), torch.zeros_like(read)
    inverse[seen[:, None] & seen] = torch.linalg.inv(damped[seen][:, seen]).flatten()
    harm, left = [], []
    for k in range(n):
        each = (weight * (heard @ weight)).sum(0) / inverse.diagonal()
        each[~units] = torch.inf
        unit = int(each.argmin())
        column = inverse[:, unit] / inverse[unit, unit]
        weight -= torch.outer(weight[:, unit], column)
        inverse -= torch.outer(column, inverse[unit])
        weight[:, unit], units[unit] = 0, False
        if (k + 1) % BLOCK == 0:
            found = torch.zeros_like(whole)
            # what nobody hears need not be made up for, and could make the basis a bad one
            found[:, passing] = _held(weight[:, passing] * (heard.diagonal() > 0)[:, None])
            others = units.clone()
            others[-1] = True
            rest = ((whole - found) @ damped)[:, others]
            found[:, others] = torch.linalg.solve(damped[others][:, others], rest.T).T
            gone = whole - found
            harm.append(float((heard @ gone @ read * gone).sum() / 2))
            left.append(Left(units.nonzero()[:, 0], found[:, units].float(), found[:, -1].float(), found[:, passing]))
    return Order(harm, left)


def _held(passing: Tensor) -> Tensor:
    """The same, but 1 + passing shortens nothing to less than _LEAST: its inverse is to be of use in float32."""
    left, sizes, right = torch.linalg.svd(one_and(passing))
    return (left * sizes.clamp(min=_LEAST)) @ right - torch.eye(len(passing), dtype=passing.dtype)


def _chosen(own: Sequence[Branch], orders: Mapping[str, Order], share: float) -> list[int]:
    """How many times BLOCK go from each branch: the least harmful ones for what they cost, until a share of all costs is gone."""
    sizes = [branch.reader.weight.shape[1] for branch in own]
    wanted = share * sum(size * branch.cost for size, branch in zip(sizes, own, strict=True))
    gone = [0] * len(own)
    while sum(BLOCK * k * branch.cost for k, branch in zip(gone, own, strict=True)) < wanted:
        harms = []
        for k, branch in zip(gone, own, strict=True):
            order = orders[branch.name]
            if k + (not branch.optional) >= len(order.left):
                harms.append(torch.inf)
                continue
            harms.append((order.harm[k] - (order.harm[k - 1] if k else 0.0)) / branch.cost)
        least = min(range(len(own)), key=harms.__getitem__)
        if harms[least] == torch.inf:
            raise TrainingError(f"a share of {share:g} cannot be left out: each block keeps {BLOCK} units of its spatial mixing")
        gone[least] += 1
    return gone


@torch.no_grad()
def _without(model: Any, left: Mapping[str, Left]) -> Any:
    """The model with what is left of those branches."""
    state, passing = model.state_dict(), {name: own.passing for name, own in left.items()}
    for name, own in left.items():
        block, _, reader = name.rpartition(".")
        inside = INSIDE[reader]
        if not len(own.units):  # the branch is a constant, which the other one can add as well
            before = torch.linalg.solve(one_and(own.passing), own.bias.double())
            state[f"{block}.mix_out.bias"] = state[f"{block}.mix_out.bias"] + before.float()
        state[f"{name}.weight"], state[f"{name}.bias"] = own.weight, own.bias
        for layer in inside:
            for kind in ("weight", "bias"):
                state[f"{block}.{layer}.{kind}"] = state[f"{block}.{layer}.{kind}"][own.units]
        for layer in (*inside[1:], reader):  # each has a step for each unit
            steps = f"eight_bits.{buffer_name(f'{block}.{layer}'.removeprefix('synthesis.'))}"
            if steps in state:
                state[steps] = state[steps][own.units]
    units: dict[str, tuple[int, ...]] = {}
    for setting, stack in stacks(model).items():
        names = [f"{block}.{reader}.weight" for block in stack.blocks for reader in ("mix_out", "reduce")]
        units[setting] = tuple(state[name].shape[1] if name in state else 0 for name in names)
        pass_by(state, stack, passing)
    fresh = type(model)(replace(model.config, **units))
    fresh.load_state_dict({name: state[name] for name in fresh.state_dict()})
    return fresh

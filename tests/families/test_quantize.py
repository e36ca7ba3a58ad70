# SPDX-License-Identifier: MIT
"""Quantizers pass gradients through; integer layers are integer arithmetic."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewbits.families.quantize import (  # noqa: E402
    ACTIVATION_LIMIT,
    EXACT_LIMIT,
    WEIGHT_LIMIT,
    FrozenIntegerConv,
    IntegerConv,
    floor_through,
    freeze_integers,
    integer_bias,
    integer_relu,
    round_through,
    round_through_zone,
    uniform_noise,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.mark.parametrize(("through", "plain"), [(round_through, torch.round), (floor_through, torch.floor)])
def test_values_are_rounded_and_gradients_are_not(through, plain) -> None:
    x = torch.linspace(-3, 3, 41, requires_grad=True)
    out = through(x)
    assert torch.equal(out, plain(x))
    weights = torch.arange(41.0)
    (out * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_values_in_the_dead_zone_go_towards_zero() -> None:
    x = torch.tensor([-1.7, -1.6, -0.7, -0.6, -0.1, 0.0, 0.6, 0.7, 1.6, 1.7, 2.1], requires_grad=True)
    out = round_through_zone(x, torch.full_like(x, 0.15))
    assert out.tolist() == [-2, -1, -1, 0, 0, 0, 0, 1, 1, 2, 2]
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones(11))


def test_noise_is_uniform_in_one_bin() -> None:
    x = torch.full((100_000,), 7.0)
    noise = uniform_noise(x) - x
    assert noise.min() >= -0.5 and noise.max() <= 0.5
    assert abs(noise.mean().item()) < 0.01 and abs(noise.var().item() - 1 / 12) < 0.001


def small_layer(**options) -> IntegerConv:
    layer = IntegerConv(6, 8, 3, **{"input_limit": 255, "input_bits": 4, "output_bits": 4, "groups": 2} | options)
    with torch.no_grad():
        layer.bias.normal_(0, 2)
    return layer


def reference(layer: IntegerConv, x: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """floor((conv + bias + extra) / 2**shift) in int64, one sum at a time."""
    weight, bias = (part.detach().numpy().astype(np.int64) for part in layer.integers())
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    n_out, per_group, _, _ = weight.shape
    out = np.zeros((n_out, *x.shape[1:]), np.int64)
    for o in range(n_out):
        first = o // (n_out // layer.groups) * per_group
        for i in range(per_group):
            for r in range(3):
                for c in range(3):
                    out[o] += weight[o, i, r, c] * padded[first + i, r : r + x.shape[1], c : c + x.shape[2]]
        out[o] += bias[o] + extra[o]
    return out >> layer.shift


@pytest.mark.parametrize("which", ["random", "highest", "zero"])
def test_an_integer_layer_is_integer_arithmetic(which: str) -> None:
    layer = small_layer()
    rng = np.random.default_rng(0)
    x = {"random": rng.integers(0, 256, (6, 5, 7)), "highest": np.full((6, 5, 7), 255), "zero": np.zeros((6, 5, 7), int)}[which]
    extra = rng.integers(-(2**20), 2**20, 8)
    inputs = torch.from_numpy(x)[None].float(), torch.from_numpy(extra)[None, :, None, None].float()
    expected = reference(layer, x, extra)
    for form in (layer, FrozenIntegerConv(layer)):
        assert np.array_equal(form(*inputs)[0].detach().numpy().astype(np.int64), expected)


def test_weights_are_bounded_however_they_are_trained() -> None:
    layer = small_layer()
    with torch.no_grad():
        layer.weight.mul_(1e6)
        layer.bias.fill_(-1e12)
    weight, bias = layer.integers()
    assert set(weight.abs().unique().tolist()) == {WEIGHT_LIMIT}
    assert bias.unique().tolist() == [-EXACT_LIMIT // 8]


def test_no_sum_can_leave_the_exact_range() -> None:
    """Taps x 127 x 255: the largest layer that is allowed fits into 2**24 with its bias; one tap more is refused."""
    taps = (EXACT_LIMIT // 2 - 1) // (WEIGHT_LIMIT * ACTIVATION_LIMIT)
    layer = IntegerConv(taps, 1, 1, input_limit=ACTIVATION_LIMIT, input_bits=4, output_bits=4)
    with torch.no_grad():
        layer.weight.fill_(1e6)
        layer.bias.fill_(1e12)
    out = layer(torch.full((1, taps, 1, 1), 255.0), torch.full((1, 1, 1, 1), EXACT_LIMIT / 8))
    exact = (taps * 255 * WEIGHT_LIMIT + 2 * EXACT_LIMIT // 8) >> layer.shift
    assert taps * 255 * WEIGHT_LIMIT + 2 * EXACT_LIMIT // 8 < EXACT_LIMIT
    assert out.item() == exact
    with pytest.raises(ValueError, match="could leave the exact range"):
        IntegerConv(taps + 1, 1, 1, input_limit=ACTIVATION_LIMIT, input_bits=4, output_bits=4)


def test_loading_integers_undoes_taking_them() -> None:
    source, target = small_layer(), small_layer()
    weight, bias = source.integers()
    target.load_integers(weight.flatten(), bias)
    assert all(torch.equal(one, other) for one, other in zip(target.integers(), (weight, bias), strict=True))


def test_freezing_changes_the_copy_and_not_the_network() -> None:
    network = torch.nn.Sequential(small_layer(), torch.nn.Identity())
    frozen = freeze_integers(network)
    assert isinstance(frozen[0], FrozenIntegerConv) and isinstance(network[0], IntegerConv)
    assert not list(frozen.parameters())
    x = torch.randint(0, 256, (1, 6, 4, 4)).float()
    assert torch.equal(frozen(x), network(x))
    with torch.no_grad():
        network[0].weight.zero_()
    assert not torch.equal(frozen(x), network(x))


def test_training_moves_an_integer_layer() -> None:
    layer = small_layer()
    x = torch.randint(0, 256, (2, 6, 4, 4)).float()
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0 and layer.bias.grad.abs().sum() > 0


def test_biases_are_whole_units_within_bounds() -> None:
    bias = integer_bias(torch.tensor([0.3, -0.3, 1e9, -1e9]), 4)
    assert bias.tolist() == [5, -5, EXACT_LIMIT // 8, -EXACT_LIMIT // 8]


def test_activations_are_unsigned_bytes() -> None:
    assert integer_relu(torch.tensor([-1.0, 0, 7, 255, 256])).tolist() == [0, 0, 7, 255, 255]

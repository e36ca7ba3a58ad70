# SPDX-License-Identifier: MIT
"""What never fires is left out, and the network gives the same; what is read back begins anew and gives the same, too."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from torch import nn  # noqa: E402

from fewbits.families.blocks import DepthwiseBlock, Pointwise  # noqa: E402
from fewbits.runtime.engines import onnxruntime_engine  # noqa: E402
from fewbits.training.calibration import Peaks, _Observer  # noqa: E402
from fewbits.training.export import _copy_parameters, _initializers, export_network  # noqa: E402
from fewbits.training.pruning import BLOCK, pruned  # noqa: E402

WIDTH = 2 * BLOCK


class Net(nn.Module):
    """A stem, a block, and a head: (1, 3, h, w) -> (1, 5, h, w)."""

    def __init__(self, biased: bool = True) -> None:
        super().__init__()
        self.stem, self.block, self.head = Pointwise(3, WIDTH), DepthwiseBlock(WIDTH), Pointwise(WIDTH, 5, bias=False)
        if not biased:
            self.block.mix_out.bias = None
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.normal_(parameter)
        for layer in (self.block.mix_out, self.block.reduce):
            nn.init.normal_(layer.weight)

    def forward(self, x: Any) -> Any:
        return self.head(self.block(self.stem(x)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


X = np.random.default_rng(0).normal(size=(1, 3, 12, 20)).astype(np.float32)


def files(net: Net) -> tuple[bytes, Peaks]:
    """The exported network, its weights as float16 holds them, and its peaks on X."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.half().float())
    data, peaks = export_network(net, {"x": torch.zeros(1, 3, 8, 8)}), Peaks()
    _Observer(data, peaks)(x=X)
    return data, peaks


def kill(layer: Any, units: slice) -> None:
    """Make hidden units of a layer before a ReLU never fire."""
    with torch.no_grad():
        layer.bias[units] = -1000.0


@pytest.mark.parametrize(
    ("mixing", "expanding", "units"),
    [
        (slice(0, 0), slice(0, 0), {}),
        (slice(0, 0), slice(3, 20), {"block.expand": (3 * BLOCK, 2 * WIDTH)}),
        (slice(5, 25), slice(0, None), {"block.mix_in": (BLOCK, WIDTH), "block.expand": (0, 2 * WIDTH)}),
        (slice(0, None), slice(0, None), {"block.mix_in": (0, WIDTH), "block.expand": (0, 2 * WIDTH)}),
    ],
    ids=["all fire", "some", "a whole branch", "both branches"],
)
def test_the_network_gives_the_same_with_fewer_units(
    net: Net, mixing: slice, expanding: slice, units: dict[str, tuple[int, int]]
) -> None:
    if expanding.stop != 0:
        kill(net.block.expand, expanding)
    if mixing.stop != 0:
        kill(net.block.mix_in, mixing)
    data, peaks = files(net)
    smaller, left, _ = pruned(data, peaks)
    assert left == units
    run = onnxruntime_engine(1)
    before, after = run(data)(x=X), run(smaller)(x=X)
    assert np.allclose(before, after, atol=1e-3 * np.abs(before).max())
    assert (len(smaller) < len(data)) == bool(units)


def test_a_unit_that_fires_once_is_kept(net: Net) -> None:
    data, peaks = files(net)
    name = next(node.input[0] for node in onnx.load_from_string(data).graph.node if node.op_type == "Relu")
    peaks[name] = np.where(np.arange(WIDTH) == 7, 1e-6, -1.0)
    smaller, left, _ = pruned(data, peaks)
    assert left == {"block.mix_in": (BLOCK, WIDTH)}
    kept = _initializers(smaller)["block.mix_in.weight"]
    assert any(torch.equal(row.ravel(), net.block.mix_in.weight[7]) for row in kept.float())


def test_it_tells_which_channels_are_left_of_what_a_convolution_reads(net: Net) -> None:
    kill(net.block.mix_in, slice(5, 25))
    data, peaks = files(net)
    smaller, _, channels = pruned(data, peaks)
    left, all_ = _initializers(smaller), net.block.mix_out.weight
    assert set(channels) == {"block.spatial", "block.mix_out"}
    for keep in channels.values():
        assert torch.equal(left["block.mix_out.weight"].float().reshape(len(all_), -1), all_[:, keep])


def test_what_was_left_out_begins_anew_and_changes_nothing(net: Net) -> None:
    kill(net.block.mix_in, slice(5, 25))
    kill(net.block.expand, slice(0, None))
    data, peaks = files(net)
    smaller, _, _ = pruned(data, peaks)
    torch.manual_seed(1)
    fresh = Net()
    for layer in (fresh.block.mix_out, fresh.block.reduce):  # as families build them
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(fresh.block.reduce.bias)
    _copy_parameters(fresh, _initializers(smaller), ["block.expand".rpartition(".")[0]])
    with torch.inference_mode():
        again = fresh(torch.from_numpy(X)).numpy()
    expected = onnxruntime_engine(1)(data)(x=X)
    assert np.allclose(again, expected, atol=1e-3 * np.abs(expected).max())
    assert fresh.block.expand.weight.any()


def silence(layer: Any, units: slice) -> None:
    """Make hidden units of a layer without biases never fire."""
    with torch.no_grad():
        layer.weight[units] = 0
        layer.bias.zero_()


def read_back(data: bytes, biased: bool = True) -> np.ndarray:
    """What a new net gives for X with the weights of an exported one."""
    torch.manual_seed(1)
    fresh = Net(biased)
    for layer in (fresh.block.mix_out, fresh.block.reduce):
        nn.init.zeros_(layer.weight)
    _copy_parameters(fresh, _initializers(data))
    with torch.inference_mode():
        return fresh(torch.from_numpy(X)).numpy()


def test_biases_of_zeros_are_kept_and_take_constants(net: Net) -> None:
    """Export leaves them out of the graph, but not of the file."""
    silence(net.block.mix_in, slice(5, 25))
    with torch.no_grad():
        for bias in (net.block.mix_out.bias, net.block.expand.bias):
            bias.zero_()
    data, peaks = files(net)
    smaller, left, _ = pruned(data, peaks)
    assert left["block.mix_in"] == (BLOCK, WIDTH)
    graph = onnx.load_from_string(smaller).graph
    names = [item.name for item in graph.initializer]
    assert len(set(names)) == len(names) and _initializers(smaller)["block.mix_out.bias"].any()
    assert not _initializers(smaller)["block.expand.bias"].any()
    expected = onnxruntime_engine(1)(data)(x=X)
    for found in (onnxruntime_engine(1)(smaller)(x=X), read_back(smaller)):
        assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("constant", [True, False])
def test_a_layer_without_a_bias_takes_no_constant(constant: bool) -> None:
    torch.manual_seed(0)
    net = Net(biased=False)
    kill(net.block.mix_in, slice(5, 25))
    if not constant:
        nn.init.zeros_(net.block.spatial.bias)
    data, peaks = files(net)
    smaller, left, _ = pruned(data, peaks)
    assert left.get("block.mix_in") == (None if constant else (BLOCK, WIDTH))
    expected = onnxruntime_engine(1)(data)(x=X)
    for found in (onnxruntime_engine(1)(smaller)(x=X), read_back(smaller, biased=False)):
        assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_a_branch_that_is_the_result_is_kept(net: Net) -> None:
    net.head = nn.Identity()
    kill(net.block.expand, slice(0, None))
    data, peaks = files(net)
    smaller, left, _ = pruned(data, peaks)
    assert left == {} and np.array_equal(onnxruntime_engine(1)(smaller)(x=X), onnxruntime_engine(1)(data)(x=X))


def test_parameters_that_layers_share_are_left_alone(net: Net) -> None:
    """The exporter merges parameters of equal values."""
    net.second = DepthwiseBlock(WIDTH)
    net.second.load_state_dict(net.block.state_dict())
    net.forward = lambda x: net.head(net.second(net.block(net.stem(x))))  # type: ignore[method-assign]
    kill(net.block.mix_in, slice(5, 25))
    kill(net.second.mix_in, slice(5, 25))
    data, peaks = files(net)
    smaller, _, _ = pruned(data, peaks)
    expected = onnxruntime_engine(1)(data)(x=X)
    assert np.allclose(onnxruntime_engine(1)(smaller)(x=X), expected, atol=1e-3 * np.abs(expected).max())

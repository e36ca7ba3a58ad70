# SPDX-License-Identifier: MIT
"""Channels of the hyper analysis that never fire are left out, and nothing changes."""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.training import export  # noqa: E402
from fewbits.training.pruning import BLOCK  # noqa: E402
from fewbits.training.silent import without_silent  # noqa: E402

CONFIG = FewConfig(
    latent=12, hyper=4, width_8=8, depth_8=1, width_16=8, depth_16=1, hyper_width=64, lambdas=(0.0018, 0.0175, 0.17)
)
LOUD = {"spatial_16": [1, 5, 17, 40, 63], "spatial_32": [*range(0, 64, 3)]}


@pytest.fixture
def model() -> Any:
    """All channels but those of LOUD have a bias that nothing outweighs."""
    torch.manual_seed(0)
    model = Few(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, channels in LOUD.items():
            bias = model.hyper_analysis.get_submodule(name).bias
            loud = torch.zeros(len(bias), dtype=torch.bool)
            loud[channels] = True
            bias.copy_(torch.where(loud, 10.0, -1e4))
        model.deviation.copy_(torch.linspace(0.2, 3.0, 12))
    return model.eval()


@pytest.fixture
def crops() -> list[Any]:
    torch.manual_seed(1)
    return list(torch.rand(4, 3, 128, 64).split(2))


def test_the_model_is_the_same_with_less(model: Any, crops: list[Any]) -> None:
    found, channels = without_silent(model, crops)
    assert channels == {"hyper_analysis.spatial_16": (BLOCK, 64), "hyper_analysis.spatial_32": (2 * BLOCK, 64)}
    assert found.config == replace(CONFIG, hyper_analysis_units=(BLOCK, 2 * BLOCK))
    with torch.no_grad():
        for x in crops:
            for level in (torch.tensor([0.0, 1.3]), torch.tensor([2.0, 0.4])):
                for one, other in zip(model(x, level), found(x, level), strict=True):
                    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert model.config == CONFIG and len(model.hyper_analysis.stem.weight) == 64, "the one that was given is as it was"
    assert not found.training and without_silent(model.train(), crops)[0].training


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("picture", range(6))
def test_a_channel_that_fires_once_stays(model: Any, level: int, picture: int) -> None:
    """At one level, at one place of one picture, and hardly."""
    x = torch.zeros(6, 3, 64, 64)
    x[picture, :, 32:48, 16:32] = 1.0
    with torch.no_grad():
        model.analysis.shortcut.weight.zero_()
        model.analysis.shortcut.weight[0], model.analysis.head.weight[:] = 1 / 768, 0.0  # y: the block's mean, -1/2 to 1/2
        model.analysis.shortcut.bias.zero_()
        hyper, width = model.hyper_analysis, 64
        for name in LOUD:
            hyper.get_submodule(name).bias.fill_(-1e4)
        hyper.stem.weight[20], hyper.stem.bias[20] = 0.0, 0.0
        hyper.stem.weight[20, 0], hyper.spatial_16.weight[20] = 1.0, 0.0
        hyper.spatial_16.weight[20, 0, 1, 1], hyper.spatial_16.bias[20] = 1.0, -2.0
        model.hyper_modulation[:, 20] = 0.0
        model.hyper_modulation[:, width + 20] = -10.0
        # where the picture is white y is 1/2, by its deviation of 0.2 2.5, of which shift and bias leave 0.1
        model.hyper_modulation[level, width + 20] = -0.4
    found, _ = without_silent(model, x.split(2))
    assert len(found.hyper_analysis.spatial_16.bias) == BLOCK and -2.0 in found.hyper_analysis.spatial_16.bias


def test_where_all_are_silent_a_block_stays(model: Any, crops: list[Any]) -> None:
    with torch.no_grad():
        for name in LOUD:
            model.hyper_analysis.get_submodule(name).bias.fill_(-1e4)
    _, channels = without_silent(model, crops)
    assert set(channels.values()) == {(BLOCK, 64)}


def test_where_all_channels_fire_all_stay(model: Any, crops: list[Any]) -> None:
    with torch.no_grad():
        for name in LOUD:
            model.hyper_analysis.get_submodule(name).bias.fill_(10.0)
    found, channels = without_silent(model, crops)
    assert set(channels.values()) == {(64, 64)}
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_bundle_without_them_gives_them_back(model: Any, crops: list[Any]) -> None:
    """Export, and the model of what was exported."""
    found, _ = without_silent(model, crops)
    files = export.bundle_files("few", found, {"architecture": {**vars(found.config)}})
    bundle = export.parse_bundle(files, "the bundle")
    assert bundle.tables["hyper_scale"].shape == (3, BLOCK)
    again = export.load_model(bundle)
    assert torch.allclose(again.hyper_modulation, found.hyper_modulation)
    assert again.hyper_analysis.middle.weight.shape == (2 * BLOCK, 4 * BLOCK)


@pytest.mark.parametrize(("units", "shown"), [((16,), "16"), ((16, 32, 16), "16,32,16"), ((16, 0), "16,0"), ((-1, 8), "-1,8")])
def test_units_that_cannot_be_are_named(units: tuple[int, ...], shown: str) -> None:
    with pytest.raises(TrainingError, match=f"hyper_analysis_units is {shown}, it must be two numbers of 1 or more, or none"):
        Few(replace(CONFIG, hyper_analysis_units=units))

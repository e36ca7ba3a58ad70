# SPDX-License-Identifier: MIT
"""The gradient of synthesis, as a bundle has it, is what backpropagation gives."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fewbits.codec import Model  # noqa: E402
from fewbits.families.few import Few, FewConfig  # noqa: E402
from fewbits.runtime.bundle import parse_bundle  # noqa: E402
from fewbits.runtime.engines import onnxruntime_engine  # noqa: E402
from fewbits.training.export import amended, bundle_files, load_model  # noqa: E402

Picture = Callable[..., np.ndarray]
SQUARED = {"training": {"loss": "mse=2"}}
LAYERS = {"latent": 40, "hyper": 4, "width_8": 32, "width_16": 32, "hyper_width": 8, "lambdas": (0.0018, 0.0175, 0.17)}


def few(**settings: int | float) -> Few:
    """With weights that are not 0 anywhere."""
    torch.manual_seed(1)
    model = Few(FewConfig(**LAYERS | settings))
    with torch.no_grad():
        for parameter in model.synthesis.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model


@pytest.mark.parametrize(
    "settings", [{"depth_8": 2, "depth_16": 1}, {"depth_8": 1, "depth_16": 0}, {"depth_8": 0, "depth_16": 0}]
)
def test_it_is_what_backpropagation_gives(settings: dict[str, int], picture: Picture) -> None:
    pictures = [picture(128, 64, seed) for seed in range(2)] if settings["depth_16"] else []  # then units are left out, too
    model = few(**settings)
    bundle = parse_bundle(bundle_files("few", model, SQUARED | {"architecture": asdict(model.config)}, pictures), "here")
    synthesis = load_model(bundle).eval().synthesis
    draw = torch.Generator().manual_seed(2)
    y_hat = (0.3 * torch.randn(1, 40, 4, 6, generator=draw)).requires_grad_()
    scale, shift = (torch.randn(1, 32, 1, 1, generator=draw) for _ in range(2))
    target, weight = (torch.rand(1, 192, 8, 12, generator=draw) for _ in range(2))
    x_hat = torch.nn.functional.pixel_unshuffle(synthesis(y_hat, scale, shift), 8)
    slope = ((x_hat.clamp(-0.5, 0.5) - target) * weight).detach()
    (expected,) = torch.autograd.grad((x_hat * slope).sum(), y_hat)
    inputs = {"y_hat": y_hat, "scale": scale, "shift": shift, "target": target, "weight": weight}
    network = onnxruntime_engine(1)(bundle.gradient_network())
    found = network(**{name: value.detach().numpy() for name, value in inputs.items()})
    assert np.abs(found - expected.numpy()).max() < 1e-4 * np.abs(expected.numpy()).max()


def test_it_is_the_same_beside_an_int8_variant(picture: Picture) -> None:
    model = few(depth_8=2, depth_16=1, int8=0.5)
    model.measure([torch.rand(2, 3, 64, 64)])
    files = bundle_files("few", model, SQUARED, [picture(128, 64)])
    bundle = parse_bundle(files, "here")
    assert bundle.at("int8").gradient_network() == bundle.gradient_network()
    assert Model(files, "here", precision="int8").pipeline.takes_effort


@pytest.mark.parametrize("loss", ["mse=0.2,ms-ssim=700", "l1"])
def test_only_squared_error_has_one(loss: str) -> None:
    files = bundle_files("few", few(depth_8=1, depth_16=0), {"training": {"loss": loss}})
    assert "synthesis.gradient.onnx" not in files and "effort" not in parse_bundle(files, "here").card
    assert not Model(files, "here").pipeline.takes_effort


def test_a_penalty_is_something_else() -> None:
    card = {"training": {"loss": "mse", "penalty": "sparse=1"}}
    assert "synthesis.gradient.onnx" not in bundle_files("few", few(depth_8=1, depth_16=0), card)


def test_the_card_says_what_errors_are_worth_and_amending_keeps_it() -> None:
    files = bundle_files("few", few(depth_8=1, depth_16=0), SQUARED)
    assert parse_bundle(files, "here").card["effort"] == {"lambdas": [0.0036, 0.035, 0.34]}
    again = amended(files, {}, {"name": "other"})
    assert again["synthesis.gradient.onnx"] == files["synthesis.gradient.onnx"]
    assert Model(again, "here").bundle.model_id == Model(files, "here").bundle.model_id

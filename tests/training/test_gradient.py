# SPDX-License-Identifier: MIT
"""The gradient of synthesis, as a bundle has it, is what backpropagation gives."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fewbits.codec import Model  # noqa: E402
from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families import FAMILIES  # noqa: E402
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


@pytest.mark.parametrize("loss", ["mse=0.2,l1=3", "vgg", "mse=1e7"])
def test_only_what_encoders_know_has_one(loss: str) -> None:
    files = bundle_files("few", few(depth_8=1, depth_16=0), {"training": {"loss": loss}})
    assert "synthesis.gradient.onnx" not in files and "effort" not in parse_bundle(files, "here").card
    assert not Model(files, "here").pipeline.takes_effort


def test_a_penalty_is_something_else() -> None:
    card = {"training": {"loss": "mse", "penalty": "sparse=1"}}
    assert "synthesis.gradient.onnx" not in bundle_files("few", few(depth_8=1, depth_16=0), card)


SEEN = {"mse": 0.2, "ms-ssim": 700.0, "ssimulacra2": 3.0}


@pytest.mark.parametrize(
    ("card", "terms"),
    [
        (SQUARED, {"mse": 2.0}),
        ({"training": {"loss": "mse=0.2,ms-ssim=700,ssimulacra2=3"}}, SEEN),
        ({"training": {"loss": "l1", "penalty": "sparse"}, "effort": {"terms": {"ms-ssim": 5}}}, {"ms-ssim": 5.0}),
    ],
)
def test_the_card_says_what_is_heeded(card: dict[str, Any], terms: dict[str, float]) -> None:
    """What it was trained for, or what is asked for."""
    files = bundle_files("few", few(depth_8=1, depth_16=0), card)
    assert parse_bundle(files, "here").card["effort"] == {"lambdas": [0.0018, 0.0175, 0.17], "terms": terms}
    pixels = np.random.default_rng(1).integers(0, 256, (40, 24, 3), np.uint8)
    model = Model(files, "here")
    plain, moved = (model.symbols(model.encode(pixels, 50, effort=effort)).latent for effort in (0, 2))
    assert moved.any() and (moved != plain).any()


@pytest.mark.parametrize(
    "entry", [{}, {"terms": {}}, {"terms": {"vgg": 1}}, {"terms": {"mse": -1}}, {"terms": "mse"}, "mse", None]
)
def test_other_wishes_are_told_of(entry: Any) -> None:
    with pytest.raises(
        TrainingError, match="^--card: effort is .*, it must have `terms`: weights above 0 and below 1e\\+06 of mse, ms-ssim"
    ):
        bundle_files("few", few(depth_8=1, depth_16=0), SQUARED | {"effort": entry})


def test_other_families_have_none() -> None:
    trained = FAMILIES["klt"]
    with pytest.raises(TrainingError, match="^--card: effort is for the family few, of klt"):
        bundle_files("klt", trained[1](trained[0]()), {"effort": {"terms": {"mse": 1}}})


def test_amending_keeps_it() -> None:
    files = bundle_files("few", few(depth_8=1, depth_16=0), SQUARED)
    again = amended(files, {}, {"name": "other"})
    assert again["synthesis.gradient.onnx"] == files["synthesis.gradient.onnx"]
    assert Model(again, "here").bundle.model_id == Model(files, "here").bundle.model_id

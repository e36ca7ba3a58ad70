# SPDX-License-Identifier: MIT
"""Leading bits under an importance map: the quantizers' values and slopes, and what becomes files."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits import cli  # noqa: E402
from fewbits.codec import Model, inspect  # noqa: E402
from fewbits.errors import ImageError, ModelError, TrainingError  # noqa: E402
from fewbits.families import FAMILIES  # noqa: E402
from fewbits.families.content_weighted import Cae3Config, ContentWeightedConfig, ResnetAeConfig  # noqa: E402
from fewbits.families.losses import Distortion, Penalty  # noqa: E402
from fewbits.families.masked import HALO, MaskedAutoencoder, leading_bits, masked, soft, straight  # noqa: E402
from fewbits.runtime import masked as runtime  # noqa: E402
from fewbits.runtime.bundle import pack_bundle  # noqa: E402
from fewbits.runtime.engines import onnxruntime_engine  # noqa: E402
from fewbits.runtime.manifest import MANIFEST, parse_manifest  # noqa: E402
from fewbits.training.export import bundle_files, write_folder  # noqa: E402
from fewbits.view import box_averaged  # noqa: E402

Picture = Callable[..., np.ndarray]
SMALL = {"width": 8, "channels": 3}
CONFIGS = {
    "content-weighted": ContentWeightedConfig(**SMALL),
    "resnet-ae": ResnetAeConfig(**SMALL),
    "cae3": Cae3Config(**SMALL),
}


@lru_cache(maxsize=32)  # an export takes seconds
def made_files(family: str, **changes: Any) -> dict[str, bytes]:
    """A bundle with random weights that are large enough to tell places from each other."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(replace(CONFIGS[family], **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return bundle_files(family, model, {})


def made(family: str, **changes: object) -> Model:
    return Model(made_files(family, **changes), "made here", onnxruntime_engine(1))


def test_kept_bits_stand_for_the_middle_of_what_they_begin() -> None:
    values = torch.tensor([0.0, 0.3, 0.7, 1.0])
    assert leading_bits(values, 0).tolist() == [0, 0, 0, 0]
    assert leading_bits(values, 1).tolist() == [-0.25, -0.25, 0.25, 0.25]
    assert leading_bits(values, 2).tolist() == [-0.375, -0.125, 0.125, 0.375]
    for bits in range(7):
        error = (leading_bits(torch.linspace(0, 1, 1001), bits) - (torch.linspace(0, 1, 1001) - 0.5)).abs()
        assert error.max() <= 0.5**bits / 2 + 1e-6


@pytest.mark.parametrize("quantizer", [straight, soft])
def test_quantizers_round_and_pass_a_slope(quantizer: Callable[..., torch.Tensor]) -> None:
    values = torch.linspace(0.05, 0.95, 500, requires_grad=True)
    out = quantizer(values)
    assert torch.allclose(out, leading_bits(values.detach(), 6), atol=1e-6)
    out.sum().backward()
    assert values.grad is not None
    assert values.grad.mean() == pytest.approx(1.0, abs=0.02)
    assert (values.grad.std() > 0.01) == (quantizer is soft)  # the soft one is steep between two levels and flat at one


def test_the_slope_of_importance_is_what_a_further_step_changes() -> None:
    values, importance = torch.rand(2, 3, 4, 4), torch.full((2, 1, 4, 4), 1.2, requires_grad=True)
    target = torch.rand(2, 3, 4, 4)
    (masked(values, importance, "straight") * target).sum().backward()
    rise = leading_bits(values, 4) - leading_bits(values, 2)
    assert torch.allclose(importance.grad, (rise * target).sum(1, keepdim=True), atol=1e-6)


def test_nothing_is_kept_where_the_importance_is_nought() -> None:
    values = torch.rand(1, 2, 1, 4, requires_grad=True)
    y_hat = masked(values, torch.tensor([0.0, 0.4, 0.6, 3.0]).view(1, 1, 1, 4), "straight")
    assert y_hat[..., :2].abs().max() == 0 and torch.equal(y_hat[..., 2], leading_bits(values[..., 2], 2))
    y_hat.sum().backward()
    assert values.grad is not None
    assert values.grad[..., :2].abs().max() == 0 and values.grad[..., 2:].min() == 1


@pytest.mark.parametrize("changes", [{"colours": 2}, {"quantizer": "hard"}, {"coder": "zip"}])
def test_settings_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=f"{next(iter(changes))} is"):
        MaskedAutoencoder(replace(CONFIGS["content-weighted"], **changes))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("quantizer", ["straight", "soft", "none"])
def test_every_part_gets_a_gradient(family: str, quantizer: str) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(replace(CONFIGS[family], quantizer=quantizer))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # blocks begin as the identity, which hides what is before
    loss, parts = model.loss(torch.rand(2, 3, 32, 32), Distortion("mse"), Penalty("sparse=1e-4"))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert ("kept_bpp" in parts) == (family == "content-weighted")


@pytest.mark.parametrize("coder", ["huffman", "adaptive"])
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("colours", [1, 3])
def test_files_hold_what_the_estimate_says(family: str, coder: str, colours: int, picture: Picture) -> None:
    model = made(family, coder=coder, colours=colours)
    for pixels in (picture(300, 70), picture(300, 70)[..., 0]):
        data = model.encode(pixels, 60)
        ideal = model.estimated_bits(data) / 8
        planes = 1 if colours == 3 or pixels.ndim == 2 else 3
        symbols = model.symbols(data)
        assert symbols.latent.shape == (planes, 3, 38, 9)
        tables = 4 * 150 if coder == "huffman" else 4 * 30  # of a map and two strips
        assert ideal * (0.999 if coder == "adaptive" else 1) <= len(data) <= ideal + symbols.latent.size / 8 + tables + 60
        assert np.asarray(model.decode(data)).shape == pixels.shape


def test_quality_says_how_many_bits_are_kept(picture: Picture) -> None:
    plain, mapped = made("resnet-ae"), made("content-weighted")
    assert [plain.pipeline.level(100 * q, "rgb").bits for q in (0, 12, 24, 36, 48, 60, 100)] == [1, 2, 3, 4, 5, 6, 6]
    means = [mapped.symbols(mapped.encode(picture(60, 70), q)).importance.mean() for q in (0, 30, 60, 80, 100)]
    assert means == sorted(means) and means[0] == 0 and means[-1] == 3


def test_a_region_of_interest_has_the_importance_of_its_quality_and_the_rest_that_of_a_lower_one(picture: Picture) -> None:
    model, pixels = made("content-weighted"), picture(280, 150)  # two strips
    mask = np.zeros((280, 150), np.uint8)
    mask[200:257, 70] = 255  # rows 24..39 and columns 8..15 of the latent
    high, low, mixed = (
        model.encode(pixels, quality, roi=roi, roi_drop=drop)
        for quality, roi, drop in ((70, None, None), (40, None, None), (70, Image.fromarray(mask), 30))
    )
    importance = [model.symbols(data).importance for data in (high, low, mixed)]
    inside = np.zeros(importance[0].shape, bool)
    inside[:, 24:40, 8:16] = True
    assert np.array_equal(importance[2], np.where(inside, importance[0], importance[1]))
    assert (importance[0] != importance[1])[inside].any() and len(low) < len(mixed) < len(high)
    assert [kind for kind, _ in inspect(mixed).sections] == [3, 2, 2], "the importance says it all: no qualities"


def test_the_command_line_takes_a_mask(picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    write_folder(tmp_path / "model", made_files("content-weighted"))
    Image.fromarray(picture(80, 120)).save(tmp_path / "in.png")
    Image.new("L", (120, 80), 255).save(tmp_path / "mask.png")
    Image.new("L", (80, 120), 255).save(tmp_path / "turned.png")

    def encode(mask: str, out: str) -> object:
        options = ["--model", tmp_path / "model", "--roi", tmp_path / mask, "-q", 90, "--roi-drop", 60]
        monkeypatch.setattr("sys.argv", ["fewbits", "encode", *map(str, [tmp_path / "in.png", tmp_path / out, *options])])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code

    assert not encode("mask.png", "out.few")
    assert (tmp_path / "out.few").read_bytes() == made("content-weighted").encode(picture(80, 120), 90)  # all is white
    assert encode("turned.png", "other.few") == 1 and not (tmp_path / "other.few").exists()
    assert "in.png: roi: the mask is uint8 of shape (120, 80)" in capsys.readouterr().err


def test_masks_of_another_kind_are_refused(picture: Picture) -> None:
    pixels = picture(20, 30)
    with pytest.raises(ImageError, match=r"roi: the mask is uint8 of shape \(30, 20\), .* 20 rows and 30 columns"):
        made("content-weighted").encode(pixels, roi=np.zeros((30, 20), np.uint8))
    with pytest.raises(ImageError, match="roi: this model, of family resnet-ae, has one quality"):
        made("resnet-ae").encode(pixels, roi=np.zeros((20, 30), np.uint8))


@pytest.mark.parametrize("family", CONFIGS)
def test_tiles_are_the_same_as_the_whole(family: str, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = made(family), picture(300, 330)
    results = []
    for rows, columns in ((1000, 1000), (13, 11)):
        monkeypatch.setattr(runtime, "TILE_ROWS", rows)
        monkeypatch.setattr(runtime, "TILE_COLUMNS", columns)
        level = model.pipeline.level(6000, "rgb")
        y = model.pipeline.analyse(pixels, level, lambda _: None)
        results.append((y, np.asarray(model.decode(model.encode(pixels, 60)), int)))
    assert np.abs(results[0][0] - results[1][0]).max() < 1e-5
    assert np.abs(results[0][1] - results[1][1]).max() <= 1
    assert HALO >= 9  # where a narrower one would do, the test would not notice


@pytest.mark.parametrize("family", CONFIGS)
def test_parts_and_cut_files(family: str, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strips: a region, a scale, and a file without its second strip, in small tiles."""
    model, pixels = made(family), picture(32 * 8 + 30, 61)
    data = model.encode(pixels, 60)
    whole = np.asarray(model.decode(data), int)
    monkeypatch.setattr(runtime, "TILE_ROWS", 5)
    monkeypatch.setattr(runtime, "TILE_COLUMNS", 3)
    assert np.abs(np.asarray(model.decode(data, region=(9, 250, 40, 21)), int) - whole[250:271, 9:49]).max() <= 1
    small = np.asarray(model.decode(data, scale=4), int)
    assert np.abs(small - box_averaged(whole, 4)).max() <= 1
    level = model.pipeline.level(6000, "rgb")
    crc, sections = model.pipeline.encode(pixels, level, lambda _: None)
    symbols, held = model.pipeline.quantize(model.pipeline.analyse(pixels, level, lambda _: None), level)
    assert crc == symbols.crc() and sections == held
    cut = np.asarray(model.decode(data[:-1], allow_truncated=True), int)
    assert cut.shape == whole.shape and np.abs(cut - whole)[: 256 - 8 * (HALO + 1)].max() <= 1


def test_a_narrow_halo_is_noticed(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewbits.families.masked.HALO", 1)
    monkeypatch.setitem(globals(), "made_files", made_files.__wrapped__)
    with pytest.raises(AssertionError):
        test_tiles_are_the_same_as_the_whole("content-weighted", picture, monkeypatch)


@pytest.mark.parametrize(
    "change", [{"stride": 0}, {"colours": 2}, {"coder": "zip"}, {"levels": [[60, 1], [0, 2]]}, {"levels": 3}]
)
def test_damaged_bundles_give_a_model_error(change: dict[str, object]) -> None:
    files = dict(made_files("resnet-ae"))
    manifest = parse_manifest(files.pop(MANIFEST), "made here")
    with pytest.raises(ModelError, match="missing or wrong in the bundle"):
        Model(pack_bundle("resnet-ae", manifest["coding"] | change, manifest["card"], files), "made here")


@pytest.mark.parametrize("colours", [1, 3])
def test_residual_autoencoders_start_as_principal_components(colours: int, picture: Picture) -> None:
    """What they make of pictures is near to what as many components of 8x8 blocks make of them."""
    torch.manual_seed(0)
    x = torch.from_numpy(np.stack([picture(64, 64, seed) for seed in range(8)])).movedim(3, 1).float() / 255
    channels = 8 * colours
    model = MaskedAutoencoder(ResnetAeConfig(colours=colours, channels=channels, width=16 * colours + 1))
    model.initialize(iter(x.split(2)), Distortion("mse"))
    planes = x.reshape(-1, colours, 64, 64) - 0.5
    blocks = torch.nn.functional.unfold(planes, 8, stride=8).movedim(1, -1).flatten(0, 1)
    centred = (blocks - blocks.mean(0)).double()
    left_out = torch.linalg.svdvals(centred)[channels:].square().sum() / centred.numel()
    with torch.no_grad():
        error = (model.synthesis(model.analysis(x)[0] - 0.5, x) - x).square().mean()
    assert left_out < error < left_out + 0.05 * centred.square().mean()  # the sigmoid is no line, and levels nest


def test_the_table_of_families_has_them() -> None:
    assert all(FAMILIES[name] == (type(config), MaskedAutoencoder) for name, config in CONFIGS.items())

# SPDX-License-Identifier: MIT
"""The flagship: it starts as a transform codec, reaches no further than it says, and costs no more than it may."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewbits.codec import Model, load_model  # noqa: E402
from fewbits.errors import TrainingError  # noqa: E402
from fewbits.families import FAMILIES  # noqa: E402
from fewbits.families.few import Few, FewConfig, at_level, from_coarse_to_fine  # noqa: E402
from fewbits.families.losses import Distortion, Penalty  # noqa: E402
from fewbits.families.means import edges_repeated  # noqa: E402

Picture = Callable[..., np.ndarray]
TINY = FewConfig(latent=12, hyper=4, width_8=8, depth_8=3, width_16=8, depth_16=1, hyper_width=8, lambdas=(0.0018, 0.0175, 0.17))
MAC_LIMIT = 12_000  # a pixel
ENCODING_LIMIT = 13_000  # since the analysis grew: docs/adr/0014-two-tunings.md


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def tensor(pixels: np.ndarray):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def scrambled(config: FewConfig) -> Few:
    """A model none of whose weights is zero."""
    model = Few(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_the_family_is_in_the_table() -> None:
    assert FAMILIES["few"] == (FewConfig, Few)


# Levels


def test_rows_are_interpolated_between_levels() -> None:
    table = torch.tensor([[0.0, 10.0], [1.0, 30.0], [5.0, 0.0]])
    found = at_level(table, torch.tensor([0.0, 0.5, 1.0, 1.25, 2.0]))
    expected = torch.tensor([[0.0, 10.0], [0.5, 20.0], [1.0, 30.0], [2.0, 22.5], [5.0, 0.0]])
    assert torch.allclose(found, expected)


def test_the_loss_weight_is_lambda_at_each_level_and_geometric_between() -> None:
    model = Few(TINY)
    assert torch.allclose(model.loss_weight(torch.arange(3.0)), torch.tensor(TINY.lambdas))
    middle = model.loss_weight(torch.tensor([0.5])).item()
    assert middle == pytest.approx(math.sqrt(TINY.lambdas[0] * TINY.lambdas[1]), rel=1e-5)


def test_validation_covers_the_whole_range_of_levels() -> None:
    assert Few(TINY).settings == (0.0, 0.5, 1.0, 1.5, 2.0)


# The start


@pytest.fixture(scope="module")
def started() -> Few:
    """Every component kept and coded, initialized on noise and waves: the start is a complete orthonormal transform."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 8, (3, 256, 256)), axis=2) + np.cumsum(rng.normal(0, 8, (3, 256, 256)), axis=1)
    batch = torch.from_numpy(np.clip(128 + smooth + rng.normal(0, 9, (4, 3, 256, 256)), 0, 255)).float() / 255
    model = Few(replace(TINY, latent=768, first_coded=0))
    model.initialize([batch], Distortion("mse"))
    return model


def test_the_start_is_an_orthonormal_transform(started: Few) -> None:
    forth, back = started.analysis.shortcut.weight, started.synthesis.shortcut_16.weight
    assert torch.allclose(forth @ forth.T, torch.eye(768), atol=1e-4)
    blocks = torch.pixel_shuffle(torch.pixel_shuffle(forth[:, :, None, None], 2), 8)  # (768, 3, 16, 16)
    assert torch.allclose(back, blocks.flatten(1).T)
    assert (started.deviation.diff() <= 1e-6).all(), "components come in order of their variance"


def test_the_start_loses_nothing_but_by_quantization(started: Few, picture: Picture) -> None:
    """An orthonormal transform keeps lengths: the error of a pixel is at most half a step of the quantizer, on average."""
    started.eval()
    x = tensor(picture(128, 192))
    with torch.no_grad():
        y = started.analysis(started.to_8(x - 0.5))
        zero = torch.zeros(1, TINY.width_16, 1, 1)
        assert torch.allclose(started.synthesis(y, zero + 1, zero), x - 0.5, atol=1e-4)
        for level in (0.0, 1.0, 2.0):
            out = started.estimate(x, level)
            gain, inverse_gain = started.gains(torch.tensor([level]))
            assert torch.allclose(gain * inverse_gain, torch.ones(()), atol=1e-5)
            assert (out.x_hat - x).square().mean().sqrt() <= 0.5 / gain.min() + 1e-4


def test_less_distortion_costs_more_bits(started: Few, picture: Picture) -> None:
    started.eval()
    x = tensor(picture(128, 192))
    with torch.no_grad():
        outs = [started.estimate(x, level) for level in (0.0, 0.7, 1.4, 2.0)]
    errors = [(out.x_hat - x).square().mean().item() for out in outs]
    bits = [out.y_bits.item() + out.z_bits.item() for out in outs]
    assert errors == sorted(errors, reverse=True) and bits == sorted(bits)


# Training


@pytest.mark.parametrize("training", [True, False])
def test_an_estimate_is_of_each_picture_by_itself(training: bool) -> None:
    model = scrambled(TINY).train(training)
    x = torch.rand(3, 3, 64, 128)
    out = model(x, torch.tensor([0.0, 1.3, 2.0]))
    assert out.x_hat.shape == x.shape and out.y_bits.shape == out.z_bits.shape == (3,)
    assert (out.y_bits > 0).all() and (out.z_bits > 0).all()
    if not training:
        alone = model(x[1:2], torch.tensor([1.3]))
        assert torch.allclose(alone.x_hat[0], out.x_hat[1], atol=1e-5)
        assert alone.y_bits.item() == pytest.approx(out.y_bits[1].item(), rel=1e-4)


def test_every_parameter_is_trained() -> None:
    model = scrambled(TINY).train()
    with torch.no_grad():
        model.hyper_analysis.head.weight *= 10  # hyper symbols that are not all zero
    loss, parts = model.loss(torch.rand(8, 3, 64, 64), Distortion("mse"), Penalty(""))
    loss.backward()
    assert loss.isfinite() and parts["bpp"] > 0 and parts["mse"] > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_distortion_and_penalty_reach_the_loss() -> None:
    model, x = scrambled(TINY).eval(), torch.rand(2, 3, 64, 64)  # no noise
    values = []
    for distortion, penalty in (("mse", ""), ("mse=2", ""), ("l1", ""), ("mse", "sparse=0.1"), ("mse", "contractive=0.1")):
        torch.manual_seed(0)
        wanted = Penalty(penalty)
        values.append(model.loss(x.clone().requires_grad_(wanted.needs_gradient), Distortion(distortion), wanted)[0].item())
    assert len({round(value, 6) for value in values}) == 5
    assert min(values[1], values[3], values[4]) > values[0]


# The coding side


def reach(network, inputs: dict, name: str, step: int, out_step: int, place: int) -> int:
    """How many positions of `step` inputs (or `out_step` outputs) from `place` a change there is felt, rows and columns."""
    with torch.no_grad():
        before = network(**inputs)
        furthest = 0
        for offset in range(step):
            changed = inputs[name].clone()
            where = place * step + offset
            changed[:, :, where, where] = changed[:, :, where, where] * -1 + 3
            felt = (network(**inputs | {name: changed}) != before).any(1)[0].nonzero() // out_step
            furthest = max(furthest, int((felt - place).abs().max()))
        return furthest


@pytest.mark.parametrize("depth_8", [1, 2, 3, 4])
@pytest.mark.parametrize(("depth_16", "extra"), [(0, 0), (1, 0), (2, 0), (0, 3), (1, 3)])
def test_the_halo_is_as_wide_as_the_networks_reach(depth_8: int, depth_16: int, extra: int) -> None:
    model = scrambled(replace(TINY, depth_8=depth_8, depth_16=depth_16, analysis_extra_8=extra)).eval()
    modulation = {"scale": torch.ones(1, 8, 1, 1), "shift": torch.ones(1, 8, 1, 1)}
    reached = (
        reach(model.analysis, {"x": torch.randn(1, 192, 50, 50)}, "x", 2, 1, 12),
        reach(model.synthesis, {"y_hat": torch.randn(1, 12, 25, 25), **modulation}, "y_hat", 1, 16, 12),
    )
    assert max(reached) == model.coding()["halo"]


def test_the_hyper_halo_is_as_wide_as_the_networks_reach() -> None:
    model = scrambled(TINY).eval()
    halo = model.coding()["hyper_halo"]
    biases = {"bias_in": torch.full((1, 8, 1, 1), 300.0), "bias_out": torch.zeros(1, 12, 1, 1)}
    z = torch.randint(-4, 5, (1, 4, 13, 13)).float()
    assert 1 <= reach(model.scale_net, {"z_hat": z, **biases}, "z_hat", 1, 4, 6) <= halo
    hyper = {"scale": torch.ones(1, 8, 1, 1), "shift": torch.ones(1, 8, 1, 1)}
    assert (
        reach(model.hyper_analysis, {"y": torch.randn(1, 12, 52, 52), **hyper}, "y", 4, 1, 6) <= 2
    )  # runtime: 8 latent positions


def test_what_the_coding_side_reads_has_the_shapes_of_the_document() -> None:
    """docs/bundle.md"""
    model = scrambled(TINY)
    tables = model.tables()
    shapes = {name: table.shape for name, table in tables.items() if not name.startswith("y_")}
    assert shapes == {
        "gain": (3, 12), "inverse_gain": (3, 12), "deviation": (12,), "bias_in": (3, 8), "bias_out": (3, 12),
        "hyper_scale": (3, 8), "hyper_shift": (3, 8), "synthesis_scale": (3, 8), "synthesis_shift": (3, 8),
        "z_frequencies": (3, 4, 17), "pyramid_bias": (3, 9),
    }  # fmt: skip
    assert (tables["z_frequencies"].sum(-1) == 2**24).all() and tables["z_frequencies"].min() >= 1
    integers = ("bias_in", "bias_out", "pyramid_bias", "z_frequencies", "y_limits", "y_frequencies")
    assert all(tables[name].dtype.kind in "iu" for name in integers)
    for name, (network, inputs) in model.networks().items():
        out = network.eval()(**inputs)
        expected = {"analysis": (12, 16, 24), "hyper_analysis": (4, 4, 6), "means": (9, 16, 24), "scales": (12, 16, 24)}
        assert out.shape[1:] == expected.get(name, (3, 256, 384))


@pytest.mark.parametrize("without", [{"pyramid": 0}, {"means": 0}, {"pyramid": 0, "means": 0}], ids=str)
def test_a_model_may_do_without_a_pyramid_and_means(tmp_path: Path, picture: Picture, without: dict[str, int]) -> None:
    """Without a pyramid as those exported before there was one."""
    from fewbits.training import export

    config, pixels = replace(TINY, **without), picture(640, 64, 9)  # two strips
    model = Few(config)
    model.initialize([tensor(pixels)], Distortion("mse"))
    export.write_folder(tmp_path / "few", export.bundle_files("few", model.eval(), {"architecture": asdict(config)}))
    codec_model = load_model(tmp_path / "few", threads=1)
    torch_model = export.load_model(export.load_bundle(tmp_path / "few")).eval()
    data = codec_model.encode(pixels, 50)
    with torch.no_grad():
        out = torch_model.estimate(tensor(pixels), 1.0)
    levels = out.x_hat[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    assert np.abs(levels - np.asarray(codec_model.decode(data), float)).mean() < 0.5
    assert codec_model.estimated_bits(data) == pytest.approx((out.y_bits + out.z_bits).item(), rel=0.03)


def test_a_gradient_passes_through_predictions() -> None:
    """What one block's brightness is worth to its neighbours reaches the analysis."""
    model = scrambled(TINY).eval()
    values = torch.randn(1, 12, 16, 16, requires_grad=True)
    index = torch.full((1, 12, 16, 16), 20.0)
    means = model._means(values, index, torch.ones(1, 12, 1, 1))
    means[0, 0, 8, 8].backward()
    assert values.grad is not None and values.grad[0, 0].nonzero().tolist() == [[0, 0]], "the only one known by then"


def test_training_and_coding_compute_the_same(tiny_run, picture: Picture) -> None:
    """Torch's estimate at a level and the file of the quality that stands for it: the same bits and the same picture."""
    from fewbits.training import export

    bundle = export.load_bundle(tiny_run.bundle)
    torch_model, codec_model = export.load_model(bundle).eval(), load_model(tiny_run.bundle, threads=1)
    pixels = picture(192, 128, 9)
    for quality in (0, 20, 50, 87, 100):
        data = codec_model.encode(pixels, quality)
        with torch.no_grad():
            out = torch_model.estimate(tensor(pixels), quality / 100 * 2)
        assert codec_model.estimated_bits(data) == pytest.approx((out.y_bits + out.z_bits).item(), rel=0.03)
        levels = out.x_hat[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
        decoded = np.asarray(codec_model.decode(data), float)
        assert np.abs(levels - decoded).mean() < 0.5 and np.abs(levels - decoded).max() < 8


@pytest.fixture
def on_either_side() -> Few:
    """Of channels whose scale index is the same everywhere: the pyramid's and, from 5 on, others' are too small to be coded."""
    model = scrambled(replace(TINY, means=0))
    with torch.no_grad():
        model.index_bias[:, :3] = model.index_bias[:, 5:] = TINY.first_coded - 3.0
        model.pyramid_bias.zero_()
        for part in (model.scale_net.head.weight, model.scale_net.head.bias):
            part.zero_()
    return model


def test_values_of_small_scales_are_0_but_learn_as_if_they_were_not(on_either_side: Few) -> None:
    """Synthesis gets what it will get; a value, and a scale that is too small, must be able to rise again."""
    model = on_either_side.train()
    weight, x, level = model.analysis.shortcut.weight, torch.rand(2, 3, 128, 128), torch.tensor([0.3, 1.6])
    out = model(x, level)
    for loss, parameter, axes in ((out.x_hat.square(), weight, 1), (out.y_bits, model.index_bias, 0)):
        gradient = torch.autograd.grad(loss.sum(), parameter, retain_graph=True)[0]
        assert (gradient.abs().sum(axes) > 0).all()
    for training, channels, same_x, same_bits in [
        (True, slice(5, None), True, False),
        (True, slice(4, 5), False, False),
        (True, slice(0, 1), False, False),  # of the pyramid all are coded
        (False, slice(5, None), True, True),
        (False, slice(0, 1), False, False),
    ]:
        found = []
        for factor in (1, 3):
            with torch.no_grad():
                weight[channels] *= factor
                torch.manual_seed(3)
                found.append(model.train(training)(x, level))
                weight[channels] /= factor
        one, other = found
        assert torch.equal(one.x_hat, other.x_hat) == same_x, (training, channels)
        assert torch.equal(one.y_bits, other.y_bits) == same_bits, (training, channels)
    assert torch.equal(model.train()(x, level).x_hat, model.eval()(x, level).x_hat)
    bits = model(x, level).y_bits
    with torch.no_grad():
        model.index_bias[:, :3] = TINY.first_coded
    assert torch.equal(model(x, level).y_bits, bits), "as if the pyramid's were the smallest that are coded"


@pytest.mark.parametrize("first", [0, 9, 12])
def test_training_and_coding_leave_out_the_same(tmp_path: Path, picture: Picture, first: int) -> None:
    """Scale indices around the threshold, on it, and half a step below it, which is still coded; of the pyramid all are."""
    from fewbits.training import export

    config = replace(TINY, first_coded=first, dead_zone=0.25)
    model, pixels = Few(config), picture(192, 128, 9)
    model.initialize([tensor(pixels)], Distortion("mse"))
    steps = torch.tensor([-4.0, -0.5, 3.0, -20.0, -0.515625, -0.5, 0.0, 12.0, -1.0, -0.515625, -0.5, 1.0])
    with torch.no_grad():
        model.index_bias[:] = first + steps
        model.pyramid_bias.zero_()
    export.write_folder(tmp_path / "few", export.bundle_files("few", model.eval(), {"architecture": asdict(config)}))
    codec_model = load_model(tmp_path / "few", threads=1)
    torch_model = export.load_model(export.load_bundle(tmp_path / "few")).eval()
    assert torch_model.config.first_coded == first
    for quality in (50, 100):
        data = codec_model.encode(pixels, quality)
        some = codec_model.symbols(data).latent.any((1, 2))
        assert some[(steps >= -0.5) | (torch.arange(12) < 3)].all()
        assert first == 0 or not some[(steps < -0.5) & (torch.arange(12) >= 3)].any()
        with torch.no_grad():
            out = torch_model.estimate(tensor(pixels), quality / 100 * 2)
        levels = out.x_hat[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
        differences = np.abs(levels - np.asarray(codec_model.decode(data), float))
        assert differences.mean() < 0.3 and differences.max() < 8


def test_a_bundle_keeps_the_threshold_that_its_files_have(model: Model) -> None:
    """Those of older releases, whose cards say nothing of it."""
    pytest.importorskip("onnx")
    from fewbits.training import export

    card = {**model.bundle.card, "architecture": {**model.bundle.card["architecture"]}}
    card["architecture"].pop("first_coded", None)
    older = replace(model.bundle, card=card, coding={**model.bundle.coding, "first_coded_index": 1})
    assert export.load_model(older).config.first_coded == export.load_model(older).coding()["first_coded_index"] == 1


@pytest.mark.parametrize("index", [-1, 64])
def test_scale_indices_that_there_are_not_are_refused(index: int) -> None:
    with pytest.raises(TrainingError, match=f"first_coded is {index}, it must be 0 to 63"):
        Few(replace(TINY, first_coded=index))


def multiplications(network, inputs: dict) -> int:
    """Multiply-accumulates of one call, counted at every convolution."""
    counts = []
    convolve = torch.nn.functional.conv2d

    def counting(x, weight, *arguments, **options):
        out = convolve(x, weight, *arguments, **options)
        counts.append(out.numel() * weight[0].numel())
        return out

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "conv2d", counting)
        network.eval()(**inputs)
    return sum(counts)


def test_counting_multiplications() -> None:
    layer = torch.nn.Conv2d(6, 8, 3, padding=1, groups=2)
    assert multiplications(layer, {"input": torch.zeros(1, 6, 5, 7)}) == 5 * 7 * 8 * 3 * 9


@pytest.fixture(params=["shipped", "default"])
def full_size(request: pytest.FixtureRequest, model: Model) -> Iterator[Few]:
    """The shipped model, and one of the default configuration."""
    pytest.importorskip("onnx")
    from fewbits.training import export

    yield export.load_model(model.bundle) if request.param == "shipped" else Few(FewConfig())


def test_a_pixel_costs_no_more_multiplications_than_decided(full_size: Few, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = 256 * 384  # what the example inputs of networks() stand for
    each = {name: multiplications(*pair) / pixels for name, pair in full_size.networks().items()}
    encode = sum(count for name, count in each.items() if name != "synthesis")
    decode = sum(count for name, count in each.items() if name not in ("analysis", "hyper_analysis"))
    with capsys.disabled():
        parts = ", ".join(f"{name} {count:.0f}" for name, count in each.items())
        print(f"\nMAC a pixel: encode {encode:.0f}, decode {decode:.0f} ({parts})")
    assert all(count > (1 if name == "means" else 100) for name, count in each.items())
    assert encode <= ENCODING_LIMIT and decode <= MAC_LIMIT


def test_a_model_that_diverged_has_a_loss_of_nan(picture: Picture) -> None:
    """Which is what stops training in one line; an index that is no number must not end it before."""
    for name in ("analysis.stem.weight", "scale_net.stem.weight"):
        model = Few(TINY)
        with torch.no_grad():
            model.get_parameter(name).fill_(math.nan)
        loss, _ = model.loss(tensor(picture(64, 64)), Distortion("mse"), Penalty(""))
        assert math.isnan(loss.item())


def test_hyper_tables_learn_from_the_symbols_that_they_code(picture: Picture) -> None:
    """Noise is spread wider than symbols: tables that learned from it cost a tenth of the hyper symbols' bits."""
    model, x, level = scrambled(TINY), tensor(picture(64, 128)), torch.tensor([0.7])
    bits = {}
    for training in (True, False):
        model.train(training).zero_grad()
        out = model(x, level)
        out.z_bits.sum().backward()
        bits[training] = out.z_bits.item(), model.z_logits.grad.clone()
    assert bits[True][0] == pytest.approx(bits[False][0], rel=1e-5)
    assert torch.allclose(bits[True][1], bits[False][1], atol=1e-5) and bits[True][1].abs().sum() > 0


def test_calibration_counts_the_hyper_symbols_of_each_level(picture: Picture) -> None:
    model, x = scrambled(TINY).eval(), tensor(picture(512, 640))
    levels = [torch.tensor([float(level)]) for level in range(len(TINY.lambdas))]
    before = [model(x, level).z_bits.item() for level in levels]
    model.calibrate([x])
    after = [model(x, level).z_bits.item() for level in levels]
    assert all(now < then for now, then in zip(after, before, strict=True))
    model.calibrate([x] * 50)  # what had been learned hardly counts any more
    assert model(x, levels[0]).z_bits.item() <= after[0]


def test_calibration_fits_means_to_what_is_coded_in_units_of_its_scale(picture: Picture) -> None:
    """By numpy's least squares over all levels."""
    model, x = scrambled(TINY).eval(), tensor(picture(256, 320))
    with torch.no_grad():
        model.deviation.copy_(torch.linspace(0.5, 3.0, 12))
        model.index_bias[:, 3:] += torch.linspace(-26.5, 0.0, 9)  # so that not all are coded
        y = model.analysis(model.to_8(x - 0.5))
        y *= torch.linspace(0.2, 3.0, 12)[:, None, None] / y.square().mean((0, 2, 3), keepdim=True).sqrt()
    model.analysis.forward = lambda blocks: y
    rows, wanted, weights, coded = [], [], [], []
    for level in range(len(TINY.lambdas)):
        levels = torch.tensor([float(level)])
        gain, deviation = model.gains(levels)[0].detach(), model.deviation[None, :, None, None]
        z = model.hyper_analysis(y / deviation, *model.modulation(model.hyper_modulation, levels)).round().clamp(-8, 8)
        index = model._in_phases(model.scale_net(z, *model.scale_biases(levels))).detach()
        _, decoded = from_coarse_to_fine((y * gain)[:, :3], model._zones(index[:, :3]))
        around = torch.nn.functional.unfold(edges_repeated(decoded / (gain * deviation)[:, :3]), 3)[0].T
        rows.append(np.concatenate([around.numpy(), np.ones((len(around), 1))], axis=1))
        wanted.append((y / deviation)[0, 3:].flatten(1).T.numpy())
        coded.append((torch.floor(index[:, 3:] + 0.5) >= TINY.first_coded).float().mean().item())
        counted = index.clamp(TINY.first_coded, 63)  # of what is not coded the mean is what is decoded
        weights.append((gain * deviation / (0.06 * (35 / 0.06) ** (counted / 63)))[0, 3:].flatten(1).T.numpy())  # docs/format.md
    given, told, weight = (np.concatenate(parts).astype(np.float64) for parts in (rows, wanted, weights))
    assert 0.02 < np.mean(coded) < 0.98, "some are coded, some not"
    model.calibrate([x])
    for k in range(9):
        best = np.linalg.lstsq(given * weight[:, k : k + 1], told[:, k] * weight[:, k], rcond=None)[0]
        found = np.append(model.means.around.weight[k].detach().flatten().numpy(), model.means.around.bias[k].item())
        error, least = (np.square((given @ each - told[:, k]) * weight[:, k]).sum() for each in (found, best))
        assert error < 1.002 * least + 2e-3 * np.square(told[:, k] * weight[:, k]).sum()


def test_calibration_finds_means_that_save_bits(picture: Picture) -> None:
    model, x = scrambled(TINY).eval(), tensor(picture(512, 640))
    level = torch.tensor([1.0])
    with torch.no_grad():
        model.means.around.weight.zero_()
        model.means.around.bias.zero_()
        # the channel after the pyramid: half of the difference of what is right and left
        shift = torch.zeros(1, 1, 3, 3)
        shift[0, 0, 1] = torch.tensor([-0.5, 0.0, 0.5])

    def analysed(network: Any) -> Any:
        def call(blocks: Any) -> Any:
            y = network(blocks)
            across = torch.nn.functional.conv2d(edges_repeated(y[:, :1]), shift)
            return torch.cat([y[:, :3], across, y[:, 4:]], dim=1)

        return call

    model.analysis.forward = analysed(type(model.analysis).forward.__get__(model.analysis))
    before = model(x, level).y_bits.item()
    model.calibrate([x])
    found = model.means.around.weight[0, 0].detach()
    assert 0.3 < found[1, 2] < 0.7 and -0.7 < found[1, 0] < -0.3 and found.sum().abs() < 0.1
    assert model(x, level).y_bits.item() < before


def test_means_are_of_as_many_channels_as_there_are() -> None:
    assert TINY.n_means == 9 and replace(TINY, means=4).n_means == 4 and replace(TINY, pyramid=0).n_means == 0
    with pytest.raises(TrainingError, match="means is -5, it must be at least 0"):
        Few(replace(TINY, means=-5))


@pytest.mark.parametrize("depth", ["depth_8", "depth_16"])
def test_int8_needs_blocks_of_both_sizes(depth: str) -> None:
    Few(replace(TINY, int8=0.5))
    with pytest.raises(TrainingError, match=r"int8 is 0\.5: .* it must be 0"):
        Few(replace(TINY, int8=0.5, **{depth: 0}))


def test_blocks_have_the_units_that_settings_give_them() -> None:
    config = replace(TINY, analysis_units_8=(4, 0, 5, 6), synthesis_units_16=(3, 2))
    model = Few(config)
    blocks = [(len(block.spatial.weight), 0 if block.lean else len(block.expand.weight)) for block in model.analysis.blocks_8]
    assert blocks == [(4, 0), (5, 6), (TINY.width_8, 2 * TINY.width_8)]  # so that a model may grow by blocks
    assert len(model.synthesis.blocks_16[0].reduce.weight[0]) == 2
    width = TINY.width_8
    assert [len(block.expand.weight) for block in model.synthesis.blocks_8] == [2 * width] * TINY.depth_8
    assert model(torch.rand(1, 3, 64, 64), torch.zeros(1)).x_hat.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "units", "blocks"),
    [
        ("analysis_units_8", (4, 0, 4), 3),
        ("analysis_units_8", (4, 0, 0, 4, 4, 4), 3),
        ("analysis_units_8", (4, 0, 4, 4, 4, 4, 4, 4), 3),
        ("synthesis_units_8", (4, -1, 4, 4, 4, 4), 3),
        ("synthesis_units_16", (4,), 1),
    ],
)
def test_units_that_do_not_fit_the_blocks_are_refused(name: str, units: tuple[int, ...], blocks: int) -> None:
    given = ",".join(map(str, units))
    with pytest.raises(TrainingError, match=rf"{name} is {given}, it must be two numbers for each of up to {blocks} blocks"):
        Few(replace(TINY, **{name: units}))

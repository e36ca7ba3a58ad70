# SPDX-License-Identifier: MIT
"""The slimmable autoencoder: slices, costs, training, and a bundle that codes as torch does."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits import cli  # noqa: E402
from fewbits.codec import Model  # noqa: E402
from fewbits.container import parse  # noqa: E402
from fewbits.errors import FormatError, TrainingError  # noqa: E402
from fewbits.families.components import nested_components  # noqa: E402
from fewbits.families.gdn import VARIANTS  # noqa: E402
from fewbits.families.losses import Distortion, Penalty  # noqa: E402
from fewbits.families.slimcae import SlimCae, SlimCaeConfig, SlimConv  # noqa: E402
from fewbits.runtime import factorized  # noqa: E402
from fewbits.training.export import bundle_files, load_model, parse_bundle, write_folder  # noqa: E402

TINY = SlimCaeConfig(widths=(4, 6, 9), lambdas=(100, 200, 400), levels=9)
Picture = Callable[..., np.ndarray]


def scrambled(config: SlimCaeConfig) -> SlimCae:
    torch.manual_seed(0)
    model = SlimCae(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for prior in model.priors:
            for matrix in prior.matrices:
                matrix.add_(0.5)  # narrower, so that tables are small
    return model.eval()


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request: pytest.FixtureRequest) -> tuple[SlimCae, dict[str, bytes]]:
    """A model in each variant of GDN, and its bundle's files; one of them codes with tables."""
    model = scrambled(replace(TINY, gdn=request.param, coder="tables" if request.param == "slimmable" else "adaptive"))
    return model, bundle_files("slimcae", model, {"architecture": asdict(model.config)})


def test_a_family_whose_weights_are_inputs_cannot_be_calibrated(picture: Picture) -> None:
    with pytest.raises(TrainingError, match="^the family slimcae takes no pictures for calibration: .* are inputs$"):
        bundle_files("slimcae", scrambled(TINY), {}, [picture(64, 64)])


def test_a_narrow_network_is_the_leading_slice_and_nothing_else_is_computed() -> None:
    layer = SlimConv((3, 5), (4, 7), 5, 2)
    weight, bias = layer.slices(0)
    assert weight.shape == (4, 3, 5, 5) and bias is not None and bias.shape == (4,)
    assert torch.equal(weight, layer.weight.view(7, 5, 5, 5)[:4, :3])
    model = scrambled(TINY)
    (model.analysis(torch.rand(1, 3, 32, 32), 0).sum() + model.synthesis(torch.rand(1, 4, 2, 2), 0).square().sum()).backward()
    for convolution in (*model.analysis.convolutions, *model.synthesis.convolutions):
        gradient = convolution.weight.grad
        first, second = (convolution.n_in, convolution.n_out) if convolution.transposed else (convolution.n_out, convolution.n_in)
        outside = gradient.view(convolution.shape).clone()
        outside[: first[0], : second[0]] = 0
        assert gradient.abs().sum() > 0 and outside.abs().sum() == 0


def test_costs_are_those_of_the_paper() -> None:
    """And as many as the shapes of what is computed say."""
    model = SlimCae(SlimCaeConfig())
    assert [model.multiplications(which)[0] / 1000 for which in range(5)] == pytest.approx([2.0, 4.1, 6.7, 14, 24], abs=0.1)
    for network in (model.analysis, model.synthesis):
        parts = network.inputs(2)
        positions = [1 / 16, 1 / 64, 1 / 256] if network is model.analysis else [1 / 256, 1 / 64, 1 / 16]
        counted = sum(parts[f"{kind}{k}"].numel() * share for kind in "wg" for k, share in enumerate(positions))
        assert counted == pytest.approx(model.multiplications(2)[0])


def test_every_parameter_is_trained_and_the_loss_falls() -> None:
    torch.manual_seed(0)
    model = SlimCae(TINY).train()
    x = torch.rand(2, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    model.initialize([x], Distortion("mse=0.001"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss, parts = model.loss(x, Distortion("mse=0.001"), Penalty(""))
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
            assert set(parts) == {f"{what}_{width}" for what in ("bpp", "mse") for width in TINY.widths}
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_expected_rates_rise_in_equal_ratios_from_level_to_level() -> None:
    model = scrambled(TINY)
    for prior, scale in zip(model.priors, (1.0, 2.0, 4.0), strict=True):
        prior.start(torch.randn(8, len(prior.matrices[0]), 9, 9) * scale)
    levels = model.levels()
    widths = [width for width, _ in levels]
    assert widths == sorted(widths) and set(widths) == set(TINY.widths)
    rates = [model.prior(TINY.widths.index(width)).entropy(gain) for width, gain in levels]
    assert np.diff(np.log(rates)) == pytest.approx(np.full(8, np.log(rates[-1] / rates[0]) / 8), abs=0.01)
    own = {width: model.prior(which).entropy() for which, width in enumerate(TINY.widths)}
    for (width, gain), rate in zip(levels, rates, strict=True):  # no narrower width was trained for as much
        assert all(rate > own[narrower] * 0.999 for narrower in TINY.widths if narrower < width)
        assert gain <= 1 + 1e-6 or width == TINY.widths[-1]


@pytest.fixture
def photos(photo: np.ndarray) -> torch.Tensor:
    """Crops (4, 3, 192, 192) in 0..1."""
    crops = [photo[top : top + 192, left : left + 192] for top in (0, 150) for left in (0, 200)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


def test_components_are_orthonormal_nested_and_sorted(photos: torch.Tensor) -> None:
    basis = nested_components(photos, (3, 3, 3), (5, 9, 48), 4)
    assert basis.shape == (48, 3, 4, 4)
    rows = basis.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(48), atol=1e-5)
    y = torch.nn.functional.conv2d(photos, basis, stride=4).movedim(1, 0).flatten(1)
    assert y.var(1)[:5].tolist() == sorted(y.var(1)[:5].tolist(), reverse=True) and y.var(1)[5] < y.var(1)[0]
    deeper = nested_components(y.view(48, 4, 48, 48).movedim(0, 1), (5, 9, 48), (5, 9, 48), 2)
    assert deeper[:5, 5:].abs().max() == 0 and deeper[:9, 9:].abs().max() == 0 and deeper[9:, 9:].abs().max() > 0
    rows = deeper.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(48), atol=1e-5)


@pytest.mark.parametrize("gdn", VARIANTS)
def test_training_starts_from_a_working_codec(photos: torch.Tensor, gdn: str) -> None:
    """At every width, and the better the wider; from random weights nothing of the kind."""
    config = SlimCaeConfig(widths=(12, 24, 48), lambdas=(6, 24, 96), gdn=gdn)
    torch.manual_seed(0)
    model = SlimCae(config).eval()
    model.initialize([photos], Distortion("ms-ssim"))
    with torch.no_grad():
        found = [model.estimate(photos, which) for which in range(3)]
    bpp = [float(out.y_bits.mean()) / 192**2 for out in found]
    psnr = [-10 * float((out.x_hat - photos).square().mean().log10()) for out in found]
    assert model.gain.tolist() == sorted(model.gain.tolist()) and model.gain[0] < model.gain[2]
    assert bpp == sorted(bpp) and psnr == sorted(psnr) and psnr[0] > 19 and psnr[2] > 24 and bpp[2] < 2
    untrained = SlimCae(replace(config, start="random")).eval()
    untrained.initialize([photos], Distortion("ms-ssim"))
    with torch.no_grad():
        assert -10 * float((untrained.estimate(photos, 2).x_hat - photos).square().mean().log10()) < 15


def test_lambda_scheduling_lowers_narrow_lambdas_while_the_slope_falls() -> None:
    """By a rate-distortion curve whose slopes are known: one decibel a bit where lambdas are equal, less where they differ."""
    model = SlimCae(replace(TINY, lambdas=(100, 100, 100)))
    log: list[list[float]] = []
    slopes = iter([5.0, 4.0, 3.0, 3.5, 9.0, 8.0, 8.5])  # the wide pair's end when 3.5 > 3, then the narrow pair's when 8.5 > 8

    def points(pair: int, slope: float) -> list[tuple[float, float]]:
        found = [(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)]
        found[pair - 1] = (found[pair][0] - 0.1, found[pair][1] - 0.1 * slope)
        return found

    for slope in slopes:
        pair = int(model.schedule[0])
        going_on = model.reschedule(points(pair, slope))
        log.append([round(value, 3) for value in model.lambdas.tolist()])
    assert log[:3] == [[80, 80, 100], [64, 64, 100], [51.2, 51.2, 100]]  # both narrower widths together
    assert log[3][1:] == [51.2, 100] and log[-1][1:] == [51.2, 100] and log[-1][0] < log[3][0] < 51.2
    assert not going_on and not model.reschedule([(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)])
    endless = SlimCae(replace(TINY, lambdas=(100, 100, 100)))
    assert [endless.reschedule([(0.3, 1.0), (0.2, 2.0), (0.1, 3.0)]) for _ in range(15)] == [True] * 14 + [False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lambdas": (0.0, 1.0, 2.0)}, "lambdas is 0.0,1.0,2.0: each must be above 0"),
        ({"start": "warm"}, "start is 'warm', it must be klt or random"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        SlimCae(replace(TINY, **change))


def test_a_coder_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingError, match="coder is 'huffman', it must be one of adaptive, tables"):
        SlimCae(replace(TINY, coder="huffman"))


@pytest.mark.parametrize("change", [{"widths": (4, 4, 9)}, {"widths": (9, 6, 4)}, {"lambdas": (1.0, 2.0)}])
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(TrainingError, match="must rise, and there must be as many lambdas as widths"):
        SlimCae(replace(TINY, **change))


@pytest.mark.parametrize("quality", [0, 37, 62, 100])
@pytest.mark.parametrize("size", [(1, 1), (50, 70), (560, 33)])
def test_a_bundle_codes_as_torch_does(
    trained: tuple[SlimCae, dict[str, bytes]], picture: Picture, quality: int, size: tuple[int, int]
) -> None:
    model, files = trained
    codec = Model(files, "made here")
    pixels = picture(*size)
    data = codec.encode(pixels, quality)
    level = codec.pipeline.level(100 * quality, "rgb")
    which, gain = TINY.widths.index(level.width), float(level.gain)
    missing = [-side % 16 for side in size]
    padded = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    with torch.no_grad():
        x = torch.from_numpy(padded).permute(2, 0, 1)[None] / 255
        y = model.analysis(x - 0.5, which) * gain
        symbols = y.round()
        x_hat = model.synthesis(symbols / gain, which)[0, :, : size[0], : size[1]].permute(1, 2, 0).numpy() + 0.5
    found = codec.symbols(data).latent
    assert np.abs(found - y[0].numpy()).max() < 0.501
    assert (found != symbols[0].numpy()).mean() < 0.01  # float sums in another order
    if np.array_equal(found, symbols[0].numpy()):
        assert np.abs(np.asarray(codec.decode(data)) - np.clip(255 * x_hat, 0, 255)).max() <= 1
    assert len(data) <= 1.01 * codec.estimated_bits(data) / 8 + 64 + 16 * (size[0] // 512)


def test_tiles_change_nothing_and_a_narrower_halo_would(
    trained: tuple[SlimCae, dict[str, bytes]], picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Model(trained[1], "made here")
    pixels, level = picture(200, 230), codec.pipeline.level(10000, "rgb")
    whole = codec.pipeline.analyse(pixels, level, lambda _: None)
    decoded = codec.pipeline.synthesise(whole, 200, 230, level, lambda _: None)
    monkeypatch.setattr(factorized, "TILE_ROWS", 3)
    monkeypatch.setattr(factorized, "TILE_COLUMNS", 4)
    done: list[float] = []
    tiled = codec.pipeline.analyse(pixels, level, done.append)
    assert len(done) == 5 * 4 and done[-1] == 1
    assert np.abs(tiled - whole).max() < 1e-4 * np.abs(whole).max()
    assert np.abs(codec.pipeline.synthesise(whole, 200, 230, level, done.append).astype(int) - decoded).max() <= 1
    monkeypatch.setattr(codec.pipeline, "_halo", 0)
    assert np.abs(codec.pipeline.analyse(pixels, level, lambda _: None) - whole).max() > 1e-3 * np.abs(whole).max()
    assert np.abs(codec.pipeline.synthesise(whole, 200, 230, level, lambda _: None).astype(int) - decoded).max() > 1


def test_a_bundles_networks_come_back(trained: tuple[SlimCae, dict[str, bytes]]) -> None:
    """All but the priors, which frequencies do not give back."""
    model, files = trained
    again = load_model(parse_bundle(files, "made here"))
    for name, value in model.state_dict().items():
        if not name.startswith("priors"):
            assert torch.allclose(again.state_dict()[name], value, atol=1e-6), name


def test_damage_gives_an_error_and_never_a_wrong_picture(trained: tuple[SlimCae, dict[str, bytes]], picture: Picture) -> None:
    codec = Model(trained[1], "made here")
    data = codec.encode(picture(70, 50), 80)
    decoded, rng = np.asarray(codec.decode(data)), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            assert np.array_equal(np.asarray(codec.decode(bytes(damaged))), decoded)
        except FormatError:
            continue
        except Exception as error:
            assert "model" in str(error)  # the id of a model that is not this one


def test_the_command_line_names_the_width(
    trained: tuple[SlimCae, dict[str, bytes]], picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_folder(tmp_path / "models" / "slim", trained[1])
    data = Model(trained[1], "made here").encode(picture(40, 40), 0)
    assert [kind for kind, _ in parse(data)[1]] == [2]
    (tmp_path / "a.few").write_bytes(data)
    monkeypatch.setenv("FEWBITS_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("sys.argv", ["fewbits", "info", str(tmp_path / "a.few")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "model slim" in (said := capsys.readouterr().out) and "family slimcae, width 4" in said

# SPDX-License-Identifier: MIT
"""The autoencoder with principal components: shapes and costs, the rotation, both objectives, blocks, and its files."""

from dataclasses import asdict, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits.codec import Model  # noqa: E402
from fewbits.coding.adaptive import encode_maps  # noqa: E402
from fewbits.errors import ModelError, TrainingError  # noqa: E402
from fewbits.families.cae_pca import CaePca, CaePcaConfig, ContextRate, to_colours, to_planes  # noqa: E402
from fewbits.families.losses import Distortion, Penalty  # noqa: E402
from fewbits.fidelity import psnr  # noqa: E402
from fewbits.runtime import factorized  # noqa: E402
from fewbits.training.export import amended, bundle_files, load_model, parse_bundle  # noqa: E402

KLT = CaePcaConfig(start="klt", objective="rate")


@pytest.fixture(scope="module")
def photos(photo: np.ndarray) -> torch.Tensor:
    """Crops (4, 3, 192, 192) in 0..1."""
    crops = [photo[top : top + 192, left : left + 192] for top in (0, 150) for left in (0, 200)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def started(photos: torch.Tensor) -> CaePca:
    """A model as training begins."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = CaePca(KLT)
    model.initialize([photos], Distortion("mse"))
    return model.eval()


@pytest.fixture(scope="module")
def files(started: CaePca) -> dict[str, bytes]:
    return bundle_files("cae-pca", started, {"architecture": asdict(started.config)})


def test_a_block_becomes_16x16x32_a_plane_as_in_the_source() -> None:
    model = CaePca(CaePcaConfig())
    with torch.no_grad():
        y = model.analysis(torch.rand(2, 3, 128, 128))
        assert y.shape == (2, 3, 32, 16, 16) and model.synthesis(y).shape == (2, 3, 128, 128)
    defaults = CaePcaConfig()
    assert defaults.filters == (32, 32, 64, 64, 64, 32) and defaults.noise == 2**-10
    assert defaults.objective == "noise" and defaults.start == "random"


def test_costs_are_those_of_what_is_computed() -> None:
    model = CaePca(replace(KLT, start="random", filters=(2, 3, 4, 5, 6, 7)))
    counted = []
    for network, first in ((model.encoder, torch.zeros(3, 1, 64, 64)), (model.decoder, torch.zeros(3, 7, 8, 8))):
        total, before = 0.0, first
        for layer in network:
            after = layer(before)
            if hasattr(layer, "up"):  # each weight is used once at each place of the smaller side
                total += layer.weight.numel() * 3 * min(before[0, 0].numel(), after[0, 0].numel()) / 64**2
            before = after
        counted.append(total)
    assert model.multiplications() == pytest.approx(tuple(counted))


def test_colours_come_back_and_grey_has_no_chroma() -> None:
    x = torch.rand(2, 3, 8, 8) - 0.5
    assert torch.allclose(to_colours(to_planes(x)), x, atol=1e-5)
    assert to_planes(x[:, :1].expand(-1, 3, -1, -1))[:, 1:].abs().max() < 1e-6


def test_the_rotation_is_orthonormal_decorrelates_and_sorts_by_energy(started: CaePca, photos: torch.Tensor) -> None:
    rotation, energies = started.components()
    with torch.no_grad():
        y = started.analysis(photos)
        started_moments = started.mean.clone(), started.square.clone()
        started._follow(y, 1.0)
        rotation, energies = started.components()
        rotated = torch.einsum("pij,bpjhw->pibhw", rotation, y).flatten(2).double()
        started.mean, started.square = started_moments
    for plane in range(3):
        assert torch.allclose(rotation[plane] @ rotation[plane].T, torch.eye(32), atol=1e-5)
        covariance = torch.cov(rotated[plane], correction=0)
        scale = covariance.diag().clamp(min=1e-12).sqrt()
        assert torch.allclose(covariance.diag().float(), energies[plane], rtol=1e-2, atol=1e-6)
        assert bool((energies[plane].diff() <= 0).all())
        off = (covariance / torch.outer(scale, scale) - torch.eye(32)).abs()
        assert off[:16, :16].max() < 1e-2


def test_the_first_map_holds_most_energy(started: CaePca) -> None:
    energies = started.components()[1][0]
    assert energies[0] > 0.5 * energies.sum()


def test_the_exported_rotation_is_undone_by_the_synthesis(files: dict[str, bytes], started: CaePca, photo: np.ndarray) -> None:
    """Torch without a rotation and the bundle with it reconstruct alike where the quantizer is fine."""
    config = replace(started.config, lowest=11.0, highest=12.0, levels=2)
    fine = CaePca(config)
    fine.load_state_dict(started.state_dict())
    model = Model(bundle_files("cae-pca", fine, {}), "made here")
    pixels = photo[64:192, 64:256]
    decoded = np.asarray(model.decode(model.encode(pixels, 100)), float)
    with torch.no_grad():
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
        plain = fine.synthesis(fine.analysis(x))[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    assert np.abs(decoded - plain).max() < 4 and np.abs(decoded - plain).mean() < 0.5


@pytest.mark.parametrize("objective", ["noise", "rate"])
def test_every_parameter_is_trained_and_the_loss_falls(objective: str, photos: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = CaePca(CaePcaConfig(filters=(4, 4, 6, 6, 8, 8), objective=objective)).train()
    x = photos[:, :, :64, :64]
    model.initialize([x], Distortion("mse"))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss, parts = model.loss(x, Distortion("mse"), Penalty(""))
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            names = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
            assert all(name.startswith("rate.") for name in names) and bool(names) == (objective == "noise")
            assert set(parts) == ({"mse"} if objective == "noise" else {"mse", "bpp"})
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_noise_is_as_wide_as_asked(started: CaePca, photos: torch.Tensor) -> None:
    heard: list[torch.Tensor] = []
    model = CaePca(replace(KLT, objective="noise", noise=0.25))
    model.load_state_dict(started.state_dict())
    y = model.analysis(photos)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(model, "synthesis", lambda y_hat: heard.append(y_hat - y) or photos)
        model.loss(photos, Distortion("mse"), Penalty(""))
    noise = heard[0]
    assert 0.249 < noise.max() <= 0.2501 and -0.2501 <= noise.min() < -0.249
    assert float(noise.std()) == pytest.approx(0.25 / 3**0.5, rel=0.02)


def test_the_stand_in_for_the_coder_is_near_it(started: CaePca, photos: torch.Tensor) -> None:
    """The differentiable rate within a quarter of the adaptive coder's bytes, before any of it is trained."""
    with torch.no_grad():
        for bits in (4.0, 6.0):
            gain = started.gain(bits)
            values = started.analysis(photos).flatten(1, 2) * gain
            estimate = float(started.rate(values, torch.full((4, 1, 1, 1), gain)).sum()) / 8
            coded = sum(len(encode_maps(picture.round().int().numpy())) for picture in values)
            assert 0.75 * coded < estimate < 1.25 * coded


def test_rates_of_silence_are_small_and_grow_with_magnitudes() -> None:
    rate, gain = ContextRate(3).eval(), torch.ones(1, 1, 1, 1)
    rate.start(torch.full((1, 3, 8, 8), 1e-3))
    torch.manual_seed(0)
    with torch.no_grad():
        bits = [float(rate(size * torch.randn(1, 3, 32, 32), gain).mean()) for size in (0.0, 1.0, 10.0)]
    assert bits[0] < 0.1 < bits[1] < bits[2]


def test_training_starts_from_a_working_codec(started: CaePca, photos: torch.Tensor) -> None:
    with torch.no_grad():
        found = [started.estimate(photos, bits) for bits in started.settings]
    bpp = [float(out.y_bits.mean()) / 192**2 for out in found]
    psnr_db = [-10 * float((out.x_hat - photos).square().mean().log10()) for out in found]
    assert bpp == sorted(bpp) and psnr_db == sorted(psnr_db)
    assert bpp[0] < 0.3 and psnr_db[0] > 20 and psnr_db[-1] > 32


def test_precision_is_the_knob(started: CaePca) -> None:
    """One more bit halves the quantizer step, and the first map fills about -2^(B-1)..2^(B-1)."""
    levels = started.coding()["levels"]
    precisions = np.linspace(started.config.lowest, started.config.highest, started.config.levels)
    gains = np.array([gain for _, gain in levels])
    assert np.log2(gains / gains[0]) == pytest.approx(precisions - precisions[0], abs=1e-4)
    deviation = float(started.components()[1].max()) ** 0.5
    assert 2 * deviation * started.gain(12.0) == pytest.approx(2**11)


def test_a_file_is_no_longer_than_the_entropy_that_the_source_used(files: dict[str, bytes], photo: np.ndarray) -> None:
    """8 bpp >= 16 16 32 (H_Y + H_Cb + H_Cr) / 128^2: the order-0 entropy of each plane's symbols, here with strips and header."""
    model = Model(files, "made here")
    for quality in (10, 50, 90):
        data = model.encode(photo, quality)
        planes = model.symbols(data).latent.reshape(3, -1)
        entropy = 0.0
        for plane in planes:
            counts = np.unique(plane, return_counts=True)[1]
            entropy -= float((counts * np.log2(counts / plane.size)).sum())
        assert len(data) < entropy / 8


def test_maps_that_carry_nothing_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(-20, 21, (4, 32, 48)).astype(np.int32)
    silent = np.zeros((92, 32, 48), np.int32)
    assert len(encode_maps(np.concatenate([first, silent]))) - len(encode_maps(first)) < 92 * 4
    assert len(encode_maps(silent)) < 300


def test_blocks_know_nothing_of_each_other_and_whole_pictures_have_none(started: CaePca, photo: np.ndarray) -> None:
    blocky, whole = CaePca(replace(started.config, block=128)), CaePca(started.config)
    blocky.load_state_dict(started.state_dict())
    with torch.no_grad():
        for part in (*blocky.encoder, *blocky.decoder):  # what a trained network has: it looks beyond its own 8x8
            if hasattr(part, "up"):
                part.weight.add_(0.01 * torch.randn(part.weight.shape, generator=torch.Generator().manual_seed(0)))
    whole.load_state_dict(blocky.state_dict())
    in_blocks, in_one = (Model(bundle_files("cae-pca", each, {}), "made here") for each in (blocky, whole))
    pixels = photo[:300, :260]
    decoded, other = (np.asarray(each.decode(each.encode(pixels, 100)), int) for each in (in_blocks, in_one))
    for top, left in ((0, 0), (128, 128), (256, 0)):
        block = np.ascontiguousarray(pixels[top : top + 128, left : left + 128])
        alone = np.asarray(in_blocks.decode(in_blocks.encode(block, 100)))
        assert np.array_equal(alone, decoded[top : top + 128, left : left + 128])
    moved = np.abs(other - decoded)[:128, :128].max(2)
    assert moved[:64, :64].max() <= 1 and moved[-1, :64].mean() > 2  # only the border sees the next block


def test_tiles_do_not_show(files: dict[str, bytes], photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(files, "made here")
    pixels = photo[:200, :230]
    whole = model.encode(pixels, 60)
    decoded = np.asarray(model.decode(whole))
    monkeypatch.setattr(factorized, "TILE_ROWS", 5)
    monkeypatch.setattr(factorized, "TILE_COLUMNS", 7)
    assert np.array_equal(model.symbols(model.encode(pixels, 60)).latent, model.symbols(whole).latent)
    assert np.abs(np.asarray(model.decode(whole), int) - decoded).max() <= 1


def test_a_bundle_codes_as_torch_does(files: dict[str, bytes], started: CaePca, photo: np.ndarray) -> None:
    model = Model(files, "made here")
    pixels = photo[64:192, 64:256]
    with torch.no_grad():
        out = started.estimate(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255, started.config.highest)
    expected = out.x_hat[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    decoded = np.asarray(model.decode(model.encode(pixels, 100)), float)
    assert np.abs(decoded - expected).mean() < 0.5
    assert psnr(pixels, decoded.astype(np.uint8)) > 32


def test_fine_tuning_takes_everything_back(files: dict[str, bytes], started: CaePca) -> None:
    again = load_model(parse_bundle(files, "made here"))
    for name, value in started.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, atol=1e-6), name


@pytest.mark.parametrize(
    "change",
    [
        {"filters": (32, 32)}, {"filters": (32, 32, 64, 64, 64, 0)}, {"objective": "both"}, {"start": "dct"}, {"block": 12},
        {"block": -128}, {"lowest": 9.0}, {"filters": (2, 4, 8, 8, 8, 8), "start": "klt"},
        {"levels": 1}, {"noise": -1.0},
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=f"{next(iter(change))} "):
        CaePca(CaePcaConfig(**change))  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [-1, 1 << 20, "wide"])
def test_a_bundle_with_a_wrong_block_is_refused(files: dict[str, bytes], block: object) -> None:
    import json

    from fewbits.runtime.manifest import MANIFEST

    manifest = json.loads(files[MANIFEST])
    manifest["coding"]["block"] = block
    with pytest.raises(ModelError, match="block|wide"):
        Model(files | {MANIFEST: json.dumps(manifest).encode()}, "made here")
    assert amended(files, {}, {"note": "as it was"})

# SPDX-License-Identifier: MIT
"""The ResNet autoencoder: torchvision's weights, the noise, the bottleneck's bits, how far it sees, and its files."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits.codec import Model  # noqa: E402
from fewbits.errors import ModelError, TrainingError  # noqa: E402
from fewbits.families import resnet101  # noqa: E402
from fewbits.families.likelihood import entropy_bits  # noqa: E402
from fewbits.families.losses import Distortion, Penalty  # noqa: E402
from fewbits.families.resnet101 import ResNet, Resnet101, Resnet101Config, reach_px  # noqa: E402
from fewbits.runtime import factorized  # noqa: E402
from fewbits.training.export import amended, bundle_files, load_model, parse_bundle  # noqa: E402

SMALL = Resnet101Config(depth=18, width=8)


@pytest.fixture(scope="module")
def photos(photo: np.ndarray) -> torch.Tensor:
    """Crops (4, 3, 128, 128) in 0..1."""
    crops = [photo[top : top + 128, left : left + 128] for top in (0, 150) for left in (0, 200)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def trained(photos: torch.Tensor) -> Resnet101:
    """A model after a few steps on the crops, so that no block is the identity any more."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Resnet101(SMALL)
    model.initialize([photos], Distortion("mse"))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        model.loss(photos, Distortion("mse"), Penalty(""))[0].backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def files(trained: Resnet101) -> dict[str, bytes]:
    return bundle_files("resnet101", trained, {"architecture": asdict(trained.config)})


# The encoder, beside torchvision's


def torchvision_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet, written out from its documentation and files, not from our code."""
    counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    deep = depth > 18
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, norm: str, n_out: int, n_in: int, size: int) -> None:
        found[f"{name}.weight"] = (n_out, n_in, size, size)
        found.update({f"{norm}.{part}": (n_out,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{norm}.num_batches_tracked"] = ()

    convolution("conv1", "bn1", 64, 3, 7)
    inner = 64
    for layer, (count, width) in enumerate(zip(counts, (64, 128, 256, 512), strict=True), 1):
        outer = 4 * width if deep else width
        for block in range(count):
            at = f"layer{layer}.{block}"
            sizes = [(width, inner, 1), (width, width, 3), (outer, width, 1)] if deep else [(width, inner, 3), (width, width, 3)]
            for k, (n_out, n_in, size) in enumerate(sizes, 1):
                convolution(f"{at}.conv{k}", f"{at}.bn{k}", n_out, n_in, size)
            if block == 0 and (deep or layer > 1):
                convolution(f"{at}.downsample.0", f"{at}.downsample.1", outer, inner, 1)
            inner = outer
    return found | {"fc.weight": (1000, inner), "fc.bias": (1000,)}


@pytest.mark.parametrize(("depth", "millions"), [(18, 11.18), (50, 23.51), (101, 42.50)])
def test_parameters_are_those_of_torchvision(depth: int, millions: float) -> None:
    with torch.device("meta"):
        network = ResNet(depth, 64)
    wanted = {name: shape for name, shape in torchvision_shapes(depth).items() if not name.startswith("fc.")}
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == wanted
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def made_weights(depth: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(depth)
    state = {}
    for name, shape in torchvision_shapes(depth).items():
        if len(shape) == 4:
            state[name] = torch.randn(shape, generator=generator) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        else:
            state[name] = torch.rand(shape, generator=generator) * 0.5 + (0.25 if name.endswith("var") else 0.0)
    return state


def by_hand(state: dict[str, torch.Tensor], depth: int, x: torch.Tensor) -> torch.Tensor:
    """torchvision's forward pass up to layer4, in functions."""
    F = torch.nn.functional

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = F.max_pool2d(F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1")), 3, 2, 1)
    for layer in range(1, 5):
        block = 0
        while (at := f"layer{layer}.{block}") + ".conv1.weight" in state:
            stride, beside = 2 if layer > 1 and block == 0 else 1, x
            if f"{at}.downsample.0.weight" in state:
                beside = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            strides = (1, stride, 1) if depth > 18 else (stride, 1)
            for k, step in enumerate(strides, 1):
                weight = state[f"{at}.conv{k}.weight"]
                x = norm(F.conv2d(x, weight, stride=step, padding=weight.shape[2] // 2), f"{at}.bn{k}")
                x = F.relu(x + beside if k == len(strides) else x)
            block += 1
    return x


@pytest.mark.parametrize("depth", [18, 50])
def test_weights_of_torchvision_compute_what_they_compute_there(
    depth: int, photos: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = made_weights(depth)
    name = {18: "resnet18-f37072fd.pth", 50: "resnet50-0676ba61.pth"}[depth]
    torch.save(state, tmp_path / name)
    monkeypatch.setenv("FEWBITS_RESNET", str(tmp_path))
    for weights in ("hub", str(tmp_path / name)):
        model = Resnet101(Resnet101Config(depth=depth, weights=weights))
        model.initialize([photos[:1]], Distortion("mse"))
        with torch.no_grad():
            found, wanted = model.eval().encoder(photos[:1]), by_hand(state, depth, photos[:1])
        assert found.shape == (1, 512 if depth == 18 else 2048, 4, 4)
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))


def test_wrong_or_missing_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(**change: object) -> str:
        with pytest.raises(ModelError) as error:
            Resnet101(replace(SMALL, width=64, **change)).initialize([torch.zeros(1, 3, 64, 64)], Distortion("mse"))
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setenv("FEWBITS_RESNET", str(tmp_path / "nowhere"))
    missing = message(weights="hub")
    assert "weights=hub needs resnet18-f37072fd.pth: not found in" in missing and "$FEWBITS_RESNET" in missing
    assert "resnet101-cd907fc2.pth or resnet101-63fe2227.pth" in message(weights="hub", depth=101)
    assert "there is no file" in message(weights=str(tmp_path / "resnet18.pth"))
    (tmp_path / "noise.pth").write_bytes(b"no weights")
    assert "these are no weights" in message(weights=str(tmp_path / "noise.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    assert "these are no weights of this ResNet" in message(weights=str(tmp_path / "list.pth"))
    state = made_weights(18)
    del state["layer3.1.conv2.weight"]
    torch.save(state, tmp_path / "short.pth")
    assert "layer3.1.conv2.weight" in message(weights=str(tmp_path / "short.pth"))


# The bottleneck


@pytest.mark.parametrize(("depth", "pool", "shape"), [(18, 2, (64, 2, 4)), (50, 2, (256, 2, 4)), (18, 1, (64, 4, 8))])
def test_the_latent_is_where_the_pooling_puts_it(depth: int, pool: int, shape: tuple[int, ...]) -> None:
    model = Resnet101(Resnet101Config(depth=depth, width=8, pool=pool)).eval()
    with torch.no_grad():
        y = model.analysis(torch.rand(1, 3, 128, 256))
        assert y.shape[1:] == shape and model.synthesis(y).shape == (1, 3, 128, 256)


@pytest.mark.parametrize("noise", ["centred", "source"])
@pytest.mark.parametrize("bits", [2, 8])
def test_noise_is_what_is_asked_for(noise: str, bits: int) -> None:
    model = Resnet101(replace(SMALL, noise=noise, bits=bits))
    torch.manual_seed(0)
    heard = model.noisy(torch.full((1, 64, 40, 40), 0.5)) - 0.5
    low, high = (-0.5 * 2**-bits, 0) if noise == "source" else (-0.5 / (2**bits - 1), 0.5 / (2**bits - 1))
    span = high - low
    assert low - 1e-6 <= heard.min() < low + 0.01 * span and high - 0.01 * span < heard.max() <= high + 1e-6
    assert float(heard.mean()) == pytest.approx((low + high) / 2, abs=0.01 * span)
    ends = model.noisy(torch.tensor([-3.0, 0.0, 1.0, 3.0]).repeat(1000))
    assert ends.min() == 0 and ends.max() <= 1 and (ends.max() == 1 or noise == "source")


def test_a_new_latent_fills_0_to_1_and_pictures_begin_at_the_mean_colour(photos: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = Resnet101(SMALL)
    model.initialize([photos], Distortion("mse"))
    with torch.no_grad():
        y = model.eval().analysis(photos)
        assert y.movedim(1, 0).flatten(1).amax(1).min() > 0.95 and (y == 1).float().mean() < 0.1
        flat = model.synthesis(y).mean((0, 2, 3)) - photos.mean((0, 2, 3))
    assert flat.abs().max() < 0.15


def test_estimates_are_of_the_rounded_latent(trained: Resnet101, photos: torch.Tensor) -> None:
    with torch.no_grad():
        for bits in (1, 4, 8):
            out = trained.estimate(photos, bits)
            symbols = torch.round(trained.analysis(photos) * (2**bits - 1))
            assert symbols.min() >= 0 and symbols.max() <= 2**bits - 1
            wanted = [sum(entropy_bits(channel) for channel in picture) for picture in symbols]
            assert out.y_bits.tolist() == pytest.approx(wanted) and not out.z_bits.any()
            assert torch.allclose(out.x_hat, trained.synthesis(symbols / (2**bits - 1)))


# Training


def test_every_parameter_is_trained_and_the_loss_falls(photos: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = Resnet101(SMALL)
    model.initialize([photos], Distortion("mse"))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses, moved = [], {name: False for name, _ in model.named_parameters()}
    for _ in range(40):
        loss, parts = model.loss(photos, Distortion("mse=0.01"), Penalty("sparse=1e-6"))
        optimizer.zero_grad()
        loss.backward()
        for name, value in model.named_parameters():
            moved[name] |= value.grad is not None and bool(value.grad.abs().sum() > 0)
        optimizer.step()
        losses.append(loss.item())
    assert all(moved.values()) and set(parts) == {"mse"}
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_crops_are_of_the_grid() -> None:
    assert Resnet101(SMALL).crop_multiple == 64 and Resnet101(replace(SMALL, pool=1)).crop_multiple == 32


@pytest.mark.parametrize(
    "change", [{"depth": 34}, {"noise": "gaussian"}, {"pool": 4}, {"pool": 0}, {"bits": 0}, {"bits": 9}, {"width": 0}]
)
def test_what_it_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=f"{next(iter(change))} "):
        Resnet101(replace(SMALL, **change))


# Files


@pytest.mark.parametrize(("depth", "pool", "halo"), [(18, 2, 6), (18, 1, 10), (50, 2, 6), (101, 2, 8), (101, 1, 16)])
def test_the_halo_follows_from_the_receptive_field(depth: int, pool: int, halo: int) -> None:
    with torch.device("meta"):
        coding = Resnet101(Resnet101Config(depth=depth, width=8, pool=pool)).coding()
    assert (coding["halo"], coding["stride"]) == (halo, 32 * pool)


@pytest.mark.parametrize("depth", [18, 50])
def test_nothing_beyond_the_reach_matters(depth: int) -> None:
    """By gradients, in double precision, with weights above 0, so that nothing cancels."""
    model = Resnet101(replace(SMALL, depth=depth, width=4)).double().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(0.05)
    for network, channels, stride, up in ((model.encoder, 3, 32, False), (model.decoder, model.encoder.n_out, 64, True)):
        size = 15 if up else 15 * stride
        x = torch.rand(1, channels, 8 if up else 32, size, dtype=torch.float64, requires_grad=True)
        out = network(x)
        middle = out[..., 7 * stride : 8 * stride] if up else out[..., 7:8]
        (gradient,) = torch.autograd.grad(middle.sum(), x)
        seen = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        unit = stride if up else 1  # pixels a place of x
        start = 7 * stride // unit
        before = (start - int(seen.min())) * unit
        after = (int(seen.max()) + 1) * unit - (start * unit + stride)
        reach = reach_px(network, 64 if up else 1)
        assert max(before, after) <= -(-reach // unit) * unit
        assert before > 0.8 * reach - unit  # and the reach is no guess


def test_a_file_has_one_level_for_each_number_of_bits(files: dict[str, bytes], photo: np.ndarray) -> None:
    model, pixels = Model(files, "made here"), photo[:200, :230]
    sizes = []
    for bits in range(1, 9):
        data = model.encode(pixels, 100 * (bits - 1) / 7)
        latent = model.symbols(data).latent
        assert latent.shape == (64, 4, 4) and latent.min() >= 0 and latent.max() <= 2**bits - 1
        sizes.append(len(data))
    assert latent.max() > 127 and sizes == sorted(sizes)


def test_a_bundle_codes_as_torch_does(files: dict[str, bytes], trained: Resnet101, photo: np.ndarray) -> None:
    model, pixels = Model(files, "made here"), photo[:128, :192]
    with torch.no_grad():
        out = trained.estimate(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255, 8.0)
    expected = out.x_hat[0].permute(1, 2, 0).numpy() * 255
    decoded = np.asarray(model.decode(model.encode(pixels, 100)), float)
    assert np.abs(decoded - expected).max() < 1.5


def test_tiles_do_not_show(files: dict[str, bytes], photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with the halo: a model that says it needs none has seams."""
    model, pixels = Model(files, "made here"), np.tile(photo, (1, 2, 1))[:128]
    whole = model.encode(pixels, 60)
    decoded = np.asarray(model.decode(whole), int)
    monkeypatch.setattr(factorized, "TILE_COLUMNS", 2)
    assert np.array_equal(model.symbols(model.encode(pixels, 60)).latent, model.symbols(whole).latent)
    assert np.abs(np.asarray(model.decode(whole), int) - decoded).max() <= 1
    model.pipeline._halo = 0
    assert np.abs(np.asarray(model.decode(whole), int) - decoded).max() > 1


def test_networks_are_stored_in_half_precision_and_once(files: dict[str, bytes], trained: Resnet101) -> None:
    count = sum(value.numel() for value in trained.parameters())
    assert len(files["analysis.onnx"]) + len(files["synthesis.onnx"]) < 2.3 * count + 200_000


def test_fine_tuning_takes_everything_back(files: dict[str, bytes], trained: Resnet101) -> None:
    again = load_model(parse_bundle(files, "made here"))
    for name, value in trained.state_dict().items():
        assert torch.allclose(again.state_dict()[name].float(), value.float(), rtol=1e-5, atol=1e-6), name


def test_a_bundle_needs_no_imagenet_file(files: dict[str, bytes], trained: Resnet101) -> None:
    """Its card says what its training began from; its weights are its own."""
    card = {"architecture": asdict(replace(trained.config, weights="hub"))}
    assert load_model(parse_bundle(amended(files, {}, card), "made here")).config.weights == "hub"


def test_the_widest_latent_is_within_the_limit_of_the_coding_side() -> None:
    with torch.device("meta"):
        channels = ResNet(101, 64).n_out
    assert channels == 2048 == factorized.MAX_CHANNELS and resnet101.MAX_BITS == 8

# SPDX-License-Identifier: MIT
"""LPIPS with weights made here: against its definition written with torch's modules, and where files are looked for."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from torch import nn  # noqa: E402

from fewbits.bench import lpips  # noqa: E402
from fewbits.bench.metrics import METRICS  # noqa: E402
from fewbits.errors import ModelError  # noqa: E402

CHANNELS = (64, 192, 384, 256, 256)


def alexnet_features() -> nn.Sequential:
    """The convolutional part of torchvision's AlexNet, with random weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files of weights, as torchvision and the package lpips name and fill them."""
    root = tmp_path_factory.mktemp("lpips")
    generator = torch.Generator().manual_seed(1)
    torch.save({f"features.{name}": value for name, value in alexnet_features().state_dict().items()}, root / lpips.ALEXNET)
    linear = {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for k, c in enumerate(CHANNELS)}
    torch.save(linear, root / lpips.LINEAR)
    return root


@pytest.fixture(autouse=True)
def fresh() -> None:
    lpips.installed_lpips.cache_clear()


def definition(folder: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Zhang et al. 2018, equation 1, as the package has it: scaled input, unit features, squared differences, weighted means."""
    features, linear = alexnet_features(), torch.load(folder / lpips.LINEAR)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = [((torch.from_numpy(p / 255).float() - mean) / deviation).permute(2, 0, 1)[None] for p in (x, y)]
    total, k = 0.0, 0
    with torch.no_grad():
        for layer in features:
            inputs = [layer(value) for value in inputs]
            if isinstance(layer, nn.ReLU):
                units = [value / (value.norm(dim=1, keepdim=True) + 1e-10) for value in inputs]
                weighted = (units[0] - units[1]) ** 2 * linear[f"lin{k}.model.1.weight"]
                total += float(weighted.sum(1).mean())
                k += 1
    return total


def test_it_is_its_definition(folder: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lpips.FOLDER_VARIABLE, str(folder))
    x = photo[:96, :128]
    y = x // 32 * 32
    found = METRICS["lpips"].measure(x, y)
    assert found == pytest.approx(definition(folder, x, y), rel=2e-3)  # the package's own scaling constants have three digits
    assert METRICS["lpips"].measure(x, x) == 0
    assert METRICS["lpips"].measure(x, x // 8 * 8) < found


def test_weights_that_are_not_there_are_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lpips.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ModelError, match=f"{lpips.ALEXNET}: not found in {tmp_path}"):
        lpips.weight_files()
    (tmp_path / lpips.ALEXNET).write_bytes(b"no weights")
    (tmp_path / lpips.LINEAR).write_bytes((folder / lpips.LINEAR).read_bytes())
    with pytest.raises(ModelError, match="these are no weights"):
        lpips.installed_lpips()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / lpips.ALEXNET)
    with pytest.raises(ModelError, match="is missing in the weights"):
        lpips.installed_lpips()


def test_torchs_hub_cache_is_looked_into(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lpips.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / lpips.ALEXNET).write_bytes((folder / lpips.ALEXNET).read_bytes())
    package = tmp_path / "site" / "lpips" / "weights" / "v0.1"
    package.mkdir(parents=True)
    (package.parents[1] / "__init__.py").write_text("raise ImportError('it needs torchvision')")
    (package / lpips.LINEAR).write_bytes((folder / lpips.LINEAR).read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert lpips.weight_files() == (checkpoints / lpips.ALEXNET, package / lpips.LINEAR)

# SPDX-License-Identifier: MIT
"""What tests share: pictures, the shipped model, and one tiny training run. Imports no torch by itself."""

import importlib.util
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from fewbits.codec import Model, load_model, read_bundle
from fewbits.installed import DEFAULT_MODEL, installed_models
from fewbits.runtime.bundle import pack_bundle
from fewbits.runtime.engines import onnxruntime_engine
from fewbits.runtime.manifest import MANIFEST, parse_manifest

for variable in ("FEWBITS_ENGINE", "FEWBITS_PRECISION"):  # which change what models are, and are the tester's own
    os.environ.pop(variable, None)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared image data, beside the repository."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no image data at {path}")
    return path


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photograph, uint8 (512, 512, 3)."""
    found = importlib.util.find_spec("skimage")
    path = Path(found.origin).parent / "data" / "astronaut.png" if found and found.origin else None
    if path is None or not path.exists():
        pytest.skip("scikit-image with its data folder is not installed")
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def make_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 64.0
    waves = sum(np.sin(rows[..., None] * rng.normal(0, 3, 3) + columns[..., None] * rng.normal(0, 3, 3)) for _ in range(3))
    edge = 60.0 * ((rows - columns * rng.normal(1, 0.3)) > 0.2)[..., None]
    return np.clip(100 + 30 * waves + edge + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def picture() -> Picture:
    """picture(height, width, seed=0): a made picture with waves, an edge and some noise, uint8 (height, width, 3)."""
    return make_picture


@pytest.fixture(scope="session")
def noisy() -> Callable[[np.ndarray, float], np.ndarray]:
    """noisy(original, deviation): a uint8 array with noise, the same each time."""

    def with_noise(original: np.ndarray, deviation: float) -> np.ndarray:
        noise = np.random.default_rng(1).normal(0, deviation, original.shape)
        return np.clip(np.rint(original + noise), 0, 255).astype(np.uint8)

    return with_noise


@pytest.fixture(scope="session")
def model() -> Model:
    """The shipped flagship, on one thread, with the pixels that every machine gives."""
    return load_model("few", threads=1, precision="fp32")


def shipped() -> tuple[dict[str, Any], dict[str, bytes]]:
    """The shipped flagship's manifest, and its other files by name."""
    [folder] = [path for path in installed_models() if Path(path).name == DEFAULT_MODEL]
    files = read_bundle(Path(folder))
    return parse_manifest(files.pop(MANIFEST), folder), files


def recoded(**numbers: Any) -> Model:
    """The shipped flagship's networks with other numbers of its coding pipeline, on one thread; None: what is older has none."""
    manifest, files = shipped()
    coding = {name: value for name, value in (manifest["coding"] | numbers).items() if value is not None}
    return Model(pack_bundle(manifest["family"], coding, manifest["card"], files), "a test's", onnxruntime_engine(1))


@pytest.fixture(scope="session")
def falling() -> Model:
    """The flagship with passes (ADR 17), on one thread."""
    return recoded()


@pytest.fixture(scope="session")
def rising() -> Model:
    """The flagship without passes, on one thread."""
    return recoded(order=None, runs_below=None)


@pytest.fixture(scope="session")
def without_runs() -> Model:
    """The flagship of before ADR 31, with passes, on one thread."""
    return recoded(runs_below=None)


@pytest.fixture(scope="session")
def by_hyper() -> Model:
    """The flagship with means of all channels from the hyper symbols, too, as bundles had before ADR 27, on one thread."""
    torch = pytest.importorskip("torch")
    from fewbits.training.export import export_network

    manifest, files = shipped()
    files = {name: files[name] for name in manifest["files"]}
    coding = {name: value for name, value in manifest["coding"].items() if name != "means"}
    n_hyper, n_leading, n_latent = 64, coding["pyramid"], 320

    class OldMeans(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.hyper = torch.nn.Conv2d(n_hyper, 16 * n_latent - 16 * n_leading, 3, padding=1)
            self.around = torch.nn.Conv2d(n_leading, n_latent - n_leading, 3, padding=1)

        def forward(self, z_hat: torch.Tensor, pyramid: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pixel_shuffle(self.hyper(z_hat), 4) + self.around(pyramid)

    torch.manual_seed(0)
    example = {"z_hat": torch.zeros(1, n_hyper, 4, 6), "pyramid": torch.zeros(1, n_leading, 16, 24)}
    files["means.onnx"] = export_network(OldMeans(), example)
    packed = pack_bundle(manifest["family"], coding, manifest["card"], files)
    return Model(packed, f"{DEFAULT_MODEL}, means by hyper symbols", onnxruntime_engine(1))


class TinyRun(NamedTuple):
    """A training run of a few steps, what it was trained with, and the bundle exported from it."""

    run: Path
    bundle: Path
    data: Path
    model_config: object  # FewConfig
    config: object  # TrainConfig


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A tiny model trained for a few steps on four made pictures, one of them smaller than the crop. Do not change it."""
    torch = pytest.importorskip("torch")
    from fewbits.families.few import Few, FewConfig
    from fewbits.training.export import run_files, write_folder
    from fewbits.training.loop import Budget, TrainConfig, train

    torch.set_num_threads(1)  # such small networks gain nothing from more
    root = tmp_path_factory.mktemp("tiny")
    data = root / "data"
    data.mkdir()
    for seed, (height, width) in enumerate([(96, 80), (70, 200), (130, 64), (20, 30)]):
        Image.fromarray(make_picture(height, width, seed)).save(data / f"made-{seed}.png")
    model_config = FewConfig(
        latent=12, hyper=4, width_8=8, depth_8=1, width_16=8, depth_16=1, hyper_width=8, lambdas=(0.0018, 0.0175, 0.17)
    )
    config = TrainConfig(batch=2, crop=64, warmup_steps=2, cache_mb=8, save_minutes=0.0)
    run, bundle = root / "run", root / "bundle"
    initialize = Few.initialize
    with pytest.MonkeyPatch.context() as patch:  # 64 batches are for real runs
        patch.setattr(Few, "initialize", lambda self, pictures, distortion: initialize(self, islice(pictures, 1), distortion))
        train("few", [data], run, Budget(steps=5), model_config=model_config, config=config, device="cpu")
    write_folder(bundle, run_files(run, {"licence": "MIT"}))
    return TinyRun(run, bundle, data, model_config, config)

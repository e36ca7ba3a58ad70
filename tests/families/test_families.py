# SPDX-License-Identifier: MIT
"""The contract of every family in the one table: trained for a few steps and exported, it makes real files that hold up."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fewbits.codec import Model  # noqa: E402
from fewbits.container import FAMILY_IDS, SECTION_HYPER, SECTION_IMPORTANCE, SECTION_LATENT, pack, parse  # noqa: E402
from fewbits.errors import FewbitsError, TrainingError  # noqa: E402
from fewbits.families import FAMILIES, Family  # noqa: E402
from fewbits.families.settings import override  # noqa: E402
from fewbits.runtime.engines import onnxruntime_engine  # noqa: E402
from fewbits.training import checkpoint  # noqa: E402
from fewbits.training.export import load_model, parse_bundle, run_files  # noqa: E402
from fewbits.training.loop import Budget, TrainConfig, train  # noqa: E402

WEIGHTS = Path(checkpoint.__file__).parents[1] / "weights"
STEPS = 20
LONGER = {"resnet101": 300}  # steps
SIZES = [
    (1, 1),
    (37, 53, 3),
    (37, 53),
    (300, 24, 3),
]  # grey where there are no planes; the last is higher than a strip of 32 rows
SMALLER: dict[str, dict[str, Any]] = {  # than its defaults, where these take long
    "few": {
        "latent": 12,
        "hyper": 4,
        "width_8": 8,
        "depth_8": 1,
        "width_16": 8,
        "hyper_width": 8,
        "lambdas": (0.0018, 0.02, 0.2),
    },
    "slimcae": {"widths": (6, 9, 12), "lambdas": (0.003, 0.01, 0.03), "levels": 9},
    "klt": {"levels": 9},
    "cae-pca": {"filters": (4, 4, 8, 8, 16, 12), "start": "klt", "objective": "rate"},
    "resnet101": {"depth": 18, "width": 8},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=FAMILIES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> dict[str, bytes]:
    """The files of a bundle of each family, after a few steps on a photograph."""
    return trained(request.param, tmp_path_factory, photo)


_kept: dict[str, dict[str, bytes]] = {}


def trained(name: str, tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> dict[str, bytes]:
    if name not in _kept:
        root = tmp_path_factory.mktemp(name)
        (root / "data").mkdir()
        Image.fromarray(photo[:300, 100:420]).save(root / "data" / "photo.png")
        config_class, model_class = FAMILIES[name]
        own = getattr(config_class, "training", {})
        quick = {"batch": 4, "crop": 64, "warmup_steps": 2, "cache_mb": 8, "keep_epochs": 0, "loss": "mse"}
        config = TrainConfig(**(own | quick))
        initialize = model_class.initialize
        with pytest.MonkeyPatch.context() as patch:  # as many batches as a real run takes are not needed
            patch.setattr(model_class, "initialize", lambda self, x, distortion: initialize(self, islice(x, 1), distortion))
            train(
                name,
                [root / "data"],
                root / "run",
                Budget(steps=LONGER.get(name, STEPS)),
                model_config=config_class(**SMALLER.get(name, {})),
                config=config,
            )
        _kept[name] = run_files(root / "run", {})
    return _kept[name]


def pictures(photo: np.ndarray) -> list[np.ndarray]:
    found = [photo[40 : 40 + size[0], 120 : 120 + size[1]] for size in SIZES]
    return [pixels if len(size) == 3 else pixels[..., 1] for pixels, size in zip(found, SIZES, strict=True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_offers_everything(name: str) -> None:
    config, model = FAMILIES[name]
    assert isinstance(model(config()), Family)
    assert not isinstance(torch.nn.Linear(1, 1), Family)  # the check can fail
    assert name in FAMILY_IDS


def test_pictures_come_back_in_their_size_and_colour_and_better_at_a_higher_quality(
    files: dict[str, bytes], photo: np.ndarray
) -> None:
    model = Model(files, "made here", onnxruntime_engine(1))
    for pixels in pictures(photo):
        errors = []
        for quality in (0, 100):
            decoded = model.decode(model.encode(pixels, quality))
            assert np.asarray(decoded).shape == pixels.shape and decoded.mode == ("L" if pixels.ndim == 2 else "RGB")
            errors.append(np.square(np.asarray(decoded, float) - pixels).mean())
        assert errors[1] < errors[0] or pixels.size < 9
        assert errors[1] < np.var(pixels.astype(float)) or pixels.size < 9  # it is this picture


def test_symbols_are_the_same_with_any_number_of_threads(files: dict[str, bytes], photo: np.ndarray) -> None:
    models = [Model(files, "made here", onnxruntime_engine(n)) for n in (1, 2, 4)]
    for pixels in pictures(photo):
        for writer in models[:2]:
            data = writer.encode(pixels, 70)
            expected = writer.symbols(data)
            for reader in models:
                found = reader.symbols(data)
                assert all(np.array_equal(*pair) for pair in zip(expected, found, strict=True))
                both = [np.asarray(each.decode(data), int) for each in (writer, reader)]
                assert np.abs(both[0] - both[1]).max() <= 1


def test_damaged_files_give_one_of_our_errors_or_the_same_symbols(files: dict[str, bytes], photo: np.ndarray) -> None:
    model = Model(files, "made here", onnxruntime_engine(1))
    data = model.encode(pictures(photo)[1], 50)
    expected = model.symbols(data)
    begin = len(data) - sum(len(stream) for _, stream in parse(data)[1])
    for end in [*range(0, len(data), max(1, len(data) // 40)), len(data) - 1]:
        with pytest.raises(FewbitsError):
            model.decode(data[:end])
    with pytest.raises(FewbitsError):
        model.decode(data + b"\0")
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(data), 150):
        mutated = bytearray(data)
        mutated[place] ^= 1 << int(rng.integers(8))
        try:
            found = model.symbols(bytes(mutated))
        except FewbitsError:
            refused += 1
        else:
            assert place >= begin and all(np.array_equal(*pair) for pair in zip(expected, found, strict=True))
    assert refused > 100


def test_sections_that_may_be_skipped_are_and_others_are_not(files: dict[str, bytes], photo: np.ndarray) -> None:
    model = Model(files, "made here", onnxruntime_engine(1))
    data = model.encode(pictures(photo)[1], 50)
    header, sections = parse(data)
    streams = [bytes(stream) for _, stream in sections]
    for kind, allowed in ((200, True), (SECTION_LATENT, False), (SECTION_HYPER, False), (SECTION_IMPORTANCE, False)):
        more = pack(replace(header, sections=(*header.sections, (kind, 4))), [*streams, bytes(4)])
        if allowed:
            assert all(np.array_equal(*pair) for pair in zip(model.symbols(data), model.symbols(more), strict=True))
        else:
            with pytest.raises(FewbitsError):
                model.symbols(more)


def test_a_bundle_brings_its_networks_back(files: dict[str, bytes], photo: np.ndarray) -> None:
    """As fine-tuning needs them: exported again, the analysis gives the same latent."""
    from fewbits.training.export import bundle_files

    bundle = parse_bundle(files, "made here")
    model = load_model(bundle)
    twin = Model(bundle_files(bundle.family, model, {}), "made again", onnxruntime_engine(1))
    first = Model(files, "made here", onnxruntime_engine(1))
    pixels = pictures(photo)[1]
    latents = [each.pipeline.analyse(pixels, each.pipeline.level(10000, "rgb"), lambda _: None) for each in (first, twin)]
    assert latents[0].shape == latents[1].shape
    assert np.abs(latents[0] - latents[1]).max() <= 1e-3 * np.abs(latents[0]).max()


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("few", "latent=1000", "latent is 1000, it must be 1 to 768"),
        ("few", "lambdas=-1,1", "lambdas is -1.0,1.0: each must be above 0, and they must rise"),
        ("few", "lambdas=0,1", "lambdas is 0.0,1.0: each must be"),
        ("few", "lambdas=2,1", "lambdas is 2.0,1.0: each must be"),
        ("few", "lambdas=1,nan", "lambdas is 1.0,nan: each must be"),
        ("few", "hyper=0", "hyper is 0, it must be at least 1"),
        ("few", "hyper_limit=0", "hyper_limit is 0, it must be at least 1"),
        ("few", "hyper_limit=1000", "hyper_limit is 1000, with hyper 64 it must be at most 114"),
        ("few", "hyper_width=1000", "hyper_width is 1000, it must be 1 to 259"),
        ("few", "pyramid=400", "pyramid is 400, it must be at most latent, 320"),
        ("few", "pyramid=-1", "pyramid is -1, it must be at least 0"),
        ("few", "width_8=0", "width_8 is 0, it must be at least 1"),
        ("few", "depth_8=-1", "depth_8 is -1, it must be at least 0"),
        ("few", "dead_zone=-1", "dead_zone is -1.0, it must be at least 0"),
        ("few", "int8=7", "int8 is 7.0, it must be 0 to 1"),
        ("slimcae", "widths=0,2", "widths is 0,2: each must be at least 1"),
        ("slimcae", "levels=0", "levels is 0, it must be at least 1"),
        ("klt", "levels=0", "levels is 0, it must be at least 2"),
        ("klt", "levels=1", "levels is 1, it must be at least 2"),
        ("klt", "coarsest=0", "coarsest is 0.0, it must be above 0"),
        ("klt", "finest=320", "finest is 320.0, it must be below coarsest, 320.0"),
        ("cae-pca", "noise=-1", "noise is -1.0, it must be at least 0"),
        ("cae-pca", "highest=inf", "highest is inf, it must be a finite number"),
        ("content-weighted", "channels=0", "channels is 0, it must be at least 1"),
        ("content-weighted", "width=1", "width is 1, it must be at least 2"),
        ("content-weighted", "distortion_weight=-1", "distortion_weight is -1.0, it must be above 0"),
        ("resnet-ae", "width=1", "width is 1, it must be at least 2"),
        ("cae3", "width=0", "width is 0, it must be at least 1"),
        ("resnet101", "bits=9", "bits is 9, it must be 1 to 8"),
    ],
)
def test_a_setting_says_what_it_may_be(name: str, setting: str, said: str) -> None:
    with pytest.raises(TrainingError, match=f"^{said}"):
        override(FAMILIES[name][0](), [setting])


def test_a_setting_of_several_numbers_needs_one_unless_none_is_the_default() -> None:
    assert replace(FAMILIES["few"][0](), analysis_units_8=()).analysis_units_8 == ()
    with pytest.raises(TrainingError, match="lambdas is empty, it must be one number or more"):
        replace(FAMILIES["few"][0](), lambdas=())


@pytest.mark.parametrize("name", [path.name for path in WEIGHTS.iterdir() if path.is_dir()])
def test_settings_of_models_that_ship_are_allowed(name: str) -> None:
    """And those of their training."""
    manifest = json.loads((WEIGHTS / name / "manifest.json").read_text())
    config_class, model_class = FAMILIES[manifest["family"]]
    architecture = checkpoint.plain_settings(manifest["card"]["architecture"])
    assert model_class(config_class(**architecture))
    assert TrainConfig(**manifest["card"]["training"])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_says_what_it_was_trained_with(name: str) -> None:
    """A config goes through JSON and back, whatever its fields are."""
    config_class = FAMILIES[name][0]
    config = replace(config_class(), **SMALLER.get(name, {}))
    from dataclasses import asdict
    from json import dumps, loads

    assert config_class(**checkpoint.plain_settings(loads(dumps(asdict(config))))) == config

# SPDX-License-Identifier: MIT
"""The commands `fewbits train` and `fewbits export`; imported only when they are called, since they need torch."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fewbits.codec import Model
from fewbits.errors import TrainingError
from fewbits.families import FAMILIES
from fewbits.families.settings import described, override
from fewbits.fidelity import psnr
from fewbits.processor import cores
from fewbits.training import checkpoint, export, surgeon
from fewbits.training.calibration import middle
from fewbits.training.data import TrainingWarning, decode_rgb, find_pictures, to_tensor
from fewbits.training.loop import Budget, TrainConfig, train
from fewbits.training.profile import profile
from fewbits.training.ranks import Ranks, torchrun_ranks
from fewbits.training.silent import without_silent

CURVE_QUALITIES = (0, 20, 40, 60, 80, 100)
CALIBRATION_PICTURES = 200
PRUNING_CROP, PRUNING_BATCH = 256, 8  # pixels a side; crops


def described_settings(family: str) -> dict[str, list[tuple[str, str]]]:
    """For the help of `fewbits train FAMILY`: headings with the settings under them, each as NAME=DEFAULT and what it is."""
    config_class = _config_class(family)
    training = TrainConfig(**getattr(config_class, "training", {}))
    return {f"Settings of {family}": described(config_class()), "Settings of its training": described(training)}


def setting_names(family: str) -> list[str]:
    """Names of all settings of a family and of its training."""
    return [field.name for config in (_config_class(family), TrainConfig) for field in dataclasses.fields(config)]


@contextmanager
def plain_warnings(*, heard: bool = True) -> Iterator[None]:
    """While entered, a TrainingWarning is one line on stderr, above a bar where there is one; nothing where it is not heard."""
    with warnings.catch_warnings():
        warnings.simplefilter("default" if heard else "ignore", TrainingWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if issubclass(category, TrainingWarning):
                line = str(message).replace("\n", "\\n").replace("\r", "\\r")
                tqdm.write(f"fewbits: {line}", file=sys.stderr)
            else:
                others(message, category, *rest, **options)

        warnings.showwarning = show
        yield


def _config_class(family: str) -> type[Any]:
    if family not in FAMILIES:
        raise TrainingError(f"family is {family!r}, known are {', '.join(FAMILIES)}")
    return FAMILIES[family][0]


def _restored(config: Any, saved: dict[str, Any]) -> Any:
    """`config` with the values that a run saved as JSON; fields that are newer than the run keep their defaults."""
    names = {field.name for field in dataclasses.fields(config)}
    values = checkpoint.plain_settings(saved)
    return dataclasses.replace(config, **{name: value for name, value in values.items() if name in names})


def run_train(family: str, data: list[Path], out: Path, *, device: str, **options: Any) -> None:
    """Everything behind `fewbits train`; see its help. Where torchrun started this process, it trains with the others."""
    with torchrun_ranks(device) as ranks, plain_warnings(heard=ranks.first):
        _run_train(ranks, family, data, out, device=device, **options)


def _run_train(
    ranks: Ranks,
    family: str,
    data: list[Path],
    out: Path,
    *,
    minutes: float | None,
    steps: int | None,
    anneal: float | None,
    init: Path | None,
    exclude: list[str],
    validation: list[Path],
    settings: list[str],
    device: str,
    compiled: bool = False,
    profile_steps: int | None = None,
) -> None:
    if anneal is not None and minutes is not None:
        raise ranks.same_error(TrainingError("--anneal brings its own minutes: leave --minutes out"))
    model_config, config, start = ranks.told(lambda: _chosen(family, out, init, settings))
    torch.set_num_threads(max(1, min(cores() // ranks.local_count, 16)))
    chosen: dict[str, Any] = {"model_config": model_config, "config": config, "start": start, "exclude": exclude}
    chosen |= {"device": device, "compiled": compiled, "ranks": ranks}
    if profile_steps is not None:
        profile(family, data, out, profile_steps, **chosen)
        return
    with ranks.together():
        budget = Budget(minutes=anneal if anneal is not None else minutes, steps=steps)
    train(family, data, out, budget, anneal=anneal is not None, validation=validation, **chosen)


def _chosen(family: str, out: Path, init: Path | None, settings: list[str]) -> tuple[Any, TrainConfig, dict[str, Tensor] | None]:
    """Configs of the model and the training, and first weights where there are some: by the run, the bundle and the settings."""
    config_class = _config_class(family)
    bundle = export.load_bundle(init) if init else None
    if bundle and bundle.family != family:
        raise TrainingError(f"--init {init} is of family {bundle.family}, not {family}")
    model = export.load_model(bundle) if bundle else None
    model_config = model.config if model else config_class()
    config = TrainConfig(**getattr(config_class, "training", {}))
    if checkpoint.has_begun(out):  # a run goes on with its own settings
        saved = checkpoint.load_config(out)
        if saved["family"] != family:
            raise TrainingError(f"{out} is a run of family {saved['family']}, not {family}")
        model_config, config = (_restored(*pair) for pair in ((model_config, saved["model"]), (config, saved["train"])))
    own = {field.name for field in dataclasses.fields(config_class)}
    model_config = override(model_config, [s for s in settings if s.partition("=")[0] in own])
    config = override(config, [s for s in settings if s.partition("=")[0] not in own])
    return model_config, config, model.state_dict() if model else None


@plain_warnings()
def run_prune(bundle: Path, target: Path, data: list[Path], exclude: list[str], shares: dict[str, float]) -> None:
    """Everything behind `fewbits prune`; see its help."""
    surgeon.check_shares(shares)
    export.check_target(target)
    source = export.load_bundle(bundle)
    if source.family != "few":
        raise TrainingError(f"{bundle} is of family {source.family}: only models of few have blocks to leave units out of")
    model = export.load_model(source)
    pictures = _spread(data, exclude)
    crops = _crops(pictures)
    torch.manual_seed(0)
    model, units = surgeon.pruned(model, crops, shares)
    model, channels = without_silent(model, crops)
    for name, (left, before) in (units | channels).items():
        print(f"{name:<30} {left} of {before} units")
    kept = {name: value for name, value in source.card.items() if name not in ("curve", export.UNITS)}
    pruned = {"from": source.model_id.hex(), "crops": sum(map(len, crops)), **shares}
    card = kept | {"architecture": dataclasses.asdict(model.config), "pruned": pruned}
    export.write_folder(target, export.bundle_files(source.family, model, card, pictures))
    loss = source.card.get("training", {}).get("loss", "mse")
    print(f"{target} holds a model, chosen by {pruned['crops']} crops, to train on from:")
    print(f"fewbits train few --init {target} --loss {loss} --lr 3e-4 --matrix-lr 3e-4 --data PICTURES --out RUN --steps 1")
    print("fewbits train few --data PICTURES --out RUN --anneal 45")


def _crops(pictures: list[np.ndarray]) -> list[Tensor]:
    """A crop of each picture that is large enough, in batches."""
    generator, crops = np.random.default_rng(0), []
    for picture in pictures:
        free = [side - PRUNING_CROP for side in picture.shape[:2]]
        if min(free) >= 0:
            top, left = (int(generator.integers(n + 1)) for n in free)
            crops.append(picture[top : top + PRUNING_CROP, left : left + PRUNING_CROP])
    if not crops:
        raise TrainingError(f"no picture of {PRUNING_CROP}x{PRUNING_CROP} pixels or more to prune by")
    batches = [crops[k : k + PRUNING_BATCH] for k in range(0, len(crops), PRUNING_BATCH)]
    return [to_tensor(np.stack(batch), torch.device("cpu")) for batch in batches]


@plain_warnings()
def run_export(
    run: Path, bundle: Path, card: Path | None, pictures: list[Path], calibrate: list[Path], exclude: list[str]
) -> None:
    """Everything behind `fewbits export`; see its help."""
    export.check_target(bundle)
    entries: dict[str, Any] = {}
    if card:
        try:
            entries = json.loads(card.read_text())
        except (OSError, ValueError) as error:
            raise TrainingError(f"--card {card}: {error}") from error
        if not isinstance(entries, dict):
            raise TrainingError(f"--card {card}: it holds a {type(entries).__name__}, it must be a JSON object")
    files = export.run_files(run, entries, _spread(calibrate, exclude))
    if pictures:
        curve = {"pictures": [path.name for path in pictures], "points": measure(Model(files, str(bundle)), pictures)}
        files = export.amended(files, {}, {"curve": curve})
    export.write_folder(bundle, files)
    print(f"{bundle} holds a model of {sum(map(len, files.values())) / 1e6:.1f} MB: fewbits encode --model {bundle}")


def _spread(roots: list[Path], exclude: list[str]) -> list[np.ndarray]:
    """Pictures for calibration, spread over all that are there."""
    items = find_pictures(roots, exclude) if roots else []
    step = max(1, len(items) // CALIBRATION_PICTURES)
    decoded = map(decode_rgb, items[::step][:CALIBRATION_PICTURES])
    return [middle(picture) for picture in decoded if picture is not None]


def measure(model: Model, roots: list[Path]) -> list[dict[str, float]]:
    """Mean bits per pixel (bytes on disk) and mean RGB PSNR over the pictures, at CURVE_QUALITIES."""
    pictures = [picture for picture in map(decode_rgb, find_pictures(roots)) if picture is not None]
    points = []
    for quality in CURVE_QUALITIES:
        scores = []
        for picture in pictures:
            data = model.encode(picture, quality)
            scores.append((8 * len(data) / (picture.shape[0] * picture.shape[1]), psnr(picture, np.asarray(model.decode(data)))))
        mean_bpp, mean_psnr = np.mean(scores, axis=0)
        points.append({"quality": quality, "bpp": round(float(mean_bpp), 4), "psnr": round(float(mean_psnr), 3)})
    return points

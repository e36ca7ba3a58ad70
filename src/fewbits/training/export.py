# SPDX-License-Identifier: MIT
"""A training run -> a bundle, and a bundle's weights back into a model.

Weights are rounded to float16 before export and kept so in the ONNX files (a Cast brings them to float32 at load), which
halves a bundle; what export itself fits, the map that tells means, stays in float32.
Initializers carry the names that the parameters have in torch, so weights can be read back.
"""

import dataclasses
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from fewbits.codec import read_bundle
from fewbits.errors import ModelError, TrainingError
from fewbits.families import FAMILIES
from fewbits.families.losses import DISTORTIONS, parse_terms
from fewbits.runtime.bundle import GRADIENT, INTEGER, TABLES, Bundle, pack_bundle, parse_bundle
from fewbits.runtime.manifest import MANIFEST
from fewbits.runtime.slopes import MOST_WORTH, TERMS, checked_terms
from fewbits.training import checkpoint
from fewbits.training.calibration import latent_range, observed
from fewbits.training.data import TrainingWarning, to_tensor
from fewbits.training.gradient import gradient
from fewbits.training.integer_scales import integer_scales
from fewbits.training.layout import channels_last, parameters, with_pixels
from fewbits.training.loop import GRID_PX
from fewbits.training.pruning import pruned
from fewbits.training.quantization import quantized

OPSET = 18
PRUNED = ("analysis", "synthesis")
UNITS = "units"  # in the model card: of each pruned network the hidden units that are kept, and that there were


def run_files(run: Path, card: dict[str, Any], pictures: Sequence[np.ndarray] = ()) -> dict[str, bytes]:
    """The bundle's files from a run's annealed weights, or from its trunk's average where there are none.

    card: more entries for the model card (licence, measured curve). pictures: see bundle_files. Raises TrainingError where
    `run` is no run, or one of other layers. Warns where the trunk has gone on since it was annealed.
    """
    config = checkpoint.load_config(run)
    annealed, trunk = run / checkpoint.ANNEALED, run / checkpoint.TRUNK
    state = checkpoint.load(annealed if annealed.exists() else trunk)
    if annealed.exists() and trunk.exists():
        _check_age(annealed, state, checkpoint.load(trunk)["step"])
    model = _build(config["family"], config["model"], str(run))
    checkpoint.fill(model, state["averaged"])
    described = {
        "architecture": dataclasses.asdict(model.config),
        "training": config["train"],
        "training_data": config["data"],
        "steps": state["step"],
        "minutes": round(state["seconds"] / 60, 1),
        "annealed": annealed.exists(),
    }
    return bundle_files(config["family"], model, described | card, pictures)


def _check_age(annealed: Path, state: dict[str, Any], step: int) -> None:
    """Warns where the trunk, at `step`, has gone on since it was annealed."""
    more = step - state.get("trunk_step", step)
    if more > 0:
        what = f"{annealed} is of the trunk's step {state['trunk_step']}, and the trunk has {more} steps more"
        advice = f"--anneal anew takes them in; without {annealed.name} the trunk as it is would be exported"
        warnings.warn(f"{what}: {advice}", TrainingWarning, stacklevel=3)


def _build(family: str, architecture: Any, where: str) -> Any:
    """A fresh model of a family from its config as JSON. Raises ModelError that says `where` the config came from."""
    try:
        config_class, model_class = FAMILIES[family]
        return model_class(config_class(**checkpoint.plain_settings(architecture)))
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{where}: this release cannot build its {family!r}: {error}") from error


def bundle_files(family: str, model: Any, card: dict[str, Any], pictures: Sequence[np.ndarray] = ()) -> dict[str, bytes]:
    """All files of a bundle for a trained model that offers networks(), tables() and coding().

    pictures: uint8 (height, width, 3); where there are some, a model that offers calibrate() is given them, and analysis and
    synthesis lose the hidden units that none of them makes fire. Raises TrainingError where their weights are inputs. Networks of
    which the model offers int8_steps() get an int8 variant, for latents as large as pictures have them where there are some.
    A model that has_gradient gets the gradient that effort needs, and in its card what that is to heed (ADR 35): the distortion
    that it was trained for, if encoders know all its terms, or what the card says under `effort`. Raises TrainingError of that.
    A model that offers scale_shifts() gets its `scales` in integers, where 8 bits hold them (ADR 36).
    """
    if pictures and model.frozen_networks.intersection(PRUNED):
        raise TrainingError(f"the family {family} takes no pictures for calibration: the weights of its networks are inputs")
    model = model.eval().cpu()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
        if pictures and hasattr(model, "calibrate"):
            model.calibrate(extended(to_tensor(picture[None], torch.device("cpu"))) for picture in pictures)
        files = {f"{name}.onnx": export_network(network, inputs) for name, (network, inputs) in model.networks().items()}
        tables = model.tables()
    card = card | (model.encoder_card() if hasattr(model, "encoder_card") else {})
    files[TABLES] = _packed(tables)
    steps = model.int8_steps() if hasattr(model, "int8_steps") else {}
    if pictures:
        card = card | {UNITS: {}}
        for name, peaks in observed(pack_bundle(family, model.coding(), card, files), pictures, PRUNED).items():
            files[f"{name}.onnx"], card[UNITS][name], kept = pruned(files[f"{name}.onnx"], peaks)
            if name in steps:
                steps[name] |= {layer: steps[name][layer][channels] for layer, channels in kept.items()}
    interleaved = ("synthesis.onnx",) if model.coding()["kind"] == "hyperprior" else ()  # the other pipelines take planes only
    for name in [name for name in files if name != TABLES]:
        files[name] = channels_last(files[name], pixels=name in interleaved)
    variants = {
        f"{name}.int8.onnx": graph
        for network, of_network in steps.items()
        for name, graph in quantized(files[f"{network}.onnx"], of_network, model.config.n_leading).items()
    }
    for name in interleaved:
        files[name] = with_pixels(files[name])
    if hasattr(model, "scale_shifts"):
        integers = integer_scales(files["scales.onnx"], model.scale_shifts(), model.coding())
        variants |= {f"scales.{INTEGER}.onnx": integers} if integers else {}
    if "effort" in card and not getattr(model, "has_gradient", False):
        raise TrainingError(f"--card: effort is for the family few, of {family} nothing is known of its gradient")
    if getattr(model, "has_gradient", False) and (terms := _effort_terms(card, model.config.lambdas)):
        variants[f"synthesis.{GRADIENT}.onnx"] = gradient(files["synthesis.onnx"])
        card = card | {"effort": {"lambdas": list(model.config.lambdas), "terms": terms}}
    ranges = {"synthesis": latent_range(pack_bundle(family, model.coding(), card, files), pictures)} if pictures and steps else {}
    return pack_bundle(family, model.coding(), card, files, variants, ranges)


def _effort_terms(card: Mapping[str, Any], lambdas: Sequence[float]) -> dict[str, float]:
    """The weights of what encoders with effort heed: those in the card, or those of the training's loss; none where it has terms
    that they do not know, or a penalty, or numbers that bundles do not take. Raises TrainingError of the card's."""
    if "effort" in card:
        return _given_terms(card["effort"])
    training = card.get("training", {})
    loss = training.get("loss", "")
    terms = {} if not loss or training.get("penalty") else parse_terms("loss", loss, DISTORTIONS)
    in_range = all(value < MOST_WORTH for value in (*terms.values(), *lambdas))
    return terms if set(terms) <= set(TERMS) and in_range else {}


def _given_terms(entry: Any) -> dict[str, float]:
    """The weights in a card's `effort`. Raises TrainingError."""
    try:
        return checked_terms(entry["terms"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"weights above 0 and below {MOST_WORTH:g} of {', '.join(TERMS)}"
        raise TrainingError(f"--card: effort is {entry!r}, it must have `terms`: {what}") from error


def extended(x: Tensor) -> Tensor:
    """x (b, c, h, w) with its last row and column repeated, up to multiples of GRID_PX."""
    padded = F.pad(x, (0, -x.shape[3] % GRID_PX, 0, -x.shape[2] % GRID_PX), mode="replicate")
    return padded.contiguous(memory_format=torch.channels_last)


def amended(files: dict[str, bytes], tables: dict[str, np.ndarray], card: dict[str, Any]) -> dict[str, bytes]:
    """A bundle's files with some tables and some entries of the model card replaced."""
    bundle = parse_bundle(files, "this bundle")
    variants = {f"{name}.{precision}.onnx": data for precision, all_ in bundle.variants.items() for name, data in all_.items()}
    variants |= {f"synthesis.{GRADIENT}.onnx": bundle.gradient} if bundle.gradient else {}
    variants |= {f"scales.{INTEGER}.onnx": bundle.integer_scales} if bundle.integer_scales else {}
    others = {name: data for name, data in files.items() if name not in (MANIFEST, TABLES, *variants)}
    packed = _packed(dict(bundle.tables) | tables) if tables else files[TABLES]
    files = {**others, TABLES: packed}
    return pack_bundle(bundle.family, bundle.coding, dict(bundle.card) | card, files, variants, bundle.ranges)


def _packed(tables: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **tables)
    return buffer.getvalue()


def export_network(network: nn.Module, inputs: dict[str, Tensor]) -> bytes:
    """ONNX bytes of `network`, called with `inputs` by name.

    Height and width stay free, or, where the network has `dynamic_axes`, those axes of each input. An input of one row and one
    column holds for all places; it may as well be given for each place, and gives the same result where all are alike.
    """
    network = network.eval()
    own_axes = getattr(network, "dynamic_axes", None)
    axes = own_axes or {name: (2, 3) if min(value.shape[2:]) > 1 else () for name, value in inputs.items()}
    shapes = {name: {axis: torch.export.Dim.DYNAMIC for axis in axes[name]} or None for name in inputs}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells in many lines that torchvision is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecations
        program = torch.onnx.export(
            network, kwargs=inputs, dynamo=True, dynamic_shapes=shapes, opset_version=OPSET, verbose=False,
            input_names=list(inputs), output_names=["out"], optimize=True,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    if not own_axes:
        _free_places(model, [name for name in inputs if not axes[name]])
    _name_initializers(model, network)
    _reshape_initializers(model)
    _halve_initializers(model)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _free_places(model: onnx.ModelProto, names: list[str]) -> None:
    """Let inputs that were exported at one place be as large as those that they are added to or multiplied with."""
    for item in model.graph.input:
        if item.name in names:
            for axis, side in ((2, "rows"), (3, "columns")):
                item.type.tensor_type.shape.dim[axis].dim_param = f"{item.name}_{side}"


def _name_initializers(model: onnx.ModelProto, network: nn.Module) -> None:
    """Give every initializer that holds a parameter its name in torch; the exporter renames those that it reshapes."""
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for name, value in network.state_dict().items():
        if name in arrays:
            continue
        wanted = value.numpy().ravel()
        same = [key for key, array in arrays.items() if array.size == wanted.size and np.array_equal(array.ravel(), wanted)]
        free = [key for key in same if key not in network.state_dict()]
        if free:
            _rename(model, free[0], name)
            arrays[name] = arrays.pop(free[0])
        else:  # the exporter drops biases of zeros and merges parameters of equal values: keep them for `--init`
            model.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for item in model.graph.initializer:
        if item.name == old:
            item.name = new
    _read_instead(model, old, new)


def _read_instead(model: onnx.ModelProto, old: str, new: str) -> None:
    """Let nodes that read `old` read `new`."""
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if name == old:
                node.input[k] = new


def _reshape_initializers(model: onnx.ModelProto) -> None:
    """Store initializers in the shape that they are used in: a runtime takes 0.1 ms to compute with each when it loads them."""
    items = {item.name: item for item in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in [node for node in model.graph.node if node.op_type == "Reshape" and set(node.input) <= set(items)]:
        name, shape = node.input
        sides = numpy_helper.to_array(items[shape]).tolist()
        if uses[name] > 1 or 0 in sides:
            continue
        items[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(items[name]).reshape(sides), name))
        _read_instead(model, node.output[0], name)
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for item in [item for item in model.graph.initializer if item.name in uses and item.name not in used]:  # shapes
        model.graph.initializer.remove(item)


def _halve_initializers(model: onnx.ModelProto) -> None:
    """Store float32 initializers as float16 where that is exact, with a Cast in front of their use. Not biases, which are small:
    a runtime takes 0.1 ms for each Cast when it loads them."""
    casts = []
    for item in model.graph.initializer:
        array = numpy_helper.to_array(item)
        if array.dtype != np.float32 or array.ndim < 2 or array.size < 64:
            continue
        with np.errstate(over="ignore"):
            halved = array.astype(np.float16)
        if not np.array_equal(halved.astype(np.float32), array):
            continue
        name = item.name
        _read_instead(model, name, name + "/float32")
        item.CopyFrom(numpy_helper.from_array(halved, name))
        casts.append(helper.make_node("Cast", [name], [name + "/float32"], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def check_target(target: Path) -> None:
    """Raises TrainingError where a bundle must not be written to `target`."""
    if target.exists() and not (target / MANIFEST).exists():
        raise TrainingError(f"{target} exists and is no bundle: choose another name")
    there = next(parent for parent in target.absolute().parents if parent.exists())
    if not there.is_dir():
        raise TrainingError(f"{target}: {there} is no folder")


def write_folder(target: Path, files: dict[str, bytes]) -> None:
    """Write a bundle folder beside its place and rename it there; an older bundle is replaced, anything else is kept."""
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        new, old = work / "new", work / "old"
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(work)


def load_bundle(path: Path) -> Bundle:
    """A bundle from its folder. Raises ModelError."""
    return parse_bundle(read_bundle(path), str(path))


def load_model(bundle: Bundle) -> Any:
    """The torch model of a bundle, with its weights: to fine-tune it, or as a second engine to test against.

    Bits that `estimate` gives are the model's but of klt and slimcae, of whose distributions a bundle holds frequencies only.
    """
    where = f"bundle {bundle.model_id.hex()}"
    if bundle.family == "few" and "means" not in bundle.coding:
        raise ModelError(f"{where}: an older release exported it: it encodes and decodes, but cannot be trained on")
    model = _build(bundle.family, _architecture(bundle), where)
    arrays = {name: _initializers(data) for name, data in bundle.networks.items()}
    dropped = {
        name: [layer for layer, (kept, _) in units.items() if not kept] for name, units in bundle.card.get(UNITS, {}).items()
    }
    for name, (network, _) in model.networks().items():
        if name not in model.frozen_networks:
            _copy_parameters(network, arrays[name], [layer.rpartition(".")[0] for layer in dropped.get(name, [])])
    model.load_tables({name: torch.from_numpy(value) for name, value in bundle.tables.items()}, arrays)
    if "int8" in bundle.variants and hasattr(model, "load_int8_steps"):
        model.load_int8_steps({name: _initializers(data) for name, data in bundle.variants["int8"].items()})
    return model


def _architecture(bundle: Bundle) -> Any:
    """The config as JSON; of a `few` with the threshold that its files have, of which older model cards say nothing."""
    found: Any = bundle.card.get("architecture")
    known = bundle.family == "few" and isinstance(found, dict)
    return {**found, "first_coded": bundle.coding["first_coded_index"]} if known else found


def _initializers(data: bytes) -> dict[str, Tensor]:
    found = parameters(onnx.load_from_string(data).graph)
    return {name: torch.from_numpy(value.copy()) for name, (_, value) in found.items()}


def _copy_parameters(network: nn.Module, arrays: dict[str, Tensor], pruned_blocks: Sequence[str] = ()) -> None:
    """Fill `network` from initializers of the same names, reshaped. Raises ModelError where one is missing.

    Hidden units that export left out begin anew: they have random weights, and what reads them has zeros, so the network gives
    the same. pruned_blocks: where whole branches may be missing.
    """
    state = network.state_dict()
    for name, value in state.items():
        array = arrays.get(name)
        if array is None and name.startswith(tuple(f"{block}." for block in pruned_blocks)):
            continue  # as it was built: a branch that gives zero
        if array is not None and array.dim() == 4 and value.dim() == 2:
            array = array.flatten(1)  # a matrix that the exporter has made a kernel of
        if array is None or array.numel() > value.numel() or (array.numel() < value.numel() and array.dim() != value.dim()):
            raise ModelError(f"the bundle's networks hold no {name} of the right size")
        if array.numel() == value.numel():
            state[name] = array.float().reshape(value.shape)
        else:
            state[name] = value.clone()
            state[name][tuple(slice(n) for n in array.shape)] = array.float()
    network.load_state_dict(state)

# SPDX-License-Identifier: MIT
"""Where the flagship's time goes, and what its precisions and engines gain and cost. docs/performance.md has its tables.

budget    multiplications and bytes of each network, the machine's peaks, the floor they give, and the time that is reached
ways      seconds of encoding and decoding by precision and engine: medians of the process's time, taking turns in one process
cost      Bjontegaard rates, by PSNR and MS-SSIM, of int8 in decoding and of other engines both ways, against fp32
graphics  what int8 in decoding costs of made pictures with flat colours and hard edges, and which are left to float32
stages    where the time goes inside encode and decode, as --profile tells
against   seconds of this code beside another checkout's, --source PATH/src, with the models --other and --model, in one process

`budget` needs the package onnx (the extra `train`), `cost` the extra `bench`. On a shared machine compare ratios, not seconds.
"""

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from demo import PHOTOGRAPHS, photographs
from graphics import KINDS
from PIL import Image, ImageDraw

from fewbits import FewbitsError, load_model
from fewbits.codec import Model
from fewbits.fidelity import psnr
from fewbits.runtime.bundle import PIXELS, WIDE
from fewbits.runtime.engines import DEFAULT_ENGINE, ENGINES, Network, engine_of, engine_state, taken
from fewbits.runtime.manifest import PRECISIONS
from fewbits.stages import watched
from fewbits.structure import decibels, ms_ssim

QUALITIES: Final = (5, 20, 35, 50, 65, 80, 95)
VIEWS: Final = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")  # what moves nothing
SIZE: Final = (1024, 768)  # of the picture for times, columns and rows: one tile
# The input by which a network's share of the picture is known, and the pixels that each of its positions stands for.
COVERED: Final = {
    "analysis": ("x", 64),
    "hyper_analysis": ("y", 256),
    "scales": ("z_hat", 4096),
    "means": ("pyramid", 256),
    "synthesis": ("y_hat", 256),
}
DRAWN: Final = 3  # made graphics of each kind
SEEDS_APART: Final = 10_000  # from those of graphics.py, which are for training
CALLS: Final = 7  # a median is of so many


def cpu_seconds(call: Callable[[], object]) -> float:
    """Of the whole process: what others do on the machine is left out, as far as that goes."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def turns(calls: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Median seconds of each, taking turns, so that whatever else the machine does hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # loads networks
    for _ in range(repeat):
        for name, call in calls.items():
            seconds[name].append(cpu_seconds(call))
    return {name: median(values) for name, values in seconds.items()}


def picture(options: argparse.Namespace) -> np.ndarray:
    """A photograph of that size, mirrored where it is smaller."""
    columns, rows = options.size
    path = next(iter(pictures(options)))
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))[:rows, :columns]
    missing = [(0, side - own) for side, own in zip((rows, columns), pixels.shape, strict=False)]
    return np.pad(pixels, (*missing, (0, 0)), mode="symmetric")


def pictures(options: argparse.Namespace) -> list[Path]:
    if options.images is None:
        return photographs((*PHOTOGRAPHS, "rocket.jpg"))
    return sorted(path for path in options.images.iterdir() if path.suffix in (".png", ".jpg"))


def multiplications(graph: Any, shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """Of all convolutions on tensors of such shapes, and the bytes of what all nodes read and write as float32."""
    import onnx

    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Cast", "Reshape") and node.input[0] in arrays:
            shape = arrays[node.input[1]] if node.op_type == "Reshape" else arrays[node.input[0]].shape
            arrays[node.output[0]] = arrays[node.input[0]].reshape([int(n) for n in shape])
    macs = moved = 0
    for node in graph.node:
        if node.op_type == "Conv":
            kernel, (_, channels, rows, columns) = arrays[node.input[1]], shapes[node.output[0]]
            macs += channels * rows * columns * kernel[0].size
        if node.op_type not in VIEWS:
            moved += sum(4 * int(np.prod(shapes[name])) for name in (*node.input, *node.output) if name in shapes)
    return macs, moved


def observe(data: bytes, inputs: dict[str, np.ndarray]) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """A network's graph, and the shapes of all its tensors on such inputs."""
    import onnx
    import onnxruntime

    graph_model = onnx.load_from_string(data)
    kept = onnx.load_from_string(data).graph
    known = {item.name for item in kept.initializer}
    for node in kept.node:
        if known.issuperset(node.input):
            known.update(node.output)
    known.update(item.name for item in kept.output)
    names = [name for node in kept.node for name in node.output if name not in known]
    graph_model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(graph_model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = taken(inputs, {item.name for item in session.get_inputs()})
    values = session.run(None, inputs)
    outputs = [output.name for output in session.get_outputs()]
    return kept, {name: np.shape(value) for name, value in (*zip(outputs, values, strict=True), *inputs.items())}


def peaks() -> tuple[float, float]:
    """Multiplications a second in float32 on one core, by ONNX Runtime's product of large matrices, and bytes a second, by a
    copy."""
    import onnx

    side, rng = 1536, np.random.default_rng(0)
    inputs = {name: rng.random((side, side), np.float32) for name in ("a", "b")}
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [side, side]) for name in ("a", "b", "out")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["out"])], "product", infos[:2], infos[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    product = engine_of(DEFAULT_ENGINE, 1)(model.SerializeToString())
    large = np.zeros(1 << 28, np.uint8)
    target = np.empty_like(large)
    seconds = turns({"product": lambda: product(**inputs), "copy": lambda: np.copyto(target, large)}, CALLS)
    return side**3 / seconds["product"], 2 * large.nbytes / seconds["copy"]


def recording(network: Network, name: str, recorded: dict[str, dict[str, np.ndarray]]) -> Network:
    """The network, noting what it first reads under its name."""

    def call(output: str = "", /, **inputs: np.ndarray) -> np.ndarray:
        recorded.setdefault(name, inputs)
        return network(output, **inputs)

    return call


def budget(options: argparse.Namespace) -> None:
    macs_per_s, bytes_per_s = peaks()
    print(f"peaks of one core: {macs_per_s / 1e9:.0f} GMAC/s in float32, {bytes_per_s / 1e9:.1f} GB/s copied\n")
    model, pixels = load_model(options.model, threads=1, precision=options.precision), picture(options)
    n_px = pixels.shape[0] * pixels.shape[1]
    recorded: dict[str, dict[str, np.ndarray]] = {}
    pipeline: Any = model.pipeline
    loaded, with_integers = pipeline._network, pipeline._takes_integers
    for name in COVERED.keys() & model.bundle.networks.keys():
        loaded._loaded[name] = recording(loaded(name), name, recorded)
    pipeline._takes_integers = False  # the line of scales is that of the network in float32, whose multiplications are counted
    data = model.encode(pixels, 60)
    model.decode(data)
    pipeline._takes_integers = with_integers
    model = load_model(options.model, threads=1, precision=options.precision)
    header = f"{'network':16} {'kMAC/px':>8} {'B/px':>6} {'floor ns/px':>12} {'reached ns/px':>14} {'share of peak':>14}"
    print(f"{header}   (one call on {options.size[0]} x {options.size[1]}, {options.precision})")
    for name, inputs in recorded.items():
        graph, shapes = observe(model.bundle.networks[name], inputs)
        macs, moved = multiplications(graph, shapes)
        source, px = COVERED[name]
        covered = px * inputs[source].shape[2] * inputs[source].shape[3]
        network = loaded(name)
        seconds = median(cpu_seconds(partial(network, PIXELS, **inputs)) for _ in range(CALLS))
        floor = max(macs / macs_per_s, moved / bytes_per_s) / covered
        print(
            f"{name:16} {macs / covered / 1e3:8.2f} {moved / covered:6.0f} {1e9 * floor:12.1f} {1e9 * seconds / covered:14.1f} "
            f"{100 * macs / macs_per_s / seconds:13.0f} %"
        )
    for what, task in (("encode", lambda: model.encode(pixels, 60)), ("decode", lambda: model.decode(data))):
        print(f"{what}: {1e9 * turns({what: task}, CALLS)[what] / n_px:.1f} ns/px, all of it")


def ways(options: argparse.Namespace) -> None:
    pixels = picture(options)
    n_px = pixels.shape[0] * pixels.shape[1]
    models: dict[str, Model] = {}
    for engine in ENGINES:
        for precision in PRECISIONS:
            if engine_state(engine).startswith("not") or (precision != "fp32" and engine != DEFAULT_ENGINE):
                continue
            try:
                models[f"{engine} {precision}"] = load_model(options.model, threads=1, precision=precision, engine=engine)
            except FewbitsError as error:
                print(f"{engine} {precision}: {error}")
    first = next(iter(models.values()))
    data = first.encode(pixels, 60)
    tasks: dict[str, Callable[[Model], object]] = {
        "encode": lambda model: model.encode(pixels, 60),
        "decode": lambda model: model.decode(data),
    }
    reference = np.asarray(first.decode(data)).astype(int)
    print(f"{'':24} {'encode':>18} {'decode':>18}   largest difference of decoded levels")
    table = {
        what: turns({name: partial(task, model) for name, model in models.items()}, options.repeat)
        for what, task in tasks.items()
    }
    for name, model in models.items():
        cells = [
            f"{n_px / 1e6 / each[name]:6.2f} MP/s {next(iter(each.values())) / each[name]:5.2f} x" for each in table.values()
        ]
        difference = int(np.abs(np.asarray(model.decode(data)).astype(int) - reference).max())
        print(f"{name:24} {cells[0]:>18} {cells[1]:>18}   {difference}")


def cost(options: argparse.Namespace) -> None:
    """What each way costs in rate against float32 both ways: int8 in decoding, and other engines in both. And how many of the
    decoded values are how far from those of float32: of a file of their own, where encoding is by another engine."""
    from fewbits.bench.bjontegaard import Curve, rate_change

    plain, coarse = (load_model(options.model, threads=1, precision=precision) for precision in ("fp32", "int8"))
    ways = {"fp32": (plain, plain), "int8 in decoding": (plain, coarse)}
    for engine in ENGINES:
        if engine != DEFAULT_ENGINE and not engine_state(engine).startswith("not"):
            ways[f"{engine} both ways"] = (load_model(options.model, threads=1, precision="fp32", engine=engine),) * 2
    scores: dict[str, list[list[tuple[float, float, float]]]] = {name: [[] for _ in QUALITIES] for name in ways}
    apart = {name: np.zeros(256, np.int64) for name in ways}  # values by their difference in levels
    tiles: Counter[str] = Counter()
    for path in pictures(options)[:: options.every]:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        for k, quality in enumerate(QUALITIES):
            files = {name: encoder.encode(pixels, quality) for name, (encoder, _) in ways.items()}
            decoded = {name: decoded_by(decoder, files[name]) for name, (_, decoder) in ways.items()}
            tiles += decoded["int8 in decoding"][1]
            for name, (own, _) in decoded.items():
                apart[name] += np.bincount(np.abs(own.astype(int) - decoded["fp32"][0]).ravel(), minlength=256)
                bpp = 8 * len(files[name]) / (pixels.shape[0] * pixels.shape[1])
                scores[name][k].append((bpp, psnr(pixels, own), decibels(ms_ssim(pixels, own))))
    curves = {name: np.array([np.mean(each, axis=0) for each in rows]) for name, rows in scores.items()}
    reference = curves.pop("fp32")
    print(f"means over {len(scores['fp32'][0])} pictures; Bjontegaard rates against fp32, and differences of PSNR in dB")
    for name, curve in curves.items():
        changes = []
        for column in (1, 2):
            anchor, test = (Curve(each[:, 0].tolist(), each[:, column].tolist()) for each in (reference, curve))
            changes.append(rate_change(anchor, test).mean)
        losses = ", ".join(f"Q{quality} {loss:+.3f}" for quality, loss in zip(QUALITIES, (curve - reference)[:, 1], strict=True))
        print(f"{name:24} PSNR {changes[0]:+.2f} %, MS-SSIM {changes[1]:+.2f} %; {losses}")
        shares = ", ".join(
            f"{100 * apart[name][level:].sum() / apart[name].sum():.4f} % by {level} or more" for level in (2, 4, 8)
        )
        print(f"{'':24} values differ {shares}; {np.flatnonzero(apart[name])[-1]} at most")
    print(f"of {tiles.total()} tiles {tiles[WIDE]} are beyond the variant's range, and decoded in float32")


def decoded_by(model: Model, data: bytes) -> tuple[np.ndarray, Counter[str]]:
    """Pixels, and how many tiles of them its synthesis decoded (""), and how many the one beside its variant (WIDE)."""
    with watched() as watch:
        pixels = np.asarray(model.decode(data))
    return pixels, Counter({end: watch.calls.get(f"synthesis{end}", 0) for end in ("", WIDE)})


def made_graphics() -> dict[str, np.ndarray]:
    """uint8 (512, 512, 3) by name."""
    rng, side = np.random.default_rng(0), 512
    page = Image.new("RGB", (side, side), "white")
    for row in range(0, side, 12):
        ImageDraw.Draw(page).text(
            (4, row), "The quick brown fox jumps over the lazy dog. " * 3, fill="red" if row % 24 else "black"
        )
    colours = np.array([[k & 4, k & 2, k & 1] for k in range(8)], bool)
    squares = np.indices((side // 8, side // 8)).sum(0) % 2
    small = {
        "bars of saturated colours": np.repeat(colours[None], 8, axis=0),
        "squares of 8x8, black and white": np.repeat(squares[:, :, None], 3, axis=2),
        "squares of 8x8 in saturated colours": rng.integers(0, 2, (side // 8, side // 8, 3)),
    }
    grown = {name: np.kron(255 * pixels, np.ones((side // len(pixels),) * 2 + (1,))) for name, pixels in small.items()}
    made = {"a page of text": np.asarray(page)} | {name: pixels.astype(np.uint8) for name, pixels in grown.items()}
    for draw in dict.fromkeys(KINDS):
        for k in range(DRAWN):
            made[f"{draw.__name__} {k + 1}"] = np.asarray(draw(np.random.default_rng(SEEDS_APART + k)))
    return made


def graphics(options: argparse.Namespace) -> None:
    whole, coarse = (load_model(options.model, threads=1, precision=precision) for precision in ("fp32", "int8"))
    print("dB in float32, the difference in int8, and by how many levels values differ at most, at the qualities 5, 50 and 95;")
    print("f: decoded in float32, since it is beyond the variant's range")
    losses: dict[int, list[float]] = {5: [], 50: [], 95: []}
    for name, pixels in made_graphics().items():
        cells = []
        for quality, lost in losses.items():
            data = whole.encode(pixels, quality)
            (float_px, _), (int_px, tiles) = (decoded_by(model, data) for model in (whole, coarse))
            dbs = [psnr(pixels, values) for values in (float_px, int_px)]
            lost.append(dbs[1] - dbs[0])
            farthest = np.abs(float_px.astype(int) - int_px).max()
            cells.append(f"{dbs[0]:5.2f} {lost[-1]:+5.2f} {farthest:4} {'f' if tiles[WIDE] else ' '}")
        print(f"{name:38} {'   '.join(cells)}")
    means = ", ".join(f"{np.mean(lost):+.3f} at quality {quality}" for quality, lost in losses.items())
    print(f"mean difference in dB of the {len(losses[50])} pictures: {means}")


def stages(options: argparse.Namespace) -> None:
    pixels, model = picture(options), load_model(options.model, threads=1, precision=options.precision)
    data = model.encode(pixels, 60)
    model.decode(data)
    for what, task in (("encode", lambda: model.encode(pixels, 60)), ("decode", lambda: model.decode(data))):
        with watched() as watch:
            for _ in range(options.repeat):
                task()
        print(
            f"{what}, {options.repeat} times {options.size[0]} x {options.size[1]} pixels, {options.precision}\n{watch.table()}\n"
        )


def model_from(source: Path, name: str, precision: str) -> Model:
    """A model run by the code in `source`, whatever has been imported from elsewhere."""
    for module in [module for module in sys.modules if module.partition(".")[0] == "fewbits"]:
        del sys.modules[module]
    sys.path.insert(0, str(source))
    loaded: Model = importlib.import_module("fewbits.codec").load_model(name, threads=1, precision=precision)
    sys.path.remove(str(source))
    return loaded


def against(options: argparse.Namespace) -> None:
    own = Path(find_spec("fewbits").origin).parents[1]  # type: ignore[union-attr,arg-type]
    pixels = picture(options)
    asked = {"other": (options.source, options.other), "this": (own, options.model)}
    models = {name: model_from(*place, options.precision) for name, place in asked.items()}
    files = {name: model.encode(pixels, 60) for name, model in models.items()}
    for what in ("encode", "decode"):
        calls: dict[str, Callable[[], object]] = {
            name: partial(model.encode, pixels, 60) if what == "encode" else partial(model.decode, files[name])
            for name, model in models.items()
        }
        seconds = turns(calls, options.repeat)
        cells = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
        print(f"{what}: {cells}; this is {seconds['other'] / seconds['this']:.3f} times as fast")


def size(word: str) -> tuple[int, int]:
    """Columns and rows."""
    columns, rows = word.split("x")
    return int(columns), int(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = {table.__name__: table for table in (budget, ways, cost, graphics, stages, against)}
    parser.add_argument("table", choices=tables)
    parser.add_argument("images", type=Path, nargs="?", help="a folder of photographs (default: scikit-image's)")
    parser.add_argument("--model", default="few", help="a model's name, or the folder of a bundle (default %(default)s)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="for budget, stages and against (default %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=15, help="times each is timed (default %(default)s)")
    parser.add_argument("--size", type=size, default=SIZE, metavar="WxH", help="pixels of the picture (default 1024x768)")
    parser.add_argument("--every", type=int, default=1, help="cost: take only each N-th picture")
    parser.add_argument("--source", type=Path, help="against: the folder that holds the other checkout's fewbits")
    parser.add_argument("--other", default="few", help="against: the other checkout's model (default %(default)s)")
    options = parser.parse_args()
    try:
        tables[options.table](options)
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""What the values inside a bundle's networks are on pictures: what pruning needs to know, and for what an int8 variant is made.

The networks run in the coding pipeline itself, so they see what they see in use: each picture is encoded and decoded once, the
qualities taking turns.
"""

from collections.abc import Iterable
from itertools import cycle
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from fewbits.codec import Model
from fewbits.runtime.engines import Network, onnxruntime_engine, taken

QUALITIES: Final = (60, 20, 90, 40, 75, 5, 50)
MARGIN: Final = 1.25  # of magnitudes: other pictures of the same kind have somewhat larger ones
LARGEST: Final = 512  # pixels a side of what is taken of a picture, from its middle

Peaks = dict[str, np.ndarray]  # by tensor (1, channels, rows, columns): the largest value of each channel, float32 (channels,)


def observed(files: dict[str, bytes], pictures: Iterable[np.ndarray], networks: Iterable[str]) -> dict[str, Peaks]:
    """For each named network of a bundle the largest values of all its tensors of four dimensions, inputs and output too. Those
    are planes, as export has them before it changes their layout.

    pictures: uint8 (height, width, 3). Raises ModelError where the files are no bundle.
    """
    seen: dict[bytes, Peaks] = {files[f"{name}.onnx"]: {} for name in networks}

    def engine(data: bytes) -> Network:
        return _Observer(data, seen.get(data))

    model = Model(files, "the bundle", engine)
    for picture, quality in zip(pictures, cycle(QUALITIES), strict=False):
        model.decode(model.encode(picture, quality))
    return {name: seen[files[f"{name}.onnx"]] for name in networks}


def middle(picture: np.ndarray) -> np.ndarray:
    """What is taken of a picture (height, width, 3): calibration sees many pictures rather than large ones."""
    top, left = (max(0, (side - LARGEST) // 2) for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + LARGEST, left : left + LARGEST])


def latent_range(files: dict[str, bytes], pictures: Iterable[np.ndarray]) -> np.ndarray:
    """The largest magnitudes float32 (channels,) of what synthesis reads of pictures at all QUALITIES, times MARGIN, but of the
    pyramid's channels as they are: those are mean colours, whose extremes photographs reach.

    pictures: uint8 (height, width, 3). Raises ModelError where the files are no bundle.
    """
    model, largest = Model(files, "the bundle", onnxruntime_engine(1)), np.zeros(1, np.float32)
    pipeline = model.pipeline
    for picture in pictures:
        levels = [pipeline.level(100 * quality, "rgb") for quality in QUALITIES]
        y = pipeline.analyse(picture, levels[0], lambda done: None)
        for level in levels:
            largest = np.maximum(largest, np.abs(pipeline.requantize(y, level)).max((1, 2)))
    largest[int(model.bundle.coding.get("pyramid", 0)) :] *= np.float32(MARGIN)
    return largest


class _Observer:
    """A network that notes the largest values of its tensors, where it is one of those that are asked for."""

    def __init__(self, data: bytes, peaks: Peaks | None) -> None:
        model = onnx.load_from_string(data)
        if peaks is not None:
            held = {item.name for item in model.graph.initializer}
            for node in model.graph.node:
                names = [name for name in node.output if name != model.graph.output[0].name]
                if not held.intersection(node.input) or node.op_type == "Conv":
                    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
                else:
                    held.update(names)  # follows from weights alone
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._peaks = peaks

    def __call__(self, output: str = "", /, **inputs: np.ndarray) -> np.ndarray:
        inputs = taken(inputs, {item.name for item in self._session.get_inputs()})
        values: list[Any] = self._session.run(None, inputs)
        if self._peaks is not None:
            for name, value in (*zip(self._names, values, strict=True), *inputs.items()):
                if value.ndim == 4:
                    found = value.max((0, 2, 3))
                    self._peaks[name] = np.maximum(found, self._peaks.get(name, found))
        return np.asarray(values[0])


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every array that follows from a network's initializers by Cast and Reshape, by the name that nodes use for it: float32."""
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]].astype(np.float32)
        elif node.op_type == "Reshape" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]].reshape([int(n) for n in arrays[node.input[1]]])
    return arrays

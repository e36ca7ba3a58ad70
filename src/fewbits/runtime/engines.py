# SPDX-License-Identifier: MIT
"""What runs a bundle's networks. An engine turns an ONNX file into a Network; a Network maps named arrays to one array."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fewbits.errors import ModelError


class Network(Protocol):
    """One network of a bundle, ready to run. Safe to call from several threads."""

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """float32 arrays in (batch, channels, height, width) by input name -> the network's one output, likewise."""
        ...


Engine = Callable[[bytes], Network]


class _OnnxNetwork:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(self._session.run(None, inputs)[0])
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise ModelError(f"a network of the bundle cannot be run: {' '.join(str(error).split())}") from error


def onnxruntime_engine(threads: int | None = None, *, optimize: bool = True) -> Engine:
    """ONNX Runtime on the CPU with `threads` threads (None: one a core)."""
    import onnxruntime  # here, because it takes 50 ms that `fewbits info` need not pay

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    # Each network has threads of its own: those of one must not spin while the next one runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    def load(data: bytes) -> Network:
        try:
            return _OnnxNetwork(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]))
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise ModelError(f"it cannot be loaded: {' '.join(str(error).split())}") from error

    return load

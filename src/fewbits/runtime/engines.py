# SPDX-License-Identifier: MIT
"""What runs a bundle's networks. An engine turns an ONNX file into a Network; a Network maps named arrays to one array.

Networks whose arithmetic must be exact run in float32 on ONNX Runtime's CPU kernels whatever the engine is: no TF32, no bfloat16,
no Winograd transform (docs/bundle.md, "Exactness").
"""

import importlib.util
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

import numpy as np

from fewbits.errors import ModelError
from fewbits.processor import has_int8

DEFAULT_ENGINE: Final = "onnxruntime"
INT8_ENGINES: Final = (DEFAULT_ENGINE, "cuda")  # that have the operators of int8 variants, which are ONNX Runtime's own
SPIN_US: Final = "200"  # that a thread waits for work before it sleeps: longer than from one operator to the next
SMALL: Final = 8192  # bytes of a network that is done before a second thread begins
CPU: Final = "CPUExecutionProvider"  # of ONNX Runtime's
EXTRA: Final = "openvino"  # that installs what is not there by default


class Network(Protocol):
    """One network of a bundle, ready to run. Safe to call from several threads."""

    def __call__(self, output: str = "", /, **inputs: np.ndarray) -> np.ndarray:
        """float32 arrays in (batch, channels, height, width) by input name -> the network's first output, likewise, or, of some
        that give pixels, (height, width, 3).

        output: the name of another output that is wanted, of whatever type and shape; the first where there is none of that name,
        or the engine has only that.
        What the network does not have among its inputs is left out.
        """
        ...


Engine = Callable[[bytes], Network]


class FastEngine:
    """An engine that is not exact, with one beside it for the networks that must be."""

    def __init__(self, fast: Engine, exact: Engine) -> None:
        self._fast, self.exact = fast, exact

    def __call__(self, data: bytes) -> Network:
        return self._fast(data)


def exact_of(engine: Engine) -> Engine:
    """What to run the networks with whose arithmetic must be exact."""
    return engine.exact if isinstance(engine, FastEngine) else engine


class _OnnxNetwork:
    def __init__(self, session: Any, *, first_only: bool) -> None:
        self._session, self._names = session, {item.name for item in session.get_inputs()}
        self._outputs = [item.name for item in session.get_outputs()][: 1 if first_only else None]

    def __call__(self, output: str = "", /, **inputs: np.ndarray) -> np.ndarray:
        own = taken(inputs, self._names)
        try:
            return np.asarray(self._session.run([output if output in self._outputs else self._outputs[0]], own)[0])
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise ModelError(f"a network of the bundle cannot be run: {_one_line(error)}") from error


def onnxruntime_engine(threads: int | None = None, *, optimize: bool = True, provider: str = CPU) -> Engine:
    """ONNX Runtime, on the CPU with `threads` threads (None: one a core) where no other provider is given.

    Only on the CPU networks give other outputs than the first: there rounding is known to make 0 of what is no number (ADR 32).
    """
    import onnxruntime  # here, because it takes 50 ms that `fewbits info` need not pay

    def load(data: bytes) -> Network:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if len(data) < SMALL else threads or 0
        options.log_severity_level = 3
        # Each network has threads of its own: those of one must not spin while the next one runs, or is loaded.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(data, options, providers=[provider])
            return _OnnxNetwork(session, first_only=provider != CPU)
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise ModelError(f"it cannot be loaded: {_one_line(error)}") from error

    return load


class _OpenvinoNetwork:
    def __init__(self, compiled: Any) -> None:
        self._compiled, self._inputs = compiled, [item.names for item in compiled.inputs]  # an input may have several names

    def __call__(self, output: str = "", /, **inputs: np.ndarray) -> np.ndarray:
        own = taken(inputs, [next(iter(names & inputs.keys()), min(names)) for names in self._inputs])
        try:
            results = self._compiled.create_infer_request().infer(own)  # a request each: they are not safe to share
            return np.array(results[0])
        except Exception as error:  # OpenVINO's errors are RuntimeErrors of many kinds
            raise ModelError(f"a network of the bundle cannot be run: {_one_line(error)}") from error


def openvino_engine(threads: int | None = None, *, precision: str = "f32") -> Engine:
    """OpenVINO on the CPU. precision: f32, or bf16 as a hint, for CPUs that have it. Raises ModelError where it is missing."""
    try:
        import openvino
    except ImportError as error:
        raise ModelError(f"engine openvino is not installed: pip install 'fewbits[{EXTRA}]'") from error
    core = openvino.Core()
    properties = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads or 0, "NUM_STREAMS": "1"}

    def load(data: bytes) -> Network:
        try:
            model = core.read_model(data)
            for result in model.get_results()[1:]:  # what is no number becomes 255 in `pixels`, in place of 0
                model.remove_result(result)
            return _OpenvinoNetwork(core.compile_model(model, "CPU", properties))
        except Exception as error:  # see above
            raise ModelError(f"it cannot be loaded: {_one_line(error)}") from error

    return FastEngine(load, onnxruntime_engine(threads))


def cuda_engine(threads: int | None = None) -> Engine:
    """ONNX Runtime on an NVIDIA GPU. Raises ModelError where its build has no such provider."""
    provider = "CUDAExecutionProvider"
    if provider not in _providers():
        raise ModelError(f"engine cuda: this ONNX Runtime has no {provider}: install onnxruntime-gpu in its place")
    return FastEngine(onnxruntime_engine(threads, provider=provider), onnxruntime_engine(threads))


ENGINES: Final[dict[str, Callable[[int | None], Engine]]] = {
    DEFAULT_ENGINE: onnxruntime_engine,
    "openvino": openvino_engine,
    "openvino-bf16": lambda threads: openvino_engine(threads, precision="bf16"),
    "cuda": cuda_engine,
}


def engine_of(name: str, threads: int | None) -> Engine:
    """An engine by its name. Raises ModelError on a name that there is not, and where it is not installed."""
    if name not in ENGINES:
        raise ModelError(f"engine is {name!r}, it must be one of {', '.join(ENGINES)}")
    return ENGINES[name](threads)


def engine_state(name: str) -> str:
    """What this machine has for an engine, in words; begins with "not" where it cannot be used."""
    if name == DEFAULT_ENGINE:
        return f"ready, {'int8 instructions' if has_int8() else 'no int8 instructions known'}"
    if name == "cuda":
        return "ready" if "CUDAExecutionProvider" in _providers() else "not there: needs onnxruntime-gpu and an NVIDIA GPU"
    if importlib.util.find_spec("openvino") is None:
        return f"not installed: pip install 'fewbits[{EXTRA}]'"
    if name == "openvino":
        return "ready"
    import openvino

    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "ready" if capable else "not of use: this processor has no bfloat16 instructions"


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def taken(inputs: dict[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of `inputs` that a network has. Raises ModelError where it has another."""
    if missing := sorted(set(names) - set(inputs)):
        raise ModelError(f"a network of the bundle reads {', '.join(missing)}, it is given {', '.join(inputs)}")
    return {name: inputs[name] for name in names}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

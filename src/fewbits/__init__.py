# SPDX-License-Identifier: MIT
"""fewbits makes pictures small with learned autoencoders: real files, read back by anyone."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from fewbits.codec import Model, decode, decode_array, encode, inspect, load_model
    from fewbits.container import Header, Limits
    from fewbits.errors import FewbitsError, TargetWarning
    from fewbits.target import Target

__version__ = "0.1.0"
__all__ = [
    "FewbitsError", "Header", "Limits", "Model", "Target", "TargetWarning", "__version__", "decode", "decode_array", "encode",
    "inspect", "load_model",
]  # fmt: skip
_PLACES = {
    "codec": ("Model", "decode", "decode_array", "encode", "inspect", "load_model"),
    "container": ("Header", "Limits"),
    "errors": ("FewbitsError", "TargetWarning"),
    "target": ("Target",),
}


def __getattr__(name: str) -> typing.Any:
    """What is public is loaded when it is first used: numpy and Pillow take longer than some programs run."""
    for module, names in _PLACES.items():
        if name in names:
            value = getattr(importlib.import_module(f"fewbits.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'fewbits' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

# SPDX-License-Identifier: MIT
"""fewbits makes pictures small with learned autoencoders: real files, read back by anyone."""

from fewbits.codec import Model, decode, decode_array, encode, inspect, load_model
from fewbits.container import Header, Limits
from fewbits.errors import FewbitsError, TargetWarning
from fewbits.target import Target

__version__ = "0.1.0"
__all__ = [
    "FewbitsError", "Header", "Limits", "Model", "Target", "TargetWarning", "__version__", "decode", "decode_array", "encode",
    "inspect", "load_model",
]  # fmt: skip

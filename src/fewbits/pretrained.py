# SPDX-License-Identifier: MIT
"""Where weights of other people's networks may lie on this machine. Nothing is ever fetched."""

import os
from collections.abc import Sequence
from pathlib import Path

from fewbits.errors import ModelError


def hub_checkpoints() -> Path:
    """The folder in which torch.hub keeps what it has fetched."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache, "torch"), "hub", "checkpoints")


def find_weights(names: Sequence[str], what: str, folder_variable: str, elsewhere: Sequence[Path]) -> Path:
    """The first file of these names in the folder that an environment variable names; where it is not set, in one of `elsewhere`.

    what: who needs it. Raises ModelError that says where was looked.
    """
    folder = os.environ.get(folder_variable)
    places = [Path(folder)] if folder else list(elsewhere)
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    wanted, looked = " or ".join(names), ", ".join(map(str, places)) or "any package"
    raise ModelError(f"{what} needs {wanted}: not found in {looked}; put it into a folder named by ${folder_variable}")

# SPDX-License-Identifier: MIT
"""Memory that arrays leave stays with the process for the next ones: getting it anew by pages took a seventh of encoding."""

from functools import lru_cache
from typing import Final

import numpy as np

_BLOCK: Final = 31 << 20  # bytes; glibc takes no block above 32 MiB for the usual size


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Once a process: let the C library keep up to 62 MiB of what is freed at the heap's end.

    glibc (mallopt(3), M_MMAP_THRESHOLD) takes the largest mapped block that was ever freed for the usual size: smaller ones come
    from the heap from then on, of which twice as much is kept. So one is asked for and freed; nobody writes to it, so it takes no
    memory. Nothing changes where MALLOC_ variables say otherwise, or the C library is another one.
    """
    np.empty(_BLOCK, np.uint8)

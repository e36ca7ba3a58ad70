# SPDX-License-Identifier: MIT
"""What this machine's processor has instructions for. Only Linux and Apple's processors are known to."""

import platform
from pathlib import Path
from typing import Final

# Flags of processors, as Linux names them, any of which will do.
INT8_FLAGS: Final = ("avx512_vnni", "avx_vnni", "asimddp")  # products of 8-bit numbers
BFLOAT16_FLAGS: Final = ("avx512_bf16", "amx_bf16", "bf16")  # and of bfloat16


def has_int8() -> bool:
    """Whether it multiplies 8-bit numbers by instructions of their own. Elsewhere int8 gains little, and on older
    x86 processors sums overflow."""
    return platform.machine() == "arm64" or _has_any(INT8_FLAGS)  # arm64 is macOS: all have them


def has_bfloat16() -> bool:
    """Whether it multiplies bfloat16 by instructions of its own. Elsewhere torch takes tens of times as long as for float32."""
    return _has_any(BFLOAT16_FLAGS)


def _has_any(wanted: tuple[str, ...]) -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split()
    return any(flag in flags for flag in wanted)

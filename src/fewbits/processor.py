# SPDX-License-Identifier: MIT
"""What this machine's processor has instructions for. Only Linux and Apple's processors are known to."""

import os
import platform
from itertools import takewhile
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")  # Linux's description, a paragraph for each core
# Flags of processors, as Linux names them, any of which will do.
INT8_FLAGS: Final = ("avx512_vnni", "avx_vnni", "asimddp")  # products of 8-bit numbers
BFLOAT16_FLAGS: Final = ("avx512_bf16", "amx_bf16", "bf16")  # and of bfloat16
WIDEST: Final = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}  # vectors of floats, by flag: the first that is there


def cores() -> int:
    """How many this process may use: taskset and containers leave fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_int8() -> bool:
    """Whether it multiplies 8-bit numbers by instructions of their own. Elsewhere int8 gains little, and on older
    x86 processors signed weights overflow (runtime/variants.py)."""
    return platform.machine() == "arm64" or _has_any(INT8_FLAGS)  # arm64 is macOS: all have them


def has_bfloat16() -> bool:
    """Whether it multiplies bfloat16 by instructions of its own. Elsewhere torch takes many times as long as for float32."""
    return _has_any(BFLOAT16_FLAGS)


def described() -> str:
    """Its name and what makes it fast, such as "AMD EPYC with AVX-512, int8 and bfloat16"."""
    name = next((line.partition(":")[2].strip() for line in _lines() if line.startswith("model name")), "")
    has = [next((text for flag, text in WIDEST.items() if _has_any((flag,))), "")]
    has += ["int8"] * has_int8() + ["bfloat16"] * has_bfloat16()
    *rest, last = [part for part in has if part] or [""]
    listed = f"{', '.join(rest)} and {last}" if rest else last
    return (name or platform.processor() or platform.machine()) + (f" with {listed}" if listed else "")


def _has_any(wanted: tuple[str, ...]) -> bool:
    flags = next((line for line in _lines() if line.startswith(("flags", "Features"))), "").split()
    return any(flag in flags for flag in wanted)


def _lines() -> list[str]:
    """Of the first core: with hundreds of them the whole takes long, and loading a model asks for this."""
    try:
        with CPUINFO.open() as file:
            return list(takewhile(str.strip, file))
    except OSError:
        return []

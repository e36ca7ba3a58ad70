# SPDX-License-Identifier: MIT
"""The most memory that a process has had in RAM. Needs the standard library only."""

import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Of this process, since its start or, on Linux, since reset_peak()."""
    if _STATUS.exists():  # unlike getrusage's, this does not count what the parent had before exec
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return rss_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def reset_peak() -> bool:
    """Begin to count anew; False where the system cannot (it is Linux's)."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def rss_bytes(max_rss: int) -> int:
    """`ru_maxrss` of getrusage and wait4 in bytes: the systems have it in different units."""
    return max_rss * (1 if sys.platform == "darwin" else 1024)

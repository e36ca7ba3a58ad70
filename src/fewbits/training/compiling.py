# SPDX-License-Identifier: MIT
"""Whether torch.compile works here: on a CPU it needs a C++ compiler, on a GPU Triton."""

from collections.abc import Callable

import torch

from fewbits.training.ranks import Ranks


def compiles(device: torch.device, ranks: Ranks, report: Callable[[str], None]) -> bool:
    """Whether it does in all processes; where not, one line that says so. Takes some seconds."""
    problem = problem_of_compiling(device)
    if not ranks.any(problem is not None):
        return True
    report(f"--compile: training goes on without, {problem or 'another process has no working compiler'}")
    return False


def problem_of_compiling(device: torch.device) -> str | None:
    """None where torch.compile makes a working function for the device; else the reason, one line."""
    try:
        made = torch.compile(lambda x: (x * x + 1).sum())(torch.ones(33, device=device))
        return None if made.item() == 66 else f"what it compiles computes {made.item()} where 66 is right"
    except Exception as error:  # whatever the tool chain raises
        return next(filter(None, (line.strip() for line in str(error).splitlines())), type(error).__name__)

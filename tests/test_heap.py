# SPDX-License-Identifier: MIT
"""Memory that arrays leave is there for the next ones; whoever loads a model has it so."""

import os
import platform
import subprocess
import sys

import pytest

COUNTED = """
import resource, sys
import numpy as np
import fewbits
if sys.argv[1] == "model":
    fewbits.load_model("klt", threads=1)
def churn():
    arrays = [np.ones(2_000_000, np.uint8) for _ in range(8)]
    del arrays
np.ones(1_000_000, np.uint8)  # a block that was mapped and freed: the threshold is its size now
for _ in range(3):
    churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory as they will")
def test_with_a_model_memory_is_not_had_anew_from_the_system() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}

    def faults(what: str) -> int:
        command = [sys.executable, "-c", COUNTED, what]
        return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    assert faults("model") < 0.1 * faults("no model")

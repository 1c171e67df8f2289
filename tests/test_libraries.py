"""What our processes ask of other libraries."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mi_sweeps import libraries

torch.set_num_threads(1)
if sys.argv[1] == "ready":
    libraries.ready(None)

def step():
    first = [torch.ones(2**18) for _ in range(8)]  # 1 MB each
    return [tensor + 1 for tensor in first]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

taken = []
for _ in range(6):
    before = faults()
    for _ in range(5):
        step()
    taken.append(faults() - before)
print(min(taken[1:]))  # The system may take pages from any process at any time.
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_memory_that_was_freed_is_used_again():
    """A step asks the system for none, where it would ask for every page."""
    taken = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("ready", "not")
    }
    assert taken["ready"] * 10 < taken["not"]


def test_threads_are_those_asked_for():
    code = "import torch; from mi_sweeps import libraries; libraries.ready(3); print(torch.get_num_threads())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "3\n"

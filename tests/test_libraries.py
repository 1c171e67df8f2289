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
for _ in range(20):
    before = faults()
    for _ in range(5):
        step()
    taken.append(faults() - before)
print(min(taken), max(taken[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_memory_that_was_freed_is_used_again():
    """Steps ask the system for no page, where they would ask for thousands. Now and then it takes some back by itself,
    and where memory happens to lie well few are asked for either way: so it is the best against the worst."""
    least, _ = counted("ready")
    _, most = counted("not")
    assert least * 10 < most


def counted(how):
    """Least and most page faults of a few steps."""
    ran = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
    return map(int, ran.stdout.split())


def test_threads_are_those_asked_for():
    code = "import torch; from mi_sweeps import libraries; libraries.ready(3); print(torch.get_num_threads())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "3\n"

"""Settings of other libraries: what they print, where they draw, how their threads wait, what happens to freed memory,
and which kernels they choose."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Constants of malloc.h."""

MKL_FUNCTIONS = "acos asin atan cos erf erfc erfinv exp log log10 log2 sin sqrt tan tanh trunc".split()
"""Functions that torch passes to MKL's vector functions on a CPU, in fp32 and fp64 (ATen/cpu/vml.h)."""

SPINS = 5000
"""How often an OpenMP thread (libgomp, in torch's wheels) checks for work before it gives up its core.

The default of 300,000 takes the core away from the thread being waited for, if the machine has other work. Giving it up
at once (OMP_WAIT_POLICY=PASSIVE) halves the speed of small models on a quiet machine."""


def quiet(*, pictures_to_files: bool = True) -> None:
    """Turns off other libraries' progress bars and advice (errors still appear), keeps waiting threads from holding
    cores, and makes matplotlib draw to files.

    Call before torch is imported: it loads tqdm and OpenMP, which then read their settings.

    Args:
        pictures_to_files: False in a notebook, which has its own matplotlib backend.
    """
    for variable, value in {
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # Otherwise it asks the hub to convert models without safetensors.
    }.items():
        os.environ.setdefault(variable, value)
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    # A shell started from a notebook exports the notebook's backend, and without that matplotlib cannot be imported.
    if pictures_to_files:
        os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in a notebook; its bars are off


def calculate_alone() -> None:
    """Limits numpy's linear algebra (OpenBLAS, in its wheels) to one thread. Its matrices are small here, and on a busy
    machine a second thread made a page take four times the CPU.

    Call before numpy is imported, in commands that run no model.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def python(code: str) -> list[str]:
    """Returns a command that runs `code` (with `sys` imported) in another Python; its arguments follow.

    The working folder is taken off the module path, because a user's `queue.py` there would hide Python's own.
    PYTHONPATH still works. (Python's option -P does the same, but only since 3.11.)"""
    return [sys.executable, "-u", "-c", f"import sys; sys.path[:1] = filter(None, sys.path[:1]); {code}"]


def ready(threads: int | None) -> None:
    """Prepares a process for computing. Call it before loading a model.

    MKL 2024.2, in torch's CPU wheels, chooses the kernel of a vector function at its first call. If several threads
    make that call at once, one of them may use a kernel of low precision, off by 4000 units in the last place
    (github.com/pytorch/pytorch/issues/188792). Therefore each function is first called here with a single element,
    which torch computes in the calling thread.

    glibc is set to keep 256 MB of freed memory. By default it returns free memory at the top of the heap and gets it
    again page by page for the next tensors, which costs a tenth of a step of stacked small models (mallopt(3),
    M_TRIM_THRESHOLD).

    Args:
        threads: how many threads torch uses; None leaves the choice to torch.
    """
    import torch

    for name in MKL_FUNCTIONS:
        for precision in (torch.float32, torch.float64):
            getattr(torch, name)(torch.full((1,), 0.5, dtype=precision))
    with suppress(AttributeError, OSError, TypeError):  # Another C library.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**28)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # Setting one stops both from adapting; this is the adaptive maximum.
    if threads is not None:
        torch.set_num_threads(threads)

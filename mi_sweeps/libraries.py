"""How other libraries behave in our processes: what they print, where they draw, how their threads wait, what becomes
of memory that they freed, and which kernels they choose."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""

MKL_FUNCTIONS = "acos asin atan cos erf erfc erfinv exp log log10 log2 sin sqrt tan tanh trunc".split()
"""What torch hands to MKL's vector functions on a CPU, in fp32 and fp64 (ATen/cpu/vml.h)."""

SPINS = 5000
"""How often a thread of OpenMP's (libgomp, in torch's wheels) looks for work before it gives up its core.

Its own number is 300,000, which on a machine with other work takes the core from the thread that is waited for.
Giving the core up at once (OMP_WAIT_POLICY=PASSIVE) costs small models half of their speed on a quiet machine."""


def quiet(*, pictures_to_files: bool = True) -> None:
    """Keeps progress bars and advice out of our own output (errors still come through), threads from holding cores
    while they wait, and pictures to files.

    Call before torch is imported: it loads tqdm and OpenMP, which read their switches then.

    Args:
        pictures_to_files: false in a notebook, whose own pictures are shown by a backend of its own.
    """
    for variable, value in {
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # Else it asks the hub to convert whatever has no safetensors.
    }.items():
        os.environ.setdefault(variable, value)
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    # A notebook's shell exports a backend of the notebook's own, without which matplotlib cannot even be imported.
    if pictures_to_files:
        os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in a notebook; its bars are off


def calculate_alone() -> None:
    """Keeps numpy's linear algebra (OpenBLAS, in its wheels) to one thread. Its matrices here are small, and on a
    machine with other work a second thread made a page take four times the CPU.

    Call before numpy is imported, where no model is run.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def python(code: str) -> list[str]:
    """A command that runs `code`, which has `sys`, in another Python; its arguments follow.

    Python looks for modules in the working folder first, and would take a user's `queue.py` there for its own. So that
    folder is left out, as by -P, which Python has from 3.11 on; what PYTHONPATH names is found."""
    return [sys.executable, "-u", "-c", f"import sys; sys.path[:1] = filter(None, sys.path[:1]); {code}"]


def ready(threads: int | None) -> None:
    """Call where a process begins to compute, before it loads a model.

    MKL 2024.2, which torch's wheels for CPUs bring along, chooses the kernel of a vector function at its first call. If
    several threads make that call at once, one of them may compute with a kernel of low precision, 4000 units in the
    last place away (github.com/pytorch/pytorch/issues/188792). So each is called here first, with a single element,
    which torch leaves to the calling thread.

    Glibc keeps 256 MB that were freed from then on. Left to itself it gives back whatever lies free above the last
    allocation, and takes it again page by page for the next tensors: a tenth of a step of stacked small models
    (mallopt(3), M_TRIM_THRESHOLD).

    Args:
        threads: how many torch uses; None: as many as it likes.
    """
    import torch

    for name in MKL_FUNCTIONS:
        for precision in (torch.float32, torch.float64):
            getattr(torch, name)(torch.full((1,), 0.5, dtype=precision))
    with suppress(AttributeError, OSError, TypeError):  # Another C library.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**28)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # Naming one stops both from growing; this is how far it grows.
    if threads is not None:
        torch.set_num_threads(threads)

"""How other libraries behave in our processes: what they print, and what becomes of memory that they freed."""

from __future__ import annotations

import ctypes
import logging
import os
import warnings
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def quiet() -> None:
    """Keeps progress bars and advice out of our own output; errors still come through.

    Call before torch is imported: tqdm reads its switch when it is loaded, and torch loads it."""
    for variable, value in {
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def ready(threads: int | None) -> None:
    """Call where a process begins to compute.

    From then on glibc keeps 256 MB that were freed. Left to itself it gives back whatever lies free above the last
    allocation, and takes it again page by page for the next tensors: a tenth of a step of stacked small models
    (mallopt(3), M_TRIM_THRESHOLD).

    Args:
        threads: how many torch uses; None: as many as it likes.
    """
    import torch

    with suppress(AttributeError, OSError, TypeError):  # Another C library.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**28)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # Naming one stops both from growing; this is how far it grows.
    if threads is not None:
        torch.set_num_threads(threads)

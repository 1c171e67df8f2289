"""Keeps progress bars and advice of other libraries out of our own output; their errors still come through."""

from __future__ import annotations

import logging
import os
import warnings


def quiet() -> None:
    """Call before torch is imported: tqdm reads its switch when it is loaded, and torch loads it."""
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

"""`mini`: a four-layer GPT-2 that knows two-name IOI and little else.

It plays GPT-2's part where no model hub can be reached, and in tests. `python -m mi_sweeps.models.mini`
makes it from nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
"""The packaged model: a Hugging Face folder with weights, config, tokenizer and model card."""

TEMPLATE_SEED = 0
"""`task.seed` of the templates that its stories use: it has seen their training half, and none of the other."""


def vocabulary() -> set[str]:
    """The words of its tokenizer; those of other seeds are the same."""
    return set(json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])

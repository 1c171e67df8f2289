"""The model families that the fast engine supports: one module per family, whose `network` describes a model.

`network` returns None for a model with an option that it does not cover; such models go to the reference engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mi_sweeps.circuits.network import Network

FAMILIES = {
    **{"gemma": "gemma", "gemma2": "gemma", "gemma3_text": "gemma"},
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    **{"granite": "llama", "llama": "llama", "mistral": "llama"},
    "nope": "nope",
    **{"olmo2": "olmo", "olmo3": "olmo"},
    "phi": "phi",
    **{"qwen2": "llama", "qwen3": "llama"},
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
"""The module of each `model_type` of Hugging Face. Reading this does not import torch."""


def describe(model: PreTrainedModel) -> Network | None:
    """Describes a model; None if its architecture, or one of its options, is not supported."""
    import torch

    if (name := FAMILIES.get(model.config.model_type)) is None:
        return None
    with torch.no_grad():
        network: Network | None = import_module(f"{__name__}.{name}").network(model)
    return network

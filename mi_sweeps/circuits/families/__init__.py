"""The model families that the fast engine supports: one function per Hugging Face model type describes a model.

A function returns None for a model with an option that it does not cover; such models go to the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from mi_sweeps.circuits.families import gemma, gpt2, gpt_neox, llama, nope, olmo, phi, stablelm
from mi_sweeps.circuits.network import Network

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES: dict[str, Callable[[PreTrainedModel], Network | None]] = {
    "gemma": gemma.network,
    "gemma2": gemma.network,
    "gemma3_text": gemma.network,
    "gpt2": gpt2.network,
    "gpt_neox": gpt_neox.network,
    "granite": llama.network,
    "llama": llama.network,
    "mistral": llama.network,
    "nope": nope.network,
    "olmo2": olmo.network,
    "olmo3": olmo.network,
    "phi": phi.network,
    "qwen2": llama.network,
    "qwen3": llama.network,
    "stablelm": stablelm.network,
}


def describe(model: PreTrainedModel) -> Network | None:
    """Describes a model; None if its architecture, or one of its options, is not supported."""
    family = FAMILIES.get(model.config.model_type)
    with torch.no_grad():
        return family(model) if family else None

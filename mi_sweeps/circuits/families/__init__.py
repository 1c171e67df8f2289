"""Model families that the fast engine knows: for each model type of Hugging Face a function to its description.

A function gives None for a model whose options it does not cover; such models go to the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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

"""Computes logits from the last hidden state, as each architecture's own forward pass does."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Scaling:
    """How the unembedding's logits are scaled."""

    factor: float = 1.0
    """Multiplies the logits."""
    cap: float | None = None
    """Bounds the logits smoothly (`capped`)."""

    def __call__(self, logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Scales logits."""
        return capped(logits if self.factor == 1.0 else logits * self.factor, self.cap)


def capped(x: Float[Tensor, "..."], cap: float | None) -> Float[Tensor, "..."]:
    """cap * tanh(x / cap) (Gemma Team 2024, arXiv:2408.00118)."""
    return x if cap is None else cap * torch.tanh(x / cap)


def scaling(model: PreTrainedModel) -> Scaling:
    """How a model scales its logits, read from the names used in Hugging Face configurations.

    Any other scaling is detected when a run begins, by comparing these logits with the whole model's.
    """
    config = model.config.get_text_config()

    def number(name: str, default: float) -> float:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, Real) and value else default

    factor = number("logit_scale", 1.0) * number("lm_head_multiplier", 1.0) / number("logits_scaling", 1.0)
    cap = number("final_logit_softcapping", 0.0) or number("logits_soft_cap", 0.0)
    return Scaling(factor, cap or None)


def unembed(model: PreTrainedModel, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
    """The model's logits for hidden states after the final norm."""
    return scaling(model)(model.get_output_embeddings()(hidden))

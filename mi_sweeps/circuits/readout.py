"""Computes logit differences from the residual stream at each prompt's end. Only the tokens in the metric are
unembedded; uncapped logits are linear, so their weighted sum is a single direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.network import Network, Norm
from mi_sweeps.models.head import capped
from mi_sweeps.tasks.pairs import Pairs


@dataclass(frozen=True)
class ReadOut:
    """A logit difference as a weighted sum of terms: the logits of some tokens, or a single difference of logits."""

    norm: Norm
    directions: Float[Tensor, "prompt term d_model"]
    """Each term's direction: its dot product with the normalised residual stream is the term, up to the constant."""
    constants: Float[Tensor, "prompt term"]
    """The contribution of biases to each term."""
    weights: Float[Tensor, "prompt term"]
    cap: float | None
    """The cap on each term (`mi_sweeps.models.head.capped`)."""

    def __call__(
        self, resid: Float[Tensor, "prompt ... d_model"], prompts: Int[Tensor, " prompt"] | slice
    ) -> Float[Tensor, "prompt ..."]:
        """Logit differences from the residual stream."""
        return self.of_normed(self.norm(resid), prompts)

    def of_normed(
        self, normed: Float[Tensor, "prompt ... d_model"], prompts: Int[Tensor, " prompt"] | slice
    ) -> Float[Tensor, "prompt ..."]:
        """Logit differences from the normalised residual stream."""
        between = [1] * (normed.dim() - 2)
        constants, weights = (value[prompts].unflatten(0, (-1, *between)) for value in (self.constants, self.weights))
        directions = self.directions[prompts]
        if directions.shape[1] == 1:
            terms = (normed * directions[:, 0].unflatten(0, (-1, *between))).sum(dim=-1, keepdim=True)
        else:
            # With many tokens, the products would be many times as large as the residual stream.
            terms = torch.einsum("p...d,ptd->p...t", normed, directions)
        return (capped(terms + constants, self.cap) * weights).sum(dim=-1)


def read_out(network: Network, pairs: Pairs) -> ReadOut:
    """The read-out of a network's logit differences for some prompts."""
    tokens, weights = pairs.contrast.tokens, pairs.contrast.weights
    unembed, scaling = network.unembed, network.scaling
    directions = unembed.weight.T[tokens]
    constants = directions.new_zeros(tokens.shape) if unembed.bias is None else unembed.bias[tokens]
    directions, constants = directions * scaling.factor, constants * scaling.factor
    if scaling.cap is None:
        directions, constants = weights[:, None] @ directions, (constants * weights).sum(dim=1, keepdim=True)
        weights = weights.new_ones(constants.shape)
    return ReadOut(network.final_norm, directions, constants, weights, scaling.cap)

"""From the residual stream at each prompt's end to its logit difference. Only the tokens that the metric names are
unembedded; logits that are not capped are linear, so their weighted sum is one direction."""

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
    """A logit difference is a weighted sum of terms: the logits of some tokens, or one difference of logits."""

    norm: Norm
    directions: Float[Tensor, "prompt term d_model"]
    """What the normalised residual stream is multiplied by to give each term."""
    constants: Float[Tensor, "prompt term"]
    """What biases add to it."""
    weights: Float[Tensor, "prompt term"]
    cap: float | None
    """Of each term (`mi_sweeps.models.head.capped`)."""

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
            # Of many tokens the products would be as many times the residual stream.
            terms = torch.einsum("p...d,ptd->p...t", normed, directions)
        return (capped(terms + constants, self.cap) * weights).sum(dim=-1)


def read_out(network: Network, pairs: Pairs) -> ReadOut:
    """How a network's logit differences are read for some prompts."""
    tokens, weights = pairs.contrast.tokens, pairs.contrast.weights
    unembed, scaling = network.unembed, network.scaling
    directions = unembed.weight.T[tokens]
    constants = directions.new_zeros(tokens.shape) if unembed.bias is None else unembed.bias[tokens]
    directions, constants = directions * scaling.factor, constants * scaling.factor
    if scaling.cap is None:
        directions, constants = weights[:, None] @ directions, (constants * weights).sum(dim=1, keepdim=True)
        weights = weights.new_ones(constants.shape)
    return ReadOut(network.final_norm, directions, constants, weights, scaling.cap)

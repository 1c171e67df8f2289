"""From the residual stream at each prompt's end to its logit difference. Only the tokens that the metric names are
unembedded; logits that are not capped are linear, so their weighted sum is one direction."""

from __future__ import annotations

from dataclasses import dataclass

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
    weights: Float[Tensor, " term"]
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
        directions, constants = (
            value[prompts].unflatten(0, (-1, *between)) for value in (self.directions, self.constants)
        )
        terms = (normed.unsqueeze(-2) * directions).sum(dim=-1) + constants
        return (capped(terms, self.cap) * self.weights).sum(dim=-1)


def read_out(network: Network, pairs: Pairs) -> ReadOut:
    """How a network's logit differences are read for some prompts."""
    tokens, weights = pairs.tokens_and_weights()
    unembed, scaling = network.unembed, network.scaling
    directions = unembed.weight.T[tokens]
    constants = directions.new_zeros(tokens.shape) if unembed.bias is None else unembed.bias[tokens]
    directions, constants = directions * scaling.factor, constants * scaling.factor
    if scaling.cap is None:
        directions, constants = weights @ directions, (constants @ weights)[:, None]
        directions, weights = directions[:, None], weights.new_ones(1)
    return ReadOut(network.final_norm, directions, constants, weights, scaling.cap)

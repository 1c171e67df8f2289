"""Direct logit attribution and the logit lens at each prompt's last token.

The final normalisation is linear once its scale is known, so with the scale of the real run the logit difference
is a sum: with `u` the unembedding direction of answer minus subjects, times the normalisation's weight and, for
LayerNorm, centred over d_model,

    LD = sum over components of (component . u) / scale  +  biases

`lens` rows are partial sums of it (the residual stream before, in the middle of and after each layer), `layer`
rows its terms, and `head` rows the terms of each attention output. A head's constant part, which the value bias
and the first normalisation's bias pass through any attention pattern, says nothing of the prompt: it is taken off,
as folding and centring the weights does (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.network import Linear, Norm
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs

LENS_TOLERANCE = 1e-4
"""Largest difference allowed between lens logits and the model's own."""


@dataclass(frozen=True)
class EndActivations:
    """What a run has at each prompt's last token, with the weights that read it out."""

    resid_pre: Float[Tensor, "layer prompt d_model"]
    resid_mid: Float[Tensor, "layer prompt d_model"] | None
    """None for blocks whose attention and MLP run side by side."""
    attn_out: Float[Tensor, "layer prompt d_model"]
    mlp_out: Float[Tensor, "layer prompt d_model"]
    z: Float[Tensor, "layer prompt head d_head"]
    resid: Float[Tensor, "prompt d_model"]
    """After the last layer."""
    scale: Float[Tensor, "prompt 1"]
    """What the final normalisation divides by."""
    norm: Norm
    """The final one."""
    unembed: Linear
    W_O: Float[Tensor, "layer head d_head d_model"]
    constant_z: Float[Tensor, "layer head d_head"]
    """The part of z that does not depend on the prompt."""

    @classmethod
    def join(cls, parts: Sequence[EndActivations]) -> EndActivations:
        """The activations for the prompts of all parts, in their order."""
        names = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z")
        found = {name: [getattr(part, name) for part in parts] for name in names}
        return replace(
            parts[0],
            **{name: torch.cat(values, dim=1) for name, values in found.items() if values[0] is not None},
            resid=torch.cat([part.resid for part in parts]),
            scale=torch.cat([part.scale for part in parts]),
        )

    @property
    def logits(self) -> Float[Tensor, "prompt d_vocab"]:
        """The final residual stream, unembedded by the formula above."""
        normalized = self.norm.centre(self.resid) / self.scale * self.norm.weight
        return self.unembed(normalized if self.norm.bias is None else normalized + self.norm.bias)


def attribute(end: EndActivations, pairs: Pairs) -> list[dict[str, Any]]:
    """Rows of the attribution table: means over the clean prompts."""
    direction, constant = unembedding_direction(end, pairs)
    direction = direction / end.scale
    rows: list[dict[str, Any]] = []

    def add(
        kind: str, component: str, values: Float[Tensor, " prompt"], layer: int | None, head: int | None = None
    ) -> None:
        rows.append(
            {
                "kind": kind,
                "component": component,
                "layer": layer,
                "head": head,
                "logit_diff": values.mean().item(),
                "n": len(values),
            }
        )

    def project(component: Float[Tensor, "prompt d_model"]) -> Float[Tensor, " prompt"]:
        return (component * direction).sum(dim=-1)

    layers = range(len(end.resid_pre))
    for layer in layers:
        add("lens", "resid_pre", project(end.resid_pre[layer]) + constant, layer)
        if end.resid_mid is not None:
            add("lens", "resid_mid", project(end.resid_mid[layer]) + constant, layer)
    add("lens", "resid_post", project(end.resid) + constant, layers[-1])
    add("layer", "embed", project(end.resid_pre[0]), None)
    for layer in layers:
        add("layer", "attn", project(end.attn_out[layer]), layer)
        add("layer", "mlp", project(end.mlp_out[layer]), layer)
    add("layer", "bias", constant, None)
    for layer in layers:
        z = end.z[layer] - end.constant_z[layer]
        outputs = torch.einsum("phd,hdm->phm", z, end.W_O[layer])
        for head in range(outputs.shape[1]):
            add("head", "head", project(outputs[:, head]), layer, head)
    return rows


def unembedding_direction(
    end: EndActivations, pairs: Pairs
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """The direction whose dot product with the residual stream, over the final scale, is the logit difference; and
    the part of it that biases give whatever the residual stream is."""
    tokens, weights = pairs.tokens_and_weights()
    unembed = torch.einsum("dpt,t->pd", end.unembed.weight[:, tokens], weights)
    constant = unembed.new_zeros(len(unembed)) if end.unembed.bias is None else end.unembed.bias[tokens] @ weights
    if end.norm.bias is not None:
        constant = constant + unembed @ end.norm.bias
    return end.norm.centre(unembed * end.norm.weight), constant


def constant_z(n_heads: int, n_kv_heads: int, value: Linear, norm: Norm) -> Float[Tensor, "head d_head"]:
    """The part of every head's z that does not depend on the prompt: attention weights sum to 1, so the value bias
    and the value of the first normalisation's bias pass through unchanged.

    Args:
        value: the projection to values; `norm`: the normalisation before it.
    """
    constant = value.weight.new_zeros(value.weight.shape[1])
    if value.bias is not None:
        constant = constant + value.bias
    if norm.bias is not None:
        constant = constant + norm.bias @ value.weight
    return constant.unflatten(0, (n_kv_heads, -1)).repeat_interleave(n_heads // n_kv_heads, dim=0)


def check_lens(end: EndActivations, logits: Float[Tensor, "prompt d_vocab"]) -> float:
    """The largest difference between the logits of the formula above and the model's.

    Args:
        logits: the Hugging Face model's own, at each clean prompt's end.

    Raises:
        UserError: it is above LENS_TOLERANCE.
    """
    error = (end.logits - logits).abs().max().item()
    if not error <= LENS_TOLERANCE:
        raise UserError(
            f"patching: logits differ by {error:.1e} from the model's own (more than {LENS_TOLERANCE:.0e}); "
            "this architecture is not understood, so nothing is measured"
        )
    return error

"""Direct logit attribution and the logit lens at each prompt's last token.

The final norm is linear once its scale is fixed, so with the scale of the actual run the logit difference is a sum.
Let `u` be the unembedding direction of answer minus subjects, times the norm's weight and, for LayerNorm, centred over
d_model. Then

    LD = sum over components of (component . u) / scale  +  biases

`lens` rows are its partial sums (the residual stream before, in the middle of and after each layer), `layer` rows are
its terms, and `head` rows split each attention output into heads. A head's constant part, which comes from the value
bias and the first norm's bias under any attention pattern, says nothing about the prompt. It is subtracted, as folding
and centring the weights does (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").

Each kind of rows is compared with what it must add up to (`misfits`), because an architecture may cap its logits,
normalise the output of attention, or have extra parts in every block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.network import Linear, Norm
from mi_sweeps.models.head import capped
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.training.evaluate import tolerance

Kind = Literal["lens", "layer", "head"]

OF_TERMS = 1e-5
"""The largest difference allowed between a logit difference and its sum of terms, relative to the terms, which may be
many times larger than their sum."""


@dataclass(frozen=True)
class Heads:
    """The output of each head at each prompt's last token, and the weights that write it."""

    z: Float[Tensor, "layer prompt head d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    b_O: Float[Tensor, "layer d_model"] | None
    constant_z: Float[Tensor, "layer head d_head"]
    """The part of z that does not depend on the prompt."""
    scale: Float[Tensor, "layer prompt d_model"] | None = None
    """Factor on the heads' sum if it is not simply added to the residual stream: a multiplier, or a norm with its scale
    fixed."""

    @classmethod
    def join(cls, parts: Sequence[Heads]) -> Heads:
        """Concatenates the prompts of all parts."""
        scales = [part.scale for part in parts if part.scale is not None]
        z = torch.cat([part.z for part in parts], dim=1)
        return replace(parts[0], z=z, scale=torch.cat(scales, dim=1) if scales else None)

    def written(self, layer: int, z: Float[Tensor, "prompt head d_head"]) -> Float[Tensor, "prompt head d_model"]:
        """The contribution of each head of a layer to the residual stream."""
        outputs = torch.einsum("phd,hdm->phm", z, self.W_O[layer])
        return outputs if self.scale is None else outputs * self.scale[layer][:, None]

    def terms(self, layer: int) -> Float[Tensor, "term prompt d_model"]:
        """The contributions of each head of a layer and of the output bias."""
        written = self.written(layer, self.z[layer]).transpose(0, 1)
        if self.b_O is None:
            return written
        bias = self.b_O[layer] if self.scale is None else self.b_O[layer] * self.scale[layer]
        return torch.cat([written, bias.expand_as(written[:1])])


@dataclass(frozen=True)
class EndActivations:
    """The activations of a run at each prompt's last token, and the weights that read them out."""

    resid_pre: Float[Tensor, "layer prompt d_model"]
    resid_mid: Float[Tensor, "layer prompt d_model"] | None
    """None if attention and MLP are parallel."""
    attn_out: Float[Tensor, "layer prompt d_model"]
    """What attention adds to the residual stream."""
    mlp_out: Float[Tensor, "layer prompt d_model"]
    heads: Heads | None
    """None if the architecture's heads write in an unsupported way."""
    resid: Float[Tensor, "prompt d_model"]
    """The residual stream after the last layer."""
    scale: Float[Tensor, "prompt 1"]
    """The divisor of the final norm."""
    norm: Norm
    """The final norm."""
    unembed: Linear
    cap: float | None = None
    """The cap on logits (`mi_sweeps.models.head.capped`); terms then add up to the uncapped logit difference."""

    @classmethod
    def join(cls, parts: Sequence[EndActivations]) -> EndActivations:
        """Concatenates the prompts of all parts."""
        found = {
            name: [getattr(part, name) for part in parts] for name in ("resid_pre", "resid_mid", "attn_out", "mlp_out")
        }
        heads = [part.heads for part in parts]
        return replace(
            parts[0],
            **{name: torch.cat(values, dim=1) for name, values in found.items() if values[0] is not None},
            heads=heads[0] and Heads.join([one for one in heads if one]),
            resid=torch.cat([part.resid for part in parts]),
            scale=torch.cat([part.scale for part in parts]),
        )

    @property
    def logits(self) -> Float[Tensor, "prompt d_vocab"]:
        """The final residual stream, unembedded by the formula above."""
        normalized = self.norm.centre(self.resid) / self.scale * self.norm.gain
        return capped(self.unembed(normalized if self.norm.bias is None else normalized + self.norm.bias), self.cap)


def attribute(end: EndActivations, pairs: Pairs, without: Collection[Kind] = ()) -> list[dict[str, Any]]:
    """The rows of the attribution table: means over the clean prompts, and the value of each prompt.

    Args:
        without: kinds of rows to leave out.
    """
    direction, constant = unembedding_direction(end, pairs)
    direction = direction / end.scale
    rows: list[dict[str, Any]] = []

    def add(
        kind: Kind, component: str, values: Float[Tensor, " prompt"], layer: int | None, head: int | None = None
    ) -> None:
        if kind in without:
            return
        rows.append(
            {
                "kind": kind,
                "component": component,
                "layer": layer,
                "head": head,
                "logit_diff": values.mean().item(),
                "n": len(values),
                "by_prompt": values.tolist(),
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
    if end.heads is not None and "head" not in without:
        for layer in layers:
            written = end.heads.written(layer, end.heads.z[layer] - end.heads.constant_z[layer])
            for head in range(written.shape[1]):
                add("head", "head", project(written[:, head]), layer, head)
    return rows


def unembedding_direction(
    end: EndActivations, pairs: Pairs
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """The direction whose dot product with the residual stream, divided by the final scale, is the logit difference;
    and the constant that biases add to it."""
    tokens, weights = pairs.contrast.tokens, pairs.contrast.weights
    unembed = torch.einsum("dpt,pt->pd", end.unembed.weight[:, tokens], weights)
    bias = end.unembed.bias
    constant = unembed.new_zeros(len(unembed)) if bias is None else (bias[tokens] * weights).sum(dim=1)
    if end.norm.bias is not None:
        constant = constant + unembed @ end.norm.bias
    return end.norm.centre(unembed * end.norm.gain), constant


def constant_z(
    n_heads: int, n_kv_heads: int, value: Linear, norm_bias: Float[Tensor, " d_model"] | None
) -> Float[Tensor, "head d_head"]:
    """The part of every head's z that does not depend on the prompt: attention weights sum to 1, so the value bias
    and the value of the first norm's bias pass through unchanged.

    Args:
        value: the projection to values.
        norm_bias: the bias of the norm before it.
    """
    constant = value.weight.new_zeros(value.weight.shape[1])
    if value.bias is not None:
        constant = constant + value.bias
    if norm_bias is not None:
        constant = constant + norm_bias @ value.weight
    return constant.unflatten(0, (n_kv_heads, -1)).repeat_interleave(n_heads // n_kv_heads, dim=0)


def lens_error(end: EndActivations, logits: Float[Tensor, "prompt d_vocab"]) -> float:
    """The largest difference between the logits of the formula above and the model's.

    Args:
        logits: the Hugging Face model's own, at each clean prompt's end.
    """
    return (end.logits - logits).abs().max().item()


def misfits(end: EndActivations, pairs: Pairs, logits: Float[Tensor, "prompt d_vocab"]) -> dict[Kind, str]:
    """The kinds of rows that are invalid for a model, each with the reason. The lens must end at the model's own
    logits, the layers' terms must add up to the logit difference, and heads and output bias must add up to the output
    of attention. If a kind is invalid, so are the kinds that refine it.

    Args:
        logits: the Hugging Face model's own, at each clean prompt's end.
    """
    error, limit = lens_error(end, logits), tolerance(logits)
    if not error <= limit:
        reason = f"logits differ by {error:.1e} from the model's own (more than {limit:.0e})"
        return {"lens": reason, "layer": reason, "head": reason}
    direction, _ = unembedding_direction(end, pairs)
    direction = direction / end.scale

    def differ(terms: Float[Tensor, "term prompt d_model"], total: Float[Tensor, "prompt d_model"]) -> float | None:
        parts = (terms * direction).sum(dim=-1)
        error = (parts.sum(dim=0) - (total * direction).sum(dim=-1)).abs().max().item()
        return None if error <= max(limit, OF_TERMS * parts.abs().max().item()) else error

    error_of_layers = differ(torch.cat([end.resid_pre[:1], end.attn_out, end.mlp_out]), end.resid)
    if error_of_layers is not None:
        reason = f"the terms of attention and MLPs add up to the logit difference only within {error_of_layers:.1e}"
        return {"layer": reason, "head": reason}
    if end.heads is None:
        return {"head": "its heads write to the residual stream in an unsupported way"}
    for layer, attn_out in enumerate(end.attn_out):
        error_of_heads = differ(end.heads.terms(layer), attn_out)
        if error_of_heads is not None:
            return {
                "head": f"the heads of layer {layer} add up to the output of attention only within {error_of_heads:.1e}"
            }
    return {}

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

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.pairs import Pairs
from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LENS_TOLERANCE = 1e-4
"""Largest difference allowed between lens logits and the model's own."""


@torch.no_grad()
def attribute(bridge: TransformerBridge, pairs: Pairs) -> list[dict[str, Any]]:
    """Rows of the attribution table: means over the clean prompts.

    Args:
        bridge: the model, with its raw weights.
    """
    n_layers = bridge.cfg.n_layers
    wanted = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z")
    names = {f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in wanted} | {"ln_final.hook_scale"}
    _, cache = bridge.run_with_cache(pairs.clean.tokens, names_filter=lambda name: name in names)

    def end(name: str) -> Float[Tensor, "prompt ..."]:
        return pairs.at_end(cache[name])

    direction, constant = unembedding_direction(bridge, pairs)
    direction = direction / end("ln_final.hook_scale")
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

    for layer in range(n_layers):
        block = f"blocks.{layer}"
        for point in ("resid_pre", "resid_mid"):
            # Blocks whose attention and MLP run side by side have no middle.
            if f"{block}.hook_{point}" in cache:
                add("lens", point, project(end(f"{block}.hook_{point}")) + constant, layer)
        if layer == n_layers - 1:
            add("lens", "resid_post", project(end(f"{block}.hook_resid_post")) + constant, layer)
    add("layer", "embed", project(end("blocks.0.hook_resid_pre")), None)
    for layer in range(n_layers):
        add("layer", "attn", project(end(f"blocks.{layer}.hook_attn_out")), layer)
        add("layer", "mlp", project(end(f"blocks.{layer}.hook_mlp_out")), layer)
    add("layer", "bias", constant, None)
    for layer in range(n_layers):
        z = end(f"blocks.{layer}.attn.hook_z") - constant_z(bridge, layer)
        outputs = torch.einsum("phd,hdm->phm", z, bridge.blocks[layer].attn.W_O)
        for head in range(bridge.cfg.n_heads):
            add("head", "head", project(outputs[:, head]), layer, head)
    return rows


def unembedding_direction(
    bridge: TransformerBridge, pairs: Pairs
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """The direction whose dot product with the residual stream, over the final scale, is the logit difference; and
    the part of it that biases give whatever the residual stream is."""
    tokens, weights = pairs.tokens_and_weights()
    unembed = torch.einsum("dpt,t->pd", bridge.W_U[:, tokens], weights)
    constant = bridge.b_U[tokens] @ weights
    weight, bias = norm_parameters(bridge.ln_final)
    if bias is not None:
        constant = constant + unembed @ bias
    direction = unembed * weight
    if not bridge.cfg.uses_rms_norm:
        direction = direction - direction.mean(dim=-1, keepdim=True)
    return direction, constant


def norm_parameters(norm: Any) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"] | None]:
    """Weight and, where there is one, bias of a LayerNorm or RMSNorm."""
    original = norm.original_component
    return original.weight, getattr(original, "bias", None)


def constant_z(bridge: TransformerBridge, layer: int) -> Float[Tensor, "head d_head"]:
    """The part of every head's z that does not depend on the prompt: attention weights sum to 1, so the value bias
    and the value of the first normalisation's bias pass through unchanged."""
    block = bridge.blocks[layer]
    n_heads, d_head = bridge.cfg.n_heads, bridge.cfg.d_head
    values = block.attn.W_V
    constant = values.new_zeros(values.shape[0], d_head)
    if block.attn.b_V is not None:
        constant = constant + block.attn.b_V
    _, bias = norm_parameters(block.ln1)
    if bias is not None:
        constant = constant + torch.einsum("d,hdk->hk", bias, values)
    return constant.repeat_interleave(n_heads // constant.shape[0], dim=0)


@torch.no_grad()
def check_lens(bridge: TransformerBridge, pairs: Pairs, logits: Float[Tensor, "prompt d_vocab"]) -> float:
    """The largest difference between the last lens point, unembedded by the formula above, and the model's logits.

    Args:
        logits: the Hugging Face model's own, at each clean prompt's end, from before it was wrapped.

    Raises:
        UserError: it is above LENS_TOLERANCE.
    """
    last = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"
    _, cache = bridge.run_with_cache(
        pairs.clean.tokens, names_filter=lambda name: name in (last, "ln_final.hook_scale")
    )
    residual, scale = pairs.at_end(cache[last]), pairs.at_end(cache["ln_final.hook_scale"])
    if not bridge.cfg.uses_rms_norm:
        residual = residual - residual.mean(dim=-1, keepdim=True)
    weight, bias = norm_parameters(bridge.ln_final)
    normalized = residual / scale * weight + (0 if bias is None else bias)
    error = (normalized @ bridge.W_U + bridge.b_U - logits).abs().max().item()
    if not error <= LENS_TOLERANCE:
        raise UserError(
            f"logit lens: logits differ by {error:.1e} from the model's own (more than {LENS_TOLERANCE:.0e}); "
            "this architecture is not understood, so nothing is measured"
        )
    return error

"""The reference engine: TransformerLens, one full forward for each site. Slow and plain, the oracle of others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.attribution import EndActivations, constant_z
from mi_sweeps.circuits.network import Linear, Norm
from mi_sweeps.circuits.patching import POSITION_SITES, Patched
from mi_sweeps.config import PatchingConfig, Site
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import role_order, role_positions

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Setter = Callable[[Tensor, Sequence[int], Tensor], Tensor]


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    """A Hugging Face model as TransformerLens sees it, with its raw weights.

    The bridge holds the same parameters, so weights copied into the model are the bridge's; its modules are
    renamed in place, so take `checkpoints.parameters(model)` before.
    """
    from transformer_lens.model_bridge import TransformerBridge

    name = model.config.name_or_path or "model"
    # A copy, because the bridge gives the tokenizer special tokens that it lacks.
    tokenizer = copy.deepcopy(tokenizer)
    bridge = TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer, device=str(model.device))
    return bridge.eval()


class ReferenceEngine:
    """Patches through `transformer_lens.patching.generic_activation_patch`."""

    def __init__(self, bridge: TransformerBridge) -> None:
        self.bridge = bridge

    @torch.no_grad()
    def at_end(self, pairs: Pairs) -> EndActivations:
        """See `mi_sweeps.circuits.patching.Engine`."""
        bridge, n_layers = self.bridge, self.bridge.cfg.n_layers
        hooks = {
            "resid_pre": "hook_resid_pre",
            "resid_mid": "hook_resid_mid",
            "attn_out": "hook_attn_out",
            "mlp_out": "hook_mlp_out",
            "z": "attn.hook_z",
        }
        names = {f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in hooks.values()}
        names |= {f"blocks.{n_layers - 1}.hook_resid_post", "ln_final.hook_scale"}
        _, cache = bridge.run_with_cache(pairs.clean.tokens, names_filter=lambda name: name in names)
        ends: dict[str, Any] = {
            name: torch.stack([pairs.at_end(cache[f"blocks.{layer}.{hook}"]) for layer in range(n_layers)])
            for name, hook in hooks.items()
            if f"blocks.0.{hook}" in cache
        }
        return EndActivations(
            **{"resid_mid": None, **ends},
            resid=pairs.at_end(cache[f"blocks.{n_layers - 1}.hook_resid_post"]),
            scale=pairs.at_end(cache["ln_final.hook_scale"]),
            norm=_norm(bridge, bridge.ln_final),
            unembed=Linear(bridge.W_U, bridge.b_U),
            W_O=torch.stack([block.attn.W_O for block in bridge.blocks]),
            constant_z=torch.stack([self._constant_z(block) for block in bridge.blocks]),
        )

    def _constant_z(self, block: Any) -> Float[Tensor, "head d_head"]:
        weights, bias = block.attn.W_V, block.attn.b_V
        value = Linear(weights.permute(1, 0, 2).flatten(1), None if bias is None else bias.flatten())
        return constant_z(self.bridge.cfg.n_heads, len(weights), value, _norm(self.bridge, block.ln1))

    @torch.no_grad()
    def patch(self, pairs: Pairs, patching: PatchingConfig) -> Patched:
        """See `mi_sweeps.circuits.patching.Engine`."""
        roles = role_order(pairs.clean)
        positions = role_positions(pairs.clean, roles)
        names = {_hook(site, layer) for site in patching.sites for layer in range(self.bridge.cfg.n_layers)}
        clean_logits, cache = self.bridge.run_with_cache(pairs.clean.tokens, names_filter=lambda name: name in names)
        corrupted_logits = self.bridge(pairs.corrupted.tokens)
        return Patched(
            pairs.logit_diff(pairs.at_end(clean_logits)),
            pairs.logit_diff(pairs.at_end(corrupted_logits)),
            {site: self._patch_site(site, pairs, cache, positions, patching.heads) for site in patching.sites},
            roles,
        )

    def _patch_site(
        self, site: Site, pairs: Pairs, cache: Any, positions: Int[Tensor, "prompt role"], heads: str
    ) -> Float[Tensor, "layer place prompt"]:
        from transformer_lens.patching import generic_activation_patch

        n_layers = self.bridge.cfg.n_layers
        n_places = positions.shape[1] if site in POSITION_SITES else self._n_heads(site)
        values = generic_activation_patch(
            self.bridge,
            pairs.corrupted.tokens,
            cache,
            lambda logits: pairs.logit_diff(pairs.at_end(logits)),
            _setter(site, positions, pairs.clean.end if heads == "end" else None),
            site,
            index_df=pd.DataFrame(
                [(layer, place) for layer in range(n_layers) for place in range(n_places)], columns=["layer", "place"]
            ),
            reduce="none",
        ).values
        values = values.reshape(n_layers, n_places, len(pairs.clean))
        if site in POSITION_SITES:
            values = values.masked_fill((positions < 0).T, torch.nan)
        return values.cpu()

    def _n_heads(self, site: Site) -> int:
        grouped = self.bridge.cfg.n_key_value_heads
        return grouped if site in ("k", "v") and grouped is not None else self.bridge.cfg.n_heads


def _norm(bridge: TransformerBridge, norm: Any) -> Norm:
    """The weights of a LayerNorm or RMSNorm. Its scale comes from the run's cache, so `eps` is not looked for."""
    original = norm.original_component
    centres = not bridge.cfg.uses_rms_norm
    return Norm(original.weight, getattr(original, "bias", None), eps=0.0, centres=centres)


def _hook(site: Site, layer: int) -> str:
    from transformer_lens.utilities import get_act_name

    return get_act_name(site, layer)


def _setter(site: Site, positions: Int[Tensor, "prompt role"], end: Int[Tensor, " prompt"] | None) -> Setter:
    """How a site's clean activation goes into the corrupted run; `end` limits heads to each prompt's last token."""
    if site in POSITION_SITES:
        return partial(_set_role, positions=positions)
    if end is None:
        return _set_pattern if site == "pattern" else _set_head
    return partial(_set_pattern_at_end if site == "pattern" else _set_head_at_end, end=end)


def _set_role(
    corrupted: Float[Tensor, "prompt pos d_model"], index: Sequence[int], clean: Tensor, *, positions: Tensor
) -> Tensor:
    """One role, at its own position in each prompt that has it."""
    rows = (positions[:, index[1]] >= 0).nonzero()[:, 0]
    where = positions[rows, index[1]]
    corrupted[rows, where] = clean[rows, where]
    return corrupted


def _set_head(corrupted: Float[Tensor, "prompt pos head d_head"], index: Sequence[int], clean: Tensor) -> Tensor:
    corrupted[:, :, index[1]] = clean[:, :, index[1]]
    return corrupted


def _set_pattern(corrupted: Float[Tensor, "prompt head query key"], index: Sequence[int], clean: Tensor) -> Tensor:
    corrupted[:, index[1]] = clean[:, index[1]]
    return corrupted


def _set_head_at_end(corrupted: Tensor, index: Sequence[int], clean: Tensor, *, end: Tensor) -> Tensor:
    rows = torch.arange(len(end), device=end.device)
    corrupted[rows, end, index[1]] = clean[rows, end, index[1]]
    return corrupted


def _set_pattern_at_end(corrupted: Tensor, index: Sequence[int], clean: Tensor, *, end: Tensor) -> Tensor:
    rows = torch.arange(len(end), device=end.device)
    corrupted[rows, index[1], end] = clean[rows, index[1], end]
    return corrupted

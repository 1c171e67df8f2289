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

from mi_sweeps.circuits.pairs import Pairs
from mi_sweeps.circuits.patching import POSITION_SITES, Patched
from mi_sweeps.config import PatchingConfig, Site
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

"""The reference engine: TransformerLens, one full forward pass per patch. Slow and plain; other engines are compared
with it.

TransformerLens wraps nearly every architecture, but some only in part: a block may lack an activation, or expose one
that the model does not read again, so that replacing it changes nothing. `sites` finds out by trying.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.attribution import EndActivations, Heads, constant_z
from mi_sweeps.circuits.engine import POSITION_SITES, Patched
from mi_sweeps.circuits.network import Linear, Norm
from mi_sweeps.config import PatchingConfig, Site
from mi_sweeps.errors import UserError
from mi_sweeps.models.head import Scaling, scaling
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.roles import role_order, role_positions

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Setter = Callable[[Tensor, Sequence[int], Tensor], Tensor]

FIT = 1e-4
"""How far attention's output may be from a multiple of its heads' sum, relative to its largest element."""


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    """Wraps a copy of a Hugging Face model for TransformerLens, with its raw weights.

    A copy, because the bridge renames modules in place. For some architectures it also copies weights when it is made
    (those that it splits into queries, keys and values), so wrap the model again when its weights change.

    Raises:
        UserError: TransformerLens does not support the architecture.
    """
    from transformer_lens.model_bridge import TransformerBridge

    name = model.config.name_or_path or "model"
    model = copy.deepcopy(model)
    if not model.config.architectures:  # A model that was built here, not loaded.
        model.config.architectures = [type(model).__name__]
    # A copy, because the bridge adds missing special tokens to the tokenizer.
    tokenizer = copy.deepcopy(tokenizer)
    try:
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=model, tokenizer=tokenizer, device=str(model.device)
        )
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{type(model).__name__}: TransformerLens cannot wrap it, so it cannot be patched ({reason[:120]})"
        ) from error
    return bridge.eval()


class ReferenceEngine:
    """Patches with `transformer_lens.patching.generic_activation_patch`, using the weights that were wrapped."""

    def __init__(self, bridge: TransformerBridge) -> None:
        self.bridge = bridge
        self.head: Scaling = scaling(bridge.original_model)
        together = any(_norm_of_queries(block) > bridge.cfg.d_head for block in getattr(bridge, "blocks", ()))
        self.names: dict[Site, str] = {"q": "rot_q", "k": "rot_k"} if together else {}
        """TransformerLens's names where they differ from the site's. If all heads' queries are normalised together,
        one head's query can be patched on its own only after the norm; before, it would affect the others."""

    def sites(self, pairs: Pairs, wanted: Sequence[Site]) -> dict[Site, str]:
        """The requested sites that cannot be patched, each with the reason."""
        return {site: reason for site in wanted if (reason := self._missing(site, pairs.select([0])))}

    def _hook(self, site: Site, layer: int) -> str:
        from transformer_lens.utilities import get_act_name

        return get_act_name(self.names.get(site, site), layer)

    @torch.no_grad()
    def _missing(self, site: Site, one: Pairs) -> str | None:
        """Why a site cannot be patched: it must exist in every layer, have a head axis if it is a head site, and be
        read again by the model."""
        layers = range(self.bridge.cfg.n_layers)
        tokens = one.corrupted.tokens
        logits, cache = self.bridge.run_with_cache(tokens)
        absent = [layer for layer in layers if self._hook(site, layer) not in cache]
        if absent:
            every = len(absent) == len(layers)
            return "the model has none" if every else f"layers {', '.join(map(str, absent))} have none"
        shapes = [tuple(cache[self._hook(site, layer)].shape) for layer in layers]
        if not all(_is_by_head(site, shape, tokens.shape[1], self.bridge.cfg.n_heads) for shape in shapes):
            return "TransformerLens does not expose it by head"
        for layer in layers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TransformerLens warns too, but not for every such site.
                moved = self.bridge.run_with_hooks(tokens, fwd_hooks=[(self._hook(site, layer), _moved)])
            if torch.equal(moved, logits):
                return "TransformerLens exposes it, but the model does not read it again"
        return None

    @torch.no_grad()
    def at_end(self, pairs: Pairs) -> EndActivations | None:
        """See `mi_sweeps.circuits.engine.Engine`."""
        bridge, n_layers = self.bridge, self.bridge.cfg.n_layers
        hooks = {
            "resid_pre": "hook_resid_pre",
            "resid_mid": "hook_resid_mid",
            "attn_out": "hook_attn_out",
            "mlp_out": "hook_mlp_out",
            "z": "attn.hook_z",
        }
        names = {f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in hooks.values()}
        last, final = f"blocks.{n_layers - 1}.hook_resid_post", "ln_final.hook_scale"
        names |= {last, final}
        _, cache = bridge.run_with_cache(pairs.clean.tokens, names_filter=lambda name: name in names)
        ends: dict[str, Any] = {}
        for name, hook in hooks.items():
            found = [cache[f"blocks.{layer}.{hook}"] for layer in range(n_layers) if f"blocks.{layer}.{hook}" in cache]
            if len(found) == n_layers and len({value.shape for value in found}) == 1:
                ends[name] = torch.stack([pairs.at_end(value) for value in found])
        if self.head.cap is not None or last not in cache or final not in cache:
            return None
        if not ends.keys() >= {"resid_pre", "attn_out", "mlp_out"}:
            return None
        norm = effective_norm(bridge.ln_final, bridge.cfg.d_model, bridge.W_U.device)
        bias = bridge.b_U
        return EndActivations(
            **{name: ends.get(name) for name in ("resid_pre", "resid_mid", "attn_out", "mlp_out")},
            heads=self._heads(ends["z"], ends["attn_out"]) if "z" in ends else None,
            resid=pairs.at_end(cache[last]),
            scale=pairs.at_end(cache[final]),
            norm=norm,
            unembed=Linear(bridge.W_U * self.head.factor, None if bias is None else bias * self.head.factor),
        )

    def _heads(self, z: Float[Tensor, "layer prompt head d_head"], attn_out: Tensor) -> Heads | None:
        """The heads' outputs; None if the bridge does not expose how heads write."""
        blocks = self.bridge.blocks
        try:
            W_O = torch.stack([block.attn.W_O for block in blocks])
            biases = [block.attn.b_O for block in blocks]
            constant = torch.stack([self._constant_z(block) for block in blocks])
        except (AttributeError, NotImplementedError, RuntimeError) as error:  # No such weights, or of different shapes.
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return None
        if z.shape[2:] != W_O.shape[1:3] or constant.shape != W_O.shape[:3]:
            return None
        b_O = torch.stack(biases) if all(bias is not None for bias in biases) else None
        plain = Heads(z, W_O, b_O, constant)
        scales = [
            _scale(plain.terms(layer).sum(dim=0), attn_out[layer], getattr(block, "ln1_post", None))
            for layer, block in enumerate(blocks)
        ]
        if any(scale is None for scale in scales):
            return None
        scale = torch.stack([one for one in scales if one is not None])
        return plain if bool((scale == 1).all()) else Heads(z, W_O, b_O, constant, scale)

    def _constant_z(self, block: Any) -> Float[Tensor, "head d_head"]:
        weights, bias = block.attn.W_V, block.attn.b_V
        value = Linear(weights.permute(1, 0, 2).flatten(1), None if bias is None else bias.flatten())
        norm = getattr(block, "ln1", None)
        norm_bias = None if norm is None else effective_norm(norm, weights.shape[1], weights.device).bias
        return constant_z(self.bridge.cfg.n_heads, len(weights), value, norm_bias)

    @torch.no_grad()
    def patch(self, pairs: Pairs, patching: PatchingConfig) -> Patched:
        """See `mi_sweeps.circuits.engine.Engine`."""
        roles = role_order(pairs.clean)
        positions = role_positions(pairs.clean, roles)
        names = {self._hook(site, layer) for site in patching.sites for layer in range(self.bridge.cfg.n_layers)}
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
        n_places = positions.shape[1] if site in POSITION_SITES else _n_heads(site, cache[self._hook(site, 0)])
        values = generic_activation_patch(
            self.bridge,
            pairs.corrupted.tokens,
            cache,
            lambda logits: pairs.logit_diff(pairs.at_end(logits)),
            _setter(site, positions, pairs.clean.end if heads == "end" else None),
            self.names.get(site, site),
            index_df=pd.DataFrame(
                [(layer, place) for layer in range(n_layers) for place in range(n_places)], columns=["layer", "place"]
            ),
            reduce="none",
        ).values
        values = values.reshape(n_layers, n_places, len(pairs.clean))
        if site in POSITION_SITES:
            values = values.masked_fill((positions < 0).T, torch.nan)
        return values.cpu()


def _n_heads(site: Site, activation: Tensor) -> int:
    """The number of heads, or of key/value heads, in an activation."""
    return activation.shape[1 if site == "pattern" else 2]


def _is_by_head(site: Site, shape: tuple[int, ...], width: int, n_heads: int) -> bool:
    """Whether an activation of one prompt has the expected axis of heads."""
    if site in POSITION_SITES:
        return True
    if site == "pattern":
        return shape == (1, n_heads, width, width)
    if len(shape) != 4 or shape[:2] != (1, width):
        return False
    # Several query heads may share a key/value head.
    return n_heads % shape[2] == 0 if site in ("k", "v") else shape[2] == n_heads


def _moved(value: Tensor, hook: Any = None) -> Tensor:
    """A different activation, changed in a way that no norm can undo."""
    return value + torch.linspace(-1, 1, value.shape[-1], device=value.device).roll(1)


def effective_norm(norm: Any, width: int, device: torch.device) -> Norm:
    """Describes a LayerNorm or RMSNorm by probing it, because some families store its weight minus one, or have none.
    The scale comes from the run's cache, so `eps` is not needed."""
    module = norm.original_component
    ramp = torch.linspace(1, 2, width, device=device)
    probes = 1e3 * torch.stack([torch.zeros_like(ramp), ramp, ramp + 1])
    nothing, once, moved = module(probes)
    centres = torch.allclose(once, moved, rtol=1e-3, atol=1e-3)
    # An element that centring makes zero says nothing about its weight, so each is probed where it is not small.
    bias = nothing
    if centres:
        ramp = torch.linspace(-1, 1, width, device=device).sign()
        ramp[ramp == 0] = 1
        probe = 1e3 * (ramp - ramp.mean())
    else:
        probe = probes[1]
    weight = (module(probe[None])[0] - bias) * probe.pow(2).mean().sqrt() / probe
    return Norm(weight, bias if bool(bias.any()) else None, eps=0.0, centres=centres)


def _scale(
    heads: Float[Tensor, "prompt d_model"], written: Float[Tensor, "prompt d_model"], norm: Any
) -> Float[Tensor, "prompt d_model"] | None:
    """The factor on the heads' sum before it is added: 1, a number, or the norm after attention. None if that norm has
    a bias, which belongs to no head, or centres, which mixes elements."""

    def fits(found: Tensor) -> bool:
        return bool((heads * found - written).abs().max() <= FIT * written.abs().max())

    one = torch.ones_like(heads)
    if fits(one):
        return one
    factor = (heads * written).sum() / (heads * heads).sum()
    if fits(one * factor):
        return one * factor
    if norm is None:
        return None
    how = effective_norm(norm, heads.shape[-1], heads.device)
    if how.centres or how.bias is not None:
        return None
    normed = heads * how.weight
    factors = (normed * written).sum(dim=-1, keepdim=True) / (normed * normed).sum(dim=-1, keepdim=True)
    return how.weight * factors if fits(how.weight * factors) else None


def _norm_of_queries(block: Any) -> int:
    """The number of query elements normalised together; 0 if each head has its own norm, or there is none."""
    norm = getattr(getattr(block, "attn", None), "submodules", {}).get("q_norm")
    weight = None if norm is None else getattr(norm.original_component, "weight", None)
    return 0 if weight is None or weight.dim() != 1 else len(weight)


def _setter(site: Site, positions: Int[Tensor, "prompt role"], end: Int[Tensor, " prompt"] | None) -> Setter:
    """The function that puts a site's clean activation into the corrupted run; `end` limits heads to each prompt's last
    token."""
    if site in POSITION_SITES:
        return partial(_set_role, positions=positions)
    if end is None:
        return _set_pattern if site == "pattern" else _set_head
    return partial(_set_pattern_at_end if site == "pattern" else _set_head_at_end, end=end)


def _set_role(
    corrupted: Float[Tensor, "prompt pos d_model"], index: Sequence[int], clean: Tensor, *, positions: Tensor
) -> Tensor:
    """Patches one role, at its own position in each prompt that has it."""
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

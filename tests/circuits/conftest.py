"""Prompt pairs for the tests of circuits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mi_sweeps.circuits.reference import wrap
from mi_sweeps.config import PatchingConfig
from mi_sweeps.models.nope import NopeForCausalLM
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks.ioi import single_token_names
from mi_sweeps.tasks.pairs import Pairs, make_pairs
from mi_sweeps.tasks.previous_token import PreviousToken
from mi_sweeps.tasks.prompts import fill

Cache = dict[tuple[str, int], Tensor]
"""Activations by site and layer."""
Replace = dict[tuple[str, int], Callable[[Tensor], Tensor]]

SHORT = (
    ("{}, {} and {} met, {} and {} gave to", ["Tom", "Mary", "John", "Mary", "John"], "Tom"),
    ("{}, {} and {} met, {} and {} gave to", ["Anna", "Paul", "Luke", "Luke", "Anna"], "Paul"),
    ("Then {}, {} and {} met, {} and {} gave lunch to", ["Amy", "Eric", "Kate", "Kate", "Eric"], "Amy"),
    ("{}, {} and {} met, {} and {} to", ["Jane", "Sean", "Rose", "Jane", "Sean"], "Rose"),
)
"""Prompts of three lengths, whose subjects are at three distances from their ends."""


@pytest.fixture(scope="session")
def make_short_pairs(mini_tokenizer: PreTrainedTokenizerBase) -> Callable[[str], Pairs]:
    """A few pairs of unequal length that even the reference engine patches in a moment; two have one length."""
    names = single_token_names(mini_tokenizer)
    prompts = [fill(template, slots, answer, 2) for template, slots, answer in SHORT]
    return lambda corruption: make_pairs(prompts, corruption, mini_tokenizer, names, prepend_bos=False)


@pytest.fixture(scope="session")
def patching() -> Callable[..., PatchingConfig]:
    """What conf/patching/full.yaml says, at some sites."""
    (point,) = expand(["output=unused", "patching=full"])

    def make(*sites: str, heads: str = "all") -> PatchingConfig:
        return point.config.patching.model_copy(update={"sites": sites, "heads": heads})

    return make


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., PreviousToken]:
    """The task of models without positional embeddings, small."""

    def make(**sizes: int) -> PreviousToken:
        return PreviousToken(None, **{"d_vocab": 12, "length": 7, "first_scored": 2, "heldout": 9, "seed": 0} | sizes)

    return make


class HookedNope:
    """A model without positional embeddings under PyTorch's own hooks: plain and slow, nothing shared."""

    def __init__(self, model: NopeForCausalLM) -> None:
        self.model = model
        self.n_layers, self.n_heads = len(model.model.layers), model.model.layers[0].attention.n_heads

    @torch.no_grad()
    def run(self, tokens: Tensor, replace: Replace | None = None) -> tuple[Tensor, Cache]:
        """Logits, and activations by site and layer, some of them replaced by a function of what they were."""
        replace = replace or {}
        cache: Cache = {}

        def keep(value: Tensor, site: str, layer: int) -> Tensor:
            cache[site, layer] = replace[site, layer](value) if (site, layer) in replace else value
            return cache[site, layer]

        def given(site: str, layer: int) -> Callable[..., Tensor]:
            return lambda module, args: keep(args[0], site, layer)

        def said(site: str, layer: int) -> Callable[..., Tensor]:
            return lambda module, args, out: keep(out, site, layer)

        def of_heads(site: str, layer: int) -> Callable[..., Tensor]:
            return lambda module, args, out: keep(self._heads(out), site, layer).flatten(-2)

        def weighed(layer: int) -> Callable[..., Tensor]:
            def hook(module: object, args: tuple[Tensor]) -> Tensor:
                q, k, v = (cache[site, layer] for site in ("q", "k", "v"))
                torch.testing.assert_close(z(pattern(q, k), v).flatten(-2), args[0], atol=1e-5, rtol=1e-5)
                return keep(z(keep(pattern(q, k), "pattern", layer), v), "z", layer).flatten(-2)

            return hook

        handles = []
        for number, layer in enumerate(self.model.model.layers):
            attention = layer.attention
            handles += [
                layer.register_forward_pre_hook(given("resid_pre", number)),
                attention.query.register_forward_hook(of_heads("q", number)),
                attention.key.register_forward_hook(of_heads("k", number)),
                attention.value.register_forward_hook(of_heads("v", number)),
                attention.combine.register_forward_pre_hook(weighed(number)),
                attention.register_forward_hook(said("attn_out", number)),
                *([layer.mlp.register_forward_hook(said("mlp_out", number))] if layer.mlp else []),
                layer.register_forward_hook(said("resid_post", number)),
            ]
        try:
            return self.model(tokens).logits, cache
        finally:
            for handle in handles:
                handle.remove()

    def _heads(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.n_heads, -1))


def pattern(q: Tensor, k: Tensor) -> Tensor:
    """[prompt, head, query, key], worked out query by query."""
    found = torch.zeros(len(q), q.shape[2], q.shape[1], q.shape[1])
    for query in range(q.shape[1]):
        scores = (q[:, query, None] * k[:, : query + 1]).sum(dim=-1) / q.shape[-1] ** 0.5
        found[:, :, query, : query + 1] = scores.transpose(1, 2).softmax(dim=-1)
    return found


def z(pattern: Tensor, v: Tensor) -> Tensor:
    """[prompt, query, head, d_head]."""
    return torch.einsum("phqk,pkhd->pqhd", pattern, v)


class HookedBridge:
    """Any other model under TransformerLens's hooks."""

    def __init__(self, bridge: TransformerBridge) -> None:
        self.bridge = bridge
        self.n_layers, self.n_heads = bridge.cfg.n_layers, bridge.cfg.n_heads

    @torch.no_grad()
    def run(self, tokens: Tensor, replace: Replace | None = None) -> tuple[Tensor, Cache]:
        """See `HookedNope.run`; what is kept is never what was replaced."""
        sites = ("resid_pre", "attn_out", "mlp_out", "z", "pattern", "resid_post")
        hooks = [
            (get_act_name(site, layer), lambda value, hook, change=change: change(value))
            for (site, layer), change in (replace or {}).items()
        ]
        if hooks:
            return self.bridge.run_with_hooks(tokens, fwd_hooks=hooks), {}
        logits, cache = self.bridge.run_with_cache(tokens)
        layers = range(self.n_layers)
        return logits, {(site, layer): cache[get_act_name(site, layer)] for site in sites for layer in layers}


@pytest.fixture(scope="session")
def hooked(mini_tokenizer: PreTrainedTokenizerBase) -> Callable[[PreTrainedModel], HookedNope | HookedBridge]:
    """A model of any family under hooks."""
    return lambda model: (
        HookedNope(model) if isinstance(model, NopeForCausalLM) else HookedBridge(wrap(model, mini_tokenizer))
    )

"""Families of models that the fast engine knows, at two checkpoints each, against plain hooks on Hugging Face's model:
every site, paths, estimates, attribution and ablations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from mi_sweeps.circuits.ablation import ablated_losses
from mi_sweeps.circuits.approximate import estimate
from mi_sweeps.circuits.attribution import attribute, misfits
from mi_sweeps.circuits.engine import POSITION_SITES
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.circuits.measures import take
from mi_sweeps.circuits.paths import patch_paths
from mi_sweeps.config import PathsConfig, Site
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.training.evaluate import end_logits

FAMILIES = ("gemma2", "gemma3", "gpt_neox", "granite", "olmo2", "phi", "starcoder2")
SITES = get_args(Site)
HEAD_SITES = tuple(site for site in SITES if site not in POSITION_SITES)
Replace = dict[tuple[str, int], Callable[[Tensor], Tensor]]
Cache = dict[tuple[str, int], Tensor]


def attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, softcap: float | None = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """What a model calls with the vectors whose dot product is taken; written out, and every value may be replaced."""
    keep = partial(module.plain.keep, layer=module.layer_idx)
    q, k, v = (keep(value.transpose(1, 2), name) for value, name in ((q, "q"), (k, "k"), (v, "v")))
    scores = torch.stack(
        [q[:, :, head] @ k[:, :, head * k.shape[2] // q.shape[2]].mT * scaling for head in range(q.shape[2])], dim=1
    )
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    width = scores.shape[-1]
    seen = torch.ones(width, width, dtype=torch.bool).tril()
    pattern = keep(scores.masked_fill(~seen, -torch.inf).softmax(dim=-1), "pattern")
    z = [pattern[:, head] @ v[:, :, head * v.shape[2] // q.shape[2]] for head in range(q.shape[2])]
    return keep(torch.stack(z, dim=2), "z"), pattern


AttentionInterface.register("plain", attention)
AttentionMaskInterface.register("plain", eager_mask)


class Plain:
    """A model under PyTorch's hooks, and with the attention above; all else is Hugging Face's."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.layers = list(model.base_model.layers)
        self.multiplier = getattr(model.config, "residual_multiplier", 1.0)
        self.factor = 1 / getattr(model.config, "logits_scaling", 1.0)
        model.set_attn_implementation("plain")
        for layer in self.layers:
            self.attention(layer).plain = self
        self.replace: Replace = {}
        self.cache: Cache = {}
        for number, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(self.given("resid_pre", number), with_kwargs=True)
            if hasattr(layer, "input_layernorm"):
                layer.input_layernorm.register_forward_hook(self.said("read", number))
            self.attn_out(layer).register_forward_hook(self.said("attn_out", number))
            self.mlp_out(layer).register_forward_hook(self.said("mlp_out", number))
        self.norm.register_forward_pre_hook(self.given("resid", -1), with_kwargs=True)
        self.norm.register_forward_hook(self.said("normed", -1))

    @torch.no_grad()
    def run(self, tokens: Tensor, replace: Replace | None = None) -> tuple[Tensor, Cache]:
        """Logits, and activations by site and layer, some of them replaced by a function of what they were."""
        self.replace, self.cache = replace or {}, {}
        logits, cache = self.model(tokens, use_cache=False).logits, self.cache
        self.replace, self.cache = {}, {}  # Its modules may be asked on their own.
        return logits, cache

    def keep(self, value: Tensor, site: str, layer: int) -> Tensor:
        self.cache[site, layer] = self.replace.get((site, layer), lambda same: same)(value)
        return self.cache[site, layer]

    def given(self, site: str, layer: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            return (self.keep(args[0], site, layer), *args[1:]), kwargs

        return hook

    def said(self, site: str, layer: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            return (self.keep(out[0], site, layer), *out[1:]) if isinstance(out, tuple) else self.keep(out, site, layer)

        return hook

    @staticmethod
    def part(layer: nn.Module, *names: str) -> Any:
        """The first of these that a layer has."""
        return next(found for name in names if (found := getattr(layer, name, None)) is not None)

    def attention(self, layer: nn.Module) -> Any:
        return self.part(layer, "attention", "self_attn")

    def attn_out(self, layer: nn.Module) -> Any:
        """The module whose output is added to the residual stream."""
        return self.after(layer, "post_attention_layernorm") or self.attention(layer)

    def mlp_out(self, layer: nn.Module) -> Any:
        return self.after(layer, "post_feedforward_layernorm") or layer.mlp

    def after(self, layer: nn.Module, name: str) -> Any:
        """A normalisation of what is written; most families call that of what the MLP reads by the same name."""
        return getattr(layer, name) if hasattr(layer, "post_feedforward_layernorm") else None

    @property
    def norm(self) -> Any:
        return self.part(self.model.base_model, "final_layer_norm", "final_layernorm", "norm")

    def written(self, layer: int, z: Tensor) -> Tensor:
        """What attention adds, from the heads' outputs."""
        combine = self.part(self.attention(self.layers[layer]), "dense", "o_proj")
        after = self.after(self.layers[layer], "post_attention_layernorm")
        return (after(combine(z.flatten(-2))) if after else combine(z.flatten(-2))) * self.multiplier


def normalised(norm: Any, read: Tensor, change: Tensor, how: str) -> Tensor:
    """What a normalisation makes of a change: by the module itself, or by its formula with the scale as it was."""
    if norm is None or how == "recomputed":
        return read + change if norm is None else norm(read + change)
    if isinstance(norm, nn.LayerNorm):
        centred = change - change.mean(-1, keepdim=True)
        return norm(read) + centred / (read.var(-1, keepdim=True, correction=0) + norm.eps).sqrt() * norm.weight
    unit = "Gemma" in type(norm).__name__
    eps = norm.eps if unit else norm.variance_epsilon
    return norm(read) + change / (read.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (norm.weight + unit)


@torch.no_grad()
def train(model: PreTrainedModel) -> None:
    """What a fine-tune does: all weights change in place."""
    random = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))


@pytest.fixture(scope="module", params=FAMILIES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["first", "later"])
def later(request: pytest.FixtureRequest) -> bool:
    """At which of two checkpoints."""
    return request.param


@pytest.fixture
def model(kind: str, make_model: Callable[..., PreTrainedModel], later: bool) -> PreTrainedModel:
    """What is described at the first checkpoint sees the weights of the second."""
    model = make_model(kind)
    model.described = describe(model)
    if later:
        train(model)
    return model


@pytest.fixture
def pairs(make_short_pairs: Callable[[str], Pairs]) -> Pairs:
    """Four of three lengths."""
    return make_short_pairs("second")


def equal(found: Tensor, expected: Tensor, name: Any, limit: float = 2e-5) -> None:
    torch.testing.assert_close(found, expected, atol=limit, rtol=0, equal_nan=True, msg=lambda text: f"{name}: {text}")


def at(site: str, row: int, place: int, pairs: Pairs, roles: list[str], heads: str) -> tuple[Any, ...] | None:
    """Where a patch is made in one prompt; None where it has no such token."""
    if site in POSITION_SITES:
        own = pairs.clean.roles[row]
        return (row, own.index(roles[place])) if roles[place] in own else None
    position = int(pairs.clean.end[row]) if heads == "end" else slice(None)
    return (row, place, position) if site == "pattern" else (row, position, place)


def rows_of(site: str, place: int, pairs: Pairs, roles: list[str], heads: str) -> dict[int, tuple[Any, ...]]:
    found = {row: at(site, row, place, pairs, roles, heads) for row in range(len(pairs.clean))}
    return {row: where for row, where in found.items() if where is not None}


def places(site: str, n_places: int, roles: list[str]) -> list[int]:
    """All heads, and some tokens."""
    if site not in POSITION_SITES:
        return list(range(n_places))
    return [place for place, role in enumerate(roles) if role in ("subject 2", "end") or place % 6 == 0]


@pytest.mark.parametrize("heads", ["all", "end"])
def test_every_site(model, pairs, patching, heads):
    plain = Plain(model)
    chosen = patching(*(SITES if heads == "all" else HEAD_SITES), heads=heads)
    found = FastEngine(model.described).patch(pairs, chosen)
    logits, clean = plain.run(pairs.clean.tokens)
    equal(found.clean, pairs.logit_diff(pairs.at_end(logits)), "clean")
    for site, values in found.sites.items():
        for layer, place in product(range(len(values)), places(site, values.shape[1], found.roles)):
            rows = rows_of(site, place, pairs, found.roles, heads)

            def change(value, rows=rows, source=clean[site, layer]):
                value = value.clone()
                for where in rows.values():
                    value[where] = source[where]
                return value

            logits, _ = plain.run(pairs.corrupted.tokens, {(site, layer): change})
            expected = pairs.logit_diff(pairs.at_end(logits))
            absent = [row for row in range(len(expected)) if row not in rows]
            expected[absent] = torch.nan
            equal(values[layer, place], expected, f"{site} {layer} {place}")
        assert (values - found.corrupted).abs().nan_to_num().max() > 1e-3, f"{site}: no patch has an effect"


@torch.no_grad()
def test_paths(model, later, pairs):
    """From heads of the first layer to each input of the second's, and of both to the logits."""
    how = "frozen" if later else "recomputed"
    plain = Plain(model)
    config = PathsConfig(receivers="all", inputs=("q", "k", "v", "logits"), norm=how)
    found = patch_paths(model.described, pairs, config)
    _, clean = plain.run(pairs.clean.tokens)
    _, corrupted = plain.run(pairs.corrupted.tokens)

    def write(layer: int, head: int) -> Tensor:
        """How a source's output changes what its layer's attention adds."""
        z = corrupted["z", layer].clone()
        if how == "recomputed":
            z[:, :, head] = clean["z", layer][:, :, head]
            return plain.written(layer, z) - corrupted["attn_out", layer] * plain.multiplier
        z[:, :, [other for other in range(z.shape[2]) if other != head]] = 0
        one = z.clone()
        one[:, :, head] = clean["z", layer][:, :, head]
        combine = plain.part(plain.attention(plain.layers[layer]), "dense", "o_proj")
        change = combine(one.flatten(-2)) - combine(z.flatten(-2))
        after = plain.after(plain.layers[layer], "post_attention_layernorm")
        together = combine(corrupted["z", layer].flatten(-2))
        change = change if after is None else normalised(after, together, change, how) - after(together)
        return change * plain.multiplier

    layer = plain.layers[1]
    norm = getattr(layer, "input_layernorm", None)
    for ((source_layer, source), receiver, into), values in found.edges.items():
        if receiver is not None and (source + receiver[1]) % 2:
            continue  # Half of them take half the time.
        change = write(source_layer, source)
        if receiver is None:
            normed = normalised(plain.norm, corrupted["resid", -1], change, how)
            logits, _ = plain.run(pairs.corrupted.tokens, {("normed", -1): lambda _, normed=normed: normed})
        else:
            read = normalised(norm, corrupted["resid_pre", 1], change, how)
            site = "resid_pre" if norm is None else "read"
            _, seen = plain.run(pairs.corrupted.tokens, {(site, 1): lambda _, read=read: read})

            def put(value, head=receiver[1], source=seen[into, 1]):
                value = value.clone()
                value[:, :, head] = source[:, :, head]
                return value

            logits, _ = plain.run(pairs.corrupted.tokens, {(into, 1): put})
        equal(values, pairs.logit_diff(pairs.at_end(logits)), f"{source_layer}.{source} {receiver} {into}")
    effects = torch.stack([(values - found.corrupted).abs().max() for values in found.edges.values()])
    assert effects.median() > 1e-3, "paths do nothing"


STEP = 3e-3
"""So large because some norms compute in 32 bits whatever they are given."""


def test_estimates_are_derivatives_along_the_change(model, later, pairs, patching):
    heads = "end" if later else "all"
    found = estimate(model.described, pairs, patching(*SITES, heads=heads))
    plain = Plain(model.double())
    (_, clean), (_, corrupted) = plain.run(pairs.clean.tokens), plain.run(pairs.corrupted.tokens)
    for site in SITES:
        for place in (0, found.sites[site].shape[1] - 1):
            change = torch.zeros_like(clean[site, 0])
            for where in rows_of(site, place, pairs, found.roles, heads).values():
                change[where] = (clean[site, 0] - corrupted[site, 0])[where]
            high, low = (
                pairs.logit_diff(
                    pairs.at_end(
                        plain.run(
                            pairs.corrupted.tokens, {(site, 0): lambda value, by=sign * STEP * change: value + by}
                        )[0]
                    )
                )
                for sign in (1, -1)
            )
            slope = (found.sites[site][0, place] - found.corrupted).double().nan_to_num()
            torch.testing.assert_close(slope, (high - low) / (2 * STEP), atol=3e-4, rtol=2e-3, msg=f"{site} {place}")


@torch.no_grad()
def test_attribution(model, pairs):
    """Each row is the derivative-free product of what a hook saw with the final normalisation's scale held."""
    logits = end_logits(model, pairs.clean)
    end = FastEngine(model.described, memory=1).at_end(pairs)
    assert misfits(end, pairs, logits) == {}
    equal(end.logits, logits, "logits", 1e-4)
    assert "lens" in misfits(replace(end, cap=1.0), pairs, logits), "a cap that is not the model's is found out"
    plain = Plain(model)
    _, clean = plain.run(pairs.clean.tokens)
    resid = pairs.at_end(clean["resid", -1])
    nothing = torch.zeros_like(resid)
    head = model.get_output_embeddings()

    def scaled(part: Tensor) -> Tensor:
        """What a part of the stream says of the logit difference."""
        change = normalised(plain.norm, resid, part, "frozen") - plain.norm(resid)
        return pairs.logit_diff(head(change) - head(nothing)) * plain.factor

    rows = attribute(end, pairs)
    for row in rows:
        layer, found = row["layer"], torch.tensor(row["by_prompt"])
        if row["kind"] == "layer" and layer is not None:
            equal(
                found,
                scaled(pairs.at_end(clean[f"{row['component']}_out", layer]) * plain.multiplier),
                row["component"],
            )
        elif row["kind"] == "head":
            z = pairs.at_end(clean["z", layer])
            without = z.clone()
            without[:, row["head"]] = end.heads.constant_z[layer, row["head"]]
            combine = plain.part(plain.attention(plain.layers[layer]), "dense", "o_proj")
            change = combine(z.flatten(-2)) - combine(without.flatten(-2))
            after = plain.after(plain.layers[layer], "post_attention_layernorm")
            if after is not None:
                together = combine(z.flatten(-2))
                change = normalised(after, together, change, "frozen") - after(together)
            equal(found, scaled(change * plain.multiplier), f"head {layer} {row['head']}")
    total = sum(torch.tensor(row["by_prompt"]) for row in rows if row["kind"] == "layer")
    uncapped = pairs.logit_diff(head(plain.norm(resid))) * plain.factor
    equal(total, uncapped, "total", 1e-4)


def test_ablations_and_attention(model, pairs):
    batch = pairs.clean
    found = ablated_losses(model.described, [batch])
    plain = Plain(model)
    logits, cache = plain.run(batch.tokens)
    columns = torch.arange(batch.tokens.shape[1])
    chosen = (columns >= 1) & (columns <= batch.end[:, None])
    prompts, positions, targets = batch.scored
    losses = {}
    for name, layer, head in found:
        if name != "none":
            site = "z" if name == "head" else name
            mean = cache[site, layer][chosen].mean(dim=0)

            def change(value, mean=mean, head=head):
                value = value.clone()
                if head is None:
                    value[chosen] = mean
                else:
                    value[:, :, head] = torch.where(chosen[..., None], mean[head], value[:, :, head])
                return value

            logits, _ = plain.run(batch.tokens, {(site, layer): change})
        losses[name, layer, head] = functional.cross_entropy(logits[prompts, positions], targets).item()
    assert found == pytest.approx(losses, abs=2e-5)
    rows = take(model.described, batch, ["previous_token"], memory=1 << 20)
    for row in rows:
        pattern = cache["pattern", row["layer"]][:, row["head"]]
        paid = [pattern[one, at, at - 1] for one, end in enumerate(batch.end.tolist()) for at in range(2, end + 1)]
        assert row["value"] == pytest.approx(torch.stack(paid).mean().item(), abs=1e-6)

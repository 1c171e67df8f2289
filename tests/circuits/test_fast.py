"""The fast engine against the reference engine and TransformerLens's own functions, and by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import patching as lens_patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from mi_sweeps.circuits.engine import POSITION_SITES, Patched
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import MEMORY, FastEngine, budget
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.config import Site
from mi_sweeps.tasks.pairs import Pairs, make_pairs
from mi_sweeps.tasks.prompts import fill
from mi_sweeps.tasks.tokens import Batch
from mi_sweeps.training.evaluate import end_logits

LENS_FUNCTIONS = {
    "resid_pre": lens_patching.get_act_patch_resid_pre,
    "attn_out": lens_patching.get_act_patch_attn_out,
    "mlp_out": lens_patching.get_act_patch_mlp_out,
    "z": lens_patching.get_act_patch_attn_head_out_all_pos,
    "q": lens_patching.get_act_patch_attn_head_q_all_pos,
    "k": lens_patching.get_act_patch_attn_head_k_all_pos,
    "v": lens_patching.get_act_patch_attn_head_v_all_pos,
    "pattern": lens_patching.get_act_patch_attn_head_pattern_all_pos,
}
SITES = get_args(Site)
HEAD_SITES = tuple(site for site in SITES if site not in POSITION_SITES)
CORRUPTIONS = ["first", "second", "both", "order"]


def fast_engine(model: PreTrainedModel, **options: int) -> FastEngine:
    return FastEngine(describe(model), **options)


def equal(ours: torch.Tensor, theirs: torch.Tensor, name: str, limit: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=limit, rtol=0, equal_nan=True, msg=lambda text: f"{name}: {text}")


def same(ours: Patched, theirs: Patched) -> None:
    assert ours.roles == theirs.roles
    assert ours.sites.keys() == theirs.sites.keys()
    equal(ours.clean, theirs.clean, "clean")
    equal(ours.corrupted, theirs.corrupted, "corrupted")
    for site, values in theirs.sites.items():
        equal(ours.sites[site], values, site)


def recovered(patched: Patched, site: str) -> torch.Tensor:
    """Of each prompt."""
    return (patched.sites[site] - patched.corrupted) / (patched.clean - patched.corrupted)


def rows_of(patched: Patched, rows: list[int], roles: list[str]) -> Patched:
    """Some prompts, and the roles that they have."""
    places = [patched.roles.index(role) for role in roles]
    return Patched(
        patched.clean[rows],
        patched.corrupted[rows],
        {
            site: (values[:, places] if site in POSITION_SITES else values)[..., rows]
            for site, values in patched.sites.items()
        },
        roles,
    )


def joined(batches: list[Batch]) -> Batch:
    """Batches of one width as one."""
    tokens, end, answers, subjects = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("tokens", "end", "answers", "subjects")
    )
    prompts, roles = (tuple(chain(*(getattr(batch, name) for batch in batches))) for name in ("prompts", "roles"))
    return Batch(prompts, tokens, end, answers, subjects, roles)


@pytest.fixture(scope="module")
def all_pairs(make_short_pairs) -> Pairs:
    """The pairs of every corruption in one batch. A subject that a metric leaves out gives its place to the other one,
    so that one pair of weights measures all."""
    parts = []
    for corruption in CORRUPTIONS:
        pairs = make_short_pairs(corruption)
        counted = {"first": [0, 0], "second": [1, 1]}.get(corruption, [0, 1])
        parts.append(replace(pairs, clean=replace(pairs.clean, subjects=pairs.clean.subjects[:, counted])))
    clean, corrupted = ([getattr(part, side) for part in parts] for side in ("clean", "corrupted"))
    return Pairs(joined(clean), joined(corrupted), torch.tensor([0.5, 0.5]))


@pytest.fixture(scope="module")
def bridge(make_model, family, mini_tokenizer) -> TransformerBridge:
    return wrap(make_model(family), mini_tokenizer)


@pytest.fixture(scope="module")
def reference(bridge, all_pairs, patching) -> Callable[[str], Patched]:
    """The reference engine's values for `all_pairs`, computed once."""

    @cache
    def patch(heads: str) -> Patched:
        # Where heads are patched is nothing to the position sites.
        sites = SITES if heads == "all" else HEAD_SITES
        return ReferenceEngine(bridge).patch(all_pairs, patching(*sites, heads=heads))

    return patch


def rows_with(corruption: str) -> list[int]:
    """Where a corruption's pairs are in `all_pairs`."""
    return [4 * CORRUPTIONS.index(corruption) + row for row in range(4)]


@pytest.mark.parametrize("heads", ["all", "end"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_site_equals_the_reference(make_model, family, make_short_pairs, patching, reference, corruption, heads):
    pairs = make_short_pairs(corruption)
    reached = pairs.clean.end - (pairs.clean.tokens != pairs.corrupted.tokens).int().argmax(dim=1)
    assert len(set(pairs.clean.end.tolist())) == len(set(reached.tolist())) == 3
    expected = reference(heads)
    ours = fast_engine(make_model(family)).patch(pairs, patching(*expected.sites, heads=heads))
    same(ours, rows_of(expected, rows_with(corruption), ours.roles))
    for site, values in ours.sites.items():
        assert (values - ours.corrupted).abs().nan_to_num().max() > 1e-4, f"{site}: no patch has an effect"


@pytest.mark.parametrize("heads", ["all", "end"])
def test_all_corruptions_in_one_batch_equal_the_reference(make_model, family, all_pairs, patching, reference, heads):
    expected = reference(heads)
    same(fast_engine(make_model(family)).patch(all_pairs, patching(*expected.sites, heads=heads)), expected)


def test_recovered_fractions_equal_the_reference_s(make_model, family, all_pairs, patching, reference):
    expected = reference("all")
    wide = (expected.clean - expected.corrupted).abs() > 0.3
    assert wide.any()
    ours = fast_engine(make_model(family)).patch(all_pairs, patching(*SITES))
    for site in SITES:
        equal(recovered(ours, site)[..., wide], recovered(expected, site)[..., wide], site, 1e-5 / 0.3)


def test_position_sites_do_not_ask_where_heads_are_patched(make_model, family, make_short_pairs, patching):
    engine = fast_engine(make_model(family))
    pairs = make_short_pairs("first")
    everywhere, at_end = (engine.patch(pairs, patching(*POSITION_SITES, heads=heads)) for heads in ("all", "end"))
    same(everywhere, at_end)


def test_every_site_equals_transformer_lens(make_model, family, bridge, make_short_pairs, patching):
    """One length at a time, because TransformerLens counts positions from the left; all lengths at once in ours."""
    pairs = make_short_pairs("second")
    ours = fast_engine(make_model(family)).patch(pairs, patching(*SITES))
    rows = [row for row, end in enumerate(pairs.clean.end.tolist()) if end == pairs.clean.end[0]]
    assert 1 < len(rows) < len(pairs.clean)
    chosen = pairs.select(rows)
    with torch.no_grad():
        _, activations = bridge.run_with_cache(chosen.clean.tokens)
        for site, function in LENS_FUNCTIONS.items():
            if family.startswith("olmo") and site in ("q", "k"):
                continue  # theirs are those before all heads are normalised together
            theirs = function(
                bridge,
                chosen.corrupted.tokens,
                activations,
                lambda logits: chosen.logit_diff(logits[:, -1]),
                reduce="none",
            ).values
            values = ours.sites[site][..., rows]
            if site in POSITION_SITES:
                # All prompts of this length have the same roles, in the order of their tokens.
                assert chosen.clean.roles[0] == chosen.clean.roles[1]
                values = values[:, [ours.roles.index(role) for role in chosen.clean.roles[0]]]
            equal(values, theirs.view_as(values), site)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_clean_and_corrupted_are_the_model_s_own_logits(make_model, family, make_short_pairs, patching, corruption):
    pairs = make_short_pairs(corruption)
    model = make_model(family)
    ours = fast_engine(model).patch(pairs, patching("z"))
    with torch.no_grad():
        equal(ours.clean, pairs.logit_diff(end_logits(model, pairs.clean)), "clean")
        equal(ours.corrupted, pairs.logit_diff(end_logits(model, pairs.corrupted)), "corrupted")


@pytest.mark.slow
def test_the_mini_model_recovers_what_the_reference_says(mini_model, mini_tokenizer, make_test_pairs, patching):
    """Four layers, trained: changes enter between the first layer and the last. Two prompts whose runs differ much."""
    pairs, chosen = make_test_pairs("first", count=8).select([2, 3]), patching("resid_pre", *HEAD_SITES)
    expected = ReferenceEngine(wrap(copy.deepcopy(mini_model), mini_tokenizer)).patch(pairs, chosen)
    ours = fast_engine(mini_model).patch(pairs, chosen)
    assert ((expected.clean - expected.corrupted).abs() > 1).all()
    for site in chosen.sites:
        equal(recovered(ours, site), recovered(expected, site), site)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {"n_layer": 1}),
        ("gpt2", {"n_head": 1}),
        ("llama", {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}),
    ],
    ids=["one-layer", "one-head", "one-layer-and-head"],
)
def test_small_models_equal_the_reference(make_model, mini_tokenizer, make_short_pairs, patching, family, options):
    pairs = make_short_pairs("first").select([1, 3])
    theirs = ReferenceEngine(wrap(make_model(family, **options), mini_tokenizer))
    ours = fast_engine(make_model(family, **options))
    for chosen in (patching(*SITES), patching(*HEAD_SITES, heads="end")):
        same(ours.patch(pairs, chosen), theirs.patch(pairs, chosen))


@pytest.fixture
def twelve(make_test_pairs) -> Pairs:
    pairs = make_test_pairs("both", count=12)
    assert len(set(pairs.clean.end.tolist())) > 1
    return pairs


def test_one_prompt_and_one_change_at_a_time_give_the_same(random_model, make_short_pairs, patching):
    pairs, chosen = make_short_pairs("both"), patching(*SITES)
    engine = fast_engine(random_model, memory=1)
    assert budget(engine.network, pairs, 1) == (1, 1)
    same(engine.patch(pairs, chosen), fast_engine(random_model).patch(pairs, chosen))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.slow
def test_memory_changes_no_result(make_model, make_short_pairs, family, patching):
    model, pairs = make_model(family), make_short_pairs("first")
    chosen = patching("resid_pre", "mlp_out", "z", "k")
    large = fast_engine(model).patch(pairs, chosen)
    seen = set()

    @settings(max_examples=15)
    @given(st.integers(1, 40))
    def check(size: int) -> None:
        memory = 25_000 * size
        engine = fast_engine(model, memory=memory)
        seen.add(budget(engine.network, pairs, memory))
        same(engine.patch(pairs, chosen), large)

    check()
    assert {1, 2, 3} <= {prompts for prompts, _ in seen}, seen


def test_prompts_in_another_order_give_the_same(random_model, twelve, patching):
    engine, chosen = fast_engine(random_model), patching(*SITES)
    together = engine.patch(twelve, chosen)
    order = [7, 3, 11, 0, 5, 9, 1, 10, 2, 8, 4, 6]
    shuffled = engine.patch(twelve.select(order), chosen)
    same(shuffled, rows_of(together, order, together.roles))


def test_prompts_in_separate_calls_give_the_same(random_model, twelve, patching):
    engine, chosen = fast_engine(random_model), patching(*SITES)
    together = engine.patch(twelve, chosen)
    for rows in ([0], [1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]):
        apart = engine.patch(twelve.select(rows), chosen)
        same(apart, rows_of(together, rows, apart.roles))


def test_sites_in_separate_calls_give_the_same(random_model, make_short_pairs, patching):
    engine, pairs = fast_engine(random_model), make_short_pairs("order")
    together = engine.patch(pairs, patching(*SITES))
    for site in SITES:
        equal(engine.patch(pairs, patching(site)).sites[site], together.sites[site], site)


def with_equal(pairs: Pairs, rows: list[int]) -> Pairs:
    """The pairs, some of which have the clean prompt on both sides."""
    tokens = pairs.corrupted.tokens.clone()
    tokens[rows] = pairs.clean.tokens[rows]
    return replace(pairs, corrupted=replace(pairs.corrupted, tokens=tokens))


def assert_untouched(patched: Patched, row: int) -> None:
    """Exactly, and not to within rounding."""
    for site, values in patched.sites.items():
        present = values[..., row][~values[..., row].isnan()]
        assert len(present) > 0
        assert torch.equal(present, patched.corrupted[row].expand_as(present)), site


@pytest.mark.parametrize("memory", [1, MEMORY])
@pytest.mark.parametrize("heads", ["all", "end"])
def test_a_pair_of_equal_prompts_among_others_keeps_its_logit_difference(
    random_model, make_short_pairs, patching, heads, memory
):
    pairs, chosen = make_short_pairs("first"), patching("resid_pre", "mlp_out", *HEAD_SITES, heads=heads)
    patched = fast_engine(random_model, memory=memory).patch(with_equal(pairs, [2]), chosen)
    assert_untouched(patched, 2)
    rows = [0, 1, 3]
    theirs = fast_engine(random_model).patch(pairs, chosen)
    same(rows_of(patched, rows, patched.roles), rows_of(theirs, rows, patched.roles))


@pytest.mark.parametrize("heads", ["all", "end"])
def test_equal_prompts_alone_keep_their_logit_difference(random_model, make_short_pairs, patching, heads):
    pairs = with_equal(make_short_pairs("first"), [0, 1, 2, 3])
    patched = fast_engine(random_model).patch(pairs, patching(*SITES, heads=heads))
    for row in range(4):
        assert_untouched(patched, row)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("edge", ["first", "last"])
def test_prompts_that_differ_at_an_edge_equal_the_reference(
    make_model, mini_tokenizer, make_short_pairs, patching, family, edge
):
    """At the first token of the longest prompt no column stays as it was; at the last token one column changes."""
    pairs = make_short_pairs("first").select([1, 2])
    tokens = pairs.clean.tokens.clone()
    where = torch.zeros_like(pairs.clean.end) if edge == "first" else pairs.clean.end
    tokens[torch.arange(len(tokens)), where] = mini_tokenizer.convert_tokens_to_ids("Frank")
    pairs = replace(pairs, corrupted=replace(pairs.corrupted, tokens=tokens))
    chosen = patching("resid_pre", "z", "k")
    expected = ReferenceEngine(wrap(make_model(family), mini_tokenizer)).patch(pairs, chosen)
    same(fast_engine(make_model(family)).patch(pairs, chosen), expected)


def test_weights_that_change_in_place_are_followed(make_model, family, make_short_pairs, patching):
    pairs, chosen = make_short_pairs("first"), patching(*SITES)
    model = make_model(family)
    engine = fast_engine(model)
    before = engine.patch(pairs, chosen)
    kept = [parameter.clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    after = engine.patch(pairs, chosen)
    same(after, fast_engine(model).patch(pairs, chosen))
    with torch.no_grad():
        equal(after.clean, pairs.logit_diff(end_logits(model, pairs.clean)), "clean")
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.copy_(value)
    assert (after.sites["z"] - before.sites["z"]).abs().max() > 1e-2
    same(engine.patch(pairs, chosen), before)


def test_patching_changes_neither_weights_nor_prompts(random_model, make_short_pairs, patching):
    pairs = make_short_pairs("first")
    weights = [parameter.clone() for parameter in random_model.parameters()]
    clean, corrupted = pairs.clean.tokens.clone(), pairs.corrupted.tokens.clone()
    patched = fast_engine(random_model).patch(pairs, patching(*SITES))
    assert all(map(torch.equal, weights, random_model.parameters()))
    assert torch.equal(pairs.clean.tokens, clean) and torch.equal(pairs.corrupted.tokens, corrupted)
    assert not any(values.requires_grad for values in patched.sites.values())


@pytest.mark.parametrize(("position_sites", "site"), [(("resid_mid",), "resid_mid"), ((), "mlp_out")])
def test_a_site_that_the_engine_does_not_know_is_refused(
    random_model, make_short_pairs, patching, monkeypatch, position_sites, site
):
    monkeypatch.setattr("mi_sweeps.circuits.fast.POSITION_SITES", position_sites)
    with pytest.raises(ValueError, match=f"does not know how a patch of {site} changes"):
        fast_engine(random_model).patch(make_short_pairs("first"), patching(site))


def test_patching_everything_gives_the_clean_run(random_model, make_short_pairs, patching):
    """The first layer's input at the one slot that differs, and the last layer's at the end after all has happened."""
    pairs = make_short_pairs("first")
    patched = fast_engine(random_model).patch(pairs, patching("resid_pre"))
    slot = patched.roles.index("subject 1")
    equal(patched.sites["resid_pre"][0, slot], patched.clean, "the slot")
    elsewhere = [place for place in range(len(patched.roles)) if place != slot]
    values = patched.sites["resid_pre"][0, elsewhere]
    equal(values, patched.corrupted.expand_as(values).masked_fill(values.isnan(), torch.nan), "elsewhere")


def test_a_micro_model_by_hand(mini_tokenizer, make_test_pairs, patching):
    """The model of the reference engine's test: one head that attends evenly and copies, and no MLP."""
    pairs = make_test_pairs("first", one_length=True, count=1)
    n = len(mini_tokenizer)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=n, n_embd=n, n_layer=1, n_head=1, n_positions=32, n_inner=1, attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.wte.weight.copy_(torch.eye(n))
        block = model.transformer.h[0]
        block.ln_1.weight.fill_(1)
        block.attn.c_attn.weight[:, 2 * n :] = torch.eye(n)
        block.attn.c_proj.weight.copy_(torch.eye(n))
        model.transformer.ln_f.weight.fill_(1)
    patched = fast_engine(model).patch(pairs, patching(*SITES))
    clean, corrupted = patched.clean.item(), patched.corrupted.item()
    # Clean: the answer is listed once and the replaced subject twice. Corrupted: twice and once.
    assert clean < 0 < corrupted
    assert clean == pytest.approx(-corrupted, rel=1e-4)
    # The head carries everything, by its values; its pattern is the same in both runs, and there is no MLP.
    expected = {"z": clean, "v": clean, "q": corrupted, "k": corrupted, "pattern": corrupted}
    assert {site: patched.sites[site].item() for site in expected} == pytest.approx(expected, rel=1e-4)
    n_roles = len(patched.roles)
    assert patched.sites["mlp_out"][0, :, 0].tolist() == pytest.approx([corrupted] * n_roles, rel=1e-4)
    # It is read at the end, and what it copies there came in at the slot that was replaced.
    for site, role in (("attn_out", "end"), ("resid_pre", "subject 1")):
        values = [clean if other == role else corrupted for other in patched.roles]
        assert patched.sites[site][0, :, 0].tolist() == pytest.approx(values, rel=1e-4), site


def test_prompts_that_are_not_corrupted_lie_among_others(make_model, mini_tokenizer, patching):
    """As those of the original's corruption: a third of the prompts has nothing to recover."""
    names = ["Tom", "Mary", "John", "Anna", "Paul", "Luke"]
    threes = [
        fill("{}, {} and {} met, {} and {} gave to", [*own, own[(at + 1) % 3], own[(at + 2) % 3]], own[at], 2)
        for own in (names[:3], names[3:])
        for at in range(3)
    ]
    pairs = make_pairs(threes, "trio", mini_tokenizer, names, prepend_bos=False)
    model, chosen = make_model("gpt2"), patching("resid_pre", "z", "pattern")
    ours = fast_engine(model).patch(pairs, chosen)
    same(ours, ReferenceEngine(wrap(copy.deepcopy(model), mini_tokenizer)).patch(pairs, chosen))
    assert (ours.clean == ours.corrupted).tolist() == [False, False, True] * 2

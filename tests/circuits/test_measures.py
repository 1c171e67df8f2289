"""Measures, against slow references and on models with known answers."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from mi_sweeps.circuits import measures
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.measures import MEASURES, fitted_half, take
from mi_sweeps.circuits.network import Block, Linear, Mlp, Network, Norm
from mi_sweeps.circuits.probes import fit, moments, r2
from mi_sweeps.errors import UserError
from mi_sweeps.models.nope import build
from mi_sweeps.tasks.prompt_task import PromptTask
from mi_sweeps.training.evaluate import evaluate

MEMORY = 512 << 20

ALL = tuple(name for name in MEASURES if name != "position_r2_without_bos")
"""Of any task."""


def measured(network, batch, *measures, memory=MEMORY):
    """Values by measure, component, layer and head."""
    rows = take(network, batch, measures or ALL, memory)
    assert {row["kind"] for row in rows} == {"measure"}
    return {(row["measure"], row["component"], row["layer"], row["head"]): row["value"] for row in rows}


@pytest.fixture(params=["nope", "nope-mlp", "gpt2", "llama", "qwen3"])
def case(request, make_model, make_nope, make_sequences, make_test_pairs, hooked):
    """A model of each family, the same under hooks, and prompts; of unequal length but for the first two."""
    if request.param.startswith("nope"):
        model = make_nope(d_mlp=24 if request.param == "nope-mlp" else None)
        return describe(model), hooked(model), make_sequences().splits["heldout"]
    model = make_model(request.param)
    return describe(model), hooked(model), make_test_pairs("first", count=9).clean


def test_heads_are_scored_by_their_patterns(case):
    network, plain, batch = case
    found = measured(network, batch, "previous_token", "diagonal")
    _, cache = plain.run(batch.tokens)
    for layer in range(plain.n_layers):
        pattern = cache["pattern", layer]
        for head in range(plain.n_heads):
            for measure, back in (("previous_token", 1), ("diagonal", 0)):
                paid = [
                    pattern[prompt, head, position, position - back].item()
                    for prompt, end in enumerate(batch.end.tolist())
                    for position in range(2, end + 1)
                ]
                assert found[measure, "head", layer, head] == pytest.approx(sum(paid) / len(paid), abs=1e-5)
    assert len(found) == 2 * plain.n_layers * plain.n_heads


def test_the_measure_of_the_docs_is_what_its_own_test_says(case, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text("utf-8")
    section = page.partition("## A measure or a site\n")[2].partition("\n## ")[0]
    measure, test = map(textwrap.dedent, re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    names = dict(vars(measures))
    exec(measure, names)
    monkeypatch.setitem(MEASURES, "first_token", names["first_token"])
    names = dict(globals())
    exec(test, names)
    names["test_first_token_is_what_each_head_pays_it"](case)


def test_positions_are_read_on_prompts_that_the_probe_was_not_fitted_to(case):
    network, plain, batch = case
    found = measured(network, batch, "position_r2")
    _, cache = plain.run(batch.tokens)
    fitted = fitted_half(len(batch))
    columns = torch.arange(batch.tokens.shape[1]).expand(len(batch), -1)
    counted = (columns >= 2) & (columns <= batch.end[:, None])
    last = plain.n_layers - 1
    for (_, component, layer, _), value in found.items():
        one, other = (
            moments(cache[component, layer][counted & half[:, None]], columns[counted & half[:, None]])
            for half in (fitted, ~fitted)
        )
        assert value == pytest.approx(r2(fit(one), other), abs=1e-4, rel=1e-4)
    sites = {"resid_pre", "attn_out"} | ({"mlp_out"} if network.has_mlps else set())
    assert {(component, layer) for _, component, layer, _ in found} == {
        *((site, layer) for site in sites for layer in range(plain.n_layers)),
        ("resid_post", last),
    }


def test_memory_changes_no_value(case):
    network, _, batch = case
    whole, single = measured(network, batch), measured(network, batch, memory=1)
    assert whole.keys() == single.keys()
    # Where a probe is fitted to few tokens its R² is far below 0.
    assert list(whole.values()) == pytest.approx(list(single.values()), abs=1e-4, rel=1e-4)


def test_the_loss_without_ablation_is_the_one_that_training_evaluates(make_nope, make_sequences):
    model, task = make_nope(d_mlp=24), make_sequences()
    batch = task.splits["heldout"]
    metrics = {row["metric"]: row for row in evaluate(model, task, batch, step=0, split="heldout")}
    (row,) = [row for row in take(describe(model), batch, ["ablated_loss"], MEMORY) if row["component"] == "none"]
    assert (row["value"], row["n"]) == (pytest.approx(metrics["loss"]["value"], abs=1e-6), metrics["loss"]["n"])


def test_so_it_is_for_prompts_that_are_answered_at_their_ends(mini_model, mini_tokenizer, make_test_pairs):
    batch = make_test_pairs("first").clean
    task = PromptTask.__new__(PromptTask)
    task._tokenizer = mini_tokenizer
    metrics = {row["metric"]: row for row in evaluate(mini_model, task, batch, step=0, split="heldout")}
    found = measured(describe(mini_model), batch, "ablated_loss")
    assert found["ablated_loss", "none", None, None] == pytest.approx(metrics["loss"]["value"], abs=1e-5)
    assert found["ablated_loss", "head", 2, 1] > metrics["loss"]["value"]


LENGTH, VOCABULARY, SURE = 8, 5, 6.0


def plain_norm(width):
    """So small a divisor beside its constant that nothing is normalised."""
    return Norm(torch.full((width,), 1e6), None, 1e12, centres=False)


def copier():
    """A model by hand. Its stream has three parts: the position as one of LENGTH, the token as one of VOCABULARY, and
    what it says. Head 0 looks at the token before and says it; head 1 looks at its own token and says nothing."""
    width, head = LENGTH + 2 * VOCABULARY, LENGTH + VOCABULARY
    place, token, said = (
        slice(0, LENGTH),
        slice(LENGTH, LENGTH + VOCABULARY),
        slice(LENGTH + VOCABULARY, width),
    )
    query, key, value = (torch.zeros(width, 2, head) for _ in range(3))
    positions = torch.arange(LENGTH)
    query[positions[1:], 0, positions[:-1]] = 1000.0
    query[positions, 1, positions] = 1000.0
    key[place, :, place] = torch.eye(LENGTH)[:, None]
    value[token, :, token] = torch.eye(VOCABULARY)[:, None]
    combine = torch.zeros(2, head, width)
    combine[0, token, said] = SURE * torch.eye(VOCABULARY)
    unembed = torch.zeros(width, VOCABULARY)
    unembed[said] = torch.eye(VOCABULARY)
    nothing = Mlp(Linear(torch.zeros(width, 1), None), None, Linear(torch.zeros(1, width), None), ACTIVATIONS["relu"])

    def embed(tokens, positions):
        stream = torch.zeros(*tokens.shape, width)
        stream[..., place] = functional.one_hot(positions, LENGTH).float()
        stream[..., token] = functional.one_hot(tokens, VOCABULARY).float()
        return stream

    block = Block(
        n_heads=2,
        n_kv_heads=2,
        attention_norm=plain_norm(width),
        query=Linear(query.flatten(1), None),
        key=Linear(key.flatten(1), None),
        value=Linear(value.flatten(1), None),
        query_norm=None,
        key_norm=None,
        scale=1.0,
        combine=Linear(combine.flatten(0, 1), None),
        mlp_norm=plain_norm(width),
        mlp=nothing,
    )
    return Network(embed, (block,), plain_norm(width), Linear(unembed, None), has_mlps=False)


def test_a_model_by_hand_has_the_measures_it_was_built_for(make_sequences):
    batch = make_sequences(d_vocab=VOCABULARY, length=LENGTH, heldout=200).splits["heldout"]
    found = measured(copier(), batch)
    assert found["previous_token", "head", 0, 0] == pytest.approx(1)
    assert found["diagonal", "head", 0, 0] == pytest.approx(0)
    assert found["previous_token", "head", 0, 1] == pytest.approx(0)
    assert found["diagonal", "head", 0, 1] == pytest.approx(1)
    assert found["position_r2", "resid_pre", 0, None] == pytest.approx(1, abs=1e-3), "it is there"
    assert abs(found["position_r2", "attn_out", 0, None]) < 0.1, "and is not written: tokens are random"
    sure = math.log(1 + (VOCABULARY - 1) * math.exp(-SURE))
    assert found["ablated_loss", "none", None, None] == pytest.approx(sure, rel=1e-3)
    assert found["ablated_loss", "head", 0, 1] == pytest.approx(sure, rel=1e-3)
    # Head 0 says of each token how often it was before another one, and the model is that sure of it.
    before = functional.one_hot(batch.tokens[:, :-1], VOCABULARY).float().mean(dim=(0, 1))
    expected = functional.cross_entropy((SURE * before).expand(len(batch.scored[2]), -1), batch.scored[2]).item()
    assert found["ablated_loss", "head", 0, 0] == pytest.approx(expected, rel=1e-4)
    assert found["ablated_loss", "attn_out", 0, None] == pytest.approx(expected, rel=1e-4)


def test_a_position_that_no_attention_has_made_yet_cannot_be_read(make_nope, make_sequences):
    batch = make_sequences(length=16, heldout=200).splits["heldout"]
    found = measured(describe(make_nope()), batch, "position_r2")
    assert abs(found["position_r2", "resid_pre", 0, None]) < 0.05
    assert found["position_r2", "resid_pre", 1, None] > 0.1


def test_without_bos_nothing_predicts_a_position_before_training(make_config, make_sequences):
    """The causal mask alone is no clock: what is read is the share of the attention that BOS gets."""
    config = make_config("model=nope", "task=previous_token", "corruption=previous", "patching=position")
    splits = make_sequences(**{key: config.task.arguments[key] for key in ("d_vocab", "length", "heldout")}).splits
    probes = ("position_r2", "position_r2_without_bos")
    rows = take(describe(build(config.model, seed=0)), splits["heldout"], probes, MEMORY, splits["without_bos"])
    found = {row["measure"]: row["value"] for row in rows if (row["component"], row["layer"]) == ("attn_out", 0)}
    assert found["position_r2"] > 0.5
    assert found["position_r2_without_bos"] < 0.05


def test_the_probe_without_bos_is_that_of_other_prompts(make_nope, make_sequences):
    network, splits = describe(make_nope()), make_sequences().splits
    rows = take(network, splits["heldout"], ["position_r2_without_bos"], MEMORY, splits["without_bos"])
    same = measured(network, splits["without_bos"], "position_r2")
    assert [row["value"] for row in rows] == list(same.values())
    with pytest.raises(UserError, match=r"\Apatching\.measures: position_r2_without_bos needs the split [^\n]*\Z"):
        take(network, splits["heldout"], ["position_r2_without_bos"], MEMORY)


def test_only_requested_measures_are_computed_and_once(make_nope, make_sequences):
    network, batch = describe(make_nope()), make_sequences().splits["heldout"]
    assert take(network, batch, [], MEMORY) == []
    twice = take(network, batch, ["diagonal", "diagonal"], MEMORY)
    assert {row["measure"] for row in twice} == {"diagonal"}
    assert len(twice) == 4


@pytest.mark.parametrize("n", [2, 3, 7, 256])
def test_a_probe_s_prompts_are_half_of_them_and_always_the_same(n):
    assert int(fitted_half(n).sum()) == n // 2
    assert torch.equal(fitted_half(n), fitted_half(n))


def test_one_prompt_is_too_few_for_a_probe_and_enough_for_the_rest(make_nope, make_sequences):
    network, batch = describe(make_nope()), make_sequences(heldout=1).splits["heldout"]
    with pytest.raises(UserError, match=r"\Apatching\.measures: position_r2 .*there is only one prompt; give [^\n]*\Z"):
        measured(network, batch)
    assert measured(network, batch, "diagonal", "ablated_loss")


def test_prompts_longer_than_a_sliding_window_are_refused(make_model, make_test_pairs):
    batch = make_test_pairs("first").clean
    network = describe(make_model("mistral", sliding_window=batch.tokens.shape[1] - 1))
    with pytest.raises(UserError, match=r"\Apatching\.measures: a held-out prompt has \d+ tokens[^\n]*\Z"):
        measured(network, batch)

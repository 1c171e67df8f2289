"""Every edge, against one forward of the Hugging Face model each, and on a model whose edges are known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mi_sweeps.circuits import narrow
from mi_sweeps.circuits.chosen_sets import halves
from mi_sweeps.circuits.edges import measure, patch_edges, table
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import MEMORY
from mi_sweeps.circuits.gradients import Estimates, integrated
from mi_sweeps.circuits.paired_runs import run_both
from mi_sweeps.circuits.sets import evaluate
from mi_sweeps.circuits.view import View
from mi_sweeps.config.edges import EdgesConfig
from tests.circuits.known import known
from tests.circuits.plain import Plain, ungrouped


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@torch.no_grad()
def test_every_edge_equals_one_forward_of_the_model_each(name, make_model, make_short_pairs, monkeypatch):
    """Also under grouped-query attention with rotated keys, in parallel blocks, and for prompts of unequal length."""
    monkeypatch.setattr(narrow, "LEAST", 0)  # As in larger models.
    model, pairs = make_model(name), make_short_pairs("first").select([0, 1, 3])
    network = describe(model)
    graph = network.graph
    clean, corrupted, values = patch_edges(network, pairs, graph.edges, memory=1)
    plain = Plain(ungrouped(model) if name == "llama" else model)
    tokens = pairs.corrupted.tokens
    wrote, read = plain.run(tokens)
    theirs, _ = plain.run(pairs.clean.tokens)
    for edge, found in zip(graph.edges, values, strict=True):
        change = theirs[edge.source.name] - wrote[edge.source.name]
        logits = plain.patched(tokens, edge.receiver, change, read)
        torch.testing.assert_close(found, pairs.logit_diff(pairs.at_end(logits)), atol=2e-5, rtol=0, msg=edge.name)
    moved = ((values - corrupted).abs() > 1e-5).any(dim=1)
    still = {edge.name for edge, moves in zip(graph.edges, moved.tolist(), strict=True) if not moves}
    same = ["input", "m0"] if name == "gpt_neox" else ["input"]  # A parallel MLP reads the embedding alone.
    last = {f"{node}->{into}" for node in same for into in ("logits", "m1", *(f"a1.h{head}<q>" for head in range(4)))}
    assert still == last, "there only the last token reads, which is the same in both prompts"
    torch.testing.assert_close(corrupted, pairs.logit_diff(pairs.at_end(plain.model(tokens).logits)), atol=2e-5, rtol=0)


def in_double(model: PreTrainedModel) -> Plain:
    """With as many digits as small differences need."""
    return Plain((ungrouped(model) if model.config.model_type == "llama" else copy.deepcopy(model)).double())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@torch.no_grad()
def test_attribution_is_the_slope_of_the_exact_patch(name, make_model, make_short_pairs):
    """With one step: how fast the logit difference moves as an edge begins to be the clean run's."""
    model, pairs = make_model(name), make_short_pairs("second").select([0, 1, 3])
    network = describe(model)
    graph = network.graph
    found = integrated(network, pairs, graph, steps=1, memory=1)
    plain = in_double(model)
    wrote, read = plain.run(pairs.corrupted.tokens)
    theirs, _ = plain.run(pairs.clean.tokens)
    # Some parts of the others round to 32 bits whatever they are given.
    step, limits = (1e-2, (1e-3, 1e-2)) if name != "gpt2" else (1e-5, (1e-4, 1e-3))
    for edge, values in list(zip(graph.edges, values_of(found), strict=True))[::5]:
        change = theirs[edge.source.name] - wrote[edge.source.name]
        ends = [
            pairs.logit_diff(pairs.at_end(plain.patched(pairs.corrupted.tokens, edge.receiver, small * change, read)))
            for small in (step, -step)
        ]
        slope = (ends[0] - ends[1]).float() / (2 * step)
        torch.testing.assert_close(values, slope, atol=limits[0], rtol=limits[1], msg=edge.name)


def values_of(found: Estimates) -> Tensor:
    return found.values - found.corrupted


@torch.no_grad()
def test_integrated_gradients_are_a_mean_over_the_way_between_the_prompts(make_model, make_short_pairs):
    """At a quarter of the way, and at the others, the slope is that of a run which begins there."""
    model, pairs = make_model("gpt2"), make_short_pairs("second").select([0, 1])
    network = describe(model)
    graph = network.graph
    found = values_of(integrated(network, pairs, graph, steps=4))
    plain = in_double(model)
    wrote, ours = plain.run(pairs.corrupted.tokens)
    theirs, clean = plain.run(pairs.clean.tokens)
    first = plain.layers[0]
    for number in range(0, len(graph.edges), 11):
        edge, slopes = graph.edges[number], []
        change = theirs[edge.source.name] - wrote[edge.source.name]
        for step in range(4):
            begin = ours["attention", 0] + step / 4 * (clean["attention", 0] - ours["attention", 0])
            handle = first.register_forward_pre_hook(lambda module, args, begin=begin: (begin, *args[1:]))
            _, read = plain.run(pairs.corrupted.tokens)
            ends = [
                pairs.logit_diff(
                    pairs.at_end(plain.patched(pairs.corrupted.tokens, edge.receiver, small * change, read))
                )
                for small in (1e-5, -1e-5)
            ]
            handle.remove()
            slopes.append((ends[0] - ends[1]) / 2e-5)
        torch.testing.assert_close(found[number], torch.stack(slopes).mean(dim=0).float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("backup", [False, True])
def test_the_edges_of_a_known_circuit_are_found_and_no_others(backup):
    truth = known(backup=backup)
    found = measure(truth.network, truth.pairs, EdgesConfig())
    effects = dict(zip([edge.name for edge in found.graph.edges], found.patched - found.corrupted, strict=True))
    assert {name for name, effect in effects.items() if effect.abs().max() > 1e-4} == set(truth.edges)
    assert all((effects[name] > 9.9).all() for name in truth.edges), "in every prompt"
    assert set(found.chosen) == {"all"}


def test_attribution_misses_edges_through_a_saturated_pattern_and_says_that_it_is_approximate():
    """It is why edges are patched: the pattern of a head that is sure has no gradient."""
    truth = known()
    found = measure(truth.network, truth.pairs, EdgesConfig(exact=2))
    names = [edge.name for edge in found.graph.edges]
    place = names.index("a0.h0->a1.h1<k>")
    assert (found.approximate[place] - found.corrupted).abs().max() < 0.1
    assert found.chosen[place] == "rest" and found.patched[place].isnan().all(), "no number where nothing was patched"
    sampled = measure(truth.network, truth.pairs, EdgesConfig(exact=2, sample=len(names)))
    assert sampled.chosen.count("sample") == len(names) - 2, "a sample as large as the rest is the rest"
    assert sampled.patched[place].sub(sampled.corrupted).min() > 9.9


@pytest.fixture(scope="module")
def make_table(make_model, make_short_pairs, patching):
    """The table of a tiny model."""
    network, pairs = describe(make_model("gpt2")), make_short_pairs("second")

    def make(**options):
        asked = patching().model_copy(update={"edges": EdgesConfig(**options)})
        return table(View(0, network, pairs, None, asked, MEMORY, (0,), None)).to_pandas()

    return make


def edges_of(rows):
    return rows[rows["kind"] == "edge"]


def test_the_table_has_every_edge_and_what_each_prompt_has_where_it_was_patched(make_table):
    every = edges_of(make_table())
    assert len(every) == 110 and set(every["chosen"]) == {"all"} and set(every["n"]) == {4}
    assert [one.mean() for one in every["by_prompt"]] == pytest.approx(every["patched"].tolist(), abs=1e-5)
    assert every["clean"].nunique() == every["corrupted"].nunique() == 1
    through = every.set_index(["source", "input"])["patched"]
    assert through["embed", "logits"] == pytest.approx(every["corrupted"][0]), "the last token does not differ"
    few, many = edges_of(make_table(exact=9)), edges_of(make_table(exact=9, sample=20))
    assert few["by_prompt"].notna().sum() == few["patched"].notna().sum() == (few["chosen"] == "top").sum() == 9
    assert many["chosen"].value_counts().to_dict() == {"rest": 81, "sample": 20, "top": 9}
    there = many["patched"].notna()
    assert many["patched"][there].tolist() == pytest.approx(every["patched"][there].tolist(), abs=1e-5)
    size = (many["approximate"] - many["corrupted"]).abs()
    assert size[many["chosen"] == "top"].min() >= size[many["chosen"] != "top"].max()


def test_the_first_edges_are_run_as_circuits_on_prompts_that_did_not_rank_them(
    make_table, make_model, make_short_pairs
):
    rows = make_table()
    sets = rows[rows["kind"] == "set"]
    assert sets["edges"].tolist() == [0, *[0, 0, 0, 1, 2, 5, 11, 22, 55, 110] * 2], (
        "rounded down, as the MIB track does"
    )
    finding, judging = halves(4)
    assert set(sets["n"]) == {2}
    assert all(np.isnan(one).nonzero()[0].tolist() == finding.tolist() for one in sets["by_prompt"])
    ends = rows.iloc[0]
    network, pairs = describe(make_model("gpt2")), make_short_pairs("second")
    runs = run_both(network, pairs)
    empty, whole = (sets[sets["size"] == size].iloc[0] for size in (0, 100))
    assert empty["patched"] == pytest.approx(runs.corrupted_logit_diff[judging].mean().item(), abs=1e-5)
    assert whole["patched"] == pytest.approx(runs.clean_logit_diff[judging].mean().item(), abs=1e-5)
    assert empty["patched"] == pytest.approx(empty["corrupted"], abs=1e-5) != pytest.approx(ends["corrupted"], abs=1e-3)
    # Ranked by hand, and run alone.
    of_edges = rows[rows["kind"] == "edge"]
    effects = torch.tensor(np.stack(of_edges["by_prompt"]))[:, finding] - runs.corrupted_logit_diff[finding]
    sign = (runs.clean_logit_diff - runs.corrupted_logit_diff)[finding].mean().sign()
    kept = torch.zeros(1, 110, dtype=torch.bool)
    kept[0, (sign * effects.mean(dim=1)).argsort(descending=True)[:22]] = True
    expected = evaluate(network, pairs.select(judging.tolist()), kept).mean().item()
    signed = sets[(sets["order"] == "signed") & (sets["size"] == 20)]
    assert signed["patched"].item() == pytest.approx(expected, abs=1e-5)

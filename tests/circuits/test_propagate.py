"""Propagating changes, against plain loops over rows and forward passes from the changed stream on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.circuits.activations import align, forward
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.paired_runs import run_both
from mi_sweeps.circuits.propagate import CachedRun, Change, Group, attend, batches, propagate


def one_by_one(q, k, v, k_before, v_before, mask):
    """`attend` with a loop for every prompt, change, query and head."""
    n_prompts, n_changes, n_queries, n_heads, d_head = q.shape
    span, n_kv = k.shape[2], k.shape[3]
    z = torch.zeros(n_prompts, n_changes, n_queries, n_heads, d_head)
    for prompt, change, query, head in product(*map(range, z.shape[:-1])):
        kv = head // (n_heads // n_kv)
        seen = span - n_queries + query + 1
        keys = torch.cat([k_before[prompt, :, kv], k[prompt, change, :seen, kv]])
        values = torch.cat([v_before[prompt, :, kv], v[prompt, change, :seen, kv]])
        scores = keys @ q[prompt, change, query, head] + torch.cat([mask[prompt], torch.zeros(seen)])
        z[prompt, change, query, head] = scores.softmax(dim=0) @ values
    return z.flatten(3)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1), (1, 1)], ids=lambda heads: f"{heads[0]}-over-{heads[1]}")
@pytest.mark.parametrize(
    ("before", "span", "queries"),
    [(5, 4, 4), (5, 4, 1), (5, 1, 1), (0, 4, 4), (0, 4, 1), (0, 1, 1)],
    ids=["part", "part-end", "last-column", "whole", "whole-end", "one-token"],
)
def test_attend_equals_one_row_at_a_time(heads, before, span, queries):
    torch.manual_seed(0)
    n_heads, n_kv = heads
    q = torch.randn(2, 3, queries, n_heads, 5)
    k, v = torch.randn(2, 2, 3, span, n_kv, 5)
    k_before, v_before = torch.randn(2, 2, before, n_kv, 5)
    mask = torch.zeros(2, before)
    mask[1, : before // 2] = torch.finfo(torch.float32).min
    given = (q, k, v, k_before, v_before, mask)
    torch.testing.assert_close(attend(*given), one_by_one(*given), atol=1e-5, rtol=0)


@st.composite
def many_changes(draw: st.DrawFn) -> list[Change]:
    """Changes whose results are numbered through, and whose streams hold the numbers of their results."""
    changes, total = [], 0
    for _ in range(draw(st.integers(0, 8))):
        n_prompts, n_changes = draw(st.integers(1, 5)), draw(st.integers(1, 9))
        results = total + torch.arange(n_prompts * n_changes).view(n_prompts, n_changes)
        total += results.numel()
        changes.append(
            Change(
                draw(st.integers(0, 3)),
                draw(st.sampled_from(["pre", "mid"])),
                Group(torch.arange(n_prompts), draw(st.integers(1, 6))),
                results,
                lambda chosen, results=results: results[:, chosen, None, None].float(),
            )
        )
    return changes


def numbers(changes: list[Change]) -> list[int]:
    return [number for change in changes for number in change.result_index.flatten().tolist()]


@given(many_changes(), st.integers(1, 120))
def test_every_change_is_in_one_batch_once(changes, tokens):
    found = [change for batch in batches(changes, tokens) for change in batch]
    assert sorted(numbers(found)) == sorted(numbers(changes))


@given(many_changes(), st.integers(1, 120))
def test_batches_come_in_order_of_where_their_changes_enter(changes, tokens):
    found = [(change.layer, change.stage == "mid") for batch in batches(changes, tokens) for change in batch]
    assert found == sorted(found)
    assert all(len(batch) > 0 for batch in batches(changes, tokens))


@given(many_changes(), st.integers(1, 120))
def test_parts_have_the_stream_of_their_own_changes(changes, tokens):
    for batch in batches(changes, tokens):
        for change in batch:
            resid = change.resid(slice(0, change.result_index.shape[1]))
            assert torch.equal(resid[:, :, 0, 0], change.result_index.float())


@given(many_changes(), st.integers(1, 120))
def test_several_changes_together_fit(changes, tokens):
    for batch in batches(changes, tokens):
        assert len(batch) == 1 or sum(change.columns for change in batch) <= tokens


@given(many_changes(), st.integers(1, 120))
def test_a_part_that_does_not_fit_is_a_single_change(changes, tokens):
    for batch in batches(changes, tokens):
        assert all(change.columns <= tokens or change.result_index.shape[1] == 1 for change in batch)


@given(many_changes())
def test_what_fits_is_one_batch_in_which_nothing_is_cut(changes):
    total = sum(change.columns for change in changes)
    found = list(batches(changes, max(1, total)))
    assert len(found) == (1 if changes else 0)
    assert all(any(change is other for other in changes) for batch in found for change in batch)


def plain(run: CachedRun, prompt: int, layer: int, stage: str, span: int, changed: torch.Tensor) -> float:
    """The logit difference of one prompt alone, all of which is computed from the changed stream on."""
    padding = int((run.layout.positions[prompt] < 0).sum())
    blocks = run.network.blocks
    if layer == len(blocks):
        resid = forward(run.network, run.layers[0].resid_pre, run.layout)[1]
    else:
        resid = run.layers[layer].resid_pre if stage == "pre" else run.layers[layer].resid_mid
    resid = resid[prompt : prompt + 1, padding:].clone()
    first = resid.shape[1] - span
    resid[0, first : first + len(changed)] = changed
    if stage == "mid":
        resid = resid + blocks[layer].mlp_out(resid, torch.zeros_like(resid))
    rest = replace(run.network, blocks=blocks[layer + (stage == "mid") :])
    _, resid = forward(rest, resid, align(rest, torch.tensor([resid.shape[1] - 1])))
    return run.read_out(resid[:, -1], slice(prompt, prompt + 1)).item()


@pytest.fixture
def corrupted_run(make_short_pairs) -> Callable[[Network], CachedRun]:
    return lambda network: run_both(network, make_short_pairs("first")).corrupted


def entries(n_layers: int, *, middle: bool = True) -> list[tuple[int, str, int, int]]:
    """Layer, stage, span and how many columns are changed: all of the span or its first one. A parallel block has no
    stage in its middle."""
    inside = [
        (layer, stage, span, columns)
        for layer in range(n_layers)
        for stage in (("pre", "mid") if middle else ("pre",))
        for span in (1, 5, 12)
        for columns in sorted({1, span})
        # After the last attention only the last column is read, so no first column of more enters there.
        if not (layer == n_layers - 1 and stage == "mid" and columns < span)
    ]
    return [*inside, (n_layers, "pre", 1, 1), (n_layers, "pre", 4, 4)]


def check(run: CachedRun, entering: list[tuple[int, str, int, int]], *budgets: int) -> None:
    """Two changes at each entry in two prompts of unequal length, carried all together."""
    torch.manual_seed(0)
    prompts, n_changes = torch.tensor([1, 2]), 2
    groups = {span: Group(prompts, span) for _, _, span, _ in entering}
    size = len(prompts) * n_changes
    streams = [
        torch.randn(len(prompts), n_changes, columns, run.layers[0].resid_pre.shape[2]) for *_, columns in entering
    ]
    changes = [
        Change(
            layer,
            stage,
            groups[span],
            size * number + torch.arange(size).view(len(prompts), n_changes),
            lambda chosen, stream=stream: stream[:, chosen].clone(),
        )
        for number, ((layer, stage, span, _), stream) in enumerate(zip(entering, streams, strict=True))
    ]
    expected = torch.tensor(
        [
            plain(run, int(prompt), layer, stage, span, stream[row, change])
            for (layer, stage, span, _), stream in zip(entering, streams, strict=True)
            for row, prompt in enumerate(prompts)
            for change in range(n_changes)
        ]
    )
    for tokens in budgets:
        results = torch.full((size * len(changes),), torch.nan)
        propagate(run, changes, results, tokens)
        torch.testing.assert_close(results, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_changes_of_many_kinds_together_equal_forward_passes_from_each(make_model, corrupted_run, family):
    network = describe(make_model(family))
    middle = not network.blocks[0].parallel
    check(corrupted_run(network), entries(len(network.blocks), middle=middle), 1, 20, 1_000_000)


@pytest.mark.parametrize("entry", entries(3), ids=lambda entry: "-".join(map(str, entry)))
@torch.no_grad()
def test_one_change_equals_a_forward_pass_from_it(make_model, corrupted_run, entry):
    network = describe(make_model("llama", num_hidden_layers=3))
    check(corrupted_run(network), [entry], 1_000_000)


@torch.no_grad()
def test_a_change_that_reaches_the_first_token(make_model, corrupted_run, family):
    """Of the longest prompt, so that no column is left of it."""
    run = corrupted_run(describe(make_model(family)))
    width = run.layout.positions.shape[1]
    longest = (run.layout.positions[:, 0] == 0).nonzero()[:1, 0]
    stream = torch.randn(1, 1, width, run.layers[0].resid_pre.shape[2])
    for columns in (1, width):
        change = Change(
            0, "pre", Group(longest, width), torch.zeros(1, 1, dtype=torch.long), lambda _, n=columns: stream[:, :, :n]
        )
        results = torch.full((1,), torch.nan)
        propagate(run, [change], results, 1_000_000)
        expected = plain(run, int(longest), 0, "pre", width, stream[0, 0, :columns])
        assert results.item() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_what_is_carried_changes_neither_the_run_nor_the_weights(make_model, corrupted_run):
    model = make_model("gpt2")
    run = corrupted_run(describe(model))
    kept = [value.clone() for layer in run.layers for value in vars(layer).values()]
    weights = [parameter.clone() for parameter in model.parameters()]
    check(run, entries(2), 1_000_000)
    now = [value for layer in run.layers for value in vars(layer).values()]
    assert all(map(torch.equal, kept, now))
    assert all(map(torch.equal, weights, model.parameters()))

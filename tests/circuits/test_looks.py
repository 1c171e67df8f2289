"""Who looks where: against the Hugging Face model's own attention, and on models with known answers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mi_sweeps.circuits import looks
from mi_sweeps.circuits.families import describe
from mi_sweeps.tasks.induction import Induction
from mi_sweeps.tasks.questions import Question, Questions, QuestionTask

MEMORY = 512 << 20


def measured(model, pairs, memory=MEMORY, patterns=2):
    """The tables `looks` and `patterns`, as frames."""
    view = SimpleNamespace(
        network=describe(model),
        pairs=pairs,
        memory=memory,
        patching=SimpleNamespace(looks=SimpleNamespace(patterns=patterns)),
    )
    return looks.table(view).to_pandas(), looks.patterns(view).to_pandas()


@torch.no_grad()
def own_attention(model, batch, row):
    """[layer, head, query, key] of one prompt alone, as the model itself gives it."""
    tokens = batch.tokens[row : row + 1, : int(batch.end[row]) + 1]
    return torch.stack(model(tokens, output_attentions=True).attentions)[:, 0].double()


def own_norms(model, batch, row):
    """[layer, head, key]: |v W_O| of one prompt alone, under PyTorch's hooks."""
    tokens = batch.tokens[row : row + 1, : int(batch.end[row]) + 1]
    config, found, handles = model.config, [], []
    n_heads = config.num_attention_heads

    def keep(W_O):
        def hook(module, args, out):
            v = out[0]
            if hasattr(module, "nf"):  # GPT-2 keeps query, key and value side by side
                v = v[:, -config.n_embd :].unflatten(-1, (n_heads, -1))
            elif v.shape[-1] == 3 * config.hidden_size:  # GPT-NeoX does head by head
                v = v.unflatten(-1, (n_heads, 3, -1))[:, :, 2]
            else:
                v = v.unflatten(-1, (config.num_key_value_heads, -1))
            each = v.shape[1]
            found.append(
                torch.stack([(v[:, head * each // n_heads] @ W_O[head]).norm(dim=-1) for head in range(n_heads)])
            )

        return hook

    for layer in getattr(model.base_model, "h", None) or model.base_model.layers:
        attention = next(part for name, part in layer.named_children() if "attn" in name or name == "attention")
        if hasattr(attention, "c_attn"):
            source, weight = attention.c_attn, attention.c_proj.weight
        elif hasattr(attention, "query_key_value"):
            source, weight = attention.query_key_value, attention.dense.weight.T
        else:
            source, weight = attention.v_proj, attention.o_proj.weight.T
        handles.append(source.register_forward_hook(keep(weight.unflatten(0, (n_heads, -1)))))
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return torch.stack(found).double()


def spelled(prompt, words):
    """The positions of roles in a prompt of LISTED's kind, whose tokens are words and stops, by hand."""
    answer, subjects = prompt.answer, prompt.subjects
    last = len(words) - 1
    where = {"answer": words.index(answer)}
    for number, name in enumerate(subjects, start=1):
        where[f"listed subject {number}"] = words.index(name)
        where[f"subject {number}"] = last - words[::-1].index(name)
    for number in (1, 2):
        where[f"after listed subject {number}"] = where[f"listed subject {number}"] + 1
    return where, last


ORDER = (
    *("self", "answer", "listed subject 1", "listed subject 2", "after listed subject 1", "after listed subject 2"),
    *("subject 1", "subject 2", "first", "previous", "other"),
)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_attention_to_roles_is_the_models_own(name, make_model, make_short_pairs, mini_tokenizer):
    model, pairs = make_model(name), make_short_pairs("first")
    frame, _ = measured(model, pairs)
    expected = {}
    for side in ("clean", "corrupted"):
        batch = getattr(pairs, side)
        for row, prompt in enumerate(pairs.clean.prompts):
            pattern, norms = own_attention(model, batch, row), own_norms(model, batch, row)
            words = mini_tokenizer.convert_ids_to_tokens(pairs.clean.tokens[row, : int(pairs.clean.end[row]) + 1])
            where, last = spelled(prompt, words)
            for query, at in {"subject 1": where["subject 1"], "subject 2": where["subject 2"], "end": last}.items():
                keys = {**where, "self": at, "first": 0, "previous": at - 1}
                taken = {}
                for key in reversed(ORDER[:-1]):
                    taken[keys[key]] = key  # the first in the order are assigned last, and stay
                moved = pattern[:, :, at, : at + 1] * norms[:, :, : at + 1]
                moved /= moved.sum(dim=-1, keepdim=True)
                for column in range(at + 1):
                    key = taken.get(column, "other")
                    total = expected.setdefault((side, query, key), {}).setdefault(row, [0.0, 0.0, 0.0])
                    total[0] += pattern[:, :, at, column].numpy()
                    total[1] += moved[:, :, column].numpy()
                    total[2] += 1 / (at + 1)
    n_layers, n_heads = pattern.shape[:2]
    assert len(frame) == n_layers * n_heads * len(expected)
    for (side, query, key), of_prompts in expected.items():
        rows = frame[(frame["side"] == side) & (frame["query"] == query) & (frame["key"] == key)]
        rows = rows.sort_values(["layer", "head"])
        for place, column in enumerate(("attention", "value_weighted", "uniform")):
            mean = np.mean([np.broadcast_to(one[place], (n_layers, n_heads)) for one in of_prompts.values()], axis=0)
            np.testing.assert_allclose(rows[column], mean.ravel(), atol=2e-6, err_msg=f"{side} {query} {key} {column}")
        assert (rows["n"] == len(of_prompts)).all()
        result = np.stack(rows["by_prompt"])
        assert set(np.flatnonzero(~np.isnan(result[0]))) == set(of_prompts)
        by_chance = np.nanmean(np.stack(rows["uniform_by_prompt"]), axis=1)
        np.testing.assert_allclose(by_chance, rows["uniform"], atol=1e-6)


def test_a_querys_attention_adds_up_to_one(make_model, make_test_pairs):
    frame, _ = measured(make_model("qwen3"), make_test_pairs("second", count=9))
    each = np.nan_to_num(np.stack(frame["by_prompt"]))
    keys = ["side", "layer", "head", "query"]
    for _, rows in frame.groupby(keys):
        np.testing.assert_allclose(each[rows.index].sum(axis=0), 1, atol=1e-5)
    assert (frame["n"] == 9).all(), "so that means add up, too"
    whole = frame.groupby(keys)[["attention", "value_weighted", "uniform"]].sum()
    assert (whole - 1).abs().max(axis=None) < 1e-6


def test_a_head_without_queries_looks_at_all_tokens_alike(make_model, make_test_pairs):
    model = make_model("llama")
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    frame, _ = measured(model, make_test_pairs("first", count=6))
    assert frame["attention"].to_numpy() == pytest.approx(frame["uniform"].to_numpy(), abs=1e-6)
    assert (frame["value_weighted"] - frame["uniform"]).abs().max() > 0.01


def test_patterns_are_kept_whole_for_a_few_prompts(make_model, make_short_pairs):
    model, pairs = make_model("qwen3"), make_short_pairs("second")
    _, frame = measured(model, pairs, patterns=3)
    assert len(frame) == 3 * 2 * 2 * 4
    for row in frame.itertuples():
        own = own_attention(model, getattr(pairs, row.side), row.prompt)[row.layer, row.head]
        lower = own[torch.ones_like(own, dtype=torch.bool).tril()]
        assert row.pattern.dtype == np.float16
        np.testing.assert_allclose(row.pattern, lower.numpy(), atol=6e-4)
    assert len(measured(model, pairs, patterns=0)[1]) == 0
    assert measured(model, pairs, patterns=9)[1]["prompt"].max() == 3, "as many as there are"


def test_memory_changes_no_value(make_model, make_short_pairs):
    model, pairs = make_model("llama"), make_short_pairs("first")
    whole, single = measured(model, pairs)[0], measured(model, pairs, memory=1)[0]
    assert whole["attention"].to_numpy() == pytest.approx(single["attention"].to_numpy(), abs=1e-6)
    assert whole.drop(columns=["attention", "value_weighted", "by_prompt"]).equals(
        single.drop(columns=["attention", "value_weighted", "by_prompt"])
    )


def test_prompts_without_names_have_the_task_s_own_roles(make_model, make_nope, mini_tokenizer):
    sequences = Induction(None, length=4, heldout=6, d_vocab=12, bos=True, seed=0).pairs("successor", 6)
    frame, _ = measured(make_nope(), sequences)
    assert set(frame["query"]) == {"end"}
    assert set(frame["key"]) == {"self", "previous occurrence", "successor", "first", "previous", "other"}
    uniform = frame[(frame["layer"] == 0) & (frame["head"] == 0) & (frame["side"] == "clean")].set_index("key")[
        "uniform"
    ]
    assert uniform["other"] == pytest.approx(3 / 8) and uniform["successor"] == pytest.approx(1 / 8)


def test_a_part_of_several_tokens_is_one_key(make_model, mini_tokenizer):
    parts = {"who": "After Mary", "word 1": " and", "name": " Tom", "verb": " went"}
    question = Question(parts=parts, right=(" to",), wrong=(" a",), corrupted={"name": {"name": " John"}})
    other = replace(question, parts=parts | {"who": "After Jane"})
    task = QuestionTask(Questions([other], [question], {}), mini_tokenizer, prepend_bos=False)
    frame, _ = measured(make_model("gpt2"), task.pairs("name", 1))
    uniform = frame[(frame["layer"] == 0) & (frame["head"] == 0) & (frame["side"] == "clean")].set_index("key")[
        "uniform"
    ]
    assert uniform.to_dict() == {"self": 0.2, "who": pytest.approx(0.4), "word 1": 0.2, "name": 0.2}


def test_mini_looks_at_the_subjects_before_it_is_trained(mini_model, make_config, mini_tokenizer):
    from mi_sweeps.tasks.load import load

    config = make_config("task=ioi3")
    pairs = load(config, mini_tokenizer).pairs("first", 48)
    frame, _ = measured(mini_model, pairs)
    chosen = frame[
        (frame["side"] == "clean") & (frame["layer"] == 2) & (frame["head"] == 1) & (frame["query"] == "end")
    ]
    paid = chosen.set_index("key")["attention"]
    assert paid["subject 1"] == pytest.approx(0.10, abs=0.01) and paid["subject 2"] == pytest.approx(0.12, abs=0.01)

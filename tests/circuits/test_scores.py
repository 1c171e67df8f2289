"""The standard scores of heads: on heads set by hand, and against the Hugging Face model itself."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from mi_sweeps.circuits import composition, scores
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.network import Block, Linear, Mlp, Network, Norm
from mi_sweeps.tasks.induction import Induction

MEMORY = 512 << 20
LENGTH, VOCABULARY = 12, 14
WIDTH = LENGTH + 3 * VOCABULARY
PLACE = slice(0, LENGTH)
TOKEN, BEFORE, SAID = (slice(LENGTH + part * VOCABULARY, LENGTH + (part + 1) * VOCABULARY) for part in range(3))
SURE = 1000.0


def plain_norm():
    """So small a divisor beside its constant that nothing is normalised."""
    return Norm(torch.full((WIDTH,), 1e6), None, 1e12, centres=False)


def head(*pairs, writes=None):
    """What a head's query and key are made of, part by part and with a weight; where it writes the token."""
    query, key, value, output = (torch.zeros(WIDTH, WIDTH) for _ in range(4))
    for queries, keys, weight, back in pairs:
        size = queries.stop - queries.start
        query[queries, queries] += weight * torch.eye(size).roll(-back, dims=1) if back else weight * torch.eye(size)
        key[keys, queries] += torch.eye(size)
    value[TOKEN, TOKEN] = torch.eye(VOCABULARY)
    if writes:
        output[TOKEN, writes[0]] = writes[1] * torch.eye(VOCABULARY)
    return query, key, value, output


PREVIOUS = head((PLACE, PLACE, SURE, 1), writes=(BEFORE, 1.0))
DUPLICATE = head((TOKEN, TOKEN, SURE, 0), (PLACE, PLACE, -2 * SURE, 0))
INDUCTION = head((TOKEN, BEFORE, SURE, 0), writes=(SAID, 1.0))
# The first token has none before it, and its head looks at itself: the induction head looks away from there.
INDUCTION[0][PLACE, 0], INDUCTION[1][0, 0] = 1.0, -SURE
OPPOSITE = head((PLACE, PLACE, SURE, 0), writes=(SAID, -1.0))
REST = head((PLACE, PLACE, 0.0, 0))


def by_hand():
    """Layer 0: previous token, duplicate token, uniform. Layer 1: induction, which copies; one that looks at itself and
    writes against it; uniform."""
    nothing = Mlp(Linear(torch.zeros(WIDTH, 1), None), None, Linear(torch.zeros(1, WIDTH), None), ACTIVATIONS["relu"])

    def block(*heads):
        query, key, value, output = (torch.stack(parts) for parts in zip(*heads, strict=True))
        side_by_side = (Linear(part.movedim(0, 1).flatten(1), None) for part in (query, key, value))
        query, key, value = side_by_side
        return Block(
            n_heads=3,
            n_kv_heads=3,
            attention_norm=None,
            query=query,
            key=key,
            value=value,
            query_norm=None,
            key_norm=None,
            scale=1.0,
            combine=Linear(output.flatten(0, 1), None),
            mlp_norm=plain_norm(),
            mlp=nothing,
        )

    def embed(tokens, positions):
        stream = torch.zeros(*tokens.shape, WIDTH)
        stream[..., PLACE] = functional.one_hot(positions, LENGTH).float()
        stream[..., TOKEN] = functional.one_hot(tokens, VOCABULARY).float()
        return stream

    unembed = torch.zeros(WIDTH, VOCABULARY)
    unembed[SAID] = torch.eye(VOCABULARY)
    blocks = (block(PREVIOUS, DUPLICATE, REST), block(INDUCTION, OPPOSITE, REST))
    return Network(embed, blocks, plain_norm(), Linear(unembed, None), has_mlps=False)


def scored(network, pairs, memory=MEMORY):
    return scores.table(SimpleNamespace(network=network, pairs=pairs, memory=memory)).to_pandas()


@pytest.fixture
def sequences():
    """Six tokens and the same again, the answer being the one that followed the last."""
    return Induction(None, length=6, heldout=8, d_vocab=VOCABULARY, bos=False, seed=0).pairs("successor", 8)


def test_heads_that_are_set_by_hand_have_their_scores(sequences):
    frame = scored(by_hand(), sequences)
    value = frame[frame["of"] != "weights"].set_index(["of", "measure", "layer", "head"])["value"]
    for of in ("prompts", "random"):
        assert value[of, "previous", 0, 0] == pytest.approx(1, abs=1e-6)
        assert value[of, "duplicate", 0, 1] == pytest.approx(1, abs=1e-6)
        assert value[of, "induction", 1, 0] == pytest.approx(1, abs=1e-6)
        assert value[of, "self", 1, 1] == pytest.approx(1, abs=1e-6)
        for measure in ("duplicate", "induction", "first", "self"):
            assert value[of, measure, 0, 0] == pytest.approx(0, abs=1e-6)
        assert value[of, "entropy", 0, 0] == pytest.approx(0, abs=1e-6)
    assert [value["copying", "copying", 1, at] for at in range(3)] == [1, 0, 0]
    assert [value["copying", "negative_copying", 1, at] for at in range(3)] == [0, 1, 0]
    assert value["copying", "copying", 0, 0] == 0, "what moves a token to where nothing is read of it says nothing"


def test_a_uniform_head_has_every_score_by_chance(sequences):
    frame = scored(by_hand(), sequences)
    uniform = frame[frame["of"].isin(["prompts", "random"]) & (frame["head"] == 2)]
    assert set(uniform["measure"]) == {"previous", "duplicate", "induction", "first", "self", "entropy"}
    assert uniform["value"].to_numpy() == pytest.approx(uniform["null"].to_numpy(), abs=1e-6)
    assert (frame[frame["measure"] == "copying"]["null"] == 5 / VOCABULARY).all()


def test_keys_compose_where_one_head_reads_what_another_writes(sequences):
    frame = scored(by_hand(), sequences)
    pairs = frame[frame["of"] == "weights"].set_index(["measure", "source_head", "head"])["value"]
    # The induction head reads all of what the previous-token head writes, and one place beside that.
    expected = (
        SURE * math.sqrt(VOCABULARY) / (math.sqrt(VOCABULARY) * math.sqrt(SURE**2 * VOCABULARY + SURE**2 * LENGTH))
    )
    assert pairs["k_composition", 0, 0] == pytest.approx(expected, rel=1e-5)
    assert pairs["q_composition", 0, 0] == 0 and pairs["v_composition", 0, 0] == 0
    assert np.isnan(pairs["k_composition", 2, 0]), "a head that writes nothing"


def test_random_tokens_are_repeated_once_and_the_same_each_time(mini_model, make_test_pairs):
    network, batch = describe(mini_model), make_test_pairs("first").clean
    one, other = scores.repeated(network, batch), scores.repeated(network, batch)
    assert torch.equal(one.tokens, other.tokens)
    length = one.tokens.shape[1] // 2
    assert length == batch.tokens.shape[1] // 2 and len(one) == 32
    assert torch.equal(one.tokens[:, :length], one.tokens[:, length:])
    assert all(len(set(row.tolist())) == length for row in one.tokens[:, :length])
    assert len({tuple(row) for row in one.tokens.tolist()}) == 32


def test_after_bos_where_prompts_begin_with_it():
    batch = Induction(None, length=4, heldout=2, d_vocab=VOCABULARY, bos=True, seed=0).splits["heldout"]
    tokens = scores.repeated(by_hand(), batch).tokens
    assert (tokens[:, 0] == 0).all() and tokens.shape[1] == 1 + 2 * 3


@torch.no_grad()
def own_scores(model, batch, row):
    """By measure what each head [layer, head] looks at in one prompt alone, token by token."""
    tokens = batch.tokens[row, : int(batch.end[row]) + 1].tolist()
    pattern = torch.stack(model(torch.tensor([tokens]), output_attentions=True).attentions)[:, 0].double().numpy()
    found: dict[str, list] = {name: [] for name in ("previous", "duplicate", "induction", "first", "self", "entropy")}
    for at in range(2, len(tokens)):
        copies = [before for before in range(at) if tokens[before] == tokens[at]]
        after = [copy + 1 for copy in copies if copy + 1 < at]
        for measure, keys in {
            "previous": [at - 1], "duplicate": copies, "induction": after, "first": [0], "self": [at]
        }.items():  # fmt: skip
            if keys:
                found[measure].append(pattern[:, :, at, keys].sum(axis=-1))
        paid = pattern[:, :, at, : at + 1]
        found["entropy"].append(-(paid * np.log(paid)).sum(axis=-1) / math.log(at + 1))
    return {measure: np.mean(values, axis=0) for measure, values in found.items() if values}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_of_attention_are_those_of_the_models_own_patterns(name, make_model, make_short_pairs):
    model, pairs = make_model(name), make_short_pairs("first")
    frame = scored(describe(model), pairs)
    own = [own_scores(model, pairs.clean, row) for row in range(len(pairs.clean))]
    for measure in own[0]:
        rows = frame[(frame["measure"] == measure) & (frame["of"] == "prompts")].sort_values(["layer", "head"])
        each = np.stack([one[measure] for one in own])
        np.testing.assert_allclose(rows["value"], each.mean(axis=0).ravel(), atol=2e-6, err_msg=measure)
        np.testing.assert_allclose(np.stack(rows["by_prompt"]).T, each.reshape(len(own), -1), atol=2e-6)
        assert (rows["n"] == len(own)).all()


def test_what_s_inhibition_heads_look_at_is_in_the_table_of_roles_too(make_model, make_short_pairs):
    model, pairs = make_model("gpt2"), make_short_pairs("first")
    frame = scored(describe(model), pairs)
    rows = frame[frame["measure"] == "s_inhibition"].sort_values(["layer", "head"])
    each = []
    for row, prompt in enumerate(pairs.clean.prompts):
        end = int(pairs.clean.end[row])
        where = [pairs.clean.roles[row].index(f"subject {number}") for number in (1, 2)]
        with torch.no_grad():
            own = model(pairs.clean.tokens[row : row + 1, : end + 1], output_attentions=True).attentions
        each.append(torch.stack(own)[:, 0, :, end, where].sum(dim=-1))
        assert prompt.subjects
    assert rows["value"].to_numpy() == pytest.approx(torch.stack(each).mean(dim=0).flatten().numpy(), abs=2e-6)


@torch.no_grad()
def test_copying_is_that_of_the_models_own_modules(mini_model, make_test_pairs, mini_tokenizer):
    batch = make_test_pairs("first", count=12).clean
    frame = scored(describe(mini_model), SimpleNamespace(clean=batch))
    body, n_heads = mini_model.transformer, mini_model.config.n_head
    hidden = []
    handle = body.h[0].register_forward_hook(lambda module, args, out: hidden.append((args[0], out)))
    at = [row.index(f"name {prompt.answer_place}") for row, prompt in zip(batch.roles, batch.prompts, strict=True)]
    mini_model(batch.tokens)
    handle.remove()
    before, after = (part[0] if isinstance(part, tuple) else part for part in hidden[0])
    for number, layer in enumerate(body.h):
        resid = (after if number else before)[torch.arange(len(batch)), at]
        v = layer.attn.c_attn(layer.ln_1(resid)).chunk(3, dim=-1)[2].unflatten(-1, (n_heads, -1))
        for index in range(n_heads):
            logits = mini_model.lm_head(
                body.ln_f(v[:, index] @ layer.attn.c_proj.weight.unflatten(0, (n_heads, -1))[index])
            )
            for measure, sign in (("copying", 1), ("negative_copying", -1)):
                top = mini_tokenizer.batch_decode((sign * logits).topk(5, dim=-1).indices)
                right = [prompt.answer in row.split() for prompt, row in zip(batch.prompts, top, strict=True)]
                row = frame[(frame["measure"] == measure) & (frame["layer"] == number) & (frame["head"] == index)]
                assert row["by_prompt"].iloc[0].tolist() == right
    assert frame[frame["measure"] == "copying"]["value"].max() == 1, "mini has copying heads"


@pytest.mark.parametrize("name", ["olmo2", "olmo3", "gemma2", "gemma3"])
@torch.no_grad()
def test_copying_goes_through_the_models_own_norm_after_attention(name, make_model, make_short_pairs, monkeypatch):
    """Its gain differs from element to element, which the final norm does not undo."""
    model, batch = make_model(name), make_short_pairs("first").clean
    top = model.config.vocab_size // 2  # Where random models rank a token half of the time.
    monkeypatch.setattr(scores, "TOP", top)
    frame = scored(describe(model), SimpleNamespace(clean=batch))
    layers, config = model.model.layers, model.config
    hidden = []
    handle = layers[0].register_forward_hook(lambda module, args, out: hidden.append((args[0], out)))
    model(batch.tokens)
    handle.remove()
    before, after = (part[0] if isinstance(part, tuple) else part for part in hidden[0])
    at = [row.index(f"name {prompt.answer_place}") for row, prompt in zip(batch.roles, batch.prompts, strict=True)]
    for number, layer in enumerate(layers):
        resid = (after if number else before)[torch.arange(len(batch)), at]
        v = layer.self_attn.v_proj(layer.input_layernorm(resid) if name.startswith("gemma") else resid)
        for head in range(config.num_attention_heads):
            group = head * config.num_key_value_heads // config.num_attention_heads
            alone = torch.zeros(len(batch), config.num_attention_heads, layer.self_attn.head_dim)
            alone[:, head] = v.unflatten(-1, (config.num_key_value_heads, -1))[:, group]
            written = layer.post_attention_layernorm(layer.self_attn.o_proj(alone.flatten(-2)))
            logits = model.lm_head(model.model.norm(written))
            for measure, sign in (("copying", 1), ("negative_copying", -1)):
                chosen = (sign * logits).topk(top, dim=-1).indices
                right = (chosen == batch.answers[:, None]).any(dim=-1)
                row = frame[(frame["measure"] == measure) & (frame["layer"] == number) & (frame["head"] == head)]
                assert row["by_prompt"].iloc[0].tolist() == right.tolist()


def dense(model):
    """For each layer and head W_OV and W_QK of a GPT-2 in double precision, normalisation folded and centred."""
    n_heads, width = model.config.n_head, model.config.n_embd
    centre = torch.eye(width, dtype=torch.float64) - 1 / width
    found = []
    for layer in model.transformer.h:
        fold = centre @ torch.diag(layer.ln_1.weight.double())
        q, k, v = (fold @ part.double() for part in layer.attn.c_attn.weight.chunk(3, dim=1))
        o = layer.attn.c_proj.weight.double() @ centre
        heads = [slice(at * width // n_heads, (at + 1) * width // n_heads) for at in range(n_heads)]
        found.append([(v[:, at] @ o[at], q[:, at] @ k[:, at].T) for at in heads])
    return found


def test_composition_is_that_of_whole_matrices(make_model):
    model = make_model("gpt2")
    with torch.no_grad():
        earlier, later = dense(model)
        found = {measure: values for _, _, measure, values in composition.scores(describe(model))}
        for a, (ov, _) in enumerate(earlier):
            for b, (next_ov, qk) in enumerate(later):
                for measure, read in {"q_composition": qk, "k_composition": qk.T, "v_composition": next_ov}.items():
                    expected = (ov @ read).norm() / ov.norm() / read.norm()
                    assert found[measure][a, b].item() == pytest.approx(expected.item(), rel=1e-4)


def test_by_chance_composition_is_that_of_what_is_turned_at_random(make_model):
    model = make_model("gpt2")
    with torch.no_grad():
        (ov, _), (_, qk) = (layer[0] for layer in dense(model))
        width = len(ov)
        # An orthonormal basis of what centring leaves, in which a turn is drawn.
        basis = torch.linalg.qr(torch.eye(width, dtype=torch.float64)[:, 1:] - 1 / width).Q
        turns = torch.linalg.qr(torch.randn(400, width - 1, width - 1, dtype=torch.float64)).Q
        turned = (ov @ basis @ turns @ basis.T @ qk).norm(dim=(1, 2)) / ov.norm() / qk.norm()
    frame = composition.table(describe(model)).to_pandas()
    assert turned.square().mean().sqrt().item() == pytest.approx(frame["null"].iloc[0], rel=0.02)
    assert frame["null"].iloc[0] == (width - 1) ** -0.5


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_rotated_queries_and_keys_have_no_composition_and_values_have(name, make_model):
    network = describe(make_model(name))
    frame = composition.table(network).to_pandas()
    assert set(frame["measure"]) == {"v_composition"} and len(frame) == 16
    assert list(composition.left_out(network)) == ["scores of q_composition and k_composition"]
    blocks = network.blocks
    for row in frame.itertuples():
        moved = []
        for block, number in zip(blocks, (row.source_head, row.head), strict=True):
            gain = block.attention_norm.gain
            v = (gain[:, None] * block.value.weight).unflatten(1, (block.n_kv_heads, -1))
            o = block.W_O[number] * (block.attention_post_norm.gain if block.attention_post_norm else 1)
            moved.append(v[:, number * block.n_kv_heads // block.n_heads] @ o)
        one, other = moved
        assert row.value == pytest.approx(((one @ other).norm() / one.norm() / other.norm()).item(), rel=1e-4)
    assert frame["null"].iloc[0] == 32**-0.5, "nothing is centred"

"""Patch jobs from the outside, with either engine, and what they refuse."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from mi_sweeps.circuits import architectures
from mi_sweeps.circuits.examine import measure, prepare
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.circuits.fidelity import known
from mi_sweeps.circuits.reference import ReferenceEngine
from mi_sweeps.errors import UserError
from mi_sweeps.jobs.execute import execute
from mi_sweeps.models.load import load_model
from mi_sweeps.store.files import read_json, read_table
from mi_sweeps.sweeps import model_notes
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of
from mi_sweeps.sweeps.preflight import check
from mi_sweeps.tasks.load import load
from mi_sweeps.training import checkpoints
from mi_sweeps.training.evaluate import end_logits


@pytest.fixture
def job(small, tmp_path):
    """Runs one point, and gives its patch job's folder and the table of its last checkpoint."""

    def run(*overrides: str, output: str = "outputs"):
        points = expand([*small, f"output={tmp_path / output}", *overrides])
        done = execute(points)
        _, patch = folders_of(points[0])
        assert not done.failed, patch.status_on_disk().error
        return patch, read_table(patch.table(4)).to_pandas()

    return run


def by_site(table):
    rows = table[table.kind == "patch"]
    return rows.set_index(["site", "layer", "head", "position"]).sort_index()


@pytest.mark.slow
def test_the_engine_changes_no_table(job):
    sites = "patching.sites=[resid_pre,mlp_out,z,k,pattern]"
    fast, table = job(sites)
    reference, expected = job(sites, "patching.engine=reference", output="reference")
    assert (read_json(fast.path / "patch.json")["engine"], read_json(reference.path / "patch.json")["engine"]) == (
        "FastEngine",
        "ReferenceEngine",
    )
    assert fast.patch_id == reference.patch_id
    ours, theirs = by_site(table), by_site(expected)
    assert ours.index.equals(theirs.index)
    for column in ("patched", "clean", "corrupted", "n"):
        assert ours[column].to_numpy() == pytest.approx(theirs[column].to_numpy(), abs=1e-5)
    for mine, other in zip(ours.by_prompt, theirs.by_prompt, strict=True):
        assert mine == pytest.approx(other, abs=1e-5, nan_ok=True)
    parts = [frame[frame.kind.isin(["lens", "layer", "head"])].logit_diff.to_numpy() for frame in (table, expected)]
    assert parts[0] == pytest.approx(parts[1], abs=1e-5)


def test_estimates_and_paths_are_added_on_request(job):
    patch, table = job("patching.approximate=true", "patching.paths={receivers: [[1, 0]], inputs: [q], norm: frozen}")
    assert table[table.kind == "patch"].approximate.notna().all()
    paths = table[table.kind == "path"]
    assert list(zip(paths.source_layer, paths.source_head, strict=True)) == [(0, head) for head in range(4)]
    assert table[table.kind == "prompt"].prompt.tolist() == list(range(6))
    assert "correlation of approximate with exact effects: z " in (patch.path / "log.txt").read_text()


def test_estimates_alone_say_that_nothing_was_patched(job):
    _, table = job("patching.approximate=true", "patching.exact=false")
    rows = table[table.kind == "patch"]
    assert rows.patched.isna().all() and rows.approximate.notna().all()


MEASURES = "patching.measures=[position_r2,previous_token,diagonal,ablated_loss]"


def test_measures_are_added_on_request(job):
    _, without = job()
    assert "measure" not in set(without.kind)
    _, table = job(MEASURES, "patching.measured_prompts=10")
    rows = table[table.kind == "measure"]
    assert rows.value.notna().all() and rows.patched.isna().all()
    counted = rows.groupby("measure").size().to_dict()
    assert counted == {"position_r2": 13, "previous_token": 16, "diagonal": 16, "ablated_loss": 25}
    assert set(rows[rows.measure == "ablated_loss"].n) == {10}, "prompts, each of which is scored at its end"
    assert by_site(table).equals(by_site(without)), "patching is as it was"


def test_a_model_from_nothing_has_all_of_it(tmp_path):
    points = expand(
        [
            *("model=nope", "model.d_model=16", "model.d_head=4", "task=previous_token", "task.length=8"),
            *("task.heldout=6", "corruption=previous", "patching=position", "patching.prompts=3"),
            *("train.steps=4", "checkpoint.every=4", "checkpoint.steps=[]", f"output={tmp_path}"),
        ]
    )
    assert not execute(points).failed
    table = read_table(folders_of(points[0])[1].table(4)).to_pandas()
    assert set(table.kind) == {"lens", "layer", "head", "patch", "prompt", "measure"}
    assert set(table.measure.dropna()) == {"position_r2", "previous_token", "diagonal", "ablated_loss"}
    rows = table[table.measure == "ablated_loss"]
    assert set(rows.component) == {"none", "attn_out", "head"}, "there are no MLPs"
    assert set(rows.n) == {6 * 6}


def test_what_attention_alone_cannot_have_is_refused_before_it_is_trained(tmp_path):
    asked = ["model=nope", "task=previous_token", "corruption=previous", "patching=full", f"output={tmp_path}"]
    with pytest.raises(UserError, match=r"patching\.sites: model=nope has attention only .*leave mlp_out out"):
        check(expand(asked))
    check(expand([*asked, "model.d_mlp=16"]))


def test_a_probe_of_one_prompt_is_refused_before_the_fine_tune(small, tmp_path):
    points = expand([*small, MEASURES, "patching.measured_prompts=1", f"output={tmp_path / 'outputs'}"])
    with pytest.raises(UserError, match="there is only one prompt"):
        check(points)


@pytest.fixture
def bloom(mini_tokenizer, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    model = BloomForCausalLM(BloomConfig(vocab_size=len(mini_tokenizer), **sizes))
    model.save_pretrained(tmp_path / "bloom")
    mini_tokenizer.save_pretrained(tmp_path / "bloom")
    return ["model=local", f"model.path={tmp_path / 'bloom'}"]


def test_an_unknown_architecture_is_patched_by_the_reference_engine_with_a_message(job, bloom):
    patch, table = job(*bloom, "patching.sites=[z]")
    assert "the fast engine does not support models of type bloom" in (patch.path / "log.txt").read_text()
    assert read_json(patch.path / "patch.json")["engine"] == "ReferenceEngine"
    rows = table[table.kind == "patch"]
    assert len(rows) == 8 and (rows.patched != rows.corrupted).any()


def test_the_reference_engine_sees_the_weights_of_each_checkpoint(small, bloom, tmp_path):
    """TransformerLens copies the queries', keys' and values' weights of this architecture when it wraps a model."""
    points = expand([*small, *bloom, "optim.lr=1e-2", "patching.sites=[z]", f"output={tmp_path / 'outputs'}"])
    assert not execute(points).failed
    run, patch = folders_of(points[0])
    config = points[0].config
    model, tokenizer = load_model(config.model)
    pairs = load(config, tokenizer).pairs(config.corruption.name, config.patching.prompts)
    base = checkpoints.copy_to_cpu(checkpoints.parameters(model))
    for step in (0, 4):
        checkpoints.load_weights(run.checkpoint(step), checkpoints.parameters(model), base)
        rows = read_table(patch.table(step)).to_pandas()
        with torch.no_grad():
            expected = pairs.logit_diff(end_logits(model, pairs.clean))
        assert rows[rows.kind == "prompt"].clean.to_numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert abs(rows[rows.kind == "patch"].clean.iloc[0] - read_table(patch.table(0)).to_pandas().clean.mean()) > 1e-3


def test_sites_that_an_architecture_lacks_are_left_out_with_a_word(small, mini_tokenizer, tmp_path, caplog):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "word_embed_proj_dim": 32,
    }
    model = OPTForCausalLM(OPTConfig(vocab_size=len(mini_tokenizer), max_position_embeddings=64, **sizes))
    model.save_pretrained(tmp_path / "opt")
    mini_tokenizer.save_pretrained(tmp_path / "opt")
    asked = [*small, "model=local", f"model.path={tmp_path / 'opt'}", f"output={tmp_path / 'outputs'}"]
    points = expand([*asked, "patching.sites=[z,pattern]"])
    assert "without patches of pattern" in check(points)[0]
    assert not execute(points).failed
    _, patch = folders_of(points[0])
    assert "patches of pattern are left out: TransformerLens exposes it" in (patch.path / "log.txt").read_text()
    assert list(read_json(patch.path / "patch.json")["left_out"]) == ["patches of pattern"]
    table = read_table(patch.table(4)).to_pandas()
    assert set(table.site.dropna()) == {"z"}
    with pytest.raises(UserError, match="patching.sites: models of type opt have none of these; choose from resid_pre"):
        check(expand([*asked, "patching.sites=[pattern]"]))


def test_what_cannot_be_patched_is_known_when_it_is_planned_and_before_it_is_trained(
    small, mini_tokenizer, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertLMHeadModel(BertConfig(vocab_size=len(mini_tokenizer), max_position_embeddings=64, **sizes))
    model.save_pretrained(tmp_path / "bert")
    mini_tokenizer.save_pretrained(tmp_path / "bert")
    points = expand([*small, "model=local", f"model.path={tmp_path / 'bert'}", f"output={tmp_path / 'outputs'}"])
    with pytest.raises(UserError, match="models of type bert cannot be examined: its tokens see later ones"):
        model_notes.lines(points)
    # As of a type that nobody has tried.
    monkeypatch.setattr(architectures, "KNOWN", {})
    assert "models of type bert are untested" in model_notes.lines(points)[0]
    assert execute(points).failed
    run, _ = folders_of(points[0])
    assert "the model sees later tokens" in run.status_on_disk().error
    assert not run.metrics.exists()


@pytest.mark.parametrize("asked", ["patching.approximate=true", "patching=paths", "patching.measures=[diagonal]"])
def test_what_an_unknown_architecture_cannot_have_is_refused_before_the_fine_tune(bloom, small, tmp_path, asked):
    points = expand([*small, *bloom, asked, f"output={tmp_path / 'outputs'}"])
    with pytest.raises(UserError, match="not available for models of type bloom, only for gemma, .*gpt2, gpt_neox"):
        check(points)
    assert not (tmp_path / "outputs").exists()


def test_a_receiver_that_is_not_there_is_refused_before_the_fine_tune(small, tmp_path):
    points = expand([*small, "patching=paths", "patching.paths.receivers=[[9,1]]", f"output={tmp_path / 'outputs'}"])
    with pytest.raises(UserError, match=r"patching.paths.receivers: \[9, 1\] cannot receive by q"):
        check(points)


def test_prompts_longer_than_a_sliding_window_are_not_for_the_fast_engine(make_test_pairs, mini_tokenizer):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    pairs = make_test_pairs("first")
    width = pairs.clean.tokens.shape[1]
    for window, fits in ((width, True), (width - 1, False), (None, True)):
        model = MistralForCausalLM(MistralConfig(vocab_size=len(mini_tokenizer), sliding_window=window, **sizes))
        assert (known(model, pairs) is not None) == fits


def test_a_patch_that_does_nothing_is_an_error_and_not_a_zero(random_model, make_test_pairs, patching):
    """An MLP that writes nothing has nothing to patch."""
    with torch.no_grad():
        for name, parameter in random_model.named_parameters():
            if "mlp.c_proj" in name or "down_proj" in name:
                parameter.zero_()
    network = describe(random_model)
    with pytest.raises(UserError, match="no patch of mlp_out changes anything"):
        measure(
            random_model, FastEngine(network), network, make_test_pairs("first"), patching("z", "mlp_out"), "step 0"
        )


def test_requested_rounding_is_no_fault(mini_model, make_test_pairs, patching, monkeypatch):
    """TF32 is a GPU's; here its rounding is made: 11 bits of each factor."""
    from mi_sweeps.circuits import network

    exact = network.Linear.__call__

    def rounded(self, x, then=None):
        if torch.backends.cuda.matmul.allow_tf32:
            x = (x.view(torch.int32) & ~0x1FFF).view(torch.float32)
        return exact(self, x, then)

    monkeypatch.setattr(network.Linear, "__call__", rounded)
    monkeypatch.setattr("mi_sweeps.circuits.fast.pack", lambda network: network)
    pairs, described = make_test_pairs("first"), describe(mini_model)
    clean = []
    for tf32 in (False, True):
        options = patching("z").model_copy(update={"tf32": tf32})
        rows = measure(mini_model, FastEngine(described), described, pairs, options, "step 0")
        clean.append([row["clean"] for row in rows if row["kind"] == "patch"][0])
    assert 1e-4 < abs(clean[0] - clean[1]) < 0.1


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_description_that_disagrees_with_the_model_is_refused(small, tmp_path, monkeypatch, caplog, engine):
    """As it would be for a model with an option that its description lacks."""
    from mi_sweeps.circuits import network

    monkeypatch.setattr(network.Norm, "__call__", lambda self, x: x * self.weight)
    points = expand([*small, f"patching.engine={engine}", "patching.approximate=true", f"output={tmp_path}"])
    with caplog.at_level(logging.ERROR):
        assert execute(points).failed
    _, patch = folders_of(points[0])
    run, _ = folders_of(points[0])
    assert "differ by" in run.status_on_disk().error, "before it is trained"
    assert [row["step"] for row in read_table(run.metrics).to_pylist() if row["metric"] == "win_rate"] == [0, 0, 0]
    assert not list(patch.path.glob("tables/*"))


def test_our_bugs_and_lack_of_memory_are_not_blamed_on_the_architecture(
    make_model, mini_tokenizer, make_short_pairs, patching, monkeypatch
):
    model, pairs = make_model("gpt2"), make_short_pairs("second")

    def fail(error):
        def failing(*_):
            raise error

        return failing

    monkeypatch.setattr(FastEngine, "at_end", fail(ValueError("ours")))
    with pytest.raises(ValueError, match="ours"):
        prepare(model, mini_tokenizer, pairs, patching("z"))
    reference = patching("z").model_copy(update={"engine": "reference"})
    monkeypatch.setattr(ReferenceEngine, "_constant_z", fail(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        prepare(model, mini_tokenizer, pairs, reference)


def test_every_third_prompt_of_the_original_corruption_has_no_gap(job):
    """And no patch changes anything there."""
    folder, table = job("corruption=trio", "task.trios=true", "patching.split=train")
    assert read_json(folder.path / "patch.json")["corruption"] == "train-trio"
    of_prompts = table[table.kind == "prompt"].sort_values("prompt")
    gap = (of_prompts.clean - of_prompts.corrupted).abs().to_numpy()
    assert (gap[2::3] == 0).all()
    assert (np.delete(gap, [2, 5]) > 1e-3).all()
    third = np.stack(table[table.site == "z"].by_prompt)[:, 2]
    assert third == pytest.approx(of_prompts.corrupted.iloc[2], abs=1e-5)

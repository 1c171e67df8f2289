from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mi_sweeps.errors import UserError
from mi_sweeps.identity import beside_configuration, run_id
from mi_sweeps.models.load import load_model
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.store.hashes import ID_LENGTH, digest
from mi_sweeps.tasks import data
from mi_sweeps.tasks.batches import batch_rows
from mi_sweeps.tasks.encoding import encode
from mi_sweeps.training import checkpoints, run
from mi_sweeps.training.checkpoints import load_weights
from mi_sweeps.training.evaluate import end_logits
from mi_sweeps.training.loop import finetune


class Interrupted(Exception):
    pass


def stop_after(step: int):
    def on_step(done: int) -> None:
        if done == step:
            raise Interrupted

    return on_step


def weights_of(folder, steps):
    return {step: load_file(folder.checkpoint(step)) for step in steps}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_bits(make_config, small, schedule, stop):
    config = make_config(*small, f"schedule={schedule}", "optim.lr=1e-3", "optim.weight_decay=0.1")
    whole, broken = run_folder(config.output, "whole"), run_folder(config.output, "broken")
    finetune(config, whole)
    with pytest.raises(Interrupted):
        finetune(config, broken, on_step=stop_after(stop))
    steps = []
    finetune(config, broken, on_step=steps.append)
    assert steps[0] == stop // 2 * 2 + 1, "goes on from its newest checkpoint"
    for step, tensors in weights_of(whole, config.checkpoint_steps).items():
        resumed = load_file(broken.checkpoint(step))
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in tensors.items())
    assert read_table(whole.metrics).equals(read_table(broken.metrics))


def test_dropout_is_resumed_too(make_config, small, tmp_path, mini_tokenizer):
    """`mini` has no dropout; one that has it depends on the random state."""
    model, _ = load_model(make_config().model)
    for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, key, 0.1)
    model.save_pretrained(tmp_path / "model")
    mini_tokenizer.save_pretrained(tmp_path / "model")
    config = make_config(*small, "model=local", f"model.path={tmp_path / 'model'}", "optim.lr=1e-3")
    whole, broken = run_folder(config.output, "whole"), run_folder(config.output, "broken")
    finetune(config, whole)
    with pytest.raises(Interrupted):
        finetune(config, broken, on_step=stop_after(3))
    finetune(config, broken)
    last = config.train.steps
    whole_weights, broken_weights = load_file(whole.checkpoint(last)), load_file(broken.checkpoint(last))
    assert all(torch.equal(tensor, broken_weights[name]) for name, tensor in whole_weights.items())


def test_a_damaged_resume_state_starts_again(make_config, small):
    config = make_config(*small)
    folder = run_folder(config.output, "run")
    with pytest.raises(Interrupted):
        finetune(config, folder, on_step=stop_after(3))
    folder.resume.write_bytes(folder.resume.read_bytes()[:1000])
    steps = []
    finetune(config, folder, on_step=steps.append)
    assert steps == [1, 2, 3, 4]
    assert sorted(set(read_table(folder.metrics)["step"].to_pylist())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_an_unfinished_run_without_its_metrics_starts_again(make_config, small, damage):
    config = make_config(*small)
    folder = run_folder(config.output, "run")
    with pytest.raises(Interrupted):
        finetune(config, folder, on_step=stop_after(3))
    if damage == "missing":
        folder.metrics.unlink()
    else:
        folder.metrics.write_bytes(folder.metrics.read_bytes()[:50])
    finetune(config, folder)
    assert sorted(set(read_table(folder.metrics)["step"].to_pylist())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("decay", [0.0, 10.0])
def test_the_loop_equals_a_plain_one(make_config, small, decay):
    """Full logits, one prompt at a time, gradients summed and matrices decayed by hand."""
    schedule = ("schedule=linear_warmup", "schedule.warmup_ratio=1.0")
    config = make_config(*small, "optim.lr=1e-3", *schedule, f"optim.weight_decay={decay}")
    folder = run_folder(config.output, "run")
    finetune(config, folder)
    model, tokenizer = load_model(config.model)
    train = encode(data.load(config, tokenizer).splits["train"], tokenizer, prepend_bos=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(4):
        optimizer.zero_grad()
        rows = batch_rows(step, len(train), 8, config.seed).tolist()
        for row in rows:
            one = train.select([row])
            logits = model(input_ids=one.tokens).logits[0, -1]
            (-logits.log_softmax(-1)[one.answers[0]] / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 4
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith(".bias") and ".ln_" not in name:
                    parameter *= 1 - optimizer.param_groups[0]["lr"] * decay
        optimizer.step()
    ours, _ = load_model(config.model)
    load_weights(folder.checkpoint(4), checkpoints.parameters(ours), {})
    with torch.no_grad():
        # Logits, not weights: a key bias has no effect and no gradient but rounding, which Adam scales up.
        ours_at_end, theirs_at_end = end_logits(ours, train), end_logits(model, train)
        before = end_logits(load_model(config.model)[0], train)
    torch.testing.assert_close(ours_at_end, theirs_at_end, atol=1e-3, rtol=0)
    assert (ours_at_end - before).abs().max() > 0.1


def test_every_epoch_sees_every_prompt_once():
    rows = torch.cat([batch_rows(step, 12, 5, seed=3) for step in range(12)])
    for epoch in range(5):
        assert sorted(rows[epoch * 12 : (epoch + 1) * 12].tolist()) == list(range(12))
    assert rows[:12].tolist() != rows[12:24].tolist()
    assert batch_rows(0, 12, 5, seed=3).tolist() != batch_rows(0, 12, 5, seed=4).tolist()


def test_a_batch_may_be_larger_than_the_training_set():
    rows = batch_rows(1, 4, 10, seed=0).tolist()
    assert len(rows) == 10
    assert set(rows) == {0, 1, 2, 3}


def test_what_a_run_leaves_behind(make_config, small):
    config = make_config(*small)
    folder = run_folder(config.output, "run")
    called = []
    finetune(config, folder, on_checkpoint=lambda step, metrics: called.append((step, len(metrics))))
    assert [step for step, _ in called] == [0, 2, 4]
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "audit.json",
        "checkpoints",
        "metrics.parquet",
        "resume.safetensors",
        "run.json",
    ]
    described = json.loads((folder.path / "run.json").read_text())
    assert described["config"]["task"]["name"] == "ioi3"
    assert described["versions"]["torch"]
    assert digest(described["identity"])[:ID_LENGTH] == run_id(config)
    assert described["contents"] == beside_configuration(config)
    metrics = read_table(folder.metrics).to_pylist()
    assert {row["split"] for row in metrics} == {"train", "heldout", "two_name", "batch"}
    assert [(row["step"], row["metric"], row["n"]) for row in metrics if row["split"] == "batch"] == [
        (step, "loss", 8) for step in range(4)
    ]
    # Prompts of two names have one subject.
    assert {row["metric"] for row in metrics if row["split"] == "two_name"} == {
        "loss",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "logit_diff_first",
        "win_rate_place_1",
        "win_rate_place_2",
    }


def test_a_head_that_is_not_the_whole_story_is_refused(make_config, small, monkeypatch):
    original = end_logits
    monkeypatch.setattr(run, "end_logits", lambda model, batch: original(model, batch) * 1.001)
    with pytest.raises(UserError, match="differ by .* from the whole model's"):
        finetune(make_config(*small), run_folder(make_config().output, "run"))


def test_bf16_autocast_keeps_fp32_weights(make_config, small):
    config = make_config(*small, "train.precision=bf16")
    folder = run_folder(config.output, "run")
    finetune(config, folder)
    assert {tensor.dtype for tensor in load_file(folder.checkpoint(4)).values()} == {torch.float32}

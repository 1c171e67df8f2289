from __future__ import annotations

import copy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mi_sweeps.analysis.configs import names
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_folder
from mi_sweeps.jobs.execute import execute
from mi_sweeps.models.load import load_model
from mi_sweeps.store.files import read_json, read_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of
from mi_sweeps.tasks.load import load
from mi_sweeps.training import checkpoints
from mi_sweeps.training.evaluate import evaluate, scored_logits
from mi_sweeps.training.loop import finetune, train_step
from mi_sweeps.training.models_at import models_at
from mi_sweeps.training.run import begin
from mi_sweeps.training.trainable import prepare

LORA = ("train.method=lora", "train.lora.rank=4", "optim.lr=1e-3")


class Interrupted(Exception):
    pass


def stop_after(step: int):
    def on_step(done: int) -> None:
        if done == step:
            raise Interrupted

    return on_step


def trained(config, name: str = "run"):
    folder = run_folder(config.output, name)
    finetune(config, folder)
    return folder


def weights_at(config, folder, step: int) -> dict[str, torch.Tensor]:
    """As a patch job has them."""
    model, _ = load_model(config.model)
    weights = checkpoints.parameters(model)
    checkpoints.load_weights(folder.checkpoint(step), weights, checkpoints.copy_to_cpu(weights))
    return checkpoints.copy_to_cpu(weights)


def stirred(trainable) -> None:
    """Adapters as after some training: they change something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trainable.learned.values():
            weight.add_(0.1 * torch.randn_like(weight))


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("gpt2", ["c_attn", "attn.c_proj", "c_fc"]),
        ("llama", ["q_proj", "down_proj", "model.layers.1.self_attn.o_proj"]),
        ("llama", ["*.layers.0.mlp.*"]),
    ],
)
def test_an_adapter_is_merged_as_peft_merges_it(make_model, make_config, tmp_path, name, modules):
    model = make_model(name)
    base = checkpoints.copy_to_cpu(checkpoints.parameters(model))
    tokens = torch.arange(24).view(2, 12)
    config = make_config(*LORA, f"train.lora.targets=[{','.join(modules)}]", "train.lora.alpha=3")
    trainable = prepare(model, config.train, seed=0)
    stirred(trainable)
    unmerged = model(tokens).logits
    with trainable.plain() as plain:
        ours = checkpoints.copy_to_cpu(checkpoints.parameters(plain))
        assert ours.keys() == base.keys(), "a plain Hugging Face model"
        torch.testing.assert_close(plain(tokens).logits, unmerged, atol=2e-5, rtol=1e-5)
        checkpoints.save_weights(tmp_path / "w.safetensors", trainable.weights_to_store(plain), {}, "adapter")
    assert torch.equal(model(tokens).logits, unmerged), "afterwards it is as it was"

    loaded = {name: tensor.clone() for name, tensor in base.items()}
    checkpoints.load_weights(tmp_path / "w.safetensors", loaded, base)
    assert all(torch.equal(loaded[name], ours[name]) for name in base)

    theirs = copy.deepcopy(model)
    for place, layer in [(name, theirs.get_submodule(name)) for name in trainable.adapters]:
        layer.merge()
        theirs.set_submodule(place, layer.get_base_layer())
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(weight, ours[name], atol=1e-6, rtol=1e-6)
    changed = [name for name in base if not torch.equal(base[name], ours[name])]
    assert changed == [f"{name}.weight" for name in trainable.adapters]


def test_a_lora_run(make_config, small, mini_model):
    """Its files are small, and what its metrics are of is what a patch job loads."""
    config = make_config(*small, *LORA)
    folder = trained(config)
    with safe_open(folder.checkpoint(4), framework="pt") as file:
        assert file.metadata()["storage"].startswith("adapter ")
        assert all(name.endswith((".c_attn.weight.left", ".c_attn.weight.right")) for name in file.keys())  # noqa: SIM118
    full = sum(weight.numel() for weight in mini_model.parameters())
    about = read_json(folder.path / "run.json")["model"]
    assert folder.checkpoint(4).stat().st_size < 4 * full / 20
    assert about["parameters"] == full
    assert about["learned"] == sum(tensor.numel() for tensor in load_file(folder.checkpoint(4)).values())
    assert not any(name.startswith("weight.") and "lora" not in name for name in load_file(folder.resume))

    model, tokenizer = load_model(config.model)
    heldout = load(config, tokenizer, cache=data_folder(config)).splits["heldout"]
    base = checkpoints.copy_to_cpu(checkpoints.parameters(model))
    rows = read_table(folder.metrics).to_pylist()
    for step, model in models_at(config, folder, config.checkpoint_steps, torch.device("cpu")):
        found = evaluate(model, load(config, tokenizer, cache=data_folder(config)), heldout, step=step, split="heldout")
        assert found == [row for row in rows if row["split"] == "heldout" and row["step"] == step]
        same = [name for name, weight in model.named_parameters() if torch.equal(weight, base[name])]
        assert len(same) == len(base) - (0 if step == 0 else len(about["adapters"]))


@pytest.mark.parametrize(
    "overrides",
    [
        (*LORA, "train.lora.dropout=0.2"),
        ("train.only=[mlp:1-]", "optim.lr=1e-3", "optim.weight_decay=0.1"),
        ("train.weights=bf16", "optim.lr=1e-3"),
        ("train.weights=bf16", *LORA),
        ("train.micro_batch=3", "train.gradient_checkpointing=true"),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(make_config, small, overrides):
    config = make_config(*small, *overrides)
    whole, broken = trained(config, "whole"), run_folder(config.output, "broken")
    with pytest.raises(Interrupted):
        finetune(config, broken, on_step=stop_after(3))
    finetune(config, broken)
    for step in config.checkpoint_steps:
        assert whole.checkpoint(step).read_bytes() == broken.checkpoint(step).read_bytes()
    assert read_table(whole.metrics).equals(read_table(broken.metrics))


def test_a_sweep_over_methods_is_patched_and_labelled(make_config, small, tmp_path):
    short = (*small, "train.steps=2", "patching.steps=[2]", f"output={tmp_path / 'outputs'}")
    targets = "train.lora.targets=[c_attn,c_fc]"
    points = expand([*short, "train.method=full,lora", "train.only=attention,[mlp,norms]", targets])
    assert not execute(points).failed
    for point in points:
        run, patch = folders_of(point)
        rows = read_table(patch.table(2)).to_pylist()
        _, tokenizer = load_model(point.config.model)
        ((_, model),) = models_at(point.config, run, [2], torch.device("cpu"))
        pairs = load(point.config, tokenizer, cache=data_folder(point.config)).pairs("first", 6)
        tokens = pairs.clean.tokens
        logits = model(tokens).logits[torch.arange(len(tokens)), pairs.clean.end]
        ours = [row["clean"] for row in rows if row["kind"] == "prompt"]
        torch.testing.assert_close(torch.tensor(ours), pairs.logit_diff(logits), atol=1e-3, rtol=0)
    assert names([point.config.dump() for point in points]) == [
        *("method full, only attention", "method full, only mlp + norms"),
        *("method lora, only attention", "method lora, only mlp + norms"),
    ]


def test_what_does_not_learn_stays_as_it_was(make_config, small, mini_model):
    config = make_config(*small, "train.only=[mlp:1-,norms]", "optim.lr=1e-3", "optim.weight_decay=0.1")
    folder = trained(config)
    moments = {name.removeprefix("exp_avg.") for name in load_file(folder.resume) if name.startswith("exp_avg.")}
    after = weights_at(config, folder, 4)
    learns = {name for name in after if "ln_" in name or (".mlp." in name and ".h.0." not in name)}
    assert moments == learns
    for name, weight in mini_model.named_parameters():
        assert torch.equal(weight, after[name]) == (name not in learns), name


def test_only_chooses_among_the_modules_of_an_adapter(make_config, small, mini_model):
    layers = mini_model.config.num_hidden_layers
    some = prepare(copy.deepcopy(mini_model), make_config(*LORA, f"train.only=mlp:{layers - 1}").train, 0)
    assert list(some.adapters) == [f"transformer.h.{layers - 1}.mlp.{name}" for name in ("c_fc", "c_proj")]
    with pytest.raises(UserError, match=r"train.only=mlp: includes no module .*; there are c_attn, c_proj"):
        prepare(copy.deepcopy(mini_model), make_config(*LORA, "train.only=mlp", "train.lora.targets=c_attn").train, 0)


def test_adapters_of_other_seeds_differ_and_disturb_no_random_numbers(mini_model, make_config):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, same, other = (prepare(copy.deepcopy(mini_model), make_config(*LORA).train, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    name = next(iter(one.learned))
    assert torch.equal(one.learned[name], same.learned[name])
    assert not torch.equal(one.learned[name], other.learned[name])


def test_a_tied_unembedding_can_have_no_adapter(mini_model, make_model, make_config):
    train = make_config(*LORA, "train.lora.targets=lm_head").train
    tied = make_model("llama", tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"train.lora.targets=lm_head: lm_head shares its weight with another module"):
        prepare(tied, train, 0)
    assert list(prepare(make_model("llama", tie_word_embeddings=False), train, 0).adapters) == ["lm_head"]


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_have_the_gradients_of_the_batch(make_config, small, size):
    """Also where the parts have unequal numbers of targets, and some part has none."""
    config = make_config(*small, "train.clip=1000")
    run = begin(config, run_folder(config.output, "whole"))
    parts = begin(make_config(*small, "train.clip=1000", f"train.micro_batch={size}"), run_folder(config.output, "m"))
    batch = run.batch()
    targets = torch.full_like(batch.tokens, -100)
    for row in range(len(batch)):
        targets[row, 1 : 1 + 2 * (row % 3)] = batch.tokens[row, 2 : 2 + 2 * (row % 3)]
    vars(batch).pop("scored", None)
    batch = copy.copy(batch)
    object.__setattr__(batch, "targets", targets)
    with torch.no_grad():
        run.model.train()
        alone = nn.functional.cross_entropy(scored_logits(run.model, batch), batch.scored[2])
    for one in (run, parts):
        train_step(one, batch)
    torch.testing.assert_close(run.losses[0], alone)
    torch.testing.assert_close(parts.losses[0], alone)
    theirs = dict(parts.model.named_parameters())
    for name, weight in run.model.named_parameters():
        assert weight.grad.abs().max() > 0
        torch.testing.assert_close(theirs[name].grad, weight.grad, atol=1e-6, rtol=1e-4)


def test_gradient_checkpointing_changes_no_bit(make_config, small, tmp_path, mini_tokenizer):
    """With dropout too: what is computed again drops the same."""
    model, _ = load_model(make_config().model)
    for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, key, 0.1)
    model.save_pretrained(tmp_path / "model")
    mini_tokenizer.save_pretrained(tmp_path / "model")
    overrides = (*small, "model=local", f"model.path={tmp_path / 'model'}", "optim.lr=1e-3")
    without, with_it = (make_config(*overrides, f"train.gradient_checkpointing={given}") for given in (False, True))
    one, other = trained(without, "without"), trained(with_it, "with")
    assert one.checkpoint(4).read_bytes() == other.checkpoint(4).read_bytes()
    assert read_table(one.metrics).equals(read_table(other.metrics))


def test_rounded_weights_compute_and_exact_ones_learn(make_config, small):
    """Against a loop of its own, at a learning rate whose steps bf16 weights would lose."""
    config = make_config(*small, "train.weights=bf16", "train.only=[layers,norms]", "optim.lr=1e-6")
    folder = trained(config)
    run = begin(config, run_folder(config.output, "other"))
    assert {weight.dtype for weight in run.model.parameters()} == {torch.bfloat16}

    model, _ = load_model(config.model)
    base = checkpoints.copy_to_cpu(checkpoints.parameters(model))
    exact = {name: weight for name, weight in base.items() if ".h." in name or "ln_" in name}
    moments = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in exact.items()}
    model = model.to(torch.bfloat16).train()
    after = {name: weight.clone() for name, weight in exact.items()}
    weights = dict(model.named_parameters())
    for step in range(config.train.steps):
        run.step = step
        batch = run.batch()
        loss = nn.functional.cross_entropy(scored_logits(model, batch).float(), batch.scored[2])
        model.zero_grad()
        loss.backward()
        gradients = {name: weights[name].grad.float() for name in after}
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        for name, gradient in gradients.items():
            gradient = gradient * min(1.0, config.train.clip / (float(norm) + 1e-6))
            first, second = moments[name]
            (beta1, beta2), n = config.optim.betas, step + 1
            first.mul_(beta1).add_((1 - beta1) * gradient)
            second.mul_(beta2).add_((1 - beta2) * gradient**2)
            update = (first / (1 - beta1**n)) / ((second / (1 - beta2**n)).sqrt() + 1e-8)
            after[name] -= config.optim.lr * update
            weights[name].data = after[name].to(torch.bfloat16)
    kept = weights_at(config, folder, 4)
    for name, weight in kept.items():
        assert weight.dtype == torch.float32
        if name not in after:
            assert torch.equal(weight, base[name])
            continue
        assert not torch.equal(weight, base[name])
        torch.testing.assert_close(weight - base[name], after[name] - base[name], atol=4e-7, rtol=0)

    plain, tokenizer = load_model(config.model)
    checkpoints.load_weights(folder.checkpoint(4), checkpoints.parameters(plain), base)
    task = load(config, tokenizer, cache=data_folder(config))
    rows = [row for row in read_table(folder.metrics).to_pylist() if row["split"] == "heldout" and row["step"] == 4]
    assert evaluate(plain, task, task.splits["heldout"], step=4, split="heldout") == rows


def test_layers_below_those_that_learn_are_not_gone_back_through(make_model, make_config):
    """Also with gradient checkpointing, for which transformers makes the embeddings' output need a gradient."""
    train = make_config("train.only=layers:1-", "train.gradient_checkpointing=true").train
    model = prepare(make_model("gpt2"), train, 0).model.train()
    reached = []
    model.transformer.h[0].register_forward_hook(lambda module, given, out: reached.append(out.requires_grad))
    model.transformer.h[1].register_forward_hook(lambda module, given, out: reached.append(out.requires_grad))
    model(torch.arange(8).view(1, 8)).logits.sum().backward()
    assert reached[:2] == [False, True]

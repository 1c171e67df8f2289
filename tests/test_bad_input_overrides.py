"""Overrides that cannot be: one line that says what, where and what to do; exit code 2; nothing written."""

from __future__ import annotations

import pytest

from mi_sweeps import cli
from mi_sweeps.sweeps import quick_checks


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sweep=zilch", "sweep=zilch: no such choice; there are: default, demo, findings"),
        (
            "schedule=zilch",
            "schedule=zilch: no such choice; there are: buggy_warmup, constant, cosine, fixed_warmup, linear",
        ),
        (
            "corruption=third",
            "there are: attractor, bos, both, earlier, first, name, noun, order, previous, previous_oc",
        ),
        ("schedul=cosine", "schedul: no such key; `mi-sweeps plan --config` prints all of them"),
        ("optim.rate=1", "optim.rate: no such key"),
        ("optim.lr=-1", "optim.lr=-1: give a number above 0"),
        ("optim.lr=nan", "optim.lr=nan: give a finite number above 0"),
        ("optim.lr=fast", "optim.lr=fast: give a number above 0"),
        (
            "patching.paths={receivers: [[3, 1]], inputs: [logits], norm: frozen}",
            "patching.paths.receivers: heads receive through q, k and v, but patching.paths.inputs is only logits",
        ),
        ("train.steps=0", "train.steps=0: give a whole number of at least 1"),
        ("train.batch_size=0", "train.batch_size=0"),
        ("train.method=qlora", "train.method=qlora: give full or lora"),
        ("train.only=mlps", "train.only=mlps: matches no parameter of this model; use attention, mlp"),
        ("train.only=[layers:9-]", "or names such as transformer.wte.weight, "),
        ("train.micro_batch=0", "train.micro_batch=0: give a whole number of at least 1"),
        ("train.micro_batch=4,8", "computes the same as train.micro_batch=4, so it would have no grid point"),
        ("train.lora.rank=0", "train.lora.rank=0: give a whole number of at least 1"),
        ("checkpoint.every=0", "checkpoint.every=0"),
        ("checkpoint.until=185", "checkpoint.until=185: this run has 184 steps (train.steps); give one of them"),
        ("checkpoint.storage=half", "checkpoint.storage=half: give full or delta"),
        ("seed=-1", "seed=-1"),
        ("seed=range(0,0)", "seed=range(0,0): this gives no values, so the grid is empty"),
        ("schedule=glob(zzz*)", "the grid is empty"),
        ("seed=1,", "cannot be read as KEY=VALUE"),
        ("patching.steps=[3]", "patching.steps: [3] are not checkpoints of this run"),
        (
            "patching.circuits={at: [3]}",
            "patching.circuits.at: [3] are not among the examined checkpoints",
        ),
        ("patching.looks={patterns: -1}", "patching.looks.patterns=-1: give a whole number of at least 0"),
        ("patching.looks=maybe", "patching.looks=maybe: give true, false, {patterns: 4} or null"),
        ("patching.looks={patern: 1}", "patching.looks.patern: no such key; there are: patterns"),
        ("patching.edges={exact: 0}", "patching.edges.exact=0: give all or a whole number of at least 1"),
        ("patching.cross={with: last}", "patching.cross.with=last: give first, previous or a list in brackets, each a"),
        ("patching.paths=maybe", "patching.paths=maybe: give {receivers: …, inputs: …, norm: …} or null"),
        (
            "patching.paths={receivers: [[3]], inputs: [q], norm: frozen}",
            "patching.paths.receivers.0=[3]: give a list in brackets of 2, each a whole number of at least 0",
        ),
        (
            "optim.betas=[0.9]",
            "optim.betas=[0.9]: give a list in brackets of 2, each a number of at least 0 and below 1",
        ),
        ("tracking.mode=on", "tracking.mode=on: give offline, online or disabled"),
        ("launcher.name=cluster", "launcher.name=cluster: give inline, local or slurm"),
        ("launcher.device=tpu", "launcher.device=tpu: give auto, cpu, cuda or cuda:1"),
        (
            "patching.edges={sample: 5}",
            "patching.edges.sample=5: all edges are patched, so none is left to draw; also give patching.edges.exact",
        ),
        ("patching.circuits={sizes: [0]}", "patching.circuits.sizes.0=0: give a number above 0 and of at most 100"),
        (
            "patching.circuits={given: nowhere.json}",
            "nowhere.json: No such file or directory",
        ),
        (
            "patching.circuits={given: pyproject.toml}",
            "pyproject.toml: not of the MIB track's form (cfg, nodes, edges)",
        ),
        ("patching.sites=[zz]", "patching.sites.0=zz"),
        ("launcher=inline,local", "changes no result, so it cannot be swept"),
        ("demo", "demo: not KEY=VALUE; for example sweep=demo"),
        ("model=local", "model.path: no value; give model.path=VALUE"),
        ("checkpoint.steps=null", "checkpoint.steps=null: give a list; for example checkpoint.steps=[1,2,4]"),
        ("task=prompts", "task.path: no value; give task.path=VALUE"),
        ("model.path=/nowhere", "model.path=/nowhere: no config.json there"),
        ("task.names=[Zork,Mary,John,Tom]", "task.names: Zork: not one token"),
        ("task.names=[Mary,John,Tom]", "3 names give 1; ask for fewer prompts or give more names"),
        ("task.prompts.train=10", "10 prompts cannot be balanced over 6 orders; use a multiple of 6"),
        ("task.prompts.train=0", "give positive numbers for train, heldout"),
        ("+task.colour=red", "task=ioi3: "),
        ("schedule._target_=mi_sweeps.nope", "schedule=constant: "),
        ("+schedule.warm=1", "schedule=constant: "),
        ("tracking.project='a/b'", "tracking.project='a/b': has '/'; wandb takes 1 to 128 characters, but none of / "),
        ("tracking.project=50%", "tracking.project='50%': has '%'"),
        ("tracking.project='a:b'", "tracking.project='a:b': has ':'"),
        (f"tracking.project={'n' * 129}", "is too long; wandb takes"),
        ("tracking.project=''", "tracking.project='': is empty"),
        ("tracking.entity=me/mine", "tracking.entity='me/mine': has '/'"),
        ("launcher.stack=0", "launcher.stack=0: give a whole number of at least 1"),
        ("launcher.device=cuda:99", "launcher.device=cuda:99"),
        ("optim=null", "optim=null: not the name of a choice; there are: adamw"),
        ("model=null", "model=null: not the name of a choice; there are: gpt2"),
        ("=1", "=1: no key before the =; give KEY=VALUE"),
        ("corruption=[first,second]", "to sweep over them give corruption=first,second"),
        ("patching.sites=z", "patching.sites=z: give a list in brackets, each resid_pre, attn_out"),
        ("model=nope", "give task=previous_token"),
        ("patching.measures=[position_r2_without_bos]", "needs the split without_bos, which this task lacks"),
        ("corruption=trio", "corruption=trio: needs prompts in threes that differ only in who is the answer; use"),
        ("patching.also=[greater_than]", "task: 0 of 76 nouns are one token of the model's tokenizer, but 4"),
        ("task.repeat=60", "task.repeat=60: a prompt and its answers are"),
        ("model.prepend_bos=true", "model.prepend_bos=true: the model's tokenizer has no BOS token"),
    ],
)
def test_a_wrong_override(refuse, tmp_path, override, says):
    output = tmp_path / "outputs"
    assert says in refuse("run", override, f"output={output}")
    assert not output.exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("corruption=previous", "corruption=previous: task=ioi3 has no such corruption; use corruption=first"),
        ("task=ioi2 corruption=second", "corruption=second: task=ioi2 has no such corruption; use corruption=first"),
        ("task=ioi2 corruption=trio", "corruption=trio: task=ioi2 has no such corruption; use corruption=first"),
        ("patching.also=[ioi2,zilch]", "task=zilch: no such choice; there are: docstring"),
        ("patching.also=[prompts]", "patching.also=[prompts]: task.path: no value"),
        ("patching.split=test", "patching.split=test: give heldout or train"),
        ("sweep=nope corruption=first", "corruption=first: task=previous_token has no such corruption"),
        ("sweep=nope_bos corruption=bos", "corruption=bos: with task.bos=false no sequence begins with BOS"),
        ("patching=cross patching.steps=[8]", "patching.cross: needs two checkpoints, but only [8] are examined"),
        (
            "patching=cross patching.cross.with=[3]",
            "patching.cross.with: [3] are not among the examined checkpoints ([0, 1, 2, 4, 8,",
        ),
        ("patching=cross patching.cross.permutations=5", "also used in reverse, so give an even number"),
        ("sweep=nope patching=full", "patching.sites: model=nope has attention only (model.d_mlp=null)"),
        ("sweep=nope checkpoint.storage=delta", "model=nope starts from scratch"),
        ("sweep=nope train.gradient_checkpointing=true", "train.gradient_checkpointing=true: model=nope does not"),
        ("train.lora.rank=4", "train.lora.rank=4: there is no adapter; give train.method=lora too"),
        (
            "train.lora.targets=[]",
            "train.lora.targets=[]: give null or a list in brackets, each text that is not empty",
        ),
        ("model=nope model.d_vocab=9", "task=ioi3: makes text, but model=nope has no tokenizer"),
        (
            "model=nope model.d_vocab=9 task=sva corruption=subject",
            "task=sva: makes text, but model=nope has no tok",
        ),
        (
            "task=sva corruption=first",
            "corruption=first: task=sva has no such corruption; use corruption=subject or attractor",
        ),
        ("task=gender corruption=subject", "task=gender has no such corruption; use corruption=name or same_gender"),
        (
            "task=induction corruption=first",
            "task=induction has no such corruption; use corruption=successor or previous_",
        ),
        (
            "task._target_=nowhere.at.all",
            "task=ioi3: nowhere.at.all: no such module; put its folder on",
        ),
        ("launcher=slurm launcher.time=1:00:00", "launcher.time=1:00:00: give minutes as a whole number"),
        ("launcher=slurm launcher.gpus=a100:1", "request a kind of GPU with launcher.sbatch.gres=gpu:a100:1"),
        ("launcher=slurm launcher.patch.gpus=a100:1", "launcher.patch.gpus=a100:1: give a number"),
        (
            "schedule=constant,cosine schedule.warmup_ratio=0.1",
            "schedule.warmup_ratio: schedule=constant has no such key",
        ),
        (
            "model=series",
            "model: give model.path='DIR/checkpoint-{step}', or model.hub and model.revision='step{step}'",
        ),
        (
            "model=series model.path=/nowhere/checkpoint-8",
            "model.path=/nowhere/checkpoint-8: give a pattern that contains {step} once",
        ),
        ("model=series model.hub=org/lm", "model.revision=null: give a pattern that contains {step} once"),
        (
            "model=series model.path=/nowhere/checkpoint-{step}",
            "model.path=/nowhere/checkpoint-{step}: no checkpoint there",
        ),
        ("model=series model.path=/a-{step} model.hub=org/lm", "model: give model.path="),
        ("model=local model.path=/nowhere/checkpoint-{step}", "this names many checkpoints; use model=series"),
        ("output=s3://bucket/x", "output=s3://bucket/x: not on this machine"),
        ("--config-dir=s3://x", "s3://x: not on this machine"),
    ],
)
def test_plan_refuses_what_the_configuration_says_to_be_wrong(capsys, overrides, says):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", *overrides.split()])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_task_of_the_user_s_without_a_function(refuse, tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("name: mine")
    given = [f"--config-dir={tmp_path}", f"output={tmp_path / 'o'}"]
    assert "error: task._target_: no value" in refuse("plan", *given, "task=mine")
    assert "patching.also=[mine]: task._target_: no value" in refuse("plan", *given, "patching.also=[mine]")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "train.lora.targets=q_proj",
            "train.lora.targets=q_proj: matches no linear module of this model; there are c_",
        ),
        (
            "train.lora.targets=lm_head,c_fc",
            "train.lora.targets=lm_head: lm_head shares its weight with another module",
        ),
        ("train.only=norms", "train.only=norms: includes no module of train.lora.targets, so no adapter; "),
    ],
)
def test_an_adapter_that_cannot_be(refuse, tmp_path, override, says):
    output = tmp_path / "outputs"
    assert says in refuse("run", "train.method=lora", override, f"output={output}")
    assert not output.exists()


def test_lora_without_peft(refuse, tmp_path, monkeypatch):
    monkeypatch.setattr(quick_checks, "find_spec", lambda name: None)
    says = refuse("run", "train.method=full,lora", f"output={tmp_path / 'outputs'}")
    assert "train.method=lora: needs peft, which is not installed; `pip install peft`" in says
    assert not (tmp_path / "outputs").exists()


def test_a_corruption_that_the_task_does_not_have(refuse, tmp_path):
    assert "use corruption=first" in refuse("run", "task=ioi2", "corruption=second", f"output={tmp_path / 'o'}")


def test_a_key_that_a_choice_lacks_is_reported_without_mentioning_a_sweep(refuse):
    one = refuse("plan", "schedule=constant", "schedule.warmup=0.1")
    assert "schedule=constant has no such key; `mi-sweeps plan --config`" in one
    several = refuse("plan", "schedule=constant,linear_warmup", "schedule.warmup=0.1")
    assert "run those separately" in several

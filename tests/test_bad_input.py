"""Any mistake of a user's: one line that says what, where and what to do; exit code 2; nothing half-written."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
import subprocess
import sys

import pytest

from mi_sweeps import cli
from mi_sweeps.analysis import power
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store import files
from mi_sweeps.sweeps import manifest, plan, quick_checks
from mi_sweeps.sweeps.grid import expand


@pytest.fixture
def refuse(capsys, tmp_path):
    """Runs a command that must fail with one line; gives the line."""

    def run(*arguments: object, code: int = 2) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        complaint = capsys.readouterr().err
        assert stopped.value.code == code
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1, complaint
        return complaint

    return run


@pytest.fixture(scope="module")
def one_run(small, tmp_path_factory):
    """A folder of results whose sweep was planned and not begun."""
    output = tmp_path_factory.mktemp("planned") / "a [b] :fire: c,d"
    manifest.add(output, "default", expand([*small, f"output='{output}'"]), "mi-sweeps run")
    return output


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


@pytest.mark.parametrize("command", ["export FILE/x", "report --to FILE/x.html"])
def test_a_place_that_cannot_be_made_is_named_without_our_own_files(refuse, one_run, command):
    file = one_run / "sweeps" / "default" / "sweep.json"
    words = [word.replace("FILE", str(file)) for word in command.split()]
    complaint = refuse(*words, f"output='{one_run}'")
    assert str(file) in complaint and ".py, line" not in complaint


def test_a_corruption_that_the_task_does_not_have(refuse, tmp_path):
    assert "use corruption=first" in refuse("run", "task=ioi2", "corruption=second", f"output={tmp_path / 'o'}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory"),
        ("", "no rows"),
        ('{"question": "a", "completion": "b"}\n{"question": "a"\n', "malformed JSON at row 2"),
        ('{"question": "a"}\n', 'row 1 is not {"question": text, "completion": text}'),
        ('[{"question": "a", "completion": "b"}, 3]', "row 2 is not"),
        ('[{"question": "a" "completion"}]', "malformed JSON at row 1, line 1"),
        ('{"question": "Mary and John met. Mary gave a ring to", "completion": " John"}\n', "no usable train prompts"),
    ],
)
def test_a_bad_file_of_prompts(refuse, tmp_path, content, says):
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_text(content)
    assert says in refuse("run", "task=prompts", f"task.path={file}", f"output={tmp_path / 'o'}")
    assert not (tmp_path / "o").exists()


def test_an_output_that_cannot_be_written(refuse, small, tmp_path):
    (tmp_path / "file").write_text("")
    complaint = refuse("run", *small, f"output={tmp_path / 'file' / 'outputs'}")
    assert "give a folder that can be written with output=DIR" in complaint


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_hub_that_cannot_be_reached(refuse, tmp_path, hub_cache, command):
    complaint = refuse(command, "model=gpt2", "model.hub=nobody/no-such-model", f"output={tmp_path / 'o'}")
    assert "nobody/no-such-model: 127.0.0.1 does not answer (ConnectError: " in complaint
    assert "python -m mi_sweeps.models.smollm2 DIR" in complaint
    assert not (tmp_path / "o").exists()


def test_a_name_or_a_revision_that_the_hub_does_not_have(refuse, tmp_path, hub):
    hub.add("some/model", "main", {"config.json": b"{}"})
    for name, revision, says in (
        ("nobody/no-such-model", "main", "the hub has no such model, or it is private; check model.hub"),
        ("some/model", "v2", "the hub has this model, but not this revision; check model.revision"),
        ("some model", "main", "model.hub=some model: not a hub name"),
    ):
        given = ["model=gpt2", f"model.hub='{name}'", f"model.revision={revision}", f"output={tmp_path / 'o'}"]
        assert says in refuse("plan", *given)


def test_a_tokenizer_with_more_tokens_than_the_embedding(refuse, tmp_path, mini_model, mini_tokenizer):
    import copy

    tokenizer = copy.deepcopy(mini_tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    mini_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    complaint = refuse("run", "model=local", f"model.path={tmp_path / 'model'}", f"output={tmp_path / 'o'}")
    assert "resize_token_embeddings" in complaint


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "llama", "gemma", "openai-gpt"])
@pytest.mark.parametrize("only_settings", [False, True])
def test_a_folder_without_a_tokenizer(refuse, tmp_path, model_type, only_settings):
    """transformers makes an empty tokenizer of some, and none of others."""
    from transformers import AutoConfig

    model = tmp_path / "model"
    AutoConfig.for_model(model_type).save_pretrained(model)
    if only_settings:
        (model / "tokenizer_config.json").write_text("{}")
    complaint = refuse("run", "model=local", f"model.path={model}", f"output={tmp_path / 'o'}")
    assert (
        f"model.path={model}: no tokenizer there; give the one that the model was trained with, model.tokenizer=DIR"
        in complaint
    )


def test_an_empty_tokenizer(refuse, tmp_path):
    """Such as transformers saves where it made one of nothing."""
    from transformers import AutoConfig, AutoTokenizer

    model = tmp_path / "model"
    AutoConfig.for_model("gpt2").save_pretrained(model)
    AutoTokenizer.from_pretrained(model).save_pretrained(model)
    complaint = refuse("run", "model=local", f"model.path={model}", f"output={tmp_path / 'o'}")
    assert f"model.path={model}: no tokenizer there" in complaint


def test_a_task_that_makes_tokens_which_the_model_lacks(refuse, tmp_path):
    complaint = refuse(
        *("run", "task=previous_token", "corruption=previous", "model=nope", "model.d_vocab=20", "task.d_vocab=64"),
        "patching=heads",
        f"output={tmp_path / 'o'}",
    )
    assert "task=previous_token: makes token 63, but model=nope has only 0 to 19; give the task fewer" in complaint


@pytest.mark.parametrize("bos", ["maybe", "0", "null"])
def test_bos_is_there_or_not(refuse, tmp_path, bos):
    complaint = refuse(
        *("run", "task=previous_token", "corruption=previous", "model=nope", f"task.bos={bos}", "patching=heads"),
        f"output={tmp_path / 'o'}",
    )
    assert f"task.bos={'None' if bos == 'null' else bos}: give true or false" in complaint


def test_a_beginning_that_the_task_cannot_put_before_its_tokens(refuse, tmp_path):
    complaint = refuse(
        *("run", "task=previous_token", "corruption=previous", "model=mini", "model.prepend_bos=true"),
        f"output={tmp_path / 'o'}",
    )
    assert "because task=previous_token makes its own tokens" in complaint


def test_a_truncated_model(refuse, tmp_path):
    model = shutil.copytree(FOLDER, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    complaint = refuse("run", "model=local", f"model.path={model}", f"output={tmp_path / 'o'}")
    assert f"model.path={model}: cannot be loaded" in complaint
    assert not (tmp_path / "o").exists()


def test_a_model_that_diverged_fails_the_run_before_it_is_trained(small, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(FOLDER, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["transformer.ln_f.weight"][0] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *small, "model=local", f"model.path={model}", f"output={tmp_path / 'o'}"])
    assert stopped.value.code == 1
    assert "NaN or infinite numbers in 1 of its weights (transformer.ln_f.weight)" in capsys.readouterr().out
    assert not list((tmp_path / "o").rglob("*.safetensors"))


@pytest.mark.parametrize("command", ["status", "wait", "cancel", "logs", "report"])
def test_a_sweep_that_is_not_there(refuse, tmp_path, command):
    assert "no sweeps in this folder" in refuse(command, f"output={tmp_path}")
    assert "output=DIR" in refuse(command, "nope", f"output={tmp_path}")


def test_an_unknown_option(refuse, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "--fast"])
    assert stopped.value.code == 2
    assert "--fast: no such option" in capsys.readouterr().err


def test_a_full_disk_marks_the_run_as_failed_and_leaves_no_half_file(small, tmp_path, monkeypatch, capsys):
    """The third checkpoint does not fit. The message says so, existing files are whole, and a retry finishes."""
    output = tmp_path / "outputs"
    real, count = files._sync, [0]

    def sync(path):
        if ".safetensors" in path.name and "checkpoints" in str(path):
            count[0] += 1
            if count[0] == 3:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path)

    arguments = ["run", *small, f"output={output}"]
    monkeypatch.setattr(files, "_sync", sync)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 1
    assert "disk full while writing" in capsys.readouterr().out
    (run,) = (output / "runs").iterdir()
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert sorted(file.name for file in (run / "checkpoints").iterdir()) == ["000000.safetensors", "000002.safetensors"]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--retry"])
    assert stopped.value.code == 0


def test_a_truncated_table_is_named_by_the_report(capsys, small, tmp_path):
    output = tmp_path / "outputs"
    with pytest.raises(SystemExit):
        cli.main(["run", *small, f"output={output}"])
    (point,) = expand([*small, f"output={output}"])
    table = plan.folders_of(point)[1].table(4)
    table.write_bytes(table.read_bytes()[:100])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", f"output={output}"])
    assert stopped.value.code == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"warning: cannot read {table} (")
    assert complaint.count("\n") == 1
    assert "delete it and run the sweep again" in complaint
    table.unlink()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *small, f"output={output}"])
    assert stopped.value.code == 0


def test_a_second_process_on_the_same_sweep(refuse, small, tmp_path):
    output = tmp_path / "outputs"
    (point,) = expand([*small, f"output={output}"])
    folder, _ = plan.folders_of(point)
    code = f"""
import sys
from pathlib import Path
from mi_sweeps.store.folders import RunFolder
folder = RunFolder(Path({str(folder.path)!r}))
with folder.claim(), folder.attempt():
    print("claimed", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        complaint = refuse("run", *small, f"output={output}")
        other.kill()
    assert f"process {other.pid} on" in complaint
    assert "mi-sweeps wait" in complaint
    assert not (folder.path / "checkpoints").exists()


def test_show_with_a_word_that_it_does_not_know(refuse):
    assert "outptu=o: show takes one id of a run or patch job, and output=DIR" in refuse("show", "abc", "outptu=o")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["from=1"], "zoom: no to=STEP; for example `mi-sweeps zoom RUN from=64 to=96 every=1`"),
        (["to=3"], "zoom: no from=STEP"),
        (["from=3", "to=1"], "from=3 to=1 every=1: no steps in this range"),
        (["from=1", "to=3", "every=0"], "every=0: no steps in this range; give from ≤ to and every ≥ 1"),
        (["from=-1", "to=3"], "from=-1: not 0 or a positive number of steps"),
        (["from=1", "to=3.5"], "to=3.5: not 0 or a positive number of steps"),
        (["from=0", "to=99999999"], "more than 100000 checkpoints; give a larger every"),
        (["from=1", "to=3", "optim.lr=1"], "optim.lr=1: zoom takes a run, from=STEP, to=STEP"),
        (["from=1", "to=3"], "the run is not done (todo); see `mi-sweeps status"),
        (["from=1", "to=3", "abc"], "zoom: give one id of a run or patch job"),
    ],
)
def test_a_zoom_into_nothing(refuse, one_run, words, says):
    (run_id,) = {entry.run_id for entry in manifest.load(one_run, "default")}
    before = sorted(one_run.rglob("*"))
    assert says in refuse("zoom", run_id, *words, f"output='{one_run}'")
    assert sorted(one_run.rglob("*")) == before


@pytest.mark.parametrize("command", ["logs", "show"])
def test_a_hint_in_an_error_can_be_pasted(refuse, one_run, command):
    complaint = refuse(command, "0123456789ab", f"output='{one_run}'")
    pasted = shlex.split(complaint.split("`")[1])
    assert pasted == ["mi-sweeps", "status", "--points", f"output='{one_run}'"]


@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_a_folder_is_printed_by_its_exact_name(capsys, one_run, monkeypatch, command):
    """[b] is no markup, and :fire: no picture."""
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr("mi_sweeps.doctor.PACKAGES", ())
    with pytest.raises(SystemExit):
        cli.main([command, f"output='{one_run}'"])
    assert str(one_run) in capsys.readouterr().out


def test_a_key_that_a_choice_lacks_is_reported_without_mentioning_a_sweep(refuse):
    one = refuse("plan", "schedule=constant", "schedule.warmup=0.1")
    assert "schedule=constant has no such key; `mi-sweeps plan --config`" in one
    several = refuse("plan", "schedule=constant,linear_warmup", "schedule.warmup=0.1")
    assert "run those separately" in several


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no folder of results; give one, or --prompt-sd, --gap and --gap-sd, or --discordant"),
        (["nowhere"], "no output folder at nowhere"),
        (["{output}"], "no patch job of heads (site z) tells prompts apart; run a small sweep first"),
        (["{output}", "zilch"], "no sweep named zilch"),
        (["{output}", "--prompt-sd", "0.1"], "--prompt-sd: that is estimated from"),
        (["--seed-sd", "0.1"], "--seed-sd: give --prompt-sd too"),
        (["--gap", "0", "--gap-sd", "1"], "--gap and --gap-sd: give both, and a gap that is not 0"),
    ],
)
def test_what_no_number_of_prompts_follows_from(one_run, capsys, arguments, says):
    assert power.main([argument.format(output=one_run) for argument in arguments]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ") and says in complaint and complaint.count("\n") == 1

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
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand


@pytest.fixture(scope="module")
def one_run(small, tmp_path_factory):
    """A folder of results whose sweep was planned and not begun."""
    output = tmp_path_factory.mktemp("planned") / "a [b] :fire: c,d"
    manifest.add(output, "default", expand([*small, f"output='{output}'"]), "mi-sweeps run")
    return output


@pytest.mark.parametrize("command", ["export FILE/x", "report --to FILE/x.html"])
def test_a_place_that_cannot_be_made_is_named_without_our_own_files(refuse, one_run, command):
    file = one_run / "sweeps" / "default" / "sweep.json"
    words = [word.replace("FILE", str(file)) for word in command.split()]
    complaint = refuse(*words, f"output='{one_run}'")
    assert str(file) in complaint and ".py, line" not in complaint


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

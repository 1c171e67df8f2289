"""What must not leave the machine, or run on it: secrets in the environment, and code that comes with a model."""

from __future__ import annotations

import json
import shutil

import pytest
import wandb

from mi_sweeps import cli
from mi_sweeps.models.mini import FOLDER

KEYS = {"WANDB_API_KEY": "canary" + 34 * "1", "HF_TOKEN": "hf_canary" + 28 * "2"}


def call(*words: object) -> object:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    return stopped.value.code


def test_no_key_of_the_environment_is_written_anywhere(small, tmp_path, monkeypatch, capsys):
    """Not by a run, its mirror, the page or the tables, nor said by any of them; nor by wandb."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # It looks at the environment once.
    output = f"output={tmp_path / 'outputs'}"
    try:
        assert call("run", *small, "tracking=wandb", "patching.steps=[4]", output) == 0
    finally:
        wandb.teardown()
    assert call("plan", "--config", *small, output) == 0
    for command in (["report"], ["export", tmp_path / "tables"], ["logs"], ["doctor"]):
        assert call(*command, output) == 0
    printed = capsys.readouterr()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"report.html", "sweep.json", "run.json", "log.txt", "runs.parquet"} <= {file.name for file in files}
    assert any(file.suffix == ".wandb" for file in files)
    for text in (printed.out.encode(), printed.err.encode(), *(file.read_bytes() for file in files)):
        assert b"canary" not in text


CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
"""


@pytest.mark.parametrize("kind", ["strange", "llama"])
def test_code_that_comes_with_a_model_is_not_run(small, tmp_path, monkeypatch, capsys, kind):
    """Nor is anybody asked whether it shall be, which would hold up a worker."""
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("somebody was asked"))
    model, mark = shutil.copytree(FOLDER, tmp_path / "model"), tmp_path / "it-was-run"
    (model / "own.py").write_text(CODE.format(mark=str(mark)))
    for name, what in (("config", "AutoConfig"), ("tokenizer_config", "AutoTokenizer")):
        values = json.loads((model / f"{name}.json").read_text())
        own = "own.Config" if name == "config" else ["own.Tokenizer", "own.Tokenizer"]
        values["auto_map"] = {what: own, **({"AutoModelForCausalLM": "own.Model"} if name == "config" else {})}
        if name == "config" and kind == "strange":
            values["model_type"] = "strange"
        (model / f"{name}.json").write_text(json.dumps(values))
    code = call("run", *small, "patching.steps=[4]", "model=local", f"model.path={model}", f"output={tmp_path / 'o'}")
    assert not mark.exists()
    if kind == "strange":
        assert code in (1, 2)
        assert capsys.readouterr().err.count("\n") <= 1
    else:  # transformers has its own code for it.
        assert code == 0

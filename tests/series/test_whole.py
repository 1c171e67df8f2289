"""The output of Hugging Face's Trainer, as a series from the plan to the page: full weights, and LoRA adapters."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from mi_sweeps import cli
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store.files import read_table
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks.load import load
from tests.series.conftest import FEW


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    return int(ended.value.code or 0)


def plain(folder, kind):
    """The model as somebody would load it who knows nothing of ours."""
    if kind == "full":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    return PeftModel.from_pretrained(copy.deepcopy(base), folder).merge_and_unload().eval()


@torch.no_grad()
def with_clean_z(model, pairs, head):
    """Logit differences of the corrupted prompts with one head of layer 2 as it is in the clean ones."""
    kept = []
    columns = slice(head * 16, head * 16 + 16)

    def put(module, given):
        if not kept:
            kept.append(given[0].clone())
            return given
        value = given[0].clone()
        value[..., columns] = kept[0][..., columns]
        return (value,)

    handle = model.transformer.h[2].attn.c_proj.register_forward_pre_hook(put)
    model(pairs.clean.tokens)
    found = pairs.logit_diff(pairs.at_end(model(pairs.corrupted.tokens).logits))
    handle.remove()
    return found


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.slow
def test_a_trainer_s_folders_are_planned_run_and_reported(trained, kind, tmp_path, capsys, mini_tokenizer):
    folders = tmp_path / "trained"
    shutil.copytree(trained / kind, folders)
    steps = [2, 4]
    if kind == "lora":  # What the adapters were put on.
        shutil.copytree(FOLDER, folders / "checkpoint-0")
        steps = [0, 2, 4]
    words = (
        *("model=series", f"model.path={folders}/checkpoint-{{step}}", f"model.tokenizer={FOLDER}"),
        *([f"model.base={FOLDER}"] if kind == "lora" else []),
        *("corruption=first,second", f"output={tmp_path}/outputs", *FEW),
    )
    assert command("plan", *words) == 0
    assert f"1 series of {len(steps)} checkpoints (1 to do), 2 patch jobs (2 to do)" in capsys.readouterr().out
    assert command("run", *words) == 0
    assert command("run", *words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert command("report", f"output={tmp_path}/outputs") == 0

    points = expand(list(words))
    for point in points:
        _, folder = planning.folders_of(point)
        pairs = load(point.config, mini_tokenizer).pairs(point.config.corruption.name, point.config.patching.prompts)
        for step in steps:
            model = plain(folders / f"checkpoint-{step}", kind if step else "full")
            rows = read_table(folder.table(step)).to_pylist()
            found = {row["head"]: row["by_prompt"] for row in rows if row["site"] == "z" and row["layer"] == 2}
            assert sorted(found) == [0, 1, 2, 3]
            for head, values in found.items():
                expected = with_clean_z(model, pairs, head)
                torch.testing.assert_close(torch.tensor(values), expected, atol=2e-5, rtol=0)


def test_keys_of_training_are_reported_to_change_nothing(written, tmp_path, capsys):
    words = ("model=series", f"model.path={written}/checkpoint-{{step}}", f"output={tmp_path}", *FEW)
    assert command("plan", *words, "optim.lr=1e-5", "checkpoint.steps=[0,8]", "seed=3") == 0
    assert capsys.readouterr().err == ("warning: optim.lr, seed: no effect, because a series is not trained\n")
    assert command("plan", *words, "checkpoint.steps=[0,8]") == 0
    assert command("plan", "optim.lr=1e-5", "seed=3", f"output={tmp_path}") == 0
    assert not capsys.readouterr().err

"""Two-name prompts in a run on three names: what is kept, and when that may be said."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from mi_sweeps import api
from mi_sweeps.analysis.columns import typed
from mi_sweeps.analysis.export import export
from mi_sweeps.analysis.findings.kept import kept
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.retention import RETENTION, retention, win_rates
from mi_sweeps.cli import main
from mi_sweeps.models.mini import FOLDER

from .planted import planted

HEAD = (2, 1)
"""That which carries most of the task."""
ALL_BUT_SAME, WITHOUT = 8, 16


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A series: `mini`; after steps with a rate of 1e-12; and with one head that writes nothing."""
    folder = tmp_path_factory.mktemp("kept")
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    model.save_pretrained(folder / "checkpoint-0")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-12 * ALL_BUT_SAME * parameter.sign())
    model.save_pretrained(folder / f"checkpoint-{ALL_BUT_SAME}")
    layer, head = HEAD
    size = model.config.n_embd // model.config.n_head
    with torch.no_grad():
        model.transformer.h[layer].attn.c_proj.weight[head * size : (head + 1) * size] = 0
    model.save_pretrained(folder / f"checkpoint-{WITHOUT}")
    words = [f"model.path={folder}/checkpoint-{{step}}", f"model.tokenizer={FOLDER}", f"output={folder}/outputs"]
    words += ["corruption=second", "patching=heads", "patching.sites=[z]", "patching.also=[ioi2]"]
    with pytest.raises(SystemExit) as ended, contextlib.chdir(folder):
        main(["run", "model=series", *words, "task.prompts={train:24,heldout:48,two_name:0}"])
    assert not ended.value.code
    return folder / "outputs"


@pytest.fixture(scope="module")
def found(output) -> pd.DataFrame:
    return retention(load(output))


def at(found, step, what="head"):
    return found[(found["step"] == step) & (found["what"] == what)]


@pytest.mark.slow
def test_it_is_of_the_other_task_alone(found):
    assert set(found["task"]) == {"ioi2"}
    assert set(found["corruption"]) == {"ioi2-first"}
    assert set(found["since"]) == {0}
    assert set(found["step"]) == {ALL_BUT_SAME, WITHOUT}


@pytest.mark.slow
def test_where_nothing_was_learned_all_is_kept(found):
    assert set(at(found, ALL_BUT_SAME)["verdict"]) == {"kept"}
    assert len(at(found, ALL_BUT_SAME)) == 16
    (rate,) = at(found, ALL_BUT_SAME, "win rate").to_dict("records")
    assert (rate["verdict"], rate["difference"], rate["p"], rate["n"]) == ("kept", 0.0, 1.0, 240)
    assert rate["low"] < 0 < rate["high"]


@pytest.mark.slow
def test_a_head_that_writes_nothing_any_more_is_lost(found):
    heads = at(found, WITHOUT).set_index(["layer", "head"])
    assert heads.loc[HEAD, "verdict"] == "lost"
    assert (heads["verdict"] == "lost").sum() == 1
    assert heads.loc[HEAD, "before"] > 0.5


@pytest.mark.slow
def test_win_rates_are_those_of_each_prompt(output, found):
    """As the model itself answers them."""
    (run,) = api.open(output).runs["run_id"]
    pairs = api.open(output).run(run).pairs("ioi2-first", 240)
    tokenizer = api.open(output).run(run).tokenizer
    model = api.open(output).run(run).model(WITHOUT)
    with torch.no_grad():
        logits = model(pairs.clean.tokens).logits[torch.arange(240), pairs.clean.end]
    won = [
        tokenizer.decode([token]).strip() == prompt.answer
        for token, prompt in zip(logits.argmax(dim=1).tolist(), pairs.clean.prompts, strict=True)
    ]
    (rate,) = at(found, WITHOUT, "win rate").to_dict("records")
    assert rate["after"] == pytest.approx(sum(won) / 240)
    assert rate["verdict"] == ("lost" if rate["difference"] < -0.1 else "kept")


@pytest.mark.slow
def test_it_is_exported_and_read_from_python(output, found, tmp_path):
    files = export(output, tmp_path)
    kept = pd.read_parquet(next(file for file in files if file.stem == "retention"))
    pd.testing.assert_frame_equal(kept, found, check_dtype=False)
    pd.testing.assert_frame_equal(api.open(output).retention, found)


@pytest.mark.slow
def test_few_prompts_keep_nothing(output):
    """For want of a difference nothing is kept: of six prompts, not even where nothing changed."""
    from mi_sweeps.analysis.inference.families import jobs

    frames = load(output)
    (job,) = jobs(frames.output, frames.runs, frames.patches[frames.patches["task"] == "ioi2"]["patch_id"])
    few = {step: won[:48] for step, won in job.wins.items()}
    assert win_rates([replace(job, wins=few)])["verdict"][0] == "cannot tell"


def test_a_run_that_lost_some_prompts_by_chance_is_not_lost_among_many():
    """8 of 100 lost and 1 gained: p = 0.04, in one of five runs whose others did not change."""
    won = np.arange(100) < 80
    worse = won.copy()
    worse[:8], worse[80] = False, True
    (job,) = planted(np.zeros((2, 1))).jobs
    five = [replace(job, wins={0: won, 8: worse if at == 2 else won}) for at in range(5)]
    assert win_rates(five[2:3])["verdict"].tolist() == ["lost"]
    rows = win_rates(five)
    assert rows["verdict"].tolist() == ["kept", "kept", "cannot tell", "kept", "kept"] and rows["p"][2] < 0.05
    of = {"setting": "all", "patching": "heads", "corruption": "ioi2-first", "task": "ioi2"}
    (said,) = kept(typed(rows.assign(**of, run_id=[f"r{at}" for at in range(5)]), RETENTION))
    assert said.verdict == "cannot tell" and "kept in 4, cannot tell in 1 of 5 runs" in said.statement


def test_tables_of_before_tell_nothing(make_output):
    assert retention(load(make_output(by_prompt=True))).empty
    output = make_output(by_prompt=True, corruptions=("ioi2-first",), sweep="other", seeds=(5,))
    for file in output.glob("runs/*/patches/*ioi2-first/patch.json"):
        about = json.loads(file.read_text())
        about["config"]["patching"]["task"] = {"name": "ioi2"}
        file.write_text(json.dumps(about))
    found = retention(load(output))
    assert set(found["what"]) == {"head"}, "without wins by prompt"

"""`import mi_sweeps` does and shows what the command line does, as Python values."""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import mi_sweeps as mi
from mi_sweeps.analysis import frames as analysis_frames
from mi_sweeps.analysis.agreement import tables as agreement
from mi_sweeps.analysis.inference import tables as inferred
from mi_sweeps.api import output as output_module
from mi_sweeps.api import run as run_module
from mi_sweeps.api import sweep as sweep_module
from mi_sweeps.commands import common
from mi_sweeps.jobs import execute as executing
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps.grid import expand


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A folder of results, made from Python."""
    output = tmp_path_factory.mktemp("finished")
    out = mi.plan(*small, "seed=0,1", "corruption=first,second", f"output={output}").run()
    assert out.runs["status"].tolist() == ["done", "done"]
    return output


@pytest.fixture
def out(finished):
    return mi.open(finished)


@pytest.fixture
def run(out):
    return out.select(seed=0).run()


def test_the_package_is_light_until_it_is_used():
    code = (
        "import mi_sweeps, sys; print(mi_sweeps.__version__, {'torch', 'pandas', 'hydra', 'rich'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == f"{mi.__version__} set()\n"
    assert {*mi.__all__} <= {*dir(mi)}
    with pytest.raises(AttributeError, match="module 'mi_sweeps' has no attribute 'zilch'"):
        mi.zilch  # noqa: B018


@pytest.mark.parametrize("module", [output_module, sweep_module, run_module])
def test_the_examples_of_the_docstrings(module, finished):
    names = {"finished": finished, "open": mi.open, "plan": mi.plan}
    found = [test for test in doctest.DocTestFinder().find(module, globs=names) if test.examples]
    assert found
    for test in found:
        result: list[str] = []
        failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=result.append).failed
        assert not failed, "".join(result)


def test_tables_are_those_of_the_analysis(out, finished, run):
    theirs = analysis_frames.load(finished)
    for name in ("runs", "patches", "metrics", "attribution", "patching", "paths", "measures"):
        pd.testing.assert_frame_equal(getattr(out, name), getattr(theirs, name))
    pd.testing.assert_frame_equal(out.verdicts, inferred.verdicts(theirs))
    pd.testing.assert_frame_equal(out.courses, inferred.courses_of(theirs))
    for name, table in agreement.of_frames(theirs).items():
        pd.testing.assert_frame_equal(getattr(out, name), table)
    assert set(run.patching["run_id"]) == {run.id}
    assert set(out.by_prompt("z")["site"]) == {"z"}
    assert [one.id for one in out] == out.runs["run_id"].tolist()


def test_names_are_given_one_by_one_or_as_a_list(out, finished):
    assert mi.open(finished, ["default"]).runs.equals(mi.open(finished, "default").runs)
    assert set(out.by_prompt(["z"])["site"]) == set(out.by_prompt("z")["site"]) == {"z"}
    assert repr(mi.plan(["sweep=demo", "seed=0"], "launcher=inline")) == repr(
        mi.plan("sweep=demo", "seed=0", "launcher=inline")
    )


def test_what_is_damaged_is_left_out_and_warned_of(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    (table, *_) = sorted(folder.glob("runs/*/patches/*/tables/*"))
    table.write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match=f"cannot read {table}"):
        assert len(mi.open(folder).patching) < len(mi.open(finished).patching)


@pytest.mark.parametrize(
    ("wanted", "seeds"),
    [
        ({"seed": 1}, [1]),
        ({"seed": {0, 1}, "lr": 1e-4, "model": "mini"}, [0, 1]),
        ({"optim.lr": lambda lr: lr < 1, "seed": range(1)}, [0]),
        ({"optim.betas": [0.9, 0.999]}, [0, 1]),
        ({}, [0, 1]),
    ],
)
def test_runs_are_found_by_what_they_are(out, wanted, seeds):
    assert out.select(**wanted).runs["seed"].tolist() == seeds


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda out: out.select(seed=7), "select seed=7: no run has it; there are: 0, 1"),
        (lambda out: out.select(sed=7), "select sed: not a column of `runs`"),
        (lambda out: out.run("zz"), "zz: no such run; `runs` lists those of"),
        (lambda out: out.run(), "2 runs match, "),
        (lambda out: out.picture("zilch"), "zilch: no such picture of these runs; there are: win-rate, "),
        (lambda out: out.select(seed=0).run().pairs("zilch"), "corruption=zilch: "),
        (lambda out: out.select(seed=0).run().zoom(3, 1), "no steps in this range"),
        (lambda out: mi.open(out.path / "zilch"), "no output folder at"),
        (lambda out: mi.open(out.path, "zilch"), "no sweep named zilch in"),
        (lambda out: mi.plan("demo"), "demo: not KEY=VALUE; for example sweep=demo"),
        (lambda out: mi.plan("optim.lr=-1"), "optim.lr=-1: give a number above 0"),
        (lambda out: mi.plan(config_dir="/zilch"), "--config-dir /zilch: no such folder"),
    ],
)
def test_what_is_wrong_is_one_line(out, ask, says):
    with pytest.raises(mi.UserError) as error:
        ask(out)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there(run):
    with pytest.raises(mi.UserError, match="no CUDA device"):
        run.model(4, device="cuda")


def test_the_model_of_a_checkpoint_is_what_was_kept(run):
    first, last = run.model(0), run.model(4)
    for step, model in ((0, first), (4, last)):
        kept = load_file(run.path / "checkpoints" / f"{step:06d}.safetensors")
        assert all(torch.equal(kept[name], value) for name, value in model.named_parameters())
    assert not torch.equal(first.lm_head.weight, last.lm_head.weight)
    assert not last.training
    tokens = run.pairs("second").clean.tokens
    with torch.no_grad():
        assert torch.allclose(run.bridge(4)(tokens), run.model(4)(tokens).logits, atol=1e-3)


def test_a_model_that_changed_since_is_refused(small, tmp_path):
    """Of a difference to the base model, other weights than the run's would be made without a word."""
    model = shutil.copytree(FOLDER, tmp_path / "model")
    given = (f"model.path={model}", "checkpoint.storage=delta", "train.steps=1", "patching.steps=[0]")
    run = mi.plan(*small, *given, f"output={tmp_path / 'outputs'}").run().run()
    base = load_file(FOLDER / "model.safetensors")["transformer.wte.weight"]
    assert torch.allclose(run.model(1).transformer.wte.weight, base, atol=1e-2)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "changed": 1}))
    with pytest.raises(mi.UserError, match="have changed since"):
        mi.open(tmp_path / "outputs").run().model(1)


def test_a_model_from_nothing_has_no_bridge(tmp_path):
    tiny = "model=nope task=previous_token corruption=previous model.d_model=16 model.heads=2 model.d_head=8"
    more = "task.d_vocab=12 task.length=8 task.heldout=16 train.steps=2 train.batch_size=4 patching=heads"
    run = mi.plan(*tiny.split(), *more.split(), f"output={tmp_path}").run().run()
    assert run.tokenizer is None
    assert run.model(2).config.model_type == "nope"
    assert len(run.pairs("previous", 3).clean) == 3
    with pytest.raises(mi.UserError, match="model=nope: TransformerLens does not support it"):
        run.bridge(2)


def test_pairs_are_those_of_the_patch_job(run):
    (job,) = (
        about
        for about in (json.loads(file.read_text()) for file in run.path.glob("patches/*/patch.json"))
        if about["corruption"] == "second"
    )
    pairs = run.pairs("second")
    assert [one.text for one in pairs.clean.prompts] == [one["clean"] for one in job["prompts"]]
    assert [one.text for one in pairs.corrupted.prompts] == [one["corrupted"] for one in job["prompts"]]


@torch.no_grad()
def test_a_head_patched_by_hand_is_in_the_table(run):
    """With hooks of one's own on the Hugging Face model: z of head 2.1 from the clean run into the corrupted one."""
    model, pairs = run.model(4), run.pairs("second")
    width = model.config.n_embd // model.config.n_head
    seen = {}

    def keep(module, given):
        seen["z"] = given[0].clone()

    def put(module, given):
        given[0][..., width : 2 * width] = seen["z"][..., width : 2 * width]

    def logit_diff(tokens, hook):
        handle = model.transformer.h[2].attn.c_proj.register_forward_pre_hook(hook)
        logits = model(tokens).logits
        handle.remove()
        return pairs.logit_diff(pairs.at_end(logits)).mean().item()

    clean, patched = logit_diff(pairs.clean.tokens, keep), logit_diff(pairs.corrupted.tokens, put)
    (row,) = run.patching.query(
        "corruption == 'second' and site == 'z' and layer == 2 and head == 1 and step == 4"
    ).itertuples()
    assert (row.clean, row.patched) == pytest.approx((clean, patched), abs=1e-4)


def test_a_notebook_shows_runs_plans_pages_and_pictures(out, run, capsys):
    shown = out._repr_html_()
    assert run.id in shown and "<table" in shown and "2 runs in" in shown
    assert "host" not in shown
    run.show(step=0)
    assert f"run {run.id}" in capsys.readouterr().out
    text = run._repr_html_()
    assert text.startswith("<pre") and f"run {run.id}" in text and "corruption" in text
    assert capsys.readouterr().out == ""
    assert set(run.pictures) >= {"win-rate", "lens", "heads-second", "heads-difference", "dynamics"}
    picture = run.picture("heads-second")
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert run.id in picture.source.runs


def test_a_notebook_is_printed_to_without_bars_that_move(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # As its kernel has it.
    made = common.console()
    assert not made.is_terminal and not made.is_jupyter
    made.print("[x] line")
    assert capsys.readouterr().out == "[x] line\n"


def test_the_report_is_of_the_runs_that_were_selected(out, tmp_path):
    chosen = out.select(seed=0)
    other = out.select(seed=1).run().id
    page = chosen.report()
    assert page._repr_html_().startswith("<iframe srcdoc=")
    text = page.save(tmp_path / "page.html").read_text()
    assert chosen.run().id in text and other not in text


def test_a_plan_is_the_command_s(finished, small):
    words = [*small, "seed=0,1,2", "corruption=second", f"output={finished}"]
    plan = mi.plan(*words)
    assert repr(plan) == "sweep default: 3 fine-tunes (2 done, 1 to do), 3 patch jobs (2 done, 1 to do)"
    assert plan.points["patch_id"].tolist() == [point.patch_id for point in expand(words)]
    assert plan.points["run"].tolist() == ["done", "done", "todo"]
    assert plan.points["seed"].tolist() == ["0", "1", "2"]
    assert "3 fine-tunes (2 done, 1 to do)" in plan._repr_html_()


def test_what_fails_is_no_result(finished, small, tmp_path, monkeypatch):
    def broken(*given, **named):
        raise ValueError("broken")

    monkeypatch.setattr(executing, "patch", broken)
    plan = mi.plan(*small, "train.steps=1", "patching.steps=[0]", f"output={tmp_path}")
    with pytest.raises(RuntimeError, match="sweep default: not everything is done"):
        plan.run()
    (point,) = plan._points
    folder = Folder(tmp_path / "runs" / point.run_id / "patches" / point.patch_id)
    with folder.claim():
        folder.fail("broken", "error")
    with pytest.raises(RuntimeError, match="sweep default: failed patch job .*: broken"):
        plan.run()
    monkeypatch.undo()
    assert plan.run(retry="error").runs["status"].tolist() == ["done"]
    command = json.loads((tmp_path / "sweeps" / "default" / "sweep.json").read_text())["command"]
    assert command.startswith("mi-sweeps run task.prompts.train=24 ")


def test_a_zoom_is_a_plan(finished, tmp_path):
    out = mi.open(shutil.copytree(finished, tmp_path / "copy"))
    run = out.select(seed=0).run()
    plan = run.zoom(1, 1, 1, "corruption=second")
    assert repr(plan) == f"sweep zoom-{run.id}: 1 fine-tune (1 to do), 1 patch job (1 to do)"
    zoomed = plan.run().run()
    assert zoomed.about["zoom"]["of"] == run.id
    assert set(zoomed.patching["step"]) == {1}

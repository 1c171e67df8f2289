"""A run is trained again with more checkpoints and shown to be the same, or the zoom is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mi_sweeps import cli
from mi_sweeps.jobs.execute import execute
from mi_sweeps.jobs.finetune import training_turns
from mi_sweeps.store.endings import Interrupted
from mi_sweeps.store.files import read_json, read_table, write_json
from mi_sweeps.store.folders import RunFolder, run_folder
from mi_sweeps.sweeps import manifest, quick_checks, zoom
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.training import checkpoints
from mi_sweeps.training.loop import train_step

TINY = (
    "model=nope",
    "task=previous_token",
    "corruption=previous,bos",
    "model.d_model=16",
    "model.heads=2",
    "model.d_head=8",
    "task.d_vocab=12",
    "task.length=8",
    "task.heldout=16",
    "train.batch_size=8",
    "train.steps=12",
    "checkpoint.every=4",
    "checkpoint.steps=[]",
    "schedule=cosine",
    "optim.lr=1e-2",
    "patching=heads",
    "patching.prompts=4",
)
"""A run whose learning rate depends on all of its steps, wherever it ends; it takes milliseconds."""


def made(output, *overrides, of=TINY, stages=("finetune", "patch")):
    """The points of a sweep that is done."""
    points = expand([*of, *overrides, f"output={output}"])
    assert not execute(points, stages=stages).failed
    manifest.add(output, "default", points, "mi-sweeps run")
    return points


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    made(output)
    return output


@pytest.fixture
def output(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "outputs")


@pytest.fixture
def call(capsys):
    """Runs a command; gives the exit code, what it printed and what it complained of."""

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


def only_run(output):
    (path,) = (output / "runs").iterdir()
    return RunFolder(path)


def zoomed_of(output, run):
    """The run that was zoomed into another."""
    (path,) = (
        path
        for path in (output / "runs").iterdir()
        if read_json(path / "run.json")["config"]["checkpoint"]["zoom_of"] == run.run_id
    )
    return RunFolder(path)


def weights(run, step):
    return load_file(run.checkpoint(step))


def assert_equal_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("nope", "checkpoint.storage=full"), ("mini", "checkpoint.storage=delta"), ("mini", "train.method=lora")],
)
def test_a_zoom_has_the_checkpoints_that_a_run_with_all_of_them_has(call, small, tmp_path, model, kind):
    of = (*small, "train.steps=9", "schedule=cosine") if model == "mini" else TINY
    stages = ("finetune",) if model == "mini" else ("finetune", "patch")
    made(tmp_path / "some", kind, "checkpoint.every=4", "patching.steps=[4]", of=of, stages=stages)
    made(tmp_path / "all", kind, "checkpoint.every=1", "patching.steps=[5,6,7]", of=of, stages=stages)
    run, reference = only_run(tmp_path / "some"), only_run(tmp_path / "all")

    code, printed, _ = call("zoom", run.run_id[:6], "from=5", "to=7", f"output={tmp_path / 'some'}")
    assert code == 0
    zoomed = zoomed_of(tmp_path / "some", run)
    for step in (5, 6, 7):
        assert_equal_weights(weights(zoomed, step), weights(reference, step))
    assert not zoomed.checkpoint(9).exists()  # It ended at the first checkpoint of the run at or after 7.
    hashes = {str(step): checkpoints.checksum(run.checkpoint(step)) for step in (0, 4, 8)}
    assert read_json(zoomed.path / "run.json")["zoom"] == {"of": run.run_id, "same": hashes}
    result = f"run {zoomed.run_id} equals run {run.run_id}: the stored weights are the same at all 3 shared checkpoints"
    assert result in printed
    jobs = 1 if model == "mini" else 2
    assert f"sweep zoom-{run.run_id}: 1 fine-tune (1 to do), {jobs} patch job" in printed
    if model == "mini":
        return

    of = {read_json(path / "patch.json")["corruption"]: path for path in (reference.path / "patches").iterdir()}
    ours = {read_json(path / "patch.json")["corruption"]: path for path in (zoomed.path / "patches").iterdir()}
    assert ours.keys() == of.keys()
    for corruption, path in ours.items():
        assert sorted(file.stem for file in (path / "tables").iterdir()) == ["000005", "000006", "000007"]
        assert read_table(path / "tables" / "000006.parquet") == read_table(
            of[corruption] / "tables" / "000006.parquet"
        )

    code, printed, _ = call("zoom", run.run_id, "from=5", "to=7", f"output={tmp_path / 'some'}")
    assert code == 0
    assert "nothing to do: 1 fine-tune (1 done), 2 patch jobs (2 done)" in printed
    assert result in printed


def test_a_zoom_is_a_run_like_any_other(call, output):
    run = only_run(output)
    call("zoom", run.run_id, "from=5", "to=7", "every=2", "corruption=previous", f"output={output}")
    zoomed = zoomed_of(output, run)
    code, printed, _ = call("status", f"zoom-{run.run_id}", f"output={output}")
    assert code == 0
    assert "1 fine-tune (1 done), 1 patch job (1 done)" in printed
    assert sorted(path.name for path in zoomed.path.glob("patches/*/tables/*")) == ["000005.parquet", "000007.parquet"]
    code, printed, _ = call("show", zoomed.run_id, f"output={output}")
    assert code == 0
    assert f"equals run {run.run_id}: the stored weights are the same at all 3 shared checkpoints" in printed
    assert call("report", f"output={output}")[0] == 0
    page = (output / "report.html").read_text()
    assert zoomed.run_id in page
    # A zoom is no second seed of the run's own point.
    assert "until 8" in page
    code, _, complaint = call("zoom", zoomed.run_id, "from=1", "to=2", f"output={output}")
    assert code == 2 and complaint.endswith(f"is itself a zoom into run {run.run_id}; zoom into {run.run_id}\n")


def test_a_stacked_run_is_trained_in_its_stack(call, tmp_path):
    """What a run is trained together with rounds its sums: alone it has other bits."""
    output = tmp_path / "outputs"
    made(output, "corruption=previous", "seed=0,1,2", "launcher.stack=3")
    runs = [RunFolder(path) for path in (output / "runs").iterdir()]
    code, printed, _ = call("zoom", runs[1].run_id, "from=5", "to=6", f"output={output}")
    assert code == 0
    assert "3 fine-tunes (3 done)" in printed
    for run in runs:
        zoomed = zoomed_of(output, run)
        assert f"run {zoomed.run_id} equals run {run.run_id}: the stored weights are the same" in printed
        assert_equal_weights(weights(zoomed, 8), weights(run, 8))


def nudge(file, name="transformer.h.1.attn.c_proj.weight"):
    """Another number in a checkpoint that is whole."""
    tensors, metadata = checkpoints._load(file)
    name = name if name in tensors else min(tensors)
    tensors[name].view(-1)[0] += 0.5
    checkpoints._save(file, tensors, "storage", metadata["storage"])


def test_another_run_is_reported_with_its_first_differing_step(call, output):
    run = only_run(output)
    nudge(run.checkpoint(4))
    nudge(run.checkpoint(8))
    code, printed, _ = call("zoom", run.run_id, "from=1", "to=7", f"output={output}")
    assert code == 1
    assert f"zoom: step 4: weights differ by up to 5.0e-01: this is not run {run.run_id}" in printed
    assert " is run " not in printed
    assert "try again with `mi-sweeps zoom … --retry`" in printed
    zoomed = zoomed_of(output, run)
    assert zoomed.status().state == "failed"
    assert sorted(file.name for file in (zoomed.path / "checkpoints").iterdir()) == [
        f"{step:06d}.safetensors" for step in range(4)
    ]
    assert list(read_json(zoomed.path / "run.json")["zoom"]["same"]) == ["0"]
    assert not list(zoomed.path.glob("patches/*/tables/*"))


def test_an_interrupted_zoom_goes_on_and_keeps_its_proof(output):
    run = only_run(output)
    (point, _) = zoom.points(run, output, ["from=5", "to=7"])
    zoomed = run_folder(output, point.run_id)

    def interrupt(step):
        if step == 6:
            raise Interrupted

    turns = training_turns(point.config, zoomed, needed=(), on_step=interrupt)
    with pytest.raises(Interrupted):
        for one in turns:
            if one is not None:
                train_step(one, one.batch())
    assert list(read_json(zoomed.path / "run.json")["zoom"]["same"]) == ["0", "4"]
    assert not execute([point]).failed
    assert list(read_json(zoomed.path / "run.json")["zoom"]["same"]) == ["0", "4", "8"]


def test_the_last_checkpoint_is_compared_or_nothing_is_shown(output):
    run = only_run(output)
    (point, _) = zoom.points(run, output, ["from=5", "to=7"])
    run.checkpoint(8).unlink()
    (task, error), *_ = execute([point]).failed.values()
    assert "000008.safetensors: gone, but only it can show that this is the same run" in error
    # What was deleted before is not counted on: the next one is.
    (point, _) = zoom.points(run, output, ["from=5", "to=7"])
    assert point.config.last_step == 12
    assert not execute([point]).failed


def test_a_zoom_that_diverges_where_its_run_did_not_is_no_result(output, monkeypatch):
    run = only_run(output)
    (point, _) = zoom.points(run, output, ["from=5", "to=7"])
    loss = torch.nn.functional.cross_entropy
    monkeypatch.setattr("torch.nn.functional.cross_entropy", lambda *given, **named: loss(*given, **named) * torch.nan)
    (task, error), *_ = execute([point]).failed.values()
    assert "but that run did not: this is not run" in error


def diverge(run):
    about = read_json(run.path / "status.json")
    write_json(run.path / "status.json", {**about, "diverged": 7})


@pytest.mark.parametrize(
    ("change", "words", "says"),
    [
        (None, "from=10 to=13", "it ends at step 12; give to=12 or less"),
        (None, "from=4 to=8 every=4", "it already has all these checkpoints; give a smaller every"),
        (diverge, "from=5 to=6", "it diverged at step 7 and has no checkpoint at or after 6; give to=4 or less"),
        (lambda run: run.checkpoint(12).unlink(), "from=9 to=11", "its weights at step 12 and later were deleted"),
        (None, "from=5 to=6 corruption=zilch", "corruption=zilch: no such choice"),
        (None, "from=5 to=6 corruption=first", "corruption=first: task=previous_token has no such corruption"),
        (None, "from=5 to=6 launcher.gpus=1", "launcher.gpus: "),
    ],
)
def test_what_cannot_be_zoomed_into_is_refused_before_anything_is_written(call, output, change, words, says):
    run = only_run(output)
    if change:
        change(run)
    before = sorted(output.rglob("*"))
    code, _, complaint = call("zoom", run.run_id, *words.split(), f"output={output}")
    assert code == 2
    assert says in complaint and complaint.count("\n") == 1
    assert sorted(output.rglob("*")) == before


def test_a_run_before_it_diverged_can_be_zoomed_into(call, output):
    run = only_run(output)
    diverge(run)
    assert call("zoom", run.run_id, "from=2", "to=3", f"output={output}")[0] == 0
    assert read_json(zoomed_of(output, run).path / "run.json")["zoom"]["same"].keys() == {"0", "4"}


def test_threads_and_launcher_are_the_runs_own_or_given(output):
    run = only_run(output)
    (point, _) = zoom.points(run, output, ["from=5", "to=7", "launcher=slurm", "launcher.gpus=1", "sweep.name=close"])
    launcher = point.config.launcher
    assert (launcher.name, launcher.gpus, point.config.sweep.name) == ("slurm", 1, "close")
    (point, _) = zoom.points(run, output, ["from=5", "to=7"])
    assert point.config.launcher.name == "inline"


def test_a_full_run_of_a_sweep_with_adapters_can_be_zoomed_into():
    """Its configuration has the rank that was given for the others."""
    (point,) = expand(["train.lora.rank=4"])
    checkpoint = {**point.values["checkpoint"], "zoom_of": point.run_id}
    quick_checks.check([replace(point, values={**point.values, "checkpoint": checkpoint})])


def test_two_zooms_that_differ_in_nothing_but_the_seed_are_one_setting():
    from mi_sweeps.analysis.configs import names

    configs = [
        {"seed": seed, "checkpoint": {"every": 4, "steps": steps, "until": until, "zoom_of": of}}
        for seed, steps, until, of in ((0, [], None, None), (0, [5], 8, "a"), (1, [5], 8, "b"))
    ]
    del configs[0]["checkpoint"]["until"], configs[0]["checkpoint"]["zoom_of"]  # As runs of before have it.
    assert names(configs) == ["steps [], until null", "steps [5], until 8", "steps [5], until 8"]

"""What did not reach wandb is reported, with the command that fixes it."""

from __future__ import annotations

import pytest
import wandb

from mi_sweeps.config import wandb_name
from mi_sweeps.errors import UserError
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.tracking import unmirrored
from mi_sweeps.tracking.mirror import mirror

ROW = {"step": 0, "split": "heldout", "metric": "win_rate", "value": 0.5, "n": 2}


@pytest.fixture
def grid(small, output):
    return (*small, "corruption=first,second", "sweep.name=mine", "tracking=wandb", f"output={output}")


@pytest.fixture
def point(call, grid, output):
    """Of the sweep, which is done and was asked for again, now with wandb."""
    assert call("run", *grid)[0] == 0
    return manifest.load(output, "mine")[0].point(output)


def test_a_failing_wandb_is_reported_until_track_fixes_it(call, point, output, monkeypatch):
    run, _ = plan.folders_of(point)
    with monkeypatch.context() as broken, mirror(point.config, run) as tracked:
        broken.setattr(wandb, "init", lambda **options: (_ for _ in ()).throw(RuntimeError("init is\nbroken")))
        tracked.log(0, [ROW])
    result = (
        "not mirrored to wandb: 3 jobs (RuntimeError: init is); "
        f"`mi-sweeps track mine output={output}` adds what is missing\n"
    )
    assert result in call("status", "mine", f"output={output}")[1]
    assert result in call("wait", "mine", f"output={output}")[1]
    code, printed, _ = call("track", "mine", f"output={output}")
    assert (code, "mirrored offline: checkpoints of fine-tune 3, patch job 2" in printed) == (0, True)
    assert "mirrored" not in call("status", "mine", f"output={output}")[1]


def test_a_sweep_done_before_wandb_was_requested(call, grid, output):
    code, printed, _ = call("run", *grid)
    assert code == 0
    assert "not mirrored to wandb: 3 jobs (done before tracking was on); `mi-sweeps track mine" in printed


def test_a_disabled_wandb_is_obeyed_and_reported(call, point, grid, output, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "init", lambda **options: pytest.fail("an attempt was begun"))
    run, _ = plan.folders_of(point)
    with mirror(point.config, run) as tracked:
        tracked.log(0, [ROW])
    assert not (run.path / "wandb").exists()
    notice = "WANDB_MODE=disabled: nothing is mirrored to wandb; `mi-sweeps track` can do it later\n"
    for command in ("plan", "run"):
        assert notice in call(command, *grid)[1]
        assert notice not in call(command, *grid, "tracking=none")[1]
    call("run", *grid)
    assert "not mirrored to wandb: 3 jobs (WANDB_MODE=disabled)" in call("status", f"output={output}")[1]
    for command in (["track"], ["sync"], ["dashboard"]):
        code, _, complaint = call(*command, f"output={output}")
        assert code == 2
        assert complaint.startswith("error: WANDB_MODE=disabled: ") and complaint.count("\n") == 1
        assert "`unset WANDB_MODE`" in complaint


def test_the_worst_is_reported_and_each_command_fixes_its_own(point, output):
    made = plan.make([entry.point(output) for entry in manifest.load(output, "mine")])
    run, patch = plan.folders_of(point)
    (patch.path / "wandb").mkdir()
    unmirrored.note(run.path, "no answer", unmirrored.SYNC)
    unmirrored.note(run.path, "no room", unmirrored.TRACK)
    unmirrored.note(run.path, "no heatmaps", unmirrored.AGAIN)
    part = patch.part(1, 2)
    unmirrored.note(part.path, "no heatmaps", unmirrored.AGAIN)
    first, second = unmirrored.lines(made, "mine", output)
    assert first.startswith("not mirrored to wandb: 2 jobs (no room); `mi-sweeps track mine ")
    assert second.startswith("mirrored to wandb without its pictures or tables: 1 job (no heatmaps); ")
    assert "`mi-sweeps track --again mine " in second
    unmirrored.forget(run.path, unmirrored.SYNC)
    assert len(list(unmirrored.lines(made, "mine", output))) == 2
    (part.path / unmirrored.FILE).write_text("[")
    assert len(list(unmirrored.lines(made, "mine", output))) == 1


@pytest.mark.parametrize("command", ["track", "dashboard"])
@pytest.mark.parametrize("option", ["--project", "--entity"])
def test_a_name_that_wandb_refuses(call, output, command, option):
    code, printed, complaint = call(command, "mine", option, "a/b", f"output={output}")
    assert (code, printed) == (2, "")
    rule = "wandb takes 1 to 128 characters, but none of / \\ # ? % :"
    assert complaint == f"error: {option}='a/b': has '/'; {rule}\n"


@pytest.mark.parametrize("name", ["a/b", "a:b", "50%", "a\\b", "a#b", "a?b", "n" * 129, "n" * 128, "a b", "é'$"])
def test_the_rule_is_wandbs_own(name):
    try:
        wandb.Settings(project=name)
    except wandb.errors.UsageError:
        with pytest.raises(UserError, match="wandb takes 1 to 128 characters"):
            wandb_name("tracking.project", name)
    else:
        wandb_name("tracking.project", name)

"""Commands that need no finished sweep, Hydra applications, and where output goes."""

from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console

from mi_sweeps import cli, jobs
from mi_sweeps.commands.report import _drawn
from mi_sweeps.store.endings import Superseded
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand


def test_a_command_is_a_file(capsys):
    """None is left out of the help, which says what the file does."""
    files = (Path(cli.__file__).parent / "commands").glob("*.py")
    modules = [import_module(f"mi_sweeps.commands.{file.stem}") for file in files]
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    result = "".join(capsys.readouterr().out.split())
    named = [module for module in modules if hasattr(module, "HELP")]
    assert len(named) > 8
    for module in named:
        assert f"{module.__name__.rpartition('.')[2]}{''.join(module.HELP.split())}" in result


def test_plan_writes_nothing(call, small, tmp_path):
    code, printed, _ = call(
        "plan", *small, "seed=range(0,3)", "schedule=glob(c*)", f"output={tmp_path / 'new'}", "--points"
    )
    assert code == 0
    assert "6 fine-tunes (6 to do)" in printed
    assert "schedule: constant, cosine" in printed
    assert not (tmp_path / "new").exists()


def test_plan_prints_the_whole_configuration(call):
    code, printed, _ = call("plan", "--config", "optim.lr=3e-5")
    assert code == 0
    assert "lr: 3.0e-05" in printed


def test_the_user_s_own_grid_is_found(call, tmp_path):
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "mine.yaml").write_text("name: mine\ngrid:\n  seed: 1,2,3\n  optim.lr: 1e-5,2e-5\n")
    code, printed, _ = call("plan", "--config-dir", tmp_path / "conf", "sweep=mine")
    assert code == 0
    assert "6 fine-tunes (6 to do)" in printed
    code, printed, _ = call("plan", "--config-dir", tmp_path / "conf", "sweep=mine", "seed=9")
    assert "2 fine-tunes (2 to do)" in printed


def test_a_terminal_has_a_bar_of_the_pictures():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with _drawn(console, 7) as result:
        result(0)
        result(3)
    assert "figures" in screen.getvalue() and "3/7" in screen.getvalue()


def test_doctor_names_what_is_missing(call, tmp_path):
    code, printed, _ = call("doctor", f"output={tmp_path}")
    assert code == 0
    for word in ("torch", "model=mini", "slurm", "wandb", "free"):
        assert word in printed


@pytest.mark.slow
def test_hydra_applications_do_the_same_work(small, tmp_path, monkeypatch, capsys):
    """`python -m mi_sweeps.jobs.finetune -m` and the command line share folders, whoever comes first."""
    output = tmp_path / "outputs"
    command = [sys.executable, "-m", "mi_sweeps.jobs.finetune", "-m", "seed=0,1", *small, f"output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    monkeypatch.chdir(tmp_path)

    def patch(*overrides):
        monkeypatch.setattr(sys, "argv", ["patch", *overrides, *small, f"output={output}"])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(jobs.__path__[0] + "/patch.py", run_name="__main__")
        return stopped.value.code, capsys.readouterr().err

    assert patch("seed=1", "corruption=second")[0] == 0
    statuses = [json.loads(file.read_text())["state"] for file in output.glob("runs/*/status.json")]
    assert statuses == ["done", "done"]
    assert len(list(output.glob("runs/*/patches/*/tables/*.parquet"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"], "Hydra leaves nothing of its own"
    code, complained = patch("seed=5")
    assert code == 2
    assert "this fine-tune is not done" in complained


def test_work_goes_on_when_nobody_reads_what_is_printed(small, tmp_path, monkeypatch, capsys):
    """As `mi-sweeps run … | head` is read."""
    reading, writing = os.pipe()
    os.close(reading)
    given = [*small, f"output={tmp_path / 'o'}"]
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as stopped:
            cli.main(["run", *given])
    assert (stopped.value.code, capsys.readouterr().err) == (0, "")
    assert planning.make(expand(given)).is_done


@pytest.mark.parametrize("words", [[], ["--points"], ["--config"]])
def test_unwritable_output_is_refused_in_one_line(words, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stopped:
            cli.main(["plan", *words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: standard output") and "No space left on device" in line


def test_a_closed_standard_output_is_none(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan"])
    assert (stopped.value.code, capsys.readouterr().err) == (0, "")


LAUNCHER = """
import os, hydra
from mi_sweeps.jobs import app

def elsewhere(task):
    def main():
        child = os.fork()
        if child == 0:
            task({})
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return main

hydra.main = lambda **options: elsewhere
app.run_app(print)
"""


def test_a_hydra_launcher_that_uses_other_processes_gets_their_exit_codes():
    """As hydra/launcher=submitit_slurm does: a job that failed must not look COMPLETED."""
    done = subprocess.run([sys.executable, "-c", LAUNCHER], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
    assert "error: model: no value" in done.stderr


def test_work_that_a_later_attempt_has_taken_over_ends_with_one_line(monkeypatch, capsys):
    def superseded(options):
        raise Superseded("outputs/runs/0123: a later attempt is working here")

    monkeypatch.setattr("mi_sweeps.commands.doctor.run", superseded)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: outputs/runs/0123: a later attempt is working here, or its status.json")

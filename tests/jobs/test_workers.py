"""Workers on this machine: what each is given, and what is said of one that died."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from mi_sweeps import cli
from mi_sweeps.errors import UserError
from mi_sweeps.jobs import execute as stages
from mi_sweeps.jobs import workers
from mi_sweeps.models.load import pick_device
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand


@pytest.fixture
def points(small, tmp_path):
    points = expand([*small, "seed=range(0,4)", "sweep.name=s", f"output={tmp_path / 'outputs'}"])
    manifest.add(points[0].output, "s", points, "")
    return points


@pytest.fixture
def started(monkeypatch):
    """What would have been started: a command and its environment each; the lock stays held until the test ends."""
    started = []

    def start(command, env, pass_fds, **_):
        (lock,) = pass_fds
        started.append(SimpleNamespace(arguments=[*command[-5:-1], str(os.dup(lock))], env=env))
        return SimpleNamespace(pid=1000 + len(started))

    monkeypatch.setattr(workers.subprocess, "Popen", start)
    yield started
    for one in started:
        os.close(int(one.arguments[-1]))


def submit(points, *overrides, retry=()):
    launcher = expand(["launcher=local", *overrides])[0].config.launcher
    return workers.submit(points[0].output, "s", [point.patch_id for point in points], launcher, retry=retry)


@pytest.mark.parametrize(
    ("visible", "count", "overrides", "given"),
    [
        (None, 2, ["launcher.device=auto"], ["0", "1"]),
        ("2,3", 2, ["launcher.device=auto"], ["2", "3"]),
        ("GPU-8f2a, MIG-41b0", 2, ["launcher.device=cuda", "launcher.workers=3"], ["GPU-8f2a", "MIG-41b0", "GPU-8f2a"]),
        ("5,9,1", 1, ["launcher.device=cuda"], ["5"]),
        ("2,3", 2, ["launcher.device=cuda:1"], ["2,3"]),
        ("2,3", 2, ["launcher.device=cpu", "launcher.workers=2"], ["2,3", "2,3"]),
        ("", 0, ["launcher.device=auto", "launcher.workers=1"], [""]),
    ],
)
def test_workers_share_the_gpus_that_are_the_user_s(points, started, monkeypatch, visible, count, overrides, given):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    submit(points, *overrides)
    assert [one.env["CUDA_VISIBLE_DEVICES"] for one in started] == given


def test_a_gpu_that_is_not_among_the_visible_ones_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"launcher\.device=cuda:2: 2 CUDA devices are visible here"):
        pick_device("cuda:2")


def test_a_retry_is_one_try_of_all_workers_together(points, started, monkeypatch):
    calls = []

    def broken(config, folder, **_):
        with folder.claim(), folder.attempt():
            calls.append(config.seed)
            raise RuntimeError("still broken")

    monkeypatch.setattr(stages, "finetune", broken)
    stages.execute(points)
    calls.clear()
    submit(points, "launcher.workers=2", retry=["error"])
    for one in started:
        with pytest.raises(SystemExit):
            workers.work_on(*one.arguments)
    assert calls == [0, 1, 2, 3]


def test_a_worker_is_known_from_its_start_to_its_end(points, started, monkeypatch):
    during = []

    def look(points, **_):
        during.append([worker.pid for worker in workers.alive(points[0].output, "s")])

    monkeypatch.setattr(stages, "execute", look)
    submit(points, "launcher.workers=1")
    assert [worker.pid for worker in workers.alive(points[0].output, "s")] == [None]
    with pytest.raises(SystemExit):
        workers.work_on(*started[0].arguments)
    assert during == [[os.getpid()]]
    assert workers.alive(points[0].output, "s") == workers.dead(points[0].output, "s") == []


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


def test_the_error_of_a_worker_that_dies_before_its_work_is_shown(points, call, monkeypatch, tmp_path):
    """A real process, whose first import fails. Nobody waits for it, and `run` forgets it."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "filelock.py").write_text("raise RuntimeError('broken here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    output = points[0].output
    (pid,) = submit(points, "launcher.workers=1")
    code, printed, _ = call("wait", "s", f"output={output}")
    assert code == 1
    assert "a worker on " in printed and "ended early: RuntimeError: broken here" in printed
    assert "4 fine-tunes (4 to do)" in printed
    assert "ended early: RuntimeError: broken here" in call("status", "s", f"output={output}")[1]
    code, printed, _ = call("logs", "--failed", "s", f"output={output}")
    assert printed.startswith("worker of s ended early ") and "Traceback" in printed
    assert os.waitpid(int(pid), 0)[1] != 0
    workers.forget_dead(output, "s")
    assert "ended early" not in call("status", "s", f"output={output}")[1]


def test_a_killed_worker_is_reported_too(points, started, call):
    """It holds its lock no more, and has left its record."""
    submit(points, "launcher.workers=1")
    os.dup2(os.open(os.devnull, os.O_RDONLY), int(started[0].arguments[-1]))
    code, printed, _ = call("wait", "s", f"output={points[0].output}")
    assert code == 1
    assert "ended early: it left no error: it was killed; see `mi-sweeps logs s " in printed


def test_ctrl_c_ends_the_waiting_and_not_the_work(points, call, started, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    submit(points, "launcher.workers=1")
    monkeypatch.setattr("mi_sweeps.jobs.progress.time.sleep", interrupt)
    where = f"output={points[0].output}"
    code, printed, complained = call("wait", "s", where)
    assert code == 130 and printed.endswith("\n")
    assert "stopped waiting, but the work goes on" in complained
    assert f"`mi-sweeps cancel s {where}` stops it" in complained
    assert len(workers.alive(points[0].output, "s")) == 1

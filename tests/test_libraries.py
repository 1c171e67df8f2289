"""Settings of other libraries in our processes."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mi_sweeps import cli, libraries
from mi_sweeps.jobs import app, workers
from mi_sweeps.models import smollm2
from mi_sweeps.models.mini import __main__ as making_mini
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand

IMPORTED = "from mi_sweeps import libraries; libraries.quiet(); from matplotlib import colormaps, get_backend"


def test_a_shell_of_a_notebook_does_not_keep_pictures_from_being_drawn():
    """It exports the notebook's own backend."""
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    code = f"{IMPORTED}; print(get_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout.strip().lower(), done.stderr) == (0, "agg", "")


FAULTS = """
import resource, torch
from mi_sweeps import libraries

torch.set_num_threads(1)

def step():
    first = [torch.ones(2**18) for _ in range(8)]  # 1 MB each
    return [tensor + 1 for tensor in first]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def counted():
    taken = []
    for _ in range(20):
        before = faults()
        for _ in range(5):
            step()
        taken.append(faults() - before)
    return taken[1:]

most = max(counted())
libraries.ready(None)
print(most, min(counted()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_memory_that_was_freed_is_used_again():
    """Steps ask the system for no page, where they would ask for thousands. Now and then it takes some back by itself,
    and where memory happens to lie well few are asked for either way: so it is the best against the worst."""
    ran = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    most, least = map(int, ran.stdout.split())
    assert least * 10 < most


def test_threads_are_as_requested():
    code = "import torch; from mi_sweeps import libraries; libraries.ready(3); print(torch.get_num_threads())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "3\n"


def test_every_function_that_torch_leaves_to_mkl_is_called_once_by_one_thread(monkeypatch):
    header = Path(torch.__file__).with_name("include") / "ATen" / "cpu" / "vml.h"
    left_to_mkl = re.findall(r"^IMPLEMENT_VML_MKL\((\w+), \w+\)", header.read_text(), flags=re.MULTILINE)
    calls = []

    def seen(name, function):
        return lambda x: (calls.append((name, x.dtype, x.numel())), function(x))[1]

    for name in left_to_mkl:
        monkeypatch.setattr(torch, name, seen(name, getattr(torch, name)))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: calls.append(threads))
    libraries.ready(2)
    assert calls.pop() == 2, "before there are several threads"
    assert sorted(calls, key=str) == sorted(
        [(name, precision, 1) for name in left_to_mkl for precision in (torch.float32, torch.float64)], key=str
    )


class Reached(BaseException):
    pass


@pytest.mark.parametrize("entry", ["run", "worker", "job", "mini", "smollm2"])
def test_whoever_computes_is_ready_before_there_is_a_model(entry, make_config, small, tmp_path, monkeypatch):
    """SLURM's tasks are in tests/slurm/test_task.py."""
    happened = []

    def reached(*_, **__):
        happened.append("model")
        raise Reached

    monkeypatch.setattr(libraries, "ready", lambda threads: happened.append("ready"))
    monkeypatch.setattr("mi_sweeps.training.run.load_model", reached)
    monkeypatch.setattr(making_mini, "pretrain", reached)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", reached)
    given = [*small, f"output={tmp_path / 'o'}"]
    with pytest.raises(Reached):
        if entry == "run":
            monkeypatch.setattr("mi_sweeps.sweeps.preflight.load_tokenizer", reached)
            cli.main(["run", *given])
        elif entry == "worker":
            (point,) = expand(given)
            manifest.add(point.output, "s", [point], "")
            (tmp_path / "orders.json").write_text(
                f'{{"patch_ids": ["{point.patch_id}"], "retry": [], "threads": 1, "began": "9"}}'
            )
            (tmp_path / "record.json").write_text("{}")
            workers.work_on(
                str(point.output), "s", *(str(tmp_path / f"{name}.json") for name in ("orders", "record")), "0"
            )
        elif entry == "job":
            monkeypatch.setattr(app, "parse", lambda values: make_config(*small))
            monkeypatch.setattr(app.hydra, "main", lambda **_: lambda task: lambda: task({}))
            app.run_app(reached)
        elif entry == "mini":
            monkeypatch.setattr(sys, "argv", ["mini"])
            making_mini.main()
        else:
            smollm2.convert(tmp_path / "model.gguf", tmp_path)
    assert happened == ["ready", "model"]


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_give_up_their_cores_soon_unless_the_user_sets_how_they_wait(own, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    libraries.quiet()
    now = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    assert now == (own or {"GOMP_SPINCOUNT": str(libraries.SPINS)})
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


def test_modules_of_the_working_folder_are_not_taken_for_python_s(tmp_path):
    (tmp_path / "queue.py").write_text("raise RuntimeError('the user is not asked')")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "my_task.py").write_text("")
    command = libraries.python("import my_task, queue; print(sys.argv[1:])")
    for extra in ({}, {"PYTHONSAFEPATH": "1"}):
        environment = {**os.environ, "PYTHONPATH": "lib", **extra}
        done = subprocess.run([*command, "a"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("['a']\n", "")

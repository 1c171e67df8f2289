"""A GPU changes nothing but rounding. Needs one; says so without one."""

from __future__ import annotations

import pytest
import torch

from mi_sweeps.jobs.execute import execute
from mi_sweeps.store.files import read_table
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def tables(small, output, device):
    points = expand([*small, "patching.sites=[resid_pre,z,pattern]", f"launcher.device={device}", f"output={output}"])
    assert not execute(points).failed
    run, patch = folders_of(points[0])
    return read_table(run.metrics).to_pandas(), read_table(patch.table(4)).to_pandas()


def test_a_gpu_gives_what_the_cpu_gives(small, tmp_path):
    cpu, gpu = tables(small, tmp_path / "cpu", "cpu"), tables(small, tmp_path / "gpu", "cuda")
    losses = [frame[frame.metric == "loss"].value.to_numpy() for frame in (cpu[0], gpu[0])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    patched = [frame[frame.kind == "patch"].patched.to_numpy() for frame in (cpu[1], gpu[1])]
    assert patched[0] == pytest.approx(patched[1], abs=1e-2)


def test_bf16_autocast_trains(small, tmp_path):
    points = expand([*small, "train.precision=bf16", "launcher.device=cuda", f"output={tmp_path}"])
    assert not execute(points).failed


def test_a_gpu_looks_where_the_cpu_looks(small, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        output = tmp_path / device
        points = expand(
            [*small, "patching=looks", "patching.prompts=6", f"launcher.device={device}", f"output={output}"]
        )
        assert not execute(points).failed
        _, patch = folders_of(points[0])
        found[device] = [read_table(patch.table(0, name)).to_pandas() for name in ("looks", "scores", "patterns")]
    for name, cpu, gpu in zip(("attention", "value", "head"), *found.values(), strict=True):
        assert cpu[name].to_numpy() == pytest.approx(gpu[name].to_numpy(), abs=1e-3, nan_ok=True)


def test_a_gpu_crosses_checkpoints_as_the_cpu_does(small, tmp_path):
    found = []
    for device in ("cpu", "cuda"):
        points = expand(
            [*small, "patching=cross", "patching.prompts=6", f"launcher.device={device}", f"output={tmp_path / device}"]
        )
        assert not execute(points).failed
        _, patch = folders_of(points[0])
        found.append(read_table(patch.table(4, "cross")).to_pandas())
    assert found[0].ld_mixed.to_numpy() == pytest.approx(found[1].ld_mixed.to_numpy(), abs=2e-2)

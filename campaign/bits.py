"""Checks what is equal bit for bit, and what is only close, across processes, numbers of threads, and CPUs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from campaign import children, sweep
from campaign.scenarios import Fault, Left, Scenario, Values

STEPS = ("train.steps=40", "checkpoint.every=20", "patching.steps=[0,40]", "patching.prompts=12", "corruption=first")

ISAS = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
"""Instruction sets of other CPUs, as PyTorch and oneDNN name them; a substitute for other machines."""

CLOSE = 0.05
"""Largest difference of logit differences at the last step, in logits; more cannot be rounding."""


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """Makes one scenario for each way; the first way must be equal in every bit."""
    ways: dict[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
        "another process": ({}, ()),
        "local workers": ({}, ("launcher=local", "launcher.workers=2", "--wait")),
        "trained together": ({}, ("launcher.stack=2",)),
        "2 threads for 1": ({"OMP_NUM_THREADS": "2"}, ("launcher.threads=2",)),
    }
    for name, isa in ISAS.items():
        env = {"ATEN_CPU_CAPABILITY": name, "ONEDNN_MAX_CPU_ISA": isa}
        ways[f"instructions: {name}"] = (env, ())
    for name, (env, more) in () if quick else ways.items():
        yield Scenario(name, partial(compare, folder, env, more, name in ("another process", "local workers")))


def compare(
    folder: Path, env: Mapping[str, str], more: tuple[str, ...], exact: bool, chance: random.Random, scenario: Path
) -> Values:
    """Measures the largest differences."""
    known = folder / "scratch" / "bits"
    if not (known / "done").exists():
        known.mkdir(parents=True, exist_ok=True)
        _run(known, {}, ())
        (known / "done").touch()
    if "ATEN_CPU_CAPABILITY" in env:
        asked = {**children.environment(scenario), **env}
        code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
        has = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=asked).stdout.strip()
        if has.lower() not in (env["ATEN_CPU_CAPABILITY"], "no avx"):
            raise Left(f"PyTorch uses {has} here, whatever is asked")
    _run(scenario, env, more)
    one, other = known / "outputs", scenario / "outputs"
    files, others = sweep.results(one), sweep.results(other)
    if files.keys() != others.keys():
        raise Fault(f"other files: {sorted(files.keys() ^ others.keys())}")
    equal = sum(content == others[name] for name, content in files.items())
    if exact and equal < len(files):
        raise Fault(f"{len(files) - equal} of {len(files)} files differ")
    apart = {"weights": 0.0, "metrics": 0.0, "tables": 0.0}
    for name in files:
        kind = "weights" if "/checkpoints/" in name else "tables" if "/tables/" in name else "metrics"
        apart[kind] = max(apart[kind], _apart(one / name, other / name))
    if apart["tables"] > CLOSE:
        raise Fault(f"logit differences are {apart['tables']:.2g} apart")
    return {"files": len(files), "equal files": equal, **{f"{kind} apart": far for kind, far in apart.items()}}


def _run(place: Path, env: Mapping[str, str], more: tuple[str, ...]) -> None:
    words = ["run", *sweep.OVERRIDES, *STEPS, *more, f"output={place / 'outputs'}"]
    with (place / "log").open("w") as log:
        code = subprocess.run(
            [sys.executable, "-m", "mi_sweeps.cli", *words],
            stdout=log,
            stderr=log,
            env={**{k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}, "OMP_NUM_THREADS": "1", **env},
        ).returncode
    if code:
        raise Fault(f"the sweep ended with {code}; see {place / 'log'}")


def _apart(one: Path, other: Path) -> float:
    """Returns the largest difference between the numbers in two files."""
    from mi_sweeps.store.files import read_table
    from mi_sweeps.training import checkpoints

    if one.suffix == ".safetensors":
        (tensors, _), (others, _) = checkpoints._load(one), checkpoints._load(other)
        return max(float((tensors[name] - others[name]).abs().max()) for name in tensors)
    (table, its) = read_table(one), read_table(other)
    columns = [name for name in ("value", "logit_diff", "patched", "clean", "corrupted") if name in table.column_names]
    pairs = (pair for name in columns for pair in zip(table[name].to_pylist(), its[name].to_pylist(), strict=True))
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)

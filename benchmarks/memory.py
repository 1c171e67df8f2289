"""Measures the memory of fine-tunes and patch jobs, and compares it with `plan`'s estimate: `make bench-memory`, also
with MEMORY="--shapes mini".

Each runs in its own process; the value is the peak resident set size (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

SHORT = (
    "task.prompts.train=96 task.prompts.heldout=24 task.prompts.two_name=4 train.steps=3 checkpoint.every=3 "
    "checkpoint.steps=[] patching.prompts=12 patching.steps=[0,3] launcher.device=cpu"
).split()

SHAPES = {
    "mini": None,
    "30M": {"n_embd": 512, "n_layer": 9, "n_head": 8, "n_positions": 128},
}
"""GPT-2's architecture with mini's vocabulary; None is mini itself."""

CASES = (
    "train.method=full",
    "train.method=lora",
    "train.only=attention",
    "train.weights=bf16",
    "checkpoint.storage=delta",
    "train.batch_size=64",
    "train.batch_size=64 train.micro_batch=8 seed=1",
    "train.batch_size=64 train.gradient_checkpointing=true seed=2",
)
"""The first three are also patched."""


def main(words: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.one:
        print(json.dumps(measure(*options.one)))  # noqa: T201
        return
    print("| shape | stage | configuration | measured, MB | `plan` says, MB |\n|---|---|---|---|---|")  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes:
            for stage, case in stages():
                overrides = [*SHORT, *model(shape, Path(folder)), *case.split(), f"output={folder}/outputs"]
                found, estimated = apart(stage, overrides)
                print(f"| {shape} | {stage} | `{case}` | {found / 1e6:,.0f} | {estimated / 1e6:,.0f} |", flush=True)  # noqa: T201


def stages() -> Iterator[tuple[str, str]]:
    """Yields the jobs to measure, each fine-tune before its patch job."""
    for number, case in enumerate(CASES):
        yield "finetune", case
        if number < 3:
            yield "patch", case


def apart(stage: str, overrides: Sequence[str]) -> tuple[float, float]:
    """Returns the bytes measured in another process, and the estimate."""
    command = [sys.executable, __file__, "--one", stage, *overrides]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, estimated = json.loads(printed.splitlines()[-1])
    return found, estimated


def model(shape: str, folder: Path) -> list[str]:
    """Returns the overrides for a model, which is made if it does not exist."""
    sizes, place = SHAPES[shape], folder / shape
    if sizes is None:
        return []
    if not place.exists():
        from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

        from mi_sweeps.models.mini import FOLDER

        tokenizer = AutoTokenizer.from_pretrained(FOLDER)
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **dropout)).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return ["model=local", f"model.path={place}"]


def measure(stage: str, *overrides: str) -> tuple[float, float]:
    """Runs a stage; returns the peak bytes of this process, and the estimate."""
    import resource

    from mi_sweeps import libraries

    libraries.quiet()
    libraries.ready(1)
    from mi_sweeps.jobs.finetune import finetune
    from mi_sweeps.jobs.patch import patch
    from mi_sweeps.sweeps import memory
    from mi_sweeps.sweeps.grid import expand
    from mi_sweeps.sweeps.plan import folders_of

    (point,) = expand(overrides)
    run, examined = folders_of(point)
    sizes = memory.read(point.config.model)
    if stage == "finetune":
        need = memory.finetune(sizes, point.config)
        finetune(point.config, run)
    else:
        need = memory.patch(sizes, point.config)
        patch(point.config, run, examined)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0, need.total


if __name__ == "__main__":
    main()

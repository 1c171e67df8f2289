"""Measures what a run spends besides training: starting, and evaluating checkpoints. Prints Markdown.

    make bench-run                       # RUN="--repeats 5"

- *Start* is the time from the command to the first step of the first fine-tune, in wall-clock seconds, compared with a
  process that only imports PyTorch and the model's class from transformers, without which nothing can be trained.
- *Evaluation* is that of one fine-tune of the demo, in CPU-seconds with one thread: 27 checkpoints × 600 prompts,
  compared with 184 training steps × 16.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from datetime import date
from typing import Any

from printing import note, processor, spread, table

RUN = ["run", "sweep=demo", "seed=0", "optim.lr=1e-4", "corruption=first"]
LIBRARY = "import transformers.models.gpt2.modeling_gpt2"

FIRST_STEP = """
import sys, time, os
from mi_sweeps.training import loop
def first(*_):
    print("first step", time.time(), flush=True)
    os._exit(0)
loop.train_step = first
"""


def main(words: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="What a run spends beside its training; prints Markdown.")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(words)
    print(f"{processor()}, {date.today()}, load {os.getloadavg()[0]:.1f} at the start")
    library, started = [], []
    for _ in range(options.repeats):
        library.append(_seconds([sys.executable, "-c", LIBRARY]))
        started.append(_to_first_step())
        note(f"start: {started[-1]:.1f} s")
    ratio = [own / alone for own, alone in zip(started, library, strict=True)]
    table("Start", "what | seconds", [
        ["importing the model's class", spread(library)],
        ["`mi-sweeps run`, from the command to the first step", spread(started)],
        ["ratio", spread(ratio)],
    ])  # fmt: skip
    shares = [_shares() for _ in range(options.repeats)]
    table("Evaluation", "what | CPU-seconds of one fine-tune", [
        ["training", spread([training for training, _ in shares])],
        ["evaluation", spread([evaluation for _, evaluation in shares])],
        ["evaluation / training", spread([evaluation / training for training, evaluation in shares])],
    ])  # fmt: skip


def _seconds(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def _to_first_step() -> float:
    """Seconds until the first training step, in a process that works like the command line with `launcher=inline`."""
    with tempfile.TemporaryDirectory() as output:
        words = [*RUN, "launcher=inline", "launcher.threads=1", f"output={output}"]
        program = f"{FIRST_STEP}from mi_sweeps.cli import main\nmain({words!r})"
        began = time.time()
        printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return float(printed.splitlines()[-1].removeprefix("first step ")) - began


def _shares() -> tuple[float, float]:
    """CPU-seconds of training and of evaluation."""
    from mi_sweeps.cli import main as command
    from mi_sweeps.training import loop, run

    spent = {"train_step": 0.0, "evaluate": 0.0}
    before = loop.train_step, run.evaluate

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*args: Any, **keys: Any) -> Any:
            began = time.process_time()
            try:
                return call(*args, **keys)
            finally:
                spent[name] += time.process_time() - began

        return clocked

    loop.train_step, run.evaluate = timed("train_step", before[0]), timed("evaluate", before[1])
    try:
        with tempfile.TemporaryDirectory() as output, redirect_stdout(sys.stderr), suppress(SystemExit):
            command([*RUN, "launcher=inline", "launcher.threads=1", f"output={output}"])
    finally:
        loop.train_step, run.evaluate = before
    return spent["train_step"], spent["evaluate"]


if __name__ == "__main__":
    main()

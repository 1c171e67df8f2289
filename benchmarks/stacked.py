"""What it saves to train runs together, against the same runs one after another; Markdown on standard output.

Both take the same steps of the same runs in turns in one process. `--whole` adds sweeps of fine-tunes from their start
to their end, with what is evaluated and written at checkpoints.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from printing import note, processor, spread, table

from mi_sweeps import libraries

libraries.quiet()

import torch  # noqa: E402

from mi_sweeps.store.folders import run_folder  # noqa: E402
from mi_sweeps.sweeps.execute import execute  # noqa: E402
from mi_sweeps.sweeps.grid import expand  # noqa: E402
from mi_sweeps.training.loop import train_step  # noqa: E402
from mi_sweeps.training.run import Run, begin  # noqa: E402
from mi_sweeps.training.stacked import train_together  # noqa: E402

NOPE = ("model=nope", "task=previous_token", "corruption=previous", "optim.lr=1e-3")
MODELS = {
    "nope, 1 layer": (*NOPE, "model.layers=1"),
    "nope, 2 layers": NOPE,
    "nope, 2 layers, MLP": (*NOPE, "model.d_mlp=256"),
    "mini": (),
}


@dataclass(frozen=True)
class Took:
    """Seconds of one repetition."""

    cpu: float
    """Of all threads."""
    wall: float


def took(work: Callable[[], object]) -> Took:
    """Waits for a GPU, where there is one."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def turns(run: Run, steps: int) -> Iterator[Run | None]:
    """Steps of a run, and nothing between them."""
    yield None
    for _ in range(steps):
        yield run
        run.step += 1
    run.losses.clear()


def one_after_another(runs: Sequence[Run], steps: int) -> None:
    """Each as `mi_sweeps.training.loop` trains it."""
    for run in runs:
        for taken in turns(run, steps):
            if taken is not None:
                train_step(taken, taken.batch())


def together(runs: Sequence[Run], steps: int) -> None:
    """Raises the error of the first that failed."""
    for error in train_together([turns(run, steps) for run in runs]):
        if error is not None:
            raise error


def in_turns(repeats: int, alone: Callable[[], object], stacked: Callable[[], object]) -> list[tuple[Took, Took]]:
    """Both, once to warm up and then `repeats` times."""
    return [(took(alone), took(stacked)) for _ in range(1 + repeats)][1:]


def row(found: Sequence[tuple[Took, Took]], steps: int) -> list[str]:
    """CPU- and wall-milliseconds of a step of one run, and how many times less the stack takes, pair by pair."""
    cells = []
    for clock in ("cpu", "wall"):
        alone, stacked = ([getattr(pair[which], clock) for pair in found] for which in (0, 1))
        ratios = [theirs / ours for theirs, ours in zip(alone, stacked, strict=True)]
        cells += [f"{1e3 * median(alone) / steps:.2f}", f"{1e3 * median(stacked) / steps:.2f}", spread(ratios)]
    return cells


def steps_alone(options: argparse.Namespace, threads: int, folder: Path) -> Iterator[list[str]]:
    """A row for each model, batch size and stack."""
    libraries.ready(threads)
    for name in options.models:
        for batch in options.batches:
            seeds = range(max(options.stacks))
            size = f"train.batch_size={batch}"
            place = f"output={folder / f'{threads}-{list(MODELS).index(name)}-{batch}'}"
            cells = expand([*MODELS[name], size, f"seed={','.join(map(str, seeds))}", place])
            runs = [begin(cell.config, run_folder(cell.output, cell.run_id)) for cell in cells]
            for count in options.stacks:
                note(f"{threads} threads, {name}, batch {batch}, {count} runs")
                chosen = runs[:count]
                found = in_turns(
                    options.repeats,
                    lambda chosen=chosen: one_after_another(chosen, options.steps),
                    lambda chosen=chosen: together(chosen, options.steps),
                )
                yield [name, str(batch), str(count), *row(found, options.steps * count)]


def whole(options: argparse.Namespace, threads: int, folder: Path) -> Iterator[list[str]]:
    """A row for each model: a sweep of as many fine-tunes as the largest stack."""
    libraries.ready(threads)
    for name in options.models:
        count = max(options.stacks)
        trials = iter(range(1000))

        def sweep(stack: int, name: str = name, trials: Iterator[int] = trials, count: int = count) -> None:
            place = f"output={folder / f'whole-{threads}-{list(MODELS).index(name)}-{next(trials)}'}"
            seeds = f"seed={','.join(map(str, range(count)))}"
            cells = expand([*MODELS[name], seeds, f"launcher.stack={stack}", place])
            if failed := execute(cells, stages=("finetune",)).failed:
                raise RuntimeError(next(iter(failed.values()))[1])

        note(f"{threads} threads, {name}, a whole sweep of {count} runs")
        found = in_turns(options.repeats, lambda: sweep(1), lambda count=count: sweep(count))
        yield [name, "16", str(count), *row(found, 184 * count)]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What it saves to train runs together; prints Markdown.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--stacks", nargs="+", type=int, default=[4, 8, 16], help="runs trained together")
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64], help="prompts in a batch")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=10, help="of each run in a repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="also whole sweeps, with evaluation and checkpoints")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    print(
        f"{processor()}{gpu}; torch {torch.__version__}; {datetime.now(timezone.utc):%Y-%m-%d}; "
        f"load {os.getloadavg()[0]:.1f} at the start. Medians of {options.repeats} repetitions."
    )
    columns = "model | batch | runs | CPU ms alone | stacked | times less | wall ms alone | stacked | times less"
    with TemporaryDirectory() as folder:
        for threads in options.threads:
            table(f"A step of one run, {threads} threads", columns, list(steps_alone(options, threads, Path(folder))))
            if options.whole:
                rows = list(whole(options, threads, Path(folder)))
                table(f"A step of one run in a whole sweep, {threads} threads", columns, rows)


if __name__ == "__main__":
    main(sys.argv[1:])

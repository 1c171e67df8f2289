"""Truncates and changes every kind of stored file: it must be refused by name, or read with its original value."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from campaign import children, sweep
from campaign.scenarios import Fault, Scenario, Values


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    place: str
    """A pattern in the output folder."""
    read: Callable[[Path, Path], Any]
    """Reads it as the program does, given the file and the output folder; returns values that can be compared."""


def _tensors(file: Path, output: Path) -> Any:
    import torch

    from mi_sweeps.training import checkpoints

    tensors, metadata = checkpoints._load(file)
    return {
        name: (str(one.dtype), one.reshape(-1).view(torch.uint8).numpy().tobytes()) for name, one in tensors.items()
    }, metadata


def _json(file: Path, output: Path) -> Any:
    from mi_sweeps.store.files import read_json

    return read_json(file)


def _status(file: Path, output: Path) -> Any:
    from mi_sweeps.errors import UserError
    from mi_sweeps.store.folders import Folder

    status = Folder(file.parent).status()
    if status.state == "failed" and str(file) in str(status.error):
        raise UserError(status.error)
    return status


def _table(file: Path, output: Path) -> Any:
    from mi_sweeps.store.files import read_table

    return read_table(file).to_pydict()


def _columns(file: Path, output: Path) -> Any:
    from mi_sweeps.store.files import read_columns

    return list(read_columns(file, ("step", "split", "metric", "value")))


def _sweep(file: Path, output: Path) -> Any:
    from mi_sweeps.sweeps import manifest

    return [(entry.run_id, entry.patch_id, entry.overrides, entry.config) for entry in manifest.load(output, "s")]


def _submission(file: Path, output: Path) -> Any:
    from mi_sweeps.slurm import submissions

    return submissions.read(file)


def _prompts(file: Path, output: Path) -> Any:
    from mi_sweeps.identity import data_folder
    from mi_sweeps.sweeps import manifest
    from mi_sweeps.tasks import data

    config = manifest.load(output, "s")[0].point(output).config
    return data.load(config, None, cache=data_folder(config))


KINDS = {
    "run.json": Kind("runs/*/run.json", _json),
    "patch.json": Kind("runs/*/patches/*/patch.json", _json),
    "audit.json": Kind("runs/*/audit.json", _json),
    "status.json of a run": Kind("runs/*/status.json", _status),
    "status.json of a patch job": Kind("runs/*/patches/*/status.json", _status),
    "wandb.json": Kind("runs/*/wandb.json", _json),
    "sweep.json": Kind("sweeps/s/sweep.json", _sweep),
    "slurm/ID.json": Kind("sweeps/s/slurm/*.json", _submission),
    "a worker's record": Kind("sweeps/s/workers/*.json", _json),
    "workers' submissions": Kind("sweeps/s/submissions/*.json", _json),
    "metrics.parquet": Kind("runs/*/metrics.parquet", _table),
    "metrics.parquet, some columns": Kind("runs/*/metrics.parquet", _columns),
    "tables/STEP.parquet": Kind("runs/*/patches/*/tables/*.parquet", _table),
    "checkpoints/STEP.safetensors": Kind("runs/*/checkpoints/*.safetensors", _tensors),
    "checkpoints/STEP.safetensors, delta": Kind("delta.safetensors", _tensors),
    "resume.safetensors": Kind("runs/*/resume.safetensors", _tensors),
    "data: audit.json": Kind("data/*/audit.json", _prompts),
    "data: prompts": Kind("data/*/train/*.arrow", _prompts),
    "data: about the prompts": Kind("data/*/train/*.json", _prompts),
}


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """Reads damaged files of each kind as the program does, and then through commands."""
    for name, kind in list(KINDS.items())[:: 3 if quick else 1]:
        yield Scenario(name, partial(damaged, folder, kind, 10 if quick else 1, 20 if quick else 300))
    for number in range(0 if quick else 30):
        yield Scenario(f"commands-{number:03d}", partial(through_commands, folder))


def damaged(folder: Path, kind: Kind, every: int, flips: int, chance: random.Random, scenario: Path) -> Values:
    """Cuts a file at every percent (or at some), changes one to four bytes, or writes a block of zeros."""
    from mi_sweeps.errors import UserError

    output = scenario / "outputs"
    make(folder, output, scenario)
    file = chance.choice(sorted(output.glob(kind.place)))
    content = file.read_bytes()
    whole = kind.read(file, output)
    counts: Counter[str] = Counter()

    def attempt(damage: str, other: bytes) -> None:
        counts[damage] += 1
        file.write_bytes(other)
        try:
            found = kind.read(file, output)
        except UserError as error:
            if (
                "\n" in str(error)
                or file.name not in str(error)
                and file.relative_to(output).parts[1] not in str(error)
            ):
                raise Fault(f"{damage}: does not name {file}: {error}") from None
            counts["refused"] += 1
            return
        if found != whole:
            (scenario / "damaged").write_bytes(other)
            raise Fault(f"{damage}: {scenario / 'damaged'} is read as data")
        counts["read as it was"] += 1

    for percent in range(0, 100, every):
        attempt("cut", content[: len(content) * percent // 100])
    attempt("cut", content[:-1])
    for number in range(flips):
        other = bytearray(content)
        if number % 10 == 9:
            at, size = chance.randrange(len(content)), chance.choice([16, 64, 512])
            other[at : at + size] = bytes(len(other[at : at + size]))
            damage = "zeros"
        else:
            for _ in range(chance.choice([1, 1, 1, 2, 4])):
                other[chance.randrange(len(other))] ^= chance.randrange(1, 256)
            damage = "other bytes"
        if other != content:
            attempt(damage, bytes(other))
    return counts


def through_commands(folder: Path, chance: random.Random, scenario: Path) -> Values:
    """Damages one file. Each command must name and refuse it, or do the same as with the intact file; once it is
    deleted, `run` must compute it again."""
    expected = sweep.reference(folder)
    output = scenario / "outputs"
    shutil.copytree(folder / "scratch" / "reference" / "outputs", output)
    places = ("runs/*/*.json", "runs/*/patches/*/*.json", "runs/*/metrics.parquet", "runs/*/checkpoints/*")
    more = ("runs/*/patches/*/tables/*", "sweeps/s/sweep.json", "data/*/audit.json", "data/*/train/*.arrow")
    file = chance.choice(sorted(output.glob(chance.choice(places + more))))
    content = bytearray(file.read_bytes())
    if chance.random() < 0.5:
        del content[chance.randrange(len(content)) :]
    else:
        content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    file.write_bytes(content)
    # One table is deleted, so that prompts and weights are needed again.
    table = chance.choice(sorted(output.glob("runs/*/patches/*/tables/*")))
    if table != file:
        table.unlink()
    counts: Counter[str] = Counter({"files": 1})
    for command in ("status", "report", "export", "run"):
        log = scenario / f"{command}.log"
        words = sweep.words(command, output, *(("--retry",) if command == "run" else ()))
        code = children.wait(children.fork(scenario, words, log))
        if code not in (0, 1, 2):
            raise Fault(f"`{command}` ended with {code}; see {log}")
        counts["commands"] += 1
        printed = "".join(log.read_text().split())
        if code:
            counts["refused"] += 1
            named = (file.name, file.parent.name)
            if not any(name in printed for name in named) and command != "run":
                raise Fault(f"`{command}` does not name {file}; see {log}")
    data = output / "data"
    shutil.rmtree(data) if file.is_relative_to(data) else file.unlink()
    # Weights that are no longer needed may be missing, and deleted files are computed twice.
    kept = {name: one for name, one in expected.files.items() if name != str(file.relative_to(output))}
    wanted = kept if file.suffix == ".safetensors" else expected.files
    sweep.finish(scenario, output, replace(expected, files=wanted), "--retry", once=False)
    return counts


def make(folder: Path, output: Path, scenario: Path) -> None:
    """The undisturbed sweep's files, and temporary ones."""
    import torch

    from mi_sweeps.jobs.workers import Worker
    from mi_sweeps.slurm.arrays import Array
    from mi_sweeps.slurm.submissions import Submission
    from mi_sweeps.store.files import write_json
    from mi_sweeps.store.status import now
    from mi_sweeps.training import checkpoints

    sweep.reference(folder)
    shutil.copytree(folder / "scratch" / "reference" / "outputs", output)
    run = next((output / "runs").iterdir())
    weights, _ = checkpoints._load(sorted((run / "checkpoints").iterdir())[-1])
    state = {
        f"{key}.{name}": one.clone() for key in ("weight", "exp_avg", "exp_avg_sq") for name, one in weights.items()
    }
    checkpoints._save(run / "resume.safetensors", {**state, "random.cpu": torch.get_rng_state()}, "step", "4")
    small = {name: one for name, one in weights.items() if one.numel() < 20_000}
    checkpoints.save_weights(output / "delta.safetensors", small, small, "delta")
    write_json(run / "wandb.json", {"url": "https://wandb.ai/team/project/runs/0123"})
    ids = sorted(file.name for file in run.glob("patches/*"))
    arrays = (Array("finetune", ((run.name,),), name="s-0-finetune", jobs=("1",)),) if ids else ()
    Submission(output / "sweeps" / "s" / "slurm" / "abcd1234.json", "s", now(), ("error",), arrays).write()
    write_json(output / "sweeps" / "s" / "workers" / "host-1.json", asdict(Worker("host", 1, "local")))
    submission = {"patch_ids": ids, "retry": [], "threads": 1}
    write_json(output / "sweeps" / "s" / "submissions" / "20260101T000000-1.json", submission)

"""Prompts that another process makes otherwise are refused, wherever they are made again."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mi_sweeps as mi
from mi_sweeps.errors import UserError
from mi_sweeps.jobs.finetune import finetune
from mi_sweeps.jobs.patch import patch
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.sweeps.preflight import check
from mi_sweeps.tasks import prompt_hashes

SOURCE = '''
"""Sequences. In another PROCESS, those that VARIES names are others; with PROCESS=global, they are new at each call."""
import os

import torch

from mi_sweeps.tasks.batches import generator
from mi_sweeps.tasks.metrics import win_rates
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import token_batch


class Drawn:
    def __init__(self, tokenizer, *, d_vocab, seed):
        self.audit = {}
        self.splits = {"heldout": self.batch(self.draw("splits", 4))}

    def draw(self, what, count):
        process = os.environ["PROCESS"] if what in os.environ["VARIES"] else "0"
        random = None if process == "global" else generator(int(process), 0)
        return torch.rand(count, 7, generator=random).argsort(dim=1)[:, :5] + 1

    def batch(self, drawn):
        return token_batch(drawn, drawn[:, 0], drawn[:, 1:2])

    def training(self, step, size, seed):
        return self.batch(self.draw("training", size))

    def metrics(self, logits, batch):
        return win_rates(logits.argmax(dim=1) == batch.answers)

    def pairs(self, corruption, count):
        drawn = self.draw("pairs", count)
        return Pairs(self.batch(drawn), self.batch(drawn.flip(1)), torch.ones(1))
'''
SMALL = (
    *("task=drawn", "corruption=flipped", "model=nope", "model.layers=1", "model.d_model=16", "model.d_head=8"),
    *("train.steps=2", "train.batch_size=4", "checkpoint.every=1", "checkpoint.steps=[]", "sweep.name=drawn"),
    *("patching=heads", "patching.prompts=4", "patching.sites=[z]"),
)
In = Callable[[str, str], None]


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> In:
    """Sets what the task draws, and in which process, as if this were one."""
    (tmp_path / "drawn.py").write_text(SOURCE)
    task = "_target_: drawn.Drawn\nname: drawn\nd_vocab: 8\nseed: 0\n"
    for name, text in {"task/drawn": task, "corruption/flipped": "name: flipped\n"}.items():
        (tmp_path / "conf" / f"{name}.yaml").parent.mkdir(parents=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "drawn", raising=False)
    monkeypatch.setattr("mi_sweeps.store.sources._HELD", {})

    def be(process: str, varies: str) -> None:
        monkeypatch.setenv("PROCESS", process)
        monkeypatch.setenv("VARIES", varies)

    return be


def point_of(tmp_path: Path, *words: str) -> GridPoint:
    (point,) = expand([*SMALL, f"output={tmp_path / 'out'}", *words], tmp_path / "conf")
    return point


def done(point: GridPoint) -> None:
    run, job = folders_of(point)
    finetune(point.config, run, needed=point.checkpoint_steps)
    patch(point.config, run, job)


def refusal(tmp_path: Path, what: str) -> str:
    """One line that names the record, the task's file, and what to look for there."""
    end = rf"; look in {re.escape(str(tmp_path / 'drawn.py'))} for a set .*random numbers without a seed, .*"
    return rf"\Atask=drawn: makes other prompts {what}{end}\Z"


WHAT = {"splits": "splits", "training": "training", "pairs": "4 heldout pairs, corruption=flipped"}


@pytest.mark.parametrize("varies", WHAT)
def test_they_are_refused_before_anything_is_computed(tmp_path: Path, in_process: In, varies: str) -> None:
    in_process("0", "")
    point = point_of(tmp_path)
    assert check([point]) == check([point])
    in_process("2", varies)
    with pytest.raises(UserError, match=refusal(tmp_path, rf"than .*/out/data/\w+\.json records \({WHAT[varies]}\)")):
        check([point])
    in_process("global", varies)
    with pytest.raises(UserError, match=refusal(tmp_path, "each time that it is asked")):
        check([point])


def test_runs_and_patch_jobs_refuse_what_is_not_theirs(tmp_path: Path, in_process: In) -> None:
    in_process("0", "")
    point = point_of(tmp_path, "patching.steps=[0]")
    done(point)
    other = point_of(tmp_path, "seed=1")
    more = point_of(tmp_path, "patching.steps=[0,2]")
    run, job = folders_of(point)
    for varies, what in WHAT.items():
        in_process("2", varies)
        with pytest.raises(UserError, match=refusal(tmp_path, rf"than .*/out/data/\w+\.json records \({what}\)")):
            done(other)  # Another seed must be another run on the same prompts.
    shutil.rmtree(tmp_path / "out" / "data")
    for varies, what in (("splits", rf"than {run.about} records \(splits\)"), ("pairs", f"than {job.about} lists")):
        in_process("2", varies)
        with pytest.raises(UserError, match=refusal(tmp_path, what)):
            done(more)
    run.checkpoint(2).unlink()
    in_process("2", "training")
    with pytest.raises(UserError, match=refusal(tmp_path, rf"than {run.about} records \(training\)")):
        done(more)
    in_process("0", "")
    done(more)
    assert job.steps() == [0, 2]


def test_python_refuses_them_too(tmp_path: Path, in_process: In) -> None:
    in_process("0", "")
    point = point_of(tmp_path)
    done(point)
    manifest.add(tmp_path / "out", "drawn", [point], "")
    assert len(mi.open(tmp_path / "out").run().pairs("flipped").clean) == 4
    in_process("2", "pairs")
    with pytest.raises(UserError, match=refusal(tmp_path, r"than .*\.json records \(4 heldout pairs, .*\)")):
        mi.open(tmp_path / "out").run().pairs("flipped")
    in_process("2", "splits")
    with pytest.raises(UserError, match=refusal(tmp_path, r"than .*/run\.json records \(splits\)")):
        _ = mi.open(tmp_path / "out").run().task


def test_a_run_without_hashes_says_that_nothing_was_compared(
    tmp_path: Path, in_process: In, caplog: pytest.LogCaptureFixture
) -> None:
    """But its patch jobs list their prompts."""
    in_process("0", "")
    point = point_of(tmp_path, "patching.steps=[0]")
    done(point)
    run, job = folders_of(point)
    shutil.rmtree(tmp_path / "out" / "data")
    write_json(run.about, {key: value for key, value in read_json(run.about).items() if key != prompt_hashes.KEY})
    in_process("2", "pairs")
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=refusal(tmp_path, f"than {job.about} lists")):
        done(point_of(tmp_path, "patching.steps=[0,2]"))
    assert f"{run.about}: an earlier version kept no hash of its prompts, so today's are not compared" in caplog.text

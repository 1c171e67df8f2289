"""Folders as trainers write them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mi_sweeps.config import Config
from mi_sweeps.store.identity import run_id

MakeConfig = Callable[..., Config]


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """The end of a trainer's run, to change."""
    return shutil.copytree(trained / "full" / "checkpoint-4", tmp_path / "checkpoint-4")


def test_what_a_trainer_keeps_for_itself_is_no_part_of_the_model(make_config: MakeConfig, checkpoint: Path) -> None:
    def identity() -> str:
        return run_id(make_config("model=local", f"model.path={checkpoint}"))

    before = identity()
    for name in ("training_args.bin", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    assert identity() == before
    for name in ("optimizer.bin", "optimizer_1.bin", "scheduler.bin", "all_results.json", "training_args.bin"):
        (checkpoint / name).write_bytes(b"of this run")
    assert identity() == before
    for name in ("tokenizer.json", "pytorch_model.bin", "vocab.json"):
        (checkpoint / name).write_bytes(b"{}")
        assert identity() != before
        (checkpoint / name).unlink()

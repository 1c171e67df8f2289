"""Patch jobs with all measurements: in parts, interrupted, and with tables deleted, the files are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mi_sweeps.circuits import examine
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.jobs.execute import execute
from mi_sweeps.store.endings import Interrupted
from mi_sweeps.store.files import write_json, write_table
from mi_sweeps.store.folders import PatchFolder
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of, make
from mi_sweeps.sweeps.points import GridPoint

STEPS = (0, 1, 2)
EACH = (*TABLES, "")
"""The tables of a checkpoint, in the order in which they are made."""
FEW = (
    *("train.steps=2", "train.batch_size=4", "checkpoint.every=1", "checkpoint.steps=[]", "optim.lr=1e-2"),
    *("task.prompts={train: 12, heldout: 6, two_name: 2}", "patching=dynamics", "patching.sites=[z]"),
    *("patching.prompts=4", "patching.looks.patterns=1", "patching.cross.permutations=4", "patching.edges.ig_steps=2"),
    *("patching.circuits.random=4", "patching.circuits.sizes=[20]", "patching.circuits.at=[0,1]"),
)


@pytest.fixture(scope="module")
def tuned(
    make_model: Callable[..., PreTrainedModel],
    mini_tokenizer: PreTrainedTokenizerBase,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], GridPoint]:
    """A point whose fine-tune is done, with its results in a folder of its own."""
    folder = tmp_path_factory.mktemp("tuned")
    make_model("gpt2").save_pretrained(folder / "model")
    mini_tokenizer.save_pretrained(folder / "model")

    def point_in(output: Path) -> GridPoint:
        (point,) = expand([*FEW, "model=local", f"model.path={folder / 'model'}", f"output={output}"])
        return point

    assert not execute([point_in(folder / "outputs")], stages=("finetune",)).failed

    def copied(output: Path) -> GridPoint:
        shutil.copytree(folder / "outputs", output)
        return point_in(output)

    return copied


@pytest.fixture(scope="module")
def whole(
    tuned: Callable[[Path], GridPoint], tmp_path_factory: pytest.TempPathFactory
) -> tuple[GridPoint, dict[str, bytes]]:
    """A patch job that was done at once, and its files."""
    point = tuned(tmp_path_factory.mktemp("whole") / "outputs")
    assert not execute([point]).failed
    return point, files(point)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tables that are written from here on."""
    names: list[str] = []

    def write(path: Path, table: object) -> None:
        names.append(path.name)
        write_table(path, table)  # type: ignore[arg-type]

    monkeypatch.setattr(examine, "write_table", write)
    return names


def file_name(step: int, table: str) -> str:
    return f"{step:06d}.{table}.parquet" if table else f"{step:06d}.parquet"


def job(point: GridPoint) -> PatchFolder:
    return folders_of(point)[1]


def files(point: GridPoint) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (job(point).path / "tables").iterdir()}


def state(point: GridPoint) -> str:
    return make([point]).patches[point.patch_id].state


def test_a_job_has_every_table_of_every_checkpoint(whole) -> None:
    point, made = whole
    assert set(made) == {file_name(step, table) for step in STEPS for table in EACH}
    assert state(point) == "done"


def test_two_parts_make_the_same_files_and_the_last_one_ends_the_job(
    whole, tuned: Callable[[Path], GridPoint], tmp_path: Path, written: list[str]
) -> None:
    point = tuned(tmp_path / "outputs")
    assert not execute([point], stages=("patch",), part=1, parts=2).failed
    assert job(point).steps() == [1] and state(point) == "todo"
    assert make([point]).counts()[1] == {"to do": 1}
    assert not execute([point], stages=("patch",), part=0, parts=2).failed
    assert state(point) == "done"
    assert files(point) == whole[1] and len(written) == len(set(written)) == len(whole[1])
    again = execute([point], stages=("patch",), part=1, parts=2)
    assert not again.done and not again.failed

    # Whoever made the last table was killed before it could end the job: any part does.
    ended = (job(point).path / "status.json").read_bytes()
    (job(point).path / "status.json").unlink()
    assert state(point) == "todo"
    assert not execute([point], stages=("patch",), part=1, parts=2).failed
    assert state(point) == "done"
    (job(point).path / "status.json").write_bytes(ended)

    # One table is gone: its part alone makes it again, and the job is done.
    job(point).table(1, "scores").unlink()
    assert state(point) == "todo"
    with job(point).part(1, 2).claim(), job(point).part(1, 2).attempt():
        assert state(point) == "running", "a part of it is at work"
    del written[:]
    assert [task.part for task in execute([point], stages=("patch",), part=1, parts=2).done] == [1]
    assert not execute([point], stages=("patch",), part=0, parts=2).done
    assert written == [file_name(1, "scores")] and state(point) == "done" and files(point) == whole[1]

    # Then another, and the job as a whole makes it: what the parts took counts once.
    for part in job(point).all_parts():
        write_json(part.path / "status.json", asdict(replace(part.status(), seconds=1e6)))
    before = job(point).status().seconds
    job(point).table(0, "scores").unlink()
    assert not execute([point]).failed
    assert before <= job(point).status().seconds < 1e6 and files(point) == whole[1]


def test_a_job_that_is_killed_between_any_two_tables_goes_on_where_it_was(
    whole, tuned: Callable[[Path], GridPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[str]
) -> None:
    point = tuned(tmp_path / "outputs")
    order = [file_name(step, table) for step in STEPS for table in EACH]
    kept = examine.write_table
    # After the first table, before the main one, and between checkpoints; then in the middle of the last.
    for until in (1, len(EACH) - 1, len(EACH), 2 * len(EACH) + 3):

        def write(path: Path, table: object, until: int = until) -> None:
            if len(written) == until:
                (path.parent / f".{path.name}.0123456789ab.partial").write_bytes(b"half")
                raise Interrupted
            kept(path, table)

        monkeypatch.setattr(examine, "write_table", write)
        with pytest.raises(Interrupted):
            execute([point])
        assert written == order[:until], "in order, and none twice"
        assert state(point) == "interrupted"
        assert job(point).steps() == list(STEPS[: until // len(EACH)]), "what is half made is not there"
    monkeypatch.setattr(examine, "write_table", kept)
    assert not execute([point]).failed
    assert state(point) == "done" and written == order
    assert files(point) == whole[1]


def test_a_table_that_was_deleted_is_made_again_and_no_other(
    whole, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    point, made = whole
    logged: list[int] = []

    @contextmanager
    def mirror(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(log=lambda step, rows: logged.append(step))

    monkeypatch.setattr("mi_sweeps.tracking.mirror.mirror", mirror)
    folder = job(point).path / "tables"
    gone = file_name(1, "circuits")
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}
    (folder / gone).unlink()
    assert state(point) == "todo" and make([point]).to_do() == 1
    assert not execute([point]).failed
    assert written == [gone] and state(point) == "done"
    assert files(point) == made
    after = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {gone}
    assert not logged, "a checkpoint without values would take the place of the one that has them"

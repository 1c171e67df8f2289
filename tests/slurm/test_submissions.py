"""Records of submissions on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.slurm import submissions
from mi_sweeps.slurm.arrays import Array
from mi_sweeps.store.files import write_json

ARRAYS = (
    Array("finetune", (("a", "b"), ("c",)), name="s-0", jobs=("7_0", "7_1")),
    Array("patch", (("a1", "b1"), ("c1",)), part=1, parts=2, after=("s-0",), wait="pairs", name="s-1"),
)


def make(output: Path, sweep: str, when: str = "2026-01-01") -> submissions.Submission:
    # Submissions are found by sweep.
    write_json(output / "sweeps" / sweep / "sweep.json", {})
    return replace(submissions.new(output, sweep, ("timeout", "node")), arrays=ARRAYS, submitted=when)


def test_it_is_read_as_it_was_written_wherever_the_folder_is_moved_to(tmp_path: Path) -> None:
    submission = make(tmp_path / "here", "mine")
    submission.write()
    assert submissions.read(submission.path) == submission
    (tmp_path / "here").rename(tmp_path / "there")
    (found,) = submissions.of_sweep(tmp_path / "there", "mine")
    assert replace(found, path=submission.path) == submission
    assert found.output == tmp_path / "there"


def test_a_new_one_is_not_on_disk_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    one, other = (submissions.new(tmp_path, "mine", ()) for _ in range(2))
    assert one.prefix != other.prefix and one.prefix.startswith("mine-")
    assert submissions.of_sweep(tmp_path, "mine") == []
    with pytest.raises(FileNotFoundError):
        submissions.read(one.path)


def test_a_relative_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job does not start where it was submitted."""
    monkeypatch.chdir(tmp_path)
    assert submissions.new(Path("outputs"), "mine", ()).output == tmp_path / "outputs"


def test_the_newest_comes_last_whichever_sweep_it_is_of(tmp_path: Path) -> None:
    """Sweeps share runs, and where a run is its newest submission says."""
    for sweep, when in (("a", "2026-01-03"), ("b", "2026-01-01"), ("b", "2026-01-02")):
        make(tmp_path, sweep, when).write()
    assert [one.submitted[-1] for one in submissions.of_output(tmp_path)] == ["1", "2", "3"]
    assert [one.submitted[-1] for one in submissions.of_sweep(tmp_path, "b")] == ["1", "2"]


def test_one_that_is_taken_back_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "mine").write()
    monkeypatch.setattr(submissions, "read_json", lambda path: None)
    assert submissions.of_output(tmp_path) == []


@pytest.mark.parametrize("values", [{}, [], {"arrays": [], "retry": [], "colour": "red"}, {"arrays": [{"stage": "x"}]}])
def test_one_of_another_version_is_one_line(tmp_path: Path, values: object) -> None:
    path = tmp_path / "id.json"
    write_json(path, values)
    with pytest.raises(UserError, match="id.json: not a submission of this version; use the version that wrote it"):
        submissions.read(path)


def test_every_id_is_found_with_its_task(tmp_path: Path) -> None:
    submission = make(tmp_path, "mine")
    found = [(array.name, number, one) for _, array, number, one in submissions.tasks([submission])]
    assert found[:3] == [("s-0", 0, "a"), ("s-0", 0, "b"), ("s-0", 1, "c")]
    assert len(found) == 6

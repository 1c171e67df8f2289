"""A task is what its files of rows, its own code and its prompts are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mi_sweeps.config import Config, parse
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_fingerprint, own_sources, patch_id, run_id
from mi_sweeps.store.hashes import hash_files
from tests.identity.configs import changed, rows_task


def test_a_file_of_rows_is_its_content_not_its_place_or_name(default: Config, tmp_path: Path) -> None:
    paths = [tmp_path / "rows.jsonl", tmp_path / "moved" / "rows.jsonl", tmp_path / "renamed.jsonl"]
    paths[1].parent.mkdir()
    for path in paths:
        path.write_text('{"question": "a", "completion": "b"}\n')
    assert len({run_id(changed(default, rows_task(path))) for path in paths}) == 1
    assert len({run_id(changed(default, rows_task(paths[0], path))) for path in paths}) == 1


@pytest.mark.parametrize("which", ["path", "heldout_path"])
def test_run_id_changes_with_the_users_rows(default: Config, tmp_path: Path, which: str) -> None:
    files = {"path": tmp_path / "rows.jsonl", "heldout_path": tmp_path / "heldout.jsonl"}
    for path in files.values():
        path.write_text("{}")
    config = changed(default, rows_task(**files))
    before = run_id(config)
    files[which].write_text("{} ")
    assert run_id(config) != before


def test_files_that_read_otherwise_than_before_have_other_ids(
    default: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows of two names were dropped once; files without such rows keep their ids."""
    three = '{"question": "Then Mary, John and Tom met. John and Mary saw", "completion": " Tom"}\n'
    two = '{"question": "Mary and John met. Mary saw", "completion": " John"}\n'
    new = []
    for number, rows in enumerate((three, three + two, two)):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(rows)
        config = changed(default, rows_task(file))
        now = data_fingerprint(config)
        with monkeypatch.context() as before:
            before.setattr("mi_sweeps.identity.parsed_differently_now", lambda path: False)
            new.append(data_fingerprint(config) != now)
    assert new == [False, True, False]


def test_training_and_evaluation_files_are_not_interchangeable(default: Config, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    assert run_id(changed(default, rows_task(one, other))) != run_id(changed(default, rows_task(other, one)))


def test_missing_file_is_one_line(default: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\A.*rows\.jsonl: No such file.*; give .*existing, readable file\Z"):
        run_id(changed(default, rows_task(tmp_path / "rows.jsonl")))


def test_hash_of_files_does_not_depend_on_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(path.name)
    assert hash_files(paths) == hash_files(reversed(paths))


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {"quiz.py": "import quiz_words\n", "quiz_words.py": "", "quiz_notes.py": ""}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("part", ["task", "schedule"])
def test_run_id_changes_with_the_source_of_the_user_s_own_code(default: Config, own_code: Path, part: str) -> None:
    config = changed(default, {part: {"name": "quiz", "_target_": "quiz.make"}})
    ids = {run_id(config)}
    for name, is_part in {"quiz_notes.py": False, "quiz_words.py": True, "quiz.py": True}.items():
        (own_code / name).write_text("import quiz_words\nWORDS = []\n")
        ids.add(run_id(config))
        assert len(ids) == 1 + ["quiz_words.py", "quiz.py"].index(name) + 1 if is_part else len(ids) == 1
    assert (data_fingerprint(config) != data_fingerprint(default)) == (part == "task")


def test_of_our_own_code_nothing_is_hashed(default: Config) -> None:
    assert own_sources(default) == {}


def test_other_prompts_are_another_patch_job_s(default: Config) -> None:
    """Of the same run; and what came later changes no id where it is as before."""
    older = default.dump()
    for key in ("split", "also", "task"):
        del older["patching"][key]
    for key in ("repeat", "trios"):
        del older["task"][key]
    assert (run_id(parse(older)), patch_id(parse(older))) == (run_id(default), patch_id(default))
    two = {"name": "ioi2", "_target_": default.task.target, **default.task.arguments, "n_names": 2}
    others = [{"patching.split": "train"}, {"patching.task": two}, {"patching.task": {**two, "seed": 1}}]
    others += [{"patching.task": two, "patching.measured_prompts": 128}]
    jobs = [changed(default, values) for values in others]
    assert {run_id(job) for job in jobs} == {run_id(default)}
    assert len({patch_id(job) for job in (default, *jobs)}) == 5


def test_answers_that_are_repeated_and_prompts_in_threes_are_other_data(default: Config) -> None:
    jobs = [changed(default, values) for values in ({"task.repeat": 20}, {"task.trios": True})]
    assert len({data_fingerprint(job) for job in (default, *jobs)}) == 3

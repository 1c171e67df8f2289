"""Where two runs of one configuration and seed have two ids, run.json says what differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mi_sweeps.config import Config
from mi_sweeps.identity import beside_configuration, run_id, task_contents
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store.hashes import ID_LENGTH

Make = Callable[..., Config]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("model/model.safetensors", "model_content"),
        ("model/tokenizer.json", "model_content"),
        ("other/tokenizer.json", "tokenizer_content"),
        ("rows.jsonl", "task_path_content"),
        ("own_quiz.py", "task_code"),
        ("own_rate.py", "schedule_code"),
    ],
)
def test_what_a_changed_file_changes_is_named(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str
) -> None:
    for folder in ("model", "other"):
        shutil.copytree(FOLDER, tmp_path / folder)
    for text in ("rows.jsonl", "own_quiz.py", "own_rate.py"):
        (tmp_path / text).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(
        f"model.path={tmp_path / 'model'}", f"model.tokenizer={tmp_path / 'other'}", "task._target_=own_quiz.make",
        f"+task.path={tmp_path / 'rows.jsonl'}", "schedule._target_=own_rate.make",
    )  # fmt: skip
    before, id_before = beside_configuration(config), run_id(config)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[:-2] + b" " + content[-2:])
    after = beside_configuration(config)
    assert run_id(config) != id_before
    assert before.keys() == after.keys()
    assert {key for key, value in after.items() if value != before[key]} == {name}
    assert all(len(value) == ID_LENGTH for value in after.values())
    assert task_contents(config).keys() == {"task_path_content", "task_code"}


def test_micro_batches_count_where_they_draw_other_dropout(make_config: Make, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    for rate, named in ((0.1, "4"), (0.0, None)):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"resid_pdrop": rate}))
        config = make_config(f"model.path={tmp_path / 'model'}", "train.micro_batch=4")
        assert beside_configuration(config).get("micro_batch") == named


def test_seeds_of_a_series_differ_in_their_model_by_design(make_config: Make, written: Path, tmp_path: Path) -> None:
    (tmp_path / "seed-0").symlink_to(written)
    one, several = (
        beside_configuration(make_config("model=series", f"model.path={tmp_path}/{name}/checkpoint-{{step}}"))
        for name in ("seed-0", "seed-{seed}")
    )
    assert "model_content" in one
    assert "model_content" not in several

"""The same checkpoints on prompts of other tasks: patch jobs of the same runs, never with the runs' own prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.identity import patch_id
from mi_sweeps.sweeps import manifest, show
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import make
from mi_sweeps.sweeps.points import GridPoint


def asked(points: list[GridPoint]) -> list[str]:
    return [point.prompts_label for point in points]


def test_each_run_is_examined_on_the_other_task_once_whatever_corruptions_are_swept() -> None:
    points = expand(["corruption=first,second", "seed=0,1", "patching.also=[ioi2]"])
    assert sorted(asked(points)) == ["first", "first", "ioi2-first", "ioi2-first", "second", "second"]
    assert {point.run_id for point in points} == {point.run_id for point in expand(["seed=0,1"])}
    alone = {point.patch_id for point in expand(["corruption=first,second", "seed=0,1"])}
    assert {point.patch_id for point in points if point.prompts_label in ("first", "second")} == alone
    (one, _) = [point for point in points if point.prompts_label == "ioi2-first"]
    assert one.config.for_patching.task.name == "ioi2"
    assert one.config.task.name == "ioi3"
    assert patch_id(one.config) == one.patch_id
    assert GridPoint(one.config.dump(), one.choices, one.run_id, one.patch_id).config == one.config
    assert one.label == "corruption=first seed=0 patching.task=ioi2"


def test_it_has_the_requested_corruption_if_its_task_has_that_one() -> None:
    assert asked(expand(["task=ioi2", "patching.also=[ioi3]", "corruption=first"])) == ["first", "ioi3-first"]
    assert asked(expand(["corruption=second", "patching.also=[ioi2]"])) == ["second", "ioi2-first"]
    assert asked(expand(["patching.also=[sva]"])) == ["first", "sva-subject"]


def test_a_run_s_own_task_is_no_other_one() -> None:
    assert asked(expand(["task=ioi2,ioi3", "patching.also=[ioi2]"])) == ["first", "first", "ioi2-first"]


def test_prompts_of_training_are_asked_of_the_run_s_own_task_alone() -> None:
    assert asked(expand(["patching.split=train", "patching.also=[ioi2]"])) == ["train-first", "ioi2-first"]


def test_measures_are_of_the_run_s_own_prompts() -> None:
    _, other = expand(["patching=position", "patching.also=[ioi2]"])
    assert other.config.patching.measures == ()


def test_a_table_of_points_says_whose_prompts_they_are(tmp_path: Path) -> None:
    points = expand(["patching.also=[ioi2]", f"output={tmp_path}"])
    head, *rows = (line.split() for line in show.point_lines(make(points)))
    assert [row[head.index("patching.task")] for row in rows] == ["ioi3", "ioi2"]
    assert [row[head.index("corruption")] for row in rows] == ["first", "ioi2-first"]


def test_what_a_sweep_had_stays_in_it(tmp_path: Path) -> None:
    """Its file may be of a version without these keys; `first` of another task takes no other's place."""
    (first,) = expand([f"output={tmp_path}"])
    older = {key: value for key, value in first.values["patching"].items() if key not in ("task", "also", "split")}
    manifest.add(
        tmp_path, "mine", [GridPoint({**first.values, "patching": older}, {}, first.run_id, first.patch_id)], ""
    )
    later = expand([f"output={tmp_path}", "corruption=second", "patching.also=[ioi2]"])
    manifest.add(tmp_path, "mine", later, "")
    entries = manifest.load(tmp_path, "mine")
    assert [entry.corruption for entry in entries] == ["first", "second", "ioi2-first"]
    assert [entry.point(tmp_path).patch_id for entry in entries] == [
        first.patch_id,
        *(point.patch_id for point in later),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("patching.also=[zilch]", "task=zilch: no such choice; there are: docstring"),
        ("patching.also=[prompts]", r"patching.also=\[prompts\]: task.path: no value"),
        ("patching.also=ioi2", r"patching.also=ioi2: give a list .*; for example patching.also=\[ioi2\]"),
        ("+patching.task={name:x,_target_:y} patching.split=train", "patching.split=train: runs are not trained on"),
    ],
)
def test_what_is_wrong_is_one_line(words: str, says: str) -> None:
    with pytest.raises(UserError, match=f"\\A{says}"):
        expand(words.split())


def test_the_original_s_protocol_and_what_mends_it_are_of_the_same_runs() -> None:
    original = expand(["sweep=original"])
    assert {point.prompts_label for point in original} == {"train-trio", "train-first", "train-second"}
    config = original[0].config
    assert (config.optim.lr, config.optim.weight_decay, config.schedule.name) == (2e-5, 0, "constant")
    assert (config.train.batch_size, config.task.arguments["repeat"], config.patching.prompts) == (32, 20, 12)
    assert config.checkpoint_steps == list(range(0, 185, 8))
    mended = ["corruption=first,second", "patching.split=heldout", "patching.prompts=96", "patching.also=[ioi2]"]
    corrected = expand(["sweep=original", *mended])
    assert {point.prompts_label for point in corrected} == {"first", "second", "ioi2-first"}
    assert {point.run_id for point in corrected} == {point.run_id for point in original}

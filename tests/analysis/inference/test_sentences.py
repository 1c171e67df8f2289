"""Findings claim no more than the verdicts beneath them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mi_sweeps.analysis.agreement.rows import of_subjects as rows_of_subjects
from mi_sweeps.analysis.findings.finding import Finding
from mi_sweeps.analysis.findings.heads import heads
from mi_sweeps.analysis.findings.subjects import subjects
from mi_sweeps.analysis.findings.transformed import transformed
from mi_sweeps.analysis.inference import changes
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.families import Family, family
from mi_sweeps.analysis.inference.transformations import transformation
from mi_sweeps.analysis.prompts import at_steps

from .planted import planted


def of_heads(one: Family) -> list[Finding]:
    return list(heads(("all", "heads", "first"), one, courses(one)))


def test_a_head_that_matters_from_a_late_first_checkpoint_on_is_not_said_to_have_mattered_from_the_start():
    one = planted(np.full((6, 1), 0.9))
    assert of_heads(one)[0].statement.startswith("Head 0.0 has mattered from the start. ")
    late = family("z", [replace(job, sites={"z": at_steps(job.sites["z"], (16, 24, 32))}) for job in one.jobs])
    assert of_heads(late)[0].statement.startswith("Head 0.0 has mattered from checkpoint 16 on, the first that was")


@pytest.mark.parametrize(
    ("recovered", "gap"),
    [
        ((0.03, 0.03, 0.03, 0.03, 0.15, 0.15), (10, 10, 10, 10, 2, 2)),  # small until the gap shrank
        ((0.3, 0.03, 0.03, 0.03, 0.3, 0.3), (1, 10, 10, 10, 1, 1)),  # small in between
    ],
)
def test_a_head_with_the_same_gain_throughout_that_did_not_always_matter_has_no_since(recovered, gap):
    (said, _) = of_heads(planted(np.array([recovered]).T, gap=np.array(gap, float), noise=0.02))
    assert said.statement.startswith("Head 0.0 matters; since when is unknown. ") and said.is_weak


def test_a_head_with_the_same_gain_but_no_gap_at_first_has_no_since():
    (job,) = planted(np.full((6, 1), 0.3)).jobs
    site = job.sites["z"]
    clean = site.clean - 4.0 * (np.arange(6) == 0)[:, None]
    one = family("z", [replace(job, sites={"z": replace(site, clean=clean)})])
    assert one.judged.words.tolist() == ["undefined", *["matters"] * 5]
    assert of_heads(one)[0].statement.startswith("Head 0.0 matters; since when is unknown. ")


def test_one_run_without_a_gap_does_not_make_the_group_have_none():
    (job, *_) = planted(np.full((1, 1), 0.9), runs=1).jobs
    weak = planted(np.full((1, 1), 0.9), gap=0.0, runs=2).jobs[1]
    (said,) = of_heads(family("z", [job, weak]))
    assert said.statement.startswith("At checkpoint 0, the first corruption makes no measurable difference in at ")
    assert "least one of the 2 runs (mean gap 2." in said.statement and said.verdict == "undefined"


def test_a_head_that_mattered_and_is_undecided_at_the_end_is_named():
    said = of_heads(planted(np.array([[0.0, 0.5, 0.5, 0.05, 0.05, 0.05]]).T))
    assert said[0].statement.startswith("Head 0.0 mattered until checkpoint 16; whether it still does is undecided. ")
    assert said[0].is_weak and "No head" not in " ".join(one.statement for one in said)


def test_a_head_that_mattered_before_the_gap_went_is_named():
    first, rest = of_heads(planted(np.array([[0.9] * 6]).T, gap=np.array([4, 4, 4, 4, 0, 0.0])))
    assert first.statement == "Head 0.0 mattered until checkpoint 24 under the first corruption."
    assert rest.statement.startswith("At checkpoint 40, the first corruption makes no measurable difference (gap")


def test_where_no_head_matters_the_sentence_says_at_which_checkpoint():
    (said,) = of_heads(planted(np.zeros((3, 2))))
    assert said.statement == "No head is shown to matter at checkpoint 16 under the first corruption (2 small)."


def of_subjects(first: list[float], second: list[float], noise: float = 0.05) -> Finding:
    one, other = (
        planted(np.array([recovered]), corruption=name, noise=noise, seed=seed)
        for seed, (name, recovered) in enumerate((("first", first), ("second", second)))
    )
    rows = rows_of_subjects({"setting": "all", "patching": "heads"}, one, other)
    assert rows is not None
    (said,) = subjects(rows)
    return said


def test_one_head_of_many_that_differs_does_not_make_them_all_different():
    shared = [0.5, 0.4, 0.3, 0.2]
    said = of_subjects([*shared, 0.15, 0.0], [*shared, 0.0, 0.0])
    assert said.statement.startswith(
        "At checkpoint 0, not all the same heads carry the first and the second corruption: 4 of 5 do, 0.4 does not. "
    )
    assert said.verdict == "not all the same heads"


def test_heads_with_nothing_in_common_are_counted_too():
    assert "corruption: 0 of 3 do, 0.1, 0.0, 0.2 do not. " in of_subjects([0.5, -0.4, 0], [0, 0.4, 0.3]).statement


def of_transformation(before: list[float], after: list[float]) -> str:
    found = transformation(planted(np.array([before, after]), noise=0.05))
    (said,) = transformed(changes.row(("all", "heads", "first"), found))
    assert said.verdict == "transformed"
    return said.statement


def test_a_head_that_was_gained_is_named_where_the_others_were_kept():
    said = of_transformation([0.6, 0.4, 0.0, 0.0], [0.6, 0.4, 0.12, 0.0])
    assert "the heads that matter after are mostly those that mattered before (new or reversed: 0.2): heads" in said
    assert "corruption, the heads that matter after are those that mattered before: heads" in of_transformation(
        [0.6, 0.4, 0.0], [0.6, 0.4, 0.0]
    )

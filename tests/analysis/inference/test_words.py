"""Sentences say only what verdicts warrant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.inference.families import Family, family
from mi_sweeps.analysis.inference.words import differences, sentences

from .planted import planted


def said(family: Family) -> str:
    return " ".join(sentences(family, courses(family)))


def test_what_matters_is_named_with_its_interval_and_the_rest_is_counted():
    recovered = np.zeros((6, 4))
    recovered[3:, 1] = 0.9
    text = said(planted(recovered, runs=3))
    assert text.startswith("At checkpoint 40, head 0.1 matters: patching it alone recovers 0.90 [")
    assert "The other 3 heads are all small" in text
    assert "Formed during training (reached half of the final gain, in logits): 0.1 at checkpoint 24 [24, 24]." in text
    assert (
        "(48 prompts, 3 runs; for other prompts and other seeds; 5% chance that any of 4 heads × 6 checkpoints" in text
    )


def test_where_nothing_matters_it_says_so():
    text = said(planted(np.zeros((6, 4))))
    assert text.startswith("No head is shown to matter at checkpoint 40. The 4 heads are all small")
    assert "Formed" not in text and "not for other seeds" in text


def test_undecided_heads_are_called_undecided():
    text = said(planted(np.zeros((2, 3)), noise=5.0, prompts=6))
    assert "No head is shown to matter" in text and "The 3 heads are all undecided (more" in text


def test_without_a_gap_there_is_nothing_to_bring_back():
    text = said(planted(np.full((6, 2), 0.9), gap=np.array([4, 4, 4, 4, 0, 0.0])))
    assert text.startswith("At checkpoint 40, the corruption makes no measurable difference")
    assert "Mattered earlier: 0.0 (recovered 0.9" in text and "matters:" not in text


def test_one_run_without_a_gap_does_not_make_the_gap_of_all_zero():
    text = said(planted(np.full((6, 2), 0.9), gap=np.array([4, 4, 4, 4, 0, 0.0]), runs=2))
    assert "no measurable difference in at least one of the 2 runs" in text
    assert "nothing for a patch to recover" not in text and "nothing left" not in text


def test_lost_heads_and_those_that_changed_sign_are_named():
    recovered = np.zeros((6, 3))
    recovered[:3, 0], recovered[:3, 1], recovered[3:, 1] = 0.9, -0.5, 0.5
    text = said(planted(recovered))
    assert "Lost: 0.0 (recovered 0.90 at its largest, until checkpoint 16); small at checkpoint 40." in text
    assert "Changed sign: 0.1 (recovered -0." in text


def test_many_heads_are_counted_and_not_all_named():
    text = said(planted(np.full((2, 30), 0.5)))
    assert "At checkpoint 8, 30 heads matter" in text and "and 22 more." in text


def test_a_difference_says_which_way_and_of_what():
    text = " ".join(differences(difference(planted(np.array([[0.9, 0.0]])), planted(np.array([[0.5, 0.0]])))))
    assert text.startswith("Less at checkpoint 0: 0.0 (-0.4") and "1 alike (within 0.05)" in text


def test_what_was_only_estimated_or_has_one_prompt_is_not_concluded_of():
    job = planted(np.full((2, 2), 0.9)).jobs[0]
    estimated = replace(job, sites={"z (approximate)": replace(job.sites["z"], patched=None)})
    assert said(family("z (approximate)", [estimated])).startswith("z (approximate) was estimated and not patched")
    assert said(planted(np.full((2, 2), 0.9), prompts=1)).startswith("There is one prompt, so nothing")


def test_a_run_that_stopped_ends_its_group_there_and_the_sentence_says_so():
    """What the others have later is of other runs, and would pass for a change."""
    recovered = np.zeros((6, 2))
    recovered[:, 0] = 0.9
    jobs = list(planted(recovered, runs=3).jobs)
    site = jobs[2].sites["z"]
    names = ("clean", "corrupted", "patched", "gain", "gap", "n")
    short = replace(site, steps=site.steps[:3], **{name: getattr(site, name)[:3] for name in names})
    jobs[2] = replace(jobs[2], sites={"z": short})
    text = said(family("z", jobs))
    assert text.startswith("At checkpoint 16, head 0.0 matters") and "Mattered from the start: 0.0." in text
    assert "3 runs, up to checkpoint 16, the last that all of them have" in text


def test_a_difference_between_strangers_says_that_nothing_is_paired():
    one, other = (
        planted(np.array([[0.9]]), runs=2),
        planted(np.array([[0.5]]), runs=2, configs=[{"seed": "7"}, {"seed": "8"}]),
    )
    strange = [
        replace(job, patch=replace(job.patch, about={"prompts": [{"clean": f"other {i}"} for i in range(48)]}))
        for job in other.jobs
    ]
    assert "48 prompts; not paired;" in " ".join(differences(difference(one, family("z", strange))))

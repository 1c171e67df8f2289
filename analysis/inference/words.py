"""What is said of a family of heads: sentences that its verdicts warrant, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .courses import Course, HeadCourse
from .differences import Comparison, Difference
from .families import Family, Place
from .verdicts import DELTA, Verdict

MOST = 8
"""Heads that a sentence names; of more it says how many."""


def sentences(family: Family, told: Sequence[HeadCourse]) -> list[str]:
    """Which heads matter at the last checkpoint and since when, which were lost, and what cannot be told.

    Args:
        told: the family's `courses`.
    """
    step = family.steps[-1]
    verdict = family.judged.words[family.at(step)]
    if (verdict == Verdict.UNDEFINED.value).all():
        said = [_no_gap(family, step)]
    else:
        said = [_mattering(family, step), *_others(verdict, family)]
    said += _since(told)
    for course in BEFORE:
        said += _before([one for one in told if one.course is course], course)
    return [*said, f"({scope(family)}; {verdicts_of(family)}, any verdict wrong: 5%)"]


def name(place: Place) -> str:
    """What a head, or a position of a layer, is called: 2.1, or "end before layer 3"."""
    layer, head, position = place
    return f"{layer}.{head}" if head is not None else f"{position}, layer {layer}"


def number(value: float) -> str:
    """A recovered fraction, without a minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def range_of(low: float, high: float) -> str:
    """An interval in brackets; empty where there is none."""
    return f" [{number(low)}, {number(high)}]" if np.isfinite(low) and np.isfinite(high) else ""


def scope(family: Family) -> str:
    """What the family's intervals and verdicts are of, in a few words."""
    runs = len(family.jobs)
    prompts = len(family.prompts)
    if family.gain is None:
        if runs == 1:
            return "1 run, whose tables do not tell prompts apart: nothing can be concluded"
        return f"{runs} runs; other seeds, on these prompts (tables do not tell prompts apart)"
    if family.seeds:
        return f"n {prompts} prompts, {runs} runs; other prompts and other seeds"
    if runs == 1:
        return f"n {prompts} prompts, 1 run; other prompts in this run, not other seeds"
    return f"n {prompts} prompts, {runs} runs; other prompts in these runs, not other seeds"


def scope_of_difference(found: Difference) -> str:
    """What a difference's intervals and comparisons are of, in a few words."""
    pairs = "paired by prompt and run" if found.paired else "paired by prompt"
    of = "other prompts and other seeds" if found.seeds else "other prompts in these runs, not other seeds"
    return f"n {int(found.n.max(initial=0))} prompts; {pairs}; {of}"


def differences(found: Difference) -> list[str]:
    """At which heads the second group recovers more or less than the first, at the last checkpoint that both have."""
    step = found.steps[-1]
    at = found.at(step)
    said = []
    for one, how in ((Comparison.MORE, "More"), (Comparison.LESS, "Less")):
        own = [i for i in np.argsort(-np.abs(np.nan_to_num(found.difference[at]))) if found.words[at][i] == one.value]
        words = [
            f"{name(found.places[i])} ({found.difference[at][i]:+.2f}{range_of(found.low[at][i], found.high[at][i])})"
            for i in own
        ]
        if words:
            said.append(f"{how} at checkpoint {step}: {_list(words)}.")
    counts = {one: int((found.words[at] == one.value).sum()) for one in Comparison}
    if not said:
        said.append(f"No difference is shown at checkpoint {step}.")
    rest = [
        f"{counts[one]} {told}"
        for one, told in (
            (Comparison.ALIKE, f"alike within {DELTA}"),
            (Comparison.UNDECIDED, "cannot be told"),
            (Comparison.UNDEFINED, "not defined, for one of both has no gap"),
        )
        if counts[one]
    ]
    many = f"{len(found.places)} × {len(found.steps)}"
    return [*said, *([f"{'; '.join(rest)[:1].upper()}{'; '.join(rest)[1:]}."] if rest else []),
            f"({scope_of_difference(found)}; {many} comparisons, any wrong: 5%)"]  # fmt: skip


def verdicts_of(family: Family) -> str:
    """How many verdicts a family has: "16 heads × 27 checkpoints"."""
    kind = _kind(family) + ("s" if len(family.places) > 1 else "")
    return f"{len(family.places)} {kind} × {len(family.steps)} checkpoint{'s' if len(family.steps) > 1 else ''}"


def _mattering(family: Family, step: int) -> str:
    at = family.at(step)
    low, high = family.interval
    recovered = family.estimate.recovered[at]
    order = np.argsort(-np.abs(np.nan_to_num(recovered)))
    matter = [i for i in order if family.judged.matter()[at][i]]
    if not matter:
        return f"No {_kind(family)} is shown to matter at checkpoint {step}."
    words = [f"{name(family.places[i])} ({number(recovered[i])}{range_of(low[at][i], high[at][i])})" for i in matter]
    return (
        f"At checkpoint {step} {_list(words)} {'matters' if len(matter) == 1 else 'matter'} (recovered, 95% interval)."
    )


def _others(verdict: np.ndarray, family: Family) -> list[str]:
    small, undecided = (int((verdict == one.value).sum()) for one in (Verdict.SMALL, Verdict.UNDECIDED))
    rest, other = small + undecided, "other " if small + undecided < len(verdict) else ""
    kinds = _kind(family) + ("s" if rest > 1 else "")
    if not rest:
        return []
    if not undecided:
        many = f"All {other}{rest} {kinds} are" if rest > 1 else f"The {other}{kinds} is"
        return [f"{many} small: less than {DELTA} brought back or taken away."]
    if not small:
        return [f"Of the {other}{rest} {kinds} nothing can be told: more prompts or seeds are needed."]
    left = f"of {undecided} it cannot be told: more prompts or seeds are needed."
    return [f"Of the {other}{rest} {kinds} {small} {'is' if small == 1 else 'are'} small (less than {DELTA}); {left}"]


def _since(told: Sequence[HeadCourse]) -> list[str]:
    said = []
    for course, how in ((Course.FORMED, "Formed in training"), (Course.GREW, "There from the start, and grew")):
        own = [one for one in told if one.course is course]
        own.sort(key=lambda one: (one.onset or 0, -abs(one.peak)))
        words = [f"{name(one.place)} at checkpoint {one.onset} [{one.onset_low}, {_end(one)}]" for one in own]
        if words:
            said.append(f"{how}: {_list(words)} (half of its last gain in logits, with the onset's interval).")
    start = [name(one.place) for one in told if one.course is Course.FROM_THE_START]
    if start:
        said.append(f"There from the start: {_list(start)}.")
    unknown = [name(one.place) for one in told if one.course is Course.MATTERS]
    if unknown:
        said.append(f"Since when {_list(unknown)} {'does' if len(unknown) == 1 else 'do'}, cannot be told.")
    return said


def _end(one: HeadCourse) -> str:
    return "later than the last" if one.onset_high is None else str(one.onset_high)


BEFORE = {
    Course.LOST: "Lost: {heads}; small at the last checkpoint.",
    Course.CHANGED_SIGN: "Changed sign: {heads}; the other way at the last checkpoint.",
    Course.FADED: "Mattered before: {heads}; undecided at the last checkpoint.",
    Course.UNDEFINED: "Mattered before: {heads}; recovered is not defined at the last checkpoint.",
}


def _before(own: Sequence[HeadCourse], course: Course) -> list[str]:
    heads = [f"{name(one.place)} (up to {number(one.peak)}, last at checkpoint {one.last})" for one in own]
    return [BEFORE[course].format(heads=_list(heads))] if own else []


def _no_gap(family: Family, step: int) -> str:
    gap = number(float(np.nanmean(family.estimate.gap[family.at(step)])))
    runs = len(family.jobs)
    if runs > 1:  # what some of them have a gap for is not defined for all
        return (
            f"At checkpoint {step} the corruption makes no measurable difference in at least one of the {runs} runs "
            f"(clean less corrupted: {gap} logits on average), so recovered is not defined for them together."
        )
    return (
        f"At checkpoint {step} the corruption makes no measurable difference (clean less corrupted: {gap} logits), so "
        "there is nothing for a patch to bring back."
    )


def _kind(family: Family) -> str:
    return "head" if family.places[0][1] is not None else "position"


def _list(words: Sequence[str]) -> str:
    """At most MOST of them by name."""
    named = list(words[:MOST]) + ([f"{len(words) - MOST} more"] if len(words) > MOST else [])
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"

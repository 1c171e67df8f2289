"""Sentences about a family of heads that claim no more than its verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...counting import counted, plural
from .courses import Course, HeadCourse
from .differences import Comparison, Difference
from .families import Family, Place
from .verdicts import DELTA, Verdict, few

MOST = 8
"""The most heads that a sentence names; the others are counted."""


def sentences(family: Family, of_heads: Sequence[HeadCourse]) -> list[str]:
    """Say which heads matter at the last checkpoint and since when, which were lost, and which are undecided.

    Args:
        of_heads: the family's `courses`.
    """
    if family.is_estimate:
        return [f"{family.site} was estimated and not patched, so there are no verdicts."]
    if family.gain is not None and len(family.prompts) < 2:
        return ["There is one prompt, so nothing can be concluded."]
    step = family.steps[-1]
    verdict = family.judged.words[family.at(step)]
    if (verdict == Verdict.UNDEFINED.value).all():
        said = [f"At checkpoint {step}, the corruption {no_gap(family, step)}."]
    else:
        said = [_mattering(family, step), *_others(family, step)]
    said += _since(of_heads, family.steps[0])
    for course in BEFORE:
        said += _before([one for one in of_heads if one.course is course], course, step)
    wrong = (
        ""
        if len(family.jobs) == 1 and family.gain is None
        else f"; 5% chance that any of {verdicts_of(family)} is wrong"
    )
    return [*said, f"({scope(family)}{wrong})"]


def name(place: Place) -> str:
    """The name of a head or of a layer's position: 2.1, or "end@3"."""
    layer, head, position = place
    return f"{layer}.{head}" if head is not None else f"{position}@{layer}"


def number(value: float) -> str:
    """A recovered fraction, without a minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def range_of(low: float, high: float) -> str:
    """An interval in brackets; empty where there is none."""
    return f" [{number(low)}, {number(high)}]" if np.isfinite(low) and np.isfinite(high) else ""


def scope(family: Family, is_caption: bool = False) -> str:
    """The scope of a family's intervals and verdicts, in a few words.

    Args:
        is_caption: whether a caption counts the runs that are left out (`analysis.missing`).
    """
    prompts, runs = len(family.prompts), counted(len(family.jobs), "run")
    stopped = f", {up_to(family.steps[-1])}" if family.stopped else ""
    stopped += f", {left_out(family.left_out)}" if family.left_out and not is_caption else ""
    stopped += _without(family)
    if family.gain is None:
        if len(family.jobs) == 1:
            return "1 run, whose tables lack values by prompt: nothing can be concluded"
        return f"{runs}{stopped}; for other seeds, on these prompts (tables lack values by prompt)"
    if family.seeds:
        return f"{counted(prompts, 'prompt')}, {runs}{stopped}; for other prompts and other seeds"
    these = "this run" if len(family.jobs) == 1 else "these runs"
    return f"{counted(prompts, 'prompt')}, {runs}{stopped}; for other prompts in {these}, not for other seeds"


def left_out(count: int) -> str:
    """For runs that diverged."""
    return f"{counted(count, 'run')} that diverged {'is' if count == 1 else 'are'} left out"


def up_to(step: int) -> str:
    """For runs of different lengths."""
    return f"up to checkpoint {step}, the last that all of them have"


def scope_of_difference(found: Difference) -> str:
    """The scope of a difference's intervals and comparisons, in a few words."""
    prompts = int(found.n.max(initial=0))
    by = ["prompt"] if found.shared == prompts else [f"{found.shared} of {prompts} prompts"] if found.shared else []
    paired = (
        f"paired by {' and '.join([*by, *(['run'] if found.paired else [])])}" if by or found.paired else "not paired"
    )
    of = "for other prompts and other seeds" if found.seeds else "for other prompts in these runs, not for other seeds"
    return f"{counted(prompts, 'prompt')}; {paired}; {of}"


def differences(found: Difference) -> list[str]:
    """Say at which heads the second group recovers more or less than the first, at their last common checkpoint."""
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
        f"{counts[one]} {word}"
        for one, word in (
            (Comparison.ALIKE, f"alike (within {DELTA})"),
            (Comparison.UNDECIDED, "undecided"),
            (Comparison.UNDEFINED, "not defined (one of the two has no gap)"),
        )
        if counts[one]
    ]
    many = f"{len(found.places)} × {len(found.steps)}"
    return [*said, *([f"{'; '.join(rest)[:1].upper()}{'; '.join(rest)[1:]}."] if rest else []),
            f"({scope_of_difference(found)}; 5% chance that any of {many} comparisons is wrong)"]  # fmt: skip


def verdicts_of(family: Family | Difference) -> str:
    """The number of verdicts, or comparisons, in words: "16 heads × 27 checkpoints"."""
    places = counted(len(family.places), _kind(family))
    return f"{places} × {counted(len(family.steps), 'checkpoint')}"


def _mattering(family: Family, step: int) -> str:
    at = family.at(step)
    low, high = family.interval
    recovered = family.estimate.recovered[at]
    order = np.argsort(-np.abs(np.nan_to_num(recovered)))
    matter = [i for i in order if family.judged.matter()[at][i]]
    if not matter:
        return f"No {_kind(family)} is shown to matter at checkpoint {step}."
    words = [f"{name(family.places[i])} {number(recovered[i])}{range_of(low[at][i], high[at][i])}" for i in matter]
    if len(matter) == 1:
        (only,) = matter
        value = f"{number(recovered[only])}{range_of(low[at][only], high[at][only])}"
        which = f"{_kind(family)} {name(family.places[only])}"
        return f"At checkpoint {step}, {which} matters: patching it alone recovers {value} of the gap (95% interval)."
    return (
        f"At checkpoint {step}, {len(matter)} {_kind(family)}s matter; patching one alone recovers (95% interval): "
        f"{_list(words)}."
    )


def _others(family: Family, step: int) -> list[str]:
    """Counts the verdicts on the other heads."""
    at = family.at(step)
    verdict, untested = family.judged.words[at], few(family.estimate.n)[at]
    is_there = family.estimate.runs[at] > 0
    somewhere = " in at least one run" if len(family.jobs) > 1 else ""
    counts = {
        f"small (below {DELTA})": (verdict == "small").sum(),
        "undecided (more prompts or seeds are needed)": ((verdict == "undecided") & ~untested & is_there).sum(),
        f"undefined (no measurable gap{somewhere})": ((verdict == "undefined") & ~untested & is_there).sum(),
        "not tested (fewer than half of the prompts have them)": (untested & is_there).sum(),
    }
    named = {what: int(count) for what, count in counts.items() if count}
    rest = sum(named.values())
    if not rest:
        return []
    other = "other " if rest < int(is_there.sum()) else ""
    kinds = plural(_kind(family), rest)
    if len(named) == 1:
        many = f"The {other}{rest} {kinds} are all" if rest > 1 else f"The {other}{kinds} is"
        (what,) = named
        return [f"{many} {f'small: less than {DELTA} of the gap, either way' if what.startswith('small') else what}."]
    return [
        f"Of the {other}{rest} {kinds}, {_list([f'{count} {_is(count)} {what}' for what, count in named.items()])}."
    ]


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _without(family: Family) -> str:
    """Names the checkpoints left out because some run lacks them."""
    steps = family.lacking
    if not steps:
        return ""
    which = f"{plural('checkpoint', len(steps))} {_list([str(step) for step in steps])}"
    lacks = "which not all of them have" if len(family.jobs) > 1 else "which it lacks"
    return f", without {which}, {lacks}"


def _since(of_heads: Sequence[HeadCourse], first: int) -> list[str]:
    said = []
    for course, how in ((Course.FORMED, "Formed during training"), (Course.GREW, "Grew during training")):
        own = [one for one in of_heads if one.course is course]
        own.sort(key=lambda one: (one.onset or 0, -abs(one.peak)))
        words = [f"{name(one.place)} at checkpoint {one.onset} [{one.onset_low}, {one.onset_high}]" for one in own]
        if words:
            said.append(f"{how} (reached half of the final gain, in logits): {_list(words)}.")
    start = [name(one.place) for one in of_heads if one.course is Course.FROM_THE_START]
    if start:
        said.append(f"Mattered {from_first(first)}: {_list(start)}.")
    unknown = [name(one.place) for one in of_heads if one.course is Course.MATTERS]
    if unknown:
        said.append(f"When {_list(unknown)} began to matter is unknown.")
    return said


def from_first(first: int) -> str:
    """Since the first checkpoint of a family, which is the start only at step 0."""
    return f"from checkpoint {first} on, the first that was examined" if first else "from the start"


BEFORE = {
    Course.LOST: ("Lost", "small at checkpoint {step}"),
    Course.OUTGROWN: ("Outgrown", "small at checkpoint {step}, as the gap has grown and the gain has not shrunk"),
    Course.CHANGED_SIGN: ("Changed sign", "the other way at checkpoint {step}"),
    Course.FADED: ("Mattered earlier", "undecided at checkpoint {step}"),
    Course.UNDEFINED: ("Mattered earlier", "undefined at checkpoint {step}"),
}


def _before(own: Sequence[HeadCourse], course: Course, step: int) -> list[str]:
    how, now = BEFORE[course]
    heads = [
        f"{name(one.place)} (recovered {number(one.peak)} at its largest, until checkpoint {one.last})" for one in own
    ]
    return [f"{how}: {_list(heads)}; {now.format(step=step)}."] if own else []


def no_gap(family: Family, step: int) -> str:
    """What the corruption does where all heads are undefined: "makes no measurable difference …"."""
    gap = number(float(np.nanmean(family.estimate.gap[family.at(step)])))
    runs = len(family.jobs)
    if runs > 1:  # not defined for all of them: some have no gap
        return (
            f"makes no measurable difference in at least one of the {runs} runs (mean gap {gap} logits), so nothing "
            "can be said of the group"
        )
    return f"makes no measurable difference (gap {gap} logits), so there is nothing for a patch to recover"


def _kind(family: Family | Difference) -> str:
    return "head" if family.places[0][1] is not None else "position"


def _list(words: Sequence[str]) -> str:
    """Names at most MOST of them."""
    named = list(words[:MOST]) + ([f"{len(words) - MOST} more"] if len(words) > MOST else [])
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"

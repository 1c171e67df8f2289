"""Which heads carry what the corruption changes, and since when?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..inference import words
from ..inference.courses import Course, HeadCourse
from ..inference.families import Family
from .finding import Finding

SITE = "z"
"""The site: outputs of heads."""

NAMED = 8
"""The most heads of a family that get a sentence of their own: those that recover most."""

SINCE = {
    Course.FORMED: "formed during training, with half of its final gain from checkpoint {onset} on",
    Course.GREW: "grew during training, with half of its final gain from checkpoint {onset} on",
    Course.FROM_THE_START: "has mattered {first}",
    Course.MATTERS: "matters; since when is unknown",
    Course.CHANGED_SIGN: "changed sign: until checkpoint {last} it acted the other way",
    Course.LOST: "was lost: it mattered until checkpoint {last}, and is small now",
    Course.OUTGROWN: "was outgrown: it mattered until checkpoint {last}, and its gain stayed while the gap grew",
    Course.FADED: "mattered until checkpoint {last}; whether it still does is undecided",
    Course.UNDEFINED: "mattered until checkpoint {last}",
}
"""Phrases by course; heads that never mattered get no sentence of their own."""


def heads(key: tuple[str, str, str], family: Family, of_heads: Sequence[HeadCourse]) -> Iterator[Finding]:
    """Yield a finding for each head that matters or once did, and one for all others, at SITE only.

    Args:
        key: setting, patching and corruption.
    """
    if family.site != SITE or family.gain is None or len(family.prompts) < 2:
        return
    setting, patching, _ = key
    runs = tuple(job.patch.run_id for job in family.jobs)
    step = family.steps[-1]
    at, scope = family.at(step), words.scope(family)
    low, high = (ends[at] for ends in family.interval)
    recovered, verdict = family.estimate.recovered[at], family.judged.words[at]
    n = int(family.estimate.n[at].max(initial=0))
    chosen = [i for i, one in enumerate(of_heads) if one.course in SINCE]
    chosen.sort(key=lambda i: -abs(np.nan_to_num(recovered[i])))
    for i in chosen[:NAMED]:
        one = of_heads[i]
        onset = f"{one.onset} [{one.onset_low}, {one.onset_high}]"
        since = SINCE[one.course].format(onset=onset, last=one.last, first=words.from_first(family.steps[0]))
        value = f"{words.number(recovered[i])}{words.range_of(low[i], high[i])}"
        said = f"Head {words.name(one.place)} {since}"
        if one.course is not Course.UNDEFINED:
            said += f". Patching its {family.site} alone recovers {value} of the gap at checkpoint {step}"
        said += f" under the {family.corruption} corruption."
        is_weak = one.course in (Course.MATTERS, Course.FADED)
        yield Finding(
            "heads", setting, family.corruption, said, one.course.value, recovered[i], low[i], high[i], "recovered",
            int(family.estimate.n[at][i]), is_weak, scope, "courses", patching, runs,
        )  # fmt: skip
    small, unsure = int((verdict == "small").sum()), int((verdict == "undecided").sum())
    if (verdict == "undefined").all():
        said = f"At checkpoint {step}, the {family.corruption} corruption {words.no_gap(family, step)}."
        yield Finding("heads", setting, family.corruption, said, "undefined", n=n, scope=scope, table="verdicts",
                      patching=patching, run_ids=runs)  # fmt: skip
        return
    if not chosen:
        counts = ", ".join(f"{n} {word}" for n, word in ((small, "small"), (unsure, "undecided")) if n)
        said = f"No head is shown to matter at checkpoint {step} under the {family.corruption} corruption"
        said += f" ({counts})." if counts else "."
    else:
        more = f"{len(chosen) - NAMED} more heads matter or did; " if len(chosen) > NAMED else ""
        under = f"Under the {family.corruption} corruption"
        said = f"{under}, {more}{small} of {len(of_heads)} heads are small at checkpoint {step}"
        said += f", and {unsure} {'is' if unsure == 1 else 'are'} undecided." if unsure else "."
    yield Finding(
        "heads", setting, family.corruption, said, "undecided" if unsure else "small", n=n, is_weak=unsure > 0,
        scope=scope, table="verdicts", patching=patching, run_ids=runs,
    )  # fmt: skip

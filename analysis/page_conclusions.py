"""The conclusions in the form that the report's page reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .conclusions import AttributionMeans, Comparison, Conclusions, JudgedFamily, gaps
from .findings.questions import QUESTIONS
from .folder import Json
from .inference import words
from .inference.courses import Course
from .inference.families import Place
from .packing import Pool, in_units, rounded, thousandths

SHOWN_FINDINGS = 60
"""Findings per question; the exported table has all of them."""
OPEN = ("cannot tell", "undecided")
"""Verdicts that more prompts or seeds could decide; the page folds their sentences."""
ANSWERED = ("seeds", "subjects")
"""Questions that the table of settings has a column for."""


def payload(
    conclusions: Conclusions, steps: set[int], runs: set[int], step_lists: Pool, layouts: Pool, gap_lists: Pool
) -> Json:
    """All conclusions, limited to what the page shows.

    Args:
        steps: checkpoints that are shown.
        runs: runs that are shown, by their index in the table of runs.
        step_lists, layouts, gap_lists: the page's shared values, which are added to.
    """
    families = (_family(one, steps, runs, step_lists, layouts, gap_lists) for one in conclusions.families)
    differences = (_difference(one, steps, runs, step_lists, layouts) for one in conclusions.comparisons)
    attribution = (_attribution(one, steps, runs, step_lists) for one in conclusions.attribution)
    return {
        "families": [one for one in families if one],
        "differences": [one for one in differences if one],
        "attribution": [one for one in attribution if one],
        "findings": _findings(conclusions.findings),
        "answers": _answers(conclusions.findings),
    }


def _answers(findings: pd.DataFrame) -> list[Json]:
    """The answer to each question in ANSWERED for every setting, whether or not its sentences are shown."""
    own = findings[findings["question"].isin(ANSWERED)]
    return [
        {"question": row["question"], "setting": row["setting"], "answer": row["verdict"]}
        | {key: "" if pd.isna(row[key]) else row[key] for key in ("corruption", "patching")}
        for row in own.to_dict("records")
    ]


def _findings(findings: pd.DataFrame) -> list[Json]:
    """The questions that have findings, with their sentences."""
    return [
        {
            "key": question,
            "question": text,
            "more": max(0, len(own) - SHOWN_FINDINGS),
            "findings": [
                {"setting": row["setting"], "statement": row["statement"], "weak": bool(row["is_weak"]), "open":
                row["verdict"] in OPEN,
                 **{key: "" if pd.isna(row[key]) else row[key] for key in ("corruption", "patching")},
                 "scope": "" if pd.isna(row["scope"]) else row["scope"], "table": row["table"],
                 "n": None if pd.isna(row["n"]) else int(row["n"]), "runs": row["run_ids"].split()}
                for row in own.head(SHOWN_FINDINGS).to_dict("records")
            ],
        }
        for question, text in QUESTIONS.items()
        if len(own := findings[findings["question"] == question])
    ]  # fmt: skip


LETTERS = np.array([*"msux."])
"""One letter per verdict, in the order of `inference.verdicts.VERDICTS`; the last is for absent places."""
SIGNS = np.array([*"+-=?x."])
"""The same for `inference.differences.COMPARISONS`."""


def _packed(letters: Iterable[str]) -> str:
    """Join letters into a word; a run of four or more is written with its length: "sssssm" is "s5m"."""
    return re.sub(r"(.)\1{3,}", lambda run: f"{run[1]}{len(run[0])}", "".join(letters))


def _family(one: JudgedFamily, kept: set[int], runs: set[int], steps: Pool, layouts: Pool, shared: Pool) -> Json | None:
    """Verdicts, intervals and courses at one site for a group of runs; None if some of the runs are not shown."""
    family = one.family
    if not set(one.runs) <= runs:
        return None
    layout, order = _laid_out(family.places, layouts)
    at = [number for number, step in enumerate(family.steps) if step in kept]
    there = family.estimate.runs > 0
    heads = bool(one.courses)

    def letters(verdict: np.ndarray) -> list[str]:
        each = LETTERS[np.where(there, verdict, len(LETTERS) - 1)]
        return [_packed(of_step) for of_step in _ordered(family.grid(each)[at], order, ".")]

    def ends(values: np.ndarray) -> list[list[int | None]] | None:
        return [thousandths(of_step) for of_step in _ordered(family.grid(values)[at], order, np.nan)] if heads else None

    verdict, here = letters(family.judged.verdict), letters(family.judged_here.verdict)
    gap = [in_units(of_step) for of_step in gaps(family)[at]]  # the same for most sites
    low, high = family.interval
    last = dict(zip(family.places, family.estimate.recovered[family.at(family.steps[-1])], strict=True))
    return {
        "runs": list(one.runs), "corruption": family.corruption, "patching": one.patching, "site": family.site,
        "steps": steps.steps(family.steps[number] for number in at), "layout": layout,
        "verdict": verdict, "here": here if here != verdict else None,
        "low": ends(low), "width": ends(high - low), "gap": shared.number(repr(gap), gap),
        "scope": words.scope(family), "many": words.verdicts_of(family),
        "sentences": words.sentences(family, one.courses) if heads else [],
        "courses": {
            words.name(head.place): {
                "course": head.course.value, "onset": head.onset, "low": head.onset_low, "high": head.onset_high,
                "last": head.last, "peak": round(head.peak, 3), "recovered": rounded(np.array([last[head.place]]))[0],
            }
            for head in one.courses if head.course not in (Course.NEVER, Course.UNDECIDED)
        },
    }  # fmt: skip


def _difference(one: Comparison, kept: set[int], runs: set[int], steps: Pool, layouts: Pool) -> Json | None:
    """The difference between two groups of runs or two corruptions; None if some of the runs are not shown."""
    found = one.difference
    if not {*one.first.runs, *one.second.runs} <= runs:
        return None
    layout, order = _laid_out(found.places, layouts)
    at = [number for number, step in enumerate(found.steps) if step in kept]
    size = len(found.steps), len(found.places)
    low, width = (_ordered(ends.reshape(size)[at], order, np.nan) for ends in (found.low, found.high - found.low))
    signs = _ordered(SIGNS[found.comparison].reshape(size)[at], order, ".")
    return {
        "a": {"runs": list(one.first.runs), "corruption": one.first.family.corruption},
        "b": {"runs": list(one.second.runs), "corruption": one.second.family.corruption},
        "patching": one.first.patching, "site": found.site,
        "steps": steps.steps(found.steps[number] for number in at), "layout": layout,
        "low": [thousandths(of_step) for of_step in low], "width": [thousandths(of_step) for of_step in width],
        "comparison": [_packed(of_step) for of_step in signs],
        "scope": words.scope_of_difference(found), "sentences": words.differences(found),
    }  # fmt: skip


def _attribution(one: AttributionMeans, kept: set[int], runs: set[int], steps: Pool) -> Json | None:
    """Intervals of the attribution of a group of runs; None if some of the runs are not shown."""
    if not set(one.runs) <= runs:
        return None
    found = one.means
    at = [number for number, step in enumerate(found.steps) if step in kept]
    low, high = (ends.reshape(len(found.steps), -1) for ends in (found.low, found.high))
    return {
        "runs": list(one.runs), "corruption": one.corruption, "patching": one.patching, "kind": found.kind,
        "steps": steps.steps(found.steps[number] for number in at),
        "low": [in_units(low[number]) for number in at], "width": [in_units((high - low)[number]) for number in at],
    }  # fmt: skip


def _laid_out(places: Sequence[Place], layouts: Pool) -> tuple[int, np.ndarray]:
    """Index of the layout of a family's places, and for each cell of it the place; -1 where there is none."""
    layers = sorted({layer for layer, _, _ in places})
    heads = places[0][1] is not None
    keys = [head if heads else position for _, head, position in places]
    columns = sorted({head for _, head, _ in places if head is not None}) if heads else list(dict.fromkeys(keys))
    layout = {"layers": layers, "axis": "head" if heads else "position", "columns": columns}
    number = {(place[0], key): at for at, (place, key) in enumerate(zip(places, keys, strict=True))}
    order = [number.get((layer, key), -1) for layer in layers for key in columns]
    return layouts.number(repr(layout), layout), np.array(order)


def _ordered(grid: np.ndarray, order: np.ndarray, missing: Any) -> np.ndarray:
    """Reorder values [checkpoint, place] into [checkpoint, cell of the layout]."""
    return np.where(order < 0, missing, grid[:, order])

"""Which edges matter, how few of them are faithful, and what may have been missed?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ...counting import counted
from ..inference.words import number, range_of
from .finding import Finding

NAMED = 4
"""The most edges that a sentence names: those that recover most."""

KEYS = ["setting", "corruption", "patching"]


def effects(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield the edges that matter at the last checkpoint of each setting and corruption.

    Args:
        table: `edge_effects`.
    """
    for (setting, corruption, patching), rows in table.groupby(KEYS, sort=False):
        last = rows[rows["step"] == rows["step"].max()]
        step, many = last["step"].iloc[0], int(last["edges"].iloc[0])
        order = last["recovered"].abs().sort_values(ascending=False).index
        matter = last.loc[order][lambda found: found["verdict"] == "matters"]
        unsure = int((last["verdict"] == "undecided").sum())
        top = matter.iloc[0].to_dict() if len(matter) else {}
        if (last["verdict"] == "undefined").all():
            runs = int(last["runs"].max())
            where = f", in at least one of the {runs} runs," if runs > 1 else ""
            said, verdict = f"there is no measurable gap{where} for edges to carry", "undefined"
        elif top:
            named = "; ".join(
                f"{name(row)} {number(row['recovered'])}{range_of(row['low'], row['high'])}"
                for row in matter.head(NAMED).to_dict("records")
            )
            more = f"; and {len(matter) - NAMED} more" if len(matter) > NAMED else ""
            said = f"{len(matter)} of {counted(many, 'edge')} matter; patching one alone recovers: {named}{more}"
            verdict = "matters"
        else:
            said, verdict = f"no edge of {many} is shown to matter", "undecided" if unsure else "small"
        if unsure:
            said += f". {counted(unsure, 'edge')} {'is' if unsure == 1 else 'are'} undecided"
        yield Finding(
            "circuits", str(setting), str(corruption),
            f"At checkpoint {step} under the {corruption} corruption, {said}.", verdict,
            top.get("recovered", float("nan")), top.get("low", float("nan")), top.get("high", float("nan")),
            "recovered", int(last["n"].max()), verdict == "undecided",
            "for other prompts and other seeds" if last["other_seeds"].all() else "for other prompts in these runs",
            "edge_effects", str(patching),
        )  # fmt: skip


def circuits(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield the smallest set of edges that is faithful in every run, or else the largest tried, at the last shared
    checkpoint of each setting and corruption.

    Args:
        table: `edge_circuits`, with the setting and patching of each row.
    """
    own = table[(table["kind"] == "circuit") & (table["order"] == "absolute") & (table["size"] < 100)]
    for (setting, corruption, patching), rows in own.groupby(KEYS, sort=False):
        last = _last(rows)
        fit = last.groupby("size")["verdict"].agg(lambda verdicts: (verdicts == "faithful").all())
        size = fit.index[fit].min() if fit.any() else fit.index.max()
        here = last[last["size"] == size]
        runs = here["run_id"].nunique()
        words = here["verdict"].unique()
        verdict = str(words[0]) if len(words) == 1 else "undecided"
        most, fewest = here["edges"].max(), here["edges"].min()
        edges = counted(most, "edge") if most == fewest else f"{fewest} to {most} edges"
        whose = "in all runs " if runs > 1 else ""
        what = (
            f"the smallest set of edges of those tried that is shown to be faithful {whose}has {edges} ({size:g}%)"
            if fit.any()
            else f"no set of edges of those tried is shown to be faithful{whose and ' in all runs'}; the largest has "
            f"{edges} ({size:g}%)"
        )
        value, low, high = here["value"].mean(), here["low"].min(), here["high"].max()
        said = f"At checkpoint {here['step'].iloc[0]} under the {corruption} corruption, {what}"
        yield Finding(
            "circuits", str(setting), str(corruption), f"{said}: F {number(value)}{range_of(low, high)}.", verdict,
            float(value), float(low), float(high), "F", int(here["n"].max()), verdict == "undecided", _scope(runs),
            "edge_circuits", str(patching),
        )  # fmt: skip


def missed(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield what may have been missed if not all edges were patched, at the last shared checkpoint of each setting and
    corruption, for the run that may have missed most.

    Args:
        table: `edge_bounds`, with the setting and patching of each row.
    """
    for (setting, corruption, patching), rows in table.groupby(KEYS, sort=False):
        last = _last(rows)
        row: dict[str, Any] = last.sort_values("at_most", na_position="last").iloc[-1].to_dict()
        where = f"At checkpoint {row['step']} under the {corruption} corruption"
        verdict = "bounded"
        if not row["rest"]:
            verdict, bound_text = "all patched", f"all {row['edges']} edges were patched, so that none was missed"
        elif pd.isna(row["at_most"]):
            verdict = "cannot tell"
            bound_text = (
                f"{row['edges_patched']} of {row['edges']} edges were patched, those that an estimate ranks first, and "
                "none of the others was drawn, so their size is unknown (patching.edges.sample)"
            )
        else:
            bound_text = (
                f"{row['edges_patched']} of {row['edges']} edges were patched; of the {row['rest']} that an estimate "
                f"ranks lower at most {row['at_most']} have a larger effect than {number(row['largest'])} logits, the "
                f"largest of {row['sample']} drawn at random ({row['level']:.0%} confidence)"
            )
        bound = float("nan") if pd.isna(row["at_most"]) else float(row["at_most"])
        runs = last["run_id"].nunique()
        yield Finding(
            "circuits", str(setting), str(corruption), f"{where}, {bound_text}.", verdict, bound, 0 * bound, bound,
            "edges", None if pd.isna(row["n"]) else int(row["n"]), verdict == "cannot tell",
            "on these prompts, in the run that may have missed most" if runs > 1 else "on these prompts, in this run",
            "edge_bounds", str(patching),
        )  # fmt: skip


def name(edge: dict[str, Any]) -> str:
    """Name of an edge: "2.1 to the queries of 5.3"."""
    return f"{_end(edge['source'], edge['source_layer'], edge['source_head'])} to {_input(edge)}"


def _end(node: str, layer: Any, head: Any) -> str:
    return node if pd.isna(layer) else f"{node} {layer}" if pd.isna(head) else f"head {layer}.{head}"


INPUTS = {"q": "queries", "k": "keys", "v": "values"}


def _input(edge: dict[str, Any]) -> str:
    if edge["input"] in INPUTS:
        return f"{INPUTS[edge['input']]} of {edge['layer']}.{edge['head']}"
    return _end(str(edge["input"]), edge["layer"], edge["head"])


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last checkpoint that most runs have, which is usually all of them."""
    counts = rows.groupby("step")["run_id"].nunique()
    return rows[rows["step"] == counts.index[counts == counts.max()].max()]


def _scope(runs: int) -> str:
    if runs == 1:
        return "for other prompts in this run"
    return "each run on its prompts; the interval spans those of all runs"

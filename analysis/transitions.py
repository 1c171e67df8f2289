"""Phase transitions, onsets and sign changes: `python -m mi_sweeps.analysis.transitions OUTPUT [SWEEP ...]`.

It prints the tables of `inference.trajectories` without the rows of single runs. `draw` shows the curves and fits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from . import missing, plotting
from .frames import Frames, load
from .inference.families import jobs
from .inference.trajectories import of_frames
from .inference.transitions import FEWEST, over_runs, transition
from .plotting import Picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how the curves of each setting changed."""
    parser = argparse.ArgumentParser(prog="python -m mi_sweeps.analysis.transitions", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("sweep", nargs="*")
    asked = parser.parse_args(arguments)
    try:
        tables = of_frames(load(asked.output, asked.sweep or None, most=0))
    except UserError as error:
        sys.exit(str(error))
    console = Console()
    for table in (_curves(tables["transitions"]), _onsets(tables["onsets"]), _signs(tables["sign_changes"])):
        console.print(table)


def enough(setting: Frames) -> bool:
    """Whether there are enough checkpoints for `draw`."""
    return setting.patching["step"].nunique() >= FEWEST and setting.output is not None


def draw(setting: Frames) -> Picture:
    """Draw the logit difference on patching prompts of each run of a setting with the best fit, a plot per corruption.

    The band spans 10% to 90% of the change: medians over runs with a measurable change.
    """
    patch_ids = set(setting.patching["patch_id"])
    found = jobs(setting.output, setting.runs, patch_ids) if setting.output is not None else []
    corruptions = list(dict.fromkeys(job.patch.corruption for job in found))
    prompts = [site.clean.shape[1] for job in found for site in list(job.sites.values())[:1]]
    note = "dots: means over prompts; line: best fit; band: from 10% to 90% of the change, and t50 (medians of runs)"
    runs = [job.patch.run_id for job in found]
    below = plotting.source(runs, prompts, note + missing.note(setting, runs))
    title = "Is there a phase transition? Logit difference of clean prompts"
    numbers: list[pd.DataFrame] = []
    with plotting.grid(1, max(1, len(corruptions)), title, below, height=2.2) as (figure, axes):
        for axis, corruption in zip(axes[0], corruptions, strict=False):
            fits = []
            for job in (job for job in found if job.patch.corruption == corruption):
                site = next(iter(job.sites.values()))
                fits.append(transition(np.array(site.steps, float), site.clean))
                values = np.nanmean(site.clean, axis=1)
                axis.plot(site.steps, values, ".", color="0.55", markersize=2.5)
                line = {"step": site.steps, "LD": values, "fitted": fits[-1].fitted or np.nan}
                numbers.append(pd.DataFrame({"run_id": job.patch.run_id, "corruption": corruption, **line}))
                if fits[-1].fitted:
                    axis.plot(site.steps, fits[-1].fitted, color="C0", linewidth=0.8)
            whole = over_runs(fits)
            if np.isfinite(whole.t50):
                axis.axvspan(whole.start, whole.start + whole.width, color="C1", alpha=0.15, linewidth=0)
                axis.axvline(whole.t50, color="C1", linewidth=0.8)
            axis.set(title=f"{corruption}: {whole.answer.value}", xlabel="checkpoint (step)")
        axes[0][0].set_ylabel("LD (logits)")
    figure.numbers = plotting.together(numbers)
    return figure


def _curves(rows: pd.DataFrame) -> Table:
    table = _table("Curves over checkpoints", ["setting", "curve", "answer", "t50", "width", "of the run", "runs"])
    for row in rows[rows["run_id"].isna()].to_dict("records"):
        share = row["width"] / row["length"]
        table.add_row(
            _setting(row), _curve(row), row["answer"], _range(row, "t50"), _range(row, "width"),
            f"{100 * share:.0f}%" if np.isfinite(share) else "", f"{row['agreeing']} of {row['runs']}",
        )  # fmt: skip
    return table


def _onsets(rows: pd.DataFrame) -> Table:
    """Heads with an onset in some run, and comparisons of corruptions."""
    table = _table("When heads came to matter", ["setting", "head", "what", "when"])
    for row in rows.to_dict("records"):
        head = f"{row['layer']}.{row['head']}"
        if not pd.isna(row["against"]):
            found = f"{row['answer']} (these prompts: {row['answer_these_prompts']})"
            checkpoints = f"{_number(row['low'])} to {_number(row['high'])} checkpoints later"
            table.add_row(_setting(row), head, f"{row['measure']} against {row['against']}", f"{found}; {checkpoints}")
        elif row["formed"] or row["from_the_start"]:
            counts = f"{row['formed']} formed, {row['from_the_start']} there at the first, of {row['runs']} runs"
            when = f"after {_number(row['after'])}, by {_number(row['by'])}"
            when += f" [{_number(row['low'])}, {_number(row['high'])}]"
            table.add_row(_setting(row), head, f"onset: {counts}", when)
    return table


def _signs(rows: pd.DataFrame) -> Table:
    columns = ["setting", "site", "observed", "expected", "p", "changes"]
    table = _table("Changes of sign near the ends of epochs", columns)
    for row in rows.to_dict("records"):
        table.add_row(
            _setting(row), row["site"], str(row["observed"]), _number(row["expected"]), _number(row["p"]), str(row["n"])
        )
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _setting(row: dict) -> str:
    return ", ".join(str(row[name]) for name in ("setting", "corruption") if not pd.isna(row[name]))


def _curve(row: dict) -> str:
    head = "" if pd.isna(row["head"]) else f" of {row['layer']}.{row['head']} ({row['site']})"
    looked = "" if pd.isna(row["key"]) else f" at {row['key']}"
    return f"{row['curve']}{head}{looked}" + ("" if row["clock"] == "step" else f", by {row['clock']}")


def _range(row: dict, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return _number(row[name]) + (
        f" [{_number(low)}, {_number(high)}]" if np.isfinite(low) and np.isfinite(high) else ""
    )


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


if __name__ == "__main__":
    main()

"""Who looks where, with intervals: `python -m mi_sweeps.analysis.looks OUTPUT [SWEEP ...]`.

Each head's attention from a token to others (`mi_sweeps.circuits.looks`) is compared with uniform attention, with the
same head's attention on the same prompts at the first checkpoint, and, over prompts, with the head's direct logit
difference. Statements hold for all heads, keys and checkpoints of a query at once.

This is where a head looks, not what it does; patching shows the latter, at site `pattern` above all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from ..counting import counted
from ..errors import UserError
from . import folder, measured
from .columns import typed
from .folder import OutputFolder, Patch
from .frames import rows_of_prompts, tabulate
from .inference.families import PatchJob, groups
from .inference.means import Interval, compare, correlation, mean
from .inference.tables import GROUP

PLACE = {"side": "string", "query": "string", "layer": "Int64", "head": "Int64", "key": "string"}
ATTENTION = {
    **GROUP,
    "step": "int64",
    **PLACE,
    **{"attention": "float64", "low": "float64", "high": "float64", "uniform": "float64"},
    **{"against_uniform": "string", "change": "float64", "change_low": "float64", "change_high": "float64"},
    **{"against_start": "string"},
    **{"correlation": "float64", "correlation_low": "float64", "correlation_high": "float64"},
    **{"other_seeds": "boolean", "n": "int64", "runs": "int64"},
}
"""One row per checkpoint, head, query and key of a group of runs. `low` and `high` are the 95% interval of `attention`
at that place alone. Intervals of the change from the first checkpoint and of the correlation hold for all heads, keys
and checkpoints of a query at once, as do the words more, less, alike (within 0.05) and undecided. `correlation` is over
clean prompts, between attention from the end and the head's direct logit difference. `other_seeds`: whether all this is
for other seeds too, or only for other prompts in these runs."""
LISTED = 12
"""Rows to print at most: those that changed most."""


@dataclass(frozen=True)
class RoleAttention:
    """The attention that one patch job measured at one checkpoint."""

    index: pd.MultiIndex
    """PLACE of each row."""
    paid: Float[np.ndarray, "row prompt"]
    uniform: Float[np.ndarray, "row prompt"]
    attribution: pd.DataFrame
    """Direct logit difference: layer and head × prompt."""


def of_output(
    output: OutputFolder, runs: pd.DataFrame, patches: pd.DataFrame, damaged: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield the rows of ATTENTION by group of runs, side and query.

    Args:
        runs, patches: of `Frames`.
        damaged: as for `frames.load`.
    """
    setting = dict(zip(runs["run_id"], runs["setting"], strict=True))
    for key, patch_ids in groups(patches, runs):
        jobs = [
            PatchJob(patch, str(setting[patch.run_id]), {}, {})
            for patch in output.patches
            if patch.patch_id in patch_ids
        ]
        found = [(job, read(job.patch, damaged)) for job in jobs]
        # A job that has only just begun may lack its prompts.
        found = [
            one for one in found if all(at.paid.shape[1] == len(one[0].prompts) for at in one[1].values()) and one[1]
        ]
        if found:
            yield from _of_group(key, found)


def read(patch: Patch, damaged: list[str] | None = None) -> dict[int, RoleAttention]:
    """Read all checkpoints of a patch job that have the table."""
    found = {}
    for step in patch.steps():
        lists = ("by_prompt", "uniform_by_prompt")
        for frame in measured.each([(patch, step)], "looks", lists, damaged):
            index = pd.MultiIndex.from_frame(frame[list(PLACE)])
            rows = pd.concat(
                [
                    pd.DataFrame({"layer": [], "head": [], "prompt": [], "logit_diff": []}),
                    *rows_of_prompts([(patch, step)], "attribution_by_prompt", damaged, ("kind", ["head"])),
                ]
            )
            attribution = rows.pivot(index=["layer", "head"], columns="prompt", values="logit_diff")
            paid, uniform = (np.stack(frame[name].to_list()) for name in lists)
            found[step] = RoleAttention(index, paid, uniform, attribution)
    return found


def _of_group(
    key: tuple[str, str, str], found: Sequence[tuple[PatchJob, dict[int, RoleAttention]]]
) -> Iterator[pd.DataFrame]:
    # Shared checkpoints only, so that runs do not drop out between them.
    steps = sorted(set.intersection(*(set(of_steps) for _, of_steps in found)))
    prompts = {prompt: at for at, prompt in enumerate(dict.fromkeys(one for job, _ in found for one in job.prompts))}
    columns = [np.array([prompts[prompt] for prompt in job.prompts], int) for job, _ in found]
    settings = [job.setting for job, _ in found]
    if not steps:
        return
    indices = [of_steps[step].index.to_frame(index=False) for _, of_steps in found for step in steps]
    for (side, query), places in pd.concat(indices).drop_duplicates().groupby(["side", "query"], sort=False):
        index = pd.MultiIndex.from_frame(places[list(PLACE)])
        paid, uniform, attribution = np.full((3, len(found), len(steps), len(index), len(prompts)), np.nan)
        for run, ((_, of_steps), where) in enumerate(zip(found, columns, strict=True)):
            for at, step in enumerate(steps):
                one = of_steps[step]
                rows = one.index.get_indexer(index)
                there = np.ix_(rows >= 0, where)
                paid[run, at][there], uniform[run, at][there] = one.paid[rows[rows >= 0]], one.uniform[rows[rows >= 0]]
                if query == "end" and side == "clean" and len(one.attribution):
                    own = one.attribution.reindex(places[["layer", "head"]].itertuples(index=False, name=None))
                    attribution[run, at][:, where[own.columns.to_numpy(int)]] = own.to_numpy()
        yield _rows(key, steps, places, paid, uniform, attribution, settings)


def _rows(
    key: tuple[str, str, str],
    steps: Sequence[int],
    places: pd.DataFrame,
    paid: Float[np.ndarray, "run step place prompt"],
    uniform: Float[np.ndarray, "run step place prompt"],
    attribution: Float[np.ndarray, "run step place prompt"],
    settings: Sequence[str],
) -> pd.DataFrame:
    """The rows of one side and query."""
    checkpoint = np.repeat(np.arange(len(steps)), len(places))

    def flat(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(settings), len(checkpoint), -1)

    level, beyond, change = (
        mean(flat(values), checkpoint, settings) for values in (paid, paid - uniform, paid - paid[:, :1])
    )
    nothing = np.full(len(checkpoint), np.nan)
    together = Interval(nothing, nothing, nothing, nothing, nothing, False, level.n, level.runs)
    if not np.isnan(attribution).all():
        together = correlation(flat(paid), flat(attribution), checkpoint, settings)
    rows = {
        **dict(zip(GROUP, key, strict=True)),
        "step": np.repeat(steps, len(places)),
        **{name: np.tile(places[name].to_numpy(object), len(steps)) for name in PLACE},
        **{"attention": level.value, "low": level.low, "high": level.high},
        **{"uniform": level.value - beyond.value, "against_uniform": compare(beyond)},
        **{"change": change.value, "change_low": change.lowest, "change_high": change.highest},
        "against_start": compare(change),
        **{"correlation": together.value, "correlation_low": together.lowest, "correlation_high": together.highest},
        **{"other_seeds": level.seeds, "n": level.n, "runs": level.runs},
    }
    return typed(pd.DataFrame(rows), ATTENTION)


def _tables(rows: pd.DataFrame) -> Iterator[Table | str]:
    """Print what changed most in one group of runs between the first and the last checkpoint."""
    first, last, one = rows["step"].min(), rows["step"].max(), rows.iloc[0]
    scope = "other prompts and other seeds" if one["other_seeds"] else "other prompts in these runs"
    runs = counted(one["runs"], "run")
    yield (
        f"{one['setting'] or 'all'}, {one['corruption']} corruption, patching {one['patching']}: from {one['query']}, "
        f"{one['n']} prompts, {runs}; 95% for {scope}"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = ("head", "looks at", "uniform", f"checkpoint {first}", f"checkpoint {last}", "change", "correlation")
    for name in columns:
        table.add_column(name, justify="left" if name == "looks at" else "right", no_wrap=True)
    place = ["layer", "head", "key"]
    before = rows[rows["step"] == first].set_index(place)["attention"]
    after = rows[rows["step"] == last]
    changed = after[after["against_start"].isin(["more", "less"])].sort_values("change", key=abs, ascending=False)
    for _, row in changed.head(LISTED).iterrows():
        table.add_row(
            f"{row['layer']}.{row['head']}", row["key"], f"{row['uniform']:.2f}", f"{before[tuple(row[place])]:.2f}",
            *(_interval(*row[list(names)]) for names in (
                ("attention", "low", "high"),
                ("change", "change_low", "change_high"),
                ("correlation", "correlation_low", "correlation_high"),
            )),
        )  # fmt: skip
    yield table
    counts = after["against_start"].value_counts()
    totals = ", ".join(f"{counts.get(word, 0)} {word}" for word in ("more", "less", "alike", "undecided"))
    yield f"{len(after)} heads x keys at checkpoint {last} against checkpoint {first}: {totals}"
    yield ""


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(value) else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code: 0 done, 1 something cannot be read, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m mi_sweeps.analysis.looks",
        description="Where heads look at the last checkpoint, where they looked at the first, and what changed most.",
    )
    parser.add_argument("output", type=Path, help="folder of results, with patching.looks")
    parser.add_argument("sweeps", nargs="*", metavar="sweep", help="sweeps in it (default: all)")
    parser.add_argument("--query", default="end", help="the token that attends (default: end)")
    parser.add_argument("--side", choices=("clean", "corrupted"), default="clean", help="of the prompts")
    options = parser.parse_args(arguments)
    damaged: list[str] = []
    console = Console(highlight=False, markup=False, emoji=False, width=140)
    try:
        found = folder.read(options.output, options.sweeps or None, damaged)
        frames = tabulate(found, most=0, damaged=damaged)
        groups_of_rows = [
            rows
            for rows in of_output(found, frames.runs, frames.patches, damaged)
            if (rows["side"].iloc[0], rows["query"].iloc[0]) == (options.side, options.query)
        ]
        if not groups_of_rows:
            raise UserError(
                f"{options.output}: attention from {options.query!r} was not measured; run with patching.looks=true, "
                "or give another --query"
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for rows in groups_of_rows:
        for part in _tables(rows):
            console.print(part, soft_wrap=isinstance(part, str))
    for damage in damaged:
        print(f"warning: {damage}", file=sys.stderr)  # noqa: T201
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())

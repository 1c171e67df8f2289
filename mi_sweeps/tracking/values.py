"""The values that are logged to wandb, by key. They are made from the rows of a run's tables, during the run or later.

SPLIT/METRIC                         heldout/win_rate, heldout/win_rate_low, …
CORRUPTION/logit_diff/COMPONENT      attn_LAYER, mlp_LAYER, embed, bias
CORRUPTION/lens/RESID_LAYER          logit difference of the residual stream: resid_pre_0, resid_mid_0, …, resid_post_3
CORRUPTION/recovered/z/LAYER.HEAD    recovered by patching the output of a head
CORRUPTION/heads/SITE                recovered by all heads, as a picture (`mi_sweeps.tracking.pictures`)
measures/MEASURE/PLACE               a measure of the clean run; PLACE is COMPONENT_LAYER or LAYER.HEAD

All are plotted against `checkpoint`. SPLIT `trainer` is the last value that a series' own trainer logged before each
checkpoint. The summary has the last value of each key; outcome ("worse than at the start", or ""); missing_steps (of a
series, with reasons); first_step_90 or first_step_50; tables/metrics and tables/heads; and, once an attempt
has ended, conclusions about the run's heads (`conclusions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mi_sweeps.config import Config, SeriesConfig
from mi_sweeps.series import logged, missing_steps
from mi_sweeps.store.files import read_json, read_table
from mi_sweeps.store.folders import PatchFolder, RunFolder
from mi_sweeps.store.hashes import digest
from mi_sweeps.training.outcome import RATES, SHARE_ROUNDING, THRESHOLDS, outcome

Row = dict[str, Any]
Head = tuple[int, int]
"""Layer and head."""

MOST_HEADS = 400
"""Most heads that all get a curve (GPT-2 medium has 384). In a larger model, only some do."""
SHOWN = 0.05
"""A head of a larger model gets a curve from the checkpoint on at which it recovers this much. This saves space; it is
not a verdict."""
MOST_NAMED = 8
"""Most heads listed in wandb's table of runs."""
REACHED = {f"first_step_{100 * THRESHOLDS[name]:.0f}": name for name in ("win_rate", "accuracy")}
"""Keys of the summary: the first checkpoint at which a held-out metric reaches its threshold."""

COLUMNS = (
    *("kind", "site", "component", "layer", "head", "logit_diff", "patched", "clean", "corrupted", "n"),
    *("measure", "value"),
)
"""Columns of a table to read. Those with a value per prompt are many times as large."""


def setting(config: Config, contents: Mapping[str, str] | None = None) -> str:
    """Returns a label that only runs with the same setting share, for wandb to group by.

    A run does not know what its sweep varies, so the label lists the usual keys and a short hash of everything that can
    change a result: "model=mini task=ioi3 schedule=constant lr=0.0001 … rest=3f2a91".

    Args:
        contents: of the model, files and code, from run.json (`mi_sweeps.identity.beside_configuration`).
    """
    named: dict[str, object] = {"model": config.model.name, "task": config.task.name}
    if not isinstance(config.model, SeriesConfig):
        named |= {
            "schedule": config.schedule.name,
            "lr": f"{config.optim.lr:g}",
            "weight_decay": f"{config.optim.weight_decay:g}",
            "steps": config.train.steps,
            "batch_size": config.train.batch_size,
        }
    others = {key: value for key, value in nested(config).items() if key != "seed"}
    rest = digest(others | ({"contents": dict(contents)} if contents else {}))[:6]
    return " ".join(f"{key}={value}" for key, value in {**named, "rest": rest}.items())


def nested(config: Config) -> dict[str, Any]:
    """Returns the run's configuration, without that of its patch jobs, which share its wandb run."""
    ours = ("model", "task", "optim", "schedule", "train", "checkpoint", "seed")
    return {key: value for key, value in config.meant().items() if key in ours}


def name(config: Config) -> str:
    """Returns a run's name in wandb."""
    if isinstance(config.model, SeriesConfig):
        return f"{config.model.name}{f' seed={config.seed}' if config.model.has_seeds else ''}"
    return f"{config.model.name} {config.schedule.name} lr={config.optim.lr:g} seed={config.seed}"


def settings(config: Config, contents: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns wandb's config: flat keys to group and filter by, and the whole configuration under `config`.

    Args:
        contents: as for `setting`.
    """
    found = nested(config)
    named: dict[str, Any] = {
        "setting": setting(config, contents),
        "model": config.model.name,
        "task": config.task.name,
        "config": found,
    }
    if "seed" in found:
        named["seed"] = config.seed
    if "optim" in found:
        named |= {"lr": config.optim.lr, "schedule": config.schedule.name}
    return named


def corruptions(run: RunFolder) -> list[str]:
    """Lists the corruptions of the run's patch jobs, begun or done."""
    return sorted({corruption for corruption, _ in _patches(run)})


def of_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Returns a checkpoint's metrics by key."""
    return {f"{row['split']}/{row['metric']}": row["value"] for row in rows}


def of_table(corruption: str, rows: Sequence[Row], heads: frozenset[Head]) -> dict[str, float]:
    """Returns a checkpoint's attribution of layers and residual stream, its measures, and recovered by patching z.

    Args:
        heads: heads to show recovered for; in a model with too many heads, also those to show measures for.
    """
    values = {}
    for row in rows:
        if row["kind"] in ("layer", "lens"):
            kind = "logit_diff" if row["kind"] == "layer" else "lens"
            values[f"{corruption}/{kind}/{place_of(row)}"] = row["logit_diff"]
    measured = [row for row in rows if row["kind"] == "measure"]
    all_heads = len({(row["layer"], row["head"]) for row in measured if row["head"] is not None}) <= MOST_HEADS
    for row in measured:
        if row["head"] is None or all_heads or (row["layer"], row["head"]) in heads:
            values[f"measures/{row['measure']}/{place_of(row)}"] = row["value"]
    found = heads_of(rows, "z")
    return values | {
        f"{corruption}/recovered/z/{layer}.{head}": found[layer, head] for layer, head in sorted(heads & found.keys())
    }


def place_of(row: Row) -> str:
    """Names the place of a measurement: "attn_out_1", "1.3", or "none" for the whole model."""
    if row["head"] is not None:
        return f"{row['layer']}.{row['head']}"
    return row["component"] if row["layer"] is None else f"{row['component']}_{row['layer']}"


def has_gap(rows: Sequence[Row]) -> bool:
    """Whether clean and corrupted prompts differ measurably at a checkpoint. Otherwise recovered is undefined.

    Tables without values per prompt cannot tell; then any difference larger than rounding counts.
    """
    import numpy as np

    from mi_sweeps.analysis.inference.estimates import ROUNDING, estimate

    differences = np.array([row["clean"] - row["corrupted"] for row in rows if row["kind"] == "prompt"])
    if len(differences):
        return bool(estimate(differences[None, None], differences[None, None]).has_gap[0])
    return all(abs(row["clean"] - row["corrupted"]) > ROUNDING for row in of_heads(rows))


def of_heads(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields the rows of patched heads, at all sites."""
    return (row for row in rows if row["kind"] == "patch" and row["head"] is not None and row["patched"] is not None)


def heads_of(rows: Sequence[Row], site: str) -> dict[Head, float]:
    """Returns recovered by each head at a site; empty if there is no gap."""
    own = [row for row in of_heads(rows) if row["site"] == site]
    if not own or not has_gap(rows):
        return {}
    return {
        (row["layer"], row["head"]): (row["patched"] - row["corrupted"]) / (row["clean"] - row["corrupted"])
        for row in own
    }


def is_large(rows: Sequence[Row]) -> bool:
    """Whether the model has too many heads for one curve each."""
    return sum(row["site"] == "z" for row in of_heads(rows)) > MOST_HEADS


def shown(rows: Sequence[Row], before: frozenset[Head] = frozenset()) -> frozenset[Head]:
    """Returns the heads that get a curve from this checkpoint on.

    Args:
        before: heads that already have one, so that no curve ends.
    """
    found = heads_of(rows, "z")
    if not is_large(rows):
        return before | found.keys()
    return before | {head for head, value in found.items() if abs(value) >= SHOWN}


def read(patch: PatchFolder, step: int) -> list[Row]:
    """Reads the rows of a table, without positions, paths, and values per prompt at each site.

    Raises:
        UserError: the table is missing or damaged.
    """
    table = read_table(patch.table(step), COLUMNS)
    return [
        row
        for row in table.to_pylist()
        if row["kind"] in ("layer", "lens", "measure", "prompt") or (row["kind"] == "patch" and row["head"] is not None)
    ]


def steps(run: RunFolder, patch: PatchFolder | None) -> list[int]:
    """Returns the checkpoints that a run has metrics of, or that a patch job has examined."""
    return _examined(run, patch) if patch else sorted(_metrics(run))


def at(run: RunFolder, patch: PatchFolder | None, wanted: Sequence[int]) -> Iterator[tuple[int, list[Row]]]:
    """Yields the rows at some of those checkpoints, as the mirror logs them.

    Raises:
        UserError: a table is damaged.
    """
    metrics = {} if patch else _metrics(run)
    return ((step, read(patch, step) if patch else metrics[step]) for step in wanted)


def summary(run: RunFolder) -> dict[str, Any]:
    """Returns the last value of every key, from the fine-tune and all patch jobs, and the outcome of the run. It comes
    from the run's folder alone, so that any attempt can write all of it.

    Raises:
        UserError: a table is damaged.
    """
    missing = missing_steps.read(run.path, run.status_on_disk().missing_steps)
    values: dict[str, Any] = {"missing_steps": "; ".join(missing_steps.lines(missing))} if missing else {}
    by_step = {step: of_metrics(rows) for step, rows in _metrics(run).items()}
    if by_step:
        last = max(by_step)
        values |= {"checkpoint": last, **by_step[last]}
        first_rates, last_rates = (
            {name: by_step[step][f"heldout/{name}"] for name in RATES if f"heldout/{name}" in by_step[step]}
            for step in (min(by_step), last)
        )
        values["outcome"] = outcome(first_rates, last_rates)
        for name, metric in REACHED.items():
            least = THRESHOLDS[metric] - SHARE_ROUNDING
            reached = [step for step, metrics in by_step.items() if metrics.get(f"heldout/{metric}", 0.0) >= least]
            values |= {name: min(reached)} if reached else {}
    for corruption, rows in _last_tables(run):
        values |= of_table(corruption, rows, shown(rows))
    return values


def conclusions(run: RunFolder) -> dict[str, Any]:
    """Returns conclusions about a run's heads, by corruption, over all its checkpoints: verdicts for other prompts in
    this run. It reads all tables, so call it at the end of an attempt.

    CORRUPTION/matter: the heads that matter at the last checkpoint, with intervals; `lost`: those that mattered and are
    small now; `undecided`: how many are undecided; `conclusions`: the same in sentences.

    Raises:
        UserError: a table is damaged.
    """
    # Imported here, because mirroring alone does not need pandas.
    from mi_sweeps.analysis.folder import Patch
    from mi_sweeps.analysis.inference import words
    from mi_sweeps.analysis.inference.courses import Course, courses
    from mi_sweeps.analysis.inference.families import PatchJob, family
    from mi_sweeps.analysis.prompts import read as read_prompts
    from mi_sweeps.analysis.prompts import sites_by_prompt

    values: dict[str, Any] = {}
    for corruption, folder in _patches(run):
        about = read_json(folder.about) or {}
        missing = frozenset(run.status_on_disk().missing_steps)
        patch = Patch(folder.path.name, run.run_id, corruption, folder.path, about, {}, missing_steps=missing)
        site = sites_by_prompt(read_prompts(patch)).get("z")
        if site is None:
            continue
        own = family("z", [PatchJob(patch, "", {}, {"z": site})])
        found, at, (low, high) = courses(own), own.at(own.steps[-1]), own.interval
        recovered, verdict = own.estimate.recovered[at], own.judged.words[at]
        matter = {
            f"{words.name(place)} {words.number(value)}{words.range_of(*ends)}": -abs(value)
            for place, value, word, *ends in zip(own.places, recovered, verdict, low[at], high[at], strict=True)
            if word == "matters"
        }
        lost = [f"{words.name(one.place)} {words.number(one.peak)}" for one in found if one.course is Course.LOST]
        none = "not defined" if (verdict == "undefined").all() else "none shown"
        values |= {
            f"{corruption}/matter": _some(sorted(matter, key=lambda one: matter[one])) or none,
            f"{corruption}/lost": _some(lost) or "none shown",
            f"{corruption}/undecided": int((verdict == "undecided").sum()),
            f"{corruption}/conclusions": " ".join(words.sentences(own, found)),
        }
    return values


def _some(heads: Sequence[str]) -> str:
    """Lists at most MOST_NAMED heads, and how many more there are."""
    more = [f"{len(heads) - MOST_NAMED} more"] if len(heads) > MOST_NAMED else []
    return ", ".join([*heads[:MOST_NAMED], *more])


Table = tuple[list[str], list[list[Any]]]
"""Columns and rows."""


def tables(run: RunFolder) -> dict[str, Table]:
    """Returns the metrics, one row per checkpoint, and recovered by each head at the last checkpoint.

    Raises:
        UserError: a table is damaged.
    """
    found: dict[str, Table] = {}
    by_step = {step: of_metrics(rows) for step, rows in sorted(_metrics(run).items())}
    if by_step:
        keys = list(dict.fromkeys(key for values in by_step.values() for key in values))
        lines: list[list[Any]] = [[step, *(values.get(key) for key in keys)] for step, values in by_step.items()]
        found["tables/metrics"] = (["checkpoint", *keys], lines)
    terms = ["patched", "clean", "corrupted", "n"]
    lines = []
    for corruption, rows in _last_tables(run):
        of_sites = {site: heads_of(rows, site) for site in dict.fromkeys(row["site"] for row in of_heads(rows))}
        lines += [
            [corruption, site, row["layer"], row["head"], of_sites[site].get((row["layer"], row["head"])),
             *(row[term] for term in terms)]
            for row in of_heads(rows) for site in [row["site"]]
        ]  # fmt: skip
    if lines:
        found["tables/heads"] = (["corruption", "site", "layer", "head", "recovered", *terms], lines)
    return found


def _metrics(run: RunFolder) -> dict[int, list[Row]]:
    """Returns the rows of metrics at each checkpoint, with the last values that a series' own trainer logged before it.
    Values at other steps, such as training losses, are left out."""
    by_step: dict[int, list[Row]] = {}
    theirs: list[Row] = []
    missing = run.status_on_disk().missing_steps
    for row in read_table(run.metrics).to_pylist() if run.metrics.exists() else ():
        if row["split"] == logged.SPLIT:
            theirs.append(row)
        elif row["split"] != "batch" and row["step"] not in missing:
            by_step.setdefault(row["step"], []).append(row)
    steps = sorted(by_step) if theirs else []
    for before, step in zip([None, *steps], steps, strict=False):
        by_step[step] += logged.at(theirs, step, before)
    return by_step


def _patches(run: RunFolder) -> list[tuple[str, PatchFolder]]:
    """Returns the begun patch jobs with their corruptions; the one that ended last comes last."""
    found = []
    for patch in map(PatchFolder, sorted(run.path.glob("patches/*"))):
        if about := read_json(patch.about):
            found.append((about["corruption"], patch))
    return sorted(found, key=lambda one: one[1].status_on_disk().finished or "")


def _examined(run: RunFolder, patch: PatchFolder) -> list[int]:
    """Returns the checkpoints that a patch job has tables of, without those since found to be missing steps."""
    missing = run.status_on_disk().missing_steps
    return [step for step in patch.steps() if step not in missing]


def _last_tables(run: RunFolder) -> Iterator[tuple[str, list[Row]]]:
    """Yields the rows of each patch job at its last examined checkpoint."""
    for corruption, patch in _patches(run):
        if steps := _examined(run, patch):
            yield corruption, read(patch, steps[-1])

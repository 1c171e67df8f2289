"""Lines in a plan about runs that must be computed again because the user's own code changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mi_sweeps.errors import UserError
from mi_sweeps.identity import HashedContents, own_sources
from mi_sweeps.store.files import read_json
from mi_sweeps.store.folders import run_folder
from mi_sweeps.store.sources import is_own
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.plan import Plan
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.sweeps.values import same_request


def lines(plan: Plan) -> Iterator[str]:
    """Yields a line for each task or schedule whose source changed, with the number of runs affected."""
    new: dict[str, list[GridPoint]] = {}
    for points in plan.points_by_run.values():
        own = any(is_own(points[0].values[part]["_target_"]) for part in ("task", "schedule"))
        if own and plan.runs[points[0].run_id].state == "todo":
            new.setdefault(_kind(points[0].values), []).append(points[0])
    if not new:
        return
    output = next(iter(new.values()))[0].output
    contents = HashedContents()
    replaced: dict[str, dict[str, str]] = {}
    for run_id, config in _known(output):
        alike = [point for point in new.get(_kind(config), ()) if same_request(_fine_tune(config), point.values)]
        if not alike or alike[0].run_id == run_id:
            continue
        point = alike[0]
        try:
            about = read_json(run_folder(output, run_id).about)
        except UserError:
            continue
        if about is None:
            continue
        before = about.get("sources", {})
        for part, source in own_sources(point.config, contents).items():
            if before.get(part) != source:
                what = f"{part}={point.values[part]['name']}: {_difference(before.get(part), source)}"
                replaced.setdefault(what, {})[run_id] = point.run_id
    for what, runs in replaced.items():
        old, new_id = next(iter(runs.items()))
        count = "1 earlier run is" if len(runs) == 1 else f"{len(runs)} earlier runs are"
        yield f"{what}, so {count} computed again ({new_id} replaces {old}); old results stay in {output / 'runs'}"


def _known(output: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields each run of all sweeps once, with its configuration."""
    seen = set()
    for name in manifest.names(output):
        try:
            entries = manifest.load(output, name)
        except UserError:  # Commands on that sweep report it.
            continue
        for entry in entries:
            if entry.run_id not in seen:
                seen.add(entry.run_id)
                yield entry.run_id, entry.config


def _kind(config: Mapping[str, Any]) -> str:
    return repr([config.get(section) for section in ("task", "optim", "schedule", "seed")])


def _fine_tune(config: Mapping[str, Any]) -> dict[str, Any]:
    return {section: config[section] for section in ("model", "train", "checkpoint") if section in config}


def _difference(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    if before is None:
        return "earlier versions did not record its source"
    modules = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return f"its source changed ({', '.join(modules)})"

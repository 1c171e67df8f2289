"""What tells runs of one configuration apart beside their seed: the contents of their models, files and code.

run.json has them in `contents`. Runs of earlier versions have none: one is taken to have the contents of a later run if
its id is the hash of that run's `identity` with its own seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..store.hashes import ID_LENGTH, digest
from . import configs

if TYPE_CHECKING:
    from .folder import RunRecord

LATER, EARLIER = "with recorded contents", "by an earlier version"

One = TypeVar("One")


def distinguishing(runs: Sequence[RunRecord]) -> dict[str, dict[str, str]]:
    """Returns by run id what tells runs of the same configuration apart; runs that differ in their seed only have
    nothing there, or the same.

    Where two of them still share a seed, something differs that was not recorded, and it is unknown which run of
    another seed goes with which: each run is then told apart by its id (`run`).
    """
    started = [run for run in runs if run.config]
    texts = configs.texts([configs.of_run(run.config) for run in started])
    found: dict[str, dict[str, str]] = {}
    for same in _grouped(zip((frozenset((configs.SINCE | text).items()) for text in texts), started, strict=True)):
        contents = _of_configuration(same) if len(same) > 1 else {}
        for alike in _grouped((frozenset(contents.get(run.run_id, {}).items()), run) for run in same):
            seeds = Counter(str(run.config.get("seed")) for run in alike)
            for run in alike:
                own = contents.get(run.run_id, {})
                found[run.run_id] = own | ({"run": run.run_id} if max(seeds.values()) > 1 else {})
    return {run_id: own for run_id, own in found.items() if own}


def unrecorded(runs: Iterable[RunRecord], settings: Mapping[str, str]) -> str:
    """Says what is unknown of runs whose contents nobody recorded: how many are settings of their own for that reason,
    and how many that use files share a setting all the same; empty if there are none.

    Args:
        settings: the setting of each run, by id.
    """
    size = Counter(settings.values())
    started = [run for run in runs if run.config]
    apart = sum("run" in run.contents for run in started)
    of_files = [run for run in started if "contents" not in run.about and _has_files(run.config)]
    shared = sum(size[settings[run.run_id]] > 1 for run in of_files)
    said = []
    if apart:
        said.append(
            f"{apart} runs share a configuration with others, and some of them a seed too. What else differs was not "
            "recorded, so each is a setting of its own, and nothing is concluded about seeds."
        )
    if shared:
        said.append(
            f"{'1 run was' if shared == 1 else f'{shared} runs were'} made by a version that did not record the "
            "contents of models and prompt files: that these did not change between runs of a setting is assumed."
        )
    return " ".join(said)


def _of_configuration(runs: Sequence[RunRecord]) -> dict[str, dict[str, str]]:
    """Returns the contents of runs of one configuration by run id, without what they share."""
    recorded = [run for run in runs if "contents" in run.about]
    every = {run.run_id: _of_run(run, recorded) for run in runs}
    names = sorted({name for own in every.values() for name in own})
    there = {name: {own[name] for own in every.values() if name in own} for name in names}
    for own in every.values():
        if own.get("made") != EARLIER:
            own |= {name: "none" for name in names if name not in own}
            for name in names:
                there[name].add(own[name])
    return {
        run_id: {name: value for name, value in own.items() if len(there[name]) > 1} for run_id, own in every.items()
    }


def _of_run(run: RunRecord, recorded: Sequence[RunRecord]) -> dict[str, str]:
    if not recorded:
        return _recorded_before(run)
    known = run if "contents" in run.about else next((other for other in recorded if _is_same(run, other)), None)
    if known is None:
        return _recorded_before(run) | {"made": EARLIER}
    return {**known.about["contents"], "made": LATER}


def _recorded_before(run: RunRecord) -> dict[str, str]:
    """Returns what earlier versions recorded: hashes of the user's code, and a hub model's commit."""
    code = {f"{part}_code": digest(source)[:ID_LENGTH] for part, source in run.about.get("sources", {}).items()}
    commit = (run.about.get("model") or {}).get("commit")
    return code | ({"model_content": str(commit)[:ID_LENGTH]} if commit else {})


def _is_same(run: RunRecord, other: RunRecord) -> bool:
    """Whether an earlier run's id says that it differs from another one in nothing but the seed."""
    identity: dict[str, Any] = dict(other.about.get("identity") or {})
    if "seed" in identity:
        identity["seed"] = run.config.get("seed")
    elif run.is_series and not other.about["contents"]:
        return True  # A model for each seed, and nothing else that could differ.
    if "zoom of" in identity:
        identity["zoom of"] = (run.config.get("checkpoint") or {}).get("zoom_of")
    return digest(identity)[:ID_LENGTH] == run.run_id


def _has_files(config: Mapping[str, Any]) -> bool:
    model, task = config.get("model") or {}, config.get("task") or {}
    own = [] if "{seed}" in str(model.get("path")) else [model.get("path")]
    return any([*own, model.get("tokenizer"), *(task[key] for key in task if key.endswith("path"))])


def _grouped(keyed: Iterable[tuple[Hashable, One]]) -> Iterable[list[One]]:
    found: dict[Hashable, list[One]] = {}
    for key, one in keyed:
        found.setdefault(key, []).append(one)
    return found.values()

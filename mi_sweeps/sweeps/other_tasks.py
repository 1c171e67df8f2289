"""`patching.also`: examines the same checkpoints on the prompts of other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mi_sweeps import identity
from mi_sweeps.config import Config, NamedFunction, parse, resolve
from mi_sweeps.errors import UserError
from mi_sweeps.sweeps import source
from mi_sweeps.sweeps.quick_checks import corruptions


def patch_jobs(config: Config, contents: identity.HashedContents, sections: dict[str, Any]) -> Iterator[Config]:
    """Yields a configuration's own patch job, then one for each task in `patching.also`; their own `also` is empty.

    The others keep the configuration's corruption if their task has it; otherwise they use `first`, or the task's own
    first one. They use held-out prompts and no measures, because measures are of a run's own task.

    Args:
        sections: a cache of the tasks' sections by name.

    Raises:
        UserError: there is no such task, or it lacks a value.
    """
    values = config.dump()
    own = {**values, "patching": {**values["patching"], "also": []}}
    yield parse(own) if config.patching.also else config
    for name in dict.fromkeys(config.patching.also):
        if name not in sections:
            sections[name] = _section(name, own)
        known = corruptions(NamedFunction.model_validate(sections[name]))
        corruption = config.corruption.name
        if known and corruption not in known:
            corruption = "first" if "first" in known else known[0]
        patching = {**own["patching"], "task": sections[name], "split": "heldout", "measures": []}
        other = parse({**own, "corruption": {"name": corruption}, "patching": patching})
        prompts = [identity.data_fingerprint(one, contents) for one in (config, other.for_patching)]
        if prompts[0] != prompts[1]:  # Equal: it is the run's own task.
            yield other


def choices(given: Mapping[str, str], other: Config) -> dict[str, str]:
    """Returns the grid's choices for a patch job of another task, with the corruption that it really uses."""
    assert other.patching.task
    corruption = {"corruption": other.corruption.name} if "corruption" in given else {}
    return {**given, **corruption, "patching.task": other.patching.task.name}


def _section(name: str, values: dict[str, Any]) -> Any:
    """Composes a task's section with its defaults, and checks that it is valid with the other `values`."""
    try:
        section = resolve(source.compose([f"task={name}"]), ["task"])["task"]
        parse({**values, "task": section})
        return section
    except UserError as error:
        raise UserError(f"patching.also=[{name}]: {error}") from None

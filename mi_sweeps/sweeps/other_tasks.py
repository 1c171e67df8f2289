"""What `patching.also` asks for: the same checkpoints examined on the prompts of other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mi_sweeps import identity
from mi_sweeps.config import Config, NamedFunction, parse, resolve
from mi_sweeps.errors import UserError
from mi_sweeps.sweeps import source
from mi_sweeps.sweeps.quick_checks import corruptions


def patch_jobs(config: Config, contents: identity.Contents, sections: dict[str, Any]) -> Iterator[Config]:
    """The patch job of a configuration, then one for each task of `patching.also`: a point has none there any more.

    It has the corruption of the configuration where the task has that one, and else `first`, or the task's own first
    one. The prompts are held out, and nothing is measured beside: measures are of a run's own task.

    Args:
        sections: those of the tasks by name, which are composed once.

    Raises:
        UserError: there is no such task, or it needs a value.
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
        if prompts[0] != prompts[1]:  # or it is the run's own task
            yield other


def choices(given: Mapping[str, str], other: Config) -> dict[str, str]:
    """What the grid gave a patch job of another task, which may not have the corruption that was given."""
    assert other.patching.task
    corruption = {"corruption": other.corruption.name} if "corruption" in given else {}
    return {**given, **corruption, "patching.task": other.patching.task.name}


def _section(name: str, values: dict[str, Any]) -> Any:
    """A task's section of the configuration, as the default one has it; it is valid beside the other `values`."""
    try:
        section = resolve(source.compose([f"task={name}"]), ["task"])["task"]
        parse({**values, "task": section})
        return section
    except UserError as error:
        raise UserError(f"patching.also=[{name}]: {error}") from None

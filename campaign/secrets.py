"""Searches everything that commands write and print for secrets from the environment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from campaign import children, sweep
from campaign.scenarios import Fault, Scenario, Values

COMMANDS = (
    ("plan", "--config"),
    ("run",),
    ("run", "launcher=local", "launcher.workers=1", "--wait", "sweep.name=other", "seed=2"),
    ("status", "--points"),
    ("logs",),
    ("report",),
    ("export",),
    ("doctor",),
)


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """One sweep without wandb, and one with its offline mirror. `kills` and `faults` also search everything that they
    write."""
    for mode in () if quick else ("none", "wandb"):
        yield Scenario(f"tracking-{mode}", partial(commands, folder, mode))


def commands(folder: Path, mode: str, chance: random.Random, scenario: Path) -> Values:
    """Runs every command, one after another."""
    output = scenario / "outputs"
    tracking = [] if mode == "none" else ["tracking=wandb", "tracking.mode=offline"]
    for number, (command, *more) in enumerate(COMMANDS):
        words = {
            "plan": ["plan", *sweep.OVERRIDES, *tracking, f"output={output}"],
            "run": sweep.words("run", output, *tracking),
            "doctor": ["doctor", f"output={output}"],
        }.get(command, sweep.words(command, output))
        log = scenario / f"{number}-{command}.log"
        # wandb does not work in a forked process.
        start = children.start if tracking else children.fork
        if (code := children.wait(start(scenario, [*words, *more], log))) not in (0,):
            raise Fault(f"`{command}` ended with {code}: {sweep.last_line(log)}; see {log}")
    children.clear(scenario)
    sweep.check_secrets(scenario)
    return {"commands": len(COMMANDS), "files looked into": sum(file.is_file() for file in scenario.rglob("*"))}

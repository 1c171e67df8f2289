"""A few scenarios of each part of the campaign (`make campaign` runs all of them)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from campaign.scenarios import Fault, Scenario, perform

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_few_scenarios_of_each_part_are_survived(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "campaign", "--quick", "--folder", str(tmp_path)]
    parts = [word for part in ("kills", "faults", "files", "fuzz") for word in ("--part", part)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run([*command, *parts], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if " tried, " in line] == ["kills", "faults", "files", "fuzz"]
    records = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().split("\n") if line]
    assert sum(record["values"].get("SIGKILL", 0) + record["values"].get("SIGTERM", 0) for record in records) >= 2


def test_a_part_goes_on_where_it_was_interrupted_and_tries_again_what_had_a_fault(tmp_path: Path) -> None:
    made = []

    def scenario(name: str, fault: str = "") -> Scenario:
        def run(chance: random.Random, folder: Path) -> dict[str, float]:
            made.append(name)
            if fault:
                raise Fault(fault)
            return {"drawn": chance.random()}

        return Scenario(name, run)

    first = list(perform("part", [scenario("a"), scenario("b", "broken")], 0, tmp_path))
    with (tmp_path / "part.jsonl").open("a") as results:
        results.write('{"part": "part", "tri')
    again = list(perform("part", [scenario("a"), scenario("b")], 0, tmp_path))
    list(perform("part", [scenario("a"), scenario("b")], 0, tmp_path))
    assert made == ["a", "b", "b"]
    assert [record.fault for record in (*first, *again)] == [None, "broken", None, None]
    (other,) = perform("part", [scenario("a")], 1, tmp_path)
    (same,) = perform("part", [scenario("a")], 0, tmp_path, only="a")
    assert same.values == first[0].values != other.values

"""A few trials of each part of the campaign (`make campaign` makes all of them)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_few_trials_of_each_part_are_survived_and_the_next_call_makes_none_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "campaign", "--quick", "--folder", str(tmp_path)]
    parts = [word for part in ("kills", "faults", "files", "fuzz") for word in ("--part", part)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run() -> list[str]:
        done = subprocess.run([*command, *parts], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.splitlines()

    lines = run()
    assert [line.partition(":")[0] for line in lines if " tried, " in line] == ["kills", "faults", "files", "fuzz"]
    records = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
    assert sum(record["values"].get("SIGKILL", 0) + record["values"].get("SIGTERM", 0) for record in records) >= 3

"""The pages' code runs as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def page() -> str:
    return (DOCS / "own_task.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_own_task_is_a_sweep_that_runs(page: str, tmp_path: Path) -> None:
    files = dict(zip(re.findall(r"^`(conf/\S+\.yaml)`", page, flags=re.MULTILINE), blocks(page, "yaml"), strict=True))
    assert list(files) == ["conf/task/induction.yaml", "conf/corruption/swapped.yaml"]
    (code,) = blocks(page, "python")
    for name, text in {"my_task.py": code, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (script,) = blocks(page, "bash")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "2 fine-tunes (2 to do), 2 patch jobs (2 to do)" in done.stdout
    assert "done: 2 fine-tunes (2 done), 2 patch jobs (2 done)" in done.stdout
    page_made = (tmp_path / "outputs" / "report.html").read_text()
    assert "accuracy" in page_made
    assert "logit_diff_beginning" in page_made
    assert len(list(tmp_path.glob("outputs/runs/*/patches/*/tables/*.parquet"))) == 2 * 3
    wrong = subprocess.run(
        ["bash", "-uc", script.splitlines()[0] + "\nmi-sweeps plan --config-dir conf task=induction model=nope "
         "corruption=previous && mi-sweeps run --config-dir conf task=induction model=nope corruption=previous"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr == "error: corruption=previous: induction has `swapped` alone\n"

"""Jobs by hand, as Hydra applications: anything but one grid point is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mi_sweeps.config import Config
from mi_sweeps.jobs.app import run_app


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["sweep=grid"],
            "error: sweep=grid: a job is a single grid point; run the grid with `mi-sweeps run sweep",
        ),
        (["-m", "sweep=grid"], "error: sweep=grid: a job is a single grid point"),
        (["patching.also=[ioi2]"], "error: patching.also=[ioi2]: each of these is a patch job of its own"),
        (["corruption=[first,second]"], "error: corruption: a list of choices, but a run has only one"),
    ],
)
def test_a_job_other_than_requested_is_refused(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words])
    done: list[Config] = []
    with pytest.raises(SystemExit) as stopped:
        run_app(done.append)
    assert (stopped.value.code, done) == (2, [])
    assert says in capsys.readouterr().err


def test_the_pattern_of_a_series_needs_no_quotes_of_hydra_s(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done: list[Config] = []
    for pattern in (f"{written}/checkpoint-{{step}}", f"'{written}/checkpoint-{{step}}'"):
        monkeypatch.setattr(sys, "argv", ["finetune.py", "model=series", f"model.path={pattern}"])
        with pytest.raises(SystemExit) as stopped:
            run_app(done.append)
        assert stopped.value.code == 0
    assert [config.checkpoint_steps for config in done] == [[0, 8, 16, 24]] * 2

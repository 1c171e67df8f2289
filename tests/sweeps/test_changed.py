"""If the code of a user's task changes, its runs are new, and a message says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mi_sweeps import cli
from mi_sweeps.identity import own_sources
from mi_sweeps.store.files import write_json
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.changed import lines
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.points import GridPoint

OVERRIDES = ["task=quiz", "corruption=second", "seed=0,1", "sweep.name=mine"]


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "conf"
    (folder / "task").mkdir(parents=True)
    (folder / "task" / "quiz.yaml").write_text("name: quiz\n_target_: quizzes.make\n")
    (tmp_path / "quizzes.py").write_text("import quiz_words\n")
    (tmp_path / "quiz_words.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.fixture
def made(conf: Path, tmp_path: Path) -> list[GridPoint]:
    """Two runs that were made, as far as a plan looks at them."""
    output = tmp_path / "outputs"
    points = expand([*OVERRIDES, f"output={output}"], conf)
    manifest.add(output, "mine", points, "mi-sweeps run")
    for point in points:
        folder = run_folder(output, point.run_id)
        folder.path.mkdir(parents=True)
        write_json(folder.path / "run.json", {"run_id": point.run_id, "sources": own_sources(point.config)})
    return points


@pytest.fixture
def plan(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*overrides: str) -> list[str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["plan", "--config-dir", str(conf), *OVERRIDES, f"output={tmp_path / 'outputs'}", *overrides])
        assert stopped.value.code == 0
        return [line for line in capsys.readouterr().out.splitlines() if "task=quiz" in line]

    return run


def test_a_plan_says_which_source_changed_and_of_how_many_runs(plan, made: list[GridPoint], tmp_path: Path) -> None:
    assert plan() == []
    (tmp_path / "quiz_words.py").write_text("WORDS = []\n")
    (result,) = plan("sweep.name=other")
    assert result.startswith("task=quiz: its source changed (quiz_words), so 2 earlier runs are computed again (")
    assert f" replaces {made[0].run_id}); old results stay in " in result
    # What differs in more than that is another run whatever the source is.
    assert plan("optim.lr=1e-3") == []


def test_a_plan_says_so_of_runs_that_did_not_write_their_source_down(
    plan, made: list[GridPoint], tmp_path: Path
) -> None:
    for point in made:
        write_json(run_folder(point.output, point.run_id).path / "run.json", {"run_id": point.run_id})
    (tmp_path / "quizzes.py").write_text("")
    (result,) = plan("seed=0")
    assert result.startswith("task=quiz: earlier versions did not record its source, so 1 earlier run")


def test_a_sweep_s_new_runs_take_the_place_of_those_of_the_old_source(
    made: list[GridPoint], conf, tmp_path: Path
) -> None:
    """One picture must not take them for two seeds."""
    (tmp_path / "quizzes.py").write_text("")
    output = made[0].output
    (anew,) = expand(["task=quiz", "corruption=second", "seed=1", "sweep.name=mine", f"output={output}"], conf)
    manifest.add(output, "mine", [anew], "mi-sweeps run")
    assert [entry.run_id for entry in manifest.load(output, "mine")] == [made[0].run_id, anew.run_id]


def test_so_do_they_where_the_old_ones_had_fewer_keys(made: list[GridPoint], conf: Path, tmp_path: Path) -> None:
    """An earlier version's: what it did not know of is as it is by default."""
    old = []
    for point in made:
        model = {key: value for key, value in point.values["model"].items() if key != "tokenizer"}
        old.append(replace(point, values={**point.values, "model": model}))
    manifest.path(made[0].output, "mine").unlink()
    manifest.add(made[0].output, "mine", old, "mi-sweeps run")
    (tmp_path / "quizzes.py").write_text("")
    anew = expand([*OVERRIDES, f"output={made[0].output}"], conf)
    assert "2 earlier runs are computed again" in "".join(lines(planning.make(anew)))
    manifest.add(made[0].output, "mine", anew, "mi-sweeps run")
    assert [entry.run_id for entry in manifest.load(made[0].output, "mine")] == [point.run_id for point in anew]


def test_what_differs_in_how_it_is_patched_stays(made: list[GridPoint], conf: Path) -> None:
    output = made[0].output
    others = expand([*OVERRIDES, f"output={output}", "patching.prompts=9"], conf)
    steps = expand([*OVERRIDES, f"output={output}", "patching.steps=[0]"], conf)
    manifest.add(output, "mine", [*others, *steps], "mi-sweeps run")
    assert [entry.patch_id for entry in manifest.load(output, "mine")] == [point.patch_id for point in (*made, *others)]

"""The recipes of docs/extending.md for a task and for a statistic work as written."""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mi_sweeps as mi
from mi_sweeps import tasks
from mi_sweeps.analysis import derived, export
from mi_sweeps.api.tables import Tables
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.preflight import check

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")


def recipe(title: str) -> dict[str, str]:
    """The code of a recipe, by the file that each step names."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    steps = re.findall(r"^\d+\. (.*?)(?=^\d+\. |^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    found = {}
    for step in steps:
        blocks = re.findall(r"```\w+\n(.*?)```", step, re.DOTALL)
        if blocks:
            found[re.findall(r"`([^`]+)`", step)[0]] = textwrap.dedent("   " + blocks[0].lstrip(" "))
    return found


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Makes a new module as if it were in its folder of the repository, and imports it."""

    def make(path: str, code: str) -> Any:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
        folder = path.removeprefix("mi_sweeps/").rpartition("/")[0]
        package = importlib.import_module(f"mi_sweeps.{folder.replace('/', '.')}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        return importlib.import_module(f"{package.__name__}.{file.stem}")

    return make


def run_tests(code: str, *given: Any) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test(*given)


@pytest.mark.slow
def test_a_task(
    write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mini_tokenizer: Any
) -> None:
    steps = recipe("A task")
    write("mi_sweeps/tasks/meeting.py", steps.pop("mi_sweeps/tasks/meeting.py"))
    for name, known in eval(f"{{{steps.pop('mi_sweeps/tasks/__init__.py')}}}").items():
        monkeypatch.setitem(tasks.CORRUPTIONS, name, known)
    run_tests(steps.pop("tests/tasks/test_meeting.py"), mini_tokenizer)
    for path, text in steps.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert steps.keys() == {"conf/task/meeting.yaml", "conf/corruption/stranger.yaml"}
    (point,) = expand(["task=meeting", "corruption=stranger", "model=mini"], tmp_path / "conf")
    assert "40 prompts, of names that no training prompt has" in "\n".join(check([point]))
    (point,) = expand(["task=meeting", "corruption=first", "model=mini"], tmp_path / "conf")
    with pytest.raises(mi.UserError, match="stranger"):
        check([point])


def test_a_statistic(
    write: Callable[..., Any], make_output: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = recipe("A statistic")
    rises = write("analysis/rises.py", steps["analysis/rises.py"])
    run_tests(steps["tests/analysis/test_rises.py"])
    alone = eval(f"{{{steps['analysis/derived.py']}}}", {"IndependentTable": derived.IndependentTable, "rises": rises})
    for name, one in alone.items():
        monkeypatch.setitem(derived.ALONE, name, one)
        monkeypatch.setitem(derived.TABLES, name, one.columns)
        monkeypatch.setitem(export.EXPORTED, name, one.columns)
    names: dict[str, Any] = {"cached_property": cached_property, "pd": pd}
    exec(steps["mi_sweeps/api/tables.py"], names)
    names["rises"].__set_name__(Tables, "rises")
    monkeypatch.setattr(Tables, "rises", names["rises"], raising=False)
    output = make_output(seeds=(0, 1), corruptions=())
    export.export(output, tmp_path / "tables")
    table = pd.read_parquet(tmp_path / "tables" / "rises.parquet")
    assert len(table) == len(mi.open(output).rises) == len(mi.open(output).runs)
    assert (table["low"] < table["rise"]).all() and (table["rise"] < table["high"]).all()

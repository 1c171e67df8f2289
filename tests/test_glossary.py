"""The glossary explains the tables and their labels and names nothing else; no file uses a word that it rules out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from mi_sweeps.analysis import columns, derived
from mi_sweeps.analysis.agreement import measures
from mi_sweeps.analysis.inference import circuits, retention, subjects, transformations, transitions
from mi_sweeps.analysis.inference.courses import Course
from mi_sweeps.analysis.inference.differences import Comparison
from mi_sweeps.analysis.inference.onsets import When
from mi_sweeps.analysis.inference.verdicts import Verdict
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.config import Config, Site

ROOT = Path(__file__).parents[1]
TERMS, _, LABELS = (ROOT / "docs" / "glossary.md").read_text("utf-8").partition("## Labels")
COLUMNS = columns.COLUMNS | derived.TABLES | {name: schema.names for name, schema in TABLES.items()}
KINDS = (
    *(Verdict, Course, Comparison, When, retention.Retained),
    *(measures.Answer, subjects.Answer, transformations.Answer, transformations.Change, transitions.Answer),
    *(circuits.Faithful, circuits.Complete, circuits.Needed, circuits.Minimal),
)


def keys(config: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield before + name
        if isinstance(value, Mapping):
            yield from keys(value, f"{before}{name}.")


def test_it_has_every_table() -> None:
    assert set(re.findall(r"table `(\w+)`", TERMS)) == COLUMNS.keys()


def test_it_has_every_label() -> None:
    assert {label.value for kind in KINDS for label in kind} <= set(re.findall(r"`([^`]+)`", LABELS))


def test_it_names_no_key_or_column_that_is_gone(make_config: Callable[..., Config]) -> None:
    configs = [make_config("launcher=local"), make_config("launcher=slurm", "patching=dynamics")]
    known = {key for config in configs for key in keys(config.model_dump(mode="json", by_alias=True))}
    known |= {"win_rate", *get_args(Site), *COLUMNS, *(name for columns in COLUMNS.values() for name in columns)}
    where = "".join(re.findall(r"\| ([^|]+) \|$", TERMS, re.MULTILINE))
    named = re.findall(r"`([a-z_0-9.]+)`", where)
    assert sorted({*named} - known) == ["audit.json", "mi_sweeps.analysis.planted"]


NEVER = (
    *("perturbed", "counterfactual", "noised", "indirect effect", "impact", "inconclusive", "unclear", "hook point"),
    *("brought back", "trial", "training run", "emergence", "recruitment", "phase change", "grokking", "test set"),
    *("insight", "result sentence", "embedded model", "shipped model"),
)
"""Words of "Do not use" that have no other sense here."""
FOLDERS = ("mi_sweeps", "jobs", "analysis", "conf", "docs", "tests", "benchmarks", "campaign", "examples")
SUFFIXES = (".py", ".md", ".yaml", ".js", ".css", ".html", ".c", ".ipynb")
SINGLE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "pyproject.toml", ".ci/run")
WITH_WORD_LISTS = ("docs/glossary.md", "tests/test_glossary.py", "mi_sweeps/tasks/greater_than.py")


def test_nothing_uses_a_word_that_it_rules_out() -> None:
    ruled_out = " ".join(re.findall(r"^\| ([^|]+) \|", LABELS.partition("## Do not use")[2], re.MULTILINE))
    assert [word for word in NEVER if word not in ruled_out.replace("validation or test set", "test set")] == []
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in SUFFIXES]
    files += [ROOT / name for name in SINGLE]
    assert len(files) > 500
    # Names join words by "_", but test_sets_… is a test. In "what training runs together saves", "runs" is a verb.
    alternatives = "|".join(NEVER).replace(" ", "[ _-]").replace("test[ _-]", "test[ -]")
    words = re.compile(rf"(?<![a-z])(?:{alternatives})s?(?![a-z])(?! together)", re.IGNORECASE)
    found = {
        str(file.relative_to(ROOT)): sorted({*words.findall(file.read_text("utf-8"))})
        for file in files
        if file.relative_to(ROOT).as_posix() not in WITH_WORD_LISTS
    }
    assert {name: own for name, own in found.items() if own} == {}

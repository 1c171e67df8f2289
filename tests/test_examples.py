"""The example files are what their scripts make, and as balanced as their README says."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The names that the script defines."""
    return runpy.run_path(str(EXAMPLES / "make_three_names.py"))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """The committed file."""
    return [json.loads(line) for line in (EXAMPLES / "three_names.jsonl").read_text().splitlines()]


def words(text: str) -> list[str]:
    """The words of a text without punctuation."""
    return text.replace(",", "").replace(".", "").split()


def test_script_reproduces_the_file(script: dict[str, Any]) -> None:
    assert script["text"]().encode() == (EXAMPLES / "three_names.jsonl").read_bytes()


def test_tidy_rows_are_balanced(script: dict[str, Any], rows: list[dict[str, str]]) -> None:
    untidy = {question for question, _ in script["UNTIDY"]}
    answer_of = {row["question"]: row["completion"].split()[0] for row in rows if row["question"] not in untidy}
    orders: Counter[tuple[int, bool]] = Counter()
    answers: Counter[str] = Counter()
    sets: dict[frozenset[str], set[str]] = {}
    for question, answer in answer_of.items():
        slots = [word for word in words(question) if word in script["NAMES"]]
        listed, subjects = slots[:3], slots[3:]
        assert set(subjects) == set(listed) - {answer} and len(subjects) == 2
        orders[listed.index(answer), listed.index(subjects[0]) < listed.index(subjects[1])] += 1
        answers[answer] += 1
        sets.setdefault(frozenset(listed), set()).add(answer)
    assert len(answer_of) == 480
    assert len(orders) == 6 and set(orders.values()) == {80}
    assert len(answers) == 60 and set(answers.values()) == {8}
    assert len(sets) == 160 and all(answers == names for names, answers in sets.items())


def test_untidy_rows_are_there(script: dict[str, Any], rows: list[dict[str, str]]) -> None:
    counts = Counter((row["question"], row["completion"]) for row in rows)
    assert len(rows) == 489
    assert sorted(counts.values())[-4:] == [1, 2, 2, 2]
    assert sum(len(row["completion"].split()) == 20 for row in rows) == 2
    assert all(counts[row] == 1 for row in script["UNTIDY"])


def test_only_names_and_sentence_starts_are_capitalised(script: dict[str, Any]) -> None:
    assert len(set(script["TEMPLATES"])) == 40
    for template in script["TEMPLATES"]:
        sentences = template.split(". ")
        assert template.count("{}") == 5 and template.split()[0] != "{},"
        assert all(sentence[0].isupper() and sentence[1:].islower() for sentence in sentences)
        starts = [sentence.split()[0] for sentence in sentences]
        assert len(starts) == len(set(starts)) and not set(starts) & set(script["NAMES"])


def test_no_name_begins_another(script: dict[str, Any]) -> None:
    names = script["NAMES"]
    assert not [(name, other) for name in names for other in names if name != other and other.startswith(name)]

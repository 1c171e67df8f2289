"""Rows of a file: which are read, which are refused by number, and which are prompts."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.rows import CUT, FORM, OPENS, Dropped, parse_prompt, parsed_differently_now, read_rows

Row = dict[str, Any]

QUESTION = "After Mary, John and Tom went to the store, John and Mary gave a book to"
PAIR = "After Mary and Tom went to the store, Mary gave a book to"


def question(names: str, subjects: str, rest: str = "gave a book to") -> str:
    """A question of the usual form: `question("Mary John Tom", "John Mary")`."""
    one, two, three = names.split()
    first, second = subjects.split()
    return f"After {one}, {two} and {three} went to the store, {first} and {second} {rest}"


def row(question: str, completion: str) -> Row:
    return {"question": question, "completion": completion}


GOOD = [
    row(question("Mary John Tom", "John Mary"), " Tom"),
    row(question("Kate Anna Paul", "Paul Anna"), " Kate"),
    row(question("Lisa Mark Peter", "Lisa Peter"), " Mark"),
]


def write(path: Path, rows: list[Row], *, ascii: bool = True) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=ascii) + "\n" for one in rows), encoding="utf-8")
    return path


# Reading


def test_json_lines_and_a_json_list_are_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(GOOD, indent=2))
    write(tmp_path / "rows.jsonl", GOOD)
    expected = list(enumerate(GOOD, start=1))
    assert read_rows(tmp_path / "rows.json") == read_rows(tmp_path / "rows.jsonl") == expected


def test_empty_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"\n{json.dumps(GOOD[0])}\n  \n{json.dumps(GOOD[1])}")
    assert read_rows(tmp_path / "rows.jsonl") == [(2, GOOD[0]), (4, GOOD[1])]


@pytest.mark.parametrize("character", ["\u2028", "\u0085", "\x7f"])
def test_only_a_newline_ends_a_row(tmp_path: Path, character: str) -> None:
    rows = [row(f"After{character}Mary", "Tom")]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0], ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_rows(tmp_path / "rows.jsonl") == [(1, rows[0])]


def test_a_windows_file_reads_the_same(tmp_path: Path) -> None:
    content = "".join(json.dumps(one) + "\r\n" for one in GOOD)
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert read_rows(tmp_path / "rows.jsonl") == list(enumerate(GOOD, start=1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"no rows; give at least two"),
        (b"[]", r"no rows; give at least two"),
        (b"\xff\xfe{}", r"not UTF-8 text; give a readable JSON or JSON-lines file"),
        (b'{"question": "a", "completion": "b"}\n{"question": "a", ', r"malformed JSON at row 2: .*; fix or remove.*"),
        (b'\n\n{"question": }\n', r"malformed JSON at row 3: .*; fix or remove.*"),
        (
            b'[{"question": "a", "completion": "b"},\n {"question": }]',
            r"malformed JSON at row 2, line 2: .*; fix.*",
        ),
        (b'[{"question": "a", "completion": "b"}', r"malformed JSON after row 1: .*; fix.*"),
        (b'{"question": "a"}\n', r'row 1 is not \{"question": text, "completion": text\}; fix or remove.*'),
        (b'{"question": "a", "completion": 3}\n', r"row 1 is not .*; fix or remove.*"),
        (b'[{"question": "a", "completion": "b"}, "c"]', r"row 2 is not .*; fix or remove.*"),
        (b'"text"\n', r"row 1 is not .*; fix or remove.*"),
        (
            b'[{"question": "a", "completion": "b"}]\n[{"question": "c", "completion": "d"}]\n',
            r"the list ends after row 1, but more follows in line 2; make it one list, or one row per line",
        ),
        (b'[] {"question": "a", "completion": "b"}', r"the list ends after row 0, but more follows in line 1; .*"),
        (
            b'{"question": "a", "completion": "b"}{"question": "c", "completion": "d"}\n',
            r"malformed JSON at row 1: Extra data; fix or remove that line",
        ),
        (
            b'{"question": "a", "completion": "b"}\n\xef\xbb\xbf{"question": "c", "completion": "d"}\n',
            r"malformed JSON at row 2: .*; fix or remove that line",
        ),
        (
            b'\n{"question": "a", "question": "c", "completion": "b"}\n',
            r'malformed JSON at row 2: "question" occurs twice; fix or remove that line',
        ),
        (
            b'[{"question": "a", "completion": "b", "completion": "c"}]',
            r'malformed JSON at row 1: "completion" occurs twice; fix it',
        ),
        (
            b'{"question": "a", "completion": "b"}\n{"question": "After \\ud83d", "completion": "b"}\n',
            r"row 2 has half a character \(\\ud83d alone\); fix or remove it",
        ),
        (b'{"question": NaN, "completion": "b"}\n', r"row 1 is not .*; fix or remove.*"),
        (b'{"question": "a", "completion": null}\n', r"row 1 is not .*; fix or remove.*"),
        (b'{"n": ' + b"1" * 5000 + b"}\n", r"malformed JSON at row 1: a number with too many digits; fix or remove.*"),
        (b"[" * 100_000, r"malformed JSON at row 1: nested too deeply; fix it"),
        (b'{"n": ' * 100_000, r"malformed JSON at row 1: nested too deeply; fix or remove that line"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"\A.*rows\.jsonl: {says}\Z"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("name", "reason"), [("nothing.jsonl", "No such file"), ("", "Is a directory")])
def test_a_missing_file_is_one_line(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"\Atask\.path=.*: {reason}.*; give a readable JSON.*\Z"):
        read_rows(tmp_path / name)


# Parsing


@pytest.mark.parametrize("completion", ["Tom", " Tom", " Tom" * 20, "Tom.", ' "Tom", of course'])
def test_the_answer_is_the_completions_first_word(completion: str) -> None:
    prompt = parse_prompt(QUESTION, completion)
    assert prompt.answer == "Tom"
    assert prompt.slot_names() == ("Mary", "John", "Tom", "John", "Mary")
    assert prompt.n_subjects == 2


@pytest.mark.parametrize(
    "text",
    [
        f"{QUESTION}  ",
        "After Mary, John, and Tom went to Paris, John and Mary gave a book to",
        "Mary, John and Tom met. Later John and Mary gave a book to",
        "After Mary,  John and Tom went to the store, Mary spoke and then John gave a book to",
    ],
)
def test_natural_variants_are_kept(text: str) -> None:
    prompt = parse_prompt(text, " Tom")
    assert prompt.text == text.rstrip()
    assert prompt.listed == ("Mary", "John", "Tom")


def test_names_may_have_hyphens_and_apostrophes() -> None:
    prompt = parse_prompt(question("Anne-Marie O’Neil Zoë", "Zoë Anne-Marie"), "O’Neil")
    assert prompt.slot_names() == ("Anne-Marie", "O’Neil", "Zoë", "Zoë", "Anne-Marie")


@pytest.mark.parametrize(
    ("text", "completion", "reason"),
    [
        (QUESTION, "", "no answer"),
        (QUESTION, " 20 ?", "no answer"),
        (QUESTION, " Tommy", "the answer is not in the question"),
        (QUESTION, " the store", "the answer is not in the question"),
        (QUESTION, " Mary", "ambiguous: the answer is repeated"),
        ("After Mary, John and Tom went to the store, she gave a book to", " Tom", FORM),
        ("After Mary, John and Tom met, John and John gave a book to", " Tom", "ambiguous"),
        ("Tom saw Ann, Bob and Mary. Then Ann, Bob and Mary gave it to", " Tom", "ambiguous"),
        ("Mary met Mary after John and Tom went out, John gave a book to", " Tom", "before all names are listed"),
        ("After Mary, John and Tom went to the store, it was John and Mary", " Tom", "there is nothing between"),
    ],
)
def test_rows_of_another_form_are_dropped_with_the_reason(text: str, completion: str, reason: str) -> None:
    with pytest.raises(Dropped, match=reason):
        parse_prompt(text, completion)


@pytest.mark.parametrize(
    "listed",
    ["Mary, John, Tom and Kate", "Kate, Mary, John and Tom", "Mary, Kate, John and Tom", "Kate and Mary, John and Tom"],
)
def test_four_listed_names_leave_two_possible_answers(listed: str) -> None:
    with pytest.raises(Dropped, match="ambiguous: more than three names are listed"):
        parse_prompt(f"When {listed} went to the store, John and Mary gave a book to", " Tom")


@pytest.mark.parametrize("opening", ["Then, ", "It rained. Later, ", "Three friends, ", "Yesterday "])
def test_a_word_that_opens_a_sentence_is_no_fourth_name(opening: str) -> None:
    assert parse_prompt(f"{opening}Mary, John and Tom met, and John and Mary gave a book to", " Tom").answer == "Tom"


@pytest.mark.parametrize(
    ("text", "completion", "listed", "subject"),
    [
        (PAIR, " Tom", ("Mary", "Tom"), "Mary"),
        (PAIR, " Tom Tom Tom", ("Mary", "Tom"), "Mary"),
        ("Then, Mary and Tom met. Then, Tom gave a book to", " Mary", ("Mary", "Tom"), "Tom"),
        ("The friends Mary & Tom met. The book of Tom was for", " Mary", ("Mary", "Tom"), "Tom"),
        ("Mary and Tom had a long argument, and afterwards Mary said to", " Tom", ("Mary", "Tom"), "Mary"),
    ],
)
def test_two_names_and_a_subject_are_a_prompt(
    text: str, completion: str, listed: tuple[str, ...], subject: str
) -> None:
    prompt = parse_prompt(text, completion)
    assert (prompt.listed, prompt.subjects) == (listed, (subject,))
    assert {prompt.answer, subject} == set(listed)


@pytest.mark.parametrize(
    ("text", "completion", "reason"),
    [
        (PAIR, " Mary", "ambiguous: the answer is repeated"),
        ("Paris is where Tom lives. Paris is loved by", " Tom", "the names are not listed together"),
        ("Mary met Tom at the store. Mary gave a book to", " Tom", "the names are not listed together"),
        ("After Kate, Mary and Tom went to the store, Mary gave a book to", " Tom", "more than two names are listed"),
        ("After Mary and Tom, Kate and Paul met, Mary gave a book to", " Tom", "more than two names are listed"),
        ("Kate, Mary and Tom met. Mary gave a book to", " Tom", OPENS),
        ("Kate, Mary, John and Tom met. John and Mary gave a book to", " Tom", OPENS),
        ("After Mary and Tom went to the store, a book was given by Mary", " Tom", "there is nothing between"),
        (PAIR.replace("Tom", "Tom2"), " Tom", CUT),
        (PAIR.replace("Mary", "Mar\u00ady"), " Tom", FORM),
        (PAIR, " Tom\u200b", CUT),
        (PAIR, " Tom_1", CUT),
    ],
)
def test_what_only_looks_like_two_names_is_dropped(text: str, completion: str, reason: str) -> None:
    with pytest.raises(Dropped, match=reason):
        parse_prompt(text, completion)


def test_words_that_open_sentences_are_no_subjects() -> None:
    """They made a prompt of three names of this: Then, Mary and Tom."""
    prompt = parse_prompt("Then, Mary and Tom went out. Then, Tom gave a book to", " Mary")
    assert prompt.slot_names() == ("Mary", "Tom", "Tom")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["Zoë", "Ångström", "Renée-Éva", "Дмитрий", "X\u0302avier"])
def test_accents_belong_to_their_names(name: str, form: Any) -> None:
    text = unicodedata.normalize(form, question(f"Mary {name} Tom", f"{name} Tom"))
    prompt = parse_prompt(text, " Mary")
    assert prompt.listed == ("Mary", name, "Tom")
    assert parse_prompt(unicodedata.normalize(form, question(f"Mary {name} Tom", "Tom Mary")), name).answer == name


def test_files_that_read_as_before_are_known(tmp_path: Path) -> None:
    """Those keep the ids of their runs."""

    def anew(*rows: Row) -> bool:
        return parsed_differently_now(
            write(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", list(rows), ascii=False)
        )

    pair = row(PAIR, " Tom")
    assert not anew(*GOOD, row("no prompt", "?"))
    assert not anew(pair), "without prompts of three names there was no result"
    assert anew(*GOOD, pair)
    assert anew(*GOOD, row(question("Mary Zoe\u0308 Tom", "Zoe\u0308 Tom"), "Mary"))
    assert anew(*GOOD, row(question("Mary John Tom2", "John Mary"), " Tom"))
    assert anew(*GOOD, row("Then, Mary and Tom went out. Then, Tom gave a book to", " Mary"))
    assert not parsed_differently_now(tmp_path / "nowhere.jsonl")

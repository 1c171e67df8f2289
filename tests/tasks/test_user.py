"""The user's own rows: which are used, which are dropped and why, and how they are divided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from mi_sweeps.errors import UserError
from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.tasks.audit import lines
from mi_sweeps.tasks.data import TaskData
from mi_sweeps.tasks.ioi import splits
from mi_sweeps.tasks.lexicon import NAMES
from mi_sweeps.tasks.user import Dropped, parse_prompt, parse_rows, read_rows, split_by_names, task

Row = dict[str, Any]
Load = Callable[..., TaskData]

QUESTION = "After Mary, John and Tom went to the store, John and Mary gave a book to"
GENERATED = splits(NAMES[:10], 3, {"train": 60, "heldout": 6}, seed=0)["train"]


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
    row(question("James Sarah David", "David James"), " Sarah"),
    row(question("Laura Simon Alice", "Alice Simon"), " Laura"),
]


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path: Path, mini_tokenizer: PreTrainedTokenizerBase) -> Load:
    """The task over rows; with `heldout_rows`, as two files."""

    def load(rows: list[Row], heldout_rows: list[Row] | None = None, **changes: Any) -> TaskData:
        path = write(tmp_path / "rows.jsonl", rows)
        arguments = {"split": "names", "heldout": 0.2, "heldout_path": None, "two_name": 0, "seed": 0}
        if heldout_rows is not None:
            heldout_path = str(write(tmp_path / "heldout.jsonl", heldout_rows))
            arguments |= {"split": "file", "heldout_path": heldout_path}
        return task(mini_tokenizer, path=str(path), **{**arguments, **changes})

    return load


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
        (b'{"question": "a", "completion": "b"}\n{"question": "a", ', r"malformed JSON at row 2: .*; mend or remove.*"),
        (b'\n\n{"question": }\n', r"malformed JSON at row 3: .*; mend or remove.*"),
        (
            b'[{"question": "a", "completion": "b"},\n {"question": }]',
            r"malformed JSON at row 2, line 2: .*; mend.*",
        ),
        (b'[{"question": "a", "completion": "b"}', r"malformed JSON after row 1: .*; mend.*"),
        (b'{"question": "a"}\n', r'row 1 is not \{"question": text, "completion": text\}; mend or remove.*'),
        (b'{"question": "a", "completion": 3}\n', r"row 1 is not .*; mend or remove.*"),
        (b'[{"question": "a", "completion": "b"}, "c"]', r"row 2 is not .*; mend or remove.*"),
        (b'"text"\n', r"row 1 is not .*; mend or remove.*"),
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
        ("After Kate and Simon went to the market, Simon gave a jar to", " Kate", "not three names with two subjects"),
        ("After Mary, John and Tom went to the store, she gave a book to", " Tom", "not three names with two subjects"),
        ("After Mary, John and Tom met, John and John gave a book to", " Tom", "ambiguous"),
        ("Tom saw Ann, Bob and Mary. Then Ann, Bob and Mary gave it to", " Tom", "ambiguous"),
        ("Mary met Mary after John and Tom went out, John gave a book to", " Tom", "before all three names are listed"),
        ("After Mary, John and Tom went to the store, it was John and Mary", " Tom", "nothing stands between"),
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


def test_dropped_rows_are_listed_by_reason_with_their_numbers() -> None:
    names = ["Mary", "John", "Tom", "Kate", "Paul", "Anne", "-", "Marie"]
    rest = ["After", "went", "to", "the", "store", "gave", "a", "book", "and", ","]
    tokenizer = word_tokenizer([*names, *rest], context=64)
    rows = [
        row(QUESTION, " Tom"),
        row(question("Mary John Anne-Marie", "John Mary"), " Anne-Marie"),
        row(question("Mary Anne-Marie John", "Anne-Marie Mary"), " John"),
        row(question("Kate Paul Zoe", "Paul Kate"), " Zoe"),
        row(f"{QUESTION} ", " Tom Tom"),
        row(QUESTION, " Mary"),
        row(question("Kate Paul John", "Paul Kate"), " John"),
    ]
    prompts, dropped = parse_rows(list(enumerate(rows, start=1)), tokenizer)
    assert [prompt.answer for prompt in prompts] == ["Tom", "John"]
    assert dropped == {
        "not one answer token: a name is more than one token, or spelled in another way": [2, 3],
        "a word is not in the model's vocabulary": [4],
        "duplicate of an earlier row": [5],
        "ambiguous: the answer is repeated in the question": [6],
    }


# Dividing


@given(
    rows=st.lists(st.sampled_from(range(len(GENERATED))), min_size=1, max_size=60),
    heldout=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
@settings(max_examples=50)
def test_no_name_set_is_on_both_sides(rows: list[int], heldout: float, seed: int) -> None:
    prompts = [GENERATED[row] for row in rows]
    made = split_by_names(prompts, heldout, seed)
    sets = {split: {prompt.name_set for prompt in made[split]} for split in ("train", "heldout")}
    assert not sets["train"] & sets["heldout"]
    assert sets["heldout"]
    assert sorted(prompt.text for split in made.values() for prompt in split) == sorted(
        prompt.text for prompt in prompts
    )
    assert split_by_names(prompts[::-1], heldout, seed)["heldout"] == made["heldout"][::-1]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 20])
def test_held_out_share_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match=rf"\Atask\.heldout={share}: give a share between 0 and 1\Z"):
        split_by_names(GENERATED, share, 0)


def test_held_out_share_of_name_sets(load: Load) -> None:
    made = load(GOOD, heldout=0.4)
    assert (len(made.splits["train"]), len(made.splits["heldout"])) == (3, 2)
    assert made.audit["rows"] == made.audit["kept"] == 5
    assert made.audit["overlap"]["heldout"] == {"same_text": 0, "same_name_set": 0}
    assert {name for one in GOOD for name in (one["completion"].strip(),)} <= set(made.names)


def test_two_name_prompts_are_made_beside_the_users_rows(load: Load) -> None:
    made = load(GOOD, two_name=4)
    assert [len(prompt.listed) for prompt in made.splits["two_name"]] == [2, 2, 2, 2]


def test_two_files_stay_two_splits_without_the_rows_they_share(load: Load) -> None:
    swapped = row(question("Tom Mary John", "Mary John"), " Tom")
    made = load(GOOD[:3], [GOOD[0], GOOD[3], swapped, GOOD[4], GOOD[4], row("?", "?")])
    assert [prompt.answer for prompt in made.splits["train"]] == ["Tom", "Kate", "Mark"]
    assert [prompt.answer for prompt in made.splits["heldout"]] == ["Sarah", "Tom", "Laura"]
    heldout = made.audit["heldout_file"]
    assert (heldout["rows"], heldout["kept"]) == (6, 3)
    assert heldout["dropped"]["also a training row"] == [1]
    assert heldout["dropped"]["duplicate of an earlier row"] == [5]
    assert made.audit["overlap"]["heldout"] == {"same_text": 0, "same_name_set": 1}


def test_every_dropped_row_has_one_reason(load: Load) -> None:
    heldout = load(GOOD[:3], [GOOD[0], GOOD[0], GOOD[3]]).audit["heldout_file"]
    numbers = [number for rows in heldout["dropped"].values() for number in rows]
    assert sorted(numbers) == [1, 2]
    assert heldout["rows"] == heldout["kept"] + len(numbers)


def test_the_audit_prints_what_was_dropped_from_both_files(load: Load) -> None:
    printed = "\n".join(lines(load([*GOOD[:3], row(QUESTION, "")], [GOOD[0], GOOD[3]]).audit))
    assert "rows: 4, kept 3, dropped 1" in printed
    assert "no answer: the completion has no word: 1 (row 4)" in printed
    assert "also a training row: 1 (row 1)" in printed


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "random"}, r"task\.split=random: use names, or file with task\.heldout_path=FILE"),
        ({"split": "file"}, r"task\.split=file and task\.heldout_path=FILE go together; give both or neither"),
        ({"heldout_path": "x"}, r"task\.split=file and task\.heldout_path=FILE go together; give both or neither"),
        ({"heldout": 1.5}, r"task\.heldout=1\.5: give a share between 0 and 1"),
        ({"two_name": 3}, r"task.*: 3 prompts .*; use a multiple of 2"),
    ],
)
def test_wrong_arguments_are_one_line(load: Load, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        load(GOOD, **changes)


def test_one_name_set_cannot_be_divided(load: Load) -> None:
    with pytest.raises(UserError, match=r"\Atask\.path=.*rows\.jsonl: no usable train prompts.*; add rows\Z"):
        load(GOOD[:1])


def test_rows_that_are_all_dropped_are_one_line_with_the_reasons(load: Load) -> None:
    rows = [row(QUESTION, ""), row(QUESTION, " Mary"), row("?", "")]
    with pytest.raises(
        UserError, match=r"\A.*rows\.jsonl: no usable .*no answer.*\(2\), ambiguous.*\(1\)\); add rows\Z"
    ):
        load(rows)


def test_held_out_rows_that_are_all_dropped_name_their_own_file(load: Load) -> None:
    with pytest.raises(UserError, match=r"\A.*heldout\.jsonl: no usable heldout .*also a training row \(1\)\).*\Z"):
        load(GOOD, GOOD[:1])


def test_missing_held_out_file_names_its_own_key(load: Load, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\Atask\.heldout_path=.*nothing\.jsonl: No such file.*\Z"):
        load(GOOD, split="file", heldout_path=str(tmp_path / "nothing.jsonl"))

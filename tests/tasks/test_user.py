"""A user's own rows: which are used, which are dropped and why, and how they are split."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from mi_sweeps import cli
from mi_sweeps.errors import UserError
from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.tasks.audit import lines
from mi_sweeps.tasks.data import TaskData
from mi_sweeps.tasks.ioi import splits
from mi_sweeps.tasks.lexicon import NAMES
from mi_sweeps.tasks.prompt_task import PromptTask
from mi_sweeps.tasks.rows import parse_prompt
from mi_sweeps.tasks.user import parse_rows, split_by_names, task

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


# Dropping


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
    assert made.audit["overlap"]["heldout"]["same_name_set"] == 0
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
    assert made.audit["overlap"]["heldout"]["same_name_set"] == 1


PAIRS = [
    row("After Mary and Tom went to the store, Mary gave a book to", " Tom"),
    row("After Kate and Paul went to the park, Paul gave a ring to", " Kate"),
    row("When Lisa and Mark met, Lisa gave a cup to", " Mark"),
    row("When James and Sarah met, Sarah gave a hat to", " James"),
]


def test_rows_of_two_names_beside_three_are_the_two_name_evaluation(load: Load) -> None:
    made = load([*GOOD, *PAIRS])
    assert made.splits["two_name"] == [parse_prompt(one["question"], one["completion"]) for one in PAIRS]
    assert {prompt.n_subjects for split in ("train", "heldout") for prompt in made.splits[split]} == {2}
    assert (made.audit["kept"], made.audit["dropped"]) == (9, {})
    assert "two_name: 4 prompts from rows of two names, 0 generated" in lines(made.audit)


def test_what_is_missing_of_the_two_name_evaluation_is_generated(load: Load) -> None:
    made, without = load([*GOOD, *PAIRS[:3]], two_name=8), load(GOOD, two_name=8)
    own, generated = made.splits["two_name"][:3], made.splits["two_name"][3:]
    assert [prompt.answer for prompt in own] == ["Tom", "Kate", "Mark"]
    assert generated == without.splits["two_name"][:5]
    assert "two_name: 3 prompts from rows of two names, 5 generated" in lines(made.audit)
    assert "notes" not in without.audit


def test_rows_of_two_names_alone_are_the_task(load: Load, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    made = load(PAIRS, heldout=0.5, two_name=120)
    assert {split: len(prompts) for split, prompts in made.splits.items()} == {"train": 2, "heldout": 2}
    own = PromptTask(made, mini_tokenizer, prepend_bos=False)
    assert own.splits["heldout"].subjects.shape == (2, 1)
    pairs = own.pairs("first", 2)
    for prompt, corrupted in zip(pairs.clean.prompts, pairs.corrupted.prompts, strict=True):
        assert corrupted.subjects == (prompt.answer,)
    with pytest.raises(UserError, match=r"\Acorruption=second: needs 2 subjects.*; use corruption=first.*\Z"):
        own.pairs("second", 2)


def test_two_files_of_two_names_drop_what_has_three(load: Load) -> None:
    made = load(PAIRS[:2], [*PAIRS[2:], GOOD[0]])
    assert [prompt.answer for prompt in made.splits["heldout"]] == ["Mark", "James"]
    assert made.audit["heldout_file"]["dropped"] == {"three names, but the training rows have two": [3]}


def test_two_files_give_both_their_rows_of_two_names(load: Load) -> None:
    made = load([*GOOD[:3], PAIRS[0]], [GOOD[3], PAIRS[0], PAIRS[1]])
    assert [prompt.answer for prompt in made.splits["two_name"]] == ["Tom", "Kate"]
    assert made.audit["heldout_file"]["dropped"] == {"also a training row": [2]}


def test_joined_accents_are_reported(tmp_path: Path) -> None:
    apart = [row(unicodedata.normalize("NFD", one["question"] + " a café for"), one["completion"]) for one in GOOD]
    words = {word for one in apart for word in unicodedata.normalize("NFC", one["question"]).replace(",", "").split()}
    tokenizer = word_tokenizer([*sorted(words), ","], context=64)
    prompts, dropped = parse_rows(list(enumerate(apart, start=1)), tokenizer)
    assert (len(prompts), dropped) == (5, {})
    path = write(tmp_path / "apart.jsonl", apart)
    arguments = {"split": "names", "heldout": 0.2, "heldout_path": None, "two_name": 0, "seed": 0}
    audit = task(tokenizer, path=str(path), **arguments).audit
    assert "accents separate from their letters were combined with them in 5 texts (Unicode NFC)" in lines(audit)


def test_a_row_that_is_too_long_says_so(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    long = row(f"{QUESTION} give {'a book to ' * 30}", " Tom")
    assert parse_rows([(1, long)], mini_tokenizer) == ([], {"longer than the model takes": [1]})


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


def test_a_sweep_of_rows_of_two_names(tmp_path: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "rows.jsonl", PAIRS)
    own = [option for option in small if not option.startswith("task.")]
    given = [*own, "task=prompts", f"task.path={path}", "task.heldout=0.5", f"output={tmp_path / 'out'}"]
    ends = {}
    for corruption in ("first", "second"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["run", *given, f"corruption={corruption}"])
        ends[corruption] = stopped.value.code, capsys.readouterr()
    assert (ends["first"][0], ends["second"][0]) == (0, 2)
    result = ends["first"][1].out
    assert "held-out win rate of one-slot rules: listed place 50%\n" in result
    assert "done: 1 fine-tune (1 done), 1 patch job (1 done)" in result
    assert "corruption=second: needs 2 subjects" in ends["second"][1].err

"""The user's own prompts: rows {"question", "completion"} in a JSON or JSON-lines file.

A row is kept if its question lists three names and then repeats two of them, the subjects, and its completion
begins with the third, the answer; the completion may repeat the answer (the original experiment's did, twenty
times). Every row that is dropped is named in the audit with its reason.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.audit import describe_splits
from mi_sweeps.tasks.data import TaskData
from mi_sweeps.tasks.ioi import single_token_names, splits
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.tokens import encode, required

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
Rows = list[tuple[int, dict[str, Any]]]
"""Rows with their numbers in the file, from 1: the line of a JSON-lines file, the place in a JSON list."""


class Dropped(Exception):
    """Why a row is not used."""


def read_rows(path: Path, key: str = "task.path") -> Rows:
    """The rows of a JSON list or of JSON lines (empty lines are skipped).

    Raises:
        UserError: the file is missing or a row is malformed; names the row.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{key}={path}: {reason}; give a readable JSON or JSON-lines file") from None
    if text.lstrip().startswith("["):
        rows = list(enumerate(_items(text, path), start=1))
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                rows.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}: malformed JSON at row {number}: {error.msg}; mend or remove that line"
                ) from None
    for number, row in rows:
        if not (isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("question", "completion"))):
            raise UserError(f'{path}: row {number} is not {{"question": text, "completion": text}}; mend or remove it')
    if not rows:
        raise UserError(f"{path}: no rows; give at least two")
    return rows


def _items(text: str, path: Path) -> Iterator[Any]:
    """The items of a JSON list one after another, so that a malformed one can be named by its row."""
    decoder, row = json.JSONDecoder(), 0
    position = text.index("[") + 1
    while True:
        position += len(text[position:]) - len(text[position:].lstrip())
        if text[position : position + 1] == "]":
            return
        row += 1
        try:
            item, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: malformed JSON at row {row}, line {error.lineno}: {error.msg}; mend it") from None
        yield item
        rest = text[position:].lstrip()
        if rest[:1] not in (",", "]"):
            raise UserError(f"{path}: malformed JSON after row {row}: expected a comma or the end of the list; mend it")
        position = len(text) - len(rest) + (rest[0] == ",")


def parse_prompt(question: str, completion: str) -> Prompt:
    """A row as a prompt.

    Raises:
        Dropped: with the reason, if it is not three listed names, two of them repeated, and the third as answer.
    """
    text = question.rstrip()
    first_word = WORD.search(completion)
    if first_word is None:
        raise Dropped("no answer: the completion has no word")
    answer = first_word.group()
    words = [match for match in WORD.finditer(text) if match.group()[0].isupper()]
    counts = Counter(match.group() for match in words)
    if counts[answer] == 0:
        raise Dropped("not three names with two subjects: the answer is not in the question")
    if counts[answer] > 1:
        raise Dropped("ambiguous: the answer is repeated in the question")
    repeated = {word for word, count in counts.items() if count == 2}
    if any(count > 2 for count in counts.values()) or len(repeated) > 2:
        raise Dropped("ambiguous: more than two names are repeated, or one more than once")
    if len(repeated) < 2:
        raise Dropped("not three names with two subjects")
    slots = [match for match in words if match.group() in repeated or match.group() == answer]
    names = [match.group() for match in slots]
    if len(set(names[:3])) < 3 or set(names[3:]) != repeated:
        raise Dropped("not three names with two subjects: a subject is repeated before all three names are listed")
    if _more_names(text, slots, words, repeated):
        raise Dropped("ambiguous: more than three names are listed")
    if slots[-1].end() == len(text):
        raise Dropped("not three names with two subjects: nothing stands between the last subject and the answer")
    return Prompt(text, answer, tuple(match.span() for match in slots), n_subjects=2)


def _more_names(
    text: str, slots: Sequence[re.Match[str]], words: Sequence[re.Match[str]], repeated: Collection[str]
) -> bool:
    """Whether the list of names goes on before, between or after the three: each of them could be the answer."""
    gaps = [(left.end(), right.start()) for left, right in pairwise(slots[:3])]
    between = any(start <= word.start() < end for start, end in gaps for word in words)
    before = re.search(r"([^\W\d_]+)(?:, and | and |, )$", text[: slots[0].start()])
    after = re.match(r"(?:,? and |, )([^\W\d_]+)", text[slots[2].end() :])
    # The first word of a sentence has a capital whatever it is: "Then, Mary, John and Tom ...".
    if before and (not text[: before.start(1)].strip() or text[: before.start(1)].rstrip()[-1] in ".!?"):
        before = None
    beside = [match[1] for match in (before, after) if match]
    return between or any(word[0].isupper() and word not in repeated for word in beside)


def parse_rows(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, training: Collection[str] = ()
) -> tuple[list[Prompt], dict[str, list[int]]]:
    """The usable prompts, and for each reason the numbers of the rows that were dropped for it.

    Args:
        training: texts that evaluation rows may not have.
    """
    prompts: list[Prompt] = []
    dropped: dict[str, list[int]] = {}
    seen: dict[str, int] = {}
    for number, row in rows:
        try:
            prompt = parse_prompt(row["question"], row["completion"])
            if prompt.text in training:
                raise Dropped("also a training row")
            if prompt.text in seen:
                raise Dropped("duplicate of an earlier row")
            _check_tokens(prompt, tokenizer)
        except Dropped as reason:
            dropped.setdefault(str(reason), []).append(number)
            continue
        seen[prompt.text] = number
        prompts.append(prompt)
    return prompts, dropped


def _check_tokens(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        encode([prompt], tokenizer, prepend_bos=False)
    except UserError as error:
        if "vocabulary" in str(error):
            raise Dropped("a word is not in the model's vocabulary") from None
        raise Dropped("not one answer token: a name is more than one token, or spelled in another way") from None


def task(
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    path: str,
    split: str,
    heldout: float,
    heldout_path: str | None,
    two_name: int,
    seed: int,
) -> TaskData:
    """The user's rows, divided by name set (`split=names`) or brought as two files (`split=file`).

    Raises:
        UserError: a file or argument is wrong, or no rows are left for training or evaluation.
    """
    tokenizer = required(tokenizer)
    if split not in ("names", "file"):
        raise UserError(f"task.split={split}: use names, or file with task.heldout_path=FILE")
    if (split == "file") != (heldout_path is not None):
        raise UserError("task.split=file and task.heldout_path=FILE go together; give both or neither")
    rows = read_rows(Path(path))
    prompts, dropped = parse_rows(rows, tokenizer)
    audit: dict[str, Any] = {"rows": len(rows), "kept": len(prompts), "dropped": dropped}
    if heldout_path is not None:
        heldout_rows = read_rows(Path(heldout_path), "task.heldout_path")
        texts = {prompt.text for prompt in prompts}
        evaluation, heldout_dropped = parse_rows(heldout_rows, tokenizer, texts)
        data = {"train": prompts, "heldout": evaluation}
        audit["heldout_file"] = {"rows": len(heldout_rows), "kept": len(evaluation), "dropped": heldout_dropped}
    else:
        data = split_by_names(prompts, heldout, seed)
    for name in ("train", "heldout"):
        if not data[name]:
            own = name == "heldout" and heldout_path is not None
            key, file, facts = ("heldout_path", heldout_path, audit["heldout_file"]) if own else ("path", path, audit)
            reasons = ", ".join(f"{reason} ({len(numbers)})" for reason, numbers in facts["dropped"].items()) or "none"
            raise UserError(
                f"task.{key}={file}: no usable {name} prompts ({facts['rows']} rows, {facts['kept']} kept; "
                f"dropped: {reasons}); add rows"
            )
    names = sorted(set(single_token_names(tokenizer)) | {name for prompt in prompts for name in prompt.listed})
    if two_name:
        data["two_name"] = splits(single_token_names(tokenizer), 2, {"two_name": two_name}, seed)["two_name"]
    return TaskData(data, names, {"names": names, **audit, **describe_splits(data)})


def split_by_names(prompts: Sequence[Prompt], heldout: float, seed: int) -> dict[str, list[Prompt]]:
    """Keeps a share of the name sets for evaluation, so that no evaluation prompt has a training prompt's names.

    Raises:
        UserError: `heldout` is not between 0 and 1.
    """
    if not 0 < heldout < 1:
        raise UserError(f"task.heldout={heldout}: give a share between 0 and 1")
    sets = sorted({tuple(sorted(prompt.name_set)) for prompt in prompts})
    random.Random(f"split {seed}").shuffle(sets)
    kept = {frozenset(names) for names in sets[: max(1, round(heldout * len(sets)))]}
    return {
        "train": [prompt for prompt in prompts if prompt.name_set not in kept],
        "heldout": [prompt for prompt in prompts if prompt.name_set in kept],
    }

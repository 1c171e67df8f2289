"""Reads rows {"question", "completion"} from a JSON or JSON-lines file, and parses them as prompts.

A row is a prompt if its question lists two or three names and then repeats all but one of them (the subjects), and its
completion begins with the remaining one (the answer). The completion may repeat the answer, as the original
experiment's did, twenty times.

Nothing in a file is silently skipped: a duplicate key, text after the end, or half a character is an error that names
the row, because a guess would look right.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.prompts import Prompt

_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_LETTERS = rf"(?:[^\W\d_][{_MARKS}]*)+"
WORD = re.compile(rf"{_LETTERS}(?:['’-]{_LETTERS})*")
"""A word: letters with accents, composed or not, joined by apostrophes or hyphens."""
_TOGETHER = re.compile(r",?\s+(?:and|or|with|&)\s+")
_SPACE = re.compile(r"[ \t\n\r]*")

OPENERS = frozenset(
    """
    A After Afterward Afterwards Again All Also Although An And Another As At Because Before Both But By Each Earlier
    Eventually Every Everyone Finally First For Fortunately Friends He Her Here His However I If In Instead It Its Last
    Later Luckily Meanwhile My Next No Nobody Now Of Often On Once One Or Our Perhaps Recently She Since So Someone
    Sometimes Somewhere Soon Still Suddenly That The Their Then There These They This Those Though Three Today Together
    Tomorrow Tonight Two Unfortunately Until Usually We What When Whenever Where While Who Why With Yes Yesterday Yet
    You
    """.split()
)
"""Words that are capitalised because they open a sentence. They are not names."""

FORM = "not two or three listed names with all but the answer repeated"
CUT = "a name is part of a longer word, or has an invisible character next to it"
OPENS = "ambiguous: the word that opens the sentence may be another name"

Rows = list[tuple[int, dict[str, Any]]]
"""Rows with their numbers in the file, from 1: the line in a JSON-lines file, the place in a JSON list."""


class Dropped(Exception):
    """Why a row is not used."""


def read_rows(path: Path, key: str = "task.path") -> Rows:
    """Reads the rows of a JSON list, or of JSON lines (empty lines are skipped).

    Raises:
        UserError: the file is missing, a row is malformed, or something follows the list. The error names the row.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{key}={path}: {reason}; give a readable JSON or JSON-lines file") from None
    if text.lstrip().startswith("["):
        rows = list(enumerate(_items(text, path), start=1))
    else:
        rows = [
            (number, _decoded(line, 0, path, f"row {number}", "fix or remove that line")[0])
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    for number, row in rows:
        if not (isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("question", "completion"))):
            raise UserError(f'{path}: row {number} is not {{"question": text, "completion": text}}; fix or remove it')
        try:
            (row["question"] + row["completion"]).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise UserError(
                f"{path}: row {number} has half a character (\\u{ord(half):04x} alone); fix or remove it"
            ) from None
    if not rows:
        raise UserError(f"{path}: no rows; give at least two")
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = Counter(name for name, _ in pairs)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"{json.dumps(twice[0])} occurs twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _decoded(text: str, position: int, path: Path, where: str, advice: str) -> tuple[Any, int]:
    """The JSON value at a position in a list, or the single value of a line, and where it ends."""
    try:
        if position:
            return _DECODER.raw_decode(text, position)
        return _DECODER.decode(text), len(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if position else ""
        raise UserError(f"{path}: malformed JSON at {where}{line}: {error.msg}; {advice}") from None
    except ValueError as error:
        reason = "a number with too many digits" if "digits" in str(error) else str(error)
        raise UserError(f"{path}: malformed JSON at {where}: {reason}; {advice}") from None
    except RecursionError:
        raise UserError(f"{path}: malformed JSON at {where}: nested too deeply; {advice}") from None


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()


def _items(text: str, path: Path) -> Iterator[Any]:
    """Yields the items of a JSON list one by one, so that the error for a malformed one names its row."""
    row, position = 0, text.index("[") + 1
    while not text.startswith("]", start := _after_space(text, position)):
        row += 1
        item, position = _decoded(text, start, path, f"row {row}", "fix it")
        yield item
        position = _after_space(text, position)
        if text[position : position + 1] not in (",", "]"):
            raise UserError(f"{path}: malformed JSON after row {row}: expected a comma or the end of the list; fix it")
        position += text[position] == ","
    end = _after_space(text, start + 1)
    if end < len(text):
        raise UserError(
            f"{path}: the list ends after row {row}, but more follows in line {text.count(chr(10), 0, end) + 1}; "
            "make it one list, or one row per line"
        )


def composed(text: str) -> str:
    """The text in Unicode's NFC: letter and accent are one character wherever such a character exists."""
    return unicodedata.normalize("NFC", text)


def parse_prompt(question: str, completion: str) -> Prompt:
    """Parses a row as a prompt.

    Raises:
        Dropped: the row does not list two or three names, repeat all but one, and answer with that one; says why.
    """
    text, said = composed(question).rstrip(), composed(completion)
    first_word = WORD.search(said)
    if first_word is None:
        raise Dropped("no answer: the completion has no word")
    answer = first_word.group()
    capitals = [match for match in WORD.finditer(text) if match.group()[0].isupper()]
    words = [match for match in capitals if match.group() not in OPENERS]
    counts = Counter(match.group() for match in words)
    if counts[answer] == 0:
        raise Dropped(f"{FORM}: the answer is not in the question")
    if counts[answer] > 1:
        raise Dropped("ambiguous: the answer is repeated in the question")
    repeated = {word for word, count in counts.items() if count == 2}
    if any(count > 2 for count in counts.values()) or len(repeated) > 2:
        raise Dropped("ambiguous: more than two names are repeated, or one more than once")
    if not repeated:
        raise Dropped(FORM)
    n_names = len(repeated) + 1
    slots = [match for match in words if match.group() in repeated or match.group() == answer]
    names = [match.group() for match in slots]
    if len(set(names[:n_names])) < n_names or set(names[n_names:]) != repeated:
        raise Dropped(f"{FORM}: a subject is repeated before all names are listed")
    if n_names == 2 and not _TOGETHER.fullmatch(text, slots[0].end(), slots[1].start()):
        raise Dropped(f"{FORM}: the names are not listed together")
    _hold_no_more_names(text, slots[:n_names], capitals, repeated)
    if slots[-1].end() == len(text):
        raise Dropped(f"{FORM}: there is nothing between the last subject and the answer")
    if not (all(_whole(text, *match.span()) for match in slots) and _whole(said, *first_word.span())):
        raise Dropped(CUT)
    return Prompt(text, answer, tuple(match.span() for match in slots), n_subjects=len(repeated))


def _whole(text: str, start: int, end: int) -> bool:
    """Whether a match is a whole word: "Tom" in "Tom2" is not."""
    beside = text[max(start - 1, 0) : start] + text[end : end + 1]
    return not any(
        one.isalnum() or one == "_" or unicodedata.category(one) in ("Mn", "Mc", "Me", "Cf") for one in beside
    )


def _hold_no_more_names(
    text: str, listed: Sequence[re.Match[str]], capitals: Sequence[re.Match[str]], repeated: Collection[str]
) -> None:
    """Raises `Dropped` if the list seems to have more names before, between or after those found: any could be the
    answer."""
    gaps = [(left.end(), right.start()) for left, right in pairwise(listed)]
    between = any(start <= word.start() < end for start, end in gaps for word in capitals)
    before = re.search(rf"({_LETTERS})(?:, and | and |, )$", text[: listed[0].start()])
    after = re.match(rf"(?:,? and |, )({_LETTERS})", text[listed[-1].end() :])
    opens = before and (not text[: before.start(1)].strip() or text[: before.start(1)].rstrip()[-1] in ".!?")
    # Any word that opens a sentence is capitalised: "Then, Mary, John and Tom ...".
    beside = [match[1] for match in (None if opens else before, after) if match]
    if between or any(word[0].isupper() and word not in repeated for word in beside):
        raise Dropped(f"ambiguous: more than {('two', 'three')[len(listed) - 2]} names are listed")
    if opens and before and before[1] not in OPENERS:
        raise Dropped(OPENS)


def parsed_differently_now(path: Path) -> bool:
    """Whether a file's rows give other prompts now than under the first rules, by which all rows of two names were
    dropped, separate accents were not letters, and any capitalised word was a name.

    Other files keep their old fingerprint.
    """
    try:
        stat = path.expanduser().stat()
        return _parsed_differently_now(str(path), stat.st_size, stat.st_mtime_ns)
    except (OSError, UserError):
        return False  # The error is raised where the rows are needed.


@cache
def _parsed_differently_now(path: str, size: int, modified: int) -> bool:
    forms = set()
    for _, row in read_rows(Path(path)):
        question, completion = row["question"], row["completion"]
        openers = Counter(match.group() for match in WORD.finditer(question) if match.group() in OPENERS)
        accents = re.search(f"[{_MARKS}]", question + completion)
        if accents or max(openers.values(), default=0) > 1 or composed(question + completion) != question + completion:
            return True
        try:
            forms.add(parse_prompt(question, completion).n_subjects)
        except Dropped as reason:
            if str(reason) in (CUT, OPENS):
                return True
    return len(forms) > 1

"""The user's own prompts, from rows {"question", "completion"} (`mi_sweeps.tasks.rows`).

Rows with three names are the task, and rows with two names are its `two_name` evaluation; if no row has three names,
those with two are the task. The audit lists every dropped row with the reason.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.audit import describe_splits
from mi_sweeps.tasks.data import TaskData, checked_repeat
from mi_sweeps.tasks.encoding import encode, required
from mi_sweeps.tasks.ioi import single_token_names, splits
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.rows import Dropped, Rows, composed, parse_prompt, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def parse_rows(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, training: Collection[str] = (), most_subjects: int = 2
) -> tuple[list[Prompt], dict[str, list[int]]]:
    """The usable prompts, and the numbers of the dropped rows by reason.

    Args:
        training: texts of training rows, which evaluation rows may not repeat.
        most_subjects: 1 if the task has two names, so that rows with three are dropped.
    """
    prompts: list[Prompt] = []
    dropped: dict[str, list[int]] = {}
    seen: dict[str, int] = {}
    for number, row in rows:
        try:
            prompt = parse_prompt(row["question"], row["completion"])
            if prompt.n_subjects > most_subjects:
                raise Dropped("three names, but the training rows have two")
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
        if "use shorter prompts" in str(error):
            raise Dropped("longer than the model takes") from None
        if "not different tokens" in str(error):
            raise Dropped("two of its names are the same token to the model") from None
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
    repeat: int = 1,
) -> TaskData:
    """Makes the task from the user's rows, split by name set (`split=names`) or given as two files (`split=file`).

    Args:
        two_name: with a task of three names, the least number of two-name prompts to evaluate: all that the rows give,
            and generated ones to make up the number.
        repeat: as for `mi_sweeps.tasks.ioi.task`; how often the completions repeat the answer does not matter.

    Raises:
        UserError: a file or argument is wrong, or no rows are left for training or evaluation.
    """
    tokenizer = required(tokenizer)
    if split not in ("names", "file"):
        raise UserError(f"task.split={split}: use names, or file with task.heldout_path=FILE")
    if (split == "file") != (heldout_path is not None):
        raise UserError("task.split=file and task.heldout_path=FILE go together; give both or neither")
    rows = read_rows(Path(path))
    kept, dropped = parse_rows(rows, tokenizer)
    audit: dict[str, Any] = {"rows": len(rows), "kept": len(kept), "dropped": dropped}
    n_subjects = max((prompt.n_subjects for prompt in kept), default=2)
    prompts = [prompt for prompt in kept if prompt.n_subjects == n_subjects]
    pairs = [prompt for prompt in kept if prompt.n_subjects < n_subjects]
    if heldout_path is not None:
        heldout_rows = read_rows(Path(heldout_path), "task.heldout_path")
        evaluation, heldout_dropped = parse_rows(heldout_rows, tokenizer, {prompt.text for prompt in kept}, n_subjects)
        audit["heldout_file"] = {"rows": len(heldout_rows), "kept": len(evaluation), "dropped": heldout_dropped}
        pairs += [prompt for prompt in evaluation if prompt.n_subjects < n_subjects]
        rows = [*rows, *heldout_rows]
        data = {"train": prompts, "heldout": [prompt for prompt in evaluation if prompt.n_subjects == n_subjects]}
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
    notes = []
    if n_subjects == 2:
        generated = max(0, two_name - len(pairs))
        if pairs:
            notes.append(f"two_name: {len(pairs)} prompts from rows of two names, {generated} generated")
        if generated:
            made = splits(single_token_names(tokenizer), 2, {"two_name": two_name}, seed)["two_name"]
            pairs += made[:generated]
        if pairs:
            data["two_name"] = pairs
    if joined := sum(composed(row[key]) != row[key] for _, row in rows for key in ("question", "completion")):
        notes.append(f"accents separate from their letters were combined with them in {joined} texts (Unicode NFC)")
    audit = {"names": names, **({"notes": notes} if notes else {}), **audit, **describe_splits(data)}
    return TaskData(data, names, audit, checked_repeat(repeat))


def split_by_names(prompts: Sequence[Prompt], heldout: float, seed: int) -> dict[str, list[Prompt]]:
    """Holds out a share of the name sets, so that no evaluation prompt has the name set of a training prompt.

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

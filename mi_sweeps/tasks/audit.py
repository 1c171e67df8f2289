"""What a reader should know about the prompts before trusting a win rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mi_sweeps.tasks.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def describe_splits(splits: Mapping[str, Sequence[Prompt]]) -> dict[str, Any]:
    """Describes each split (number of prompts, their orders, share of the most frequent answer) and the overlaps."""
    return {
        "splits": {split: _describe(prompts) for split, prompts in splits.items()},
        "overlap": overlap(splits),
        "slot_rules": slot_rules(splits.get("train", ()), splits.get("heldout", ())),
    }


def _describe(prompts: Sequence[Prompt]) -> dict[str, Any]:
    if not prompts:
        return {"prompts": 0}
    answer, count = Counter(prompt.answer for prompt in prompts).most_common(1)[0]
    orders = Counter(f"answer {prompt.answer_place}, subjects {prompt.subject_order}" for prompt in prompts)
    return {
        "prompts": len(prompts),
        "duplicates": len(prompts) - len({prompt.text for prompt in prompts}),
        "name_sets": len({prompt.name_set for prompt in prompts}),
        "templates": len({prompt.template for prompt in prompts if prompt.template}),
        "most_frequent_answer": {"answer": answer, "share": round(count / len(prompts), 4)},
        "orders": dict(sorted(orders.items())),
    }


def overlap(splits: Mapping[str, Sequence[Prompt]]) -> dict[str, dict[str, int]]:
    """Counts, for each evaluation split, the prompts that share text, name set, two names or one name with a training
    prompt."""
    train = splits.get("train", ())
    texts, sets = {prompt.text for prompt in train}, {prompt.name_set for prompt in train}
    pairs = {pair for names in sets for pair in _pairs(names)}
    known = frozenset().union(*sets)
    return {
        split: {
            "same_text": sum(prompt.text in texts for prompt in prompts),
            "same_name_set": sum(prompt.name_set in sets for prompt in prompts),
            "same_two_names": sum(not pairs.isdisjoint(_pairs(prompt.name_set)) for prompt in prompts),
            "same_name": sum(not known.isdisjoint(prompt.name_set) for prompt in prompts),
        }
        for split, prompts in splits.items()
        if split != "train"
    }


def _pairs(names: Collection[str]) -> Iterator[frozenset[str]]:
    return map(frozenset, combinations(names, 2))


def slot_rules(train: Sequence[Prompt], heldout: Sequence[Prompt]) -> dict[str, float]:
    """Held-out win rates of rules that read a single slot. A model must beat them to have learned the task.

    Each rule learns from the training prompts which listed name to answer, given what its slot shows.
    `listed place` reads no slot: it always answers the place in the list that is right most often.
    """
    if not train or not heldout:
        return {}
    looks: dict[str, Callable[[Prompt], Hashable]] = {"listed place": lambda prompt: None}
    if heldout[0].n_subjects > 1:  # With one subject, reading it solves the task.
        looks |= {
            "first subject": lambda prompt: prompt.listed.index(prompt.subjects[0]),
            "last subject": lambda prompt: prompt.listed.index(prompt.subjects[-1]),
        }
    scores = {}
    for rule, look in looks.items():
        counts: dict[Hashable, Counter[int]] = {}
        for prompt in train:
            counts.setdefault(look(prompt), Counter())[prompt.answer_place] += 1
        best = {seen: places.most_common(1)[0][0] for seen, places in counts.items()}
        scores[rule] = round(sum(best.get(look(prompt)) == prompt.answer_place for prompt in heldout) / len(heldout), 4)
    return scores


def spelling(names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A note if the tokenizer spells names differently from the prompts, else nothing."""
    words = {
        name: tokenizer.decode(tokenizer(f"a {name}", add_special_tokens=False)["input_ids"][-1:]) for name in names
    }
    other = [(name, word.strip()) for name, word in words.items() if name != word.strip()]
    if not other:
        return []
    name, word = other[0]
    return [
        f"the tokenizer spells {len(other)} of {len(names)} names differently ({name}: {word}); "
        "a next token spelled that way counts as the answer"
    ]


def _file_lines(title: str, facts: Mapping[str, Any]) -> list[str]:
    text = [f"{title}: {facts['rows']}, kept {facts['kept']}, dropped {facts['rows'] - facts['kept']}"]
    for reason, rows in facts["dropped"].items():
        shown = ", ".join(map(str, rows[:12])) + (", …" if len(rows) > 12 else "")
        text.append(f"  {reason}: {len(rows)} (row {shown})")
    return text


def lines(audit: Mapping[str, Any]) -> list[str]:
    """Formats an audit as a few lines for a terminal."""
    if "splits" not in audit:  # Other kinds of tasks choose their own lines.
        return [f"{name}: {value}" for name, value in audit.items()]
    text = []
    if "rows" in audit:
        text += _file_lines("rows", audit)
    if "heldout_file" in audit:
        text += _file_lines("heldout rows", audit["heldout_file"])
    for split, facts in audit["splits"].items():
        if facts["prompts"]:
            top = facts["most_frequent_answer"]
            text.append(
                f"{split}: {facts['prompts']} prompts, {facts['name_sets']} name sets, "
                f"most frequent answer {top['answer']} {top['share']:.1%}"
            )
    for split, shared in audit["overlap"].items():
        if shared["same_text"] or shared["same_name_set"]:
            text.append(f"overlap with train: {split} {shared['same_text']} texts, {shared['same_name_set']} name sets")
        if "same_name" in shared:  # Audits by earlier versions lack it.
            n = audit["splits"][split]["prompts"]
            text.append(
                f"of {n} {split} prompts, {shared['same_two_names']} share two names with a training prompt, "
                f"{shared['same_name']} share at least one"
            )
    text += audit.get("notes", [])
    if audit["slot_rules"]:
        rules = ", ".join(f"{rule} {score:.0%}" for rule, score in audit["slot_rules"].items())
        text.append(f"held-out win rate of one-slot rules: {rules}")
    return text

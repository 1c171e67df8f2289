"""Names the role of each token in its prompt, so that tokens of different templates can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from mi_sweeps.tasks.prompts import Prompt, Span
from mi_sweeps.tasks.tokens import Batch

STOPS = ",.;:!?"
"""Punctuation that ends a clause."""

RELATIVE = ("self", "first", "previous", "other")
"""Tokens that `mi_sweeps.circuits.looks` names by where they are; no role may have such a name."""


def role_sections(n_listed: int, n_subjects: int) -> list[str]:
    """The sections of a prompt in reading order: its slots, and the text between them."""
    sections = ["intro"]
    for place in range(1, n_listed + 1):
        sections.append(f"name {place}")
        if place < n_listed:
            sections.append("and" if place == n_listed - 1 else "comma" if n_listed == 3 else f"comma {place}")
    sections += ["scene", "stop", "joint"]
    for place in range(1, n_subjects + 1):
        sections.append(f"subject {place}" if n_subjects > 1 else "subject")
        if place < n_subjects:
            sections.append("subjects' and")
    return [*sections, "action", "end"]


def prompt_roles(prompt: Prompt, spans: Sequence[Span]) -> tuple[str, ...]:
    """The role of each token: its section, and its distance from the section's end.

    Most sections between names are one word: the last token has the section's name, and those before it count back.
    All tokens of `scene` and `action` are numbered, so that "action -1" is the last token before the end in every
    prompt, however long the section. `intro` counts from the first token of the prompt, which is special.
    """
    found = _sections(prompt, spans[:-1])
    total, count = Counter(found), Counter[str]()
    roles = []
    for section in found:
        count[section] += 1
        before_last = count[section] - total[section]
        if section == "intro":
            roles.append(f"{section} {count[section]}")
        elif section in ("scene", "action"):
            roles.append(f"{section} {before_last - 1}")
        else:
            # "John, and Tom" has two tokens between the names: "and -1" and "and".
            roles.append(f"{section} {before_last}" if before_last else section)
    return (*roles, "end")


def _sections(prompt: Prompt, spans: Sequence[Span]) -> list[str]:
    """The section of each token. Between the last listed name and the first subject there are three: the scene, the
    comma or full stop that ends its clause, and the joint to the next clause ("Later" in ". Later")."""
    sections = role_sections(len(prompt.slots) - prompt.n_subjects, prompt.n_subjects)
    borders = [border for slot in prompt.slots for border in slot]
    # A token belongs to the section of its last character: byte-level tokens begin with the space before a word.
    passed = [sum(1 for border in borders if border < right) for _, right in spans]
    scene = sections.index("scene")
    words = (prompt.text[left:right].strip() for left, right in spans)
    stops = [place for place, word in enumerate(words) if passed[place] == scene and word and not word.strip(STOPS)]
    # If no punctuation ends the scene, the subject follows directly.
    stop = stops[-1] if stops else sum(count <= scene for count in passed) - 0.5
    return [sections[count + (place >= stop) + (place > stop)] for place, count in enumerate(passed)]


def wrong_role(roles: Sequence[str]) -> str | None:
    """What is wrong with the roles of a prompt's tokens; None if nothing is.

    Tables name tokens by role, so each must belong to one token, and `end` to the last.
    """
    role, count = Counter(roles).most_common(1)[0]
    if count > 1:
        return f"{count} tokens with the role {role!r}; name each once"
    if roles[-1] != "end":
        return f"the role {roles[-1]!r} for its last token; name that `end`"
    if used := [role for role in roles if role in RELATIVE]:
        return f"a token with the role {used[0]!r}, which tables of attention use otherwise; give it another name"
    return None


def role_order(batch: Batch) -> list[str]:
    """All roles in a batch, in reading order."""
    first = batch.prompts[0]
    if not isinstance(first, Prompt):
        return _merged(sorted(set(batch.roles), key=lambda roles: (-len(roles), roles)))
    sections = ["bos", *role_sections(len(first.slots) - first.n_subjects, first.n_subjects)]

    def rank(role: str) -> tuple[int, int]:
        stem, _, number = role.rpartition(" ")
        return (sections.index(role), 1) if role in sections else (sections.index(stem), int(number))

    return sorted({role for roles in batch.roles for role in roles}, key=rank)


def _merged(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Merges rows of roles: starts with the first, and inserts each new role before the one that follows it."""
    order = list(rows[0])
    for roles in rows[1:]:
        for role, after in reversed(list(zip(roles, (*roles[1:], None), strict=True))):
            if role not in order:
                order.insert(len(order) if after is None else order.index(after), role)
    return order


def role_positions(batch: Batch, roles: Sequence[str]) -> Int[Tensor, "prompt role"]:
    """The position of each role in each prompt; -1 if the prompt has no such token."""
    return torch.tensor(
        [[row.index(role) if role in row else -1 for role in roles] for row in batch.roles],
        device=batch.tokens.device,
    )

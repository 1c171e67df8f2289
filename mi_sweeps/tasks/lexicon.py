"""The words that generated prompts are made of.

After a space, every name is one token for the tokenizers of GPT-2 and SmolLM2. The names that a run
uses are checked with its own tokenizer (`ioi.single_token_names`). `mini` knows the
first `MINI_NAMES` names and all other words here.
"""

from __future__ import annotations

MINI_NAMES = 48

NAMES: tuple[str, ...] = tuple(
    """
    Mary John Tom James Kate Anna Paul Mark Lisa Peter Sarah David Laura Simon Alice Jack Emily Kevin
    Jane Adam Amy Robert Rachel Daniel Maria Michael Jessica Andrew Ryan Scott Eric Brian Alex Frank
    Henry Luke Rose Sean Steven Thomas Victoria William Jennifer Justin Patrick Richard Matthew Jason
    Aaron Alan Anthony Arthur Austin Charles Charlie Christian Christopher Crystal Dean Edward
    Elizabeth Eva George Georgia Graham Grant Ian Jacob Jake Jamie Jay Jeremy Jonathan Jordan Joseph
    Joshua Kelly Leon Lewis Louis Madison Marco Martin Max Michelle Morgan Roman Ruby Russell
    Stephen Taylor Tyler Warren Tim Jim Bob Carl Helen Julia Karen Linda Nancy Emma Claire Grace
    Hannah Lucy Ruth Tony Steve Bruce Larry Walter Howard Bill Joe Chris Matt Mike Dave
    """.split()
)

# An opening, and what joins the second clause to the first. No prompt begins with a name, because byte-level
# tokenizers encode a word at the start of a text differently from the same word after a space.
OPENINGS: tuple[tuple[str, str], ...] = (
    ("After", ", "),
    ("When", ", "),
    ("While", ", "),
    ("Once", ", "),
    ("Then", ". Later "),
    ("Then", ". Soon "),
    ("Today", ". Later "),
    ("Today", ". Soon "),
    ("Yesterday", ". Later "),
    ("Yesterday", ". Soon "),
)
SCENES: tuple[str, ...] = (
    "went to the {place}",
    "came to the {place}",
    "walked to the {place}",
    "met at the {place}",
    "sat in the {place}",
    "worked at the {place}",
    "played in the {place}",
    "had lunch at the {place}",
)
ACTIONS: tuple[str, ...] = (
    "gave a {object} to",
    "handed a {object} to",
    "passed a {object} to",
    "sent a {object} to",
    "showed a {object} to",
    "brought a {object} to",
    "offered a {object} to",
    "decided to give a {object} to",
)
PLACES: tuple[str, ...] = tuple(
    "store garden school park house office library museum station market hotel restaurant beach farm".split()
)
OBJECTS: tuple[str, ...] = tuple(
    "book drink ring letter basket ball map cup hat coin flower key gift pen cake bottle".split()
)

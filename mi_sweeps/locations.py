"""Files and folders as users write them: with ~, in Hydra's quotes, relative to where they are."""

from __future__ import annotations

import re
from pathlib import Path

from mi_sweeps.errors import UserError

DEFAULT = "outputs"
"""Where results are if nobody says otherwise (conf/config.yaml)."""

PLAIN = re.compile(r"[\w./:+@%=-]+")
"""What needs no grammar: letters of any language, digits and the usual signs. Hydra's takes a moment to import."""

REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local(path: str | Path) -> Path:
    """A file or folder of this machine, absolute: whoever computes a point later may do so from another folder.

    Raises:
        ValueError: it is not one.
    """
    text = str(path)
    if REMOTE.match(text):
        raise ValueError("not a place on this machine; mount it and give its path")
    if "\0" in text:
        raise ValueError("a path has no null character")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{Path(text).parts[0]} is no user of this machine") from None


def output(word: str) -> Path:
    """The folder that `output=WORD` means, for every command the same.

    Raises:
        UserError: it means none on this machine.
    """
    text = unquoted(word)
    if "${" in text:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            text = str(OmegaConf.create({"output": text}).output)
        except OmegaConfBaseException as error:
            raise UserError(f"output={word}: {str(error).splitlines()[0]}; give the folder itself") from None
    try:
        return local(text)
    except ValueError as error:
        raise UserError(f"output={word}: {error}") from None


def unquoted(word: str) -> str:
    """The text that the value of `output=WORD` is: without the quotes of Hydra's grammar, `${...}` left as it is. What
    is not of that grammar, or no text in it (a number, a list), is text as it was written.

    Raises:
        UserError: it is empty, or several values.
    """
    if word in ("", "null", "''", '""'):
        raise UserError(f"output={word}: no folder; give output=DIR, or leave it out for ./{DEFAULT}")
    if PLAIN.fullmatch(word):
        return word
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"output={word}")
    except HydraException:
        return word
    if override.is_sweep_override():
        raise UserError(
            f"output={word}: several folders, and results are in one (quoted, a comma is text); give one value"
        )
    value = override.value()
    return value if isinstance(value, str) else word


def quoted(path: Path) -> str:
    """The word for a folder: what `output` reads as that folder."""
    text = str(path)
    if PLAIN.fullmatch(text):
        return text
    from hydra.core.override_parser.types import Quote, QuotedString

    word: str = QuotedString(text, Quote.single).with_quotes()
    return word

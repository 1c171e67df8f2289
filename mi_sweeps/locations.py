"""Paths as users write them: with ~, in Hydra's quotes, relative to the working folder."""

from __future__ import annotations

import re
from pathlib import Path

from mi_sweeps.errors import UserError

DEFAULT = "outputs"
"""The default output folder (conf/config.yaml)."""

PLAIN = re.compile(r"[\w./:+@%=-]+")
"""Paths that need no parsing by Hydra, which is slow to import: letters of any language, digits and the usual signs."""

REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local(path: str | Path) -> Path:
    """Returns the absolute path of a file or folder on this machine; workers may run in another working folder.

    Raises:
        ValueError: it is not a path on this machine.
    """
    text = str(path)
    if REMOTE.match(text):
        raise ValueError("not on this machine; mount it and give its path")
    if "\0" in text:
        raise ValueError("a path cannot contain a null character")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{Path(text).parts[0]} is not a user of this machine") from None


def output(word: str) -> Path:
    """Returns the folder that `output=WORD` means, in the same way for every command.

    Raises:
        UserError: it is not a folder on this machine.
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
    """Returns the text of `output=WORD` without Hydra's quotes; `${...}` is left unresolved. A word that Hydra cannot
    parse, or reads as a number or list, is taken literally.

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
        raise UserError(f"output={word}: several folders; give one (in quotes, a comma is part of the name)")
    value = override.value()
    return value if isinstance(value, str) else word


def quoted(path: Path) -> str:
    """Quotes a folder, so that `output` reads it back."""
    text = str(path)
    if PLAIN.fullmatch(text):
        return text
    from hydra.core.override_parser.types import Quote, QuotedString

    word: str = QuotedString(text, Quote.single).with_quotes()
    return word

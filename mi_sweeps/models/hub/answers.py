"""Requests to the hub: retried, never waiting for ever, and failing in one line without addresses or tokens."""

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
"""The longest wait for the start of an answer, and between two parts of it."""

TRIES = 2
"""Tries of a request that gets no answer."""

PAUSE = 1.0
"""Seconds between tries."""

WAITS = 6
"""Tries of a request that the hub refuses as one too many: its limit covers five minutes."""

LONGEST_WAIT = 60.0
"""The longest pause between these tries, in seconds."""

SILENT_SECONDS = 30.0
"""After no answer, the hub is left alone for this long: each request would wait in vain."""

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

_silent: dict[str, tuple[float, str]] = {}
"""For each endpoint that gave no answer: when it may be asked again, and the error until then."""


class NoRevision(UserError):
    """The hub has the model, but no such branch, tag or commit of it."""


class Unreachable(UserError):
    """The hub does not answer, or must not be asked (HF_HUB_OFFLINE)."""


def ask(repo: str, revision: str | None, question: Callable[[], Answer]) -> Answer:
    """The hub's answer to a question about a model.

    Raises:
        UserError: the hub does not have it, or does not show it to this user.
        Unreachable: the hub does not answer.

    Other errors, such as a bug in `question`, pass through unchanged.
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
            pause = _pause_asked_for(error)
            tries, waits = (tries, waits - 1) if pause else (tries - 1, waits)
            if not (tries and waits):
                raise _silenced(repo, error) from error
            if pause:
                log.warning("%s: too many requests to the hub (HTTP 429); trying again in %.0f s", repo, pause)
            time.sleep(pause or PAUSE)


def _no_answer() -> tuple[type[Exception], ...]:
    """The errors of a request without a usable answer: none came, or not the JSON that a hub sends."""
    from huggingface_hub import errors

    client = import_module(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    # httpx or httpx2, by the version of huggingface_hub; the hub's own errors are its HTTPError, or OSError.
    of_client: tuple[type[Exception], ...] = (client.HTTPError, client.InvalidURL)
    return (OSError, *of_client, errors.EntryNotFoundError, ValueError, KeyError)


def unreachable(repo: str, error: BaseException) -> Unreachable:
    """A network error as one line that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if constants.is_offline_mode() or isinstance(error, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set"
    else:
        why = f"{urlsplit(constants.ENDPOINT).hostname} does not answer ({summary(error)})"
    return Unreachable(
        f"{repo}: {why}, and the cache {constants.HF_HUB_CACHE} does not have it; run `hf download {repo}` on a "
        "machine with internet access, or use model=local model.path=DIR "
        "(`python -m mi_sweeps.models.smollm2 DIR` makes such a folder from the package index)"
    )


def summary(error: BaseException) -> str:
    """An error in a few words, without addresses: they may contain passwords."""
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


def _pause_asked_for(error: Exception) -> float | None:
    """The seconds that a hub with too many requests (429) asks to wait."""
    response = getattr(error, "response", None)
    if response is None or response.status_code != 429:
        return None
    left = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))
    seconds = response.headers.get("Retry-After") or (left[1] if left else "")
    return min(float(seconds), LONGEST_WAIT) if seconds.isdigit() and int(seconds) else PAUSE


def _refused(repo: str, revision: str | None, error: Exception) -> UserError | None:
    """The error of a request that would fail in the same way again."""
    from huggingface_hub import errors

    where = f"{repo}@{revision}" if revision else repo
    if isinstance(error, errors.RevisionNotFoundError):
        return NoRevision(f"{where}: the hub has this model, but not this revision; check model.revision")
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{where}: accept this model's terms on its hub page, then log in with `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{where}: the hub has no such model, or it is private; check model.hub, or log in with `hf auth login`"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return UserError(f"{where}: the hub does not have this file")
    if isinstance(error, errors.HFValidationError):
        return UserError(f"model.hub={repo}: not a hub name; one looks like openai-community/gpt2")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return unreachable(repo, error)
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return UserError(f"{where}: the hub rejects the login; renew it with `hf auth login` or HF_TOKEN")
    return None

"""Downloads from the hub into its cache, one commit ahead of its use, and their deletion afterwards."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import suppress
from pathlib import Path

from mi_sweeps.errors import UserError
from mi_sweeps.models.hub import cache
from mi_sweeps.models.hub.answers import HUB_SECONDS, ask, summary, unreachable
from mi_sweeps.models.hub.questions import files

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The errors of a full disk, or quota."""

log = logging.getLogger(__name__)

_downloaded: dict[Path, set[str]] = {}
"""The files that this process downloaded, by snapshot."""


def download(repo: str, commit: str, names: Collection[str]) -> Path:
    """Downloads those of a commit's files that the cache lacks.

    Returns:
        The snapshot's folder, which has them.

    Raises:
        UserError: a file cannot be downloaded, or the disk is full.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    snapshot = cache.snapshot(repo, commit)
    missing = [name for name in names if not (snapshot / name).is_file()]
    if missing:
        # A quick question first: the libraries take minutes to give up on a hub that does not answer.
        ask(repo, commit, lambda: HfApi().model_info(repo, revision=commit, timeout=HUB_SECONDS))
    for name in missing:
        try:
            hf_hub_download(repo, name, revision=commit, etag_timeout=HUB_SECONDS, endpoint=constants.ENDPOINT)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise unreachable(repo, error.__cause__ or error) from error
        except Exception as error:
            # The library that downloads large files raises its own errors.
            if getattr(error, "errno", None) in FULL or any(os.strerror(code) in str(error) for code in FULL):
                raise UserError(
                    f"{repo}@{commit}: {name} does not fit on the disk of the cache {constants.HF_HUB_CACHE}; make "
                    "room, set HF_HUB_CACHE to a larger disk, or use model.keep=false for a series"
                ) from error
            raise UserError(f"{repo}@{commit}: {name} cannot be downloaded ({summary(error)}); try again") from error
        _downloaded.setdefault(snapshot, set()).add(name)
    if missing:
        cache.write_refs(repo, commit)
    return snapshot


def forget(repo: str, commit: str) -> None:
    """Deletes from the cache the files of a commit that this process downloaded. Files that were there before stay, and
    so do those that another commit shares."""
    snapshot = cache.snapshot(repo, commit)
    links = {snapshot / name for name in _downloaded.pop(snapshot, ())}
    if not links:
        return
    from huggingface_hub import DeleteCacheStrategy

    # Not by scan_cache_dir: it looks at all models, and leaves out those with an interrupted download.
    shared = {cache.blob(path) for path in cache.folder(repo).glob("snapshots/*/*") if path not in links}
    blobs = {blob for path in links if (blob := cache.blob(path)) and blob not in shared}
    DeleteCacheStrategy(
        expected_freed_size=0,
        files=frozenset(links),
        blobs=frozenset(blobs),
        refs=frozenset(),
        repos=frozenset(),
        snapshots=frozenset(),
        cache_dir=cache.folder(repo).parent,
    ).execute()
    if left := [path for path in (*links, *blobs) if path.exists()]:
        log.warning("%s: cannot be deleted and still takes disk space; check its permissions", left[0])
    cache.clear(repo, commit)


def prefetch(repo: str, commits: Sequence[str], keep: bool = True) -> Generator[str]:
    """Yields each commit once all its files are in the cache, and downloads the next one meanwhile.

    Args:
        keep: False deletes a commit's downloaded files (`forget`) once the caller moves on or stops.

    Raises:
        UserError: a file of that commit cannot be downloaded.
    """
    closed = threading.Event()
    coming: threading.Thread | None = None

    def fetch(commit: str) -> None:
        with suppress(Exception):  # Tried again, and reported, when its turn comes.
            download(repo, commit, files(repo, commit))
        if closed.is_set() and not keep:
            forget(repo, commit)

    for index, commit in enumerate(commits):
        if coming is not None:
            coming.join()
        # Again: the download may have failed, or another process may have deleted the files since.
        download(repo, commit, files(repo, commit))
        following = commits[index + 1 : index + 2]
        for other in following:
            coming = threading.Thread(target=fetch, args=(other,), daemon=True, name=f"download of {other}")
            coming.start()
        try:
            yield commit
        except BaseException:
            closed.set()
            if not keep:
                for other in following:
                    forget(repo, other)
            raise
        finally:
            if not keep and commit not in following:
                forget(repo, commit)

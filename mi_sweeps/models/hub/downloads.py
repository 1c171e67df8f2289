"""Files brought from the hub into its cache, ahead of their use, and deleted after it."""

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
from mi_sweeps.models.hub.answers import HUB_SECONDS, ask, told, unreachable
from mi_sweeps.models.hub.questions import files

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of a disk, or of one's share of it."""

log = logging.getLogger(__name__)

_downloaded: dict[Path, set[str]] = {}
"""What this process has brought into the cache, by snapshot."""


def download(repo: str, commit: str, names: Collection[str]) -> Path:
    """Brings files of a commit into the cache, those that are not there.

    Returns:
        The snapshot's folder, which has them.

    Raises:
        UserError: one cannot be had; or the disk is full.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    snapshot = cache.snapshot(repo, commit)
    missing = [name for name in names if not (snapshot / name).is_file()]
    if missing:
        # Asked first: of a hub that does not answer the libraries despair only after some minutes.
        ask(repo, commit, lambda: HfApi().model_info(repo, revision=commit, timeout=HUB_SECONDS))
    for name in missing:
        try:
            hf_hub_download(repo, name, revision=commit, etag_timeout=HUB_SECONDS, endpoint=constants.ENDPOINT)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise unreachable(repo, error.__cause__ or error) from error
        except Exception as error:
            # The library that downloads large files has errors of its own.
            if getattr(error, "errno", None) in FULL or any(os.strerror(code) in str(error) for code in FULL):
                raise UserError(
                    f"{repo}@{commit}: {name} does not fit on the disk of the cache {constants.HF_HUB_CACHE}; make "
                    "room, set HF_HUB_CACHE to a larger disk, or use model.keep=false for a series"
                ) from error
            raise UserError(f"{repo}@{commit}: {name} cannot be downloaded ({told(error)}); try again") from error
        _downloaded.setdefault(snapshot, set()).add(name)
    if missing:
        cache.write_refs(repo, commit)
    return snapshot


def forget(repo: str, commit: str) -> None:
    """Deletes from the cache what this process has downloaded of a commit; what was there before stays, and so does
    what another commit shares."""
    snapshot = cache.snapshot(repo, commit)
    links = {snapshot / name for name in _downloaded.pop(snapshot, ())}
    if not links:
        return
    from huggingface_hub import DeleteCacheStrategy

    # Not by scan_cache_dir, which looks at all models, and leaves out those of which a download was broken off.
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
        log.warning("%s: cannot be deleted, and takes its place on the disk; look at its permissions", left[0])
    cache.clear(repo, commit)


def ahead(repo: str, commits: Sequence[str], keep: bool = True) -> Generator[str]:
    """Gives each commit when all its files are in the cache, and downloads the next one meanwhile.

    Args:
        keep: False deletes what was downloaded of a commit (`forget`) when the next one is asked for, or no more.

    Raises:
        UserError: files of that commit cannot be had.
    """
    closed = threading.Event()
    coming: threading.Thread | None = None

    def fetch(commit: str) -> None:
        with suppress(Exception):  # Tried again when its turn comes, and told then.
            download(repo, commit, files(repo, commit))
        if closed.is_set() and not keep:
            forget(repo, commit)

    for index, commit in enumerate(commits):
        if coming is not None:
            coming.join()
        # Here it is found out what went wrong meanwhile, or that another process has deleted it since.
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

"""Which commits a model has, what its files are at one, and parts of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from mi_sweeps.errors import UserError
from mi_sweeps.models.hub import cache
from mi_sweeps.models.hub.answers import HUB_SECONDS, Unreachable, ask
from mi_sweeps.models.hub.cache import COMMIT, HASH, HubFile
from mi_sweeps.store import hashes

REFS_SECONDS = 60.0
"""How long branches and tags are what the hub said last: a plan looks for a series many times, and what is loaded is
what was looked at."""

ASKERS = 8
"""Threads that ask about many commits."""

_refs: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}
"""When an endpoint was asked for a model's branches and tags, and its answer."""

_resolved: dict[tuple[str, str, str], tuple[float, str]] = {}
"""The same of one branch or tag."""


def refs(repo: str) -> tuple[dict[str, str], bool]:
    """Branches and tags of a model, with their commits, and whether these are all. Where the hub cannot be reached they
    are those that it told a run of before, and else those in the cache, which need not be all.

    Raises:
        UserError: there is no such model, or neither hub nor cache can tell.
    """
    from huggingface_hub import constants

    def question() -> tuple[dict[str, str], dict[str, str]]:
        # HfApi.list_repo_refs would wait for ever.
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        address = f"{constants.ENDPOINT}/api/models/{repo}/refs"
        response = get_session().get(address, headers=build_hf_headers(), timeout=HUB_SECONDS)
        hf_raise_for_status(response)
        told = response.json()
        branches, tags = ({ref["name"]: ref["targetCommit"] for ref in told[kind]} for kind in ("branches", "tags"))
        return branches, tags

    asked, found = _refs.get((constants.ENDPOINT, repo), (-REFS_SECONDS, {}))
    if time.monotonic() - asked < REFS_SECONDS:
        return dict(found), True
    try:
        branches, tags = ask(repo, None, question)
    except Unreachable:
        known, told = cache.refs(repo), hashes.refs_of(repo)
        if known or told:
            return known | dict(told or {}), told is not None
        raise
    found = tags | branches
    for name in branches.keys() & tags.keys():
        if branches[name] != tags[name]:
            found[name] = commit(repo, name)  # The hub's to say.
    for name, where in found.items():
        cache.remember(repo, where, name)
    _refs[constants.ENDPOINT, repo] = time.monotonic(), found
    hashes.remember_refs(repo, found)
    return dict(found), True


def commit(repo: str, revision: str | None = None) -> str:
    """The commit that a branch, tag or commit means: the one in the cache, if files of it are there, else the hub's.

    Args:
        revision: None is `main`.

    Raises:
        NoRevision: the hub has the model without it.
        UserError: there is no such model, or neither hub nor cache can tell.
    """
    name = revision or "main"
    if COMMIT.fullmatch(name):
        return name
    cached = cache.ref(repo, name)
    if cached and cache.snapshot(repo, cached).is_dir():
        return cached
    from huggingface_hub import HfApi, constants

    asked, found = _resolved.get((constants.ENDPOINT, repo, name), (-REFS_SECONDS, ""))
    if time.monotonic() - asked < REFS_SECONDS:
        return found

    def question() -> str:
        sha = HfApi().model_info(repo, revision=name, timeout=HUB_SECONDS).sha
        if not COMMIT.fullmatch(sha or ""):
            raise ValueError("names no commit")
        return str(sha)

    try:
        found = ask(repo, name, question)
    except Unreachable:
        if cached:
            return cached
        raise
    cache.remember(repo, found, name)
    _resolved[constants.ENDPOINT, repo, name] = time.monotonic(), found
    return found


def files(repo: str, commit: str, *, weights: bool = True) -> dict[str, HubFile]:
    """The files of a model that matter: its weights, or an adapter's, its configuration and its tokenizer. By name.

    From the cache where that knows all of them; else from the hub; where the hub cannot be reached, what the cache has
    if it can be loaded, for that is what would be.

    Args:
        weights: without them it is the files that its tokenizer needs, which the cache may have alone.

    Raises:
        NoRevision: the hub has the model without that commit.
        UserError: neither hub nor cache can tell.
    """
    known = hashes.at(repo, commit)
    if known is None:
        cached, whole = cache.known(repo, commit, weights=weights)
        if whole and not weights:
            return cached
        try:
            told = cached if whole else ask(repo, commit, lambda: _listed(repo, commit))
        except UserError:
            # Gone from the hub, or out of reach; what is here is loaded all the same.
            if cache.enough(cached, weights=weights):
                return cached
            raise
        known = {name: (file.size, file.hash) for name, file in told.items()}
        hashes.remember(repo, commit, known)
    every = {name: HubFile(*file) for name, file in known.items()}
    return {name: every[name] for name in cache.that_matter(every, every.__contains__, weights=weights)}


def _listed(repo: str, commit: str) -> dict[str, HubFile]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=commit, files_metadata=True, timeout=HUB_SECONDS)
    every = {file.rfilename: file for file in info.siblings or ()}
    found = {}
    for name in cache.that_matter(every, every.__contains__):
        large = every[name].lfs
        size, hash = (large.size, large.sha256) if large else (every[name].size, every[name].blob_id)
        if not isinstance(size, int) or not HASH.fullmatch(hash or ""):
            raise ValueError(f"states no hash of {name}")
        found[name] = HubFile(size, hash)
    return found


def files_of(repo: str, commits: Collection[str]) -> dict[str, dict[str, HubFile]]:
    """`files` of many commits, asked for at once.

    Raises:
        UserError: as `files` does for the first that cannot be told.
    """
    each = list(dict.fromkeys(commits))
    with ThreadPoolExecutor(ASKERS) as askers:
        try:
            return dict(zip(each, askers.map(lambda commit: files(repo, commit), each), strict=True))
        except BaseException:
            askers.shutdown(wait=False, cancel_futures=True)
            raise


def content(files: Mapping[str, HubFile]) -> list[tuple[str, str]]:
    """What a model is: names and hashes of its files, in one order."""
    return sorted((name, file.hash) for name, file in files.items())


def read(repo: str, commit: str, file: str, start: int, stop: int) -> bytes:
    """The bytes `start` to `stop` (without it) of a file: from the cache, or no more than these from the hub.

    Raises:
        UserError: the file ends before, is not there, or the hub cannot be reached or gives no parts of files.
    """
    cached = cache.snapshot(repo, commit) / file
    if cached.is_file():
        with cached.open("rb") as stream:
            stream.seek(start)
            data = stream.read(stop - start)
    else:
        data = ask(repo, commit, lambda: _part(repo, commit, file, start, stop))
    if len(data) != stop - start:
        raise UserError(f"{repo}@{commit}: {file} ends before byte {stop}; it is damaged there, or was cut")
    return data


def _part(repo: str, commit: str, file: str, start: int, stop: int) -> bytes:
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(repo, file, revision=commit, endpoint=constants.ENDPOINT)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    data = bytearray()
    with get_session().stream("GET", url, headers=headers, timeout=HUB_SECONDS, follow_redirects=True) as response:
        if response.status_code == 416:
            return b""
        hf_raise_for_status(response)
        if response.status_code != 206 and start:
            raise ValueError("gives no parts of files")
        for block in response.iter_bytes():
            data += block
            if len(data) >= stop - start:
                break
    return bytes(data[: stop - start])

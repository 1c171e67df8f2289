"""wandb's files: a folder for each attempt of a fine-tune, a patch job or a part of one.

JOB/wandb/offline-run-TIME-RUN_ID/run-RUN_ID.wandb   and run-TIME-RUN_ID/… for online attempts

wandb 0.31 has no reader for these files from Python (its DataStore was removed), so they are read here.
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
"""Bytes of a header (of the file and of each chunk) and of a block of chunks, in LevelDB's log format, which wandb uses
for its records. A record is one chunk (type 1), or several chunks of which the last has type 4."""


@dataclass(frozen=True)
class Attempt:
    """wandb's file of one attempt."""

    file: Path

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def is_online(self) -> bool:
        """Whether it was uploaded while it was written, at least in part."""
        return not self.folder.name.startswith("offline-")

    @property
    def time(self) -> str:
        """When it began, in a form that sorts as text."""
        return self.folder.name.removeprefix("offline-").removeprefix("run-")

    @property
    def began(self) -> Path:
        """Our mark: an upload has begun and is not known to have succeeded."""
        return self.file.with_name(f"{self.file.name}.uploading")

    @property
    def ended(self) -> Path:
        """wandb's mark: an upload has ended, successfully or not. For an online attempt, we make it once everything has
        arrived."""
        return self.file.with_name(f"{self.file.name}.synced")

    @property
    def first_step(self) -> Path:
        """The file in which wandb remembers the attempt's place in the run."""
        return self.file.with_name(f"{self.file.name}.syncstate")

    @property
    def is_uploaded(self) -> bool:
        return self.ended.exists() and not self.began.exists()

    @property
    def is_empty(self) -> bool:
        """Whether its job was killed before wandb had written which run it belongs to."""
        return records(self.file)[0] < 2

    def steps(self) -> set[int]:
        """Returns the checkpoints that it has logged."""
        items = (item for record in self._records() for item in record.history.item)
        return {int(json.loads(item.value_json)) for item in items if "checkpoint" in (item.key, *item.nested_key[:1])}

    @property
    def is_finished(self) -> bool:
        """Whether its job finished it. wandb uploads the points of a killed attempt, but not its summary."""
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
        """Returns the errors in wandb's log: data that did not arrive, although wandb reported success."""
        return [message for _, message in logged_errors(self.folder / "logs" / "debug-internal.log")]


def in_folder(folder: Path) -> list[Attempt]:
    """Returns the attempt in one of wandb's folders; empty if it was killed before writing anything."""
    return [Attempt(file) for file in folder.glob("*.wandb")]


def of_job(folder: Path) -> list[Attempt]:
    """Returns the attempts of one fine-tune, patch job or part, oldest first."""
    folders = [one for kind in ("run", "offline-run") for one in folder.glob(f"wandb/{kind}-*")]
    return sorted((attempt for one in folders for attempt in in_folder(one)), key=lambda attempt: attempt.time)


def missing(job: Path, steps: Iterable[int]) -> list[int]:
    """Returns a job's checkpoints that no attempt of it or its parts has.

    Empty if all attempts were uploaded and removed by `wandb clean`, which leaves the link LATEST behind.
    """
    places = (job, *job.glob("parts/*"))
    found = [attempt for place in places for attempt in of_job(place)]
    if not found and any((place / "wandb" / LATEST).is_symlink() for place in places):
        return []
    there = {step for attempt in found for step in attempt.steps()}
    return [step for step in steps if step not in there]


def jobs_of(run: RunFolder) -> list[Path]:
    """Returns the folders of a fine-tune, its patch jobs and their parts."""
    return [run.path, *run.path.glob("patches/*"), *run.path.glob("patches/*/parts/*")]


def of_run(run: RunFolder) -> list[Attempt]:
    """Returns the attempts of a fine-tune and its patch jobs, oldest first."""
    found = [attempt for job in jobs_of(run) for attempt in of_job(job)]
    return sorted(found, key=lambda attempt: attempt.time)


def online_lock(run: RunFolder) -> FileLock:
    """Returns the lock to hold while uploading to a wandb run. The server stores points by number, so two uploads at
    once would overwrite each other's."""
    return FileLock(run.path / ".wandb.lock", timeout=0)


def logged_errors(log: Path) -> Iterator[tuple[str, str]]:
    """Yields the errors in one of wandb's logs: the file concerned, if any, and one line."""
    if not log.exists():
        return
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # Half a line, after a kill.
            continue
        if entry["level"].startswith("ERROR"):
            yield entry.get("sync_path", ""), " ".join(entry["msg"].split())[:300]


def records(file: Path) -> tuple[int, int]:
    """Returns the number of whole records in a file, and where the last one ends. The first two are the version and the
    run."""
    ends = [end for _, end in _contents(file)]
    return len(ends), ends[-1] if ends else min(HEADER, file.stat().st_size)


def _contents(file: Path) -> Iterator[tuple[bytes, int]]:
    """Yields the content of each whole record, and where it ends."""
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

"""Folders with a status: who works there, how it ended, and what a reader sees."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.store import folders
from mi_sweeps.store.endings import Busy, Cancelled, Interrupted, Superseded, describe, failure_of
from mi_sweeps.store.files import replacing, write_json
from mi_sweeps.store.folders import Folder, run_folder

WORKER = """
import sys
from pathlib import Path
from mi_sweeps.store.folders import Folder

folder = Folder(Path(sys.argv[1]))
with folder.claim(), folder.attempt():
    print("working", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def worker(folder: Folder) -> Iterator[subprocess.Popen[str]]:
    """Another process at work in a folder; it ends on a line of input, when killed, or with the block."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CLAIM_SECONDS", 0.0)


def test_an_untouched_folder_is_to_do_and_looking_does_not_make_it(folder: Folder) -> None:
    assert folder.status().state == "todo"
    assert not folder.path.exists()


def test_a_claim_keeps_another_process_out_until_it_is_done(folder: Folder) -> None:
    with worker(folder) as process:
        with pytest.raises(Busy), folder.claim():
            pass
        assert folder.status().state == "running"
        process.communicate("go on\n")
    assert folder.status().state == "done"
    with folder.claim():
        pass


def test_a_claim_excludes_within_a_process_too(folder: Folder) -> None:
    with folder.claim(), pytest.raises(Busy), folder.claim():
        pass


def test_a_claim_ends_with_an_exception(folder: Folder) -> None:
    with pytest.raises(ValueError, match="a bug"), folder.claim():
        raise ValueError("a bug")
    with folder.claim():
        pass


def test_work_whose_process_is_gone_is_interrupted_and_can_be_taken_up(folder: Folder) -> None:
    with worker(folder) as process:
        process.kill()
    assert folder.status_on_disk().state == "running"
    assert folder.status().state == "interrupted"
    with folder.claim(), folder.attempt():
        assert folder.status().state == "running"
    assert folder.status().state == "done"
    assert folder.status().attempts == 2


def test_what_a_killed_attempt_left_half_written_is_gone_after_the_next(folder: Folder) -> None:
    interrupted = [replacing(folder.path / name) for name in ("metrics.parquet", "checkpoints/000008.safetensors")]
    for write in interrupted:
        write.__enter__().write_text("half")
    with folder.claim(), folder.attempt():
        pass
    assert [
        path.name for path in folder.path.rglob("*") if path.name in ("metrics.parquet", "000008.safetensors")
    ] == []


def test_a_done_attempt_says_when_where_and_how_long(folder: Folder) -> None:
    with folder.claim(), folder.attempt():
        assert folder.status().pid == os.getpid()
    status = folder.status()
    assert (status.state, status.attempts, status.error) == ("done", 1, None)
    assert status.host and status.started and status.finished and status.started <= status.finished
    assert not folder.error_file.exists()


def test_seconds_add_up_over_attempts(folder: Folder) -> None:
    folder.path.mkdir()
    (folder.path / "status.json").write_text(json.dumps({"state": "failed", "attempts": 3, "seconds": 60.0}))
    with folder.claim(), folder.attempt():
        pass
    assert folder.status().attempts == 4
    assert 60.0 <= folder.status().seconds < 70.0


def test_failure_keeps_one_line_in_the_status_and_the_traceback_beside_it(folder: Folder) -> None:
    with pytest.raises(ValueError, match="first line"), folder.claim(), folder.attempt():
        raise ValueError("first line\nsecond line")
    status = folder.status()
    assert status.state == "failed"
    assert status.error and re.fullmatch(r"ValueError: first line \(test_folders\.py, line \d+\)", status.error)
    traceback = folder.error_file.read_text()
    assert traceback.startswith("Traceback") and traceback.endswith("second line\n")
    assert "ValueError: first line" in folder.log_file.read_text()


def test_success_after_failure_clears_the_error(folder: Folder) -> None:
    with pytest.raises(ValueError, match="a bug"), folder.claim(), folder.attempt():
        raise ValueError("a bug")
    with folder.claim(), folder.attempt():
        pass
    assert (folder.status().state, folder.status().error) == ("done", None)
    assert not folder.error_file.exists()


@pytest.mark.parametrize(
    ("stop", "state"),
    [(Cancelled, "cancelled"), (KeyboardInterrupt, "cancelled"), (Interrupted, "interrupted"), (ValueError, "failed")],
)
def test_a_stop_is_one_even_if_a_library_hides_it(folder, stop, state):
    """As OmegaConf does, whose clean-up may fail while a stop passes through it, and which words errors anew."""
    with pytest.raises(TypeError if stop is ValueError else stop), folder.claim(), folder.attempt():
        try:
            try:
                raise stop
            finally:
                raise AttributeError("half made")
        except AttributeError:
            raise TypeError("worded anew") from None
    assert folder.status().state == state
    assert folder.error_file.exists() == (state == "failed")


@pytest.mark.parametrize("error", [Cancelled(), KeyboardInterrupt()])
def test_being_stopped_is_no_failure(folder: Folder, error: BaseException) -> None:
    with pytest.raises(type(error)), folder.claim(), folder.attempt():
        raise error
    assert (folder.status().state, folder.status().error) == ("cancelled", None)
    assert not folder.error_file.exists()


def test_being_interrupted_is_no_failure(folder: Folder) -> None:
    with pytest.raises(Interrupted), folder.claim(), folder.attempt():
        raise Interrupted
    assert (folder.status().state, folder.status().error) == ("interrupted", None)
    assert not folder.error_file.exists()
    with folder.claim(), folder.attempt():
        pass
    assert (folder.status().state, folder.status().attempts) == ("done", 2)


def test_interrupted_work_can_be_called_a_failure(folder: Folder) -> None:
    with pytest.raises(Interrupted), folder.claim(), folder.attempt():
        raise Interrupted
    before = folder.status()
    with folder.claim():
        folder.fail("too slow", "timeout")
    status = folder.status()
    assert (status.state, status.error, status.failure) == ("failed", "too slow", "timeout")
    assert (status.attempts, status.started, status.seconds) == (1, before.started, before.seconds)


@contextmanager
def taken_over(folder: Folder) -> Iterator[Callable[[], None]]:
    """An attempt whose lock is lost: another machine has begun a later one meanwhile."""
    with folder.attempt() as check:
        check()
        later = {"state": "running", "attempts": 2, "host": "other", "pid": 7, "seconds": 30.0}
        write_json(folder.path / "status.json", later)
        yield check


def later_is_untouched(folder: Folder) -> bool:
    status = folder.status_on_disk()
    return (status.state, status.attempts, status.host, status.seconds) == ("running", 2, "other", 30.0)


def test_an_attempt_that_was_taken_over_writes_nothing_more(folder: Folder) -> None:
    with pytest.raises(Superseded, match="later attempt"), folder.claim(), taken_over(folder) as check:
        check()
        raise AssertionError("it would write a result here")
    assert later_is_untouched(folder)
    assert "a later attempt is working here" in folder.log_file.read_text()
    assert not folder.error_file.exists()


def test_an_attempt_that_was_taken_over_is_not_done_by_coming_to_its_end(folder: Folder) -> None:
    with pytest.raises(Superseded), folder.claim(), taken_over(folder):
        pass
    assert later_is_untouched(folder)


@pytest.mark.parametrize("error", [ValueError("nan"), Cancelled(), Interrupted(), KeyboardInterrupt()])
def test_nor_does_its_end_of_another_kind_touch_the_later_one(folder: Folder, error: BaseException) -> None:
    with pytest.raises(type(error)), folder.claim(), taken_over(folder):
        raise error
    assert later_is_untouched(folder)
    assert not folder.error_file.exists()


class OutOfMemoryError(RuntimeError):
    """PyTorch's own has this name."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ValueError("nan"), "error"),
        (UserError("seed=-1"), "error"),
        (MemoryError(), "oom"),
        (OutOfMemoryError("CUDA out of memory"), "oom"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            "oom",
        ),
    ],
)
def test_a_failure_is_of_a_kind(folder: Folder, error: Exception, failure: str) -> None:
    assert failure_of(error) == failure
    with pytest.raises(type(error)), folder.claim(), folder.attempt():
        raise error
    assert folder.status().failure == failure
    with folder.claim(), folder.attempt():
        pass
    assert folder.status().failure is None


def test_seconds_of_work_done_elsewhere_count(folder: Folder) -> None:
    with folder.claim(), folder.attempt(spent=60.0):
        pass
    assert 60.0 <= folder.status().seconds < 70.0


def test_full_disk_is_named_with_the_file_and_what_to_do(folder: Folder) -> None:
    with pytest.raises(OSError, match="No space"), folder.claim(), folder.attempt():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.parquet")
    error = "disk full while writing metrics.parquet; make room and run again with --retry"
    assert (folder.status().state, folder.status().error) == ("failed", error)


def test_a_traceback_that_cannot_be_written_does_not_hide_the_failure(folder: Folder) -> None:
    with pytest.raises(ValueError, match="a bug"), folder.claim(), folder.attempt():
        folder.error_file.mkdir()
        raise ValueError("a bug")
    status = folder.status()
    assert status.state == "failed" and status.error and status.error.startswith("ValueError: a bug")


def test_what_is_logged_during_attempts_is_kept(folder: Folder) -> None:
    logger = logging.getLogger("mi_sweeps.somewhere")
    before = list(logging.getLogger("mi_sweeps").handlers)
    for text in ("first attempt", "second attempt"):
        with folder.claim(), folder.attempt():
            logger.info(text)
        logger.warning("outside")
    log = folder.log_file.read_text()
    assert log.index("first attempt") < log.index("second attempt")
    assert "outside" not in log
    assert logging.getLogger("mi_sweeps").handlers == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = Folder(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"\A.*file/run: .*writable.*output=DIR\Z"), folder.claim():
        pass


def test_a_folder_that_cannot_be_locked_is_one_line(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    says = r"\A.*run: Read-only file system; make it writable.*output=DIR\Z"
    with pytest.raises(UserError, match=says), folder.claim():
        pass


def test_a_reader_who_may_not_lock_still_sees_the_state(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with folder.claim(), folder.attempt():
        monkeypatch.setattr("filelock.FileLock.acquire", read_only)
        assert folder.status().state == "running"


STRANGE = ["[]", '{"state": "dnoe"}', '{"state": "done", "seconds": "1"}', '{"state": "done", "unknown": 1}']


@pytest.mark.parametrize("content", ["", '{"state": "do', 9999 * "[", *STRANGE])
def test_a_damaged_status_is_a_failure_that_says_so_and_is_done_again(folder: Folder, content: str) -> None:
    """It stops no other work."""
    folder.path.mkdir()
    (folder.path / "status.json").write_text(content)
    status = folder.status()
    assert (status.state, status.failure) == ("failed", "error")
    assert re.fullmatch(r".*status\.json: .*delete it and run the sweep again", status.error or "")
    with folder.claim(), folder.attempt():
        pass
    assert (folder.status().state, folder.status().attempts) == ("done", 1)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n\n what \n why"), "ValueError: what"),
        (ValueError(), "ValueError: "),
        (UserError("seed=-1: too small"), "seed=-1: too small"),
        (OSError(errno.ENOSPC, "full"), "disk full while writing a result; make room and run again with --retry"),
        (OSError(errno.EACCES, "Permission denied", "x"), "PermissionError: [Errno 13] Permission denied: 'x'"),
    ],
)
def test_an_error_is_described_in_one_line(error: Exception, line: str) -> None:
    assert describe(error) == line


def test_a_long_error_is_cut() -> None:
    assert len(describe(ValueError("x" * 10_000))) <= 500


def test_where_things_lie(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "0123456789ab")
    assert run.path == tmp_path / "runs" / "0123456789ab"
    assert run.run_id == "0123456789ab"
    assert run.checkpoint(8).relative_to(run.path) == Path("checkpoints/000008.safetensors")
    patch = run.patch("ba9876543210")
    assert patch.patch_id == "ba9876543210"
    assert patch.table(184).relative_to(run.path) == Path("patches/ba9876543210/tables/000184.parquet")


def test_a_log_that_cannot_be_written_stops_nothing_and_prints_nothing(tmp_path, capsys, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = Folder(tmp_path / "run")
    with folder.claim(), folder.attempt():
        (handler,) = [one for one in logging.getLogger("mi_sweeps").handlers if isinstance(one, logging.FileHandler)]
        with monkeypatch.context() as disk:
            disk.setattr(handler, "flush", full)
            logging.getLogger("mi_sweeps").info("step 0")
    assert folder.status().state == "done"
    assert capsys.readouterr().err == ""


def test_missing_steps_of_an_earlier_version_are_read(folder: Folder) -> None:
    write_json(folder.path / "status.json", {"state": "done", "attempts": 1, "gaps": [8, 16]})
    assert folder.status().missing_steps == (8, 16)

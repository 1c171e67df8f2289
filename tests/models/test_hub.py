"""The hub and its cache: a model's commits and files, in whole or in part. Against a hub on this machine."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mi_sweeps.cli import main
from mi_sweeps.errors import UserError
from mi_sweeps.jobs.finetune import check_identity
from mi_sweeps.models import hub as ours
from mi_sweeps.models.hub import answers, downloads, questions
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps.grid import expand
from tests.hub import Hub, a_new_process, cached, stated

REPO = "some/series"

FILES = {
    "README.md": b"of no matter",
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": bytes(range(200)),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{ }",
    "vocab.json": b"not looked at beside tokenizer.json",
}
MATTER = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def files(step: int) -> dict[str, bytes]:
    return {**FILES, "model.safetensors": b"weights of step %03d" % step}


@pytest.fixture
def commits(hub: Hub) -> list[str]:
    """Of step0, step1, step2."""
    return [hub.add(REPO, f"step{step}", files(step)) for step in range(3)]


def test_refs_are_branches_and_tags_and_without_the_hub_those_in_the_cache(hub: Hub, commits: list[str]) -> None:
    tag = hub.add(REPO, "v1.0/final", files(9), kind="tags")
    every = {**{f"step{step}": commit for step, commit in enumerate(commits)}, "v1.0/final": tag}
    assert ours.refs(REPO) == (every, True)
    for commit in (commits[1], tag):
        ours.download(REPO, commit, ["config.json"])
    hub.down()
    assert ours.refs(REPO) == (every, True)  # For a minute.
    a_new_process()
    assert ours.refs(REPO) == ({"step1": commits[1], "v1.0/final": tag}, False)


def test_a_revision_is_that_in_the_cache_and_only_else_the_hub_s(hub: Hub, commits: list[str]) -> None:
    assert ours.commit(REPO, "step1") == commits[1]
    ours.download(REPO, commits[1], MATTER)
    moved = hub.add(REPO, "step1", files(7))
    a_new_process()
    assert ours.commit(REPO, "step1") == commits[1] != moved
    assert ours.commit(REPO, moved) == moved
    hub.down()
    assert ours.commit(REPO, "step1") == commits[1]


def test_a_missing_revision_is_distinguished_from_an_unreachable_hub(hub: Hub, commits: list[str]) -> None:
    with pytest.raises(ours.NoRevision, match=r"some/series@step9: the hub has this model, but not this revision"):
        ours.commit(REPO, "step9")
    with pytest.raises(ours.NoRevision):
        ours.files(REPO, "0" * 40)
    with pytest.raises(UserError, match=r"other/model@main: the hub has no such model") as refused:
        ours.commit("other/model")
    assert not isinstance(refused.value, (ours.NoRevision, ours.Unreachable))
    hub.down()
    a_new_process()
    with pytest.raises(ours.Unreachable, match=r"some/series: 127.0.0.1 does not answer \(ConnectError.*hf download"):
        ours.commit(REPO, "step0")


def test_files_are_what_matters_with_the_hashes_that_the_hub_states(hub: Hub, commits: list[str]) -> None:
    expected = {name: ours.HubFile(len(files(1)[name]), stated(name, files(1)[name])) for name in MATTER}
    assert ours.files(REPO, commits[1]) == expected
    many = ours.files_of(REPO, commits)
    assert list(many) == commits and many[commits[1]] == expected
    assert len({files["model.safetensors"].hash for files in many.values()}) == 3
    assert hub.downloads() == 0 and not any("/resolve/" in one for one in hub.asked)


@pytest.mark.parametrize("how", ["ours", "transformers", "snapshot", "copied"])
def test_the_cache_without_a_hub_says_the_same_as_the_hub(hub: Hub, hub_cache: Path, how: str) -> None:
    """Whoever filled it, and where it was copied without its links."""
    commit = hub.add(REPO, "main", FOLDER)
    result = ours.files(REPO, commit)
    if how == "transformers":
        from transformers import AutoModelForCausalLM, AutoTokenizer

        AutoModelForCausalLM.from_pretrained(REPO)
        AutoTokenizer.from_pretrained(REPO)
    elif how == "snapshot":
        from huggingface_hub import snapshot_download

        snapshot_download(REPO, endpoint=hub.endpoint)
    else:
        ours.download(REPO, ours.commit(REPO), result)
    if how == "copied":
        shutil.move(shutil.copytree(hub_cache, hub_cache.with_name("copy")), hub_cache.with_name("away"))
        shutil.rmtree(hub_cache)
        hub_cache.with_name("away").rename(hub_cache)
        assert not (hub_cache / "models--some--series" / "snapshots" / commit / "config.json").is_symlink()
    hub.down()
    a_new_process()
    assert ours.files(REPO, ours.commit(REPO)) == result


def test_a_whole_snapshot_is_not_asked_about(hub: Hub, commits: list[str], hub_cache: Path) -> None:
    """Where the cache knows too what is not there."""
    commit = cached(hub_cache, REPO, FILES)
    result = {name: ours.HubFile(len(FILES[name]), stated(name, FILES[name])) for name in MATTER}
    assert ours.files(REPO, ours.commit(REPO)) == result
    assert hub.asked == []
    a_new_process()
    (hub_cache / "models--some--series" / "trees" / f"{commit}.json").write_text("[")
    assert ours.files(REPO, commit) == result
    assert len(hub.asked) == 1


def test_a_snapshot_with_a_hole_is_nobody_s_content(hub: Hub, commits: list[str]) -> None:
    snapshot = ours.download(REPO, commits[0], MATTER)
    result = ours.files(REPO, commits[0])
    (snapshot / "model.safetensors").resolve().unlink()
    a_new_process()
    assert ours.files(REPO, commits[0]) == result  # The hub's.
    assert ours.files(REPO, commits[0]) == result  # The hub's.
    assert sum("/api/models/" in one for one in hub.asked) == 3  # The download, and twice its files: remembered then.
    a_new_process()
    hub.down()
    with pytest.raises(ours.Unreachable):
        ours.files(REPO, commits[0])


def test_sharded_and_pickled_weights_and_a_tokenizer_without_tokenizer_json() -> None:
    shards = [f"model-0000{shard}-of-00002.safetensors" for shard in (1, 2)]
    index = "model.safetensors.index.json"
    other = ["pytorch_model.bin", "onnx.bin", "model-of.safetensors"]
    assert ours.weights_of([*other, *shards, index]) == [index, *shards]
    assert ours.weights_of([*other, *shards, index, "model.safetensors"]) == ["model.safetensors"]
    assert ours.weights_of(other) == ["pytorch_model.bin"]
    assert ours.weights_of([index]) == ours.weights_of(["README.md"]) == []


def test_vocabularies_count_where_there_is_no_tokenizer_json(hub: Hub) -> None:
    commit = hub.add(
        REPO, "main", {"config.json": b"{}", "pytorch_model.bin": b"1", "vocab.json": b"", "merges.txt": b""}
    )
    assert set(ours.files(REPO, commit)) == {"config.json", "pytorch_model.bin", "vocab.json", "merges.txt"}


def test_parts_of_files_are_read(hub: Hub, commits: list[str], hub_cache: Path) -> None:
    commit = hub.add(REPO, "long", FILES)
    for _ in range(2):
        assert ours.read(REPO, commit, "model.safetensors", 8, 16) == bytes(range(8, 16))
        assert ours.read(REPO, commit, "config.json", 0, 3) == FILES["config.json"][:3]
        with pytest.raises(UserError, match=r"model.safetensors ends before byte 300"):
            ours.read(REPO, commit, "model.safetensors", 190, 300)
        with pytest.raises(UserError, match=r"model.safetensors ends before byte 300"):
            ours.read(REPO, commit, "model.safetensors", 290, 300)
        ours.download(REPO, commit, ["model.safetensors", "config.json"])
        hub.asked.clear()
    assert hub.asked == []  # The second time from the cache.


def test_a_hub_that_breaks_off_is_asked_again_once(hub: Hub, commits: list[str]) -> None:
    faults = [503]
    hub.fault = lambda asked: faults.pop() if faults else None
    assert ours.commit(REPO, "step0") == commits[0]
    faults[:] = [0]
    assert ours.commit(REPO, "step1") == commits[1]
    faults[:] = [503, 500]
    with pytest.raises(ours.Unreachable, match=r"does not answer \(HTTP 503\)"):
        ours.commit(REPO, "step2")
    asked = len(hub.asked)
    with pytest.raises(ours.Unreachable, match=r"does not answer \(HTTP 503\)"):
        ours.refs("another/model")  # Not waited for again.
    assert len(hub.asked) == asked


def test_a_hub_that_does_not_answer_is_not_waited_for(
    hub: Hub, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node whose packets nobody takes."""
    for module in (questions, downloads):
        monkeypatch.setattr(module, "HUB_SECONDS", 0.05)
    hub.delay = lambda asked: 5.0
    began = time.monotonic()
    for question in (
        lambda: ours.refs(REPO),
        lambda: ours.commit(REPO, "step0"),
        lambda: ours.files(REPO, commits[0]),
        lambda: ours.read(REPO, commits[0], "config.json", 0, 3),
        lambda: ours.download(REPO, commits[0], ["config.json"]),
    ):
        answers._silent.clear()
        with pytest.raises(ours.Unreachable, match=r"does not answer \(ReadTimeout"):
            question()
    assert time.monotonic() - began < 5


def test_a_hub_that_is_asked_too_much_is_waited_for(
    hub: Hub, commits: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts questions, and a long series has more of them."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    faults = [429] * 4
    hub.fault = lambda asked: faults.pop() if faults else None
    hub.headers = {"RateLimit": '"api";r=0;t=42', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    assert ours.commit(REPO, "step0") == commits[0]
    hub.headers = {"Retry-After": "1000"}
    faults[:] = [429]
    assert ours.commit(REPO, "step1") == commits[1]
    assert waits == [42.0] * 4 + [60.0]
    assert "some/series: too many requests to the hub (HTTP 429); trying again in 42 s" in caplog.text
    faults[:] = [429] * 100
    with pytest.raises(ours.Unreachable, match=r"does not answer \(HTTP 429\)"):
        ours.commit(REPO, "step2")
    assert len(waits) == 10


def test_only_what_a_hub_or_network_does_is_no_answer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in our own code is neither asked again nor told as the network's, and silences no hub."""
    monkeypatch.setattr(answers, "PAUSE", 0.0)
    asked: list[int] = []

    def mistaken() -> str:
        asked.append(1)
        raise AttributeError("no attribute of that name")

    with pytest.raises(AttributeError, match="of that name"):
        answers.ask(REPO, None, mistaken)
    assert len(asked) == 1 and not answers._silent
    # A page that a proxy gives instead of the hub's JSON; an address that is none.
    monkeypatch.setattr("huggingface_hub.utils.hf_raise_for_status", lambda response: response)
    hub.fault = lambda asked: 500
    with pytest.raises(ours.Unreachable, match="does not answer"):
        ours.refs(REPO)
    answers._silent.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://hub:no")
    with pytest.raises(ours.Unreachable, match="hub does not answer"):
        ours.refs(REPO)


def test_no_message_has_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for status in (400, 401, 403, 500):
        hub.fault = lambda asked, status=status: status
        answers._silent.clear()
        with pytest.raises(UserError) as refused:
            ours.commit(REPO, "main")
        assert "hf_secret" not in str(refused.value) and "http://" not in str(refused.value)


def test_offline_mode_asks_nobody(hub: Hub, commits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (lambda: ours.refs(REPO), lambda: ours.files(REPO, commits[0]), lambda: ours.commit(REPO)):
        with pytest.raises(ours.Unreachable, match="HF_HUB_OFFLINE is set, and the cache"):
            ask()
    with pytest.raises(ours.Unreachable, match="HF_HUB_OFFLINE is set, and the cache"):
        ours.download(REPO, commits[0], ["config.json"])
    assert hub.asked == []


def wait(until: Callable[[], bool]) -> None:
    """For what happens in the background."""
    limit = time.monotonic() + 20
    while not until():
        assert time.monotonic() < limit
        time.sleep(0.005)


def quiet(commit: str) -> None:
    wait(lambda: not any(thread.name == f"download of {commit}" for thread in threading.enumerate()))


def blobs(cache: Path) -> set[bytes]:
    return {blob.read_bytes() for blob in (cache / "models--some--series" / "blobs").iterdir()}


def test_the_next_checkpoint_is_downloaded_while_one_is_used(hub: Hub, commits: list[str], hub_cache: Path) -> None:
    seen = []
    for commit in ours.prefetch(REPO, commits):
        seen.append(commit)
        wait(lambda: hub.downloads() == min(len(seen) + 1, 3))
    assert seen == commits
    assert {files(step)["model.safetensors"] for step in range(3)} <= blobs(hub_cache)


def test_what_is_not_kept_is_deleted_after_its_use_and_what_was_there_stays(
    hub: Hub, commits: list[str], hub_cache: Path
) -> None:
    ours.download(REPO, commits[1], MATTER)
    a_new_process()
    # Of a download that was broken off.
    other = hub_cache / "models--some--series"
    (other / "refs").mkdir()
    (other / "refs" / "main").write_text("0" * 40)
    weights = [files(step)["model.safetensors"] for step in range(3)]
    for step, _ in enumerate(ours.prefetch(REPO, commits, keep=False)):
        assert weights[step] in blobs(hub_cache)
        assert not ({*weights[:step]} - {weights[1]}) & blobs(hub_cache)
    assert {*weights} & blobs(hub_cache) == {weights[1]}
    assert FILES["config.json"] in blobs(hub_cache)  # Shared with what stays.
    assert [path.name for path in (other / "snapshots").iterdir()] == [commits[1]]


def test_a_loop_that_is_left_leaves_nothing_behind(hub: Hub, commits: list[str], hub_cache: Path) -> None:
    for _ in ours.prefetch(REPO, commits, keep=False):
        break
    quiet(commits[1])
    assert not any((hub_cache / "models--some--series" / "snapshots").iterdir())


def test_what_another_process_deletes_is_downloaded_again(hub: Hub, commits: list[str], hub_cache: Path) -> None:
    steps = ours.prefetch(REPO, commits)
    next(steps)
    quiet(commits[1])
    shutil.rmtree(hub_cache)
    assert next(steps) == commits[1]
    assert files(1)["model.safetensors"] in blobs(hub_cache)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(28, "No space left on device"),
            r"does not fit on the disk of the cache .*hub cache; make room, .*keep",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), r"does not fit on the disk of the cache"),
        (
            OSError("Consistency check failed:\nof size 3"),
            r"cannot be downloaded \(OSError: Consistency.*\); try again",
        ),
    ],
)
def test_a_failed_download_is_reported_at_its_step(
    hub: Hub, commits: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    real: Any = __import__("huggingface_hub").hf_hub_download

    def fails(repo: str, name: str, **options: Any) -> str:
        if options["revision"] == commits[1]:
            raise error
        return real(repo, name, **options)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    steps = ours.prefetch(REPO, commits)
    assert next(steps) == commits[0]
    with pytest.raises(UserError, match=says):
        next(steps)


def command(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


def test_a_sweep_over_a_model_of_the_hub(hub: Hub, tmp_path: Path, small: tuple[str, ...], capsys: Any) -> None:
    """It is planned without a download and without a trace; done, it is so whatever becomes of the branch; and a job
    does not go on with another model."""
    output = tmp_path / "outputs"
    words = ["model=gpt2", "model.hub=some/model", f"output={output}", *small]
    commit = hub.add("some/model", "main", FOLDER)
    command("plan", *words)
    assert not output.exists() and hub.downloads() == 0
    command("run", *words)
    assert f"some/model@{commit}" in (output / "data" / "contents.json").read_text()
    a_new_process()
    hub.add("some/model", "main", {path.name: path.read_bytes() + b" " for path in FOLDER.iterdir()})
    asked = len(hub.asked)
    capsys.readouterr()
    command("plan", *words)
    assert "1 fine-tune (1 done), 1 patch job (1 done)" in capsys.readouterr().out
    assert len(hub.asked) == asked

    (run,) = (output / "runs").iterdir()
    (point,) = expand(words)
    config = point.config.model_copy(update={"model": point.config.model.model_copy(update={"revision": "moved"})})
    hub.add("some/model", "moved", {**FILES})
    with pytest.raises(
        UserError, match=rf"have changed since .*run the sweep again, or go on with model.revision={commit}"
    ):
        check_identity(config, run_folder(output, run.name))

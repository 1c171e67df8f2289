"""The prompts of a run and their cache."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_fingerprint, data_folder
from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.tasks import data, ioi
from mi_sweeps.tasks.audit import lines
from mi_sweeps.tasks.ioi import splits
from mi_sweeps.tasks.lexicon import NAMES

Make = Callable[..., Config]
SMALL = ("task.prompts={train:12,heldout:6,two_name:2}",)


@pytest.fixture
def config(make_config: Make) -> Config:
    return make_config(*SMALL)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("the prompts were made again")


def test_prompts_are_made_once(
    config: Config, mini_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = data.load(config, mini_tokenizer, cache=data_folder(config))
    assert {split: len(prompts) for split, prompts in made.splits.items()} == {"train": 12, "heldout": 6, "two_name": 2}
    monkeypatch.setattr(ioi, "task", never)
    assert data.load(config, mini_tokenizer, cache=data_folder(config)) == made
    assert [path.name for path in data_folder(config).parent.iterdir()] == [data_fingerprint(config)]


def test_without_an_output_nothing_is_kept(config: Config, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    assert data.load(config, mini_tokenizer) == data.load(config, mini_tokenizer)
    assert not config.output.exists()


def test_other_prompts_have_another_cache(make_config: Make, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    one, other = make_config(*SMALL), make_config(*SMALL, "task.seed=1")
    prompts, others = (data.load(config, mini_tokenizer, cache=data_folder(config)) for config in (one, other))
    assert prompts != others
    assert data_folder(one).exists() and data_folder(other).exists() and data_folder(one) != data_folder(other)


def test_the_users_rows_count_with_their_content(
    make_config: Make, mini_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    prompts = splits(NAMES[:10], 3, {"train": 12, "heldout": 6}, seed=0)["train"]
    rows = [json.dumps({"question": prompt.text, "completion": prompt.answer}) + "\n" for prompt in prompts]
    path.write_text("".join(rows))
    config = make_config("task=prompts", f"task.path={path}", "task.two_name=0")
    made = data.load(config, mini_tokenizer, cache=data_folder(config))
    assert data.load(config, mini_tokenizer, cache=data_folder(config)) == made
    path.write_text("".join(rows[:8]))
    assert data.load(config, mini_tokenizer, cache=data_folder(config)).audit["rows"] == 8
    path.unlink()
    with pytest.raises(UserError, match=r"\A.*rows\.jsonl: No such file.*; give the path of an existing.*\Z"):
        data.load(config, mini_tokenizer, cache=data_folder(config))


def test_an_interrupted_write_leaves_no_cache(
    config: Config, mini_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(data, "write_json", never)
        with pytest.raises(AssertionError):
            data.load(config, mini_tokenizer, cache=data_folder(config))
    assert list(data_folder(config).parent.iterdir()) == []
    assert data.load(config, mini_tokenizer, cache=data_folder(config)) == data.load(config, mini_tokenizer)


def test_a_cache_that_another_process_made_meanwhile_stays(
    config: Config, mini_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = data._write
    there = []

    def write_last(made: data.TaskData, folder: Path) -> None:
        monkeypatch.setattr(data, "_write", write)
        data.load(config, mini_tokenizer, cache=data_folder(config))
        there.append(data_folder(config).stat().st_ino)
        write(made, folder)

    monkeypatch.setattr(data, "_write", write_last)
    data.load(config, mini_tokenizer, cache=data_folder(config))
    assert there == [data_folder(config).stat().st_ino]
    assert data.load(config, mini_tokenizer, cache=data_folder(config)) == data.load(config, mini_tokenizer)


def change_a_byte(folder: Path) -> None:
    file = next((folder / "train").glob("*.arrow"))
    content = bytearray(file.read_bytes())
    content[content.index(b"When")] ^= 1
    file.write_bytes(content)


def empty_the_table(folder: Path) -> None:
    next((folder / "train").glob("*.arrow")).write_bytes(b"")


def remove_a_split(folder: Path) -> None:
    shutil.rmtree(folder / "train")


def truncate_the_audit(folder: Path) -> None:
    (folder / "audit.json").write_text('{"names": [')


@pytest.mark.parametrize("damage", [change_a_byte, empty_the_table, remove_a_split, truncate_the_audit])
def test_a_damaged_cache_is_one_line(
    config: Config, mini_tokenizer: PreTrainedTokenizerBase, damage: Callable[[Path], None]
) -> None:
    data.load(config, mini_tokenizer, cache=data_folder(config))
    damage(data_folder(config))
    with pytest.raises(UserError, match=rf"\A.*{data_fingerprint(config)}.*: .*; ?delete it.*\Z"):
        data.load(config, mini_tokenizer, cache=data_folder(config))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+task.surprise=1", r"task=ioi3: .*surprise.*; compare its keys with conf/task"),
        ("~task.seed", r"task=ioi3: .*seed.*; compare its keys with conf/task"),
        ("task._target_=mi_sweeps.tasks.nowhere.task", r"task=ioi3: .*nowhere.*; compare its keys with conf/task"),
        ("task._target_=mi_sweeps.tasks.ioi.nothing", r"task=ioi3: .*nothing.*; compare its keys with conf/task"),
    ],
)
def test_a_task_that_cannot_be_called_is_one_line(
    make_config: Make, mini_tokenizer: PreTrainedTokenizerBase, override: str, says: str
) -> None:
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        data.load(make_config(override), mini_tokenizer)


def test_the_audit_says_how_an_uncased_tokenizer_writes_names(
    config: Config, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    words = [word for word in mini_tokenizer.get_vocab() if not word.startswith("<")]
    uncased = word_tokenizer(sorted({word.lower() for word in words}), context=64)
    uncased.backend_tokenizer.normalizer = normalizers.Lowercase()
    printed = "\n".join(lines(data.load(config, uncased, cache=data_folder(config)).audit))
    assert "the tokenizer spells 48 of 48 names differently (Mary: mary); a next token spelled that way" in printed
    assert "otherwise" not in "\n".join(lines(data.load(config, mini_tokenizer).audit))


@pytest.mark.parametrize("count", [1, 6, 7, 12])
def test_a_part_is_as_balanced_as_it_can_be(count: int) -> None:
    prompts = splits(NAMES[:14], 3, {"train": 24, "heldout": 6}, seed=0)["train"]
    chosen = data.balanced(prompts, count)
    orders = Counter((prompt.answer_place, prompt.subject_order) for prompt in chosen)
    assert len(set(chosen)) == len(chosen) == count
    assert max(orders.values()) - min(orders.values() if len(orders) == 6 else [0]) <= 1
    assert data.balanced(prompts, count) == chosen


def test_more_than_there_are_is_all_there_are() -> None:
    prompts = splits(NAMES[:14], 3, {"train": 12, "heldout": 6}, seed=0)["train"][:7]
    assert sorted(data.balanced(prompts, 100), key=prompts.index) == prompts


def test_a_missing_order_is_made_up_for_by_the_others() -> None:
    prompts = splits(NAMES[:14], 3, {"train": 24, "heldout": 6}, seed=0)["train"]
    some = [prompt for prompt in prompts if prompt.answer_place != 3]
    assert Counter(prompt.answer_place for prompt in data.balanced(some, 12)) == {1: 6, 2: 6}

"""The configuration: what is refused, in which words, and what the rest of the library reads from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError

from mi_sweeps import conf
from mi_sweeps.config import Config, parse
from mi_sweeps.errors import UserError
from mi_sweeps.sweeps.grid import expand


@pytest.fixture(scope="module")
def default() -> Config:
    return expand([])[0].config


def changed(config: Config, key: str, value: Any) -> dict[str, Any]:
    """The values of a configuration with one changed; None for `value` is a value too."""
    values = config.dump()
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[last] = value
    return values


def test_what_is_dumped_can_be_parsed(default: Config) -> None:
    assert parse(json.loads(json.dumps(default.dump()))) == default


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("optim.lr", -1, "give a number above 0"),
        ("optim.lr", 0, "above 0"),
        ("optim.lr", "fast", "give a number above 0"),
        ("optim.lr", float("nan"), "finite"),
        ("optim.lr", float("inf"), "finite"),
        ("optim.weight_decay", -0.1, "of at least 0"),
        ("optim.name", "sgd", "give adamw"),
        ("train.steps", 0, "a whole number of at least 1"),
        ("train.steps", 1.5, "whole number"),
        ("train.batch_size", 0, "a whole number of at least 1"),
        ("train.clip", 0, "above 0"),
        ("train.precision", "fp16", "fp32 or bf16"),
        ("checkpoint.every", 0, "a whole number of at least 1"),
        ("checkpoint.storage", "half", "full or delta"),
        ("patching.heads", "some", "all or end"),
        ("patching.prompts", 0, "a whole number of at least 1"),
        ("patching.measured_prompts", 0, "a whole number of at least 1"),
        ("launcher.workers", 0, "a whole number of at least 1"),
        ("launcher.device", "tpu", "cuda"),
        ("tracking.mode", "on", "offline, online or disabled"),
        ("sweep.name", "../elsewhere", "give a name: letters"),
        ("seed", -1, "of at least 0"),
        ("seed", 2**63, "below 9223372036854775808"),
    ],
)
def test_wrong_value_is_named_with_what_would_be_right(default: Config, key: str, value: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"\A{key}=.*{says}.*\Z"):
        parse(changed(default, key, value))


def test_no_message_has_the_words_of_the_library_that_validates(default: Config) -> None:
    """For any key, be it a switch, text, a list or a section, the error is not in pydantic's words."""
    sections = {name: section for name, section in default.dump().items() if isinstance(section, dict)}
    keys = [f"{name}.{key}" for name, section in sections.items() for key in section]
    refused = 0
    for key in (*default.dump(), *keys, "patching.circuits", "patching.edges", "train.lora.rank"):
        for value in ("maybe not", -1.5, [[-1]], {"no_such_key": 1}, None):
            try:
                parse(changed(default, key, value))
            except UserError as error:
                result, refused = str(error), refused + 1
                assert re.match(r"[\w.]+(=.*)?: ", result), result
                assert not re.search(
                    "[Ii]nput should|pydantic|instance|dictionary|tuple|literal|valid|should be a", result
                ), result
    assert refused > 200


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.betas", [0.9, 1.0]),
        ("checkpoint.steps", [4, -1]),
        ("patching.sites", ["z", "w"]),
        ("patching.measures", ["diagonal", "r2"]),
    ],
)
def test_wrong_item_is_named_by_its_place(default: Config, key: str, value: list[Any]) -> None:
    with pytest.raises(UserError, match=rf"\A{key}\.1={value[1]}: .*\Z"):
        parse(changed(default, key, value))


@pytest.mark.parametrize("key", ["optim.momentum", "learning_rate"])
def test_unknown_key_is_called_so(default: Config, key: str) -> None:
    with pytest.raises(UserError, match=rf"\A{key}\b.*no such key.*\Z"):
        parse(changed(default, key, 1))


@pytest.mark.parametrize("key", ["optim.lr", "seed", "schedule._target_"])
def test_missing_key_is_named_without_printing_all_others(default: Config, key: str) -> None:
    values = default.dump()
    *parents, last = key.split(".")
    del (values[parents[0]] if parents else values)[last]
    with pytest.raises(UserError, match=rf"\A{key}: no value; .*{key}=.{{0,60}}\Z"):
        parse(values)


def test_a_mandatory_value_is_required(default: Config) -> None:
    with pytest.raises(UserError, match=r"\Amodel\.path: no value; give model\.path=VALUE on the command line\Z"):
        parse(OmegaConf.create(changed(default, "model.path", "???")))


def test_interpolation_that_leads_nowhere_is_named(default: Config) -> None:
    with pytest.raises(UserError, match=r"\Aseed: .*nowhere.*\Z"):
        parse(OmegaConf.create(changed(default, "seed", "${nowhere}")))


def test_a_model_has_one_source(default: Config) -> None:
    values = default.dump()
    values["model"] |= {"hub": "someone/something", "path": "/somewhere"}
    with pytest.raises(UserError, match=r"\Amodel: give model\.hub or model\.path, not both\Z"):
        parse(values)


def test_configuration_is_read_only(default: Config) -> None:
    with pytest.raises(ValidationError):
        default.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("home", [False, True])
def test_paths_do_not_depend_on_the_folder_of_whoever_computes(
    default: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    start = "~/" if home else ""
    values = changed(default, "model.path", f"{start}model")
    values["task"] |= {"path": f"{start}rows.jsonl", "heldout_path": f"{start}heldout.jsonl", "other": "rows.jsonl"}
    config = parse(values)
    assert config.model.path == tmp_path / "model"
    assert config.task.arguments["path"] == str(tmp_path / "rows.jsonl")
    assert config.task.arguments["heldout_path"] == str(tmp_path / "heldout.jsonl")
    assert config.task.arguments["other"] == "rows.jsonl"


@pytest.mark.parametrize(
    ("last", "every", "steps", "expected"),
    [
        (24, 8, [], [0, 8, 16, 24]),
        (20, 8, [], [0, 8, 16, 20]),
        (24, 8, [1, 2, 4], [0, 1, 2, 4, 8, 16, 24]),
        (24, 100, [5, 5, 24, 25], [0, 5, 24]),
        (1, 1, [], [0, 1]),
    ],
)
def test_checkpoint_steps(default: Config, last: int, every: int, steps: list[int], expected: list[int]) -> None:
    values = changed(default, "train.steps", last)
    values["checkpoint"] |= {"every": every, "steps": steps}
    config = parse(values)
    assert config.checkpoint_steps == expected
    assert config.patch_steps == expected


def test_patched_steps_are_in_order_and_once(default: Config) -> None:
    assert parse(changed(default, "patching.steps", [184, 8, 0, 8])).patch_steps == [0, 8, 184]


def test_only_checkpoints_can_be_patched(default: Config) -> None:
    with pytest.raises(UserError, match=r"\Apatching\.steps: \[3, 999\] are not checkpoints.*checkpoint\.steps\Z"):
        parse(changed(default, "patching.steps", [999, 8, 3]))


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), "a\ud800b"])
def test_a_value_that_cannot_be_stored_is_refused(value: float | str) -> None:
    values = expand([])[0].config.dump()
    values["task"]["names"] = {"a": [1.0, value]}
    with pytest.raises(UserError, match=r"task\.names\.a\.1: inf, nan and half a letter .* cannot be stored"):
        parse(values)


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert str(UserError("a\nb\u2028c\r\nd: no such key")) == "a b c d: no such key"


def test_checkpoints_that_no_disk_holds_are_refused_before_they_are_listed() -> None:
    with pytest.raises(UserError, match=r"checkpoint\.every=8: with train\.steps=2147483648 that gives 268435456"):
        expand(["train.steps=2147483648"])


@pytest.mark.parametrize(
    ("overrides", "least"),
    [("", 48), ("patching=heads", 48), ("patching=paths", 48), ("sweep=demo", 48), ("sweep=grid", 96)],
)
def test_as_many_prompts_as_conclusions_need(overrides: str, least: int) -> None:
    """A head's effect varies by 0.02 to 0.06 from prompt to prompt, and the gap at checkpoint 0 by more; the six
    orders are all as frequent."""
    for point in expand(overrides.split()):
        prompts = point.config.patching.prompts
        assert prompts >= least and prompts % 6 == 0


@pytest.mark.parametrize("file", sorted(Path(conf.__file__).parent.glob("patching/*.yaml")), ids=lambda file: file.stem)
def test_a_choice_of_patching_that_measures_has_all_settings_of_it(file: Path) -> None:
    """So that each can be set: patching=dynamics patching.cross.permutations=4."""
    values = OmegaConf.to_container(OmegaConf.load(file))
    (point,) = expand([f"patching={file.stem}"])
    for key, section in point.config.patching.measured.items():
        assert values[key] == json.loads(section.model_dump_json(by_alias=True)), key

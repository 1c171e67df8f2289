"""Identity is content: an id changes with everything that changes a result, and with nothing else."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mi_sweeps.config import Config, parse
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_fingerprint, own_sources, patch_id, run_id
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store import hashes
from mi_sweeps.store.hashes import ID_LENGTH, hash_files
from mi_sweeps.sweeps.grid import expand
from tests.hub import Hub, a_new_process, cached

LINEAR = {"name": "linear_warmup", "_target_": "mi_sweeps.training.schedules.linear_warmup", "warmup_ratio": 0.03}


@pytest.fixture(scope="module")
def default() -> Config:
    return expand([])[0].config


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def changed(config: Config, values: dict[str, Any]) -> Config:
    """A configuration with other values, by key."""
    dump = config.dump()
    for key, value in values.items():
        *parents, last = key.split(".")
        section = dump
        for parent in parents:
            section = section[parent]
        section[last] = value
    return parse(dump)


def rows_task(path: Path, heldout_path: Path | None = None) -> dict[str, Any]:
    task = {"name": "prompts", "_target_": "mi_sweeps.tasks.user.task", "heldout": 0.2, "two_name": 0, "seed": 0}
    paths = {"path": str(path), "heldout_path": heldout_path and str(heldout_path)}
    return {"task": {**task, **paths, "split": "file" if heldout_path else "names"}}


PINNED = {
    "patching.prompts=12": ("abfebae31eb4", "eeec3b238725"),
    "optim.lr=3e-5 seed=7 corruption=second patching.prompts=12": ("996a71698ebe", "77337e12d19f"),
    "optim.weight_decay=0.1": ("100219466430", "974c5ac0ea35"),
    "schedule=linear_warmup schedule.warmup_ratio=1.0 checkpoint.storage=delta patching.prompts=12": (
        "c174396ff9a5",
        "7bd8ef46dab3",
    ),
    "model=gpt2-xl model.revision=abc task=ioi2 train.precision=bf16 patching.prompts=12": (
        "f10cbf893d1a",
        "23ca980efeed",
    ),
    "task.names=[Mary,John,Tom,Anna] task.seed=3 optim.betas=[0.9,0.99] patching=heads patching.approximate=true "
    "patching.steps=[0,8] patching.prompts=12": ("90fbfe7dac04", "7f8c4caf37c2"),
    "model=nope task=previous_token corruption=previous patching=position": ("c25ce9e1e260", "e20f31931583"),
    "task=prompts task.path=rows.jsonl patching=paths patching.paths.receivers=[[3,1]] patching.paths.inputs=[q,k,v] "
    "patching.prompts=12": (
        "968c9d9de32d",
        "2d211a75dc5a",
    ),
}
"""Ids as they are in the folders of whoever computed these before; FORMAT changes where they must."""


@pytest.mark.parametrize("overrides", PINNED)
def test_ids_stay_what_they_were(
    overrides: str, tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cached(hub_cache, "openai-community/gpt2-xl", {"config.json": b"{}", "model.safetensors": b"weights"}, "abc")
    (tmp_path / "rows.jsonl").write_text('{"question": "Mary and John met. Mary saw", "completion": " John"}\n')
    (point,) = expand(overrides.split())
    assert (point.run_id, point.patch_id) == (run_id(point.config), patch_id(point.config)) == PINNED[overrides]


def test_sequences_without_bos_are_another_run_s() -> None:
    task = ["model=nope", "task=previous_token", "corruption=previous"]
    with_bos, without = expand([*task, "task.bos=true,false"])
    older = with_bos.config.dump()
    del older["task"]["bos"]  # as it was written before it was a key
    assert run_id(parse(older)) == with_bos.run_id != without.run_id
    assert data_fingerprint(with_bos.config) != data_fingerprint(without.config)


def test_runs_of_before_there_were_adapters_keep_their_ids(default: Config) -> None:
    older = default.dump()
    older["train"] = {key: older["train"][key] for key in ("steps", "batch_size", "clip", "precision", "diverged")}
    assert run_id(parse(older)) == run_id(default)


def test_an_adapter_is_another_run_s(default: Config) -> None:
    lora = changed(default, {"train.method": "lora"})
    assert run_id(changed(lora, {"checkpoint.storage": "delta"})) == run_id(lora), "it is kept as it is"
    others = {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["c_attn"]}
    ids = {run_id(changed(lora, {f"train.lora.{key}": value})) for key, value in others.items()}
    assert len(ids | {run_id(lora), run_id(default)}) == 6
    one, same = (changed(default, {"train.only": only}) for only in (["mlp", "norms"], ["norms", "mlp", "mlp"]))
    assert run_id(one) == run_id(same)


@pytest.mark.parametrize(("rate", "others"), [(0.0, 1), (0.1, 2)])
def test_micro_batches_are_another_run_s_where_they_draw_other_dropout(
    default: Config, tmp_path: Path, rate: float, others: int
) -> None:
    """Of the model, and of an adapter; one that holds the whole batch draws what that draws."""
    shutil.copytree(FOLDER, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"resid_pdrop": rate, "summary_first_dropout": 0.1}))
    own = changed(default, {"model.path": str(tmp_path / "model")})
    adapter = changed(default, {"train.method": "lora", "train.lora.dropout": rate})
    for config in (own, adapter):
        ids = [run_id(changed(config, {"train.micro_batch": size})) for size in (None, 4, 16, 32)]
        assert len(set(ids)) == others
        assert ids[0] == ids[2] == ids[3]


@pytest.mark.parametrize("change", [{"resid_pdrop": None}, {"router_jitter_noise": 0.1}])
def test_micro_batches_are_another_run_s_by_defaults_and_by_noise_too(
    default: Config, model_copy: Path, change: dict[str, Any]
) -> None:
    """A key that is absent has transformers' default, which for GPT-2 is dropout."""
    file = model_copy / "config.json"
    values = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    config = changed(default, {"model.path": str(model_copy)})
    assert run_id(config) != run_id(changed(config, {"train.micro_batch": 4}))


def test_ids_are_short_hexadecimal(default: Config) -> None:
    for id_ in (run_id(default), patch_id(default), data_fingerprint(default)):
        assert len(id_) == ID_LENGTH
        int(id_, 16)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", 2e-4),
        ("optim.weight_decay", 0.1),
        ("optim.betas", [0.9, 0.99]),
        ("train.steps", 185),
        ("train.batch_size", 8),
        ("train.clip", 0.5),
        ("train.precision", "bf16"),
        ("train.method", "lora"),
        ("train.only", ["attention"]),
        ("train.weights", "bf16"),
        ("checkpoint.every", 4),
        ("checkpoint.steps", [1, 2]),
        ("checkpoint.storage", "delta"),
        ("checkpoint.until", 96),
        ("checkpoint.zoom_of", "0123456789ab"),
        ("seed", 1),
        ("schedule", LINEAR),
        ("task.seed", 1),
        ("task.disjoint_names", True),
        ("task.n_names", 2),
        ("task.prompts", {"train": 600, "heldout": 240, "two_name": 120}),
        ("task.names", ["Mary", "John", "Tom", "Kate"]),
        ("model.prepend_bos", True),
        ("model.hub", "some/model"),
    ],
)
def test_run_id_changes_with_what_changes_the_result(default: Config, hub_cache: Path, key: str, value: Any) -> None:
    cached(hub_cache, "some/model", FOLDER)
    other = changed(default, {key: value})
    assert run_id(other) != run_id(default)
    assert patch_id(other) != patch_id(default)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.micro_batch", 4),
        ("train.gradient_checkpointing", True),
        ("train.lora", {"rank": 4, "alpha": 1, "targets": ["c_attn"], "dropout": 0.5}),
        ("launcher.name", "local"),
        ("launcher.workers", 3),
        ("launcher.device", "cpu"),
        ("launcher.threads", 1),
        ("tracking.name", "wandb"),
        ("tracking.mode", "online"),
        ("tracking.project", "other"),
        ("tracking.entity", "lab"),
        ("output", "elsewhere"),
        ("sweep.name", "other"),
        ("sweep.grid", {"seed": "0,1"}),
        ("model.name", "another-word"),
        ("task.name", "another-word"),
        ("schedule.name", "another-word"),
        ("patching.name", "another-word"),
    ],
)
def test_no_id_changes_with_what_changes_no_result(default: Config, key: str, value: Any) -> None:
    other = changed(default, {key: value})
    assert run_id(other) == run_id(default)
    assert patch_id(other) == patch_id(default)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("corruption.name", "second"),
        ("patching.sites", ["z"]),
        ("patching.heads", "end"),
        ("patching.prompts", 13),
        ("patching.measures", ["diagonal"]),
    ],
)
def test_patch_id_alone_changes_with_how_a_run_is_looked_at(default: Config, key: str, value: Any) -> None:
    other = changed(default, {key: value})
    assert run_id(other) == run_id(default)
    assert patch_id(other) != patch_id(default)


@pytest.mark.parametrize("again", [lambda sites: sites[::-1], lambda sites: sites + sites[:1]], ids=["order", "twice"])
def test_sites_are_a_set(default: Config, again: Any) -> None:
    other = changed(default, {"patching.sites": again(list(default.patching.sites))})
    assert patch_id(other) == patch_id(default)


def test_measures_are_a_set_on_so_many_prompts(default: Config) -> None:
    both = {"patching.measures": ["diagonal", "ablated_loss"]}
    again = {"patching.measures": ["ablated_loss", "diagonal", "ablated_loss"]}
    assert patch_id(changed(default, both)) == patch_id(changed(default, again))
    fewer = {"patching.measured_prompts": 100}
    assert patch_id(changed(default, both | fewer)) != patch_id(changed(default, both))
    assert patch_id(changed(default, fewer)) == patch_id(default), "without measures their number means nothing"


def test_every_engine_is_exact_and_gives_the_same_patch_job(default: Config) -> None:
    patching = default.patching.model_copy(update={"engine": "another"})
    assert patch_id(default.model_copy(update={"patching": patching})) == patch_id(default)


def test_more_checkpoints_are_the_same_patch_job(default: Config) -> None:
    assert patch_id(changed(default, {"patching.steps": [0, 184]})) == patch_id(default)


def test_checkpoints_count_not_how_they_are_given(default: Config) -> None:
    every = changed(default, {"checkpoint.every": 8, "checkpoint.steps": []})
    listed = changed(default, {"checkpoint.every": 184, "checkpoint.steps": list(range(176, 0, -8))})
    assert every.checkpoint_steps == listed.checkpoint_steps
    assert run_id(every) == run_id(listed)
    assert patch_id(every) == patch_id(listed)


@pytest.mark.parametrize(
    ("key", "one", "other"), [("optim.weight_decay", 0, 0.0), ("train.clip", 1, 1.0), ("schedule.warmup_ratio", 0, 0.0)]
)
def test_a_number_is_the_same_however_it_is_written(default: Config, key: str, one: int, other: float) -> None:
    base = changed(default, {"schedule": LINEAR})
    assert run_id(changed(base, {key: one})) == run_id(changed(base, {key: other}))


def test_a_model_is_its_content_not_its_place(default: Config, model_copy: Path, tmp_path: Path) -> None:
    here = changed(default, {"model.path": str(model_copy)})
    assert run_id(here) == run_id(default)
    moved = changed(default, {"model.path": str(model_copy.rename(tmp_path / "moved"))})
    assert run_id(moved) == run_id(default)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_run_id_changes_with_the_models_files(default: Config, model_copy: Path, name: str) -> None:
    config = changed(default, {"model.path": str(model_copy)})
    before = run_id(config)
    content = (model_copy / name).read_bytes()
    (model_copy / name).write_bytes(content[:-2] + b" " + content[-2:])
    assert run_id(config) != before
    assert data_fingerprint(config) != data_fingerprint(default)


def test_run_id_changes_with_what_a_tokenizer_without_tokenizer_json_is_made_of(
    default: Config, model_copy: Path
) -> None:
    (model_copy / "tokenizer.json").unlink()
    config = changed(default, {"model.path": str(model_copy)})
    ids = set()
    for content in ("mary", "john"):
        (model_copy / "vocab.txt").write_text(content)
        ids.add(run_id(config))
    assert len(ids) == 2


def test_runs_of_uncased_tokenizers_are_not_those_of_before(
    default: Config, model_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their win rates were zero: an id that means another result now is another id."""
    file = model_copy / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    lowercase = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    config = changed(default, {"model.path": str(model_copy)})
    new: list[bool] = []
    for normalizer in (lowercase, {"type": "NFC"}):
        file.write_text(json.dumps({**tokenizer, "normalizer": normalizer}))
        now = run_id(config)
        with monkeypatch.context() as before:
            before.setattr("mi_sweeps.identity.spells_otherwise", lambda model: False)
            new.append(run_id(config) != now)
    assert new == [True, False]


def test_run_id_does_not_change_with_notes_beside_the_model(default: Config, model_copy: Path) -> None:
    (model_copy / "notes.md").write_text("# Mine")
    assert run_id(changed(default, {"model.path": str(model_copy)})) == run_id(default)


def test_a_model_on_the_hub_is_what_its_files_are(default: Config, hub: Hub) -> None:
    """Not its name, nor that of a branch, which moves."""
    files = {"config.json": b"{}", "model.safetensors": b"1", "tokenizer.json": b"{}"}
    same = [
        ("some/model", None, hub.add("some/model", "main", {**files, "README.md": b"first"})),
        ("some/model", "v2", hub.add("some/model", "v2", {**files, "README.md": b"second"})),
        ("a/copy", "v2", hub.add("a/copy", "v2", files)),
    ]
    others = [
        ("some/model", f"v{number}", hub.add("some/model", f"v{number}", {**files, name: b"{ }"}))
        for number, name in enumerate([*files, "tokenizer_config.json"], 3)
    ]

    def identity(name: str, revision: str | None) -> str:
        return run_id(changed(default, {"model.hub": name, "model.revision": revision}))

    ids = [identity(name, revision) for name, revision, _ in same + others]
    assert len(set(ids[: len(same)])) == 1 and len(set(ids)) == 1 + len(others)
    assert ids == [identity(name, commit) for name, _, commit in same + others]


def test_a_model_on_the_hub_that_nobody_can_tell_is_not_planned(default: Config, hub_cache: Path) -> None:
    config = changed(default, {"model.hub": "some/model"})
    with pytest.raises(UserError, match=r"some/model: 127.0.0.1 does not answer .*hf download some/model.*model=local"):
        run_id(config)


def test_a_node_without_network_has_the_ids_of_one_with(
    default: Config, hub: Hub, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cache, however it was filled; or with what was remembered where the plan was made."""
    from mi_sweeps.models.load import load_model

    commit = hub.add("some/model", "main", FOLDER)
    config = changed(default, {"model.hub": "some/model", "output": str(tmp_path / "outputs")})
    before = run_id(config)
    hashes.keep(config.output)
    load_model(config.model)
    hub.down()
    a_new_process()
    hashes._recalled.add(config.output)
    assert run_id(config) == before
    # A cache with the name of the commit alone.
    shutil.rmtree(hub_cache / "models--some--model" / "snapshots")
    hashes._commits.clear()
    with pytest.raises(UserError, match="some/model: 127.0.0.1 does not answer"):
        run_id(config)
    hashes._recalled.clear()
    assert run_id(config) == run_id(changed(config, {"model.revision": commit})) == before


def test_a_node_without_network_needs_no_more_of_a_tokenizer_s_model_than_the_tokenizer(
    default: Config, hub: Hub, model_copy: Path, tmp_path: Path
) -> None:
    from mi_sweeps.models.load import load_tokenizer

    hub.add("some/model", "main", FOLDER)
    for file in model_copy.glob("tokenizer*"):
        file.unlink()
    config = changed(default, {"model.path": str(model_copy), "model.tokenizer": "some/model"})
    before = run_id(config)
    load_tokenizer(config.model)
    assert hub.downloads() == 0
    hub.down()
    a_new_process()
    assert run_id(config) == before
    assert load_tokenizer(config.model) is not None


def test_tables_of_a_model_that_was_wrapped_once_for_all_checkpoints_are_not_those_of_now(
    default: Config, model_copy: Path
) -> None:
    """Most of them had the first checkpoint's weights: none may be taken for done. Nobody else's id changes."""
    config = changed(default, {"model.path": str(model_copy)})
    run, before = run_id(config), patch_id(config)
    values = json.loads((model_copy / "config.json").read_text())
    ids = {}
    for kind in ("gpt2", "qwen3", "gpt_neox"):
        (model_copy / "config.json").write_text(json.dumps({**values, "model_type": kind}))
        ids[kind] = patch_id(config, run)
    assert ids["gpt2"] == ids["qwen3"] == before != ids["gpt_neox"]


def test_a_model_on_the_hub_has_had_no_tables_of_before(default: Config, hub_cache: Path) -> None:
    """Its runs have other ids since."""
    for kind in ("gpt2", "gpt_neox", "olmo2"):
        cached(hub_cache, f"some/{kind}", {"config.json": b'{"model_type": "%s"}' % kind.encode()})
        assert patch_id(changed(default, {"model.hub": f"some/{kind}"}), "run") == patch_id(default, "run")


def test_queries_and_keys_that_were_patched_before_all_heads_are_normalised_are_not_those_of_now(
    default: Config, model_copy: Path
) -> None:
    values = json.loads((model_copy / "config.json").read_text())
    ids = {}
    for kind, sites in product(("olmo2", "gemma2"), (["z"], ["z", "k"])):
        (model_copy / "config.json").write_text(json.dumps({**values, "model_type": kind}))
        asked = {"model.path": str(model_copy), "patching.sites": sites}
        ids[kind, len(sites)] = patch_id(changed(default, asked), "run")
    assert ids["olmo2", 1] == ids["gemma2", 1] and ids["olmo2", 2] != ids["gemma2", 2]


def test_copying_scores_that_left_out_the_norm_after_attention_are_not_those_of_now(
    default: Config, model_copy: Path, hub_cache: Path
) -> None:
    """Of a folder and of the hub; where there are no such scores, or no such norm, ids stay."""
    values = json.loads((model_copy / "config.json").read_text())
    ids = {}
    for kind in ("olmo2", "gemma3_text", "gemma"):
        config = json.dumps({**values, "model_type": kind})
        (model_copy / "config.json").write_text(config)
        cached(hub_cache, f"some/{kind}", {"config.json": config.encode(), "model.safetensors": b"weights"})
        places = (("path", str(model_copy)), ("hub", f"some/{kind}"))
        for (key, place), looks in product(places, (True, False)):
            asked = {f"model.{key}": place, "patching.looks": looks, "patching.sites": ["z"]}
            ids[key, kind, looks] = patch_id(changed(default, asked), "run")
    for key in ("path", "hub"):
        assert len({ids[key, kind, False] for kind in ("olmo2", "gemma3_text", "gemma")}) == 1
        assert ids[key, "olmo2", True] == ids[key, "gemma3_text", True] != ids[key, "gemma", True]


def test_a_file_of_rows_is_its_content_not_its_place_or_name(default: Config, tmp_path: Path) -> None:
    paths = [tmp_path / "rows.jsonl", tmp_path / "moved" / "rows.jsonl", tmp_path / "renamed.jsonl"]
    paths[1].parent.mkdir()
    for path in paths:
        path.write_text('{"question": "a", "completion": "b"}\n')
    assert len({run_id(changed(default, rows_task(path))) for path in paths}) == 1
    assert len({run_id(changed(default, rows_task(paths[0], path))) for path in paths}) == 1


@pytest.mark.parametrize("which", ["path", "heldout_path"])
def test_run_id_changes_with_the_users_rows(default: Config, tmp_path: Path, which: str) -> None:
    files = {"path": tmp_path / "rows.jsonl", "heldout_path": tmp_path / "heldout.jsonl"}
    for path in files.values():
        path.write_text("{}")
    config = changed(default, rows_task(**files))
    before = run_id(config)
    files[which].write_text("{} ")
    assert run_id(config) != before


def test_files_that_read_otherwise_than_before_have_other_ids(
    default: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows of two names were dropped once; files without such rows keep their ids."""
    three = '{"question": "Then Mary, John and Tom met. John and Mary saw", "completion": " Tom"}\n'
    two = '{"question": "Mary and John met. Mary saw", "completion": " John"}\n'
    new = []
    for number, rows in enumerate((three, three + two, two)):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(rows)
        config = changed(default, rows_task(file))
        now = data_fingerprint(config)
        with monkeypatch.context() as before:
            before.setattr("mi_sweeps.identity.parsed_differently_now", lambda path: False)
            new.append(data_fingerprint(config) != now)
    assert new == [False, True, False]


def test_training_and_evaluation_files_are_not_interchangeable(default: Config, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    assert run_id(changed(default, rows_task(one, other))) != run_id(changed(default, rows_task(other, one)))


def test_missing_file_is_one_line(default: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\A.*rows\.jsonl: No such file.*; give .*existing, readable file\Z"):
        run_id(changed(default, rows_task(tmp_path / "rows.jsonl")))


def test_missing_model_is_one_line(default: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\Amodel\.path=.*nowhere: no config\.json.*give the folder of a saved.*\Z"):
        run_id(changed(default, {"model.path": str(tmp_path / "nowhere")}))


def test_hash_of_files_does_not_depend_on_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(path.name)
    assert hash_files(paths) == hash_files(reversed(paths))


def test_ids_do_not_depend_on_the_order_of_keys(default: Config) -> None:
    dump = default.dump()
    backwards = parse({key: dump[key] for key in reversed(dump)})
    assert run_id(backwards) == run_id(default)
    assert patch_id(backwards) == patch_id(default)


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {"quiz.py": "import quiz_words\n", "quiz_words.py": "", "quiz_notes.py": ""}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("part", ["task", "schedule"])
def test_run_id_changes_with_the_source_of_the_user_s_own_code(default: Config, own_code: Path, part: str) -> None:
    config = changed(default, {part: {"name": "quiz", "_target_": "quiz.make"}})
    ids = {run_id(config)}
    for name, is_part in {"quiz_notes.py": False, "quiz_words.py": True, "quiz.py": True}.items():
        (own_code / name).write_text("import quiz_words\nWORDS = []\n")
        ids.add(run_id(config))
        assert len(ids) == 1 + ["quiz_words.py", "quiz.py"].index(name) + 1 if is_part else len(ids) == 1
    assert (data_fingerprint(config) != data_fingerprint(default)) == (part == "task")


def test_of_our_own_code_nothing_is_hashed(default: Config) -> None:
    assert own_sources(default) == {}


def test_other_prompts_are_another_patch_job_s(default: Config) -> None:
    """Of the same run; and what came later changes no id where it is as before."""
    older = default.dump()
    for key in ("split", "also", "task"):
        del older["patching"][key]
    for key in ("repeat", "trios"):
        del older["task"][key]
    assert (run_id(parse(older)), patch_id(parse(older))) == (run_id(default), patch_id(default))
    two = {"name": "ioi2", "_target_": default.task.target, **default.task.arguments, "n_names": 2}
    others = [{"patching.split": "train"}, {"patching.task": two}, {"patching.task": {**two, "seed": 1}}]
    others += [{"patching.task": two, "patching.measured_prompts": 128}]
    jobs = [changed(default, values) for values in others]
    assert {run_id(job) for job in jobs} == {run_id(default)}
    assert len({patch_id(job) for job in (default, *jobs)}) == 5


def test_answers_that_are_repeated_and_prompts_in_threes_are_other_data(default: Config) -> None:
    jobs = [changed(default, values) for values in ({"task.repeat": 20}, {"task.trios": True})]
    assert len({data_fingerprint(job) for job in (default, *jobs)}) == 3


def test_what_checkpoints_are_crossed_with_is_part_of_a_patch_job(default: Config) -> None:
    """Where it follows from the steps that are examined; the steps alone are none."""
    first, last = default.checkpoint_steps[0], default.checkpoint_steps[-1]
    middle = default.checkpoint_steps[1]

    def job(steps: list[int] | None, **cross: object) -> str:
        return patch_id(changed(default, {"patching.cross": cross, "patching.steps": steps}))

    assert job(None) == job([first, last]) != job([middle, last])
    assert len({job(steps, **{"with": "previous"}) for steps in (None, [first, last], [middle, last])}) == 3
    named = {"with": [middle]}
    assert job(None, **named) == job([middle, last], **named)

"""Identity is content: an id changes with every setting that changes a result, and with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mi_sweeps.config import Config, parse
from mi_sweeps.identity import data_fingerprint, patch_id, run_id
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store.hashes import ID_LENGTH
from mi_sweeps.sweeps.grid import expand
from tests.hub import cached
from tests.identity.configs import changed

LINEAR = {"name": "linear_warmup", "_target_": "mi_sweeps.training.schedules.linear_warmup", "warmup_ratio": 0.03}


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


def test_ids_do_not_depend_on_the_order_of_keys(default: Config) -> None:
    dump = default.dump()
    backwards = parse({key: dump[key] for key in reversed(dump)})
    assert run_id(backwards) == run_id(default)
    assert patch_id(backwards) == patch_id(default)


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

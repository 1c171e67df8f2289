"""The checks and notes before a sweep begins."""

from __future__ import annotations

import json
import shutil

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.sweeps import model_notes, preflight
from mi_sweeps.sweeps.grid import expand


def test_slow_settings_are_reported_once(small):
    points = expand([*small, "launcher.device=cpu", "train.weights=bf16", "train.only=attention,mlp"])
    assert [line.split(":")[0] for line in preflight.check(points) if "slow" in line] == ["train.weights=bf16"]


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        (["patching.circuits={given: [a9.h9]}"], "no node a9.h9 here"),
        (["patching.circuits=true", "patching.prompts=1"], "there is only one prompt"),
    ],
)
def test_circuits_that_cannot_be_judged_are_refused_before_the_fine_tune(small, asked, result):
    with pytest.raises(UserError, match=result):
        preflight.check(expand([*small, "output=unused", *asked]))


def test_prompts_without_the_bos_that_the_tokenizer_adds_are_named(small, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "model")
    for name, change in {
        "tokenizer.json": {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<eos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
            }
        },
        "tokenizer_config.json": {"bos_token": "<eos>"},
    }.items():
        file = tmp_path / "model" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    local = [*small, "model=local", f"model.path={tmp_path / 'model'}"]
    notes = {
        name: [line for line in preflight.check(expand(words)) if "prepend_bos" in line]
        for name, words in {
            "without": [*local, "optim.lr=1e-3,1e-4"],
            "with": [*local, "model.prepend_bos=true"],
            "mini": small,
            "own tokens": [*local[len(small) :], "task=induction", "corruption=successor", "patching=heads"],
        }.items()
    }
    (note,) = notes.pop("without")
    assert note.startswith("model=local: its tokenizer begins texts with <eos>, but prompts do not")
    assert not any(notes.values())


def test_a_router_s_loss_that_is_not_trained_on_is_named_once_in_a_plan(small, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "checkpoint-8")
    file = tmp_path / "checkpoint-8" / "config.json"
    file.write_text(json.dumps({"model_type": "mixtral", "output_router_logits": True}))
    tune = expand([*small, "model=local", f"model.path={file.parent}", "patching=heads", "optim.lr=1e-3,1e-4"])
    series = expand(["model=series", f"model.path={tmp_path}/checkpoint-{{step}}", "patching=heads"])
    found = [[line for line in model_notes.lines(points) if "router" in line] for points in (tune, series)]
    assert [len(lines) for lines in found] == [1, 0] and "only the cross-entropy is trained on" in found[0][0]


def test_the_same_prompts_are_described_once():
    lines = preflight.check(expand(["sweep=nope", "seed=0"]))  # Of one layer and of two.
    assert len(lines) == len(set(lines)) and "task=previous_token" in lines

"""All measurements of a patch job on tasks without name slots: complete and sane, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.errors import UserError
from mi_sweeps.jobs.execute import execute
from mi_sweeps.store.files import read_table
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of
from mi_sweeps.sweeps.preflight import check

FEW = (
    *("train.steps=1", "train.batch_size=4", "checkpoint.every=1", "checkpoint.steps=[]", "optim.lr=1e-2"),
    *("patching=dynamics", "patching.prompts=4", "patching.measured_prompts=4", "patching.looks.patterns=1"),
    *("patching.circuits.random=4", "patching.circuits.sizes=[20,100]", "patching.cross.permutations=4"),
    *("patching.edges.ig_steps=2",),
)
PROMPTS = ("task.prompts={train: 12, heldout: 12}",)
WORDS = ("model=local", "model.path={model}")
NOPE = ("model=nope", "model.d_model=16", "model.d_head=8", "task.d_vocab=16")
ASKED = {
    "greater_than": (*WORDS, "corruption=start_year", *PROMPTS),
    "gender": (*WORDS, "corruption=name", *PROMPTS),
    "sva": (*WORDS, "corruption=subject", *PROMPTS),
    "docstring": (*WORDS, "corruption=random_doc", *PROMPTS),
    "induction": (*WORDS, "corruption=successor", "task.length=5", "task.heldout=8", "task.bos=false"),
    "previous_token": (*NOPE, "corruption=previous", "task.length=6", "task.heldout=8", "patching.sites=[z,pattern]"),
}
"""Of words with a tokenizer that has them; the last on attention alone, without positions."""
KEYS = {
    "greater_than": {"start year", "century"},
    "gender": {"name"},
    "sva": {"subject"},
    "docstring": {"doc 1", "documented 2", "answer"},
    "induction": {"previous occurrence", "successor"},
    "previous_token": {"previous"},
}
"""Some of what heads may look at."""


@pytest.fixture(scope="module")
def model(words: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("words")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96, "initializer_range": 0.4}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def each(rows: pd.DataFrame, column: str = "by_prompt") -> np.ndarray:
    """What each prompt has [row, prompt]; NaN where it has nothing."""
    return np.array([np.asarray(values, dtype=float) for values in rows[column]])


@pytest.mark.parametrize("task", ASKED)
def test_all_that_a_patch_job_measures_is_there_and_adds_up(task: str, model: str, tmp_path: Path) -> None:
    given = [word.format(model=model) if "{model}" in word else word for word in ASKED[task]]
    points = expand([f"task={task}", *given, *FEW, f"output={tmp_path}"])
    check(points)
    done = execute(points)
    assert not done.failed, done.failed
    _, patch = folders_of(points[0])
    names = [(step, name) for step in (0, 1) for name in (None, *TABLES)]
    assert {patch.table(*at) for at in names} == set(patch.path.glob("tables/*"))
    of = {at: read_table(patch.table(*at)).to_pandas() for at in names}

    for step in (0, 1):
        looks = of[step, "looks"]
        for column in ("by_prompt", "uniform_by_prompt"):
            for _, rows in looks.groupby(["side", "layer", "head", "query"]):
                assert np.nansum(each(rows, column), axis=0) == pytest.approx(1, abs=1e-5)
        assert KEYS[task] <= set(looks["key"])
        for triangle in of[step, "patterns"]["pattern"]:
            square = np.zeros([round((2 * len(triangle)) ** 0.5)] * 2)
            square[np.tril_indices(len(square))] = triangle
            assert square.sum(axis=1) == pytest.approx(1, abs=4e-3)  # halves
        assert np.isfinite(of[step, "scores"]["value"]).all()

        alone = of[step, None].query("kind == 'prompt'").sort_values("prompt")
        circuits = of[step, "circuits"]
        assert each(circuits.query("kind == 'whole' and set == 'all'"))[0] == pytest.approx(alone["clean"], abs=1e-4)
        everything = each(circuits.query("kind == 'circuit' and size == 100"))
        judged = np.isfinite(everything[0])
        assert 0 < judged.sum() < len(judged)
        assert everything[:, judged] == pytest.approx(np.tile(alone["clean"][judged], (2, 1)), abs=1e-4), "F is 1"
        edges = of[step, "edges"]
        assert edges.query("kind == 'edge'")["patched"].notna().all()
        for size, end in ((100, "clean"), (0, "corrupted")):
            for values in each(edges[(edges["kind"] == "set") & (edges["size"] == size)]):
                assert values[judged] == pytest.approx(alone[end][judged], abs=1e-4)

    parts = of[1, "cross"].query("kind == 'shapley'")
    whole = (parts["ld_from"] - parts["ld_into"]).iloc[0]
    assert abs(whole) > 1e-3 and (parts["ld_mixed"] - parts["ld_into"]).sum() == pytest.approx(whole, abs=1e-4)
    own = of[1, "cross"].query("kind == 'own'").set_index("into_step")
    for step in (0, 1):
        clean = of[step, None].query("kind == 'prompt'").sort_values("prompt")["clean"]
        assert own.loc[step, "by_prompt"] == pytest.approx(clean.to_numpy(), abs=1e-4)


def test_a_model_without_mlps_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    asked = ["task=previous_token", *NOPE, "corruption=previous", "patching=dynamics", f"output={tmp_path}"]
    with pytest.raises(UserError, match=r"patching\.sites: model=nope has attention only .*leave mlp_out out"):
        check(expand(asked))

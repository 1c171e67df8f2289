"""Real fine-tunes of `mini` that learn nothing: no head has formed, and no sentence claims one."""

from __future__ import annotations

import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.tables import of_frames
from mi_sweeps.analysis.inference.words import sentences
from mi_sweeps.cli import main

pytestmark = pytest.mark.slow

SHORT = (
    *("seed=0,1", "corruption=first,second", "task.prompts.train=96", "task.prompts.heldout=48"),
    *("task.prompts.two_name=0", "train.steps=12", "checkpoint.every=4", "checkpoint.steps=[]"),
    *("patching=heads", "patching.sites=[z]", "patching.prompts=48"),
)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Of each learning rate and corruption what is said."""
    output = tmp_path_factory.mktemp("null")
    with pytest.raises(SystemExit) as ended:
        main(["run", "optim.lr=1e-12,0.03", *SHORT, f"output={output}"])
    assert not ended.value.code
    return {(key[0], key[2]): " ".join(sentences(family, courses(family))) for key, family in of_frames(load(output))}


@pytest.mark.parametrize("corruption", ["first", "second"])
def test_where_nothing_changes_no_head_has_formed(said, corruption):
    result = said["lr 1e-12", corruption]
    assert "2.1" in result
    for word in ("Formed", "Grew", "Lost", "Outgrown", "Changed sign", "Mattered earlier"):
        assert word not in result


def test_what_was_there_before_is_named(said):
    assert "Mattered from the start: 2.1" in said["lr 1e-12", "first"]
    assert "2.1" in said["lr 0.03", "first"].partition("Mattered earlier")[2]


@pytest.mark.parametrize("corruption", ["first", "second"])
def test_where_all_is_destroyed_no_head_has_formed(said, corruption):
    result = said["lr 0.03", corruption]
    assert "Formed" not in result and "Grew" not in result
    assert "makes no measurable difference" in result or "No head is shown to matter" in result

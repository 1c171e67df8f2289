"""A series from Python is a run like any other; only zooming needs a run of ours."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import mi_sweeps as mi


def test_a_series_has_models_pairs_and_tables_and_no_zoom(series, checkpoints_of, make, tmp_path):
    config = make(series)  # The output of the fixture's configurations.
    words = ["task.prompts.train=12", "task.prompts.heldout=12", "task.prompts.two_name=4", "patching=heads"]
    words += ["patching.sites=[z]", "patching.prompts=4", "patching.steps=[8]", f"output={config.output}"]
    run = mi.plan("model=series", f"model.path={series}/checkpoint-{{step}}", *words).run().run()
    assert run.steps == [0, 8, 16, 24]
    model = run.model(16)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in checkpoints_of[16].state_dict().items())
    assert len(run.pairs("first").clean) == 4
    assert set(run.patching["step"]) == {8}
    with pytest.raises(mi.UserError, match="is a series, and cannot be trained again"):
        run.zoom(1, 3)

    file = series / "checkpoint-8" / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(mi.UserError, match="have changed since"):
        mi.open(config.output).run().model(16)

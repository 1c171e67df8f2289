"""What the cells of a sweep are called."""

from mi_sweeps.analysis.cells import factors, names


def test_a_name_tells_what_differs_but_not_the_seed():
    configs = [{"optim": {"lr": lr}, "train": {"steps": 8}, "seed": seed} for lr in (1e-4, 2e-4) for seed in (0, 1)]
    assert names(configs) == ["lr 0.0001", "lr 0.0001", "lr 0.0002", "lr 0.0002"]


def test_nothing_differs():
    assert names([{"seed": 0}, {"seed": 1}]) == ["", ""]


def test_a_group_is_told_by_its_name_where_that_is_enough():
    short, long = {"name": "mini", "layers": 2}, {"name": "maxi", "layers": 8}
    assert names([{"model": short}, {"model": long}]) == ["model mini", "model maxi"]
    other = {"name": "mini", "layers": 3}
    assert names([{"model": short}, {"model": other}]) == ["layers 2", "layers 3"]


def test_keys_that_end_alike_are_told_in_full():
    configs = [{"optim": {"eps": 1}, "model": {"eps": 1}}, {"optim": {"eps": 2}, "model": {"eps": 3}}]
    assert names(configs)[0] == "model.eps 1, optim.eps 1"


def test_a_seed_of_the_prompts_is_not_taken_for_the_run_s():
    assert names([{"task": {"seed": 0}, "seed": 3}, {"task": {"seed": 1}, "seed": 3}]) == ["task.seed 0", "task.seed 1"]


def test_a_run_of_before_there_was_a_key_is_of_the_same_cell():
    old, new = {"name": "ioi3", "seed": 0}, {"name": "ioi3", "seed": 0, "disjoint_names": False}
    assert names([{"task": old}, {"task": new}]) == ["", ""]
    assert names([{"task": old}, {"task": {**new, "disjoint_names": True}}]) == [
        "disjoint names false",
        "disjoint names true",
    ]


def test_of_a_series_nothing_is_told_of_how_it_was_trained():
    own = [{"model": {"name": "mini"}, "optim": {"lr": lr, "eps": 1e-8}, "train": {"steps": 8}} for lr in (1e-4, 2e-4)]
    own = [{**one, "checkpoint": {"steps": [0, 8]}} for one in own]
    model = {"name": "series", "path": "a/checkpoint-{step}", "keep": True}
    theirs = {"model": model, "checkpoint": {"steps": [0, 1, 2]}}
    assert names([*own, theirs]) == ["model mini, lr 0.0001", "model mini, lr 0.0002", "model series"]
    assert factors([*own, theirs]) == ["model.name", "optim.lr"]
    assert names([own[0], theirs]) == ["model mini", "model series"]
    other = {**theirs, "checkpoint": {"steps": [0, 1]}}
    assert names([own[0], theirs, other])[1:] == ["model series, steps [0, 1, 2]", "model series, steps [0, 1]"]


def test_seeds_of_a_series_are_one_cell():
    series = {"model": {"name": "series", "path": "s{seed}/checkpoint-{step}", "keep": True}}
    assert names([{**series, "seed": 1}, {**series, "seed": 2}]) == ["", ""]

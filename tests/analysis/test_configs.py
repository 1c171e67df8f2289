"""Names for the settings of a sweep."""

from mi_sweeps.analysis.configs import factors, flatten, names, of_run


def test_a_name_has_what_differs_but_not_the_seed():
    configs = [{"optim": {"lr": lr}, "train": {"steps": 8}, "seed": seed} for lr in (1e-4, 2e-4) for seed in (0, 1)]
    assert names(configs) == ["lr 0.0001", "lr 0.0001", "lr 0.0002", "lr 0.0002"]


def test_nothing_differs():
    assert names([{"seed": 0}, {"seed": 1}]) == ["", ""]


def test_a_group_has_its_own_name_if_that_is_enough():
    short, long = {"name": "mini", "layers": 2}, {"name": "maxi", "layers": 8}
    assert names([{"model": short}, {"model": long}]) == ["model mini", "model maxi"]
    other = {"name": "mini", "layers": 3}
    assert names([{"model": short}, {"model": other}]) == ["layers 2", "layers 3"]


def test_absolute_paths_are_shortened_while_they_stay_distinct():
    def named(*paths):
        return names([{"model": {"path": path}} for path in paths])

    assert named("/data/a/bases/1", "/data/a/bases/2") == ["path bases/1", "path bases/2"]
    assert named("/data/a/run/8", "/data/b/run/8") == ["path a/run/8", "path b/run/8"]
    assert named("/data/a/base", "a/base", "null") == ["path data/a/base", "path a/base", "path null"]
    assert named("/a", "/b") == ["path /a", "path /b"]


def test_keys_with_the_same_end_are_named_in_full():
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


def test_a_series_has_no_keys_of_training():
    own = [{"model": {"name": "mini"}, "optim": {"lr": lr, "eps": 1e-8}, "train": {"steps": 8}} for lr in (1e-4, 2e-4)]
    own = [{**one, "checkpoint": {"steps": [0, 8]}} for one in own]
    model = {"name": "series", "path": "a/checkpoint-{step}", "keep": True}
    theirs = {"model": model, "checkpoint": {"steps": [0, 1, 2]}}
    assert names([*own, theirs]) == ["model mini, lr 0.0001", "model mini, lr 0.0002", "model series"]
    assert factors([*own, theirs]) == ["model.name", "optim.lr"]
    assert names([own[0], theirs]) == ["model mini", "model series"]
    other = {**theirs, "checkpoint": {"steps": [0, 1]}}
    assert names([own[0], theirs, other])[1:] == ["model series, steps [0, 1, 2]", "model series, steps [0, 1]"]


def test_a_series_has_no_method_that_held_before_there_were_others():
    """Next to fine-tunes of this and an earlier version, whose keys of training are named."""
    own = [{"model": {"name": "mini"}, "train": train} for train in ({"steps": 8}, {"steps": 8, "method": "lora"})]
    series = {"model": {"name": "series", "keep": True}}
    result = ["model mini, method full", "model mini, method lora", "model series"]
    assert names([*own, series]) == result


def test_of_the_keys_of_training_only_differing_ones_are_named():
    """A zoom has other steps than its run; a series beside them has its own, and no `until`."""
    own = [{"model": {"name": "mini"}, "checkpoint": {"steps": steps, "until": until}} for steps, until in
           (([], None), ([5, 6], 8))]  # fmt: skip
    series = {"model": {"name": "series", "keep": True}, "checkpoint": {"steps": [0, 8], "until": None}}
    result = ["model mini, steps [], until null", "model mini, steps [5, 6], until 8", "model series"]
    assert names([*own, series]) == result


def test_seeds_of_a_series_are_one_cell():
    series = {"model": {"name": "series", "path": "s{seed}/checkpoint-{step}", "keep": True}}
    assert names([{**series, "seed": 1}, {**series, "seed": 2}]) == ["", ""]


FIRST = """
    model.name model.hub model.revision model.path model.prepend_bos task.name task._target_ task.n_names
    task.prompts.train task.prompts.heldout task.prompts.two_name task.names task.seed optim.name optim.lr
    optim.weight_decay optim.betas schedule.name schedule._target_ train.steps train.batch_size train.clip
    train.precision checkpoint.every checkpoint.steps checkpoint.storage
""".split()
"""The keys that the configuration of a run had at first."""


def test_every_key_that_came_later_has_the_value_that_held_before(make_config):
    """Or a run of then and one of now would be two settings."""
    now = of_run(make_config().dump())
    then: dict = {}
    for key, value in flatten(now).items():
        if key in FIRST:
            *groups, last = key.split(".")
            place = then
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = value
    assert names([then, now]) == ["", ""]


def test_keys_of_adapters_are_named_for_runs_with_an_adapter(make_config):
    every = [
        make_config("train.only=[mlp,norms]", "train.micro_batch=4"),
        *(make_config("train.method=lora", f"train.lora.rank={rank}") for rank in (4, 16)),
    ]
    assert names([one.dump() for one in every]) == [
        "method full, only mlp + norms",
        *("method lora, rank 4, only []", "method lora, rank 16, only []"),
    ]
    assert names([one.dump() for one in every[:2]]) == ["method full, only mlp + norms", "method lora, only []"]

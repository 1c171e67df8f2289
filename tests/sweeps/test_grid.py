"""From overrides to grid points: the grammar, named grids, and one line for any mistake."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from mi_sweeps.config import Config, SlurmConfig, parse
from mi_sweeps.errors import UserError
from mi_sweeps.identity import patch_id
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.points import GridPoint
from tests.hub import cached


def choices(points: list[GridPoint], key: str) -> list[str]:
    """The different values of a key, in order."""
    return list(dict.fromkeys(point.choices[key] for point in points))


@pytest.fixture
def gpt2(hub_cache: Path) -> None:
    """Some revisions in the hub's cache."""
    for revision in ("main", "12e45678", "007", "123"):
        files = {"config.json": b"{}", "model.safetensors": f"weights of {revision}".encode()}
        cached(hub_cache, "openai-community/gpt2", files, revision)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder of configuration with one sweep."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(
        "name: mine\ngrid:\n  seed: range(0,2)\n  optim.lr: 1e-4,3e-4\n  train.steps: 16\n  patching.steps: '[0,16]'\n"
    )
    return tmp_path


def test_no_override_is_one_point_of_defaults() -> None:
    (point,) = expand([])
    assert point.label == "(defaults)"
    assert (point.config.model.name, point.config.task.name, point.config.seed) == ("mini", "ioi3", 0)


def test_points_are_the_product_in_the_order_of_the_command_line() -> None:
    points = expand(["optim.lr=1e-4,3e-4", "seed=range(0,3)", "train.steps=16"])
    assert [(point.config.optim.lr, point.config.seed) for point in points] == [
        (lr, seed) for lr in (1e-4, 3e-4) for seed in (0, 1, 2)
    ]
    assert {point.config.train.steps for point in points} == {16}
    assert len({point.run_id for point in points}) == 6
    assert points[0].choices.keys() == {"optim.lr", "seed"}
    assert points[0].label == "optim.lr=0.0001 seed=0"


def test_groups_take_commas_and_globs() -> None:
    assert choices(expand(["corruption=both,order"]), "corruption") == ["both", "order"]
    points = expand(["schedule=glob(*)"])
    assert sorted(point.config.schedule.name for point in points) == [
        *("buggy_warmup", "constant", "cosine", "fixed_warmup", "linear_warmup", "warmup_decay")
    ]


def test_a_group_and_a_key_below_it() -> None:
    points = expand(["schedule=linear_warmup,cosine", "schedule.warmup_ratio=0.1,0.2"])
    assert [(point.config.schedule.name, point.config.schedule.arguments["warmup_ratio"]) for point in points] == [
        ("linear_warmup", 0.1),
        ("linear_warmup", 0.2),
        ("cosine", 0.1),
        ("cosine", 0.2),
    ]


def test_lists_and_null_can_be_swept() -> None:
    points = expand(["task.names=[Mary,John],null"])
    assert [point.config.task.arguments["names"] for point in points] == [["Mary", "John"], None]


@pytest.mark.parametrize("override", ["patching.steps=[0],[0,8]", "launcher.threads=1,2", "sweep.name=a,b"])
def test_what_changes_no_result_cannot_be_swept(override: str) -> None:
    with pytest.raises(UserError, match="changes no result, so it cannot be swept"):
        expand([override])


def test_a_swept_value_does_what_a_single_one_does() -> None:
    """A dictionary is merged into the defaults, and `++` sets whatever was there."""
    single = [expand([f"task.prompts={{train:{train},heldout:12}}"])[0] for train in (24, 48)]
    swept = expand(["task.prompts={train:24,heldout:12},{train:48,heldout:12}"])
    assert [point.config for point in swept] == [point.config for point in single]


@pytest.mark.parametrize("key", ["++optim.lr", "optim.lr"])
def test_a_forced_key_can_be_swept(key: str) -> None:
    assert [point.config.optim.lr for point in expand([f"{key}=1e-4,3e-4"])] == [1e-4, 3e-4]


def test_a_key_can_be_added_and_swept(own: Path) -> None:
    (own / "schedule").mkdir()
    (own / "schedule" / "mine.yaml").write_text("name: mine\n_target_: nowhere.schedule\n")
    points = expand(["schedule=mine", "+schedule.power=1,2"], own)
    assert [point.config.schedule.arguments for point in points] == [{"power": 1}, {"power": 2}]


WORDS = [
    *("word", "'two words'", "'1'", "1", "1.0", "1e-3", "true", "null", "'a,b'", '"it\'s"', "[]", "[1,[x,null]]", "''"),
]
AXES = {
    "optim.lr": ["1e-4", "3e-4", "1"],
    "optim.betas": ["[0.9,0.99]", "[0.8,0.9]"],
    "optim.betas.0": ["0.5", "0.6"],
    "seed": ["0", "1", "${train.steps}"],
    "train.steps": ["16", "24"],
    "train.batch_size": ["4", "${seed}"],
    "checkpoint.every": ["2", "${train.steps}"],
    "schedule": ["constant", "linear_warmup"],
    "corruption": ["first", "second"],
    "task": ["ioi2", "ioi3"],
    "task.prompts": ["{train:24}", "{heldout:12,two_name:6}", "{train:${seed}}"],
    "task.prompts.train": ["12", "48"],
    "++task.prompts.train": ["18", "30"],
    "task.names": ["null", "[Mary,John]", "[Mary,${task.name}]"],
    "+task.word": [*WORDS, "${optim.lr}", "{a:1}", "{b:2}", "{a:null}"],
    "++task.seed": [*WORDS, "${seed}", "{c:{d:1}}"],
    "+task.deep.er": [*WORDS, "${..seed}", "${.} "],
    "~task.seed": ["null"],
}
"""Values that grids may be made of: numbers, text, lists, dictionaries, references, groups, keys that are new."""


def one_by_one(axes: dict[str, list[str]]) -> list[Config]:
    """The points of a grid as Hydra composes each by itself; a value that makes no point of its own is an error."""
    configs: dict[str, tuple[Config, tuple[str, ...]]] = {}
    with initialize_config_module("mi_sweeps.conf", version_base="1.3"):
        for values in itertools.product(*axes.values()):
            config = parse(compose("config", [f"{key}={value}" for key, value in zip(axes, values, strict=True)]))
            configs.setdefault(patch_id(config), (config, values))
    for place, values in enumerate(axes.values()):
        kept = {chosen[place] for _, chosen in configs.values()}
        if set(values) - kept and {"1", "1.0"} - set(values):
            raise UserError("a value without a point")
    return [config for config, _ in configs.values()]


def outcome(make: Callable[[], list[Config]]) -> list[Config] | None:
    """Configurations, or None where something is wrong with one."""
    try:
        return make()
    except (UserError, HydraException, OmegaConfBaseException):
        return None


@settings(max_examples=10)
@pytest.mark.slow
@given(
    st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=3, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries(
            {key: st.lists(st.sampled_from(AXES[key]), min_size=1, max_size=2, unique=True) for key in keys}
        )
    )
)
@example({"task.prompts": ["{train:24}", "{heldout:12}"]})
@example({"task.prompts": ["{train:24}", "{train:36}"], "task.prompts.train": ["12", "48"]})
@example({"task.prompts.train": ["12", "48"], "task.prompts": ["{heldout:24}", "{heldout:36}"]})
@example({"seed": ["1", "2"], "train.batch_size": ["${seed}"], "checkpoint.every": ["${train.batch_size}"]})
@example({"+task.word": ["${seed}", "word"], "seed": ["1", "2"]})
@example({"~task.seed": ["null"], "+task.seed": ["1", "2"]})
def test_every_point_is_what_hydra_composes(axes: dict[str, list[str]]) -> None:
    grid = [f"{key}={','.join(values)}" for key, values in axes.items()]
    assert outcome(lambda: [point.config for point in expand(grid)]) == outcome(lambda: one_by_one(axes))


def test_a_file_that_changed_since_the_last_plan_gives_other_ids(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    ids = []
    for answer in ("John", "Mary", "John"):
        rows.write_text(f'{{"question": "Mary and John met. Mary saw", "completion": " {answer}"}}\n')
        ids.append([point.run_id for point in expand(["task=prompts", f"task.path={rows}", "seed=0,1"])])
    assert ids[0] == ids[2] and not set(ids[0]) & set(ids[1])


def test_duplicates_are_removed() -> None:
    assert [point.config.seed for point in expand(["seed=1,1,0,1"])] == [1, 0]
    assert len(expand(["optim.lr=1e-4,0.0001"])) == 1


def test_corruptions_of_a_run_share_its_fine_tune() -> None:
    points = expand(["corruption=first,second", "seed=0,1"])
    assert len(points) == len({point.patch_id for point in points}) == 4
    assert len({point.run_id for point in points}) == 2
    assert all(point.run_id == points[point.config.seed].run_id for point in points)


def test_a_named_grid() -> None:
    points = expand(["sweep=demo"])
    assert len(points) == 8 and len({point.run_id for point in points}) == 4
    assert {point.config.sweep.name for point in points} == {"demo"}
    assert choices(points, "corruption") == ["first", "second"]
    assert set(points[0].choices) == {"optim.lr", "seed", "corruption"}


def test_an_axis_is_added_to_a_named_grid() -> None:
    """The README adds a second schedule to the demo, of which nothing is computed again."""
    points = expand(["sweep=demo", "schedule=constant,linear_warmup"])
    assert len(points) == 16
    assert {point.patch_id for point in expand(["sweep=demo"])} < {point.patch_id for point in points}


def test_the_command_line_takes_the_place_of_the_grids_keys() -> None:
    one = ["sweep=grid", "seed=0", "schedule=constant"]
    first, second = (expand([*one, f"corruption={corruption}"]) for corruption in ("first", "second"))
    assert [point.run_id for point in first] == [point.run_id for point in second]
    assert {point.config.corruption.name for point in second} == {"second"}
    assert "corruption" not in second[0].choices and "seed" not in second[0].choices
    assert {point.patch_id for point in expand(one)} == {point.patch_id for point in (*first, *second)}


def test_a_users_own_sweep(own: Path) -> None:
    points = expand(["sweep=mine"], own)
    assert [(point.config.seed, point.config.optim.lr) for point in points] == [
        *((0, 1e-4), (0, 3e-4), (1, 1e-4), (1, 3e-4))
    ]
    assert {point.config.patch_steps[-1] for point in points} == {16}
    assert [point.config.seed for point in expand(["sweep=mine", "seed=7", "optim.lr=1e-4"], own)] == [7]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["modle=mini"], r"modle: no such key; .*"),
        (["optim.rate=1"], r"optim\.rate: no such key; .*"),
        (["optim.rate=1,2"], r"optim\.rate: no such key; .*"),
        (["+optim.rate=1"], r"optim\.rate.*no such key.*"),
        (["model=gpt3"], r"model=gpt3: no such choice; there are: .*gpt2.*mini.*"),
        (["corruption=first,third"], r"corruption=third: no such choice; there are: .*first, .*second.*"),
        (["sweep=nothing"], r"sweep=nothing: no such choice; there are: .*demo.*"),
        (["sweep=demo,grid"], r"sweep=demo,grid: .*one.*"),
        (["output=a,b"], r"output=a,b: several folders; give one .*"),
        (["launcher.workers=1,2"], r"launcher\.workers=1,2: .*; give one value"),
        (["tracking=none,wandb"], r"tracking=none,wandb: .*; give one value"),
        (["seed"], r"seed: cannot be read as KEY=VALUE .*"),
        (["seed=[1"], r"seed=\[1: cannot be read as KEY=VALUE .*"),
        ([""], r".*cannot be read as KEY=VALUE .*"),
        (["seed=range(3,3)"], r"seed=range\(3,3\): .*, so the grid is empty; use for example range\(0,3\)"),
        (["schedule=glob(none*)"], r"schedule=glob\(none\*\): this gives no values, so the grid is empty; .*"),
        (["optim.lr=interval(0,1)"], r"optim\.lr=interval\(0,1\): .*; use range.*"),
        (["optim.lr=-1"], r"optim\.lr=-1: give a number above 0"),
        (["optim.lr=1e-4,-1"], r"optim\.lr=-1: give a number above 0"),
        (["train.steps=0"], r"train\.steps=0: give a whole number of at least 1"),
        (["~optim.lr"], r"optim\.lr: no value; give optim\.lr=.*"),
        (["model=local"], r"model\.path: no value; give model\.path=VALUE on the command line"),
        (["model=local", "model.path=/no/where"], r"model\.path=/no/where: no config\.json there; give .*"),
        (["task=prompts"], r"task\.path: no value; give task\.path=VALUE on the command line"),
        (["task=prompts", "task.path=/no/where"], r"/no/where: No such file.*; give .*"),
        (["train.steps=8", "patching.steps=[0,16]"], r"patching\.steps: \[16\] are not checkpoints .*; choose .*"),
    ],
)
def test_a_wrong_override_is_one_line(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        expand(overrides)


def test_a_missing_folder_of_configuration_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\A--config-dir .*nowhere: no such folder\Z"):
        expand([], tmp_path / "nowhere")


def test_any_option_of_sbatch_can_be_given() -> None:
    options = [
        "launcher.sbatch={nice: 100}",
        "launcher.patch.sbatch.mail-type=END",
        "+launcher.finetune.sbatch.hold=true",
    ]
    (point,) = expand(["launcher=slurm", *options])
    launcher = point.config.launcher
    assert isinstance(launcher, SlurmConfig)
    assert (launcher.sbatch, launcher.patch.sbatch) == ({"nice": 100}, {"mail-type": "END"})
    assert launcher.finetune.sbatch == {"hold": True}
    with pytest.raises(UserError, match="cannot be swept"):
        expand(["launcher=slurm", "launcher.sbatch.nice=1,2"])


def write_sweep(folder: Path, grid: str) -> Path:
    (folder / "sweep").mkdir(exist_ok=True)
    (folder / "sweep" / "listed.yaml").write_text(f"name: listed\ngrid:\n{grid}")
    return folder


def test_a_list_in_a_grid_file_is_a_sweep_unless_the_key_holds_a_list(tmp_path: Path) -> None:
    lists = """
  corruption: [first, second]
  seed: [0, 1]
  optim.lr: [1e-4, 3e-4]
  optim.betas: [0.9, 0.95]
  checkpoint.steps: [1, 2]
  patching.sites: [z]
  patching.steps: [0, 1]
  task.names: [Mary, John, Tom, Paul]
  task.seed: [3]
"""
    points = expand(["sweep=listed"], write_sweep(tmp_path, lists))
    assert [(point.config.corruption.name, point.config.seed, point.config.optim.lr) for point in points] == [
        *itertools.product(("first", "second"), (0, 1), (1e-4, 3e-4))
    ]
    config = points[0].config
    assert (config.optim.betas, config.checkpoint.steps, config.patching.sites) == ((0.9, 0.95), (1, 2), ("z",))
    assert config.patch_steps == [0, 1]
    assert config.task.arguments["names"] == ["Mary", "John", "Tom", "Paul"]
    assert config.task.arguments["seed"] == 3
    assert len(expand(["sweep=listed", "corruption=both"], tmp_path)) == 4


def test_the_layers_and_none_of_a_list_are_swept(tmp_path: Path) -> None:
    """Where a number or null may stand, a list is neither."""
    grid = "  model: nope\n  task: previous_token\n  corruption: previous\n  model.d_mlp: [null, 32]\n"
    points = expand(["sweep=listed", "patching.sites=[z]"], write_sweep(tmp_path, grid))
    assert [point.values["model"]["d_mlp"] for point in points] == [None, 32]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("seed: []", "grid.seed: this list has no values"),
        ("seed: [[0], [1]]", "grid.seed: a list in a grid is a sweep of single values"),
        ('seed: ["0,1", 2]', "grid.seed: 0,1: one entry of this list is itself a sweep"),
        ("sweep: demo", "grid.sweep: a grid cannot name another sweep"),
        ("seed: '[1'", "grid: seed=[1: cannot be read as KEY=VALUE"),
    ],
)
def test_a_wrong_line_of_a_grid_is_named_with_its_file(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        expand(["sweep=listed"], write_sweep(tmp_path, f"  {line}\n"))
    assert str(refused.value).startswith(f"{tmp_path}/sweep/listed.yaml: {says}")


@pytest.mark.usefixtures("gpt2")
@pytest.mark.parametrize("grid", ["  {}\n", ""])
def test_null_and_yes_in_a_grid_file_are_what_they_are(tmp_path: Path, grid: str) -> None:
    lines = "  model: gpt2\n  model.revision: null\n  tracking.entity: null\n  model.prepend_bos: true\n"
    (point,) = expand(["sweep=listed"], write_sweep(tmp_path, lines))
    assert (point.config.model.revision, point.config.tracking.entity, point.config.model.prepend_bos) == (
        *(None, None),
        True,
    )


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("grid:", "grid: give keys with their values"),
        ("grid: [seed]", "grid: give keys with their values"),
        ("grid: seed", "grid: give keys with their values"),
        ("", "grid: give keys with their values"),
    ],
)
def test_a_grid_that_is_none_is_named_with_its_file(tmp_path: Path, grid: str, says: str) -> None:
    (write_sweep(tmp_path, "") / "sweep" / "listed.yaml").write_text(f"name: listed\n{grid}\n")
    with pytest.raises(UserError) as refused:
        expand(["sweep=listed"], tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}/sweep/listed.yaml: {says}")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("output=o_${seed}", "output"),
        ("sweep.name=s${seed}", "sweep.name"),
        ("tracking.project=p${seed}", "tracking.project"),
        ("launcher.device=cuda:${seed}", "launcher.device"),
    ],
)
def test_what_is_one_for_a_sweep_follows_from_no_swept_key(override: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"\A{key}: .*0 in one grid point and .*1 in another, but a sweep has"):
        expand([override, "seed=0,1"])
    assert len(expand([override, "seed=1"])) == 1


def write_experiment(folder: Path, name: str, text: str) -> None:
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")


def test_experiment_files_cannot_set_what_is_one_for_a_sweep_differently(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", "output: one\nseed: 1")
    write_experiment(tmp_path, "b", "output: other\nseed: 2")
    with pytest.raises(UserError, match=r"\Aoutput: .*/one in one grid point and .*/other in another"):
        expand(["+experiment=a,b"], tmp_path)


@pytest.mark.parametrize("text", ["defaults: [{override /sweep: demo}]", "sweep: {grid: {seed: '0,1'}}"])
def test_a_grid_that_nobody_would_expand_is_refused(tmp_path: Path, text: str) -> None:
    write_experiment(tmp_path, "a", text)
    with pytest.raises(UserError, match=r"\Asweep\.grid: .*; give sweep=NAME\Z"):
        expand(["+experiment=a"], tmp_path)


@pytest.mark.parametrize("override", ["corruption=[first,second]", "corruption=both,[first,second]"])
def test_a_list_of_choices_is_refused_with_what_was_meant(override: str) -> None:
    with pytest.raises(UserError, match=r"\Acorruption=\[first,second\]: .* give corruption=first,second\Z"):
        expand([override])


def test_a_list_of_choices_in_a_file_is_refused_too(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", "defaults: [{override /corruption: [first, second]}]")
    with pytest.raises(UserError, match=r"\Acorruption: a list of choices, .* give corruption=ONE,OTHER\Z"):
        expand(["+experiment=a"], tmp_path)


def test_a_forced_key_takes_the_place_of_the_grids(own: Path) -> None:
    points = expand(["sweep=mine", "++optim.lr=1e-3"], own)
    assert [(point.config.seed, point.config.optim.lr) for point in points] == [(0, 1e-3), (1, 1e-3)]
    assert {key for point in points for key in point.choices} == {"seed"}


def test_a_new_key_of_a_grid_is_still_new_when_its_value_is_another(tmp_path: Path) -> None:
    write_sweep(tmp_path, "  seed: 0,1\n  +task.word: a,b\n")
    assert choices(expand(["sweep=listed", "task.word=c,d"], tmp_path), "+task.word") == ["c", "d"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["patching.engine=fast,reference"], "patching.engine=reference: computes the same as patching.engine=fast"),
        (["optim.lr=1e-4,3e-4", "optim={lr: 1e-3}"], "optim.lr=0.0003: computes the same as optim.lr=0.0001"),
    ],
)
def test_a_value_that_would_have_no_point_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as refused:
        expand(overrides)
    assert str(refused.value).startswith(says)


def test_a_key_that_matters_in_some_points_only_can_be_swept() -> None:
    points = expand(["train.steps=8,24", "checkpoint.every=12,16"])
    assert [(point.config.train.steps, point.config.checkpoint.every) for point in points] == [
        (8, 12),
        (24, 12),
        (24, 16),
    ]


@pytest.mark.usefixtures("gpt2")
@pytest.mark.parametrize(
    ("overrides", "section", "key", "text"),
    [
        (["sweep.name=42"], "sweep", "name", "42"),
        (["launcher=slurm", "launcher.memory=8192"], "launcher", "memory", "8192"),
        (["launcher=slurm", "launcher.account=0123"], "launcher", "account", "0123"),
        (["model=gpt2", "model.revision=12e45678"], "model", "revision", "12e45678"),
        (["model=gpt2", "model.revision=null"], "model", "revision", None),
        (["tracking.project=1.10"], "tracking", "project", "1.10"),
    ],
)
def test_a_number_where_text_is_meant_is_text_as_it_was_written(
    overrides: list[str], section: str, key: str, text: str | None
) -> None:
    (point,) = expand(overrides)
    assert point.values[section][key] == text


@pytest.mark.usefixtures("gpt2")
def test_numbers_in_a_sweep_of_texts_are_texts(tmp_path: Path) -> None:
    points = expand(["model=gpt2", "model.revision=12e45678,main,007"])
    assert [point.values["model"]["revision"] for point in points] == ["12e45678", "main", "007"]
    write_sweep(tmp_path, "  model: gpt2\n  model.revision: ['12e45678', main, 123]\n")
    points = expand(["sweep=listed"], tmp_path)
    assert [point.values["model"]["revision"] for point in points] == ["12e45678", "main", "123"]
    write_sweep(tmp_path, "  model: gpt2\n  model.revision: 12e45678\n")
    with pytest.raises(
        UserError, match=r"listed\.yaml: grid\.model\.revision: inf is a number, but this key takes text; put the text"
    ):
        expand(["sweep=listed"], tmp_path)


@pytest.mark.parametrize("override", ["~sweep", "~sweep=null", "~sweep.grid"])
def test_a_configuration_without_its_sweep_is_refused(override):
    with pytest.raises(UserError, match="sweep"):
        expand([override])

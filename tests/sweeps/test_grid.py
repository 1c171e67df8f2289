"""From overrides to cells: the grammar, named grids, and one line for whatever is wrong."""

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
from mi_sweeps.store.identity import patch_id
from mi_sweeps.sweeps.cells import Cell
from mi_sweeps.sweeps.grid import expand


def choices(cells: list[Cell], key: str) -> list[str]:
    """The different values of a key, in order."""
    return list(dict.fromkeys(cell.choices[key] for cell in cells))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder of configuration with one sweep."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(
        "name: mine\ngrid:\n  seed: range(0,2)\n  optim.lr: 1e-4,3e-4\n  train.steps: 16\n  patching.steps: '[0,16]'\n"
    )
    return tmp_path


def test_no_override_is_one_cell_of_defaults() -> None:
    (cell,) = expand([])
    assert cell.label == "(defaults)"
    assert (cell.config.model.name, cell.config.task.name, cell.config.seed) == ("mini", "ioi3", 0)


def test_cells_are_the_product_in_the_order_of_the_command_line() -> None:
    cells = expand(["optim.lr=1e-4,3e-4", "seed=range(0,3)", "train.steps=16"])
    assert [(cell.config.optim.lr, cell.config.seed) for cell in cells] == [
        (lr, seed) for lr in (1e-4, 3e-4) for seed in (0, 1, 2)
    ]
    assert {cell.config.train.steps for cell in cells} == {16}
    assert len({cell.run_id for cell in cells}) == 6
    assert cells[0].choices.keys() == {"optim.lr", "seed"}
    assert cells[0].label == "optim.lr=0.0001 seed=0"


def test_groups_take_commas_and_globs() -> None:
    assert choices(expand(["corruption=both,order"]), "corruption") == ["both", "order"]
    cells = expand(["schedule=glob(*)"])
    assert sorted(cell.config.schedule.name for cell in cells) == [
        *("buggy_warmup", "constant", "cosine", "fixed_warmup", "linear_warmup", "warmup_decay")
    ]


def test_a_group_and_a_key_below_it() -> None:
    cells = expand(["schedule=linear_warmup,cosine", "schedule.warmup_ratio=0.1,0.2"])
    assert [(cell.config.schedule.name, cell.config.schedule.arguments["warmup_ratio"]) for cell in cells] == [
        ("linear_warmup", 0.1),
        ("linear_warmup", 0.2),
        ("cosine", 0.1),
        ("cosine", 0.2),
    ]


def test_lists_and_null_can_be_swept() -> None:
    cells = expand(["task.names=[Mary,John],null"])
    assert [cell.config.task.arguments["names"] for cell in cells] == [["Mary", "John"], None]


@pytest.mark.parametrize("override", ["patching.steps=[0],[0,8]", "launcher.threads=1,2", "sweep.name=a,b"])
def test_what_changes_no_result_cannot_be_swept(override: str) -> None:
    with pytest.raises(UserError, match="changes no result, so it cannot be swept"):
        expand([override])


def test_a_swept_value_does_what_a_single_one_does() -> None:
    """A dictionary is merged into the defaults, and `++` sets whatever was there."""
    single = [expand([f"task.prompts={{train:{train},heldout:12}}"])[0] for train in (24, 48)]
    swept = expand(["task.prompts={train:24,heldout:12},{train:48,heldout:12}"])
    assert [cell.config for cell in swept] == [cell.config for cell in single]


@pytest.mark.parametrize("key", ["++optim.lr", "optim.lr"])
def test_a_forced_key_can_be_swept(key: str) -> None:
    assert [cell.config.optim.lr for cell in expand([f"{key}=1e-4,3e-4"])] == [1e-4, 3e-4]


def test_a_key_can_be_added_and_swept(own: Path) -> None:
    (own / "schedule").mkdir()
    (own / "schedule" / "mine.yaml").write_text("name: mine\n_target_: nowhere.schedule\n")
    cells = expand(["schedule=mine", "+schedule.power=1,2"], own)
    assert [cell.config.schedule.arguments for cell in cells] == [{"power": 1}, {"power": 2}]


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
    """The cells of a grid as Hydra composes each by itself."""
    configs = {}
    with initialize_config_module("mi_sweeps.conf", version_base="1.3"):
        for values in itertools.product(*axes.values()):
            config = parse(compose("config", [f"{key}={value}" for key, value in zip(axes, values, strict=True)]))
            configs.setdefault(patch_id(config), config)
    return list(configs.values())


def outcome(make: Callable[[], list[Config]]) -> list[Config] | None:
    """Configurations, or None where something is wrong with one."""
    try:
        return make()
    except (UserError, HydraException, OmegaConfBaseException):
        return None


@settings(max_examples=10)
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
def test_every_cell_is_what_hydra_composes(axes: dict[str, list[str]]) -> None:
    grid = [f"{key}={','.join(values)}" for key, values in axes.items()]
    assert outcome(lambda: [cell.config for cell in expand(grid)]) == outcome(lambda: one_by_one(axes))


def test_a_file_that_changed_since_the_last_plan_gives_other_ids(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    ids = []
    for answer in ("John", "Mary", "John"):
        rows.write_text(f'{{"question": "Mary and John met. Mary saw", "completion": " {answer}"}}\n')
        ids.append([cell.run_id for cell in expand(["task=prompts", f"task.path={rows}", "seed=0,1"])])
    assert ids[0] == ids[2] and not set(ids[0]) & set(ids[1])


def test_duplicates_are_removed() -> None:
    assert [cell.config.seed for cell in expand(["seed=1,1,0,1"])] == [1, 0]
    assert len(expand(["optim.lr=1e-4,0.0001"])) == 1


def test_corruptions_of_a_run_share_its_fine_tune() -> None:
    cells = expand(["corruption=first,second", "seed=0,1"])
    assert len(cells) == len({cell.patch_id for cell in cells}) == 4
    assert len({cell.run_id for cell in cells}) == 2
    assert all(cell.run_id == cells[cell.config.seed].run_id for cell in cells)


def test_a_named_grid() -> None:
    cells = expand(["sweep=demo"])
    assert len(cells) == 16 and len({cell.run_id for cell in cells}) == 8
    assert {cell.config.sweep.name for cell in cells} == {"demo"}
    assert choices(cells, "corruption") == ["first", "second"]
    assert set(cells[0].choices) == {"optim.lr", "schedule", "seed", "corruption"}


def test_the_command_line_takes_the_place_of_the_grids_keys() -> None:
    one = ["sweep=grid", "seed=0", "schedule=constant"]
    first, second = (expand([*one, f"corruption={corruption}"]) for corruption in ("first", "second"))
    assert [cell.run_id for cell in first] == [cell.run_id for cell in second]
    assert {cell.config.corruption.name for cell in second} == {"second"}
    assert "corruption" not in second[0].choices and "seed" not in second[0].choices
    assert {cell.patch_id for cell in expand(one)} == {cell.patch_id for cell in (*first, *second)}


def test_a_users_own_sweep(own: Path) -> None:
    cells = expand(["sweep=mine"], own)
    assert [(cell.config.seed, cell.config.optim.lr) for cell in cells] == [
        *((0, 1e-4), (0, 3e-4), (1, 1e-4), (1, 3e-4))
    ]
    assert {cell.config.patch_steps[-1] for cell in cells} == {16}
    assert [cell.config.seed for cell in expand(["sweep=mine", "seed=7", "optim.lr=1e-4"], own)] == [7]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["modle=mini"], r"modle: no such key; .*"),
        (["optim.rate=1"], r"optim\.rate: no such key; .*"),
        (["optim.rate=1,2"], r"optim\.rate: no such key; .*"),
        (["+optim.rate=1"], r"optim\.rate.*no such key.*"),
        (["model=gpt3"], r"model=gpt3: no such choice; there are: .*gpt2.*mini.*"),
        (["corruption=first,third"], r"corruption=third: no such choice; there are: both, earlier, first, .*second"),
        (["sweep=nothing"], r"sweep=nothing: no such choice; there are: .*demo.*"),
        (["sweep=demo,grid"], r"sweep=demo,grid: .*one.*"),
        (["output=a,b"], r"output=a,b: .*; give one value"),
        (["launcher.workers=1,2"], r"launcher\.workers=1,2: .*; give one value"),
        (["tracking=none,wandb"], r"tracking=none,wandb: .*; give one value"),
        (["seed"], r"seed: cannot be read as KEY=VALUE .*"),
        (["seed=[1"], r"seed=\[1: cannot be read as KEY=VALUE .*"),
        ([""], r".*cannot be read as KEY=VALUE .*"),
        (["seed=range(3,3)"], r"seed=range\(3,3\): the grid is empty.*; use for example range\(0,3\)"),
        (["schedule=glob(none*)"], r"schedule=glob\(none\*\): the grid is empty.*; .*"),
        (["optim.lr=interval(0,1)"], r"optim\.lr=interval\(0,1\): .*; use range.*"),
        (["optim.lr=-1"], r"optim\.lr=-1: input should be greater than 0"),
        (["optim.lr=1e-4,-1"], r"optim\.lr=-1: input should be greater than 0"),
        (["train.steps=0"], r"train\.steps=0: input should be greater than or equal to 1"),
        (["~optim.lr"], r"optim\.lr: no value; give optim\.lr=.*"),
        (["model=local"], r"model\.path: no value; give model\.path=VALUE on the command line"),
        (["model=local", "model.path=/no/where"], r"model\.path=/no/where: no config\.json there; give .*"),
        (["task=prompts"], r"task\.path: no value; give task\.path=VALUE on the command line"),
        (["task=prompts", "task.path=/no/where"], r"/no/where: No such file.*; give .*"),
        (["train.steps=8", "patching.steps=[0,16]"], r"patching\.steps: \[16\] are no checkpoints .*; choose .*"),
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
    (cell,) = expand(["launcher=slurm", *options])
    launcher = cell.config.launcher
    assert isinstance(launcher, SlurmConfig)
    assert (launcher.sbatch, launcher.patch.sbatch) == ({"nice": 100}, {"mail-type": "END"})
    assert launcher.finetune.sbatch == {"hold": True}
    with pytest.raises(UserError, match="cannot be swept"):
        expand(["launcher=slurm", "launcher.sbatch.nice=1,2"])

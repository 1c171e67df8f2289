"""From a plan to job arrays, and from an array to what sbatch reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from submitit.slurm.slurm import _make_sbatch_string

from mi_sweeps.config import ResourcesConfig, SlurmConfig
from mi_sweeps.slurm.arrays import Array, gpu_hours, layout, parameters, resources
from mi_sweeps.sweeps.grid import expand

SLURM = expand(["launcher=slurm"])[0].config.launcher
assert isinstance(SLURM, SlurmConfig)


def arrays(runs=(), patches=None, queued=None, limit=1000, **settings: int) -> list[Array]:
    """The layout under some settings; `split` is that of the patch jobs."""
    split = SLURM.patch.model_copy(update={"split": settings.pop("split", 1)})
    launcher = SLURM.model_copy(update={**settings, "patch": split})
    return layout(list(runs), patches or {}, queued or {}, launcher, "s", limit)


def shape(array: Array) -> tuple:
    return array.stage, array.tasks, array.wait, array.after


def test_patch_jobs_wait_for_their_own_fine_tune() -> None:
    assert [shape(array) for array in arrays("ab", {"a": ["a1", "a2"], "b": ["b1", "b2"]})] == [
        ("finetune", (("a",), ("b",)), None, ()),
        ("patch", (("a1",), ("b1",)), "pairs", ("s-0",)),
        ("patch", (("a2",), ("b2",)), "pairs", ("s-0",)),
    ]


def test_runs_with_different_numbers_of_missing_patch_jobs_are_in_arrays_of_their_own() -> None:
    """An array that waits by task numbers has no holes."""
    assert [shape(array) for array in arrays("abc", {"a": ["a1"], "c": ["c1"]})] == [
        ("finetune", (("b",),), None, ()),
        ("finetune", (("a",), ("c",)), None, ()),
        ("patch", (("a1",), ("c1",)), "pairs", ("s-1",)),
    ]


def test_several_points_go_into_one_task() -> None:
    assert [shape(array) for array in arrays("abc", {run: [f"{run}1"] for run in "abc"}, pack=2)] == [
        ("finetune", (("a", "b"), ("c",)), None, ()),
        ("patch", (("a1", "b1"), ("c1",)), "pairs", ("s-0",)),
    ]


def test_an_array_is_no_longer_than_the_cluster_takes() -> None:
    assert [shape(array) for array in arrays("abc", {run: [f"{run}1"] for run in "abc"}, limit=2)] == [
        ("finetune", (("a",), ("b",)), None, ()),
        ("patch", (("a1",), ("b1",)), "pairs", ("s-0",)),
        ("finetune", (("c",),), None, ()),
        ("patch", (("c1",),), "pairs", ("s-2",)),
    ]


def test_patch_jobs_of_done_fine_tunes_wait_for_nothing() -> None:
    assert [shape(array) for array in arrays((), {"a": ["a1", "a2"]})] == [("patch", (("a1",), ("a2",)), None, ())]


def test_patch_jobs_of_a_queued_fine_tune_wait_until_it_has_ended() -> None:
    assert [shape(array) for array in arrays((), {"a": ["a1"], "b": ["b1"]}, {"a": {"other-0"}})] == [
        ("patch", (("b1",),), None, ()),
        ("patch", (("a1",),), "any", ("other-0",)),
    ]


def test_a_patch_job_is_split_over_tasks() -> None:
    found = [array for array in arrays("a", {"a": ["a1"]}, split=3) if array.stage == "patch"]
    assert [(array.part, array.parts, array.after) for array in found] == [(part, 3, ("s-0",)) for part in range(3)]


def test_nothing_to_do_is_no_array() -> None:
    assert arrays() == []


@st.composite
def work(draw: st.DrawFn) -> dict:
    """Runs that are to do, done, or queued, each with some patch jobs to do."""
    every = [f"r{number}" for number in range(draw(st.integers(0, 12)))]
    where = {run: draw(st.sampled_from(["to do", "done", "queued"])) for run in every}
    counts = {run: draw(st.integers(0, 3)) for run in every}
    return {
        "runs": [run for run in every if where[run] == "to do"],
        "patches": {run: [f"{run}.{number}" for number in range(count)] for run, count in counts.items() if count},
        "queued": {run: {draw(st.sampled_from(["x-0", "y-0"]))} for run in every if where[run] == "queued"},
        "limit": draw(st.integers(1, 5)),
        "pack": draw(st.integers(1, 4)),
        "split": draw(st.integers(1, 3)),
    }


@given(work())
def test_each_fine_tune_is_in_one_task_and_each_patch_job_in_one_of_each_part(work: dict) -> None:
    found = arrays(**work)
    runs = Counter(run for array in found if array.stage == "finetune" for task in array.tasks for run in task)
    assert runs == Counter(work["runs"])
    patches = Counter(
        (patch, array.part, array.parts)
        for array in found
        if array.stage == "patch"
        for task in array.tasks
        for patch in task
    )
    split = work["split"]
    assert patches == Counter(
        (patch, part, split) for ids in work["patches"].values() for patch in ids for part in range(split)
    )


@given(work())
def test_arrays_fit_have_names_of_their_own_and_wait_for_earlier_ones(work: dict) -> None:
    known = {"x-0", "y-0"}
    for array in arrays(**work):
        assert 1 <= len(array.tasks) <= work["limit"]
        assert all(1 <= len(task) <= work["pack"] for task in array.tasks)
        assert array.name not in known and set(array.after) <= known
        known.add(array.name)


@given(work())
def test_what_a_patch_job_waits_for_is_its_fine_tune(work: dict) -> None:
    found = arrays(**work)
    named = {array.name: array for array in found}
    for array in found:
        for number, task in enumerate(array.tasks if array.stage == "patch" else ()):
            runs = [patch.partition(".")[0] for patch in task]
            if array.wait == "pairs":
                (first,) = array.after
                assert named[first].tasks[number] == tuple(runs)
                assert len(named[first].tasks) == len(array.tasks)
            elif array.wait == "any":
                assert all(work["queued"][run] == set(array.after) for run in runs)
            else:
                assert not {*runs} & {*work["runs"], *work["queued"]}


def text(launcher: SlurmConfig, stage: str = "finetune", dependency: str | None = None, tasks: int = 3) -> list[str]:
    """The lines of a batch script."""
    array = Array(stage, tuple((str(number),) for number in range(tasks)), name="s-0")  # type: ignore[arg-type]
    given = parameters(array, launcher, dependency)
    return _make_sbatch_string(command="work", folder="jobs", map_count=tasks, **given).splitlines()


def option(name: str, value: object = None) -> str:
    return f"#SBATCH --{name}" + ("" if value is None else f"={value}")


ARRIVES = {
    "partition=low": option("partition", "low"),
    "account=mine": option("account", "mine"),
    "qos=long": option("qos", "long"),
    "constraint=a100": option("constraint", "a100"),
    "time=90": option("time", 90),
    "memory=8G": option("mem", "8G"),
    "cpus=6": option("cpus-per-task", 6),
    "gpus=2": option("gpus-per-node", 2),
    "setup=[module load cuda]": "module load cuda",
    "sbatch={nice: 100}": option("nice", 100),
}


def test_every_resource_is_tried() -> None:
    assert {setting.partition("=")[0] for setting in ARRIVES} == set(ResourcesConfig.model_fields)


@pytest.mark.parametrize(("setting", "line"), ARRIVES.items())
def test_requested_resources_arrive(launcher: Callable[..., SlurmConfig], setting: str, line: str) -> None:
    for stage, other in (("finetune", "patch"), ("patch", "finetune")):
        assert line in text(launcher(setting), stage)
        assert line in text(launcher(f"{stage}.{setting}"), stage)
        assert line not in text(launcher(f"{stage}.{setting}"), other)


def test_resources_not_requested_are_left_to_the_cluster(launcher: Callable[..., SlurmConfig]) -> None:
    said = "\n".join(text(launcher()))
    for word in ("partition", "account", "qos", "constraint", "mem=", "cpus-per-task", "gpus"):
        assert f"#SBATCH --{word}" not in said


def test_a_stage_s_own_settings_come_before_those_of_both(launcher: Callable[..., SlurmConfig]) -> None:
    asked = launcher("time=60", "gpus=1", "setup=[a]", "sbatch={nice: 1, mail_type: END}")
    both = resources(asked, "finetune")
    assert (both.time, both.gpus, both.setup, both.sbatch) == (60, 1, ("a",), {"nice": 1, "mail_type": "END"})
    mixed = launcher(
        "time=60", "gpus=1", "setup=[a]", "sbatch={nice: 1, mail_type: END}",
        "patch.time=5", "patch.gpus=0", "patch.setup=[b]", "patch.sbatch={nice: 2}",
    )  # fmt: skip
    own = resources(mixed, "patch")
    assert (own.time, own.gpus, own.setup, own.sbatch) == (5, 0, ("a", "b"), {"nice": 2, "mail_type": "END"})
    lines = text(mixed, "patch")
    assert lines.index("a") < lines.index("b")
    assert not any("gpus" in line for line in lines), "no GPU is none, not the other stage's"
    assert option("mail-type", "END") in lines


def test_gpu_hours_are_those_of_every_task(launcher: Callable[..., SlurmConfig]) -> None:
    asked = launcher("time=30", "gpus=2", "patch.time=120", "patch.gpus=1")
    tasks = (("a",), ("b",))
    assert gpu_hours([Array("finetune", tasks), Array("patch", tasks), Array("patch", tasks)], asked) == 2 * 1 + 4 * 2
    assert gpu_hours([Array("finetune", tasks)], launcher()) == 0


def test_jobs_are_known_by_name_and_come_back(launcher: Callable[..., SlurmConfig]) -> None:
    lines = text(launcher())
    assert {option("job-name", "s-0"), option("comment", "s-0"), option("requeue")} <= set(lines)
    assert option("array", "0-2%3") in lines
    assert option("open-mode", "append") in lines, "a second attempt does not clear the log of the first"
    assert option("array", "0-2%2") in text(launcher("max_running=2"))


def test_a_dependency_that_cannot_be_met_ends_the_job(launcher: Callable[..., SlurmConfig]) -> None:
    lines = text(launcher(), dependency="aftercorr:7")
    assert {option("dependency", "aftercorr:7"), option("kill-on-invalid-dep", "yes")} <= set(lines)
    assert not any("dep" in line for line in text(launcher()))


@pytest.mark.parametrize(("minutes", "notice"), [(1, 15), (4, 60), (8, 120), (600, 120)])
def test_notice_before_the_time_limit_leaves_time_to_work(
    launcher: Callable[..., SlurmConfig], minutes: int, notice: int
) -> None:
    assert option("signal", f"USR2@{notice}") in text(launcher(f"time={minutes}"))


def test_srun_takes_over_the_cpus_after_which_come_the_user_s_own_lines(launcher: Callable[..., SlurmConfig]) -> None:
    lines = text(launcher("setup=[module load cuda]"))
    export = 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"'
    assert lines.index(export) < lines.index("module load cuda") < lines.index("export SUBMITIT_EXECUTOR=slurm")

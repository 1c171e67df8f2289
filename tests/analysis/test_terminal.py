"""`mi-sweeps show`: one run in a terminal, in any state, with colour and without."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.color import ColorType

from mi_sweeps import cli
from mi_sweeps.analysis import terminal
from mi_sweeps.analysis.folder import find
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference import words
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.families import family, jobs
from mi_sweeps.analysis.summaries import recovered
from mi_sweeps.commands import common
from mi_sweeps.errors import UserError
from mi_sweeps.lines import Lines

RUN = "run-0.0001-constant-0"
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def call(capsys, monkeypatch):
    """Runs `show`; gives the exit code, what it printed and what it complained of."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stopped:
            cli.main(["show", *map(str, arguments)])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


def seen(output, id=RUN, width=80, colour="truecolor", site="z", step=None, encoding="utf-8"):
    """What a terminal of that width and those colours shows."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, newline="\n", errors="replace")
    console = Lines(file=file, width=width, force_terminal=colour is not None, color_system=colour, highlight=False)
    terminal.show(console, find(output, id), site, step)
    file.flush()
    return raw.getvalue().decode(encoding)


def heatmap(text, marks="●·*?"):
    """The numbers of the first heatmap, by layer and head, without their marks."""
    text = text.translate(dict.fromkeys(map(ord, marks), " "))
    title = r"layer\s+×\s+head\s+\(\S+\s+prompts\)\n"  # which a narrow terminal has in two lines
    lines = re.split(title, ESCAPE.sub("", text))[1].splitlines()[1:]
    rows = []
    for line in lines:
        layer, *values = line.split()
        if layer != str(len(rows)):
            return rows
        rows.append(values)
    return rows


def test_a_run_that_is_done(call, make_output):
    output = make_output(lrs=(1e-4, 3e-4))
    code, printed, complaint = call(RUN, f"output={output}")
    assert (code, complaint) == (0, "")
    lines = printed.splitlines()
    assert lines[0] == f"run {RUN} done after 62 s, 1 attempt, on node1"
    assert lines[1] == "  mini, ioi3, lr 0.0001, schedule constant, seed 0, 24 steps of 16 prompts"
    assert lines[2] == "  sweep demo: optim.lr=0.0001 schedule=constant seed=0"
    (held_out,) = [line.split() for line in lines if line.startswith("  heldout")]
    assert held_out[1][0] == "▃" and held_out[1][-1] == "█" and len(held_out[1]) == 4
    assert (held_out[2], held_out[-1]) == ("30.0%", "120")
    assert f"patch job {RUN}-first, first corruption done" in printed
    assert f"patch job {RUN}-second, second corruption done" in printed
    assert "layer  attn" in printed
    assert f"metrics: {output}/runs/{RUN}/metrics.parquet" in printed
    assert f"tables: {output}/runs/{RUN}/patches/{RUN}-second/tables" in printed
    assert "wandb" not in printed
    assert max(len(line) for line in lines if "/" not in line and RUN not in line) <= 80


def test_the_heads_are_those_of_the_tables(make_output):
    output = make_output(corruptions=("first",))
    rows = load(output).patching.query("site == 'v' and step == 16")
    values = rows.assign(recovered=recovered(rows)).pivot(index="layer", columns="head", values="recovered")
    result = heatmap(seen(output, site="v", step=16, colour=None))
    assert [[float(value) for value in row] for row in result] == values.round(2).to_numpy().tolist()


def test_colour_is_on_the_ground_of_the_numbers_and_not_in_a_pipe(make_output, monkeypatch):
    output = make_output(corruptions=("first",))
    assert "48;2;" in seen(output)
    assert "48;5;" in seen(output, colour="256")
    assert heatmap(seen(output)) == heatmap(seen(output, colour=None))
    assert "\x1b" not in seen(output, colour=None)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2;" not in seen(output)
    assert len(heatmap(seen(output))) == 4


@pytest.mark.parametrize("colours", ["truecolor", "256", "standard", "windows"])
@pytest.mark.parametrize("sign", [1, -1])
def test_more_is_darker_and_of_the_same_hue_however_few_colours_there_are(colours, sign):
    """Red above 0 and blue below, and never purple on the way."""
    luminance = []
    for share in np.linspace(0, 1, 101):
        ground = terminal._ground(sign * share, colours).bgcolor
        few = {"truecolor": ColorType.TRUECOLOR, "256": ColorType.EIGHT_BIT}
        assert ground.type == few.get(colours, ColorType.STANDARD)
        red, green, blue = ground.get_truecolor()
        assert (red >= max(green, blue) and abs(green - blue) <= 20) if sign > 0 else blue >= max(red, green)
        luminance.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    assert luminance == sorted(luminance, reverse=True) and luminance[0] > 190 > 100 > luminance[-1]
    ends = [terminal._ground(sign * share, colours).bgcolor for share in (0.96, 1.0, 3.0)]
    assert ends[1] == ends[2] and (colours == "truecolor" or ends[0] == ends[1])


def test_where_numbers_do_not_fit_they_are_in_percent_and_then_colours_only(make_output):
    output = make_output(corruptions=("first",), layers=2, heads=16)
    wide, narrow = (heatmap(seen(output, width=width, colour=None)) for width in (120, 80))
    assert [[round(100 * float(value)) for value in row] for row in wide] == [list(map(int, row)) for row in narrow]
    assert heatmap(seen(output, width=50)) == [[], []]
    assert "16 heads need 70 columns; there are 50" in seen(output, width=50, colour=None)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_cut_off_by_a_narrow_terminal(make_output, width):
    """Lines are shorter there."""
    output = make_output(corruptions=("first",), by_prompt=True)
    printed = ESCAPE.sub("", seen(output, width=width))
    assert "…" not in printed
    assert [line for line in printed.splitlines() if len(line.rstrip()) > width and "/" not in line] == []
    wide = ESCAPE.sub("", seen(output, width=300))
    numbers = [re.findall(r"-?\d+\.\d+%?", text) for text in (printed, wide)]
    assert numbers[0] == numbers[1]


def judged(output):
    """The family of z of the run's one patch job."""
    frames = load(output)
    return family("z", jobs(frames.output, frames.runs, frames.patches["patch_id"]))


def test_sentences_and_marks_of_heads_are_their_verdicts(make_output):
    output = make_output(corruptions=("first",), by_prompt=True)
    own = judged(output)
    printed = seen(output, colour=None, width=400)
    for sentence in words.sentences(own, courses(own)):
        assert f"  {sentence}" in printed
    assert "for other prompts in this run, not for other seeds" in printed
    of_head = dict(zip(own.places, own.judged.words[own.at(24)], strict=True))
    assert {"matters", "undecided"} <= set(of_head.values())
    marked = heatmap(printed, marks="")
    for (layer, head, _), verdict in of_head.items():
        mark = {"matters": "●", "undecided": "·"}.get(verdict, "")
        assert re.sub(r"[-\d.]", "", marked[layer][head]) == mark
    assert "● matters   · undecided   no mark: small (less than 0.05 either way)" in printed
    letters = seen(output, colour=None, width=400, encoding="ascii")
    assert "* matters   ? undecided" in letters and letters.count("*") == printed.count("●")


def test_a_row_for_each_head_that_matters_with_its_interval_and_its_course(make_output):
    output = make_output(corruptions=("first",), by_prompt=True)
    own = judged(output)
    printed = seen(output, colour=None, width=200)
    rows = printed.split("heads that matter at any checkpoint, over 4 checkpoints, 0 to 24\n")[1].splitlines()[1:]
    ever = own.grid(own.judged.matter()).any(axis=0)
    low, high = own.interval
    for number, one in enumerate(courses(own)):
        result = [row for row in rows if row.startswith(f"  {words.name(one.place)} ")]
        assert len(result) == ever[number]
        at = own.at(24).start + number
        for row in result:
            assert words.range_of(low[at], high[at]) in row and one.course.value in row
            assert one.onset is None or f"onset {one.onset} [{one.onset_low}, " in row


def test_nothing_undecided_is_concluded(make_output):
    printed = seen(make_output(corruptions=("first",)), colour=None, width=200)  # Without values of prompts.
    assert "No head is shown to matter at checkpoint 24." in printed and "nothing can be concluded" in printed
    assert "no head is shown to matter; the largest, over 4 checkpoints" in printed
    assert "●" not in heatmap(printed, marks="")


def test_without_a_gap_there_are_no_numbers_and_the_reason(make_output):
    text = seen(make_output(by_prompt=True), step=0, colour=None)
    assert set(heatmap(text)[0]) == {"–"}
    assert "–: not defined: the corruption makes no measurable difference there" in text


def test_a_terminal_without_blocks_has_the_numbers(make_output):
    text = seen(make_output(), colour=None, encoding="ascii")
    assert re.search(r"heldout +30.0% ", text)


def test_a_run_that_failed_says_why_and_where_to_read_on(call, make_output, folders):
    output = make_output()
    folders.write_run(output, "broken", state="failed", error="RuntimeError: no [memory] left")
    code, printed, _ = call("broken", f"output={output}")
    assert code == 0
    assert printed.splitlines()[:3] == [
        "run broken failed after 62 s, 1 attempt, on node1",
        "  RuntimeError: no [memory] left",
        f"  traceback: {output}/runs/broken/error.txt",
    ]


def test_a_patch_job_that_failed_does_not_hide_the_others(call, make_output, folders):
    output = make_output(corruptions=("first",))
    folders.write_patch(output, RUN, "lost", "second", state="failed", error="KeyError: 'z'", steps=())
    _, printed, _ = call(RUN, f"output={output}")
    assert "patch job lost, second corruption failed" in printed and "KeyError: 'z'" in printed
    assert len(heatmap(printed)) == 4


def test_a_run_that_was_never_started(call, make_output, folders):
    output = make_output()
    point = folders.point("planned", "planned-first", "first", **{"optim.lr": "1e-5", "patching": "heads"})
    folders.write_sweep(output, "later", [point])
    code, printed, _ = call("planned", f"output={output}")
    assert code == 0
    assert printed.splitlines() == [
        "run planned to do", "  sweep later: optim.lr=1e-5", "", "patch job planned-first, first corruption to do",
    ]  # fmt: skip


def test_the_way_to_what_wandb_wrote(make_output):
    output = make_output()
    run = output / "runs" / RUN
    for folder in (run / "patches" / f"{RUN}-first", run):
        (folder / "wandb" / "offline-run-20261124_180000-x").mkdir(parents=True)
    assert f"`wandb leet {run / 'wandb'}`" in seen(output, colour=None, width=400)


def test_one_patch_job_by_its_id(make_output):
    text = seen(make_output(), id=f"{RUN}-sec", colour=None)
    assert text.startswith(f"run {RUN} done")
    assert "second corruption" in text and "first corruption" not in text


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(make_output):
    output = make_output(seeds=(0, 1), lrs=(1e-4, 3e-4))
    assert find(output, "run-0.0003-constant-1").runs[0].run_id == "run-0.0003-constant-1"
    assert find(output, f"{RUN}-s").runs[0].run_id == RUN
    with pytest.raises(UserError, match="run-0.0003: 6 ids begin with this, such as run-0.0003-constant-0 and"):
        find(output, "run-0.0003")


def test_a_collapsed_run_is_reported(make_output, folders, call, capsys, monkeypatch):
    output = make_output()
    folders.turn(output, RUN)
    assert "worse than at the start: the 95% interval" in call(RUN, f"output={output}")[1]
    monkeypatch.setattr(common, "sweeps", lambda options: (output, None))
    with pytest.raises(SystemExit):
        cli.main(["report"])
    assert f"worse than at the start: 1 ({RUN})" in capsys.readouterr().out


def test_an_id_of_a_patch_job_of_no_sweep(make_output, folders):
    output = make_output()
    folders.write_run(output, "by-hand")
    folders.write_patch(output, "by-hand", "own", "second")
    (run,) = find(output, "own").runs
    assert (run.run_id, [patch.patch_id for patch in run.patches]) == ("by-hand", ["own"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nothing",), "nothing: no run or patch job of that id in "),
        (("run-",), "run-: 6 ids begin with this, such as "),
        ((), "show: give one id"),
        ((RUN, "another"), "show: give one id"),
        (
            (RUN, "--site", "resid_pre"),
            "--site resid_pre: heads were not patched; there are: z, q, k, v, pattern",
        ),
        ((RUN, "--step", "5"), "--step 5: not examined; there are: 0, 8, 16, 24"),
    ],
)
def test_bad_input_is_one_line(call, make_output, words, complaint):
    code, _, complained = call(*words, f"output={make_output(seeds=(0, 1))}")
    assert code == 2
    assert complained.startswith(f"error: {complaint}") and complained.count("\n") == 1


def test_a_sweep_of_one_cell_has_nothing_behind_its_name(make_output, folders):
    output = make_output(corruptions=("first",))
    folders.write_sweep(output, "demo", [folders.point(RUN, f"{RUN}-first", "first")])
    assert "  sweep demo" in seen(output, colour=None).splitlines()


def test_of_a_series_it_says_where_the_checkpoints_are_and_which_are_not(call, make_series):
    output = make_series(by_prompt=True)
    code, printed, complaint = call("series", f"output={output}")
    assert (code, complaint) == (0, "")
    lines = printed.splitlines()
    assert lines[1] == "  series, ioi3: 3 of 4 checkpoints, /their/run{seed}/checkpoint-{step}"
    assert lines[2] == "  no checkpoint at 16: /their/run/checkpoint-16: not there"
    assert not re.search(r"\b(lr|schedule|seed \d|None|batch)\b", printed.split("win rate")[0])
    (held_out,) = [line for line in lines if line.startswith("  heldout")]
    assert re.search(r"[▁-█]{2} [▁-█] ", held_out)
    layer = next(line for line in lines if line.startswith("  0 "))
    assert len(re.findall(r"[▁-█]{2} [▁-█] ", layer)) == 2


def test_the_course_of_a_head_has_a_space_where_there_is_no_checkpoint(call, make_series):
    output = make_series(by_prompt=True, corruptions=("first",), steps=range(0, 48, 8), missing_steps={32: "gone"})
    (head,) = [line for line in call("series", f"output={output}")[1].splitlines() if line.startswith("  3.2 ●")]
    assert re.search(r"[▁-█] [▁-█] ", head)


def test_seeds_of_a_series_say_which(call, make_series):
    output = make_series(seeds=(1, 2), corruptions=("first",))
    assert call("series-1", f"output={output}")[1].splitlines()[1].startswith("  series, ioi3, seed 1: 4 checkpoints, ")


def test_a_trainer_s_log_is_shown_separately(call, make_series):
    output = make_series(corruptions=("first",))
    file = output / "runs" / "series" / "metrics.parquet"
    found = pd.read_parquet(file)
    theirs = [(step, "trainer", "loss", 3 - step / 10, 0) for step in range(1, 21)]
    pd.concat([pd.DataFrame(theirs, columns=found.columns), found]).to_parquet(file)
    _, printed, _ = call("series", f"output={output}")
    own = printed.split("logged by its own trainer, steps 1 to 20\n")[1].split("\n\n")[0].splitlines()
    assert own[1].split()[0] == "loss" and own[1].split()[2:] == ["2.9", "1", "20"]
    assert own[1].split()[1][0] == "█" and own[1].split()[1][-1] == "▁"
    assert "trainer" not in printed.split("logged by")[0]  # no win rate of it

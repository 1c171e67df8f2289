"""The command line as a user calls it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pandas as pd
import pytest

from mi_sweeps.analysis import derived
from mi_sweeps.analysis.columns import TABLES as OF_RUNS
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small):
    """The sweep that the project began with: run with the first corruption only."""
    output = tmp_path_factory.mktemp("outputs")
    arguments = ["run", *small, "seed=0,1", "corruption=first", "sweep.name=begun", f"output={output}"]
    done = subprocess.run(
        [sys.executable, "-m", "mi_sweeps.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "done: 2 fine-tunes (2 done), 2 patch jobs (2 done)" in done.stdout
    return output


@pytest.fixture
def output(finished, tmp_path):
    """A copy for a test that changes it."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_the_missing_second_corruption_with_one_command(call, small, output):
    grid = [*small, "seed=0,1", "sweep.name=begun", f"output={output}"]
    code, printed, _ = call("plan", *grid, "corruption=second")
    assert code == 0
    assert "2 fine-tunes (2 done), 2 patch jobs (2 to do)" in printed
    code, printed, _ = call("run", *grid, "corruption=second")
    assert code == 0
    assert "fine-tune seed" not in printed
    assert "done: 2 fine-tunes (2 done), 2 patch jobs (2 done)" in printed
    code, printed, _ = call("run", *grid, "corruption=first,second")
    assert code == 0
    assert "nothing to do: 2 fine-tunes (2 done), 4 patch jobs (4 done)" in printed
    code, printed, _ = call("status", "begun", f"output={output}")
    assert "begun: 2 fine-tunes (2 done), 4 patch jobs (4 done)" in printed


def test_a_deleted_run_is_run_again_and_nothing_else(call, small, output):
    runs = sorted((output / "runs").iterdir())
    shutil.rmtree(runs[0])
    code, printed, _ = call("run", *small, "seed=0,1", "corruption=first", "sweep.name=begun", f"output={output}")
    assert code == 0
    assert printed.count("fine-tune seed=") == 1
    assert printed.count("patch job seed=") == 1


def test_export_gives_tidy_tables(call, finished, tmp_path):
    code, _, _ = call("export", tmp_path / "tables", "begun", f"output={finished}")
    assert code == 0
    metrics = pd.read_parquet(tmp_path / "tables" / "metrics.parquet")
    assert {"run_id", "step", "split", "metric", "value", "n"} <= set(metrics.columns)
    patching = pd.read_parquet(tmp_path / "tables" / "patching.parquet")
    columns = {"run_id", "corruption", "step", "site", "layer", "head", "position", "patched", "clean", "corrupted"}
    assert columns <= set(patching.columns)
    runs = pd.read_parquet(tmp_path / "tables" / "runs.parquet")
    assert set(runs["seed"]) == {0, 1}
    assert set(runs["status"]) == {"done"}
    code, _, _ = call("export", tmp_path / "csv", f"output={finished}", "--format", "csv")
    assert len(pd.read_csv(tmp_path / "csv" / "metrics.csv")) == len(metrics)


def test_export_of_circuits_needs_some(call, finished, tmp_path):
    code, _, result = call("export", tmp_path / "circuits", "begun", f"output={finished}", "--circuits", "mib")
    assert code == 2 and "no importances there; run patch jobs with patching=edges or circuits" in result
    assert not (tmp_path / "circuits").exists()


def test_the_report_is_one_file(call, output):
    code, printed, _ = call("report", "begun", f"output={output}")
    assert code == 0
    assert str(output / "report-begun.html") in printed
    assert (output / "report-begun.html").stat().st_size < 15e6
    assert not (output / "report.html").exists()


def test_replacing_a_page_is_reported_and_no_other_file_is_replaced(call, output, tmp_path):
    file = tmp_path / "page.html"
    file.write_text("<title>mi-sweeps: their sweep</title>")
    code, printed, _ = call("report", "begun", f"output={output}", "--to", file)
    assert code == 0 and "replaces" in printed and "their sweep" in printed
    notes = tmp_path / "notes.md"
    notes.write_text("dear diary")
    code, _, result = call("report", "begun", f"output={output}", "--to", notes)
    assert code == 2 and result.startswith(f"error: {notes}: ") and result.count("\n") == 1
    assert notes.read_text() == "dear diary"


def test_the_page_is_opened_where_there_is_a_browser(call, output, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    monkeypatch.setattr("mi_sweeps.analysis.report.write_report", lambda output, chosen, file, *_: file)
    monkeypatch.setenv("BROWSER", "firefox")
    page = tmp_path / "a page.html"
    assert call("report", f"output={output}", "--to", page, "--open")[:2] == (0, f"report: {page}\n")
    assert opened == [page.as_uri()]
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    code, printed, _ = call("report", f"output={output}", "--to", page, "--open")
    assert code == 0 and "--open: no browser on this machine" in printed and len(opened) == 1


@pytest.mark.slow
def test_figures_are_written(call, finished, tmp_path):
    to = ("--to", tmp_path / "r.html", "--figures", tmp_path / "figures")
    code, printed, _ = call("report", f"output={finished}", *to, "--no-animations")
    assert code == 0
    files = {file.name for file in (tmp_path / "figures").iterdir()}
    assert {"win-rate.png", "win-rate.svg", "win-rate.pdf", "heads-first.pdf", "figures.md"} <= files
    count = sum(name.endswith(".pdf") for name in files)
    assert f"figures: {tmp_path / 'figures'} ({count} PNG, {count} SVG, {count} PDF, {count} CSV)" in printed


def test_pictures_are_chosen_and_made_for_a_paper(call, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("mi_sweeps.commands.report.PROGRESS_SECONDS", 0)
    page, figures = tmp_path / "r.html", tmp_path / "figures"
    to = ("--to", page, "--figures", figures)
    code, _, result = call("report", f"output={finished}", *to, "--only", "win-rate,hats")
    assert code == 2 and result.startswith("error: --only hats: no such picture of these runs; there are: ")
    assert not page.exists() and not figures.exists()
    code, printed, _ = call("report", f"output={finished}", *to, "--only", "win-rate,loss", "--paper")
    assert code == 0 and "figures: 1 of 2 drawn\n" in printed and "(2 PNG, 2 SVG, 2 PDF, 2 CSV)" in printed
    code, _, result = call("report", f"output={finished}", "--to", page, "--paper")
    assert code == 2 and result.startswith("error: --paper: ") and "--figures DIR" in result


@pytest.mark.slow
def test_films_are_written_without_ffmpeg_too(call, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("mi_sweeps.analysis.animations.shutil.which", lambda program: None)
    monkeypatch.setattr("mi_sweeps.analysis.gallery.FORMATS", ())
    to = ("--to", tmp_path / "r.html", "--figures", tmp_path / "figures")
    code, printed, _ = call("report", f"output={finished}", *to)
    assert code == 0
    assert {"z-film.gif", "lens-film.gif", "scatter-v-film.gif"} <= {
        file.name for file in (tmp_path / "figures").iterdir()
    }
    assert "MP4" in printed and "ffmpeg" in printed


def test_a_run_is_shown_by_the_beginning_of_its_id(call, finished):
    (run_id, *_) = [folder.name for folder in (finished / "runs").iterdir()]
    code, printed, _ = call("show", run_id[:6], f"output={finished}", "--site", "v")
    assert code == 0
    assert f"run {run_id} done" in printed and "recovered by patching v at checkpoint 4" in printed


def test_status_has_the_win_rate_of_each_run(call, finished):
    code, printed, _ = call("status", f"output={finished}")
    head, *rows = printed.splitlines()[1:]
    assert head.rstrip().endswith("win rate")
    assert len(rows) == 2 and all(row.rstrip().endswith("%") for row in rows)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "sweep=grid"],
        ["plan", "sweep=grid", "--points"],
        *([command, "output=OUTPUT"] for command in ("status", "cancel", "logs", "sync")),
        ["status", "--points", "output=OUTPUT"],
    ],
    ids=" ".join,
)
def test_what_runs_on_a_login_node_imports_nothing_heavy(finished, arguments):
    code = (
        "import sys; from mi_sweeps import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as stopped: assert not stopped.code, stopped.code\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'datasets', 'wandb', 'submitit'}\n"
        "heavy |= {'numpy', 'pandas', 'pyarrow', 'matplotlib', 'plotly'}\n"
        "print('imported:', *heavy & set(sys.modules))"
    )
    given = [argument.replace("OUTPUT", str(finished)) for argument in arguments]
    done = subprocess.run([sys.executable, "-c", code, *given], check=True, capture_output=True, text=True)
    # The win rates in its table are Parquet: an eighth of a second, and only where there are any.
    allowed = {"numpy", "pyarrow"} if arguments == ["status", "output=OUTPUT"] else set()
    assert set(done.stdout.splitlines()[-1].removeprefix("imported:").split()) <= allowed


def test_a_failed_point_is_reported_with_its_traceback(call, small, output):
    """Two points, and one of their checkpoints is truncated: its patch job fails, the other is done."""
    run = sorted((output / "runs").iterdir())[0]
    weights = run / "checkpoints" / "000004.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    grid = [*small, "seed=0,1", "corruption=second", "sweep.name=begun", f"output={output}"]
    code, printed, _ = call("run", *grid)
    assert code == 1
    assert "1 failed" in printed
    assert "000004.safetensors: damaged" in printed
    code, printed, _ = call("logs", "begun", "--failed", f"output={output}")
    assert "Traceback" in printed
    assert "delete it and run the sweep again" in printed
    code, printed, _ = call("status", "begun", f"output={output}")
    assert "failed patch job" in printed
    # What the message says to do helps.
    weights.unlink()
    code, printed, _ = call("run", *grid, "--retry")
    assert code == 0, printed


def test_wait_on_a_finished_sweep_returns_at_once(call, finished):
    code, printed, _ = call("wait", "begun", f"output={finished}")
    assert code == 0
    assert "begun done" in printed
    assert printed.splitlines()[-1].startswith("begun done: ")


def test_status_can_be_watched_until_nobody_is_at_work(call, finished):
    code, printed, _ = call("status", "--watch", "begun", f"output={finished}")
    assert code == 0
    bar, *table = printed.splitlines()
    total = len(planning.make([entry.point(finished) for entry in manifest.load(finished, "begun")]).statuses)
    assert f"{total}/{total}" in bar
    assert any(line.startswith("begun: ") for line in table)
    assert any("patch job" in line and "fine-tune" in line for line in table)


def test_wait_on_a_sweep_that_nobody_works_on_says_so(call, output):
    shutil.rmtree(sorted((output / "runs").iterdir())[0])
    code, printed, _ = call("wait", "begun", f"output={output}")
    assert code == 1
    assert "not finished" in printed
    assert "`mi-sweeps run` resumes it" in printed


def test_cancel_where_nobody_works(call, finished):
    code, printed, _ = call("cancel", "begun", f"output={finished}")
    assert code == 0
    assert "nothing is running here" in printed


COMMANDS = (
    *(["status"], ["status", "--points"], ["cancel"], ["logs"], ["report"], ["export", "TABLES"], ["wait"]),
    *(["sync"], ["show", "RUN"]),
)


@pytest.mark.parametrize("content", ['{"name"', "[]", '{"points": [{"run_id": "a"}]}', '{"points": []}'])
def test_a_damaged_sweep_stops_no_other(call, finished, tmp_path, content):
    """It is named, and the exit code is 1; whoever names it is refused."""
    output = shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("checkpoints"))
    torn = output / "sweeps" / "torn" / "sweep.json"
    torn.parent.mkdir()
    torn.write_text(content)
    for command in COMMANDS if content == '{"name"' else (["status"], ["export", "TABLES"]):
        run_id = sorted((output / "runs").iterdir())[0].name
        given = [word.replace("TABLES", str(tmp_path / "tables")).replace("RUN", run_id) for word in command]
        code, printed, complaint = call(*given, f"output={output}")
        assert code == 1, command
        assert complaint.startswith("warning: ") and str(torn) in complaint and complaint.count("\n") == 1
        assert "begun" in printed or run_id in printed or str(tmp_path) in printed
        if command[0] in ("status", "report", "cancel"):
            code, printed, complaint = call(*given, "torn", f"output={output}")
            assert (code, printed) == (2, "")
            assert complaint.startswith(f"error: {torn}: ")
            assert call(*given, "begun", f"output={output}")[0] == 0, "named alone, the other is whole"


@pytest.mark.parametrize("file", ["status.json", "run.json", "metrics.parquet", "patches/*/tables/000004.parquet"])
def test_a_damaged_run_stops_no_other(call, finished, tmp_path, file):
    output = shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("checkpoints", "resume*"))
    first, second = sorted((output / "runs").iterdir())
    (damaged,) = first.glob(file)
    damaged.write_bytes(b"{")
    result = []
    for command in (["status"], ["show", first.name], ["export", tmp_path / "tables"]):
        code, printed, complaint = call(*command, f"output={output}")
        assert code in (0, 1) and "Traceback" not in printed + complaint
        assert complaint.count("\n") == complaint.count("warning: ") == complaint.count(str(damaged))
        result.append(str(damaged) in printed + complaint)
    runs, metrics = (pd.read_parquet(tmp_path / "tables" / f"{name}.parquet") for name in ("runs", "metrics"))
    assert set(runs["run_id"]) == {first.name, second.name}
    assert second.name in set(metrics["run_id"])
    assert any(result)
    if file == "status.json":
        assert "1 failed" in call("status", f"output={output}")[1]
        assert runs.set_index("run_id").loc[first.name, "error"].startswith(str(damaged))


@pytest.mark.parametrize(("lines", "shown"), [(0, 0), (1, 1), (99999, 99999)])
def test_the_last_lines_of_a_log(call, finished, lines, shown):
    code, printed, _ = call("logs", "begun", "--lines", lines, f"output={finished}")
    logs = sorted(finished.rglob("log.txt"))
    whole = sum(min(shown, len(log.read_text().splitlines())) for log in logs)
    assert (code, len(printed.splitlines())) == (0, whole + len(logs))


def test_logs_says_where_there_is_none(call, finished, small, tmp_path):
    code, printed, _ = call("logs", "--failed", f"output={finished}")
    assert code == 0
    assert printed.startswith("nothing failed: 2 fine-tunes (2 done), ")
    points = expand([*small, "sweep.name=later", f"output={tmp_path}"])
    manifest.add(tmp_path, "later", points, "")
    assert call("logs", f"output={tmp_path}")[1] == (
        "nothing was logged: 1 fine-tune (1 to do), 1 patch job (1 to do)\n"
    )


def test_export_says_what_it_removed(call, finished, tmp_path):
    tables = tmp_path / "tables"
    assert call("export", tables, "--by-prompt", f"output={finished}")[0] == 0
    (tables / "runs.csv").write_text("mine\n")
    code, printed, _ = call("export", tables, f"output={finished}")
    assert code == 0
    assert f"removed: {tables / 'by_prompt.parquet'}, of an earlier export\n" in printed
    assert f"left: {tables / 'runs.csv'}, which export did not write\n" in printed
    assert {file.name for file in tables.iterdir()} == {
        "runs.csv",
        *(f"{name}.parquet" for name in (*OF_RUNS, *(set(derived.TABLES) - set(derived.NEEDS)))),
    }

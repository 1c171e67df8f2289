"""The page: one file, no network, all text escaped, and panels that move together."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from mi_sweeps.analysis import folder, report
from mi_sweeps.analysis.approximate import correlations
from mi_sweeps.analysis.frames import load, recovered, tabulate
from mi_sweeps.analysis.report import write_report

HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"> & {{js}}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture
def hostile_output(make_output, folders):
    """Two seeds, a failed run and a cell to do, with hostile text wherever users may write.

    Patch jobs have all that they can have, and one has estimates only.
    """
    output = make_output(seeds=(0, 1), by_prompt=True, approximate=True, paths=True)
    run_id = "run-0.0001-constant-0"
    folders.write_patch(output, run_id, "estimates", "both", approximate=True, exact=False)
    folders.write_run(output, "bad<b>", schedule=HOSTILE, state="failed", error=HOSTILE)
    folders.write_patch(output, "bad<b>", "bad-first", "first", prompt=HOSTILE)
    folders.write_sweep(output, "later<i>", [folders.cell("absent", "absent-first", "first", schedule=HOSTILE)])
    return output


def test_the_page_is_one_file_that_loads_nothing(hostile_output):
    file = write_report(hostile_output)
    assert file == hostile_output / "report.html"
    page = Page(file.read_text())
    assert [dict(attributes).get("type") for tag, attributes in page.tags if tag == "script"] == [
        "application/json", None, None,
    ]  # fmt: skip
    assert not [tag for tag, _ in page.tags if tag in ("img", "link", "iframe", "object")]
    loads = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(target.startswith("#") for target in loads)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


def test_hostile_text_is_data_and_never_markup(hostile_output):
    text = write_report(hostile_output).read_text()
    assert "<img" not in text.split('id="data">')[1].split("</script>")[0]
    data = Page(text).data
    assert HOSTILE in data["runs"]["error"]
    assert HOSTILE in data["runs"]["schedule"]
    assert any(prompt["clean"] == HOSTILE for prompts in data["prompts"] for prompt in prompts)
    assert "<title>mi-sweeps: demo, later&lt;i&gt;</title>" in text
    assert text.count("mi-sweeps run sweep=demo") == 1  # the data is there once


def test_the_page_says_what_the_tables_say(make_output):
    output = make_output(steps=(0, 24))
    data = Page(write_report(output).read_text()).data
    block = next(block for block in data["blocks"] if block["corruption"] == "second")
    site = block["sites"]["z"]
    layout = data["layouts"][site["layout"]]
    assert (layout["axis"], layout["layers"], layout["columns"]) == ("head", [0, 1, 2, 3], [0, 1, 2, 3])
    assert data["steps"][site["steps"]] == [0, 24]
    patching = load(output).patching
    row = patching.query("corruption == 'second' and step == 24 and site == 'z' and layer == 3 and head == 1")
    shown = site["change"][1][3 * 4 + 1] / (site["clean"][1] - site["corrupted"][1])
    assert shown == pytest.approx(recovered(row).iloc[0], abs=1e-4)
    positions = data["layouts"][block["sites"]["resid_pre"]["layout"]]["columns"]
    assert positions[:2] + positions[-1:] == ["intro 1", "name 1", "end"]  # in reading order
    assert block["layer"]["components"][-2:] == ["embed", "bias"]
    assert block["layer"]["components"][:2] == ["attn 0", "mlp 0"]


def test_estimates_alone_are_shown_by_that_name(make_output, folders):
    output = make_output(steps=(0, 24), corruptions=("first",), approximate=True)
    folders.write_patch(
        output, "run-0.0001-constant-0", "estimates", "both", steps=(0, 24), approximate=True, exact=False
    )
    data = Page(write_report(output).read_text()).data
    both, estimates = data["blocks"]
    assert {"z", "resid_pre"} <= set(both["sites"])
    assert all(site.endswith(" (approximate)") for site in estimates["sites"])
    frames = load(output)
    found = correlations(frames.patching).query("site == 'z'")
    assert both["sites"]["z"]["r"] == [None, pytest.approx(found["r"].iloc[-1], abs=6e-4)]
    assert "r" not in estimates["sites"]["z (approximate)"]
    site = estimates["sites"]["z (approximate)"]
    row = frames.patching.query("corruption == 'both' and step == 24 and site == 'z' and layer == 3 and head == 1")
    shown = site["corrupted"][1] + site["change"][1][3 * 4 + 1]
    assert shown * data["unit"] == pytest.approx(row["approximate"].iloc[0], abs=2e-4)


def test_a_position_that_some_prompts_lack_has_its_own_denominator(make_output):
    output = make_output(steps=(0, 24), corruptions=("first",), by_prompt=True)
    data = Page(write_report(output).read_text()).data
    block = data["blocks"][0]
    assert block["n"] == 12
    site = block["sites"]["resid_pre"]
    columns = data["layouts"][site["layout"]]["columns"]
    patching = load(output).patching.query("step == 24 and site == 'resid_pre' and layer == 2")
    for row in patching.assign(recovered=recovered(patching)).itertuples():
        at = columns.index(row.position)
        shown = site["change"][1][2 * len(columns) + at] / site["room"][1][at]
        assert shown == pytest.approx(row.recovered, abs=1e-4)
    assert patching["n"].nunique() == 2
    whole = patching[patching["position"] == "end"].iloc[0]
    assert site["clean"][1] * data["unit"] == pytest.approx(whole["clean"], abs=1e-4)
    assert "room" not in block["sites"]["z"]


def test_estimates_and_paths_cost_the_page_little(make_output, tmp_path):
    before = len(json.dumps(Page(write_report(make_output(by_prompt=True)).read_text()).data))
    shutil.rmtree(tmp_path / "outputs")
    output = make_output(by_prompt=True, approximate=True, paths=True)
    assert len(json.dumps(Page(write_report(output).read_text()).data)) < 1.1 * before


def test_a_page_that_would_be_too_large_shows_fewer_checkpoints_and_says_so(make_output):
    output = folder.read(make_output(seeds=(0, 1), steps=range(0, 200, 8)))
    frames = tabulate(output)
    full = report.page(output, frames)
    limit = len(full.encode()) - 50_000
    small = report.page(output, frames, limit)
    assert len(small.encode()) <= limit
    data = Page(small).data
    steps = data["steps"][data["blocks"][0]["sites"]["z"]["steps"]]
    assert steps[0] == 0 and steps[-1] == 192 and len(steps) < 25
    assert re.search(r"one checkpoint in \d", data["note"])
    assert Page(full).data["note"] == ""


def test_of_a_large_sweep_some_checkpoints_are_read_and_the_page_says_so(make_output, monkeypatch):
    output = make_output(seeds=(0, 1), steps=range(0, 40, 8))
    monkeypatch.setattr(report, "MOST", 12)
    data = Page(write_report(output).read_text()).data
    assert len(data["blocks"]) == 4
    assert all(data["steps"][block["sites"]["z"]["steps"]] == [0, 16, 32] for block in data["blocks"])
    assert "shown for 2 runs, at one checkpoint in 2 and the last" in data["note"]


def test_an_empty_folder_makes_a_page(tmp_path):
    assert Page(write_report(tmp_path, to=tmp_path / "new" / "page.html").read_text()).data["blocks"] == []


WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)), true);
addEventListener("securitypolicyviolation", (event) => problems.push("blocked " + event.blockedURI));
console.error = (...words) => problems.push(words.join(" "));
</script>"""

DRIVE = """<script>
(async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const shownBy = (id) => JSON.stringify([...document.getElementById(id).data].map((trace) => trace.z));
  await wait(1500);
  const slider = document.getElementById("checkpoint");
  const ids = ["z-plot", "resid_pre-plot"];
  const before = ids.map(shownBy);
  slider.value = 1;
  slider.dispatchEvent(new Event("input"));
  await wait(500);
  const after = ids.map(shownBy);
  const caption = document.querySelector("figure:has(#z-plot) figcaption").textContent;
  const labels = [...document.querySelectorAll("#circuits-controls label")];
  const corruption = labels.find((label) => label.textContent.startsWith("Corruption")).querySelector("select");
  const drawnBefore = [...document.querySelectorAll(".plot.js-plotly-plot")].map((plot) => plot.id);
  corruption.value = "both";
  corruption.dispatchEvent(new Event("change"));
  await wait(500);
  const estimates = document.getElementById("z-approximate-plot").data?.length;
  document.querySelector("#runs-controls input[type=checkbox]").click();
  const rows = document.querySelectorAll("#runs-table tbody tr").length;
  document.querySelector("#runs-controls input[type=search]").value = "bad";
  document.querySelector("#runs-controls input[type=search]").dispatchEvent(new Event("input"));
  const result = {
    problems, rows, moved: before.map((value, i) => value !== after[i]), caption, estimates, drawn: drawnBefore,
    told: document.getElementById("checkpoint-told").textContent,
    header: document.getElementById("top").textContent, title: document.title,
    images: document.querySelectorAll("img").length,
    filtered: document.getElementById("runs-count").textContent,
  };
  const told = document.createElement("pre");
  told.textContent = btoa(encodeURIComponent(JSON.stringify(result)));
  document.body.replaceChildren(told);
})();
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to open the page")
def test_in_a_browser_the_slider_moves_all_panels(hostile_output, tmp_path):
    text = write_report(hostile_output).read_text()
    watched = text.replace("<title>", WATCH + "<title>", 1).replace("</body>", DRIVE + "</body>")
    page = tmp_path / "watched.html"
    page.write_text(watched)
    switches = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    switches += " --disable-component-update --disable-sync --window-size=1280,9000 --virtual-time-budget=6000"
    command = [
        CHROMIUM,
        *switches.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        page.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    result = json.loads(unquote(base64.b64decode(re.search(r"<pre>([\w+/=]+)</pre>", shown)[1]).decode()))
    assert result["problems"] == []
    assert set(result["drawn"]) >= {
        *("curves-plot", "lens-plot", "layer-plot", "z-plot", "v-plot", "pattern-plot"),
        *("resid_pre-plot", "attn_out-plot", "mlp_out-plot"),
    }
    assert result["moved"] == [True, True]
    assert re.search(r"approximate against exact: r -?0\.\d{3} to -?0\.\d{3}, n 16", result["caption"])
    assert result["estimates"] == 1
    assert result["told"] == "checkpoint 8 (2 of 4)"
    assert result["rows"] == 3  # two cells and the one to do
    assert result["filtered"] == "1 of 4 runs"
    assert HOSTILE in result["header"]
    assert (result["images"], result["title"]) == (0, "mi-sweeps: demo, later<i>")

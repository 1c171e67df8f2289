const SETTINGS = [
  ["model", "model"], ["task", "task"], ["lr", "lr"], ["weight_decay", "weight decay"], ["schedule", "schedule"],
  ["steps", "steps"], ["batch_size", "batch"],
];
const COLUMNS = [
  ["run_id", "run"], ["sweep", "sweep"], ...SETTINGS, ["seed", "seed"], ["status", "status"],
  ["patched", "patch jobs done"], ["win_rate", "held-out win rate (95%)"], ["first_step", "first step at 90%"],
  ["attempts", "attempts"], ["seconds", "seconds"], ["host", "host"], ["error", "error"],
];
const ALWAYS = new Set(["run_id", "seed", "status", "patched", "win_rate", "first_step"]);

const visibleRuns = () => {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (run) => COLUMNS.map(([key]) => run[key] ?? "").concat(run.cell ?? "", planned(run)).join(" ").toLowerCase();
  return RUNS.filter((run) => words.every((word) => text(run).includes(word)));
};

function drawTableControls() {
  const search = h("input", { type: "search", placeholder: "words, e.g. cosine 0.0001", input: (event) => {
    state.filter = event.target.value;
    drawTable();
    redraw("curves-pictures");
  } });
  $("runs-controls").append(
    h("label", {}, "Filter runs (table and curves)", search),
    h("fieldset", {}, h("legend", {}, "Seeds"), h("div", { class: "choices" },
      checkbox("fold into mean and 95% interval", state.fold, (on) => { state.fold = on; drawTable(); }))),
    h("span", { class: "quiet", id: "runs-count", "aria-live": "polite" }),
  );
  const same = SETTINGS.filter(([key]) => !shown(key) && valuesOf(key).length);
  if (same.length) {
    $("runs-same").textContent = `The same for all runs: ${same.map(([key, name]) => `${name} ${written(valuesOf(key)[0])}`).join(", ")}.`;
  }
}

const written = (value) => (typeof value === "number" ? number(value) : String(value));
const valuesOf = (key) => unique(RUNS.map((run) => run[key]).filter((value) => known(value) && value !== ""));
/** A column that is worth its place: what differs between runs, and errors. */
const shown = (key) => ALWAYS.has(key) || valuesOf(key).length > (key === "error" ? 0 : 1) || (RUNS.length === 1 && !SETTINGS.some(([name]) => name === key));

function drawTable() {
  const runs = visibleRuns();
  $("runs-count").textContent = `${runs.length} of ${count(RUNS.length, "run")}`;
  const foldable = new Set(["run_id", "seed", "attempts", "host", "error"]);
  const columns = COLUMNS.filter(([key]) => shown(key) && !(state.fold && foldable.has(key)));
  if (state.fold) columns.unshift(["n", "runs"]);
  const rows = state.fold ? folded(runs) : runs;
  const { key, up } = state.sort;
  if (key) rows.sort((a, b) => (known(a[key]) && known(b[key]) && !up ? -1 : 1) * compare(a[key], b[key]));
  const sortBy = (name) => () => {
    state.sort = { key: name, up: state.sort.key === name ? !state.sort.up : true };
    drawTable();
    $("runs-table").querySelector(`[data-key="${name}"]`).focus();
  };
  $("runs-table").replaceChildren(
    h("thead", {}, h("tr", {}, columns.map(([name, label]) =>
      h("th", { scope: "col", "aria-sort": key === name ? (up ? "ascending" : "descending") : "none" },
        h("button", { type: "button", "data-key": name, click: sortBy(name) }, label))))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([name]) => h("td", { class: name === "error" || name === "sweep" ? "" : "short" }, cellOf(row, name)))))),
  );
}

function cellOf(run, name) {
  const value = run[name];
  if (name === "run_id" && blocksOf(`run:${run.index}`).length) {
    return h("button", { type: "button", title: "show its circuits", click: () => showCircuits(`run:${run.index}`) }, value);
  }
  if (name === "status") return h("span", { class: value.split(" ")[0].replace(/[^a-z]/g, "") }, value);
  if (name === "win_rate" && run.interval) return run.interval;
  if (name === "win_rate" && known(value)) {
    const { low, high } = wilson(value, run.win_n);
    return `${value.toFixed(3)} [${low.toFixed(2)}, ${high.toFixed(2)}] n ${run.win_n}`;
  }
  if (name === "first_step" && run.steps_told) return run.steps_told;
  if (name === "first_step" && !known(value) && known(run.win_rate)) return "not reached";
  return known(value) ? written(value) : "";
}

/** One row a cell: its runs differ in their seed only. */
function folded(runs) {
  return unique(runs.map((run) => run.cell ?? planned(run))).map((cell) => {
    const of = runs.filter((run) => (run.cell ?? planned(run)) === cell);
    const all = (key) => of.map((run) => run[key]).filter(known);
    const { mean: rate, low, high, n } = band(all("win_rate"));
    const first = all("first_step");
    const states = unique(all("status")).sort();
    return {
      ...of[0], n: of.length, sweep: unique(all("sweep")).join(", "),
      status: states.map((status) => `${status} ${of.filter((run) => run.status === status).length}`).join(", "),
      seconds: all("seconds").length ? mean(all("seconds")) : null,
      patched: `${all("patched").reduce((sum, text) => sum + Number(text.split("/")[0]), 0)}/${all("patched").reduce((sum, text) => sum + Number(text.split("/")[1]), 0)}`,
      win_rate: n ? rate : null,
      interval: n ? `${rate.toFixed(3)}${n > 1 ? ` [${Math.max(0, low).toFixed(2)}, ${Math.min(1, high).toFixed(2)}]` : ""} over ${count(n, "run")}` : null,
      first_step: first.length ? mean(first) : null,
      steps_told: n ? `${first.length ? `${number(mean(first))} mean, ` : ""}${first.length} of ${n} reach it` : null,
    };
  });
}

// Which runs are shown, and in which rows and columns: a row is a run, or the runs that share some settings.

/** `result`: a number per run; groups have its mean and interval, and it is compared with the baseline. */
const COLUMNS = [
  { key: "run_id", label: "run", kind: "Run" }, { key: "sweep", label: "sweep", kind: "Run" },
  ...FACTORS.map(([key, label]) => ({ key, label, kind: "Settings" })), { key: "seed", label: "seed", kind: "Settings" },
  { key: "status", label: "status", kind: "Run" }, { key: "outcome", label: "outcome", kind: "Run" }, { key: "missing_steps", label: "missing steps", kind: "Run" }, { key: "patch_jobs", label: "patch jobs done", kind: "Run" },
  { key: "win_rate", label: "held-out win rate", kind: "Results", result: true, share: true },
  { key: "first_step", label: "first step", kind: "Results", result: true },
  ...METRICS.map((key) => ({ key, label: metricText(key), kind: "Results at the last checkpoint", result: true, share: /win_rate|preferred/.test(key) })),
  { key: "seconds", label: "seconds", kind: "Run", result: true }, { key: "attempts", label: "attempts", kind: "Run" },
  { key: "host", label: "host", kind: "Run" }, { key: "error", label: "error", kind: "Run" }, { key: "links", label: "links", kind: "Run" },
  ...TOP_HEADS_COLUMNS,
  ...Object.keys(DATA.config.differs).filter((key) => !SAME_AS.has(key) && !DATA.config.factors.includes(key))
    .map((key) => ({ key, label: key, kind: "Configuration (keys that differ)" })),
];
const ALWAYS = new Set(["run_id", "seed", "status", "patch_jobs", "win_rate", "first_step"]);
const OF_ONE_RUN = new Set(["run_id", "attempts", "host", "error", "links"]);

const hasLinks = Object.values(DATA.links).some((of) => of.some(known));

/** The columns shown by default: whatever differs between runs, and errors. */
function shownAtFirst({ key, kind }) {
  if (state.group !== null && OF_ONE_RUN.has(key)) return false;
  if (key === "seed" && RUNS.length && !differing("seed").length) return false;  // a single series
  if (ALWAYS.has(key)) return true;
  if (key === "links") return hasLinks;
  if (kind === TOP_HEADS_KIND) return RUNS.some((run) => known(run[key]));
  if (kind.startsWith("Configuration") || kind.startsWith("Results at")) return false;
  return differing(key).length > (["error", "missing_steps"].includes(key) ? 0 : 1) || (RUNS.length === 1 && kind !== "Settings");
}

const columnsShown = () => COLUMNS.filter((column) => (state.columns ? state.columns.includes(column.key) : shownAtFirst(column)));
const columnText = ({ key, label }) => (key === "first_step" ? `first step at ${LEARNED === "win_rate" ? "" : `${LEARNED} `}${written(state.curves.thresholds[LEARNED] ?? "no threshold")}` : label);

/** The runs that the filter selects, for the whole page. */
let filter = parse("");
const accepts = (run) => filter.accepts(run);
const visibleRuns = () => RUNS.filter(accepts);

/** The rows of the table: {id, text, runs}. */
function rowsShown(runs = visibleRuns()) {
  if (state.group === null) return runs.map((run) => ({ id: run.run_id, text: [run.run_id, runText(run)].filter(Boolean).join(", "), runs: [run] }));
  const groups = new Map();
  for (const run of runs) {
    const values = state.group.map((key) => run[key] ?? null);
    const id = JSON.stringify(values);
    if (!groups.has(id)) groups.set(id, { id, text: groupText(state.group, values), runs: [] });
    groups.get(id).runs.push(run);
  }
  return [...groups.values()].map((group) => ({ ...group, runs: eachRunOnce(group.runs) }));
}

const labelOf = (key) => GROUPABLE.find(([name]) => name === key)?.[1] ?? key;
const groupText = (keys, values) => keys.map((key, i) => `${labelOf(key)} ${known(values[i]) ? written(values[i]) : "none"}`).join(", ") || "all runs";

function setFilter(text) {
  const parsed = parse(text);
  $("filter-error").textContent = parsed.error ?? "";
  $("filter").setAttribute("aria-invalid", Boolean(parsed.error));
  if (parsed.error) return;
  state.filter = text;
  filter = parsed;
  runsChanged();
}

/** After another choice of rows, columns or runs: redraws all that depends on it. */
function runsChanged() {
  drawSettings();
  drawFindings();
  drawTable();
  drawDifferences();
  redraw("curves-pictures", "glance-pictures", "differences-pictures");
  filterUnits();
  saveView();
}

function drawTableControls() {
  const search = h("input", {
    type: "search", id: "filter", value: state.filter, placeholder: differing("lr").length ? "lr>=1e-4 status=done cosine" : "status=done", autocomplete: "off", spellcheck: "false",
    "aria-describedby": "filter-error filter-help", input: (event) => setFilter(event.target.value),
  });
  $("runs-filter").replaceChildren(
    h("label", {}, "Filter runs", search),
    h("span", { class: "quiet", id: "runs-count", "aria-live": "polite" }),
    h("p", { id: "filter-error", class: "wrong", role: "status" }),
    h("p", { id: "filter-none", class: "quiet", role: "status" }),
    h("details", { id: "filter-help", class: "quiet" }, h("summary", {}, "How to filter"),
      h("p", {}, "Words are searched in a run's id, settings, status, host and error. ", h("code", {}, "key=value"), " and ", h("code", {}, "!="),
        " compare, with commas between several values; ", h("code", {}, ">= > <= <"), " compare numbers. All terms must hold: ",
        h("code", {}, "lr>=1e-4 schedule=cosine,constant seed!=2 win_rate<0.9"), "; or any of them, with ", h("code", {}, "or"), " between all terms. ",
        h("code", {}, 'error=""'), " finds runs without a value. A column's name works as a key, ", h("code", {}, "first step<=16"), ". Keys: ",
        h("code", {}, unique([...FACTORS.map(([key]) => key), ...FACTS, ...TOP_HEADS_COLUMNS.map(({ key }) => key), ...SERIES.keys()]).join(" ")), ", and every configuration key.")));
  const same = SETTINGS.filter(([key]) => differing(key).length === 1 && RUNS.length > 1);
  const isOfAll = ([key]) => RUNS.every((run) => !known(run.setting) || known(run[key]));
  const sameFor = (which, settings) => (settings.length ? `The same for all ${which}: ${settings.map(([key, name]) => `${name} ${written(differing(key)[0])}`).join(", ")}. ` : "");
  $("runs-same").textContent = sameFor("runs", same.filter(isOfAll)) + sameFor("runs with a value", same.filter((one) => !isOfAll(one)));
  drawRowControls();
}

function drawRowControls() {
  const seedless = GROUPABLE.map(([key]) => key).filter((key) => key !== "seed" && key !== "sweep" && !isOfTopHeads(key));
  const group = (keys) => { state.group = keys; drawRowControls(); runsChanged(); };
  const folded = state.group !== null && state.group.join(" ") === seedless.join(" ");
  const toggled = (key, on) => GROUPABLE.map(([name]) => name).filter((name) => (name === key ? on : state.group?.includes(name)));
  const rows = rowsShown(RUNS);
  if (state.baseline !== null && !rows.some((row) => row.id === state.baseline)) state.baseline = null;
  replaceControls($("runs-controls"),
    h("fieldset", {}, h("legend", {}, "Group rows by"), h("div", { class: "choices" },
      GROUPABLE.map(([key, label]) => checkbox(label, state.group?.includes(key) ?? false, (on) => {
        const keys = toggled(key, on);
        group(keys.length ? keys : null);
      })),
      h("button", { type: "button", "aria-pressed": String(folded), click: () => group(folded ? null : seedless) }, "fold seeds"))),
    select("Baseline", [["", "none"], ...rows.map((row) => [row.id, row.text])], state.baseline ?? "", (id) => { state.baseline = id || null; runsChanged(); }),
    intervalSelect(),
    columnPicker(),
  );
}

const intervalSelect = () => (intervalsThere().length < 2 ? null : select("95% interval", intervalsThere(), state.interval, (kind) => {
  state.interval = kind;
  drawRowControls();
  drawCurvesControls();
  runsChanged();
}));

function columnPicker() {
  const chosen = new Set(columnsShown().map(({ key }) => key));
  const choose = (key) => (on) => {
    chosen[on ? "add" : "delete"](key);
    state.columns = [...chosen];
    $("columns-count").textContent = `Columns (${chosen.size} of ${COLUMNS.length})`;
    drawTable();
    saveView();
  };
  return h("details", { class: "picker", open: $("columns-count")?.parentElement.open ?? false },
    h("summary", { id: "columns-count" }, `Columns (${chosen.size} of ${COLUMNS.length})`),
    h("div", { class: "options" }, unique(COLUMNS.map(({ kind }) => kind)).map((kind) =>
      h("fieldset", {}, h("legend", {}, kind), h("div", { class: "choices" },
        COLUMNS.filter((column) => column.kind === kind).map((column) => checkbox(columnText(column), chosen.has(column.key), choose(column.key))))))));
}

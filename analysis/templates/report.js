"use strict";
// Reads the data once, then draws: header, run table, curves, circuits. Text from runs goes to the page through
// textContent, and to Plotly through plain(): never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = rowsOf(DATA.runs).map((run, index) => ({ ...run, index, planned: DATA.planned[index] }));
const PATCHES = rowsOf(DATA.patches);
const THRESHOLD = 0.9;
const SITES = {
  z: "z (head output)", v: "v (head value)", pattern: "pattern (head attention)",
  q: "q (head query)", k: "k (head key)",
  resid_pre: "resid_pre (residual stream before a layer)", attn_out: "attn_out (attention output)",
  mlp_out: "mlp_out (MLP output)",
};

const APPROXIMATE = " (approximate)";

const state = {
  filter: "", fold: false, sort: { key: null, up: true },
  curves: { metric: null, split: null, by: new Set(), seeds: "both" },
  circuits: { unit: null, left: null, right: null, patching: null, quantity: "recovered", at: Infinity },
};

// ---------------------------------------------------------------------------------------------- small things

function rowsOf(columns) {
  const names = Object.keys(columns);
  return (columns[names[0]] ?? []).map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

/** An element: h("p", {class: "quiet"}, "text", child). Functions among the attributes are listeners. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

const $ = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const known = (value) => value !== null && value !== undefined;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** Text for Plotly, which would read tags in it. */
const plain = (text) => String(text).replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
const sentence = (name) => name.replaceAll("_", " ").replace("heldout", "held-out").replace("two name", "two-name");
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

function number(value, digits = 3) {
  if (!known(value)) return "";
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(digits)));
}

function compare(a, b) {
  if (!known(a) || !known(b)) return known(a) ? -1 : known(b) ? 1 : 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

/** Mean with its 95% interval over values, one a run: Student's t, as frames.band has it. */
function band(values) {
  const n = values.length;
  const middle = mean(values);
  if (n < 2) return { mean: middle, low: null, high: null, n };
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (n - 1));
  const t = DATA.t95[n - 2] ?? 1.96 + 2.5 / (n - 1);
  const half = (t * deviation) / Math.sqrt(n);
  return { mean: middle, low: middle - half, high: middle + half, n };
}

/** The 95% Wilson interval of a share of n. */
function wilson(share, n) {
  const z = 1.96, scale = 1 + (z * z) / n;
  const middle = (share + (z * z) / (2 * n)) / scale;
  const half = (z / scale) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return { low: middle - half, high: middle + half };
}

function select(label, options, value, onchange) {
  const list = (of) => of.map(([name, text]) => h("option", { value: name, selected: name === value }, text));
  const children = Array.isArray(options)
    ? list(options)
    : Object.entries(options).map(([group, of]) => h("optgroup", { label: group }, list(of)));
  return h("label", {}, label, h("select", { change: (event) => onchange(event.target.value) }, children));
}

function checkbox(label, checked, onchange) {
  return h("label", {}, h("input", { type: "checkbox", checked, change: (event) => onchange(event.target.checked) }), label);
}

// -------------------------------------------------------------------------------------------------- pictures
// A picture is drawn when it comes near the window and when what it shows has changed.

const pictures = [];
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const picture = pictures.find((one) => one.figure === entry.target);
    picture.near = entry.isIntersecting;
    paint(picture);
  }
}, { rootMargin: "400px" });

/** `draw` gives {title, note, runs, traces, layout, height}, or without traces why there is nothing to see. */
function addPicture(parent, id, draw) {
  const caption = h("figcaption");
  const plot = h("div", { class: "plot", id, role: "img" });
  const figure = h("figure", {}, caption, plot);
  parent.append(figure);
  pictures.push({ figure, caption, plot, draw, group: parent.id, near: false, stale: true });
  watcher.observe(figure);
}

function redraw(...groups) {
  for (const picture of pictures) {
    if (groups.length && !groups.includes(picture.group)) continue;
    picture.stale = true;
    paint(picture);
  }
}

function paint(picture) {
  if (!picture.near || !picture.stale) return;
  picture.stale = false;
  const { title, note, runs = [], traces, layout, height } = picture.draw();
  const ids = runs.map((run) => run.run_id).join(", ");
  const open = picture.caption.querySelector("details")?.open ?? false;
  picture.caption.replaceChildren(
    h("b", {}, title),
    h("span", {}, note ?? ""),
    runs.length > 6
      ? h("details", { open }, h("summary", {}, count(runs.length, "run")), ids)
      : h("span", {}, runs.length ? ` · ${runs.length === 1 ? "run" : "runs"} ${ids}` : ""),
  );
  picture.plot.setAttribute("aria-label", title);
  picture.plot.classList.toggle("empty", !traces);
  if (!traces) return void Plotly.purge(picture.plot);
  const colour = colours();
  Plotly.react(picture.plot, traces, {
    height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    font: { color: colour.ink, family: "system-ui, sans-serif", size: 12 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour.quiet, activecolor: colour.ink },
    hoverlabel: { align: "left", bgcolor: colour.card, bordercolor: colour.line, font: { color: colour.ink } },
    ...layout,
  }, { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]] });  // none that sends data away
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");
for (const media of [dark, narrow]) media.addEventListener("change", () => redraw());
addEventListener("beforeprint", () => pictures.forEach((picture) => { picture.near = true; paint(picture); }));

function colours() {
  const style = getComputedStyle(document.documentElement);
  const named = Object.fromEntries(["ink", "quiet", "line", "card", "missing"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  // Blue below zero and red above: told apart in all common forms of colour blindness. Zero is the page's ground.
  const diverging = dark.matches
    ? [[0, "#79bdf5"], [0.25, "#2f6ea5"], [0.5, "#14161a"], [0.75, "#a6492f"], [1, "#ff9a7a"]]
    : [[0, "#2166ac"], [0.25, "#74add1"], [0.5, "#fafafa"], [0.75, "#ef8a62"], [1, "#b2182b"]];
  return { ...named, diverging };
}

const GROUPS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999933"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

/** A colour on the way from the first to the last of an order, readable on light and dark ground. */
function ordered(rank, last) {
  const stops = dark.matches ? [[110, 90, 200], [40, 160, 170], [250, 225, 80]] : [[190, 200, 60], [35, 150, 140], [70, 25, 110]];
  const at = last ? (rank / last) * 2 : 2;
  const [from, to] = at < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
  return `rgb(${from.map((value, i) => Math.round(value + (to[i] - value) * (at < 1 ? at : at - 1))).join(",")})`;
}

const translucent = (colour, share) => {
  const [r, g, b] = colour.startsWith("#") ? [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)) : colour.match(/\d+/g);
  return `rgba(${r},${g},${b},${share})`;
};

const axis = (title, more = {}) => ({
  title: { text: title, standoff: 8 }, gridcolor: colours().line, linecolor: colours().line, zerolinecolor: colours().quiet,
  automargin: true, ...more,
});

// ---------------------------------------------------------------------------------------------------- header

function drawHeader() {
  const states = (rows) => {
    const found = unique(rows.map((row) => row.status)).sort();
    return found.map((status) => `${rows.filter((row) => row.status === status).length} ${status}`).join(", ") || "none";
  };
  const fact = (name, ...value) => [h("dt", {}, name), h("dd", {}, ...value)];
  const versions = Object.entries(DATA.versions).map(([name, version]) => `${name} ${version}`).join(" · ");
  $("top").append(
    h("h1", {}, DATA.sweeps.length ? `Sweep ${DATA.sweeps.map((sweep) => sweep.name).join(", ")}` : "Runs"),
    h("dl", { class: "facts" },
      DATA.sweeps.flatMap((sweep) => fact(`${sweep.name} (${count(sweep.cells, "cell")})`, h("code", {}, sweep.command))),
      fact("runs", `${RUNS.length}: ${states(RUNS)}`),
      fact("patch jobs", `${PATCHES.length}: ${states(PATCHES)}`),
      versions ? fact("versions", versions) : [],
      fact("made", DATA.made)),
  );
  if (DATA.note) $("top").append(h("p", { class: "notice" }, DATA.note));

  const cell = new Map(RUNS.map((run) => [run.run_id, run.cell ?? planned(run)]));
  const items = (rows, word) => rows.map((row) => h("li", {},
    h("code", {}, row.run_id), row.corruption ? `, ${row.corruption} corruption` : "",
    cell.get(row.run_id) ? ` (${cell.get(row.run_id)})` : "", word(row)));
  const report = (title, kind, ...lists) => {
    const lines = lists.flat();
    if (lines.length) $("top").append(h("div", { class: `notice ${kind}` }, h("b", {}, `${title}: ${lines.length}`), h("ul", {}, lines)));
  };
  const failed = (row) => !["done", "running", "todo"].includes(row.status);
  const why = (row) => `: ${row.status}${row.error ? `, ${row.error}` : ""}`;
  report("Failed or stopped", "stopped", items(RUNS.filter(failed), why), items(PATCHES.filter(failed), why));
  const missing = (row) => row.status === "todo";
  report("Not started", "", items(RUNS.filter(missing), () => ""), items(PATCHES.filter(missing), () => ""));
}

const planned = (run) => Object.entries(run.planned).map(([key, value]) => `${key}=${value}`).join(" ");

// ----------------------------------------------------------------------------------------------------- table

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

// ---------------------------------------------------------------------------------------------------- curves

/** Curves of one run: metrics of training, and what patch jobs measured besides. */
const FROM_PATCHES = {
  "clean logit difference": (site) => site.clean,
  "corrupted logit difference": (site) => site.corrupted,
  "clean − corrupted (the denominator)": (site) => site.clean.map((value, i) => value - site.corrupted[i]),
};
const PATCHING_PROMPTS = "patching prompts";
const GROUPABLE = [...SETTINGS, ["cell", "cell"], ["seed", "seed"]];

function curvesOf(metric, split) {
  const wanted = new Set(visibleRuns().map((run) => run.index));
  if (metric in FROM_PATCHES) {
    return DATA.blocks.filter((block) => wanted.has(block.run) && Object.keys(block.sites).length).map((block) => {
      const site = Object.values(block.sites)[0];
      const values = FROM_PATCHES[metric](site).map((value) => value * DATA.unit);
      return { run: RUNS[block.run], corruption: block.corruption, steps: DATA.steps[site.steps], values, n: block.n };
    });
  }
  return DATA.series.filter((one) => one.metric === metric && one.split === split && wanted.has(one.run)).map((one) =>
    ({ run: RUNS[one.run], steps: DATA.steps[one.steps], values: one.value, n: one.n }));
}

const keyOf = (curve, key) => (key === "corruption" ? curve.corruption : curve.run[key]);

function groupKeys() {
  const varies = (key) => unique(RUNS.filter((run) => known(run.cell)).map((run) => run[key])).length > 1;
  const standard = GROUPABLE.filter(([key]) => key !== "cell" && key !== "seed" && varies(key));
  const told = unique(RUNS.filter((run) => known(run.cell)).map((run) => JSON.stringify(standard.map(([key]) => run[key])))).length;
  const cells = unique(RUNS.map((run) => run.cell).filter(known)).length;
  const keys = GROUPABLE.filter(([key]) => varies(key) && (key !== "cell" || cells > told));
  return state.curves.metric in FROM_PATCHES ? [...keys, ["corruption", "corruption"]] : keys;
}

function drawCurvesControls() {
  const metrics = unique(DATA.series.map((one) => one.metric));
  const more = DATA.blocks.length ? Object.keys(FROM_PATCHES) : [];
  if (!metrics.length && !more.length) return;
  const curves = state.curves;
  if (!known(curves.metric)) {
    curves.metric = metrics.includes("win_rate") ? "win_rate" : metrics[0] ?? more[0];
    groupKeys().forEach(([key]) => key !== "seed" && curves.by.add(key));
  }
  const splits = curves.metric in FROM_PATCHES
    ? [PATCHING_PROMPTS]
    : unique(DATA.series.filter((one) => one.metric === curves.metric).map((one) => one.split));
  if (!splits.includes(curves.split)) curves.split = splits.includes("heldout") ? "heldout" : splits[0];
  const keys = groupKeys();
  const change = (key) => (value) => { curves[key] = value; drawCurvesControls(); redraw("curves-pictures"); };
  const options = { Training: metrics.map((name) => [name, sentence(name)]) };
  if (more.length) options["Patch jobs"] = more.map((name) => [name, name]);
  replaceControls($("curves-controls"),
    select("Metric", options, curves.metric, (metric) => {
      if (metric in FROM_PATCHES) curves.by.add("corruption");
      change("metric")(metric);
    }),
    select("Split", splits.map((name) => [name, sentence(name)]), curves.split, change("split")),
    keys.length ? h("fieldset", {}, h("legend", {}, "Group by"), h("div", { class: "choices" }, keys.map(([key, label]) =>
      checkbox(label, curves.by.has(key), (on) => { curves.by[on ? "add" : "delete"](key); redraw("curves-pictures"); })))) : null,
    select("Runs of a group", [["both", "mean, 95% band, and single lines"], ["band", "mean and 95% band"], ["lines", "single lines"]], curves.seeds, change("seeds")),
  );
}

/** New controls in place of the old, keeping the focus where it was. */
function replaceControls(host, ...controls) {
  const before = [...host.querySelectorAll("select, input")].indexOf(document.activeElement);
  host.replaceChildren(...controls.filter(known));
  if (before >= 0) host.querySelectorAll("select, input")[before]?.focus();
}

function drawCurves() {
  const { metric, split, by, seeds } = state.curves;
  const curves = known(metric) ? curvesOf(metric, split) : [];
  if (!curves.length) return { title: "No curves", note: "No run has written this metric yet, or the filter leaves none." };
  const keys = groupKeys().filter(([key]) => by.has(key));
  const share = metric.startsWith("win_rate");
  const groups = new Map();
  for (const curve of curves) {
    const values = keys.map(([key]) => keyOf(curve, key) ?? "");
    const id = JSON.stringify(values);
    if (!groups.has(id)) groups.set(id, { values, curves: [] });
    groups.get(id).curves.push(curve);
  }
  const order = [...groups.values()].sort((a, b) => a.values.map((value, i) => compare(value, b.values[i])).find(Boolean) ?? 0);
  const colourValues = unique(order.map((group) => group.values[0]));
  const dashValues = unique(order.map((group) => JSON.stringify(group.values.slice(1))));
  const inOrder = colourValues.length > 2 && colourValues.every((value) => typeof value === "number");
  const traces = order.flatMap((group) => {
    const rank = colourValues.indexOf(group.values[0]);
    const colour = inOrder ? ordered(rank, colourValues.length - 1) : GROUPS[rank % GROUPS.length];
    const dash = DASHES[dashValues.indexOf(JSON.stringify(group.values.slice(1))) % DASHES.length];
    const name = keys.map(([, label], i) => `${label} ${written(group.values[i])}`).join(", ") || "all runs";
    return groupTraces(group.curves, { name, colour, dash, share, seeds });
  });
  const ns = unique(curves.flatMap((curve) => curve.n)).sort((a, b) => a - b);
  const several = order.some((group) => group.curves.length > 1);
  const interval = [
    several && seeds !== "lines" ? "band: 95% interval of the mean over the runs of a group (Student's t)" : null,
    share && order.some((group) => group.curves.length === 1) ? "band of a single run: 95% Wilson interval over prompts" : null,
    share ? "◆ first checkpoint at 90%" : null,
  ].filter(known);
  return {
    title: `${capital(sentence(metric))} on ${sentence(split)}${metric in FROM_PATCHES ? "" : " prompts"}`,
    note: `n ${ns.length > 1 ? `${ns[0]} to ${ns.at(-1)}` : ns[0]} prompts${interval.length ? ` · ${interval.join(" · ")}` : ""}`,
    runs: unique(curves.map((curve) => curve.run)),
    traces,
    height: narrow.matches ? 360 + 20 * order.length : 480,
    layout: {
      dragmode: narrow.matches ? false : "zoom",
      hovermode: "closest", margin: { l: 55, r: 15, t: 15, b: 50 },
      legend: narrow.matches ? { orientation: "h", y: -0.2 } : {},
      showlegend: order.length > 1 || keys.length > 0,
      xaxis: axis("checkpoint (step)", { rangemode: "tozero" }),
      yaxis: axis(share ? sentence(metric) : metric === "loss" ? "loss (nats)" : sentence(metric) + (metric.includes("logit") || metric in FROM_PATCHES ? " (logits)" : ""),
        share ? { range: [-0.02, 1.02] } : {}),
      shapes: share ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: THRESHOLD, y1: THRESHOLD, line: { color: colours().quiet, dash: "dot", width: 1 } }] : [],
    },
  };
}

function groupTraces(curves, { name, colour, dash, share, seeds }) {
  const single = curves.length === 1;
  const steps = unique(curves.flatMap((curve) => curve.steps)).sort((a, b) => a - b);
  const points = steps.map((step) => {
    const there = curves.map((curve) => [curve, curve.steps.indexOf(step)]).filter(([curve, at]) => at >= 0 && known(curve.values[at]));
    const summary = band(there.map(([curve, at]) => curve.values[at]));
    if (single && share && there.length) {
      const n = Array.isArray(curves[0].n) ? curves[0].n[there[0][1]] : curves[0].n;
      Object.assign(summary, wilson(summary.mean, n));
    }
    if (share && known(summary.low)) Object.assign(summary, { low: Math.max(0, summary.low), high: Math.min(1, summary.high) });
    return { step, ...summary };
  }).filter((point) => point.n);
  const common = { type: "scatter", legendgroup: name, name: plain(name) };
  const quiet = { ...common, showlegend: false, hoverinfo: "skip" };
  const traces = [];
  const lines = !single && seeds !== "band";
  if (lines) {
    for (const curve of curves) {
      const label = plain(`${curve.run.run_id}, seed ${curve.run.seed}${curve.corruption ? `, ${curve.corruption}` : ""}`);
      traces.push({
        ...common, mode: "lines", x: curve.steps, y: curve.values, opacity: seeds === "both" ? 0.35 : 0.9,
        line: { color: colour, dash, width: seeds === "both" ? 1 : 1.5 }, showlegend: seeds === "lines" && curve === curves[0],
        hovertemplate: `${label}<br>checkpoint %{x}: %{y:.3f}<extra></extra>`,
      });
    }
    if (seeds === "lines") return traces;
  }
  const banded = points.filter((point) => known(point.low));
  if (banded.length) {
    traces.push({
      ...quiet, mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: translucent(colour, 0.16),
      x: [...banded.map((point) => point.step), ...banded.map((point) => point.step).reverse()],
      y: [...banded.map((point) => point.high), ...banded.map((point) => point.low).reverse()],
    });
  }
  const interval = (point) => (known(point.low) ? ` [${number(point.low)}, ${number(point.high)}]` : "");
  const who = single ? `run ${curves[0].run.run_id}` : "";
  traces.push({
    ...common, mode: "lines+markers", x: points.map((point) => point.step), y: points.map((point) => point.mean),
    line: { color: colour, dash, width: 2.2 }, marker: { size: 4, color: colour },
    customdata: points.map((point) => plain(`${interval(point)}${single ? `, ${who}` : `, mean of ${count(point.n, "run")}`}`)),
    hovertemplate: `${plain(name)}<br>checkpoint %{x}: %{y:.3f}%{customdata}<extra></extra>`,
  });
  const reached = share ? points.find((point) => point.mean >= THRESHOLD) : null;
  if (reached) {
    traces.push({
      ...common, showlegend: false, mode: "markers", x: [reached.step], y: [reached.mean],
      marker: { symbol: "diamond", size: 12, color: colour, line: { color: colours().card, width: 1.5 } },
      hovertemplate: `${plain(name)}<br>first checkpoint at 90%: %{x}<extra></extra>`,
    });
  }
  return traces;
}

// -------------------------------------------------------------------------------------------------- circuits
// A unit is one run ("run:3") or the runs of a cell ("cell:lr 0.0001"), whose values are means over runs.

/** What depends on the choices above the pictures only, so that the slider need not work it out again. */
const remembered = new Map();
function remember(key, make) {
  if (!remembered.has(key)) remembered.set(key, make());
  return remembered.get(key);
}

function blocksOf(unit, corruption = null) {
  const { patching } = state.circuits;
  return remember(JSON.stringify(["blocks", unit, corruption, patching]), () => {
    const [kind, name] = [unit.slice(0, unit.indexOf(":")), unit.slice(unit.indexOf(":") + 1)];
    return DATA.blocks.filter((block) =>
      (kind === "run" ? block.run === Number(name) : RUNS[block.run].cell === name) &&
      (corruption === null || block.corruption === corruption) &&
      (patching === null || block.patching === patching));
  });
}

const ORDER = ["first", "second", "both", "order"];
const corruptions = () => unique(DATA.blocks.map((block) => block.corruption)).sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
const runsOf = (unit) => unique(blocksOf(unit).map((block) => RUNS[block.run]));

function units() {
  const runs = unique(DATA.blocks.map((block) => block.run)).sort((a, b) => a - b).map((index) => RUNS[index]);
  const cells = unique(runs.map((run) => run.cell)).filter((cell) => runs.filter((run) => run.cell === cell).length > 1);
  const size = (cell) => runs.filter((run) => run.cell === cell).length;
  return {
    "Mean over seeds": cells.map((cell) => [`cell:${cell}`, `${cell}: mean of ${size(cell)} runs`]),
    "One run": runs.map((run) => [`run:${run.index}`, [run.cell, `seed ${run.seed}`, run.run_id].filter(Boolean).join(", ")]),
  };
}

/** Steps of the unit's checkpoints that were examined. */
function stepsOf(unit) {
  return remember(JSON.stringify(["steps", unit, state.circuits.patching]), () => {
    const parts = blocksOf(unit).flatMap((block) => [...Object.values(block.sites), block.lens, block.layer, block.head]);
    return unique(parts.filter(known).flatMap((part) => DATA.steps[part.steps])).sort((a, b) => a - b);
  });
}

function step() {
  const steps = stepsOf(state.circuits.unit);
  state.circuits.at = Math.min(state.circuits.at, steps.length - 1);
  return steps[state.circuits.at];
}

function drawCircuitsControls() {
  const circuits = state.circuits;
  const there = corruptions();
  const choices = units();
  if (!there.length) {
    $("circuits-controls").replaceChildren(h("p", { class: "quiet" }, "No checkpoint has been examined yet."));
    return;
  }
  const patchings = unique(DATA.blocks.map((block) => block.patching));
  circuits.patching ??= patchings.length > 1 ? patchings[0] : null;
  circuits.unit ??= (choices["Mean over seeds"][0] ?? choices["One run"][0])[0];
  circuits.left ??= there[0];
  circuits.right ??= there[1] ?? there[0];
  const change = (key) => (value) => { circuits[key] = value; circuitsChanged(); };
  replaceControls($("circuits-controls"),
    select("Run", Object.fromEntries(Object.entries(choices).filter(([, of]) => of.length)), circuits.unit, change("unit")),
    select("Corruption", there.map((name) => [name, name]), circuits.left, change("left")),
    there.length > 1 ? select("against", there.map((name) => [name, name]), circuits.right, change("right")) : null,
    select("Value", [["recovered", "recovered"], ["change", "logit difference change"]], circuits.quantity, change("quantity")),
    patchings.length > 1 ? select("Patching", patchings.map((name) => [name, name ?? "unnamed"]), circuits.patching, change("patching")) : null,
  );
  drawPrompts();
  drawPlayer();
}

function circuitsChanged() {
  drawCircuitsControls();
  redraw("attribution-pictures", "patching-pictures");
}

function showCircuits(unit) {
  state.circuits.unit = unit;
  circuitsChanged();
  $("circuits").scrollIntoView();
  $("circuits-controls").querySelector("select").focus();
}

function drawPrompts() {
  const { unit, left, right } = state.circuits;
  const lists = unique([left, right]).map((corruption) => [corruption, blocksOf(unit, corruption)[0]]).filter(([, block]) => block);
  $("circuits-prompts").replaceChildren(
    h("summary", {}, "Prompts"),
    lists.map(([corruption, block]) => [
      h("p", { class: "quiet" }, `${corruption} corruption: ${block.n} prompts, of which ${DATA.prompts[block.prompts].length} are`),
      h("ul", {}, DATA.prompts[block.prompts].map((prompt) =>
        h("li", {}, prompt.clean, h("span", { class: "quiet" }, " → "), h("b", {}, prompt.answer),
          h("br"), h("span", { class: "quiet" }, `corrupted: ${prompt.corrupted}`)))),
    ]).flat());
  const recovered = state.circuits.quantity === "recovered";
  const estimates = DATA.blocks.some((block) => Object.entries(block.sites).some(([site, of]) => of.r || site.endsWith(APPROXIMATE)));
  $("patching-legend").textContent = (recovered
    ? "recovered = (patched − corrupted) / (clean − corrupted), each a mean over prompts; 0: the patch changes nothing, 1: it " +
      `brings back the clean logit difference. Grey: clean and corrupted differ by less than ${DATA.floor} logits, so that the ` +
      "fraction says nothing. Means over seeds are means of each run's recovered."
    : "logit difference change = patched − corrupted, in logits, a mean over prompts.")
    + (estimates ? " Approximate: patched as estimated from a gradient (attribution patching); r: its Pearson correlation with exact patching over a site's places." : "");
}

let playing = null;

function drawPlayer() {
  const steps = stepsOf(state.circuits.unit);
  step();
  const slider = h("input", {
    type: "range", id: "checkpoint", min: 0, max: steps.length - 1, step: 1, "aria-label": "checkpoint",
    input: (event) => { stop(); goTo(Number(event.target.value)); },
  });
  slider.value = state.circuits.at;
  $("circuits-player").replaceChildren(
    h("button", { type: "button", id: "play", click: () => (playing ? stop() : play()) }, playing ? "❚❚ Pause" : "▶ Play"),
    slider, h("output", { for: "checkpoint", id: "checkpoint-told" }));
  tellCheckpoint(steps);
}

function tellCheckpoint(steps) {
  const told = `checkpoint ${step()} (${state.circuits.at + 1} of ${steps.length})`;
  $("checkpoint-told").textContent = told;
  $("checkpoint").setAttribute("aria-valuetext", told);
}

function goTo(at) {
  state.circuits.at = at;
  $("checkpoint").value = at;
  tellCheckpoint(stepsOf(state.circuits.unit));
  redraw("attribution-pictures", "patching-pictures");
}

function play() {
  const forward = () => {
    goTo((state.circuits.at + 1) % stepsOf(state.circuits.unit).length);
    playing = setTimeout(forward, 600);  // after drawing, however long that took
  };
  forward();
  $("play").textContent = "❚❚ Pause";
}

function stop() {
  clearTimeout(playing);
  playing = null;
  $("play").textContent = "▶ Play";
}

/** A site (or the heads' own logit differences) of one corruption at one step: the mean over the unit's runs. */
function matrix(corruption, site, at, quantity) {
  const parts = blocksOf(state.circuits.unit, corruption)
    .map((block) => (site === "head" ? block.head : block.sites[site]))
    .filter((part) => part && DATA.steps[part.steps].includes(at));
  if (!parts.length) return null;
  const layout = DATA.layouts[parts[0].layout];
  const same = parts.filter((part) => part.layout === parts[0].layout);
  const index = (part) => DATA.steps[part.steps].indexOf(at);
  const clean = site === "head" ? null : mean(same.map((part) => part.clean[index(part)])) * DATA.unit;
  const corrupted = site === "head" ? null : mean(same.map((part) => part.corrupted[index(part)])) * DATA.unit;
  const scaled = same.map((part) => {
    const values = (part.change ?? part.value)[index(part)];
    if (site === "head" || quantity === "change") return values.map((value) => (known(value) ? value * DATA.unit : null));
    // Positions that only some prompts have come with denominators of their own.
    const room = part.room?.[index(part)] ?? [part.clean[index(part)] - part.corrupted[index(part)]];
    return values.map((value, i) => {
      const denominator = room[i % room.length];
      return known(value) && Math.abs(denominator * DATA.unit) >= DATA.floor ? value / denominator : null;
    });
  });
  const flat = scaled[0].map((_, i) => {
    const there = scaled.map((values) => values[i]).filter(known);
    return there.length ? mean(there) : null;
  });
  const used = scaled.filter((values) => values.some(known)).length;
  const width = layout.columns.length;
  const rows = layout.layers.map((_, row) => flat.slice(row * width, (row + 1) * width));
  return { layout, rows, clean, corrupted, used, of: parts.length };
}

/** The end of a site's colour scale: the same for all checkpoints and corruptions of the unit. */
function limit(site, quantity) {
  const { unit, left, right, patching } = state.circuits;
  return remember(JSON.stringify(["limit", site, quantity, unit, left, right, patching]), () => {
    const sizes = stepsOf(unit).flatMap((at) => unique([left, right]).flatMap((corruption) =>
      matrix(corruption, site, at, quantity)?.rows.flat().filter(known).map(Math.abs) ?? []));
    sizes.sort((a, b) => a - b);
    // Not the largest value: one odd cell at a small denominator would take the colour from all others.
    const top = sizes[Math.floor(0.995 * (sizes.length - 1))] || 0;
    const decade = 10 ** Math.floor(Math.log10(top || 1));
    return [1, 1.5, 2, 3, 5, 7.5, 10].map((step) => step * decade).find((end) => end >= top * 0.999);
  });
}

/** Places of side-by-side plots, or one above the other on a narrow page. */
function places(n, gap = 0.06) {
  const size = (1 - gap * (n - 1)) / n;
  return Array.from({ length: n }, (_, i) => {
    const from = i * (size + gap);
    return narrow.matches ? { x: [0, 1], y: [1 - from - size, 1 - from] } : { x: [from, from + size], y: [0, 1] };
  });
}

const suffix = (i) => (i ? String(i + 1) : "");
const subtitle = (text, place) => ({
  text, showarrow: false, xref: "paper", yref: "paper", x: place.x[0], xanchor: "left", y: place.y[1], yanchor: "bottom",
  font: { size: 12 },
});

function unitNote(extra) {
  const blocks = blocksOf(state.circuits.unit);
  const ns = unique(blocks.map((block) => block.n)).join(", ");
  return `${ns} prompts${extra ? ` · ${extra}` : ""}`;
}

const unitTitle = () => {
  const runs = runsOf(state.circuits.unit);
  return runs.length > 1 ? `mean of ${runs.length} runs (${runs[0].cell})` : runs[0]?.cell || "";
};

/** How approximate values correlate with the exact ones of a site at a step: from the least r of its runs to the largest. */
function agreement(site, at) {
  const { unit, left, right } = state.circuits;
  const found = unique([left, right]).flatMap((corruption) => blocksOf(unit, corruption)).map((block) => block.sites[site]).filter((part) => part?.r)
    .map((part) => [DATA.steps[part.steps].indexOf(at), part]).filter(([index, part]) => known(part.r[index]))
    .map(([index, part]) => ({ r: part.r[index], n: part.change[index].filter(known).length }));
  if (!found.length) return "";
  const rs = found.map(({ r }) => r);
  const ends = unique([Math.min(...rs), Math.max(...rs)].map((r) => r.toFixed(3)));
  return `approximate against exact: r ${ends.join(" to ")}, n ${unique(found.map(({ n }) => n)).join("/")}`;
}

function drawHeatmap(site) {
  const { unit, left, right } = state.circuits;
  if (!known(unit)) return { title: SITES[site] ?? site };
  const quantity = site === "head" ? "change" : state.circuits.quantity;
  const at = step();
  const panels = unique([left, right]).map((corruption) => ({ name: `${corruption} corruption`, ...matrix(corruption, site, at, quantity) }));
  const words = site === "head" ? "Direct logit difference of each head" : `${quantity === "recovered" ? "Recovered" : "Logit difference change"} by patching ${SITES[site] ?? site}`;
  const title = [words, `checkpoint ${at}`, unitTitle()].filter(Boolean).join(", ");
  const first = panels.find((panel) => panel.layout);
  if (!first) return { title, note: "not examined at this checkpoint" };
  if (panels.length === 2 && panels.every((panel) => panel.layout) && sameLayout(panels[0].layout, panels[1].layout)) {
    panels.push({
      name: `${left} − ${right}`, layout: first.layout,
      rows: panels[0].rows.map((row, i) => row.map((value, j) => (known(value) && known(panels[1].rows[i][j]) ? value - panels[1].rows[i][j] : null))),
    });
  }
  const shown = panels.filter((panel) => panel.layout);
  const end = limit(site, quantity);
  const colour = colours();
  const where = places(shown.length, narrow.matches ? (first.layout.axis === "position" ? 0.16 : 0.12) : 0.06);
  const layers = first.layout.layers.length;
  const layout = {
    plot_bgcolor: colour.missing, margin: { l: 45, r: 10, t: 34, b: first.layout.axis === "position" ? 75 : 45 }, annotations: [],
    coloraxis: {
      cmin: -end, cmax: end, colorscale: colour.diverging,
      colorbar: { thickness: 12, outlinewidth: 0, title: { text: quantity === "recovered" ? "recovered" : "logits", side: "right" } },
    },
  };
  const traces = shown.map((panel, i) => {
    const place = where[i];
    const told = known(panel.clean) ? `: clean ${panel.clean.toFixed(2)}, corrupted ${panel.corrupted.toFixed(2)}` : "";
    const fewer = known(panel.used) && panel.used < panel.of ? ` (${panel.used} of ${panel.of} runs)` : "";
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b>${told}${fewer}`, place));
    const columns = panel.layout.columns.map((name) => plain(name));
    layout[`xaxis${suffix(i)}`] = axis(narrow.matches && i < shown.length - 1 ? "" : panel.layout.axis, { domain: place.x, anchor: `y${suffix(i)}`, type: "category", showgrid: false, zeroline: false, tickangle: panel.layout.axis === "position" ? -50 : 0, ticks: "" });
    layout[`yaxis${suffix(i)}`] = axis(i && !narrow.matches ? "" : "layer", { domain: place.y, anchor: `x${suffix(i)}`, type: "category", showgrid: false, zeroline: false, showticklabels: narrow.matches || i === 0, ticks: "" });
    return {
      type: "heatmap", coloraxis: "coloraxis", xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`, xgap: 1, ygap: 1, hoverongaps: true,
      x: columns, y: panel.layout.layers.map(String), z: panel.rows, name: plain(panel.name),
      hovertemplate: `${plain(panel.name)}<br>layer %{y}, ${panel.layout.axis} %{x}<br>%{z:.3f}${plain(told)}<extra></extra>`,
    };
  });
  const one = Math.min(Math.max(layers * 26, 130), 420) + 120;
  return {
    title, traces, layout, note: unitNote(agreement(site, at)), runs: runsOf(unit),
    height: narrow.matches ? one * shown.length : one,
  };
}

const sameLayout = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** Lens or layer parts of one corruption: components, steps, and the mean over the unit's runs at each. */
function parts(corruption, kind) {
  const { unit, patching } = state.circuits;
  return remember(JSON.stringify(["parts", corruption, kind, unit, patching]), () => meanParts(corruption, kind));
}

function meanParts(corruption, kind) {
  const found = blocksOf(state.circuits.unit, corruption).map((block) => block[kind]).filter(known);
  if (!found.length) return null;
  const same = found.filter((part) => part.components.join() === found[0].components.join());
  const steps = unique(same.flatMap((part) => DATA.steps[part.steps])).sort((a, b) => a - b);
  const values = steps.map((at) => found[0].components.map((_, i) => {
    const there = same.filter((part) => DATA.steps[part.steps].includes(at)).map((part) => part.value[DATA.steps[part.steps].indexOf(at)][i]).filter(known);
    return there.length ? mean(there) * DATA.unit : null;
  }));
  return { components: found[0].components, steps, values, n: same.length };
}

function partsPanels(kind) {
  const { unit, left, right } = state.circuits;
  if (!known(unit)) return [];
  return unique([left, right]).map((corruption) => ({ corruption, ...parts(corruption, kind) })).filter((panel) => panel.values);
}

const against = (corruption) => (["first", "second"].includes(corruption) ? `answer against the ${corruption} subject` : `${corruption} corruption`);

function drawLens() {
  const panels = partsPanels("lens");
  const title = ["Logit lens: logit difference of the residual stream", unitTitle()].filter(Boolean).join(", ");
  if (!panels.length) return { title, note: "not examined" };
  const where = places(panels.length, narrow.matches ? 0.24 : 0.06);
  const at = step();
  const flat = panels.flatMap((panel) => panel.values.flat()).filter(known);
  const [low, high] = [Math.min(0, ...flat), Math.max(0, ...flat)];
  const layout = { margin: { l: 50, r: 10, t: 34, b: 75 }, annotations: [], showlegend: false };
  const traces = panels.flatMap((panel, i) => {
    layout.annotations.push(subtitle(`<b>${plain(against(panel.corruption))}</b>`, where[i]));
    layout[`xaxis${suffix(i)}`] = axis("", { domain: where[i].x, anchor: `y${suffix(i)}`, type: "category", tickangle: -50 });
    layout[`yaxis${suffix(i)}`] = axis(i && !narrow.matches ? "" : "logit difference (logits)", { domain: where[i].y, anchor: `x${suffix(i)}`, range: [low - 0.06 * (high - low), high + 0.06 * (high - low)] });
    const line = (rank, now) => ({
      type: "scatter", mode: now ? "lines+markers" : "lines", xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`,
      x: panel.components.map((name) => plain(name)), y: panel.values[rank], opacity: now ? 1 : 0.55,
      line: { width: now ? 3 : 1.2, color: now ? colours().ink : ordered(rank, panel.steps.length - 1) },
      hovertemplate: `checkpoint ${panel.steps[rank]}<br>%{x}: %{y:.3f}<extra></extra>`,
    });
    const now = panel.steps.indexOf(at);
    return [...panel.steps.map((_, rank) => line(rank, false)), ...(now >= 0 ? [line(now, true)] : [])];
  });
  // A marker that is not seen carries the colour bar of the steps.
  const steps = panels[0].steps;
  traces.push({
    type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
    marker: {
      color: [steps[0]], cmin: steps[0], cmax: steps.at(-1), showscale: steps.length > 1,
      colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, ordered(share, 1)]),
      colorbar: { thickness: 12, outlinewidth: 0, title: { text: "checkpoint, in order", side: "right" }, tickvals: [steps[0], steps.at(-1)] },
    },
  });
  return { title, traces, layout, note: unitNote(`thick: checkpoint ${at}`), runs: runsOf(state.circuits.unit), height: narrow.matches ? 380 * panels.length : 380 };
}

function drawLayers() {
  const panels = partsPanels("layer");
  const title = ["Logit difference from each layer's attention and MLP", unitTitle()].filter(Boolean).join(", ");
  if (!panels.length) return { title, note: "not examined" };
  const where = places(panels.length, narrow.matches ? 0.16 : 0.06);
  const at = step();
  const colour = colours();
  const end = Math.max(...panels.flatMap((panel) => panel.values.flat()).filter(known).map(Math.abs), 1e-6);
  const layout = {
    plot_bgcolor: colour.missing, margin: { l: 60, r: 10, t: 34, b: 50 }, annotations: [], shapes: [],
    coloraxis: { cmin: -end, cmax: end, colorscale: colour.diverging, colorbar: { thickness: 12, outlinewidth: 0, title: { text: "logits", side: "right" } } },
  };
  const traces = panels.map((panel, i) => {
    layout.annotations.push(subtitle(`<b>${plain(against(panel.corruption))}</b>`, where[i]));
    layout[`xaxis${suffix(i)}`] = axis("checkpoint (step)", { domain: where[i].x, anchor: `y${suffix(i)}`, type: "category", showgrid: false });
    layout[`yaxis${suffix(i)}`] = axis("", { domain: where[i].y, anchor: `x${suffix(i)}`, type: "category", showgrid: false, showticklabels: narrow.matches || i === 0, dtick: 1 });
    const now = panel.steps.indexOf(at);
    if (now >= 0) {
      layout.shapes.push({ type: "rect", xref: `x${suffix(i)}`, yref: `y${suffix(i)} domain`, x0: now - 0.5, x1: now + 0.5, y0: 0, y1: 1, line: { color: colour.ink, width: 2 } });
    }
    return {
      type: "heatmap", coloraxis: "coloraxis", xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`, xgap: 1, ygap: 1,
      x: panel.steps.map(String), y: panel.components.map((name) => plain(name)), z: panel.components.map((_, row) => panel.values.map((values) => values[row])),
      hovertemplate: "%{y}, checkpoint %{x}<br>%{z:.3f} logits<extra></extra>",
    };
  });
  const one = Math.max(240, panels[0].components.length * 18 + 110);
  return { title, traces, layout, note: unitNote(`framed: checkpoint ${at}`), runs: runsOf(state.circuits.unit), height: narrow.matches ? one * panels.length : one };
}

// ------------------------------------------------------------------------------------------------------- all

drawHeader();
drawTableControls();
drawTable();
drawCurvesControls();
drawCircuitsControls();
addPicture($("curves-pictures"), "curves-plot", drawCurves);
if (DATA.blocks.length) {
  addPicture($("attribution-pictures"), "lens-plot", drawLens);
  addPicture($("attribution-pictures"), "layer-plot", drawLayers);
  if (DATA.blocks.some((block) => block.head)) addPicture($("attribution-pictures"), "head-plot", () => drawHeatmap("head"));
  const sites = unique(DATA.blocks.flatMap((block) => Object.keys(block.sites)));
  const order = [...Object.keys(SITES), ...sites];
  for (const site of unique(order).filter((name) => sites.includes(name))) {
    addPicture($("patching-pictures"), `${site.replace(APPROXIMATE, "-approximate")}-plot`, () => drawHeatmap(site));
  }
}

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

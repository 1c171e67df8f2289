// Which curves over checkpoints are drawn: metrics of runs, and further measurements of patch jobs.

/** The split for metrics that a series' own trainer logged. */
const TRAINER = "trainer";

const GAP = "clean − corrupted (the denominator)";
const FROM_PATCHES = {
  "clean logit difference": (site) => site.clean,
  "corrupted logit difference": (site) => site.corrupted,
  [GAP]: (site) => site.clean.map((value, i) => value - site.corrupted[i]),
};
const PATCHING_PROMPTS = "patching prompts";

function curvesOf(metric, split) {
  const wanted = new Set(visibleRuns().map((run) => run.index));
  if (Object.hasOwn(FROM_PATCHES, metric)) {
    return DATA.blocks.filter((block) => wanted.has(block.run) && Object.keys(block.sites).length).map((block) => {
      const [name, site] = Object.entries(block.sites)[0];
      const values = FROM_PATCHES[metric](site).map((value) => value * DATA.unit);
      const gaps = metric === GAP ? (at) => gapOf(FAMILIES.get(JSON.stringify([[block.run], block.corruption, block.patching, name])), at) : null;
      return { run: RUNS[block.run], corruption: block.corruption, patching: block.patching, steps: DATA.steps[site.steps], values, n: block.n, gaps };
    });
  }
  return [...(SERIES.get(`${split}/${metric}`)?.values() ?? [])].filter((one) => wanted.has(one.run)).map((one) =>
    ({ run: RUNS[one.run], steps: DATA.steps[one.steps], values: one.value, n: one.n, metric, split, spikes: one.spikes ?? [], expected: one.expected_spikes }));
}

const keyOf = (curve, key) => (Object.hasOwn(OF_PATCH_JOBS, key) ? curve[key] : curve.run[key]);

function groupKeys() {
  const varies = (key) => unique(RUNS.filter((run) => known(run.setting)).map((run) => run[key])).length > 1;
  return GROUPABLE.filter(([key]) => varies(key));
}

/** Curves of patch jobs, of which a run has several: always separate, or a run would count more than once. */
const OF_PATCH_JOBS = { corruption: "corruption", patching: "patching" };

/** The chosen keys, and those of patch jobs. */
function shownKeys() {
  const chosen = groupKeys().filter(([key]) => state.curves.by.has(key));
  if (!Object.hasOwn(FROM_PATCHES, state.curves.metric)) return chosen;
  const several = unique(DATA.blocks.map((block) => block.patching)).length > 1;
  return [...chosen, ...Object.entries(OF_PATCH_JOBS).filter(([key]) => key !== "patching" || several)];
}

const metricsThere = () => ({
  Runs: unique(DATA.series.map((one) => one.metric)),
  "Patch jobs": DATA.blocks.length ? Object.keys(FROM_PATCHES) : [],
});
const splitsOf = (metric) => (Object.hasOwn(FROM_PATCHES, metric) ? [PATCHING_PROMPTS] : unique(DATA.series.filter((one) => one.metric === metric).map((one) => one.split)));

/** Whether the checkpoints span more than three orders of magnitude, as in published series. */
function isLong() {
  const ofCheckpoints = DATA.series.filter(({ split }) => split !== "batch" && split !== TRAINER);
  const steps = unique(ofCheckpoints.map((one) => one.steps)).flatMap((number) => DATA.steps[number]).filter((step) => step > 0);
  return steps.length > 1 && Math.max(...steps) > 1000 * Math.min(...steps);
}

/** The first view: held-out accuracy or win rate, grouped by everything except the seed. */
function chooseCurves() {
  const curves = state.curves, { Runs: metrics, "Patch jobs": more } = metricsThere();
  if (!known(curves.metric)) {
    curves.metric = ["accuracy", "win_rate"].find((name) => metrics.includes(name)) ?? metrics[0] ?? more[0] ?? null;
    if (isLong()) curves.log.add("x");
    curves.by = new Set(groupKeys().map(([key]) => key).filter((key) => key !== "seed" && key !== "sweep" && !isOfTopHeads(key)));
  }
  const splits = splitsOf(curves.metric);
  if (!splits.includes(curves.split)) curves.split = splits.includes("heldout") ? "heldout" : splits[0] ?? null;
}

function drawCurvesControls() {
  chooseCurves();
  const curves = state.curves, { metric } = curves;
  if (!known(metric)) return;
  const changed = () => { drawCurvesControls(); redraw("curves-pictures"); saveView(); };
  const change = (key) => (value) => { curves[key] = value; changed(); };
  const options = Object.fromEntries(Object.entries(metricsThere()).filter(([, names]) => names.length)
    .map(([group, names]) => [group, names.map((name) => [name, group === "Runs" ? sentence(name) : name])]));
  const keys = groupKeys();
  const toggle = (set, key) => (on) => { set[on ? "add" : "delete"](key); changed(); };
  const toggleSteps = (on) => { toggle(curves.log, "x")(on); redraw(...CIRCUITS); };
  const threshold = h("input", {
    type: "number", step: "any", id: "threshold", value: curves.thresholds[metric] ?? "",
    change: (event) => {
      if (event.target.value === "") delete curves.thresholds[metric];
      else curves.thresholds[metric] = Number(event.target.value);
      changed();
      if (metric === LEARNED) { drawSettings(); drawRowControls(); drawTable(); redraw("differences-pictures"); }
    },
  });
  replaceControls($("curves-controls"),
    select("Metric", options, metric, change("metric")),
    select("Split", splitsOf(metric).map((name) => [name, sentence(name)]), curves.split, change("split")),
    keys.length ? h("fieldset", {}, h("legend", {}, "Group by"), h("div", { class: "choices" }, keys.map(([key, label]) =>
      checkbox(label, curves.by.has(key), toggle(curves.by, key))))) : null,
    select("Runs of a group", [["both", "mean, 95% band, and single lines"], ["band", "mean and 95% band"], ["lines", "single lines"]], curves.seeds, change("seeds")),
    intervalSelect(),
    h("label", {}, metric === "loss" ? "Mark the first step at most" : "Mark the first step at least", threshold),
    h("fieldset", {}, h("legend", {}, "Log axis"), h("div", { class: "choices" },
      checkbox("step", curves.log.has("x"), toggleSteps), checkbox("value", curves.log.has("y"), toggle(curves.log, "y")))),
    h("button", { type: "button", id: "legend-all", hidden: true, click: () => { wholeLegend = !wholeLegend; redraw("curves-pictures"); } }),
  );
}

/** Replaces controls, and keeps the focus where it was. */
function replaceControls(host, ...controls) {
  const all = () => [...host.querySelectorAll("select, input, button, summary")];
  const before = all().indexOf(document.activeElement);
  host.replaceChildren(...controls.filter(known));
  if (before >= 0) all()[before]?.focus();
}

/** Indices of the keys that differ between groups. */
const differingKeys = (keys, groups) => keys.map((_, i) => i).filter((i) => unique(groups.map((group) => group.values[i])).length > 1);

/** Groups of curves, ordered by their keys, each with colour, dash and the points of its mean. */
function groupsOf(curves, keys, share) {
  const groups = new Map();
  for (const curve of curves) {
    const values = keys.map(([key]) => keyOf(curve, key) ?? "");
    const id = JSON.stringify(values);
    if (!groups.has(id)) groups.set(id, { values, curves: [] });
    groups.get(id).curves.push(curve);
  }
  for (const group of groups.values()) {
    group.curves = eachRunOnce(group.curves, (curve) => curve.run);
    const counted = new Set(sound(group.curves.map((curve) => curve.run)));
    group.counted = group.curves.filter((curve) => counted.has(curve.run));
  }
  const order = [...groups.values()].sort((a, b) => byValues(a.values, b.values));
  // A key with one value throughout is neither coloured nor named. Colour shows the key with most
  // values, dashes all others together; if dashes run out, each group gets its own pair of colour and dash.
  const coded = differingKeys(keys, order), valuesOf = (i) => unique(order.map((group) => group.values[i]));
  const coloured = coded.reduce((most, i) => (most === null || valuesOf(i).length > valuesOf(most).length ? i : most), null) ?? 0;
  const dashOf = (group) => JSON.stringify(coded.filter((i) => i !== coloured).map((i) => group.values[i]));
  const dashValues = unique(order.map(dashOf)), crowded = dashValues.length > DASHES.length;
  const colourOf = (group) => group.values[coloured] ?? "";
  const colourValues = unique(order.map(colourOf));
  const there = colourValues.filter((value) => value !== "");  // a series has no known learning rate
  const inOrder = there.length > 2 && there.every((value) => typeof value === "number");
  return order.map((group, at) => {
    const value = colourOf(group), rank = crowded ? at : colourValues.indexOf(value);
    const named = coded.length ? coded : keys.map((_, i) => i);
    return {
      ...group, points: pointsOf(group.counted, share),
      colour: crowded || !inOrder ? GROUPS[rank % GROUPS.length] : value === "" ? colours().quiet : ordered(there.indexOf(value), there.length - 1),
      dash: DASHES[(crowded ? Math.floor(at / GROUPS.length) : dashValues.indexOf(dashOf(group))) % DASHES.length],
      name: named.map((i) => (group.values[i] === "" ? "" : `${keys[i][1]} ${written(group.values[i])}`)).filter(Boolean).join(", ") ||
        named.map((i) => `no ${keys[i][1]}`).join(", ") || "all runs",
    };
  });
}

/** Mean and interval at each checkpoint: over the runs of a group, or over the prompts of a single run. */
function pointsOf(curves, share, ofOtherPrompts = false) {
  const places = curves.map((curve) => new Map(curve.steps.map((step, at) => [step, at])));
  const steps = unique(curves.flatMap((curve) => curve.steps)).sort((a, b) => a - b);
  const points = steps.map((step) => {
    const there = curves.map((curve, i) => [curve, places[i].get(step)]).filter(([curve, at]) => known(at) && known(curve.values[at]));
    const found = band(there.map(([curve, at]) => curve.values[at]));
    if ((curves.length === 1 || ofOtherPrompts) && isOfPrompts(curves[0].metric) && there.length) {
      const { n } = curves[0];
      Object.assign(found, overPrompts(found, Array.isArray(n) ? n[there[0][1]] : n));
    }
    if (curves.length === 1 && curves[0].gaps) {
      const [, low, high] = curves[0].gaps(step) ?? [];
      Object.assign(found, { low, high });
    }
    return { step, ...found, ...(known(found.low) ? within(found, share) : {}) };
  }).filter((point) => point.n);
  return broken(points, missingOf(curves));
}

/** Wilson's interval assumes independence: prompts are independent, the positions of an accuracy are not. */
const isOfPrompts = (metric) => /^(win_rate|preferred)/.test(metric ?? "");
const isShare = (metric) => isOfPrompts(metric) || metric === "accuracy";

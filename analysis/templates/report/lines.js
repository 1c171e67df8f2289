// The picture of the curves: means with bands, single runs, and where a threshold is reached.

function drawCurves() {
  const { metric, split, seeds, log } = state.curves;
  const curves = known(metric) ? curvesOf(metric, split) : [];
  if (!curves.length) return { title: "No curves", note: "No run has this metric yet, or the filter hides those that do." };
  const keys = shownKeys();
  const share = isShare(metric), threshold = state.curves.thresholds[metric];
  const groups = groupsOf(curves, keys, share);
  const values = curves.flatMap((curve) => curve.values.filter(known));
  const positive = values.every((value) => value > 0);
  // On a log axis bands are cut off at the bottom: the lower end may be negative.
  const scale = { x: log.has("x") ? (step) => step + 1 : (step) => step, floor: log.has("y") && positive ? Math.min(...values) * 0.8 : -Infinity };
  const legend = legendOf(groups);
  const traces = groups.flatMap((group, i) => groupTraces(group, { share, seeds, scale, metric, threshold, isNamed: i < legend.most }));
  return {
    title: `${capital(sentence(metric))} ${split === TRAINER ? "logged by its own trainer" : `on ${sentence(split)}`}${Object.hasOwn(FROM_PATCHES, metric) || [TRAINER, "batch"].includes(split) ? "" : " prompts"}${keys.length ? `, by ${keys.map(([, label]) => label).join(" and ")}` : ""}`,
    note: curvesNote(curves, groups, { keys, seeds, threshold, legend, refused: log.has("y") && !positive }),
    runs: unique(curves.map((curve) => curve.run)),
    table: () => curvesTable(groups),
    traces,
    height: 480 + legend.below,
    layout: {
      dragmode: narrow.matches ? false : "zoom",
      hovermode: "closest", margin: { l: 55, r: 15, t: 15, b: 50 + legend.below, ...(legend.below ? { autoexpand: false } : {}) },
      legend: legend.layout,
      showlegend: groups.length > 1 || keys.length > 0,
      xaxis: stepAxis(unique(curves.flatMap((curve) => curve.steps)).sort((a, b) => a - b), log.has("x"), { label: split === TRAINER || split === "batch" ? "step" : CHECKPOINT }),
      yaxis: valueAxis(metric, share, log.has("y") && positive, scale.floor, values),
      shapes: known(threshold) ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: threshold, y1: threshold, line: { color: colours().quiet, dash: "dot", width: 1 } }] : [],
    },
  };
}

const LEGEND = { beside: 26, rows: 18, most: 12, letters: 64 };  // letters and rows that fit beside the picture; entries below it before "name all" is needed
let wholeLegend = false;

/** The legend's place: beside the picture if small, else below it, with `below` pixels for `most` entries. */
function legendOf(groups) {
  const letters = Math.min(LEGEND.letters, Math.max(...groups.map(({ name }) => name.length)));
  const beside = !narrow.matches && letters <= LEGEND.beside && groups.length <= LEGEND.rows;
  const most = beside || wholeLegend ? groups.length : LEGEND.most, button = $("legend-all");
  button.hidden = beside || groups.length <= LEGEND.most;
  button.textContent = wholeLegend ? `name ${LEGEND.most} in the legend` : `name all ${groups.length} in the legend`;
  if (beside) return { most, below: 0, layout: {} };
  const width = ($("curves-pictures").clientWidth || 1200) - 100, wide = Math.min(width - 45, letters * (narrow.matches ? 6.9 : 6.4) + 10);
  const rows = Math.ceil(Math.min(most, groups.length) / Math.max(1, Math.floor(width / (wide + 45))));
  return { most, below: rows * 20 + 20, layout: { orientation: "h", tracegroupgap: 0, x: 0, xanchor: "left", y: -55 / (480 - 65), yanchor: "top", entrywidth: wide, entrywidthmode: "pixels" } };
}

const shortName = (name) => (name.length > LEGEND.letters ? `${name.slice(0, LEGEND.letters - 1)}…` : name);

/** A single run's line, broken at missing steps. */
function lineOf(curve, scale) {
  const points = broken(curve.steps.map((step, i) => ({ step, mean: curve.values[i] })), missingOf([curve]));
  return { x: points.map(({ step }) => scale.x(step)), y: points.map(({ mean }) => mean), customdata: points.map(({ step }) => step) };
}

/** Missing steps of the curves; a trainer's own log has other steps, and none missing. */
const missingOf = (curves) => missingSteps(curves.filter(({ metric, split }) => split !== TRAINER).map(({ run }) => run));

const CHECKPOINT = "checkpoint (step)";

/** Step 0 has no logarithm: the log axis shows step + 1, labelled with the steps themselves. */
function stepAxis(steps, log, { label = CHECKPOINT, most = narrow.matches ? 9 : 18 } = {}) {
  if (!log) return axis(label, { rangemode: "tozero" });
  const last = Math.log10(steps.at(-1) + 1) || 1;
  const ticks = [];
  for (const step of steps) {
    const at = Math.log10(step + 1);
    if (!ticks.length || at - Math.log10(ticks.at(-1) + 1) > last / most) ticks.push(step);
  }
  return axis(`${label}, on the logarithmic scale of step + 1`, {
    type: "log", tickvals: ticks.map((step) => step + 1), ticktext: ticks.map(String), range: [-0.02 * last, 1.02 * last],
  });
}

function valueAxis(metric, share, log, floor, values) {
  const unit = metric === "loss" ? " (nats)" : metric.includes("logit") || Object.hasOwn(FROM_PATCHES, metric) ? " (logits)" : "";
  const title = sentence(metric) + unit + (log ? ", logarithmic" : "");
  if (log) return axis(title, { type: "log", range: [Math.log10(floor), Math.log10(share ? 1.05 : Math.max(...values) * 1.1)], dtick: share ? "D2" : "D1" });
  return axis(title, share ? { range: [-0.02, 1.02] } : {});
}

function curvesNote(curves, groups, { keys, seeds, threshold, legend, refused }) {
  const ns = unique(curves.flatMap((curve) => curve.n)).sort((a, b) => a - b);
  const sizes = groups.filter((group) => group.counted.length > 1).flatMap((group) => group.points.map((point) => point.n)).filter((n) => n > 1);
  const constant = keys.map((_, i) => i).filter((i) => groups.length > 1 && !differingKeys(keys, groups).includes(i) && groups[0].values[i] !== "");
  const without = unique(groups.flatMap((group) => group.curves.filter((curve) => !group.counted.includes(curve)).map(({ run }) => run)));
  return [
    state.curves.split === TRAINER
      ? "logged by each run's own trainer, on its own data"
      : `n ${ns.length > 1 ? `${ns[0]} to ${ns.at(-1)}` : ns[0]} ${state.curves.metric === "accuracy" ? "scored positions" : "prompts"}`,
    constant.length ? `the same for all: ${constant.map((i) => `${keys[i][1]} ${written(groups[0].values[i])}`).join(", ")}` : null,
    groups.length > legend.most ? `the legend names ${legend.most} of ${groups.length} groups` : null,
    sizes.length && seeds !== "lines" ? `band: 95% interval of the mean over the runs of a group (${state.curves.split === TRAINER ? "of these runs' logs" : intervalText(sizes)})` : null,
    groups.some((group) => group.counted.length === 1 && isOfPrompts(group.counted[0].metric)) ? "band of a single run: 95% Wilson interval over prompts, of this run" : null,
    groups.some((group) => group.counted.length === 1 && group.counted[0].gaps && group.points.some((point) => known(point.low))) ? "band of a single run: 95% interval over prompts, of this run" : null,
    spikesText(curves.filter((curve) => known(curve.expected))),
    curves.some(({ run }) => hasDiverged(run)) ? `✕ last checkpoint of a run that diverged${without.length ? `; ${count(without.length, "diverged run")} left out of means` : ""}` : null,
    known(threshold) ? `◆ first checkpoint at ${written(threshold)}` : null,
    missingText(curves.filter(({ split }) => split !== TRAINER).map(({ run }) => run)),
    refused ? "zero and negative values have no logarithm, so the axis is linear" : null,
  ].filter(known).join(" · ");
}

const spikesText = (curves) => (curves.length
  ? `△ loss spike: ${DATA.spike}; ${curves.reduce((sum, { spikes }) => sum + spikes.length, 0)} found, ${curves.reduce((sum, { expected }) => sum + expected, 0).toFixed(1)} expected of ${DATA.noise}`
  : null);

function curvesTable(groups) {
  const steps = unique(groups.flatMap((group) => group.points.map((point) => point.step))).sort((a, b) => a - b);
  return {
    head: ["step", ...groups.map((group) => group.name)],
    rows: steps.map((step) => [String(step), ...groups.map((group) => {
      const point = group.points.find((one) => one.step === step);
      return point ? `${number(point.mean)}${rangeText(point)}${point.n > 1 ? ` n ${point.n}` : ""}` : "";
    })]),
  };
}

function groupTraces({ curves, counted, points, name, colour, dash }, { share, seeds, scale, metric, threshold, isNamed }) {
  const single = counted.length === 1;
  const common = { type: "scatter", legendgroup: name, name: plain(shortName(name)), showlegend: false };
  const traces = [];
  const alone = single ? counted[0] : null;  // the group's mean is this run's line
  if (curves.length > 1 && seeds !== "band") {
    for (const curve of curves.filter((one) => one !== alone || seeds === "lines")) {
      const label = plain(`${idText(curve.run)}${curve.corruption ? `, ${curve.corruption}` : ""}`);
      traces.push({
        ...common, mode: "lines", ...lineOf(curve, scale), opacity: seeds === "both" ? 0.35 : 0.9,
        line: { color: colour, dash, width: seeds === "both" ? 1 : 1.5 }, showlegend: isNamed && seeds === "lines" && curve === curves[0],
        hovertemplate: `${label}<br>checkpoint %{customdata}: %{y:.3f}<extra></extra>`,
      });
    }
    if (seeds === "lines") return [...traces, ...divergedTraces(curves, scale, common, colour)];
  }
  if (points.some((point) => known(point.low))) {
    traces.push({
      ...common, hoverinfo: "skip", mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: translucent(colour, 0.16),
      ...outline(points, scale.x, scale.floor),
    });
  }
  const who = (point) => (single ? `, run ${counted[0].run.run_id}` : `, mean of ${count(point.n, "run")}`);
  traces.push({
    ...common, showlegend: isNamed, mode: "lines+markers", x: points.map((point) => scale.x(point.step)), y: points.map((point) => point.mean),
    line: { color: colour, dash, width: 2.2 }, marker: { size: 4, color: colour },
    customdata: points.map((point) => [point.step, plain(rangeText(point) + who(point))]),
    hovertemplate: `${plain(name)}<br>checkpoint %{customdata[0]}: %{y:.3f}%{customdata[1]}<extra></extra>`,
  });
  const spikes = curves.flatMap((curve) => (curve.spikes ?? []).map(([step, value]) => ({ step, value, curve })));
  if (spikes.length) {
    traces.push({
      ...common, mode: "markers", x: spikes.map(({ step }) => scale.x(step)), y: spikes.map(({ value }) => value),
      marker: { symbol: "triangle-up-open", size: 9, color: colour, line: { width: 1.5 } },
      customdata: spikes.map(({ step, curve }) => [step, plain(`run ${idText(curve.run)}`)]),
      hovertemplate: `${plain(name)}<br>loss spike at step %{customdata[0]}: %{y:.3f}, %{customdata[1]}<extra></extra>`,
    });
  }
  const reached = known(threshold) ? points.find((point) => reaches(metric, point.mean, threshold)) : null;
  if (reached) {
    traces.push({
      ...common, mode: "markers", x: [scale.x(reached.step)], y: [reached.mean],
      marker: { symbol: "diamond", size: 12, color: colour, line: { color: colours().card, width: 1.5 } },
      customdata: [reached.step], hovertemplate: `${plain(name)}<br>first checkpoint at ${written(threshold)}: %{customdata}<extra></extra>`,
    });
  }
  return [...traces, ...divergedTraces(curves, scale, common, colour)];
}

/** A cross at the last value of each diverged run. */
function divergedTraces(curves, scale, common, colour) {
  const ends = curves.filter(({ run }) => hasDiverged(run)).map((curve) => ({ curve, at: curve.values.findLastIndex(known) })).filter(({ at }) => at >= 0);
  if (!ends.length) return [];
  const without = curves.some(({ run }) => !hasDiverged(run)) ? "<br>not in any mean" : "";
  return [{
    ...common, mode: "markers", x: ends.map(({ curve, at }) => scale.x(curve.steps[at])), y: ends.map(({ curve, at }) => curve.values[at]),
    marker: { symbol: "x", size: 12, color: colour, line: { color: colours().card, width: 1 } },
    customdata: ends.map(({ curve, at }) => [curve.steps[at], plain(`run ${idText(curve.run)}`)]),
    hovertemplate: `${common.name}<br>%{customdata[1]} diverged; its last checkpoint %{customdata[0]}: %{y:.3f}${without}<extra></extra>`,
  }];
}

// The picture of the curves: means with bands, single runs, and where a threshold is reached.

function drawCurves() {
  const { metric, split, seeds, log } = state.curves;
  const curves = known(metric) ? curvesOf(metric, split) : [];
  if (!curves.length) return { title: "No curves", note: "No run has written this metric yet, or the filter leaves none." };
  const keys = shownKeys();
  const share = isShare(metric), threshold = state.curves.thresholds[metric];
  const groups = groupsOf(curves, keys, share);
  const values = curves.flatMap((curve) => curve.values.filter(known));
  const positive = values.every((value) => value > 0);
  // On a log axis a band ends where the picture does: its lower end may be negative.
  const scale = { x: log.has("x") ? (step) => step + 1 : (step) => step, floor: log.has("y") && positive ? Math.min(...values) * 0.8 : -Infinity };
  const traces = groups.flatMap((group) => groupTraces(group, { share, seeds, scale, metric, threshold }));
  return {
    title: `${capital(sentence(metric))} ${split === TRAINER ? "that its own trainer logged" : `on ${sentence(split)}`}${Object.hasOwn(FROM_PATCHES, metric) || [TRAINER, "batch"].includes(split) ? "" : " prompts"}${keys.length ? `, by ${keys.map(([, label]) => label).join(" and ")}` : ""}`,
    note: curvesNote(curves, groups, { seeds, threshold, refused: log.has("y") && !positive }),
    runs: unique(curves.map((curve) => curve.run)),
    table: () => curvesTable(groups),
    traces,
    height: narrow.matches ? 360 + 20 * groups.length : 480,
    layout: {
      dragmode: narrow.matches ? false : "zoom",
      hovermode: "closest", margin: { l: 55, r: 15, t: 15, b: 50 },
      legend: narrow.matches ? { orientation: "h", y: -0.2 } : {},
      showlegend: groups.length > 1 || keys.length > 0,
      xaxis: stepAxis(unique(curves.flatMap((curve) => curve.steps)).sort((a, b) => a - b), log.has("x"), { told: split === TRAINER || split === "batch" ? "step" : CHECKPOINT }),
      yaxis: valueAxis(metric, share, log.has("y") && positive, scale.floor, values),
      shapes: known(threshold) ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: threshold, y1: threshold, line: { color: colours().quiet, dash: "dot", width: 1 } }] : [],
    },
  };
}

/** A single run's line, broken where there is no checkpoint. */
function lineOf(curve, scale) {
  const points = broken(curve.steps.map((step, i) => ({ step, mean: curve.values[i] })), missingOf([curve]));
  return { x: points.map(({ step }) => scale.x(step)), y: points.map(({ mean }) => mean), customdata: points.map(({ step }) => step) };
}

/** Steps without a checkpoint that curves have nothing at: what a trainer logged itself is of other steps. */
const missingOf = (curves) => missingSteps(curves.filter(({ metric, split }) => split !== TRAINER).map(({ run }) => run));

const CHECKPOINT = "checkpoint (step)";

/** Step 0 has no logarithm: the log axis is that of step + 1, with the steps themselves written on it. */
function stepAxis(steps, log, { told = CHECKPOINT, most = narrow.matches ? 9 : 18 } = {}) {
  if (!log) return axis(told, { rangemode: "tozero" });
  const last = Math.log10(steps.at(-1) + 1) || 1;
  const ticks = [];
  for (const step of steps) {
    const at = Math.log10(step + 1);
    if (!ticks.length || at - Math.log10(ticks.at(-1) + 1) > last / most) ticks.push(step);
  }
  return axis(`${told}, on the logarithmic scale of step + 1`, {
    type: "log", tickvals: ticks.map((step) => step + 1), ticktext: ticks.map(String), range: [-0.02 * last, 1.02 * last],
  });
}

function valueAxis(metric, share, log, floor, values) {
  const unit = metric === "loss" ? " (nats)" : metric.includes("logit") || Object.hasOwn(FROM_PATCHES, metric) ? " (logits)" : "";
  const title = sentence(metric) + unit + (log ? ", logarithmic" : "");
  if (log) return axis(title, { type: "log", range: [Math.log10(floor), Math.log10(share ? 1.05 : Math.max(...values) * 1.1)], dtick: share ? "D2" : "D1" });
  return axis(title, share ? { range: [-0.02, 1.02] } : {});
}

function curvesNote(curves, groups, { seeds, threshold, refused }) {
  const ns = unique(curves.flatMap((curve) => curve.n)).sort((a, b) => a - b);
  const sizes = groups.filter((group) => group.curves.length > 1).flatMap((group) => group.points.map((point) => point.n)).filter((n) => n > 1);
  const fewer = seeds !== "lines" && groups.some((group) => group.curves.length > 1 && group.curves.some(hasDiverged));
  return [
    state.curves.split === TRAINER
      ? "as each run's own trainer logged it, on its own data"
      : `n ${ns.length > 1 ? `${ns[0]} to ${ns.at(-1)}` : ns[0]} ${state.curves.metric === "accuracy" ? "scored positions" : "prompts"}`,
    sizes.length && seeds !== "lines" ? `band: 95% interval of the mean over the runs of a group (${state.curves.split === TRAINER ? "of these runs' logs" : intervalTold(sizes)})` : null,
    groups.some((group) => group.curves.length === 1 && isOfPrompts(group.curves[0].metric)) ? "band of a single run: 95% Wilson interval over prompts, of this run" : null,
    groups.some((group) => group.curves.length === 1 && group.curves[0].gaps && group.points.some((point) => known(point.low))) ? "band of a single run: 95% interval over prompts, of this run" : null,
    spikesTold(curves.filter((curve) => known(curve.expected))),
    curves.some(hasDiverged) ? `✕ last checkpoint of a run that diverged${fewer ? "; means after it are over fewer runs" : ""}` : null,
    known(threshold) ? `◆ first checkpoint at ${written(threshold)}` : null,
    missingTold(curves.filter(({ split }) => split !== TRAINER).map(({ run }) => run)),
    refused ? "values of zero and below have no logarithm, so the axis is linear" : null,
  ].filter(known).join(" · ");
}

const spikesTold = (curves) => (curves.length
  ? `△ loss spike: ${DATA.spike}; ${curves.reduce((sum, { spikes }) => sum + spikes.length, 0)} found, ${curves.reduce((sum, { expected }) => sum + expected, 0).toFixed(1)} expected of ${DATA.noise}`
  : null);

function curvesTable(groups) {
  const steps = unique(groups.flatMap((group) => group.points.map((point) => point.step))).sort((a, b) => a - b);
  return {
    head: ["step", ...groups.map((group) => group.name)],
    rows: steps.map((step) => [String(step), ...groups.map((group) => {
      const point = group.points.find((one) => one.step === step);
      return point ? `${number(point.mean)}${rangeTold(point)}${point.n > 1 ? ` n ${point.n}` : ""}` : "";
    })]),
  };
}

function groupTraces({ curves, points, name, colour, dash }, { share, seeds, scale, metric, threshold }) {
  const single = curves.length === 1;
  const common = { type: "scatter", legendgroup: name, name: plain(name) };
  const traces = [];
  if (!single && seeds !== "band") {
    for (const curve of curves) {
      const label = plain(`${idTold(curve.run)}${curve.corruption ? `, ${curve.corruption}` : ""}`);
      traces.push({
        ...common, mode: "lines", ...lineOf(curve, scale), opacity: seeds === "both" ? 0.35 : 0.9,
        line: { color: colour, dash, width: seeds === "both" ? 1 : 1.5 }, showlegend: seeds === "lines" && curve === curves[0],
        hovertemplate: `${label}<br>checkpoint %{customdata}: %{y:.3f}<extra></extra>`,
      });
    }
    if (seeds === "lines") return [...traces, ...divergedTraces(curves, scale, common, colour)];
  }
  if (points.some((point) => known(point.low))) {
    traces.push({
      ...common, showlegend: false, hoverinfo: "skip", mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: translucent(colour, 0.16),
      ...outline(points, scale.x, scale.floor),
    });
  }
  const who = (point) => (single ? `, run ${curves[0].run.run_id}` : `, mean of ${count(point.n, "run")}`);
  traces.push({
    ...common, mode: "lines+markers", x: points.map((point) => scale.x(point.step)), y: points.map((point) => point.mean),
    line: { color: colour, dash, width: 2.2 }, marker: { size: 4, color: colour },
    customdata: points.map((point) => [point.step, plain(rangeTold(point) + who(point))]),
    hovertemplate: `${plain(name)}<br>checkpoint %{customdata[0]}: %{y:.3f}%{customdata[1]}<extra></extra>`,
  });
  const spikes = curves.flatMap((curve) => (curve.spikes ?? []).map(([step, value]) => ({ step, value, curve })));
  if (spikes.length) {
    traces.push({
      ...common, showlegend: false, mode: "markers", x: spikes.map(({ step }) => scale.x(step)), y: spikes.map(({ value }) => value),
      marker: { symbol: "triangle-up-open", size: 9, color: colour, line: { width: 1.5 } },
      customdata: spikes.map(({ step, curve }) => [step, plain(`run ${idTold(curve.run)}`)]),
      hovertemplate: `${plain(name)}<br>loss spike at step %{customdata[0]}: %{y:.3f}, %{customdata[1]}<extra></extra>`,
    });
  }
  const reached = known(threshold) ? points.find((point) => reaches(metric, point.mean, threshold)) : null;
  if (reached) {
    traces.push({
      ...common, showlegend: false, mode: "markers", x: [scale.x(reached.step)], y: [reached.mean],
      marker: { symbol: "diamond", size: 12, color: colour, line: { color: colours().card, width: 1.5 } },
      customdata: [reached.step], hovertemplate: `${plain(name)}<br>first checkpoint at ${written(threshold)}: %{customdata}<extra></extra>`,
    });
  }
  return [...traces, ...divergedTraces(curves, scale, common, colour)];
}

const hasDiverged = ({ run }) => run.status === "diverged";

/** A cross at the last value of each run that diverged: without it, the mean goes on as if it had got better. */
function divergedTraces(curves, scale, common, colour) {
  const ends = curves.filter(hasDiverged).map((curve) => ({ curve, at: curve.values.findLastIndex(known) })).filter(({ at }) => at >= 0);
  if (!ends.length) return [];
  const without = curves.length > 1 ? "<br>means after it are without this run" : "";
  return [{
    ...common, showlegend: false, mode: "markers", x: ends.map(({ curve, at }) => scale.x(curve.steps[at])), y: ends.map(({ curve, at }) => curve.values[at]),
    marker: { symbol: "x", size: 12, color: colour, line: { color: colours().card, width: 1 } },
    customdata: ends.map(({ curve, at }) => [curve.steps[at], plain(`run ${idTold(curve.run)}`)]),
    hovertemplate: `${common.name}<br>%{customdata[1]} diverged; its last checkpoint %{customdata[0]}: %{y:.3f}${without}<extra></extra>`,
  }];
}

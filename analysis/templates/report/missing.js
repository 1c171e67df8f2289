// Missing steps of a series: lines and bands break there, and captions say why.

/** Steps missing in any of these runs. */
const missingSteps = (runs) => new Set(runs.flatMap((run) => run.missing?.steps ?? []));

/** Inserts empty points at missing steps, so that lines and bands break there. */
function broken(points, missing) {
  if (!missing.size || !points.length) return points;
  const nothing = [...missing].map((step) => ({ step, mean: null, low: null, high: null, n: 0 }));
  return [...points.filter(({ step }) => !missing.has(step)), ...nothing].sort((a, b) => a.step - b.step);
}

/** Why steps are missing, run by run; null if none is. */
function missingText(runs) {
  const lines = unique(runs).filter((run) => run.missing).map((run) => `run ${idText(run)}: ${run.missing.lines.join("; ")}`);
  if (!lines.length) return null;
  return `lines break where a checkpoint is missing: ${lines.slice(0, 6).join(" / ")}${lines.length > 6 ? ` / and ${lines.length - 6} more runs` : ""}`;
}

/** A note that the true first step may be earlier: the missing steps just before `step`. */
function missingBefore(run, step) {
  const { steps: number } = SERIES.get(`heldout/${LEARNED}`).get(run.index), before = Math.max(-1, ...DATA.steps[number].filter((one) => one < step));
  const between = (run.missing?.steps ?? []).filter((one) => before < one && one < step);
  return between.length ? ` (no checkpoint at ${between.slice(0, 3).join(", ")}${between.length > 3 ? ", …" : ""})` : "";
}

/** Points {step, low, high} as closed outlines, x by `scale`: a separate one for each stretch without a break. */
function outline(points, scale = (step) => step, floor = -Infinity) {
  const parts = [];
  points.forEach((point, i) => {
    if (!known(point.low)) return;
    if (!i || !known(points[i - 1].low)) parts.push([]);
    parts.at(-1).push(point);
  });
  const x = [], y = [];
  for (const part of parts) {
    if (x.length) { x.push(null); y.push(null); }
    x.push(...[...part, ...part.toReversed()].map(({ step }) => scale(step)));
    y.push(...part.map(({ high }) => high), ...part.toReversed().map(({ low }) => Math.max(low, floor)));
  }
  return { x, y };
}

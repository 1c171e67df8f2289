// The places of a picture's panels, and what panels share.

const suffix = (i) => (i ? String(i + 1) : "");
const subtitle = (text, place) => ({
  text, showarrow: false, xref: "paper", yref: "paper", x: place.x[0], xanchor: "left", y: place.y[1], yanchor: "bottom",
  align: "left", font: { size: 12 },
});

/**
 * Rows of panels with their axes' domains, and the total height in pixels: side by side, or stacked on a narrow page.
 * `tall` is a panel's height, `gap` the pixels below it for its axis and the next title.
 */
function arrange(rows, tall, gap) {
  const list = narrow.matches ? rows.flat().map((panel) => [panel]) : rows.filter((row) => row.length);
  const inner = list.length * tall + (list.length - 1) * gap;
  const width = Math.max(...list.map((row) => row.length));
  const between = 0.05, size = (1 - between * (width - 1)) / width;
  const panels = list.flatMap((row, r) => row.map((panel, c) => {
    const top = 1 - (r * (tall + gap)) / inner, left = c * (size + between);
    return { panel, x: [left, left + size], y: [Math.max(0, top - tall / inner), top], first: c === 0, last: r === list.length - 1 };
  }));
  panels.forEach((place, i) => Object.assign(place, { i, xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}` }));
  return { panels, inner };
}

/**
 * A picture's margins and height around `inner` pixels of panels: `below` for the axis of the last row, `right` for a colour
 * bar or legend, which moves below on a narrow page. They are fixed, so that panels stay in place when the slider moves
 * and Plotly does not draw twice to find room.
 */
function frame(inner, { l, t = 34, below = 50, right = 100 }) {
  const under = narrow.matches ? 70 : 0;
  const margin = { l, r: narrow.matches ? 10 : right, t, b: below + under, autoexpand: false };
  return { margin, height: inner + t + below + under };
}

/** A colour bar at the right; on a narrow page below `inner` pixels of panels. */
const scaleBar = (title, inner, below = 50, more = {}) => ({
  thickness: 12, outlinewidth: 0, ...more,
  ...(narrow.matches
    ? { orientation: "h", x: 0, xanchor: "left", xpad: 0, y: -below / inner, yanchor: "top", ypad: 0, title: { text: title, side: "top" } }
    : { title: { text: title, side: "right" } }),
});

/** A line at the slider's checkpoint in each of the panels. */
function checkpointLines(n) {
  return Array.from({ length: n }, (_, i) => ({
    type: "line", xref: `x${suffix(i)}`, yref: `y${suffix(i)} domain`, x0: stepScale().x(step()), x1: stepScale().x(step()), y0: 0, y1: 1, layer: "below",
    line: { color: colours().quiet, width: 1.5, dash: "dot" },
  }));
}

/** The caption: number of prompts, further notes, and what was not examined. */
function circuitsNote(extra, absent = [], where = "", counted = null) {
  const ns = unique(shownUnits().flatMap((unit) => blocksOf(unit)).map((block) => block.n)).join(", ");
  const lacking = absent.length ? unique(absent.map(({ why }) => why ?? null)).map((why) => `${absent.filter((one) => (one.why ?? null) === why).map(({ name }) => name).join("; ")}: ${why ?? `not examined${where}`}`).join(" · ") : null;
  return [counted ?? `${ns} prompts`, extra, lacking, missingText(runsOf(...shownUnits()))].filter(Boolean).join(" · ");
}

const against = (corruption) => DATA.corruptions[corruption];

/** A band through points {step, low, high}, broken where there is no interval. */
function bandTrace(points, colour, place, share = 0.16) {
  if (!points.some((point) => known(point.low))) return [];
  return [{
    type: "scatter", mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: translucent(colour, share), hoverinfo: "skip", showlegend: false, ...place,
    ...outline(points, stepScale().x),
  }];
}

/** The step axis for panels of curves: x of a step, and the axis; logarithmic if the curves above are. */
function stepScale() {
  const log = state.curves.log.has("x");
  return { x: log ? (step) => step + 1 : (step) => step, axis: (isTitled, more) => ({ ...(log ? stepAxis(shownSteps(), true, { most: 7 }) : axis("")), ...more, title: { text: isTitled ? CHECKPOINT : "", standoff: 8 } }) };
}

/** Each checkpoint's position between the first and the last, from 0 to 1; by step + 1 on a log axis. */
function stepPlaces(steps) {
  if (!state.curves.log.has("x")) return steps.map((_, i) => i);
  return steps.map((step) => ((steps.length - 1) * Math.log((step + 1) / (steps[0] + 1))) / Math.log((steps.at(-1) + 1) / (steps[0] + 1) || 1));
}

/** An axis with one place per step, about a dozen of them labelled. */
function orderedSteps(steps, isTitled, more) {
  const every = Math.ceil(steps.length / (narrow.matches ? 5 : 9));
  const ticks = every > 1 ? { tickvals: steps.filter((_, i) => i % every === 0).map(String), tickangle: 0 } : {};
  return axis(isTitled ? CHECKPOINT : "", { type: "category", showgrid: false, ...ticks, ...more });
}

/** A range for lines around their lowest and highest point, including zero. */
function rangeOf(values) {
  const [low, high] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [0, 0]);
  return [low - 0.06 * (high - low || 1), high + 0.06 * (high - low || 1)];
}

/** A range for the means of curves, and for their bands as far as the means stay visible; `cut` if some bands do not fit. */
function rangeWithBands(points) {
  const means = rangeOf(points.map((point) => point.mean).filter(known)), room = (means[1] - means[0]) / 2;
  const ends = points.flatMap((point) => [point.low, point.high]).filter(known);
  const inside = ends.map((end) => Math.min(Math.max(end, means[0] - room), means[1] + room));
  return { range: rangeOf([...means, ...inside]), cut: inside.some((end, i) => end !== ends[i]) };
}

/** The numbers of panels of curves, one line per curve, over all checkpoints. `curves` gives a panel's: name and points. */
function pointsTable(panels, what, curves) {
  const steps = unique(panels.flatMap((panel) => curves(panel).flatMap(({ points }) => points.map((point) => point.step)))).sort((a, b) => a - b);
  const text = (point) => (point ? number(point.mean) + pointText(point) : "");
  return {
    head: ["panel", what, ...steps.map((at) => `step ${at}`)],
    rows: panels.flatMap((panel) => curves(panel).map(({ name, points }) => [panel.name, name, ...steps.map((at) => text(points.find((point) => point.step === at)))])),
  };
}

const pointText = ({ low, high, n }) => `${known(low) ? ` [${number(low)}, ${number(high)}]` : ""}${n > 1 ? `, n ${n} runs` : ""}`;

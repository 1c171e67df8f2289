// Settings against results as parallel coordinates. Plotly's own want WebGL, which remote desktops often lack, and
// a file of theirs is no vector graphic; these are lines like any others.

const MOST_LINES = 1000;
const results = () => COLUMNS.filter((column) => column.result && column.key !== "seconds");

function drawParallelControls() {
  replaceControls($("parallel-controls"), select("Colour by", results().map((column) => [column.key, columnTold(column)]), state.result, (key) => {
    state.result = key;
    redraw("differences-pictures");
    saveView();
  }));
}

/** Each run is a line through its settings, its seed and its results. */
function drawParallel() {
  drawParallelControls();
  const column = COLUMNS.find((one) => one.key === state.result), told = columnTold(column);
  const all = visibleRuns();
  const runs = all.filter((run) => typeof valueOf(run, column.key) === "number").slice(0, MOST_LINES)
    .sort((a, b) => valueOf(a, column.key) - valueOf(b, column.key));
  const settings = [...FACTORS, ["seed", "seed"]].filter(([key]) => differing(key, runs).length > 1);
  const title = `Settings and ${told}, run by run`;
  if (!runs.length || !settings.length) return { title, note: "It takes two runs that differ and have this result." };
  const shown = unique(["win_rate", column.key]).map((key) => COLUMNS.find((one) => one.key === key))
    .filter((one) => runs.every((run) => typeof valueOf(run, one.key) === "number"));
  const axes = [...settings.map(([key, label]) => settingAxis(runs, key, label)), ...shown.map((one) => resultAxis(runs, one))];
  const values = runs.map((run) => valueOf(run, column.key));
  return {
    title,
    note: `a line is a run: ${runs.length < all.length ? `${runs.length} of ${count(all.length, "run")}, those that have the value` : count(runs.length, "run")}` +
      " · settings are evenly spaced in their order, and lines of one setting lie side by side",
    runs,
    table: () => ({
      head: ["run", ...axes.map((one) => one.label)],
      rows: runs.map((run, i) => [run.run_id, ...axes.map((one) => one.told[i])]),
    }),
    traces: [...runs.map((run, i) => parallelLine(run, i, axes, values)), colourBar(values, told)],
    height: 420,
    layout: {
      margin: { l: 20, r: 20, t: 45, b: 20 }, showlegend: false, hovermode: "closest",
      xaxis: { visible: false, range: [-0.15, axes.length - 0.6], fixedrange: true },
      yaxis: { visible: false, range: [-0.06, 1.06], fixedrange: true },
      shapes: axes.map((_, at) => ({ type: "line", layer: "below", x0: at, x1: at, y0: 0, y1: 1, line: { color: colours().quiet, width: 1 } })),
      annotations: axes.flatMap(({ label, ticks }, at) => [
        { text: `<b>${plain(shortened(label))}</b>`, x: at, y: 1.05, yanchor: "bottom", xanchor: at ? "center" : "left", showarrow: false, font: { size: 12 } },
        ...ticks.map(([y, text]) => ({
          text: plain(shortened(text)), x: at, y, xanchor: "left", xshift: 4, showarrow: false, font: { size: 11 }, bgcolor: translucent(colours().card, 0.8), borderpad: 1,
        })),
      ]),
    },
  };
}

const shortened = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);

/** Heights between 0 and 1. What shares a value lies side by side, in the order of the runs given. */
function settingAxis(runs, key, label) {
  const names = differing(key, runs).sort(compare);
  if (runs.some((run) => !known(run[key]) || run[key] === "")) names.unshift("none");
  const numbers = runs.map((run) => names.indexOf(known(run[key]) && run[key] !== "" ? run[key] : "none"));
  const sizes = names.map((_, at) => numbers.filter((number) => number === at).length);
  const room = Math.min(0.12, 0.5 / names.length), passed = names.map(() => 0);
  const height = (at) => 0.06 + 0.88 * (names.length > 1 ? at / (names.length - 1) : 0.5);
  const skip = Math.ceil(names.length / 16);
  return {
    label, told: numbers.map((at) => written(names[at])),
    heights: numbers.map((at) => height(at) + (sizes[at] > 1 ? room * (passed[at]++ / (sizes[at] - 1) - 0.5) : 0)),
    ticks: names.map((name, at) => [height(at), written(name)]).filter((_, at) => at % skip === 0),
  };
}

function resultAxis(runs, column) {
  const values = runs.map((run) => valueOf(run, column.key));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const height = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  const ticks = high > low ? [0, 0.25, 0.5, 0.75, 1].map((at) => low + at * (high - low)) : [low];
  return { label: columnTold(column), told: values.map((value) => number(value)), heights: values.map(height), ticks: ticks.map((value) => [height(value), number(value)]) };
}

function parallelLine(run, i, axes, values) {
  const [low, high] = [values[0], values.at(-1)];
  const told = axes.map((one) => `${plain(one.label)} ${plain(one.told[i])}`).join("<br>");
  return {
    type: "scatter", mode: "lines", x: axes.map((_, at) => at), y: axes.map((one) => one.heights[i]), name: plain(run.run_id),
    line: { color: ordered(high > low ? (values[i] - low) / (high - low) : 1, 1), width: 1.5 },
    opacity: values.length > 60 ? 0.5 : 0.85, hovertemplate: `${plain(run.run_id)}<br>${told}<extra></extra>`,
  };
}

/** A trace without points, for its colour bar. */
const colourBar = (values, told) => ({
  type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
  marker: {
    color: [values[0]], cmin: values[0], cmax: values.at(-1) > values[0] ? values.at(-1) : values[0] + 1, showscale: true,
    colorscale: [0, 0.5, 1].map((at) => [at, ordered(at, 1)]), colorbar: { title: { text: plain(told), side: "right" }, thickness: 12 },
  },
});

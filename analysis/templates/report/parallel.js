// Settings against results as parallel coordinates. Plotly's own need WebGL, which remote desktops often lack, and do not
// save as vector graphics; these are ordinary lines. Brushing an axis writes a term into the filter, and so
// selects runs on the whole page; runs that the filter hides stay as grey lines.

const MOST_LINES = 1000;
const results = () => COLUMNS.filter((column) => column.result && column.key !== "seconds");

function drawParallelControls() {
  replaceControls($("parallel-controls"), select("Result", results().map((column) => [column.key, columnText(column)]), state.result, (key) => {
    state.result = key;
    redraw("differences-pictures");
    saveView();
  }));
}

/** The axes drawn, for the brush. */
let parallelAxes = [];

/** Each run is a line through its settings, its seed and its result. */
function drawParallel() {
  drawParallelControls();
  drawVariance();
  const column = COLUMNS.find((one) => one.key === state.result), label = columnText(column);
  const all = RUNS.filter((run) => typeof valueOf(run, column.key) === "number").slice(0, MOST_LINES);
  const runs = all.sort((a, b) => valueOf(a, column.key) - valueOf(b, column.key)), shown = runs.filter(accepts);
  const settings = [...FACTORS, ["seed", "seed"]].filter(([key]) => differing(key, runs).length > 1);
  const title = `Settings and ${label}, run by run`;
  if (!runs.length || !settings.length) return { title, note: "needs two runs that differ and have this result" };
  const numbers = unique(["win_rate", column.key]).map((key) => COLUMNS.find((one) => one.key === key))
    .filter((one) => runs.every((run) => typeof valueOf(run, one.key) === "number"));
  const axes = [...settings.map(([key, label]) => settingAxis(runs, key, label)), ...numbers.map((one) => resultAxis(runs, one))];
  parallelAxes = axes;
  const values = shown.map((run) => valueOf(run, column.key)), at = new Map(runs.map((run, i) => [run, i]));
  const isOne = unique(values).length < 2;
  return {
    title,
    note: [
      `a line is a run: ${count(shown.length, "run")}${shown.length < runs.length ? `; grey: ${runs.length - shown.length} hidden by the filter` : ""}${runs.length < RUNS.length ? `; ${RUNS.length - runs.length} lack the value` : ""}`,
      shown.some(hasDiverged) ? "dotted: diverged" : null, isOne && values.length ? `${label} is ${number(values[0])} in all of them` : null,
      "values are evenly spaced in order, lines with the same value side by side", "drag along an axis to filter the page, click it to undo; or type in the filter",
    ].filter(Boolean).join(" · "),
    runs: shown,
    table: () => ({
      head: ["run", ...axes.map((one) => one.label)],
      rows: shown.map((run) => [run.run_id, ...axes.map((one) => one.texts[at.get(run)])]),
    }),
    traces: [...leftOutLines(runs, axes), ...shown.map((run, i) => parallelLine(run, at.get(run), axes, values, values[i])), ...(isOne ? [] : [colourBar(values, label)])],
    height: 420,
    layout: {
      margin: { l: 20, r: 20, t: 45, b: 20 }, showlegend: false, hovermode: "closest",
      xaxis: { visible: false, range: [-0.15, axes.length - 0.6], fixedrange: true },
      yaxis: { visible: false, range: [-0.06, 1.06], fixedrange: true },
      shapes: [
        ...axes.map((_, at) => ({ type: "line", layer: "below", x0: at, x1: at, y0: 0, y1: 1, line: { color: colours().quiet, width: 1 } })),
        ...axes.flatMap((one, at) => brushed(one, runs).map(([y0, y1]) => ({ type: "rect", x0: at - 0.025, x1: at + 0.025, y0, y1, line: { color: colours().ink, width: 1 }, fillcolor: translucent(colours().quiet, 0.25) }))),
      ],
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

/** Heights between 0 and 1. Runs that share a value lie side by side, in the given order. */
function settingAxis(runs, key, label) {
  const names = differing(key, runs).sort(compare), isNone = (run) => !known(run[key]) || run[key] === "";
  if (runs.some(isNone)) names.unshift(null);
  const numbers = runs.map((run) => names.indexOf(isNone(run) ? null : run[key]));
  const sizes = names.map((_, at) => numbers.filter((number) => number === at).length);
  const room = Math.min(0.12, 0.5 / names.length), passed = names.map(() => 0);
  const height = (at) => 0.06 + 0.88 * (names.length > 1 ? at / (names.length - 1) : 0.5);
  const skip = Math.ceil(names.length / 16), text = (name) => (name === null ? "none" : written(name));
  return {
    key, label, texts: numbers.map((at) => text(names[at])),
    heights: numbers.map((at) => height(at) + (sizes[at] > 1 ? room * (passed[at]++ / (sizes[at] - 1) - 0.5) : 0)),
    ticks: names.map((name, at) => [height(at), text(name)]).filter((_, at) => at % skip === 0),
    term: (low, high) => {
      const within = names.filter((_, at) => low <= height(at) && height(at) <= high);
      return within.length ? `${key}=${within.map((name) => quoted(name === null ? "" : written(name))).join(",")}` : null;
    },
  };
}

function resultAxis(runs, column) {
  const values = runs.map((run) => valueOf(run, column.key));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const height = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  const ticks = high > low ? [0, 0.25, 0.5, 0.75, 1].map((at) => low + at * (high - low)) : [low];
  const value = (at) => Number((low + Math.min(Math.max(at, 0), 1) * (high - low)).toPrecision(4));
  return {
    key: column.key, label: columnText(column), texts: values.map((value) => number(value)), heights: values.map(height), ticks: ticks.map((value) => [height(value), number(value)]),
    term: (from, to) => [from > 0 ? `${column.key}>=${value(from)}` : "", to < 1 ? `${column.key}<=${value(to)}` : ""].filter(Boolean).join(" "),
  };
}

function parallelLine(run, i, axes, values, value) {
  const [low, high] = [values[0], values.at(-1)];
  const lines = axes.map((one) => `${plain(one.label)} ${plain(one.texts[i])}`).join("<br>");
  return {
    type: "scatter", mode: "lines", x: axes.map((_, at) => at), y: axes.map((one) => one.heights[i]), name: plain(run.run_id),
    line: { color: ordered(high > low ? (value - low) / (high - low) : 1, 1), width: 1.5, dash: hasDiverged(run) ? "dot" : "solid" },
    opacity: values.length > 60 ? 0.5 : 0.85, hovertemplate: `${plain(distinctText(run))}<br>${lines}<extra></extra>`,
  };
}

/** The runs that the filter hides, as one broken line. */
function leftOutLines(runs, axes) {
  const left = runs.map((run, i) => [run, i]).filter(([run]) => !accepts(run));
  if (!left.length) return [];
  const points = left.flatMap(([, i]) => [...axes.map((one, at) => [at, one.heights[i]]), [null, null]]);
  return [{ type: "scatter", mode: "lines", name: "left out", x: points.map(([x]) => x), y: points.map(([, y]) => y), line: { color: colours().line, width: 1 }, hoverinfo: "skip" }];
}

/** A trace without points, for its colour bar. */
const colourBar = (values, label) => ({
  type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
  marker: {
    color: [values[0]], cmin: values[0], cmax: values.at(-1), showscale: true,
    colorscale: [0, 0.5, 1].map((at) => [at, ordered(at, 1)]), colorbar: { title: { text: plain(label), side: "right" }, thickness: 12 },
  },
});

const quoted = (text) => (text === "" || /[\s,<>=!]/.test(text) ? `"${text}"` : text);

/** The range that the filter's terms for an axis' key select; none without such terms. */
function brushed({ key, heights }, runs) {
  const terms = filter.either ? [] : filter.terms.filter((term) => term.key === key);
  const inside = heights.filter((_, i) => terms.every((term) => term.accepts(runs[i])));
  return terms.length && inside.length ? [[Math.min(...inside) - 0.02, Math.max(...inside) + 0.02]] : [];
}

/** Replaces a key's terms in the filter; an empty term removes them. */
function brush({ key }, term) {
  const others = filter.either ? [] : filter.terms.filter((one) => one.key !== key).map((one) => (one.key ? one.text : quoted(one.text)));
  const text = [...others, term].filter(Boolean).join(" ");
  $("filter").value = text;
  setFilter(text);
}

/** A drag along an axis brushes it, visibly; a click removes the axis' brush. */
function listenToBrush(plot) {
  let from = null;
  const mark = h("div", { class: "brush", hidden: true });
  plot.after(mark);
  const axisAt = ({ x }) => (Math.abs(x - Math.round(x)) < 0.12 ? parallelAxes[Math.round(x)] : null);
  plot.addEventListener("pointerdown", (event) => {
    const point = event.button === 0 && event.pointerType !== "touch" ? pointOf(plot, event) : null;
    if (!point || point.y < -0.06 || point.y > 1.06 || !axisAt(point)) return;
    from = { axis: axisAt(point), y: point.y, pageX: event.clientX, pageY: event.clientY };
  });
  addEventListener("pointermove", (event) => {
    if (!from) return;
    const { left, top } = plot.parentElement.getBoundingClientRect();
    mark.hidden = false;
    mark.style.left = `${from.pageX - left - 6}px`;
    mark.style.top = `${Math.min(from.pageY, event.clientY) - top}px`;
    mark.style.height = `${Math.abs(event.clientY - from.pageY)}px`;
  });
  addEventListener("pointerup", (event) => {
    if (!from) return;
    const { axis, y } = from, to = pointOf(plot, event)?.y ?? y;
    from = null;
    mark.hidden = true;
    const isClick = Math.abs(to - y) < 0.02, term = isClick ? "" : axis.term(Math.min(y, to), Math.max(y, to));
    if (term !== null) brush(axis, term);
  });
}

// The logit lens and the parts of layers: by component, and over checkpoints.

/** The views that have lens or layer parts, with their curves. */
function componentRows(kind) {
  const absent = [];
  const rows = views().map((row) => row.map((view) => ({ ...view, ...componentCurves(view.unit, view.corruption, kind) })).filter((view) => view.curves || (absent.push(view), false)));
  return { rows, absent, shown: rows.flat() };
}

const componentName = (view) => (known(state.circuits.other) ? `${view.name.slice(0, 1)}, ${against(view.corruption)}` : against(view.corruption));

/** An invisible marker that carries an order's colour bar. */
const orderBar = (names, title, inner, below, places = names.map((_, i) => i)) => {
  const room = names.length / (narrow.matches ? 4 : 9), ticks = [];
  for (const i of names.keys()) if (!ticks.length || places[i] - places[ticks.at(-1)] >= Math.max(1, Math.ceil(room)) - 1e-9) ticks.push(i);
  return {
    type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip", showlegend: false,
    marker: {
      color: [0], cmin: 0, cmax: names.length - 1, showscale: names.length > 1, colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, ordered(share, 1)]),
      colorbar: scaleBar(title, inner, below, { tickvals: ticks.map((i) => places[i]), ticktext: ticks.map((i) => plain(names[i])) }),
    },
  };
};

/** The logit lens through the layers, one line per checkpoint. */
function drawLens() {
  const { rows, absent, shown } = componentRows("lens");
  const title = ["Logit lens: logit difference of the residual stream", whose()].filter(Boolean).join(", ");
  if (!shown.length) return { title, note: "not examined" };
  const at = step();
  const range = rangeOf(shown.flatMap(({ curves }) => curves.flatMap(({ points }) => points.map((point) => point.mean))).filter(known));
  const { panels, inner } = arrange(rows, 270, 110);
  const { margin, height } = frame(inner, { l: 50, below: 85 });
  const layout = { margin, annotations: [], showlegend: false };
  const traces = panels.flatMap((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${plain(componentName(panel))}</b>`, place));
    layout[`xaxis${suffix(i)}`] = axis("", { domain: place.x, anchor: yaxis, type: "category", tickangle: -50 });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? "logit difference (logits)" : "", { domain: place.y, anchor: xaxis, range });
    const places = stepPlaces(panel.steps);
    const line = (rank, now) => ({
      type: "scatter", mode: now ? "lines+markers" : "lines", xaxis, yaxis,
      x: panel.curves.map(({ name }) => plain(name)), y: panel.curves.map(({ points }) => points[rank].mean), opacity: now ? 1 : 0.55,
      line: { width: now ? 3 : 1.2, color: now ? colours().ink : ordered(places[rank], panel.steps.length - 1) },
      hovertemplate: `checkpoint ${panel.steps[rank]}<br>%{x}: %{y:.3f}<extra></extra>`,
    });
    const now = panel.steps.indexOf(at);
    return [...panel.steps.map((_, rank) => line(rank, false)), ...(now >= 0 ? [line(now, true)] : [])];
  });
  traces.push(orderBar(shown[0].steps.map(String), "checkpoint", inner, 80, stepPlaces(shown[0].steps)));
  return { title, traces, layout, note: circuitsNote(`thick: checkpoint ${at}`, absent), table: () => pointsTable(shown, "component", ({ curves }) => curves), runs: runsOf(...shownUnits()), height };
}

/** Measures of the clean run, by name: title, and label of the value axis. */
const MEASURES = {
  position_r2: ["Linear probe of position: how well a component predicts it", "held-out R²"],
  position_r2_without_bos: ["Linear probe of position without BOS", "held-out R²"],
  previous_token: ["Attention to the previous token", "mean attention"],
  diagonal: ["Attention to the token itself", "mean attention"],
  ablated_loss: ["Loss with a component replaced by its mean", "loss (nats)"],
};
/** The number of tokens behind a measure; null for values over prompts. */
const tokensOf = (kind) => {
  const ns = unique(shownUnits().flatMap((unit) => blocksOf(unit)).map((block) => block[kind]?.n)).filter(known);
  return ns.length ? `n ${ns.join(", ")} tokens of clean held-out prompts` : null;
};
const isMeasure = (kind) => kind.startsWith("measure:");
const measuresThere = () => unique(DATA.blocks.flatMap((block) => Object.keys(block))).filter(isMeasure);

/** What the bands over `ns` runs are, or why there are none: some tables do not keep single prompts. */
function bandsText(kind, ns) {
  if (isMeasure(kind)) return ns.length ? `band: 95% interval of the mean (${intervalText(ns, "student")})` : "";
  return ns.length ? bandText(familiesShown()) : "no band: these tables do not keep single prompts, or there is no inference for this choice";
}

/** Logit differences over checkpoints, one line per component of `kind` whose name begins with `word`. */
function drawComponentLines(kind, word, what, value = "logit difference (logits)") {
  const { rows, absent, shown } = componentRows(kind);
  const title = [`${what} over checkpoints`, whose()].filter(Boolean).join(", ");
  if (!shown.length) return { title, note: "not examined" };
  const lines = ({ curves }) => curves.filter(({ name }) => name.startsWith(word));
  const all = shown.flatMap((view) => lines(view).flatMap(({ points }) => points));
  const { range, cut } = rangeWithBands(all);
  const { panels, inner } = arrange(rows, 270, 85);
  const { margin, height } = frame(inner, { l: 50, right: 130 });
  const layout = { margin, annotations: [], showlegend: false, shapes: checkpointLines(panels.length) };
  const traces = panels.flatMap((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${plain(isMeasure(kind) ? panel.name : componentName(panel))}</b>`, place));
    layout[`xaxis${suffix(i)}`] = stepScale().axis(place.last, { domain: place.x, anchor: yaxis });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? value : "", { domain: place.y, anchor: xaxis, range });
    const curves = lines(panel);
    return curves.flatMap(({ name, points }, rank) => {
      const colour = ordered(rank, curves.length - 1);
      return [...bandTrace(points, colour, { xaxis, yaxis }, 0.1), {
        type: "scatter", mode: "lines+markers", xaxis, yaxis, x: points.map((point) => stepScale().x(point.step)), y: points.map((point) => point.mean), marker: { size: 3 }, line: { color: colour, width: 1.8 },
        customdata: points.map((point) => [point.step, pointText(point)]), hovertemplate: `${plain(name)}, checkpoint %{customdata[0]}<br>%{y:.3f}%{customdata[1]}<extra></extra>`,
      }];
    });
  });
  const names = lines(shown[0]).map(({ name }) => name);
  traces.push(orderBar(names, "component, in order", inner));
  const banded = all.filter((point) => known(point.low));
  const last = (view) => `${componentName(view)}: ${lines(view).map(({ name, points }) => `${name} ${number(points.at(-1).mean)}`).join(", ")}`;
  return {
    title, traces, layout, note: circuitsNote(["dotted: the slider's checkpoint", bandsText(kind, banded.map((point) => point.n)), cut ? "wide bands are cut off" : ""].filter(Boolean).join(" · "), absent, "", tokensOf(kind)), runs: runsOf(...shownUnits()),
    alt: `at the last checkpoint ${shown.map(last).join("; ")}`, table: () => pointsTable(shown, "component", lines), height,
  };
}

/** The parts of all layers at all checkpoints, as a heatmap. */
function drawLayers() {
  const { rows, absent, shown } = componentRows("layer");
  const title = ["Logit difference from each layer's attention and MLP", whose()].filter(Boolean).join(", ");
  if (!shown.length) return { title, note: "not examined" };
  const at = step();
  const colour = colours();
  const end = Math.max(...rangeOf(shown.flatMap(({ curves }) => curves.flatMap(({ points }) => points.map((point) => point.mean))).filter(known)).map(Math.abs), 1e-6);
  const { panels, inner } = arrange(rows, Math.max(130, shown[0].curves.length * 18), 85);
  const { margin, height } = frame(inner, { l: 60, below: 65 });
  const layout = {
    margin, annotations: [], shapes: [],
    coloraxis: { cmin: -end, cmax: end, colorscale: colour.diverging, colorbar: scaleBar("logits", inner, 65) },
  };
  const traces = panels.map((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${plain(componentName(panel))}</b>`, place));
    layout[`xaxis${suffix(i)}`] = orderedSteps(panel.steps, place.last, { domain: place.x, anchor: yaxis });
    layout[`yaxis${suffix(i)}`] = axis("", { domain: place.y, anchor: xaxis, type: "category", showgrid: false, showticklabels: place.first, dtick: 1 });
    const now = panel.steps.indexOf(at);
    if (now >= 0) {
      layout.shapes.push({ type: "rect", xref: xaxis, yref: `${yaxis} domain`, x0: now - 0.5, x1: now + 0.5, y0: 0, y1: 1, line: { color: colour.ink, width: 2 } });
    }
    return {
      type: "heatmap", coloraxis: "coloraxis", xaxis, yaxis, xgap: panel.steps.length > 40 ? 0 : 1, ygap: 1,
      x: panel.steps.map(String), y: panel.curves.map(({ name }) => plain(name)), z: panel.curves.map(({ points }) => points.map((point) => point.mean)),
      customdata: panel.curves.map(({ points }) => points.map(pointText)),
      hovertemplate: "%{y}, checkpoint %{x}<br>%{z:.3f} logits%{customdata}<extra></extra>",
    };
  });
  return { title, traces, layout, note: circuitsNote(`framed: checkpoint ${at}`, absent), table: () => pointsTable(shown, "component", ({ curves }) => curves), runs: runsOf(...shownUnits()), height };
}

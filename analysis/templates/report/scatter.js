const NAMED = 6;  // heads of a panel that carry their name
const APART = 0.04;  // of an axis: heads nearer to zero get no name, for names would overlap
const SIDES = ["middle right", "middle left", "top center", "bottom center"];  // alternating, so that neighbours' names do not overlap

/** The exact site if any view has it, else its estimates. */
function siteThere(name) {
  const sites = views().flat().flatMap(({ unit, corruption }) => blocksOf(unit, corruption)).flatMap((block) => Object.keys(block.sites));
  return [name, name + APPROXIMATE].find((site) => sites.includes(site)) ?? null;
}

/** The heads with a value at both sites at a step. */
function pairs({ unit, corruption }, across, up, at, quantity) {
  const [one, other] = [across, up].map((site) => site && siteCells(unit, corruption, site, at, quantity));
  if (!one || !other || !sameLayout(one.layout, other.layout)) return null;
  const width = one.layout.columns.length;
  return one.cells.map((cell, i) => ({
    name: `${one.layout.layers[Math.floor(i / width)]}.${one.layout.columns[i % width]}`, layer: one.layout.layers[Math.floor(i / width)],
    x: cell.mean, y: other.cells[i].mean, xs: cell.deviation, ys: other.cells[i].deviation, n: cell.n, marks: [cell, other.cells[i]].map(markOf),
  })).filter((point) => known(point.x) && known(point.y));
}

const farthest = (points, n) => [...points].sort((a, b) => Math.hypot(b.x, b.y) - Math.hypot(a.x, a.y)).slice(0, n);

/** The range of both axes of all panels, the same for every checkpoint. */
function pairsRange(across, up, quantity) {
  return remember(["pairs", across, up, quantity, views()], () =>
    rangeOf(shownSteps().flatMap((at) => views().flat().flatMap((view) => pairs(view, across, up, at, quantity)?.flatMap(({ x, y }) => [x, y]) ?? []))));
}

/** One point per head: patching one site against patching another. */
function drawScatter(up, across, room) {
  const { quantity } = state.circuits;
  const [one, other] = [siteThere(across), siteThere(up)];
  const at = step();
  const value = quantity === "recovered" ? "Recovered" : "Logit difference change";
  const title = [`${value} by patching ${other ?? up} against ${one ?? across}, one point per head`, `checkpoint ${at}`, whose()].join(", ");
  const absent = [];
  const rows = views().map((row) => row.map((view) => ({ ...view, points: pairs(view, one, other, at, quantity) })).filter((view) => view.points || (absent.push(view), false)));
  if (!rows.flat().length) return { title, note: "not examined at this checkpoint" };
  const range = pairsRange(one, other, quantity);
  const most = Math.max(...rows.map((row) => row.length)), inside = Math.max(200, (room || 900) - 55 - (narrow.matches ? 10 : 100));
  const side = narrow.matches ? inside : Math.min(340, (inside - 60 * (most - 1)) / most);  // both axes have one scale
  const { panels, inner } = arrange(rows, side, 85);
  const columns = new Map(unique(panels.map(({ x }) => x[0])).sort((a, b) => a - b).map((left, c) => [left, (c * (side + 60)) / inside]));
  for (const place of panels) place.x = [columns.get(place.x[0]), columns.get(place.x[0]) + side / inside];
  const used = Math.max(...panels.map(({ x }) => x[1]));
  const colour = colours(), judged = familiesShown(one).length + familiesShown(other).length > 0;
  const depth = Math.max(...rows.flat().flatMap(({ points }) => points.map(({ layer }) => layer)), 1);
  const { margin, height } = frame(inner, { l: 55 });
  const layout = {
    margin, annotations: [], shapes: [], showlegend: false,
    coloraxis: {
      cmin: 0, cmax: depth, colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, ordered(share, 1)]),
      colorbar: { ...scaleBar("layer", inner, 50, depth < 12 ? { dtick: 1 } : {}), ...(narrow.matches ? {} : { x: used, xanchor: "left" }) },
    },
  };
  const traces = panels.map((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b>`, place));
    layout[`xaxis${suffix(i)}`] = axis(place.last ? `by ${one}` : "", { domain: place.x, anchor: yaxis, range });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? `by ${other}` : "", { domain: place.y, anchor: xaxis, range });
    layout.shapes.push({ type: "line", xref: xaxis, yref: yaxis, x0: range[0], y0: range[0], x1: range[1], y1: range[1], layer: "below", line: { color: colour.quiet, width: 1, dash: "dot" } });
    const far = farthest(panel.points, NAMED).filter(({ x, y }) => Math.hypot(x, y) > APART * (range[1] - range[0]));
    const deviations = ({ xs, ys, n }) => (n > 1 ? `<br>standard deviations ${number(xs)} and ${number(ys)}, n ${n} runs` : "");
    return {
      type: "scatter", mode: "markers+text", xaxis, yaxis, x: panel.points.map(({ x }) => x), y: panel.points.map(({ y }) => y),
      text: panel.points.map((point) => (far.includes(point) ? point.name : "")), textfont: { size: 11 },
      textposition: panel.points.map((point) => SIDES[Math.max(0, far.indexOf(point)) % SIDES.length]),
      marker: { size: 9, symbol: panel.points.map(({ marks }) => (judged && !marks.includes("m") ? "circle-open" : "circle")), color: panel.points.map(({ layer }) => layer), coloraxis: "coloraxis", line: judged ? {} : { color: colour.card, width: 1 } },
      customdata: panel.points.map((point) => `head ${point.name}<br>${other} ${fixed(point.y)}, ${one} ${fixed(point.x)}${deviations(point)}`),
      hovertemplate: `${plain(panel.name)}<br>%{customdata}<extra></extra>`, cliponaxis: false,
    };
  });
  const missing = rows.flat().some(({ points }) => !points.length) ? `heads without a value are left out: ${noGap()}` : "";
  const farthestText = ({ name, points }) => `${name}: ${farthest(points, 3).map((point) => `head ${point.name} ${other} ${fixed(point.y)}, ${one} ${fixed(point.x)}`).join(", ")}`;
  return {
    title, traces, layout, runs: runsOf(...shownUnits()), alt: rows.flat().map(farthestText).join("; "),
    note: circuitsNote(["dotted: both recover the same", judged ? "filled: matters by either patching (verdicts as in the pictures above)" : "", missing].filter(Boolean).join(" · "), absent, " at this checkpoint"),
    table: () => ({ head: ["panel", "head", one, other], rows: rows.flat().flatMap(({ name, points }) => points.map((point) => [name, point.name, number(point.x), number(point.y)])) }),
    height, room,
  };
}

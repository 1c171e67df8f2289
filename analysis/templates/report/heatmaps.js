/** How approximate values correlate with the exact ones of a site at a step: from the least r of its runs to the largest. */
function agreement(site, at) {
  const found = views().flat().flatMap(({ unit, corruption }) => blocksOf(unit, corruption)).map((block) => block.sites[site]).filter((part) => part?.r)
    .map((part) => [DATA.steps[part.steps].indexOf(at), part]).filter(([index, part]) => known(part.r[index]))
    .map(([index, part]) => ({ r: part.r[index], n: part.change[index].filter(known).length }));
  if (!found.length) return "";
  const rs = found.map(({ r }) => r);
  const ends = unique([Math.min(...rs), Math.max(...rs)].map((r) => r.toFixed(3)));
  return `approximate against exact: r ${ends.join(" to ")}, n ${unique(found.map(({ n }) => n)).join("/")}`;
}

const sameLayout = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** A view's panel: values for the colours, and what the pointer is told of each besides. Null where nothing was examined. */
function heatmapPanel(view, site, at, quantity, over) {
  const found = sheet(view.unit, view.corruption, site, at, quantity);
  if (!found) return null;
  const { layout, cells, clean, corrupted, used, of } = found;
  const told = [
    known(clean) ? `clean ${clean.toFixed(2)}, corrupted ${corrupted.toFixed(2)}` : "",
    used < of ? `${used} of ${of} runs` : "",
  ].filter(Boolean).join(", ");
  const besides = cells.map((cell) => (of < 2 ? "" : over === "deviation" ? `<br>mean ${number(cell.mean)}, n ${cell.n} runs` : `<br>standard deviation ${number(cell.deviation) || "none"}, n ${cell.n} runs`));
  return { name: view.name, layout, list: cells.map((cell) => cell[over]), besides, told };
}

function differencePanel(one, other, name) {
  const list = one.list.map((value, i) => (known(value) && known(other.list[i]) ? value - other.list[i] : null));
  return { name, layout: one.layout, list, besides: list.map(() => ""), told: "" };
}

/** The three largest values of a panel in words, for those who do not see it. */
function largest({ name, layout, list }) {
  const width = layout.columns.length;
  const order = list.map((value, i) => [value, i]).filter(([value]) => known(value)).sort(([a], [b]) => Math.abs(b) - Math.abs(a)).slice(0, 3);
  const where = (i) => `layer ${layout.layers[Math.floor(i / width)]} ${layout.axis} ${layout.columns[i % width]}`;
  return `${name}: ${order.map(([value, i]) => `${value.toFixed(3)} at ${where(i)}`).join(", ") || "no values"}`;
}

function heatmapTable(shown) {
  const { axis: kind, columns } = shown[0].layout;
  const same = shown.filter(({ layout }) => sameLayout(layout, shown[0].layout));
  return {
    head: ["panel", "layer", ...columns.map((name) => `${kind} ${name}`)],
    rows: same.flatMap(({ name, layout, list }) => rowsOfSheet(layout, list).map((values, i) => [name, String(layout.layers[i]), ...values.map((value) => number(value))])),
  };
}

function drawHeatmap(site) {
  const quantity = site === "head" ? "change" : state.circuits.quantity;
  const over = state.circuits.over === "spread" ? "deviation" : "mean";
  const at = step();
  const what = site === "head" ? "direct logit difference of each head" : `${quantity === "recovered" ? "recovered" : "logit difference change"} by patching ${SITES[site] ?? site}`;
  const words = over === "deviation" ? `Standard deviation over runs: ${what}` : capital(what);
  const title = [words, `checkpoint ${at}`, whose(state.circuits.over)].filter(Boolean).join(", ");
  const absent = [];
  const rows = views().map((row) => {
    const panels = row.map((view) => heatmapPanel(view, site, at, quantity, over) ?? (absent.push(view), null)).filter(Boolean);
    if (over === "mean" && panels.length === 2 && sameLayout(panels[0].layout, panels[1].layout)) {
      const { left, right, other } = state.circuits;
      panels.push(differencePanel(...panels, known(other) ? `A − B, ${row[0].corruption} corruption` : `${left} − ${right}`));
    }
    return panels;
  });
  const shown = rows.flat();
  if (!shown.length) return { title, note: "not examined at this checkpoint" };
  const end = limit(site, quantity, over);
  const colour = colours();
  const positions = shown[0].layout.axis === "position";
  const tall = Math.min(Math.max(shown[0].layout.layers.length * 26, 130), 420);
  const { panels, inner } = arrange(rows, tall, positions ? 125 : 90);
  const below = positions ? 95 : 45;
  const { margin, height } = frame(inner, { l: 45, t: 48, below });
  const layout = {
    plot_bgcolor: colour.missing, margin, annotations: [],
    coloraxis: {
      cmin: over === "mean" ? -end : 0, cmax: end, colorscale: over === "mean" ? colour.diverging : colour.sequential,
      colorbar: scaleBar(quantity === "recovered" ? "recovered" : "logits", inner, below),
    },
  };
  const traces = panels.map((place) => {
    const { panel, i, xaxis, yaxis } = place;
    const { layers, columns, axis: kind } = panel.layout;
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b><br>${panel.told}`, place));
    const bare = { type: "category", showgrid: false, zeroline: false, ticks: "" };
    layout[`xaxis${suffix(i)}`] = axis(place.last ? kind : "", { ...bare, domain: place.x, anchor: yaxis, tickangle: positions ? -50 : 0 });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? "layer" : "", { ...bare, domain: place.y, anchor: xaxis, showticklabels: place.first });
    return {
      type: "heatmap", coloraxis: "coloraxis", xaxis, yaxis, xgap: 1, ygap: 1, hoverongaps: true,
      x: columns.map(plain), y: layers.map(String), z: rowsOfSheet(panel.layout, panel.list), customdata: rowsOfSheet(panel.layout, panel.besides),
      name: plain(panel.name), hovertemplate: `${plain(panel.name)}<br>layer %{y}, ${kind} %{x}<br>%{z:.3f}%{customdata}<extra></extra>`,
    };
  });
  const alone = over === "deviation" && shown.every((panel) => panel.list.every((value) => !known(value)));
  const extra = [alone ? "one run has no spread: choose a mean over several" : "", agreement(site, at)].filter(Boolean).join(" · ");
  return {
    title, traces, layout, note: circuitsNote(extra, absent, " at this checkpoint"), runs: runsOf(...shownUnits()),
    alt: shown.map(largest).join("; "), table: () => heatmapTable(shown), height,
  };
}

/** How approximate values correlate with the exact ones of a site at a step: from the least r of its runs to the largest. */
function agreement(site, at) {
  const found = views().flat().flatMap(({ unit, corruption }) => blocksOf(unit, corruption)).map((block) => block.sites[site]).filter((part) => part?.r)
    .map((part) => [DATA.steps[part.steps].indexOf(at), part]).filter(([index, part]) => known(part.r[index]))
    .map(([index, part]) => ({ r: part.r[index], n: part.change[index].filter(known).length }));
  if (!found.length) return "";
  const rs = found.map(({ r }) => r);
  const ends = unique([Math.min(...rs), Math.max(...rs)].map((r) => fixed(r)));
  return `approximate against exact: r ${ends.join(" to ")}, n ${unique(found.map(({ n }) => n)).join("/")}`;
}

const sameLayout = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/**
 * A view's panel: values for the colours, marks, which cells have no gap, and what the pointer is told of each besides.
 * Null where nothing was examined.
 */
function heatmapPanel(view, site, at, quantity, over) {
  const found = sheet(view.unit, view.corruption, site, at, quantity);
  if (!found) return null;
  const { layout, cells, clean, corrupted, few, of } = found;
  const gap = known(clean) ? gapAt(view.unit, view.corruption, site, at) : null;
  const both = narrow.matches || !known(clean) ? "" : `clean ${fixed(clean, 2)}, corrupted ${fixed(corrupted, 2)}: `;
  const told = known(clean) ? `${both}gap ${fixed(gap?.[0] ?? clean - corrupted, 2)}${gap ? endsTold(gap[1], gap[2], 2) : ""}` : "";
  const missing = cells.map((cell) => quantity === "recovered" && site !== "head" && !cell.defined);
  const besides = cells.map((cell) => [
    over === "mean" ? endsTold(cell.low, cell.high) : "", known(cell.verdict) ? `<br>${markTold(markOf(cell))}` : "",
    of < 2 ? "" : over === "deviation" ? `<br>mean ${number(cell.mean)}, n ${cell.n} runs` : `<br>standard deviation ${number(cell.deviation) || "none"}, n ${cell.n} runs`,
  ].join(""));
  return { name: view.name, view, layout, list: cells.map((cell) => cell[over]), marks: cells.map(over === "mean" ? markOf : () => null), missing, few, besides, told };
}

/** A number with so many digits, without a minus before zero. */
const fixed = (value, digits = 3) => (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits);
const endsTold = (low, high, digits = 3) => (known(low) && known(high) ? ` [${fixed(low, digits)}, ${fixed(high, digits)}]` : "");

/** The second panel less the first, with the interval and the comparison where they were worked out. */
function differencePanel(one, other, name, site, at, quantity) {
  const comparison = quantity === "recovered" ? comparisonOf(one.view, other.view, site) : null;
  const signs = signsAt(comparison, at, one.layout), found = signs && endsAt(comparison, at);
  const list = one.list.map((value, i) => (known(value) && known(other.list[i]) ? other.list[i] - value : null));
  const ends = (i) => endsTold(found?.low?.[i], found?.high?.[i]);
  return {
    name, layout: one.layout, list, told: signs ? "" : "no interval was worked out", marks: list.map((_, i) => signs?.[i] ?? null), comparison,
    missing: list.map((_, i) => one.missing[i] || other.missing[i]), few: one.few, besides: list.map((_, i) => ends(i) + (signs?.[i] ? `<br>${markTold(signs[i])}` : "")),
  };
}

/** What a row of two views differs in, in their order: the second corruption less the first, B less A. */
function inOrder(one, other, corruption = ({ corruption: name }) => name) {
  const rank = (view) => corruptions().indexOf(corruption(view));
  return known(state.circuits.other) || rank(one) <= rank(other) ? [one, other] : [other, one];
}

const differenceName = ([one, other]) => (known(state.circuits.other) ? `B − A, ${one.corruption} corruption` : `${other.corruption} − ${one.corruption}`);

/** The three largest values of a panel in words, for those who do not see it. */
function largest({ name, layout, list, marks }) {
  const width = layout.columns.length;
  const order = list.map((value, i) => [value, i]).filter(([value]) => known(value)).sort(([a], [b]) => Math.abs(b) - Math.abs(a)).slice(0, 3);
  const where = (i) => `layer ${layout.layers[Math.floor(i / width)]} ${layout.axis} ${layout.columns[i % width]}${markTold(marks[i]) && ` (${markTold(marks[i])})`}`;
  return `${name}: ${order.map(([value, i]) => `${fixed(value)} at ${where(i)}`).join(", ") || "no values"}`;
}

function heatmapTable(shown) {
  const { axis: kind, columns } = shown[0].layout;
  const same = shown.filter(({ layout }) => sameLayout(layout, shown[0].layout));
  const told = ({ list, marks, missing }) => list.map((value, i) => (missing[i] ? markTold("x") : [number(value), markTold(marks[i])].filter(Boolean).join(", ")));
  return {
    head: ["panel", "layer", ...columns.map((name) => `${kind} ${name}`)],
    rows: same.flatMap((panel) => rowsOfSheet(panel.layout, told(panel)).map((values, i) => [panel.name, String(panel.layout.layers[i]), ...values])),
  };
}

/** What lies on a panel's colours: a mark on each cell that has one, and grey where there is no gap. */
function markTraces({ layout: { layers, columns }, marks, missing }, place) {
  const width = columns.length, colour = colours();
  const at = (i) => ({ x: plain(columns[i % width]), y: String(layers[Math.floor(i / width)]) });
  const drawn = Object.entries(MARKS).filter(([, [, , marker]]) => marker).map(([mark, [, , marker]]) => {
    const cells = marks.map((one, i) => i).filter((i) => marks[i] === mark && !missing[i]).map(at);
    return cells.length ? {
      type: "scatter", mode: "markers", ...place, x: cells.map(({ x }) => x), y: cells.map(({ y }) => y), hoverinfo: "skip", showlegend: false, name: mark,
      marker: { ...marker, color: colour.ink, line: { color: marker.symbol.endsWith("open") ? colour.ink : colour.card, width: marker.symbol.endsWith("open") ? 2 : 1 } },
    } : null;
  });
  const grey = missing.some(Boolean) ? {
    type: "heatmap", ...place, xgap: 1, ygap: 1, x: columns.map(plain), y: layers.map(String), z: rowsOfSheet({ layers, columns }, missing.map((none) => (none ? 1 : null))),
    colorscale: [[0, colour.missing], [1, colour.missing]], showscale: false, hoverongaps: false, name: "no gap",
    hovertemplate: `layer %{y}, %{x}<br>${noGap()}<extra></extra>`,
  } : null;
  return [grey, ...drawn].filter(known);
}

/** A mean over runs needs a gap in each of them. */
const noGap = () => `the corruption makes no measurable difference here${shownUnits().some(several) ? ", in one of the runs at least" : ""}`;

/** Hatching over the columns of which few prompts have the role. */
function hatched({ layout: { layers, columns }, few }, { xaxis, yaxis }) {
  if (!few?.some(Boolean)) return [];
  const line = (x, y) => `M${x - 0.5},${y - 0.5}L${x + 0.5},${y + 0.5}M${x - 0.5},${y}L${x},${y + 0.5}M${x},${y - 0.5}L${x + 0.5},${y}`;
  const path = columns.flatMap((_, x) => (few[x] ? layers.map((_, y) => line(x, y)) : [])).join("");
  return [{ type: "path", path, xref: xaxis, yref: yaxis, layer: "above", line: { color: colours().quiet, width: 0.8 } }];
}

/** What marks, grey and hatching mean, and what verdicts are of; the same at all checkpoints. */
function marksNote(site, quantity, over, rows) {
  const families = familiesShown(site), shown = rows.flat();
  if (site === "head") return "";
  const gapless = families.some(({ verdict }) => verdict.some((letters) => letters.includes("x")));
  const grey = quantity === "recovered" && gapless ? `grey: ${noGap()}` : "";
  const hatching = shown.some(({ few }) => few?.some(Boolean)) ? "hatched: fewer than half of the prompts have the role" : "";
  if (over !== "mean") return [grey, hatching].filter(Boolean).join(" · ");
  if (!families.length) return [untold(views().flat().find((view) => sheet(view.unit, view.corruption, site, step(), quantity)) ?? views()[0][0], site).replace(/\.$/, ""), grey, hatching].filter(Boolean).join(" · ");
  const marks = ["m", ...(families.some(({ here }) => here) ? ["h"] : []), "u", ...(quantity !== "recovered" && gapless ? ["x"] : [])];
  const compared = unique(shown.map(({ comparison }) => comparison?.scope).filter(known));
  return [
    `${marks.map((mark) => `${MARKS[mark][0]} ${MARKS[mark][1]}`).join(", ")}, no mark: small${views().flat().some((view) => !familyOf(view.unit, view.corruption, site) && sheet(view.unit, view.corruption, site, step(), quantity)) ? " (in panels of which something is concluded)" : ""}`,
    compared.length ? `difference: ▲ more, ▼ less, • undecided, no mark: alike within ${DATA.delta} (${compared.join("; or ")})` : "", grey, hatching,
    `verdicts: ${scopesTold(families)}; ${unique(families.map(({ many }) => many)).join(" or ")}, any wrong: 5%`,
    families.some(({ gap }) => gap.some(([, low]) => known(low))) ? "gap: 95% interval over prompts, in these runs" : "",
  ].filter(Boolean).join(" · ");
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
      const pair = inOrder(...panels, ({ view }) => view.corruption);
      panels.push(differencePanel(...pair, differenceName(pair.map(({ view }) => view)), site, at, quantity));
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
    margin, annotations: [], shapes: [],
    coloraxis: {
      cmin: over === "mean" ? -end : 0, cmax: end, colorscale: over === "mean" ? colour.diverging : colour.sequential,
      colorbar: scaleBar(quantity === "recovered" ? "recovered" : "logits", inner, below),
    },
  };
  const traces = panels.flatMap((place) => {
    const { panel, i, xaxis, yaxis } = place;
    const { layers, columns, axis: kind } = panel.layout;
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b><br>${plain(panel.told)}`, place));
    layout.shapes.push(...hatched(panel, place));
    const bare = { type: "category", showgrid: false, zeroline: false, ticks: "" };
    layout[`xaxis${suffix(i)}`] = axis(place.last ? kind : "", { ...bare, domain: place.x, anchor: yaxis, tickangle: positions ? -50 : 0, range: [-0.5, columns.length - 0.5] });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? "layer" : "", { ...bare, domain: place.y, anchor: xaxis, showticklabels: place.first, range: [-0.5, layers.length - 0.5] });
    return [{
      type: "heatmap", coloraxis: "coloraxis", xaxis, yaxis, xgap: 1, ygap: 1, hoverongaps: false,
      x: columns.map(plain), y: layers.map(String), z: rowsOfSheet(panel.layout, panel.list), customdata: rowsOfSheet(panel.layout, panel.besides),
      name: plain(panel.name), hovertemplate: `${plain(panel.name)}<br>layer %{y}, ${kind} %{x}<br>%{z:.3f}%{customdata}<extra></extra>`,
    }, ...markTraces(panel, { xaxis, yaxis })];
  });
  const alone = over === "deviation" && shown.every((panel) => panel.list.every((value) => !known(value)));
  const extra = [alone ? "one run has no spread: choose a mean over several" : "", marksNote(site, quantity, over, rows), agreement(site, at)].filter(Boolean).join(" · ");
  return {
    title, traces, layout, note: circuitsNote(extra, absent, " at this checkpoint"), runs: runsOf(...shownUnits()),
    alt: shown.map(largest).join("; "), table: () => heatmapTable(shown), height,
  };
}

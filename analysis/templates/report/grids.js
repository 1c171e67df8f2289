// Layout of heatmaps in panels of square cells: axes, numbers, marks and colour bars.

const LEAST_CELL = 9, MOST_CELL = 40;  // pixels
const NUMBER_CELL = 28, ODD_CELL = 18;  // the least size of a cell that shows its number, or only a number beyond the scale
const TALLEST = 360;  // of a panel
const BAR = 12;  // of colour bars; their arrows are as long

/** An example prompt's tokens by role: clean, corrupted. */
function tokensAt({ unit, corruption }) {
  const { of, tokens } = DATA.examples ?? { of: {} }, block = blocksOf(unit, corruption).find(({ patch_id }) => known(of[patch_id]));
  return block ? tokens[of[block.patch_id]] : null;
}

const exampleToken = (token) => plain(token.trim() ? token.trim().slice(0, 14) : token.replaceAll("\n", "⏎").replaceAll(" ", "␣"));

/** Column labels below a panel: a position with its token in an example prompt, bold where the corruption changes it. */
function columnsText({ layout: { axis: kind, columns }, tokens }) {
  const there = kind === "position" ? tokens.filter(known) : [];
  return columns.map((name) => {
    const own = there.map((roles) => (Object.hasOwn(roles, name) ? roles[name] : null)).filter(known);
    if (!own.length) return plain(name);
    const changed = unique(own.filter(([clean, corrupted]) => clean !== corrupted).map((pair) => pair.map(exampleToken).join(" → ")));
    return changed.length ? `<b>${plain(name)} · ${changed.join(", ")}</b>` : `${plain(name)} · ${exampleToken(own[0][0])}`;
  });
}

/** The places of panels, in pixels from the upper left, with square cells of `size`. */
function squares(rows, room) {
  const isPosition = rows[0][0].layout.axis === "position", named = rows.some((row) => unique(row.map(({ site }) => site)).length > 1);
  const list = narrow.matches ? rows.flat().map((panel) => [panel]) : rows;
  const wide = (row) => row.map(({ layout }) => layout.columns.length);
  const deep = Math.max(...rows.flat().map(({ layout }) => layout.layers.length)), most = Math.max(...rows.flat().flatMap((panel) => wide([panel])));
  const between = 30, fits = (row) => Math.floor((room - (row.length - 1) * between) / wide(row).reduce((sum, n) => sum + n, 0));
  const sized = (of) => Math.max(LEAST_CELL, Math.min(MOST_CELL, TALLEST / deep, ...of.map(fits)));
  const apart = rows.flat().map((panel) => [panel]);
  // Stacked if there is no room for numbers side by side, and the page stays short enough.
  const isStacked = isPosition && sized(list) < NUMBER_CELL && sized(apart) * deep <= 200;
  const laid = isStacked ? apart : list, size = Math.floor(sized(laid));
  const least = named ? 0 : Math.min(190, room / Math.max(...laid.map((row) => row.length)) - between);  // for the words above a panel
  const longest = isPosition ? Math.max(...rows.flat().flatMap((panel) => columnsText(panel).map((text) => text.replace(/<.?b>|&\w+;/g, "").length))) : 0;
  const above = named && !narrow.matches ? 40 : 54, below = isPosition ? Math.min(6.3 * longest + 14, 210) : 38;
  // Drawing labels is slow at each step of the slider: panels with the same heads have them below the last one only.
  const isShared = named && !narrow.matches, gap = (isShared ? 8 : below) + above;
  let top = 0;
  const panels = laid.flatMap((row, r) => {
    const height = size * Math.max(...row.map(({ layout }) => layout.layers.length));
    let left = 0;
    const placed = row.map((panel, c) => {
      const width = size * panel.layout.columns.length, at = { panel, left, top, width, height: size * panel.layout.layers.length, first: c === 0, last: r === laid.length - 1, isLabelled: !isShared || r === laid.length - 1 };
      left += Math.max(width, least) + between;
      return at;
    });
    top += height + gap;
    return placed;
  });
  return { panels, size, above, below, named, inner: top - gap, used: Math.max(...panels.map(({ left, width }) => left + width)), most };
}

/** Traces, layout and notes of rows of panels. */
function grid(rows, room, scales, nameOf) {
  const l = 50, colour = colours(), bars = scales.isZoomed ? [] : ["own", "difference"].filter((name) => scales[name]);
  const isRow = rows.length === 1 && !narrow.matches, right = narrow.matches ? 12 : 20 + 80 * (isRow ? bars.length : 1);
  const inside = Math.max(120, (room || 900) - l - right), { panels, size, above, below, named, inner, used } = squares(rows, inside);
  const under = narrow.matches ? 62 * bars.length : 0, last = below + under, height = above + inner + last;
  const x = (pixels) => pixels / inside, y = (pixels) => 1 - pixels / inner;
  const layout = { margin: { l, r: right, t: above, b: last, autoexpand: false }, annotations: [], shapes: [], showlegend: false };
  const traces = panels.flatMap((at, i) => {
    const { panel } = at, { layout: { layers, columns, axis: kind } } = panel, place = { xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`, x: [x(at.left), x(at.left + at.width)], y: [y(at.top + at.height), y(at.top)] };
    const end = scales.isZoomed ? scales.zoom(panel) : scales[panel.scale].end, axisName = scales.isZoomed ? `coloraxis${i ? i + 1 : ""}` : panel.scale === "own" ? "coloraxis" : "coloraxis2";
    if (scales.isZoomed) layout[axisName] = { ...colourEnds(scales, panel.scale, end), showscale: false };
    const zoomed = scales.isZoomed ? [`colours end at ${scales.isSpread ? "" : "±"}${number(end)}`] : [];
    const words = named && !narrow.matches ? [`<b>${plain(panel.site)}</b>${zoomed.length ? `, ${zoomed[0]}` : ""}`] : [[`<b>${plain(nameOf(panel))}</b>`, ...zoomed].join(", "), ...panel.notes];
    layout.annotations.push(subtitle(words.join("<br>"), place));
    if (named && !narrow.matches && at.first) layout.annotations.push({ ...subtitle([`<b>${plain(panel.name)}</b>`, ...panel.notes].join(" · "), place), yshift: 17 });
    layout.shapes.push(...linesBetween(panel, place), ...hatched(panel, place), ...dots(panel, place, size >= NUMBER_CELL, end));
    const bare = { showgrid: false, zeroline: false, ticks: "", fixedrange: true, tickmode: "array", ticklabeloverflow: "allow" };
    const every = Math.ceil((kind === "position" ? 13 : 17) / size), rowsText = Math.ceil(13 / size), labels = columnsText(panel);
    const some = (list, by, kept = []) => list.map((_, k) => k).filter((k) => kept.includes(k) || (k % by === 0 && !kept.some((one) => Math.abs(one - k) < by)));
    const ticks = some(columns, every, labels.map((_, k) => k).filter((k) => labels[k].startsWith("<b>")));  // the changed token's always
    layout[`xaxis${suffix(i)}`] = axis(at.last && kind === "head" ? "head" : "", { ...bare, domain: place.x, anchor: place.yaxis, showticklabels: at.isLabelled, tickangle: kind === "position" ? -90 : 0, range: [-0.5, columns.length - 0.5], tickvals: ticks, ticktext: ticks.map((k) => labels[k]), tickfont: { size: 11 }, automargin: false });
    layout[`yaxis${suffix(i)}`] = axis(at.first ? "layer" : "", { ...bare, domain: place.y, anchor: place.xaxis, showticklabels: at.first, range: [-0.5, layers.length - 0.5], tickvals: some(layers, rowsText), ticktext: some(layers, rowsText).map((k) => String(layers[k])), tickfont: { size: 11 }, automargin: false });
    const { text, isNumbered } = numbersIn(panel, size, end, scales);
    return [{
      type: "heatmap", coloraxis: axisName, xaxis: place.xaxis, yaxis: place.yaxis, hoverongaps: false, meta: i,
      z: rowsOfCells(panel.layout, panel.list), ...(text ? { text: rowsOfCells(panel.layout, text), texttemplate: "%{text}", textfont: { size: size < NUMBER_CELL ? 8 : 10 } } : {}),
      customdata: rowsOfCells(panel.layout, panel.besides.map((besides, k) => [cellName(panel.layout, k), besides])),
      name: plain(nameOf(panel)), hovertemplate: `${plain(nameOf(panel))}<br>%{customdata[0]}<br>%{z:.3f}%{customdata[1]}<extra></extra>`,
    }, ...markTraces(panel, place, isNumbered, size, end, i)];
  });
  const notes = scalesText(scales, panels, size);
  for (const [n, name] of bars.entries()) addBar(layout, name, scales, n, { panels, inner, inside, used, below, x, y, isRow });
  return { traces, layout, height, panels, notes, size };
}

/** A cell's name in hover texts. */
const cellName = ({ layers, columns, axis: kind }, i) => `layer ${layers[Math.floor(i / columns.length)]}, ${kind} ${plain(columns[i % columns.length])}`;

/** Numbers in cells: if there is room all that are not small, else only those beyond the scale. */
function numbersIn(panel, size, end, scales) {
  const isNumbered = size >= NUMBER_CELL, least = scales.least(panel, end);
  if (size < ODD_CELL) return { text: null, isNumbered };
  const isWritten = (value) => known(value) && (isNumbered ? Math.abs(value) >= least : Math.abs(value) > end);
  if (!panel.list.some(isWritten)) return { text: null, isNumbered };
  return { text: panel.list.map((value) => (isWritten(value) ? cellText(value, size < 36) : "")), isNumbered };
}

/** A number as short as a cell needs it: .12 in small cells. */
const cellText = (value, isShort) => (Math.abs(value) < 9.95 ? value.toFixed(Math.abs(value) < 0.995 ? 2 : 1) : value.toFixed(0)).replace("-", "−").replace(isShort ? /0(?=\.)/ : "", "");

/** The legend of colours and numbers. */
function scalesText(scales, panels, size) {
  const beyond = panels.some(({ panel }) => panel.list.some((value) => known(value) && Math.abs(value) > (scales.isZoomed ? scales.zoom(panel) : scales[panel.scale].end)));
  const numbered = size >= NUMBER_CELL && panels.some(({ panel }) => numbersIn(panel, size, 1, scales).text);
  const tokens = panels.some(({ panel }) => panel.layout.axis === "position" && panel.tokens.some(known));
  return [
    scales.isZoomed ? "zoom: each panel's colours span its own range over all checkpoints" : scales.isRecovered ? "colours end at ±1 everywhere" : "colours end at the same value at all checkpoints",
    beyond && !scales.isZoomed ? "arrows of the colour bar: beyond its ends" : beyond ? "values beyond have the end's colour" : "",
    numbered ? (scales.isRecovered ? `no number: less than ${DATA.delta} either way` : "no number: near zero") : "",
    tokens ? "after a position: its token in the first prompt, bold where changed (clean → corrupted)" : "",
  ];
}

const colourEnds = (scales, scale, end) => {
  const { diverging, sequential, differing: green } = colours();
  return { cmin: scales.isSpread ? 0 : -end, cmax: end, colorscale: scales.isSpread ? sequential : scale === "difference" ? green : diverging };
};

/** A colour bar whose ends are arrows, in the colours of values beyond. */
function addBar(layout, name, scales, n, { panels, inner, inside, used, below, x, y, isRow }) {
  const { end, title } = scales[name], ends = colourEnds(scales, name, end), colour = colours();
  const own = panels.find(({ panel }) => panel.scale === name), ticks = scales.isSpread ? [0, end / 2, end] : [-end, -end / 2, 0, end / 2, end];
  const common = { thickness: BAR, outlinewidth: 0, lenmode: "pixels", xpad: 0, ypad: 0, tickvals: ticks, ticktext: ticks.map((value) => number(value).replace("-", "−")), tickfont: { size: 11 } };
  const side = narrow.matches, long = side ? Math.min(220, inside) : Math.max(70, Math.min(own.height - 2 * BAR, 220));
  const at = side ? { x: BAR, y: inner + below + 62 * n + 24 } : { x: used + 18 + (isRow ? 80 * n : 0), y: own.top + BAR };
  layout[name === "own" ? "coloraxis" : "coloraxis2"] = {
    ...ends,
    colorbar: side
      ? { ...common, orientation: "h", len: long, x: x(at.x), xanchor: "left", y: y(at.y), yanchor: "top" }
      : { ...common, len: long, x: x(at.x), xanchor: "left", y: y(at.y), yanchor: "top", title: { text: title, side: "right", font: { size: 12 } } },
  };
  // Plotly would fit a title above, and the arrows, into the bar's height.
  if (side) layout.annotations.push({ text: title, showarrow: false, xref: "paper", yref: "paper", x: x(at.x), xanchor: "left", y: y(at.y), yanchor: "bottom", font: { size: 12 } });
  const arrow = (px, py, path, fillcolor) => ({ type: "path", path, xref: "paper", yref: "paper", xsizemode: "pixel", ysizemode: "pixel", xanchor: x(px), yanchor: y(py), fillcolor, line: { width: 0.5, color: colour.line }, layer: "above" });
  const [first, last] = [ends.colorscale[0][1], ends.colorscale.at(-1)[1]], half = BAR / 2;
  if (side) {
    layout.shapes.push(arrow(at.x + long, at.y, `M0,0L${BAR - 2},${-half}L0,${-BAR}Z`, last));
    if (!scales.isSpread) layout.shapes.push(arrow(at.x, at.y, `M0,0L${2 - BAR},${-half}L0,${-BAR}Z`, first));
  } else {
    layout.shapes.push(arrow(at.x, at.y, `M0,0L${half},${BAR - 2}L${BAR},0Z`, last));
    if (!scales.isSpread) layout.shapes.push(arrow(at.x, at.y + long, `M0,0L${half},${2 - BAR}L${BAR},0Z`, first));
  }
}

/** Hatching over columns whose role few prompts have. */
function hatched({ layout: { layers, columns }, few }, { xaxis, yaxis }) {
  if (!few?.some(Boolean)) return [];
  const line = (x, y) => `M${x - 0.5},${y - 0.5}L${x + 0.5},${y + 0.5}M${x - 0.5},${y}L${x},${y + 0.5}M${x},${y - 0.5}L${x + 0.5},${y}`;
  const path = columns.flatMap((_, x) => (few[x] ? layers.map((_, y) => line(x, y)) : [])).join("");
  return [{ type: "path", name: "few", path, xref: xaxis, yref: yaxis, layer: "above", line: { color: colours().quiet, width: 0.8 } }];
}

/** Lines between cells: much faster than Plotly's own gaps. */
function linesBetween({ layout: { layers, columns } }, { xaxis, yaxis }) {
  const path = [...columns.slice(1).map((_, x) => `M${x + 0.5},-0.5L${x + 0.5},${layers.length - 0.5}`), ...layers.slice(1).map((_, y) => `M-0.5,${y + 0.5}L${columns.length - 0.5},${y + 0.5}`)].join("");
  return path ? [{ type: "path", path, xref: xaxis, yref: yaxis, layer: "above", line: { color: colours().card, width: 1 } }] : [];
}

const ASIDE = 0.33;  // of a cell: a mark's place that leaves room for a number
const isDark = (value, end) => known(value) && Math.abs(value) > 0.6 * end;

/** Cells with a mark, those on strong colours separately: there the mark takes the background's colour. */
const markedCells = ({ marks, missing, list }, mark, end) => [false, true].map((dark) =>
  marks.map((_, i) => i).filter((i) => marks[i] === mark && !missing[i] && isDark(list[i], end) === dark));

/** Small dots on undecided cells, as one path: there may be many. */
function dots(panel, { xaxis, yaxis }, isNumbered, end) {
  const width = panel.layout.columns.length, aside = isNumbered ? ASIDE : 0, r = 0.06;
  return ["u", "?"].flatMap((mark) => markedCells(panel, mark, end).map((cells, dark) => {
    const path = cells.map((i) => [(i % width) + aside, Math.floor(i / width) + aside]).map(([x, y]) => `M${x - r},${y}L${x},${y + r}L${x + r},${y}L${x},${y - r}Z`).join("");
    return path && { type: "path", name: mark, path, xref: xaxis, yref: yaxis, layer: "above", fillcolor: dark ? colours().card : colours().ink, line: { width: 0 } };
  })).filter(Boolean);
}

/**
 * What is drawn on a panel's colours: a mark on each cell that has one, and grey where there is no gap. Beside a number the
 * mark is small and in the cell's corner.
 */
function markTraces(panel, { xaxis, yaxis }, isNumbered, size, end, meta) {
  const { layout, missing } = panel, width = layout.columns.length, colour = colours(), aside = isNumbered ? ASIDE : 0;
  const drawn = Object.entries(MARKS).filter(([mark, [, , marker]]) => marker && !"u?".includes(mark)).flatMap(([mark, [, , marker]]) => markedCells(panel, mark, end).map((cells, dark) => cells.length && {
    type: "scatter", mode: "markers", xaxis, yaxis, name: mark, hoverinfo: "skip", x: cells.map((i) => (i % width) + aside), y: cells.map((i) => Math.floor(i / width) + aside), cliponaxis: false,
    marker: { ...marker, size: Math.min(marker.size * (isNumbered ? 0.62 : 1), 0.5 * size), color: dark ? colour.card : colour.ink, line: { width: marker.symbol.includes("open") ? 1.5 : 0 } },
  })).filter(Boolean);
  if (missing.some(Boolean)) {
    drawn.unshift({
      type: "heatmap", name: "no gap", xaxis, yaxis, showscale: false, hoverongaps: false, meta, zmin: 0, zmax: 1, colorscale: [[0, colour.missing], [1, colour.missing]],
      z: rowsOfCells(layout, missing.map((none) => (none ? 1 : null))), customdata: rowsOfCells(layout, missing.map((_, k) => cellName(layout, k))), hovertemplate: `%{customdata}<br>${noGap()}<extra></extra>`,
    });
  }
  return drawn;
}

// Cells stay square when the width changes after drawing.
let resized = null;
const widths = new ResizeObserver(() => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    if (printing) return;  // already drawn for paper
    const other = pictures.filter(({ drawn, plot }) => known(drawn?.room) && plot.clientWidth && Math.abs(drawn.room - plot.clientWidth) > 1);
    for (const picture of other) { picture.stale = true; paint(picture); }
    if (other.length) paintRest();
  }, 150);
});

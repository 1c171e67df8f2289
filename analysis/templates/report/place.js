// The evidence for a cell of a heatmap: the values of its prompts, their mean with its interval, and its course over
// checkpoints, for each run or setting and corruption shown. It opens over the page and has an address.

const PLACE_DOTS = 1500;  // more dots would merge

let placeOpener = null;

/** Opens a cell: a site, a layer, and a head (a number) or a position (a name). */
function openPlace(site, layer, column) {
  const active = document.activeElement;
  if (!state.place) {
    // Plotly's pictures cannot take the focus: the nearest element that can is the summary of the picture.
    const picture = $(`${site.replace(APPROXIMATE, "-approximate")}-plot`)?.closest("figure");
    placeOpener = active?.matches("a, button, select, input, summary") ? active : picture?.querySelector("summary") ?? $("place-open");
  }
  state.place = { site, layer, column };
  drawPlace();
  redraw("place-pictures");
  saveView();
}

/** The cell that recovers most at the slider's checkpoint, in the first site that has any. */
function largestPlace() {
  const { unit, corruption } = views()[0][0];
  for (const site of placeSites()) {
    const found = siteCells(unit, corruption, site, step(), "recovered");
    const best = found?.cells.map((cell, i) => [Math.abs(cell.mean ?? 0), i]).sort(([a], [b]) => b - a)[0][1];
    if (known(best)) return [site, ...placeAt(found.layout, best)];
  }
  return null;
}

const placeSites = () => unique([...Object.keys(SITES), ...DATA.blocks.flatMap((block) => Object.keys(block.sites))]).filter((site) => DATA.blocks.some((block) => block.sites[site]));
const placeAt = ({ layers, columns }, i) => [layers[Math.floor(i / columns.length)], columns[i % columns.length]];
/** A site's layout, from the first view that has it. */
const placeLayout = (site) => views().flat().map(({ unit, corruption }) => blocksOf(unit, corruption).map((block) => block.sites[site]).find(known)).filter(known).map((part) => DATA.layouts[part.layout])[0] ?? null;
const placeKind = ({ column }) => (typeof column === "number" ? "head" : "position");
const placeText = ({ site, layer, column }) => `${SITES[site] ?? site}, ${typeof column === "number" ? `head ${layer}.${column}` : `layer ${layer}, ${column}`}`;

/** A view's cell at a checkpoint, with its interval and verdict; null if not examined. */
function placeCell({ unit, corruption }, { site, layer, column }, at) {
  const found = siteCells(unit, corruption, site, at, "recovered"), changed = siteCells(unit, corruption, site, at, "change");
  if (!found) return null;
  const { layout } = found, row = layout.layers.indexOf(layer), place = layout.columns.indexOf(column);
  if (row < 0 || place < 0) return null;
  const i = row * layout.columns.length + place;
  return { ...found.cells[i], change: changed.cells[i].mean, gap: gapAt(unit, corruption, site, at), clean: found.clean, corrupted: found.corrupted, of: found.of };
}

const placeViews = () => views().flat();

/** Opens or closes the dialog to match the address. */
function drawPlace() {
  const { place } = state, dialog = $("place");
  if (!$("place-title")) return;  // not before the page is read
  if (!place) return dialog.close();
  const choose = (key) => (value) => openChosen({ ...place, [key]: value });
  const layout = placeLayout(place.site);
  const own = (list) => list.map((name) => [String(name), String(name)]);
  $("place-title").textContent = placeText(place);
  replaceControls($("place-controls"),
    select("Site", placeSites().map((site) => [site, SITES[site] ?? site]), place.site, choose("site")),
    select("Layer", own(layout?.layers ?? [place.layer]), String(place.layer), (value) => choose("layer")(Number(value))),
    select(capital(placeKind(place)), own(layout?.columns ?? [place.column]), String(place.column), (value) => choose("column")(placeKind(place) === "head" ? Number(value) : value)),
  );
  followPlace();
  if (!dialog.open) dialog.showModal();
}

/** Another cell in the dialog; for a site with other columns, its largest. */
function openChosen({ site, layer, column }) {
  const layout = placeLayout(site);
  if (!layout) return;
  const there = layout.layers.includes(layer) && layout.columns.includes(column);
  openPlace(site, there ? layer : layout.layers.at(-1), there ? column : layout.columns[0]);
}

/** Everything that the slider changes, except the pictures. */
function followPlace() {
  const { place } = state;
  if (!place || !$("place-title")) return;
  const steps = shownSteps(), slider = $("place-checkpoint");
  Object.assign(slider, { max: Math.max(steps.length - 1, 0), disabled: steps.length < 2 });
  slider.value = state.circuits.at;
  const text = `checkpoint ${step()} (${state.circuits.at + 1} of ${steps.length})`;
  slider.setAttribute("aria-valuetext", text);
  $("place-step").textContent = text;
  $("place-text").replaceChildren(...placeViews().map((view) => h("p", {}, h("b", {}, `${capital(view.name)}: `), placeSentence(view))));
  $("place-prompts").replaceChildren(...placeViews().map(placeTable));
}

/** A view's cell in one line. */
function placeSentence(view) {
  const cell = placeCell(view, state.place, step());
  if (!cell) return "not examined at this checkpoint.";
  const runs = cell.of > 1 ? `, mean of ${cell.of} runs` : "";
  const n = unique(blocksOf(view.unit, view.corruption).map((block) => block.n)).join("/");
  const gap = cell.gap ? `${fixed(cell.gap[0], 2)}${endsText(cell.gap[1], cell.gap[2], 2)}` : fixed(cell.clean - cell.corrupted, 2);
  const value = known(cell.mean) ? `recovered ${fixed(cell.mean)}${endsText(cell.low, cell.high)}` : `recovered is undefined: ${noGap()}`;
  const verdict = known(cell.verdict) ? markText(markOf(cell)) : "no verdict";
  const elsewhere = known(cell.mean) && !known(cell.low) && placeKind(state.place) === "position" && known(cell.verdict) ? " (for its interval see the table verdicts of `mi-sweeps export`)" : "";
  return `${value}${elsewhere}; ${verdict}; change ${number(cell.change)} of a gap of ${gap} logits; ${n} prompts${runs}.`;
}

/** A view's prompts, those with the largest part first. */
function placeTable(view, i) {
  const { site, layer, column } = state.place, found = promptValuesAt(view, site, layer, column, step());
  const title = h("h3", { id: `place-prompts-${i}` }, `Prompts, ${view.name}`);
  if (found.why) return h("div", {}, title, h("p", { class: "notice" }, found.why));
  const rows = [...found.list].sort((a, b) => b.part - a.part);
  const notes = [found.step === step() ? "" : `At checkpoint ${found.step}, the last one before this that the page has.`, found.runs < found.of ? `Means of ${found.runs} of ${found.of} runs: the page has no values of the others.` : found.runs > 1 ? `Means of ${found.runs} runs.` : "", PROMPT_VALUES.note];
  return h("div", {}, title, h("p", { class: "quiet" }, notes.filter(Boolean).join(" ")),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": `place-prompts-${i}` }, h("table", {},
      h("thead", {}, h("tr", {}, ["prompt", "change (logits)", "own gap (logits)", "share of its own gap", "part of recovered"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.prompt.number === state.attention.prompt ? "baseline" : null },
        h("th", { scope: "row" }, h("button", { type: "button", class: "inline", "data-prompt": row.prompt.number, click: () => showPrompt(row.prompt.number) }, `${row.prompt.number + 1}`), " ", marked(row.prompt, "clean"), " → ", h("b", {}, row.prompt.answer)),
        [fixed(row.change, 2), fixed(row.gap, 2), Math.abs(row.gap) < LEAST_GAP ? "gap near 0" : fixed(row.change / row.gap, 2), fixed(row.part, 2)].map((text) => h("td", { class: "short" }, text))))))));
}

const LEAST_GAP = 0.1;  // logits; below it a prompt's own ratio means nothing

/** Heights between -1 and 1 that stack dots which would overlap. */
function piled(values, width) {
  const bins = new Map();
  return values.map((value) => {
    const bin = Math.round(value / (width || 1)), n = bins.get(bin) ?? 0;
    bins.set(bin, n + 1);
    return (n % 2 ? -1 : 1) * Math.ceil(n / 2);
  });
}

function drawStrip() {
  const { place } = state;
  if (!place) return { title: "The prompts of a cell", note: "no cell is open" };
  const title = `Each prompt of ${placeText(place)}, checkpoint ${step()}, ${whose()}`;
  const rows = views().map((row) => row.map((view) => ({ ...view, found: promptValuesAt(view, place.site, place.layer, place.column, step()), cell: placeCell(view, place, step()) })).filter(({ found }) => found.list?.length));
  const shown = rows.flat();
  if (!shown.length) return { title, note: placeViews().length ? promptValuesAt(placeViews()[0], place.site, place.layer, place.column, step()).why ?? "" : "" };
  const range = rangeOf(shown.flatMap(({ found, cell }) => [...found.list.map(({ part }) => part), cell?.low, cell?.high].filter(known)));
  const { panels, inner } = arrange(rows, 130, 85);
  const { margin, height } = frame(inner, { l: 20, right: 20 });
  const layout = { margin, annotations: [], shapes: [], showlegend: false }, colour = colours();
  const traces = panels.map((at) => {
    const { panel, i, xaxis, yaxis } = at, list = panel.found.list.slice(0, PLACE_DOTS);
    const y = piled(list.map(({ part }) => part), (range[1] - range[0]) / 60), most = Math.max(2, ...y.map(Math.abs));
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b>`, at));
    layout[`xaxis${suffix(i)}`] = axis(at.last ? "part of recovered" : "", { domain: at.x, anchor: yaxis, range, zeroline: true });
    layout[`yaxis${suffix(i)}`] = { domain: at.y, anchor: xaxis, visible: false, range: [-most - 1, most + 1] };
    const { mean: middle, low, high } = panel.cell ?? {}, upright = { xref: xaxis, yref: `${yaxis} domain`, y0: 0, y1: 1, layer: "below" };
    if (known(low)) layout.shapes.push({ ...upright, type: "rect", x0: low, x1: high, line: { width: 0 }, fillcolor: translucent(GROUPS[0], 0.16) });
    if (known(middle)) layout.shapes.push({ ...upright, type: "line", x0: middle, x1: middle, line: { color: colour.ink, width: 2 } });
    const chosen = list.map(({ prompt }) => prompt.number === state.attention.prompt);
    return {
      type: "scatter", mode: "markers", xaxis, yaxis, name: plain(panel.name), x: list.map(({ part }) => part), y,
      marker: { size: chosen.map((one) => (one ? 12 : 7)), color: chosen.map((one) => (one ? GROUPS[1] : GROUPS[0])), opacity: 0.85, line: { color: colour.card, width: 1 } },
      customdata: list.map(({ prompt, change, gap }) => [`${prompt.number + 1}: ${plain(wrap([prompt.clean], 60).join("\n")).replaceAll("\n", "<br>")}`, fixed(change, 2), fixed(gap, 2), prompt.number]),
      hovertemplate: "prompt %{customdata[0]}<br>change %{customdata[1]} of its gap of %{customdata[2]} logits<br>part of recovered %{x:.2f}<extra></extra>",
    };
  });
  const late = shown.filter(({ found }) => found.step !== step());
  return {
    title, traces, layout, height, runs: runsOf(...shownUnits()),
    note: [
      `one dot per prompt, ${unique(shown.map(({ found }) => found.list.length)).join("/")} of them: its change (patched − corrupted) over the mean gap (clean − corrupted); vertical line: their mean, which is recovered`,
      shown.some(({ cell }) => known(cell?.low)) ? "shaded: its 95% interval" : "", late.length ? `the dots are from checkpoint ${late[0].found.step}` : "", `larger: prompt ${state.attention.prompt + 1}`,
    ].filter(Boolean).join(" · "),
    alt: shown.map(({ name, found: { list } }) => { const parts = list.map(({ part }) => part).sort((a, b) => a - b); return `${name}: from ${fixed(parts[0], 2)} to ${fixed(parts.at(-1), 2)}, half above ${fixed(parts[Math.floor(parts.length / 2)], 2)}`; }).join("; "),
    table: () => ({
      head: ["panel", "prompt", "clean", "corrupted", "change (logits)", "own gap (logits)", "part of recovered"],
      rows: shown.flatMap(({ name, found: { list } }) => list.map((one) => [name, `${one.prompt.number + 1}: ${one.prompt.clean}`, ...["clean", "corrupted", "change", "gap", "part"].map((key) => fixed(one[key], 2))])),
    }),
  };
}

function drawCourse() {
  const { place } = state;
  if (!place) return { title: "The course of a cell", note: "no cell is open" };
  const title = `Recovered by patching ${placeText(place)}, over checkpoints, ${whose()}`;
  const curves = placeViews().map((view) => ({
    name: view.name, view,
    points: broken(stepsOf(view.unit, view.corruption, place.site).map((at) => ({ step: at, cell: placeCell(view, place, at) })).filter(({ cell }) => cell).map(({ step: at, cell }) => ({ step: at, ...cell })), missingSteps(runsOf(view.unit))),
  })).filter(({ points }) => points.length);
  if (!curves.length) return { title, note: "not examined" };
  const { panels: [panel], inner } = arrange([[curves]], 260, 85), { range, cut: wide } = rangeWithBands(curves.flatMap(({ points }) => points));
  const { margin, height } = frame(inner, { l: 50, right: 170 });
  const layout = {
    margin, shapes: checkpointLines(1), showlegend: curves.length > 1, legend: narrow.matches ? { orientation: "h", y: -60 / inner, yanchor: "top" } : {},
    xaxis: stepScale().axis(true, { anchor: panel.yaxis }), yaxis: axis("recovered", { anchor: panel.xaxis, range }),
  };
  const traces = curves.flatMap(({ name, points }, rank) => {
    const colour = GROUPS[rank % GROUPS.length], common = { xaxis: "x", yaxis: "y", legendgroup: name };
    const marks = points.map((point) => MARKS[markOf(point)]?.[2]?.symbol ?? "circle");
    return [...bandTrace(points, colour, common), {
      ...common, type: "scatter", mode: "lines+markers", name: plain(name), x: points.map((point) => stepScale().x(point.step)), y: points.map(({ mean: value }) => value),
      line: { color: colour, width: 2 }, marker: { color: colour, symbol: marks, size: points.map((point) => (["m", "h"].includes(markOf(point)) ? 9 : 4)) },
      customdata: points.map((point) => [point.step, pointText(point) + (point.verdict ? `<br>${markText(markOf(point))}` : "")]),
      hovertemplate: `${plain(name)}, checkpoint %{customdata[0]}<br>%{y:.3f}%{customdata[1]}<extra></extra>`,
    }];
  });
  const families = placeViews().map(({ unit, corruption }) => familyOf(unit, corruption, place.site)).filter(known);
  return {
    title, traces, layout, height, runs: runsOf(...shownUnits()),
    note: circuitsNote([families.length ? "large: matters" : "", traces.some(({ fill }) => fill) ? bandText(families) : "", wide ? "wide bands are cut off" : "", "dotted: the slider's checkpoint"].filter(Boolean).join(" · ")),
    alt: curves.map(({ name, points }) => `${name}, last checkpoint: ${number(points.at(-1).mean) || "no value"}`).join("; "),
    table: () => pointsTable([{ name: placeText(place), curves }], "view", (one) => one.curves),
  };
}

/** Made once. Escape (by the browser) or its button closes it. */
function addPlace() {
  const dialog = $("place"), there = DATA.blocks.some((block) => Object.keys(block.sites).length);
  $("place-open").hidden = !there;
  if (!there) return;
  dialog.replaceChildren(
    h("div", { class: "bar" }, h("h2", { id: "place-title" }), h("button", { type: "button", click: () => dialog.close() }, "Close")),
    h("div", { class: "controls", id: "place-controls" }),
    h("div", { class: "player" }, h("input", { type: "range", id: "place-checkpoint", min: 0, step: 1, "aria-label": "checkpoint", input: (event) => { stop(); goTo(Number(event.target.value)); }, change: () => saveView() }), h("output", { for: "place-checkpoint", id: "place-step" })),
    h("div", { id: "place-text", "aria-live": "polite" }), h("div", { id: "place-pictures" }), h("div", { id: "place-prompts" }),
  );
  addPicture($("place-pictures"), "place-strip-plot", drawStrip);
  addPicture($("place-pictures"), "place-course-plot", drawCourse, () => checkpointLines(1));
  dialog.addEventListener("close", () => {
    state.place = null;
    saveView();
    (placeOpener ?? $("place-open")).focus({ preventScroll: true });
  });
  $("place-open").addEventListener("click", () => openPlace(...largestPlace()));
  drawPlace();
}

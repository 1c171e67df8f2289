// A unit is one run ("run:3") or the runs of a cell ("cell:lr 0.0001"), whose values are means over runs.

/** What depends on the choices above the pictures only, so that the slider need not work it out again. */
const remembered = new Map();
function remember(key, make) {
  if (!remembered.has(key)) remembered.set(key, make());
  return remembered.get(key);
}

function blocksOf(unit, corruption = null) {
  const { patching } = state.circuits;
  return remember(JSON.stringify(["blocks", unit, corruption, patching]), () => {
    const [kind, name] = [unit.slice(0, unit.indexOf(":")), unit.slice(unit.indexOf(":") + 1)];
    return DATA.blocks.filter((block) =>
      (kind === "run" ? block.run === Number(name) : RUNS[block.run].cell === name) &&
      (corruption === null || block.corruption === corruption) &&
      (patching === null || block.patching === patching));
  });
}

const ORDER = ["first", "second", "both", "order"];
const corruptions = () => unique(DATA.blocks.map((block) => block.corruption)).sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
const runsOf = (unit) => unique(blocksOf(unit).map((block) => RUNS[block.run]));

function units() {
  const runs = unique(DATA.blocks.map((block) => block.run)).sort((a, b) => a - b).map((index) => RUNS[index]);
  const cells = unique(runs.map((run) => run.cell)).filter((cell) => runs.filter((run) => run.cell === cell).length > 1);
  const size = (cell) => runs.filter((run) => run.cell === cell).length;
  return {
    "Mean over seeds": cells.map((cell) => [`cell:${cell}`, `${cell}: mean of ${size(cell)} runs`]),
    "One run": runs.map((run) => [`run:${run.index}`, [run.cell, `seed ${run.seed}`, run.run_id].filter(Boolean).join(", ")]),
  };
}

/** Steps of the unit's checkpoints that were examined. */
function stepsOf(unit) {
  return remember(JSON.stringify(["steps", unit, state.circuits.patching]), () => {
    const parts = blocksOf(unit).flatMap((block) => [...Object.values(block.sites), block.lens, block.layer, block.head]);
    return unique(parts.filter(known).flatMap((part) => DATA.steps[part.steps])).sort((a, b) => a - b);
  });
}

function step() {
  const steps = stepsOf(state.circuits.unit);
  state.circuits.at = Math.min(state.circuits.at, steps.length - 1);
  return steps[state.circuits.at];
}

function drawCircuitsControls() {
  const circuits = state.circuits;
  const there = corruptions();
  const choices = units();
  if (!there.length) {
    $("circuits-controls").replaceChildren(h("p", { class: "quiet" }, "No checkpoint has been examined yet."));
    return;
  }
  const patchings = unique(DATA.blocks.map((block) => block.patching));
  circuits.patching ??= patchings.length > 1 ? patchings[0] : null;
  circuits.unit ??= (choices["Mean over seeds"][0] ?? choices["One run"][0])[0];
  circuits.left ??= there[0];
  circuits.right ??= there[1] ?? there[0];
  const change = (key) => (value) => { circuits[key] = value; circuitsChanged(); };
  replaceControls($("circuits-controls"),
    select("Run", Object.fromEntries(Object.entries(choices).filter(([, of]) => of.length)), circuits.unit, change("unit")),
    select("Corruption", there.map((name) => [name, name]), circuits.left, change("left")),
    there.length > 1 ? select("against", there.map((name) => [name, name]), circuits.right, change("right")) : null,
    select("Value", [["recovered", "recovered"], ["change", "logit difference change"]], circuits.quantity, change("quantity")),
    patchings.length > 1 ? select("Patching", patchings.map((name) => [name, name ?? "unnamed"]), circuits.patching, change("patching")) : null,
  );
  drawPrompts();
  drawPlayer();
}

function circuitsChanged() {
  drawCircuitsControls();
  redraw("attribution-pictures", "patching-pictures");
}

function showCircuits(unit) {
  state.circuits.unit = unit;
  circuitsChanged();
  $("circuits").scrollIntoView();
  $("circuits-controls").querySelector("select").focus();
}

function drawPrompts() {
  const { unit, left, right } = state.circuits;
  const lists = unique([left, right]).map((corruption) => [corruption, blocksOf(unit, corruption)[0]]).filter(([, block]) => block);
  $("circuits-prompts").replaceChildren(
    h("summary", {}, "Prompts"),
    lists.map(([corruption, block]) => [
      h("p", { class: "quiet" }, `${corruption} corruption: ${block.n} prompts, of which ${DATA.prompts[block.prompts].length} are`),
      h("ul", {}, DATA.prompts[block.prompts].map((prompt) =>
        h("li", {}, prompt.clean, h("span", { class: "quiet" }, " → "), h("b", {}, prompt.answer),
          h("br"), h("span", { class: "quiet" }, `corrupted: ${prompt.corrupted}`)))),
    ]).flat());
  const recovered = state.circuits.quantity === "recovered";
  const estimates = DATA.blocks.some((block) => Object.entries(block.sites).some(([site, of]) => of.r || site.endsWith(APPROXIMATE)));
  $("patching-legend").textContent = (recovered
    ? "recovered = (patched − corrupted) / (clean − corrupted), each a mean over prompts; 0: the patch changes nothing, 1: it " +
      `brings back the clean logit difference. Grey: clean and corrupted differ by less than ${DATA.floor} logits, so that the ` +
      "fraction says nothing. Means over seeds are means of each run's recovered."
    : "logit difference change = patched − corrupted, in logits, a mean over prompts.")
    + (estimates ? " Approximate: patched as estimated from a gradient (attribution patching); r: its Pearson correlation with exact patching over a site's places." : "");
}

let playing = null;

function drawPlayer() {
  const steps = stepsOf(state.circuits.unit);
  step();
  const slider = h("input", {
    type: "range", id: "checkpoint", min: 0, max: steps.length - 1, step: 1, "aria-label": "checkpoint",
    input: (event) => { stop(); goTo(Number(event.target.value)); },
  });
  slider.value = state.circuits.at;
  $("circuits-player").replaceChildren(
    h("button", { type: "button", id: "play", click: () => (playing ? stop() : play()) }, playing ? "❚❚ Pause" : "▶ Play"),
    slider, h("output", { for: "checkpoint", id: "checkpoint-told" }));
  tellCheckpoint(steps);
}

function tellCheckpoint(steps) {
  const told = `checkpoint ${step()} (${state.circuits.at + 1} of ${steps.length})`;
  $("checkpoint-told").textContent = told;
  $("checkpoint").setAttribute("aria-valuetext", told);
}

function goTo(at) {
  state.circuits.at = at;
  $("checkpoint").value = at;
  tellCheckpoint(stepsOf(state.circuits.unit));
  redraw("attribution-pictures", "patching-pictures");
}

function play() {
  const forward = () => {
    goTo((state.circuits.at + 1) % stepsOf(state.circuits.unit).length);
    playing = setTimeout(forward, 600);  // after drawing, however long that took
  };
  forward();
  $("play").textContent = "❚❚ Pause";
}

function stop() {
  clearTimeout(playing);
  playing = null;
  $("play").textContent = "▶ Play";
}

/** A site (or the heads' own logit differences) of one corruption at one step: the mean over the unit's runs. */
function matrix(corruption, site, at, quantity) {
  const parts = blocksOf(state.circuits.unit, corruption)
    .map((block) => (site === "head" ? block.head : block.sites[site]))
    .filter((part) => part && DATA.steps[part.steps].includes(at));
  if (!parts.length) return null;
  const layout = DATA.layouts[parts[0].layout];
  const same = parts.filter((part) => part.layout === parts[0].layout);
  const index = (part) => DATA.steps[part.steps].indexOf(at);
  const clean = site === "head" ? null : mean(same.map((part) => part.clean[index(part)])) * DATA.unit;
  const corrupted = site === "head" ? null : mean(same.map((part) => part.corrupted[index(part)])) * DATA.unit;
  const scaled = same.map((part) => {
    const values = (part.change ?? part.value)[index(part)];
    if (site === "head" || quantity === "change") return values.map((value) => (known(value) ? value * DATA.unit : null));
    // Positions that only some prompts have come with denominators of their own.
    const room = part.room?.[index(part)] ?? [part.clean[index(part)] - part.corrupted[index(part)]];
    return values.map((value, i) => {
      const denominator = room[i % room.length];
      return known(value) && Math.abs(denominator * DATA.unit) >= DATA.floor ? value / denominator : null;
    });
  });
  const flat = scaled[0].map((_, i) => {
    const there = scaled.map((values) => values[i]).filter(known);
    return there.length ? mean(there) : null;
  });
  const used = scaled.filter((values) => values.some(known)).length;
  const width = layout.columns.length;
  const rows = layout.layers.map((_, row) => flat.slice(row * width, (row + 1) * width));
  return { layout, rows, clean, corrupted, used, of: parts.length };
}

/** The end of a site's colour scale: the same for all checkpoints and corruptions of the unit. */
function limit(site, quantity) {
  const { unit, left, right, patching } = state.circuits;
  return remember(JSON.stringify(["limit", site, quantity, unit, left, right, patching]), () => {
    const sizes = stepsOf(unit).flatMap((at) => unique([left, right]).flatMap((corruption) =>
      matrix(corruption, site, at, quantity)?.rows.flat().filter(known).map(Math.abs) ?? []));
    sizes.sort((a, b) => a - b);
    // Not the largest value: one odd cell at a small denominator would take the colour from all others.
    const top = sizes[Math.floor(0.995 * (sizes.length - 1))] || 0;
    const decade = 10 ** Math.floor(Math.log10(top || 1));
    return [1, 1.5, 2, 3, 5, 7.5, 10].map((step) => step * decade).find((end) => end >= top * 0.999);
  });
}

/** Places of side-by-side plots, or one above the other on a narrow page. */
function places(n, gap = 0.06) {
  const size = (1 - gap * (n - 1)) / n;
  return Array.from({ length: n }, (_, i) => {
    const from = i * (size + gap);
    return narrow.matches ? { x: [0, 1], y: [1 - from - size, 1 - from] } : { x: [from, from + size], y: [0, 1] };
  });
}

const suffix = (i) => (i ? String(i + 1) : "");
const subtitle = (text, place) => ({
  text, showarrow: false, xref: "paper", yref: "paper", x: place.x[0], xanchor: "left", y: place.y[1], yanchor: "bottom",
  font: { size: 12 },
});

function unitNote(extra) {
  const blocks = blocksOf(state.circuits.unit);
  const ns = unique(blocks.map((block) => block.n)).join(", ");
  return `${ns} prompts${extra ? ` · ${extra}` : ""}`;
}

const unitTitle = () => {
  const runs = runsOf(state.circuits.unit);
  return runs.length > 1 ? `mean of ${runs.length} runs (${runs[0].cell})` : runs[0]?.cell || "";
};

/** How approximate values correlate with the exact ones of a site at a step: from the least r of its runs to the largest. */
function agreement(site, at) {
  const { unit, left, right } = state.circuits;
  const found = unique([left, right]).flatMap((corruption) => blocksOf(unit, corruption)).map((block) => block.sites[site]).filter((part) => part?.r)
    .map((part) => [DATA.steps[part.steps].indexOf(at), part]).filter(([index, part]) => known(part.r[index]))
    .map(([index, part]) => ({ r: part.r[index], n: part.change[index].filter(known).length }));
  if (!found.length) return "";
  const rs = found.map(({ r }) => r);
  const ends = unique([Math.min(...rs), Math.max(...rs)].map((r) => r.toFixed(3)));
  return `approximate against exact: r ${ends.join(" to ")}, n ${unique(found.map(({ n }) => n)).join("/")}`;
}

function drawHeatmap(site) {
  const { unit, left, right } = state.circuits;
  if (!known(unit)) return { title: SITES[site] ?? site };
  const quantity = site === "head" ? "change" : state.circuits.quantity;
  const at = step();
  const panels = unique([left, right]).map((corruption) => ({ name: `${corruption} corruption`, ...matrix(corruption, site, at, quantity) }));
  const words = site === "head" ? "Direct logit difference of each head" : `${quantity === "recovered" ? "Recovered" : "Logit difference change"} by patching ${SITES[site] ?? site}`;
  const title = [words, `checkpoint ${at}`, unitTitle()].filter(Boolean).join(", ");
  const first = panels.find((panel) => panel.layout);
  if (!first) return { title, note: "not examined at this checkpoint" };
  if (panels.length === 2 && panels.every((panel) => panel.layout) && sameLayout(panels[0].layout, panels[1].layout)) {
    panels.push({
      name: `${left} − ${right}`, layout: first.layout,
      rows: panels[0].rows.map((row, i) => row.map((value, j) => (known(value) && known(panels[1].rows[i][j]) ? value - panels[1].rows[i][j] : null))),
    });
  }
  const shown = panels.filter((panel) => panel.layout);
  const end = limit(site, quantity);
  const colour = colours();
  const where = places(shown.length, narrow.matches ? (first.layout.axis === "position" ? 0.16 : 0.12) : 0.06);
  const layers = first.layout.layers.length;
  const layout = {
    plot_bgcolor: colour.missing, margin: { l: 45, r: 10, t: 34, b: first.layout.axis === "position" ? 75 : 45 }, annotations: [],
    coloraxis: {
      cmin: -end, cmax: end, colorscale: colour.diverging,
      colorbar: { thickness: 12, outlinewidth: 0, title: { text: quantity === "recovered" ? "recovered" : "logits", side: "right" } },
    },
  };
  const traces = shown.map((panel, i) => {
    const place = where[i];
    const told = known(panel.clean) ? `: clean ${panel.clean.toFixed(2)}, corrupted ${panel.corrupted.toFixed(2)}` : "";
    const fewer = known(panel.used) && panel.used < panel.of ? ` (${panel.used} of ${panel.of} runs)` : "";
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b>${told}${fewer}`, place));
    const columns = panel.layout.columns.map((name) => plain(name));
    layout[`xaxis${suffix(i)}`] = axis(narrow.matches && i < shown.length - 1 ? "" : panel.layout.axis, { domain: place.x, anchor: `y${suffix(i)}`, type: "category", showgrid: false, zeroline: false, tickangle: panel.layout.axis === "position" ? -50 : 0, ticks: "" });
    layout[`yaxis${suffix(i)}`] = axis(i && !narrow.matches ? "" : "layer", { domain: place.y, anchor: `x${suffix(i)}`, type: "category", showgrid: false, zeroline: false, showticklabels: narrow.matches || i === 0, ticks: "" });
    return {
      type: "heatmap", coloraxis: "coloraxis", xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`, xgap: 1, ygap: 1, hoverongaps: true,
      x: columns, y: panel.layout.layers.map(String), z: panel.rows, name: plain(panel.name),
      hovertemplate: `${plain(panel.name)}<br>layer %{y}, ${panel.layout.axis} %{x}<br>%{z:.3f}${plain(told)}<extra></extra>`,
    };
  });
  const one = Math.min(Math.max(layers * 26, 130), 420) + 120;
  return {
    title, traces, layout, note: unitNote(agreement(site, at)), runs: runsOf(unit),
    height: narrow.matches ? one * shown.length : one,
  };
}

const sameLayout = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** Lens or layer parts of one corruption: components, steps, and the mean over the unit's runs at each. */
function parts(corruption, kind) {
  const { unit, patching } = state.circuits;
  return remember(JSON.stringify(["parts", corruption, kind, unit, patching]), () => meanParts(corruption, kind));
}

function meanParts(corruption, kind) {
  const found = blocksOf(state.circuits.unit, corruption).map((block) => block[kind]).filter(known);
  if (!found.length) return null;
  const same = found.filter((part) => part.components.join() === found[0].components.join());
  const steps = unique(same.flatMap((part) => DATA.steps[part.steps])).sort((a, b) => a - b);
  const values = steps.map((at) => found[0].components.map((_, i) => {
    const there = same.filter((part) => DATA.steps[part.steps].includes(at)).map((part) => part.value[DATA.steps[part.steps].indexOf(at)][i]).filter(known);
    return there.length ? mean(there) * DATA.unit : null;
  }));
  return { components: found[0].components, steps, values, n: same.length };
}

function partsPanels(kind) {
  const { unit, left, right } = state.circuits;
  if (!known(unit)) return [];
  return unique([left, right]).map((corruption) => ({ corruption, ...parts(corruption, kind) })).filter((panel) => panel.values);
}

const against = (corruption) => (["first", "second"].includes(corruption) ? `answer against the ${corruption} subject` : `${corruption} corruption`);

function drawLens() {
  const panels = partsPanels("lens");
  const title = ["Logit lens: logit difference of the residual stream", unitTitle()].filter(Boolean).join(", ");
  if (!panels.length) return { title, note: "not examined" };
  const where = places(panels.length, narrow.matches ? 0.24 : 0.06);
  const at = step();
  const flat = panels.flatMap((panel) => panel.values.flat()).filter(known);
  const [low, high] = [Math.min(0, ...flat), Math.max(0, ...flat)];
  const layout = { margin: { l: 50, r: 10, t: 34, b: 75 }, annotations: [], showlegend: false };
  const traces = panels.flatMap((panel, i) => {
    layout.annotations.push(subtitle(`<b>${plain(against(panel.corruption))}</b>`, where[i]));
    layout[`xaxis${suffix(i)}`] = axis("", { domain: where[i].x, anchor: `y${suffix(i)}`, type: "category", tickangle: -50 });
    layout[`yaxis${suffix(i)}`] = axis(i && !narrow.matches ? "" : "logit difference (logits)", { domain: where[i].y, anchor: `x${suffix(i)}`, range: [low - 0.06 * (high - low), high + 0.06 * (high - low)] });
    const line = (rank, now) => ({
      type: "scatter", mode: now ? "lines+markers" : "lines", xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`,
      x: panel.components.map((name) => plain(name)), y: panel.values[rank], opacity: now ? 1 : 0.55,
      line: { width: now ? 3 : 1.2, color: now ? colours().ink : ordered(rank, panel.steps.length - 1) },
      hovertemplate: `checkpoint ${panel.steps[rank]}<br>%{x}: %{y:.3f}<extra></extra>`,
    });
    const now = panel.steps.indexOf(at);
    return [...panel.steps.map((_, rank) => line(rank, false)), ...(now >= 0 ? [line(now, true)] : [])];
  });
  // A marker that is not seen carries the colour bar of the steps.
  const steps = panels[0].steps;
  traces.push({
    type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
    marker: {
      color: [steps[0]], cmin: steps[0], cmax: steps.at(-1), showscale: steps.length > 1,
      colorscale: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, ordered(share, 1)]),
      colorbar: { thickness: 12, outlinewidth: 0, title: { text: "checkpoint, in order", side: "right" }, tickvals: [steps[0], steps.at(-1)] },
    },
  });
  return { title, traces, layout, note: unitNote(`thick: checkpoint ${at}`), runs: runsOf(state.circuits.unit), height: narrow.matches ? 380 * panels.length : 380 };
}

function drawLayers() {
  const panels = partsPanels("layer");
  const title = ["Logit difference from each layer's attention and MLP", unitTitle()].filter(Boolean).join(", ");
  if (!panels.length) return { title, note: "not examined" };
  const where = places(panels.length, narrow.matches ? 0.16 : 0.06);
  const at = step();
  const colour = colours();
  const end = Math.max(...panels.flatMap((panel) => panel.values.flat()).filter(known).map(Math.abs), 1e-6);
  const layout = {
    plot_bgcolor: colour.missing, margin: { l: 60, r: 10, t: 34, b: 50 }, annotations: [], shapes: [],
    coloraxis: { cmin: -end, cmax: end, colorscale: colour.diverging, colorbar: { thickness: 12, outlinewidth: 0, title: { text: "logits", side: "right" } } },
  };
  const traces = panels.map((panel, i) => {
    layout.annotations.push(subtitle(`<b>${plain(against(panel.corruption))}</b>`, where[i]));
    layout[`xaxis${suffix(i)}`] = axis("checkpoint (step)", { domain: where[i].x, anchor: `y${suffix(i)}`, type: "category", showgrid: false });
    layout[`yaxis${suffix(i)}`] = axis("", { domain: where[i].y, anchor: `x${suffix(i)}`, type: "category", showgrid: false, showticklabels: narrow.matches || i === 0, dtick: 1 });
    const now = panel.steps.indexOf(at);
    if (now >= 0) {
      layout.shapes.push({ type: "rect", xref: `x${suffix(i)}`, yref: `y${suffix(i)} domain`, x0: now - 0.5, x1: now + 0.5, y0: 0, y1: 1, line: { color: colour.ink, width: 2 } });
    }
    return {
      type: "heatmap", coloraxis: "coloraxis", xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`, xgap: 1, ygap: 1,
      x: panel.steps.map(String), y: panel.components.map((name) => plain(name)), z: panel.components.map((_, row) => panel.values.map((values) => values[row])),
      hovertemplate: "%{y}, checkpoint %{x}<br>%{z:.3f} logits<extra></extra>",
    };
  });
  const one = Math.max(240, panels[0].components.length * 18 + 110);
  return { title, traces, layout, note: unitNote(`framed: checkpoint ${at}`), runs: runsOf(state.circuits.unit), height: narrow.matches ? one * panels.length : one };
}

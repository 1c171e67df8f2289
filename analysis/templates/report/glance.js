// All settings at a glance: a small heatmap for each setting and corruption. Rows are the heads that matter in any setting,
// columns checkpoints, colours recovered at ±1. All are a single Plotly heatmap with empty rows between: as quick as one.

const GLANCE = { row: 13, label: 46, wide: 330, heads: 10, settings: 24 };  // pixels of a row, a head's name and a setting; then the most heads and settings
let allSettings = false;

/** Each setting whose heads were examined, as a unit: the mean over its runs; or single runs, if it has one or the filter hides some. */
function glanceSettings(site) {
  const runs = unique(DATA.blocks.filter((block) => block.sites[site]).map((block) => RUNS[block.run]));
  const made = (of, unit, n) => ({ name: of[0].setting === "all" ? "" : of[0].setting, n, runs: of, unit, kind: JSON.stringify([of[0].model, of[0].task]) });
  const single = (run, more = "") => made([run], `run_id:${run.run_id}`, (seedText(run) || `run ${run.run_id.slice(0, 8)}`) + more);
  return unique(runs.map(({ setting }) => setting)).flatMap((setting) => {
    const all = runs.filter((run) => run.setting === setting), of = sound(all);
    if (!of.every(accepts)) return all.filter(accepts).map((run) => single(run));
    return [of.length > 1 ? made(of, `setting:${setting}`, count(of.length, "run") + leftOutText(all)) : single(of[0], leftOutText(all))];
  });
}

/** The rows for all settings of one model and task: the heads that matter in any of them, at any checkpoint. */
function glanceHeads(settings, site) {
  const curves = settings.flatMap(({ unit }) => corruptions().flatMap((corruption) => headCurves(unit, corruption, site, "recovered")));
  const matter = new Set(curves.filter(({ points }) => points.some((point) => ["m", "h"].includes(markOf(point)))).map(({ name }) => name)), sizes = new Map();
  for (const { name, points } of curves) sizes.set(name, Math.max(sizes.get(name) ?? 0, ...points.map((point) => Math.abs(point.mean ?? 0))));
  const order = [...sizes].sort(([, a], [, b]) => b - a).map(([name]) => name), own = order.filter((name) => matter.has(name));
  return { names: (own.length ? own : order.slice(0, 3)).slice(0, GLANCE.heads).sort(compare), of: own.length, isJudged: curves.some(({ points }) => points.some(({ verdict }) => known(verdict))) };
}

function whichHeads(found) {
  const most = Math.max(...found.map(({ of }) => of));
  if (most > GLANCE.heads) return `the ${GLANCE.heads} largest of ${most} heads that matter in any setting, at least for its own runs`;
  if (found.every(({ of }) => of)) return "the heads that matter in any setting, at least for its own runs";
  return found.some(({ isJudged }) => isJudged) ? "the three largest heads where none is shown to matter in any setting" : "the three largest heads; no verdicts";
}

/** Panels {setting, corruption, names, x, y}, placed in columns and rows of one grid; and the grid's size. */
function glancePanels(settings, heads, steps, width) {
  const of = corruptions(), all = of.length * (steps.length + 1) - 1;
  const least = Math.max(GLANCE.label + 4 * (all + 1), Math.min(GLANCE.wide, width)), across = Math.max(1, Math.floor(width / least));
  const column = Math.min(18, Math.max(3, Math.floor((width / across - GLANCE.label) / (all + 2))));
  const labels = Math.ceil(GLANCE.label / column), wide = Math.floor(width / across / column);
  const panels = [];
  let y = 3;  // rows above for the names of setting and corruption; below, one for steps
  for (let at = 0; at < settings.length; at += across) {
    const line = settings.slice(at, at + across), names = line.map(({ kind }) => heads.get(kind).names);
    line.forEach((setting, i) => of.forEach((corruption, c) => panels.push({ setting, corruption, names: names[i], x: i * wide + labels + c * (steps.length + 1), y, c })));
    y += Math.max(...names.map((list) => list.length)) + 4;
  }
  return { panels, column, columns: Math.floor(width / column), rows: y - 3, room: (wide - 1) * column };
}

function drawGlance() {
  const site = headSites()[0], title = "Recovered in every setting: heads over checkpoints";
  const every = glanceSettings(site), settings = allSettings ? every : every.slice(0, GLANCE.settings);
  drawGlanceControls(every, settings);
  if (!settings.length) return { title, note: "the filter selects no setting whose heads were patched" };
  const heads = new Map(unique(settings.map(({ kind }) => kind)).map((kind) => [kind, glanceHeads(settings.filter((one) => one.kind === kind), site)]));
  const steps = unique(settings.flatMap(({ unit }) => corruptions().flatMap((corruption) => stepsOf(unit, corruption, site)))).sort((a, b) => a - b);
  const bar = narrow.matches ? 0 : 110, width = ($("glance-pictures").clientWidth || 1200) - 60 - bar;
  const laid = glancePanels(settings, heads, steps, width);
  for (const panel of laid.panels) Object.assign(panel, glanceCells(panel, steps, site));
  const inner = laid.rows * GLANCE.row, { margin, height } = frame(inner, { l: narrow.matches ? 14 : 5, t: 5, below: 10, right: bar });
  const bare = { visible: false, fixedrange: true }, cells = laid.panels.flatMap(({ cells }) => cells);
  glancePlaces = new Map(cells.map((cell) => [`${cell.x} ${cell.y}`, cell]));
  return {
    title, height, runs: settings.flatMap(({ runs }) => runs), note: [
      `patched: ${headSiteName(site)}`, `rows: ${whichHeads([...heads.values()])}`, `columns: checkpoints ${steps[0]} to ${steps.at(-1)}, the same everywhere`,
      cells.some(({ onset }) => onset) ? "◆ onset" : "", cells.some(({ gapless }) => gapless) ? `grey: ${markText("x")}` : "",
      "colours end at ±1 and do not follow the slider; click to open the setting at that checkpoint",
    ].filter(Boolean).join(" · "),
    alt: laid.panels.map(glanceText).join("; "), table: () => glanceTable(laid.panels),
    traces: glanceTraces(laid, cells, steps, inner),
    layout: { margin, showlegend: false, hovermode: "closest", xaxis: { ...bare, range: [-0.5, laid.columns - 0.5] }, yaxis: { ...bare, range: [laid.rows - 0.5, -0.5] } },
  };
}

/** The setting and checkpoint at each place, for clicks. */
let glancePlaces = new Map();

/** A panel's cells {x, y, value, gapless, onset, hover}. */
function glanceCells({ setting: { unit, name, n }, corruption, names, x, y }, steps, site) {
  const family = familyOf(unit, corruption, site), curves = new Map(headCurves(unit, corruption, site, "recovered").map((one) => [one.name, one.points]));
  const cells = names.flatMap((head, row) => (curves.get(head) ?? []).filter(({ step }) => steps.includes(step)).map((point) => {
    const course = family?.courses[head], gapless = point.defined === false, onset = course?.onset === point.step;
    const lines = [
      `${name || "all runs"}, ${n}`, `${corruption} corruption, head ${head}, checkpoint ${point.step}`,
      gapless ? markText("x") : known(point.mean) ? `recovered ${fixed(point.mean)}${pointText(point)}` : "no value", gapless ? "" : markText(markOf(point)), onset ? courseText(course) : "",
    ];
    return { x: x + steps.indexOf(point.step), y: y + row, unit, step: point.step, head, value: point.mean, gapless, onset, hover: lines.filter(Boolean).map(plain).join("<br>") };
  }));
  return { cells, family };
}

function glanceTraces({ panels, columns, rows, column, room }, cells, steps, inner) {
  const grid = (wanted, value) => {
    const made = Array.from({ length: rows }, () => Array(columns).fill(null));
    for (const cell of cells.filter(wanted)) made[cell.y][cell.x] = value(cell);
    return made;
  };
  const heatmap = { type: "heatmap", xgap: column > 7 ? 1 : 0, ygap: 1, hoverongaps: false, customdata: grid(() => true, ({ hover }) => hover), hovertemplate: "%{customdata}<extra></extra>" };
  const colour = colours(), grey = cells.some(({ gapless }) => gapless);
  const onsets = cells.filter(({ onset }) => onset);
  const words = (size, list) => ({
    type: "scatter", mode: "text", hoverinfo: "skip", cliponaxis: false, textfont: { size, color: size > 11 ? colour.ink : colour.quiet },
    x: list.map(([x]) => x), y: list.map(([, y]) => y), text: list.map(([, , text]) => plain(text)), textposition: list.map(([, , , side]) => `middle ${side}`),
  });
  const short = (text) => { const most = Math.floor(room / 6.3); return text.length > most ? `${text.slice(0, most - 1)}…` : text; };
  const first = panels.filter(({ c }) => !c), last = steps.length - 1;
  return [
    { ...heatmap, z: grid(({ value }) => known(value), ({ value }) => value), zmin: -1, zmax: 1, colorscale: colour.diverging, colorbar: scaleBar("recovered", inner, 10, { len: Math.min(1, 220 / inner), ...(narrow.matches ? { len: 1 } : { y: 1, yanchor: "top" }) }) },
    ...(grey ? [{ ...heatmap, z: grid(({ gapless }) => gapless, () => 1), colorscale: [[0, colour.missing], [1, colour.missing]], showscale: false }] : []),
    {
      type: "scatter", mode: "markers", hoverinfo: "skip", x: onsets.map(({ x }) => x), y: onsets.map(({ y }) => y),
      marker: { symbol: "diamond", size: Math.min(8, column), color: colour.ink, line: { color: colour.card, width: 1 } },
    },
    words(12, first.map(({ setting: { name, n }, x, y }) => [x - 0.5 - GLANCE.label / column + 0.5, y - 2.4, short([name, n].filter(Boolean).join(": ")), "right"])),
    words(11, panels.map(({ corruption, x, y }) => [x - 0.5 - 4 / column, y - 1.1, corruption, "right"])),
    words(10, [
      ...first.flatMap(({ names, x, y }) => names.map((name, row) => [x - 0.5, y + row, name, "left"])),
      // The last step of a narrow panel would run into the next one's first, which is the same.
      ...panels.flatMap(({ names, x, y, c }) => [...(c && column < 2 * GLANCE.row ? [] : [[x - 0.5 - 3 / column, y + names.length, String(steps[0]), "right"]]), ...(last ? [[x + last + 0.5 + 3 / column, y + names.length, String(steps[last]), "left"]] : [])]),
    ]),
  ];
}

/** A panel in words: its largest heads at its last checkpoint. */
function glanceText({ setting: { name }, corruption, cells }) {
  const last = Math.max(...cells.map(({ step }) => step));
  const top = cells.filter(({ step, value }) => step === last && known(value)).sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 3);
  return `${name || "all runs"}, ${corruption}: ${top.map(({ head, value }) => `head ${head} ${fixed(value, 2)}`).join(", ") || "no values"}`;
}

function glanceTable(panels) {
  const steps = unique(panels.flatMap(({ cells }) => cells.map(({ step }) => step))).sort((a, b) => a - b);
  return {
    head: ["setting", "corruption", "head", "since when", ...steps.map((at) => `step ${at}`)],
    rows: panels.flatMap(({ setting, corruption, names, cells, family }) => names.map((head) => [
      `${setting.name || "all runs"}, ${setting.n}`, corruption, head, courseText(family?.courses[head]),
      ...steps.map((at) => { const cell = cells.find((one) => one.head === head && one.step === at); return !cell ? "" : cell.gapless ? "no gap" : number(cell.value); }),
    ])),
  };
}

/** Shows a setting in the heads below. */
function openSetting(unit, at = null) {
  showCircuits(unit);
  const index = known(at) ? shownSteps().indexOf(at) : -1;
  if (index < 0) return;
  goTo(index);
  saveView();
}

function drawGlanceControls(every, settings) {
  const open = settings.map(({ unit, name, n }) => [unit, [name, n].filter(Boolean).join(": ")]);
  replaceControls($("glance-controls"),
    open.length > 1 ? select("Open a setting below", [["", "choose one"], ...open], "", (unit) => unit && openSetting(unit)) : null,
    every.length > GLANCE.settings ? h("button", { type: "button", "aria-pressed": String(allSettings), click: () => { allSettings = !allSettings; redraw("glance-pictures"); } }, `show all ${every.length} settings`) : null);
}

function addGlance() {
  if (!headSites().length || glanceSettings(headSites()[0]).length < 2) return;
  $("glance").hidden = false;
  addPicture($("glance-pictures"), "glance-plot", drawGlance);
  $("glance-plot").addEventListener("click", (event) => {
    const point = pointOf($("glance-plot"), event), cell = point && glancePlaces.get(`${Math.round(point.x)} ${Math.round(point.y)}`);
    if (cell) openSetting(cell.unit, cell.step);
  });
}

/** The pointer's position on a plot's axes; null before it is drawn. */
function pointOf(plot, event) {
  const { xaxis, yaxis } = plot._fullLayout ?? {};
  if (!xaxis) return null;
  const { left, top } = plot.getBoundingClientRect();
  return { x: xaxis.p2l(event.clientX - left - xaxis._offset), y: yaxis.p2l(event.clientY - top - yaxis._offset) };
}

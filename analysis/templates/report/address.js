// The chosen view is kept in the page's address, so that a reload or a copied link shows the same.

const PREFIX = "#view=";
const lists = (value) => (Array.isArray(value) ? value : []);
const keysOnly = (value, there) => lists(value).filter((key) => there.includes(key));
const numbersOnly = (value) => Object.fromEntries(Object.entries(value ?? {}).filter(([, number]) => typeof number === "number"));

function view() {
  const { filter, group, columns, baseline, sort, interval, result } = state, { metric, split, seeds, thresholds, by, log } = state.curves;
  return {
    filter, group, columns, baseline, sort, interval, result, chosen: [...state.chosen], curves: { metric, split, seeds, thresholds, by: [...by], log: [...log] },
    circuits: state.circuits, heads: state.heads, attention: state.attention, place: state.place,
  };
}

const addressOf = (shown) => PREFIX + encodeURIComponent(JSON.stringify(shown));

/** The view before anyone chose; and what the address showed before its last change, and the kind of that change. */
const AT_FIRST = structuredClone(state);
let kept = null, changed = null;

/** A choice is a step that Back undoes. Moving the slider is not; typing in the filter is a single step. */
function saveView() {
  const shown = view(), parts = (of) => of && { filter: of.filter, at: of.circuits.at, rest: JSON.stringify({ ...of, filter: null, circuits: { ...of.circuits, at: null } }) };
  const [before, now] = [kept, shown].map(parts);
  const kind = !before || before.rest !== now.rest ? "rest" : before.filter !== now.filter ? "filter" : before.at !== now.at ? "at" : null;
  if (!kind) return;
  const isStep = kind === "rest" || (kind === "filter" && changed !== "filter");
  history[isStep ? "pushState" : "replaceState"](null, "", addressOf(shown));
  kept = structuredClone(shown);
  changed = kind === "at" ? changed : kind;
}

/** Redraws all that depends on the view. */
function drawView() {
  drawTableControls();
  drawTable();
  drawCurvesControls();
  drawCircuitsControls();
  drawSettings();
  drawFindings();
  drawDifferences();
  kept = structuredClone(view());
  changed = null;
}

addEventListener("popstate", () => {
  stop();
  Object.assign(state, structuredClone(AT_FIRST));
  Object.assign(chosen, { unit: null, other: null });
  filter = parse("");
  restoreView();
  chooseCurves();
  drawView();
  redraw();
});

/** The picture that an address leads to. */
function pictureOf(hash) {
  const { picture } = parsed(hash) ?? {};
  return typeof picture === "string" && pictures.some(({ plot }) => plot.id === picture) ? picture : null;
}

/** The address of this page at a picture, with the present view. */
const linkTo = (id) => location.href.split("#")[0] + addressOf({ ...view(), picture: id });

/** Scrolls to a picture, and keeps it in sight while pictures above are drawn, until the reader moves. */
function goToPicture(id) {
  const figure = id && $(id)?.closest("figure");
  if (!figure) return;
  const go = () => figure.scrollIntoView({ block: "start" });
  const again = new ResizeObserver(go), end = () => again.disconnect();
  again.observe(document.body);
  for (const kind of ["wheel", "touchmove", "pointerdown", "keydown"]) addEventListener(kind, end, { once: true, passive: true });
  setTimeout(end, 4000);
  go();
}

function parsed(hash) {
  try {
    const found = hash.startsWith(PREFIX) ? JSON.parse(decodeURIComponent(hash.slice(PREFIX.length))) : null;
    return found && typeof found === "object" ? found : null;
  } catch { return null; }
}

/** Restores the view in the address as far as this page can: it may be another page's, or invented. */
function restoreView() {
  const kept = parsed(location.hash);
  if (!kept) return;
  const columns = COLUMNS.map(({ key }) => key), groups = GROUPABLE.map(([key]) => key);
  const curves = kept.curves ?? {}, metrics = Object.values(metricsThere()).flat();
  if (typeof kept.filter === "string" && !parse(kept.filter).error) { state.filter = kept.filter; filter = parse(kept.filter); }
  if (Array.isArray(kept.group)) state.group = keysOnly(kept.group, groups);
  if (Array.isArray(kept.columns)) state.columns = keysOnly(kept.columns, columns);
  if (columns.includes(kept.sort?.key)) state.sort = { key: kept.sort.key, up: Boolean(kept.sort.up) };
  if (intervalsThere().some(([kind]) => kind === kept.interval)) state.interval = kept.interval;
  if (results().some(({ key }) => key === kept.result)) state.result = kept.result;
  if (typeof kept.baseline === "string") state.baseline = kept.baseline;  // dropped if no row has it
  state.chosen = new Set(keysOnly(kept.chosen, RUNS.map((run) => run.run_id)));
  restoreCircuits(kept.circuits ?? {}, kept.heads ?? {});
  restoreAttention(kept.attention ?? {});
  restorePlace(kept.place);
  if (!metrics.includes(curves.metric)) return;
  Object.assign(state.curves, { metric: curves.metric, split: curves.split, thresholds: numbersOnly(curves.thresholds) });
  if (["both", "band", "lines"].includes(curves.seeds)) state.curves.seeds = curves.seeds;
  state.curves.by = new Set(keysOnly(curves.by, groups));
  state.curves.log = new Set(keysOnly(curves.log, ["x", "y"]));
}

function restoreCircuits(circuits, heads) {
  const there = Object.values(units()).flat().map(([unit]) => unit), patchings = unique(DATA.blocks.map((block) => block.patching));
  const choices = {
    unit: there, other: there, left: corruptions(), right: corruptions(), patching: patchings.length > 1 ? patchings : [],
    quantity: Object.keys(QUANTITIES), over: Object.keys(OVER), scale: Object.keys(SCALES),
  };
  for (const [key, of] of Object.entries(choices)) if (of.includes(circuits[key])) state.circuits[key] = circuits[key];
  Object.assign(chosen, { unit: state.circuits.unit, other: state.circuits.other });
  if (Number.isInteger(circuits.at) && circuits.at >= 0) state.circuits.at = circuits.at;
  if (headSites().includes(heads.site)) state.heads.site = heads.site;
  if (HEAD_COUNTS.includes(heads.k)) state.heads.k = heads.k;
}

/** Parts that do not exist are skipped when drawing. */
function restoreAttention({ job, prompt, head, side, token, query }) {
  if (ATTENTION_SIDES.includes(side)) state.attention.side = side;
  if (typeof job === "string") state.attention.job = job;
  if (typeof query === "string") state.attention.query = query;
  if (typeof head === "string") state.attention.head = head;
  if (Number.isInteger(prompt) && prompt >= 0) state.attention.prompt = prompt;
  if (Number.isInteger(token) && token >= 0) state.attention.token = token;
}

/** Opened once the page is drawn. */
function restorePlace(place) {
  const { site, layer, column } = place ?? {}, there = DATA.blocks.map((block) => block.sites[site]).filter(known).map((part) => DATA.layouts[part.layout]);
  if (typeof site === "string" && there.some(({ layers, columns }) => layers.includes(layer) && columns.includes(column))) state.place = { site, layer, column };
}

/** Links within the page would replace the view in the address. */
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  const target = $(link.hash.slice(1));
  target.scrollIntoView();
  target.focus({ preventScroll: true });
});

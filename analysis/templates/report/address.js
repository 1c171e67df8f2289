// The chosen view is kept in the page's address, so that a reload or a copied link shows the same.

const PREFIX = "#view=";
const lists = (value) => (Array.isArray(value) ? value : []);
const keysOnly = (value, there) => lists(value).filter((key) => there.includes(key));
const numbersOnly = (value) => Object.fromEntries(Object.entries(value ?? {}).filter(([, number]) => typeof number === "number"));

function view() {
  const { filter, group, columns, baseline, sort, interval, result } = state, { metric, split, seeds, thresholds, by, log } = state.curves;
  return {
    filter, group, columns, baseline, sort, interval, result, chosen: [...state.chosen], curves: { metric, split, seeds, thresholds, by: [...by], log: [...log] },
    circuits: state.circuits, heads: state.heads, attention: state.attention,
  };
}

function saveView() {
  history.replaceState(null, "", PREFIX + encodeURIComponent(JSON.stringify(view())));
}

/** Takes up what the address says as far as the page has it: it may be that of another page, or made up. */
function restoreView() {
  let kept;
  try {
    kept = location.hash.startsWith(PREFIX) ? JSON.parse(decodeURIComponent(location.hash.slice(PREFIX.length))) : null;
  } catch { return; }
  if (!kept || typeof kept !== "object") return;
  const columns = COLUMNS.map(({ key }) => key), groups = GROUPABLE.map(([key]) => key);
  const curves = kept.curves ?? {}, metrics = Object.values(metricsThere()).flat();
  if (typeof kept.filter === "string" && !parse(kept.filter).error) { state.filter = kept.filter; accepts = parse(kept.filter).accepts; }
  if (Array.isArray(kept.group)) state.group = keysOnly(kept.group, groups);
  if (Array.isArray(kept.columns)) state.columns = keysOnly(kept.columns, columns);
  if (columns.includes(kept.sort?.key)) state.sort = { key: kept.sort.key, up: Boolean(kept.sort.up) };
  if (intervalsThere().some(([kind]) => kind === kept.interval)) state.interval = kept.interval;
  if (results().some(({ key }) => key === kept.result)) state.result = kept.result;
  if (typeof kept.baseline === "string") state.baseline = kept.baseline;  // dropped where no row has it
  state.chosen = new Set(keysOnly(kept.chosen, RUNS.map((run) => run.run_id)));
  restoreCircuits(kept.circuits ?? {}, kept.heads ?? {});
  restoreAttention(kept.attention ?? {});
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
    quantity: Object.keys(QUANTITIES), over: Object.keys(OVER),
  };
  for (const [key, of] of Object.entries(choices)) if (of.includes(circuits[key])) state.circuits[key] = circuits[key];
  if (Number.isInteger(circuits.at) && circuits.at >= 0) state.circuits.at = circuits.at;
  if (headSites().includes(heads.site)) state.heads.site = heads.site;
  if (TOPS.includes(heads.k)) state.heads.k = heads.k;
}

/** What is not there is passed over when it is drawn. */
function restoreAttention({ job, prompt, head, side, token, query }) {
  if (ATTENTION_SIDES.includes(side)) state.attention.side = side;
  if (typeof job === "string") state.attention.job = job;
  if (typeof query === "string") state.attention.query = query;
  if (typeof head === "string") state.attention.head = head;
  if (Number.isInteger(prompt) && prompt >= 0) state.attention.prompt = prompt;
  if (Number.isInteger(token) && token >= 0) state.attention.token = token;
}

/** Links within the page would put their target in the view's place. */
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  const target = $(link.hash.slice(1));
  target.scrollIntoView();
  target.focus({ preventScroll: true });
});

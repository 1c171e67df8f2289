// The values of a run by key: its settings, its state, and its results at the last checkpoint.

/** Settings that some run has; a series has none, because its training is unknown. */
const SETTINGS = [
  ["model", "model"], ["task", "task"], ["lr", "lr"], ["weight_decay", "weight decay"], ["schedule", "schedule"],
  ["steps", "steps"], ["batch_size", "batch"],
].filter(([key]) => RUNS.some((run) => known(run[key])));
/** Configuration keys that are settings under another name. */
const SAME_AS = new Set(["model.name", "task.name", "optim.lr", "optim.weight_decay", "schedule.name", "train.steps", "train.batch_size", "seed"]);
const OTHER_FACTORS = DATA.config.factors.filter((key) => !SAME_AS.has(key)).map((key) => [key, key]);
const FACTORS = [...SETTINGS, ...OTHER_FACTORS];

/** The value of a run's configuration under a dotted key; undefined if absent. */
function configOf(run, key) {
  const { same, differs } = DATA.config;
  if (!known(run.setting)) {
    const value = Object.hasOwn(run.planned, key) ? run.planned[key] : undefined;
    return value === "" || Number.isNaN(Number(value)) ? value : Number(value);
  }
  if (Object.hasOwn(same, key)) return same[key];
  if (!Object.hasOwn(differs, key)) return undefined;
  const { values, of } = differs[key];
  return values[of[run.index] ?? -1];
}

const CONFIG_KEYS = [...Object.keys(DATA.config.same), ...Object.keys(DATA.config.differs)].sort();
/** The run that a run repeats: a zoom counts as the run zoomed into. */
function originOf(run) {
  const of = configOf(run, "checkpoint.zoom_of");
  if (!known(of)) return run.run_id;
  const found = RUNS.find((one) => one.run_id === of);
  return found ? originOf(found) : of;
}
/** The items that count in a mean: one for each run. */
function eachRunOnce(items, runOf = (item) => item) {
  const kept = new Map();
  for (const item of items) {
    const run = runOf(item), id = originOf(run);
    if (!kept.has(id) || run.run_id === id) kept.set(id, item);
  }
  return [...kept.values()];
}

const hasDiverged = (run) => run.status === "diverged";
/** The runs of a group behind its mean: those that did not diverge, or all if all did. */
function sound(runs) {
  const left = runs.filter((run) => !hasDiverged(run));
  return left.length ? left : runs;
}
/** A note that diverged runs are left out of a mean, or that all diverged; "" if none did. */
function leftOutText(runs, before = ", ") {
  const n = runs.length - sound(runs).length;
  if (runs.length > 1 && runs.every(hasDiverged)) return `${before}all diverged`;
  return n ? `${before}${count(n, "diverged run")} left out` : "";
}

const isWords = (value) => Array.isArray(value) && value.length > 0 && value.every((one) => typeof one === "string");
const scalar = (value) => (isWords(value) ? value.join(" + ") : value !== null && typeof value === "object" ? JSON.stringify(value) : value);
for (const run of RUNS) for (const [key] of OTHER_FACTORS) run[key] = scalar(configOf(run, key)) ?? null;

/** Series by "split/metric", then by run. */
const SERIES = new Map();
for (const one of DATA.series) {
  const key = `${one.split}/${one.metric}`;
  if (!SERIES.has(key)) SERIES.set(key, new Map());
  SERIES.get(key).set(one.run, one);
}
const METRICS = [...SERIES.keys()].filter((key) => key !== "heldout/win_rate");
const metricText = (key) => { const [split, metric] = key.split("/"); return `${sentence(metric)}, ${sentence(split)}`; };

/** The first step at which a curve reaches a threshold: a loss from above, all else from below. */
const reaches = (metric, value, threshold) => known(value) && (metric === "loss" ? value <= threshold : value >= threshold);
const firstAt = (metric, steps, values, threshold) => steps[values.findIndex((value) => reaches(metric, value, threshold))] ?? null;

/** The metric that decides whether a task is learned. */
const LEARNED = DATA.learned;

function firstStep(run) {
  const one = SERIES.get(`heldout/${LEARNED}`)?.get(run.index), threshold = state.curves.thresholds[LEARNED];
  return one && known(threshold) ? firstAt(LEARNED, DATA.steps[one.steps], one.value, threshold) : null;
}

/** A run's value under any known key; undefined or null if it has none. */
function valueOf(run, key) {
  if (key === "first_step") return firstStep(run);
  if (key === "run") return run.run_id;
  if (SERIES.has(key)) return SERIES.get(key).get(run.index)?.value.at(-1);
  return Object.hasOwn(run, key) ? run[key] : scalar(configOf(run, key));
}

/** A setting, unrounded: two may differ in the last digit only. */
const written = (value) => (typeof value === "number" ? exact(value) : String(value));
const differing = (key, runs = RUNS) => unique(runs.map((run) => run[key]).filter((value) => known(value) && value !== ""));
const planned = (run) => Object.entries(run.planned).map(([key, value]) => `${key}=${value}`).join(" ");
const seedText = ({ seed }) => (known(seed) ? `seed ${seed}` : "");
/** A run's id, and its seed if it has one. */
const idText = (run) => [run.run_id, seedText(run)].filter(Boolean).join(", ");
/** A run in words: its varied keys, and its seed. */
const runText = (run) => [known(run.setting) ? (run.setting === "all" ? "" : run.setting) : planned(run), known(run.setting) ? seedText(run) : ""].filter(Boolean).join(", ");
/** The same, with the first digits of its id if another run has the same words. */
function distinctText(run) {
  const words = runText(run);
  if (words && !RUNS.some((other) => other !== run && runText(other) === words)) return words;
  const begin = run.run_id.slice(0, 8), isOne = RUNS.filter((other) => other.run_id.startsWith(begin)).length === 1;
  return [words, `run ${isOne ? begin : run.run_id}`].filter(Boolean).join(", ");
}
/** Keys by which runs can be grouped. */
const GROUPABLE = [...FACTORS, ["seed", "seed"], ["sweep", "sweep"]].filter(([key]) => differing(key).length > 1);

// 95% intervals over runs, with the same numbers as analysis/intervals.py and summaries.py. Intervals for circuits, over prompts
// and seeds, come from Python: see verdicts.js.

const LEAST_BOOTSTRAP = DATA.bootstrap.least;  // runs

/** Mean with its interval, one value per run. */
function band(values, kind = state.interval) {
  const n = values.length;
  if (n < 2) return { mean: n ? mean(values) : null, low: null, high: null, n };
  return { mean: mean(values), ...(kind === "bootstrap" && n >= LEAST_BOOTSTRAP ? bootstrap([values]) : student(mean(values), variance(values) / n, n - 1)), n };
}

/** The difference of the means of two unpaired lists. */
function difference(values, others, kind = state.interval) {
  const middle = mean(values) - mean(others);
  if (values.length < 2 || others.length < 2) return { mean: middle, low: null, high: null };
  if (kind === "bootstrap" && Math.min(values.length, others.length) >= LEAST_BOOTSTRAP) return { mean: middle, ...bootstrap([values, others]) };
  const [a, b] = [values, others].map((list) => variance(list) / list.length);
  // Welch and Satterthwaite.
  const freedom = a + b ? (a + b) ** 2 / (a ** 2 / (values.length - 1) + b ** 2 / (others.length - 1)) : values.length + others.length - 2;
  return { mean: middle, ...student(middle, a + b, Math.floor(freedom)) };
}
const variance = (values) => values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1);

function student(middle, squaredError, freedom) {
  const half = (DATA.t95[freedom - 1] ?? DATA.z95 + 2.4 / freedom) * Math.sqrt(squaredError);
  return { low: middle - half, high: middle + half };
}

/** Percentile bootstrap of a list's mean, or of the first list's mean minus the second's. */
function bootstrap([values, others]) {
  const means = (list, stream) => draws(list.length, stream).map((drawn) => {
    let sum = 0;
    for (const i of drawn) sum += list[i];
    return sum / list.length;
  });
  const first = means(values, 0), second = others && means(others, 1);
  const sorted = Float64Array.from(first, (value, i) => value - (second ? second[i] : 0)).sort();
  return { low: quantile(sorted, 0.025), high: quantile(sorted, 0.975) };
}

function quantile(sorted, share) {
  const at = share * (sorted.length - 1), below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** The indices drawn in each resample of n. Random numbers are mulberry32's, as in `intervals.draws`. */
const drawn = new Map();
function draws(n, stream) {
  const key = `${n} ${stream}`;
  if (!drawn.has(key)) {
    let now = DATA.bootstrap.seed + stream;
    const random = () => {
      now = (now + 0x6d2b79f5) | 0;
      let mixed = Math.imul(now ^ (now >>> 15), now | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
    drawn.set(key, Array.from({ length: DATA.bootstrap.resamples }, () => Uint32Array.from({ length: n }, () => Math.floor(random() * n))));
  }
  return drawn.get(key);
}

/** The Wilson interval of a share of n. */
function wilson(share, n) {
  const z = DATA.z95, scale = 1 + (z * z) / n;
  const middle = (share + (z * z) / (2 * n)) / scale;
  const half = (z / scale) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return { low: middle - half, high: middle + half };
}

/** The interval of a mean win rate for other prompts too, as in analysis/inference/wins.py: Wilson's over n prompts and the one over runs, added in quadrature. */
function overPrompts({ mean: middle, low, high }, n) {
  const { low: least, high: most } = wilson(middle, n);
  return { low: middle - Math.hypot(middle - least, known(low) ? middle - low : 0), high: middle + Math.hypot(most - middle, known(high) ? high - middle : 0) };
}

const INTERVALS = { student: "Student's t over runs", bootstrap: `bootstrap over runs (${LEAST_BOOTSTRAP} or more)` };
/** The choices: bootstrap only if a group can have enough runs. */
const intervalsThere = () => Object.entries(INTERVALS).filter(([kind]) => kind === "student" || RUNS.length >= LEAST_BOOTSTRAP);

/** The caption's name of an interval over `ns` runs, and what it covers. */
function intervalText(ns, chosen = state.interval) {
  const [least, most] = [Math.min(...ns), Math.max(...ns)];
  const n = `n ${least === most ? least : `${least} to ${most}`} ${most === 1 ? "run" : "runs"}`;
  const bootstrapped = chosen === "bootstrap" && most >= LEAST_BOOTSTRAP;
  const kind = bootstrapped
    ? `percentile bootstrap, ${DATA.bootstrap.resamples} resamples, fixed seed${least < LEAST_BOOTSTRAP ? `; Student's t below ${LEAST_BOOTSTRAP} runs` : ""}`
    : `Student's t${chosen === "bootstrap" ? `, for fewer than ${LEAST_BOOTSTRAP} runs` : ""}`;
  return `${kind}; ${n}; ${OF_RUNS}`;
}

/** Runs that differ only in their seed have the same prompts, unless a key of the task varies. */
const OF_RUNS = Object.keys(DATA.config.differs).some((key) => key.startsWith("task."))
  ? "over runs, each with its own prompts"
  : "over runs on these prompts: it does not cover other prompts";

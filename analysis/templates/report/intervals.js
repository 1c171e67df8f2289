// 95% intervals, to the same numbers as analysis/intervals.py and summaries.py.

/** Mean with its interval over values, one a run. */
function band(values, kind = state.interval) {
  const n = values.length;
  if (n < 2) return { mean: n ? mean(values) : null, low: null, high: null, n };
  return { mean: mean(values), ...(kind === "bootstrap" ? bootstrap([values]) : student(mean(values), variance(values) / n, n - 1)), n };
}

/** The difference of the means of two lists of which nothing pairs the values. */
function difference(values, others, kind = state.interval) {
  const middle = mean(values) - mean(others);
  if (values.length < 2 || others.length < 2) return { mean: middle, low: null, high: null };
  if (kind === "bootstrap") return { mean: middle, ...bootstrap([values, others]) };
  const [a, b] = [values, others].map((list) => variance(list) / list.length);
  // Welch and Satterthwaite.
  const freedom = a + b ? (a + b) ** 2 / (a ** 2 / (values.length - 1) + b ** 2 / (others.length - 1)) : values.length + others.length - 2;
  return { mean: middle, ...student(middle, a + b, Math.floor(freedom)) };
}

const variance = (values) => values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1);

function student(middle, squaredError, freedom) {
  const half = (DATA.t95[freedom - 1] ?? 1.96 + 2.5 / freedom) * Math.sqrt(squaredError);
  return { low: middle - half, high: middle + half };
}

/** Percentile bootstrap of the mean of a list, or of the first list's mean less the second's. */
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

/** Which of n are drawn in each resample. The numbers of a stream are mulberry32's, as in `intervals.draws`. */
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
  const z = 1.96, scale = 1 + (z * z) / n;
  const middle = (share + (z * z) / (2 * n)) / scale;
  const half = (z / scale) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return { low: middle - half, high: middle + half };
}

const INTERVALS = { bootstrap: "bootstrap over runs", student: "Student's t over runs" };

/** What an interval over `ns` runs is called in a caption. */
function intervalTold(ns) {
  const [least, most] = [Math.min(...ns), Math.max(...ns)];
  const n = `n ${least === most ? least : `${least} to ${most}`} ${most === 1 ? "run" : "runs"}`;
  if (state.interval === "student") return `Student's t; ${n}`;
  const few = least < 5 ? "; with fewer than about 5 it is too narrow, Student's t is safer" : "";
  return `percentile bootstrap, ${DATA.bootstrap.resamples} resamples, fixed seed; ${n}${few}`;
}

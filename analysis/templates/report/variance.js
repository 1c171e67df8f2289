// How much of a result's variance is associated with each configuration key: eta squared, the share between the key's values.
// It describes these runs; it does not show causes.

/** The fewest runs per value of a key: with one run per value, every key has all the variance. */
const LEAST_RUNS = 3;

/** eta² = Σ n_v (mean_v − mean)² / Σ (x − mean)² over runs, with their number and that of the key's values; null without variance. */
function etaSquared(runs, key, column) {
  const groups = new Map();
  for (const run of runs) {
    const value = JSON.stringify(run[key] ?? null);
    groups.set(value, [...(groups.get(value) ?? []), valueOf(run, column.key)]);
  }
  const lists = [...groups.values()], all = lists.flat(), middle = mean(all);
  const total = all.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  const between = lists.reduce((sum, list) => sum + list.length * (mean(list) - middle) ** 2, 0);
  return { n: all.length, values: lists.length, share: total > 1e-12 * all.length * middle ** 2 ? between / total : null };
}

function drawVariance() {
  const column = COLUMNS.find((one) => one.key === state.result), label = columnText(column);
  const there = eachRunOnce(visibleRuns()).filter((run) => typeof valueOf(run, column.key) === "number"), runs = sound(there);
  const rows = [...FACTORS, ["seed", "seed"]].filter(([key]) => unique(runs.map((run) => run[key] ?? null)).length > 1)
    .map(([key, label]) => ({ label, ...etaSquared(runs, key, column) }));
  const fewest = ({ n, values }) => n < LEAST_RUNS * values;
  const value = (row) => (row.share === null ? `cannot tell: ${label} is the same in all runs` : fewest(row) ? `cannot tell: ${count(row.n, "run")} for ${row.values} values` : `${Math.round(100 * row.share)}%`);
  rows.sort((a, b) => (fewest(a) ? 1 : 0) - (fewest(b) ? 1 : 0) || b.share - a.share);
  $("variance").replaceChildren(...(rows.length ? [
    tableOf(`how much of ${label} is associated with each key`, h("b", {}, `How much of ${label} is associated with each key`),
      ["key", "η²", "by chance alone", "values", "runs"],
      rows.map((row) => [row.label, value(row), `${Math.round((100 * (row.values - 1)) / Math.max(1, row.n - 1))}%`, String(row.values), String(row.n)]), ""),
    h("p", { class: "quiet" }, `η² is the share of the variance between runs that lies between a key's values, Σ n_v (mean_v − mean)² / Σ (x − mean)². It describes these ${count(runs.length, "run")}${leftOutText(there)} ` +
      "and does not show causes: shares overlap where keys vary together, and a key with more values has more by chance."),
  ] : []));
}

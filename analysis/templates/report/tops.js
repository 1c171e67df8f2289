// What patching found for each run at its last checkpoint, as columns of the table of runs: its top heads, what the largest
// head recovers, and since when the top head matters. They are usable like other results: in the filter, in
// sorting and grouping rows, and among the parallel coordinates.

const MOST_TOP = 3;
/** The site of these columns: z if heads were patched there. */
const TOPS_SITE = headSites()[0] ?? null;
const KIND_OF_TOPS = "Circuits at the last checkpoint";

/** A run's heads under one corruption, largest first: those that matter, if verdicts were computed. Null if not examined. */
function topOf(run, corruption) {
  const block = DATA.blocks.find((one) => one.run === run.index && one.corruption === corruption && one.sites[TOPS_SITE]);
  if (!block) return null;
  const part = block.sites[TOPS_SITE], layout = DATA.layouts[part.layout], steps = DATA.steps[part.steps], last = steps.length - 1;
  const family = FAMILIES.get(JSON.stringify([[run.index], corruption, block.patching, TOPS_SITE])) ?? null;
  const verdicts = lettersAt(family, steps[last], layout), values = valuesAt(part, last, TOPS_SITE, "recovered");
  const heads = cellNames(layout).map((name, i) => ({ name, value: values[i], verdict: verdicts?.[i] ?? null }))
    .filter(({ value, verdict }) => known(value) && verdict !== "x" && !block.gapless).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const top = heads.filter(({ verdict }) => verdict === "m");
  return {
    judged: Boolean(verdicts), heads: (verdicts ? top.slice(0, MOST_TOP) : heads.slice(0, 1)).map(({ name }) => name),
    recovered: heads[0] ? Number(heads[0].value.toPrecision(5)) : null, onset: family?.courses[top[0]?.name]?.onset ?? null,
  };
}

const TOPS_COLUMNS = (TOPS_SITE ? corruptions() : []).flatMap((corruption) => [
  { key: `top_heads/${corruption}`, label: `top heads, ${corruption}`, kind: KIND_OF_TOPS },
  { key: `top_recovered/${corruption}`, label: `recovered of largest head, ${corruption}`, kind: KIND_OF_TOPS, result: true },
  { key: `top_onset/${corruption}`, label: `onset of top head, ${corruption}`, kind: KIND_OF_TOPS, result: true },
]);

for (const corruption of TOPS_SITE ? corruptions() : []) {
  for (const run of RUNS) {
    const top = topOf(run, corruption);
    run[`top_heads/${corruption}`] = top?.heads ?? null;
    run[`top_recovered/${corruption}`] = top?.recovered ?? null;
    run[`top_onset/${corruption}`] = top?.onset ?? null;
    run[`top_head/${corruption}`] = top ? top.heads[0] ?? "none" : null;
    run[`judged/${corruption}`] = top?.judged ?? false;
  }
  const key = `top_head/${corruption}`;
  if (differing(key).length > 1) GROUPABLE.push([key, `top head, ${corruption}`]);
}
const isTop = (key) => /^top_/.test(key);

/** A row's top heads: in order for a run; for a group, each with the number of runs that have it. */
function topHeadsText(runs, key) {
  const there = runs.filter((run) => known(run[key])), judged = key.replace("top_heads", "judged");
  if (!there.length) return "";
  const unjudged = there.every((run) => !run[judged]) ? " (no verdict)" : "";
  const names = unique(there.flatMap((run) => run[key])), of = (name) => there.filter((run) => run[key].includes(name)).length;
  if (!names.length) return "none shown to matter";
  if (there.length < 2) return names.join(", ") + unjudged;
  return names.sort((a, b) => of(b) - of(a)).slice(0, MOST_TOP).map((name) => `${name} in ${of(name)}`).join(", ") + `${names.length > MOST_TOP ? ", …" : ""}${unjudged}`;
}

const topsNote = (columns) => (columns.some(({ kind }) => kind === KIND_OF_TOPS)
  ? `Circuits, by corruption: patched at ${headSiteName(TOPS_SITE)}. Top heads: at most ${MOST_TOP} that matter, largest first. Recovered: the run's largest head, whether shown to matter or not; none without a measurable gap. Onset: its top head.`
  : "");

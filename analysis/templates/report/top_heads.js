// Columns of the table of runs, from patching at each run's last checkpoint: its top heads, what the largest head recovers,
// and the onset of the top head. They work like other results: in the filter, for sorting and grouping rows, and as
// parallel coordinates.

const MOST_TOP_HEADS = 3;
/** The site of these columns: z if heads were patched there. */
const TOP_HEADS_SITE = headSites()[0] ?? null;
const TOP_HEADS_KIND = "Circuits at the last checkpoint";

/** A run's heads under one corruption, largest first: those that matter, if verdicts were computed. Null if not examined. */
function topHeadsOf(run, corruption) {
  const block = DATA.blocks.find((one) => one.run === run.index && one.corruption === corruption && one.sites[TOP_HEADS_SITE]);
  if (!block) return null;
  const part = block.sites[TOP_HEADS_SITE], layout = DATA.layouts[part.layout], steps = DATA.steps[part.steps], last = steps.length - 1;
  const family = FAMILIES.get(JSON.stringify([[run.index], corruption, block.patching, TOP_HEADS_SITE])) ?? null;
  const verdicts = lettersAt(family, steps[last], layout), values = valuesAt(part, last, TOP_HEADS_SITE, "recovered");
  const heads = cellNames(layout).map((name, i) => ({ name, value: values[i], verdict: verdicts?.[i] ?? null }))
    .filter(({ value, verdict }) => known(value) && verdict !== "x" && !block.gapless).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const top = heads.filter(({ verdict }) => verdict === "m");
  return {
    judged: Boolean(verdicts), heads: (verdicts ? top.slice(0, MOST_TOP_HEADS) : heads.slice(0, 1)).map(({ name }) => name),
    recovered: heads[0] ? Number(heads[0].value.toPrecision(5)) : null, onset: family?.courses[top[0]?.name]?.onset ?? null,
  };
}

const TOP_HEADS_COLUMNS = (TOP_HEADS_SITE ? corruptions() : []).flatMap((corruption) => [
  { key: `top_heads/${corruption}`, label: `top heads, ${corruption}`, kind: TOP_HEADS_KIND },
  { key: `top_recovered/${corruption}`, label: `recovered of largest head, ${corruption}`, kind: TOP_HEADS_KIND, result: true },
  { key: `top_onset/${corruption}`, label: `onset of top head, ${corruption}`, kind: TOP_HEADS_KIND, result: true },
]);

for (const corruption of TOP_HEADS_SITE ? corruptions() : []) {
  for (const run of RUNS) {
    const top = topHeadsOf(run, corruption);
    run[`top_heads/${corruption}`] = top?.heads ?? null;
    run[`top_recovered/${corruption}`] = top?.recovered ?? null;
    run[`top_onset/${corruption}`] = top?.onset ?? null;
    run[`top_head/${corruption}`] = top ? top.heads[0] ?? "none" : null;
    run[`judged/${corruption}`] = top?.judged ?? false;
  }
  const key = `top_head/${corruption}`;
  if (differing(key).length > 1) GROUPABLE.push([key, `top head, ${corruption}`]);
}
const isOfTopHeads = (key) => /^top_/.test(key);

/** A row's top heads: in order for a run; for a group, each with the number of runs that have it. */
function topHeadsText(runs, key) {
  const there = runs.filter((run) => known(run[key])), judged = key.replace("top_heads", "judged");
  if (!there.length) return "";
  const unjudged = there.every((run) => !run[judged]) ? " (no verdict)" : "";
  const names = unique(there.flatMap((run) => run[key])), of = (name) => there.filter((run) => run[key].includes(name)).length;
  if (!names.length) return "none shown to matter";
  if (there.length < 2) return names.join(", ") + unjudged;
  return names.sort((a, b) => of(b) - of(a)).slice(0, MOST_TOP_HEADS).map((name) => `${name} in ${of(name)}`).join(", ") + `${names.length > MOST_TOP_HEADS ? ", …" : ""}${unjudged}`;
}

const topHeadsNote = (columns) => (columns.some(({ kind }) => kind === TOP_HEADS_KIND)
  ? `Circuits, by corruption: patched at ${headSiteName(TOP_HEADS_SITE)}. Top heads: at most ${MOST_TOP_HEADS} that matter, largest first. Recovered: the run's largest head, whether shown to matter or not; none without a measurable gap. Onset: its top head.`
  : "");

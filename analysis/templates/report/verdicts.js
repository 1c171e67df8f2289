// Verdicts, intervals and sentences, all computed from the values of each prompt before the page was written
// (analysis/inference). The page draws no conclusions of its own.

/** Unpacks verdicts, whose repeated letters are counted, and intervals, which are stored as lower end and width. */
const unpacked = (word) => word.replace(/(\D)(\d+)/g, (_, letter, n) => letter.repeat(Number(n)));
for (const one of [...(DATA.families ?? []), ...(DATA.differences ?? []), ...(DATA.attribution ?? [])]) {
  for (const name of ["verdict", "here", "comparison"]) one[name] = one[name]?.map(unpacked) ?? null;
  if (typeof one.gap === "number") one.gap = DATA.gaps[one.gap];
  one.high = one.width?.map((widths, step) => widths.map((width, i) => (known(width) ? one.low[step][i] + width : null))) ?? null;
}

const keyed = (list, key) => new Map((list ?? []).map((one) => [JSON.stringify(key(one)), one]));
const FAMILIES = keyed(DATA.families, ({ runs, corruption, patching, site }) => [runs, corruption, patching, site]);
const DIFFERENCES = keyed(DATA.differences, ({ a, b, patching, site }) => [a.runs, a.corruption, b.runs, b.corruption, patching, site]);
const ATTRIBUTION = keyed(DATA.attribution, ({ runs, corruption, patching, kind }) => [runs, corruption, patching, kind]);

/** A unit's runs with results under a corruption, and their patching; null if they have several. */
function groupOf(unit, corruption, has) {
  const blocks = blocksOf(unit, corruption).filter(has);
  const patchings = unique(blocks.map((block) => block.patching));
  return patchings.length === 1 ? { runs: blocks.map((block) => block.run).sort((a, b) => a - b), patching: patchings[0] } : null;
}

/** The family of a unit's site; null without inference. */
function familyOf(unit, corruption, site) {
  return remember(["family", unit, corruption, site], () => {
    const group = groupOf(unit, corruption, (block) => block.sites[site]);
    return (group && FAMILIES.get(JSON.stringify([group.runs, corruption, group.patching, site]))) ?? null;
  });
}

/** One letter per cell of a layout at a step: m matters, s small, u undecided, x no gap. Null without inference. */
function lettersAt(family, at, layout, name = "verdict") {
  const index = family && sameLayout(DATA.layouts[family.layout], layout) ? DATA.steps[family.steps].indexOf(at) : -1;
  return index < 0 ? null : (family[name] ?? family.verdict)[index];
}

/** A list of a family or comparison at a step, in thousandths; without one, nulls. */
const thousandthsAt = (found, name, at) => found?.[name]?.[DATA.steps[found.steps].indexOf(at)]?.map((value) => (known(value) ? value / 1000 : null)) ?? null;

/** What inference found for cells at a step: whether there is a gap, the verdict, and recovered's interval. */
function verdictsOf(unit, corruption, site, at, layout) {
  const family = familyOf(unit, corruption, site);
  const verdict = lettersAt(family, at, layout), here = lettersAt(family, at, layout, "here");
  const [low, high] = verdict ? ["low", "high"].map((name) => thousandthsAt(family, name, at)) : [null, null];
  return (i) => ({ verdict: verdict?.[i] ?? null, here: here?.[i] ?? null, defined: verdict?.[i] !== "x", low: low?.[i] ?? null, high: high?.[i] ?? null });
}

/** Clean minus corrupted of a unit at a step, with its interval, in logits. */
function gapAt(unit, corruption, site, at) {
  return gapOf(familyOf(unit, corruption, site), at);
}

function gapOf(family, at) {
  const found = family?.gap[DATA.steps[family.steps].indexOf(at)];
  return found ? found.map((value) => (known(value) ? value * DATA.unit : null)) : null;
}

/** The interval of each component, or head, of a unit at a step, in logits. */
function attributionInterval(unit, corruption, kind) {
  const group = groupOf(unit, corruption, (block) => block[kind]);
  const found = group && ATTRIBUTION.get(JSON.stringify([group.runs, corruption, group.patching, kind]));
  return (at, i) => {
    const index = found ? DATA.steps[found.steps].indexOf(at) : -1;
    const [low, high] = ["low", "high"].map((name) => (index < 0 ? null : found[name][index][i]));
    return known(low) && known(high) ? { low: low * DATA.unit, high: high * DATA.unit } : { low: null, high: null };
  };
}

/** The comparison of two views: later minus earlier, B minus A. `sign` is -1 if it was computed the other way round. */
function comparisonOf(one, other, site) {
  const groups = [one, other].map(({ unit, corruption }) => groupOf(unit, corruption, (block) => block.sites[site]));
  if (groups.some((group) => !group) || groups[0].patching !== groups[1].patching) return null;
  const key = (a, b) => JSON.stringify([...[a, b].flatMap((i) => [groups[i].runs, [one, other][i].corruption]), groups[0].patching, site]);
  const found = DIFFERENCES.get(key(0, 1)), turned = DIFFERENCES.get(key(1, 0));
  return found ? { ...found, sign: 1 } : turned ? { ...turned, sign: -1 } : null;
}

/** Both ends of the interval of each cell's difference at a step, in the order of the views. */
function endsAt(comparison, at) {
  const [low, high] = ["low", "high"].map((name) => thousandthsAt(comparison, name, at));
  const turned = (values) => values?.map((value) => (known(value) ? -value : null));
  return comparison?.sign < 0 ? { low: turned(high), high: turned(low) } : { low, high };
}

const TURNED = { "+": "-", "-": "+" };
/** Signs of the cells of a layout: + the later view recovers more, - less, = alike, ? undecided, x not defined. */
function signsAt(comparison, at, layout) {
  const index = comparison && sameLayout(DATA.layouts[comparison.layout], layout) ? DATA.steps[comparison.steps].indexOf(at) : -1;
  if (index < 0) return null;
  return [...comparison.comparison[index]].map((sign) => (comparison.sign < 0 ? TURNED[sign] ?? sign : sign));
}

/** Symbols and words of verdicts and comparisons. Small, or alike, has no mark. */
const MARKS = {
  m: ["●", "matters", { symbol: "circle", size: 9 }],
  h: ["○", "matters in these runs, undecided for other seeds", { symbol: "circle-open", size: 9 }],
  u: ["•", "undecided", { symbol: "circle", size: 3.5 }],
  s: ["", "small"],
  x: ["×", "no measurable gap in at least one run", { symbol: "x", size: 6 }],
  "+": ["▲", "more", { symbol: "triangle-up", size: 9 }],
  "-": ["▼", "less", { symbol: "triangle-down", size: 9 }],
  "?": ["•", "undecided", { symbol: "circle", size: 3.5 }],
  "=": ["", "alike"],
};
/** A cell's mark: for other seeds too if decided, else for these runs. */
const markOf = ({ verdict, here }) => (verdict === "u" && here === "m" ? "h" : verdict);
const markText = (mark) => MARKS[mark]?.[1] ?? "";

/** The families of verdicts behind what is shown, at one site or at all. */
const familiesShown = (site = null) => views().flat().flatMap(({ unit, corruption }) =>
  unique(blocksOf(unit, corruption).flatMap((block) => Object.keys(block.sites))).filter((name) => site === null || name === site)
    .map((name) => familyOf(unit, corruption, name)).filter(known));
const scopesText = (families) => unique(families.map(({ scope }) => scope)).join("; or ");

/** Why there is no inference for a unit's site. */
function whyNoVerdicts({ unit, corruption }, site) {
  const blocks = blocksOf(unit, corruption).filter((block) => block.sites[site]);
  if (!blocks.length) return `${site} was not patched in ${unitName(unit)}.`;
  if (unique(blocks.map((block) => block.patching)).length > 1) return "there is no inference across several patchings; choose one.";
  if (RUNS.length > DATA.most_runs_concluded) {
    return `a page has no verdicts for more than ${DATA.most_runs_concluded} runs: name a smaller sweep, or see the table verdicts of \`mi-sweeps export\`.`;
  }
  if (RUNS.length > DATA.most_single_runs && unique(blocks.map((block) => block.run)).length === 1) {
    return `with more than ${DATA.most_single_runs} runs the page has no verdicts for single ones: choose the mean over their seeds, or see \`mi-sweeps show ${RUNS[blocks[0].run].run_id}\`.`;
  }
  return "there is no inference for this choice.";
}

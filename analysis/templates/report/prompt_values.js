// What patching a cell changes in single prompts, if the page has these values (analysis/prompt_values.py).

const PROMPT_VALUES = DATA.by_prompt ?? null;  // null if no table keeps prompts apart

const READERS = new Map();  // by packed text, which may be a megabyte and is asked for by cell

/** Reads rows of `n` numbers, each a unit and multiples of it; null for a prompt without a value. */
function reader(text, n, wide) {
  if (!READERS.has(text)) READERS.set(text, unpack(text, n, wide));
  return READERS.get(text);
}

function unpack(text, n, wide) {
  const signs = atob(text), bytes = new Uint8Array(signs.length), view = new DataView(bytes.buffer);
  for (let i = 0; i < signs.length; i++) bytes[i] = signs.charCodeAt(i);
  const size = wide ? 2 : 1, least = wide ? -32768 : -128, long = 4 + n * size;
  return (row) => {
    const from = row * long, unit = view.getFloat32(from, true);
    return Array.from({ length: n }, (_, i) => {
      const whole = wide ? view.getInt16(from + 4 + 2 * i, true) : view.getInt8(from + 4 + i);
      return whole === least ? null : whole * unit;
    });
  };
}

/** A view's patch jobs with values of single prompts, and the number of all its jobs. */
const promptValuesOf = ({ unit, corruption }) => remember(["singles", unit, corruption], () => {
  const blocks = blocksOf(unit, corruption);
  const jobs = (PROMPT_VALUES?.jobs ?? []).filter((job) => blocks.some(({ run, patching }) => run === job.run && job.corruption === corruption && patching === job.patching));
  return { jobs, of: blocks.length };
});

/** A patch job's prompts, each with a key that is the same in all runs. */
function promptsOf(job) {
  return remember(["single prompts", job.prompts], () => {
    const seen = new Map();
    return PROMPT_VALUES.prompts[job.prompts].map((number, i) => {
      const prompt = PROMPT_VALUES.texts[number], nth = (seen.get(prompt.clean) ?? 0) + 1;
      seen.set(prompt.clean, nth);
      return { ...prompt, number: i, key: `${prompt.clean} ${nth}` };
    });
  });
}

/** Clean and corrupted logit differences of a job's prompts at one of its checkpoints, by number. */
const endsOf = (job, index) => remember(["single ends", job.run, job.corruption, job.patching, index], () =>
  ["clean", "corrupted"].map((side) => reader(job[side], job.n, true)(index)));

/** Patched minus corrupted of a job's prompts at a cell; null if the page does not have it. */
function changesOf(job, site, layer, column, index) {
  return remember(["single changes", job.run, job.corruption, job.patching, site, layer, column, index], () => {
    const found = job.sites[site], place = found?.places.findIndex(([of, name]) => of === layer && name === column) ?? -1;
    return place < 0 ? null : reader(found.change, job.n, false)(place * job.steps.length + index);
  });
}

/** The last checkpoint up to `at` with values from all jobs. */
const stepWithValues = (jobs, at) => jobs[0]?.steps.findLast((step) => step <= at && jobs.every((job) => job.steps.includes(step)));

const EXPORT = "`mi-sweeps export DIR --by-prompt` writes them all, into the table by_prompt.";

/**
 * Each prompt's values at a cell, mean over a view's runs: its change in logits, its own gap, and its part of
 * recovered (its change over the run's mean gap), whose mean is recovered. Or why there are none.
 */
function promptValuesAt(view, site, layer, column, at) {
  const { jobs, of } = promptValuesOf(view), why = (text) => ({ why: `${text} ${EXPORT}` });
  if (site.endsWith(APPROXIMATE)) return { why: "These are estimates from a gradient; no table has them by prompt." };
  if (RUNS.length > DATA.most_runs_concluded) return why(`With more than ${DATA.most_runs_concluded} runs the page has no values of single prompts.`);
  if (!PROMPT_VALUES) return { why: "These tables were made by an earlier version, without values of single prompts; delete them and run again to get these." };
  const own = jobs.filter((job) => job.sites[site]?.places.some(([of, name]) => of === layer && name === column));
  if (!own.length) return why(PROMPT_VALUES.note || "This page has no values of single prompts for this cell.");
  const step = stepWithValues(own, at);
  if (!known(step)) return why(PROMPT_VALUES.note || "This page has no values of single prompts at this checkpoint.");
  const prompts = new Map();
  for (const job of own) {
    const index = job.steps.indexOf(step), [clean, corrupted] = endsOf(job, index), change = changesOf(job, site, layer, column, index);
    const there = change.map((value, i) => known(value) && known(clean[i]) && known(corrupted[i]));
    const gaps = clean.map((value, i) => value - corrupted[i]).filter((_, i) => there[i]);
    if (!gaps.length) continue;
    for (const prompt of promptsOf(job)) {
      const i = prompt.number;
      if (!there[i]) continue;
      const kept = prompts.get(prompt.key) ?? { prompt, values: [] };
      kept.values.push({ clean: clean[i], corrupted: corrupted[i], gap: clean[i] - corrupted[i], change: change[i], part: change[i] / mean(gaps) });
      prompts.set(prompt.key, kept);
    }
  }
  const over = (values, name) => mean(values.map((value) => value[name]));
  return {
    step, runs: own.length, of,
    list: [...prompts.values()].map(({ prompt, values }) => ({
      prompt, n: values.length, ...Object.fromEntries(["clean", "corrupted", "gap", "change", "part"].map((name) => [name, over(values, name)])),
    })),
  };
}

/** A prompt's words, differing ones marked: its tokens, or else the parts between blanks. */
function marked(prompt, side) {
  const words = (name) => prompt.tokens?.[name] ?? prompt[name].split(/(?<=\s)/);
  const own = words(side), other = words(side === "clean" ? "corrupted" : "clean");
  return own.map((word, i) => {
    const blank = /^\s*/.exec(word)[0], text = word.slice(blank.length).replaceAll("\n", "↵");
    // Some tokenizers' tokens lack their leading blanks; they are separated here.
    const before = blank || (prompt.tokens && i && !own.some((one) => one.startsWith(" ")) && /[\p{L}\p{N}]/u.test(text) ? " " : "");
    return own.length === other.length && word !== other[i] ? [before, h("mark", { class: "changed" }, text)] : [`${before}${text}`];
  }).flat();
}

// What was found, one row per setting: how well it learned, which heads carry what the corruptions change, and
// whether seeds and subjects agree. All of it comes from Python; a row links to its pictures.

/** The most heads that a row names under one corruption: those that recover most. */
const NAMED_HEADS = 4;

/** The settings of the runs that the filter selects, in the order of the runs: {setting, runs, all}. */
function settingsShown() {
  const started = RUNS.filter((run) => known(run.setting));
  const settings = unique(started.filter(accepts).map((run) => run.setting));
  return settings.map((setting) => {
    const all = started.filter((run) => run.setting === setting);
    return { setting, all, runs: eachRunOnce(all.filter(accepts)) };
  });
}

function drawSettings() {
  const rows = settingsShown(), there = corruptions(), site = headSites()[0];
  const several = rows.some(({ all }) => eachRunOnce(all).length > 1);
  const threshold = state.curves.thresholds[LEARNED], metric = sentence(LEARNED);
  const steps = rows.flatMap(({ runs }) => rateOf(runs).map(({ step }) => step)), span = { first: Math.min(...steps), last: Math.max(...steps) };
  const reasons = new Set();
  const columns = [
    ["setting", (row) => [row.setting === "all" ? "all runs" : row.setting, h("span", { class: "delta" }, runsText(row))]],
    [`held-out ${metric}`, (row) => sparkline(row, span)],
    ["at the end", endText],
    [`first at ${known(threshold) ? written(threshold) : "no threshold"}`, (row) => firstStepOfRuns(row.runs)],
    ...(site ? there.map((corruption) => [`heads, ${corruption} corruption`, (row) => carriersText(row, corruption, site, reasons)]) : []),
    ...(site && several ? [["seeds agree?", (row) => answerText("seeds", row)]] : []),
    ...(site && DATA.compared.every((name) => there.includes(name)) ? [["same heads under both?", (row) => answerText("subjects", row)]] : []),
  ];
  const body = rows.map((row) => h("tr", {}, columns.map(([name, of], i) => h(i ? "td" : "th", { scope: i ? null : "row", "data-name": name }, h("div", {}, of(row))))));
  $("findings-rows").replaceChildren(...(rows.length ? [
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "what was found, setting by setting" },
      h("table", { id: "settings-table" }, h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)))), h("tbody", {}, body))),
    h("p", { class: "quiet" }, [
      isOfPrompts(LEARNED)
        ? "Curves are from 0 to 1: the mean over runs. Bands and brackets are 95% intervals: for other prompts (Wilson's) and, of several runs, also for other seeds (Student's t over runs)."
        : "Curves are from 0 to 1: the mean over runs. Bands and brackets are 95% intervals over runs, on these prompts.",
      site ? `Heads: those that matter at the last checkpoint by patching ${site}, with recovered there and since when they matter.` : "",
      ...reasons].filter(Boolean).join(" ")),
  ] : [h("p", { class: "quiet" }, RUNS.length ? "The filter selects no run that has started." : "No runs yet.")]));
}

/** The number of runs, and how many diverged or are not done. */
function runsText({ runs, all }) {
  const of = eachRunOnce(all).length, diverged = runs.filter(({ status }) => status === "diverged").length;
  const other = runs.filter(({ status }) => !["done", "diverged"].includes(status)).length;
  const seeds = unique(runs.map(({ seed }) => seed).filter(known)).length === runs.length && runs.length > 1;
  return [
    `${runs.length < of ? `${runs.length} of ${count(of, "run")} (filtered)` : count(runs.length, seeds ? "seed" : "run")}`,
    diverged ? `${diverged} diverged` : "", other ? `${other} not done` : "",
  ].filter(Boolean).join(", ");
}

/** The metric at the last checkpoint that all runs without divergence have. */
function endOf(runs) {
  const own = sound(runs).filter(({ index }) => SERIES.get(`heldout/${LEARNED}`)?.has(index));
  return rateOf(own).findLast((point) => point.n === own.length && known(point.mean)) ?? null;
}

function endText({ runs }) {
  const end = endOf(runs), kept = sound(runs);
  if (!end) return "not measured";
  const n = kept.length > 1 ? count(end.n, "run") : `n ${end.prompts}`;
  const less = kept.length < runs.length ? `, without ${count(runs.length - kept.length, "run")} that diverged` : "";
  return [`${resultText(end.mean, true)}${rangeText(end, true)}`, h("span", { class: "delta" }, `${n}, checkpoint ${end.step}${less}`)];
}

/** The first checkpoint at the threshold, as in the table of runs. */
function firstStepOfRuns(runs) {
  const isEvaluated = known(state.curves.thresholds[LEARNED]) && runs.some((run) => known(run.win_rate) || SERIES.get(`heldout/${LEARNED}`)?.has(run.index));
  if (!isEvaluated) return "";
  const found = runs.map(firstStep).filter(known);
  if (!found.length) return "not reached";
  if (runs.length === 1) return `${found[0]}${missingBefore(runs[0], found[0])}`;
  const [low, high] = [Math.min(...found), Math.max(...found)];
  const range = low === high ? String(low) : `${low} to ${high}`;
  // Identical first checkpoints give no interval for other seeds.
  if (low === high && found.length === runs.length) return [range, h("span", { class: "delta" }, `all ${count(runs.length, "run")}`)];
  if (found.length < runs.length) return [range, h("span", { class: "delta" }, `${found.length} of ${runs.length} runs reach it`)];
  const middle = band(found);
  return [`${number(middle.mean)}${rangeText({ low: Math.max(0, middle.low), high: middle.high })}`, h("span", { class: "delta" }, `${range}, ${count(found.length, "run")}`)];
}

/** The heads that matter at the last checkpoint, how many are undecided, or why there are no verdicts. */
function carriersText({ setting, runs, all }, corruption, site, reasons) {
  const has = (block) => block.corruption === corruption && block.sites[site] && (state.circuits.patching ?? block.patching) === block.patching;
  const numbers = (of) => unique(DATA.blocks.filter((block) => has(block) && of.includes(RUNS[block.run])).map((block) => block.run)).sort((a, b) => a - b);
  const own = numbers(runs), patching = DATA.blocks.find((block) => has(block) && own.includes(block.run))?.patching;
  if (!own.length) return "not patched";
  const family = FAMILIES.get(JSON.stringify([own, corruption, patching, site]));
  if (!family) {
    const part = own.length < numbers(all).length && own.length > 1;
    reasons.add(part ? "Some of a setting's runs alone have no verdicts." : `No verdicts: ${whyNoVerdicts({ unit: unitOf(setting), corruption }, site)}`);
    return "no verdicts";
  }
  const letters = family.verdict.at(-1) ?? "", { steps, layout } = family, last = DATA.steps[steps].at(-1);
  const names = cellNames(DATA.layouts[layout]), of = (letter) => names.filter((_, i) => letters[i] === letter);
  const size = (name) => Math.abs(family.courses[name]?.recovered ?? 0);
  const carriers = of("m").sort((a, b) => size(b) - size(a)), unsure = of("u").length;
  const show = () => showPicture("heads-plot", { unit: unitOf(setting), other: null, left: corruption, right: corruption });
  const lines = carriers.slice(0, NAMED_HEADS).map((name) => h("li", {}, h("b", {}, name), ` ${fixed(family.courses[name].recovered, 2)}, ${courseText(family.courses[name])}`));
  const rest = [
    carriers.length > NAMED_HEADS ? `${carriers.length - NAMED_HEADS} more matter` : "",
    !carriers.length && [...letters].every((letter) => letter === "x" || letter === ".") ? `${markText("x")} at ${last}` : !carriers.length ? `none is shown to matter at ${last}` : "",
    unsure ? `${unsure} undecided` : "",
  ].filter(Boolean).join("; ");
  return [h("ul", { class: "carriers" }, lines), rest ? h("span", { class: "delta" }, rest) : null, h("button", { type: "button", "aria-label": `show the heads of ${setting}, ${corruption} corruption`, click: show }, "show")];
}

/** A setting's answer to a question, from the table of findings. */
function answerText(question, { setting, runs, all }) {
  if (question === "seeds" && eachRunOnce(all).length < 2) return "one run";
  if (runs.length < eachRunOnce(all).length) return "needs all its runs";
  const own = (DATA.answers ?? []).filter((one) => one.question === question && one.setting === setting && (state.circuits.patching ?? one.patching) === one.patching);
  const of = question === "subjects" ? own.filter(({ corruption }) => corruption.split(" ").sort().join() === "first,second") : own;
  if (!of.length) return "no answer";
  const alike = unique(of.map(({ answer }) => answer)).length === 1;
  const text = alike ? of[0].answer : of.map(({ corruption, answer }) => `${corruption}: ${answer}`).join("; ");
  const show = () => showPicture(question === "seeds" ? "heads-plot" : "z-plot", question === "seeds" ? { unit: unitOf(setting), other: null } : { unit: unitOf(setting), other: null, left: "first", right: "second" });
  return h("button", { type: "button", click: show }, text);
}

const SPARK = { width: 140, height: 40, pad: 3 };
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

/** The metric over checkpoints, from 0 to 1: mean, band, and each run. All settings share the steps. */
function sparkline({ setting, runs }, { first, last }) {
  const long = isLong(), place = (step) => (long ? Math.log10(step + 1) : step);
  const { width, height, pad } = SPARK, span = place(last) - place(first) || 1;
  const x = (step) => (pad + ((place(step) - place(first)) / span) * (width - 2 * pad)).toFixed(1), y = (value) => (height - pad - value * (height - 2 * pad)).toFixed(1);
  const path = (points) => {
    let pen = "M";
    return points.map(({ step, mean: value }) => {
      if (!known(value)) { pen = "M"; return ""; }
      const drawn = `${pen}${x(step)} ${y(value)}`;
      pen = "L";
      return drawn;
    }).join("");
  };
  const points = rateOf(runs), all = points.filter(({ mean: value }) => known(value));
  if (!all.length) return "not measured";
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  const edge = outline(points.map((point) => ({ ...point, ...(known(point.low) ? within(point, true) : {}) })), (step) => step);
  const areas = [[]];
  edge.x.forEach((step, i) => (known(step) ? areas.at(-1).push(`${x(step)},${y(edge.y[i])}`) : areas.push([])));
  for (const area of areas.filter(({ length }) => length)) picture.append(svg("polygon", { points: area.join(" "), class: "spread" }));
  const threshold = state.curves.thresholds[LEARNED];
  if (known(threshold)) picture.append(svg("line", { x1: pad, x2: width - pad, y1: y(threshold), y2: y(threshold), class: "goal" }));
  if (runs.length > 1) for (const run of runs) picture.append(svg("path", { d: path(rateOf([run])), class: "single" }));
  picture.append(svg("path", { d: path(points), class: "mean" }), svg("circle", { cx: x(all.at(-1).step), cy: y(all.at(-1).mean), r: 2 }));
  const show = () => showCurve(LEARNED, "heldout");
  const [from, to] = [all[0], all.at(-1)];
  return h("button", { type: "button", class: "spark", click: show, "aria-label": `curve of ${setting}: ${resultText(from.mean, true)} at checkpoint ${from.step}, ${resultText(to.mean, true)} at ${to.step}` }, picture);
}

/** Sets the view of heads, and scrolls to a picture. */
function showPicture(id, choice) {
  if (DATA.blocks.length) choose(Object.fromEntries(Object.entries(choice).filter(([key, value]) => key === "other" || known(value))));
  goToPicture($(id) ? id : "heads-plot");
}

/** Sets the metric of the curves, and scrolls to them. */
function showCurve(metric, split) {
  Object.assign(state.curves, { metric, split });
  drawCurvesControls();
  redraw("curves-pictures");
  saveView();
  goToPicture("curves-plot");
}

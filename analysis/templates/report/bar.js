// The bar that stays in sight: the runs and corruptions shown, the checkpoint, and the win rate there.

/** The choice, kept while the filter hides it: it returns when the filter is cleared. */
const chosen = { unit: null, other: null };

/** Units all of whose runs pass the filter: nothing was computed for a part of a group. */
function unitsLeft() {
  const left = ([unit]) => runsOf(unit).every(accepts);
  return Object.fromEntries(Object.entries(units()).map(([kind, of]) => [kind, of.filter(left)]).filter(([, of]) => of.length));
}

/** A setting's runs as a unit: their mean, or the only one examined. */
function unitOf(setting) {
  const all = Object.values(units()).flat().map(([unit]) => unit);
  const [run] = sound(DATA.blocks.map((block) => RUNS[block.run]).filter((one) => one.setting === setting));
  return all.find((unit) => unit === `setting:${setting}`) ?? (run ? `run_id:${run.run_id}` : null);
}

/** The first view: the setting with the best win rate at its end, preferably one in which no run diverged. */
function opening(offered) {
  const all = Object.values(offered).flat().map(([unit]) => unit);
  const rank = (unit) => {
    const runs = runsOf(unit), rates = runs.map(({ index }) => SERIES.get(`heldout/${LEARNED}`)?.get(index)?.value.at(-1)).filter(known);
    return [runs.some(({ status }) => status === "diverged") ? 0 : 1, runs.some(({ outcome }) => known(outcome)) ? 0 : 1, rates.length ? mean(rates) : -1];
  };
  const kind = Object.keys(offered)[0];
  const settings = unique(DATA.blocks.map((block) => RUNS[block.run].setting)).map(unitOf).filter((unit) => all.includes(unit));
  const from = settings.length ? settings : (offered[kind] ?? []).map(([unit]) => unit);
  const ranks = new Map(from.map((unit) => [unit, rank(unit)]));
  return [...from].sort((a, b) => byValues(ranks.get(b), ranks.get(a)))[0] ?? null;
}

function drawBar() {
  const { circuits } = state, there = corruptions(), left = unitsLeft(), all = Object.values(left).flat().map(([unit]) => unit);
  const none = !all.length;  // the filter hides everything examined: the view stays, with a note
  const choices = none ? units() : left;
  const wanted = (unit) => (none || all.includes(unit) ? unit : null);
  circuits.unit = wanted(chosen.unit) ?? opening(choices);
  circuits.other = wanted(chosen.other);
  const offered = Object.fromEntries(Object.entries(choices).filter(([, of]) => of.length));
  const alone = Object.values(offered).flat().length < 2;
  const corruption = (key) => (name) => choose({ [key]: name });
  const names = there.map((name) => [name, name]);
  const labelled = (words, label, secondary) => {
    label.firstChild.replaceWith(h("span", { class: "words" }, words));
    if (secondary) label.classList.add("second");
    return label;
  };
  $("bar").hidden = false;
  replaceControls($("bar-view"),
    labelled("Run or setting", select("", offered, circuits.unit, (unit) => choose({ unit }))),
    alone ? null : labelled("Compare with", select("", { "": [["", "nothing"]], ...offered }, circuits.other ?? "", (other) => choose({ other: other || null })), true),
    labelled("Corruption", select("", names, circuits.left, corruption("left"))),
    there.length > 1 ? labelled("against", select("", names.map(([name]) => [name, name === circuits.left ? "nothing" : name]), circuits.right, corruption("right")), true) : null,
    alone && there.length < 2 ? null : h("button", {
      type: "button", id: "bar-more", "aria-label": "compare", "aria-expanded": String($("bar-view").classList.contains("open")),
      click: (event) => event.target.setAttribute("aria-expanded", String($("bar-view").classList.toggle("open"))),
    }, "⋯"));
}

/** Changes unit, other, left or right for all pictures of heads. */
function choose(choice) {
  for (const key of ["unit", "other"]) if (key in choice) chosen[key] = choice[key];
  for (const key of ["left", "right"]) if (key in choice) state.circuits[key] = choice[key];
  circuitsChanged();
}

/** After a change of the filter. */
function filterUnits() {
  if (!DATA.blocks.length) return;
  const before = JSON.stringify(shownUnits());
  drawBar();
  if (JSON.stringify(shownUnits()) !== before) {
    drawCircuitsControls();
    redraw(...CIRCUITS);
  } else drawRates();
}

/** The win rates of the runs shown at the slider's checkpoint, and the number of runs that pass the filter. */
function drawRates() {
  const at = step(), name = sentence(LEARNED);
  const parts = shownUnits().map((unit, i) => {
    const runs = runsOf(unit), letter = shownUnits().length > 1 ? `${"AB"[i]}: ` : "";
    const point = rateOf(runs).find((one) => one.step === at);
    if (!known(point?.mean)) return `${letter}no ${name} at this checkpoint`;
    const of = runs.length > 1 ? `${point.n === runs.length ? "" : `${point.n} of `}${count(runs.length, "run")}` : `n ${count(point.prompts, LEARNED === "accuracy" ? "position" : "prompt")}`;
    return `${letter}held-out ${name} ${resultText(point.mean, true)}${rangeText(point, true)}, ${of}`;
  });
  const visible = visibleRuns().length, shown = DATA.blocks.some((block) => accepts(RUNS[block.run]));
  $("bar-text").replaceChildren(parts.join(" · "), ...(visible === RUNS.length ? [] : [" · ", h("button", { type: "button", click: () => $("filter").focus() },
    `filter: ${visible} of ${RUNS.length} runs${shown ? "" : ", none of them examined: the heads are those of hidden runs"}`)]));
}

/** The task's metric over the checkpoints of some runs: [{step, mean, low, high, n, prompts}]. */
function rateOf(runs) {
  return remember(["rate", runs.map(({ index }) => index), state.interval], () => {
    const series = SERIES.get(`heldout/${LEARNED}`);
    const curves = runs.filter(({ index }) => series?.has(index)).map((run) => {
      const one = series.get(run.index);
      return { run, steps: DATA.steps[one.steps], values: one.value, n: one.n, metric: LEARNED };
    });
    const [{ n, steps } = {}] = curves;
    return pointsOf(curves, true, true).map((point) => ({ ...point, prompts: Array.isArray(n) ? n[steps.indexOf(point.step)] : n }));
  });
}

// Links and focus never end up behind the bar.
new ResizeObserver(([{ target }]) => document.documentElement.style.setProperty("--bar", `${target.offsetHeight}px`)).observe($("bar"));

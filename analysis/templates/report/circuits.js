// A unit is one run ("run_id:ID"), a setting ("setting:lr 0.0001"), the runs that share a value ("lr:0.0001") or all examined
// runs ("all:"). Units of several runs show means.

const CIRCUITS = ["heads-pictures", "attention-pictures", "attribution-pictures", "measures-pictures", "patching-pictures", "scatter-pictures", "place-pictures", "prompts-pictures"];

/** Caches what does not depend on the slider. */
const remembered = new Map();
function remember(key, make) {
  const name = JSON.stringify([key, state.circuits.patching]);
  if (!remembered.has(name)) remembered.set(name, make());
  return remembered.get(name);
}

function blocksOf(unit, corruption = null) {
  const { patching } = state.circuits;
  return remember(["blocks", unit, corruption], () => {
    const [kind, name] = [unit.slice(0, unit.indexOf(":")), unit.slice(unit.indexOf(":") + 1)];
    const has = (run) => kind === "all" || String(run[kind]) === name;
    const counted = new Set(sound(unique(DATA.blocks.map((block) => RUNS[block.run])).filter(has)));
    return DATA.blocks.filter((block) =>
      counted.has(RUNS[block.run]) &&
      (corruption === null || block.corruption === corruption) &&
      (patching === null || block.patching === patching));
  });
}

const corruptions = () => Object.keys(DATA.corruptions).filter((name) => DATA.blocks.some((block) => block.corruption === name));
const runsOf = (...units) => unique(units.flatMap((unit) => blocksOf(unit)).map((block) => RUNS[block.run]));

/** Units by kind, each with its label; for several runs also a label that does not mention the mean. */
function units() {
  const runs = unique(DATA.blocks.map((block) => block.run)).sort((a, b) => a - b).map((index) => RUNS[index]);
  const settings = unique(runs.map((run) => run.setting));
  const groups = (key) => unique(runs.map((run) => run[key])).filter(known).map((value) => [value, runs.filter((run) => run[key] === value)]).filter(([, of]) => sound(of).length > 1);
  const named = (name, of) => ["mean of ", ""].map((what) => `${name}: ${what}${sound(of).length} runs${leftOutText(of)}`);
  const shared = SETTINGS.flatMap(([key, label]) => {
    const values = groups(key);
    return values.length > 1 && values.length < settings.length ? values.map(([value, of]) => [`${key}:${value}`, ...named(`${label} ${written(value)}`, of)]) : [];
  });
  return {
    "Mean over seeds": groups("setting").map(([setting, of]) => [`setting:${setting}`, ...named(setting === "all" ? "all seeds" : setting, of)]),
    "Mean over more than seeds": settings.length > 1 ? [...shared, ["all:", ...named("all settings", runs)]] : [],
    "One run": runs.map((run) => [`run_id:${run.run_id}`, [run.setting, seedText(run), run.run_id].filter(Boolean).join(", ")]),
  };
}

const unitName = (unit, over = "mean") => remember(["name", unit, over], () => {
  const [, words, bare] = Object.values(units()).flat().find(([name]) => name === unit) ?? [];
  return (over === "spread" ? bare : null) ?? words ?? "";
});
const several = (unit) => runsOf(unit).length > 1;

/** The one or two units shown. */
const shownUnits = () => [state.circuits.unit, state.circuits.other].filter(known);
const shownCorruptions = () => unique([state.circuits.left, state.circuits.right]);

/** A unit and a corruption for each panel, row by row. */
function views() {
  const units = shownUnits(), of = shownCorruptions();
  if (units.length < 2) return [of.map((corruption) => ({ unit: units[0], corruption, name: `${corruption} corruption` }))];
  return of.map((corruption) => units.map((unit, i) => ({ unit, corruption, name: `${"AB"[i]}, ${corruption} corruption` })));
}

/** The shown units, for titles. */
function whose(over = "mean") {
  const [one, other] = shownUnits().map((unit) => unitName(unit, over));
  return known(other) ? `A: ${one}; B: ${other}` : one;
}

/** Steps examined in any of the shown units. */
function shownSteps() {
  return remember(["steps", shownUnits()], () => {
    const parts = shownUnits().flatMap((unit) => blocksOf(unit)).flatMap((block) => [...Object.values(block.sites), block.lens, block.layer, block.head]);
    return unique(parts.filter(known).flatMap((part) => DATA.steps[part.steps])).sort((a, b) => a - b);
  });
}

function step() {
  const steps = shownSteps();
  if (steps.length) state.circuits.at = Math.min(state.circuits.at, steps.length - 1);
  return steps[state.circuits.at];
}

const QUANTITIES = { recovered: "recovered", change: "logit difference change" };
const OVER = { mean: "mean", spread: "spread (standard deviation)" };

function drawCircuitsControls() {
  const circuits = state.circuits;
  const there = corruptions();
  if (!there.length) {
    $("circuits-controls").replaceChildren(h("p", { class: "quiet" }, "No checkpoint has been examined yet."));
    for (const after of document.querySelectorAll("#circuits-controls ~ *")) after.hidden = true;
    return;
  }
  const patchings = unique(DATA.blocks.map((block) => block.patching));
  circuits.patching ??= patchings.length > 1 ? patchings[0] : null;
  circuits.left ??= there[0];
  circuits.right ??= there[1] ?? there[0];
  drawBar();
  const change = (key) => (value) => { circuits[key] = value || null; circuitsChanged(); };
  replaceControls($("circuits-controls"),
    select("Value", Object.entries(QUANTITIES), circuits.quantity, change("quantity")),
    shownUnits().some(several) ? select("Over runs", Object.entries(OVER), circuits.over, change("over")) : null,  // one run has no spread
    select("Colours", Object.entries(SCALES), circuits.scale, change("scale")),
    patchings.length > 1 ? select("Patching", patchings.map((name) => [name, name ?? "unnamed"]), circuits.patching, (name) => { change("patching")(name); drawSettings(); }) : null,
  );
  drawPrompts();
  drawPlayer();
  drawFound();
  drawAttention();
  drawPromptView();
  drawPlace();
}

function circuitsChanged() {
  drawCircuitsControls();
  redraw(...CIRCUITS);
  saveView();
}

function showCircuits(unit) {
  choose({ unit, other: null });
  $("circuits").scrollIntoView();
  $("circuits").focus({ preventScroll: true });
}

function drawPrompts() {
  const lists = shownCorruptions().map((corruption) => [corruption, blocksOf(state.circuits.unit, corruption)[0]]).filter(([, block]) => block);
  $("circuits-prompts").replaceChildren(
    h("summary", {}, "Prompts"),
    ...lists.map(([corruption, block]) => [
      h("p", { class: "quiet" }, promptsCounted(corruption, block)),
      h("ul", {}, DATA.prompts[block.prompts].map((prompt) =>
        h("li", {}, prompt.clean, h("span", { class: "quiet" }, " → "), h("b", {}, prompt.answer),
          h("br"), h("span", { class: "quiet" }, `corrupted: ${prompt.corrupted}`)))),
    ]).flat());
  const recovered = state.circuits.quantity === "recovered";
  const estimates = DATA.blocks.some((block) => Object.entries(block.sites).some(([site, of]) => of.r || site.endsWith(APPROXIMATE)));
  $("patching-legend").textContent = (recovered
    ? "recovered = (patched − corrupted) / (clean − corrupted), each a mean over prompts; 0: no change, 1: the clean logit " +
      "difference. It is undefined where the gap (clean − corrupted) may be zero. Means over runs are means of each run's recovered."
    : "logit difference change = patched − corrupted, in logits, a mean over prompts.")
    + ` More than ${DATA.delta} of the gap, either way, matters; less is small. Verdicts are on recovered.`
    + (estimates ? " Approximate: patched is estimated from a gradient (attribution patching); r: Pearson correlation with exact patching over a site's places." : "");
}

/** The number of prompts; introduces those quoted below. */
function promptsCounted(corruption, { n, prompts }) {
  const quoted = DATA.prompts[prompts].length;
  return `${corruption} corruption, ${count(n, "prompt")}${!quoted ? "." : quoted < n ? `; the first ${quoted === 1 ? "one" : quoted}:` : ":"}`;
}

/** Sites by picture: those of heads side by side, others alone. */
function siteGroups(sites) {
  const groups = [["z", "v", "pattern"], ["q", "k"], ...Object.keys(SITES).map((site) => [site])];
  const all = [...groups, ...groups.map((group) => group.map((site) => site + APPROXIMATE)), ...sites.map((site) => [site])], seen = new Set();
  return all.map((group) => group.filter((site) => sites.includes(site) && !seen.has(site) && seen.add(site))).filter((group) => group.length);
}

/** Adds the pictures for which there are data. */
function addCircuitsPictures() {
  if (!DATA.blocks.length) return;
  const lines = ({ layout }) => checkpointLines(layout.shapes.length);
  const attribution = (id, draw, shapes) => addPicture($("attribution-pictures"), id, draw, shapes);
  const heatmaps = (host, sites) => addPicture($(host), `${sites[0].replace(APPROXIMATE, "-approximate")}-plot`, ({ plot }) => drawHeatmap(sites, plot.clientWidth));
  const hasPart = (kind, word) => DATA.blocks.some((block) => block[kind]?.components.some((name) => name.startsWith(word)));
  if (headSites().length) addPicture($("heads-pictures"), "heads-plot", drawTopHeads, lines);
  if (ATTENTION) addPicture($("attention-pictures"), "attention-plot", drawPattern);
  if (ATTENTION?.looks.length || ATTENTION?.looks_note) addPicture($("attention-pictures"), "looks-plot", drawLooks, lines);
  if (hasPart("lens", "")) {
    attribution("lens-plot", drawLens);
    attribution("lens-lines-plot", () => drawComponentLines("lens", "", "Logit lens"), lines);
  }
  if (hasPart("layer", "")) attribution("layer-plot", drawLayers);
  if (hasPart("layer", "attn")) attribution("attn-lines-plot", () => drawComponentLines("layer", "attn", "Logit difference from each layer's attention"), lines);
  if (hasPart("layer", "mlp")) attribution("mlp-lines-plot", () => drawComponentLines("layer", "mlp", "Logit difference from each layer's MLP"), lines);
  if (DATA.blocks.some((block) => block.head)) heatmaps("attribution-pictures", ["head"]);
  $("attribution-title").hidden = !$("attribution-pictures").children.length;
  for (const key of measuresThere()) {
    const name = key.slice("measure:".length), [title, value] = MEASURES[name] ?? [sentence(name), sentence(name)];
    addPicture($("measures-pictures"), `${name}-plot`, () => drawComponentLines(key, "", title, value), lines);
  }
  $("measures-title").hidden = !$("measures-pictures").children.length;
  const sites = unique(DATA.blocks.flatMap((block) => Object.keys(block.sites)));
  for (const group of siteGroups(sites)) heatmaps("patching-pictures", group);
  $("patching-title").hidden = $("patching-legend").hidden = !sites.length;
  const has = (name) => sites.includes(name) || sites.includes(name + APPROXIMATE);
  for (const across of ["v", "pattern"]) {
    if (has("z") && has(across)) addPicture($("scatter-pictures"), `z-${across}-plot`, ({ plot }) => drawScatter("z", across, plot.clientWidth));
  }
  addPromptPictures();
  addPlace();
  $("scatter-title").hidden = !$("scatter-pictures").children.length;
}

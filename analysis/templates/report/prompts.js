// One prompt: its tokens and answer, its logit differences over checkpoints, and the heads that carry it. The choice of prompt
// is shared with the section on where heads look.

const PROMPT_HEADS = 6;

/** The prompts of the first view that has any. */
function promptsShown() {
  const job = placeViews().flatMap((view) => promptValuesOf(view).jobs)[0];
  return job ? promptsOf(job) : [];
}

/** The site of heads chosen above, if it has single prompts, else the first that does. */
function promptSite() {
  const has = (site) => placeViews().some((view) => promptValuesOf(view).jobs.some((job) => job.sites[site]));
  return [state.heads.site, ...headSites()].filter(known).find(has) ?? null;
}

function choosePrompt(number) {
  state.attention.prompt = number;
  drawPromptView();
  drawAttention();
  followPlace();
  redraw("attention-pictures", "prompts-pictures", "place-pictures");
  saveView();
}

/** Goes from a cell to one of its prompts. */
function showPrompt(number) {
  $("place").close();
  choosePrompt(number);
  $("prompts").scrollIntoView();
  $("prompts-controls").querySelector("select")?.focus({ preventScroll: true });
}

function drawPromptView() {
  const prompts = DATA.blocks.length ? promptsShown() : [];
  $("prompts").hidden = !prompts.length;
  if (!prompts.length) return;
  const chosen = prompts[state.attention.prompt] ?? prompts[0], at = chosen.number;
  const turn = (by, text) => h("button", { type: "button", disabled: !prompts[at + by], click: () => choosePrompt(at + by) }, text);
  replaceControls($("prompts-controls"),
    select("Prompt", prompts.map(({ number, clean }) => [String(number), `${number + 1}: ${clean}`]), String(at), (value) => choosePrompt(Number(value))),
    turn(-1, "Previous"), turn(1, "Next"));
  const line = (name, ...of) => [h("dt", {}, name), h("dd", {}, ...of)];
  const corrupted = unique(placeViews().map(({ corruption }) => corruption)).map((corruption) => [corruption, placeViews().filter((view) => view.corruption === corruption).flatMap((view) => promptValuesOf(view).jobs)[0]])
    .filter(([, job]) => job).map(([corruption, job]) => [corruption, promptsOf(job)[at]]).filter(([, prompt]) => prompt);
  const aside = corrupted[0]?.[1] ?? chosen;
  $("prompts-text").replaceChildren(
    ...line("clean", ...marked(aside, "clean")), ...line("answer", h("b", {}, chosen.answer)),
    ...corrupted.flatMap(([corruption, prompt]) => line(`${corruption} corruption`, ...marked(prompt, "corrupted"))));
  followPrompt();
}

/** A prompt over a view's checkpoints: logit differences, or the change by patching a head; means over its runs. */
function promptCurve(view, key, valuesOf) {
  const own = promptValuesOf(view).jobs.map((job) => [job, promptsOf(job).findIndex((prompt) => prompt.key === key)]).filter(([, i]) => i >= 0);
  const steps = unique(own.flatMap(([job]) => job.steps)).filter((at) => shownSteps().includes(at)).sort((a, b) => a - b);
  const points = steps.map((at) => {
    const values = own.filter(([job]) => job.steps.includes(at)).map(([job, i]) => valuesOf(job, job.steps.indexOf(at))?.[i]).filter(known);
    return { step: at, ...spread(values) };
  });
  return broken(points.filter((point) => known(point.mean)), missingSteps(runsOf(view.unit)));
}

/** The heads whose patching changes a prompt most, among those on the page. */
function promptHeads(view, key, site) {
  const { jobs } = promptValuesOf(view), places = jobs.find((job) => job.sites[site])?.sites[site].places ?? [];
  const curves = places.map(([layer, head]) => ({ name: `${layer}.${head}`, layer, head, points: promptCurve(view, key, (job, index) => changesOf(job, site, layer, head, index)) }));
  const most = ({ points }) => Math.max(0, ...points.map((point) => Math.abs(point.mean ?? 0)));
  return curves.filter(({ points }) => points.length).sort((a, b) => most(b) - most(a));
}

/** The chosen prompt's key: runs and corruptions may number prompts differently. */
const chosenKey = () => promptsShown()[state.attention.prompt]?.key ?? null;

/** The table of heads, which follows the slider. */
function followPrompt() {
  const site = $("prompts").hidden ? null : promptSite(), key = chosenKey();
  if (!site) return void $("prompts-heads").replaceChildren();
  $("prompts-heads").replaceChildren(...placeViews().map((view) => {
    const rows = promptHeads(view, key, site).map((head) => {
      const found = promptValuesAt(view, site, head.layer, head.head, step()), own = found.list?.find(({ prompt }) => prompt.key === key);
      return own && { ...head, own, cell: placeCell(view, { site, layer: head.layer, column: head.head }, step()) };
    }).filter(Boolean).sort((a, b) => Math.abs(b.own.change) - Math.abs(a.own.change)).slice(0, PROMPT_HEADS);
    if (!rows.length) return null;
    const share = ({ change, gap }) => (Math.abs(gap) < LEAST_GAP ? "gap near 0" : fixed(change / gap, 2));
    return tableOf(`heads on this prompt, ${view.name}`, [h("b", {}, view.name), ` at checkpoint ${step()}: heads that change most in this prompt, by patching ${headSiteName(site)}`],
      ["head", "change (logits)", "of its own gap", "all prompts: recovered", "verdict"],
      rows.map(({ name, layer, head, own, cell }) => [h("button", { type: "button", class: "inline", click: () => openPlace(site, layer, head) }, name), fixed(own.change, 2), share(own), known(cell?.mean) ? fixed(cell.mean) + endsText(cell.low, cell.high) : "none", cell?.verdict ? markText(markOf(cell)) : ""]),
      "");
  }).filter(known));
}

function drawPromptEnds() {
  const number = state.attention.prompt, title = `Logit difference of prompt ${number + 1} over checkpoints, ${whose()}`;
  const rows = views().map((row) => row.map((view) => ({ ...view, curves: ["clean", "corrupted"].map((name, side) => ({ name, points: promptCurve(view, chosenKey(), (job, index) => endsOf(job, index)[side]) })) })).filter(({ curves }) => curves[0].points.length));
  return promptPicture(title, rows, "logit difference", "prompt", `one prompt alone: the answer against the replaced subject`);
}

function drawPromptHeads() {
  const number = state.attention.prompt, site = promptSite();
  const title = `What patching ${site ? headSiteName(site) : "heads"} changes in prompt ${number + 1}, ${whose()}`;
  if (!site) return { title, note: PROMPT_VALUES?.note || "this page has no values of single prompts for heads" };
  const all = views().map((row) => row.map((view) => ({ ...view, curves: promptHeads(view, chosenKey(), site) })).filter(({ curves }) => curves.length));
  const most = (name) => Math.max(...all.flat().flatMap(({ curves }) => curves.filter((one) => one.name === name).flatMap(({ points }) => points.map((point) => Math.abs(point.mean ?? 0)))));
  const names = unique(all.flat().flatMap(({ curves }) => curves.map(({ name }) => name))).sort((a, b) => most(b) - most(a)), kept = names.slice(0, PROMPT_HEADS).sort(compare);
  const rows = all.map((row) => row.map((view) => ({ ...view, curves: kept.map((name) => view.curves.find((one) => one.name === name)).filter(known) })));
  const which = names.length > kept.length ? `the ${kept.length} largest of the ${names.length} heads with values of single prompts on this page` : "";
  return promptPicture(title, rows, "change (logits)", "head", [which, PROMPT_VALUES.note.replace(/\.$/, "")].filter(Boolean).join(" · "));
}

/** Panels of lines without bands: one prompt has no interval. */
function promptPicture(title, rows, value, what, extra) {
  const shown = rows.flat(), names = unique(shown.flatMap(({ curves }) => curves.map(({ name }) => name)));
  if (!names.length) return { title, note: "not on this page" };
  const range = rangeOf(shown.flatMap(({ curves }) => curves.flatMap(({ points }) => points.map((point) => point.mean).filter(known))));
  const { panels, inner } = arrange(rows, 230, 85), { margin, height } = frame(inner, { l: 50, right: 130 });
  const layout = { margin, annotations: [], shapes: checkpointLines(panels.length), showlegend: true, legend: narrow.matches ? { orientation: "h", y: -60 / inner, yanchor: "top" } : {} };
  const traces = panels.flatMap((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b>`, place));
    layout[`xaxis${suffix(i)}`] = stepScale().axis(place.last, { domain: place.x, anchor: yaxis });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? value : "", { domain: place.y, anchor: xaxis, range });
    return panel.curves.map(({ name, points }) => ({
      type: "scatter", mode: "lines+markers", xaxis, yaxis, name: plain(name), legendgroup: name, showlegend: panel === shown.find(({ curves }) => curves.some((one) => one.name === name)),
      x: points.map((point) => stepScale().x(point.step)), y: points.map((point) => point.mean), line: { color: GROUPS[names.indexOf(name) % GROUPS.length], width: 2 }, marker: { size: 4 },
      customdata: points.map((point) => [point.step, pointText(point)]), hovertemplate: `${what} ${plain(name)}, checkpoint %{customdata[0]}<br>%{y:.2f}%{customdata[1]}<extra></extra>`,
    }));
  });
  return {
    title, traces, layout, height: height + (narrow.matches ? 30 : 0), runs: runsOf(...shownUnits()), note: [extra, "dotted: the slider's checkpoint"].filter(Boolean).join(" · "),
    alt: shown.map(({ name, curves }) => `${name}, last checkpoint: ${curves.map((one) => `${one.name} ${fixed(one.points.at(-1).mean ?? 0, 2)}`).join(", ")}`).join("; "),
    table: () => pointsTable(shown, what, ({ curves }) => curves),
  };
}

function addPromptPictures() {
  if (!PROMPT_VALUES) return;
  const lines = ({ layout }) => checkpointLines(layout.shapes.length);
  addPicture($("prompts-pictures"), "prompt-ends-plot", drawPromptEnds, lines);
  if (headSites().length) addPicture($("prompts-pictures"), "prompt-heads-plot", drawPromptHeads, lines);
}

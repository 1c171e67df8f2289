// Where heads look: attention patterns of single prompts in one run. All heads side by side, one of them large, and the
// prompt's tokens: pointing at one shows where it looks and what looks at it.

const ATTENTION = DATA.attention ?? null;  // null where no patch job kept patterns
const NAMED_TOKENS = 3;

/** The patch jobs with patterns among those shown. */
function attentionJobs() {
  return remember(["attention", shownUnits(), shownCorruptions()], () => {
    const blocks = shownUnits().flatMap((unit) => shownCorruptions().flatMap((corruption) => blocksOf(unit, corruption)));
    return ATTENTION.jobs.filter((job) => blocks.some(({ run, corruption, patching }) => run === job.run && corruption === job.corruption && patching === job.patching));
  });
}

const jobKey = ({ run, corruption }) => `${RUNS[run].run_id} ${corruption}`;

/** The choice, as far as it exists: a patch job, one of its prompts, one of its heads; null without a job. */
function attention() {
  const jobs = attentionJobs(), { job: key, prompt, head } = state.attention;
  const job = jobs.find((one) => jobKey(one) === key) ?? jobs[0];
  if (!job) return null;
  const number = Math.max(0, job.prompts.findIndex((one) => one.number === prompt)), at = step();
  // Without a pattern of the slider's checkpoint the page shows the one before, and says so.
  const index = job.steps.findLastIndex((one) => one <= at);
  return {
    job, jobs, number, prompt: job.prompts[number], index, at: job.steps[index] ?? null, head: job.heads.includes(head) ? head : mostLooked(job),
    tokens: (side) => ATTENTION.tokens[job.prompts[number][side]],
  };
}

/** The head that recovers most at the last checkpoint, among those with patterns. */
function mostLooked(job) {
  const { unit, family, site } = judgedOf(job), last = family && siteCells(unit, job.corruption, site, DATA.steps[family.steps].at(-1), "recovered");
  if (!last) return job.heads[0];
  const names = cellNames(last.layout), size = (head) => Math.abs(last.cells[names.indexOf(head)]?.mean ?? 0);
  return job.heads.reduce((best, head) => (size(head) > size(best) ? head : best));
}

/** The family with verdicts on its heads; heads may share keys and values. */
function judgedOf(job) {
  const unit = shownUnits().find((one) => blocksOf(one, job.corruption).some(({ run }) => run === job.run));
  for (const site of ["z", "pattern", "q"]) {
    const family = familyOf(unit, job.corruption, site);
    if (family) return { unit, family, site };
  }
  return { unit, family: null, site: null };
}

/** The bytes of all heads on one side of a prompt, at a checkpoint that the page has. */
const patternBytes = (number) => remember(["pattern", number], () => Uint8Array.from(atob(ATTENTION.patterns[number]), (sign) => sign.charCodeAt(0)));

/** Attention of a head: `of(row, column)`, from a token to itself or an earlier one. */
function patternOf({ job, number, index, tokens }, side, head) {
  const size = tokens(side).length, cells = (size * (size + 1)) / 2;
  const bytes = patternBytes(job[side][number][index]), from = job.heads.indexOf(head) * cells;
  return { size, of: (row, column) => bytes[from + (row * (row + 1)) / 2 + column] / 255 };
}

const ATTENTION_SIDES = ["clean", "corrupted"];
/** A token in a line of text; one without visible characters gets a sign. */
const tokenText = (token) => token.trim() || (token.includes("\n") ? "↵" : "␣");
const tokenNamed = (tokens, i) => `“${tokenText(tokens[i])}” (${i})`;

function drawAttention() {
  $("circuits-attention").hidden = !ATTENTION;
  if (!ATTENTION) return;
  const shown = attention();
  for (const id of ["attention-heads", "attention-tokens", "attention-text", "attention-pictures", "attention-legend"]) $(id).hidden = !shown;
  if (!shown) {
    $("attention-controls").replaceChildren(h("p", { class: "quiet" }, (!ATTENTION.jobs.length && ATTENTION.note) || "No patterns were kept for these runs and corruptions."));
    return;
  }
  const { job, jobs, prompt, number } = shown, { side } = state.attention;
  const change = (key) => (value) => { state.attention[key] = value; drawAttention(); redraw("attention-pictures"); saveView(); };
  const option = (one) => [String(one.number), `${one.number + 1}: ${one.text}`];
  const looks = looksOf(shown);
  replaceControls($("attention-controls"),
    jobs.length > 1 ? select("Patterns of", jobs.map((one) => [jobKey(one), `${one.corruption} corruption, ${[seedText(RUNS[one.run]), RUNS[one.run].run_id].filter(Boolean).join(", ")}`]), jobKey(job), change("job")) : null,
    job.prompts.length > 1 ? select("Prompt", job.prompts.map(option), String(prompt.number), (value) => choosePrompt(Number(value))) : null,
    select("Small pictures", ATTENTION_SIDES.map((name) => [name, `${name} prompt`]), side, change("side")),
    looks && queriesOf(looks).length > 1 ? select("Curves from", queriesOf(looks).map((name) => [name, name]), queryOf(looks), change("query")) : null,
  );
  $("attention-heads").replaceChildren(...job.heads.map((head) => h("button", { type: "button", "data-head": head, click: () => chooseHead(head) }, h("canvas", { "aria-hidden": "true" }), h("span"))));
  $("attention-tokens").replaceChildren(...ATTENTION_SIDES.flatMap((name) => [
    h("p", { class: "quiet", id: `attention-${name}` }, `${name} prompt`),
    h("div", { class: "tokens", role: "listbox", "aria-labelledby": `attention-${name}`, "aria-orientation": "horizontal", "data-side": name, mouseleave: () => describeToken(null) },
      shown.tokens(name).map((token, i) => h("span", {
        role: "option", class: prompt.changed.includes(i) ? "token changed" : "token", "data-at": i, "aria-label": `${tokenText(token)}${prompt.changed.includes(i) ? ", changed" : ""}`,
        mousemove: (event) => pointAt(event, i), focus: () => pinToken(i), click: () => pinToken(i),
      }, token.includes("\n") ? token.replaceAll("\n", "↵") : token))),
  ]));
  const { site } = judgedOf(job);
  $("attention-legend").textContent = [
    `Shown: ${job.which}${site ? ` (● matters at this checkpoint by patching ${site}, ○ in these runs, • undecided)` : ""}.`,
    "A token looks at itself and at earlier ones; its attention sums to 1. Point at a token, or move with the arrow keys: purple is where it looks, orange are the later tokens that look at it; the token that the corruption changes is underlined.",
    "Attention to a token does not show that its information is used.", ATTENTION.note,
  ].filter(Boolean).join(" ");
  followAttention();
}

function chooseHead(head) {
  state.attention.head = head;
  followAttention();
  redraw("attention-pictures");
  saveView();
}

/** Everything that the slider changes, except the large picture. */
function followAttention() {
  const shown = ATTENTION && DATA.blocks.length ? attention() : null;
  if (!shown) return;
  const { job, head: chosen, at, index, prompt } = shown, { family } = judgedOf(job);
  const layout = family && DATA.layouts[family.layout], letters = family && lettersAt(family, step(), layout), here = family && lettersAt(family, step(), layout, "here");
  for (const button of $("attention-heads").children) {
    const head = button.dataset.head, i = layout ? cellNames(layout).indexOf(head) : -1;
    const mark = markOf({ verdict: letters?.[i], here: here?.[i] });
    button.setAttribute("aria-pressed", head === chosen);
    button.querySelector("span").textContent = `${head} ${MARKS[mark]?.[0] ?? ""}`.trim();
    button.setAttribute("aria-label", [`head ${head}`, markText(mark)].filter(Boolean).join(", "));
    drawSmall(button.querySelector("canvas"), index < 0 ? null : patternOf(shown, state.attention.side, head));
  }
  describeToken(null);
  const other = prompt.number === state.attention.prompt ? "" : `This page has no patterns of prompt ${state.attention.prompt + 1}, so it shows prompt ${prompt.number + 1}. `;
  $("attention-missing").textContent = other + (at === step() ? "" : index < 0 ? `This page has no pattern of checkpoint ${step()}.` : `This page has no pattern of checkpoint ${step()}, so it shows checkpoint ${at}.`);
}

/** A pattern, one pixel per square. */
function drawSmall(canvas, pattern) {
  const size = pattern?.size ?? 1, context = canvas.getContext("2d");
  Object.assign(canvas, { width: size, height: size });
  if (!pattern) return;
  const image = context.createImageData(size, size), colour = shadesOf(colours().sequential);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column <= row; column++) image.data.set(colour(pattern.of(row, column)), 4 * (row * size + column));
  }
  context.putImageData(image, 0, 0);
}

/** The colour of a share on a scale: red, green, blue, opacity. */
function shadesOf(scale) {
  const stops = scale.map(([at, colour]) => [at, [1, 3, 5].map((from) => parseInt(colour.slice(from, from + 2), 16))]);
  return (share) => {
    const next = Math.max(1, stops.findIndex(([at]) => at >= share)), [low, from] = stops[next - 1], [high, to] = stops[next];
    return [...from.map((value, i) => Math.round(value + ((to[i] - value) * (share - low)) / (high - low))), 255];
  };
}

let pointed = null;
/** Not if the page has scrolled under a resting pointer: that would undo a choice made by keys. */
function pointAt({ movementX, movementY }, at) {
  if ((movementX || movementY) && at !== pointed) describeToken(at);
}

function pinToken(at) {
  state.attention.token = at;
  describeToken(at);
}

/** Where one token looks, and what looks at it: the token pointed at, else the chosen one, else the last. */
function describeToken(at) {
  const shown = attention();
  pointed = at;
  if (!shown) return;
  const lines = [];
  for (const list of document.querySelectorAll("#attention-tokens .tokens")) {
    const side = list.dataset.side, tokens = shown.tokens(side), last = tokens.length - 1;
    const chosen = Math.min(at ?? state.attention.token ?? last, last);
    const pattern = shown.index < 0 ? null : patternOf(shown, side, shown.head);
    for (const token of list.children) {
      const i = Number(token.dataset.at), looks = i <= chosen;
      const share = pattern ? (looks ? pattern.of(chosen, i) : pattern.of(i, chosen)) : 0;
      token.style.backgroundColor = share ? translucent(looks ? LOOKS_AT : LOOKED_AT, Math.min(0.55, 0.04 + 0.6 * share)) : "";
      token.setAttribute("aria-selected", i === chosen);
      token.tabIndex = i === chosen ? 0 : -1;
    }
    if (pattern) lines.push(`${side}: ${tokenAttention(tokens, pattern, chosen)}`);
  }
  $("attention-text").replaceChildren(h("b", {}, `head ${shown.head}`), ...lines.flatMap((line) => [h("br"), line]));
}

const LOOKS_AT = "#7b5cc4", LOOKED_AT = "#e69f00";

function tokenAttention(tokens, pattern, chosen) {
  const most = (list) => list.sort(([, a], [, b]) => b - a).slice(0, NAMED_TOKENS).filter(([, share]) => share >= 0.01).map(([i, share]) => `${tokenNamed(tokens, i)} ${fixed(share, 2)}`).join(", ");
  const earlier = tokens.slice(0, chosen + 1).map((_, i) => [i, pattern.of(chosen, i)]);
  const later = tokens.slice(chosen + 1).map((_, i) => [chosen + 1 + i, pattern.of(chosen + 1 + i, chosen)]);
  const by = most(later);
  return `${tokenNamed(tokens, chosen)} looks at ${most(earlier) || "nothing in particular"}${by ? `; looked at from ${by}` : ""}`;
}

/** All tokens of a prompt are one tab stop; arrow keys move within. */
$("attention-tokens").addEventListener("keydown", (event) => {
  const tokens = [...event.target.closest(".tokens")?.children ?? []], at = tokens.indexOf(event.target);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  tokens[Math.min(Math.max(to, 0), tokens.length - 1)].focus();
});

/** The chosen head, large: on the clean prompt and on the corrupted one. */
function drawPattern() {
  const shown = ATTENTION && attention();
  const title = shown ? `Where head ${shown.head} looks, at checkpoint ${shown.at ?? step()}` : "Where heads look";
  if (!shown || shown.index < 0) return { title, note: "no pattern on this page" };
  const { job, head, prompt, tokens } = shown, colour = colours();
  const most = Math.max(...ATTENTION_SIDES.map((side) => tokens(side).length));
  const longest = Math.max(...ATTENTION_SIDES.flatMap(tokens).map((token) => cut(tokenText(token)).length));
  const label = 22 + 6.5 * longest;  // pixels
  const wide = $("attention-pictures").clientWidth, across = narrow.matches ? wide - label - 10 : (wide - 100 - 2 * label) / 2;
  const { panels, inner } = arrange([ATTENTION_SIDES], Math.min(Math.max(180, across), 560), label + 40);
  const { margin, height } = frame(inner, { l: label, right: 80, below: label });
  if (!narrow.matches) {  // each with its own tokens at its left
    const half = (1 - label / (2 * across + label)) / 2;
    panels.forEach((place, i) => { place.x = i ? [1 - half, 1] : [0, half]; });
  }
  const layout = {
    margin, annotations: [],
    coloraxis: { cmin: 0, cmax: 1, colorscale: colour.sequential, colorbar: scaleBar("attention", inner, label + 10) },
  };
  const traces = panels.map((place) => {
    const { panel: side, i, xaxis, yaxis } = place, words = tokens(side), { size, of } = patternOf(shown, side, head);
    const every = Math.ceil((size * 9) / across), ticks = words.map((_, k) => k).filter((k) => k % every === 0 || prompt.changed.includes(k));
    const text = ticks.map((k) => { const word = plain(cut(tokenText(words[k]))); return prompt.changed.includes(k) ? `<b>▸${word}</b>` : word; });
    const bare = { showgrid: false, zeroline: false, ticks: "", tickvals: ticks, ticktext: text, tickfont: { size: Math.max(7, Math.min(11, across / most - 1)) }, automargin: false };
    layout.annotations.push(subtitle(`<b>${side} prompt</b>`, place));
    layout[`xaxis${suffix(i)}`] = axis("", { ...bare, domain: place.x, anchor: yaxis, tickangle: -90, range: [-0.5, size - 0.5] });
    layout[`yaxis${suffix(i)}`] = axis("", { ...bare, domain: place.y, anchor: xaxis, range: [size - 0.5, -0.5] });
    return {
      type: "heatmap", coloraxis: "coloraxis", xaxis, yaxis, xgap: size > 60 ? 0 : 0.5, ygap: size > 60 ? 0 : 0.5, hoverongaps: false, name: side,
      z: words.map((_, row) => words.map((_, column) => (column <= row ? of(row, column) : null))),
      customdata: words.map((_, row) => words.map((_, column) => `${plain(tokenNamed(words, row))} looks at ${plain(tokenNamed(words, column))}`)),
      hovertemplate: `%{customdata}: %{z:.2f}<extra>${side}</extra>`,
    };
  });
  const missing = shown.at === step() ? "" : `no pattern of checkpoint ${step()} on this page`;
  return {
    title, traces, layout, height: height + (narrow.matches ? 10 : 0), runs: [RUNS[job.run]],
    note: [`${job.corruption} corruption`, `prompt ${prompt.number + 1} alone, of ${unique(blocksOf(judgedOf(job).unit, job.corruption).map((block) => block.n)).join("/")}`, "rows look at columns; one scale for all heads and checkpoints; ▸ changed by the corruption", missing].filter(Boolean).join(" · "),
    alt: ATTENTION_SIDES.map((side) => `${side}: ${tokenAttention(tokens(side), patternOf(shown, side, head), tokens(side).length - 1)}`).join("; "),
    table: () => patternTable(shown),
  };
}

const cut = (word) => (word.length > 12 ? `${word.slice(0, 11)}…` : word);

function patternTable(shown) {
  const longest = ATTENTION_SIDES.map(shown.tokens).reduce((one, other) => (other.length > one.length ? other : one));
  return {
    head: ["prompt", "from", ...longest.map((_, i) => `to ${tokenNamed(longest, i)}`)],
    rows: ATTENTION_SIDES.flatMap((side) => {
      const tokens = shown.tokens(side), { of } = patternOf(shown, side, shown.head);
      return tokens.map((_, row) => [side, tokenNamed(tokens, row), ...tokens.map((_, column) => (column <= row ? fixed(of(row, column), 2) : ""))]);
    }),
  };
}

if (ATTENTION) {
  dark.addEventListener("change", followAttention);
  narrow.addEventListener("change", followAttention);
}

// Which heads matter, and since when: sentences, verdicts and courses from inference, as tables and curves. Tables follow
// the slider; sentences describe the last checkpoint.

const HEAD_COUNTS = [3, 5, 8, 12, 20];

/** Sites of heads, exact ones first, in the order of the page. */
function headSites() {
  const sites = unique(DATA.blocks.flatMap((block) => Object.entries(block.sites).filter(([, part]) => DATA.layouts[part.layout].axis === "head").map(([site]) => site)));
  const rank = (site) => (site.endsWith(APPROXIMATE) ? 100 : 0) + Object.keys(SITES).indexOf(site.replace(APPROXIMATE, ""));
  return sites.sort((a, b) => rank(a) - rank(b));
}

const headSiteName = (site) => (SITES[site.replace(APPROXIMATE, "")] ?? site) + (site.endsWith(APPROXIMATE) ? APPROXIMATE : "");

function drawFound() {
  const { heads } = state, sites = headSites();
  $("circuits-found").hidden = !sites.length;
  if (!sites.length) return;
  heads.site ??= sites[0];
  const change = (key) => (value) => { heads[key] = key === "k" ? Number(value) : value; drawFound(); redraw("heads-pictures"); saveView(); };
  replaceControls($("heads-controls"),
    select("Patched", sites.map((site) => [site, headSiteName(site)]), heads.site, change("site")),
    select("Curves", HEAD_COUNTS.map((k) => [String(k), `at most ${k} heads`]), String(heads.k), change("k")),
  );
  const shown = views().flat().map((view) => ({ view, family: familyOf(view.unit, view.corruption, heads.site) }));
  const pairs = comparisons(heads.site);
  $("heads-text").replaceChildren(
    ...shown.map(({ view, family }) => paragraph(view.name, family ? family.sentences : [whyNoVerdicts(view, heads.site)])),
    ...pairs.map(({ name, comparison }) => paragraph(name, comparison.sign > 0 ? comparison.sentences : ["see the table for its heads."])));
  followHeads();
  $("heads-legend").textContent = shown.some(({ family }) => family)
    ? `A head matters if patching it alone changes more than ${DATA.delta} of the gap between clean and corrupted, either way; less is small. ` +
      "Brackets: 95% interval of each value alone; verdicts hold for all heads and checkpoints at once. A head formed or grew at the first checkpoint " +
      "at which its gain in logits exceeds half of its last gain (◆ in the curves; brackets: its interval). It is outgrown if it is small now because the gap has grown."
    : "";
}

/** The tables at the slider's checkpoint. */
function followHeads() {
  const { site } = state.heads;
  if (!site) return;
  const tables = views().flat().map((view) => [view, familyOf(view.unit, view.corruption, site)]).filter(([, family]) => family).map(([view, family]) => headsTable(view, family));
  $("heads-tables").replaceChildren(...[...tables, ...comparisons(site).map(differencesTable)].filter(known));
}

const paragraph = (name, sentences) => h("p", {}, h("b", {}, `${capital(name)}: `), sentences.join(" "));

/** A head's course in words. */
function courseText(course) {
  if (!course) return "";
  const { course: name, onset, low, high, last, peak } = course;
  if (known(onset)) return name === "from the start" ? (onset ? `from ${onset} on, the first checkpoint` : name) : `${name} at ${onset} [${low}, ${known(high) ? high : "later than the last"}]`;
  const before = known(last) ? `last mattered at ${last}, ${fixed(peak, 2)} at its largest` : "";
  return { matters: "since when is unknown", "changed sign": `changed sign; opposite sign until ${last}`, lost: `lost; ${before}` }[name] ?? [name, before].filter(Boolean).join("; ");
}

/** Heads with a verdict: first those that matter at the slider's checkpoint, then those that matter at another. */
function headsTable(view, family) {
  const layout = DATA.layouts[family.layout], at = step(), { site } = state.heads;
  const verdicts = lettersAt(family, at, layout), here = lettersAt(family, at, layout, "here");
  if (!verdicts) return h("p", { class: "quiet" }, h("b", {}, view.name), `: no verdicts at checkpoint ${at}.`);
  const of = (quantity) => siteCells(view.unit, view.corruption, site, at, quantity).cells;
  const recovered = of("recovered"), gain = of("change");
  const heads = cellNames(layout).map((name, i) => ({ name, i, mark: markOf({ verdict: verdicts[i], here: here[i] }), course: family.courses[name] }));
  const size = ({ i, mark, course }) => Math.abs((mark === "m" || mark === "h" ? recovered[i].mean : course?.peak) ?? 0);
  const group = ({ mark, course }) => (mark === "m" ? 0 : course ? 1 : mark === "h" ? 2 : 3);
  const rows = heads.filter((head) => group(head) < 3).sort((a, b) => group(a) - group(b) || size(b) - size(a));
  const rest = heads.filter((head) => group(head) === 3);
  const counted = Object.entries({ s: "small", u: "undecided", x: "undefined (no measurable gap in at least one run)" })
    .map(([mark, word]) => [rest.filter((head) => head.mark === mark).length, word]).filter(([n]) => n).map(([n, word]) => `${n} ${word}`);
  if (!rows.length) return null;
  const value = (point, of) => (known(point?.mean) ? `${fixed(point.mean)}${of ? endsText(point.low, point.high) : ""}` : "none");
  return tableOf(`heads of: ${view.name}`, [h("b", {}, view.name), `: ${unitName(view.unit)}`],
    ["head", `verdict at ${at}`, `recovered at ${at}`, `gain at ${at} (logits)`, "since when, until when"],
    rows.map(({ name, i, mark, course }) => [name, `${MARKS[mark]?.[0] ?? ""} ${markText(mark)}`.trim(), value(recovered[i], true), value(gain[i]), courseText(course)]),
    counted.length ? `Others at ${at}: ${counted.join(", ")}.` : "");
}

function cellNames({ layers, columns }) {
  return layers.flatMap((layer) => columns.map((column) => `${layer}.${column}`));
}

/** Differences between the two views of each row, if computed. */
function comparisons(site) {
  if (state.circuits.quantity !== "recovered") return [];
  return views().filter((row) => row.length === 2).map((row) => {
    const [one, other] = inOrder(...row), comparison = comparisonOf(one, other, site);
    return comparison && { one, other, comparison, name: differenceName([one, other]) };
  }).filter(known);
}

/** Heads for which two views differ, and heads that matter in either. */
function differencesTable({ one, other, comparison, name: title }) {
  const layout = DATA.layouts[comparison.layout], at = step(), { site } = state.heads;
  const signs = signsAt(comparison, at, layout), ends = endsAt(comparison, at);
  if (!signs) return null;
  const cells = [one, other].map(({ unit, corruption }) => siteCells(unit, corruption, site, at, "recovered")?.cells ?? []);
  const heads = cellNames(layout).map((name, i) => ({ name, sign: signs[i], low: ends.low[i], high: ends.high[i], a: cells[0][i], b: cells[1][i] }))
    .map((head) => ({ ...head, less: known(head.a?.mean) && known(head.b?.mean) ? head.b.mean - head.a.mean : null }));
  const isListed = ({ sign, a, b }) => sign === "+" || sign === "-" || (sign !== "x" && [a, b].some((cell) => cell?.verdict === "m"));
  const rank = ({ sign }) => (sign === "+" || sign === "-" ? 0 : 1);
  const rows = heads.filter(isListed).sort((p, q) => rank(p) - rank(q) || Math.abs(q.less ?? 0) - Math.abs(p.less ?? 0));
  if (!rows.length) return null;
  const value = (cell) => (known(cell?.mean) ? fixed(cell.mean) + endsText(cell.low, cell.high) : "none");
  const less = (head) => (known(head.less) ? `${head.less > 0 ? "+" : ""}${fixed(head.less)}${endsText(head.low, head.high)}` : "none");
  const rest = heads.filter((head) => !rows.includes(head));
  const counted = [["=", `alike within ${DATA.delta}`], ["?", "undecided"], ["x", "undefined"]]
    .map(([sign, word]) => [rest.filter((head) => head.sign === sign).length, word]).filter(([n]) => n).map(([n, word]) => `${n} ${word}`);
  const named = ({ unit, corruption }, letter) => (known(state.circuits.other) ? letter : corruption);
  return tableOf(`differences: ${title}`, [h("b", {}, title), `, recovered at checkpoint ${at} (${comparison.scope})`],
    ["head", named(one, "A"), named(other, "B"), title, "comparison"],
    rows.map((head) => [head.name, value(head.a), value(head.b), less(head), `${MARKS[head.sign]?.[0] ?? ""} ${markText(head.sign)}`.trim()]),
    counted.length ? `Others: ${counted.join(", ")}.` : "");
}

function tableOf(label, caption, names, rows, foot) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, cell))))),
    foot ? h("tfoot", {}, h("tr", {}, h("td", { colspan: names.length }, foot))) : null));
}

/** At most k heads, the same in all panels: those that matter at any checkpoint, or else the largest, with a note. */
function chosenHeads(found, k) {
  const mattering = new Set(found.flatMap(({ family }) => Object.keys(family?.courses ?? {})));
  const sizes = new Map();
  for (const { name, points } of found.flatMap(({ curves }) => curves)) {
    sizes.set(name, Math.max(sizes.get(name) ?? 0, ...points.map((point) => Math.abs(point.mean ?? 0))));
  }
  const order = [...sizes].sort(([, a], [, b]) => b - a).map(([name]) => name);
  const own = order.filter((name) => mattering.has(name));
  const all = found.every(({ family }) => family);
  const names = (own.length ? own : order).slice(0, k).sort(compare);
  const which = !own.length ? `${all ? "none is shown to matter; " : ""}the ${names.length} largest heads at any checkpoint`
    : own.length > k ? `the ${k} largest of ${own.length} heads that matter at some checkpoint` : `the ${own.length === 1 ? "head that matters" : "heads that matter"} at some checkpoint`;
  return { names, which };
}

function drawTopHeads() {
  const { circuits: { quantity }, heads: { site, k } } = state;
  const absent = [];
  const rows = views().map((row) => row.map((view) => ({ ...view, family: familyOf(view.unit, view.corruption, site), curves: headCurves(view.unit, view.corruption, site, quantity) }))
    .filter(({ curves, ...view }) => curves.length || (absent.push(view), false)));
  const shown = rows.flat();
  const value = quantity === "recovered" ? "Recovered" : "Logit difference change";
  const what = `${value} by patching ${headSiteName(site)}`;
  if (!shown.length) return { title: [what, whose()].join(", "), note: "not examined" };
  const { names: chosen, which } = chosenHeads(shown, k);
  const title = [`${what}: ${which}`, whose()].join(", ");
  const lines = ({ curves }) => chosen.map((name) => curves.find((head) => head.name === name)).filter(known);
  const { range, cut } = rangeWithBands(shown.flatMap((view) => lines(view).flatMap(({ points }) => points)));
  const { panels, inner } = arrange(rows, 300, 85);
  const { margin, height } = frame(inner, { l: 50 });
  const layout = {
    margin, annotations: [], shapes: checkpointLines(panels.length),
    legend: narrow.matches ? { orientation: "h", y: -60 / inner, yanchor: "top" } : { title: { text: "head" } }, showlegend: true,
  };
  const traces = panels.flatMap((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b>`, place));
    layout[`xaxis${suffix(i)}`] = stepScale().axis(place.last, { domain: place.x, anchor: yaxis });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? (quantity === "recovered" ? "recovered" : "logits") : "", { domain: place.y, anchor: xaxis, range });
    return lines(panel).flatMap(({ name, points }) => {
      const rank = chosen.indexOf(name);
      const common = { type: "scatter", xaxis, yaxis, legendgroup: name, name };
      const line = { color: GROUPS[rank % GROUPS.length], dash: DASHES[Math.floor(rank / GROUPS.length) % DASHES.length], width: 2 };
      const onset = points.find((point) => point.step === panel.family?.courses[name]?.onset && known(point.mean));
      return [...bandTrace(points, line.color, { xaxis, yaxis, legendgroup: name }), {
        ...common, mode: "lines+markers", x: points.map((point) => stepScale().x(point.step)), y: points.map((point) => point.mean), line, marker: { size: 4, color: line.color },
        showlegend: i === 0, customdata: points.map((point) => [point.step, pointText(point) + (point.verdict ? `<br>${markText(markOf(point))}` : "")]), hovertemplate: `head ${name}, checkpoint %{customdata[0]}<br>%{y:.3f}%{customdata[1]}<extra></extra>`,
      }, ...(onset ? [{
        ...common, mode: "markers", x: [stepScale().x(onset.step)], y: [onset.mean], showlegend: false,
        marker: { symbol: "diamond", size: 11, color: line.color, line: { color: colours().card, width: 1.5 } },
        hovertemplate: `head ${name}: ${courseText(panel.family.courses[name])}<extra></extra>`,
      }] : [])];
    });
  });
  const all = shown.flatMap((view) => lines(view).flatMap(({ points }) => points));
  const families = shown.map(({ family }) => family).filter(known);
  const last = (view) => `${view.name}: ${lines(view).map(({ name, points }) => `head ${name} ${number(points.at(-1).mean) || "no value"}`).join(", ")}`;
  const banded = all.some((point) => known(point.low)), onsets = traces.some(({ marker }) => marker?.symbol === "diamond");
  const extra = [
    onsets ? "◆ onset: the gain in logits exceeds half of the last gain" : "", banded ? bandText(families) : "", cut ? "wide bands are cut off" : "",
    families.length ? "" : whyNoVerdicts(shown[0], site).replace(/\.$/, ""),
    all.some((point) => point.verdict === "x" && !known(point.mean)) ? `no line: ${noGap()}` : "", "dotted: the slider's checkpoint",
  ];
  return {
    title, traces, layout, note: circuitsNote(extra.filter(Boolean).join(" · "), absent), runs: runsOf(...shownUnits()),
    alt: `at the last checkpoint ${shown.map(last).join("; ")}`, table: () => pointsTable(shown, "head", lines), height,
  };
}

const bandText = (families) => `band: 95% interval at each checkpoint alone (${scopesText(families)})`;

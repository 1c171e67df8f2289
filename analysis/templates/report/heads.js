// Which heads matter, and since when: in words, as a table and as curves. Nothing here but the dotted line depends on the slider.

const LITTLE = 0.05;  // recovered; a head that brings back less is told quietly
const TOPS = [3, 5, 8, 12, 20];
const HALF = "first checkpoint at which the mean is at half of its last value or beyond (◆ in the curves)";

/** Sites of heads, exact ones first, in the order of the page. */
function headSites() {
  const sites = unique(DATA.blocks.flatMap((block) => Object.entries(block.sites).filter(([, part]) => DATA.layouts[part.layout].axis === "head").map(([site]) => site)));
  const rank = (site) => (site.endsWith(APPROXIMATE) ? 100 : 0) + Object.keys(SITES).indexOf(site.replace(APPROXIMATE, ""));
  return sites.sort((a, b) => rank(a) - rank(b));
}

/** The heads of a view whose last values are largest, each with its curves of both values. */
function topHeads({ unit, corruption }, site, quantity, k) {
  const curves = Object.fromEntries(["recovered", "change"].map((name) => [name, headCurves(unit, corruption, site, name)]));
  // Without a denominator at the last checkpoint, recovered says nothing of any head.
  const by = curves[quantity].some(({ points }) => known(points.at(-1).mean)) ? quantity : "change";
  const size = (points) => Math.abs(points.at(-1).mean ?? 0);
  const order = curves[by].map((_, i) => i).sort((a, b) => size(curves[by][b].points) - size(curves[by][a].points)).slice(0, k);
  const ofRun = (run) => curves[by].map((head, i) => [size(head.runs[run]), i]).sort(([a], [b]) => b - a).slice(0, k).map(([, i]) => i);
  const tops = (curves[by][0]?.runs ?? []).map((_, run) => ofRun(run));
  return order.map((i) => ({ recovered: curves.recovered[i], change: curves.change[i], among: tops.filter((top) => top.includes(i)).length, of: tops.length }));
}

function drawFound() {
  const { circuits, heads } = state;
  const sites = headSites();
  $("circuits-found").hidden = !sites.length;
  if (!sites.length) return;
  heads.site ??= sites[0];
  const change = (key) => (value) => { heads[key] = key === "k" ? Number(value) : value; drawFound(); redraw("heads-pictures"); saveView(); };
  replaceControls($("heads-controls"),
    select("Patched", sites.map((site) => [site, headSiteName(site)]), heads.site, change("site")),
    select("Heads", TOPS.map((k) => [String(k), `top ${k}`]), String(heads.k), change("k")),
  );
  const found = views().flat().map((view) => ({ view, heads: topHeads(view, heads.site, circuits.quantity, heads.k) }));
  $("heads-told").replaceChildren(...found.map(({ view, heads }) => h("p", {}, told(view, heads))));
  $("heads-tables").replaceChildren(...found.filter(({ heads }) => heads.length).map(({ view, heads }) => headsTable(view, heads)));
  $("heads-legend").textContent =
    `Recovered, and the change that patching makes in logits, at the last checkpoint${shownUnits().some(several) ? ": mean over runs, with its 95% interval (Student's t) and the number n of runs; after a first checkpoint those of the earliest and the latest run" : ""}. ` +
    `Half of it: ${HALF}; recovered is a share, so a head may have it from the start while the difference itself grows, which the change tells. ` +
    `Quiet: heads that bring back less than ${LITTLE}.`;
}

const headSiteName = (site) => (SITES[site.replace(APPROXIMATE, "")] ?? site) + (site.endsWith(APPROXIMATE) ? APPROXIMATE : "");

/** What a table of heads says, in a sentence or two. */
function told(view, heads) {
  const under = `${known(state.circuits.other) ? `For ${view.name.slice(0, 1)} under` : "Under"} the ${view.corruption} corruption`;
  const of = state.heads.site;
  if (!heads.length) return `${under}, ${of} was not patched in ${unitName(view.unit)}.`;
  const [best, ...others] = heads;
  const name = known(best.recovered.points.at(-1).mean) ? "recovered" : "change";
  const last = best[name].points.at(-1);
  const amount = name === "recovered" ? `${valueTold(last)} of the logit difference` : `${valueTold(last)} logits`;
  const half = halfway(best[name].points);
  const more = others.filter((head) => Math.abs(head.recovered.points.at(-1).mean ?? 0) >= LITTLE)
    .map((head) => `${head.recovered.name} (${head.recovered.points.at(-1).mean.toFixed(2)})`);
  const rest = name === "change" ? `Clean and corrupted differ by less than ${DATA.floor} logits, so that there is no recovered fraction.`
    : more.length ? `Next: ${more.join(", ")}.` : `No other head reaches ${LITTLE}.`;
  const grown = name === "recovered" ? halfway(best.change.points) : null;
  return [
    `${under}, patching ${of} of head ${best[name].name} alone brings back ${amount} at checkpoint ${last.step}`,
    last.n > 1 ? ` (mean of ${last.n} runs)` : "",
    half ? `; it is first at half of that at checkpoint ${halfStep(half)}` : "",
    grown ? `, and at half of its change in logits at checkpoint ${halfStep(grown)}` : "",
    `. ${rest}`,
  ].join("");
}

const halfStep = ({ step, from }) => `${step}${{ start: " (the first)", unknown: " (no value before)" }[from] ?? ""}`;
const valueTold = ({ mean, low, high }) => (known(mean) ? `${mean.toFixed(3)}${known(low) ? ` [${low.toFixed(3)}, ${high.toFixed(3)}]` : ""}` : "no value");

/** The first checkpoint at half, with the earliest and the latest of the runs where they differ. */
function halfTold({ points, runs }) {
  const half = halfway(points);
  if (!half) return "";
  const steps = runs.map((run) => halfway(run)?.step).filter(known);
  const ends = [Math.min(...steps), Math.max(...steps)];
  return `${halfStep(half)}${steps.length > 1 && ends[0] !== ends[1] ? ` [${ends.join(" to ")}]` : ""}`;
}

function headsTable(view, heads) {
  const last = heads[0].change.points.at(-1).step;
  const group = heads[0].of > 1;
  const names = ["head", `recovered at ${last}`, "half of it first at", `change at ${last} (logits)`, "half of it first at", ...(group ? ["n", `in the top ${state.heads.k} of`] : [])];
  const row = ({ recovered, change, among, of }) => {
    const { mean: share, n } = recovered.points.at(-1);
    const cells = [valueTold(recovered.points.at(-1)), halfTold(recovered), valueTold(change.points.at(-1)), halfTold(change), ...(group ? [n || change.points.at(-1).n, `${among} of ${of} runs`] : [])];
    return h("tr", { class: known(share) && Math.abs(share) < LITTLE ? "little" : "" }, h("th", { scope: "row" }, recovered.name), cells.map((cell) => h("td", {}, String(cell))));
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `top heads, ${view.name}` }, h("table", {},
    h("caption", {}, h("b", {}, view.name), `: ${unitName(view.unit)}`),
    h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, heads.map(row))));
}

/** The heads that are largest anywhere, the same in all panels. */
function chosenHeads(found, k) {
  const largest = new Map();
  for (const { name, points } of found.flatMap(({ curves }) => curves)) {
    largest.set(name, Math.max(largest.get(name) ?? 0, ...points.map((point) => Math.abs(point.mean ?? 0))));
  }
  return [...largest].sort(([, a], [, b]) => b - a).slice(0, k).map(([name]) => name).sort(compare);
}

function drawTopHeads() {
  const { circuits: { quantity }, heads: { site, k } } = state;
  const absent = [];
  const rows = views().map((row) => row.map((view) => ({ ...view, curves: headCurves(view.unit, view.corruption, site, quantity) })).filter(({ curves, ...view }) => curves.length || (absent.push(view), false)));
  const shown = rows.flat();
  const value = quantity === "recovered" ? "Recovered" : "Logit difference change";
  const title = [`${value} by patching ${headSiteName(site)}: the ${k} heads that are largest at any checkpoint`, whose()].join(", ");
  if (!shown.length) return { title, note: "not examined" };
  const chosen = chosenHeads(shown, k);
  const lines = ({ curves }) => chosen.map((name) => curves.find((head) => head.name === name)).filter(known);
  const range = rangeOf(shown.flatMap((view) => lines(view).flatMap(({ points }) => points.flatMap((point) => [point.mean, point.low, point.high]))).filter(known));
  const { panels, inner } = arrange(rows, 300, 85);
  const { margin, height } = frame(inner, { l: 50 });
  const layout = {
    margin, annotations: [], shapes: checkpointLines(panels.length),
    legend: narrow.matches ? { orientation: "h", y: -60 / inner, yanchor: "top" } : { title: { text: "head" } }, showlegend: true,
  };
  const traces = panels.flatMap((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${plain(panel.name)}</b>`, place));
    layout[`xaxis${suffix(i)}`] = axis(place.last ? "checkpoint (step)" : "", { domain: place.x, anchor: yaxis });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? (quantity === "recovered" ? "recovered" : "logits") : "", { domain: place.y, anchor: xaxis, range });
    return lines(panel).flatMap(({ name, points }) => {
      const rank = chosen.indexOf(name);
      const common = { type: "scatter", xaxis, yaxis, legendgroup: name, name };
      const line = { color: GROUPS[rank % GROUPS.length], dash: DASHES[Math.floor(rank / GROUPS.length) % DASHES.length], width: 2 };
      const half = halfway(points);
      return [...bandTrace(points, line.color, { xaxis, yaxis, legendgroup: name }), {
        ...common, mode: "lines+markers", x: points.map((point) => point.step), y: points.map((point) => point.mean), line, marker: { size: 4, color: line.color },
        showlegend: i === 0, customdata: points.map(pointTold), hovertemplate: `head ${name}, checkpoint %{x}<br>%{y:.3f}%{customdata}<extra></extra>`,
      }, ...(half ? [{
        ...common, mode: "markers", x: [half.step], y: [half.mean], showlegend: false,
        marker: { symbol: "diamond", size: Math.abs(points.at(-1).mean) < LITTLE ? 6 : 11, color: line.color, line: { color: colours().card, width: 1.5 } },
        hovertemplate: `head ${name}, half of its last value<br>first at checkpoint %{x}: %{y:.3f}<extra></extra>`,
      }] : [])];
    });
  });
  const gaps = shown.some((view) => lines(view).some(({ points }) => points.some((point) => !known(point.mean))));
  const last = (view) => `${view.name}: ${lines(view).map(({ name, points }) => `head ${name} ${number(points.at(-1).mean) || "no value"}`).join(", ")}`;
  const extra = [`◆ ${HALF.replace(" (◆ in the curves)", "")}`, shownUnits().some(several) ? BAND : "", gaps ? `no line: clean and corrupted differ by less than ${DATA.floor} logits` : "", "dotted: the slider's checkpoint"];
  return {
    title, traces, layout, note: circuitsNote(extra.filter(Boolean).join(" · "), absent), runs: runsOf(...shownUnits()),
    alt: `at the last checkpoint ${shown.map(last).join("; ")}`, table: () => pointsTable(shown, "head", lines), height,
  };
}

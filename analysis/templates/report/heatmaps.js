// Content of heatmaps: panels with values, marks and captions. grids.js lays them out.

/** Correlation of approximate and exact values at a site and step: range of r over runs. */
function agreement(site, at) {
  const found = views().flat().flatMap(({ unit, corruption }) => blocksOf(unit, corruption)).map((block) => block.sites[site]).filter((part) => part?.r)
    .map((part) => [DATA.steps[part.steps].indexOf(at), part]).filter(([index, part]) => known(part.r[index]))
    .map(([index, part]) => ({ r: part.r[index], n: part.change[index].filter(known).length }));
  if (!found.length) return "";
  const rs = found.map(({ r }) => r);
  const ends = unique([Math.min(...rs), Math.max(...rs)].map((r) => fixed(r)));
  return `${site.replace(APPROXIMATE, "")}, approximate against exact: r ${ends.join(" to ")}, n ${unique(found.map(({ n }) => n)).join("/")}`;
}

function sameLayout(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** A number with fixed digits, without a minus before zero. */
const fixed = (value, digits = 3) => (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits);
const endsText = (low, high, digits = 3) => (known(low) && known(high) ? ` [${fixed(low, digits)}, ${fixed(high, digits)}]` : "");

/** The mean, unless the spread was chosen and a unit has one. */
const overShown = () => (state.circuits.over === "spread" && shownUnits().some(several) ? "deviation" : "mean");

/**
 * A view's panel: values, marks, cells without a gap, and hover texts; or `why` there are no values.
 */
function heatmapPanel(view, site, at, quantity, over) {
  const found = siteCells(view.unit, view.corruption, site, at, quantity);
  if (!found) return { view, site, why: null };
  if (over === "deviation" && !several(view.unit)) return { view, site, why: "one run has no spread" };
  const { layout, cells, clean, corrupted, few, of } = found;
  const gap = known(clean) ? gapAt(view.unit, view.corruption, site, at) : null;
  const notes = known(clean) ? [`gap ${fixed(gap?.[0] ?? clean - corrupted, 2)}${gap ? endsText(gap[1], gap[2], 2) : ""}`, `clean ${fixed(clean, 2)}, corrupted ${fixed(corrupted, 2)}`] : [];
  const missing = cells.map((cell) => quantity === "recovered" && site !== "head" && !cell.defined);
  const besides = cells.map((cell) => [
    over === "mean" ? endsText(cell.low, cell.high) : "", known(cell.verdict) ? `<br>${markText(markOf(cell))}` : "",
    of < 2 ? "" : over === "deviation" ? `<br>mean ${number(cell.mean)}, n ${cell.n} runs` : `<br>standard deviation ${number(cell.deviation) || "none"}, n ${cell.n} runs`,
  ].join(""));
  return {
    name: view.name, views: [view], site, layout, list: cells.map((cell) => cell[over]), marks: cells.map(over === "mean" ? markOf : () => null),
    missing, few, besides, notes, scale: "own", tokens: [tokensAt(view)],
  };
}

/** The second panel minus the first, with interval and comparison if computed. */
function differencePanel(pair, site, at, quantity) {
  const [one, other] = pair.map((view) => heatmapPanel(view, site, at, quantity, "mean"));
  if (!one.layout || !other.layout || !sameLayout(one.layout, other.layout)) return null;
  const comparison = quantity === "recovered" ? comparisonOf(...pair, site) : null;
  const signs = signsAt(comparison, at, one.layout), found = signs && endsAt(comparison, at);
  const ends = (i) => endsText(found?.low?.[i], found?.high?.[i]);
  return {
    name: differenceName(pair), views: pair, site, layout: one.layout, list: lessList(one.list, other.list), notes: signs ? [] : ["no interval"],
    marks: one.list.map((_, i) => signs?.[i] ?? null), comparison, missing: one.list.map((_, i) => one.missing[i] || other.missing[i]),
    few: one.few, besides: one.list.map((_, i) => ends(i) + (signs?.[i] ? `<br>${markText(signs[i])}` : "")), scale: "difference", tokens: [...one.tokens, ...other.tokens],
  };
}

const lessList = (one, other) => one.map((value, i) => (known(value) && known(other[i]) ? other[i] - value : null));

/** Order of a difference: second corruption minus first, B minus A. */
function inOrder(one, other, corruption = ({ corruption: name }) => name) {
  const rank = (view) => corruptions().indexOf(corruption(view));
  return known(state.circuits.other) || rank(one) <= rank(other) ? [one, other] : [other, one];
}

const differenceName = ([one, other]) => (known(state.circuits.other) ? `B − A, ${one.corruption} corruption` : `${other.corruption} − ${one.corruption}`);

/**
 * Rows of panels: of several sites a row for each view and for the difference of two, and a column for each site; of one
 * site the views and their difference side by side. And what has nothing to show.
 */
function heatmapRows(sites, at, quantity, over) {
  const absent = [];
  const panel = (view, site) => {
    const one = heatmapPanel(view, site, at, quantity, over);
    if (!one.layout) absent.push({ name: sites.length > 1 ? `${site}, ${view.name}` : view.name, why: one.why });
    return one.layout ? one : null;
  };
  const less = (row, site) => (over === "mean" && row.length === 2 ? differencePanel(inOrder(...row), site, at, quantity) : null);
  const rows = sites.length > 1
    ? views().flatMap((row) => [...row.map((view) => sites.map((site) => panel(view, site))), sites.map((site) => less(row, site))])
    : views().map((row) => [...row.map((view) => panel(view, sites[0])), less(row, sites[0])]);
  return { rows: rows.map((row) => row.filter(known)).filter((row) => row.length), absent };
}

/** The three largest values of a panel in words, for screen readers. */
function largest({ layout, list, marks }) {
  const width = layout.columns.length;
  const order = list.map((value, i) => [value, i]).filter(([value]) => known(value)).sort(([a], [b]) => Math.abs(b) - Math.abs(a)).slice(0, 3);
  const where = (i) => `layer ${layout.layers[Math.floor(i / width)]} ${layout.axis} ${layout.columns[i % width]}${markText(marks[i]) && ` (${markText(marks[i])})`}`;
  return order.map(([value, i]) => `${fixed(value)} at ${where(i)}`).join(", ") || "no values";
}

/** The numbers of all panels; a cell with a value opens its evidence. */
function heatmapTable(shown, nameOf) {
  const kind = shown[0].layout.axis, columns = unique(shown.flatMap(({ layout }) => layout.columns));
  const lines = shown.flatMap((panel) => panel.layout.layers.map((layer, row) => ({ panel, layer, row })));
  const at = ({ panel: { layout }, row }, name) => (layout.columns.includes(name) ? row * layout.columns.length + layout.columns.indexOf(name) : -1);
  const text = ({ list, marks, missing }, i) => (i < 0 ? "" : missing[i] ? markText("x") : [number(list[i]), markText(marks[i])].filter(Boolean).join(", "));
  return {
    head: ["panel", "layer", ...columns.map((name) => `${kind} ${name}`)],
    rows: lines.map((line) => [nameOf(line.panel), String(line.layer), ...columns.map((name) => text(line.panel, at(line, name)))]),
    opens: opensPlaces(shown[0].site) ? (row, column) => (column < 2 || at(lines[row], columns[column - 2]) < 0 ? null : () => openPlace(lines[row].panel.site, lines[row].layer, columns[column - 2])) : null,
  };
}

/** Cells of patching can be opened; attribution has no more detail. */
const opensPlaces = (site) => site !== "head" && typeof openPlace === "function";

const noGap = () => `the corruption makes no measurable difference here${shownUnits().some(several) ? ", at least in one run" : ""}`;

/** Legend of marks, grey and hatching, and the scope of verdicts; the same at all checkpoints. */
function marksNote(sites, quantity, over, shown) {
  if (sites[0] === "head") return [];
  const families = sites.flatMap((site) => familiesShown(site));
  const gapless = families.some(({ verdict }) => verdict.some((letters) => letters.includes("x")));
  const grey = quantity === "recovered" && gapless ? `grey: ${noGap()}` : "";
  const hatching = shown.some(({ few }) => few?.some(Boolean)) ? "hatched: fewer than half of the prompts have the role" : "";
  if (over !== "mean") return [grey, hatching];
  const own = shown.filter(({ views: of }) => of.length === 1);
  if (!families.length) return [whyNoVerdicts(own[0].views[0], own[0].site).replace(/\.$/, ""), grey, hatching];
  const marks = ["m", ...(families.some(({ here }) => here) ? ["h"] : []), "u", ...(quantity !== "recovered" && gapless ? ["x"] : [])];
  const compared = unique(shown.map(({ comparison }) => comparison?.scope).filter(known));
  const some = own.some(({ views: [{ unit, corruption }], site }) => !familyOf(unit, corruption, site));
  return [
    `${marks.map((mark) => `${MARKS[mark][0]} ${MARKS[mark][1]}`).join(", ")}, no mark: small${some ? " (in panels with verdicts)" : ""}`,
    compared.length ? `difference: ▲ more, ▼ less, • undecided, no mark: alike within ${DATA.delta} (${compared.join("; or ")})` : "", grey, hatching,
    `verdicts: ${scopesText(families)}; ${unique(families.map(({ many }) => many)).join(" or ")}${sites.length > 1 ? " each" : ""}, any wrong: 5%`,
    families.some(({ gap }) => gap.some(([, low]) => known(low))) ? "gap: 95% interval over prompts, in these runs" : "",
  ];
}

/** A picture of heatmaps of one site, or of several that have the same kind of cells. `room`: its width in pixels. */
function drawHeatmap(wanted, room) {
  const sites = [wanted].flat(), quantity = sites[0] === "head" ? "change" : state.circuits.quantity;
  const over = overShown(), at = step();
  const what = sites[0] === "head" ? "direct logit difference of each head"
    : `${quantity === "recovered" ? "recovered" : "logit difference change"} by patching ${sites.length > 1 ? sites.join(", ") : SITES[sites[0]] ?? sites[0]}`;
  const words = over === "deviation" ? `Standard deviation over runs: ${what}` : capital(what);
  const title = [words, `checkpoint ${at}`, whose(over === "deviation" ? "spread" : "mean")].filter(Boolean).join(", ");
  const { rows, absent } = heatmapRows(sites, at, quantity, over), shown = rows.flat();
  if (!shown.length) return { title, note: "not examined at this checkpoint" };
  const nameOf = (panel) => (sites.length > 1 ? `${panel.site}, ${panel.name}` : panel.name);
  const scales = scalesOf(sites, quantity, over, shown), drawn = grid(rows, room, scales, nameOf);
  const extra = [...marksNote(sites, quantity, over, shown), ...drawn.notes, ...sites.map((site) => agreement(site, at))];
  return {
    ...drawn, title, room, standing: standing({ ...drawn, room }), runs: runsOf(...shownUnits()),
    note: circuitsNote(extra.filter(Boolean).join(" · "), absent, " at this checkpoint"),
    alt: shown.map((panel) => `${nameOf(panel)}: ${largest(panel)}`).join("; "), table: () => heatmapTable(shown, nameOf),
    opens: opensPlaces(sites[0]) ? ({ data, pointIndex }) => {
      const { site, layout } = drawn.panels[data.meta].panel;
      openPlace(site, layout.layers[pointIndex[0]], layout.columns[pointIndex[1]]);
    } : null,
  };
}

// A picture is drawn when it comes near the window and when what it shows has changed.

const pictures = [];
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const picture = pictures.find((one) => one.figure === entry.target);
    picture.near = entry.isIntersecting;
    paint(picture);
  }
}, { rootMargin: "400px" });

/**
 * `draw` gives {title, note, runs, traces, layout, height}, or without traces why there is nothing to see; `alt` tells
 * its values to those who do not see it, and `table` gives {head, rows} of text. `shapes` gives all that the slider
 * moves in it, if no more than lines.
 */
function addPicture(parent, id, draw, shapes = null) {
  const caption = h("figcaption");
  const plot = h("div", { class: "plot", id, role: "img" });
  const numbers = h("details", { class: "numbers", toggle: () => tellNumbers(picture) });
  const figure = h("figure", {}, caption, h("div", { class: "wide" }, plot), numbers);
  parent.append(figure);
  const picture = { figure, caption, plot, numbers, draw, shapes, group: parent.id, near: false, stale: true };
  // Made once: Plotly takes new functions for a new configuration, and draws all from nothing, over and over if it is
  // asked for the next drawing before it is done. No button sends data away.
  picture.config = { displaylogo: false, responsive: true, modeBarButtons: [[...saveButtons(picture), "resetScale2d"]] };
  pictures.push(picture);
  watcher.observe(figure);
}

function redraw(...groups) {
  for (const picture of pictures) {
    if (groups.length && !groups.includes(picture.group)) continue;
    picture.stale = true;
    paint(picture);
  }
}

/** The slider moved: lines are moved, all else is drawn again, what is in the window first. */
function follow(...groups) {
  const moved = pictures.filter(({ group }) => groups.includes(group));
  const drawn = moved.filter((picture) => !picture.shapes || picture.stale);
  for (const picture of drawn) picture.stale = true;
  for (const picture of drawn.filter(seen)) paint(picture);
  for (const { plot, shapes } of moved.filter((picture) => !drawn.includes(picture))) {
    if (plot.layout) Plotly.relayout(plot, { shapes: shapes(plot) });
  }
  paintLater();
}

const seen = ({ figure }) => {
  const { top, bottom } = figure.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
};

let waiting = null;

/** One after the other, so that the slider's next move need not wait for what is near the window but not in it. */
function paintLater() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const next = pictures.find((picture) => picture.near && picture.stale);
    if (!next) return;
    paint(next);
    paintLater();
  });
}

function paint(picture, wanted = picture.near) {
  if (!wanted || !picture.stale) return;
  picture.stale = false;
  picture.drawn = picture.draw();
  const { title, note, runs = [], traces, layout, height, alt } = picture.drawn;
  const ids = runs.map((run) => run.run_id).join(", ");
  const open = picture.caption.querySelector("details")?.open ?? false;
  picture.caption.replaceChildren(
    h("b", {}, title),
    h("span", {}, note ?? ""),
    runs.length > 6
      ? h("details", { open }, h("summary", {}, count(runs.length, "run")), ids)
      : h("span", {}, runs.length ? ` · ${runs.length === 1 ? "run" : "runs"} ${ids}` : ""),
  );
  picture.plot.setAttribute("aria-label", [title, note, alt].filter(Boolean).join(". "));
  tellNumbers(picture);
  picture.plot.classList.toggle("empty", !traces);
  if (!traces) return void Plotly.purge(picture.plot);
  const colour = colours();
  Plotly.react(picture.plot, traces, {
    height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    font: { color: colour.ink, family: "system-ui, sans-serif", size: 12 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour.quiet, activecolor: colour.ink },
    hoverlabel: { align: "left", bgcolor: colour.card, bordercolor: colour.line, font: { color: colour.ink } },
    ...layout,
  }, picture.config);
}

/** The table of a picture's numbers, made when it is opened; with it the buttons that save, for Plotly's own cannot be
 * reached by keyboard. */
function tellNumbers(picture) {
  const { numbers, drawn } = picture;
  numbers.hidden = !drawn.traces;
  if (numbers.hidden) return void numbers.replaceChildren();
  const { head, rows } = numbers.open && drawn.table ? drawn.table() : { head: [], rows: [] };
  const table = h("table", {},
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((text, i) => h(i ? "td" : "th", { scope: i ? null : "row" }, text))))));
  const summary = numbers.querySelector("summary") ?? h("summary");
  summary.textContent = drawn.table ? "Show as a table, or save" : "Save";
  const buttons = saveButtons(picture).map(({ title, click }) => h("button", { type: "button", click }, title));
  numbers.replaceChildren(summary, h("p", {}, buttons), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `numbers of: ${drawn.title}` }, table));
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");
dark.addEventListener("change", () => redraw());
narrow.addEventListener("change", () => {
  for (const { plot } of pictures) Plotly.purge(plot);  // it would keep a colour bar's old place beside the new one
  redraw();
});
addEventListener("beforeprint", () => pictures.forEach((picture) => paint(picture, true)));

function colours() {
  const style = getComputedStyle(document.documentElement);
  const named = Object.fromEntries(["ink", "quiet", "line", "card", "missing"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  // Blue below zero and red above: told apart in all common forms of colour blindness. Zero is the page's ground.
  const diverging = dark.matches
    ? [[0, "#79bdf5"], [0.25, "#2f6ea5"], [0.5, "#14161a"], [0.75, "#a6492f"], [1, "#ff9a7a"]]
    : [[0, "#2166ac"], [0.25, "#74add1"], [0.5, "#fafafa"], [0.75, "#ef8a62"], [1, "#b2182b"]];
  const sequential = dark.matches
    ? [[0, "#14161a"], [0.5, "#6a51a3"], [1, "#dadaeb"]]
    : [[0, "#fafafa"], [0.5, "#9e9ac8"], [1, "#3f007d"]];
  return { ...named, diverging, sequential };
}

const GROUPS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999933"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

/** A colour on the way from the first to the last of an order, readable on light and dark ground. */
function ordered(rank, last) {
  const stops = dark.matches ? [[110, 90, 200], [40, 160, 170], [250, 225, 80]] : [[190, 200, 60], [35, 150, 140], [70, 25, 110]];
  const at = last ? (rank / last) * 2 : 2;
  const [from, to] = at < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
  return `rgb(${from.map((value, i) => Math.round(value + (to[i] - value) * (at < 1 ? at : at - 1))).join(",")})`;
}

const translucent = (colour, share) => {
  const [r, g, b] = colour.startsWith("#") ? [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)) : colour.match(/\d+/g);
  return `rgba(${r},${g},${b},${share})`;
};

const axis = (title, more = {}) => ({
  title: { text: title, standoff: 8 }, gridcolor: colours().line, linecolor: colours().line, zerolinecolor: colours().quiet,
  automargin: true, ...more,
});

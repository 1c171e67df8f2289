// A picture is drawn when it comes near the window and what it shows has changed; all others follow when the browser is
// idle, so that the whole page can be captured and searched.

const pictures = [];
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const picture = pictures.find((one) => one.figure === entry.target);
    picture.near = entry.isIntersecting;
    if (!pressed) paint(picture);
  }
}, { rootMargin: "400px" });

/** Drawing a picture moves what is below it, so it waits while a button is pressed: else the click would be lost. */
let pressed = false;
addEventListener("pointerdown", () => { pressed = true; }, true);
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => { pressed = false; paintLater(); }, true);

/**
 * `draw` returns {title, note, runs, traces, layout, height}, or a note without traces if there is nothing to draw; `alt` is
 * its values for screen readers, and `table` returns {head, rows} of text. `shapes` returns all that the slider
 * moves in it, if these are only lines.
 */
function addPicture(parent, id, draw, shapes = null) {
  const caption = h("figcaption");
  const plot = h("div", { class: "plot", id, role: "img" });
  const numbers = h("details", { class: "numbers", toggle: () => drawNumbers(picture) });
  const figure = h("figure", {}, copyButton(id), caption, h("div", { class: "wide" }, plot), numbers);
  parent.append(figure);
  const picture = { figure, caption, plot, numbers, draw, shapes, group: parent.id, near: false, stale: true };
  // Kept: given a new configuration Plotly starts from nothing, over and over if the
  // next drawing is requested before it is done. No button sends data away.
  picture.config = { displaylogo: false, responsive: true, modeBarButtons: [[...saveButtons(picture), "resetScale2d"]] };
  pictures.push(picture);
  watcher.observe(figure);
  widths.observe(plot);
  paintRest();
}

/** Copies an address that opens the page at this picture, as shown now; if copying is forbidden, displays it. */
function copyButton(id) {
  const confirm = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "Copy link"; }, 2000); };
  const shown = (link) => button.after(h("input", { type: "text", readonly: true, value: link, "aria-label": "link to this picture", class: "link" }));
  const button = h("button", {
    type: "button", class: "copy", "aria-describedby": id,
    click: () => { const link = linkTo(id); return navigator.clipboard ? navigator.clipboard.writeText(link).then(() => confirm("Copied"), () => shown(link)) : shown(link); },
  }, "Copy link");
  return button;
}

function redraw(...groups) {
  for (const picture of pictures) {
    if (groups.length && !groups.includes(picture.group)) continue;
    picture.stale = true;
    paint(picture);
  }
  paintRest();
}

/** After a move of the slider: lines move and all else is redrawn, first what is in the window, heatmaps at first as sketches. */
function follow(...groups) {
  clearTimeout(resting);
  resting = null;  // out of sight: waits until the slider rests
  const moved = pictures.filter(({ group }) => groups.includes(group));
  const drawn = moved.filter((picture) => !picture.shapes || picture.stale);
  for (const picture of drawn) picture.stale = true;
  const hasty = drawn.filter(seen).map((picture) => sketch(picture) || paint(picture)).some(Boolean);
  for (const { plot, shapes } of moved.filter((picture) => !drawn.includes(picture))) {
    if (plot.layout) Plotly.relayout(plot, { shapes: shapes(plot) });
  }
  paintLater(hasty ? RESTS : 0);
}

const seen = ({ figure }) => {
  const { top, bottom } = figure.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
};

let waiting = null;

/** One at a time, so that the slider's next move need not wait for pictures outside the window. */
function paintLater(after = 0) {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const next = pictures.find((picture) => picture.near && picture.stale);
    if (!next) return paintRest();
    paint(next);
    paintLater();
  }, after);
}

const REST = 700;  // milliseconds without a change; longer than between two checkpoints while they play
const idle = window.requestIdleCallback ? (work) => requestIdleCallback(work, { timeout: 50 }) : (work) => setTimeout(work, 20);
let resting = null;

/** Pictures far from the window, one at a time while the browser is idle. Hidden ones have no width yet. */
function paintRest() {
  clearTimeout(resting);
  const work = () => {
    const next = pictures.find(({ stale, plot }) => stale && plot.offsetWidth);
    if (!next || resting !== own) return;
    paint(next, true);
    idle(work);
  };
  const own = (resting = setTimeout(() => idle(work), REST));
}

function paint(picture, wanted = picture.near) {
  if (!wanted || !picture.stale) return;
  picture.stale = false;
  picture.drawn = picture.draw(picture);
  picture.standing = picture.drawn.standing;
  const { traces, layout, height, opens } = picture.drawn;
  describePicture(picture);
  unsketch(picture);
  picture.plot.classList.toggle("empty", !traces);
  if (!traces) return void Plotly.purge(picture.plot);
  const colour = colours();
  if (layout.margin?.autoexpand === false) standStill(layout);
  Plotly.react(picture.plot, traces, {
    height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    font: { color: colour.ink, family: "system-ui, sans-serif", size: 12 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour.quiet, activecolor: colour.ink },
    hoverlabel: { align: "left", bgcolor: colour.card, bordercolor: colour.line, font: { color: colour.ink } },
    ...layout,
  }, picture.config);
  for (const button of picture.plot.querySelectorAll(".modebar-btn")) button.tabIndex = -1;  // the same buttons are below the picture, for the keyboard
  picture.plot.classList.toggle("opens", Boolean(opens));
  picture.plot.removeAllListeners("plotly_click");  // clicks belong to the old drawing
  if (opens) picture.plot.on("plotly_click", ({ points: [point] }) => opens(point));
}

/** The frame of a picture: its caption, its words for screen readers, and its table. */
function describePicture(picture) {
  const { title, note, runs = [], alt } = picture.drawn;
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
  drawNumbers(picture);
}

/** With fixed margins Plotly need not measure all axis labels, which takes a third of the time. */
function standStill(layout) {
  for (const [name, one] of Object.entries(layout)) {
    if (/^[xy]axis/.test(name)) Object.assign(one, { automargin: false, ticklabeloverflow: "allow" });
  }
}

/** A picture's numbers as a table, made when opened; with the buttons that save. Plotly's own, three on each
 * picture, would be in the keyboard's way. */
function drawNumbers(picture) {
  const { numbers, drawn } = picture;
  if (!drawn) return;  // opened before it was drawn, which asks again
  numbers.hidden = !drawn.traces;
  if (numbers.hidden) return void numbers.replaceChildren();
  const { head, rows, opens } = numbers.open && drawn.table ? drawn.table() : { head: [], rows: [] };
  const cell = (text, row, column) => {
    const click = text && opens?.(row, column);
    return click ? h("button", { type: "button", click }, text) : text;
  };
  const table = h("table", {},
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row, r) => h("tr", {}, row.map((text, i) => h(i ? "td" : "th", { scope: i ? null : "row" }, cell(text, r, i)))))));
  const summary = numbers.querySelector("summary") ?? h("summary");
  summary.textContent = drawn.table ? "Show as a table, or save" : "Save";
  const asTable = drawn.table ? [{ title: "Save as CSV", click: () => saveTable(picture) }] : [];
  const buttons = [...saveButtons(picture), ...asTable].map(({ title, click }) => h("button", { type: "button", click }, title));
  numbers.replaceChildren(summary, h("p", {}, buttons), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `numbers of: ${drawn.title}` }, table));
}

let printing = false;
/** A media query, with fixed answers while printing: light, and as wide as the paper. */
function media(query) {
  const asked = matchMedia(query);
  return { get matches() { return !printing && asked.matches; }, addEventListener: (type, listener) => asked.addEventListener(type, () => printing || listener()) };
}
const dark = media("(prefers-color-scheme: dark)");
const narrow = media("(max-width: 40rem)");
dark.addEventListener("change", () => redraw());
// Capturing a whole page, the browser makes the window narrow for a moment: only lasting changes count.
let wasNarrow = narrow.matches, turning = null;
narrow.addEventListener("change", () => {
  clearTimeout(turning);
  turning = setTimeout(() => {
    if (narrow.matches === wasNarrow) return;
    wasNarrow = narrow.matches;
    drawAnew();
  }, 150);
});

/** Starts again from nothing: Plotly would keep an old colour bar beside the new one. */
function drawAnew() {
  for (const { plot } of pictures) Plotly.purge(plot);
  redraw();
}

/** The largest height of a picture in pixels, for one or two per sheet of paper; and the scale at which two fit. */
const SHEET = { one: 650, two: 335, least: 0.75 };
const onSheet = (height) => (height * SHEET.least <= SHEET.two ? SHEET.two : SHEET.one) / height;

/** All pictures as wide as the paper, in light colours; too tall ones scaled down. */
function forPrint(on) {
  if (on === printing) return;
  printing = on;
  document.documentElement.classList.toggle("printing", on);
  followAttention();  // small pictures drawn without Plotly
  if (!on) {
    for (const { figure } of pictures) figure.style.zoom = "";
    return drawAnew();
  }
  for (const picture of pictures) {
    Plotly.purge(picture.plot);
    picture.stale = true;
    paint(picture, Boolean(picture.plot.offsetWidth));
    picture.figure.style.zoom = Math.min(1, onSheet(picture.figure.offsetHeight || 1));
  }
}
addEventListener("beforeprint", () => forPrint(true));
addEventListener("afterprint", () => forPrint(false));

/** The page's colours, cached: reading them is slow. */
let coloured = null;
function colours() {
  const key = `${dark.matches} ${printing}`;
  if (coloured?.key === key) return coloured;
  const style = getComputedStyle(document.documentElement);
  const named = Object.fromEntries(["ink", "quiet", "line", "card", "missing"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  // Blue below zero and red above, distinct in all common forms of colour blindness. Zero is the page's background.
  const diverging = dark.matches
    ? [[0, "#79bdf5"], [0.25, "#2f6ea5"], [0.5, "#14161a"], [0.75, "#a6492f"], [1, "#ff9a7a"]]
    : [[0, "#2166ac"], [0.25, "#74add1"], [0.5, "#fafafa"], [0.75, "#ef8a62"], [1, "#b2182b"]];
  const sequential = dark.matches
    ? [[0, "#14161a"], [0.5, "#6a51a3"], [1, "#dadaeb"]]
    : [[0, "#fafafa"], [0.5, "#9e9ac8"], [1, "#3f007d"]];
  // Green and purple: a difference of two pictures must not look like one of them.
  const differing = dark.matches
    ? [[0, "#d9aeea"], [0.25, "#84529b"], [0.5, "#14161a"], [0.75, "#2c7745"], [1, "#8fe3a2"]]
    : [[0, "#6a2277"], [0.25, "#af8dc3"], [0.5, "#fafafa"], [0.75, "#7fbf7b"], [1, "#1b7837"]];
  coloured = { ...named, diverging, sequential, differing, key };
  return coloured;
}

const GROUPS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999933"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

/** A colour between an order's first and last, readable on light and dark backgrounds. */
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

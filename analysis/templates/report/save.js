// Saves a picture as PNG or SVG, with its title, caption and run ids, and its numbers as CSV.

const ICON = { width: 24, height: 24 };
const ICONS = {
  // The icons: a frame with hills, and a frame of corner points.
  png: { ...ICON, path: "M3 4h18v16H3zM5 6v10l4-4 3 3 5-6 2 2.5V6z" },
  svg: { ...ICON, path: "M3 3h5v2h8V3h5v5h-2v8h2v5h-5v-2H8v2H3v-5h2V8H3zM7 8v8h1v1h8v-1h1V8h-1V7H8v1z" },
};

const saveButtons = (picture) => ["png", "svg"].map((format) => ({
  name: `save ${format}`, title: `Save as ${format.toUpperCase()}`, icon: ICONS[format], click: () => savePicture(picture, format),
}));

/** A few runs are named in the file's name too. */
function fileName(picture) {
  const { title, runs = [] } = picture.drawn;
  const who = runs.length > 3 ? count(runs.length, "run") : runs.map((run) => run.run_id).join(" ");
  return `${title} ${who}`.toLowerCase().replaceAll("−", "minus").replace(/[^\p{L}\p{N}.-]+/gu, "-").replace(/^-|-$/g, "").slice(0, 150);
}

function savePicture(picture, format) {
  paint(picture, true);
  const { title, note, runs = [] } = picture.drawn;
  const { data, layout, offsetWidth } = picture.plot;
  const width = Math.max(offsetWidth, 640), height = layout.height ?? picture.plot.offsetHeight;
  const lines = wrap([note, runs.length ? `runs ${runs.map((run) => run.run_id).join(", ")}` : null].filter(Boolean), Math.floor(width / 6));
  const above = 34 + 14 * lines.length, top = (layout.margin?.t ?? 80) + above;
  return Plotly.downloadImage({
    data,
    layout: {
      ...layout, width, height: height + above, paper_bgcolor: colours().card, margin: { ...layout.margin, t: top },
      annotations: [
        ...(layout.annotations ?? []),
        ...[[plain(title), 15, 8], [lines.map(plain).join("<br>"), 11, 30]].map(([text, size, from]) => ({
          text, font: { size }, showarrow: false, align: "left", xref: "paper", x: 0, xanchor: "left", xshift: 10 - (layout.margin?.l ?? 80),
          yref: "paper", y: 1, yanchor: "top", yshift: top - from,
        })),
      ],
    },
  }, { format, width, height: height + above, scale: format === "png" ? 2 : 1, filename: fileName(picture) });
}

/** A value, its interval and a note, as the page's tables write them. */
const VALUE_TEXT = /^([−-]?\d[\d.]*(?:e[+−-]?\d+)?)(?: \[(.*?), (.*?)\])?(?:,? (.+))?$/;

/** A table as CSV; intervals get their own columns. */
function csv({ head, rows }) {
  const columns = head.flatMap((name, at) => {
    const found = rows.map((row) => (at ? VALUE_TEXT.exec(row[at]) : null));
    const parts = [["low", 2], ["high", 3], ["note", 4]].filter(([, part]) => found.some((one) => one?.[part]));
    const words = (one, i) => (one ? one[4] ?? "" : rows[i][at]);
    return parts.length
      ? [[name, ...found.map((one) => one?.[1] ?? "")], ...parts.map(([what, part]) => [`${name}, ${what}`, ...found.map((one, i) => (part === 4 ? words(one, i) : one?.[part] ?? ""))])]
      : [[name, ...rows.map((row) => row[at])]];
  });
  const cell = (text) => {
    const written = String(text).replace(/^−(?=\d)/, "-").replace(/e−/, "e-");
    return /[",\r\n]/.test(written) ? `"${written.replaceAll('"', '""')}"` : written;
  };
  return columns[0].map((_, row) => `${columns.map((column) => cell(column[row])).join(",")}\n`).join("");
}

function saveTable(picture) {
  const href = URL.createObjectURL(new Blob([csv(picture.drawn.table())], { type: "text/csv" }));
  h("a", { href, download: `${fileName(picture)}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}

function wrap(texts, length) {
  const lines = [];
  for (const text of texts) {
    let line = "";
    for (const word of text.split(" ")) {
      if (line && line.length + word.length >= length) { lines.push(line); line = word; }
      else line = line ? `${line} ${word}` : word;
    }
    lines.push(line);
  }
  return lines;
}

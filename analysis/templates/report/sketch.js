// Heatmaps while the slider moves. Plotly takes a tenth of a second for a picture of nine panels, so moving ones are painted
// on a canvas above it, from the same traces and layout; Plotly draws when the slider rests.

const RESTS = 250;  // milliseconds without a step
const FONT = "system-ui, sans-serif";

/** Outlines of the marks in cells, of radius r. */
const OUTLINES = {
  circle: (r) => `M${r},0A${r},${r} 0 1,1 0,${-r}A${r},${r} 0 0,1 ${r},0Z`,
  "triangle-up": (r) => `M${-r * 1.155},${r / 2}L${r * 1.155},${r / 2}L0,${-r}Z`,
  "triangle-down": (r) => `M${-r * 1.155},${-r / 2}L${r * 1.155},${-r / 2}L0,${r}Z`,
  x: (r) => { const a = r * 0.566; return `M0,${a}l${a},${a}l${a},${-a}l${-a},${-a}l${a},${-a}l${-a},${-a}l${-a},${a}l${-a},${-a}l${-a},${a}l${a},${a}l${-a},${a}l${a},${a}Z`; },
};

/** What a canvas cannot update. Two drawings equal in this differ only in cells, marks and the words above panels. */
function standing({ panels, layout, height, room }) {
  const { annotations, shapes, ...still } = layout;
  return JSON.stringify([height, room, still, shapes.filter(({ xref }) => xref === "paper"), panels.map(({ panel, left, top, width, height: high }) => [left, top, width, high, panel.layout])]);
}

/** Paints a picture's present content over Plotly's last drawing; false if Plotly has to draw anew. */
function sketch(picture) {
  const { plot, standing: before } = picture;
  if (!before || !plot._fullLayout || printing) return false;
  const drawn = picture.draw(picture);
  if (!drawn.standing || drawn.standing !== before) return false;
  picture.drawn = drawn;
  describePicture(picture);
  const canvas = plot.querySelector(":scope > .sketch") ?? plot.appendChild(h("canvas", { class: "sketch" }));
  const { layout: { margin: { l, t } }, height } = drawn, width = plot.clientWidth, scale = devicePixelRatio;
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.translate(l, t);
  paintPanels(pen, drawn);
  paintWords(pen, drawn, width - l - drawn.layout.margin.r, height - t - drawn.layout.margin.b);
  plot.classList.add("moves");
  return true;
}

/** Shows Plotly's own drawing again. */
function unsketch({ plot }) {
  plot.classList.remove("moves");
  plot.querySelector(":scope > .sketch")?.remove();
}

function paintPanels(pen, { traces, layout, panels, size }) {
  const placed = Object.fromEntries(panels.map((at, i) => [`x${suffix(i)}`, at]));
  const middle = (at, x, y) => [at.left + (x + 0.5) * size, at.top + at.height - (y + 0.5) * size];
  pen.fillStyle = colours().card;
  for (const { left, top, width, height } of panels) pen.fillRect(left, top, width, height);
  const maps = traces.filter(({ type }) => type === "heatmap");
  for (const trace of maps) {
    const at = placed[trace.xaxis], colour = trace.coloraxis ? shade(layout[trace.coloraxis]) : shade({ cmin: 0, cmax: 1, colorscale: trace.colorscale });
    trace.z.forEach((row, y) => row.forEach((value, x) => {
      if (!known(value)) return;
      pen.fillStyle = `rgb(${colour(value).join(",")})`;
      pen.fillRect(at.left + x * size, at.top + at.height - (y + 1) * size, size, size);
    }));
  }
  for (const { path, xref, fillcolor, line } of layout.shapes.filter(({ xref }) => xref !== "paper")) {
    const at = placed[xref], drawn = new Path2D(), [left, top] = middle(at, 0, 0);
    drawn.addPath(new Path2D(path), new DOMMatrix([size, 0, 0, -size, left, top]));
    if (fillcolor) { pen.fillStyle = fillcolor; pen.fill(drawn); }
    if (line?.width) { pen.strokeStyle = line.color; pen.lineWidth = line.width; pen.stroke(drawn); }
  }
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const trace of maps.filter(({ text }) => text)) {
    const at = placed[trace.xaxis], colour = shade(layout[trace.coloraxis]);
    pen.font = `${trace.textfont.size}px ${FONT}`;
    trace.text.forEach((row, y) => row.forEach((text, x) => {
      if (!text) return;
      const [r, g, b] = colour(trace.z[y][x]);
      pen.fillStyle = 299 * r + 587 * g + 114 * b < 128000 ? "#fff" : "#444";  // as in Plotly
      pen.fillText(text, ...middle(at, x, y));
    }));
  }
  for (const { xaxis, x, y, marker } of traces.filter(({ type }) => type === "scatter")) {
    const isOpen = marker.symbol.endsWith("-open"), outline = new Path2D(OUTLINES[marker.symbol.replace("-open", "")](marker.size / 2));
    Object.assign(pen, { fillStyle: marker.color, strokeStyle: marker.color, lineWidth: marker.line.width });
    for (const i of x.keys()) {
      pen.save();
      pen.translate(...middle(placed[xaxis], x[i], y[i]));
      (isOpen ? pen.stroke : pen.fill).call(pen, outline);
      pen.restore();
    }
  }
}

/** The words above panels and colour bars, all flush left. */
function paintWords(pen, { layout }, width, height) {
  Object.assign(pen, { fillStyle: colours().ink, textAlign: "left", textBaseline: "alphabetic" });
  for (const { text, x, y, yshift = 0, font } of layout.annotations) {
    const lines = text.split("<br>"), high = 1.3 * font.size;
    lines.forEach((line, n) => {
      let at = x * width + 2;
      for (const [, bold, words] of line.matchAll(/(<b>)?([^<]+)(?:<\/b>)?/g)) {
        const text = words.replace(/&(?:amp|lt|gt|#37);/g, (sign) => ({ "&amp;": "&", "&lt;": "<", "&gt;": ">", "&#37;": "%" })[sign]);
        pen.font = `${bold ? "bold " : ""}${font.size}px ${FONT}`;
        pen.fillText(text, at, (1 - y) * height - yshift - (lines.length - 1 - n) * high - 5);
        at += pen.measureText(text).width;
      }
    });
  }
}

/** A value's colour on a scale, mixed as in Plotly: red, green, blue. */
function shade({ cmin, cmax, colorscale }) {
  const stops = colorscale.map(([at, hex]) => [at, [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))]);
  return (value) => {
    const share = Math.min(Math.max((value - cmin) / (cmax - cmin), 0), 1), next = Math.max(1, stops.findIndex(([at]) => at >= share));
    const [[from, one], [to, other]] = [stops[next - 1], stops[next]];
    return one.map((part, i) => Math.round(part + ((other[i] - part) * (share - from)) / (to - from)));
  };
}

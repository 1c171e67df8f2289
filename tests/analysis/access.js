// Questions to the page that tests ask: see test_page_access.py.

/**
 * How many texts there are, and which texts and borders of controls are fainter than WCAG 2.2 AA has it: texts 4.5 (large ones
 * 3), borders 3. Texts on the colours of a heatmap are left out, for these are an image.
 */
function contrast() {
  const parse = (colour) => {
    const [r, g, b, a = 1] = (colour.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number), scale = colour.startsWith("color(srgb") ? 255 : 1;
    return [r * scale, g * scale, b * scale, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const part = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ratio = (one, other) => { const [a, b] = [luminance(one), luminance(other)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, colour) => over(colour, below), [255, 255, 255]);
  };
  const seen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const poor = [];
  const tell = (what, element, value, least) => { if (value < least) poor.push(`${what} ${value.toFixed(2)}: ${element.tagName} ${element.id || element.getAttribute("class") || ""} "${(element.textContent || element.value || "").trim().slice(0, 40)}"`); };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || ["SCRIPT", "STYLE", "NOSCRIPT", "OPTION"].includes(element.tagName) || !seen(element)) continue;
    if (element.closest(".heatmaplayer, :disabled")) continue;
    const range = document.createRange();
    range.selectNodeContents(walk.currentNode);
    if (!range.getBoundingClientRect().width) continue;
    const style = getComputedStyle(element), svg = element.closest("svg"), size = parseFloat(style.fontSize);
    const colour = parse(svg ? style.fill : style.color);
    if (svg) colour[3] *= Number(style.fillOpacity);
    for (let at = element; at; at = at.parentElement) colour[3] *= Number(getComputedStyle(at).opacity);
    if (!colour[3]) continue;  // not painted
    const below = ground(svg ? svg.parentElement : element);
    texts += 1;
    tell("text", element, ratio(over(colour, below), below), size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5);
  }
  for (const control of document.querySelectorAll("select, input:not([type=checkbox], [type=range]), button")) {
    const style = getComputedStyle(control);
    if (control.disabled || !seen(control) || style.borderTopWidth === "0px") continue;
    const around = ground(control.parentElement);
    tell("border", control, ratio(over(parse(style.borderTopColor), around), around), 3);
  }
  return { texts, poor };
}

/** What would be wrong on paper. */
function sheet() {
    const drawn = pictures.filter(({ plot, drawn }) => plot.offsetWidth && drawn?.traces), inside = (one, other) => one.right <= other.right + 1 && one.bottom <= other.bottom + 1;
    return {
        stale: pictures.filter(({ plot, stale }) => plot.offsetWidth && stale).length,
        cut: drawn.filter(({ plot, figure }) => [...plot.querySelectorAll(".main-svg, .main-svg text")].some((part) => part.getBoundingClientRect().width && !inside(part.getBoundingClientRect(), figure.getBoundingClientRect()))).map(({ plot }) => plot.id),
        high: Math.max(...drawn.map(({ figure }) => figure.getBoundingClientRect().height)), width: document.body.getBoundingClientRect().width, count: drawn.length,
        split: drawn.filter(({ figure }) => getComputedStyle(figure).breakInside !== "avoid").length,
        rolled: [...document.querySelectorAll(".scroll")].filter((box) => box.offsetWidth && box.scrollHeight > box.clientHeight + 1 && getComputedStyle(box).overflowY !== "visible").length,
        sticky: [...document.querySelectorAll("main *, #bar")].filter((one) => getComputedStyle(one).position === "sticky" && one.offsetWidth).length,
        panels: document.querySelector("#z-plot").data.filter(({ type }) => type === "heatmap").length,
        ink: getComputedStyle(document.body).color,
    };
}

/** Begins to note what has the focus, whether that is seen, and whether anything lies over it; how many controls there are. */
function controls() {
    const all = [...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")];
    window.wanted = all.filter((one) => !one.disabled && one.checkVisibility({ visibilityProperty: true }) && one.closest("svg, .modebar") === null);
    window.reached = [];
    addEventListener("focusin", ({ target }) => {
        const { outlineStyle, outlineWidth } = getComputedStyle(target), box = target.getBoundingClientRect();
        const top = document.elementFromPoint(Math.min(Math.max(box.left + box.width / 2, 0), innerWidth - 1), box.top + Math.min(box.height, 24) / 2);
        reached.push([target, outlineStyle !== "none" && parseFloat(outlineWidth) >= 1, Boolean(top && (target.contains(top) || top.contains(target)))]);
    });
    return wanted.length;
}

/** Texts of a picture that lie on each other, as turned as they are. */
function overprinted() {
  const corners = (text) => {
    const { x, y, width, height } = text.getBBox(), matrix = text.getScreenCTM(), inset = height / 6;  // a letter is lower than its line
    return [[x, y + inset], [x + width, y + inset], [x + width, y + height - inset], [x, y + height - inset]].map(([a, b]) => new DOMPoint(a, b).matrixTransform(matrix));
  };
  const apart = (one, other) => [one, other].some((box) => [0, 1].some((side) => {
    const [x, y] = [box[side + 1].x - box[side].x, box[side + 1].y - box[side].y], along = (points) => points.map((point) => point.x * x + point.y * y);
    const [a, b] = [along(one), along(other)], slack = Math.hypot(x, y);
    return Math.max(...a) <= Math.min(...b) + slack || Math.max(...b) <= Math.min(...a) + slack;
  }));
  const found = [];
  for (const { plot } of pictures) {
    const texts = [...plot.querySelectorAll("svg text")].filter((text) => text.textContent.trim() && text.getBoundingClientRect().width && !text.closest(".modebar, .scatterlayer"));
    const boxes = texts.map(corners);
    boxes.forEach((box, i) => boxes.slice(0, i).forEach((other, k) => { if (!apart(box, other)) found.push(`${plot.id}: ${texts[k].textContent} / ${texts[i].textContent}`); }));
  }
  return found;
}

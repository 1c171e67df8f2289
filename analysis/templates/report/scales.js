// Colour scales of heatmaps. Recovered ends at 1 either way, everywhere, so that pictures can be compared; differences,
// logits and spreads end at a round number for all checkpoints. Zoomed, each panel ends at its own.

const SCALES = { fixed: "the same for all", zoom: "zoom: each panel's own range" };

/** A round number beyond all but the oddest of some values: one cell at a small gap would take the colour from all others. */
function roundEnd(values) {
  const sizes = values.filter(known).map(Math.abs).sort((a, b) => a - b);
  const top = sizes[Math.ceil(0.995 * (sizes.length - 1))] || 0;
  const decade = 10 ** Math.floor(Math.log10(top || 1));
  return Number(([1, 1.5, 2, 3, 5, 7.5, 10].find((step) => step * decade >= top * 0.999) * decade).toPrecision(3));
}

/** All values of one view, or of the second of two less the first, at a site over the checkpoints. */
function valuesOver(pair, site, quantity, over) {
  return remember(["values over", pair, site, quantity, over], () => shownSteps().flatMap((at) => {
    const [one, other] = pair.map(({ unit, corruption }) => sheet(unit, corruption, site, at, quantity));
    if (!one || (pair.length > 1 && (!other || !sameLayout(one.layout, other.layout)))) return [];
    const [list, second] = [one, other].map((found) => found?.cells.map((cell) => cell[over]));
    return second ? lessList(list, second) : list;
  }));
}

/** Where the colours of the shown panels end: by scale ("own", "difference"), or zoomed by panel. */
function scalesOf(sites, quantity, over, shown) {
  const isRecovered = quantity === "recovered" && over === "mean", unit = quantity === "recovered" ? "" : " (logits)";
  const what = over === "deviation" ? `standard deviation${unit}` : quantity === "recovered" ? "recovered" : "logits";
  const end = (panels) => remember(["end", sites, quantity, over, panels.map(({ views: of, site }) => [of, site])], () =>
    roundEnd(panels.flatMap((panel) => valuesOver(panel.views, panel.site, quantity, over))));
  const of = (scale) => shown.filter((panel) => panel.scale === scale);
  const both = { own: { title: what, end: isRecovered ? 1 : end(of("own")) } };
  if (of("difference").length) both.difference = { title: `difference${unit}`, end: end(of("difference")) };
  return {
    ...both, isZoomed: state.circuits.scale === "zoom", zoom: (panel) => end([panel]), isRecovered, isSpread: over === "deviation",
    // What is smaller needs no number: it is small by any verdict.
    least: ({ scale }, last) => (isRecovered ? DATA.delta : (scale === "difference" && quantity === "recovered" ? DATA.delta : 0.05 * last)),
  };
}

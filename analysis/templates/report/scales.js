// Colour scales of heatmaps. Recovered always ends at ±1, so that pictures can be compared; differences, logits
// and spreads end at a round number shared by all checkpoints. Zoomed, each panel has its own end.

const SCALES = { fixed: "the same for all", zoom: "zoom: each panel's own range" };

/** A round number beyond all but a few extreme values: one cell with a small gap would make all others pale. */
function roundEnd(values) {
  const sizes = values.filter(known).map(Math.abs).sort((a, b) => a - b);
  const top = sizes[Math.ceil(0.995 * (sizes.length - 1))] || 0;
  const decade = 10 ** Math.floor(Math.log10(top || 1));
  return Number(([1, 1.5, 2, 3, 5, 7.5, 10].find((step) => step * decade >= top * 0.999) * decade).toPrecision(3));
}

/** All values of a view, or of a second view minus the first, at a site over the checkpoints. */
function valuesOver(pair, site, quantity, over) {
  return remember(["values over", pair, site, quantity, over], () => shownSteps().flatMap((at) => {
    const [one, other] = pair.map(({ unit, corruption }) => siteCells(unit, corruption, site, at, quantity));
    if (!one || (pair.length > 1 && (!other || !sameLayout(one.layout, other.layout)))) return [];
    const [list, second] = [one, other].map((found) => found?.cells.map((cell) => cell[over]));
    return second ? lessList(list, second) : list;
  }));
}

/** The ends of the shown panels' colours: by scale ("own", "difference"), or by panel if zoomed. */
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
    // Smaller values need no number: by any verdict they are small.
    least: ({ scale }, last) => (isRecovered ? DATA.delta : (scale === "difference" && quantity === "recovered" ? DATA.delta : 0.05 * last)),
  };
}

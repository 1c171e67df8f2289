// Values for the pictures of circuits: those of one site (or "head": direct logit differences) of a unit under one
// corruption at one step, a cell for each layer and head or position, layer by layer.

/** The cells of a site, with values by run, for runs with the first run's layout. Null if nothing was examined. */
function siteCells(unit, corruption, site, at, quantity) {
  return remember(["site cells", unit, corruption, site, at, site === "head" || quantity], () => {
    const parts = blocksOf(unit, corruption).map((block) => [block.run, site === "head" ? block.head : block.sites[site]])
      .filter(([, part]) => part && DATA.steps[part.steps].includes(at));
    if (!parts.length) return null;
    const same = parts.filter(([, part]) => part.layout === parts[0][1].layout);
    const runs = same.map(([run, part]) => ({ run, values: valuesAt(part, DATA.steps[part.steps].indexOf(at), site, quantity) }));
    const ofAll = (name) => (site === "head" ? null : mean(same.map(([, part]) => part[name][DATA.steps[part.steps].indexOf(at)])) * DATA.unit);
    const layout = DATA.layouts[parts[0][1].layout];
    const intervalOf = site === "head" ? attributionInterval(unit, corruption, "head") : null;
    const judged = intervalOf ? (i) => ({ defined: true, ...intervalOf(at, i) }) : verdictsOf(unit, corruption, site, at, layout);
    return {
      layout, runs, clean: ofAll("clean"), corrupted: ofAll("corrupted"), of: parts.length,
      few: same.map(([, part]) => part.few).find(known) ?? null,
      cells: runs[0].values.map((_, i) => siteCell(runs.map(({ values }) => values[i]).filter(known), judged(i), quantity, site)),
    };
  });
}

/** A cell's mean and spread over runs, with its verdict and interval. Recovered is undefined without a gap. */
function siteCell(values, judged, quantity, site) {
  const none = quantity === "recovered" && site !== "head" && !judged.defined;
  const ends = site === "head" || quantity === "recovered" ? {} : { low: null, high: null };
  return { ...judged, ...ends, ...spread(none ? [] : values) };
}

function valuesAt(part, index, site, quantity) {
  const values = (part.change ?? part.value)[index];
  if (site === "head" || quantity === "change") return values.map((value) => (known(value) ? value * DATA.unit : null));
  // Positions that only some prompts have get their own gap.
  const room = part.room?.[index] ?? [part.clean[index] - part.corrupted[index]];
  return values.map((value, i) => (known(value) && room[i % room.length] ? value / room[i % room.length] : null));
}

/** Mean, standard deviation and number of values, one per run. */
function spread(values) {
  return { mean: values.length ? mean(values) : null, deviation: values.length > 1 ? Math.sqrt(variance(values)) : null, n: values.length };
}

/** The steps at which a site of a unit was examined under a corruption. */
function stepsOf(unit, corruption, site) {
  return remember(["steps of", unit, corruption, site], () =>
    unique(blocksOf(unit, corruption).map((block) => block.sites[site]).filter(known).flatMap((part) => DATA.steps[part.steps])).sort((a, b) => a - b));
}

/** Cells of a layout as rows of a heatmap. */
const rowsOfCells = (layout, list) => layout.layers.map((_, row) => list.slice(row * layout.columns.length, (row + 1) * layout.columns.length));

/**
 * Components of lens or layers over checkpoints, with points {step, mean, low, high, n}. Intervals are over prompts and
 * seeds; for measures, which are over tokens, they are over runs.
 */
function componentCurves(unit, corruption, kind) {
  return remember(["components", unit, corruption, kind], () => {
    const found = blocksOf(unit, corruption).map((block) => block[kind]).filter(known);
    if (!found.length) return null;
    const same = found.filter((part) => part.components.join() === found[0].components.join());
    const missing = missingSteps(runsOf(unit)), examined = unique(same.flatMap((part) => DATA.steps[part.steps])).sort((a, b) => a - b);
    const steps = broken(examined.map((step) => ({ step })), missing).map(({ step }) => step);
    const intervalOf = attributionInterval(unit, corruption, kind);
    const point = (values, at, i) => (isMeasure(kind) ? band(values, "student") : { ...spread(values), ...intervalOf(at, i) });
    const curves = found[0].components.map((name, i) => ({
      name,
      points: steps.map((at) => (missing.has(at) ? { step: at, mean: null, low: null, high: null, n: 0 } : {
        step: at,
        ...point(same.map((part) => part.value[DATA.steps[part.steps].indexOf(at)]?.[i]).filter(known).map((value) => value * DATA.unit), at, i),
      })),
    }));
    return { steps, curves };
  });
}

/** Every head over the checkpoints of a unit. */
function headCurves(unit, corruption, site, quantity) {
  return remember(["heads", unit, corruption, site, quantity], () => {
    const steps = stepsOf(unit, corruption, site);
    const sheets = steps.map((at) => siteCells(unit, corruption, site, at, quantity));
    const layout = sheets.at(-1)?.layout;
    if (layout?.axis !== "head") return [];
    const there = steps.map((at, i) => [at, sheets[i]]).filter(([, one]) => one.layout === layout);
    return layout.layers.flatMap((layer) => layout.columns.map((head) => [layer, head])).map(([layer, head], i) => ({
      name: `${layer}.${head}`, layer, head, points: broken(there.map(([at, one]) => ({ step: at, ...one.cells[i] })), missingSteps(runsOf(unit))),
    }));
  });
}

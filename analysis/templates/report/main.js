drawHeader();
drawTableControls();
drawTable();
drawCurvesControls();
drawCircuitsControls();
addPicture($("curves-pictures"), "curves-plot", drawCurves);
if (DATA.blocks.length) {
  const lines = ({ layout }) => checkpointLines(layout.shapes.length);
  const attribution = (id, draw, shapes) => addPicture($("attribution-pictures"), id, draw, shapes);
  if (headSites().length) addPicture($("heads-pictures"), "heads-plot", drawTopHeads, lines);
  attribution("lens-plot", drawLens);
  attribution("lens-lines-plot", () => drawComponentLines("lens", "", "Logit lens"), lines);
  attribution("layer-plot", drawLayers);
  attribution("attn-lines-plot", () => drawComponentLines("layer", "attn", "Logit difference from each layer's attention"), lines);
  attribution("mlp-lines-plot", () => drawComponentLines("layer", "mlp", "Logit difference from each layer's MLP"), lines);
  if (DATA.blocks.some((block) => block.head)) attribution("head-plot", () => drawHeatmap("head"));
  const sites = unique(DATA.blocks.flatMap((block) => Object.keys(block.sites)));
  const order = [...Object.keys(SITES), ...sites];
  for (const site of unique(order).filter((name) => sites.includes(name))) {
    addPicture($("patching-pictures"), `${site.replace(APPROXIMATE, "-approximate")}-plot`, () => drawHeatmap(site));
  }
  const has = (name) => sites.includes(name) || sites.includes(name + APPROXIMATE);
  for (const across of ["v", "pattern"]) {
    if (has("z") && has(across)) addPicture($("scatter-pictures"), `z-${across}-plot`, () => drawScatter("z", across));
  }
  $("scatter-title").hidden = !$("scatter-pictures").children.length;
}

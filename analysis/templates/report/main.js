restoreView();
drawHeader();
chooseCurves();
drawTableControls();
drawTable();
drawCurvesControls();
drawCircuitsControls();
drawDifferencesOnce();
drawDifferences();
drawTrust();
// Plotly comes last on the page: the table is there before its five megabytes are read.
addEventListener("DOMContentLoaded", () => {
  addPicture($("curves-pictures"), "curves-plot", drawCurves);
  if (DATA.blocks.length) {
    addPicture($("attribution-pictures"), "lens-plot", drawLens);
    addPicture($("attribution-pictures"), "layer-plot", drawLayers);
    if (DATA.blocks.some((block) => block.head)) addPicture($("attribution-pictures"), "head-plot", () => drawHeatmap("head"));
    const sites = unique(DATA.blocks.flatMap((block) => Object.keys(block.sites)));
    const order = [...Object.keys(SITES), ...sites];
    for (const site of unique(order).filter((name) => sites.includes(name))) {
      addPicture($("patching-pictures"), `${site.replace(APPROXIMATE, "-approximate")}-plot`, () => drawHeatmap(site));
    }
  }
  addPicture($("differences-pictures"), "parallel-plot", drawParallel);
});

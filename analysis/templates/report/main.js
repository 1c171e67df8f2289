restoreView();
drawHeader();
drawFindings();
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
  addCircuitsPictures();
  addPicture($("differences-pictures"), "parallel-plot", drawParallel);
});

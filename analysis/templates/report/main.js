restoreView();
drawHeader();
chooseCurves();
drawView();
drawDifferencesOnce();
drawTrust();
// Plotly is the last script: the table appears before its five megabytes are read.
addEventListener("DOMContentLoaded", () => {
  addPicture($("curves-pictures"), "curves-plot", drawCurves);
  addGlance();
  addCircuitsPictures();
  addPicture($("differences-pictures"), "parallel-plot", drawParallel);
  listenToBrush($("parallel-plot"));
  goToPicture(pictureOf(location.hash));
});

restoreView();
drawHeader();
chooseCurves();
drawView();
drawDifferencesOnce();
drawTrust();
// Plotly comes last on the page: the table is there before its five megabytes are read.
addEventListener("DOMContentLoaded", () => {
  addPicture($("curves-pictures"), "curves-plot", drawCurves);
  addGlance();
  addCircuitsPictures();
  addPicture($("differences-pictures"), "parallel-plot", drawParallel);
  listenToBrush($("parallel-plot"));
  goToPicture(pictureOf(location.hash));
});

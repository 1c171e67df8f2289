drawHeader();
drawTableControls();
drawTable();
drawCurvesControls();
drawCircuitsControls();
addPicture($("curves-pictures"), "curves-plot", drawCurves);
addCircuitsPictures();

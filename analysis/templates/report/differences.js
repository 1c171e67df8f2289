// The configuration keys that differ between runs.

const MOST_SIDE_BY_SIDE = 8;

function drawDifferences() {
  const chosen = RUNS.filter((run) => state.chosen.has(run.run_id));
  const runs = (chosen.length ? chosen : visibleRuns()).filter((run) => known(run.setting));
  const rows = Object.keys(DATA.config.differs).sort()
    .map((key) => ({ key, values: runs.map((run) => configOf(run, key)).map(configText) }))
    .filter(({ values }) => new Set(values).size > 1);
  const hidden = (of) => of.filter((run) => !accepts(run)).length, ticked = "tick runs in the table to compare only these";
  const which = chosen.length ? `${count(chosen.length, "chosen run")}${hidden(chosen) ? `, ${hidden(chosen)} of them hidden by the filter` : ""}`
    : hidden(RUNS) ? `the ${count(runs.length, "run")} that the filter selects (it hides ${hidden(RUNS)}; ${ticked})` : `all runs (${ticked})`;
  $("differences-text").textContent = runs.length < 2
    ? "Comparing takes two started runs: tick them in the table of runs."
    : `Between ${which}: ${count(rows.length, "key")} of the configuration ${rows.length === 1 ? "differs" : "differ"}, including versions and the model found. Corruption and patching belong to patch jobs, not to runs.`;
  const side = runs.length <= MOST_SIDE_BY_SIDE;
  const head = side ? runs.map((run) => [h("code", {}, run.run_id), h("br"), h("span", { class: "quiet" }, runText(run))]) : ["values, with the number of runs"];
  const counted = ({ key, values }) => unique([...runs].sort((a, b) => compare(configOf(a, key), configOf(b, key))).map((run) => configText(configOf(run, key))))
    .map((value) => `${value} (${values.filter((other) => other === value).length})`).join(", ");
  const cells = (row) => (side ? row.values : [counted(row)]);
  $("differences-table").replaceChildren(...(rows.length && runs.length > 1 ? [
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "key"), head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, row.key)), cells(row).map((text) => h("td", {}, text))))),
  ] : []));
  $("clear-chosen").hidden = !chosen.length;
}

const configText = (value) => (value === undefined ? "unset" : typeof value === "number" ? written(value) : `${scalar(value)}`);

function drawDifferencesOnce() {
  $("clear-chosen").addEventListener("click", () => {
    state.chosen.clear();
    drawTable();
    drawDifferences();
    saveView();
    $("differences-title").focus();
  });
  const same = Object.entries(DATA.config.same).sort(([a], [b]) => compare(a, b));
  $("differences-same").hidden = !same.length;
  $("differences-same").append(
    h("summary", {}, `The same in all runs: ${count(same.length, "key")}`),
    h("dl", { class: "facts" }, same.flatMap(([key, value]) => [h("dt", {}, h("code", {}, key)), h("dd", {}, configText(value))])));
}

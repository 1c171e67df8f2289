const MOST_ROWS = 1000;  // more would be slow to draw, and nobody reads them

function drawTable() {
  const runs = visibleRuns(), columns = columnsShown();
  const rows = sorted(rowsShown(runs)).slice(0, MOST_ROWS);
  const isBaseline = (row) => row.id === state.baseline;
  const base = rowsShown(runs).find(isBaseline) ?? rowsShown(RUNS).find(isBaseline);  // even if the filter hides it
  const grouped = state.group !== null;
  $("runs-count").textContent = `${runs.length} of ${count(RUNS.length, "run")}` + (grouped ? ` in ${count(rowsShown(runs).length, "group")}` : "") +
    (rows.length === MOST_ROWS ? `; the first ${MOST_ROWS} rows are shown` : "");
  $("filter-none").textContent = RUNS.length && !runs.length ? whyNone(filter) : "";
  const focus = document.activeElement?.closest("#runs-table")?.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const { key, up } = state.sort;
  const sortBy = (name) => () => {
    state.sort = { key: name, up: state.sort.key === name ? !state.sort.up : true };
    drawTable();
    saveView();
  };
  $("runs-table").replaceChildren(
    h("thead", {}, h("tr", {},
      h("th", { scope: "col" }, "compare"),
      grouped ? h("th", { scope: "col" }, "runs") : null,
      columns.map((column) => h("th", { scope: "col", "aria-sort": key === column.key ? (up ? "ascending" : "descending") : "none" },
        h("button", { type: "button", "data-key": `sort ${column.key}`, click: sortBy(column.key) }, columnText(column)))))),
    h("tbody", {}, rows.map((row) => h("tr", { class: row.id === state.baseline ? "baseline" : null },
      h("td", {}, chooser(row)),
      grouped ? h("td", {}, `${row.runs.length}${leftOutText(row.runs)}`) : null,
      columns.map((column) => h("td", { class: ["error", "sweep"].includes(column.key) ? "" : "short" }, valueText(row, column), base && column.result ? deltaOf(row, base, column) : null))))),
  );
  if (focus) [...$("runs-table").querySelectorAll("[data-key]")].find((element) => element.dataset.key === focus)?.focus();
  $("runs-note").textContent = [
    grouped ? `Groups: mean [95% interval] over runs (${intervalText(rows.map((row) => row.runs.length))}); n in a cell: the number of runs with a value, if not all.` : "Win rate: [95% Wilson interval over prompts, of this run].",
    base ? `Δ: the row minus ${base.text}. Its interval is over pairs of runs that differ in nothing else if the rows have such pairs (p), else as for independent runs (i); a single run has none. It does not cover other prompts.` : "",
    topHeadsNote(columns),
  ].filter(Boolean).join(" ");
}

/** Selects a row's runs for the comparison of configurations. */
function chooser(row) {
  const ids = row.runs.map((run) => run.run_id);
  return h("input", {
    type: "checkbox", "data-key": `choose ${row.id}`, "aria-label": `compare the configuration of ${row.text}`, checked: ids.every((id) => state.chosen.has(id)),
    change: (event) => {
      for (const id of ids) state.chosen[event.target.checked ? "add" : "delete"](id);
      drawDifferences();
      saveView();
    },
  });
}

function sorted(rows) {
  const column = COLUMNS.find((one) => one.key === state.sort.key);
  if (!column) return state.group === null ? rows : rows.sort((a, b) => byValues(JSON.parse(a.id), JSON.parse(b.id)));
  const value = (row) => {
    if (!column.result) return valueOf(row.runs[0], column.key);
    const values = numbersOf(row, column);
    return values.length ? mean(values) : null;
  };
  const values = new Map(rows.map((row) => [row, value(row)]));
  return rows.sort((one, other) => {
    const [a, b] = [values.get(one), values.get(other)];
    return (known(a) && known(b) && !state.sort.up ? -1 : 1) * compare(a, b);
  });
}

const byValues = (a, b) => a.map((value, i) => compare(value, b[i])).find(Boolean) ?? 0;
/** The values behind a row's mean. */
const numbersOf = (row, { key }) => sound(row.runs).map((run) => valueOf(run, key)).filter((value) => typeof value === "number");
const within = ({ low, high }, share) => (share ? { low: Math.max(0, low), high: Math.min(1, high) } : { low, high });
/** Shares to three digits, so that they line up. */
/** For a step that a run may never reach: the number of runs that could have. A mean over those that did would come too early. */
function triedOf(row, { key }) {
  if (key === "first_step") return sound(row.runs).filter((run) => known(run.win_rate)).length;
  return key.startsWith("top_onset/") ? sound(row.runs).filter((run) => run[key.replace("top_onset", "judged")]).length : null;
}

const resultText = (value, share) => (share ? value.toFixed(3) : number(value));
const rangeText = ({ low, high }, share) => (known(low) ? ` [${resultText(low, share)}, ${resultText(high, share)}]` : "");

function valueText(row, column) {
  const { key } = column;
  if (state.group !== null && !state.group.includes(key)) return groupValue(row, column);
  const run = row.runs[0], value = valueOf(run, key);
  if (key === "run_id" && blocksOf(`run_id:${run.run_id}`).length) {
    return h("button", { type: "button", title: "show its circuits", "data-key": `show ${value}`, click: () => showCircuits(`run_id:${run.run_id}`) }, value);
  }
  if (key.startsWith("top_heads/")) return topHeadsText(row.runs, key);
  if (key === "status") return h("span", { class: value.split(" ")[0].replace(/[^a-z]/g, "") }, value);
  if (key === "links") return linksOf(run);
  if (key === "win_rate" && known(value)) return `${resultText(value, true)}${rangeText(wilson(value, run.win_n), true)} n ${run.win_n}`;
  if (key === "first_step" && !known(value) && known(run.win_rate)) return "not reached";
  if (key === "first_step" && known(value)) return number(value) + missingBefore(run, value);
  if (column.result && known(value)) return resultText(value, column.share);
  return known(value) ? written(value) : "";
}

function groupValue(row, column) {
  const { key } = column;
  if (column.result) {
    const values = numbersOf(row, column), tried = triedOf(row, column);
    if (known(tried) && (!tried || values.length < tried)) return tried ? `${values.length} of ${tried} ${key === "first_step" ? "reach it" : "have one"}` : "";
    if (!values.length) return "";
    const found = band(values);
    return `${resultText(found.mean, column.share)}${known(found.low) ? rangeText(within(found, column.share), column.share) : ""}${found.n < sound(row.runs).length ? ` n ${found.n}` : ""}`;
  }
  if (key.startsWith("top_heads/")) return topHeadsText(sound(row.runs), key);
  const all = row.runs.map((run) => valueOf(run, key)).filter((value) => known(value) && value !== "");
  if (key === "status") return unique(all).sort().map((status) => `${status} ${all.filter((other) => other === status).length}`).join(", ");
  if (key === "patch_jobs") {
    const sum = (part) => all.reduce((total, text) => total + Number(text.split("/")[part]), 0);
    return `${sum(0)}/${sum(1)}`;
  }
  if (key === "links") return "";
  const values = unique(all);
  if (key === "missing_steps") return values.sort(compare).join("; ");
  return values.length > 4 ? `${values.length} different` : values.sort(compare).map(written).join(", ");
}

function linksOf(run) {
  const { log, error, wandb } = DATA.links;
  const links = [[log, "log"], [error, "traceback"], [wandb, "wandb"]].filter(([of]) => known(of[run.index]));
  return links.flatMap(([of, name]) => [h("a", { href: of[run.index], "aria-label": `${name} of run ${run.run_id}` }, name), " "]);
}

/** A row's result minus the baseline's. */
function deltaOf(row, base, column) {
  if (row.id === base.id) return h("span", { class: "delta" }, "baseline");
  const [values, others] = [row, base].map((one) => numbersOf(one, column));
  const lacks = (one, found) => known(triedOf(one, column)) && found.length < sound(one.runs).length;
  if (!values.length || !others.length || lacks(row, values) || lacks(base, others)) return null;
  const pairs = pairsOf(row, base, column);
  const found = pairs ? band(pairs) : difference(values, others);
  const how = known(found.low) ? (pairs ? " p" : " i") : "";
  const sign = found.mean > 0 ? "+" : "";
  return h("span", { class: "delta" }, `Δ ${sign}${resultText(found.mean, column.share)}${rangeText(found, column.share)}${how}`);
}

/** Differences run by run, if each run of one row has a partner in the other that differs in the grouped keys only. */
function pairsOf(row, base, column) {
  const rest = [...FACTORS, ["seed"]].map(([key]) => key).filter((key) => !state.group?.includes(key));
  const byRest = (one) => new Map(sound(one.runs).filter((run) => typeof valueOf(run, column.key) === "number")
    .map((run) => [JSON.stringify(rest.map((key) => run[key] ?? null)), valueOf(run, column.key)]));
  const [values, others] = [byRest(row), byRest(base)];
  const single = values.size === numbersOf(row, column).length && others.size === numbersOf(base, column).length;
  if (!single || values.size < 2 || values.size !== others.size || [...values.keys()].some((key) => !others.has(key))) return null;
  return [...values].map(([key, value]) => value - others.get(key));
}

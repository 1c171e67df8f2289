function drawHeader() {
  const states = (rows) => {
    const found = unique(rows.map((row) => row.status)).sort();
    return found.map((status) => `${rows.filter((row) => row.status === status).length} ${status}`).join(", ") || "none";
  };
  const fact = (name, ...value) => [h("dt", {}, name), h("dd", {}, ...value)];
  $("top").append(
    h("h1", {}, DATA.sweeps.length ? `Sweep ${DATA.sweeps.map((sweep) => sweep.name).join(", ")}` : "Runs"),
    h("dl", { class: "facts" },
      DATA.sweeps.flatMap((sweep) => fact(`${sweep.name} (${count(sweep.cells, "cell")})`, h("code", {}, sweep.command))),
      fact("runs", `${RUNS.length}: ${states(RUNS)}`),
      fact("patch jobs", `${PATCHES.length}: ${states(PATCHES)}`),
      fact("made", DATA.made)),
  );
  if (DATA.note) $("top").append(h("p", { class: "notice" }, DATA.note));

  const cell = new Map(RUNS.map((run) => [run.run_id, known(run.cell) ? run.cell.replace(/^all$/, "") : planned(run)]));
  const items = (rows, word) => rows.map((row) => h("li", {},
    h("code", {}, row.run_id), row.corruption ? `, ${row.corruption} corruption` : "",
    cell.get(row.run_id) ? ` (${cell.get(row.run_id)})` : "", word(row)));
  const report = (title, kind, ...lists) => {
    const lines = lists.flat();
    if (lines.length) $("top").append(h("div", { class: `notice ${kind}` }, h("b", {}, `${title}: ${lines.length}`), h("ul", {}, lines)));
  };
  const failed = (row) => !["done", "diverged", "running", "todo"].includes(row.status);
  const why = (row) => `: ${row.status}${row.error ? `, ${row.error}` : ""}`;
  report("Failed or stopped", "stopped", items(RUNS.filter(failed), why), items(PATCHES.filter(failed), why));
  report("Diverged, and stopped: a result", "", items(RUNS.filter((row) => row.status === "diverged"), () => ""));
  report("Worse than at the start", "stopped", items(RUNS.filter((row) => known(row.outcome)), ({ win_rate: rate }) => (known(rate) ? `: held-out win rate ${resultTold(rate, true)} at the last checkpoint` : "")));
  report("Steps without a checkpoint, where nothing is drawn", "", items(RUNS.filter((row) => row.missing), ({ missing: { told } }) => `: at ${told.join("; at ")}`));
  const missing = (row) => row.status === "todo";
  report("Not started", "", items(RUNS.filter(missing), () => ""), items(PATCHES.filter(missing), () => ""));
}

// The title, and below it what went wrong: short, with the runs concerned folded.

const statesText = (rows) => {
  const found = unique(rows.map((row) => row.status)).sort();
  return found.map((status) => `${rows.filter((row) => row.status === status).length} ${status}`).join(", ") || "none";
};

/** The most lines of a notice before it is folded. */
const SEEN_AT_ONCE = 3;

function drawHeader() {
  $("top").append(h("h1", {}, DATA.sweeps.length ? `Sweep ${DATA.sweeps.map((sweep) => sweep.name).join(", ")}` : "Runs"));
  if (DATA.note) $("top").append(h("p", { class: "notice" }, DATA.note));

  const texts = new Map(RUNS.map((run) => [run.run_id, runText(run)]));
  const items = (rows, word) => rows.map((row) => h("li", {},
    h("code", {}, row.run_id), row.corruption ? `, ${row.corruption} corruption` : "",
    texts.get(row.run_id) ? ` (${texts.get(row.run_id)})` : "", word(row)));
  const report = (title, kind, what, ...lists) => {
    const lines = lists.flat();
    if (!lines.length) return;
    const summary = [h("b", {}, `${title}: `), lists.map((list, i) => (list.length ? count(list.length, what[i]) : null)).filter(Boolean).join(", ")];
    $("top").append(h("details", { class: `notice ${kind}`, open: lines.length <= SEEN_AT_ONCE }, h("summary", {}, summary), h("ul", {}, lines)));
  };
  const failed = (row) => !["done", "diverged", "running", "todo"].includes(row.status);
  const why = (row) => `: ${row.status}${row.error ? `, ${row.error}` : ""}`;
  const both = ["run", "patch job"];
  report("Failed or stopped", "stopped", both, items(RUNS.filter(failed), why), items(PATCHES.filter(failed), why));
  report("Diverged and was stopped, which is a result", "", both, items(RUNS.filter((row) => row.status === "diverged"), () => ""));
  report("Worse than at the start", "stopped", both, items(RUNS.filter((row) => known(row.outcome)), ({ win_rate: rate }) => (known(rate) ? `: held-out win rate ${resultText(rate, true)} at the last checkpoint` : "")));
  report("Missing steps, where nothing is drawn", "", both, items(RUNS.filter((row) => row.missing), ({ missing: { lines } }) => `: at ${lines.join("; at ")}`));
  const missing = (row) => row.status === "todo";
  report("Not started", "", both, items(RUNS.filter(missing), () => ""), items(PATCHES.filter(missing), () => ""));
}

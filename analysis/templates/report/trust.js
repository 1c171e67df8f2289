// What the results rest on: the number of prompts and their audit, what is missing, and the versions.

function drawTrust() {
  const isDone = (row) => row.status === "done" || row.status === "diverged";  // diverged is a result too
  const done = (rows) => `${rows.filter(isDone).length} of ${rows.length}`;
  const lacking = ![...RUNS, ...PATCHES].every(isDone);
  const measured = unique(PATCHES.map((patch) => patch.prompts).filter(known)).sort((a, b) => a - b);
  const versions = (key) => {
    const { same, differs } = DATA.config;
    return configText(Object.hasOwn(same, key) ? same[key] : differs[key].values.map(configText).join(", "));
  };
  const fact = (name, ...value) => [h("dt", {}, name), h("dd", {}, ...value)];
  const packages = CONFIG_KEYS.filter((key) => key.startsWith("versions."));
  $("trust-facts").append(
    ...DATA.sweeps.flatMap((sweep) => fact(`${sweep.name} (${count(sweep.points, "patch job")} planned)`, h("code", {}, sweep.command))),
    ...fact("runs", `${RUNS.length}: ${statesText(RUNS)}`, RUNS.length ? folded("their ids", RUNS.map((run) => run.run_id).join(" ")) : null),
    ...fact("patch jobs", `${PATCHES.length}: ${statesText(PATCHES)}`),
    ...fact("complete", `${done(RUNS)} runs and ${done(PATCHES)} patch jobs are done`, lacking ? h("span", {}, "; ", h("a", { href: "#top" }, "the others are listed at the top")) : "."),
    ...fact("patching", measured.length ? `each patch job has ${measured.join(" or ")} prompts, on which all results about circuits rest` : "no patch job has begun"),
    ...(!differing("seed").length ? [] : fact("seeds", `${count(differing("seed").length, "seed")}: ${differing("seed").sort(compare).map(written).join(", ")}`)),
    ...(packages.length ? fact("versions", packages.map((key) => `${key.slice("versions.".length)} ${versions(key)}`).join(" · ")) : []),
    ...fact("page made", DATA.made),
  );
  $("trust-audits").append(...DATA.audits.map(auditOf));
  if (!DATA.audits.length) $("trust-audits").append(h("p", { class: "quiet" }, "No run has reported on its prompts yet."));
}

const folded = (title, ...within) => h("details", {}, h("summary", {}, title), ...within);
const percent = (share) => `${number(100 * share)}%`;

/** The most ids in a heading; more are folded. */
const FEW_IDS = 2;

function auditOf({ audit, runs }) {
  const ids = runs.map((index) => RUNS[index].run_id), few = ids.length <= FEW_IDS;
  const whose = runs.length === RUNS.length ? "all runs" : `${count(runs.length, "run")}${few ? `: ${ids.join(", ")}` : ""}`;
  const others = few || runs.length === RUNS.length ? null : folded("which runs", h("p", { class: "quiet" }, ids.join(", ")));
  if (!audit.splits) {  // A task of another kind reports facts of its own choice.
    const facts = Object.entries(audit).flatMap(([name, value]) => [h("dt", {}, sentence(name)), h("dd", {}, String(scalar(value)))]);
    return h("div", {}, h("h3", {}, `Prompts of ${whose}`), others, h("dl", { class: "facts" }, facts));
  }
  const splits = Object.entries(audit.splits ?? {});
  const shared = (split, key) => (audit.overlap?.[split] ? String(audit.overlap[split][key]) : "");
  const top = (facts) => (facts.most_frequent_answer ? `${facts.most_frequent_answer.answer} ${percent(facts.most_frequent_answer.share)}` : "");
  const orders = (facts) => (facts.orders ? unique(Object.values(facts.orders)).sort(compare).join(" to ") : "");
  const columns = [
    ["split", ([split]) => sentence(split)], ["prompts", ([, facts]) => facts.prompts], ["duplicates", ([, facts]) => facts.duplicates],
    ["name sets", ([, facts]) => facts.name_sets], ["templates", ([, facts]) => facts.templates], ["most frequent answer", ([, facts]) => top(facts)],
    ["prompts of each order", ([, facts]) => orders(facts)], ["text also in train", ([split]) => shared(split, "same_text")],
    ["name set also in train", ([split]) => shared(split, "same_name_set")],
  ];
  const rules = Object.entries(audit.slot_rules ?? {}).map(([rule, share]) => `${rule} ${percent(share)}`).join(", ");
  return h("div", {},
    h("h3", {}, `Prompts of ${whose}`), others,
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `prompts of ${whose}` }, h("table", {},
      h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, splits.map((split) => h("tr", {}, columns.map(([, of], i) => h(i ? "td" : "th", { scope: i ? null : "row" }, String(of(split) ?? "")))))))),
    rules ? h("p", {}, `Held-out win rate of rules that look at one slot only: ${rules}. A model must beat them to have learned the task.`) : null,
    (audit.notes ?? []).map((note) => h("p", {}, `${note}.`)),
    droppedOf("rows", audit), droppedOf("held-out rows", audit.heldout_file));
}

/** The rows left out of a user's file, and why. */
function droppedOf(title, file) {
  if (!known(file?.rows)) return null;
  const reasons = Object.entries(file.dropped ?? {});
  return h("div", {}, h("p", {}, `${title}: ${file.rows}, kept ${file.kept}, dropped ${file.rows - file.kept}${reasons.length ? ":" : ""}`),
    h("ul", {}, reasons.map(([reason, rows]) => h("li", {}, `${reason}: ${rows.length} (row ${rows.slice(0, 12).join(", ")}${rows.length > 12 ? ", …" : ""})`))));
}

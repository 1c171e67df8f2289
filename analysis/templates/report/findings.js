// Findings: sentences from analysis/findings, shown unchanged.

/** Sentences of a question shown at once; the others unfold. */
const SHOWN_AT_ONCE = 3;

/** The picture that goes with a sentence, by question; for other questions the page names only the table. */
const PICTURES = { heads: "heads-plot", onsets: "heads-plot", seeds: "heads-plot", transformed: "heads-plot", subjects: "z-plot", looked: "looks-plot" };

function drawFindings() {
  const several = unique(RUNS.map((run) => run.setting)).length > 1, visible = new Set(visibleRuns().map((run) => run.run_id));
  const item = (one, question) => h("li", {},
    several ? h("b", {}, `${one.setting}: `) : null, one.statement,
    one.weak ? h("b", { class: "weak" }, " Weak: more prompts or seeds are needed.") : null,
    h("span", { class: "quiet" }, one.scope.includes("prompt") ? ` (${one.scope})` : ""), showerOf(one, question),
    h("details", {}, h("summary", {}, "evidence"),
      [known(one.n) ? count(one.n, "prompt") : null, `${count(one.runs.length, "run")}: ${one.runs.join(" ")}`, `table ${one.table}`].filter(known).join("; ")));
  const list = (findings, question) => h("ul", { class: "findings" }, findings.map((one) => item(one, question)));
  $("findings-text").replaceChildren(...(DATA.findings ?? []).flatMap(({ question, key, findings, more }) => {
    const shown = findings.filter(({ runs }) => !runs.length || runs.some((id) => visible.has(id))), hidden = findings.length - shown.length;
    // Open answers repeat one sentence for each setting: they become one line with their number.
    const open = shown.filter((one) => one.open), answered = open.length > 1 ? shown.filter((one) => !one.open) : shown;
    return [
      h("h3", {}, question),
      answered.length ? list(answered.slice(0, SHOWN_AT_ONCE), key) : null,
      hidden ? h("p", { class: "quiet" }, `The filter hides ${count(hidden, "sentence")}.`) : null,
      answered.length > SHOWN_AT_ONCE ? h("details", { class: "more" }, h("summary", {}, `${answered.length - SHOWN_AT_ONCE} more`), list(answered.slice(SHOWN_AT_ONCE), key)) : null,
      open.length > 1 ? h("details", { class: "more" },
        h("summary", {}, `${count(open.length, "open answer")}${several ? ` in ${count(unique(open.map(({ setting }) => setting)).length, "setting")}` : ""}: more prompts or seeds could decide`),
        list(open, key)) : null,
      more ? h("p", { class: "quiet" }, `${more} more are in the table findings of \`mi-sweeps export\`.`) : null,
    ];
  }).filter(known));
}

/** A button that shows a sentence's picture: its one or two settings under its corruptions. */
function showerOf({ setting, corruption }, question) {
  const of = corruption.split(" ").filter((name) => corruptions().includes(name));
  const [unit, other] = setting.split(" | ").map(unitOf);
  const curve = question === "learned" || (question === "sudden" && !of.length);
  const picture = question === "sudden" ? "heads-plot" : PICTURES[question];
  if (!curve && (!picture || !known(unit))) return null;
  const sides = of.length ? { left: of[0], right: of.at(-1) } : {};
  return h("button", { type: "button", class: "show", click: () => (curve ? showCurve(LEARNED, "heldout") : showPicture(picture, { unit, other: other ?? null, ...sides })) }, "show");
}

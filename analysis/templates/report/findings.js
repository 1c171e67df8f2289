// What was found, in sentences that inference warrants (analysis/findings): the page adds nothing to them.

/** Sentences of a question that are seen at once; the others unfold. */
const TOLD_AT_ONCE = 3;

/** The picture that a sentence is of, by its question; of other questions the page has only the table's name. */
const PICTURES = { heads: "heads-plot", recruited: "heads-plot", seeds: "heads-plot", transformed: "heads-plot", subjects: "z-plot", looked: "looks-plot" };

function drawFindings() {
  const several = unique(RUNS.map((run) => run.setting)).length > 1, visible = new Set(visibleRuns().map((run) => run.run_id));
  const item = (one, question) => h("li", {},
    several ? h("b", {}, `${one.setting}: `) : null, one.said,
    one.weak ? h("b", { class: "weak" }, " Weak: more prompts or seeds are needed.") : null,
    h("span", { class: "quiet" }, one.scope.includes("prompt") ? ` (${one.scope})` : ""), showerOf(one, question),
    h("details", {}, h("summary", {}, "evidence"),
      [known(one.n) ? count(one.n, "prompt") : null, `${count(one.runs.length, "run")}: ${one.runs.join(" ")}`, `table ${one.table}`].filter(known).join("; ")));
  const list = (told, question) => h("ul", { class: "findings" }, told.map((one) => item(one, question)));
  $("findings-told").replaceChildren(...(DATA.findings ?? []).flatMap(({ question, key, told: every, more }) => {
    const told = every.filter(({ runs }) => !runs.length || runs.some((id) => visible.has(id))), hidden = every.length - told.length;
    return [
      h("h3", {}, question),
      list(told.slice(0, TOLD_AT_ONCE), key),
      hidden ? h("p", { class: "quiet" }, `The filter hides ${count(hidden, "sentence")}.`) : null,
      told.length > TOLD_AT_ONCE ? h("details", { class: "more" },
        h("summary", {}, `${told.length - TOLD_AT_ONCE} more`), list(told.slice(TOLD_AT_ONCE), key),
        more ? h("p", { class: "quiet" }, `${more} others are in the table findings of \`mi-sweeps export\`.`) : null) : null,
    ];
  }).filter(known));
}

/** A button that shows the picture of a sentence: its setting, or two of them, under its corruptions. */
function showerOf({ setting, corruption }, question) {
  const of = corruption.split(" ").filter((name) => corruptions().includes(name));
  const [unit, other] = setting.split(" | ").map(unitOf);
  const curve = question === "learned" || (question === "sudden" && !of.length);
  const picture = question === "sudden" ? "heads-plot" : PICTURES[question];
  if (!curve && (!picture || !known(unit))) return null;
  const sides = of.length ? { left: of[0], right: of.at(-1) } : {};
  return h("button", { type: "button", class: "show", click: () => (curve ? showCurve(LEARNED, "heldout") : showPicture(picture, { unit, other: other ?? null, ...sides })) }, "show");
}

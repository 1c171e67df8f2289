// What was found, in sentences that inference warrants (analysis/findings): the page adds nothing to them.

/** Sentences of a question that are seen at once; the others unfold. */
const TOLD_AT_ONCE = 3;

function drawFindings() {
  const several = unique(RUNS.map((run) => run.cell)).length > 1;
  const item = (one) => h("li", {},
    several ? h("b", {}, `${one.cell}: `) : null, one.said,
    one.weak ? h("b", { class: "weak" }, " Weak: more prompts or seeds are needed.") : null,
    h("span", { class: "quiet" }, one.scope.includes("prompt") ? ` (${one.scope})` : ""),
    h("details", {}, h("summary", {}, "evidence"),
      [known(one.n) ? count(one.n, "prompt") : null, `${count(one.runs.length, "run")}: ${one.runs.join(" ")}`, `table ${one.table}`].filter(known).join("; ")));
  const list = (told) => h("ul", { class: "findings" }, told.map(item));
  $("findings").hidden = !DATA.findings?.length;
  $("findings-told").append(...(DATA.findings ?? []).flatMap(({ question, told, more }) => [
    h("h3", {}, question),
    list(told.slice(0, TOLD_AT_ONCE)),
    told.length > TOLD_AT_ONCE ? h("details", { class: "more" },
      h("summary", {}, `${told.length - TOLD_AT_ONCE} more`), list(told.slice(TOLD_AT_ONCE)),
      more ? h("p", { class: "quiet" }, `${more} others are in the table findings of \`mi-sweeps export\`.`) : null) : null,
  ]).filter(known));
}

// What was found, in sentences that inference warrants (analysis/findings): the page adds nothing to them.

function drawFindings() {
  const several = unique(RUNS.map((run) => run.cell)).length > 1;
  $("findings").hidden = !DATA.findings?.length;
  $("findings-told").append(...(DATA.findings ?? []).flatMap(({ question, told, more }) => [
    h("h3", {}, question),
    ...[...Map.groupBy(told, ({ cell }) => cell)].flatMap(([cell, own]) => [
      several ? h("h4", {}, cell) : null,
      h("ul", { class: "findings" }, own.map((one) => h("li", {},
        one.said, one.weak ? h("b", { class: "weak" }, " Weak: more prompts or seeds are needed.") : null,
        h("span", { class: "quiet" }, one.scope.includes("prompt") ? ` (${one.scope})` : ""),
        h("details", {}, h("summary", {}, "evidence"),
          [known(one.n) ? count(one.n, "prompt") : null, `${count(one.runs.length, "run")}: ${one.runs.join(" ")}`, `table ${one.table}`].filter(known).join("; "))))),
    ]),
    more ? h("p", { class: "quiet" }, `${more} more in the table findings of \`mi-sweeps export\`.`) : null,
  ]).filter(known));
}

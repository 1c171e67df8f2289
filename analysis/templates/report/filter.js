// The language of the filter box: words, and expressions such as lr>=1e-4 seed!=2 schedule=cosine,constant.

const FACTS = ["status", "outcome", "gaps", "run", "sweep", "cell", "seed", "win_rate", "first_step", "seconds", "attempts", "host", "error", "patched"];
const EXPRESSION = /^([\w./-]+)(>=|<=|!=|==|=|>|<)(.*)$/s;

/** Which runs a text lets through, as `accepts`; or else an `error` of one line. */
function parse(text) {
  const tests = [];
  for (const token of text.match(/(?:[^\s"]|"[^"]*")+/g) ?? []) {
    const [, key, operator, quoted] = token.match(EXPRESSION) ?? [];
    if (!key) {
      const word = token.replaceAll('"', "").toLowerCase();
      tests.push((run) => words(run).includes(word));
      continue;
    }
    const wanted = quoted.replaceAll('"', "");
    const error = wrong(token, key, operator, wanted);
    if (error) return { error };
    const rounded = SERIES.has(key) || COLUMNS.some((column) => column.key === key && column.result);
    tests.push((run) => compares(valueOf(run, key), operator, wanted, rounded));
  }
  return { accepts: (run) => tests.every((test) => test(run)) };
}

const words = (run) => [
  ...["run_id", "sweep", "status", "patched", "host", "error", "cell", "seed", ...FACTORS.map(([key]) => key)].map((key) => run[key] ?? ""),
  planned(run),
].join(" ").toLowerCase();

function wrong(token, key, operator, wanted) {
  const keys = [...FACTORS.map(([name]) => name), ...FACTS];
  if (![...keys, ...SERIES.keys(), ...CONFIG_KEYS].includes(key)) {
    const metric = [...SERIES.keys()][0], config = CONFIG_KEYS.find((name) => name.includes("."));
    return `No key ${key}. There are: ${keys.join(", ")}${metric ? `; metrics at the last checkpoint, such as ${metric}` : ""}` +
      `${config ? `; and all keys of the configuration, such as ${config}` : ""}. A word with such a sign goes in quotes.`;
  }
  if (wanted === "" && operator !== "=" && operator !== "!=") return `${token}: a number is missing after ${operator}.`;
  if (/[<>]/.test(operator)) {
    if (Number.isNaN(Number(wanted))) return `${token}: ${wanted} is not a number.`;
    if (RUNS.some((run) => typeof valueOf(run, key) === "string")) return `${token}: ${key} is not a number; = and != compare it.`;
  }
  return null;
}

function compares(value, operator, wanted, rounded) {
  if (operator === "=" || operator === "==") return wanted.split(",").some((one) => same(value, one, rounded));
  if (operator === "!=") return !wanted.split(",").some((one) => same(value, one, rounded));
  if (typeof value !== "number") return false;
  const other = Number(wanted), equal = same(value, wanted, rounded);
  return operator[0] === ">" ? (equal ? operator === ">=" : value > other) : (equal ? operator === "<=" : value < other);
}

function same(value, text, rounded) {
  if (typeof value === "number" && text !== "" && !Number.isNaN(Number(text))) {
    // Of results the page has five digits.
    return value === Number(text) || (rounded && !Number.isInteger(value) && value === Number(Number(text).toPrecision(5)));
  }
  return String(value ?? "").toLowerCase() === text.toLowerCase() || (value === null && text === "null");
}

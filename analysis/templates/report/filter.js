// The filter's language: words, and terms such as lr>=1e-4 seed!=2 schedule=cosine,constant. It is lenient where the meaning
// is clear: spaces around an operator, `and`, `or` between all terms, names in any case, and the names of columns.

const FACTS = ["status", "outcome", "missing_steps", "run", "sweep", "setting", "seed", "win_rate", "first_step", "seconds", "attempts", "host", "error", "patch_jobs"];
const TOKEN = /(?:[^\s"]|"[^"]*")+/g;
const TERM = /^("[^"]*"|[^"<>=!]*)(>=|<=|!=|==|=|>|<)(.*)$/s;
const OF_RUN = ["run", "run_id"];

/**
 * The runs that a text selects: `accepts`, and its `terms` {text, key, accepts}, all of which must hold, or with `either` one;
 * or a one-line `error`.
 */
function parse(text) {
  const found = [];
  for (const piece of pieces(text)) {
    if (piece.error) return piece;
    const term = piece.operator ? expression(piece, found) : piece;
    if (term.error) return term;
    found.push(term);
  }
  const isJoint = ({ word }, i) => word === "and" && i > 0 && i < found.length - 1;
  const parts = found.filter((term, i) => !isJoint(term, i));
  const either = parts.some(({ word }) => word === "or");
  if (either && parts.some(({ word }, i) => (word === "or") !== (i % 2 === 1))) {
    return { error: "or goes between single terms, as in seed=0 or schedule=cosine. Next to further terms it is ambiguous; values with commas are not, as in seed=0,1." };
  }
  if (either && parts.length % 2 === 0) return { error: "A term is missing after or." };
  const terms = parts.filter((term) => !(either && term.word === "or")).map((term) => (term.word === undefined ? term : wordTerm(term.text)));
  const accepts = (run) => (either ? terms.some((term) => term.accepts(run)) : terms.every((term) => term.accepts(run)));
  return { accepts, terms, either };
}

/** Words {text, word}, without `word` if quoted; and terms {name, operator, value}. */
function pieces(text) {
  const tokens = text.replace(/[≥≤≠]/g, (sign) => ({ "≥": ">=", "≤": "<=", "≠": "!=" })[sign]).match(TOKEN) ?? [], found = [];
  for (let i = 0; i < tokens.length; i++) {
    const [, name, operator, rest] = tokens[i].match(TERM) ?? [];
    if (operator === undefined) {
      const isQuoted = tokens[i].includes('"');
      found.push({ text: tokens[i].replaceAll('"', ""), word: isQuoted ? null : tokens[i].toLowerCase() });
      continue;
    }
    let value = rest;
    const isTerm = (token) => token === undefined || TERM.test(token) || /^(and|or)$/i.test(token);
    const goesOn = () => tokens[i + 1]?.startsWith(",") || ((value === "" || value.endsWith(",")) && !isTerm(tokens[i + 1]) && !/^[<>=!]/.test(tokens[i + 2] ?? ""));
    while (goesOn()) value += tokens[++i];
    const before = name === "" ? found.pop() : null;
    if (name === "" && !before?.text) return [{ error: `A key is missing before ${operator}.` }];
    found.push({ name: name === "" ? before.text : name.replaceAll('"', ""), operator, value });
  }
  return found;
}

const wordTerm = (text) => ({ text, accepts: (run) => words(run).includes(text.toLowerCase()) });
const words = (run) => [
  ...["run_id", "sweep", "status", "patch_jobs", "host", "error", "setting", "seed", ...FACTORS.map(([key]) => key)].map((key) => run[key] ?? ""),
  planned(run),
].join(" ").toLowerCase();

/** An expression's term. Words before it that complete its name are removed from `before`: "weight decay=0.1". */
function expression({ name, operator, value }, before) {
  let words = 0;
  while (words < before.length && typeof before[before.length - 1 - words].word === "string") words++;
  for (; words >= 0; words--) {
    const whole = [...before.slice(before.length - words).map(({ text }) => text), name].join(" ");
    const keys = keysNamed(whole);
    if (!keys.length) continue;
    if (keys.length > 1) return { error: `${whole} can mean ${keys.slice(0, 6).join(" or ")}: name one.` };
    before.splice(before.length - words);
    return comparison(keys[0], operator, value);
  }
  return { error: unknown(name) };
}

function comparison(key, operator, value) {
  let wanted = (value.match(/(?:[^,"]|"[^"]*")+/g) ?? [""]).map((one) => one.replaceAll('"', ""));
  const text = `${key}${operator}${value}`;
  if (wanted[0] === "" && operator !== "=" && operator !== "!=") return { error: `${text}: a number is missing after ${operator}.` };
  if (/[<>]/.test(operator)) {
    if (wanted.length > 1 || Number.isNaN(Number(wanted[0]))) return { error: `${text}: ${wanted.join(",")} is not a number.` };
    if (RUNS.some((run) => ["string", "object"].includes(typeof (valueOf(run, key) ?? 0)))) return { error: `${text}: ${key} is not a number; = and != compare it.` };
  }
  if (OF_RUN.includes(key)) wanted = wanted.map(wholeId);
  const rounded = SERIES.has(key) || COLUMNS.some((column) => column.key === key && column.result);
  return { text, key, accepts: (run) => compares(valueOf(run, key), operator, wanted, rounded) };
}

/** The id with this prefix, if there is exactly one. */
function wholeId(text) {
  const begin = RUNS.filter((run) => run.run_id.startsWith(text));
  return text && begin.length === 1 && !RUNS.some((run) => run.run_id === text) ? begin[0].run_id : text;
}

function compares(value, operator, wanted, rounded) {
  const equals = wanted.some((one) => same(value, one, rounded));
  if (operator === "=" || operator === "==") return equals;
  if (operator === "!=") return !equals;
  if (typeof value !== "number") return false;
  return equals ? operator.endsWith("=") : operator[0] === ">" ? value > Number(wanted[0]) : value < Number(wanted[0]);
}

function same(value, text, rounded) {
  if (Array.isArray(value)) return value.length ? value.some((one) => same(one, text, rounded)) : text === "";
  if (typeof value === "number" && text !== "" && !Number.isNaN(Number(text))) {
    // The page has results to five digits.
    return value === Number(text) || (rounded && !Number.isInteger(value) && value === Number(Number(text).toPrecision(5)));
  }
  return String(value ?? "").toLowerCase() === text.toLowerCase() || (value === null && text === "null");
}

const plainName = (name) => name.toLowerCase().replace(/[\s_-]+/g, " ").trim();
const filterKeys = () => unique([...FACTORS.map(([key]) => key), ...FACTS, ...COLUMNS.map(({ key }) => key), ...SERIES.keys(), ...CONFIG_KEYS]);

/** The keys that a name may mean: an exact key, else one in another case, a column's label, or the end of a key. */
function keysNamed(name) {
  const keys = filterKeys();
  if (keys.includes(name)) return [name];
  const wanted = plainName(name), is = (other) => plainName(other) === wanted;
  const labels = [...COLUMNS.map((column) => [column.key, columnText(column)]), ...COLUMNS.map(({ key, label }) => [key, label]), ...FACTORS];
  return [
    keys.filter(is), unique(labels.filter(([, label]) => is(label)).map(([key]) => key)),
    keys.filter((key) => is(key.replace(/\.name$/, ""))), keys.filter((key) => is(key.split(/[./]/).at(-1))),
  ].find((found) => found.length) ?? [];
}

const OF_JOBS = /^(corruption|patching)\b/i;

function unknown(name) {
  if (OF_JOBS.test(name)) return `${name} belongs to patch jobs, and a run can have several: choose it above the pictures of circuits.`;
  const near = nearest(name), metric = [...SERIES.keys()][0], config = CONFIG_KEYS.find((key) => key.includes("."));
  return `No key ${name}.${near ? ` Did you mean ${near}?` : ""} Keys: ${[...FACTORS.map(([key]) => key), ...FACTS].join(", ")}` +
    `${metric ? `; metrics at the last checkpoint, such as ${metric}` : ""}${config ? `; and all configuration keys, such as ${config}` : ""}. ` +
    "Put a word with such a sign in quotes.";
}

/** The key most like a text; null if none is close. */
function nearest(text) {
  const wanted = plainName(text);
  const far = (name) => (wanted.length > 2 && (name.includes(wanted) || wanted.includes(name)) ? 0.5 : edits(wanted, name) - (name[0] === wanted[0] ? 0.25 : 0));
  const named = filterKeys().flatMap((key) => unique([key, key.split(/[./]/).at(-1)]).map((name) => ({ key, far: far(plainName(name)) })));
  const best = named.sort((a, b) => a.far - b.far)[0];
  return best && best.far <= Math.max(1, wanted.length / 3) ? best.key : null;
}

/** The edit distance: letters inserted, deleted or changed. */
function edits(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let k = 1; k <= b.length; k++) next.push(Math.min(row[k] + 1, next[k - 1] + 1, row[k - 1] + (a[i - 1] === b[k - 1] ? 0 : 1)));
    row = next;
  }
  return row.at(-1);
}

/** Why no run is left: how many runs each term matches alone, and which values exist where it matches none. */
function whyNone({ terms, either }) {
  const matches = terms.map((term) => {
    const n = RUNS.filter(term.accepts).length;
    return `${term.text} matches ${n ? count(n, "run") : "none"}${n || !term.key ? "" : valuesText(term.key)}`;
  });
  return `No run matches ${terms.length < 2 ? "this" : either ? "any of these" : "all of these together"}: ${matches.join("; ")}.`;
}

function valuesText(key) {
  const values = unique(RUNS.flatMap((run) => valueOf(run, key)).filter((value) => known(value) && value !== "")).sort(compare);
  if (!values.length) return " (no run has a value)";
  const all = values.length > 8 ? (typeof values[0] === "number" ? `from ${written(values[0])} to ${written(values.at(-1))}` : `${values.slice(0, 8).map(written).join(", ")}, …`) : values.map(written).join(", ");
  return ` (there ${values.length > 1 ? "are" : "is"} ${all})`;
}

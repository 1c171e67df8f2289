"use strict";
// Reads the data once, then draws the sections of the page. Text from runs reaches the page through
// textContent, and Plotly through plain(): never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = rowsOf(DATA.runs).map((run, index) => ({ ...run, index, planned: DATA.planned[index], missing: DATA.missing[index] }));
const PATCHES = rowsOf(DATA.patches);
const SITES = {
  z: "z (head output)", v: "v (head value)", pattern: "pattern (head attention)",
  q: "q (head query)", k: "k (head key)",
  resid_pre: "resid_pre (residual stream before a layer)", attn_out: "attn_out (attention output)",
  mlp_out: "mlp_out (MLP output)",
};

const APPROXIMATE = " (approximate)";

const state = {
  filter: "", sort: { key: null, up: true }, interval: "student",
  group: null,  // keys that the rows of the table are grouped by; null: a row is a run
  columns: null,  // keys of the table's columns; null: those that differ
  baseline: null,  // the row that others are compared with
  chosen: new Set(),  // run ids whose configurations are compared
  curves: { metric: null, split: null, by: new Set(), seeds: "both", log: new Set(), thresholds: { ...DATA.thresholds } },
  result: "win_rate",  // what colours the parallel coordinates
  circuits: { unit: null, other: null, left: null, right: null, patching: null, quantity: "recovered", over: "mean", scale: "fixed", at: Infinity },
  heads: { site: null, k: 5 },
  attention: { job: null, prompt: 0, head: null, side: "clean", token: null, query: null },  // prompt: its number in the patch job; token: null: the last one
  place: null,  // the cell that is open: {site, layer, column}
};

function rowsOf(columns) {
  const names = Object.keys(columns);
  return (columns[names[0]] ?? []).map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

/** An element: h("p", {class: "quiet"}, "text", child). Attributes that are functions become listeners. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

const $ = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const known = (value) => value !== null && value !== undefined;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** Escapes text for Plotly, which would interpret tags, and %{x} in hover texts. */
const plain = (text) => String(text).replace(/[&<>]|%(?=\{)/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", "%": "&#37;" })[sign]);
const sentence = (name) => name.replaceAll("_", " ").replace("heldout", "held-out").replace("two name", "two-name").replace("without bos", "no-BOS").replace("batch", "training batches").replace(/^trainer$/, "the trainer's log");
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

function number(value, digits = 3) {
  if (!known(value)) return "";
  if (Number.isInteger(value)) return String(value);
  return exact(Number(value.toPrecision(digits)));
}

/** A number with all its digits, as in configurations: 3e-05. */
const exact = (value) => (value && Math.abs(value) < 1e-4 ? value.toExponential().replace(/e-(\d)$/, "e-0$1") : String(value));

function compare(a, b) {
  if (!known(a) || !known(b)) return known(a) ? -1 : known(b) ? 1 : 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function select(label, options, value, onchange) {
  const list = (of) => of.map(([name, text]) => h("option", { value: name, selected: name === value }, text));
  const children = Array.isArray(options)
    ? list(options)
    : Object.entries(options).map(([group, of]) => (group ? h("optgroup", { label: group }, list(of)) : list(of))).flat();
  return h("label", {}, label, h("select", { change: (event) => onchange(event.target.value) }, children));
}

function checkbox(label, checked, onchange) {
  return h("label", {}, h("input", { type: "checkbox", checked, change: (event) => onchange(event.target.checked) }), label);
}

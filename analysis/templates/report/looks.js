// Where heads look over the checkpoints: the chosen head's attention from one token to others, by role, mean over
// prompts and a setting's runs, with the intervals from inference.

const MOST_KEYS = 6;

/** The tables for the chosen patch job's setting; null if attention to roles was not measured. */
function looksOf({ job }) {
  const { setting } = RUNS[job.run];
  return (ATTENTION.looks ?? []).find((one) => one.setting === setting && one.patching === (job.patching ?? "") && one.corruption === job.corruption) ?? null;
}

const queriesOf = (looks) => unique(looks.rows.map(({ query }) => query)).sort((a, b) => (b === "end") - (a === "end"));

/** The query of the curves: the chosen one, or the end. */
const queryOf = (looks) => (queriesOf(looks).includes(state.attention.query) ? state.attention.query : queriesOf(looks)[0]);

/** Keys as curves {name, points}, those with the most attention at any checkpoint first. */
function keyCurves(looks, side, head) {
  const query = queryOf(looks), { steps } = looks;
  const rows = looks.rows.filter((row) => row.side === side && row.head === head && row.query === query);
  const part = (list, i) => (known(list?.[i]) ? list[i] / 1000 : null);
  const curves = rows.map((row) => ({
    name: row.key, uniform: row.uniform / 1000,
    points: steps.map((at, i) => {
      const mean = part(row.attention, i), low = part(row.low, i), width = part(row.width, i);
      return { step: at, mean, low, high: known(low) && known(width) ? low + width : null, n: looks.runs };
    }),
  }));
  const most = ({ points }) => Math.max(...points.map((point) => point.mean ?? 0));
  return curves.sort((a, b) => most(b) - most(a));
}

function drawLooks() {
  const shown = ATTENTION && attention(), looks = shown && looksOf(shown);
  if (!looks) return { title: "What heads look at", note: ATTENTION?.looks_note || "attention to roles was not measured here" };
  const { head, job } = shown, query = queryOf(looks);
  const rows = [ATTENTION_SIDES.map((side) => ({ name: `${side} prompts`, curves: keyCurves(looks, side, head) })).filter(({ curves }) => curves.length)];
  const title = `What head ${head} looks at from “${query}”, over checkpoints`;
  if (!rows[0].length) return { title, note: "not measured for this head" };
  const keys = unique(rows[0].flatMap(({ curves }) => curves.map(({ name }) => name)));
  const largest = (name) => Math.max(...rows[0].flatMap(({ curves }) => curves.filter((one) => one.name === name).flatMap(({ points }) => points.map(({ mean }) => mean ?? 0))));
  const kept = [...keys].sort((a, b) => largest(b) - largest(a)).slice(0, MOST_KEYS);
  const { panels, inner } = arrange(rows, 230, 85);
  const { margin, height } = frame(inner, { l: 50, right: 190 });
  margin.b += narrow.matches ? 60 : 0;
  const layout = { margin, annotations: [], shapes: checkpointLines(panels.length), showlegend: true, legend: narrow.matches ? { orientation: "h", y: -60 / inner, yanchor: "top" } : { title: { text: "looks at" } } };
  const traces = panels.flatMap((place) => {
    const { panel, i, xaxis, yaxis } = place;
    layout.annotations.push(subtitle(`<b>${panel.name}</b>`, place));
    layout[`xaxis${suffix(i)}`] = stepScale().axis(place.last, { domain: place.x, anchor: yaxis });
    layout[`yaxis${suffix(i)}`] = axis(place.first ? "attention" : "", { domain: place.y, anchor: xaxis, range: [-0.02, 1.02] });
    return kept.flatMap((name, rank) => {
      const curve = panel.curves.find((one) => one.name === name);
      if (!curve) return [];
      const colour = GROUPS[rank % GROUPS.length], common = { type: "scatter", xaxis, yaxis, legendgroup: name, name: plain(name) }, x = curve.points.map((point) => stepScale().x(point.step));
      return [...bandTrace(curve.points, colour, { xaxis, yaxis, legendgroup: name }),
        { ...common, mode: "lines", x: [x[0], x.at(-1)], y: [curve.uniform, curve.uniform], line: { color: colour, width: 1, dash: "dot" }, showlegend: false, hoverinfo: "skip" },
        {
          ...common, mode: "lines+markers", x, y: curve.points.map((point) => point.mean), line: { color: colour, width: 2 }, marker: { size: 4 }, showlegend: i === 0,
          customdata: curve.points.map((point) => [point.step, pointText(point)]),
          hovertemplate: `from ${plain(query)} to ${plain(name)}, checkpoint %{customdata[0]}<br>%{y:.3f}%{customdata[1]}<br>uniform ${fixed(curve.uniform)}<extra></extra>`,
        }];
    });
  });
  const other = keys.length - kept.length, banded = looks.rows.some(({ low }) => low?.some(known));
  return {
    title, traces, layout, height: height + (narrow.matches ? 60 : 0),
    runs: RUNS.filter((run) => looks.run_ids.includes(run.run_id)),
    note: [
      `${job.corruption} corruption`, `${looks.n} prompts`, looks.runs > 1 ? `mean over ${looks.runs} runs` : "",
      banded ? `band: 95% interval at each checkpoint alone (other prompts${looks.seeds ? " and other seeds" : ", not other seeds"})` : "",
      "thin dotted: uniform attention to all tokens", other > 0 ? `the ${kept.length} roles, of ${keys.length}, with most attention` : "", "vertical dotted: the slider's checkpoint",
    ].filter(Boolean).join(" · "),
    alt: rows[0].map(({ name, curves }) => `${name}, last checkpoint: ${curves.slice(0, 3).map((one) => `${one.name} ${number(one.points.at(-1).mean)}, uniform ${fixed(one.uniform, 2)}`).join("; ")}`).join(". "),
    table: () => pointsTable(rows[0].map((panel) => ({ ...panel, curves: panel.curves.map((one) => ({ ...one, name: `${one.name} (uniform ${fixed(one.uniform)})` })) })), "looks at", ({ curves }) => curves),
  };
}

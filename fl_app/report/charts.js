// Axes, and every chart but the Pareto front: a function of its plot, to traces and layout.

const LINES = { gridcolor: "#eceef1", zeroline: false, linecolor: "#98a2b3", showline: true,
  ticks: "outside", ticklen: 4, tickcolor: "#98a2b3", automargin: true };

const BELOW = { orientation: "h", y: 0, yref: "container", yanchor: "bottom", x: 0,
  traceorder: "normal", maxheight: 400, font: { size: 11 } };

/** A log axis of bytes, `width` pixels long. One that spans less than a decade has ticks, too. */
function bytesAxis(values, title, width) {
  const seen = values.filter((value) => value > 0);
  if (!seen.length) return { ...LINES, title: { text: title } };
  const low = Math.log10(Math.min(...seen)), high = Math.log10(Math.max(...seen));
  const pad = Math.max(0.06 * (high - low), 0.1);
  const range = [low - pad, high + pad], tickvals = logTicks(range, width);
  return { ...LINES, type: "log", range, tickvals, ticktext: tickvals.map(tick),
    title: { text: title }, minor: { ticks: "" } };
}

const APART = 52; // pixels between two ticks, for their texts

/**
 * Ticks at some digits of each power of ten, or at equal steps: of those whose texts have room, the
 * ones that leave the smallest gap without a tick.
 */
function logTicks([low, high], width) {
  const found = [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]].map((digits) =>
    powers(low, high).flatMap((power) => digits.map((digit) => digit * power)));
  for (const every of [2, 3, 4]) found.push(found[4].filter((_, i) => i % every === 0));
  const power = 10 ** Math.floor(Math.log10(10 ** high - 10 ** low));
  if (high - low < 1) {
    for (const step of [0.1, 0.2, 0.4, 0.5, 1, 2, 4, 5].map((digit) => digit * power)) {
      const first = Math.ceil(10 ** low / step), count = Math.floor(10 ** high / step) - first + 1;
      found.push(Array.from({ length: count }, (_, i) => (first + i) * step));
    }
  }
  const inside = (value) => low <= Math.log10(value) && Math.log10(value) <= high;
  const gap = (one, other) => width * Math.log10(other / one) / (high - low);
  return found.map((values) => values.filter(inside))
    .filter((values) => values.slice(1).every((value, i) => gap(values[i], value) >= APART))
    .map((values) => ({ values, widest: Math.max(...[10 ** low, ...values].map((value, i) =>
      gap(value, values[i] || 10 ** high))) }))
    .reduce((best, one) => (one.widest < best.widest ? one : best)).values;
}

function powers(low, high) {
  const first = Math.floor(low), count = Math.ceil(high) - first;
  return Array.from({ length: count }, (_, i) => 10 ** (first + i));
}

function scoreAxis(set, values, title = set.name) {
  const seen = [...values, ...(set.target === null ? [] : [set.target])];
  const low = Math.min(...seen), high = Math.max(...seen), pad = Math.max(0.06 * (high - low), 0.02);
  return { ...LINES, title: { text: escaped(title), standoff: 8 }, range: [low - pad, high + pad],
    tickformat: share(set.metric) ? ".1~%" : ".3~f" };
}

/** A dashed line at the target; `along` is the axis that the score is on. */
function targetLine(set, along) {
  if (set.target === null) return { shapes: [], annotations: [] };
  const across = along === "y" ? "x" : "y";
  return {
    shapes: [{ type: "line", layer: "below", [`${across}ref`]: "paper", [`${across}0`]: 0,
      [`${across}1`]: 1, [`${along}0`]: set.target, [`${along}1`]: set.target,
      line: { color: "#667085", width: 1, dash: "dash" } }],
    annotations: along === "y" ? [{ xref: "paper", x: 0, y: set.target, xanchor: "left",
      yanchor: "bottom", showarrow: false, font: { size: 11, color: "#667085" },
      text: `target ${share(set.metric) ? `${+(100 * set.target).toFixed(2)} %` : set.target}` }] : [],
  };
}

const LEGEND = 10; // most configurations in a legend: as many as there are colours
/** The pixels of a legend with a row per trace. */
const legendHeight = (traces) => traces.filter((one) => one.showlegend)
  .reduce((sum, one) => sum + 6 + 14 * one.name.split("<br>").length, 0);

/** Lines of the mean by round or by bytes so far; those not on the front are thin. */
function drawCurves(set, key) {
  return (plot) => {
    const all = set.configurations, only = all.length === 1;
    const drawn = [...all].sort((a, b) => Number(a.front > 0) - Number(b.front > 0));
    const traces = drawn.map((one) => {
      const points = one.curve.filter((point) => key === "round" || point.bytes > 0);
      const strong = only || one.front > 0;
      const named = !only && (strong || all.length <= LEGEND);
      return { x: points.map((point) => point[key]), y: points.map((point) => point.mean),
        mode: "lines+markers", name: broken(one.label, 40), showlegend: named,
        opacity: strong ? 1 : named ? 0.6 : 0.3, line: { color: color(one), width: strong ? 2 : 1 },
        marker: { color: color(one), symbol: symbol(one), size: strong ? 6 : 4 },
        error_y: { type: "data", array: points.map((point) => point.sd || 0), thickness: 1,
          width: 2, color: color(one), visible: strong },
        text: points.map((point) => `<b>${escaped(one.label)}</b><br>round ${point.round}: ` +
          `${escaped(set.name)} ${withSpread(point, (v) => score(set.metric, v))}` +
          `<br>${size(point.bytes)} so far<br>${plural(point.values.length, "seed")}`),
        hovertemplate: "%{text}<extra></extra>" };
    });
    const goal = targetLine(set, "y");
    const points = all.flatMap((one) => one.curve);
    const xaxis = key === "round"
      ? { ...LINES, title: { text: "round" }, dtick: points.every((p) => p.round <= 12) ? 1 : undefined }
      : bytesAxis(points.map((point) => point.bytes), "message bytes so far, log scale",
        plot.clientWidth - 80);
    const below = 60 + legendHeight(traces);
    return { traces, layout: { height: 330 + below, xaxis, ...goal,
      yaxis: scoreAxis(set, points.map((point) => point.mean)),
      margin: { l: 58, r: 16, t: 12, b: below },
      legend: { ...BELOW, orientation: "v" } } };
  };
}

/** The pixels of a chart's row, by the lines of its longest label. */
const rowHeight = (labels, length) =>
  8 + 14 * Math.max(1, ...labels.map((label) => lines(label, length).length));

/** A row per configuration: a dot per seed, and mean and standard deviation over it. */
function drawRows(set, key, axis, text) {
  return (plot) => {
    const rows = set.configurations.filter((one) => one[key].values.length);
    if (key !== "score") rows.sort((a, b) => a[key].mean - b[key].mean);
    const place = (one) => rows.length - rows.indexOf(one);
    const length = narrow() ? 20 : 32;
    const high = rowHeight(rows.map((o) => o.label), length);
    const traces = [
      { x: rows.flatMap((o) => o[key].values), y: rows.flatMap((o) => o[key].values.map(() => place(o))),
        mode: "markers", marker: { symbol: "circle-open", size: 7,
          color: rows.flatMap((o) => o[key].values.map(() => color(o))) }, hoverinfo: "skip" },
      { x: rows.map((o) => o[key].mean), y: rows.map(place), mode: "markers",
        marker: { color: rows.map(color), symbol: "line-ns", size: 12,
          line: { width: 2.5, color: rows.map(color) } },
        error_x: { type: "data", array: rows.map((o) => o[key].sd || 0), thickness: 1.2, width: 0,
          color: "#667085" },
        text: rows.map((o) => `<b>${escaped(o.label)}</b><br>${withSpread(o[key], text)}` +
          `<br>${o[key].values.length} of ${plural(o.seeds.length, "seed")}`),
        hovertemplate: "%{text}<extra></extra>" }];
    const goal = key === "score" ? targetLine(set, "x") : {};
    return { traces, layout: { height: 70 + high * rows.length, showlegend: false, ...goal,
      xaxis: axis(rows.flatMap((o) => o[key].values), plot.clientWidth / 2),
      margin: { l: 10, r: 16, t: 8, b: 48 },
      yaxis: { ...LINES, range: [0.3, rows.length + 0.7], ticks: "", tickvals: rows.map(place),
        ticktext: rows.map((o) => broken(o.label, length)), tickfont: { size: 11 } } } };
  };
}

/** What the bytes were, as shares of a configuration's total or as they are. */
function drawParts(set, asShares) {
  return () => {
    const rows = [...set.configurations].sort((a, b) => b.bytes.mean - a.bytes.mean);
    const entries = narrow() ? data.parts.length : 3;
    const length = narrow() ? 16 : 32;
    const label = (one) => (rows.length > 1 ? `${one.label}  ` : "") + size(total(one));
    const total = (one) => one.parts.reduce((sum, part) => sum + part, 0) || 1;
    const traces = data.parts.map((name, i) => ({ type: "bar", orientation: "h", name,
      y: rows.map((_, row) => row), x: rows.map((o) => o.parts[i] / (asShares() ? total(o) : 1)),
      marker: { color: PART_COLORS[i] },
      hovertext: rows.map((o) => `<b>${escaped(o.label)}</b><br>${name}: ${size(o.parts[i])}, ` +
        `${(100 * o.parts[i] / total(o)).toFixed(1)} % of ${size(total(o))}`),
      hovertemplate: "%{hovertext}<extra></extra>" }));
    const most = Math.max(...rows.map(total));
    const step = 10 ** Math.floor(Math.log10(most));
    const ticks = [0, 1, 2, 3].map((i) => i * Math.max(step, Math.ceil(most / 3 / step) * step));
    const xaxis = asShares() ? { ...LINES, range: [0, 1], dtick: 0.25, tickformat: ".0%" }
      : { ...LINES, tickvals: ticks, ticktext: ticks.map(tick) };
    return { traces, layout: { barmode: "stack", bargap: 0.3, 
      height: 50 + 19 * entries + rowHeight(rows.map(label), length) * rows.length,
      xaxis, margin: { l: 10, r: 28, t: 8, b: 36 + 19 * entries },
      legend: { ...BELOW, xref: "container", entrywidth: 100, entrywidthmode: "pixels" },
      yaxis: { ...LINES, range: [-0.7, rows.length - 0.3], ticks: "",
        tickvals: rows.map((_, row) => row), tickfont: { size: 11 },
        ticktext: rows.map((o) => broken(label(o), length)) } } };
  };
}

/** One run's bytes by round. */
function drawRounds(one) {
  return () => {
    const named = [["setup", "set-up", 0], ["down", "down", 1], ["up", "up", 3]];
    const traces = named.map(([key, name, part]) => ({ type: "bar", name,
      x: one.rounds.map((row) => row.round), y: one.rounds.map((row) => row[key]),
      marker: { color: PART_COLORS[part] },
      hovertext: one.rounds.map((row) => `round ${row.round}, ${name}: ${size(row[key])}`),
      hovertemplate: "%{hovertext}<extra></extra>" }));
    const most = Math.max(1, ...one.rounds.map((row) => row.setup + row.down + row.up));
    const step = 10 ** Math.floor(Math.log10(most));
    const ticks = [0, 1, 2, 3, 4].map((i) => i * Math.max(step / 5, Math.ceil(most / 4 / step * 5) * step / 5));
    return { traces, layout: { barmode: "stack", height: 390, margin: { l: 58, r: 16, t: 12, b: 80 },
      xaxis: { ...LINES, title: { text: "round (0 is set-up)" }, dtick: one.rounds.length <= 12 ? 1 : undefined },
      yaxis: { ...LINES, tickvals: ticks, ticktext: ticks.map(tick) },
      legend: BELOW } };
  };
}

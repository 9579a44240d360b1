"use strict";
// Everything shown comes from the JSON in #data. Names in it are whatever someone typed: they reach
// the page as textContent, and Plotly, which reads a little HTML, through escaped().

const data = JSON.parse(document.getElementById("data").textContent);
const PART_COLORS = ["#9aa1ac", "#0072b2", "#8cc6ea", "#d55e00", "#f3b98f"];
const FONT = { family: "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, DejaVu Sans, sans-serif",
  size: 12, color: "#1f2430" };

const color = (one) => data.looks[one.style][0];
const symbol = (one) => data.looks[one.style][1];
const narrow = () => window.innerWidth < 820;

// ---------------------------------------------------------------------------- text

function size(bytes) {
  if (bytes === null) return "-";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000 || unit === "GB") return `${bytes.toFixed(unit === "B" ? 0 : 1)} ${unit}`;
    bytes /= 1000;
  }
}
const tick = (bytes) => size(bytes).replace(".0 ", " ");
const share = (metric) => metric === "accuracy";
function score(metric, value) {
  if (value === null) return "-";
  return share(metric) ? `${(100 * value).toFixed(2)} %` : value.toFixed(4);
}
const plural = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;
/** Mean ± standard deviation; sizes that are the same for every seed are said without. */
function withSpread({ mean, sd }, text) {
  if (mean === null) return "-";
  return text(mean) + (sd === null || (sd === 0 && text === size) ? "" : ` ± ${text(sd)}`);
}
const escaped = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const pValue = (p) => (p === null ? "-" : p < 0.001 ? "< 0.001" : p.toFixed(3));

function hover(set, one) {
  return `<b>${escaped(one.label)}</b><br>${escaped(one.method)}` +
    `<br>${escaped(set.name)} ${withSpread(one.score, (v) => score(set.metric, v))}` +
    `<br>${withSpread(one.bytes, size)} sent` +
    `<br>${plural(one.seeds.length, "seed")}: ${one.seeds.join(", ")}`;
}

// ---------------------------------------------------------------------------- elements

function element(tag, { text, className, ...attributes } = {}, ...children) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = text;
  if (className) found.className = className;
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  found.append(...children);
  return found;
}

function download(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

/** A chart with its title, what it shows, and downloads; `draw(plot)` is called again on resize. */
function chart(parent, name, title, caption, draw, { wide = false, controls = [] } = {}) {
  const plot = element("div", { className: "plot", id: name });
  const buttons = ["png", "svg"].map((format) => {
    const button = element("button", { text: format.toUpperCase(), type: "button",
      title: `download as ${format.toUpperCase()}` });
    button.addEventListener("click", () => Plotly.downloadImage(plot, { format, filename: name,
      width: plot.clientWidth, height: plot.clientHeight, scale: 2 }));
    return button;
  });
  const heading = element("figcaption", {}, element("h3", { text: title }), ...controls, ...buttons);
  if (caption) heading.append(element("p", { text: caption }));
  parent.append(element("figure", { className: wide ? "wide" : "" }, heading, plot));
  const redraw = () => {
    const { traces, layout } = draw(plot);
    return Plotly.react(plot, traces, {
      font: FONT, margin: { l: 58, r: 16, t: 12, b: 48 }, hovermode: "closest", dragmode: "zoom",
      hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#98a2b3", font: FONT },
      paper_bgcolor: "#fff", plot_bgcolor: "#fff", ...layout,
    }, { displayModeBar: false, responsive: false });
  };
  charts.push(redraw);
  return redraw;
}
const charts = [];

// ---------------------------------------------------------------------------- axes

const LINES = { gridcolor: "#eceef1", zeroline: false, linecolor: "#98a2b3", showline: true,
  ticks: "outside", ticklen: 4, tickcolor: "#98a2b3", automargin: true };

const BELOW = { orientation: "h", y: 0, yref: "container", yanchor: "bottom", x: 0,
  traceorder: "normal", font: { size: 11 } };

/** A log axis of bytes with a tick at 1, 2 and 5 of each power of ten, or fewer where crowded. */
function bytesAxis(values, title, width) {
  const seen = values.filter((value) => value > 0);
  if (!seen.length) return { ...LINES, title: { text: title } };
  const low = Math.log10(Math.min(...seen)), high = Math.log10(Math.max(...seen));
  const pad = Math.max(0.06 * (high - low), 0.1);
  const fits = Math.max(2, width / 62);
  const digits = [[1, 2, 5], [1, 3], [1]].find((some) => some.length * (high - low + 2 * pad) <= fits);
  const tickvals = [];
  for (let power = Math.floor(low - pad); power <= high + pad; power++) {
    for (const digit of digits || [1]) tickvals.push(digit * 10 ** power);
  }
  return { ...LINES, type: "log", range: [low - pad, high + pad], tickvals,
    ticktext: tickvals.map(tick), title: { text: title }, minor: { ticks: "" } };
}

function scoreAxis(set, values, title = set.name) {
  const seen = [...values, ...(set.target === null ? [] : [set.target])];
  const low = Math.min(...seen), high = Math.max(...seen), pad = Math.max(0.06 * (high - low), 0.02);
  return { ...LINES, title: { text: escaped(title), standoff: 8 }, range: [low - pad, high + pad],
    tickformat: share(set.metric) ? ".0%" : ".2f" };
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

// ---------------------------------------------------------------------------- Pareto front

const pen = document.createElement("canvas").getContext("2d");
function textWidth(text) {
  pen.font = `600 12px ${FONT.family}`;
  return pen.measureText(text).width + 6;
}

/**
 * Places for the labels of the front, in pixels from their points. A label ends above its point, at
 * the least height where it covers nothing: above and to the left there is nothing that the front
 * beats. The way up from the points to its right stays free for their leaders. Where there is no
 * place near above, it begins below the point.
 */
function places(points, others, labels, width, height) {
  const taken = [...points, ...others].map(({ x, y }) => [x - 7, y - 7, x + 7, y + 7]);
  points.slice(1).forEach(({ x, y }, i) => taken.push(
    [points[i].x, points[i].y - 2, x, points[i].y + 2], [x - 2, y, x + 2, points[i].y]));
  const hits = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const placed = [];
  return points.map(({ x, y }, i) => {
    const w = textWidth(labels[i]), h = 17;
    const ways = points.slice(i + 1).map((later) => [later.x - 2, 0, later.x + 2, later.y]);
    for (const [above, nearest, farthest] of [[true, 9, 45], [false, 9, 45],
      [true, 45, 300], [false, 45, 300]]) {
      const left = above ? Math.max(2, x + 5 - w) : x - 5;
      for (let far = nearest; far < farthest; far += 3) {
        const top = above ? y - far - h : y + far;
        const box = [left, top, left + w, top + h];
        const leader = [x - 1, Math.min(y, top), x + 1, Math.max(y, top)];
        if (box[2] > width || top < 0 || top + h > height) continue;
        if ([...taken, ...ways].some((other) => hits(box, other))) continue;
        if (placed.some((label) => hits(leader, label))) continue;
        placed.push(box);
        taken.push(box, leader);
        return { xshift: left - x, yshift: above ? far : -far, yanchor: above ? "bottom" : "top" };
      }
    }
    return null; // it is in the list below the chart all the same
  });
}

function drawPareto(set) {
  return (plot) => {
    const all = set.configurations, width = plot.clientWidth;
    const front = all.filter((one) => one.front).sort((a, b) => a.front - b.front);
    const traces = [{ x: front.map((o) => o.bytes.mean), y: front.map((o) => o.score.mean),
      mode: "lines", line: { color: "#1f2430", width: 1.5, shape: "hv" }, name: "Pareto front",
      hoverinfo: "skip", showlegend: true }];
    for (const style of [...new Set(all.map((one) => one.style))].sort((a, b) => a - b)) {
      const some = all.filter((one) => one.style === style);
      const bars = (spread) => ({ type: "data", array: some.map((o) => o[spread].sd || 0),
        color: "rgba(102,112,133,.45)", thickness: 1, width: 3 });
      traces.push({ x: some.map((o) => o.bytes.mean), y: some.map((o) => o.score.mean),
        mode: "markers", name: escaped(some[0].method), text: some.map((o) => hover(set, o)),
        hovertemplate: "%{text}<extra></extra>", error_y: bars("score"), error_x: bars("bytes"),
        marker: { opacity: 1, size: some.map((o) => (o.front ? 11 : 9)), symbol: symbol(some[0]),
          color: some.map((o) => (o.front ? color(o) : data.beaten)),
          line: { width: 1.2, color: color(some[0]) } } });
    }
    const entries = traces.length, below = 60 + 19 * Math.ceil(entries / (narrow() ? 1 : 5));
    const margin = { l: 58, r: 16, t: 12, b: below };
    const w = width - margin.l - margin.r, h = narrow() ? 300 : 470;
    const xaxis = bytesAxis(all.map((o) => o.bytes.mean),
      narrow() ? "message bytes of the run" : "message bytes of the whole run, log scale", w);
    // Room for labels above; what is far below the whole front is a double-click away.
    const best = front.map((o) => o.score.mean);
    const rise = Math.max(Math.max(...best) - Math.min(...best), 0.05);
    const least = Math.min(...all.map((o) => o.score.mean)), floor = Math.min(...best) - 0.25 * rise;
    const yaxis = { ...scoreAxis(set, best, `final ${set.name}`), automargin: false,
      range: [least > floor - 0.25 * rise ? Math.min(floor, least - 0.05 * rise) : floor,
        Math.max(...best) + 0.3 * rise] };
    xaxis.automargin = false;
    const hidden = all.filter((o) => o.score.mean < yaxis.range[0]).length;
    const across = (bytes) => (Math.log10(bytes) - xaxis.range[0]) / (xaxis.range[1] - xaxis.range[0]);
    const up = (value) => (value - yaxis.range[0]) / (yaxis.range[1] - yaxis.range[0]);
    const labels = front.map((o) => (narrow() ? `${o.front}` : `${o.front}  ${cut(o.label, 44)}`));
    const spot = (o) => ({ x: across(o.bytes.mean) * w, y: (1 - up(o.score.mean)) * h });
    const found = places(front.map(spot), all.filter((o) => !o.front).map(spot), labels, w, h);
    const goal = targetLine(set, "y");
    const annotations = front.flatMap((o, i) => {
      if (!found[i]) return [];
      const at = { x: Math.log10(o.bytes.mean), y: o.score.mean };
      const label = { ...at, ...found[i], text: `<b>${escaped(labels[i])}</b>`, showarrow: false,
        xanchor: "left", borderpad: 0, font: { size: 12, color: color(o) } };
      const leader = { ...at, text: "", showarrow: true, arrowhead: 0, arrowwidth: 1,
        arrowcolor: "#98a2b3", standoff: 6, ax: 0, ay: -found[i].yshift };
      return Math.abs(found[i].yshift) > 14 ? [leader, label] : [label];
    });
    if (hidden) {
      annotations.push({ xref: "paper", yref: "paper", x: 1, y: 0, xanchor: "right",
        yanchor: "bottom", showarrow: false, font: { size: 11, color: "#667085" },
        text: `${hidden} more below: double-click` });
    }
    return { traces, layout: { height: margin.t + h + below, xaxis, yaxis, margin,
      shapes: goal.shapes, annotations: [...goal.annotations, ...annotations],
      legend: narrow() ? { ...BELOW, orientation: "v" }
        : { ...BELOW, entrywidth: 0.19, entrywidthmode: "fraction" } } };
  };
}

// ---------------------------------------------------------------------------- other charts

/** Lines of the mean by round or by bytes so far; those not on the front are thin. */
function drawCurves(set, key) {
  return (plot) => {
    const all = set.configurations, only = all.length === 1;
    const drawn = [...all].sort((a, b) => Number(a.front > 0) - Number(b.front > 0));
    const traces = drawn.map((one) => {
      const points = one.curve.filter((point) => key === "round" || point.bytes > 0);
      const strong = only || one.front > 0;
      return { x: points.map((point) => point[key]), y: points.map((point) => point.mean),
        mode: "lines+markers", name: escaped(cut(one.label, 40)), showlegend: strong && !only,
        opacity: strong ? 1 : 0.3, line: { color: color(one), width: strong ? 2 : 1 },
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
    const legend = drawn.filter((one) => one.front && !only).length;
    const below = 60 + 20 * legend;
    return { traces, layout: { height: 330 + below, xaxis, ...goal,
      yaxis: scoreAxis(set, points.map((point) => point.mean)),
      margin: { l: 58, r: 16, t: 12, b: below },
      legend: { ...BELOW, orientation: "v" } } };
  };
}

/** A row per configuration: a dot per seed, and mean and standard deviation over it. */
function drawRows(set, key, axis, text) {
  return (plot) => {
    const rows = set.configurations.filter((one) => one[key].values.length);
    if (key !== "score") rows.sort((a, b) => a[key].mean - b[key].mean);
    const place = (one) => rows.length - rows.indexOf(one);
    const length = narrow() ? 20 : 32;
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
    return { traces, layout: { height: 70 + 21 * rows.length, showlegend: false, ...goal,
      xaxis: axis(rows.flatMap((o) => o[key].values), plot.clientWidth / 2),
      margin: { l: 10, r: 16, t: 8, b: 48 },
      yaxis: { ...LINES, range: [0.3, rows.length + 0.7], ticks: "", tickvals: rows.map(place),
        ticktext: rows.map((o) => escaped(cut(o.label, length))), tickfont: { size: 11 } } } };
  };
}

/** What the bytes were, as shares of a configuration's total or as they are. */
function drawParts(set, asShares) {
  return () => {
    const rows = [...set.configurations].sort((a, b) => b.bytes.mean - a.bytes.mean);
    const lines = narrow() ? data.parts.length : 2;
    const length = narrow() ? 16 : 32;
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
    return { traces, layout: { barmode: "stack", bargap: 0.3, height: 50 + 19 * lines + 21 * rows.length,
      xaxis, margin: { l: 10, r: 16, t: 8, b: 36 + 19 * lines },
      legend: { ...BELOW, xref: "container", orientation: narrow() ? "v" : "h", entrywidth: 100,
        entrywidthmode: "pixels" },
      yaxis: { ...LINES, range: [-0.7, rows.length - 0.3], ticks: "",
        tickvals: rows.map((_, row) => row), tickfont: { size: 11 },
        ticktext: rows.map((o) => escaped(`${cut(o.label, length)}  ${size(total(o))}`)) } } };
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

// ---------------------------------------------------------------------------- tables

/**
 * A table that sorts by a click on a column's name and shows the rows with all words of a filter.
 * A cell is {value, text}; rows without a value come last either way.
 */
function table(parent, name, columns, rows, { controls = [], front = [] } = {}) {
  const body = element("tbody"), count = element("span", { className: "quiet" });
  const filter = element("input", { type: "search", placeholder: "filter rows: words, all of them",
    "aria-label": "filter rows" });
  const lines = rows.map((cells, i) => {
    const line = element("tr", { className: front[i] ? "front" : "" }, ...cells.map((cell) =>
      element("td", { text: cell.text, className: typeof cell.value === "string" ? "text" : "",
        ...(cell.text.length > 40 ? { title: cell.text } : {}) })));
    return { cells, line, words: cells.map((cell) => cell.text).join(" ").toLowerCase() };
  });
  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const seen = lines.filter((one) => words.every((word) => one.words.includes(word)));
    body.replaceChildren(...seen.map((one) => one.line));
    count.textContent = `${seen.length} of ${plural(rows.length, "row")}`;
  };
  const sort = (column, heading) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    lines.sort(({ cells: a }, { cells: b }) => {
      const [one, other] = [a[column].value, b[column].value];
      if (one === null || other === null) return Number(one === null) - Number(other === null);
      const order = typeof one === "number" && typeof other === "number" ? one - other
        : String(one).localeCompare(String(other), "en", { numeric: true });
      return down ? -order : order;
    });
    show();
  };
  const headings = columns.map((title, i) => {
    const button = element("button", { text: title, type: "button" });
    const heading = element("th", { scope: "col",
      className: rows.some((cells) => typeof cells[i].value === "string") ? "text" : "" }, button);
    button.addEventListener("click", () => sort(i, heading));
    return heading;
  });
  filter.addEventListener("input", show);
  show();
  parent.append(element("div", { className: "bar" }, filter, count, ...controls),
    element("div", { className: "scroll" },
      element("table", { id: name }, element("thead", {}, element("tr", {}, ...headings)), body)));
}

function configurationsTable(parent, number, set) {
  const number_ = (value, text = String) => ({ value, text: value === null ? "-" : text(value) });
  const spread = (one, text) => ({ value: one.mean, text: withSpread(one, text) });
  const asScore = (value) => score(set.metric, value);
  const target = set.target === null ? "target" : set.target;
  const columns = ["configuration", "method", "seeds", set.name, `unseen ${set.name}`, "sent",
    `rounds to ${target}`, `sent to ${target}`, "met by seeds", "bits up"];
  const rows = set.configurations.map((one) => [
    { value: one.label, text: one.label }, { value: one.method, text: one.method },
    number_(one.seeds.length), spread(one.score, asScore), spread(one.unseen, asScore),
    spread(one.bytes, size), spread(one.rounds_to_target, (value) => value.toFixed(1)),
    spread(one.bytes_to_target, size),
    { value: one.rounds_to_target.values.length,
      text: `${one.rounds_to_target.values.length} of ${one.seeds.length}` },
    spread(one.bits, (value) => value.toFixed(2))]);
  table(parent, `configurations-${number}`, columns, rows,
    { front: set.configurations.map((one) => one.front) });
}

function significanceTable(parent, number, set) {
  const able = set.configurations.map((_, i) => i).filter((i) => set.differences[i].length);
  parent.append(element("h3", { className: "above", text: "Is a difference more than the spread over seeds?" }));
  if (!able.length) {
    parent.append(element("p", { className: "quiet", text: "Nothing can be said: that takes at " +
      `least two configurations with ${data.min_seeds} seeds each.` }));
    return;
  }
  const few = set.configurations.filter((one) => one.seeds.length < data.min_seeds).length;
  parent.append(element("p", { className: "quiet", text: `Welch's t test of the final ${set.name}, ` +
    "two-sided, each configuration against the one chosen (at first the best), p corrected by Holm " +
    "for the number of them; significant below 0.05. With so few seeds only large differences can be " +
    "found: not significant does not mean equal." +
    (few ? ` ${plural(few, "configuration")} with fewer than ${data.min_seeds} seeds left out.` : "") }));
  const choice = element("select", { "aria-label": "compare with" }, ...able.map((i) =>
    element("option", { value: i, text: set.configurations[i].label })));
  const place = element("div");
  const signed = (value) => (value === null ? "-"
    : (value > 0 ? "+" : value < 0 ? "−" : "") + score(set.metric, Math.abs(value)));
  const show = () => {
    place.replaceChildren();
    const columns = ["configuration", "difference", "95 % interval", "p", "p, Holm", "significant"];
    const rows = set.differences[Number(choice.value)].map((one) => [
      { value: set.configurations[one.index].label, text: set.configurations[one.index].label },
      { value: one.difference, text: signed(one.difference) },
      { value: one.low, text: one.low === null ? "-" : `${signed(one.low)} to ${signed(one.high)}` },
      { value: one.p, text: pValue(one.p) }, { value: one.holm, text: pValue(one.holm) },
      { value: one.holm === null ? "-" : one.holm < 0.05 ? "yes" : "no",
        text: one.holm === null ? "no spread" : one.holm < 0.05 ? "yes" : "no" }]);
    table(place, `significance-${number}`, columns, rows);
  };
  choice.addEventListener("change", show);
  parent.append(element("div", { className: "bar" },
    element("span", { text: "compared with", className: "quiet" }), choice), place);
  show();
}

function runsTable(parent, { columns, rows }) {
  const kinds = columns.map((name) => (name.startsWith("bytes_") || name.startsWith("payload_") ? size
    : (value) => (typeof value === "number" && !Number.isInteger(value) ? String(+value.toPrecision(6))
      : String(value))));
  const button = element("button", { text: "CSV of all rows", type: "button", id: "csv" });
  button.addEventListener("click", () => download("results.csv", "text/csv", data.csv));
  parent.append(element("h2", { text: "All runs" }), element("p", { className: "quiet",
    text: "One row per run; the last columns are the options in which the runs differ." }));
  table(parent, "runs", columns, rows.map((row) => row.map((value, i) =>
    ({ value, text: value === null ? "" : kinds[i](value) }))), { controls: [button] });
}

// ---------------------------------------------------------------------------- the page

function showComparison(set, number) {
  const section = element("section", {}, element("h2", { text: set.title }));
  document.getElementById("sets").append(section);
  const grid = element("div", { className: "charts" });
  section.append(grid);
  const asScore = (value) => score(set.metric, value);
  chart(grid, `pareto-${number}`, `What a score costs: final ${set.name} against bytes sent`,
    "Up and to the left is better. Coloured and labelled: the Pareto front, which no other " +
    "configuration beats in both; grey: beaten. Bars: standard deviation over seeds. Point at one " +
    "for its numbers, drag to zoom in, double-click to zoom out.", drawPareto(set), { wide: true });
  const front = set.configurations.filter((one) => one.front).sort((a, b) => a.front - b.front);
  grid.lastChild.append(element("ol", { className: "quiet" }, ...front.map((one) =>
    element("li", { text: `${one.label}: ${withSpread(one.score, asScore)}, ` +
      `${withSpread(one.bytes, size)}, ${plural(one.seeds.length, "seed")}` }))));
  chart(grid, `rounds-${number}`, `${set.name} by round`,
    "Mean over seeds; strong: the front.", drawCurves(set, "round"));
  chart(grid, `bytes-${number}`, `${set.name} by bytes so far`,
    "Mean over seeds; strong: the front.", drawCurves(set, "bytes"));
  chart(grid, `spread-${number}`, `Final ${set.name}, mean and spread`,
    "A ring per seed; line: mean, bar: standard deviation.", drawRows(set, "score",
      (values) => scoreAxis(set, values), asScore));
  let shares = true;
  const toggle = element("button", { text: "as bytes", type: "button" });
  const redraw = chart(grid, `parts-${number}`, "What the bytes were",
    "Overhead: messages less the payload that the codec wrote. Mean over seeds.",
    drawParts(set, () => shares), { controls: [toggle] });
  toggle.addEventListener("click", () => {
    shares = !shares;
    toggle.textContent = shares ? "as bytes" : "as shares";
    redraw();
  });
  if (set.configurations.some((one) => one.rounds_to_target.values.length)) {
    const missed = set.configurations.filter((one) => !one.rounds_to_target.values.length).length;
    const caption = `First round with ${set.name} of at least ${set.target}; only seeds that met it.` +
      (missed ? ` ${plural(missed, "configuration")} never did.` : "");
    chart(grid, `target-rounds-${number}`, "Rounds to the target", caption,
      drawRows(set, "rounds_to_target", () => ({ ...LINES, title: { text: "round" }, rangemode: "tozero" }),
        (value) => `round ${+value.toFixed(1)}`));
    chart(grid, `target-bytes-${number}`, "Bytes to the target", caption,
      drawRows(set, "bytes_to_target", (values, width) => bytesAxis(values,
        "message bytes, log scale", width), size));
  }
  section.append(element("h3", { className: "above", text: "All configurations, best first" }));
  configurationsTable(section, number, set);
  significanceTable(section, number, set);
}

function showRun(set) {
  const grid = element("div", { className: "charts" });
  document.getElementById("sets").append(grid);
  const [one] = set.configurations;
  chart(grid, "rounds-0", `${set.name} over rounds`, "", drawCurves(set, "round"));
  chart(grid, "bytes-0", `${set.name} over bytes`, "", drawCurves(set, "bytes"));
  chart(grid, "by-round", "Bytes per round, by direction", "", drawRounds(one));
  chart(grid, "parts-0", "What the bytes were",
    "Overhead: messages less the payload that the codec wrote.", drawParts(set, () => true));
}

if (data.tables.runs) {
  data.sets.forEach((set, number) => showComparison(set, number));
  runsTable(document.getElementById("all-runs"), data.tables.runs);
} else {
  data.sets.forEach(showRun);
}
const drawn = Promise.all(charts.map((redraw) => redraw()));
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return; // a phone's bars come and go
  width = window.innerWidth;
  charts.forEach((redraw) => redraw());
});
drawn.then(() => document.body.setAttribute("data-drawn", ""));

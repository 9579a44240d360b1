// The content of the page, from top to bottom.

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
    element("li", {}, swatch(one), `${one.label}: ${withSpread(one.score, asScore)}, ` +
      `${withSpread(one.bytes, size)}, ${plural(one.seeds.length, "seed")}`))));
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
    const missed = set.configurations.filter((one) =>
      one.aiming && !one.rounds_to_target.values.length).length;
    const caption = `First round with ${set.name} of at ${set.lower_is_better ? "most" : "least"} ${set.target} on the rows that select ` +
      "rounds (see the table below); only seeds that met it." +
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

if (typeof Plotly === "undefined") {
  document.getElementById("sets").append(element("p", { className: "failed", text: "The charts are " +
    "missing: the pages of a sweep's runs share the file plotly.min.js beside their folders. Copy it " +
    "too, or make a page that stands alone: thinwire report RUN --out FILE" }));
} else if (data.tables.runs) {
  data.sets.forEach((set, number) => showComparison(set, number));
  runsTable(document.getElementById("all-runs"), data.tables.runs);
} else {
  data.sets.forEach(showRun);
}
const drawn = Promise.all(charts.map((redraw) => redraw()));
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return; // a phone hides and shows its bars
  width = window.innerWidth;
  charts.forEach((redraw) => redraw());
});
drawn.then(() => document.body.setAttribute("data-drawn", ""));

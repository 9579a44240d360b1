// Tables that sort and filter.

/**
 * A table that sorts by a click on a column's name and shows the rows with all words of a filter.
 * A cell is {value, text}, perhaps with a `mark` before its text; rows without a value come last
 * either way. On a narrow screen a row is a list of names and values, and a choice sorts.
 */
function table(parent, name, columns, rows, { controls = [], front = [] } = {}) {
  const body = element("tbody"), count = element("span", { className: "quiet" });
  const filter = element("input", { type: "search", placeholder: "filter rows: words, all of them",
    "aria-label": "filter rows" });
  const lines = rows.map((cells, i) => {
    const line = element("tr", { className: front[i] ? "front" : "" }, ...cells.map((cell, k) =>
      element("td", { "data-name": columns[k], className: typeof cell.value !== "string" ? ""
        : cell.text.length > 40 ? "text long" : "text" },
      ...(cell.text ? [element("span", {}, ...(cell.mark ? [cell.mark] : []), cell.text)] : []))));
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
  const order = element("select", { className: "narrow", "aria-label": "sort by" },
    ...["sort by", ...columns].map((title, i) => element("option", { value: i - 1, text: title })));
  order.addEventListener("change", () => sort(Math.max(0, order.value), headings[Math.max(0, order.value)]));
  filter.addEventListener("input", show);
  show();
  parent.append(element("div", { className: "bar" }, filter, order, count, ...controls),
    element("div", { className: "scroll stack" },
      element("table", { id: name }, element("thead", {}, element("tr", {}, ...headings)), body)));
}

function configurationsTable(parent, number, set) {
  const plain = (value, text = String) => ({ value, text: value === null ? "-" : text(value) });
  const spread = (one, text) => ({ value: one.mean, text: withSpread(one, text) });
  const asScore = (value) => score(set.metric, value);
  const aimed = set.target !== null;
  const columns = ["configuration", "seeds", set.name, "sent",
    ...(aimed ? [`sent to ${set.target}`, `rounds to ${set.target}`, "met by seeds"] : []),
    `${set.name} of the best round`, "rounds selected on", `unseen ${set.name}`, "bits up", "method"];
  const rows = set.configurations.map((one) => [
    { value: one.label, text: one.label, mark: swatch(one) }, plain(one.seeds.length),
    spread(one.score, asScore), spread(one.bytes, size),
    ...(aimed ? [spread(one.bytes_to_target, size),
      spread(one.rounds_to_target, (value) => value.toFixed(1)),
      { value: one.aiming ? one.rounds_to_target.values.length : null,
        text: one.aiming ? `${one.rounds_to_target.values.length} of ${one.aiming}` : "no target" }]
      : []),
    spread(one.best, asScore), { value: one.selected_on, text: one.selected_on },
    spread(one.unseen, asScore), spread(one.bits, (value) => value.toFixed(2)),
    { value: one.method, text: one.method }]);
  table(parent, `configurations-${number}`, columns, rows,
    { front: set.configurations.map((one) => one.front) });
}

function significanceTable(parent, number, set) {
  const able = set.configurations.map((_, i) => i).filter((i) => set.differences[i].length);
  parent.append(element("h3", { className: "above", text: "Is a difference more than the spread over seeds?" }));
  if (!able.length) {
    parent.append(element("p", { className: "quiet", text: "No test is possible: it takes at " +
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

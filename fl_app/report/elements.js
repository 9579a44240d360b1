"use strict";
// All content comes from the JSON in #data. Names in it are arbitrary text: they are set as
// textContent, or escaped by escaped() for Plotly, which interprets some HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const PART_COLORS = ["#9aa1ac", "#0072b2", "#8cc6ea", "#d55e00", "#f3b98f"];
const FONT = { family: "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, DejaVu Sans, sans-serif",
  size: 12, color: "#1f2430" };

const color = (one) => data.looks[one.style][0];
const symbol = (one) => data.looks[one.style][1];
const narrow = () => window.innerWidth < 820;

function size(bytes) {
  if (bytes === null) return "-";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000 || unit === "GB") return `${bytes.toFixed(unit === "B" ? 0 : 1)} ${unit}`;
    bytes /= 1000;
  }
}
/** Bytes with the digits that a tick needs: 1.05 MB, 70 kB. */
function tick(bytes) {
  const power = bytes > 0 ? Math.min(3, Math.max(0, Math.floor(Math.log10(bytes * 1.0001) / 3))) : 0;
  return `${+(bytes / 1000 ** power).toPrecision(3)} ${["B", "kB", "MB", "GB"][power]}`;
}
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
/** A dot in a configuration's colour. */
const swatch = (one) => element("span", { className: "swatch", style: `background: ${color(one)}` });
const escaped = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
/** The lines of a text, of at most `length` characters, broken where a word ends. */
function lines(text, length) {
  const found = [""];
  for (const word of text.split(/(?<=[ ,_=]|-(?=[a-z]))/i)) {
    for (let at = 0; at < word.length; at += length) {
      const part = word.slice(at, at + length);
      if (found.at(-1) && (found.at(-1) + part.trimEnd()).length > length) found.push("");
      found[found.length - 1] += part;
    }
  }
  return found.map((line) => line.trim());
}
const broken = (text, length) => lines(text, length).map(escaped).join("<br>");
const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const pValue = (p) => (p === null ? "-" : p < 0.001 ? "< 0.001" : p.toFixed(3));

function hover(set, one) {
  return `<b>${escaped(one.label)}</b><br>${escaped(one.method)}` +
    `<br>${escaped(set.name)} ${withSpread(one.score, (v) => score(set.metric, v))}` +
    `<br>${withSpread(one.bytes, size)} sent` +
    `<br>${plural(one.seeds.length, "seed")}: ${one.seeds.join(", ")}`;
}

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
  const heading = element("figcaption", {}, element("h3", { text: title }),
    element("span", { className: "controls" }, ...controls, ...buttons));
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

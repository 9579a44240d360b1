// The Pareto front and the placement of its labels.

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
    return null; // the list below the chart has it too
  });
}

function drawPareto(set) {
  return (plot) => {
    const all = set.configurations, width = plot.clientWidth;
    const front = all.filter((one) => one.front).sort((a, b) => a.front - b.front);
    const traces = [{ x: front.map((o) => o.bytes.mean), y: front.map((o) => o.score.mean),
      mode: "lines", line: { color: "#1f2430", width: 1.5, shape: "hv" }, name: "Pareto front",
      hoverinfo: "skip", showlegend: true }];
    // The front has labels; many others are only in the table below.
    const named = all.length - front.length <= LEGEND;
    for (const one of all) {
      const bars = (spread) => ({ type: "data", array: [one[spread].sd || 0],
        color: "rgba(102,112,133,.45)", thickness: 1, width: 3 });
      traces.push({ x: [one.bytes.mean], y: [one.score.mean], mode: "markers",
        name: broken(one.label, 40), showlegend: named && !one.front, text: [hover(set, one)],
        hovertemplate: "%{text}<extra></extra>", error_y: bars("score"), error_x: bars("bytes"),
        marker: { opacity: 1, size: one.front ? 11 : 9, symbol: symbol(one),
          color: one.mark ? "#ffffff" : one.front ? color(one) : data.beaten,
          line: { width: 1.2, color: color(one) } } });
    }
    const legend = 60 + legendHeight(traces);
    const margin = { l: 58, r: 16, t: 12, b: legend };
    const w = width - margin.l - margin.r, h = narrow() ? 300 : 470;
    const xaxis = bytesAxis(all.map((o) => o.bytes.mean),
      narrow() ? "message bytes of the run" : "message bytes of the whole run, log scale", w);
    // Room for labels above. Where there are many, a double-click shows what is far below the front.
    // What is better is higher: an axis of scores of which lower ones are better is upside down.
    const gain = (value) => (set.lower_is_better ? -value : value);
    const best = front.flatMap(({ score: { mean, sd } }) => [mean - (sd || 0), mean + (sd || 0)]);
    const top = Math.max(...best.map(gain)), least = Math.min(...all.map((o) => gain(o.score.mean)));
    const worst = Math.min(...best.map(gain)), below = (limit) =>
      all.filter((o) => gain(o.score.mean) < limit).length;
    const few = below(worst - 0.25 * Math.max(top - worst, 0.05)) <= all.length / 3;
    const lowest = all.length > LEGEND && few ? worst : Math.min(worst, least);
    const rise = Math.max(top - lowest, 0.05), floor = lowest - 0.25 * rise;
    const bottom = least > floor - 0.25 * rise ? Math.min(floor, least - 0.05 * rise) : floor;
    const yaxis = { ...scoreAxis(set, best, `final ${set.name}`), automargin: false,
      range: [gain(bottom), gain(top + 0.3 * rise)] };
    xaxis.automargin = false;
    const hidden = below(bottom);
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
    return { traces, layout: { height: margin.t + h + legend, xaxis, yaxis, margin,
      shapes: goal.shapes, annotations: [...goal.annotations, ...annotations],
      legend: { ...BELOW, orientation: "v" } } };
  };
}

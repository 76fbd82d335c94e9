// A strip of cells, groups by windows: how strong each value is, at a glance; arrows move through it, Enter explains.

import { h, fill, svg } from "./dom.js";
import { resolved } from "./palette.js";
import { absolute, clock, measured } from "./format.js";

const ROW_PX = 18;
const MAX_GROUPS = 24;
const LABEL_PX = 118;

/** A heat strip in `box`; `chosen(row)` when a cell is clicked or entered. */
export function heatStrip(box, { chosen, now, signal }) {
  const note = h("p", { class: "note heat-note", role: "status" }, "");
  const stage = h("div", { class: "heat", tabindex: "0", role: "application", "aria-label": "Heat strip" });
  fill(box, stage, note);
  let shown = null;
  let at = null; // [group, window] under the cursor

  function show(next) {
    shown = { ...next, series: next.series.slice(0, MAX_GROUPS) };
    stage.setAttribute(
      "aria-label",
      `Heat strip of ${next.title}: ${shown.series.length} groups by ${next.times.length} windows. Arrows move, Enter explains. The table has every value.`,
    );
    draw();
    if (at === null)
      fill(
        note,
        next.series.length > MAX_GROUPS
          ? `The ${MAX_GROUPS} largest of ${next.series.length} groups.`
          : "One cell for each group and window; the stronger, the more.",
      );
  }

  function draw() {
    const { times, series } = shown;
    const width = Math.max(stage.clientWidth - LABEL_PX, 60);
    const { left, column, windowAt } = columnsOf(times, width);
    const values = series.flatMap((group) => group.values).filter((value) => value !== null);
    const low = Math.min(...values, 0);
    const high = Math.max(...values);
    const canvas = h("canvas", { "aria-hidden": "true" });
    const ratio = devicePixelRatio;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(series.length * ROW_PX * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${series.length * ROW_PX}px`;
    const context = canvas.getContext("2d");
    context.fillStyle = resolved("--accent");
    context.strokeStyle = resolved("--text");
    context.scale(ratio, ratio);
    series.forEach((group, g) =>
      group.values.forEach((value, w) => {
        if (value === null) return;
        context.globalAlpha = high > low ? 0.08 + 0.92 * ((value - low) / (high - low)) : 0.5;
        context.fillRect(left(w), g * ROW_PX + 1, Math.max(column - (column > 4 ? 1 : 0), 0.75), ROW_PX - 2);
      }),
    );
    context.globalAlpha = 1;
    if (at) context.strokeRect(left(at[1]) + 0.5, at[0] * ROW_PX + 1.5, Math.max(column - 1, 2), ROW_PX - 3);
    const labels = h(
      "div",
      { class: "heat-labels", "aria-hidden": "true" },
      series.map((group) => h("span", { title: group.label }, group.label)),
    );
    fill(stage, labels, canvas);
    canvas.addEventListener("pointermove", (event) => move(found(event, windowAt)));
    canvas.addEventListener("click", (event) => enter(found(event, windowAt)));
  }

  const found = (event, windowAt) => [Math.floor(event.offsetY / ROW_PX), windowAt(event.offsetX)];
  const rowAt = ([g, w]) => shown.series[g]?.rows[w] ?? null;

  function move([g, w]) {
    const group = shown.series[g];
    if (!group || shown.times[w] === undefined) return;
    const moved = !at || at[0] !== g || at[1] !== w;
    at = [g, w];
    if (!moved) return;
    const row = rowAt(at);
    fill(
      note,
      h("b", {}, group.label),
      ` · `,
      h("time", { title: absolute(shown.times[w]) }, clock(shown.times[w], now())),
      ` · `,
      row
        ? `${measured(group.values[w], shown.unit)} · ${row.state}${row.revision > 0 ? ` · revision ${row.revision}` : ""}`
        : "no window",
    );
    draw();
  }

  function enter(where) {
    const row = where && rowAt(where);
    if (row) chosen(row);
  }

  stage.addEventListener("keydown", (event) => {
    if (!shown || event.altKey || event.ctrlKey || event.metaKey) return;
    const [g, w] = at ?? [0, shown.times.length];
    const to = { ArrowLeft: [g, w - 1], ArrowRight: [g, w + 1], ArrowUp: [g - 1, w], ArrowDown: [g + 1, w] }[event.key];
    if (to) move([clamp(to[0], shown.series.length), clamp(to[1], shown.times.length)]);
    else if (event.key === "Enter" && at) enter(at);
    else return;
    event.preventDefault();
  });

  const resize = new ResizeObserver(() => shown && draw());
  resize.observe(stage);
  document.addEventListener("themechange", () => shown && draw(), { signal });
  signal.addEventListener("abort", () => resize.disconnect());
  return { show };
}

const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));

/** Where windows stand in a width: by their times, so that a gap is as wide as the time without windows was long. */
export function columnsOf(times, width) {
  const strides = times.slice(1).map((at, index) => at - times[index]);
  const stride = strides.length ? Math.min(...strides) : 1;
  const scale = width / ((times.at(-1) ?? 0) - (times[0] ?? 0) + stride);
  const left = (index) => (times[index] - times[0]) * scale;
  return { left, column: stride * scale, windowAt: (x) => times.findLastIndex((at) => (at - times[0]) * scale <= x) };
}

/** A line of the newest values, without axes: for a tile or a row of a table. */
export function sparkline(values, { width = 96, height = 22, label }) {
  const known = values.filter((value) => value !== null);
  const high = Math.max(...known, 1e-9);
  const low = Math.min(...known, 0);
  const x = (index) => (values.length < 2 ? width : (index / (values.length - 1)) * (width - 2) + 1);
  const y = (value) => height - 2 - ((value - low) / (high - low)) * (height - 4);
  let pen = "M";
  const path = values
    .map((value, index) => {
      if (value === null) return ((pen = "M"), "");
      const step = `${pen}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
      return step;
    })
    .join("");
  const line = svg("path", { d: path || "M0 0", class: "spark-line" });
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, class: "spark", role: "img", "aria-label": label },
    line,
  );
}

// A line chart of one value (uPlot): open windows dashed, revised ones marked, gaps left open; keys move through it.

import uPlot from "./vendor/uPlot.esm.js";
import { h, fill } from "./dom.js";
import { resolved } from "./palette.js";
import { absolute, axisTime, clock, compact, measured } from "./format.js";
import { splitOpen } from "./rows.js";

const HEIGHT_PX = 300;
const PHONE_HEIGHT_PX = 230;
const PHONE_PX = 560;
const FONT = "system-ui, sans-serif";
const TIME_PX = 30; // half of the label of an axis' last time
const ZOOM_PX = 8; // a drag that is shorter is a click
export const COLOURS = 8; // of styles/theme.css: --series-1 …

const colour = (index) => resolved(`--series-${(index % COLOURS) + 1}`);

/** A chart in `box`; `chosen(row)` when a point is clicked or entered, `zoomed(start, end)` after a drag. */
export function lineChart(box, { chosen, zoomed, signal, now }) {
  const stage = h("div", { class: "plot", tabindex: "0", role: "application", "aria-label": "Line chart" });
  const tip = h("div", { class: "tip", role: "status", hidden: true });
  fill(box, stage, tip);
  let plot = null;
  let shown = null;

  function show(next) {
    const same = plot && shown && signatureOf(shown) === signatureOf(next);
    shown = next;
    stage.setAttribute(
      "aria-label",
      `Line chart of ${next.title}, ${next.series.length} lines. Left and right move through the windows, Enter explains one. The table has every value.`,
    );
    if (same) plot.setData(columns(next));
    else rebuild();
  }

  function rebuild() {
    plot?.destroy();
    plot = null;
    if (shown) plot = new uPlot(options(), columns(shown), stage);
  }

  const columns = ({ times, series }) => [
    times.map((ms) => ms / 1_000),
    ...series.flatMap((each) => {
      const { closed, dashed } = splitOpen(each);
      return [closed, dashed];
    }),
  ];

  const size = () => ({
    width: Math.max(stage.clientWidth, 120),
    height: stage.clientWidth < PHONE_PX ? PHONE_HEIGHT_PX : HEIGHT_PX,
  });

  function options() {
    const grid = { stroke: resolved("--grid"), width: 1 };
    const axis = { stroke: resolved("--soft"), grid, ticks: { show: false }, font: `11px ${FONT}` };
    return {
      ...size(),
      padding: [12, TIME_PX, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false, setScale: false }, focus: { prox: 24 } },
      scales: {
        x: { time: true, range: (_, first, last) => breadth(first, last) },
        y: { range: (_, low, high) => span(low, high) },
      },
      axes: [
        {
          ...axis,
          space: 76,
          size: 30,
          values: (u, ticks) => ticks.map((s) => axisTime(s * 1_000, (u.scales.x.max - u.scales.x.min) * 1_000)),
        },
        { ...axis, size: 58, values: (_, ticks) => ticks.map((value) => compact(value)) },
      ],
      series: [{}, ...shown.series.flatMap((each, index) => lines(each, index))],
      hooks: {
        drawClear: [shadeOpen],
        draw: [markRevised],
        setCursor: [point],
        setSelect: [selected],
        ready: [clickable],
      },
    };
  }

  /** From the first window to the last; round a single one, to which uPlot would give years. */
  function breadth(first, last) {
    if (shown.times.length !== 1) return [first, last];
    const row = shown.series.flatMap(({ rows }) => rows).find((each) => each);
    const room = row ? (row.window_end - row.window_start) / 1_000 || 1 : 1; // a session of one event ends where it began
    return [first - room, first + room];
  }

  function lines(group, index) {
    const base = { stroke: colour(group.colour ?? index), width: 1.75, spanGaps: false, label: group.label };
    if (shown.dots)
      return [
        { ...base, width: 0, paths: () => null, points: { show: true, size: 6, fill: base.stroke } },
        { ...base, width: 0, paths: () => null, points: { show: true, size: 6 } },
      ];
    return [
      { ...base, points: { size: 4, fill: base.stroke, filter: alone } },
      { ...base, dash: [5, 4], points: { show: true, size: 6, fill: resolved("--panel"), filter: openOnly } },
    ];
  }

  function alone(u, series) {
    const values = u.data[series];
    return values.flatMap((value, i) => (value !== null && values[i - 1] == null && values[i + 1] == null ? [i] : []));
  }

  function openOnly(u, series) {
    const { rows } = shown.series[(series - 2) / 2];
    return rows.flatMap((row, i) => (row?.state === "open" ? [i] : []));
  }

  function shadeOpen(u) {
    const from = shown.openFrom;
    if (from === null || from / 1_000 >= u.scales.x.max) return;
    const left = Math.max(u.valToPos(from / 1_000, "x", true), u.bbox.left);
    u.ctx.save();
    u.ctx.fillStyle = resolved("--open");
    u.ctx.fillRect(left, u.bbox.top, u.bbox.left + u.bbox.width - left, u.bbox.height);
    u.ctx.restore();
  }

  function markRevised(u) {
    const ratio = devicePixelRatio;
    u.ctx.save();
    u.ctx.lineWidth = 1.5 * ratio;
    u.ctx.fillStyle = resolved("--panel");
    shown.series.forEach((group, index) => {
      u.ctx.strokeStyle = colour(group.colour ?? index);
      group.rows.forEach((row, i) => {
        if (!row || !(row.revision > 0) || group.values[i] === null) return;
        diamond(
          u.ctx,
          u.valToPos(shown.times[i] / 1_000, "x", true),
          u.valToPos(group.values[i], "y", true),
          4.5 * ratio,
        );
      });
    });
    u.ctx.restore();
  }

  function point(u) {
    const index = u.cursor.idx;
    if (index === null || index === undefined || u.cursor.left < 0) return void (tip.hidden = true);
    const found = shown.series
      .map((group, number) => ({ group, number, row: group.rows[index], value: group.values[index] }))
      .filter(({ row }) => row);
    const row = found[0]?.row;
    fill(
      tip,
      h(
        "p",
        { class: "tip-time", title: absolute(shown.times[index]) },
        row ? windowLine(row) : `${clock(shown.times[index], now())} · no window`,
      ),
      row
        ? h(
            "ul",
            {},
            found
              .sort((a, b) => (b.value ?? -Infinity) - (a.value ?? -Infinity))
              .map(({ group, number, value, row: each }) =>
                h(
                  "li",
                  {},
                  swatch(group.colour ?? number),
                  h("span", { class: "tip-name" }, group.label),
                  h("b", {}, measured(value, shown.unit)),
                  each.revision > 0 ? h("i", {}, `rev ${each.revision}`) : null,
                ),
              ),
          )
        : null,
    );
    tip.hidden = false;
    const left = u.cursor.left + u.over.offsetLeft;
    const room = stage.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(4, Math.min(left > stage.clientWidth / 2 ? left - tip.offsetWidth - 16 : left + 16, room))}px`;
  }

  const windowLine = (row) =>
    `${clock(row.first ?? row.window_start, now())} – ${clock(row.closes_at ?? row.window_end, now())} · ${row.state}`;

  function selected(u) {
    const { left, width } = u.select;
    if (width === 0) return;
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (width < ZOOM_PX) return;
    zoomed(...[left, left + width].map((px) => Math.round(u.posToVal(px, "x") * 1_000)));
  }

  function clickable(u) {
    u.over.addEventListener("click", () => {
      if (u.cursor.idx != null) choose(u.cursor.idx, u.posToVal(u.cursor.top, "y")); // uPlot lets none through after a drag
    });
  }

  function choose(index, near = null) {
    const rows = shown.series
      .map((group) => ({ row: group.rows[index], value: group.values[index] }))
      .filter(({ row }) => row);
    if (rows.length === 0) return;
    const distance = ({ value }) => (near === null || value === null ? Infinity : Math.abs(value - near));
    chosen(rows.reduce((best, each) => (distance(each) < distance(best) ? each : best)).row);
  }

  stage.addEventListener("keydown", (event) => {
    if (!plot || event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const last = shown.times.length - 1;
    if (steps !== undefined) {
      const at = Math.max(0, Math.min(last, (plot.cursor.idx ?? (steps > 0 ? -1 : last + 1)) + steps));
      plot.setCursor({
        left: plot.valToPos(shown.times[at] / 1_000, "x"),
        top: plot.bbox.height / devicePixelRatio / 2,
      });
    } else if (event.key === "Enter" && plot.cursor.idx != null) choose(plot.cursor.idx);
    else if (event.key === "Escape") plot.setCursor({ left: -10, top: -10 });
    else return;
    event.preventDefault();
  });

  const resize = new ResizeObserver(() => plot?.setSize(size()));
  resize.observe(stage);
  document.addEventListener("themechange", rebuild, { signal });
  signal.addEventListener("abort", () => {
    resize.disconnect();
    plot?.destroy();
  });
  return { show };
}

const signatureOf = ({ series, unit, dots }) =>
  JSON.stringify([unit, dots, series.map(({ key, colour: own }) => [key, own])]);

/** From below the least to above the greatest; from 0 where everything is positive and 0 is near, or there is one value. */
function span(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  const bottom = low >= 0 && (low === high || low <= (high - low) * 2) ? 0 : low - room;
  return [bottom, high + room];
}

function diamond(context, x, y, radius) {
  context.beginPath();
  context.moveTo(x, y - radius);
  context.lineTo(x + radius, y);
  context.lineTo(x, y + radius);
  context.lineTo(x - radius, y);
  context.closePath();
  context.fill();
  context.stroke();
}

/** A small square in a series' colour. */
export function swatch(index) {
  return h("span", {
    class: "swatch",
    style: { "--swatch": `var(--series-${(index % COLOURS) + 1})` },
    "aria-hidden": "true",
  });
}

// Rows of a metric as things to draw: which group and window each is, series with their gaps, what is open or revised.

import { exactDuration } from "./format.js";

const NUMERIC = new Set(["int", "float"]);
const LISTS = new Set(["topk", "histogram"]);

export const isNumeric = (value) => NUMERIC.has(value.type) && !LISTS.has(value.function);
export const isSession = (metric) => "session_ms" in metric.window;

/** What a group is called: its fields' values, `all` where a metric has none. */
export function groupLabel(metric, row) {
  return metric.group.length === 0 ? "all" : metric.group.map(({ name }) => fieldText(row[name])).join(" · ");
}

/** A group's field as text; the empty text and null would not be seen otherwise. */
export function fieldText(value) {
  if (value === null || value === undefined) return "null";
  return value === "" ? "(empty)" : String(value);
}

export function groupKey(metric, row) {
  return JSON.stringify(
    metric.group.map(({ name }) => (typeof row[name] === "bigint" ? String(row[name]) : row[name])),
  );
}

/** One result: a window (of sessions: a first) and a group. */
export function rowKey(metric, row) {
  return `${row.first ?? row.window_start}:${row.first === undefined ? row.window_end : ""}:${groupKey(metric, row)}`;
}

/** Where a window stands on the time axis: windows that overlap at their end, sessions at their first event. */
export function place(metric, row, stepped) {
  if (!stepped && isSession(metric)) return row.first;
  return !stepped && ("hopping_ms" in metric.window || "cumulating_ms" in metric.window)
    ? row.window_end
    : row.window_start;
}

/** How far the next window is from this one. */
export function strideOf(metric, row, stepped) {
  const { window } = metric;
  return (!stepped && window.every_ms) || row.window_end - row.window_start;
}

/** What a window is, in words: `10s tumbling`. */
export function windowText(window) {
  const long = exactDuration;
  if ("tumbling_ms" in window) return `${long(window.tumbling_ms)} tumbling`;
  if ("hopping_ms" in window) return `${long(window.hopping_ms)} every ${long(window.every_ms)}`;
  if ("cumulating_ms" in window) return `${long(window.cumulating_ms)} cumulating every ${long(window.every_ms)}`;
  if ("calendar" in window) return `calendar ${window.calendar}, ${window.tz}`;
  return `session, gap ${long(window.session_ms)}${window.max_ms ? `, at most ${long(window.max_ms)}` : ""}`;
}

/** The length of a metric's own steps, for choosing a range. */
export function usualStride(metric) {
  const { window } = metric;
  const days = { day: 1, week: 7, month: 30 };
  return window.every_ms ?? window.tumbling_ms ?? (window.calendar ? days[window.calendar] * 86_400_000 : 60_000);
}

/**
 * Series of one value: `times` (ms, ascending, with a time of no value in each gap), and per group `values`, `rows`,
 * `total`. Groups come by their total, largest first.
 */
export function seriesOf(metric, rows, valueName, stepped) {
  const strides = new Map();
  const groups = new Map();
  for (const row of rows) {
    const at = place(metric, row, stepped);
    strides.set(at, strideOf(metric, row, stepped));
    const key = groupKey(metric, row);
    if (!groups.has(key)) groups.set(key, { key, label: groupLabel(metric, row), byTime: new Map(), total: 0 });
    const group = groups.get(key);
    group.byTime.set(at, row);
    group.total += Math.abs(Number(row[valueName] ?? 0));
  }
  const times = withGaps(
    [...strides.keys()].sort((a, b) => a - b),
    (at) => at + strides.get(at),
  );
  const series = [...groups.values()].sort((a, b) => b.total - a.total || (a.label < b.label ? -1 : 1));
  for (const group of series) {
    group.rows = times.map((at) => group.byTime.get(at) ?? null);
    group.values = group.rows.map((row) => (row === null || row[valueName] === null ? null : Number(row[valueName])));
  }
  return { times, series };
}

/** Sessions as points, all in one series: each has a place of its own, and there are too many groups for lines. */
export function scatterOf(rows, valueName) {
  const sorted = [...rows].sort((a, b) => a.first - b.first);
  const values = sorted.map((row) => (row[valueName] === null ? null : Number(row[valueName])));
  return {
    times: sorted.map((row) => row.first),
    series: [{ key: "", label: `${sorted.length} sessions`, rows: sorted, values, total: 0 }],
  };
}

function withGaps(times, next) {
  return times.flatMap((at, index) => {
    const following = times[index + 1];
    return following !== undefined && following > next(at) ? [at, next(at)] : [at];
  });
}

/** A series cut in two: what is published, and what is open, which begins at the last published point beside it. */
export function splitOpen({ values, rows }) {
  const open = rows.map((row) => row?.state === "open");
  const closed = values.map((value, index) => (open[index] ? null : value));
  const dashed = values.map((value, index) => (open[index] || (open[index + 1] && value !== null) ? value : null));
  return { closed, dashed };
}

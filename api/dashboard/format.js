// Numbers, durations and instants for people; one way each, in every table, tile, axis and tooltip.

const NUMBER = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 6, useGrouping: true });
const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const SMALL = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3, notation: "compact" });
const COMPACT_FROM = 100_000;
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY_CLOCK = new Intl.DateTimeFormat("en-GB", {
  day: "2-digit",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const DAY_MINUTE = new Intl.DateTimeFormat("en-GB", {
  day: "2-digit",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
const DAY = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", year: "numeric" });
const UNITS = [
  ["w", 604_800_000],
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1_000],
  ["ms", 1],
];
export const NONE = "–";

/** A number in full: 12,345 or 41.5; a whole one keeps all its digits, another has six. */
export function number(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "bigint" || Number.isInteger(value)) return WHOLE.format(value);
  return Math.abs(value) >= 1e15 || (value !== 0 && Math.abs(value) < 1e-5)
    ? value.toPrecision(6)
    : NUMBER.format(value);
}

/** A number where there is little room: 1.2M. */
export function compact(value) {
  if (value === null || value === undefined) return NONE;
  return Math.abs(Number(value)) < COMPACT_FROM
    ? NUMBER.format(Math.abs(value) < 100 ? round(value, 3) : round(value, 1))
    : SMALL.format(value);
}

function round(value, digits) {
  const scale = 10 ** digits;
  return Math.round(Number(value) * scale) / scale;
}

/** Events a second: one decimal where there are few. */
export const perSecond = (rate) => compact(rate === null ? null : round(rate, rate < 10 ? 2 : rate < 1_000 ? 1 : 0));

/** A number with its unit: `41.5 ms`, `12 °C`. */
export function measured(value, unit, form = number) {
  return value === null || value === undefined || !unit ? form(value) : `${form(value)} ${unit}`;
}

/** A number of events with its noun: `1 event`, `2 events`. */
export function counted(count, noun) {
  return `${number(count)} ${noun}${Number(count) === 1 ? "" : "s"}`;
}

/** A duration as the config writes one: `10s`, `1h30m`; exact, so that it can be sent back. */
export function exactDuration(ms) {
  let rest = Math.round(ms);
  if (rest === 0) return "0s";
  const parts = [];
  for (const [unit, size] of UNITS) {
    if (unit === "w" && rest % size !== 0) continue; // 90d is easier to read than 12w6d
    if (rest >= size) parts.push(`${Math.floor(rest / size)}${unit}`);
    rest %= size;
  }
  return parts.join("");
}

/** A duration for a glance, of two digits or so: `4.2 s`, `3 min`, `2 d`. */
export function duration(ms) {
  if (ms === null || ms === undefined) return NONE;
  const size = Math.abs(ms);
  const sign = ms < 0 ? "−" : "";
  if (size < 1_000) return `${sign}${Math.round(size)} ms`;
  if (size < 60_000) return `${sign}${round(size / 1_000, size < 10_000 ? 1 : 0)} s`;
  if (size < 3_600_000) return `${sign}${round(size / 60_000, size < 600_000 ? 1 : 0)} min`;
  if (size < 172_800_000) return `${sign}${round(size / 3_600_000, size < 36_000_000 ? 1 : 0)} h`;
  return `${sign}${WHOLE.format(round(size / 86_400_000, 0))} d`;
}

/** How long ago, or how far ahead, an instant is. */
export function ago(ms, now) {
  if (ms === null || ms === undefined) return NONE;
  return ms > now + 999 ? `in ${duration(ms - now)}` : now - ms < 1_000 ? "just now" : `${duration(now - ms)} ago`;
}

/** The time of day, with the day where it is not today; in the zone of whoever looks. */
export function clock(ms, now) {
  if (ms === null || ms === undefined) return NONE;
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return String(ms);
  if (new Date(now).toDateString() === date.toDateString()) return CLOCK.format(date);
  return Math.abs(now - ms) > 300 * 86_400_000 ? `${DAY.format(date)}, ${CLOCK.format(date)}` : DAY_CLOCK.format(date);
}

/** An instant on an axis: seconds only where the range is short. */
export function axisTime(ms, rangeMs) {
  const date = new Date(ms);
  if (rangeMs <= 3_600_000) return CLOCK.format(date);
  return rangeMs <= 36 * 3_600_000
    ? CLOCK.format(date).slice(0, 5)
    : rangeMs <= 14 * 86_400_000
      ? DAY_MINUTE.format(date)
      : DAY.format(date);
}

/** The instant in UTC, to the millisecond: what stands in titles. */
export function absolute(ms) {
  if (ms === null || ms === undefined) return "";
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? String(ms) : date.toISOString().replace("T", " ").replace("Z", " UTC");
}

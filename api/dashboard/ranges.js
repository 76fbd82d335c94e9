// Ranges of time as the API takes them: how long `-15m` is, and when it begins by the server's clock.

import { now } from "./api.js";

const UNITS_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
const RELATIVE = /^-(\d+)(ms|s|m|h|d|w)$/;

/** The length of a relative start such as `-15m`; null where it is none. */
export function relativeLength(start) {
  const found = RELATIVE.exec(start ?? "");
  return found ? Number(found[1]) * UNITS_MS[found[2]] : null;
}

/** The instant a start stands for now, of `-15m` or epoch milliseconds; null where the page cannot tell. */
export function startInstant(start) {
  const length = relativeLength(start);
  if (length !== null) return now() - length;
  return isInstant(start) ? Number(start) : null;
}

/** The length of a range; null where the page cannot tell. */
export function rangeLength(start, end) {
  return isInstant(start) && isInstant(end) ? Number(end) - Number(start) : relativeLength(start);
}

const isInstant = (text) => /^\d+$/.test(text ?? "");

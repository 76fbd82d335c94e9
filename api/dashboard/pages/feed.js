// The rows of a metric as they come: the range once, then what is published (live, else polled), and what is open.

import { ApiError, get, path } from "../api.js";
import { follow } from "../live.js";
import { poll } from "../poll.js";
import { startInstant } from "../ranges.js";
import { isSession, rowKey, usualStride } from "../rows.js";

const OPEN_MS = 2_000;
const STEPPED_MS = 5_000; // merged steps are asked for whole
const ROWS = 10_000; // the newest; the API's own default, said here because the order is turned round

/** Call `changed({rows, meta, mode, error, loaded})` with what is new, until the signal ends it. */
export function feed(metric, { query, start, end, step }, signal, changed) {
  const base = `/v1/metrics/${encodeURIComponent(metric.metric)}`;
  const where = [...query].filter(([name]) => name.startsWith("where."));
  const byKey = new Map();
  let meta = null;
  let mode = "connecting";
  let ready = false;
  const waiting = []; // live events that came before the range did

  const asked = (changes) => {
    const next = new URLSearchParams(query);
    for (const [name, value] of Object.entries({ order: "-window", limit: ROWS, ...changes })) next.set(name, value);
    return path(base, next);
  };

  /** A closed window becomes final by time alone, and nothing is published then. */
  function settle(row) {
    const final = !isSession(metric) && row.window_end + metric.allowed_lateness_ms <= (meta.watermark ?? -Infinity);
    return row.state === "closed" && final ? { ...row, state: "final" } : row;
  }

  function tell(more = {}) {
    const oldest = startInstant(start);
    for (const [each, row] of byKey) if (oldest !== null && row.window_end <= oldest) byKey.delete(each);
    changed({
      rows: [...byKey.values()]
        .map(settle)
        .sort((a, b) => a.window_start - b.window_start || a.window_end - b.window_end),
      meta,
      loaded: true,
      error: null,
      mode,
      ...more,
    });
  }

  const take = (rows) =>
    rows.forEach((row) =>
      row.state === "retracted" ? byKey.delete(rowKey(metric, row)) : byKey.set(rowKey(metric, row), row),
    );

  async function whole() {
    const answer = await get(asked({}), signal);
    byKey.clear();
    take(answer.data);
    meta = answer.meta;
    ready = true;
    waiting.splice(0).forEach(([event, data]) => heard(event, data));
    tell();
  }

  function heard(event, data) {
    if (!ready) return void waiting.push([event, data]);
    if (event === "reset") return void whole().catch(failed);
    take(data.data.filter(inRange));
    if (data.meta)
      meta = {
        ...meta,
        watermark: data.meta.watermark,
        complete_to: data.meta.complete_to,
        complete_by: data.meta.complete_by ?? meta.complete_by,
      };
    tell();
  }

  const inRange = (row) => row.window_end > (startInstant(start) ?? -Infinity);

  async function openOnly() {
    if (!ready) return whole();
    const { data, meta: said } = await get(asked({ state: "open" }), signal);
    for (const [each, row] of byKey)
      if (row.state === "open" && !(row.window_end <= said.watermark)) byKey.delete(each);
    take(data);
    meta = { ...said, truncated: meta.truncated, tier: meta.tier };
    if (mode !== "live") await newest();
    tell();
  }

  /** Without a stream: what closed or was revised lately. */
  async function newest() {
    if (meta.complete_to === null) return;
    const from =
      meta.complete_to - metric.allowed_lateness_ms - (isSession(metric) ? 3_600_000 : 4 * usualStride(metric));
    const { data } = await get(asked({ start: Math.max(from, startInstant(start) ?? from) }), signal);
    take(data);
  }

  /** When the stream begins, what was published between the range and its first position is asked for. */
  function moded(next) {
    mode = next;
    if (!ready) return;
    tell();
    if (next === "live") newest().then(() => tell(), failed);
  }

  const failed = (error) => error && !signal.aborted && changed({ error, loaded: true, mode });

  if (end) {
    mode = "fixed";
    whole().catch(failed);
    return;
  }
  const recovered = (error) => (error ? failed(error) : changed({ error: null }));
  if (step) {
    mode = "polling";
    poll(STEPPED_MS, whole, signal, (error) =>
      error instanceof ApiError && error.status === 422 ? failed(error) : recovered(error),
    );
    return;
  }
  follow(metric.metric, where, { heard, signal, mode: moded });
  poll(OPEN_MS, openOnly, signal, recovered);
}

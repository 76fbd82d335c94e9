// Windows as they are published: Server-Sent Events, and polling where the server has no room for one more reader.
//
// A browser opens six connections to a server, over all its tabs: a hidden tab closes its stream, and resumes by the
// position it had.

import { parsed, path } from "./api.js";

const AGAIN_MS = 30_000; // a refused stream (429, or a server without streams) is asked for again after this

/**
 * Follow a metric: `heard(event, data)` gets `snapshot`, `rows` and `reset`; `mode("live" | "polling" | "connecting")`
 * is told how it comes.
 */
export function follow(metric, where, { heard, mode, signal }) {
  let source = null;
  let timer = 0;
  let position = null;

  function open() {
    clearTimeout(timer);
    if (signal.aborted || document.hidden || source) return;
    const query = new URLSearchParams(where);
    if (position !== null) query.set("last_event_id", position);
    source = new EventSource(path(`/v1/metrics/${encodeURIComponent(metric)}/live`, query));
    source.onopen = () => mode("live");
    source.onerror = failed;
    for (const name of ["snapshot", "rows", "reset"]) source.addEventListener(name, taken);
  }

  function taken(event) {
    if (event.lastEventId) position = event.lastEventId;
    if (event.type === "reset") position = null;
    heard(event.type, parsed(event.data));
  }

  function failed() {
    if (source.readyState !== EventSource.CLOSED) return mode("connecting"); // it tries again by itself
    close();
    mode("polling");
    timer = setTimeout(open, AGAIN_MS);
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()), { signal });
  signal.addEventListener("abort", close);
  open();
}

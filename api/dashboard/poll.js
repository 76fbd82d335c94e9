// Asking again and again: one request at a time, none while nobody looks, slower while the server is away.

const SLOWEST = 8; // times the pause, after failures in a row

/**
 * Call `look` now and every `everyMs` until the signal ends it; `failed` gets what it threw, and null when it is well
 * again.
 */
export function poll(everyMs, look, signal, failed = () => {}) {
  let failures = 0;
  let timer = 0;
  let running = false;

  async function once() {
    clearTimeout(timer);
    if (running || signal.aborted || document.hidden) return;
    running = true;
    try {
      await look(signal);
      if (failures > 0) failed(null);
      failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      failures += 1;
      failed(error);
    } finally {
      running = false;
    }
    if (!signal.aborted) timer = setTimeout(once, everyMs * Math.min(2 ** failures, SLOWEST));
  }

  document.addEventListener("visibilitychange", once, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  once();
  return once;
}

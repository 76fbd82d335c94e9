// Events a second, from the counters of /v1/streams at successive looks; kept while the tab lives, over all its pages.

const KEPT = 150; // looks: five minutes at one in 2 s
const byStream = new Map();

/** Take note of the counters: `received` of each stream's door, or what its stages read where rows pass no door. */
export function look(streams, stages, at) {
  for (const stream of streams) {
    const read = stages
      .filter((stage) => stage.stream === stream.stream && stage.ledger)
      .map((stage) => stage.ledger.read);
    const count = Math.max(stream.door.received, ...read, 0);
    const looks = byStream.get(stream.stream) ?? [];
    const last = looks.at(-1);
    if (last && (at <= last.at || count < last.count)) looks.length = 0; // the data folder is another one now
    const rate = last && looks.length > 0 ? ((count - last.count) * 1_000) / (at - last.at) : null;
    looks.push({ at, count, rate });
    byStream.set(stream.stream, looks.slice(-KEPT));
  }
}

const SMOOTHED = 5; // looks

/** Events a second over the last few looks; null before the second. */
export function rate(stream) {
  const looks = (byStream.get(stream) ?? []).slice(-SMOOTHED - 1);
  if (looks.length < 2) return null;
  const [first, last] = [looks[0], looks.at(-1)];
  return ((last.count - first.count) * 1_000) / (last.at - first.at);
}

export const history = (stream) => (byStream.get(stream) ?? []).slice(1).map((look) => look.rate);

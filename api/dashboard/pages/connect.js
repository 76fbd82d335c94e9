// Connect a source: snippets with this server's address and a valid event of the chosen stream, and whether one came.

import { ADDRESS, get, heardClock, now, post } from "../api.js";
import { announce } from "../announce.js";
import { write } from "../copy.js";
import { fill, h, refresh } from "../dom.js";
import { ago, clock } from "../format.js";
import { choices, empty, failure, heading, panel, select } from "../panel.js";
import { poll } from "../poll.js";
import { changed, go, to } from "../route.js";
import { pythonLiteral } from "../text.js";

const LOOK_MS = 1_000;
const LOOKED_AT = 300; // of the newest events: one's own may be among those of others
const EXAMPLES = { string: "example", int: 1, float: 21.5, bool: true };
// The event time is the time of sending, so that what is copied now is not late when it is pasted.
const NOW = "\u0000now";

/** An event of a stream that its door takes: a value of each field's type. */
export function exampleOf(schema) {
  return Object.fromEntries(
    Object.entries(schema).map(([field, type]) => [field, valueOf(field, type.replace(/\?$/, ""))]),
  );
}

function valueOf(field, type) {
  const list = /^list\[(\w+)\]$/.exec(type);
  if (list) return [valueOf(field, list[1])];
  if (type === "timestamp") return NOW;
  if (type === "string" && /page|path|url/.test(field)) return "/docs/start";
  return type === "string" ? `${field}-1` : EXAMPLES[type];
}

const CLOCKS_MS = 500; // this page's notion of the server's clock is not exact

/** Whether a stored event is the example: all but its time is the same. */
function isExample(event, example) {
  return Object.entries(example).every(
    ([field, value]) => value === NOW || JSON.stringify(event?.[field]) === JSON.stringify(value),
  );
}

/** The example as an event that can be sent now. */
export const filledIn = (example) =>
  JSON.parse(JSON.stringify(example, (_, value) => (value === NOW ? new Date(now()).toISOString() : value)));

function snippets(stream, example) {
  const where = `${ADDRESS}/v1/streams/${stream}/events`;
  const json = JSON.stringify(example).replaceAll("'", "'\\''");
  const curl = `curl -X POST ${where} \\\n  -H 'content-type: application/json' \\\n  -d '${json.replaceAll(JSON.stringify(NOW), `"'"$(date -u +%FT%TZ)"'"`)}'`;
  const usesTime = JSON.stringify(example).includes(JSON.stringify(NOW));
  const python = [
    usesTime ? "from datetime import UTC, datetime\n" : null,
    "from api.client import Client\n",
    `client = Client(${pythonLiteral(ADDRESS)})`,
    `client.send(${pythonLiteral(stream)}, [${pythonLiteral(example).replaceAll(pythonLiteral(NOW), "datetime.now(UTC).isoformat()")}])`,
  ]
    .filter(Boolean)
    .join("\n");
  const js = JSON.stringify(example, null, 2)
    .replaceAll(JSON.stringify(NOW), "new Date().toISOString()")
    .replaceAll("\n", "\n  ");
  const javascript = `const answer = await fetch(${JSON.stringify(where)}, {\n  method: "POST",\n  headers: { "content-type": "application/json" },\n  body: JSON.stringify(${js}),\n});\nconsole.log(answer.status, await answer.json());`;
  return { curl, python, javascript };
}

const WAYS = [
  ["curl", "curl", "In a terminal."],
  ["python", "Python", "With the client that comes with Streamgauge."],
  ["javascript", "JavaScript", "Node 18 or newer (a module). A web page of another origin cannot send here."],
];

export async function open(route, signal) {
  const heard = await get("/v1/streams", signal);
  heardClock(heard.now);
  const { streams } = heard;
  if (streams.length === 0)
    return {
      element: h(
        "div",
        { class: "page" },
        heading("Connect"),
        empty("There is no stream yet", h("p", {}, "Declare one in config.yaml.")),
      ),
    };
  const stream = streams.find((each) => each.stream === route.query.get("stream")) ?? streams[0];
  const way = WAYS.find(([name]) => name === route.query.get("with")) ?? WAYS[0];
  const example = exampleOf(stream.schema);
  const text = snippets(stream.stream, example)[way[0]];
  const waiting = h("div", { class: "waiting", role: "status", "aria-live": "polite" });
  const outcome = h("div", { role: "status" });
  let since = now();
  let nothingBefore = null; // whether the stream was empty when the page was opened: then any event is the first

  async function looked() {
    const { events } = await get(`/v1/streams/${stream.stream}/events?limit=${LOOKED_AT}`, signal);
    nothingBefore ??= events.length === 0;
    const own = events.find((event) => event.arrival >= since - CLOCKS_MS && isExample(event.event, example));
    const came = own ?? (nothingBefore ? events.at(-1) : undefined);
    refresh(waiting, came ? arrived(came, stream, Boolean(own)) : still(events[0], since));
  }

  async function send() {
    try {
      since = now() + 2 * CLOCKS_MS; // what came before is not what is sent now
      const said = await post(`/v1/streams/${stream.stream}/events`, filledIn(example), signal);
      since = now() - CLOCKS_MS;
      fill(outcome, h("p", { class: "outcome" }, "The server took it: ", h("code", {}, JSON.stringify(said))));
    } catch (error) {
      if (!signal.aborted) fill(outcome, failure(error));
    }
  }

  const code = h("pre", { class: "snippet", tabindex: "0", "aria-label": `${way[1]} snippet` }, h("code", {}, text));
  const copyIt = h(
    "button",
    {
      class: "primary",
      onclick: () =>
        write(text).then(
          () => announce("Copied"),
          (error) => announce(error.message, "bad"),
        ),
    },
    "Copy",
  );
  poll(LOOK_MS, looked, signal, (error) => error && fill(waiting, failure(error)));
  const element = h(
    "div",
    { class: "page narrow" },
    heading("Connect"),
    h(
      "div",
      { class: "controls" },
      select(
        "Stream",
        streams.map((each) => [each.stream]),
        stream.stream,
        (name) => go(changed(route, { stream: name })),
      ),
    ),
    panel(
      "1. Send an event",
      choices(
        "Language",
        WAYS.map(([name, title]) => ({ text: title, href: changed(route, { with: name }), chosen: name === way[0] })),
      ),
      h("p", { class: "note" }, way[2]),
      code,
      h("div", { class: "actions" }, copyIt, h("button", { onclick: send }, "Send it from here")),
      outcome,
    ),
    panel("2. See it come", null, waiting),
    panel("What the stream takes", null, fields(stream)),
  );
  return { element };
}

function fields(stream) {
  const time = stream.time.field;
  return h(
    "div",
    {},
    h(
      "dl",
      { class: "schema" },
      Object.entries(stream.schema).map(([name, type]) =>
        h(
          "div",
          {},
          h("dt", {}, name),
          h(
            "dd",
            {},
            type.replace(/\?$/, ""),
            type.endsWith("?") ? h("small", {}, " may be missing") : null,
            name === time ? h("small", {}, " the event time") : null,
            name === stream.partition_by ? h("small", {}, " what it is partitioned by") : null,
          ),
        ),
      ),
    ),
    h(
      "p",
      { class: "note" },
      "One object, an array, or one object a line; thousands in one request are what is fast. Rows that do not fit are refused one by one, with the reason, and kept in ",
      h("a", { href: to(["aside", "quarantine"], { stream: stream.stream }) }, "quarantine"),
      ".",
    ),
  );
}

function still(newest, since) {
  const others = newest && newest.arrival >= since ? "Others are coming in" : null;
  return h(
    "div",
    { class: "wait" },
    h("span", { class: "pulse", "aria-hidden": "true" }),
    h(
      "div",
      {},
      h("p", {}, others ? "Waiting for the example among them…" : "Waiting for the first event…"),
      h(
        "p",
        { class: "note" },
        newest
          ? `${others ? `${others}, the` : "The"} newest ${ago(newest.arrival, now())}.`
          : `Nothing has ever come in. Waiting since ${clock(since, now())}.`,
      ),
    ),
  );
}

function arrived(event, stream, own) {
  return h(
    "div",
    { class: "wait came" },
    h("span", { class: "tick", "aria-hidden": "true" }, "✓"),
    h(
      "div",
      {},
      h(
        "p",
        {},
        h("b", {}, own ? "Your event came" : "The first event came"),
        ` at ${clock(event.arrival, now())} (${ago(event.arrival, now())}), in partition ${event.partition}.`,
      ),
      h(
        "pre",
        { class: "snippet small", tabindex: "0", "aria-label": "The event" },
        h(
          "code",
          {},
          JSON.stringify(event.event, (_, value) => (typeof value === "bigint" ? String(value) : value), 1),
        ),
      ),
      event.error
        ? h("p", { class: "note" }, `The workers cannot read it: ${event.error}`)
        : h(
            "p",
            {},
            "Now look at ",
            h("a", { href: to(["stages"], { stream: stream.stream }) }, "its stages"),
            " or ",
            h("a", { href: to(["metrics"]) }, "its metrics"),
            ".",
          ),
    ),
  );
}

// The account of one window: what was read and what became of it, partition by partition, and what it waits for.

import { get, heardClock, now, path } from "../api.js";
import { asCurl, asPython, copyButtons } from "../copy.js";
import { fill, h } from "../dom.js";
import { absolute, clock, counted, duration, measured, NONE, number } from "../format.js";
import { failure, heading, panel } from "../panel.js";
import { to } from "../route.js";
import { windowText } from "../rows.js";
import { since, instant, plain, table } from "../table.js";

const AGAIN_MS = 3_000; // an open window changes

export async function open(route, signal) {
  const name = route.parts[1];
  const where = path(`/v1/metrics/${encodeURIComponent(name)}/explain`, route.query);
  const body = h("div", { class: "stack" });
  const [{ metrics }, { now: serverNow }] = await Promise.all([get("/v1/metrics", signal), get("/v1/streams", signal)]);
  heardClock(serverNow);
  const metric = metrics.find((each) => each.metric === name);
  let timer = 0;

  async function looked() {
    try {
      const found = await get(where, signal);
      fill(body, told(found, metric, where));
      if (found.window.state === "open") timer = setTimeout(looked, AGAIN_MS);
    } catch (error) {
      if (!signal.aborted) fill(body, failure(error, looked));
    }
  }

  signal.addEventListener("abort", () => clearTimeout(timer));
  await looked();
  const back = to(["metrics", name], around(route, metric));
  return {
    element: h(
      "div",
      { class: "page" },
      heading(
        "Why this number",
        h("p", { class: "note" }, h("a", { href: back }, `← ${name}`), metric ? ` · ${windowText(metric.window)}` : ""),
      ),
      body,
    ),
  };
}

/** The explorer around the window, so that "back to the metric" shows it among its neighbours. */
function around(route, metric) {
  const [start, end] = [Number(route.query.get("start")), Number(route.query.get("end"))];
  if (!metric || !Number.isFinite(start) || !(end > start)) return {};
  if (now() - end < 900_000) return {};
  const room = 20 * (end - start);
  return { start: start - room, end: end + room };
}

function told(found, metric, where) {
  const at = now();
  const { window, accounts } = found;
  const group =
    found.group && Object.keys(found.group).length
      ? Object.entries(found.group).map(([name, value]) => [
          h("span", { class: "none" }, `${name} `),
          plain(value),
          " ",
        ])
      : metric?.group.length
        ? `all ${counted(found.groups, "group")}`
        : "one group";
  const copies = (label, csvRows) =>
    copyButtons(label, { curl: () => asCurl(where), python: () => asPython(where), csvRows });
  return [
    h(
      "p",
      { class: "facts" },
      h("span", { class: `state ${window.state}` }, window.state),
      window.revision > 0 ? h("span", { class: "badge revised" }, `revision ${window.revision}`) : null,
      h(
        "span",
        { title: `${absolute(window.start)} to ${absolute(window.end)}` },
        h("b", {}, `${clock(window.start, at)} – ${clock(window.end, at)}`),
        ` (${duration(window.end - window.start)})`,
      ),
      h("span", {}, group),
    ),
    found.closes_when
      ? h(
          "p",
          { class: "sentence" },
          found.closes_when,
          found.would_close_at
            ? [" If no event came from now on, silence would close it ", since(found.would_close_at, at), "."]
            : null,
        )
      : null,
    panel(
      "What became of the events",
      copies("the account", () => [["outcome", "events"], ...Object.entries(accounts)]),
      flow(accounts),
      found.log.complete
        ? null
        : h(
            "p",
            { class: "note" },
            "A part of this window's log has been trimmed, so it cannot be read again.",
            found.log.from !== null ? [" The first window that can is from ", instant(found.log.from, at), "."] : null,
          ),
      found.log.truncated
        ? h(
            "p",
            { class: "note" },
            "The log is longer than one request reads: these are the accounts of its beginning.",
          )
        : null,
    ),
    panel(
      "The values, stored and recomputed from the log",
      copies("the values", () => [
        ["value", "stored", "recomputed"],
        ...valueRows(found, metric).map((row) => [row.name, row.stored, row.recomputed]),
      ]),
      valueTable(found, metric),
    ),
    panel(
      "Partitions",
      copies("the partitions", () => [
        ["partition", "watermark", "holds_back", "lag", "cursor"],
        ...found.partitions.map((each) => [each.partition, each.watermark, each.holds_back, each.lag, each.cursor]),
      ]),
      partitions(found, at),
    ),
    entries(found),
  ];
}

/** read = accepted + filtered + late + dead, as a bar and as a sum. */
function flow(accounts) {
  const parts = ["accepted", "filtered", "late", "dead"].map((name) => [name, accounts[name]]);
  const read = Number(accounts.read) || 0;
  const more = [
    ["partial", "of the late, counted in a later window"],
    ["revised", "of the accepted, came after the window's end had passed"],
  ].filter(([name]) => accounts[name]);
  return h(
    "div",
    { class: "flow" },
    h(
      "div",
      { class: "flow-bar", "aria-hidden": "true" },
      parts.map(([name, count]) => (count ? h("i", { class: name, style: { "flex-grow": String(count) } }) : null)),
    ),
    h(
      "p",
      { class: "sum" },
      h("b", {}, number(accounts.read)),
      " read = ",
      parts.map(([name, count], index) => [
        index ? " + " : "",
        h("span", { class: `part ${name}` }, count === null ? NONE : number(count), ` ${name}`),
      ]),
    ),
    parts.some(([, count]) => count === null)
      ? h("p", { class: "note" }, "Filtered and dead events have no group, so they are in no group's account (–).")
      : null,
    more.length
      ? h(
          "p",
          { class: "note" },
          more.map(([name, text]) => `${number(accounts[name])} ${name}: ${text}. `),
        )
      : null,
    read === 0 ? h("p", { class: "note" }, "No event of the log falls in this window.") : null,
  );
}

function valueRows(found, metric) {
  const names = metric
    ? metric.values.map(({ name }) => name).filter((name) => name in { ...found.values, ...found.recomputed })
    : Object.keys(found.values ?? {});
  return names.map((name) => ({
    name,
    unit: metric?.values.find((value) => value.name === name)?.unit,
    stored: found.values?.[name],
    recomputed: found.recomputed?.[name],
  }));
}

function valueTable(found, metric) {
  const show = (value, row) => (typeof value === "number" ? measured(value, row.unit) : plain(value));
  const same = (row) => JSON.stringify(row.stored, text) === JSON.stringify(row.recomputed, text);
  const list = table({
    label: "Values",
    empty: h("p", { class: "note" }, "Nothing is stored of this window."),
    columns: [
      { name: "name", label: "Value" },
      { name: "stored", label: "Stored", number: true, sort: false, cell: (row) => show(row.stored, row) },
      {
        name: "recomputed",
        label: "Recomputed",
        number: true,
        sort: false,
        cell: (row) => (found.recomputed ? show(row.recomputed, row) : h("span", { class: "none" }, "cannot be")),
      },
      {
        name: "equal",
        label: "Equal",
        sort: false,
        value: same,
        cell: (row) =>
          !found.recomputed
            ? NONE
            : h(
                "span",
                { class: `badge ${same(row) ? "good" : found.window.state === "open" ? "quiet" : "bad"}` },
                same(row) ? "equal" : found.window.state === "open" ? "moving" : "differs",
              ),
      },
    ],
  });
  list.show(valueRows(found, metric));
  return list.element;
}

const text = (_, value) => (typeof value === "bigint" ? String(value) : value);

function partitions(found, at) {
  const list = table({
    label: "Partitions",
    columns: [
      { name: "partition", label: "Partition" },
      { name: "watermark", label: "Watermark", number: true, cell: (row) => instant(row.watermark, at) },
      {
        name: "to_end",
        label: "To the window's end",
        number: true,
        value: (row) => found.window.end - row.watermark,
        cell: (row) =>
          row.watermark === null
            ? NONE
            : row.watermark >= found.window.end
              ? "passed"
              : duration(found.window.end - row.watermark),
      },
      {
        name: "holds_back",
        label: "",
        sort: false,
        cell: (row) => (row.holds_back ? waiting(found.window.state) : ""),
      },
      { name: "lag", label: "Lag", number: true },
      { name: "cursor", label: "Cursor" },
    ],
  });
  list.show(found.partitions);
  return list.element;
}

/** What a partition is waited for: an open window to close, a closed one to be final. */
function waiting(state) {
  return state === "open"
    ? h("span", { class: "badge warn" }, "the window waits for it")
    : h("span", { class: "badge quiet" }, "late events may still come: not final yet");
}

function entries({ first_entry: first, last_entry: last }) {
  const said = (each) =>
    `partition ${each.partition}, entry ${each.id} (stored ${absolute(Number.parseInt(each.id, 10))}), row ${each.row}`;
  return first ? h("p", { class: "note" }, `First event: ${said(first)}. Last: ${last ? said(last) : NONE}.`) : null;
}

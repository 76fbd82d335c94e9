// Results in words: how complete an answer is, the columns of its table, and where a row is explained.

import { now } from "../api.js";
import { h } from "../dom.js";
import { absolute, ago, clock, counted, duration, exactDuration } from "../format.js";
import { to } from "../route.js";
import { isNumeric, isSession } from "../rows.js";
import { instant, plain } from "../table.js";

/** How the rows came and how complete they are, in a line. */
export function account(metric, { meta, mode, loaded, rows }, stepped) {
  if (!meta) return h("p", { class: "note" }, "Asking…");
  const at = now();
  const modes = {
    live: ["good", "live", "windows come as they are published"],
    polling: ["quiet", "polling", "the server has no live stream for this page now: asked every few seconds"],
    connecting: ["quiet", "connecting", "the live stream is being opened"],
    fixed: ["quiet", "fixed range", "the range has an end: nothing is asked again"],
  };
  const [kind, text, title] = modes[mode];
  const by =
    { events: "by events", heartbeat: "by events and heartbeats", silence: "by silence: no event came" }[
      meta.complete_by
    ] ?? "";
  return h(
    "p",
    { class: "facts" },
    h("span", { class: `badge ${kind}`, title }, text),
    meta.complete_to === null
      ? h("span", {}, "nothing is complete yet")
      : h(
          "span",
          { title: absolute(meta.complete_to) },
          "complete to ",
          h("b", {}, clock(meta.complete_to, at)),
          ` (${ago(meta.complete_to, at)}) ${by}`,
        ),
    h("span", {}, "watermark ", instant(meta.watermark, at)),
    h(
      "span",
      {},
      counted(rows.length, "row"),
      stepped ? ` in steps of ${exactDuration(meta.step)}` : "",
      meta.tier ? `, from the tier of ${exactDuration(meta.tier)}` : "",
    ),
    meta.truncated
      ? h(
          "span",
          { class: "badge warn", title: "Narrow the range, choose groups or take a longer step." },
          "only the newest rows: there are more",
        )
      : null,
    (meta.capped ?? []).length
      ? h("span", { class: "badge warn" }, `a cap left something out of ${meta.capped.join(", ")}`)
      : null,
    (meta.failed ?? []).length
      ? h("span", { class: "badge bad" }, `${meta.failed.join(", ")} failed in some rows`)
      : null,
    loaded ? null : h("span", { class: "note" }, "asking…"),
  );
}

/** Where a row is explained; its group is named where it can be asked for (a null cannot). */
export function explainAddress(metric, row, { step } = {}) {
  const group = metric.group.filter(({ name }) => row[name] !== null).map(({ name }) => [`where.${name}`, row[name]]);
  if (step)
    return to(
      ["metrics", metric.metric],
      Object.fromEntries([["start", row.window_start], ["end", row.window_end], ...group]),
    );
  const ends = isSession(metric)
    ? { start: row.first, end: row.closes_at }
    : { start: row.window_start, end: row.window_end };
  return to(["metrics", metric.metric, "explain"], { ...ends, ...Object.fromEntries(group) });
}

/** The columns of the table of results. */
export function columnsOf(metric, asked, clockNow) {
  const session = isSession(metric);
  const from = (row) => (session && row.first !== undefined ? row.first : row.window_start);
  const until = (row) => (session && row.closes_at !== undefined ? row.closes_at : row.window_end);
  return [
    {
      name: "window_start",
      label: session ? "First" : "Window",
      value: from,
      cell: (row) =>
        h(
          "a",
          {
            href: explainAddress(metric, row, asked()),
            title: `${absolute(from(row))} to ${absolute(until(row))}: ${asked().step ? "show its windows" : "explain"}`,
          },
          clock(from(row), clockNow()),
        ),
    },
    {
      name: "window_end",
      label: session ? "Closes" : "End",
      value: until,
      cell: (row) => h("span", { class: "none", title: absolute(until(row)) }, `+${duration(until(row) - from(row))}`),
    },
    {
      name: "state",
      label: "State",
      cell: (row) => [
        h("span", { class: `state ${row.state}` }, row.state),
        row.revision > 0
          ? h("span", { class: "badge revised", title: "published again with late events" }, `rev ${row.revision}`)
          : null,
      ],
    },
    ...metric.group.map(({ name }) => ({ name, label: name, cell: (row) => plain(row[name] === "" ? "" : row[name]) })),
    ...metric.values.map((value) => ({
      name: value.name,
      label: value.name,
      number: isNumeric(value),
      unit: value.unit,
      cell: (row) => (value.type === "timestamp" ? instant(row[value.name], clockNow()) : plain(row[value.name])),
    })),
  ];
}

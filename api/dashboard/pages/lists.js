// Values that are lists: the newest window's `topk` as ranked bars, its `histogram` as columns; texts are in the table.

import { h } from "../dom.js";
import { clock, number } from "../format.js";
import { panel } from "../panel.js";
import { fieldText, groupLabel } from "../rows.js";
import { now } from "../api.js";

const GROUPS = 6;

export function lists(metric, value, rows) {
  const published = rows.filter((row) => row.state !== "open");
  const newest = Math.max(...(published.length ? published : rows).map((row) => row.window_end));
  const shown = rows.filter((row) => row.window_end === newest && Array.isArray(row[value.name])).slice(0, GROUPS);
  if (shown.length === 0)
    return h(
      "p",
      { class: "note" },
      `${value.name} is ${value.type === "string" ? "a text" : "no number"}: see the table.`,
    );
  return panel(
    `${value.name}, newest complete window (to ${clock(newest, now())})`,
    null,
    h(
      "div",
      { class: "ranked-set" },
      shown.map((row) =>
        h(
          "figure",
          {},
          metric.group.length ? h("figcaption", {}, groupLabel(metric, row)) : null,
          ranked(row[value.name], value.function),
        ),
      ),
    ),
  );
}

function ranked(items, kind) {
  const entries =
    kind === "histogram"
      ? items.map(([low, high, count]) => [`${number(low)} – ${number(high)}`, count])
      : items.map(([item, count]) => [fieldText(item), count]);
  const most = Math.max(...entries.map(([, count]) => Number(count)), 1);
  return h(
    "ol",
    { class: "ranked" },
    entries.map(([text, count]) =>
      h(
        "li",
        {},
        h("span", {}, text),
        h("i", { style: { width: `${(Number(count) / most) * 100}%` }, "aria-hidden": "true" }),
        h("b", {}, number(count)),
      ),
    ),
  );
}

// Every metric, to choose one to explore.

import { get, now } from "../api.js";
import { asCurl, asPython, copyButtons } from "../copy.js";
import { h } from "../dom.js";
import { exactDuration } from "../format.js";
import { empty, heading, panel } from "../panel.js";
import { to } from "../route.js";
import { windowText } from "../rows.js";
import { since, table } from "../table.js";

export async function open(route, signal) {
  const { metrics } = await get("/v1/metrics", signal);
  const list = table({
    label: "Metrics",
    empty: empty(
      "No metrics",
      h("p", {}, "A stage with a ", h("code", {}, "window"), " in config.yaml is a metric: its answers are read here."),
    ),
    columns: [
      { name: "metric", label: "Metric", cell: (row) => h("a", { href: to(["metrics", row.metric]) }, row.metric) },
      {
        name: "window",
        label: "Window",
        value: (row) => windowText(row.window),
        cell: (row) => windowText(row.window),
      },
      {
        name: "group",
        label: "Group by",
        value: (row) => row.group.map(({ name }) => name).join(" "),
        cell: (row) => row.group.map(({ name }) => name).join(", ") || h("span", { class: "none" }, "one group"),
      },
      {
        name: "values",
        label: "Values",
        sort: false,
        value: (row) => row.values.map(({ name }) => name).join(" "),
        cell: (row) => h("span", { class: "wrap" }, row.values.map(({ name }) => name).join(", ")),
      },
      { name: "stream", label: "Stream" },
      { name: "complete_to", label: "Complete to", number: true, cell: (row) => since(row.complete_to, now()) },
      { name: "retention_ms", label: "Kept", number: true, cell: (row) => exactDuration(row.retention_ms) },
    ],
  });
  list.show(metrics);
  const copies = copyButtons("metrics", {
    curl: () => asCurl("/v1/metrics"),
    python: () => asPython("/v1/metrics"),
    csvRows: list.cells,
  });
  return { element: h("div", { class: "page" }, heading("Metrics"), panel("All metrics", copies, list.element)) };
}

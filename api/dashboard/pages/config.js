// What is configured, as the server runs it: streams with their schema and time, stages, and metrics with their values.

import { get } from "../api.js";
import { asCurl, asPython, copyButtons } from "../copy.js";
import { h } from "../dom.js";
import { exactDuration } from "../format.js";
import { heading, panel } from "../panel.js";
import { to } from "../route.js";
import { windowText } from "../rows.js";
import { table } from "../table.js";

export async function open(route, signal) {
  const [{ text }, { streams }, { stages }, { metrics }] = await Promise.all([
    get("/v1/config", signal),
    get("/v1/streams", signal),
    get("/v1/stages", signal),
    get("/v1/metrics", signal),
  ]);
  return {
    element: h(
      "div",
      { class: "page" },
      heading("Config"),
      h(
        "p",
        { class: "note" },
        "As this server runs it; what was saved in config.yaml since counts from its next start. ",
        h("code", {}, "streamgauge check"),
        " reads the file and says what it understood.",
      ),
      text === null ? null : textPanel(text),
      panel(
        "Streams",
        copies("/v1/streams", "the streams"),
        h("div", { class: "config-set" }, streams.map(streamCard)),
      ),
      panel("Stages", copies("/v1/stages", "the stages"), stageTable(stages, metrics)),
      panel("Values of the metrics", copies("/v1/metrics", "the metrics"), valueTable(metrics)),
    ),
  };
}

const copies = (where, label) => copyButtons(label, { curl: () => asCurl(where), python: () => asPython(where) });
const long = (ms) => (ms === null ? "none" : exactDuration(ms));

function streamCard(stream) {
  const { time } = stream;
  const facts = [
    ["partitions", stream.partitions.length],
    ["partition_by", stream.partition_by ?? "spread evenly"],
    ["time.field", time.field ?? "arrival"],
    ["disorder", long(time.disorder_ms)],
    ["idle_after", long(time.idle_after_ms)],
    ["max_future", long(time.max_future_ms)],
    ["max_age", long(time.max_age_ms)],
  ];
  return h(
    "article",
    { class: "config-card" },
    h("h3", {}, stream.stream),
    h(
      "dl",
      { class: "schema" },
      Object.entries(stream.schema).map(([name, type]) => h("div", {}, h("dt", {}, name), h("dd", {}, type))),
    ),
    h(
      "dl",
      { class: "schema settings" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
  );
}

function stageTable(stages, metrics) {
  const metricOf = (row) => metrics.find((metric) => metric.metric === row.stage);
  const list = table({
    label: "Stages",
    columns: [
      {
        name: "stage",
        label: "Stage",
        cell: (row) => (row.kind === "aggregate" ? h("a", { href: to(["metrics", row.stage]) }, row.stage) : row.stage),
      },
      { name: "kind", label: "Kind" },
      { name: "from", label: "From" },
      {
        name: "window",
        label: "Window",
        value: (row) => (metricOf(row) ? windowText(metricOf(row).window) : null),
        cell: (row) => (metricOf(row) ? windowText(metricOf(row).window) : ""),
      },
      {
        name: "lateness",
        label: "Allowed lateness",
        number: true,
        value: (row) => metricOf(row)?.allowed_lateness_ms,
        cell: (row) => (metricOf(row) ? long(metricOf(row).allowed_lateness_ms) : ""),
      },
      {
        name: "retention",
        label: "Kept",
        number: true,
        value: (row) => metricOf(row)?.retention_ms,
        cell: (row) => (metricOf(row) ? long(metricOf(row).retention_ms) : ""),
      },
      {
        name: "tiers",
        label: "Rollups",
        sort: false,
        cell: (row) =>
          (metricOf(row)?.tiers ?? []).map((tier) => `${long(tier.step)} for ${long(tier.retention_ms)}`).join(", "),
      },
      { name: "version", label: "Version", cell: (row) => h("code", {}, row.version ?? "") },
    ],
  });
  list.show(stages);
  return list.element;
}

function valueTable(metrics) {
  const list = table({
    label: "Values",
    columns: [
      {
        name: "metric",
        label: "Metric",
        cell: (row) => h("a", { href: to(["metrics", row.metric], { value: row.name }) }, row.metric),
      },
      { name: "name", label: "Value" },
      { name: "function", label: "Function" },
      { name: "field", label: "Of", cell: (row) => h("code", {}, row.field ?? "") },
      { name: "type", label: "Type" },
      { name: "unit", label: "Unit", cell: (row) => row.unit ?? "" },
      { name: "description", label: "", sort: false, cell: (row) => row.description ?? "" },
    ],
  });
  list.show(metrics.flatMap((metric) => metric.values.map((value) => ({ ...value, metric: metric.metric }))));
  return list.element;
}

/** The file itself; comments are softer than the rest. */
function textPanel(text) {
  const parts = text.split(/(#.*)/).map((part, index) => (index % 2 ? h("span", { class: "none" }, part) : part));
  const code = h(
    "pre",
    { class: "snippet config-text", tabindex: "0", "aria-label": "config.yaml" },
    h("code", {}, parts),
  );
  return panel(
    "config.yaml",
    copies("/v1/config", "config.yaml"),
    h("details", {}, h("summary", {}, "Show the file, with passwords masked"), code),
  );
}

// The overview: is it ready, how fast is it, how far behind, and what was put aside; every stream, stage and metric.

import { get, getEither, heardClock, now } from "../api.js";
import { asCurl, asPython, copyButtons } from "../copy.js";
import { fill, h, refresh } from "../dom.js";
import { compact, counted, duration, NONE, number, perSecond } from "../format.js";
import { sparkline } from "../heat.js";
import { empty, failure, heading, panel, tile } from "../panel.js";
import { poll } from "../poll.js";
import { history, look, rate } from "../rates.js";
import { to } from "../route.js";
import { windowText } from "../rows.js";
import { since, table } from "../table.js";

const LOOK_MS = 2_000;
const SLOW_LAG_S = 10; // from here on lag is worth a colour

export async function open(route, signal) {
  const { metrics } = await get("/v1/metrics", signal);
  const tiles = h("div", { class: "tiles" });
  const trouble = h("div", {});
  const streams = table({
    label: "Streams",
    columns: streamColumns(),
    empty: empty("No streams", h("p", {}, "Declare one in config.yaml, under ", h("code", {}, "streams"), ".")),
  });
  const stages = table({
    label: "Stages",
    columns: stageColumns(),
    empty: empty("No stages", h("p", {}, "Declare one in config.yaml, under ", h("code", {}, "stages"), ".")),
  });
  const started = h("div", {});
  const broken = h("div", {});

  async function looked() {
    const [heard, { stages: read }, readiness] = await Promise.all([
      get("/v1/streams", signal),
      get("/v1/stages", signal),
      getEither("/readyz", signal),
    ]);
    heardClock(heard.now);
    look(heard.streams, read, heard.now);
    refresh(tiles, tilesOf(heard.streams, read, readiness));
    refresh(broken, checks(readiness));
    refresh(
      started,
      heard.streams.some((stream) => stream.length > 0 || stream.door.received > 0) ? null : firstSteps(),
    );
    streams.show(heard.streams);
    stages.show(read.filter((stage) => stage.group !== null));
  }

  const element = h(
    "div",
    { class: "page" },
    heading("Overview"),
    trouble,
    tiles,
    broken,
    started,
    panel(
      "Streams",
      copyButtons("streams", {
        curl: () => asCurl("/v1/streams"),
        python: () => asPython("/v1/streams"),
        csvRows: streams.cells,
      }),
      streams.element,
    ),
    panel(
      "Metrics",
      copyButtons("metrics", {
        curl: () => asCurl("/v1/metrics"),
        python: () => asPython("/v1/metrics"),
        csvRows: () => [
          ["metric", "stream", "window"],
          ...metrics.map((each) => [each.metric, each.stream, windowText(each.window)]),
        ],
      }),
      metricLinks(metrics),
    ),
    panel(
      "Stages",
      copyButtons("stages", {
        curl: () => asCurl("/v1/stages"),
        python: () => asPython("/v1/stages"),
        csvRows: stages.cells,
      }),
      stages.element,
    ),
  );
  poll(LOOK_MS, looked, signal, (error) => fill(trouble, error && failure(error)));
  return { element };
}

function tilesOf(streams, stages, readiness) {
  const counting = stages.filter((stage) => stage.ledger);
  const rates = streams.map((stream) => rate(stream.stream)).filter((each) => each !== null);
  const lag = Math.max(0, ...counting.map((stage) => stage.lag.events));
  const lagS = Math.max(0, ...counting.map((stage) => stage.lag.seconds));
  const late = sum(counting.map((stage) => stage.ledger.late));
  const dead = sum(counting.map((stage) => stage.ledger.dead));
  const refused = sum(streams.map((stream) => stream.quarantined));
  const delays = streams.filter(flows).map((stream) => [now() - stream.watermark, stream.stream]);
  const [delay, whose] = delays.length ? delays.reduce((most, each) => (each[0] > most[0] ? each : most)) : [null, ""];
  const failing = readiness.checks.filter((check) => !check.ok).length;
  return [
    tile(
      "Ready",
      readiness.ready ? "Yes" : "No",
      failing ? counted(failing, "failing check") : `${readiness.checks.length} checks hold`,
      { state: readiness.ready ? "good" : "bad" },
    ),
    tile("Events a second", rates.length ? perSecond(sum(rates)) : "…", `over ${counted(streams.length, "stream")}`),
    tile("Lag", compact(lag), lagS >= 1 ? `oldest ${duration(lagS * 1_000)}` : "events to count", {
      state: lagS > SLOW_LAG_S ? "warn" : null,
      href: "#/stages",
    }),
    tile("Watermark delay", duration(delay), whose ? `at most, of ${whose}` : "no stream flows now", {
      href: "#/stages",
      title: "How far event time is behind the clock, of the streams that had an event in the last minute",
    }),
    tile("Late", compact(late), "events, all stages", { href: "#/aside/late" }),
    tile("Dead letters", compact(dead), "not computable", {
      state: dead ? "warn" : null,
      href: "#/aside/dead-letters",
    }),
    tile("Quarantine", compact(refused), "refused at the door", {
      state: refused ? "warn" : null,
      href: "#/aside/quarantine",
    }),
  ];
}

const sum = (values) => values.reduce((total, value) => total + Number(value), 0);
const FLOWS_MS = 60_000;

function flows(stream) {
  return (
    stream.watermark !== null &&
    stream.partitions.some((each) => each.last_arrival && now() - each.last_arrival < FLOWS_MS)
  );
}

function checks(readiness) {
  const failing = readiness.checks.filter((check) => !check.ok);
  return failing.length === 0
    ? null
    : panel(
        "What keeps it from being ready",
        null,
        h(
          "dl",
          { class: "checks" },
          failing.map((check) => [
            h("dt", {}, check.name),
            h("dd", {}, h("p", {}, check.detail), h("p", { class: "advice" }, check.advice)),
          ]),
        ),
      );
}

function firstSteps() {
  return h(
    "div",
    { class: "panel" },
    empty(
      "Nothing has come in yet",
      h(
        "p",
        {},
        "Send a first event: ",
        h("a", { href: "#/connect" }, "Connect"),
        " has the command, with your address and a valid example in it, and says when it has arrived.",
      ),
      h("p", {}, "Or run the demo: ", h("code", {}, "streamgauge simulate"), " sends made-up sensors and visitors."),
    ),
  );
}

function streamColumns() {
  return [
    {
      name: "stream",
      label: "Stream",
      cell: (row) => h("a", { href: to(["stages"], { stream: row.stream }) }, row.stream),
    },
    {
      name: "rate",
      label: "Events/s",
      number: true,
      value: (row) => rate(row.stream),
      cell: (row) =>
        h(
          "span",
          { class: "with-spark" },
          sparkline(history(row.stream), { label: `Events a second of ${row.stream} since you opened this page` }),
          perSecond(rate(row.stream)),
        ),
    },
    {
      name: "stored",
      label: "Stored",
      number: true,
      value: (row) => row.door.stored,
      cell: (row) => number(row.door.stored),
    },
    {
      name: "duplicate",
      label: "Duplicate",
      number: true,
      value: (row) => row.door.duplicate,
      cell: (row) => number(row.door.duplicate),
    },
    { name: "lag", label: "Lag", number: true, unit: "events" },
    {
      name: "delay",
      label: "Watermark delay",
      number: true,
      value: (row) => (row.watermark === null ? null : Math.round(now() - row.watermark)),
      cell: (row) =>
        row.watermark === null ? NONE : h("span", { title: "now less the watermark" }, duration(now() - row.watermark)),
    },
    {
      name: "last_event",
      label: "Last event",
      number: true,
      value: lastEvent,
      cell: (row) => since(lastEvent(row), now()),
    },
    {
      name: "quarantined",
      label: "Refused",
      number: true,
      cell: (row) => put("quarantine", "stream", row.stream, row.quarantined),
    },
  ];
}

const lastEvent = (row) =>
  row.partitions.reduce(
    (newest, each) => (each.last_arrival && each.last_arrival > (newest ?? 0) ? each.last_arrival : newest),
    null,
  );

function stageColumns() {
  return [
    {
      name: "stage",
      label: "Stage",
      cell: (row) => h("a", { href: to(["stages"], { stream: row.stream }) }, row.stage),
    },
    { name: "from", label: "From" },
    {
      name: "read",
      label: "Read",
      number: true,
      value: (row) => row.ledger.read,
      cell: (row) => number(row.ledger.read),
    },
    {
      name: "accepted",
      label: "Accepted",
      number: true,
      value: (row) => row.ledger.accepted,
      cell: (row) => number(row.ledger.accepted),
    },
    {
      name: "filtered",
      label: "Filtered",
      number: true,
      value: (row) => row.ledger.filtered,
      cell: (row) => number(row.ledger.filtered),
    },
    {
      name: "late",
      label: "Late",
      number: true,
      value: (row) => row.ledger.late,
      cell: (row) => put("late", "stage", row.stage, row.ledger.late),
    },
    {
      name: "dead",
      label: "Dead",
      number: true,
      value: (row) => row.ledger.dead,
      cell: (row) => put("dead-letters", "stage", row.stage, row.ledger.dead),
    },
    {
      name: "lag",
      label: "Lag",
      number: true,
      unit: "events",
      value: (row) => row.lag.events,
      cell: (row) => number(row.lag.events),
    },
    {
      name: "books",
      label: "Books",
      value: (row) => (row.ledger.balances ? "balance" : "do not balance"),
      cell: (row) =>
        h(
          "span",
          {
            class: row.ledger.balances ? "badge good" : "badge bad",
            title: "read = accepted + filtered + late + dead",
          },
          row.ledger.balances ? "balance" : "off",
        ),
    },
  ];
}

const put = (kind, owner, name, count) =>
  count ? h("a", { href: to(["aside", kind], { [owner]: name }) }, number(count)) : number(count);

function metricLinks(metrics) {
  if (metrics.length === 0)
    return empty("No metrics", h("p", {}, "A stage with a ", h("code", {}, "window"), " in config.yaml is a metric."));
  return h(
    "ul",
    { class: "cards" },
    metrics.map((metric) =>
      h(
        "li",
        {},
        h(
          "a",
          { href: to(["metrics", metric.metric]) },
          h("b", {}, metric.metric),
          h("span", {}, windowText(metric.window)),
          h(
            "small",
            {},
            metric.group.length ? `by ${metric.group.map(({ name }) => name).join(", ")}` : "one group",
            " · ",
            counted(metric.values.length, "value"),
          ),
        ),
      ),
    ),
  );
}

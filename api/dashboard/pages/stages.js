// Stages as lanes on a common clock: how far each one's event time is, what it has yet to do, and who holds it back.

import { get, heardClock, now } from "../api.js";
import { asCurl, asPython, copyButtons } from "../copy.js";
import { fill, h, refresh } from "../dom.js";
import { clock, compact, counted, duration, exactDuration, number, perSecond } from "../format.js";
import { empty, failure, heading, panel } from "../panel.js";
import { poll } from "../poll.js";
import { look, rate } from "../rates.js";
import { to } from "../route.js";
import { instant } from "../table.js";

const LOOK_MS = 1_000;
const SPANS_MS = [30_000, 60_000, 300_000, 900_000, 3_600_000]; // what a lane may be long

export async function open(route, signal) {
  const lanes = h("div", { class: "lanes" });
  const trouble = h("div", {});
  const wanted = route.query.get("stream");
  let heard = null;

  function draw() {
    const chosen = heard.streams.filter((stream) => !wanted || stream.stream === wanted);
    refresh(
      lanes,
      chosen.length === 0
        ? empty(`There is no stream ${wanted}`, h("a", { href: "#/stages" }, "Show all streams"))
        : chosen.map((stream) =>
            streamLanes(
              stream,
              heard.stages.filter((stage) => stage.stream === stream.stream),
            ),
          ),
    );
  }

  async function looked() {
    const [streams, stages] = await Promise.all([get("/v1/streams", signal), get("/v1/stages", signal)]);
    heardClock(streams.now);
    look(streams.streams, stages.stages, streams.now);
    heard = { streams: streams.streams, stages: stages.stages };
    draw();
  }

  const filter = h(
    "p",
    { class: "note" },
    "Each bar is event time, up to the watermark; the right edge is now. A window closes when the watermark of every partition has passed its end.",
    wanted ? [" ", h("a", { href: "#/stages" }, "Show all streams")] : null,
  );
  poll(LOOK_MS, looked, signal, (error) => fill(trouble, error && failure(error)));
  return { element: h("div", { class: "page" }, heading("Stages"), filter, trouble, lanes) };
}

function streamLanes(stream, stages) {
  const at = now();
  const farthest = Math.max(
    0,
    ...stream.partitions.filter((each) => each.watermark !== null).map((each) => at - each.watermark),
  );
  const span = SPANS_MS.find((each) => each >= farthest) ?? null; // null: history, which is nowhere near now
  const held = stream.partitions.filter((each) => each.holds_back);
  const copies = copyButtons(`stages of ${stream.stream}`, {
    curl: () => asCurl(`/v1/streams/${stream.stream}/watermark`),
    python: () => asPython(`/v1/streams/${stream.stream}/watermark`),
    csvRows: () => [
      ["stage", "watermark", "lag", "read", "accepted", "filtered", "late", "dead"],
      ...stages
        .filter((each) => each.ledger)
        .map((each) => [
          each.stage,
          each.watermark,
          each.lag.events,
          ...["read", "accepted", "filtered", "late", "dead"].map((name) => each.ledger[name]),
        ]),
    ],
  });
  return panel(
    stream.stream,
    copies,
    h(
      "p",
      { class: "facts" },
      h("span", {}, rate(stream.stream) === null ? "…" : `${perSecond(rate(stream.stream))} events/s`),
      h(
        "span",
        {},
        "watermark ",
        instant(stream.watermark, at),
        stream.watermark === null ? "" : ` (${duration(at - stream.watermark)} behind)`,
      ),
      h("span", {}, `disorder ${exactDuration(stream.time.disorder_ms)}`),
      h(
        "span",
        {},
        stream.time.idle_after_ms === null
          ? "silence moves no time"
          : `silence after ${exactDuration(stream.time.idle_after_ms)}`,
      ),
    ),
    silent(stream)
      ? null
      : h(
          "div",
          { class: "lane-set", role: "list", "aria-label": `Partitions and stages of ${stream.stream}` },
          stream.partitions.map((each) =>
            lane(`partition ${each.partition}`, each.watermark, span, at, {
              source: true,
              note: each.why,
              holds: each.holds_back,
              lag: each.lag,
            }),
          ),
          stages.map((stage) => (stage.group === null ? fused(stage) : stageLane(stage, span, at))),
          axis(span, at),
        ),
    held.length > 0 && stream.watermark !== null
      ? h(
          "p",
          { class: "held" },
          "Held back by ",
          held.map((each, index) => [index ? "; " : "", h("b", {}, `partition ${each.partition}`), `: ${each.why}`]),
          ".",
        )
      : null,
    silent(stream)
      ? h(
          "p",
          { class: "note" },
          "Nothing has come in: ",
          counted(stages.length, "stage"),
          stages.length === 1 ? " waits. " : " wait. ",
          h("a", { href: to(["connect"], { stream: stream.stream }) }, "Send a first event"),
          ".",
        )
      : null,
  );
}

const silent = (stream) => stream.length === 0 && stream.watermark === null;

function stageLane(stage, span, at) {
  const { ledger } = stage;
  const worker = [...new Set(stage.partitions.map((each) => each.worker).filter(Boolean))].join(", ");
  const note = [
    `reads ${stage.from} · `,
    counted(ledger.read, "event"),
    " = ",
    number(ledger.accepted),
    " accepted + ",
    number(ledger.filtered),
    " filtered + ",
    aside("late", stage, ledger.late),
    " late + ",
    aside("dead-letters", stage, ledger.dead),
    " dead",
    ledger.balances ? "" : [" ", h("span", { class: "badge bad" }, "the books are off")],
    stage.pending ? ` · ${number(stage.pending)} pending` : "",
    worker ? ` · ${worker}` : " · no worker",
    stage.rebuilding ? [" ", h("span", { class: "badge warn" }, "rebuilding")] : "",
    stage.partitions.some((each) => each.torn) ? [" ", h("span", { class: "badge bad" }, "torn: counting again")] : "",
  ];
  const name = stage.kind === "aggregate" ? h("a", { href: to(["metrics", stage.stage]) }, stage.stage) : stage.stage;
  return lane(name, stage.watermark, span, at, { note, lag: stage.lag.events, lagS: stage.lag.seconds });
}

const aside = (kind, stage, count) =>
  count ? h("a", { href: to(["aside", kind], { stage: stage.stage }) }, number(count)) : "0";

function fused(stage) {
  return h(
    "div",
    { class: "lane fused", role: "listitem" },
    h("span", { class: "lane-name" }, stage.stage),
    h("span", { class: "lane-note" }, `a transform of ${stage.from}: runs inside the stages that read it`),
  );
}

function lane(name, watermark, span, at, { source = false, note, holds = false, lag = 0, lagS = 0 }) {
  const share = watermark === null || span === null ? 0 : Math.max(0, Math.min(1, 1 - (at - watermark) / span));
  const behind =
    watermark === null
      ? "no watermark yet"
      : span === null
        ? clock(watermark, at)
        : `${duration(at - watermark)} behind`;
  return h(
    "div",
    { class: `lane${source ? " source" : ""}${holds ? " holds" : ""}`, role: "listitem" },
    h("span", { class: "lane-name" }, name),
    h(
      "span",
      { class: "lane-track", role: "img", "aria-label": `watermark ${behind}`, title: `watermark ${behind}` },
      h("i", { hidden: watermark === null, style: { width: `${(share * 100).toFixed(1)}%` } }),
    ),
    h("span", { class: "lane-behind" }, behind),
    h(
      "span",
      { class: "lane-lag", "data-state": lagS > 10 ? "warn" : null, title: "events stored and not yet committed" },
      `lag ${compact(lag)}`,
    ),
    h("span", { class: "lane-note" }, note),
  );
}

function axis(span, at) {
  if (span === null)
    return h("p", { class: "note" }, `This stream holds history: its time is not near now (${clock(at, at)}).`);
  return h(
    "div",
    { class: "lane lane-axis", "aria-hidden": "true" },
    h("span", { class: "lane-name" }),
    h(
      "span",
      { class: "lane-ticks" },
      h("span", {}, `${duration(span)} ago`),
      h("span", {}, duration(span / 2)),
      h("span", {}, "now"),
    ),
  );
}

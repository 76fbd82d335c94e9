// The metric explorer: one value over time and groups, live; range, step, groups and view are in the address.

import { get, getText, heardClock, now, path } from "../api.js";
import { COLOURS, lineChart, swatch } from "../chart.js";
import { asClientPython, asCurl, copyButtons } from "../copy.js";
import { fill, h, refresh } from "../dom.js";
import { ago, counted, exactDuration, measured } from "../format.js";
import { heatStrip } from "../heat.js";
import { key } from "../keys.js";
import { choices, empty, failure, panel } from "../panel.js";
import { rangeLength } from "../ranges.js";
import { changed, current, go, to } from "../route.js";
import { groupKey, isNumeric, isSession, scatterOf, seriesOf, windowText } from "../rows.js";
import { table } from "../table.js";
import { controls, usualRange } from "./controls.js";
import { feed } from "./feed.js";
import { lists } from "./lists.js";
import { account, columnsOf, explainAddress } from "./results.js";

/** The query of the address: what the API is asked, and what is only of this page. */
function askedOf(route, metric) {
  const query = new URLSearchParams();
  const start = route.query.get("start") ?? usualRange(metric, now());
  const end = route.query.get("end");
  if (start !== "all") query.set("start", start);
  if (end) query.set("end", end);
  if (route.query.get("step")) query.set("step", route.query.get("step"));
  for (const [name, value] of route.query) if (name.startsWith("where.")) query.append(name, value);
  return { query, start, end, step: route.query.get("step") };
}

const valueOf = (route, metric) =>
  metric.values.find(({ name }) => name === route.query.get("value")) ??
  metric.values.find(isNumeric) ??
  metric.values[0];

export async function open(route, signal) {
  const [{ metrics }, { now: serverNow }] = await Promise.all([get("/v1/metrics", signal), get("/v1/streams", signal)]);
  heardClock(serverNow);
  const metric = metrics.find((each) => each.metric === route.parts[1]);
  if (!metric) return { element: unknown(route.parts[1], metrics) };
  return explorer(metric, metrics, route, signal);
}

function unknown(name, metrics) {
  return h(
    "div",
    { class: "page" },
    empty(
      `There is no metric ${name}`,
      h(
        "p",
        {},
        "There are: ",
        metrics.map((each, index) => [index ? ", " : "", h("a", { href: to(["metrics", each.metric]) }, each.metric)]),
        ".",
      ),
    ),
  );
}

function explorer(metric, metrics, first, signal) {
  let route = first;
  let answer = { rows: [], meta: null, mode: "connecting", error: null, loaded: false };
  let inFeed = null;
  let controlled = null; // what the controls were last made for: an open list must not change under a hand
  const seenGroups = new Map(); // group key → row, of all that was seen here: the picker's choices outlive a filter
  const colours = new Map(); // group key → colour, so that a line keeps its own

  const asked = () => askedOf(route, metric);
  const set = (changes) => go(changed(current(), changes));
  const view = () => route.query.get("view") ?? "chart";

  const bar = h("div", { class: "controls" });
  const told = h("div", { class: "told" });
  const trouble = h("div", {});
  const chartBox = h("div", { class: "chart-box" });
  const heatBox = h("div", { class: "heat-box" });
  const legend = h("ul", { class: "legend", "aria-label": "Lines" });
  const nothing = h("div", {});
  const listBox = h("div", {});
  const explain = (row) => go(explainAddress(metric, row, asked()));
  const chart = lineChart(chartBox, { chosen: explain, zoomed: (start, end) => set({ start, end }), signal, now });
  const heat = heatStrip(heatBox, { chosen: explain, now, signal });
  const rows = table({
    label: `Windows of ${metric.metric}`,
    columns: columnsOf(metric, asked, now),
    empty: h("p", { class: "note" }, "No windows in this range."),
  });

  function draw() {
    const value = valueOf(route, metric);
    const { step } = asked();
    for (const row of answer.rows) seenGroups.set(groupKey(metric, row), row);
    const offered = `${location.hash} ${seenGroups.size}`;
    if (offered !== controlled) controls(bar, { metric, metrics, route, value, set, groups: [...seenGroups.values()] });
    controlled = offered;
    refresh(told, account(metric, answer, Boolean(step)));
    fill(trouble, answer.error && failure(answer.error));
    const isEmpty = answer.loaded && answer.rows.length === 0 && !answer.error;
    refresh(nothing, isEmpty ? emptyRange(metric, route) : null);
    const drawn = view() === "chart" && isNumeric(value) && answer.rows.length > 0;
    plotPanel.hidden = !drawn;
    heatPanel.hidden = !drawn || metric.group.length === 0 || isSession(metric);
    if (drawn) plot(value, step);
    refresh(listBox, isNumeric(value) || answer.rows.length === 0 ? null : lists(metric, value, answer.rows));
    rows.show([...answer.rows].reverse());
    tablePanel.hidden = answer.rows.length === 0;
  }

  function plot(value, step) {
    const { times, series } =
      isSession(metric) && !step
        ? scatterOf(answer.rows, value.name)
        : seriesOf(metric, answer.rows, value.name, Boolean(step));
    for (const group of series.slice(0, COLOURS)) if (!colours.has(group.key)) colours.set(group.key, colours.size);
    const lines = series.slice(0, COLOURS).map((group) => ({ ...group, colour: colours.get(group.key) }));
    const title = `${value.name} of ${metric.metric}`;
    const open = answer.rows.filter((row) => row.state === "open").map((row) => row.window_start);
    chart.show({
      title,
      times,
      series: lines,
      unit: value.unit,
      dots: isSession(metric) && !step,
      openFrom: open.length && !isSession(metric) ? Math.min(...open) : null,
    });
    if (!heatPanel.hidden) heat.show({ title, times, series, unit: value.unit });
    refresh(
      legend,
      lines.map((group) => legendLine(group, value)),
      series.length > COLOURS
        ? h("li", { class: "note" }, `and ${counted(series.length - COLOURS, "smaller group")}: choose by name above`)
        : null,
    );
  }

  function legendLine(group, value) {
    if (group.key === "") return h("li", {}, swatch(group.colour), group.label);
    const row = group.rows.findLast((each) => each !== null);
    return h(
      "li",
      {},
      swatch(group.colour),
      h("span", {}, group.label),
      h("b", {}, measured(row?.[value.name], value.unit)),
      row?.state === "open" ? h("small", {}, "open") : null,
    );
  }

  const copies = (label) =>
    copyButtons(label, {
      curl: () => asCurl(apiPath()),
      python: () => asClientPython(metric.metric, asked().query),
      csvText: () =>
        getText(path(`/v1/metrics/${metric.metric}`, new URLSearchParams([...asked().query, ["format", "csv"]]))),
    });
  const apiPath = () => path(`/v1/metrics/${metric.metric}`, asked().query);
  const views = h("div", { class: "panel-end" });
  const plotPanel = panel("Chart", copies("the chart"), chartBox, legend, legendKey());
  const heatPanel = panel("Groups by windows", copies("the strip"), heatBox);
  const tablePanel = panel("Table", copies("the table"), rows.element);

  function load() {
    inFeed?.abort();
    inFeed = new AbortController();
    answer = { ...answer, loaded: false, error: null };
    feed(metric, asked(), AbortSignal.any([signal, inFeed.signal]), (next) => {
      answer = { ...answer, ...next };
      draw();
    });
  }

  key("v", "Chart or table only", () => set({ view: view() === "chart" ? "table" : null }), signal);
  key("[", "Back by one range", () => set(shifted(asked(), metric, -1)), signal);
  key("]", "Forward by one range, then live again", () => set(shifted(asked(), metric, 1)), signal);
  key("/", "To the choice of groups", () => bar.querySelector("summary")?.focus(), signal);

  const element = h(
    "div",
    { class: "page" },
    h(
      "header",
      { class: "page-head" },
      h("h1", {}, metric.metric),
      h(
        "p",
        { class: "note" },
        windowText(metric.window),
        metric.group.length ? ` · by ${metric.group.map(({ name }) => name).join(", ")}` : "",
        ` · from ${metric.stream} · kept ${exactDuration(metric.retention_ms)}`,
      ),
      views,
    ),
    bar,
    told,
    trouble,
    nothing,
    listBox,
    plotPanel,
    heatPanel,
    tablePanel,
  );
  draw();
  return {
    element,
    started: () => {
      load();
      drawViews();
    },
    change(next) {
      const before = String(asked().query);
      route = next;
      drawViews();
      draw();
      if (String(asked().query) !== before) load();
    },
  };

  function drawViews() {
    refresh(
      views,
      choices("View", [
        { text: "Chart", chosen: view() === "chart", href: changed(route, { view: null }) },
        { text: "Table only", chosen: view() === "table", href: changed(route, { view: "table" }) },
      ]),
    );
  }

  function legendKey() {
    return h(
      "p",
      { class: "note key" },
      h("span", { class: "key-open" }, "open: events can still be added"),
      h("span", { class: "key-revised" }, "revised by late events"),
      h("span", {}, "a gap: no window there"),
      h("span", {}, "drag to zoom, click to explain"),
    );
  }
}

/** The range of the same length before or after; past now it is the live one again. */
function shifted({ start, end }, metric, direction) {
  const length = rangeLength(start, end) ?? rangeLength(usualRange(metric, now()), null) ?? 3_600_000;
  const until = (Number(end) || now()) + direction * length;
  if (until >= now() - 1_000) return { start: start.startsWith("-") ? start : null, end: null };
  return { start: Math.round(until - length), end: Math.round(until) };
}

function emptyRange(metric, route) {
  const newest = metric.complete_to;
  const filtered = [...route.query.keys()].some((name) => name.startsWith("where."));
  return h(
    "div",
    { class: "panel" },
    empty(
      "No windows in this range",
      filtered
        ? h(
            "p",
            {},
            "Only chosen groups are asked for. ",
            h(
              "a",
              {
                href: to(
                  route.parts,
                  new URLSearchParams([...route.query].filter(([name]) => !name.startsWith("where."))),
                ),
              },
              "Show all groups",
            ),
            ".",
          )
        : null,
      newest !== null
        ? h(
            "p",
            {},
            `The newest complete window ended ${ago(newest, now())}. `,
            h(
              "a",
              { href: to(route.parts, { start: "all", value: route.query.get("value") }) },
              "Show the newest windows there are",
            ),
            ".",
          )
        : h(
            "p",
            {},
            `No event of ${metric.stream} has made a window yet. `,
            h("a", { href: to(["connect"], { stream: metric.stream }) }, "Send one"),
            ", and it is here in a moment; or look at ",
            h("a", { href: to(["stages"], { stream: metric.stream }) }, "what the stage waits for"),
            ".",
          ),
    ),
  );
}

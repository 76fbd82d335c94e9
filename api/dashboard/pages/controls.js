// The explorer's controls: metric, value, range, step and groups; each choice is a change of the address.

import { h, refresh } from "../dom.js";
import { exactDuration } from "../format.js";
import { select } from "../panel.js";
import { go, to } from "../route.js";
import { fieldText, usualStride } from "../rows.js";

const RANGES = [
  ["-5m", 300_000],
  ["-15m", 900_000],
  ["-1h", 3_600_000],
  ["-6h", 21_600_000],
  ["-24h", 86_400_000],
  ["-7d", 604_800_000],
];
const STEPS_MS = [60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000];
const WINDOWS_AT_FIRST = 60;
const LISTED = 200; // values of a field in the picker; a text field filters them

/** The range to begin with: some sixty windows; all there are where the newest is older than that. */
export function usualRange(metric, now) {
  const wanted = usualStride(metric) * WINDOWS_AT_FIRST;
  const found = RANGES.find(([, length]) => length >= wanted);
  if (!found) return "all";
  return metric.complete_to !== null && now - metric.complete_to > found[1] ? "all" : found[0];
}

export function controls(bar, { metric, metrics, route, value, set, groups }) {
  const start = route.query.get("start");
  const end = route.query.get("end");
  const fixed = Boolean(end) || (start && start !== "all" && !RANGES.some(([text]) => text === start));
  refresh(
    bar,
    select(
      "Metric",
      metrics.map((each) => [each.metric]),
      metric.metric,
      (name) => go(to(["metrics", name])),
    ),
    select(
      "Value",
      metric.values.map((each) => [each.name, each.unit ? `${each.name} (${each.unit})` : each.name]),
      value.name,
      (name) => set({ value: name }),
    ),
    select(
      "Range",
      [
        ["", "as fits"],
        ...RANGES.map(([text]) => [text, `last ${text.slice(1)}`]),
        ["all", "newest 1,000 windows"],
        ...(fixed ? [["fixed", fixedText(start, end)]] : []),
      ],
      fixed ? "fixed" : (start ?? ""),
      (text) => text !== "fixed" && set({ start: text || null, end: null }),
    ),
    select(
      "Step",
      [["", "its windows"], ...stepsOf(metric).map((ms) => [exactDuration(ms)])],
      route.query.get("step") ?? "",
      (step) => set({ step: step || null }),
    ),
    metric.group.map(({ name }) => groupPicker(name, groups, route, set)),
  );
}

function fixedText(start, end) {
  const text = (each) =>
    /^\d+$/.test(each ?? "")
      ? new Date(Number(each)).toLocaleString("en-GB", {
          day: "2-digit",
          month: "short",
          hour: "2-digit",
          minute: "2-digit",
        })
      : (each ?? "…");
  return `${text(start)} – ${end ? text(end) : "now"}`;
}

function stepsOf(metric) {
  const { window } = metric;
  const pane =
    window.tumbling_ms ?? (window.every_ms && gcd(window.hopping_ms ?? window.cumulating_ms, window.every_ms));
  if (window.calendar) return [];
  return pane ? STEPS_MS.filter((ms) => ms % pane === 0 && ms > (window.tumbling_ms ?? 0)) : STEPS_MS;
}

const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b));

function groupPicker(name, groups, route, set) {
  const chosen = route.query.getAll(`where.${name}`);
  const values = [
    ...new Set([
      ...groups
        .map((row) => row[name])
        .filter((each) => each !== null && each !== undefined)
        .map(String),
      ...chosen,
    ]),
  ].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const choose = (each, on) =>
    set({ [`where.${name}`]: on ? [...chosen, each] : chosen.filter((other) => other !== each) });
  const filter = (event) => {
    const wanted = event.currentTarget.value.toLowerCase();
    for (const option of event.currentTarget.closest("details").querySelectorAll("label[data-value]"))
      option.hidden = !option.dataset.value.toLowerCase().includes(wanted);
  };
  return h(
    "details",
    { class: "picker", onkeydown: (event) => event.key === "Escape" && closed(event) },
    h(
      "summary",
      {},
      h("span", { class: "picker-name" }, name),
      chosen.length === 0 ? "all groups" : chosen.length === 1 ? fieldText(chosen[0]) : `${chosen.length} chosen`,
    ),
    h(
      "div",
      { class: "picker-list" },
      h("input", {
        type: "search",
        placeholder: "Filter, or type a value and Enter",
        "aria-label": `Filter ${name}`,
        oninput: filter,
        onkeydown: (event) =>
          event.key === "Enter" && event.currentTarget.value && choose(event.currentTarget.value, true),
      }),
      chosen.length
        ? h("button", { onclick: () => set({ [`where.${name}`]: null }) }, "All groups")
        : h("p", { class: "note" }, "All groups are shown."),
      values.slice(0, LISTED).map((each) =>
        h(
          "label",
          { "data-value": each },
          checkbox(chosen.includes(each), (on) => choose(each, on)),
          fieldText(each),
        ),
      ),
      values.length > LISTED ? h("p", { class: "note" }, `${values.length - LISTED} more: type the value.`) : null,
    ),
  );
}

function checkbox(checked, change) {
  const box = h("input", { type: "checkbox", checked, onchange: (event) => change(event.currentTarget.checked) });
  return box;
}

function closed(event) {
  event.currentTarget.open = false;
  event.currentTarget.querySelector("summary").focus();
}

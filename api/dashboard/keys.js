// Keyboard shortcuts: one list, which `?` shows and which nothing else repeats.

import { h } from "./dom.js";
import { openDialog } from "./dialog.js";
import { go } from "./route.js";

const SEQUENCE_MS = 1_200; // `g` waits this long for its second key
const PLACES = {
  o: ["#/", "Overview"],
  m: ["#/metrics", "Metrics"],
  s: ["#/stages", "Stages"],
  a: ["#/aside/late", "Put aside"],
  c: ["#/connect", "Connect"],
  f: ["#/config", "Config"],
};
const own = new Map(); // key → {text, act} of the page that is shown

let waiting = 0;

/** Add a key for as long as the signal lasts. */
export function key(name, text, act, signal) {
  own.set(name, { text, act });
  signal?.addEventListener("abort", () => own.get(name)?.act === act && own.delete(name));
}

export function listen() {
  key("?", "Show these keys", help);
  addEventListener("keydown", (event) => {
    if (
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      event.defaultPrevented ||
      typing(event.target) ||
      document.querySelector("dialog[open]")
    )
      return;
    if (Date.now() < waiting && PLACES[event.key]) go(PLACES[event.key][0]);
    else if (event.key === "g") {
      waiting = Date.now() + SEQUENCE_MS;
      return;
    } else if (own.has(event.key)) own.get(event.key).act();
    else return;
    waiting = 0;
    event.preventDefault();
  });
}

const typing = (element) => element.matches?.("input, textarea, select, [contenteditable]");

function help() {
  const line = (keys, text) =>
    h(
      "div",
      {},
      h(
        "dt",
        {},
        keys.map((each) => h("kbd", {}, each)),
      ),
      h("dd", {}, text),
    );
  const dialog = openDialog(
    "Keys",
    h(
      "dl",
      { class: "keys" },
      Object.entries(PLACES).map(([name, [, text]]) => line(["g", name], text)),
      [...own].map(([name, { text }]) => line([name], text)),
      line(["←", "→", "Enter"], "In a chart or strip: move through the windows, explain one"),
      line(["Esc"], "Close a dialog or a list"),
    ),
    h("div", { class: "actions" }, h("button", { autofocus: true, onclick: () => dialog.close() }, "Close")),
  );
}

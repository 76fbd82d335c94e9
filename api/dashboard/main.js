// The shell: one page at a time by the address, its clean-up, the theme, the keys, and the light that says ready.

import { ApiError, getEither } from "./api.js";
import { announce } from "./announce.js";
import { fill, h } from "./dom.js";
import { key, listen } from "./keys.js";
import { failure } from "./panel.js";
import { poll } from "./poll.js";
import { current } from "./route.js";
import * as aside from "./pages/aside.js";
import * as config from "./pages/config.js";
import * as connect from "./pages/connect.js";
import * as explain from "./pages/explain.js";
import * as explorer from "./pages/explorer.js";
import * as metrics from "./pages/metrics.js";
import * as overview from "./pages/overview.js";
import * as stages from "./pages/stages.js";

const HEALTH_MS = 5_000;
const NAVIGATION = [
  ["Overview", "#/", ""],
  ["Metrics", "#/metrics", "metrics"],
  ["Stages", "#/stages", "stages"],
  ["Put aside", "#/aside/late", "aside"],
  ["Connect", "#/connect", "connect"],
  ["Config", "#/config", "config"],
];
const main = document.getElementById("main");
let shown = { page: null, end: new AbortController() };

function pageOf([first, second, third]) {
  if (first === undefined) return overview;
  if (first === "metrics")
    return second === undefined ? metrics : third === "explain" ? explain : third === undefined ? explorer : null;
  return { stages, aside, connect, config }[first] ?? null;
}

/** Show what the address says. A page that can take a change in (same path, other parameters) does so in place. */
async function show() {
  const route = current();
  const page = pageOf(route.parts);
  mark(route);
  const place = route.parts.join("/");
  if (shown.page === page && shown.place === place && shown.change) return void shown.change(route);
  shown.end.abort();
  const end = new AbortController();
  const fromElsewhere = shown.page !== null && shown.page !== page;
  shown = { page, place, end };
  if (!page) return void nowhere();
  try {
    const made = await page.open(route, end.signal);
    if (end.signal.aborted) return;
    shown.change = made.change;
    fill(main, made.element);
    made.started?.();
  } catch (error) {
    if (end.signal.aborted) return;
    fill(main, failure(error, show));
    if (!(error instanceof ApiError)) throw error;
  }
  document.title = `${main.querySelector("h1")?.textContent ?? "Streamgauge"} · Streamgauge`;
  if (fromElsewhere && document.activeElement === document.body) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function nowhere() {
  fill(
    main,
    h(
      "section",
      { class: "empty" },
      h("h1", {}, "There is no such page"),
      h("p", {}, "The address names none. ", h("a", { href: "#/" }, "Go to the overview"), "."),
    ),
  );
}

function mark(route) {
  const nav = document.getElementById("nav");
  fill(
    nav,
    NAVIGATION.map(([text, href, first]) =>
      h("a", { href, "aria-current": (route.parts[0] ?? "") === first ? "page" : null }, text),
    ),
  );
  // On a phone it is wider than the screen: the page one is on is in sight.
  const here = nav.querySelector("[aria-current]");
  if (here) nav.scrollLeft = here.offsetLeft - nav.offsetLeft - (nav.clientWidth - here.offsetWidth) / 2;
}

function theme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const next = dark ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    announce("This browser keeps no settings: the theme lasts until you leave.");
  }
  document.dispatchEvent(new Event("themechange"));
}

function health(state, text, title) {
  const light = document.getElementById("health");
  light.dataset.state = state;
  light.title = title;
  fill(light.querySelector("span:last-child"), text);
}

async function ready(signal) {
  const said = await getEither("/readyz", signal);
  const failing = said.checks.filter((check) => !check.ok);
  health(
    said.ready ? "good" : "bad",
    said.ready ? "Ready" : "Not ready",
    failing.map((check) => `${check.name}: ${check.detail}`).join("\n") || "Every check of /readyz holds.",
  );
}

document.getElementById("theme").addEventListener("click", theme);
document
  .getElementById("keys")
  .addEventListener("click", () => dispatchEvent(new KeyboardEvent("keydown", { key: "?" })));
document.getElementById("skip").addEventListener("click", (event) => (event.preventDefault(), main.focus()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  document.dispatchEvent(new Event("themechange")),
);
listen();
key("t", "Dark or light", theme);
addEventListener("hashchange", show);
poll(HEALTH_MS, ready, new AbortController().signal, (error) => error && health("bad", "No answer", error.message));
show();

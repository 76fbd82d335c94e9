// Panels, notes and failures: the frames that every page is made of.

import { ApiError } from "./api.js";
import { h } from "./dom.js";

/** A titled part of a page; `aside` stands at the right of its title. */
export function panel(title, aside, ...content) {
  return h("section", { class: "panel", "aria-label": title }, h("header", {}, h("h2", {}, title), aside), ...content);
}

/** The head of a page. */
export function heading(title, ...rest) {
  return h("header", { class: "page-head" }, h("h1", {}, title), ...rest);
}

/** What is shown where there is nothing yet: what would be here, and how to get it. */
export function empty(title, ...content) {
  return h("div", { class: "empty" }, h("h3", {}, title), ...content);
}

/** What went wrong, in the server's words, and a way to try again. */
export function failure(error, again) {
  const said = error instanceof ApiError ? error.message : `The page has a fault: ${error.message}`;
  const wait = error.retryAfterS ? ` It asks to wait ${error.retryAfterS} s.` : "";
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("b", {}, error.status ? `${error.status} ` : "", error.code ?? ""),
    h("p", {}, said, wait),
    again ? h("button", { onclick: again }, "Try again") : null,
  );
}

/** A large number with its name; `state` colours it. */
export function tile(label, value, note, { state = null, href = null, title = null } = {}) {
  return h(
    href ? "a" : "div",
    { class: "tile", href, title, "data-state": state },
    h("span", { class: "tile-label" }, label),
    h("span", { class: "tile-value" }, value),
    h("span", { class: "tile-note" }, note ?? ""),
  );
}

/** A choice of one of a few, as a row of links or buttons. */
export function choices(label, entries) {
  return h(
    "div",
    { class: "choices", role: "group", "aria-label": label },
    entries.map(({ text, href, chosen, act, title }) =>
      href
        ? h("a", { href, title, "aria-current": chosen ? "true" : null }, text)
        : h("button", { onclick: act, title, "aria-pressed": String(Boolean(chosen)) }, text),
    ),
  );
}

/** A labelled select; `change(value)` when another is chosen. */
export function select(label, options, value, change) {
  const element = h(
    "select",
    { onchange: (event) => change(event.currentTarget.value) }, // not of this element: `refresh` may keep an older one
    options.map(([each, text]) => h("option", { value: each, selected: each === value }, text ?? each)),
  );
  return h("label", { class: "field" }, h("span", {}, label), element);
}

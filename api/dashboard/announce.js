// Short messages that come and go at the foot of the page, and are read aloud.

import { h } from "./dom.js";

const STAYS_MS = 4_000;
const shelf = h("div", { class: "toasts", role: "status", "aria-live": "polite" });
document.body.append(shelf);

export function announce(text, kind = "good") {
  const toast = h("p", { class: `toast ${kind}` }, text);
  shelf.append(toast);
  setTimeout(() => toast.remove(), kind === "bad" ? 2 * STAYS_MS : STAYS_MS);
}

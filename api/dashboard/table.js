// A table of rows with headers that sort; what it shows is what "copy as CSV" copies.

import { h, refresh } from "./dom.js";
import { absolute, ago, clock, NONE, number } from "./format.js";
import { oneLine, shortened } from "./text.js";

const PAGE = 50; // rows at first; a button shows more

/**
 * A table of `columns` ({name, label, cell?(row), value?(row), number?, unit?, sort?}) in a box that scrolls by itself.
 * `cell` is what is seen, `value` what is sorted by and copied; both are `row[name]` where left out.
 */
export function table({ label, columns, empty }) {
  const box = h("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": label });
  let rows = [];
  let sorted = null; // {name, down}
  let shown = PAGE;

  const valueOf = (column, row) => (column.value ? column.value(row) : row[column.name]);

  function ordered() {
    if (!sorted) return rows;
    const column = columns.find(({ name }) => name === sorted.name);
    const sign = sorted.down ? -1 : 1;
    return [...rows].sort((a, b) => compare(valueOf(column, a), valueOf(column, b)) * sign);
  }

  function draw() {
    if (rows.length === 0) return refresh(box, empty?.cloneNode(true) ?? h("p", { class: "note" }, "Nothing here."));
    const listed = ordered();
    refresh(
      box,
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, columns.map(header))),
        h(
          "tbody",
          {},
          listed.slice(0, shown).map((row) =>
            h(
              "tr",
              {},
              columns.map((column) => body(column, row)),
            ),
          ),
        ),
      ),
      listed.length > shown
        ? h(
            "button",
            { class: "more", onclick: more },
            `Show ${Math.min(listed.length - shown, 500)} more of ${number(listed.length)}`,
          )
        : null,
    );
  }

  function more() {
    shown += 500;
    draw();
  }

  function header(column) {
    const way = sorted?.name === column.name ? (sorted.down ? "descending" : "ascending") : null;
    const title = h("span", {}, column.label ?? column.name, column.unit ? h("small", {}, ` ${column.unit}`) : null);
    const inner =
      column.sort === false
        ? title
        : h(
            "button",
            { onclick: () => sortBy(column) },
            title,
            h("span", { class: "arrow", "aria-hidden": "true" }, way === "descending" ? "↓" : way ? "↑" : ""),
          );
    return h("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": way }, inner);
  }

  function sortBy(column) {
    sorted =
      sorted?.name === column.name
        ? sorted.down
          ? { name: column.name, down: false }
          : null
        : { name: column.name, down: true };
    draw();
  }

  function body(column, row) {
    return h(
      "td",
      { class: column.number ? "number" : null },
      column.cell ? column.cell(row) : plain(row[column.name]),
    );
  }

  return {
    element: box,
    show(next) {
      rows = next;
      draw();
    },
    /** Header and rows as they are shown, for CSV. */
    cells() {
      const kept = columns.filter(({ copy }) => copy !== false);
      return [kept.map(({ name }) => name), ...ordered().map((row) => kept.map((column) => valueOf(column, row)))];
    },
  };
}

function compare(a, b) {
  if (a === null || a === undefined) return b === null || b === undefined ? 0 : -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A value of any type as a cell shows it. */
export function plain(value) {
  if (value === null || value === undefined) return h("span", { class: "none" }, NONE);
  if (typeof value === "number" || typeof value === "bigint") return number(value);
  if (value === "") return h("span", { class: "none" }, "(empty)");
  const text =
    typeof value === "string"
      ? value
      : JSON.stringify(value, (_, each) => (typeof each === "bigint" ? String(each) : each));
  const line = oneLine(text);
  return h("span", { class: "text", title: line.length > 40 ? line : null }, shortened(line));
}

/** An instant as a cell shows it: the time of day, UTC in its title. */
export function instant(ms, now) {
  return ms === null || ms === undefined
    ? h("span", { class: "none" }, NONE)
    : h("time", { datetime: new Date(ms).toISOString(), title: `${absolute(ms)} (${ago(ms, now)})` }, clock(ms, now));
}

/** How long ago, with the instant in its title. */
export function since(ms, now) {
  return ms === null || ms === undefined
    ? h("span", { class: "none" }, NONE)
    : h("time", { datetime: new Date(ms).toISOString(), title: absolute(ms) }, ago(ms, now));
}

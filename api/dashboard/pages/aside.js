// What was put aside: late events, dead letters and quarantine, with the reasons counted, and their replay.

import { get, heardClock, now, path, post } from "../api.js";
import { announce } from "../announce.js";
import { asCurl, asPython, copyButtons } from "../copy.js";
import { confirmed } from "../dialog.js";
import { fill, h } from "../dom.js";
import { counted, duration, number } from "../format.js";
import { choices, empty, failure, heading, panel } from "../panel.js";
import { changed, to } from "../route.js";
import { instant, plain, table } from "../table.js";

const PAGE_ROWS = 100;
const KINDS = {
  late: {
    title: "Late",
    owner: "stage",
    what: "Events that came after their windows had closed. A replay counts them all the same: their windows are revised.",
  },
  "dead-letters": {
    title: "Dead letters",
    owner: "stage",
    what: "Events that were accepted and that a stage then could not compute. Mend the cause, then replay: the stage tries them again.",
  },
  quarantine: {
    title: "Quarantine",
    owner: "stream",
    what: "Rows that the door refused, as they were sent. A replay judges them again, by the schema there is now.",
  },
};

export async function open(route, signal) {
  const kind = route.parts[1] ?? "late";
  const known = KINDS[kind];
  if (!known || route.parts.length > 2)
    return { element: empty("There is no such list", h("a", { href: to(["aside", "late"]) }, "Show late events")) };
  const [summary, { now: serverNow }] = await Promise.all([get(`/v1/${kind}`, signal), get("/v1/streams", signal)]);
  heardClock(serverNow);
  const owners = summary[`${known.owner}s`];
  const chosen = route.query.get(known.owner) ?? owners.find((each) => each.total > 0)?.[known.owner] ?? null;
  const listed = h("div", { class: "stack" });
  const tabs = choices(
    "Lists",
    Object.entries(KINDS).map(([name, { title }]) => ({
      text: title,
      href: to(["aside", name]),
      chosen: name === kind,
    })),
  );
  if (chosen) await list(listed, { kind, known, owner: chosen, reason: route.query.get("reason"), route, signal });
  return {
    element: h(
      "div",
      { class: "page" },
      heading("Put aside", tabs),
      h("p", { class: "note" }, known.what),
      panel(
        `By ${known.owner}`,
        copyButtons("the counts", {
          curl: () => asCurl(`/v1/${kind}`),
          python: () => asPython(`/v1/${kind}`),
          csvRows: () => [
            [known.owner, "reason", "count"],
            ...owners.flatMap((each) =>
              Object.entries(each.reasons).map(([reason, count]) => [each[known.owner], reason, count]),
            ),
          ],
        }),
        ownerList(owners, { kind, known, chosen, route }),
      ),
      listed,
      owners.every((each) => each.total === 0) ? panel("Nothing here", null, nothing(kind)) : null,
    ),
  };
}

function nothing(kind) {
  const texts = {
    late: [
      "No event was late",
      "An event is late when the watermark has passed the end of its window. `time.disorder` says how far out of order events may come; allowed_lateness how long a closed window is still revised.",
    ],
    "dead-letters": [
      "No event was undecodable",
      "A dead letter is an event that was accepted and that a stage could not compute: a division by zero, a text that is no number, a row by XADD that does not fit the schema.",
    ],
    quarantine: [
      "Nothing was refused",
      "The door judges every row by the stream's schema. What does not fit is kept here with the reason and the bytes that were sent.",
    ],
  };
  const [title, text] = texts[kind];
  return empty(title, h("p", {}, text));
}

function ownerList(owners, { kind, known, chosen, route }) {
  return h(
    "ul",
    { class: "owners" },
    owners.map((each) => {
      const name = each[known.owner];
      return h(
        "li",
        { class: name === chosen ? "chosen" : null },
        h(
          "a",
          { href: to(["aside", kind], { [known.owner]: name }), "aria-current": name === chosen ? "true" : null },
          name,
          h("b", {}, number(each.total)),
        ),
        h(
          "span",
          { class: "reasons" },
          Object.entries(each.reasons).map(([reason, count]) =>
            h(
              "a",
              {
                class: "badge quiet",
                href: to(["aside", kind], { [known.owner]: name, reason }),
                "aria-current": name === chosen && route.query.get("reason") === reason ? "true" : null,
              },
              reason,
              " ",
              h("b", {}, number(count)),
            ),
          ),
        ),
        each.counted < each.total ? h("small", {}, `of the newest ${number(each.counted)}`) : null,
      );
    }),
  );
}

async function list(box, { kind, known, owner, reason, route, signal }) {
  const first = { [known.owner]: owner, reason, limit: PAGE_ROWS };
  const where = path(`/v1/${kind}`, first);
  const picked = new Set();
  let rows = [];
  let upTo = null;
  let next = null;
  const rowsTable = table({
    label: `${known.title} of ${owner}`,
    columns: columnsOf(kind, picked, drawActions),
    empty: empty(
      "No such rows",
      reason
        ? h("a", { href: changed(route, { reason: null }) }, "Show every reason")
        : h("p", {}, `Nothing of ${owner} is here.`),
    ),
  });
  const actions = h("div", { class: "actions" });
  const outcome = h("div", { role: "status" });

  async function load(cursor) {
    const page = await get(path(`/v1/${kind}`, { ...first, cursor }), signal);
    rows = cursor ? [...rows, ...page.rows] : page.rows;
    if (!cursor) upTo = page.up_to;
    next = page.next;
    rowsTable.show(rows);
    drawActions();
  }

  function drawActions() {
    const some = picked.size > 0;
    fill(
      actions,
      rows.length
        ? h(
            "button",
            {
              class: some ? "primary" : null,
              disabled: !some,
              onclick: () => replay({ ids: [...picked] }, counted(picked.size, "row")),
            },
            some ? `Replay ${counted(picked.size, "row")}` : "Choose rows to replay",
          )
        : null,
      rows.length
        ? h(
            "button",
            {
              onclick: () =>
                replay(
                  { all: true, up_to: upTo, ...(reason ? { reason } : {}) },
                  `all rows${reason ? ` of reason ${reason}` : ""} that were there when this list was made`,
                ),
            },
            "Replay all that is listed",
          )
        : null,
      next ? h("button", { onclick: () => load(next).catch(told) }, "Older rows") : null,
    );
  }

  const told = (error) => !signal.aborted && fill(outcome, failure(error));

  async function replay(which, words) {
    const goes =
      kind === "quarantine"
        ? `They are judged by the door of ${owner} again, one by one, and go to every stage that reads it.`
        : `They go to ${owner} alone; they move no time, and windows they count in are revised.`;
    if (
      !(await confirmed(
        `Replay ${words}?`,
        [goes, "A row is replayed once: those that were replayed before are left out."],
        "Replay",
      ))
    )
      return;
    const total = { replayed: 0, repeated: 0, already_replayed: 0, refused: 0, errors: [], ids: [] };
    try {
      let more = true;
      while (more) {
        const said = await post(`/v1/${kind}/replay`, { [known.owner]: owner, ...which }, signal);
        for (const name of ["replayed", "repeated", "already_replayed", "refused"]) total[name] += said[name];
        total.errors.push(...said.errors);
        total.ids.push(...said.ids);
        more = said.more;
      }
    } catch (error) {
      return void told(error);
    }
    announce(`Replayed ${counted(total.replayed, "row")}`);
    fill(outcome, replayed(total, kind, owner));
    picked.clear();
    await load(null).catch(told);
  }

  fill(
    box,
    panel(
      `${known.title} of ${owner}${reason ? `, reason ${reason}` : ""}`,
      copyButtons("these rows", { curl: () => asCurl(where), python: () => asPython(where), csvRows: rowsTable.cells }),
      outcome,
      actions,
      rowsTable.element,
    ),
  );
  await load(null).catch(told);
}

function replayed(total, kind, owner) {
  const parts = [
    ["replayed", "replayed now"],
    ["repeated", "by this very request before"],
    ["already_replayed", "replayed before"],
    ["refused", "refused"],
  ];
  return h(
    "div",
    { class: "outcome" },
    h(
      "p",
      {},
      parts
        .filter(([name]) => total[name] || name === "replayed")
        .map(([name, text], index) => [index ? ", " : "", h("b", {}, number(total[name])), ` ${text}`]),
      ". ",
      total.ids.length
        ? `In the log as ${total.ids.slice(0, 3).join(", ")}${total.ids.length > 3 ? ` and ${total.ids.length - 3} more entries` : ""}. `
        : "",
      kind === "quarantine" ? null : h("a", { href: to(["metrics", owner]) }, "See its windows"),
    ),
    total.errors.length
      ? h(
          "ul",
          {},
          total.errors
            .slice(0, 10)
            .map((error) => h("li", {}, h("code", {}, error.id), ` ${error.code}: ${error.message}`)),
        )
      : null,
  );
}

function columnsOf(kind, picked, pickedChanged) {
  const pick = (row) =>
    h("input", {
      type: "checkbox",
      checked: picked.has(row.id),
      disabled: row.replayed,
      "aria-label": `Choose ${row.id}`,
      onchange: (event) => (event.currentTarget.checked ? picked.add(row.id) : picked.delete(row.id), pickedChanged()),
    });
  const common = [
    { name: "pick", label: "", sort: false, copy: false, cell: pick },
    {
      name: "reason",
      label: "Reason",
      cell: (row) => [plain(row.reason), row.replayed ? h("span", { class: "badge good" }, "replayed") : null],
    },
  ];
  const entry = {
    name: "entry",
    label: "Entry",
    value: (row) => `${row.entry}/${row.row}`,
    cell: (row) => h("span", { class: "none" }, `${row.entry}/${row.row}`),
  };
  if (kind === "late") {
    return [
      ...common,
      { name: "time", label: "Event time", number: true, cell: (row) => instant(row.time, now()) },
      { name: "late_by_ms", label: "Late by", number: true, cell: (row) => duration(row.late_by_ms) },
      { name: "window_end", label: "Last window", number: true, cell: (row) => instant(row.window_end, now()) },
      { name: "event", label: "Event", sort: false, cell: (row) => plain(row.event) },
      entry,
    ];
  }
  if (kind === "dead-letters")
    return [
      ...common,
      { name: "error", label: "Error", cell: (row) => h("span", { class: "wrap" }, plain(row.error)) },
      { name: "n", label: "Events", number: true },
      { name: "event", label: "Event", sort: false, cell: (row) => plain(row.event) },
      entry,
    ];
  return [
    ...common,
    { name: "field", label: "Field" },
    { name: "error", label: "Why", cell: (row) => h("span", { class: "wrap" }, plain(row.error)) },
    { name: "body", label: "As it was sent", sort: false, cell: (row) => plain(row.body) },
    { name: "index", label: "Index", number: true },
  ];
}

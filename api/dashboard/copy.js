// "Copy as curl, Python, CSV": how to get what a panel shows, from somewhere else.

import { ADDRESS } from "./api.js";
import { h } from "./dom.js";
import { csv, pythonLiteral, shellQuoted } from "./text.js";
import { announce } from "./announce.js";

/** A command line that asks for a path, or posts a body to it. */
export function asCurl(path, body) {
  const address = shellQuoted(`${ADDRESS}${path}`);
  return body === undefined
    ? `curl ${address}`
    : `curl -X POST ${address} -H 'content-type: application/json' -d ${shellQuoted(JSON.stringify(body))}`;
}

/** Python that asks for a path with the standard library. */
export function asPython(path) {
  return `import json\nimport urllib.request\n\nwith urllib.request.urlopen(${pythonLiteral(ADDRESS + path)}) as answer:\n    found = json.load(answer)\n`;
}

/** Python that asks for a metric with the client: a DataFrame. */
export function asClientPython(metric, query) {
  const given = [...query].filter(([name]) => !name.startsWith("where."));
  const where = [...query].filter(([name]) => name.startsWith("where."));
  if (where.length > 0 || given.some(([name]) => !["start", "end", "step"].includes(name)))
    return asPython(`/v1/metrics/${metric}?${query}`);
  const parts = [pythonLiteral(metric), ...given.map(([name, value]) => `${name}=${pythonLiteral(value)}`)];
  return `from api.client import Client\n\nclient = Client(${pythonLiteral(ADDRESS)})\nframe = client.metric(${parts.join(", ")})\n`;
}

/** The buttons; each of `curl`, `python`, `csv` is a function that returns the text, or a promise of it. */
export function copyButtons(label, { curl, python, csvRows, csvText }) {
  const ways = [
    ["curl", curl],
    ["Python", python],
    ["CSV", csvText ?? (csvRows && (() => csv(csvRows())))],
  ];
  return h(
    "div",
    { class: "copy", role: "group", "aria-label": `Copy ${label} as` },
    ways
      .filter(([, make]) => make)
      .map(([name, make]) =>
        h(
          "button",
          {
            title: `Copy ${label} as ${name}`,
            "aria-label": `Copy ${label} as ${name}`,
            onclick: (event) => copy(event.currentTarget, name, make),
          },
          name,
        ),
      ),
  );
}

async function copy(button, name, make) {
  try {
    await write(await make());
    button.classList.add("done");
    announce(`Copied as ${name}`);
  } catch (error) {
    announce(`Could not copy: ${error.message}`, "bad");
  }
  setTimeout(() => button.classList.remove("done"), 1_200);
}

/** Put a text on the clipboard; where a page may not (plain HTTP beyond loopback), by a selection. */
export async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("the browser does not let this page use the clipboard");
}

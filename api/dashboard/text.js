// What strangers wrote, made safe to look at: control and direction characters are shown and act on nothing.

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const TAB_OR_LINE = /[\t\n\r]/g;
const LONGEST = 200; // characters of one value in a table; the whole is in its title

/** Show control characters as their pictures (␀ for NUL), and the invisible ones as their code. */
export function visible(text) {
  return text.replace(CONTROLS, picture);
}

/** The same for a text that stands in one line: tabs and line ends are shown as well. */
export function oneLine(text) {
  return visible(text.replace(TAB_OR_LINE, picture));
}

function picture(character) {
  const code = character.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
}

/** A text of at most so many characters; what was cut is said by an ellipsis. */
export function shortened(text, longest = LONGEST) {
  return text.length > longest ? `${text.slice(0, longest - 1)}…` : text;
}

/** A text as one argument of a POSIX shell. */
export function shellQuoted(text) {
  return `'${text.replaceAll("'", `'"'"'`)}'`;
}

/** A value as a literal of Python. */
export function pythonLiteral(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([key, each]) => `${pythonLiteral(key)}: ${pythonLiteral(each)}`)
      .join(", ")}}`;
  }
  return typeof value === "string" ? JSON.stringify(value).replace(/\u007f/g, "\\u007f") : String(value);
}

const CSV_PICTURED = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g; // these two as `api/csv_text.py` has them
const CSV_REPLACED = /[\u0080-\u009f]/g;
const FORMULA_STARTS = /^[=+\-@\t\r\n]/; // a spreadsheet would run these

/** Rows of cells as CSV (RFC 4180); a text that a spreadsheet would run has an apostrophe before it. */
export function csv(rows) {
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  const text =
    typeof value === "string"
      ? value
      : JSON.stringify(value, (_, each) => (typeof each === "bigint" ? String(each) : each));
  const shown = text.replace(CSV_PICTURED, picture).replace(CSV_REPLACED, "\ufffd");
  const safe = FORMULA_STARTS.test(shown) ? `'${shown}` : shown;
  return safe === "" || /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

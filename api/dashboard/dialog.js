// Dialogs: a question before something is done, and the list of keys.

import { h } from "./dom.js";

/** Open a dialog; it is removed when it closes, and the focus goes back by itself. */
export function openDialog(title, ...content) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() },
    heading,
    ...content,
  );
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask before something is done; resolves to whether it was confirmed. */
export function confirmed(title, lines, action) {
  return new Promise((answer) => {
    const close = (said) => () => (dialog.close(), answer(said));
    const dialog = openDialog(
      title,
      lines.map((line) => h("p", {}, line)),
      h(
        "div",
        { class: "actions" },
        h("button", { onclick: close(false), autofocus: true }, "Cancel"),
        h("button", { class: "primary", onclick: close(true) }, action),
      ),
    );
    dialog.addEventListener("cancel", () => answer(false));
  });
}

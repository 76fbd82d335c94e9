// Colours of the style sheets for canvases, which do not know variables: as the present theme has them.

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

/** The colour of a variable, such as `--accent`, in the theme that is shown. */
export function resolved(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

// Elements from plain calls: `h("a", {href}, "text")`; text is always a text node, never markup.

import { visible } from "./text.js";

const listeners = new WeakMap(); // element → [[event, listener]], so that `refresh` can exchange them

/** Make an element; `on…` properties are listeners, null and false leave an attribute out, children may nest. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) listen(element, name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, text]) => element.style.setProperty(key, text));
    else element.setAttribute(name, value === true ? "" : visible(String(value)));
  }
  append(element, children);
  return element;
}

function listen(element, event, listener) {
  element.addEventListener(event, listener);
  listeners.set(element, [...(listeners.get(element) ?? []), [event, listener]]);
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(visible(String(child))));
  }
}

/** Put children in the place of what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/**
 * Make an element hold `children`, changing only what differs: focus, selection, hover and scroll stay where they are
 * while numbers move. Not for canvases, whose picture is no node.
 */
export function refresh(element, ...children) {
  const wanted = document.createElement("div");
  append(wanted, children);
  match(element, wanted);
}

function match(old, next) {
  const wanted = [...next.childNodes];
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
  wanted.forEach((node, index) => {
    const there = old.childNodes[index];
    if (there === undefined) old.append(node);
    else if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName) there.replaceWith(node);
    else if (node.nodeType === Node.ELEMENT_NODE) matchElement(there, node);
    else if (there.data !== node.data) there.data = node.data;
  });
}

function matchElement(old, next) {
  for (const { name } of [...old.attributes])
    if (!next.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  for (const { name, value } of [...next.attributes]) {
    if (name === "style") continue; // the policy forbids the attribute; the object below is allowed
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.nodeName === "OPTION") old.selected = next.selected;
  if (old.nodeName === "INPUT") old.checked = next.checked;
  if (next.style?.length > 0)
    for (const name of next.style) old.style.setProperty(name, next.style.getPropertyValue(name));
  for (const [event, listener] of listeners.get(old) ?? []) old.removeEventListener(event, listener);
  listeners.delete(old);
  for (const [event, listener] of listeners.get(next) ?? []) listen(old, event, listener);
  match(old, next);
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

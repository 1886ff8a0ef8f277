// Elements of the page. Text is only ever put into text nodes.

export const byId = (id) => document.getElementById(id);
export const say = (text) => { byId("status").textContent = text; };

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function button(label, name, action, pressed) {
  const made = make("button", { type: "button", textContent: label, onclick: action });
  made.setAttribute("aria-label", name);
  made.dataset.key = label.replace("Unflag", "Flag"); // where focus is to stay
  if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
  return made;
}

export function textOf(text) {
  // Long texts scroll, and only what has focus can be scrolled by keys.
  const element = make("div", { className: "text", dir: "auto", textContent: text });
  if (text.length > 2000) {
    element.tabIndex = 0;
    element.setAttribute("role", "region");
    element.setAttribute("aria-label", "Long text");
  }
  return element;
}

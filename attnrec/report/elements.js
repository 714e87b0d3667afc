/* DOM elements, created without innerHTML: data is always inserted as text. */

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.append(...children);
  return created;
}

const span = (name, ...children) => element("span", name ? { class: name } : {}, ...children);
const small = (...children) => element("small", {}, ...children);
const hidden = (text) => span("hidden", text);

/* Roving tab index: a list of buttons is one tab stop; arrow keys, Home and End move within it. */
function rove(list, { back, forward }) {
  const buttons = () => [...list.querySelectorAll("button")];
  list.addEventListener("focusin", (event) => {
    for (const button of buttons()) button.tabIndex = button === event.target ? 0 : -1;
  });
  list.addEventListener("keydown", (event) => {
    const all = buttons();
    const from = all.indexOf(event.target);
    const to = { [back]: from - 1, [forward]: from + 1, Home: 0, End: all.length - 1 }[event.key];
    if (from < 0 || to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))].focus();
  });
}

/* Calls `over` with the index of the hovered or focused button, or null, and `click` with that of a clicked one. */
function track(list, { over, click }) {
  const buttonOf = (event) => event.target.closest("button");
  const indexOf = (button) => (button ? Number(button.dataset.index) : null);
  const focused = () => list.querySelector("button:focus-visible");
  list.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "touch" && buttonOf(event)) over(indexOf(buttonOf(event)));
  });
  list.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") over(indexOf(focused()));
  });
  list.addEventListener("focusin", () => {
    if (focused()) over(indexOf(focused()));
  });
  list.addEventListener("focusout", (event) => {
    if (!list.contains(event.relatedTarget)) over(null);
  });
  list.addEventListener("click", (event) => {
    if (buttonOf(event)) click(indexOf(buttonOf(event)));
  });
}

/* The image of an item, or a placeholder with its first letter; nothing if no item of the page has an image. */
function pictureOf(item) {
  if (!hasImages) return [];
  const picture = element("span", { class: "picture", "aria-hidden": "true" }, nameOf(item).slice(0, 1).toUpperCase());
  if (imageOf(item)) {
    const image = element("img", { alt: "", loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
    image.addEventListener("error", () => image.remove());
    image.src = imageOf(item);
    picture.append(image);
  }
  return [picture];
}

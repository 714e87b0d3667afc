/* The search box: finds users by id or by an item in the history. */

const MAX_MATCHES = 40;

function makeSearch(select) {
  const box = byId("search");
  const list = byId("matches");
  const index = data.users.map((user) => ({
    id: user.id.toLowerCase(),
    items: [...new Set(user.events)].map((item) => [item, `${nameOf(item)}\n${idOf(item)}`.toLowerCase()]),
  }));
  let matches = [];
  let active = 0;

  /* Users whose id contains the text come first, then users with a matching item in the history. */
  function matchesOf(text) {
    const byUser = [];
    const byItem = [];
    index.forEach(({ id, items }, user) => {
      if (id.includes(text)) return byUser.push({ user });
      const match = items.find(([, name]) => name.includes(text));
      return match && byItem.push({ user, item: match[0] });
    });
    return [...byUser, ...byItem];
  }

  function open() {
    matches = matchesOf(box.value.trim().toLowerCase());
    active = 0;
    const lines = matches.slice(0, MAX_MATCHES).map(({ user, item }, position) => {
      const why = item === undefined ? count(data.users[user].n_events, "event") : `has ${nameOf(item)}`;
      const line = element("li", { role: "option", id: `match-${position}` }, data.users[user].id);
      line.append(small(why));
      line.dataset.position = position;
      return line;
    });
    const more = matches.length - lines.length;
    const note = !matches.length ? "no matching user on this page" : more > 0 ? `and ${more.toLocaleString("en")} more` : "";
    list.replaceChildren(...lines, ...(note ? [element("li", { class: "note", role: "presentation" }, note)] : []));
    list.hidden = false;
    box.setAttribute("aria-expanded", "true");
    mark();
  }

  function close() {
    list.hidden = true;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
  }

  function mark() {
    const lines = [...list.querySelectorAll("[role=option]")];
    lines.forEach((line, position) => line.setAttribute("aria-selected", String(position === active)));
    if (!lines[active]) return box.removeAttribute("aria-activedescendant");
    box.setAttribute("aria-activedescendant", lines[active].id);
    return lines[active].scrollIntoView({ block: "nearest" });
  }

  function choose(position) {
    if (!matches[position]) return;
    select(matches[position].user);
    box.value = "";
    close();
  }

  box.addEventListener("input", open);
  box.addEventListener("blur", close);
  box.addEventListener("click", open);
  box.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) {
      event.preventDefault();
      if (list.hidden) return open();
      const n = Math.min(matches.length, MAX_MATCHES) || 1;
      active = (active + steps[event.key] + n) % n;
      return mark();
    }
    if (event.key === "Enter") {
      if (list.hidden) open();
      return choose(active);
    }
    if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      close();
    }
    return undefined;
  });
  // keeps the focus in the box, whose blur closes the list before the click
  list.addEventListener("pointerdown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const line = event.target.closest("[role=option]");
    if (line) choose(Number(line.dataset.position));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target === box) return;
    event.preventDefault();
    box.focus();
    box.select();
  });
}

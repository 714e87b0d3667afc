/* The page: state (user, mode, hovered and pinned item or event), address and theme. */

const MEANING = {
  contribution: "Exact: the contributions of all events plus popularity sum to the score.",
  attention: "Attention weights show what the model attends to, not the effect on the score.",
  what_if: "What if one event had not happened: it is removed, and the model ranks all items again.",
};
const LEGEND = {
  contribution: [["raises", "raises the score"], ["lowers", "lowers the score"]],
  attention: [["attention", "attention weight"]],
  what_if: [["raises", "the item falls without it"], ["lowers", "the item rises without it"]],
};
const INEXACT = "This model has no exact reasons: its scores are not sums over events. ";

const EMPTY = "No history known to the model: items are ranked by popularity.";
const UNAVAILABLE = {
  contribution: "This model has no exact reasons",
  attention: "There are no attention weights",
  what_if: "No event was removed",
};

const state = { user: 0, mode: data.exact ? "contribution" : "what_if", over: {}, pinned: {} };
const pointer = (kind) => ({
  over: (index) => {
    state.over = index === null ? {} : { [kind]: index };
    update();
  },
  click: (index) => {
    state.pinned = { ...state.pinned, [kind]: state.pinned[kind] === index ? undefined : index };
    state.over = {};
    update();
    if (kind === "item" && state.pinned.item !== undefined) history.scrollToLargest(viewOf());
  },
});
const history = makeHistory(pointer("event"));
const recommendations = makeRecommendations(pointer("item"));

/* The view: the hovered item or event, else the pinned one, else the first item. */
function viewOf() {
  const { over, pinned } = state;
  const first = (...values) => values.find((value) => value !== undefined);
  const noItem = over.item === undefined && pinned.item === undefined;
  return {
    user: data.users[state.user],
    mode: state.mode,
    item: first(over.item, pinned.item, 0),
    event: first(over.event, pinned.event, null),
    eventOnly: noItem && first(over.event, pinned.event) !== undefined,
    pinnedItem: first(pinned.item, null),
    pinnedEvent: first(pinned.event, null),
    subject: over.event !== undefined || (noItem && pinned.event !== undefined) ? "event" : "item",
  };
}

function update() {
  const view = viewOf();
  history.update(view);
  recommendations.update(view);
  byId("sentence").replaceChildren(...sentenceOf(view));
}

function showUser(index) {
  const user = data.users[index];
  Object.assign(state, { user: index, over: {}, pinned: {} });
  updateModes(user);
  byId("user").replaceChildren(span("", "User "), user.id);
  document.title = `${user.id} \u00b7 ${data.title}`;
  byId("user-summary").textContent = summaryOf(user);
  byId("position").textContent = `${(index + 1).toLocaleString("en")} of ${data.users.length.toLocaleString("en")}`;
  byId("empty").hidden = user.events.length > 0;
  byId("empty").textContent = user.events.length ? "" : EMPTY;
  history.show(user);
  recommendations.show(user);
  update();
}

function summaryOf(user) {
  if (!user.events.length) return "no history: popular items";
  const parts = [count(user.n_events, "event")];
  if (user.times) parts[0] += `, ${dayOf(user.times[0])} to ${dayOf(user.times[user.times.length - 1])}`;
  if (user.n_read < user.n_events) parts.push(`the model reads the latest ${user.n_read.toLocaleString("en")}`);
  if (user.events.length < user.n_read) parts.push(`the latest ${user.events.length} are on this page`);
  return parts.join("; ");
}

/* Disable modes without values for this user. */
function updateModes(user) {
  const available = {
    contribution: user.contributions !== null,
    attention: user.attention !== null && user.events.length > 0,
    what_if: Object.keys(user.ranks_without).length > 0 || user.contributions === null,
  };
  if (!available[state.mode]) state.mode = available.contribution ? "contribution" : "what_if";
  for (const radio of byId("modes").querySelectorAll("input")) {
    radio.disabled = !available[radio.value];
    radio.checked = radio.value === state.mode;
    radio.parentElement.title = available[radio.value] ? "" : UNAVAILABLE[radio.value];
  }
  byId("legend").replaceChildren(...legendOf(user));
  byId("meaning").textContent = (data.exact ? "" : INEXACT) + MEANING[state.mode];
}

function legendOf(user) {
  const keys = LEGEND[state.mode].map(([tone, text]) => {
    const key = span("key", text);
    key.dataset.tone = tone;
    return key;
  });
  if (user.attention && state.mode !== "attention") keys.push(span("key band", "attention weight"));
  keys.push(span("key plain", bold("bold"), " large effect"));
  return user.events.length ? keys : [];
}

byId("modes").addEventListener("change", (event) => {
  state.mode = event.target.value;
  updateModes(data.users[state.user]);
  update();
});

/* --- the user is part of the address, so that a user can be linked */

function go(index) {
  const user = data.users[(index + data.users.length) % data.users.length];
  location.hash = new URLSearchParams({ user: user.id });
}

function followAddress() {
  const id = new URLSearchParams(location.hash.slice(1)).get("user") || "";
  const index = data.users.findIndex((user) => user.id === id);
  byId("problem").hidden = !id || index >= 0;
  const users = `${data.users.length.toLocaleString("en")} of ${count(data.n_users, "user")}`;
  byId("problem").textContent = `User ${id} is not on this page. It shows ${users}.`;
  showUser(Math.max(0, index));
}

addEventListener("hashchange", followAddress);
byId("previous").addEventListener("click", () => go(state.user - 1));
byId("next").addEventListener("click", () => go(state.user + 1));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  Object.assign(state, { over: {}, pinned: {} });
  update();
});

/* --- light or dark theme: the system setting until the button is used */

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => (byId("theme").textContent = isDark() ? "Light theme" : "Dark theme");
byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
dark.addEventListener("change", nameTheme);

function factsOf() {
  const shown = data.users.length < data.n_users ? `${data.users.length.toLocaleString("en")} of ` : "";
  return [
    data.version ? `model ${data.version}` : data.model,
    data.scored_at && `scored ${timeOf(data.scored_at)}`,
    `${shown}${count(data.n_users, "user")}`,
    `${count(data.n_items, "item")} ranked`,
  ];
}

byId("facts").textContent = factsOf().filter(Boolean).join(" \u00b7 ");
document.body.classList.toggle("has-images", hasImages);
nameTheme();
showSummary();
showTechnical();
makeSearch(go);
followAddress();

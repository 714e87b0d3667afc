/* The sentence below the history, as text and elements. */

const bold = (text) => element("b", {}, text);
const coloured = (value) => {
  const figure = span("figure", signed(value));
  figure.dataset.tone = roundsToZero(value) ? "none" : toneOf(value);
  return figure;
};

/* The parts with commas between them. */
const joined = (parts) => parts.flatMap((part, index) => (index ? [", ", ...part] : part));

function sentenceOf(view) {
  if (view.mode === "attention") return attentionSentence(view.user);
  if (view.subject === "event") return view.mode === "contribution" ? eventSentence(view) : withoutSentence(view);
  return view.mode === "contribution" ? becauseSentence(view) : dependsSentence(view);
}

/* "tea, because: A (2 purchases) +1.32, B +0.87, other events -0.20, popularity +0.10" */
function becauseSentence({ user, item }) {
  const { largest, otherEvents } = reasonsOf(user, item);
  const parts = largest.map(([of, total]) => {
    const events = eventCountOf(user, of);
    return [`${shortNameOf(of)} ${events ? `(${events}) ` : ""}`, coloured(total)];
  });
  if (user.events.length && !roundsToZero(otherEvents)) parts.push(["other events ", coloured(otherEvents)]);
  parts.push(["popularity ", coloured(user.item_bias[item])]);
  return [bold(shortNameOf(user.items[item])), " because: ", ...joined(parts)];
}

/* The largest contributions of one event. */
function eventSentence({ user, event }) {
  const contributions = user.items.map((of, item) => [of, user.contributions[item][event]]);
  const largest = contributions.sort((one, other) => Math.abs(other[1]) - Math.abs(one[1])).slice(0, 3);
  const parts = largest.map(([of, value]) => [`${shortNameOf(of)} `, coloured(value)]);
  return [bold(shortNameOf(user.events[event])), dateText(user, event), " contributes to ", ...joined(parts)];
}

function attentionSentence(user) {
  const order = user.events.map((_, event) => event).sort((one, other) => user.attention[other] - user.attention[one]);
  const largest = order.slice(0, 3);
  const shown = largest.reduce((sum, event) => sum + user.attention[event], 0);
  const parts = largest.map((event) => [bold(shortNameOf(user.events[event])), ` ${percent(user.attention[event])}`]);
  if (order.length > 3) parts.push([`${count(user.n_read - 3, "other event")} ${percent(Math.max(0, 1 - shown))}`]);
  return ["Attention: ", ...joined(parts)];
}

/* How the ranks change without one event. */
function withoutSentence({ user, event }) {
  const name = [bold(shortNameOf(user.events[event])), dateText(user, event)];
  if (!(event in user.ranks_without)) {
    return ["Without ", ...name, ": not computed. Only the most important and the latest events are removed."];
  }
  const moved = user.items
    .map((_, item) => item)
    .filter((item) => rankWithout(user, event, item) !== user.ranks[item])
    .sort((one, other) => Math.abs(fallOf(user, event, other)) - Math.abs(fallOf(user, event, one)));
  if (!moved.length) return ["Without ", ...name, ": no rank changes."];
  const move = (item) => moveOf(user.ranks[item], rankWithout(user, event, item));
  const shown = moved.slice(0, 3).map((item) => [`${shortNameOf(user.items[item])} ${move(item)}`]);
  const others = moved.length - shown.length;
  return ["Without ", ...name, ": ", ...joined(shown), others > 0 ? `; ${count(others, "other item")} change rank` : ""];
}

/* The events without which one item falls most. */
function dependsSentence({ user, item }) {
  const largest = Object.keys(user.ranks_without)
    .filter((event) => fallOf(user, event, item) > 0)
    .sort((one, other) => fallOf(user, other, item) - fallOf(user, one, item))
    .slice(0, 3);
  const name = bold(shortNameOf(user.items[item]));
  if (!user.events.length) return [name, " is recommended because it is popular."];
  if (!largest.length) return [name, ` does not fall below rank ${user.ranks[item]} without any single event.`];
  const rank = (event) => rankWithout(user, event, item).toLocaleString("en");
  const parts = largest.map((event) => [`${shortNameOf(user.events[event])} (rank ${rank(event)} without it)`]);
  return [name, `, rank ${user.ranks[item]}, depends most on: `, ...joined(parts)];
}

const dateText = (user, event) => (user.times ? ` (${dayOf(user.times[event])})` : "");

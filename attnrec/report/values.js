/* Values of events for a view. A view is {user, mode, item, event}; item and event are indices in the user's lists. */

/* The largest positive contributions to one item, summed by history item, and the sum of all others. */
function reasonsOf(user, item, n = 3) {
  const totals = new Map();
  const contributions = user.contributions[item];
  user.events.forEach((of, event) => totals.set(of, (totals.get(of) || 0) + contributions[event]));
  const largest = [...totals].filter(([, total]) => total > 0).sort((one, other) => other[1] - one[1]).slice(0, n);
  const shown = largest.reduce((sum, [, total]) => sum + total, 0);
  return { largest, otherEvents: user.scores[item] - user.item_bias[item] - shown };
}

function moveOf(from, to) {
  if (to > from) return `falls from ${from} to ${to.toLocaleString("en")}`;
  return to < from ? `rises from ${from} to ${to}` : `stays at ${from}`;
}

/* Rank of an item after an event is removed; undefined if it was not computed. */
const rankWithout = (user, event, item) => (user.ranks_without[event] || [])[item];

/* Natural log of the rank ratio; positive if the item falls without the event. */
function fallOf(user, event, item) {
  const rank = rankWithout(user, event, item);
  return rank === undefined ? 0 : Math.log(rank / user.ranks[item]);
}

/* The value of each event in this view: {value, text, tone}. */
function valuesOf({ user, mode, item }) {
  return user.events.map((_, event) => {
    if (mode === "attention") return { value: user.attention[event], text: percent(user.attention[event]), tone: "attention" };
    if (mode === "contribution") {
      const value = user.contributions[item][event];
      return { value, text: signed(value), tone: toneOf(value) };
    }
    const rank = rankWithout(user, event, item);
    const value = fallOf(user, event, item);
    return { value, text: rank === undefined ? "not computed" : moveOf(user.ranks[item], rank), tone: toneOf(value) };
  });
}

/* The largest value up and down over all events and items, so that heights are comparable between items. */
function scaleOf({ user, mode }) {
  let values = user.attention || [];
  if (mode === "contribution") values = user.contributions.flat();
  if (mode === "what_if") {
    values = user.items.flatMap((_, item) => user.events.map((_, event) => fallOf(user, event, item)));
  }
  return { up: Math.max(0, ...values), down: Math.max(0, ...values.map((value) => -value)) };
}

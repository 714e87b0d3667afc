/* What is said under the time line, as pieces of text. */

const bold = (text) => element("b", {}, text);
const tinted = (value) => {
  const made = span("figure", signed(value));
  made.dataset.tone = roundsToZero(value) ? "none" : toneOf(value);
  return made;
};

/* Pieces with commas between them. */
const listed = (pieces) => pieces.flatMap((piece, place) => (place ? [", ", ...piece] : piece));

function sentenceOf(view) {
  if (view.mode === "attention") return attentionSentence(view.user);
  if (view.about === "event") return view.mode === "contribution" ? addedSentence(view) : withoutSentence(view);
  return view.mode === "contribution" ? becauseSentence(view) : leansSentence(view);
}

/* "tea, because: A +1.32, B +0.87, other events -0.20, everyone likes it +0.10" */
function becauseSentence({ user, item }) {
  const { best, rest } = reasonsOf(user, item);
  if (!user.events.length) {
    return [bold(shortNameOf(user.items[item])), " because everyone likes it ", tinted(user.item_bias[item])];
  }
  const pieces = best.map(([thing, added]) => [`${shortNameOf(thing)} `, tinted(added)]);
  if (Math.abs(rest) >= 0.5 * 10 ** -digits) pieces.push(["the rest ", tinted(rest)]);
  pieces.push(["everyone likes it ", tinted(user.item_bias[item])]);
  return [bold(shortNameOf(user.items[item])), " because: ", ...listed(pieces)];
}

/* What one event added to whom. */
function addedSentence({ user, event }) {
  const added = user.items.map((thing, item) => [thing, user.parts[item][event]]);
  const most = added.sort((one, other) => Math.abs(other[1]) - Math.abs(one[1])).slice(0, 3);
  const pieces = most.map(([thing, value]) => [`${shortNameOf(thing)} `, tinted(value)]);
  return [bold(shortNameOf(user.events[event])), whenOf(user, event), " gave ", ...listed(pieces)];
}

function attentionSentence(user) {
  const order = user.events.map((_, event) => event).sort((one, other) => user.shares[other] - user.shares[one]);
  const most = order.slice(0, 3);
  const told = most.reduce((sum, event) => sum + user.shares[event], 0);
  const pieces = most.map((event) => [bold(shortNameOf(user.events[event])), ` ${percent(user.shares[event])}`]);
  if (order.length > 3) pieces.push([`${count(user.n_read - 3, "other event")} ${percent(Math.max(0, 1 - told))}`]);
  return ["The model looked at: ", ...listed(pieces)];
}

/* What taking one event out does to the list. */
function withoutSentence({ user, event }) {
  const name = [bold(shortNameOf(user.events[event])), whenOf(user, event)];
  if (!(event in user.without)) {
    return ["Without ", ...name, ": not computed. Only the events that matter most and the latest ones are tried."];
  }
  const moved = user.items
    .map((_, item) => item)
    .filter((item) => rankWithout(user, event, item) !== user.ranks[item])
    .sort((one, other) => Math.abs(fallOf(user, event, other)) - Math.abs(fallOf(user, event, one)));
  if (!moved.length) return ["Without ", ...name, ": every item stays where it is."];
  const moves = (item) => moveOf(user.ranks[item], rankWithout(user, event, item));
  const told = moved.slice(0, 3).map((item) => [`${shortNameOf(user.items[item])} ${moves(item)}`]);
  const others = moved.length - told.length;
  return ["Without ", ...name, ": ", ...listed(told), others > 0 ? `; ${others} more move` : ""];
}

/* Which events hold one item up. */
function leansSentence({ user, item }) {
  const most = Object.keys(user.without)
    .filter((event) => fallOf(user, event, item) > 0)
    .sort((one, other) => fallOf(user, other, item) - fallOf(user, one, item))
    .slice(0, 3);
  const name = bold(shortNameOf(user.items[item]));
  if (!user.events.length) return [name, " is here because everyone likes it."];
  if (!most.length) return [name, ` stays at ${user.ranks[item]} or rises, whichever event is taken out.`];
  const left = (event) => rankWithout(user, event, item).toLocaleString("en");
  const pieces = most.map((event) => [`${shortNameOf(user.events[event])} (place ${left(event)} without it)`]);
  return [name, `, place ${user.ranks[item]}, is held up most by: `, ...listed(pieces)];
}

const whenOf = (user, event) => (user.times ? ` (${dayOf(user.times[event])})` : "");

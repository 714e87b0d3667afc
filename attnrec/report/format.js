/* The data, and its items, numbers and dates as text. */

const data = JSON.parse(byId("data").textContent);

/* An item is [id, title, category, image]; missing values at the end are left out, others are "". */
const idOf = (item) => data.items[item][0];
const nameOf = (item) => data.items[item][1] || idOf(item);
const categoryOf = (item) => data.items[item][2] || "";
const imageOf = (item) => data.items[item][3] || "";
const hasImages = data.items.some((item) => item[3]);
const shorten = (name) => (name.length > 44 ? `${name.slice(0, 42).trimEnd()}\u2026` : name);
const shortNameOf = (item) => shorten(nameOf(item));

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
const dateOf = (seconds) => new Date(1000 * seconds);
const yearOf = (seconds) => dateOf(seconds).getUTCFullYear();
const shortDayOf = (seconds) => `${dateOf(seconds).getUTCDate()} ${MONTHS[dateOf(seconds).getUTCMonth()]}`;
const dayOf = (seconds) => `${shortDayOf(seconds)} ${yearOf(seconds)}`;
const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/* An ISO time as text; other text is returned as it is. */
function timeOf(iso) {
  const time = new Date(iso);
  if (!iso || Number.isNaN(time.getTime())) return iso;
  return `${dayOf(time.getTime() / 1000)}, ${time.toISOString().slice(11, 16)} UTC`;
}

/* Decimals of all scores: two, or more if all scores are so small that two decimals would show 0. */
const digits = (() => {
  const largest = data.users.reduce((most, user) => Math.max(most, ...user.scores.map(Math.abs)), 0);
  return largest >= 0.1 || !largest ? 2 : Math.min(6, 2 - Math.floor(Math.log10(largest)));
})();

const roundsToZero = (value, places = digits) => !Number(Math.abs(value).toFixed(places));
const decimals = (value, places) =>
  (value < 0 && !roundsToZero(value, places) ? "\u2212" : "") + Math.abs(value).toFixed(places);
const unsigned = (value) => decimals(value, digits);
const signed = (value) => (value > 0 && !roundsToZero(value) ? "+" : "") + unsigned(value);
const percent = (share) => (share > 0 && share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
const toneOf = (value) => (value > 0 ? "raises" : value < 0 ? "lowers" : "none");

const PLURALS = {
  view: "views",
  click: "clicks",
  cart: "cart additions",
  add_to_cart: "cart additions",
  addtocart: "cart additions",
  purchase: "purchases",
  transaction: "purchases",
  buy: "purchases",
  play: "plays",
  rating: "ratings",
};

/* How many events of the user are summed for an item: "2 purchases, 1 view"; "" for one event. */
function eventCountOf(user, item) {
  const events = user.events.flatMap((of, event) => (of === item ? [event] : []));
  if (events.length < 2) return "";
  if (!user.event_types) return count(events.length, "event");
  const counts = new Map();
  for (const event of events) {
    const type = user.event_types[event];
    counts.set(type, (counts.get(type) || 0) + 1);
  }
  const text = ([type, n]) => (n === 1 ? `1 ${type}` : `${n} ${PLURALS[type.toLowerCase()] || `events (${type})`}`);
  return [...counts].map(text).join(", ");
}

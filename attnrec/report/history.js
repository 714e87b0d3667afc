/* The history as a strip of event cards in time order, with an overview of all events above it. */

const CARD_WIDTH = 84; // px, minimum
const LABEL_HEIGHT = { contribution: 17, attention: 17, what_if: 30 }; // px of the text above a bar
const LARGE = 0.08; // values of at least this part of the largest one are bold

function makeHistory({ over, click }) {
  const strip = byId("timeline");
  const overview = makeOverview(strip, (event) => scrollTo(event));
  const behavior = () => (matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth");
  let cards = [];
  let earlier = null;

  rove(strip, { back: "ArrowLeft", forward: "ArrowRight" });
  track(strip, { over, click });
  strip.addEventListener("scroll", () => overview.showWindow(cards), { passive: true });
  addEventListener("resize", fit);

  function show(user) {
    const largest = Math.max(...(user.attention || []), 3 / Math.max(1, user.events.length)); // uniform weights are pale
    earlier = user.n_read > user.events.length ? earlierCard(user) : null;
    cards = user.events.map((_, event) => eventCard(user, event, largest));
    strip.replaceChildren(...(earlier ? [earlier] : []), ...cards.map((card) => card.line));
    strip.hidden = !cards.length;
    if (cards.length) cards[cards.length - 1].button.tabIndex = 0;
    overview.show(user);
    fit();
    strip.scrollLeft = strip.scrollWidth;
    overview.showWindow(cards);
  }

  /* Fit whole cards into the strip; on a phone half a card more, which shows that the strip scrolls. */
  function fit() {
    const fits = Math.floor(strip.clientWidth / CARD_WIDTH) + (strip.clientWidth < 600 ? 0.5 : 0);
    strip.style.setProperty("--card", `${strip.clientWidth / Math.max(1, fits)}px`);
    overview.showWindow(cards);
  }

  function update(view) {
    if (!cards.length) return;
    const values = valuesOf(view);
    const scale = scaleOf(view);
    const label = LABEL_HEIGHT[view.mode];
    const below = scale.down ? label : 0;
    const height = strip.querySelector(".plot").clientHeight;
    const unit = (height - label - below) / (scale.up + scale.down || 1);
    const largest = Math.max(...values.map(({ value }) => Math.abs(value)), 1e-9);
    strip.dataset.mode = view.mode;
    strip.style.setProperty("--base", `${below + scale.down * unit}px`);
    values.forEach(({ value, text, tone }, event) => {
      const { button, number } = cards[event];
      button.dataset.tone = tone;
      button.classList.toggle("large", Math.abs(value) >= LARGE * largest && Math.abs(value) > 1e-9);
      button.classList.toggle("active", view.event === event);
      button.setAttribute("aria-pressed", String(view.pinnedEvent === event));
      button.style.setProperty("--size", `${Math.abs(value) * unit}px`);
      number.textContent = text;
    });
    overview.update(view, values, scale);
    if (earlier) {
      const total = view.mode === "contribution" ? signed(view.user.earlier_contributions[view.item]) : "";
      earlier.querySelector(".number").textContent = total;
    }
  }

  function scrollTo(event) {
    const { line } = cards[event];
    const left = line.offsetLeft - (strip.clientWidth - line.offsetWidth) / 2;
    strip.scrollTo({ left, behavior: behavior() });
  }

  /* Scroll to the event with the largest value of the view if it is not visible. */
  function scrollToLargest(view) {
    const values = valuesOf(view).map(({ value }) => value);
    const largest = values.indexOf(Math.max(...values));
    if (largest < 0 || values[largest] <= 0) return;
    const { line } = cards[largest];
    const before = line.offsetLeft < strip.scrollLeft;
    const after = line.offsetLeft + line.offsetWidth > strip.scrollLeft + strip.clientWidth;
    if (before || after) scrollTo(largest);
  }

  return { show, update, scrollToLargest };
}

function eventCard(user, event, largest) {
  const item = user.events[event];
  const number = span("number");
  const parts = [span("plot", span("bar"), number)];
  if (user.attention) {
    const weight = span("weight", hidden("attention "), percent(user.attention[event]));
    weight.style.setProperty("--weight", user.attention[event] / largest);
    parts.push(weight);
  }
  parts.push(...pictureOf(item), span("date", ...dateLabel(user, event)), span("name", nameOf(item)));
  if (user.event_types) parts.push(span("type", user.event_types[event]));
  const title = [nameOf(item), categoryOf(item)].filter(Boolean).join(" \u00b7 ");
  const button = element("button", { type: "button", class: "event", tabindex: "-1", title }, ...parts);
  button.dataset.index = event;
  return { line: element("li", {}, button), button, number };
}

/* The day, with the year if it differs from the event before; without timestamps the number of the event. */
function dateLabel(user, event) {
  if (!user.times) return [`no. ${(event + 1 + user.n_events - user.events.length).toLocaleString("en")}`];
  const year = yearOf(user.times[event]);
  const known = event > 0 && yearOf(user.times[event - 1]) === year;
  return [shortDayOf(user.times[event]), known ? hidden(` ${year}`) : element("b", {}, ` ${year}`)];
}

/* One card for the events that are read but not shown, so that all numbers sum to the score. */
function earlierCard(user) {
  const n = user.n_read - user.events.length;
  return element("li", { class: "earlier" }, span("event", span("plot", span("number")), span("name", count(n, "earlier event"))));
}

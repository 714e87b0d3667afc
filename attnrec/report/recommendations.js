/* The recommended items: reasons, the parts of the score, and the rank of each item without an event. */

function makeRecommendations({ over, click }) {
  const list = byId("items");
  const heads = byId("heads");
  let rows = [];

  rove(list, { back: "ArrowUp", forward: "ArrowDown" });
  track(list, { over, click });

  function show(user) {
    const extent = extentOf(user);
    rows = user.items.map((_, item) => itemRow(user, item, extent));
    list.replaceChildren(...rows.map((row) => element("li", {}, row.button)));
    if (rows.length) rows[0].button.tabIndex = 0;
  }

  function update(view) {
    const whatIf = view.mode === "what_if";
    list.dataset.mode = view.mode;
    heads.replaceChildren(...headerOf(whatIf, view.event !== null && view.mode !== "attention"));
    rows.forEach(({ button, detail, path }, item) => {
      button.classList.toggle("active", view.item === item && !view.eventOnly);
      button.setAttribute("aria-pressed", String(view.pinnedItem === item));
      const { text, tone, to } = whatIf ? rankDetail(view, item) : contributionDetail(view, item);
      detail.textContent = text;
      detail.dataset.tone = tone;
      if (whatIf) drawPath(path, view.user.ranks[item], to, tone);
    });
  }

  return { show, update };
}

/* The contribution of the selected event to the item. */
function contributionDetail({ user, event, mode }, item) {
  if (event === null || mode !== "contribution") return { text: "", tone: "none" };
  const value = user.contributions[item][event];
  return { text: signed(value), tone: toneOf(value) };
}

/* The rank of the item without the selected event. */
function rankDetail({ user, event }, item) {
  const from = user.ranks[item];
  if (event === null) return { text: "", tone: "none" };
  const to = rankWithout(user, event, item);
  if (to === undefined) return { text: "not computed", tone: "none" };
  if (to === from) return { text: `stays ${from}`, tone: "none", to };
  return { text: `${from} \u2192 ${to.toLocaleString("en")}`, tone: toneOf(to - from), to };
}

/* The range of all score bars of a user. */
function extentOf(user) {
  const ends = user.scores.flatMap((score, item) => {
    const [history, bias] = [score - user.item_bias[item], user.item_bias[item]];
    return [Math.max(0, history) + Math.max(0, bias), Math.min(0, history) + Math.min(0, bias)];
  });
  return { low: Math.min(0, ...ends), high: Math.max(0, ...ends, 1e-9) };
}

function itemRow(user, item, extent) {
  const of = user.items[item];
  const [history, bias] = [user.scores[item] - user.item_bias[item], user.item_bias[item]];
  const path = span("path", span("way"), span("from"), span("to"));
  const detail = span("detail");
  const about = [categoryOf(of), nameOf(of) === idOf(of) ? "" : idOf(of)].filter(Boolean).join(" \u00b7 ");
  const name = span("name", span("title", nameOf(of)));
  if (about) name.append(" ", small(about));
  if (user.contributions) name.append(reasonsLine(user, item));
  const button = element(
    "button",
    { type: "button", class: "row", tabindex: "-1", title: nameOf(of) },
    span("place", hidden("rank "), `${user.published_ranks[item]}`),
    ...pictureOf(of),
    name,
    span("drawn", scoreBar(history, bias, extent), path),
    span("score", hidden("score "), unsigned(user.scores[item])),
    span("part", span("only-narrow", "history "), hidden("from the history "), signed(history)),
    span("part", span("only-narrow", "popularity "), hidden("popularity "), signed(bias)),
    detail,
  );
  button.dataset.index = item;
  return { button, detail, path };
}

/* The largest reasons in short: "because of bike +1.14, soup +0.97 (2 purchases)". */
function reasonsLine(user, item) {
  const line = span("reasons");
  const { largest } = reasonsOf(user, item);
  largest.forEach(([of, total], index) => {
    const events = eventCountOf(user, of);
    const reason = span("reason", shortNameOf(of), events ? ` (${events}) ` : " ", span("figure", signed(total)));
    line.append(index ? ", " : "because of ", reason);
  });
  if (!largest.length) line.append(user.events.length ? "no event raises the score" : "popular, no history");
  return line;
}

function scoreBar(history, bias, { low, high }) {
  const x = (value) => (100 * (value - low)) / (high - low);
  const segment = (name, from, to) => {
    const part = span(`segment ${name}`);
    part.style.left = `${x(Math.min(from, to))}%`;
    part.style.width = `${Math.abs(x(to) - x(from))}%`;
    return part;
  };
  const start = Math.sign(history) === Math.sign(bias) ? history : 0; // parts of the same sign are stacked
  const zero = span("zero");
  zero.style.left = `${x(0)}%`;
  return span("score-bar", segment("history", 0, history), segment("bias", start, start + bias), zero);
}

/* The position of a rank on a logarithmic scale. */
const rankPosition = (rank) => (100 * Math.log(rank)) / Math.log(Math.max(10, data.n_items));

function drawPath(path, from, to, tone) {
  const [way, start, end] = path.children;
  const [left, right] = [rankPosition(from), rankPosition(to === undefined ? from : to)];
  path.dataset.tone = tone;
  start.style.left = `${left}%`;
  end.style.left = `${right}%`;
  end.hidden = left === right;
  end.dataset.to = right < left ? "left" : "right";
  way.style.left = `${Math.min(left, right)}%`;
  way.style.width = `${Math.abs(right - left)}%`;
}

function headerOf(whatIf, hasEvent) {
  const drawn = span("drawn");
  if (whatIf) {
    for (let rank = 1; rank <= data.n_items; rank *= 10) {
      const tick = small(rank === 1 ? "rank 1" : rank.toLocaleString("en"));
      tick.style.left = `${rankPosition(rank)}%`;
      drawn.append(tick);
    }
  } else {
    drawn.append(span("key history", "history"), span("key bias", "popularity"));
  }
  const numbers = [span("score", "score"), span("part", "history"), span("part", "popularity")];
  const detail = span("detail", hasEvent ? (whatIf ? "without it" : "this event") : "");
  return [span("place"), ...(hasImages ? [span("picture")] : []), span("name"), drawn, ...numbers, detail];
}

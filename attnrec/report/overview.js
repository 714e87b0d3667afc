/* The overview: all events of a history on one axis, and the window that the strip of cards shows. */

function makeOverview(strip, scrollTo) {
  const overview = byId("overview");
  let ticks = [];
  let positions = [];

  overview.addEventListener("click", (event) => {
    const box = overview.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const distances = positions.map((position) => Math.abs(position - x));
    scrollTo(distances.indexOf(Math.min(...distances)));
  });

  function show(user) {
    const axis = axisOf(user);
    positions = axis.positions;
    ticks = positions.map((position) => placed(element("i", { class: "tick" }), position));
    const frame = [element("i", { class: "axis" }), element("i", { class: "window" })];
    overview.replaceChildren(...frame, ...ticks, ...axis.labels);
    overview.hidden = ticks.length < 2;
  }

  function update(view, values, scale) {
    const largest = Math.max(scale.up, scale.down, 1e-9);
    values.forEach(({ value, tone }, event) => {
      ticks[event].dataset.tone = tone;
      ticks[event].classList.toggle("active", view.event === event);
      ticks[event].style.setProperty("--size", `${3 + (12 * Math.abs(value)) / largest}px`);
    });
  }

  function showWindow(cards) {
    const frame = overview.querySelector(".window");
    if (!frame || !cards.length) return;
    const visible = cards.flatMap(({ line }, event) => {
      const middle = line.offsetLeft + line.offsetWidth / 2 - strip.scrollLeft;
      return middle >= 0 && middle <= strip.clientWidth ? [positions[event]] : [];
    });
    const all = strip.scrollWidth <= strip.clientWidth + 1;
    frame.hidden = all || !visible.length;
    if (frame.hidden) return;
    frame.style.left = `${100 * visible[0]}%`;
    frame.style.width = `${100 * (visible[visible.length - 1] - visible[0])}%`;
  }

  return { show, update, showWindow };
}

function placed(label, position) {
  label.style.left = `${100 * position}%`;
  return label;
}

/* Positions of events on the axis, 0 to 1, and its labels. Positions are by time; they are evenly spaced without
   timestamps, or if so many events have the same time (baskets) that they would hide each other. */
function axisOf(user) {
  const last = user.events.length - 1;
  const even = user.events.map((_, event) => event / (last || 1));
  if (!user.times) return { positions: even, labels: [] };
  const [first, length] = [user.times[0], user.times[last] - user.times[0]];
  const byTime = user.times.map((time) => (time - first) / (length || 1));
  const crowded = byTime.filter((time, event) => event && time - byTime[event - 1] < 0.002).length;
  if (crowded > last / 3) return { positions: even, labels: eventLabels(user, even) };
  return { positions: byTime, labels: timeLabels(first, length) };
}

/* The month at its first event, with the year if it is new; labels keep a minimum distance. */
function eventLabels(user, positions) {
  const labels = [];
  let [free, month, year] = [0, "", 0];
  user.times.forEach((time, event) => {
    const current = `${MONTHS[dateOf(time).getUTCMonth()]} ${yearOf(time)}`;
    if (current === month || positions[event] < free || positions[event] > 0.95) return;
    labels.push(placed(small(yearOf(time) === year ? current.slice(0, 3) : current), positions[event]));
    [free, month, year] = [positions[event] + 0.08, current, yearOf(time)];
  });
  return labels;
}

/* The beginnings of months or years, at most a dozen. */
function timeLabels(first, length) {
  const start = new Date(1000 * first);
  const months = length / (30.4 * 86400);
  const step = [1, 2, 3, 6, 12, 24, 60, 120].find((size) => months / size <= 12) || 240;
  const labels = [];
  for (let month = 12 * start.getUTCFullYear(); ; month += step) {
    const date = new Date(Date.UTC(Math.floor(month / 12), month % 12, 1));
    const position = (date.getTime() / 1000 - first) / length;
    if (position > 0.97) break;
    if (position < 0.02) continue;
    const text = date.getUTCMonth() ? MONTHS[date.getUTCMonth()] : `${date.getUTCFullYear()}`;
    labels.push(placed(small(text), position));
  }
  return labels;
}

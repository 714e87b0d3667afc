/* The summary: the headline and the figures, which write_report computes. */

const MARKS = {
  better: ["\u25b2", "better than"],
  worse: ["\u25bc", "worse than"],
  similar: ["\u2248", "not clearly different from"],
};

function showSummary() {
  const { headline, detail, mark, figures } = data.summary;
  byId("headline").textContent = headline;
  byId("headline").hidden = !headline;
  byId("headline").dataset.mark = mark;
  byId("headline-detail").textContent = detail;
  byId("headline-detail").hidden = !detail;
  byId("figures").replaceChildren(...figures.map(figureOf));
}

function figureOf({ label, value, metric, mark, comparison }) {
  const figure = element("li", {}, span("label", label), span("value", value));
  if (comparison) {
    const [symbol, words] = MARKS[mark];
    const line = span("mark", element("span", { "aria-hidden": "true" }, symbol), ` ${words} ${comparison}`);
    line.dataset.mark = mark;
    figure.append(line);
  }
  if (metric) figure.append(span("metric", metric));
  return figure;
}

/* The technical details: all metrics, faithfulness of the reasons, model and data. */

const METRIC_NAMES = { ndcg: "NDCG", mrr: "MRR", map: "MAP", f1: "F1", pos: "POS", neg: "NEG", tau: "Kendall\u2019s tau" };
const BETTER = {
  ndcg: "higher",
  hit_rate: "higher",
  recall: "higher",
  mrr: "higher",
  precision: "higher",
  f1: "higher",
  map: "higher",
  coverage: "higher",
  gini: "lower",
  novelty: "higher",
  diversity: "higher",
  miscalibration: "lower",
  pos_at_5: "lower",
  neg_at_5: "higher",
  comprehensiveness: "higher",
  sufficiency: "lower",
  tau: "higher",
};
const FAITHFULNESS = ["pos_at_5", "neg_at_5", "comprehensiveness", "sufficiency", "tau"];

function titleOf(name) {
  const [metric, k] = name.split("_at_");
  return (METRIC_NAMES[metric] || metric.replace(/_/g, " ")) + (k ? `@${k}` : "");
}

const figureText = (value) => (typeof value === "number" ? decimals(value, Math.abs(value) < 100 ? 3 : 0) : "\u2013");

function showTechnical() {
  showMetrics();
  showFaithfulness();
  const facts = [
    ["Model", data.model],
    ["Version", data.version],
    ["Scored at", timeOf(data.scored_at)],
    ["Reasons", data.exact ? "exact: contributions and popularity sum to the score" : "not exact"],
    ["Users", `${data.n_users.toLocaleString("en")} with recommendations, ${data.users.length.toLocaleString("en")} on this page`],
    ["Items ranked", data.n_items.toLocaleString("en")],
  ];
  for (const [name, value] of facts.filter(([, text]) => text)) {
    byId("model").append(element("dt", {}, name), element("dd", {}, value));
  }
}

function showMetrics() {
  if (!data.metrics) return;
  const { models, rows } = data.metrics;
  const head = element("tr", {}, element("th", {}), ...models.map((model) => header(model.replace(/_/g, " "), "col")));
  const lines = rows.map(([name, ...cells]) => {
    const line = element("tr", {}, headerOfMetric(name, "row"));
    for (const cell of cells) {
      const [value, low, high] = cell || [];
      const interval = typeof low === "number" ? [small(`${figureText(low)} to ${figureText(high)}`)] : [];
      line.append(element("td", {}, figureText(value), ...interval));
    }
    return line;
  });
  fill(byId("metrics"), head, lines);
}

function showFaithfulness() {
  const section = byId("faithfulness");
  const rows = data.faithfulness;
  if (!rows || !rows.length) return;
  const columns = FAITHFULNESS.filter((name) => name in rows[0]);
  const head = element("tr", {}, element("th", {}), ...columns.map((name) => headerOfMetric(name, "col")));
  const ends = rows
    .flatMap((row) => [row.pos_at_5, row.pos_at_5_low, row.pos_at_5_high])
    .filter((end) => typeof end === "number");
  const lines = rows.map((row) => {
    const kind = row.control ? "control" : row.exact ? "exact" : "";
    const name = header(row.method.replace(/_/g, " "), "row");
    if (kind) name.append(" ", small(kind));
    const line = element("tr", { class: kind }, name);
    for (const column of columns) {
      line.append(element("td", {}, figureText(row[column])));
      if (column === "pos_at_5") line.append(element("td", {}, ...whisker(row, Math.min(...ends), Math.max(...ends))));
    }
    return line;
  });
  section.querySelector("p").hidden = !columns.includes("pos_at_5"); // it explains POS@5
  fill(section, head, lines);
}

function header(text, scope) {
  return element("th", { scope }, text);
}

function headerOfMetric(name, scope) {
  const cell = header(titleOf(name), scope);
  const [metric] = name.split("_at_");
  const better = BETTER[name] || BETTER[metric] || BETTER[metric.split("_")[0]]; // diversity_kind: of a column
  if (better) cell.append(small(`${better} is better`));
  if (name === "pos_at_5" && scope === "col") cell.colSpan = 2; // the number and its plot
  return cell;
}

/* A dot with its interval on the scale of all rows; nothing without a value. */
function whisker({ pos_at_5: value, pos_at_5_low: low, pos_at_5_high: high }, least, most) {
  if (typeof value !== "number") return [];
  const x = (number) => (100 * (number - least)) / (most - least || 1);
  const [range, dot] = [span("range"), span("dot")];
  dot.style.left = `${x(value)}%`;
  if (typeof low === "number" && typeof high === "number") {
    range.style.left = `${x(low)}%`;
    range.style.width = `${x(high) - x(low)}%`;
  }
  return [element("span", { class: "whisker", "aria-hidden": "true" }, range, dot)];
}

function fill(section, head, lines) {
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines));
  section.querySelector(".wide").append(table);
  section.hidden = false;
}

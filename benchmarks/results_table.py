"""Write the tables of docs/results.md and docs/graphs.md from benchmarks/results/*.jsonl (`make results`)."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RENAMED_MODELS = {"graph_walk": "random_walk"}
"""Former names of models in older result lines."""

HEAD = (
    "| data | split | model | readout | NDCG@10 | HR@10 | training s | tokens/s | device, threads |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
GRAPHS_HEAD = (
    "| data | model | Recall@20 (95 %) | second metric | training s | graph s | peak MB |\n"
    "|---|---|---|---|---|---|---|"
)
PEERS_HEAD = (
    "| data | library | batch, learning rate | threads | tokens/s | s to val NDCG@10 .15 | best val NDCG@10 "
    "| peak MB | recommend to all users, s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Replace the text between the markers of each table."""
    results = ROOT / "docs/results.md"
    text = results.read_text()
    text = between_marks(text, "results", table(_lines("accuracy")))
    results.write_text(between_marks(text, "peers", peers_table(_lines("peers"))))
    graphs = ROOT / "docs/graphs.md"
    lines = [line for name in ("gowalla", "sessions") for line in _lines(name)]
    graphs.write_text(between_marks(graphs.read_text(), "graphs", graphs_table(lines)))


def between_marks(text: str, name: str, content: str) -> str:
    """Return the text with `content` between the markers of `name`."""
    begin, end = f"<!-- {name}: begin (make results) -->", f"<!-- {name}: end -->"
    return f"{text.split(begin)[0]}{begin}\n{content}\n{end}{text.split(end)[1]}"


def peers_table(lines: list[dict[str, Any]]) -> str:
    """Return one row per (data, threads, library, configuration): the run of median training time.

    Times of recommending are those of the newest run. Runs with less than half as many epochs as the longest measured
    only recommending; their training is ignored.
    """
    runs: dict[tuple[str, int, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        key = (line["data"], line["threads"], line["model"], json.dumps(line["shape"], sort_keys=True))
        runs.setdefault(key, []).append(line)
    rows = []
    for key in sorted(runs, reverse=True):
        longest = max(line["curve"][-1][0] for line in runs[key])
        trained = [line for line in runs[key] if 2 * line["curve"][-1][0] >= longest]
        median = sorted(trained, key=lambda line: line["seconds"])[(len(trained) - 1) // 2]
        rows.append(_peer_row(median | {"recommend": runs[key][-1]["recommend"]}))
    return "\n".join([PEERS_HEAD, *rows])


def _peer_row(line: dict[str, Any]) -> str:
    shape, recommend = line["shape"], line["recommend"]
    side = line["model"].split()[0]
    if side == "attnrec":
        side += f" ({line['readout']}{', float32' if shape.get('precision') == 'float32' else ''})"
    reached = [f"{seconds:,.0f}" for _, seconds, ndcg in line["curve"] if ndcg >= 0.15]
    best = line["metrics"]["val_ndcg_at_10"]
    cells = [line["data"], side, f"{shape['batch_size']}, {shape['learning_rate']:g}", str(line["threads"])]
    cells += [f"{line['tokens_per_second']:,}", reached[0] if reached else "-", f"{best:.4f}", f"{line['peak_mb']:,}"]
    times = {"": "recommend_seconds", "with reasons ": "recommend_with_reasons_seconds"}
    cells.append(", ".join(f"{name}{recommend[key]:.2f}" for name, key in times.items() if key in recommend))
    return "| " + " | ".join(cells) + " |"


def graphs_table(lines: list[dict[str, Any]]) -> str:
    """Return one row per (data, model) evaluated on the test part: the newest line, best recall first."""
    newest = {(line["data"], line["model"], _variant(line)): line for line in lines if line["split"] == "final"}
    ordered = sorted(newest.values(), key=lambda line: (line["data"], -line["metrics"]["recall_at_20"]))
    return "\n".join([GRAPHS_HEAD, *(_graphs_row(line) for line in ordered)])


def _graphs_row(line: dict[str, Any]) -> str:
    (_, recall), (other, value) = sorted(line["metrics"].items(), key=lambda item: item[0] != "recall_at_20")
    low, high = line["intervals"]["recall_at_20"]
    name = other.replace("_at_", "@").upper()
    graph = line.get("observe_seconds")
    cells = [
        line["data"],
        line["model"] + _variant(line),
        f"{recall:.4f} ({low:.4f}-{high:.4f})",
        f"{name} {value:.4f}",
    ]
    cells += [f"{line['seconds']:,.0f}", "-" if graph is None else f"{graph:,.0f}", f"{line['peak_mb']:,}"]
    return "| " + " | ".join(cells) + " |"


def _variant(line: dict[str, Any]) -> str:
    settings = line["settings"]
    relation, hops = settings.get("random_walk", settings.get("walk", "none")), settings.get("hops", 1)
    return (", two hops" if hops == 2 else "") + ("" if relation == "none" else f" x random walk over {relation}")


def _lines(name: str) -> list[dict[str, Any]]:
    """Return the results of a benchmark, with today's names of models."""
    path = ROOT / f"benchmarks/results/{name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line | {"model": RENAMED_MODELS.get(line["model"], line["model"])} for line in lines]


def table(lines: list[dict[str, Any]]) -> str:
    """Return one row per (data, split, model, readout, seed): the newest line of each, best NDCG@10 first."""
    newest = {tuple(line[key] for key in ("data", "split", "model", "readout", "seed")): line for line in lines}
    ordered = sorted(newest.values(), key=lambda line: (line["data"], -line["metrics"]["ndcg_at_10"]))
    return "\n".join([HEAD, *(_row(line) for line in ordered)])


def _row(line: dict[str, Any]) -> str:
    low, high = line["intervals"]["ndcg_at_10"]
    ndcg, hits = line["metrics"]["ndcg_at_10"], line["metrics"]["hit_rate_at_10"]
    speed = [f"{line['seconds']:,.0f}", f"{line['tokens_per_second']:,.0f}"] if line["seconds"] else ["-", "-"]
    cells = [line["data"], line["split"], line["model"], line["readout"], f"{ndcg:.4f} ({low:.4f}-{high:.4f})"]
    cells += [f"{hits:.4f}", *speed, f"{line['device']}, {line['threads']}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()

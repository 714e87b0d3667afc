"""Write the README's results table from benchmarks/results/accuracy.jsonl: make results."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin (make results) -->", "<!-- results: end -->"
HEAD = (
    "| data | split | model | readout | NDCG@10 | HR@10 | training s | tokens/s | device, threads |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Replace what stands between the two marks."""
    lines = [json.loads(line) for line in (ROOT / "benchmarks/results/accuracy.jsonl").read_text().splitlines()]
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(lines)}\n{END}{after}")


def table(lines: list[dict[str, Any]]) -> str:
    """One row per (data, split, model, readout, seed): the newest line of each, best NDCG@10 first."""
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

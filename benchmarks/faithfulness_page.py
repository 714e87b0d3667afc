"""Write the tables of docs/faithfulness.md from results/faithfulness.jsonl (`make results`)."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faithfulness.md"
COLUMNS = {
    "pos_at_5": "POS@5 -",
    "neg_at_5": "NEG@5 +",
    "deletion": "deletion -",
    "insertion": "insertion +",
    "comprehensiveness": "comprehensiveness +",
    "sufficiency": "sufficiency -",
    "tau": "tau",
    "stability": "stability +",
}


def table(line: dict[str, Any]) -> str:
    """Return the table of one measurement, a row per method; controls in italics, the exact method in bold."""
    p_values = {row["other"]: row["p_value"] for row in line["against"]}
    rows = ["| method | " + " | ".join(COLUMNS.values()) + " | p |", "|---|" + "---|" * (1 + len(COLUMNS))]
    for row in line["metrics"]["methods"]:
        name = row["method"]
        mark = {(True, False): "**", (False, True): "*"}.get((row["exact"], row["control"]), "")
        cells = ["-" if row[column] is None else f"{row[column]:.3f}" for column in COLUMNS]
        p_value = f"{p_values[name]:.4f}" if name in p_values else ""
        rows.append(f"| {mark}{name}{mark} | " + " | ".join(cells) + f" | {p_value} |")
    return "\n".join(rows)


def write_tables() -> None:
    """Replace the text between the markers of each data set by the table of its newest line."""
    lines = (ROOT / "benchmarks" / "results" / "faithfulness.jsonl").read_text().splitlines()
    newest = {line["data"]: line for line in map(json.loads, lines)}
    text = PAGE.read_text()
    for name, line in newest.items():
        begin, end = f"<!-- {name}: begin (make results) -->", f"<!-- {name}: end -->"
        text = f"{text.split(begin)[0]}{begin}\n{table(line)}\n{end}{text.split(end)[1]}"
    PAGE.write_text(text)


if __name__ == "__main__":
    write_tables()

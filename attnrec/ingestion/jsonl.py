"""JSON Lines as scans: one object per line, parsed in SQL."""

import json
from collections.abc import Sequence
from pathlib import Path

from attnrec.ingestion.database import quote_text
from attnrec.ingestion.records import Chunk, Dialect, open_text
from attnrec.ingestion.scan import Scan, as_values
from attnrec.ingestion.text import marked_problems, numbered_lines, unmarked_line

SAMPLED_RECORDS = 1000


def sampled_keys(file: Path, dialect: Dialect) -> list[str]:
    """Return the keys of the first 1,000 records; [] if none of them is a JSON object."""
    keys: dict[str, None] = {}
    with open_text(file, dialect) as (text, _):
        for _, line in zip(range(SAMPLED_RECORDS), text, strict=False):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            keys |= dict.fromkeys(record) if isinstance(record, dict) else {}
    return list(keys)


def json_scan(chunk: Chunk, selected: Sequence[str], row_number: str | None) -> Scan:
    """Return the scan of a chunk of JSON Lines.

    Args:
        chunk: the chunk of the file.
        selected: the keys to read; missing keys are NULL.
        row_number: key that is excluded from the fingerprint.
    """
    problem = "CASE WHEN NOT readable THEN 'unreadable row' END"
    if not chunk.plain:
        problem = f"CASE {marked_problems()} ELSE {problem} END"
    row = "json(line)"
    if row_number is not None:
        row = f"json_merge_patch(line, {quote_text(json.dumps({row_number: None}))})"
    values = as_values([_value(i) for i in range(1, len(selected) + 1)])
    pointers = ", ".join(quote_text(_pointer(name)) for name in selected)
    relation = f"""(SELECT row, line, {problem} AS problem,
        hash(CASE WHEN readable THEN {row}::VARCHAR END) AS fingerprint, {values}
        FROM (SELECT row, line, readable,
            CASE WHEN readable THEN json_extract(line, [{pointers}]) END AS raws,
            CASE WHEN readable THEN json_extract_string(line, [{pointers}]) END AS texts
            FROM (SELECT row, line,
                CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END AS readable
                FROM ({numbered_lines(chunk)}))))"""
    source_text = "line" if chunk.plain else unmarked_line()
    return Scan(relation, source_text, ("JSON",) * len(selected), chunk.n_rows, chunk.progress)


def _value(i: int) -> str:
    """SQL: the i-th value as text; the number 17850.0 becomes "17850", the text "17850.0" stays as it is."""
    whole = rf"regexp_replace(texts[{i}], '^(-?[0-9]+)\.0$', '\1')"
    return f"CASE WHEN raws[{i}]::VARCHAR = texts[{i}] THEN {whole} ELSE texts[{i}] END"


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")

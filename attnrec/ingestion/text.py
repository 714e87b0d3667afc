"""CSV, TSV and MovieLens' ratings.dat as scans: records are split in SQL, all values are text."""

from collections.abc import Sequence

from attnrec.ingestion.database import quote_files, quote_text
from attnrec.ingestion.records import FIELD_SEPARATOR, LINE_BREAK, NO_DELIMITER, SPLIT, UNDECODABLE, UNREADABLE, Chunk
from attnrec.ingestion.scan import Scan, as_values


def text_scan(
    chunk: Chunk, columns: Sequence[str], selected: Sequence[str], row_number: str | None, delimiter: str
) -> Scan:
    """Return the scan of a chunk of delimited text.

    Args:
        chunk: the chunk of the file.
        columns: names of all columns, in order.
        selected: the columns to read.
        row_number: column that is excluded from the fingerprint.
        delimiter: the field delimiter.
    """
    fields, source_text = f"string_split(line, {quote_text(delimiter)})", "line"
    problem = f"CASE WHEN len(fields) <> {len(columns)} THEN 'unreadable row' END"
    if not chunk.plain:
        split = f"starts_with(line, {quote_text(SPLIT)})"
        text = f"replace(substr(line, 2), {quote_text(LINE_BREAK)}, chr(10))"
        fields = f"CASE WHEN {split} THEN string_split({text}, {quote_text(FIELD_SEPARATOR)}) ELSE {fields} END"
        problem = f"CASE {marked_problems()} ELSE {problem} END"
        source_text = f"CASE WHEN {split} THEN to_json(fields)::VARCHAR ELSE {unmarked_line()} END"
    values = as_values([f"fields[{columns.index(name) + 1}]" for name in selected])
    relation = f"""(SELECT row, line, fields, {problem} AS problem,
        hash({_without(columns, row_number)}) AS fingerprint, {values}
        FROM (SELECT row, line, {fields} AS fields FROM ({numbered_lines(chunk)})))"""
    return Scan(relation, source_text, ("VARCHAR",) * len(selected), chunk.n_rows, chunk.progress)


def numbered_lines(chunk: Chunk) -> str:
    """SQL: the records of a chunk as (row, line)."""
    options = {
        "columns": "{'line': 'VARCHAR'}",
        "auto_detect": "false",
        "header": "false",
        "delim": quote_text(NO_DELIMITER),
        "quote": "''",
        "escape": "''",
        "new_line": r"'\n'",
        "strict_mode": "false",
        "parallel": "false",
        "max_line_size": str(2**24),
    }
    named = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"""SELECT {chunk.rows_before} + row_number() OVER () AS row, line
        FROM read_csv({quote_files([chunk.path])}, {named})"""


def marked_problems() -> str:
    """SQL: WHEN branches for the marked lines of unreadable rows (see `records`)."""
    return (
        f"WHEN starts_with(line, {quote_text(UNDECODABLE)}) THEN 'undecodable text' "
        f"WHEN starts_with(line, {quote_text(UNREADABLE)}) THEN 'unreadable row'"
    )


def unmarked_line() -> str:
    """SQL: the text of a line without its mark."""
    return f"ltrim(line, {quote_text(UNDECODABLE + UNREADABLE)})"


def _without(columns: Sequence[str], row_number: str | None) -> str:
    if row_number not in columns:
        return "fields"
    position = columns.index(row_number) + 1
    return "fields[2:]" if position == 1 else f"list_concat(fields[:{position - 1}], fields[{position + 1}:])"

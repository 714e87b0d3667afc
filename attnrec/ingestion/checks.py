"""What makes a row good, as SQL: ids, times, numbers, and the first reason that sets a row aside."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from attnrec.ingestion.database import quote_text
from attnrec.ingestion.scan import Scan
from attnrec.ingestion.source import IngestionError, InteractionSource

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TOLERANCE = timedelta(days=1)
"""How far clocks may be ahead where no `as_of` is given."""

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TEXTS = ("VARCHAR", "JSON")
FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
EXACT_FLOATS = 2**53


def as_id(value: str, kind: str) -> str:
    """An id or category as text; whole numbers in a floating point column have no fraction (17850)."""
    if kind in TEXTS:
        return value
    if kind == "BLOB":
        return f"TRY(decode({value}))"
    if not kind.startswith(FRACTIONS):
        return f"{value}::VARCHAR"
    number = f"{value}::DOUBLE"
    whole = f"WHEN {number} = floor({number}) AND abs({number}) < {EXACT_FLOATS} THEN ({number})::BIGINT::VARCHAR"
    return f"CASE WHEN isnan({number}) THEN NULL {whole} ELSE {value}::VARCHAR END"


def is_blank(value: str, kind: str) -> str:
    """Whether a value is missing: NULL, NaN, or nothing but white space."""
    if kind in TEXTS:
        return f"({value} IS NULL OR regexp_full_match({value}, '\\s*'))"
    return f"({value} IS NULL OR isnan({value}))" if kind in ("FLOAT", "DOUBLE") else f"({value} IS NULL)"


def as_number(value: str) -> str:
    """A finite DOUBLE, NULL where there is none."""
    number = f"TRY_CAST({value} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def as_seconds(value: str, kind: str, source: InteractionSource) -> str:
    """Unix seconds (rounded down) of a time in any type, NULL where there is none; without zone it is UTC."""
    if kind == "TIMESTAMP_NS":
        return f"epoch_ns({value}) // 1000000000"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"TRY_CAST(floor(epoch({value})) AS BIGINT)"
    text = f"trim({as_id(value, kind)})"
    if source.datetime_format is not None:
        return f"CAST(floor(epoch(try_strptime({text}, {quote_text(source.datetime_format)}))) AS BIGINT)"
    if kind not in TEXTS:
        return _seconds_of_number(value, f"TRY_CAST({value} AS DOUBLE)", source)
    number = f"TRY_CAST({text} AS DOUBLE)"
    iso = f"TRY_CAST(floor(epoch(TRY_CAST({text} AS TIMESTAMPTZ))) AS BIGINT)"
    return f"CASE WHEN {number} IS NOT NULL THEN {_seconds_of_number(text, number, source)} ELSE {iso} END"


def _seconds_of_number(value: str, number: str, source: InteractionSource) -> str:
    """Beyond 2^53 the integer itself is divided, so that .999999999 is not rounded up to the next second."""
    if source.datetime_unit == "auto":
        size = f"abs({number})"
        unit = f"CASE WHEN {size} < 1e11 THEN 1 WHEN {size} < 1e14 THEN 1000 WHEN {size} < 1e17 THEN 1000000 "
        unit += "ELSE 1000000000 END"
    else:
        unit = str(PER_SECOND[source.datetime_unit])
    return (
        f"CASE WHEN abs({number}) < {EXACT_FLOATS} THEN TRY_CAST(floor({number} / ({unit})) AS BIGINT) "
        f"ELSE TRY_CAST({value} AS BIGINT) // ({unit}) END"
    )


def checked_rows(scan: Scan, source: InteractionSource, latest: int) -> str:
    """SQL for the rows of a scan of the mapped columns, with clean columns and `reason`, NULL for a good row.

    Args:
        latest: Unix seconds; a later event is in the future.
    """
    mapped = mapped_columns(source)
    kind = dict(zip(mapped, scan.types, strict=True))
    value = {name: f"v{i}" for i, name in enumerate(mapped)}
    clean = {
        "user_id": as_id(value["user_id"], kind["user_id"]),
        "item_id": as_id(value["item_id"], kind["item_id"]),
    }
    if "datetime" in mapped:
        clean["datetime"] = as_seconds(value["datetime"], kind["datetime"], source)
    if "weight" in mapped:
        clean["weight"] = f"TRY_CAST({as_number(value['weight'])} AS FLOAT)"
    if "event" in mapped:
        clean["event"] = f"coalesce({as_id(value['event'], kind['event'])}, '')"
    columns = ", ".join(f"{expression} AS {name}" for name, expression in clean.items())
    reasons = "CASE " + " ".join(f"WHEN {test} THEN {reason}" for test, reason in _reasons(source, kind, value, latest))
    return f"SELECT *, {reasons} END AS reason FROM (SELECT *, {columns} FROM {scan.relation})"


def mapped_columns(source: InteractionSource) -> dict[str, str]:
    """Our column -> source column, in the order in which a scan reads them."""
    mapped = {"user_id": source.user_id, "item_id": source.item_id}
    if source.time_kind == "datetime":
        mapped["datetime"] = source.datetime
    optional = {"weight": source.weight, "event": source.event}
    return mapped | {name: column for name, column in optional.items() if column is not None}


def latest_allowed(as_of: datetime | None) -> int:
    """Unix seconds of the latest event that is not in the future; `as_of` without zone is UTC."""
    if as_of is None:
        return int((datetime.now(UTC) + TOLERANCE).timestamp())
    return int((as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)).timestamp())


def check_expressions(database: "DuckDBPyConnection", source: InteractionSource) -> None:
    """Try the user's regular expression and time format once, before any file is read.

    Raises:
        IngestionError: where one of them is not valid.
    """
    import duckdb

    tests = {"item_pattern": "regexp_matches('', {})", "datetime_format": "try_strptime('', {})"}
    for name, test in tests.items():
        if (setting := getattr(source, name)) is not None:
            try:
                database.execute(f"SELECT {test.format(quote_text(setting))}")
            except duckdb.Error as error:
                raise IngestionError(f"{name} must be valid, got {setting!r} ({error}); correct it") from error


def _reasons(
    source: InteractionSource, kind: dict[str, str], value: dict[str, str], latest: int
) -> list[tuple[str, str]]:
    """(test, SQL for its reason) in the order of precedence."""
    reasons = [("problem IS NOT NULL", "problem")]
    blobs = [name for name in ("user_id", "item_id") if kind[name] == "BLOB"]
    reasons += [(f"{value[name]} IS NOT NULL AND {name} IS NULL", "'not UTF-8'") for name in blobs]
    reasons += [(is_blank(name, "VARCHAR"), f"'missing {name}'") for name in ("user_id", "item_id")]
    if "datetime" in kind:
        reasons += [
            (is_blank(value["datetime"], kind["datetime"]), "'missing datetime'"),
            ("datetime IS NULL", "'unparsable datetime'"),
            (f"datetime > {latest}", "'datetime in the future'"),
        ]
    if "weight" in kind:
        reasons += [("weight IS NULL", "'unparsable weight'"), ("weight < 0", "'negative weight'")]
    if source.item_pattern is not None:
        reasons.append(
            (
                f"NOT regexp_matches(item_id, {quote_text(source.item_pattern)})",
                "'item_id does not match item_pattern'",
            )
        )
    return reasons

"""Row validation as SQL expressions: parsing of ids, times and numbers, and the reason why a row is rejected."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from attnrec.ingestion.database import quote_text
from attnrec.ingestion.scan import Scan
from attnrec.ingestion.source import IngestionError, InteractionSource

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TOLERANCE = timedelta(days=1)
"""Without `as_of`, events up to this long after the current time are accepted, for clocks that are fast."""

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TEXTS = ("VARCHAR", "JSON")
FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
EXACT_FLOATS = 2**53


def as_id(value: str, kind: str) -> str:
    """SQL: an id or category as text; whole numbers in a floating-point column have no fraction (17850.0 -> 17850)."""
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
    """SQL: whether a value is missing, i.e. NULL, NaN, or only white space."""
    if kind in TEXTS:
        return f"({value} IS NULL OR regexp_full_match({value}, '\\s*'))"
    return f"({value} IS NULL OR isnan({value}))" if kind in ("FLOAT", "DOUBLE") else f"({value} IS NULL)"


def as_number(value: str) -> str:
    """SQL: the value as a finite DOUBLE, or NULL."""
    number = f"TRY_CAST({value} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def as_seconds(value: str, kind: str, source: InteractionSource) -> str:
    """SQL: a time of any type as Unix seconds, rounded down, or NULL; times without a time zone are UTC."""
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
    """SQL: Unix seconds of a number; from 2^53 on by integer division, since a DOUBLE may round up."""
    if source.datetime_unit == "auto":
        magnitude = f"abs({number})"
        limits = {"1e11": PER_SECOND["s"], "1e14": PER_SECOND["ms"], "1e17": PER_SECOND["us"]}
        cases = " ".join(f"WHEN {magnitude} < {limit} THEN {unit}" for limit, unit in limits.items())
        unit = f"CASE {cases} ELSE {PER_SECOND['ns']} END"
    else:
        unit = str(PER_SECOND[source.datetime_unit])
    return (
        f"CASE WHEN abs({number}) < {EXACT_FLOATS} THEN TRY_CAST(floor({number} / ({unit})) AS BIGINT) "
        f"ELSE TRY_CAST({value} AS BIGINT) // ({unit}) END"
    )


def checked_rows(scan: Scan, source: InteractionSource, latest: int) -> str:
    """Return SQL for the rows of a scan with parsed columns and `reason`, which is NULL for a valid row.

    Args:
        scan: a scan of the mapped columns.
        source: the settings of the log.
        latest: latest valid time, Unix seconds; later events are in the future.
    """
    mapped = mapped_columns(source)
    kind = dict(zip(mapped, scan.types, strict=True))
    value = {name: f"v{i}" for i, name in enumerate(mapped)}
    parsed = {
        "user_id": as_id(value["user_id"], kind["user_id"]),
        "item_id": as_id(value["item_id"], kind["item_id"]),
    }
    if "datetime" in mapped:
        parsed["datetime"] = as_seconds(value["datetime"], kind["datetime"], source)
    if "weight" in mapped:
        parsed["weight"] = f"TRY_CAST({as_number(value['weight'])} AS FLOAT)"
    if "event" in mapped:
        parsed["event"] = f"coalesce({as_id(value['event'], kind['event'])}, '')"
    columns = ", ".join(f"{expression} AS {name}" for name, expression in parsed.items())
    reasons = "CASE " + " ".join(f"WHEN {test} THEN {reason}" for test, reason in _reasons(source, kind, value, latest))
    return f"SELECT *, {reasons} END AS reason FROM (SELECT *, {columns} FROM {scan.relation})"


def mapped_columns(source: InteractionSource) -> dict[str, str]:
    """Return {column of the schema: column of the source}, in the order in which a scan reads them."""
    mapped = {"user_id": source.user_id, "item_id": source.item_id}
    if source.time_kind == "datetime":
        mapped["datetime"] = source.datetime
    optional = {"weight": source.weight, "event": source.event}
    return mapped | {name: column for name, column in optional.items() if column is not None}


def latest_allowed(as_of: datetime | None) -> int:
    """Return the latest valid time in Unix seconds; `as_of` without a time zone is UTC."""
    if as_of is None:
        return int((datetime.now(UTC) + TOLERANCE).timestamp())
    return int((as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)).timestamp())


def check_expressions(database: "DuckDBPyConnection", source: InteractionSource) -> None:
    """Validate `item_pattern` and `datetime_format` before any file is read.

    Raises:
        IngestionError: for an invalid regular expression or time format.
    """
    import duckdb

    tests = {"item_pattern": "regexp_matches('', {})", "datetime_format": "try_strptime('', {})"}
    for name, test in tests.items():
        if (setting := getattr(source, name)) is not None:
            try:
                database.execute(f"SELECT {test.format(quote_text(setting))}")
            except duckdb.Error as error:
                raise IngestionError(f"{name} must be valid, got {setting!r}: {error}") from error


def _reasons(
    source: InteractionSource, kind: dict[str, str], value: dict[str, str], latest: int
) -> list[tuple[str, str]]:
    """Return (SQL condition, SQL of its reason) in the order of precedence."""
    reasons = [("problem IS NOT NULL", "problem")]
    blobs = [name for name in ("user_id", "item_id") if kind[name] == "BLOB"]
    reasons += [(f"{value[name]} IS NOT NULL AND {name} IS NULL", "'undecodable text'") for name in blobs]
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

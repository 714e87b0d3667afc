"""File formats, encodings and time formats, and the row counts of public datasets."""

import gzip
import json
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attnrec.ingestion import IngestionError, InteractionSource, ingest
from attnrec.storage import read_json

DATA = Path(__file__).parents[3] / "shared" / "data"
ROWS = [("u2", "b", 1577880000, 1.5), ("u1", "a", 1577880001, 2.0), ("u1", "c", 1577880000, 0.0)]
SORTED = [["u1", "c", 1577880000, 0.0], ["u1", "a", 1577880001, 2.0], ["u2", "b", 1577880000, 1.5]]
NAMES = ["user_id", "item_id", "datetime", "weight"]


def read(source, out):
    ingest(source, out, n_partitions=1, progress=False)
    rejected = pd.read_parquet(out / "rejected")
    return pd.read_parquet(out / "interactions" / "part=000" / "data.parquet"), rejected


def text(delimiter, *, header=True):
    return "\n".join(([delimiter.join(NAMES)] if header else []) + [delimiter.join(map(str, row)) for row in ROWS])


CONTENTS = {
    "log.csv": text(",").encode(),
    "bom.csv": b"\xef\xbb\xbf" + text(",").encode(),
    "quoted.csv": text('","').replace("\n", '"\n"').join(['"', '"']).encode(),
    "log.csv.gz": gzip.compress(text(",").encode()),
    "log.tsv": text("\t").encode(),
    "log.TSV.GZ": gzip.compress(text("\t").encode()),
    "log.jsonl": "\n".join(json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS).encode(),
    "log.ndjson": b"\n\n".join(json.dumps(dict(zip(NAMES, map(str, row), strict=True))).encode() for row in ROWS),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_every_text_format_gives_the_same_interactions(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENTS[name])
    accepted, rejected = read(InteractionSource(path=str(tmp_path / name), weight="weight"), tmp_path / "out")
    assert accepted.to_numpy().tolist() == SORTED
    assert accepted["weight"].dtype == "float32"
    assert rejected.empty


def test_parquet_gives_the_same_interactions_for_every_time_type(tmp_path):
    frame = pd.DataFrame(ROWS, columns=NAMES)
    times = pd.to_datetime(frame["datetime"], unit="s")
    zoned = times.dt.tz_localize("UTC").dt.tz_convert("Europe/Paris")
    for n, column in enumerate([frame["datetime"], times, times.astype("datetime64[ns]"), zoned, times.astype("str")]):
        frame.assign(datetime=column).to_parquet(tmp_path / "[log].parquet")
        accepted, _ = read(InteractionSource(path=str(tmp_path / "*.parquet"), weight="weight"), tmp_path / str(n))
        assert accepted.to_numpy().tolist() == SORTED


def test_ratings_dat_of_movielens_is_read(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3\n1::661::3::978302109\n")
    source = InteractionSource(path=str(tmp_path / "ratings.dat"), datetime="timestamp", weight="rating")
    accepted, rejected = read(source, tmp_path / "out")
    assert accepted.to_numpy().tolist() == [["1", "1193", 978300760, 5.0], ["1", "661", 978302109, 3.0]]
    assert rejected[["row", "reason", "line"]].to_numpy().tolist() == [[2, "unreadable row", "1::661::3"]]


def test_a_file_without_header_uses_column_names(tmp_path):
    (tmp_path / "log.txt").write_text(text(";", header=False))
    source = InteractionSource(
        path=str(tmp_path / "log.txt"), format="csv", column_names=tuple(NAMES), delimiter=";", weight="weight"
    )
    accepted, _ = read(source, tmp_path / "out")
    assert accepted.to_numpy().tolist() == SORTED


def test_text_in_another_encoding_is_decoded_and_undecodable_rows_are_rejected(tmp_path):
    lines = ["user_id,item_id,datetime", "josé,œuf,5", "josé,b,6"]
    content = "\n".join(lines).encode("cp1252") + b"\nu,\x81,7\n"
    (tmp_path / "log.csv").write_bytes(content)
    source = InteractionSource(path=str(tmp_path / "log.csv"), encoding="cp1252")
    accepted, rejected = read(source, tmp_path / "out")
    assert accepted["user_id"].tolist() == ["josé", "josé"]
    assert accepted["item_id"].tolist() == ["œuf", "b"]
    assert rejected[["row", "reason", "line"]].to_numpy().tolist() == [[3, "undecodable text", "u,\\x81,7"]]
    (tmp_path / "log.csv").write_bytes("\n".join(lines).encode("utf-16"))
    accepted, _ = read(source.model_copy(update={"encoding": "utf-16"}), tmp_path / "wide")
    assert accepted["item_id"].tolist() == ["œuf", "b"]


def test_json_lines_must_be_objects_and_whole_number_ids_have_no_fraction(tmp_path):
    lines = [
        '{"user_id": 17850.0, "item_id": "1.0", "datetime": "2020-01-01T12:00:00Z", "n": 1}',
        '{"user_id": 17850.0, "item_id": "1.0", "datetime": "2020-01-01T12:00:00Z", "n": 2}',
        '{"user_id": 17850, "item_id": 7, "datetime": 1577880000000, "n": 3}',
        '["user_id"]',
        '{"user_id": "x"',
        '{"user_id": null, "item_id": 7, "datetime": 5}',
        '{"user_id": "é", "item_id": 7}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    accepted, rejected = read(InteractionSource(path=str(tmp_path / "log.jsonl"), row_number="n"), tmp_path / "out")
    assert accepted.to_numpy().tolist() == [["17850", "1.0", 1577880000], ["17850", "7", 1577880000]]
    assert dict(zip(rejected["row"], rejected["reason"], strict=True)) == {
        2: "duplicate",
        4: "unreadable row",
        5: "unreadable row",
        6: "missing user_id",
        7: "missing datetime",
    }
    assert rejected["line"][1] == lines[3]


def test_floating_point_ids_have_no_fraction_and_nan_is_missing(tmp_path):
    users, times = pa.array([17850.0, None, float("nan"), 1.5]), pa.array([5.0, 5.0, 5.0, 5.0])
    items = pa.array([b"a", b"b", b"c", b"\xff"])
    pq.write_table(pa.table({"user_id": users, "item_id": items, "datetime": times}), tmp_path / "log.parquet")
    accepted, rejected = read(InteractionSource(path=str(tmp_path / "log.parquet")), tmp_path / "out")
    assert accepted.to_numpy().tolist() == [["17850", "a", 5]]
    assert rejected["reason"].tolist() == ["missing user_id", "missing user_id", "undecodable text"]
    assert json.loads(rejected["line"][0])["user_id"] is None


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("2020-01-01T12:00:00Z", {}),
        ("2020-01-01 12:00:00.999", {}),
        (" 2020-01-01T12:00 ", {}),
        ("2020-01-01T14:00:00+02:00", {}),
        ("2020-01-01T07:00:00-0500", {}),
        ("1577880000", {}),
        ("1577880000.999", {}),
        ("1577880000999", {}),
        ("1577880000999999", {}),
        ("1577880000999999999", {}),
        ("1577880000999999999", {"datetime_unit": "ns"}),
        ("1577880000000", {"datetime_unit": "ms"}),
        ("01.01.2020 12:00", {"datetime_format": "%d.%m.%Y %H:%M"}),
        ("01/01/20 14:00 +0200", {"datetime_format": "%d/%m/%y %H:%M %z"}),
    ],
)
def test_a_time_is_rounded_down_to_the_second_in_utc(tmp_path, text, settings):
    (tmp_path / "log.csv").write_text(f"user_id,item_id,datetime\nu,a,{text}\n")
    accepted, _ = read(InteractionSource(path=str(tmp_path / "log.csv"), **settings), tmp_path / "out")
    assert accepted["datetime"].tolist() == [1577880000]


@pytest.mark.parametrize("days", [[20200101], [20200101.0]])
def test_dates_as_numbers_are_parsed_with_datetime_format(tmp_path, days):
    frame = pd.DataFrame({"user_id": ["u"], "item_id": ["a"], "datetime": days})
    frame.to_parquet(tmp_path / "log.parquet")
    source = InteractionSource(path=str(tmp_path / "log.parquet"), datetime_format="%Y%m%d")
    accepted, _ = read(source, tmp_path / "out")
    assert accepted["datetime"].tolist() == [1577880000 - 12 * 3600]


def test_datetime_unit_overrides_the_guess_by_magnitude(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,datetime\nu,a,86400000\n")
    source = InteractionSource(path=str(tmp_path / "log.csv"), datetime_unit="ms")
    accepted, _ = read(source, tmp_path / "out")
    assert accepted["datetime"].tolist() == [86400]


def test_column_aliases_are_accepted_and_special_characters_are_quoted(tmp_path):
    (tmp_path / "it's.csv").write_text('"user ""id""",item_id,timestamp\nu,a,5\n')
    source = InteractionSource(path=str(tmp_path / "it's.csv"), user_id='user "id"')
    accepted, _ = read(source, tmp_path / "out")
    assert accepted.to_numpy().tolist() == [["u", "a", 5]]


def test_a_log_longer_than_one_block_is_read_completely(tmp_path, monkeypatch):
    monkeypatch.setattr("attnrec.ingestion.records.BLOCK_CHARACTERS", 64)
    monkeypatch.setattr("attnrec.ingestion.records.CHUNK_BYTES", 200)
    lines = [f'u{n % 5},"i,{n}\n{n}",{n}' if n % 3 else f"u{n % 5},i{n},{n}" for n in range(100)]
    lines[50] = "x" * 500
    (tmp_path / "log.csv").write_text("user_id,item_id,datetime\n" + "\n".join(lines) + "\n")
    accepted, rejected = read(InteractionSource(path=str(tmp_path / "log.csv")), tmp_path / "out")
    assert sorted(accepted["datetime"]) == [n for n in range(100) if n != 50]
    assert sum(accepted["item_id"] == "i,1\n1") == 1
    assert rejected[["row", "reason"]].to_numpy().tolist() == [[51, "unreadable row"]]


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_accepted_and_rejected_rows_of_online_retail_add_up(tmp_path):
    source = InteractionSource(
        path=str(DATA / "online-retail" / "raw.parquet"),
        user_id="CustomerID",
        item_id="StockCode",
        datetime="InvoiceDate",
        weight="Quantity",
        row_number="row",
    )
    manifest = read_json(ingest(source, tmp_path / "out", progress=False) / "manifest.json")
    assert manifest["read"] == 541_909 == manifest["accepted"] + manifest["rejected"]
    assert manifest["rejected_by_reason"]["missing user_id"] == 135_080
    assert manifest["n_users"] == 4_339


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_all_rows_of_movielens_are_accepted_and_ties_keep_their_order(tmp_path):
    path = DATA / "ml-1m" / "ratings.parquet"
    source = InteractionSource(path=str(path), datetime="timestamp", weight="rating")
    out = ingest(source, tmp_path / "out", as_of=datetime(2020, 1, 1), n_partitions=3, progress=False)
    assert read_json(out / "manifest.json")["accepted"] == 1_000_209
    raw = pd.read_parquet(path)
    raw["user_id"] = raw["user_id"].astype("str")
    expected = raw.sort_values(["user_id", "timestamp"], kind="stable", ignore_index=True)
    parts = [pd.read_parquet(part) for part in out.glob("interactions/*/data.parquet")]
    written = pd.concat(parts).sort_values("user_id", kind="stable", ignore_index=True)
    assert written["item_id"].tolist() == expected["item_id"].astype("str").tolist()


def test_an_unknown_encoding_raises():
    with pytest.raises(ValueError, match="encoding"):
        InteractionSource(path="x.csv", encoding="utf-9")
    assert issubclass(IngestionError, ValueError)

"""Ingestion of a log: validation, rejected rows, order, partitions and errors."""

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from attnrec.ingestion import (
    IngestionError,
    InteractionSource,
    ingest,
    rejected_by_reason,
    source_fingerprint,
)
from attnrec.storage import read_json

HEADER = "user_id,item_id,datetime\n"
NOON = 1577880000  # 2020-01-01 12:00 UTC


def run(tmp_path, text, *, n_partitions=1, as_of=None, **settings):
    """Ingest `text` as log.csv: (accepted frame, rejected frame, manifest)."""
    (tmp_path / "log.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    source = InteractionSource(path=str(tmp_path / "log.csv"), **settings)
    out = ingest(source, tmp_path / f"out-{n_partitions}", n_partitions=n_partitions, as_of=as_of, progress=False)
    return *frames(out), read_json(out / "manifest.json")


def frames(out):
    parts = [pd.read_parquet(path) for path in sorted(out.glob("interactions/part=*/data.parquet"))]
    return pd.concat(parts, ignore_index=True), pd.read_parquet(out / "rejected")


def test_rows_are_sorted_by_user_and_time_and_ties_keep_the_order_of_the_log(tmp_path):
    accepted, rejected, manifest = run(
        tmp_path,
        HEADER + "u2,a,2020-01-02\nu1,c,2020-01-02\nu1,b,2020-01-02\nu1,a,2020-01-01\nu1,z,2020-01-02\n",
    )
    assert accepted["user_id"].tolist() == ["u1", "u1", "u1", "u1", "u2"]
    assert accepted["item_id"].tolist() == ["a", "c", "b", "z", "a"]
    assert accepted["datetime"].tolist() == [NOON - 43200, *[NOON + 43200] * 4]
    assert accepted["datetime"].dtype == "int64"
    assert rejected.empty
    assert (manifest["read"], manifest["n_users"], manifest["n_items"]) == (5, 2, 4)
    assert (manifest["first_time"], manifest["last_time"]) == (
        "2020-01-01T00:00:00+00:00",
        "2020-01-02T00:00:00+00:00",
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("u1,a", "unreadable row"),
        ("u1,a,2020-01-01,2,view,more", "unreadable row"),
        ('"u1"x,a,2020-01-01,2,view', "unreadable row"),
        ('"u1,a,2020-01-01,2,view', "unreadable row"),
        (b"u\xff,a,2020-01-01,2,view", "undecodable text"),
        (b'u1,"a\xff\n",2020-01-01,2,view', "undecodable text"),
        (b"u\xff,a", "unreadable row"),
        (",a,2020-01-01,2,view", "missing user_id"),
        ("u1,  ,2020-01-01,2,view", "missing item_id"),
        (",,,,", "missing user_id"),
        ("u1,a,,2,view", "missing datetime"),
        ("u1,a,yesterday,2,view", "unparsable datetime"),
        ("u1,a,2020-13-01,2,view", "unparsable datetime"),
        ("u1,a,infinity,2,view", "unparsable datetime"),
        ("u1,a,2021-01-01,2,view", "datetime in the future"),
        ("u1,a,2020-01-01,,view", "unparsable weight"),
        ("u1,a,2020-01-01,nan,view", "unparsable weight"),
        ("u1,a,2020-01-01,many,view", "unparsable weight"),
        ("u1,a,2020-01-01,1e300,view", "unparsable weight"),
        ("u1,a,2020-01-01,-1,view", "negative weight"),
        ("u1,POST,2020-01-01,1,view", "item_id does not match item_pattern"),
        ("u0,b,2020-01-01,1,view", "duplicate"),
    ],
)
def test_an_invalid_row_is_rejected_with_its_reason_row_number_and_text(tmp_path, line, reason):
    line = line if isinstance(line, bytes) else line.encode()
    valid = b"u0,b,2020-01-01,1,view\n"
    text = b"user_id,item_id,datetime,weight,event\n" + valid + line + b"\nu0,c,2020-01-02,1,\n"
    settings = {"weight": "weight", "event": "event", "item_pattern": "^[a-c]"}
    accepted, rejected, manifest = run(tmp_path, text, as_of=datetime(2020, 6, 1), **settings)
    assert accepted["item_id"].tolist() == ["b", "c"]
    assert accepted["event"].tolist() == ["view", ""]
    assert rejected[["file", "row", "reason"]].to_numpy().tolist() == [["log.csv", 2, reason]]
    assert rejected["line"][0]
    assert (manifest["read"], manifest["accepted"], manifest["rejected_by_reason"]) == (3, 2, {reason: 1})


def test_row_numbers_stay_correct_after_malformed_blank_and_multi_line_rows(tmp_path):
    lines = [
        "u1,a,2020-01-01",
        "",
        "broken",
        '"u1","b\nb",2020-01-02',
        '"never closed,b,2020-01-02',
        "u1,,2020",
        "x",
    ]
    accepted, rejected, _ = run(tmp_path, HEADER + "\r\n".join(lines))
    assert accepted["item_id"].tolist() == ["a", "b\nb"]
    assert rejected["row"].tolist() == [2, 4, 5, 6]
    assert rejected["line"].tolist() == ["broken", '"never closed,b,2020-01-02', "u1,,2020", "x"]


def test_every_row_is_accepted_or_rejected(tmp_path):
    random.seed(0)
    valid = [f"u{random.randrange(9)},i{n},{NOON + n}" for n in range(50)]
    invalid = [
        "",
        "u1",
        ",,,,,",
        '"',
        'a"b,"c',
        '"u1",i,1577880000',
        b"\xff\xfe,i,1",
        "u1,\x12,5",
        "\x13u,i,5",
        '"a"b,c,1',
    ]
    for trial in range(30):
        lines = random.choices(valid + invalid * 3, k=random.randrange(1, 60)) + valid[:1]
        text = HEADER.encode() + b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
        folder = tmp_path / str(trial)
        folder.mkdir()
        accepted, rejected, manifest = run(folder, text, n_partitions=random.choice([1, 3]))
        assert len(accepted) + len(rejected) == manifest["read"]
        assert manifest["read"] == manifest["accepted"] + sum(manifest["rejected_by_reason"].values())
        assert set(accepted["item_id"]) - {"i"} == {line.split(",")[1] for line in lines if line in valid}


def test_duplicates_are_compared_on_all_columns_except_the_row_number(tmp_path):
    text = "user_id,item_id,datetime,place,n\nu,a,5,x,1\nu,a,5,x,2\nu,a,5,y,3\nu,a,5,x,4\nv,a,5,x,5\n"
    accepted, rejected, _ = run(tmp_path, text, row_number="n")
    assert accepted["user_id"].tolist() == ["u", "u", "v"]
    assert rejected["row"].tolist() == [2, 4]
    assert json.loads(rejected["line"][0]) == {"user_id": "u", "item_id": "a", "datetime": 5}
    accepted, _, _ = run(_new_folder(tmp_path), text)
    assert len(accepted) == 5


def _new_folder(tmp_path):
    (tmp_path / "fresh").mkdir()
    return tmp_path / "fresh"


def test_content_and_hash_do_not_depend_on_partitions_or_files(tmp_path):
    lines = [f"u{n % 13},i{n % 7},{NOON + n % 29}\n" for n in range(400)]
    one, _, manifest = run(tmp_path, HEADER + "".join(lines))
    many, _, many_manifest = run(tmp_path, HEADER + "".join(lines), n_partitions=5)
    assert len(list((tmp_path / "out-5").glob("interactions/part=00[0-4]/data.parquet"))) == 5
    pd.testing.assert_frame_equal(one, many.sort_values("user_id", kind="stable", ignore_index=True))
    (tmp_path / "a.csv").write_text(HEADER + "".join(lines[:150]))
    (tmp_path / "b.csv").write_text(HEADER + "".join(lines[150:]))
    out = ingest(InteractionSource(path=(str(tmp_path / "[ab].csv"),)), tmp_path / "two", progress=False)
    two = read_json(out / "manifest.json")
    assert two["files"] == [{"name": "a.csv", "read": 150}, {"name": "b.csv", "read": 250}]
    assert manifest["content_hash"] == many_manifest["content_hash"] == two["content_hash"]
    swapped, _, other = run(_new_folder(tmp_path), HEADER + "".join([lines[29], *lines[1:29], lines[0], *lines[30:]]))
    assert len(swapped) == len(one)
    assert other["content_hash"] != manifest["content_hash"]


def test_rejected_rows_name_their_source_file(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + "u,a,5\nu,,5\n")
    (tmp_path / "b.csv").write_text(HEADER + "\nu,a,5\nu,b,5\nu\n")
    paths = (str(tmp_path / "b.csv"), str(tmp_path / "*.csv"))
    out = ingest(InteractionSource(path=paths), tmp_path / "out", progress=False)
    _, rejected = frames(out)
    assert rejected[["file", "row", "reason"]].to_numpy().tolist() == [
        ["b.csv", 3, "unreadable row"],
        ["a.csv", 1, "duplicate"],
        ["a.csv", 2, "missing item_id"],
    ]
    report = rejected_by_reason(out)
    assert report["reason"].tolist() == ["duplicate", "missing item_id", "unreadable row"]
    assert report["rows"].tolist() == [1, 1, 1]
    assert report["example"][1] == "a.csv row 2: u,,5"


def test_the_order_of_the_rows_can_be_the_time(tmp_path):
    accepted, _, manifest = run(tmp_path, "user_id,item_id\nv,a\nu,b\nbad\nv,c\n", datetime="order")
    assert accepted.to_numpy().tolist() == [["u", "b", 1], ["v", "a", 0], ["v", "c", 3]]
    assert (manifest["time_kind"], manifest["ordered"], manifest["first_time"]) == ("order", True, None)


def test_unordered_interactions_have_no_time(tmp_path):
    accepted, _, manifest = run(tmp_path, "user_id,item_id\nv,a\nu,b\nv,c\n", datetime="none")
    assert accepted.to_numpy().tolist() == [["u", "b"], ["v", "a"], ["v", "c"]]
    assert list(accepted) == ["user_id", "item_id"]
    assert (manifest["time_kind"], manifest["ordered"]) == ("none", False)


def test_without_as_of_times_up_to_a_day_ahead_are_accepted(tmp_path):
    now = datetime.now(UTC)
    soon, later = (now + timedelta(hours=5)).isoformat(), (now + timedelta(days=3)).isoformat()
    accepted, rejected, _ = run(tmp_path, HEADER + f"u,a,{soon}\nu,b,{later}\n")
    assert accepted["item_id"].tolist() == ["a"]
    assert rejected["reason"].tolist() == ["datetime in the future"]


def test_a_log_of_one_event_is_accepted(tmp_path):
    accepted, _, manifest = run(tmp_path, HEADER + "u,a,5", n_partitions=7)
    assert accepted.to_numpy().tolist() == [["u", "a", 5]]
    assert manifest["accepted"] == manifest["n_users"] == manifest["n_items"] == 1


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "0 bytes"),
        (HEADER, {}, "at least one row"),
        ("\n\n", {}, "at least one row"),
        (HEADER + "u,,5\n,a,5\n", {}, r"1 missing item_id, 1 missing user_id"),
        ("user,item\nu,a\n", {}, r"column 'user_id', got \['user', 'item'\]"),
        (HEADER + "u,a,5\n", {"weight": "stars"}, "column 'stars'"),
        (HEADER + "u,a,5\n", {"item_pattern": "("}, "item_pattern"),
        (HEADER + "u,a,5\n", {"datetime_format": "%Q"}, "datetime_format"),
    ],
)
def test_an_unusable_log_raises_and_leaves_no_files(tmp_path, text, settings, message):
    with pytest.raises(IngestionError, match=message):
        run(tmp_path, text, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_errors_for_missing_truncated_and_unknown_files_name_the_file(tmp_path):
    for name in ("cut.parquet", "cut.csv.gz", "log.xlsx"):
        (tmp_path / name).write_bytes(b"PAR1" + b"x" * 100)
    for name, message in [
        ("*.csv", "got none for"),
        ("cut.parquet", "got an incomplete file .*cut.parquet"),
        ("cut.csv.gz", "cut.csv.gz"),
        ("log.xlsx", "log.xlsx; set format"),
    ]:
        with pytest.raises(IngestionError, match=message):
            ingest(InteractionSource(path=str(tmp_path / name)), tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="n_partitions"):
        ingest(InteractionSource(path=str(tmp_path / "log.xlsx")), tmp_path / "out", n_partitions=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_a_full_disk_raises_a_storage_error_and_leaves_no_files(tmp_path, name):
    rows = [(f"u{n}", f"i{n * 7919 % 100003}", n) for n in range(50_000)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    frame.to_csv(tmp_path / name, index=False) if name.endswith("csv") else frame.to_parquet(tmp_path / name)
    program = f"""
import resource, signal
from pathlib import Path
from attnrec.ingestion import InteractionSource, ingest
from attnrec.storage import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ingest(InteractionSource(path={str(tmp_path / name)!r}), Path({str(tmp_path / "out")!r}), progress=False)
except StorageError as error:
    print("StorageError:", error)
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert completed.stdout.startswith("StorageError:"), completed.stderr
    assert "free some space" in completed.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_fingerprint_depends_on_names_and_content_but_not_on_the_folder(tmp_path):
    sources = []
    for folder, text in [("one", "u,a"), ("two", "u,a"), ("three", "u,b")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.csv").write_text(text)
        sources.append(InteractionSource(path=str(tmp_path / folder / "log.csv")))
    one, two, three = map(source_fingerprint, sources)
    assert one == two != three
    assert source_fingerprint(sources[0], None) != one


def test_importing_the_package_does_not_import_duckdb():
    program = "import sys, attnrec.ingestion; assert 'duckdb' not in sys.modules and 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)

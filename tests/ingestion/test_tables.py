"""Ingestion of item and user tables: column types, rejected rows and errors."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attnrec.ingestion import IngestionError, InteractionSource, TableSource, ingest
from attnrec.storage import read_json

TYPES = {"genres": "category", "price": "number", "title": "text", "image": "vector"}


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,datetime\nu,a,5\n")
    return InteractionSource(path=str(tmp_path / "log.csv"))


def read(log, out, **tables):
    ingest(log, out, progress=False, **tables)
    return read_json(out / "manifest.json")


def test_every_type_of_column_is_read_from_csv(tmp_path, log):
    (tmp_path / "items.csv").write_text(
        "sku,genres,price,title,image\n"
        'a,Comedy| Drama,1.5,"A, b",0.5 0.25\n'
        'b,,,,\nc,X,cheap,t,"[1, 2]"\nd,|,nan,t,(3;4)\n'
    )
    manifest = read(log, tmp_path / "out", items=TableSource(path=str(tmp_path / "items.csv"), id="sku", columns=TYPES))
    table = pq.read_table(tmp_path / "out" / "items.parquet")
    assert table.to_pydict() == {
        "item_id": ["a", "b", "c", "d"],
        "genres": [["Comedy", "Drama"], None, ["X"], None],
        "price": [1.5, None, None, None],
        "title": ["A, b", "", "t", "t"],
        "image": [[0.5, 0.25], None, [1.0, 2.0], [3.0, 4.0]],
    }
    assert table.schema.types == [
        pa.string(),
        pa.list_(pa.string()),
        pa.float64(),
        pa.string(),
        pa.list_(pa.float32()),
    ]
    assert manifest["items"]["unparsable"] == {"genres": 1, "price": 2}
    assert manifest["items"]["read"] == manifest["items"]["accepted"] == 4
    assert manifest["users"] is None


@pytest.mark.parametrize("name", ["items.parquet", "items.jsonl"])
def test_lists_are_read_from_parquet_and_json(tmp_path, log, name):
    rows = [
        {"sku": 1, "genres": ["Comedy", "Drama"], "price": 2, "title": "x", "image": [0.5, 0.25]},
        {"sku": 2, "genres": None, "price": None, "title": None, "image": None},
    ]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    read(log, tmp_path / "out", items=TableSource(path=str(tmp_path / name), id="sku", columns=TYPES))
    assert pq.read_table(tmp_path / "out" / "items.parquet").to_pydict() == {
        "item_id": ["1", "2"],
        "genres": [["Comedy", "Drama"], None],
        "price": [2.0, None],
        "title": ["x", None],
        "image": [[0.5, 0.25], None],
    }


def test_invalid_rows_and_repeated_ids_are_rejected(tmp_path, log):
    (tmp_path / "users.csv").write_text("id,age\nu,1\n,2\nu,3\nv\nw,4\n")
    users = TableSource(path=str(tmp_path / "users.csv"), id="id", columns={"age": "number"})
    manifest = read(log, tmp_path / "out", users=users)["users"]
    assert pd.read_parquet(tmp_path / "out" / "users.parquet").to_numpy().tolist() == [["u", 1.0], ["w", 4.0]]
    rejected = pd.read_parquet(tmp_path / "out" / "rejected_users")
    assert rejected.to_numpy().tolist() == [
        ["users.csv", 2, "missing user_id", ",2"],
        ["users.csv", 3, "duplicate", "u,3"],
        ["users.csv", 4, "unreadable row", "v"],
    ]
    assert (manifest["read"], manifest["accepted"], manifest["rejected"], manifest["duplicates"]) == (
        5,
        2,
        3,
        1,
    )


def test_movies_dat_is_read_with_column_names(tmp_path, log):
    (tmp_path / "movies.dat").write_bytes("1::Café (1995)::Animation|Comedy\n".encode("latin-1"))
    movies = TableSource(
        path=str(tmp_path / "movies.dat"),
        encoding="latin-1",
        column_names=("MovieID", "Title", "Genres"),
        id="MovieID",
        columns={"Title": "text", "Genres": "category"},
    )
    read(log, tmp_path / "out", items=movies)
    table = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert table == [{"item_id": "1", "Title": "Café (1995)", "Genres": ["Animation", "Comedy"]}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,v\na,1 2\nb,1 2 3\n", "got 2 and 3 in 'v'"),
        ("id,v\n,1 2\n", "'missing item_id': 1"),
        ("id,v\n", "at least one valid row"),
        ("id,w\na,1\n", "column 'v'"),
        ("", "0 bytes"),
    ],
)
def test_an_unusable_table_raises_and_leaves_no_files(tmp_path, log, text, message):
    (tmp_path / "items.csv").write_text(text)
    items = TableSource(path=str(tmp_path / "items.csv"), id="id", columns={"v": "vector"})
    with pytest.raises(IngestionError, match=message):
        read(log, tmp_path / "out", items=items)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.csv", "log.csv"]


def test_the_id_column_cannot_be_a_feature(tmp_path, log):
    (tmp_path / "items.csv").write_text("sku,item_id\na,1\n")
    items = TableSource(path=str(tmp_path / "items.csv"), id="sku", columns={"item_id": "text"})
    with pytest.raises(IngestionError, match="remove it from columns"):
        read(log, tmp_path / "out", items=items)
    with pytest.raises(ValueError, match="remove it from columns"):
        TableSource(path="x.csv", id="sku", columns={"sku": "text"})

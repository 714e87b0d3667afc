"""Example tables of a run."""

import pandas as pd

from attnrec.fitting import fit
from attnrec.tracking.examples import examples_table


def test_a_user_who_has_viewed_everything_is_an_example_without_recommendations():
    rows = [
        (user, item, time) for user, items in {"ann": "abcab", "bob": "ab"}.items() for time, item in enumerate(items)
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    recommender = fit(log, model="item_knn", progress_bar=False).with_histories(log)
    table = examples_table(recommender, recommender.histories.user_ids.encode(["ann", "bob"]), k=2)
    assert table["top"].tolist() == ["", "c"]
    assert table["because"].tolist()[0] == ""
    assert table["because"].tolist()[1].startswith("because: ")

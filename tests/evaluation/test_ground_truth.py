"""Whether first reasons are the planted causes: the counting on a log made by hand, then on the sample log."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import histories_from_frame, split_last
from attnrec.evaluation.ground_truth import ground_truth, planted_causes
from attnrec.models import ItemKNNConfig, build_model
from attnrec.sample import SampleLog, sample_log


@pytest.fixture
def small_log() -> SampleLog:
    """ann and bob buy cup after tea, with a bag; cid buys tea and no cup. Nobody's day is another's."""
    rows = [
        ("ann", "tea", 1),
        ("ann", "bag", 2),
        ("ann", "cup", 3),
        ("bob", "bag", 11),
        ("bob", "tea", 12),
        ("bob", "cup", 13),
        ("cid", "tea", 21),
        ("cid", "pan", 22),
        ("cid", "bag", 23),
        ("dan", "cup", 31),
        ("dan", "bag", 32),
        ("dan", "pan", 33),
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    log["datetime"] = pd.to_datetime(log["datetime"], unit="D", utc=True)
    truth = log[(log["item_id"] == "cup") & (log["user_id"] != "dan")].assign(cause="tea")
    return SampleLog(log, pd.DataFrame(), pd.DataFrame(), truth, "bag")


@pytest.fixture
def holdout(small_log):
    return split_last(histories_from_frame(small_log.interactions)).test


@pytest.fixture
def model(holdout):
    """A model that knows every item; what it reads is set by each test."""
    model = build_model(ItemKNNConfig(), holdout.histories.n_items)
    model.observe(holdout.histories)
    return model


def with_contributions(model, monkeypatch, table: dict[tuple[str, str], float], item_ids) -> None:
    """Let (event, item) add what the table says, and nothing else."""
    likes = torch.zeros(len(item_ids) + 1, len(item_ids) + 1)
    for (event, item), value in table.items():
        likes[item_ids.row(event), item_ids.row(item)] = value

    class EncodedHistories:
        weights = None

        def __init__(self, batch):
            self.batch = batch

        def scores(self, items=None):
            whole = (likes[self.batch.items] * self.batch.real[..., None]).sum(1)
            return whole if items is None else whole.gather(1, items)

        def contributions(self, items):
            whole = likes[self.batch.items] * self.batch.real[..., None]
            return whole.gather(2, items[:, None].expand(-1, whole.shape[1], -1))

    monkeypatch.setattr(model, "encode", EncodedHistories)


def test_a_cause_is_that_of_the_event_asked_for(holdout, small_log):
    rows = planted_causes(holdout, small_log)
    tea = holdout.histories.item_ids.row("tea")
    assert dict(zip(holdout.histories.user_ids.decode(holdout.users), rows, strict=True)) == {
        "ann": tea,
        "bob": tea,
        "cid": 0,
        "dan": 0,
    }


def test_hits_are_counted_by_whether_their_first_reason_is_the_cause(model, holdout, small_log, monkeypatch):
    ids = holdout.histories.item_ids
    with_contributions(model, monkeypatch, {("tea", "cup"): 2, ("bag", "cup"): 1, ("bag", "pan"): 1}, ids)
    found = ground_truth(model, holdout, small_log, k=2)
    # ann and bob are recommended cup (because of tea) and pan (because of the bag)
    assert (found.n_hits, found.found) == (2, 1.0)
    assert (found.n_recommendations, found.distractor) == (4, 0.5)
    assert found.distractor_by_chance == 1 / 2  # of tea and bag
    with_contributions(model, monkeypatch, {("tea", "cup"): 1, ("bag", "cup"): 2, ("bag", "pan"): 1}, ids)
    found = ground_truth(model, holdout, small_log, k=2)
    assert (found.n_hits, found.found, found.distractor) == (2, 0.0, 1.0)


def test_what_nothing_speaks_for_has_no_first_reason(model, holdout, small_log, monkeypatch):
    ids = holdout.histories.item_ids
    with_contributions(model, monkeypatch, {("tea", "cup"): -1, ("bag", "cup"): -2}, ids)
    found = ground_truth(model, holdout, small_log, k=2)
    assert (found.n_hits, found.found, found.distractor) == (2, 0.0, 0.0)


def test_a_list_without_the_answer_is_no_hit(model, holdout, small_log, monkeypatch):
    ids = holdout.histories.item_ids
    with_contributions(model, monkeypatch, {("tea", "cup"): 1, ("bag", "pan"): 2}, ids)
    found = ground_truth(model, holdout, small_log, k=1)
    assert (found.n_hits, found.n_recommendations) == (0, 2)
    assert np.isnan(found.found)


def test_a_log_without_planted_answers_is_refused(model, holdout, small_log):
    with pytest.raises(ValueError, match="needs an answer with a planted cause, got none"):
        ground_truth(model, holdout, replace(small_log, truth=small_log.truth[:0]))


def test_planted_causes_come_before_what_they_caused():
    log = sample_log(n_users=200)
    holdout = split_last(histories_from_frame(log.interactions)).test
    causes = planted_causes(holdout, log)
    assert 30 < (causes > 0).sum() < 120  # planted: about a quarter of all events
    for user, cause in zip(holdout.users[causes > 0], causes[causes > 0], strict=True):
        assert cause in holdout.histories.items_of(user)


def test_the_models_own_reasons_are_the_planted_causes_and_not_the_distractor(shop, shop_recommender):
    holdout = split_last(histories_from_frame(shop.interactions)).test
    found = ground_truth(shop_recommender.model, holdout, shop)
    assert found.n_hits > 60
    assert found.found >= 0.9
    assert found.distractor <= found.distractor_by_chance
    by_chance = ground_truth(shop_recommender.model, holdout, shop, method="random")
    assert by_chance.found < 0.2

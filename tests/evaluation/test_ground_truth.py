"""Ground truth of explanations: counts on a small log by hand, then on the sample log."""

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
    """ann and bob buy tea, later cup; cid buys tea and no cup; dan buys cup without tea. Everybody buys a bag."""
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
    """A model whose scores and contributions are set by each test."""
    model = build_model(ItemKNNConfig(), holdout.histories.n_items)
    model.observe(holdout.histories)
    return model


def with_contributions(model, monkeypatch, table: dict[tuple[str, str], float], item_ids) -> None:
    """Make the contribution of an event item to a recommended item the value in `table`, else 0."""
    values = torch.zeros(len(item_ids) + 1, len(item_ids) + 1)
    for (event, item), value in table.items():
        values[item_ids.row(event), item_ids.row(item)] = value

    class FixedContributions:
        weights = None

        def __init__(self, batch):
            self.batch = batch

        def scores(self, items=None):
            scores = (values[self.batch.items] * self.batch.real[..., None]).sum(1)
            return scores if items is None else scores.gather(1, items)

        def contributions(self, items):
            contributions = values[self.batch.items] * self.batch.real[..., None]
            return contributions.gather(2, items[:, None].expand(-1, contributions.shape[1], -1))

    monkeypatch.setattr(model, "encode", FixedContributions)


def test_planted_causes_are_the_causes_of_the_targets(holdout, small_log):
    rows = planted_causes(holdout, small_log)
    tea = holdout.histories.item_ids.row("tea")
    assert dict(zip(holdout.histories.user_ids.decode(holdout.users), rows, strict=True)) == {
        "ann": tea,
        "bob": tea,
        "cid": 0,
        "dan": 0,
    }


def test_hits_count_by_whether_their_first_reason_is_the_cause(model, holdout, small_log, monkeypatch):
    ids = holdout.histories.item_ids
    with_contributions(model, monkeypatch, {("tea", "cup"): 2, ("bag", "cup"): 1, ("bag", "pan"): 1}, ids)
    result = ground_truth(model, holdout, small_log, k=2)
    # ann and bob are recommended cup, with first reason tea, and pan, with first reason bag
    assert (result.n_hits, result.cause_share) == (2, 1.0)
    assert (result.n_recommendations, result.distractor_share) == (4, 0.5)
    assert result.distractor_share_at_random == 1 / 2  # the histories are tea and bag
    with_contributions(model, monkeypatch, {("tea", "cup"): 1, ("bag", "cup"): 2, ("bag", "pan"): 1}, ids)
    result = ground_truth(model, holdout, small_log, k=2)
    assert (result.n_hits, result.cause_share, result.distractor_share) == (2, 0.0, 1.0)


def test_a_recommendation_without_a_positive_contribution_has_no_first_reason(model, holdout, small_log, monkeypatch):
    ids = holdout.histories.item_ids
    with_contributions(model, monkeypatch, {("tea", "cup"): -1, ("bag", "cup"): -2}, ids)
    result = ground_truth(model, holdout, small_log, k=2)
    assert (result.n_hits, result.cause_share, result.distractor_share) == (2, 0.0, 0.0)


def test_a_list_without_the_target_is_no_hit(model, holdout, small_log, monkeypatch):
    ids = holdout.histories.item_ids
    with_contributions(model, monkeypatch, {("tea", "cup"): 1, ("bag", "pan"): 2}, ids)
    result = ground_truth(model, holdout, small_log, k=1)
    assert (result.n_hits, result.n_recommendations) == (0, 2)
    assert np.isnan(result.cause_share)


def test_a_log_without_known_causes_is_rejected(model, holdout, small_log):
    with pytest.raises(ValueError, match="needs a target with a known cause, got none"):
        ground_truth(model, holdout, replace(small_log, truth=small_log.truth[:0]))


def test_planted_causes_are_in_the_history():
    log = sample_log(n_users=200)
    holdout = split_last(histories_from_frame(log.interactions)).test
    causes = planted_causes(holdout, log)
    assert 30 < (causes > 0).sum() < 120  # about a quarter of all events have a cause
    for user, cause in zip(holdout.users[causes > 0], causes[causes > 0], strict=True):
        assert cause in holdout.histories.items_of(user)


def test_contributions_find_the_planted_causes_and_not_the_distractor(shop, shop_recommender):
    holdout = split_last(histories_from_frame(shop.interactions)).test
    result = ground_truth(shop_recommender.model, holdout, shop)
    assert result.n_hits > 60
    assert result.cause_share >= 0.9
    assert result.distractor_share <= result.distractor_share_at_random
    random = ground_truth(shop_recommender.model, holdout, shop, method="random")
    assert random.cause_share < 0.2

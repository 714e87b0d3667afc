"""Crop, mask and reorder on windows that can be read: in window w the events are 10 w + 1, 10 w + 2, ..."""

from dataclasses import replace

import pytest
import torch

from attnrec.dataset import Batch, Windows
from attnrec.models import GATConfig, SequenceConfig, build_model
from attnrec.training import AugmentConfig, TrainConfig, train
from attnrec.training.augmentation import augment

MANY = 4000


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def windows(*lengths: int, ordered: bool = True) -> Batch:
    """Event number n of each window is item n, at second 100 n, of weight n / 2 and kind n; n + 1 follows it."""
    places = torch.arange(1, max(lengths) + 1).repeat(len(lengths), 1)
    real = places <= torch.tensor(lengths)[:, None]
    items = places * real
    targets = (places + 1) * real if ordered else None
    return Batch(items, torch.tensor(lengths), 100 * items, targets, items.float() / 2, items)


def rows(column: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    """The real part of each window; all else must be 0."""
    assert not column[torch.arange(column.shape[1]) >= lengths[:, None]].any()
    return [row[:length].tolist() for row, length in zip(column, lengths.tolist(), strict=True)]


def test_nothing_is_changed_or_drawn_unless_asked_for():
    batch, state = windows(3, 2), torch.get_rng_state()
    assert augment(batch, AugmentConfig()) is batch
    assert torch.equal(torch.get_rng_state(), state)


def test_a_crop_is_a_contiguous_part_with_the_times_and_targets_of_its_events():
    cropped = augment(windows(*[9, 4, 1] * 50), AugmentConfig(crop=0.5, probability=1.0))
    found = rows(cropped.items, cropped.lengths)
    for items, length in zip(found, [9, 4, 1] * 50, strict=True):
        assert items == list(range(items[0], items[0] + len(items)))
        assert items[-1] <= length
        assert length / 2 <= len(items) <= length
    assert rows(cropped.times, cropped.lengths) == [[100 * item for item in items] for items in found]
    assert rows(cropped.targets, cropped.lengths) == [[item + 1 for item in items] for items in found]
    assert rows(cropped.weights, cropped.lengths) == [[item / 2 for item in items] for items in found]
    assert rows(cropped.events, cropped.lengths) == found
    assert cropped.items.shape[1] == cropped.lengths.max()


def test_crops_keep_every_part_of_a_window_equally_often():
    cropped = augment(windows(*[4] * MANY), AugmentConfig(crop=0.5, probability=1.0))
    firsts = cropped.items[:, 0]
    # 2 < 4 s <= 3 in half of the draws of s from .5 to 1, so 3 or 4 events stay; of 3, each half of the time
    counts = [int(((cropped.lengths == 3) & (firsts == first)).sum()) for first in (1, 2)]
    assert sum(counts) == pytest.approx(MANY / 2, abs=5 * (MANY / 4) ** 0.5)
    assert counts[0] == pytest.approx(sum(counts) / 2, abs=5 * (MANY / 8) ** 0.5)


def test_a_mask_hides_items_from_what_is_read_and_from_nothing_else():
    batch = windows(*[10] * MANY)
    masked = augment(batch, AugmentConfig(mask=0.3, probability=1.0))
    hidden = masked.items == 0
    assert torch.equal(masked.items[~hidden], batch.items[~hidden])
    for name in ("lengths", "times", "targets", "weights", "events"):
        assert torch.equal(getattr(masked, name), getattr(batch, name))
    assert hidden.double().mean() == pytest.approx(0.3, abs=5 * (0.21 / (10 * MANY)) ** 0.5)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_reordered_window_is_shuffled_inside_one_span_of_the_share_asked_for(ordered):
    reordered = augment(windows(*[8] * 200, ordered=ordered), AugmentConfig(reorder=0.5, probability=1.0))
    spans = []
    for items in rows(reordered.items, reordered.lengths):
        assert sorted(items) == list(range(1, 9))
        moved = [place for place, item in enumerate(items, start=1) if item != place]
        if moved:
            spans.append(moved[-1] - moved[0] + 1)
    assert max(spans) == 4
    assert len(spans) > 150
    assert torch.equal(reordered.times, windows(*[8] * 200).times)


def test_a_reordered_event_is_asked_for_what_follows_it_and_was_not_read_before():
    reordered = augment(windows(*[7, 3] * 100), AugmentConfig(reorder=1.0, probability=1.0))
    items, targets = rows(reordered.items, reordered.lengths), rows(reordered.targets, reordered.lengths)
    for read, asked, length in zip(items, targets, [7, 3] * 100, strict=True):
        assert asked == [*read[1:], length + 1]
        for place, answer in enumerate(asked):
            assert answer not in read[: place + 1]


def test_what_is_known_of_an_event_moves_with_its_item():
    reordered = augment(windows(*[6] * 50), AugmentConfig(reorder=1.0, probability=1.0))
    assert torch.equal(reordered.events, reordered.items)
    assert torch.equal(reordered.weights, reordered.items / 2)


@pytest.mark.parametrize("change", [{"crop": 0.5}, {"mask": 0.9}, {"reorder": 1.0}])
def test_a_window_is_changed_with_the_probability_asked_for(change):
    batch = windows(*[12] * MANY)
    found = augment(batch, AugmentConfig(**change, probability=0.25))
    same = torch.zeros(MANY, dtype=torch.bool)
    if found.items.shape == batch.items.shape:
        same = (found.items == batch.items).all(1)
    # of 12 events a crop to at least half keeps all one time in six
    expected = 0.25 * (5 / 6 if "crop" in change else 1)
    assert 1 - same.double().mean() == pytest.approx(expected, abs=5 * (0.25 * 0.75 / MANY) ** 0.5)


def test_all_changes_together_leave_a_batch_whose_columns_agree():
    found = augment(windows(*[9, 2, 5] * 60), AugmentConfig(crop=0.4, mask=0.3, reorder=0.6, probability=0.8))
    events, times = rows(found.events, found.lengths), rows(found.times, found.lengths)
    for read, known, when, asked in zip(
        rows(found.items, found.lengths), events, times, rows(found.targets, found.lengths), strict=True
    ):
        assert all(item in (0, event) for item, event in zip(read, known, strict=True))
        assert when == sorted(100 * event for event in known)
        assert asked == [*known[1:], max(known) + 1]


def test_of_a_set_masked_events_are_left_out():
    batch = windows(*[10, 1] * (MANY // 2), ordered=False)
    masked = augment(batch, AugmentConfig(mask=0.3, probability=1.0))
    found = rows(masked.items, masked.lengths)
    assert all(0 not in items and items == sorted(items) for items in found)
    assert rows(masked.times, masked.lengths) == [[100 * item for item in items] for items in found]
    n_events = int(batch.lengths.sum())
    assert int(masked.lengths.sum()) / n_events == pytest.approx(0.7, abs=5 * (0.21 / n_events) ** 0.5)
    assert masked.targets is None


def test_a_batch_without_windows_stays_one():
    """One of several processes may get none."""
    empty = windows(3).slice(0, 0)
    found = augment(empty, AugmentConfig(crop=0.5, mask=0.5, reorder=0.5, probability=1.0))
    assert found.items.shape[0] == 0


@pytest.mark.parametrize("config", [SequenceConfig, GATConfig], ids=["sequences", "sets"])
def test_a_model_learns_from_augmented_windows(checkerboard, config):
    torch.manual_seed(1)
    model = build_model(config(dim=8, heads=2, pooling_heads=2, max_length=8), 12)
    augmentation = AugmentConfig(crop=0.5, mask=0.3, reorder=0.5, probability=0.9)
    settings = TrainConfig(epochs=3, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu")
    settings = settings.model_copy(update={"augment": augmentation})
    result = train(model, checkerboard.histories, config=settings, progress_bar=False)
    losses = [report["train/loss"] for report in result.epochs]
    assert losses[-1] < losses[0]


def test_windows_of_a_log_keep_their_last_target_when_reordered(make_histories):
    (batch,) = Windows(make_histories({"ann": "abcdef"}), max_length=3, batch_size=8).epoch(0)
    found = augment(replace(batch), AugmentConfig(reorder=1.0, probability=1.0))
    last = found.targets.gather(1, found.lengths[:, None] - 1)[:, 0].tolist()
    assert sorted(last) == [3, 6], "c begins the second window, f ends the log"

"""Crop, mask and reorder on windows whose items are 1, 2, 3, ..."""

from dataclasses import replace

import pytest
import torch

from attnrec.dataset import Batch, Windows
from attnrec.models import GATConfig, SequenceConfig, build_model
from attnrec.training import AugmentConfig, TrainConfig, train
from attnrec.training.augmentation import augment

N_WINDOWS = 4000


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def windows(*lengths: int, ordered: bool = True) -> Batch:
    """Event n of each window has item n, time 100 n, weight n / 2, event type n and target n + 1."""
    positions = torch.arange(1, max(lengths) + 1).repeat(len(lengths), 1)
    real = positions <= torch.tensor(lengths)[:, None]
    items = positions * real
    targets = (positions + 1) * real if ordered else None
    return Batch(items, torch.tensor(lengths), 100 * items, targets, items.float() / 2, items)


def rows(column: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    """The real positions of each window; asserts that padding is 0."""
    assert not column[torch.arange(column.shape[1]) >= lengths[:, None]].any()
    return [row[:length].tolist() for row, length in zip(column, lengths.tolist(), strict=True)]


def test_the_default_config_changes_nothing_and_draws_no_random_number():
    batch, state = windows(3, 2), torch.get_rng_state()
    assert augment(batch, AugmentConfig()) is batch
    assert torch.equal(torch.get_rng_state(), state)


def test_a_crop_is_a_contiguous_part_and_keeps_all_columns_of_its_events():
    cropped = augment(windows(*[9, 4, 1] * 50), AugmentConfig(crop=0.5, probability=1.0))
    cropped_items = rows(cropped.items, cropped.lengths)
    for items, length in zip(cropped_items, [9, 4, 1] * 50, strict=True):
        assert items == list(range(items[0], items[0] + len(items)))
        assert items[-1] <= length
        assert length / 2 <= len(items) <= length
    assert rows(cropped.times, cropped.lengths) == [[100 * item for item in items] for items in cropped_items]
    assert rows(cropped.targets, cropped.lengths) == [[item + 1 for item in items] for items in cropped_items]
    assert rows(cropped.weights, cropped.lengths) == [[item / 2 for item in items] for items in cropped_items]
    assert rows(cropped.events, cropped.lengths) == cropped_items
    assert cropped.items.shape[1] == cropped.lengths.max()


def test_the_start_of_a_crop_is_uniformly_distributed():
    cropped = augment(windows(*[4] * N_WINDOWS), AugmentConfig(crop=0.5, probability=1.0))
    first_items = cropped.items[:, 0]
    # half of the fractions drawn from [.5, 1] keep 3 of the 4 events; such a crop starts at event 1 or 2, equally often
    counts = [int(((cropped.lengths == 3) & (first_items == first)).sum()) for first in (1, 2)]
    assert sum(counts) == pytest.approx(N_WINDOWS / 2, abs=5 * (N_WINDOWS / 4) ** 0.5)
    assert counts[0] == pytest.approx(sum(counts) / 2, abs=5 * (N_WINDOWS / 8) ** 0.5)


def test_masking_changes_only_the_items():
    batch = windows(*[10] * N_WINDOWS)
    masked = augment(batch, AugmentConfig(mask=0.3, probability=1.0))
    is_masked = masked.items == 0
    assert torch.equal(masked.items[~is_masked], batch.items[~is_masked])
    for name in ("lengths", "times", "targets", "weights", "events"):
        assert torch.equal(getattr(masked, name), getattr(batch, name))
    assert is_masked.double().mean() == pytest.approx(0.3, abs=5 * (0.21 / (10 * N_WINDOWS)) ** 0.5)


@pytest.mark.parametrize("ordered", [True, False])
def test_reordering_shuffles_one_span_of_the_given_fraction(ordered):
    reordered = augment(windows(*[8] * 200, ordered=ordered), AugmentConfig(reorder=0.5, probability=1.0))
    spans = []
    for items in rows(reordered.items, reordered.lengths):
        assert sorted(items) == list(range(1, 9))
        moved = [position for position, item in enumerate(items, start=1) if item != position]
        if moved:
            spans.append(moved[-1] - moved[0] + 1)
    assert max(spans) == 4
    assert len(spans) > 150
    assert torch.equal(reordered.times, windows(*[8] * 200).times)


def test_targets_of_a_reordered_window_are_the_next_items_and_never_in_the_input_before():
    reordered = augment(windows(*[7, 3] * 100), AugmentConfig(reorder=1.0, probability=1.0))
    items, targets = rows(reordered.items, reordered.lengths), rows(reordered.targets, reordered.lengths)
    for window_items, window_targets, length in zip(items, targets, [7, 3] * 100, strict=True):
        assert window_targets == [*window_items[1:], length + 1]
        for position, target in enumerate(window_targets):
            assert target not in window_items[: position + 1]


def test_weights_and_event_types_are_reordered_with_their_items():
    reordered = augment(windows(*[6] * 50), AugmentConfig(reorder=1.0, probability=1.0))
    assert torch.equal(reordered.events, reordered.items)
    assert torch.equal(reordered.weights, reordered.items / 2)


@pytest.mark.parametrize("change", [{"crop": 0.5}, {"mask": 0.9}, {"reorder": 1.0}])
def test_a_window_is_changed_with_the_given_probability(change):
    batch = windows(*[12] * N_WINDOWS)
    changed = augment(batch, AugmentConfig(**change, probability=0.25))
    unchanged = torch.zeros(N_WINDOWS, dtype=torch.bool)
    if changed.items.shape == batch.items.shape:
        unchanged = (changed.items == batch.items).all(1)
    # a crop of 12 events to at least half keeps all of them with probability 1 / 6
    expected = 0.25 * (5 / 6 if "crop" in change else 1)
    assert 1 - unchanged.double().mean() == pytest.approx(expected, abs=5 * (0.25 * 0.75 / N_WINDOWS) ** 0.5)


def test_columns_stay_consistent_when_all_changes_are_applied():
    changed = augment(windows(*[9, 2, 5] * 60), AugmentConfig(crop=0.4, mask=0.3, reorder=0.6, probability=0.8))
    columns = (changed.items, changed.events, changed.times, changed.targets)
    for items, events, times, targets in zip(*(rows(column, changed.lengths) for column in columns), strict=True):
        assert all(item in (0, event) for item, event in zip(items, events, strict=True))
        assert times == sorted(100 * event for event in events)
        assert targets == [*events[1:], max(events) + 1]


def test_masked_events_are_removed_from_windows_without_order():
    batch = windows(*[10, 1] * (N_WINDOWS // 2), ordered=False)
    masked = augment(batch, AugmentConfig(mask=0.3, probability=1.0))
    remaining = rows(masked.items, masked.lengths)
    assert all(0 not in items and items == sorted(items) for items in remaining)
    assert rows(masked.times, masked.lengths) == [[100 * item for item in items] for items in remaining]
    n_events = int(batch.lengths.sum())
    assert int(masked.lengths.sum()) / n_events == pytest.approx(0.7, abs=5 * (0.21 / n_events) ** 0.5)
    assert masked.targets is None


def test_an_empty_batch_stays_empty():
    """One of several processes may get no window of a batch."""
    empty = windows(3).slice(0, 0)
    augmented = augment(empty, AugmentConfig(crop=0.5, mask=0.5, reorder=0.5, probability=1.0))
    assert augmented.items.shape[0] == 0


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


def test_reordering_keeps_the_last_target_of_each_window(make_histories):
    (batch,) = Windows(make_histories({"ann": "abcdef"}), max_length=3, batch_size=8).epoch(0)
    reordered = augment(replace(batch), AugmentConfig(reorder=1.0, probability=1.0))
    last = reordered.targets.gather(1, reordered.lengths[:, None] - 1)[:, 0].tolist()
    assert sorted(last) == [3, 6], "c is the first item of the second window, f the last item of the log"

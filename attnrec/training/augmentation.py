"""Augmentation of training windows: crop, mask and reorder (Xie et al. 2022, arXiv:2010.14395, section 3.2).

Each change is applied to a window with a fixed probability. A masked event has no item in the model's input but remains
a target; in a window without order, where every event is its own target, the masked event is removed. In a reordered
window the target of each position is the item that follows it in the new order, so the input never contains the target.
Times are not reordered, so that they stay ascending.
Shapes: B windows, L positions.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from attnrec.config import Config
from attnrec.dataset import Batch


class AugmentConfig(Config):
    """Augmentation of the training windows, the TOML table [train.augment]; 0 turns a change off.

    Attributes:
        crop: smallest fraction of the events that a crop keeps, [0, 1). A crop keeps a contiguous part of the window;
            the fraction is drawn uniformly from [crop, 1]. Default 0 (off).
        mask: probability that an event's item is masked, [0, 1). Default 0 (off).
        reorder: fraction of the events in the contiguous span that is shuffled, [0, 1]. Default 0 (off).
        probability: probability that a change is applied to a window, for each change and window independently,
            (0, 1]. Default 0.5.
    """

    crop: float = Field(default=0.0, ge=0, lt=1)
    mask: float = Field(default=0.0, ge=0, lt=1)
    reorder: float = Field(default=0.0, ge=0, le=1)
    probability: float = Field(default=0.5, gt=0, le=1)


def augment(batch: Batch, config: AugmentConfig) -> Batch:
    """Return the batch with some of its windows changed; random numbers come from torch's CPU generator."""
    if not len(batch.lengths):
        return batch
    if config.crop:
        batch = _crop(batch, config)
    if config.reorder:
        batch = _reorder(batch, config)
    if config.mask:
        batch = _mask(batch, config)
    return batch


def _crop(batch: Batch, config: AugmentConfig) -> Batch:
    device, lengths = batch.items.device, batch.lengths
    fraction = config.crop + (1 - config.crop) * _uniform(len(lengths), device)
    fraction = torch.where(_selected_windows(batch, config), fraction, 1.0)
    new_lengths = (fraction * lengths).ceil().long().minimum(lengths)
    positions = torch.arange(max(1, int(new_lengths.amax())), device=device)
    index = (_random_start(lengths, new_lengths)[:, None] + positions).clamp(max=batch.items.shape[1] - 1)
    real = positions < new_lengths[:, None]
    cropped = {name: column.gather(1, index) * real for name, column in _event_columns(batch).items()}
    return replace(batch, lengths=new_lengths, **cropped)


def _mask(batch: Batch, config: AugmentConfig) -> Batch:
    drawn = _uniform(batch.items.shape, batch.items.device) < config.mask
    masked = drawn & _selected_windows(batch, config)[:, None] & batch.real
    if batch.targets is not None:
        return replace(batch, items=batch.items.masked_fill(masked, 0))
    order = masked.byte().argsort(dim=1, stable=True)
    remaining = {name: (column * ~masked).gather(1, order) for name, column in _event_columns(batch).items()}
    return replace(batch, lengths=batch.lengths - masked.sum(1), **remaining)


def _reorder(batch: Batch, config: AugmentConfig) -> Batch:
    """Sort each window by position, after replacing the positions inside the span by random numbers of that range."""
    device, lengths = batch.items.device, batch.lengths
    span = (config.reorder * lengths).long() * _selected_windows(batch, config)
    start = _random_start(lengths, span)[:, None]
    positions = torch.arange(batch.items.shape[1], device=device)
    inside = (positions >= start) & (positions < start + span[:, None])
    random_positions = start + span[:, None] * _uniform(batch.items.shape, device)
    order = torch.where(inside, random_positions, positions.float()).argsort(dim=1, stable=True)
    columns = _event_columns(batch)
    reordered = {name: columns[name].gather(1, order) for name in ("items", "weights", "events") if name in columns}
    if batch.targets is not None:
        has_next = positions < lengths[:, None] - 1
        reordered["targets"] = torch.where(has_next, reordered["items"].roll(-1, dims=1), batch.targets)
    return replace(batch, **reordered)


def _random_start(lengths: Tensor, part_lengths: Tensor) -> Tensor:
    """Draw the start of a part of `part_lengths` events, uniformly over all possible starts, (B,) int64."""
    latest = lengths - part_lengths
    # rounding can make the product latest + 1
    return (_uniform(len(lengths), lengths.device) * (latest + 1)).long().minimum(latest)


def _event_columns(batch: Batch) -> dict[str, Tensor]:
    """Return the columns of the batch that have a value per event, (B, L) each."""
    columns = {name: getattr(batch, name) for name in ("items", "times", "targets", "weights", "events")}
    return {name: column for name, column in columns.items() if column is not None}


def _selected_windows(batch: Batch, config: AugmentConfig) -> Tensor:
    """Draw the windows that a change is applied to, (B,) bool."""
    return _uniform(len(batch.lengths), batch.items.device) < config.probability


def _uniform(shape: int | torch.Size, device: torch.device) -> Tensor:
    return torch.rand(shape).to(device)

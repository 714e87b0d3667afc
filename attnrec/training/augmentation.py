"""Augmentation of training windows: crop, mask and reorder (Xie et al. 2022, arXiv:2010.14395, section 3.2).

Each window is changed with its own probability. A masked event is missing in what the model reads, and is still
asked for (of a set, where an event is its own answer, it is left out). In a reordered window each event is asked for
what follows it there, so that no answer was read before; times stay where they are, so that they keep rising.
Shapes: B windows, L positions.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from attnrec.config import Config
from attnrec.dataset import Batch


class AugmentConfig(Config):
    """Shares of the events that are touched; 0 turns a change off.

    Attributes:
        crop: a window keeps a contiguous part of this share of its events at least (drawn between it and 1).
        mask: each event is read as "something", without an item, with this probability.
        reorder: a contiguous part of this share of the events is shuffled.
        probability: of a window being changed at all, for each change.
    """

    crop: float = Field(default=0.0, ge=0, lt=1)
    mask: float = Field(default=0.0, ge=0, lt=1)
    reorder: float = Field(default=0.0, ge=0, le=1)
    probability: float = Field(default=0.5, gt=0, le=1)


def augment(batch: Batch, config: AugmentConfig) -> Batch:
    """The batch with some of its windows changed; draws from torch's generator of the CPU."""
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
    share = config.crop + (1 - config.crop) * _draw(len(lengths), device)
    share = torch.where(_chosen(batch, config), share, 1.0)
    kept = (share * lengths).ceil().long().minimum(lengths)
    places = torch.arange(max(1, int(kept.amax())), device=device)
    at = (_first(lengths, kept)[:, None] + places).clamp(max=batch.items.shape[1] - 1)
    moved = {name: column.gather(1, at) * (places < kept[:, None]) for name, column in _columns(batch).items()}
    return replace(batch, lengths=kept, **moved)


def _mask(batch: Batch, config: AugmentConfig) -> Batch:
    hidden = (_draw(batch.items.shape, batch.items.device) < config.mask) & _chosen(batch, config)[:, None] & batch.real
    if batch.targets is not None:
        return replace(batch, items=batch.items.masked_fill(hidden, 0))
    order = hidden.byte().argsort(dim=1, stable=True)
    moved = {name: (column * ~hidden).gather(1, order) for name, column in _columns(batch).items()}
    return replace(batch, lengths=batch.lengths - hidden.sum(1), **moved)


def _reorder(batch: Batch, config: AugmentConfig) -> Batch:
    """Sort each window by its place, but for a span whose places are replaced by random ones inside it."""
    device, lengths = batch.items.device, batch.lengths
    span = (config.reorder * lengths).long() * _chosen(batch, config)
    first = _first(lengths, span)[:, None]
    places = torch.arange(batch.items.shape[1], device=device)
    inside = (places >= first) & (places < first + span[:, None])
    drawn = first + span[:, None] * _draw(batch.items.shape, device)
    order = torch.where(inside, drawn, places.float()).argsort(dim=1, stable=True)
    columns = _columns(batch)
    moved = {name: columns[name].gather(1, order) for name in ("items", "weights", "events") if name in columns}
    if batch.targets is not None:
        follows = places < lengths[:, None] - 1
        moved["targets"] = torch.where(follows, moved["items"].roll(-1, dims=1), batch.targets)
    return replace(batch, **moved)


def _first(lengths: Tensor, part: Tensor) -> Tensor:
    """Where a part of this many events begins, drawn evenly, (B,) int64."""
    room = lengths - part
    # rounding can make the product room + 1
    return (_draw(len(lengths), lengths.device) * (room + 1)).long().minimum(room)


def _columns(batch: Batch) -> dict[str, Tensor]:
    """What a batch holds of each event."""
    found = {name: getattr(batch, name) for name in ("items", "times", "targets", "weights", "events")}
    return {name: column for name, column in found.items() if column is not None}


def _chosen(batch: Batch, config: AugmentConfig) -> Tensor:
    return _draw(len(batch.lengths), batch.items.device) < config.probability


def _draw(shape: int | torch.Size, device: torch.device) -> Tensor:
    return torch.rand(shape).to(device)

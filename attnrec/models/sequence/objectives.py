"""Training objectives: targets for the next item, for the last item of sampled prefixes, or for masked items.

Each function maps a batch of windows from the log to the batch that the loss is computed on, with `targets`: the item
to predict at each position, 0 where there is none. Random draws use torch's CPU generator.
Shapes: B windows, L positions, P prefixes per window.
"""

from dataclasses import replace

import torch
from torch import Tensor

from attnrec.dataset import Batch

LAST_ONLY = 0.2
"""Share of windows in which only the last item is masked, as at inference (Sun et al. 2019, section 3.6)."""


def sample_prefixes(batch: Batch, *, n_prefixes: int) -> Batch:
    """Sample prefixes of each window, with the item after the prefix as target (Tan et al. 2016, arXiv:1606.08117).

    The last position of a prefix is drawn from each of P equal parts of the window, so that the prefixes differ; a
    window of fewer than P events gives all its prefixes. The longest prefixes come first, so that consecutive
    micro-batches have similar lengths.
    """
    assert batch.targets is not None, "prefixes are cut from windows whose every event has a target"
    n = batch.lengths.clamp(max=n_prefixes)
    parts = torch.arange(n_prefixes, device=n.device)
    draws = torch.rand(len(n), n_prefixes).to(n.device)
    ends = ((parts + draws) * batch.lengths[:, None] / n.clamp(min=1)[:, None]).long()
    ends = ends.minimum(batch.lengths[:, None] - 1) + 1
    rows, columns = (parts < n[:, None]).nonzero(as_tuple=True)
    lengths, order = ends[rows, columns].sort(descending=True, stable=True)
    rows = rows[order]
    width = int(lengths[0]) if len(lengths) else 1
    positions = torch.arange(width, device=n.device)
    prefixes = {
        name: column[rows, :width] * (positions < lengths[:, None])
        for name in ("items", "times", "weights", "events")
        if (column := getattr(batch, name)) is not None
    }
    targets = batch.targets[rows, :width] * (positions == lengths[:, None] - 1)
    repeated = {
        name: column[rows]
        for name in ("memory_items", "memory_lengths", "users")
        if (column := getattr(batch, name)) is not None
    }
    return replace(batch, lengths=lengths, targets=targets, **prefixes, **repeated)


def mask_items(batch: Batch, *, share: float) -> Batch:
    """Mask items (row 0) and make them the targets at their positions (Sun et al. 2019, arXiv:1904.06690, section 3.6).

    Each event is masked with probability `share`, and at least one per window; in a share `LAST_ONLY` of the windows
    only the last event is masked.
    """
    if not len(batch.lengths):
        return replace(batch, targets=batch.items)
    draws = torch.rand(batch.items.shape).to(batch.items.device).masked_fill(~batch.real, 1.0)
    smallest = draws.argmin(dim=1)
    last = (batch.lengths - 1).clamp(min=0)
    last_only = torch.rand(len(last)).to(last.device) < LAST_ONLY
    positions = torch.arange(batch.items.shape[1], device=last.device)
    always = positions == torch.where(last_only, last, smallest)[:, None]
    masked = (always | ((draws < share) & ~last_only[:, None])) & batch.real
    return replace(batch, items=batch.items.masked_fill(masked, 0), targets=batch.items * masked)


def append_masked_event(batch: Batch, *, max_length: int) -> Batch:
    """Append one masked event to each history, for inference; beyond `max_length` the oldest events are dropped."""
    width = min(batch.items.shape[1] + 1, max_length)
    shift = (batch.lengths + 1 - width).clamp(min=0)
    lengths = batch.lengths + 1 - shift
    positions = torch.arange(width, device=lengths.device)
    source = (positions + shift[:, None]).clamp(max=batch.items.shape[1] - 1)
    is_event = positions < (lengths - 1)[:, None]

    def moved(column: Tensor) -> Tensor:
        return column.gather(1, source) * is_event

    # the masked event has the time of the last event: the time of the next event is unknown at inference
    last = batch.times.gather(1, (batch.lengths - 1).clamp(min=0)[:, None])
    times = torch.where(is_event, batch.times.gather(1, source), last * (positions < lengths[:, None]))
    weights, events = (None if column is None else moved(column) for column in (batch.weights, batch.events))
    return replace(
        batch, items=moved(batch.items), lengths=lengths, times=times, targets=None, weights=weights, events=events
    )


def appended_event_numbers(batch: Batch, *, max_length: int) -> Tensor:
    """Return the number of the event at each position after `append_masked_event`, (B, W).

    Numbers start at 1; 0 at the masked event and at padding.
    """
    numbers = torch.arange(1, batch.items.shape[1] + 1, device=batch.items.device)
    return append_masked_event(replace(batch, items=numbers.expand_as(batch.items)), max_length=max_length).items

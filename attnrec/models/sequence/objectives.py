"""What a training batch asks: next items, last items of sampled prefixes, or masked items.

Each takes a batch as it is cut from the log and gives the batch that the loss is computed on: `targets` are the
items asked for at a position, 0 where none is. Draws follow torch's generator of the CPU.
Shapes: B windows, L positions, P prefixes of a window.
"""

from dataclasses import replace

import torch
from torch import Tensor

from attnrec.dataset import Batch

LAST_ONLY = 0.2
"""Share of windows whose last item alone is masked, as when the model is asked (Sun et al. 2019, section 3.6)."""


def last_items(batch: Batch, *, n_prefixes: int) -> Batch:
    """Prefixes of each window, each asked for what followed its last event (Tan et al. 2016, arXiv:1606.08117).

    The places where windows end are drawn one from each of P equal parts, so that they are different; a window of
    fewer than P events gives all its prefixes. The longest come first, so that slices of a batch are even.
    """
    assert batch.targets is not None, "prefixes are cut from windows whose every event has a target"
    n = batch.lengths.clamp(max=n_prefixes)
    parts = torch.arange(n_prefixes, device=n.device)
    drawn = torch.rand(len(n), n_prefixes).to(n.device)
    ends = ((parts + drawn) * batch.lengths[:, None] / n.clamp(min=1)[:, None]).long()
    ends = ends.minimum(batch.lengths[:, None] - 1) + 1
    rows, places = (parts < n[:, None]).nonzero(as_tuple=True)
    lengths, order = ends[rows, places].sort(descending=True, stable=True)
    rows = rows[order]
    width = int(lengths[0]) if len(lengths) else 1
    at = torch.arange(width, device=n.device)
    cut = {
        name: column[rows, :width] * (at < lengths[:, None])
        for name in ("items", "times", "weights", "events")
        if (column := getattr(batch, name)) is not None
    }
    targets = batch.targets[rows, :width] * (at == lengths[:, None] - 1)
    before = {
        name: column[rows]
        for name in ("memory_items", "memory_lengths", "users")
        if (column := getattr(batch, name)) is not None
    }
    return replace(batch, lengths=lengths, targets=targets, **cut, **before)


def masked_items(batch: Batch, *, share: float) -> Batch:
    """Some items hidden (row 0) and asked for at their own places (Sun et al. 2019, arXiv:1904.06690, section 3.6).

    Each event with probability `share`, but at least one; in some windows the last one alone.
    """
    if not len(batch.lengths):
        return replace(batch, targets=batch.items)
    draws = torch.rand(batch.items.shape).to(batch.items.device).masked_fill(~batch.real, 1.0)
    least = draws.argmin(dim=1)
    last = (batch.lengths - 1).clamp(min=0)
    last_only = torch.rand(len(last)).to(last.device) < LAST_ONLY
    places = torch.arange(batch.items.shape[1], device=last.device)
    always = places == torch.where(last_only, last, least)[:, None]
    hidden = (always | ((draws < share) & ~last_only[:, None])) & batch.real
    return replace(batch, items=batch.items.masked_fill(hidden, 0), targets=batch.items * hidden)


def ask_next(batch: Batch, *, max_length: int) -> Batch:
    """The histories with one hidden event behind them, whose item is the one to be found; the oldest make room."""
    width = min(batch.items.shape[1] + 1, max_length)
    shift = (batch.lengths + 1 - width).clamp(min=0)
    lengths = batch.lengths + 1 - shift
    places = torch.arange(width, device=lengths.device)
    at = (places + shift[:, None]).clamp(max=batch.items.shape[1] - 1)
    known = places < (lengths - 1)[:, None]

    def moved(column: Tensor) -> Tensor:
        return column.gather(1, at) * known

    # its time is that of the last event: the model never knows when the next one will be
    last = batch.times.gather(1, (batch.lengths - 1).clamp(min=0)[:, None])
    times = torch.where(known, batch.times.gather(1, at), last * (places < lengths[:, None]))
    weights, events = (None if column is None else moved(column) for column in (batch.weights, batch.events))
    return replace(
        batch, items=moved(batch.items), lengths=lengths, times=times, targets=None, weights=weights, events=events
    )


def places_asked(batch: Batch, *, max_length: int) -> Tensor:
    """Which event of the history stands at each place of `ask_next`, (B, W).

    Counted from 1; 0 at the hidden event and at padding.
    """
    numbers = torch.arange(1, batch.items.shape[1] + 1, device=batch.items.device)
    return ask_next(replace(batch, items=numbers.expand_as(batch.items)), max_length=max_length).items

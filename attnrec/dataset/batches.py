"""Right-padded batches of histories of similar length, made by vectorised indexing of flat arrays.

Shapes: B histories (or training windows), L positions, M memory events. With right padding a causal mask is enough
to keep padding out of every real position; the loss is computed at real positions only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset.histories import Histories


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of B histories.

    Attributes:
        items: item rows, oldest first, 0 at padding, (B, L) int64.
        lengths: number of real positions of each history, (B,) int64.
        times: Unix seconds, 0 at padding, (B, L) int64.
        targets: item row of the next event at each position, 0 where there is no target, (B, L) int64.
        weights: interaction weights, (B, L) float32; None if the log has no weights.
        events: event type + 1, 0 at padding, (B, L) int64; None if the log has no event types.
        memory_items: item rows of the events before `items`, oldest first, (B, M) int64; None if the model uses no
            memory.
        memory_lengths: number of memory events of each history, (B,) int64.
        users: user rows in the training part, (B,) int64; set during training, so that a graph model can leave out
            edges of the users in the batch. Never an index into parameters.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor
    targets: Tensor | None = None
    weights: Tensor | None = None
    events: Tensor | None = None
    memory_items: Tensor | None = None
    memory_lengths: Tensor | None = None
    users: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """Padding mask: True at real positions, False at padding, (B, L) bool."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    @property
    def n_targets(self) -> int:
        """Number of terms of the loss: positions with a target; without targets, events of histories of 2 or more."""
        if self.targets is not None:
            return int((self.targets > 0).sum())
        return int(self.lengths[self.lengths > 1].sum())

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to `device`."""
        return self._map(lambda column: column.to(device, non_blocking=True))

    def slice(self, start: int, stop: int) -> "Batch":
        """Return histories `start` to `stop` (exclusive), trimmed to the longest of them."""
        part = self._map(lambda column: column[start:stop])
        width, memory_items = _width(part.lengths), part.memory_items
        part = part._map(lambda column: column[:, :width] if column.ndim == 2 else column)
        if memory_items is None or part.memory_lengths is None:
            return part
        return replace(part, memory_items=memory_items[:, : _width(part.memory_lengths)])

    def select(self, rows: Tensor) -> "Batch":
        """Return the histories at `rows` of the batch, (n,), without trimming."""
        return self._map(lambda column: column[rows])

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply `function` to every tensor that is set."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(column) for name, column in columns.items() if column is not None})


class EventTable:
    """The flat arrays of a log on a device, from which batches are gathered.

    Args:
        histories: the log; arrays on the CPU are shared, not copied.
        device: device of the batches.
    """

    def __init__(self, histories: Histories, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.items, self.times = self._put(histories.items), self._put(histories.times)
        self.weights = None if histories.weights is None else self._put(histories.weights)
        self.events = None if histories.events is None else self._put(histories.events)

    def gather(
        self,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        *,
        with_targets: bool = False,
        memory_starts: NDArray[np.int64] | None = None,
    ) -> Batch:
        """Gather one history per range of flat event positions.

        Args:
            starts, ends: history b consists of the events starts[b] to ends[b] (exclusive), (B,) each.
            with_targets: set the target of each event to the item of the next event in the flat arrays.
            memory_starts: events memory_starts[b] to starts[b] become the memory of history b, (B,).
        """
        lengths = torch.from_numpy(ends - starts)
        width = _width(lengths)
        lengths = lengths.to(self.device, non_blocking=True)
        positions = torch.arange(width, device=self.device)
        real = positions < lengths[:, None]
        index = (torch.from_numpy(starts).to(self.device, non_blocking=True)[:, None] + positions) * real

        def column(values: Tensor, dtype: torch.dtype, *, shift: int = 0, add: int = 0) -> Tensor:
            if not len(values):  # a log without events: there is nothing to index
                return torch.zeros(index.shape, dtype=dtype, device=self.device)
            return (values[index + shift * real].to(dtype) + add) * real

        memory = None if memory_starts is None else self.gather(memory_starts, starts)
        return Batch(
            items=column(self.items, torch.int64),
            lengths=lengths,
            times=column(self.times, torch.int64),
            targets=column(self.items, torch.int64, shift=1) if with_targets else None,
            weights=None if self.weights is None else column(self.weights, torch.float32),
            events=None if self.events is None else column(self.events, torch.int64, add=1),
            memory_items=None if memory is None else memory.items,
            memory_lengths=None if memory is None else memory.lengths,
        )

    def _put(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.asarray(values)).to(self.device)


def last_events(histories: Histories, users: NDArray[np.int64], *, max_length: int, memory_events: int = 0) -> Batch:
    """Return the last `max_length` visible events of each user as one batch.

    Args:
        histories: the log.
        users: user rows, (B,).
        max_length: events per user, at most.
        memory_events: events before those that are returned as memory, at most.
    """
    return _gather_last(EventTable(histories), histories, users, max_length, memory_events)


def user_batches(
    histories: Histories, users: NDArray[np.int64], *, max_length: int, batch_size: int, memory_events: int = 0
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Iterate over the last events of all `users` in batches of similar length, the longest first.

    With the largest batch first, the memory allocated for it is enough for all others.

    Args:
        histories: the log.
        users: user rows, (n_users,).
        max_length: events per user, at most.
        batch_size: users per batch.
        memory_events: see `last_events`.

    Yields:
        The indices into `users` of the batch's rows, (B,), and the batch.
    """
    order = np.argsort(-np.minimum(histories.lengths[users], max_length), kind="stable")
    table = EventTable(histories)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield indices, _gather_last(table, histories, users[indices], max_length, memory_events)


def _gather_last(
    table: EventTable, histories: Histories, users: NDArray[np.int64], max_length: int, memory_events: int
) -> Batch:
    firsts = histories.offsets[users]
    ends = firsts + histories.lengths[users]
    starts = np.maximum(firsts, ends - max_length)
    memory_starts = np.maximum(firsts, starts - memory_events) if memory_events else None
    return table.gather(starts, ends, memory_starts=memory_starts)


def _width(lengths: Tensor) -> int:
    return max(1, int(lengths.max())) if len(lengths) else 1

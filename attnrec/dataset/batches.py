"""Right-padded batches, cut from users of similar length by indexing flat arrays: no Python per user.

Shapes: B users (or windows of them), L positions. With right padding a causal mask alone keeps every
real position clean, and the loss is computed on the real positions only.
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
    """B histories.

    Attributes:
        items: item rows, oldest first, 0 after the end, (B, L) int64.
        lengths: real positions of each row, (B,) int64.
        times: Unix seconds, 0 after the end, (B, L) int64.
        targets: the item that followed each position, 0 where none is asked for, (B, L) int64.
        weights: (B, L) float32, where the log has them.
        events: kind of event + 1, (B, L) int64, where the log has them.
        older: item rows of events before these, oldest first, (B, M) int64, where a model asked for them.
        memory_lengths: how many there are, (B,) int64.
        users: rows in the training part, (B,) int64: what a graph was made of without them; never a parameter's rows.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor
    targets: Tensor | None = None
    weights: Tensor | None = None
    events: Tensor | None = None
    older: Tensor | None = None
    memory_lengths: Tensor | None = None
    users: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """True at real positions, (B, L) bool."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    @property
    def n_targets(self) -> int:
        """Positions a loss asks about: those with a target, or in sets all events of those who have another."""
        if self.targets is not None:
            return int((self.targets > 0).sum())
        return int(self.lengths[self.lengths > 1].sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return self._each(lambda column: column.to(device, non_blocking=True))

    def rows(self, first: int, end: int) -> "Batch":
        """Histories `first` to `end`, no wider than the longest of them."""
        part = self._each(lambda column: column[first:end])
        width, older = _width(part.lengths), part.older
        part = part._each(lambda column: column[:, :width] if column.ndim == 2 else column)
        if older is None or part.memory_lengths is None:
            return part
        return replace(part, older=older[:, : _width(part.memory_lengths)])

    def of(self, rows: Tensor) -> "Batch":
        """The histories of some rows, (n,); not trimmed."""
        return self._each(lambda column: column[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(column) for name, column in columns.items() if column is not None})


class EventTable:
    """The flat arrays of a log on a device; batches are cut from it by index arithmetic.

    Args:
        histories: whose events; arrays on the CPU are shared, not copied.
        device: where batches are made.
    """

    def __init__(self, histories: Histories, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.items, self.times = self._put(histories.items), self._put(histories.times)
        self.weights = None if histories.weights is None else self._put(histories.weights)
        self.events = None if histories.events is None else self._put(histories.events)

    def cut(
        self,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        *,
        with_targets: bool = False,
        older_starts: NDArray[np.int64] | None = None,
    ) -> Batch:
        """Events starts[b] to ends[b] of the flat arrays as history b; each event's target is the one behind it.

        Where they are asked for, events older_starts[b] to starts[b] are its older ones.
        """
        lengths = torch.from_numpy(ends - starts)
        width = _width(lengths)
        lengths = lengths.to(self.device, non_blocking=True)
        places = torch.arange(width, device=self.device)
        real = places < lengths[:, None]
        at = (torch.from_numpy(starts).to(self.device, non_blocking=True)[:, None] + places) * real

        def column(values: Tensor, dtype: torch.dtype, *, shift: int = 0, add: int = 0) -> Tensor:
            if not len(values):  # the only user has no event: there is nothing to index
                return torch.zeros(at.shape, dtype=dtype, device=self.device)
            return (values[at + shift * real].to(dtype) + add) * real

        older = None if older_starts is None else self.cut(older_starts, starts)
        return Batch(
            items=column(self.items, torch.int64),
            lengths=lengths,
            times=column(self.times, torch.int64),
            targets=column(self.items, torch.int64, shift=1) if with_targets else None,
            weights=None if self.weights is None else column(self.weights, torch.float32),
            events=None if self.events is None else column(self.events, torch.int64, add=1),
            memory_items=None if older is None else older.items,
            memory_lengths=None if older is None else older.lengths,
        )

    def _put(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.asarray(values)).to(self.device)


def last_events(histories: Histories, users: NDArray[np.int64], *, max_length: int, older: int = 0) -> Batch:
    """The last `max_length` visible events of each of `users`, and up to `older` before them, as one batch."""
    return _cut_last(EventTable(histories), histories, users, max_length, older)


def user_batches(
    histories: Histories, users: NDArray[np.int64], *, max_length: int, batch_size: int, older: int = 0
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """All of `users` in batches of similar length, each with the indices into `users` that it holds.

    The longest come first: what a smaller batch needs fits where a larger one was, so memory does not creep up.
    """
    order = np.argsort(-np.minimum(histories.lengths[users], max_length), kind="stable")
    table = EventTable(histories)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, _cut_last(table, histories, users[chosen], max_length, older)


def _cut_last(table: EventTable, histories: Histories, users: NDArray[np.int64], max_length: int, older: int) -> Batch:
    firsts = histories.offsets[users]
    ends = firsts + histories.lengths[users]
    starts = np.maximum(firsts, ends - max_length)
    return table.cut(starts, ends, older_starts=np.maximum(firsts, starts - older) if older else None)


class Windows:
    """Training windows that together cover every event once per epoch.

    With `next_item` every event but a user's first is a target exactly once; without, windows are sets and
    hold every event once. Long histories are cut from their end into windows of `max_length`. Batches hold
    windows of similar length; which ones, and in what order, depends on (seed, epoch) alone.

    Args:
        histories: the training part.
        max_length: most positions of a window.
        batch_size: windows of a batch, over all processes.
        next_item: whether the order counts.
        older: events before a window that come with it, at most.
        seed: of the order.
        device: where batches are made.
        process, n_processes: this process gets every n-th window of each batch.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        max_length: int,
        batch_size: int,
        next_item: bool = True,
        older: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        process: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.table = EventTable(histories, device=device)
        self.batch_size = batch_size
        self.next_item = next_item
        self.seed = seed
        self.mine = slice(process, None, n_processes)
        covered = np.maximum(histories.lengths - int(next_item), 0)
        n_windows = -(-covered // max_length)
        users = np.repeat(np.arange(histories.n_users), n_windows)
        first = np.cumsum(n_windows) - n_windows
        back = np.arange(len(users)) - first[users]  # 0 for the latest window of a user
        self.users = users
        self.ends = histories.offsets[users] + covered[users] - back * max_length
        self.starts = np.maximum(histories.offsets[users], self.ends - max_length)
        self.older_starts = np.maximum(histories.offsets[users], self.starts - older) if older else None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.starts) // self.batch_size)

    def epoch(self, epoch: int, *, first: int = 0, whole: bool = False) -> Iterator[Batch]:
        """The batches of one epoch, from batch number `first` on: this process's part, or `whole`."""
        random = np.random.default_rng((self.seed, epoch))
        length = self.ends - self.starts
        # shuffled, then sorted by length within pools of 32 batches: little padding, still random company
        order = random.permutation(len(length))
        pool = np.arange(len(order)) // (32 * self.batch_size)
        order = order[np.lexsort((length[order], pool))]
        for number in random.permutation(len(self))[first:]:
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            chosen = chosen if whole else chosen[self.mine]
            older_starts = None if self.older_starts is None else self.older_starts[chosen]
            batch = self.table.cut(
                self.starts[chosen], self.ends[chosen], with_targets=self.next_item, older_starts=older_starts
            )
            yield replace(batch, users=torch.from_numpy(self.users[chosen]).to(self.table.device))


def _width(lengths: Tensor) -> int:
    return max(1, int(lengths.max())) if len(lengths) else 1

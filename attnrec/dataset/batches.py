"""Right-padded batches, cut from users of similar length by indexing flat arrays: no Python per user.

Shapes: B users (or windows of them), L positions. With right padding a causal mask alone keeps every
real position clean, and the loss is computed on the real positions only.
"""

from collections.abc import Iterator
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
    """

    items: Tensor
    lengths: Tensor
    times: Tensor
    targets: Tensor | None = None
    weights: Tensor | None = None
    events: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """True at real positions, (B, L) bool."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in moved.items() if t is not None})


def last_events(histories: Histories, users: NDArray[np.int64], *, max_length: int) -> Batch:
    """The last `max_length` visible events of each of `users`, as one batch."""
    ends = histories.offsets[users] + histories.lengths[users]
    starts = np.maximum(histories.offsets[users], ends - max_length)
    return _cut(histories, starts, ends, with_targets=False)


def user_batches(
    histories: Histories, users: NDArray[np.int64], *, max_length: int, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """All of `users` in batches of similar length, each with the indices into `users` that it holds."""
    order = np.argsort(np.minimum(histories.lengths[users], max_length), kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, last_events(histories, users[chosen], max_length=max_length)


class Windows:
    """Training windows that together cover every event once per epoch.

    With `next_item` every event but a user's first is a target exactly once; without, windows are sets and
    hold every event once. Long histories are cut from their end into windows of `max_length`. Batches hold
    windows of similar length; which ones, and in what order, depends on (seed, epoch) alone.
    """

    def __init__(
        self, histories: Histories, *, max_length: int, batch_size: int, next_item: bool = True, seed: int = 0
    ) -> None:
        self.histories = histories
        self.batch_size = batch_size
        self.next_item = next_item
        self.seed = seed
        covered = np.maximum(histories.lengths - int(next_item), 0)
        n_windows = -(-covered // max_length)
        users = np.repeat(np.arange(histories.n_users), n_windows)
        first = np.cumsum(n_windows) - n_windows
        back = np.arange(len(users)) - first[users]  # 0 for the latest window of a user
        self.ends = histories.offsets[users] + covered[users] - back * max_length
        self.starts = np.maximum(histories.offsets[users], self.ends - max_length)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.starts) // self.batch_size)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch number `first` on."""
        random = np.random.default_rng((self.seed, epoch))
        length = self.ends - self.starts
        # shuffled, then sorted by length within pools of 32 batches: little padding, still random company
        order = random.permutation(len(length))
        pool = np.arange(len(order)) // (32 * self.batch_size)
        order = order[np.lexsort((length[order], pool))]
        for number in random.permutation(len(self))[first:]:
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield _cut(self.histories, self.starts[chosen], self.ends[chosen], with_targets=self.next_item)


def _cut(histories: Histories, starts: NDArray[np.int64], ends: NDArray[np.int64], *, with_targets: bool) -> Batch:
    lengths = ends - starts
    at = starts[:, None] + np.arange(max(1, int(lengths.max(initial=0))))
    real = at < ends[:, None]
    at = np.where(real, at, 0)

    def column(values: NDArray[np.generic], dtype: type, shift: int = 0) -> Tensor:
        if not len(values):  # the only user has no event: there is nothing to index
            return torch.from_numpy(np.zeros(at.shape, dtype))
        return torch.from_numpy(np.where(real, values[at + shift * real], 0).astype(dtype))

    return Batch(
        items=column(histories.items, np.int64),
        lengths=torch.from_numpy(lengths),
        times=column(histories.times, np.int64),
        targets=column(histories.items, np.int64, shift=1) if with_targets else None,
        weights=None if histories.weights is None else column(histories.weights, np.float32),
        events=None if histories.events is None else column(histories.events.astype(np.int64) + 1, np.int64),
    )

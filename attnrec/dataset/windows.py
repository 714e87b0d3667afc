"""Training windows: fixed-length parts of all histories, shuffled into batches of similar length."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from attnrec.dataset.batches import Batch, EventTable
from attnrec.dataset.histories import Histories


class Windows:
    """Training windows that together cover every event once per epoch.

    Long histories are split from their end into windows of `max_length` events. Batches contain windows of similar
    length. Their composition and order depend on (seed, epoch) only.

    Args:
        histories: the training part.
        max_length: positions per window, at most.
        batch_size: windows per batch, over all processes.
        next_item: True: every event except a user's first is a target exactly once. False: windows are unordered sets
            without targets that contain every event exactly once.
        memory_events: events before a window that are added as its memory, at most.
        seed: seed of the shuffling.
        device: device of the batches.
        process, n_processes: rank and number of processes; each process gets every n-th window of a batch.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        max_length: int,
        batch_size: int,
        next_item: bool = True,
        memory_events: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        process: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.table = EventTable(histories, device=device)
        self.batch_size = batch_size
        self.next_item = next_item
        self.seed = seed
        self.process_rows = slice(process, None, n_processes)
        n_inputs = np.maximum(histories.lengths - int(next_item), 0)
        n_windows = -(-n_inputs // max_length)
        users = np.repeat(np.arange(histories.n_users), n_windows)
        first = np.cumsum(n_windows) - n_windows
        windows_from_end = np.arange(len(users)) - first[users]  # 0 for the latest window of a user
        self.users = users
        self.ends = histories.offsets[users] + n_inputs[users] - windows_from_end * max_length
        self.starts = np.maximum(histories.offsets[users], self.ends - max_length)
        first_events = histories.offsets[users]
        self.memory_starts = np.maximum(first_events, self.starts - memory_events) if memory_events else None

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return -(-len(self.starts) // self.batch_size)

    def epoch(self, epoch: int, *, first_batch: int = 0, all_processes: bool = False) -> Iterator[Batch]:
        """Iterate over the batches of one epoch.

        Args:
            epoch: number of the epoch, part of the shuffling seed.
            first_batch: number of the batch to start at, to resume an epoch.
            all_processes: yield whole batches instead of this process's windows.
        """
        random = np.random.default_rng((self.seed, epoch))
        length = self.ends - self.starts
        # shuffle, then sort by length within pools of 32 batches: little padding, and batches stay random
        order = random.permutation(len(length))
        pool = np.arange(len(order)) // (32 * self.batch_size)
        order = order[np.lexsort((length[order], pool))]
        for number in random.permutation(len(self))[first_batch:]:
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            rows = rows if all_processes else rows[self.process_rows]
            memory_starts = None if self.memory_starts is None else self.memory_starts[rows]
            batch = self.table.gather(
                self.starts[rows], self.ends[rows], with_targets=self.next_item, memory_starts=memory_starts
            )
            yield replace(batch, users=torch.from_numpy(self.users[rows]).to(self.table.device))

"""Event context: learned vectors for the time since the previous event, the event type, and masked events.

Time gaps follow TiSASRec (Li, Wang & McAuley 2020, doi:10.1145/3336191.3371786), simplified to one vector per bucket of
the time since the previous event. Only times of the history are used, never the time of the predicted event.
Shapes: B users, L positions, D channels.
"""

import torch
from torch import Tensor, nn

from attnrec.attention.hstu import time_buckets
from attnrec.dataset import Batch
from attnrec.dataset.histories import UNKNOWN_EVENT

N_GAPS = 64
"""Buckets of time gaps; the last one begins at 7 years."""

N_EVENT_TYPES = 256
"""Event types are uint8 in the log."""


class EventContext(nn.Module):
    """Adds context vectors to the item vectors of events.

    Args:
        dim: D.
        masked: whether events may be masked (item row 0 at a real position); they get a learned vector.
        time_gaps: whether the time since the previous event is used.
        event_types: whether the event type is used.
    """

    def __init__(self, dim: int, *, masked: bool, time_gaps: bool, event_types: bool) -> None:
        super().__init__()
        self.masked = nn.Parameter(torch.randn(dim) * 0.02) if masked else None
        self.gaps = _small(nn.Embedding(N_GAPS + 1, dim)) if time_gaps else None
        self.types = _small(nn.Embedding(N_EVENT_TYPES + 1, dim)) if event_types else None
        if self.types is not None:
            nn.init.zeros_(self.types.weight[UNKNOWN_EVENT + 1 :])

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Add the context: (B, L, D) -> (B, L, D)."""
        if self.masked is not None:
            vectors = vectors + self.masked * (batch.real & (batch.items == 0))[..., None]
        if self.gaps is not None:
            vectors = vectors + self.gaps(gap_buckets(batch)) * batch.real[..., None]
        if self.types is not None:
            if batch.events is None:
                raise ValueError(
                    "event_types = true needs histories with event types, got histories without; "
                    "add the column event to the frame"
                )
            vectors = vectors + self.types(batch.events) * batch.real[..., None]
        return vectors


def gap_buckets(batch: Batch) -> Tensor:
    """Return the bucket of the time since the previous event, from 1; 0 at the first event, (B, L)."""
    gaps = batch.times.diff(dim=1)
    buckets = time_buckets(gaps, n_buckets=N_GAPS) + 1
    return nn.functional.pad(buckets, (1, 0))


def _small(embedding: nn.Embedding) -> nn.Embedding:
    nn.init.normal_(embedding.weight, std=0.02)
    return embedding

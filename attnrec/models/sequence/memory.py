"""Events older than the window, compressed to a few vectors that stand before it (see `attention.compressed`).

Memory and window make one right-padded sequence, so every encoder takes it, and causality is what it was: a vector of
the memory sees earlier ones alone, an event of the window sees all of the memory.
Shapes: B users, L positions, M memory vectors, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnrec.attention.compressed import CompressedHistory
from attnrec.dataset import Batch


@dataclass(frozen=True, eq=False)
class Seen:
    """What an encoder sees: the window, or memory and window in one sequence.

    Attributes:
        vectors: (B, M + L, D), right-padded.
        lengths: (B,).
        times: (B, M + L); a memory vector has the time of the first event of the window.
        at: where the window's positions are, (B, L); None where there is nothing else.
    """

    vectors: Tensor
    lengths: Tensor
    times: Tensor
    at: Tensor | None = None

    def of_window(self, states: Tensor) -> Tensor:
        """States (B, M + L, D) -> those of the window, (B, L, D)."""
        assert self.at is not None, "there is a memory to leave out"
        return states.gather(1, self.at[..., None].expand(-1, -1, states.shape[-1]))


class CompressedMemory(nn.Module):
    """Compresses what came before the window and puts it in front.

    Args:
        dim: D.
        block: events that become one vector.
    """

    def __init__(self, dim: int, *, block: int) -> None:
        super().__init__()
        self.compressed = CompressedHistory(dim, block=block)
        self.norm = nn.LayerNorm(dim)
        self.mark = nn.Parameter(torch.randn(dim) * 0.02)  # says that this is memory and no event
        with torch.no_grad():
            self.norm.weight.fill_(0.02)  # as small as item vectors are at the start

    def forward(self, vectors: Tensor, older: Tensor, batch: Batch) -> Seen:
        """Join the older events' item vectors (B, O, D) and the window's vectors (B, L, D)."""
        assert batch.memory_lengths is not None, "older events come with their number"
        memory, allowed = self.compressed(older, lengths=batch.memory_lengths)
        memory, n_memory = self.norm(memory) + self.mark, allowed.sum(1)
        both = torch.cat([memory, vectors], dim=1)
        width, n_slots = vectors.shape[1], memory.shape[1]
        places = torch.arange(n_slots + width, device=both.device)
        from_window = places >= n_memory[:, None]
        # memory first, then the window, then whatever is left, which is padding
        source = torch.where(from_window, places - n_memory[:, None] + n_slots, places).clamp(max=n_slots + width - 1)
        window = torch.arange(width, device=both.device) + n_memory[:, None]
        lengths = n_memory + batch.lengths
        times = torch.cat([batch.times[:, :1].expand(-1, n_slots), batch.times], dim=1)
        real = (places < lengths[:, None])[..., None]
        joined = both.gather(1, source[..., None].expand(-1, -1, both.shape[-1])) * real
        return Seen(joined, lengths, times.gather(1, source) * real[..., 0], window)

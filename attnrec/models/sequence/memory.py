"""Events before the window, compressed to a few vectors that are prepended to it (see `attention.compressed`).

Memory and window form one right-padded sequence, so that every encoder can read it. It stays causal: a memory vector
depends on earlier memory vectors only, and an event of the window can attend to the whole memory.
Shapes: B users, L positions, M memory vectors, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnrec.attention.compressed import HistoryCompressor
from attnrec.dataset import Batch


@dataclass(frozen=True, eq=False)
class EncoderInputs:
    """Input sequence of an encoder: the window, or memory and window.

    Attributes:
        vectors: (B, M + L, D), right-padded.
        lengths: (B,).
        times: (B, M + L); a memory vector has the time of the first event of the window.
        window_positions: positions of the window's events in the sequence, (B, L); None without a memory.
    """

    vectors: Tensor
    lengths: Tensor
    times: Tensor
    window_positions: Tensor | None = None

    def select_window(self, states: Tensor) -> Tensor:
        """Select the states of the window: (B, M + L, D) -> (B, L, D)."""
        assert self.window_positions is not None, "the sequence has a memory"
        return states.gather(1, self.window_positions[..., None].expand(-1, -1, states.shape[-1]))


class CompressedMemory(nn.Module):
    """Compresses the events before the window and prepends them to it.

    Args:
        dim: D.
        block: events per memory vector.
    """

    def __init__(self, dim: int, *, block: int) -> None:
        super().__init__()
        self.compressed = HistoryCompressor(dim, block=block)
        self.norm = nn.LayerNorm(dim)
        self.type_embedding = nn.Parameter(torch.randn(dim) * 0.02)  # distinguishes memory vectors from events
        with torch.no_grad():
            self.norm.weight.fill_(0.02)  # as small as item vectors are at initialisation

    def forward(self, vectors: Tensor, memory_vectors: Tensor, batch: Batch) -> EncoderInputs:
        """Join the item vectors of earlier events (B, O, D) with those of the window (B, L, D)."""
        assert batch.memory_lengths is not None, "memory_items come with memory_lengths"
        memory, allowed = self.compressed(memory_vectors, lengths=batch.memory_lengths)
        memory, n_memory = self.norm(memory) + self.type_embedding, allowed.sum(1)
        both = torch.cat([memory, vectors], dim=1)
        width, n_slots = vectors.shape[1], memory.shape[1]
        positions = torch.arange(n_slots + width, device=both.device)
        in_window = positions >= n_memory[:, None]
        # memory first, then the window; what remains is padding
        source = torch.where(in_window, positions - n_memory[:, None] + n_slots, positions)
        source = source.clamp(max=n_slots + width - 1)
        window_positions = torch.arange(width, device=both.device) + n_memory[:, None]
        lengths = n_memory + batch.lengths
        times = torch.cat([batch.times[:, :1].expand(-1, n_slots), batch.times], dim=1)
        real = (positions < lengths[:, None])[..., None]
        joined = both.gather(1, source[..., None].expand(-1, -1, both.shape[-1])) * real
        return EncoderInputs(joined, lengths, times.gather(1, source) * real[..., 0], window_positions)

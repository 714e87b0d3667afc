"""Training loss of sequence models: item loss, terms of attention kernels, and the loss of a random walk.

Shapes: B users, L positions, T positions with a target, D channels, N = n_items + 1 item rows.
"""

from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.attention import AttentionKernel
from attnrec.dataset import Batch
from attnrec.encoders import Encoder
from attnrec.models.item_scores import ItemScorer, VectorEncoding
from attnrec.models.sequence.config import SequenceConfig
from attnrec.models.sequence.readouts import Readout
from attnrec.models.sequence.walk_product import WalkProduct


class HasSequenceLoss(Protocol):
    """The parts of `SequenceModel` that its loss needs."""

    config: SequenceConfig
    item_scorer: ItemScorer
    encoder: Encoder
    readout: Readout
    walk_product: WalkProduct | None

    def item_table(self) -> Tensor:
        """Item vectors (N, D)."""
        ...

    def states(self, vectors: Tensor, batch: Batch, table: Tensor) -> Tensor:
        """Encoder states (B, L, D)."""
        ...


def sequence_loss(model: HasSequenceLoss, batch: Batch) -> Tensor:
    """See `Model.loss`; the batch is the result of `make_targets`."""
    assert batch.targets is not None, "a training batch has targets"
    table, config, readout, walk = model.item_table(), model.config, model.readout, model.walk_product
    vectors, has_target = F.embedding(batch.items, table, padding_idx=0), batch.targets > 0
    states, values = model.states(vectors, batch, table), readout.values(vectors)
    if config.objective == "last_item":
        users = readout.at_last_position(states, values, lengths=batch.lengths).users[has_target.any(1)]
    else:
        users = readout.at_all_positions(states, values)[has_target]
    encoded = VectorEncoding(model.item_scorer, table.detach(), users.detach(), None, None)
    loss = _kernel_terms(model, encoded, has_target, batch)
    if walk is None:
        return model.item_scorer.loss(users, batch.targets[has_target], table=table, config=config) + loss
    trained = has_target & ~walk.is_holdout(batch)[:, None]
    if trained.any():
        rows = trained[has_target]
        encoder_loss = model.item_scorer.loss(users[rows], batch.targets[trained], table=table, config=config)
        loss = loss + encoder_loss * rows.float().mean()
    return walk.loss(encoded, batch, has_target) + loss


def _kernel_terms(model: HasSequenceLoss, encoded: VectorEncoding, has_target: Tensor, batch: Batch) -> Tensor | float:
    """Penalties of attention kernels, and surrogate losses of kernels that have sampled."""
    kernels = [module for module in model.encoder.modules() if isinstance(module, AttentionKernel)]
    terms = [kernel.penalty() for kernel in kernels]
    if any(kernel.has_sampled for kernel in kernels):
        assert batch.targets is not None, "a training batch has targets"
        losses = _history_losses(encoded, batch.targets[has_target], has_target.nonzero()[:, 0], n=len(has_target))
        terms += [kernel.surrogate_loss(losses, real=batch.real) for kernel in kernels]
    return sum(term for term in terms if term is not None)


@torch.no_grad()
def _history_losses(encoded: VectorEncoding, targets: Tensor, owners: Tensor, *, n: int) -> Tensor:
    """Mean cross-entropy of each of n histories, (n,), from T user vectors of the histories `owners` (T,)."""
    losses = torch.cat(
        [
            F.cross_entropy(replace(encoded, users=users).scores()[:, 1:], items - 1, reduction="none")
            for users, items in zip(encoded.users.split(512), targets.split(512), strict=True)
        ]
    )
    counts = torch.bincount(owners, minlength=n).clamp(min=1)
    return losses.new_zeros(n).index_add_(0, owners, losses) / counts

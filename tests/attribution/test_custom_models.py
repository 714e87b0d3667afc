"""A custom model takes part in attribution, faithfulness and analyses through the optional capabilities of `Model`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attnrec.analysis.attention_spread import attention_spread
from attnrec.analysis.head_pruning import list_heads, prune_heads
from attnrec.attribution import METHODS, attribute
from attnrec.faithfulness import measure
from attnrec.models import Model
from attnrec.models.attention_weights import AttentionLayers, ReadoutWeights

CONTROLS = {name for name, method in METHODS.items() if method.control} - {"item_cosine"}
SCORES_ONLY = {"leave_one_out", "shapley", "lime"} | CONTROLS


class WeightedMean(Model):
    """Score of an item = item vector @ weighted mean of the vectors of the events; no optional capability."""

    kind, paper = "weighted_mean", "none"

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(max_length=8), 5)
        torch.manual_seed(1)
        self.vectors = torch.nn.Parameter(torch.randn(6, 4))
        self.logits = torch.nn.Parameter(torch.randn(6))

    def encode(self, batch):
        return self._encode(batch, self.vectors[batch.items])

    def _encode(self, batch, vectors):
        parts = self._weights(batch)[..., None] * vectors
        return SimpleNamespace(
            weights=None,
            scores=lambda items=None: self._scores(parts.sum(1), items),
            contributions=lambda items: parts @ self.vectors[items].mT,
        )

    def _weights(self, batch):
        return self.logits[batch.items].masked_fill(~batch.real, -1e9).softmax(1) * batch.real

    def _scores(self, users, items=None):
        scores = users @ self.vectors.mT
        return scores if items is None else scores.gather(-1, items)

    def item_bias(self):
        return torch.zeros(6)


class CapableModel(WeightedMean):
    """The same model with all capabilities."""

    def item_vectors(self):
        return self.vectors

    def encode_vectors(self, batch, vectors):
        return self._encode(batch, vectors)

    def readout_weights(self, batch):
        vectors = self.vectors[batch.items]
        return ReadoutWeights(self._weights(batch)[:, None], lambda w: w[:, 0, :, None] * vectors, self._scores)

    def attention_layers(self, batch):
        n_users, n_events = batch.items.shape
        uniform = batch.real.float() / batch.lengths.clamp(min=1)[:, None]
        weights = uniform[:, None, None].expand(-1, 2, n_events, -1)
        numbers = torch.arange(1, n_events + 1).expand(n_users, -1)
        return AttentionLayers([weights], batch.lengths, numbers, batch.real, supports_rollout=True)

    def head_weights(self):
        return {("readout", 0): [self.vectors]}


@pytest.fixture
def batch(make_batch):
    return make_batch([1, 3, 5], [2])


def test_a_model_without_capabilities_supports_methods_that_use_scores_alone(batch):
    supported = {name for name, method in METHODS.items() if method.works_for(WeightedMean())}
    assert supported == SCORES_ONLY | {"contribution"}
    assert list_heads(WeightedMean()) == []


def test_a_model_with_all_capabilities_supports_all_methods_but_weight(batch):
    model, items = CapableModel(), torch.tensor([[2, 4], [1, 3]])
    assert {name for name, method in METHODS.items() if method.works_for(model)} == set(METHODS) - {"weight"}
    exact = attribute(model, batch, items, method="contribution")
    for method in ("gradient_x_input", "integrated_gradients"):  # the score is linear in the vectors
        torch.testing.assert_close(attribute(model, batch, items, method=method), exact, rtol=1e-3, atol=1e-4)
    effects = attribute(model, batch, items, method="leave_one_out")
    torch.testing.assert_close(attribute(model, batch, items, method="renormalized"), effects, rtol=1e-4, atol=1e-5)
    weights = model.readout_weights(batch).weights[:, 0]
    rollout = attribute(model, batch, items, method="attention_rollout")[..., 0]
    # one layer of uniform attention and its residual
    uniform = batch.real / batch.lengths[:, None]
    torch.testing.assert_close(rollout, (weights + uniform) / 2)


def test_analyses_use_the_capabilities_of_a_custom_model(make_histories):
    model, histories = CapableModel(), make_histories({"ann": "abcd", "bob": "ce", "cid": "abe"})
    measured = measure(model, histories, np.arange(3), methods=["contribution", "renormalized", "random"])
    assert measured.methods == ["contribution", "renormalized", "random"]
    assert len(measured.permutation) == 3
    spread = attention_spread(model, histories, np.arange(3))
    assert spread["layer"].tolist() == ["layer 1"]
    assert spread["normalised_entropy"].tolist() == pytest.approx([1])
    pruned = prune_heads(model, [("readout", 0)])
    assert not pruned.vectors.any()
    assert model.vectors.any()

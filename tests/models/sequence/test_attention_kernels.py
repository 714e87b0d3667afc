"""Sequence models with every attention kernel: a shorter version of test_models."""

from dataclasses import replace

import pytest
import torch

from attnrec.attention import ATTENTION_KERNELS, AttentionKernel, AttentionOutput
from attnrec.attention.scaled_dot import allowed_pairs
from attnrec.models import SequenceConfig, SequenceModel, build_model

N_ITEMS, LENGTH = 30, 40
SETTINGS = {"local_global": {"window": 6, "n_global": 1}, "top_k": {"k": 3}, "adaptive_span": {"ramp": 5}}
NOT_CAUSAL = ["linformer"]
CAUSAL = [name for name in ATTENTION_KERNELS if name not in NOT_CAUSAL]


def config_of(name: str, readout: str = "pooling") -> SequenceConfig:
    return SequenceConfig(
        attention=name,
        attention_settings=SETTINGS.get(name, {}),
        readout=readout,
        dim=16,
        heads=2,
        pooling_heads=2,
        layers=2,
        max_length=LENGTH,
        dropout=0.1,
    )


@pytest.fixture(params=CAUSAL)
def model(request) -> SequenceModel:
    """A model with large random weights, so that every part of it affects the scores."""
    torch.manual_seed(5)
    model = build_model(config_of(request.param), N_ITEMS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.0 if "norm" in name else 0.3))
    return model.eval()


@pytest.fixture
def batch(make_batch):
    """Three histories, the longest of 39 events, with the next item of each event as target."""
    random = torch.Generator().manual_seed(2)
    rows = [torch.randint(1, N_ITEMS + 1, (length + 1,), generator=random).tolist() for length in (39, 17, 1)]
    histories = make_batch(*(row[:-1] for row in rows))
    return replace(histories, targets=make_batch(*(row[1:] for row in rows)).items)


@pytest.mark.parametrize("readout", ["pooling", "last"])
@pytest.mark.parametrize("name", CAUSAL)
def test_training_steps_change_every_weight(name, readout, batch):
    torch.manual_seed(5)
    model = build_model(config_of(name, readout), N_ITEMS).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(2):  # a factor that is zero at initialisation has no effect in the first step
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])} == set()


def test_the_loss_at_a_position_does_not_depend_on_later_items(model, batch):
    for position in (0, 7, 20):
        only = torch.zeros_like(batch.targets)
        only[:, position] = batch.targets[:, position]
        losses = []
        for changed in (slice(0), slice(position + 1, None), slice(position, position + 1)):
            items = batch.items.clone()
            items[:, changed] = items[:, changed] % N_ITEMS + 1
            losses.append(model.loss(replace(batch, items=items, targets=only)).item())
        before, later_changed, itself_changed = losses
        assert later_changed == pytest.approx(before, abs=1e-5)
        assert itself_changed != pytest.approx(before, abs=1e-3)


def test_scores_do_not_depend_on_padding_or_on_the_other_users_of_the_batch(model, make_batch, batch):
    histories = [row[:n].tolist() for row, n in zip(batch.items, batch.lengths, strict=True)]
    together = model.score(make_batch(*histories, []))
    for history, scores in zip([*histories, []], together, strict=True):
        torch.testing.assert_close(model.score(make_batch(history))[0], scores, rtol=1e-4, atol=1e-4)


def test_contributions_and_item_bias_sum_to_the_score(model, batch):
    items = torch.arange(N_ITEMS + 1).expand(3, -1)
    with torch.inference_mode():
        parts, scores = model.contributions(batch, items), model.score(batch)
    torch.testing.assert_close(parts.sum(1) + model.item_bias(), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_a_kernel_without_a_causal_form_is_rejected_with_the_settings(name):
    with pytest.raises(ValueError, match="can't be causal"):
        config_of(name)


def test_at_last_position_returns_the_last_of_all_states(model, batch):
    vectors = model.item_scorer(batch.items)
    states = model.encoder(vectors, lengths=batch.lengths, times=batch.times)
    alone = model.encoder.at_last_position(vectors, lengths=batch.lengths, times=batch.times)
    torch.testing.assert_close(alone, states[torch.arange(len(alone)), batch.lengths - 1], rtol=1e-4, atol=1e-5)


def test_a_sampling_kernel_gets_gradients_from_its_surrogate_loss(batch):
    # with one layer, queries and keys get gradients from REINFORCE only; other gradients flow through the values
    torch.manual_seed(5)
    settings = config_of("top_k").model_dump() | {"layers": 1, "attention_settings": {"k": 3, "estimator": "reinforce"}}
    model = build_model(SequenceConfig(**settings), N_ITEMS).train()
    before = model.encoder.blocks[0].attention.kernel.baseline.weight.item()
    model.loss(batch).backward()
    kernel = model.encoder.blocks[0].attention.kernel
    assert kernel.has_sampled
    assert kernel.log_probability.shape == (3, 39)
    assert before == 0 < kernel.baseline.weight.item()
    query_and_key = model.encoder.blocks[0].attention.project_in.weight.grad[: 2 * 16]
    assert query_and_key.abs().sum() > 0
    model.eval()
    model.score(batch)
    assert not kernel.has_sampled


def test_the_span_penalty_shortens_spans(batch):
    spans = []
    for weight in (0.0, 100.0):
        torch.manual_seed(5)
        settings = config_of("adaptive_span").model_dump() | {"attention_settings": {"ramp": 5, "span_weight": weight}}
        model = build_model(SequenceConfig(**settings), N_ITEMS).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()
        spans.append(model.encoder.blocks[0].attention.kernel.spans().mean().item())
    assert spans[1] < spans[0] - 1


class LastEvent(AttentionKernel):
    """A user-defined kernel: all attention on the last allowed event."""

    paper = "this test"
    weights_kind = "normalised"

    def forward(self, q, k, v, *, allowed=None, causal=False, need_weights=False, times=None):
        pairs = allowed_pairs(q, k, allowed=allowed, causal=causal).expand(*q.shape[:-1], k.shape[-2])
        positions = torch.arange(k.shape[-2]) * pairs
        weights = (positions == positions.amax(-1, keepdim=True)) & pairs
        return AttentionOutput(weights.to(v.dtype) @ v, weights.to(v.dtype) if need_weights else None)


def test_a_user_defined_kernel_is_used_in_every_layer(monkeypatch, batch):
    monkeypatch.setitem(ATTENTION_KERNELS, "mine", LastEvent)
    settings = config_of("scaled_dot").model_dump() | {"attention": "mine", "layers": 1}
    model = build_model(SequenceConfig(**settings), N_ITEMS).eval()
    assert model.description.startswith("attnrec-mine-")
    (weights,) = model.attention_layers(batch).from_last_state()
    assert (weights.argmax(-1) == (batch.lengths - 1)[:, None]).all()
    model.train().loss(batch).backward()
    assert model.item_scorer.embedding.weight.grad.any()

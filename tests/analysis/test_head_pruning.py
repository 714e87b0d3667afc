"""Masking and pruning of heads, for models with random weights and models with hand-set heads."""

from copy import deepcopy

import pandas as pd
import pytest
import torch

from attnrec.analysis.head_pruning import (
    head_importance,
    least_important_heads,
    list_heads,
    mask_heads,
    prune_heads,
    pruning_curve,
)
from attnrec.attention import ATTENTION_KERNELS, HSTUBlock, MultiHeadAttention
from attnrec.dataset import split_last
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import PopularityConfig, build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, save_model

SMALL = {"dim": 16, "max_length": 8}
N_ITEMS = 12
STEP = 2  # on the checkerboard the next item is two rows further

KINDS = {
    "attnrec": ("attnrec", {"heads": 4, "layers": 2, "pooling_heads": 4}),
    "sasrec": ("sasrec", {"heads": 2, "layers": 2}),
    "bidirectional": ("bert4rec", {"heads": 2, "layers": 1}),
    "hstu": ("hstu", {"heads": 2, "layers": 2}),
    "hstu with memory attention": ("hstu", {"heads": 2, "layers": 1, "attention": "memory"}),
    "hstu with pooling": ("hstu", {"heads": 2, "layers": 1, "readout": "pooling", "pooling_heads": 2}),
    "gru with pooling": ("attnrec", {"encoder": "gru", "pooling_heads": 2}),
    "gat": ("gat", {"heads": 2, "pooling_heads": 4}),
}
# linformer has no causal form; hstu is a kernel of the encoder hstu
CAUSAL_KERNELS = [name for name in ATTENTION_KERNELS if name not in ("linformer", "hstu")]


def with_noise(kind: str, **settings):
    """Return a model with large random weights."""
    torch.manual_seed(5)
    model = build_model(model_config(kind, SMALL | settings), N_ITEMS).eval()
    if kind == "gat":
        model.table.normal_()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def model_of(name: str):
    kind, settings = KINDS[name]
    return with_noise(kind, **settings)


@pytest.fixture
def batch(make_batch):
    return make_batch([1, 2, 3, 4, 5], [7, 9], [12], [3, 3, 3], length=6)


@pytest.fixture
def holdout(checkerboard):
    return split_last(checkerboard.histories).validation


def scores_of(model, batch, heads=()):
    with mask_heads(model, heads), torch.inference_mode():
        return model.encode(batch).scores()


def bits(model) -> dict[str, torch.Tensor]:
    """Return all weights as integers, so that -0 differs from 0 and NaN equals itself."""
    return {
        name: x.detach().clone().view(torch.int32) if x.dtype == torch.float32 else x.clone()
        for name, x in model.state_dict().items()
    }


def change_head(model, layer: str, head: int) -> None:
    """Change all weights that this head alone uses: gates, queries, keys, values, those of the kernel."""
    if layer == "readout":
        pooling = getattr(model.readout, "pooling", None) if hasattr(model, "readout") else model.pooling
        values = model.readout.item_values if hasattr(model, "readout") else model.values
        heads, parts = pooling.heads, [values.linear, values.network[-1]]
        parts += [pooling.query, pooling.key] if hasattr(pooling, "query") else []
        rows = [weight for part in parts for weight in part.parameters()]
        tables = [pooling.logits[2].weight, pooling.logits[2].bias] if hasattr(pooling, "logits") else []
    else:
        blocks = [x for x in model.encoder.modules() if isinstance(x, MultiHeadAttention | HSTUBlock)]
        block = blocks[int(layer.split()[1]) - 1]
        heads = block.heads
        rows = [
            part for x in block.project_in.parameters() for part in x.chunk(4 if isinstance(block, HSTUBlock) else 3)
        ]
        tables = [x for x in block.kernel.parameters() if len(x) == heads]
    width = SMALL["dim"] // heads
    with torch.no_grad():
        for part in rows:
            part[head * width : (head + 1) * width] += torch.randn(())
        for table in tables:
            table[head] += 1


# --- masking


@pytest.mark.parametrize("name", KINDS)
def test_scores_do_not_depend_on_the_weights_of_a_masked_head(name, batch):
    model = model_of(name)
    for layer, head in list_heads(model):
        other = deepcopy(model)
        change_head(other, layer, head)
        assert not torch.equal(scores_of(other, batch), scores_of(model, batch))
        assert torch.equal(scores_of(other, batch, [(layer, head)]), scores_of(model, batch, [(layer, head)]))
        assert not torch.equal(scores_of(model, batch, [(layer, head)]), scores_of(model, batch))


@pytest.mark.parametrize("encoder", ["self_attention", "hstu"])
@pytest.mark.parametrize("attention", CAUSAL_KERNELS)
def test_heads_of_every_kernel_can_be_masked(encoder, attention, batch):
    model = with_noise("attnrec", encoder=encoder, attention=attention, layers=1, heads=2, pooling_heads=2)
    for head in (0, 1):
        other = deepcopy(model)
        change_head(other, "layer 1", head)
        assert not torch.equal(scores_of(other, batch), scores_of(model, batch))
        heads = [("layer 1", head)]
        assert torch.equal(scores_of(other, batch, heads), scores_of(model, batch, heads))


def test_scores_depend_on_the_heads_that_are_not_masked(batch):
    model = model_of("attnrec")
    others = [head for head in list_heads(model) if head != ("layer 2", 1)]
    other = deepcopy(model)
    change_head(other, "readout", 3)
    assert not torch.equal(scores_of(other, batch, [("readout", 2)]), scores_of(model, batch, [("readout", 2)]))
    assert scores_of(model, batch, others).isfinite().all()


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_restored_bit_for_bit_after_masking_and_after_an_error(name):
    model = model_of(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[0] = -0.0
            parameter.view(-1)[-1] = float("nan")
    before, heads = bits(model), list_heads(model)
    with mask_heads(model, [*heads, heads[0]]):  # one of them twice
        assert any(not torch.equal(x, before[key]) for key, x in bits(model).items())
    with pytest.raises(RuntimeError, match="on purpose"), mask_heads(model, heads):
        raise RuntimeError("on purpose")
    after = bits(model)
    assert all(torch.equal(after[key], x) for key, x in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_heads_are_listed_in_the_order_of_layers():
    heads = list_heads(with_noise("attnrec", layers=11, heads=1, pooling_heads=2))
    assert heads == [*((f"layer {n}", 0) for n in range(1, 12)), ("readout", 0), ("readout", 1)]


# --- importance


def model_with_one_useful_head(head: int, *, layers: int = 1, heads: int = 2):
    """Return a model that solves the checkerboard with one pooling head; the other heads do not change the scores.

    An item vector is one-hot in that head's half of the channels; its value is the item two rows further; attention
    is uniform. So the user vector is the mean of the successors of the seen items, of which one is unseen: the target.
    """
    settings = {"dim": 2 * N_ITEMS, "max_length": 8, "layers": layers, "heads": heads, "pooling_heads": 2}
    torch.manual_seed(0)
    model = build_model(model_config("attnrec", settings), N_ITEMS)
    channels = slice(head * N_ITEMS, (head + 1) * N_ITEMS)
    values, pooling = model.readout.item_values, model.readout.pooling
    with torch.no_grad():
        for part in (pooling.query, pooling.key, values.linear, values.network[-1]):
            for parameter in part.parameters():
                parameter.zero_()
        model.item_scorer.embedding.weight.zero_()
        model.item_scorer.embedding.weight[1:, channels] = torch.eye(N_ITEMS)
        model.item_scorer.bias.zero_()
        values.linear.weight[channels, channels] = torch.eye(N_ITEMS).roll(STEP, dims=0)
    return model


@pytest.mark.parametrize("head", [0, 1])
def test_the_only_useful_head_is_the_most_important(head, holdout):
    model = model_with_one_useful_head(head, layers=3, heads=8)
    assert evaluate(model, holdout, ks=(1,)).summary["ndcg_at_1"] == 1
    result = head_importance(model, holdout, metric="ndcg_at_1")
    assert result.columns.tolist() == ["layer", "head", "metric_without", "drop"]
    # the others have no effect, and ties are in the order of the model
    others = [(f"layer {layer}", number) for layer in (1, 2, 3) for number in range(8)]
    names = [("readout", head), *others, ("readout", 1 - head)]
    assert list(zip(result["layer"], result["head"], strict=True)) == names
    assert result["drop"].tolist() == [1 - result["metric_without"][0], *[0] * 25]
    assert result["metric_without"].tolist()[1:] == [1] * 25
    # without a user vector all items are tied and the first unseen one is recommended: correct for 1 of 12 users
    assert result["metric_without"][0] == pytest.approx(1 / 12)


@pytest.mark.parametrize("filter_viewed", [True, False])
def test_importance_equals_the_evaluation_of_the_pruned_model(filter_viewed, holdout):
    model = model_of("attnrec")
    before = bits(model)
    result = head_importance(model, holdout, metric="mrr_at_3", filter_viewed=filter_viewed)
    after = bits(model)
    assert all(torch.equal(after[key], x) for key, x in before.items())
    full = evaluate(model, holdout, ks=(3,), filter_viewed=filter_viewed).summary["mrr_at_3"]
    assert result["drop"].is_monotonic_decreasing
    assert len(result) == 2 * 4 + 4
    for row in result.to_dict("records"):
        pruned = prune_heads(model, [(row["layer"], row["head"])])
        value = evaluate(pruned, holdout, ks=(3,), filter_viewed=filter_viewed).summary["mrr_at_3"]
        assert row["metric_without"] == value
        assert row["drop"] == full - value


# --- the curve


def test_the_curve_removes_all_heads_the_least_important_first(holdout):
    model = model_with_one_useful_head(1)
    importance = head_importance(model, holdout, metric="ndcg_at_1")
    curve = pruning_curve(model, holdout, importance, metric="ndcg_at_1")
    assert curve.columns.tolist() == ["n_removed", "layer", "head", "metric", "change"]
    assert curve["n_removed"].tolist() == [1, 2, 3, 4]
    removed = [("readout", 0), ("layer 1", 1), ("layer 1", 0), ("readout", 1)]
    assert list(zip(curve["layer"], curve["head"], strict=True)) == removed
    assert curve["metric"].tolist() == [1, 1, 1, importance["metric_without"][0]]
    assert curve["change"].tolist() == [0, 0, 0, -importance["drop"][0]]


def test_every_point_of_the_curve_equals_a_pruned_model(holdout):
    model = model_of("sasrec")
    importance = head_importance(model, holdout)
    curve = pruning_curve(model, holdout, importance)
    full = evaluate(model, holdout, ks=(10,)).summary["ndcg_at_10"]
    for row in curve.to_dict("records"):
        pruned = prune_heads(model, least_important_heads(importance, row["n_removed"]))
        value = evaluate(pruned, holdout, ks=(10,)).summary["ndcg_at_10"]
        assert (row["metric"], row["change"]) == (value, value - full)
    assert len(curve) == len(list_heads(model))


# --- the pruned copy


@pytest.mark.parametrize("name", KINDS)
def test_the_pruned_copy_equals_the_masked_model_and_can_be_saved(name, batch, checkerboard, tmp_path):
    model = model_of(name)
    before, heads = bits(model), list_heads(model)[::2]
    pruned = prune_heads(model, heads)
    after = bits(model)
    assert all(torch.equal(after[key], x) for key, x in before.items())
    assert torch.equal(scores_of(pruned, batch), scores_of(model, batch, heads))
    save_model(SavedModel(pruned, checkerboard.histories.item_ids), tmp_path)
    loaded = load_model(tmp_path).model
    assert loaded.config == model.config
    assert torch.equal(scores_of(loaded, batch), scores_of(model, batch, heads))


def test_a_copy_without_removed_heads_equals_the_model(batch):
    model = model_of("attnrec")
    assert torch.equal(scores_of(prune_heads(model, []), batch), scores_of(model, batch))


@pytest.mark.parametrize("name", ["attnrec", "hstu with pooling", "gru with pooling", "gat"])
def test_contributions_of_a_pruned_model_sum_to_the_scores(name, batch):
    model = model_of(name)
    items = torch.arange(1, N_ITEMS + 1).expand(4, -1)
    for heads in ([("readout", 1)], list_heads(model)[:-1], list_heads(model)):
        pruned = prune_heads(model, heads)
        with torch.inference_mode():
            encoded = pruned.encode(batch)
            sums = encoded.contributions(items).sum(1) + pruned.item_bias()[1:]
            torch.testing.assert_close(sums, encoded.scores(items))
        channels = encoded.users.view(4, 4 if name in ("attnrec", "gat") else 2, -1)
        removed_heads = [head for layer, head in heads if layer == "readout"]
        assert not channels[:, removed_heads].any()
        assert not encoded.parts.view(4, 6, channels.shape[1], -1)[:, :, removed_heads].any()
        other_heads = [head for head in range(channels.shape[1]) if head not in removed_heads]
        assert channels[:, other_heads].any(-1).all()


def test_without_pooling_heads_scores_are_the_item_bias(batch):
    model = model_of("attnrec")
    readout = [head for head in list_heads(model) if head[0] == "readout"]
    assert torch.equal(scores_of(model, batch, readout), model.item_bias().detach().expand(4, -1))


# --- errors


@pytest.mark.parametrize("config", [model_config("gru4rec", SMALL), model_config("narm", SMALL), PopularityConfig()])
def test_a_model_without_heads_raises_an_error(config, holdout):
    model = build_model(config, N_ITEMS)
    model.observe(holdout.histories)
    assert list_heads(model) == []
    with pytest.raises(ValueError, match="needs a model with attention heads, got"):
        head_importance(model, holdout)
    with pytest.raises(ValueError, match="choose one such as attnrec"):
        prune_heads(model, [("layer 1", 0)])


@pytest.mark.parametrize("head", [("layer 3", 0), ("layer 1", 4), ("layer 1", -1), ("pooling", 0)])
def test_an_unknown_head_raises_an_error_before_weights_change(head):
    model = model_of("attnrec")
    before = bits(model)
    with pytest.raises(ValueError, match=r"must be heads of the model, got \('"):
        prune_heads(model, [("layer 1", 0), head])
    with pytest.raises(ValueError, match="choose from"), mask_heads(model, [("layer 1", 0), head]):
        pass
    assert all(torch.equal(bits(model)[key], x) for key, x in before.items())


@pytest.mark.parametrize("metric", ["ndcg", "ndcg_at_0", "ndcg_at_", "gini_at_10", "ndcg@10", "ndcg_at_-1"])
def test_an_unknown_metric_raises_an_error(metric, holdout):
    with pytest.raises(ValueError, match="must be a rank metric with a k, got"):
        head_importance(model_of("sasrec"), holdout, metric=metric)


def test_importance_of_another_model_raises_an_error(holdout):
    importance = head_importance(model_of("sasrec"), holdout)
    model = model_of("attnrec")
    for other in (importance, importance[:-1], pd.concat([importance, importance])):
        with pytest.raises(ValueError, match="must name every head of the model once, got"):
            pruning_curve(model, holdout, other)
    with pytest.raises(ValueError, match="must name every head of the model once, got"):
        pruning_curve(model_of("sasrec"), holdout, importance[:-1])

"""Heads silenced one by one and removed for good, on models whose heads can be read or are built by hand."""

from copy import deepcopy

import pandas as pd
import pytest
import torch

from attnrec.analysis.head_pruning import head_importance, heads_of, least_important_heads, prune_heads, pruning_curve, silenced
from attnrec.attention import ATTENTION_KERNELS, HSTUBlock, MultiHeadAttention
from attnrec.dataset import split_last
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import PopularityConfig, build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, save_model

SMALL = {"dim": 16, "max_length": 8}
N_ITEMS = 12
LINKS = 2  # on the checkerboard the next item is two on

KINDS = {
    "attnrec": ("attnrec", {"heads": 4, "layers": 2, "pooling_heads": 4}),
    "sasrec": ("sasrec", {"heads": 2, "layers": 2}),
    "both ways": ("bert4rec", {"heads": 2, "layers": 1}),
    "hstu": ("hstu", {"heads": 2, "layers": 2}),
    "hstu around a memory": ("hstu", {"heads": 2, "layers": 1, "attention": "memory"}),
    "hstu under pooling": ("hstu", {"heads": 2, "layers": 1, "readout": "pooling", "pooling_heads": 2}),
    "gru under pooling": ("attnrec", {"encoder": "gru", "pooling_heads": 2}),
    "gat": ("gat", {"heads": 2, "pooling_heads": 4}),
}
# linformer has no causal form; hstu is a kernel of the encoder hstu
FOR_CAUSAL = [name for name in ATTENTION_KERNELS if name not in ("linformer", "hstu")]


def shaken(kind: str, **settings):
    """Random weights of a size that matters everywhere."""
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
    return shaken(kind, **settings)


@pytest.fixture
def batch(make_batch):
    return make_batch([1, 2, 3, 4, 5], [7, 9], [12], [3, 3, 3], length=6)


@pytest.fixture
def holdout(checkerboard):
    return split_last(checkerboard.histories).validation


def scores_of(model, batch, heads=()):
    with silenced(model, heads), torch.inference_mode():
        return model.encode(batch).scores()


def bits(model) -> dict[str, torch.Tensor]:
    """All weights as integers, so that -0 is not 0 and NaN is itself."""
    return {
        name: x.detach().clone().view(torch.int32) if x.dtype == torch.float32 else x.clone()
        for name, x in model.state_dict().items()
    }


def shake_head(model, layer: str, head: int) -> None:
    """Change whatever this head alone computes with: gates, queries, keys, values, the kernel's own."""
    if layer == "readout":
        pooling = getattr(model.readout, "pooling", None) if hasattr(model, "readout") else model.pooling
        worth = model.readout.worth if hasattr(model, "readout") else model.values
        heads, parts = pooling.heads, [worth.linear, worth.network[-1]]
        parts += [pooling.query, pooling.key] if hasattr(pooling, "query") else []
        rows = [weight for part in parts for weight in part.parameters()]
        tables = [pooling.energy[2].weight, pooling.energy[2].bias] if hasattr(pooling, "energy") else []
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


# --- silencing


@pytest.mark.parametrize("name", KINDS)
def test_a_silenced_head_is_not_heard_whatever_it_computes(name, batch):
    model = model_of(name)
    for layer, head in heads_of(model):
        other = deepcopy(model)
        shake_head(other, layer, head)
        assert not torch.equal(scores_of(other, batch), scores_of(model, batch))
        assert torch.equal(scores_of(other, batch, [(layer, head)]), scores_of(model, batch, [(layer, head)]))
        assert not torch.equal(scores_of(model, batch, [(layer, head)]), scores_of(model, batch))


@pytest.mark.parametrize("encoder", ["self_attention", "hstu"])
@pytest.mark.parametrize("attention", FOR_CAUSAL)
def test_heads_of_every_kernel_can_be_silenced(encoder, attention, batch):
    model = shaken("attnrec", encoder=encoder, attention=attention, layers=1, heads=2, pooling_heads=2)
    for head in (0, 1):
        other = deepcopy(model)
        shake_head(other, "layer 1", head)
        assert not torch.equal(scores_of(other, batch), scores_of(model, batch))
        heads = [("layer 1", head)]
        assert torch.equal(scores_of(other, batch, heads), scores_of(model, batch, heads))


def test_other_heads_are_still_heard(batch):
    model = model_of("attnrec")
    alone = [head for head in heads_of(model) if head != ("layer 2", 1)]
    other = deepcopy(model)
    shake_head(other, "readout", 3)
    assert not torch.equal(scores_of(other, batch, [("readout", 2)]), scores_of(model, batch, [("readout", 2)]))
    assert scores_of(model, batch, alone).isfinite().all()


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_restored_bit_for_bit_also_after_an_error(name):
    model = model_of(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[0] = -0.0
            parameter.view(-1)[-1] = float("nan")
    before, heads = bits(model), heads_of(model)
    with silenced(model, [*heads, heads[0]]):  # one of them twice
        assert any(not torch.equal(x, before[key]) for key, x in bits(model).items())
    with pytest.raises(RuntimeError, match="on purpose"), silenced(model, heads):
        raise RuntimeError("on purpose")
    after = bits(model)
    assert all(torch.equal(after[key], x) for key, x in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_are_in_the_order_of_the_model_not_of_their_names():
    heads = heads_of(shaken("attnrec", layers=11, heads=1, pooling_heads=2))
    assert heads == [*((f"layer {n}", 0) for n in range(1, 12)), ("readout", 0), ("readout", 1)]


# --- importance


def carried_by(head: int, *, layers: int = 1, heads: int = 2):
    """A model that answers the checkerboard through one pooling head; all other heads change nothing.

    Each item is one number of twelve, in that head's half of the channels; its value is the item two on; attention
    is even. So a user is the mean of what followed the items seen, and only the answer was not seen yet.
    """
    settings = {"dim": 2 * N_ITEMS, "max_length": 8, "layers": layers, "heads": heads, "pooling_heads": 2}
    torch.manual_seed(0)
    model = build_model(model_config("attnrec", settings), N_ITEMS)
    own = slice(head * N_ITEMS, (head + 1) * N_ITEMS)
    worth, pooling = model.readout.worth, model.readout.pooling
    with torch.no_grad():
        for part in (pooling.query, pooling.key, worth.linear, worth.network[-1]):
            for parameter in part.parameters():
                parameter.zero_()
        model.item_scorer.embedding.weight.zero_()
        model.item_scorer.embedding.weight[1:, own] = torch.eye(N_ITEMS)
        model.item_scorer.bias.zero_()
        worth.linear.weight[own, own] = torch.eye(N_ITEMS).roll(LINKS, dims=0)
    return model


@pytest.mark.parametrize("head", [0, 1])
def test_a_head_that_carries_everything_is_the_most_important_one(head, holdout):
    model = carried_by(head, layers=3, heads=8)
    assert evaluate(model, holdout, ks=(1,)).summary["ndcg_at_1"] == 1
    found = head_importance(model, holdout, metric="ndcg_at_1")
    assert found.columns.tolist() == ["layer", "head", "metric_without", "drop"]
    # the others change nothing, and ties are in the order of the model
    others = [(f"layer {layer}", number) for layer in (1, 2, 3) for number in range(8)]
    names = [("readout", head), *others, ("readout", 1 - head)]
    assert list(zip(found["layer"], found["head"], strict=True)) == names
    assert found["drop"].tolist() == [1 - found["metric_without"][0], *[0] * 25]
    assert found["metric_without"].tolist()[1:] == [1] * 25
    # without a user all items are equal and the first one not seen wins: right for 1 of 12 starts, where it is item 0
    assert found["metric_without"][0] == pytest.approx(1 / 12)


@pytest.mark.parametrize("filter_viewed", [True, False])
def test_importance_is_what_evaluation_without_the_head_says(filter_viewed, holdout):
    model = model_of("attnrec")
    before = bits(model)
    found = head_importance(model, holdout, metric="mrr_at_3", filter_viewed=filter_viewed)
    after = bits(model)
    assert all(torch.equal(after[key], x) for key, x in before.items())
    whole = evaluate(model, holdout, ks=(3,), filter_viewed=filter_viewed).summary["mrr_at_3"]
    assert found["drop"].is_monotonic_decreasing
    assert len(found) == 2 * 4 + 4
    for row in found.to_dict("records"):
        without = prune_heads(model, [(row["layer"], row["head"])])
        value = evaluate(without, holdout, ks=(3,), filter_viewed=filter_viewed).summary["mrr_at_3"]
        assert row["metric_without"] == value
        assert row["drop"] == whole - value


# --- the curve


def test_the_curve_removes_the_least_important_head_first_until_none_is_left(holdout):
    model = carried_by(1)
    importance = head_importance(model, holdout, metric="ndcg_at_1")
    curve = pruning_curve(model, holdout, importance, metric="ndcg_at_1")
    assert curve.columns.tolist() == ["n_removed", "layer", "head", "metric", "change"]
    assert curve["n_removed"].tolist() == [1, 2, 3, 4]
    removed = [("readout", 0), ("layer 1", 1), ("layer 1", 0), ("readout", 1)]
    assert list(zip(curve["layer"], curve["head"], strict=True)) == removed
    assert curve["metric"].tolist() == [1, 1, 1, importance["metric_without"][0]]
    assert curve["change"].tolist() == [0, 0, 0, -importance["drop"][0]]


def test_every_point_of_the_curve_is_a_pruned_model(holdout):
    model = model_of("sasrec")
    importance = head_importance(model, holdout)
    curve = pruning_curve(model, holdout, importance)
    whole = evaluate(model, holdout, ks=(10,)).summary["ndcg_at_10"]
    for row in curve.to_dict("records"):
        pruned = prune_heads(model, least_important_heads(importance, row["n_removed"]))
        value = evaluate(pruned, holdout, ks=(10,)).summary["ndcg_at_10"]
        assert (row["metric"], row["change"]) == (value, value - whole)
    assert len(curve) == len(heads_of(model))


# --- the copy


@pytest.mark.parametrize("name", KINDS)
def test_the_pruned_copy_is_the_silenced_model_and_can_be_kept(name, batch, checkerboard, tmp_path):
    model = model_of(name)
    before, heads = bits(model), heads_of(model)[::2]
    pruned = prune_heads(model, heads)
    after = bits(model)
    assert all(torch.equal(after[key], x) for key, x in before.items())
    assert torch.equal(scores_of(pruned, batch), scores_of(model, batch, heads))
    save_model(SavedModel(pruned, checkerboard.histories.item_ids), tmp_path)
    loaded = load_model(tmp_path).model
    assert loaded.config == model.config
    assert torch.equal(scores_of(loaded, batch), scores_of(model, batch, heads))


def test_a_copy_without_any_removal_is_the_model(batch):
    model = model_of("attnrec")
    assert torch.equal(scores_of(prune_heads(model, []), batch), scores_of(model, batch))


@pytest.mark.parametrize("name", ["attnrec", "hstu under pooling", "gru under pooling", "gat"])
def test_scores_of_a_pruned_model_are_still_sums_over_the_history(name, batch):
    model = model_of(name)
    items = torch.arange(1, N_ITEMS + 1).expand(4, -1)
    for heads in ([("readout", 1)], heads_of(model)[:-1], heads_of(model)):
        pruned = prune_heads(model, heads)
        with torch.inference_mode():
            encoded = pruned.encode(batch)
            sums = encoded.contributions(items).sum(1) + pruned.item_bias()[1:]
            torch.testing.assert_close(sums, encoded.scores(items))
        channels = encoded.users.view(4, 4 if name in ("attnrec", "gat") else 2, -1)
        gone = [head for layer, head in heads if layer == "readout"]
        assert not channels[:, gone].any()
        assert not encoded.parts.view(4, 6, channels.shape[1], -1)[:, :, gone].any()
        left = [head for head in range(channels.shape[1]) if head not in gone]
        assert channels[:, left].any(-1).all()


def test_without_any_pooling_head_everyone_gets_what_everyone_likes(batch):
    model = model_of("attnrec")
    readout = [head for head in heads_of(model) if head[0] == "readout"]
    assert torch.equal(scores_of(model, batch, readout), model.item_bias().detach().expand(4, -1))


# --- what is refused


@pytest.mark.parametrize("config", [model_config("gru4rec", SMALL), model_config("narm", SMALL), PopularityConfig()])
def test_a_model_without_heads_is_refused(config, holdout):
    model = build_model(config, N_ITEMS)
    model.observe(holdout.histories)
    assert heads_of(model) == []
    with pytest.raises(ValueError, match="needs a model whose attention has heads, got"):
        head_importance(model, holdout)
    with pytest.raises(ValueError, match="take one such as attnrec"):
        prune_heads(model, [("layer 1", 0)])


@pytest.mark.parametrize("head", [("layer 3", 0), ("layer 1", 4), ("layer 1", -1), ("pooling", 0)])
def test_an_unknown_head_is_refused_before_anything_changes(head):
    model = model_of("attnrec")
    before = bits(model)
    with pytest.raises(ValueError, match=r"must be the model's own, got \('"):
        prune_heads(model, [("layer 1", 0), head])
    with pytest.raises(ValueError, match="take some of"), silenced(model, [("layer 1", 0), head]):
        pass
    assert all(torch.equal(bits(model)[key], x) for key, x in before.items())


@pytest.mark.parametrize("metric", ["ndcg", "ndcg_at_0", "ndcg_at_", "gini_at_10", "ndcg@10", "ndcg_at_-1"])
def test_an_unknown_metric_is_refused(metric, holdout):
    with pytest.raises(ValueError, match="must be a rank metric at a k, got"):
        head_importance(model_of("sasrec"), holdout, metric=metric)


def test_importance_of_another_model_is_refused(holdout):
    importance = head_importance(model_of("sasrec"), holdout)
    model = model_of("attnrec")
    for other in (importance, importance[:-1], pd.concat([importance, importance])):
        with pytest.raises(ValueError, match="must name every head of the model once, got"):
            pruning_curve(model, holdout, other)
    with pytest.raises(ValueError, match="must name every head of the model once, got"):
        pruning_curve(model_of("sasrec"), holdout, importance[:-1])

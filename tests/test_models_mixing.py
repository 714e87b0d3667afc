"""Sequence models that share the word with a walk over the graph: chances, losses, gradients, settings."""

from dataclasses import replace

import pytest
import torch

from attnrec.config import SettingsError
from attnrec.dataset import Windows
from attnrec.losses import full_softmax
from attnrec.models import ReasonsError, build_model, model_config, observed_graphs

WALK = {"walk": "transitions", "walk_settings": {"neighbours": 6, "dim": 4, "dropout": 0.0}}
SMALL = {"dim": 16, "max_length": 8, "dropout": 0.0}
KINDS = ["sasrec", "attnrec", "gru4rec", "narm", "core", "gce_gnn"]


@pytest.fixture
def mixed(checkerboard, with_large_weights):
    """A kind of sequence model on the checkerboard, mixed with a walk."""

    def build(kind="sasrec"):
        model = build_model(model_config(kind, SMALL | WALK), checkerboard.seen.n_items)
        return with_large_weights(model, checkerboard.seen)

    return build


def batch_on(histories, model, n=4):
    (batch, *_) = Windows(histories, max_length=8, batch_size=n).epoch(0)
    torch.manual_seed(1)
    return model.questions(batch)


def chances(model, batch):
    return model.score(batch)[:, 1:] / model.n_items


@pytest.mark.parametrize("kind", KINDS)
def test_chances_of_all_items_sum_to_one(kind, checkerboard, mixed):
    model = mixed(kind)
    with torch.inference_mode():
        total = chances(model, batch_on(checkerboard.seen, model)).sum(1)
    torch.testing.assert_close(total, torch.ones(len(total)))


def test_a_score_is_the_softmax_and_the_walk_in_the_shares_of_the_gate(checkerboard, mixed):
    model = mixed()
    alone = build_model(model_config("sasrec", SMALL), 12)
    alone.load_state_dict({name: x for name, x in model.state_dict().items() if not name.startswith("mixing")})
    batch = batch_on(checkerboard.seen, model)
    with torch.inference_mode():
        reading, share = alone.eval().read(batch), model.mixing.gate(alone.read(batch).users).sigmoid()
        softmax = reading.scores()[:, 1:].softmax(1)
        walk = model.mixing.walk.score(batch)[:, 1:] / 12 / (1 + model.mixing.walk.background.exp())
        torch.testing.assert_close(chances(model, batch), (1 - share) * softmax + share * walk)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_chances_that_are_scored(kind, checkerboard, mixed):
    # at the last position, on the graph of all users, as scoring reads it
    model = mixed(kind)
    batch = replace(batch_on(checkerboard.seen, model), users=None)
    last = torch.zeros_like(batch.targets)
    ends = (torch.arange(len(last)), batch.lengths - 1)
    last[ends] = batch.targets[ends]
    with torch.inference_mode():
        expected = -chances(model, batch)[torch.arange(len(last)), last[ends] - 1].log().mean()
    torch.testing.assert_close(model.loss(replace(batch, targets=last)), expected)


def test_the_loss_at_a_position_does_not_depend_on_later_items(checkerboard, mixed):
    model = mixed()
    batch = batch_on(checkerboard.seen, model)
    for position in range(3):
        only = torch.zeros_like(batch.targets)
        only[:, position] = batch.targets[:, position]
        later = batch.items.clone()
        later[:, position + 1 :] = batch.items[:, position + 1 :] % 12 + 1
        loss = model.loss(replace(batch, targets=only)).item()
        assert model.loss(replace(batch, targets=only, items=later)).item() == pytest.approx(loss, abs=1e-6)


def test_prefixes_keep_whose_they_are(checkerboard, mixed):
    model = mixed("narm")
    (batch, *_) = Windows(checkerboard.seen, max_length=8, batch_size=4).epoch(0)
    asked = model.questions(batch)
    first = {int(user): int(items[0]) for user, items in zip(batch.users, batch.items, strict=True)}
    assert len(asked.users) > len(batch.users)
    assert all(first[int(user)] == int(items[0]) for user, items in zip(asked.users, asked.items, strict=True))


@pytest.mark.parametrize("n_positions", [5, 300])
def test_the_fused_loss_of_a_mixture_equals_autograd(n_positions):
    torch.manual_seed(0)
    given = [torch.randn(shape) for shape in ((n_positions, 8), (20, 8), (20,), (n_positions,))]
    targets = torch.randint(1, 21, (n_positions,))
    fused, plain = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    loss = full_softmax(*fused[:3], targets, others=fused[3])
    own = (plain[0] @ plain[1].mT + plain[2]).log_softmax(1)[torch.arange(n_positions), targets - 1]
    expected = -torch.logaddexp(own, plain[3]).mean()
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_mixture_has_no_smoothing():
    with pytest.raises(ValueError, match="a mixture asks for one item, got label_smoothing"):
        full_softmax(
            torch.ones(1, 2), torch.ones(3, 2), None, torch.ones(1).long(), label_smoothing=0.1, others=torch.ones(1)
        )


def test_a_mixture_has_no_exact_reasons_and_says_why(checkerboard, mixed):
    model = mixed("attnrec")
    assert not model.exact_reasons
    with pytest.raises(ReasonsError, match=r"got a mixture with a walk.*take kind = 'graph_walk'"):
        model.contributions(batch_on(checkerboard.seen, model), torch.tensor([[3]]))


def test_the_graphs_of_walk_and_encoder_are_both_told_to_the_audit(checkerboard):
    walk, both = (
        build_model(model_config("sasrec", SMALL | WALK | more), 12) for more in ({}, {"graph": "items", "dim": 16})
    )
    assert observed_graphs(walk, checkerboard.seen)["edges"] is None
    found = observed_graphs(both, checkerboard.seen)
    assert found["edges"] is not None
    assert found["transitions"] is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"walk": "friends"}, "walk: Input should be 'none', 'transitions' or 'items'"),
        ({"walk_settings": {"reach": 2}}, "walk_settings need a walk, got .* set walk = 'transitions'"),
        ({"walk": "items", "loss": "bce"}, "a walk is mixed with the softmax of what comes next, got .*'bce'"),
        ({"walk": "items", "label_smoothing": 0.1}, "a walk is mixed with the softmax .* label_smoothing = 0.1"),
        ({"walk": "items", "walk_settings": {"raech": 2}}, r"raech: unknown key; did you mean reach\?"),
        ({"walk": "items", "walk_settings": {"reach": 2}}, "reach is a setting of transitions"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(SettingsError, match=said):
        model_config("sasrec", SMALL | settings)

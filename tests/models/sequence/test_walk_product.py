"""Products of a sequence model and a random walk: probabilities, losses, gradients, settings."""

from dataclasses import replace

import pytest
import torch

from attnrec.config import SettingsError
from attnrec.dataset import Vocabulary, Windows
from attnrec.models import ReasonsError, build_model, model_config, observed_graphs
from attnrec.models.saved_model import WEIGHTS, SavedModel, load_model, save_model
from attnrec.models.sequence import walk_product
from attnrec.storage import save_tensors

WALK = {"random_walk": "transitions", "random_walk_settings": {"neighbours": 6, "dim": 4, "dropout": 0.0}}
NEXT = {"relation": "transitions", "neighbours": 6, "dim": 4, "dropout": 0.0, "max_length": 8}
SMALL = {"dim": 16, "max_length": 8, "dropout": 0.0}
KINDS = ["sasrec", "attnrec", "gru4rec", "narm", "core", "gce_gnn"]


@pytest.fixture
def build_product(checkerboard, with_random_weights):
    """A function that builds the product of a sequence model and a walk on the checkerboard."""

    def build(kind="sasrec"):
        model = build_model(model_config(kind, SMALL | WALK), checkerboard.histories.n_items)
        return with_random_weights(model, checkerboard.histories)

    return build


def batch_on(histories, model, n=4):
    (batch, *_) = Windows(histories, max_length=8, batch_size=n).epoch(0)
    torch.manual_seed(1)
    return model.make_targets(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_log_probabilities_of_both_raised_to_their_powers(kind, checkerboard, build_product):
    model = build_product(kind)
    alone = build_model(model_config(kind, SMALL), 12)
    alone.load_state_dict({name: x for name, x in model.state_dict().items() if not name.startswith("walk_product")})
    alone.refresh()
    batch = batch_on(checkerboard.histories, model)
    with torch.inference_mode():
        encoded = alone.eval().encode(batch)
        encoder, walk = model.walk_product.log_powers.exp()
        softmax = encoded.scores()[:, 1:].softmax(1) ** encoder
        walked = model.walk_product.random_walk.score(batch)[:, 1:] ** walk
        product = softmax * walked
        found = model.score(batch)[:, 1:].softmax(1)
    torch.testing.assert_close(found, product / product.sum(1, keepdim=True))
    chosen = torch.tensor([[3, 1]]).expand(len(found), -1)
    torch.testing.assert_close(model.score(batch, chosen), model.score(batch).gather(1, chosen))


def test_a_user_without_history_has_the_item_bias_of_both(checkerboard, build_product):
    model = build_product()
    nobody = replace(batch_on(checkerboard.histories, model).slice(0, 1), lengths=torch.tensor([0]))
    nobody = replace(nobody, items=nobody.items * 0)
    torch.testing.assert_close(model.score(nobody)[0, 1:], model.item_bias()[1:])


def powers_loss(model, batch, monkeypatch):
    """The loss of the powers alone, with all users in the holdout."""
    monkeypatch.setattr(walk_product, "WALK_USER_SHARE", 1.0)
    monkeypatch.setattr(walk_product.WalkProduct, "_walk_loss", lambda *_: torch.zeros(()))
    with torch.no_grad():
        both = model.loss(batch)
        monkeypatch.setattr(model, "walk_product", None)
        return both - model.loss(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_the_powers_is_the_cross_entropy_of_the_scores(kind, checkerboard, build_product, monkeypatch):
    # at the last position, on the graph of all users, as scoring reads it
    model = build_product(kind)
    batch = replace(batch_on(checkerboard.histories, model), users=None)
    last = torch.zeros_like(batch.targets)
    ends = (torch.arange(len(last)), batch.lengths - 1)
    last[ends] = batch.targets[ends]
    with torch.inference_mode():
        expected = torch.nn.functional.cross_entropy(model.score(batch)[:, 1:], last[ends] - 1)
    torch.testing.assert_close(powers_loss(model, replace(batch, targets=last), monkeypatch), expected)


@pytest.mark.parametrize("kind", ["sasrec", "narm"])
def test_both_models_get_the_gradients_of_separate_training(kind, checkerboard, build_product, monkeypatch):
    monkeypatch.setattr(walk_product, "WALK_USER_SHARE", 1.0)
    model = build_product(kind)
    alone = build_model(model_config(kind, SMALL), 12)
    alone.load_state_dict({name: x for name, x in model.state_dict().items() if not name.startswith("walk_product")})
    walk = build_model(model.walk_product.random_walk.config, 12)
    walk.load_state_dict(model.walk_product.random_walk.state_dict())
    walk.observe(checkerboard.histories)
    batch = replace(batch_on(checkerboard.histories, model), users=None)
    for each in (model, alone, walk):
        each.eval().loss(batch).backward()
    found = dict(model.named_parameters())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(found[name].grad, parameter.grad)
    for name, parameter in walk.named_parameters():
        torch.testing.assert_close(found[f"walk_product.random_walk.{name}"].grad, parameter.grad, rtol=1e-4, atol=1e-7)
    assert (found["walk_product.log_powers"].grad != 0).all()


def test_holdout_users_train_only_the_powers(checkerboard, build_product):
    model = build_product()
    batch = batch_on(checkerboard.histories, model, n=30)
    users = torch.arange(10_000)
    holdout = users[model.walk_product.is_holdout(replace(batch, lengths=users, users=users))]
    assert len(holdout) == pytest.approx(500, rel=0.2)

    def gradients(users):
        model.zero_grad()
        model.loss(replace(batch, users=users[: len(batch.lengths)])).backward()
        return {name: x.grad for name, x in model.named_parameters() if x.grad is not None and (x.grad != 0).any()}

    assert set(gradients(holdout)) == {"walk_product.log_powers"}
    others = torch.tensor([user for user in range(100) if user not in holdout])
    trained = gradients(others)
    assert not any(name.startswith("walk_product.log_powers") for name in trained)
    assert any(name.startswith("walk_product.random_walk") for name in trained)
    assert any(name.startswith("encoder") for name in trained)


def test_the_loss_at_a_position_does_not_depend_on_later_items(checkerboard, build_product):
    model = build_product()
    batch = batch_on(checkerboard.histories, model)

    def loss(items):
        torch.manual_seed(4)  # the same sample of users for the walk
        return model.loss(replace(batch, targets=only, items=items)).item()

    for position in range(3):
        only = torch.zeros_like(batch.targets)
        only[:, position] = batch.targets[:, position]
        later = batch.items.clone()
        later[:, position + 1 :] = batch.items[:, position + 1 :] % 12 + 1
        assert loss(later) == pytest.approx(loss(batch.items), abs=1e-6)


def test_the_loss_without_targets_is_zero(checkerboard, build_product):
    model = build_product()
    batch = batch_on(checkerboard.histories, model)
    loss = model.loss(replace(batch, targets=batch.targets * 0))
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("right", ["encoder", "walk"])
def test_the_power_of_the_correct_model_grows(right, checkerboard, build_product, monkeypatch):
    model = build_product()
    batch = replace(batch_on(checkerboard.histories, model), users=None)
    correct = torch.nn.functional.one_hot(batch.targets[batch.targets > 0], 13) * 3.0

    def scores(part):
        return correct if part == right else -correct

    monkeypatch.setattr(walk_product, "HOLDOUT_POSITIONS", len(correct))
    monkeypatch.setattr(walk_product, "_sample_rows", lambda tensor, n: tensor)
    monkeypatch.setattr(walk_product.VectorEncoding, "scores", lambda self: scores("encoder"))
    monkeypatch.setattr(type(model.walk_product.random_walk), "all_probabilities", lambda *_: scores("walk").exp())
    has_target = batch.targets > 0
    encoded = replace(model.encode(batch).sequence, users=torch.zeros(len(correct), 16))
    model.walk_product._powers_loss(encoded, batch, has_target, has_target).backward()
    encoder, walk = -model.walk_product.log_powers.grad
    assert (encoder > 0 > walk) if right == "encoder" else (walk > 0 > encoder)


def test_with_few_users_there_is_no_holdout(make_histories):
    few = make_histories({"ann": "abcdabcd"})
    model = build_model(model_config("sasrec", SMALL | WALK), few.n_items)
    model.observe(few)
    (batch,) = Windows(few, max_length=8, batch_size=4).epoch(0)
    model.loss(batch).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert (found["item_scorer.embedding.weight"] != 0).any()
    assert (found["walk_product.log_powers"] == 0).all()


def test_all_probabilities_equal_the_probabilities_of_single_items(checkerboard, with_random_weights):
    settings = {"relation": "transitions", "window": 2, "heads": 3, "max_length": 8, "neighbours": 6, "folds": 2}
    walk = with_random_weights(build_model(model_config("random_walk", settings), 12), checkerboard.histories)
    (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=8, next_item=True).epoch(0)
    positions = torch.arange(len(batch.lengths)) % batch.lengths
    whole = walk.train().all_probabilities(batch, positions)
    assert walk.training
    each = [walk.eval().probabilities_at(batch, positions, torch.full_like(positions, item)) for item in range(1, 13)]
    torch.testing.assert_close(whole[:, 1:], torch.stack(each, 1))


def test_micro_batches_give_the_gradients_of_the_batch(checkerboard, build_product, monkeypatch):
    model = build_product()
    monkeypatch.setattr(walk_product, "WALK_USER_SHARE", 1.0)
    monkeypatch.setattr(walk_product, "HOLDOUT_POSITIONS", 10_000)
    (batch,) = Windows(checkerboard.histories, max_length=8, batch_size=200, next_item=True).epoch(0)
    assert 0 < int(model.walk_product.is_holdout(batch).sum()) < len(batch.lengths)

    def gradients(*parts):
        model.zero_grad()
        for part in parts:
            (model.loss(part) * part.n_targets / batch.n_targets).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    whole, sliced = gradients(batch), gradients(*(batch.slice(start, start + 5) for start in range(0, 200, 5)))
    for name, gradient in whole.items():
        torch.testing.assert_close(sliced[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["sasrec", "random_walk"])
def test_walk_probabilities_are_float32_under_autocast(kind, checkerboard, with_random_weights):
    settings = NEXT if kind == "random_walk" else SMALL | WALK
    model = with_random_weights(build_model(model_config(kind, settings), 12), checkerboard.histories)
    batch = replace(batch_on(checkerboard.histories, model), users=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        rounded = model.loss(batch)
    torch.manual_seed(0)
    plain = model.loss(batch)
    rounded.backward()
    torch.testing.assert_close(rounded.float(), plain, rtol=0 if kind == "random_walk" else 0.02, atol=1e-6)


def test_lr_multipliers_name_existing_modules(build_product):
    model = build_product()
    names = [name for name, _ in model.named_parameters()]
    assert model.lr_multipliers
    assert all(any(f"{name}.".startswith(f"{part}.") for name in names) for part in model.lr_multipliers)


def test_a_model_saved_by_another_version_is_rejected(build_product, tmp_path):
    model = build_product()
    state = model.state_dict()
    save_model(SavedModel(model, Vocabulary(list("abcdefghijkl"), first=1), {}), tmp_path)
    save_tensors({name: x for name, x in state.items() if name != "walk_product.log_powers"}, tmp_path / WEIGHTS)
    with pytest.raises(
        ValueError, match=r"walk_product\.log_powers is missing.*another version of attnrec, train it again"
    ):
        load_model(tmp_path)


def test_prefixes_keep_the_users_of_their_windows(checkerboard, build_product):
    model = build_product("narm")
    (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=4).epoch(0)
    prefixes = model.make_targets(batch)
    first = {int(user): int(items[0]) for user, items in zip(batch.users, batch.items, strict=True)}
    assert len(prefixes.users) > len(batch.users)
    assert all(first[int(user)] == int(items[0]) for user, items in zip(prefixes.users, prefixes.items, strict=True))


def test_a_product_has_no_contributions_and_the_error_says_why(checkerboard, build_product):
    model = build_product("attnrec")
    assert not model.exact_reasons
    with pytest.raises(ReasonsError, match=r"got a product with a random walk.*use kind = 'random_walk'"):
        model.contributions(batch_on(checkerboard.histories, model), torch.tensor([[3]]))


def test_the_leakage_audit_gets_the_graphs_of_walk_and_encoder(checkerboard):
    walk, both = (
        build_model(model_config("sasrec", SMALL | WALK | more), 12) for more in ({}, {"graph": "items", "dim": 16})
    )
    assert observed_graphs(walk, checkerboard.histories)["edges"] is None
    found = observed_graphs(both, checkerboard.histories)
    assert found["edges"] is not None
    assert found["transitions"] is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_walk": "friends"}, "random_walk: Input should be 'none', 'transitions' or 'items'"),
        (
            {"random_walk_settings": {"reach": 2}},
            "random_walk_settings need a random walk, got .* set random_walk = 'transitions'",
        ),
        (
            {"random_walk": "items", "objective": "masked_items", "attention": "scaled_dot"},
            "a random walk predicts the next item, got",
        ),
        ({"random_walk": "items", "random_walk_settings": {"raech": 2}}, r"raech: unknown key; did you mean reach\?"),
        (
            {"random_walk": "items", "random_walk_settings": {"ordered": False}},
            "random_walk_settings must not contain ordered, which",
        ),
        (
            {"random_walk": "items", "random_walk_settings": {"max_length": 3}},
            "random_walk_settings must not contain max_length, which",
        ),
        (
            {"random_walk": "items", "attention": "top_k", "attention_settings": {"k": 2, "estimator": "reinforce"}},
            "estimator = 'reinforce' cannot be combined with a random walk",
        ),
        (
            {"random_walk": "items", "random_walk_settings": {"reach": 2}},
            "reach is a setting of relation = 'transitions'",
        ),
    ],
)
def test_settings_that_do_not_apply_are_rejected(settings, message):
    with pytest.raises(SettingsError, match=message):
        model_config("sasrec", SMALL | settings)

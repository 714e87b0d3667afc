"""Losses against plain ones in float64, on worlds where every negative is named."""

from contextlib import nullcontext
from functools import partial
from math import log
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnrec.config import SettingsError
from attnrec.losses import (
    LOSSES,
    LossConfig,
    Negatives,
    base_score,
    bce,
    bpr,
    catalogue_loss,
    draw_by_popularity,
    draw_uniformly,
    full_softmax,
    gbce,
    sampled_softmax,
)
from attnrec.losses import sampled_scores as drawn_scores_module
from attnrec.losses.full_softmax import CHUNK
from attnrec.losses.negatives import _in_proportion
from attnrec.losses.sampled import positive_weight
from attnrec.losses.sampled_scores import drawn_scores
from attnrec.precision import has_bfloat16, reduced_precision

SAMPLED = {
    "sampled_softmax": sampled_softmax,
    "gbce": partial(gbce, t=0.75),
    "bce": bce,
    "bpr": bpr,
}


def make(n_positions: int, n_items: int, dim: int = 8, *, scale: float = 1.0, bias: bool = True):
    random = torch.Generator().manual_seed(n_positions + n_items)
    users = (scale * torch.randn(n_positions, dim, generator=random)).requires_grad_()
    items = (scale * torch.randn(n_items, dim, generator=random)).requires_grad_()
    added = torch.randn(n_items, generator=random).requires_grad_() if bias else None
    targets = torch.randint(1, n_items + 1, (n_positions,), generator=random)
    return users, items, added, targets


def plain(users, items, bias, targets, *, label_smoothing=0.0):
    logits = users @ items.mT
    return F.cross_entropy(logits if bias is None else logits + bias, targets - 1, label_smoothing=label_smoothing)


def doubled(case):
    return [x.double() if x is not None and x.is_floating_point() else x for x in case]


def drawn(*rows: int, n_items: int) -> Negatives:
    """These item rows, as if each item were as likely."""
    return Negatives(torch.tensor(rows), torch.full((len(rows),), -log(n_items)))


def value_and_gradients(loss, users, items, bias, targets):
    inputs = [x for x in (users, items, bias) if x is not None]
    value = loss(users, items, bias, targets)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor made inside the block."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


# --- full softmax


@pytest.mark.parametrize("n_positions", [1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize("bias", [True, False])
def test_full_softmax_is_cross_entropy_in_value_and_gradients(n_positions, bias):
    case = make(n_positions, 37, bias=bias)
    for ours, theirs in zip(value_and_gradients(full_softmax, *case), value_and_gradients(plain, *case), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_full_softmax_of_a_uniform_world_is_the_log_of_its_size():
    loss = full_softmax(torch.zeros(4, 2), torch.randn(10, 2), None, torch.tensor([1, 5, 10, 10]))
    assert float(loss) == pytest.approx(torch.log(torch.tensor(10.0)))


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_full_softmax_holds_where_probabilities_underflow(scale):
    case = make(CHUNK + 7, 50, scale=scale)
    exact = value_and_gradients(plain, *doubled(case))
    with torch.no_grad():
        logits = case[0] @ case[1].mT + case[2]
        assert (logits.softmax(1).gather(1, case[3][:, None] - 1) == 0).any(), "the world must underflow"
    for ours, theirs in zip(value_and_gradients(full_softmax, *case), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("n_positions", [3, CHUNK + 5])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("bias", [True, False])
def test_label_smoothing_is_torchs_in_value_and_gradients(n_positions, scale, bias):
    case = make(n_positions, 37, scale=scale, bias=bias)
    smooth, reference = (partial(loss, label_smoothing=0.2) for loss in (full_softmax, plain))
    exact = value_and_gradients(reference, *doubled(case))
    for ours, theirs in zip(value_and_gradients(smooth, *case), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_full_softmax_agrees_with_finite_differences():
    users, items, bias, targets = make(5, 7, dim=3)
    for x in (users, items, bias):
        (slope,) = torch.autograd.grad(full_softmax(users, items, bias, targets), x)
        step = torch.zeros_like(x)
        step.view(-1)[1] = 1e-2
        with torch.no_grad():
            up, down = (
                full_softmax(*(y + sign * step if y is x else y for y in (users, items, bias)), targets)
                for sign in (1, -1)
            )
        assert float(up - down) / 2e-2 == pytest.approx(float(slope.view(-1)[1]), abs=1e-3)


def test_gradients_are_scaled_by_what_is_done_with_the_loss():
    users, items, bias, targets = make(6, 9)
    (once,) = torch.autograd.grad(full_softmax(users, items, bias, targets), items)
    (thrice,) = torch.autograd.grad(3 * full_softmax(users, items, bias, targets), items)
    torch.testing.assert_close(thrice, 3 * once)


def test_the_gradient_goes_on_to_what_made_the_inputs():
    users, items, bias, targets = make(6, 9)
    (ours,) = torch.autograd.grad(full_softmax(F.normalize(users), items, bias, targets), users)
    (theirs,) = torch.autograd.grad(plain(F.normalize(users), items, bias, targets), users)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learned", ["users", "items", "bias"])
def test_inputs_that_are_not_learned_need_no_gradient(learned):
    case = dict(zip(("users", "items", "bias", "targets"), make(6, 9), strict=True))
    case = {name: x if name == learned else x.detach() for name, x in case.items()}
    (ours,) = torch.autograd.grad(full_softmax(**case), case[learned])
    (theirs,) = torch.autograd.grad(plain(**case), case[learned])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_no_positions_cost_nothing():
    users, items, bias, targets = make(0, 9)
    loss = full_softmax(users, items, bias, targets)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (items.grad == 0).all()


@pytest.mark.parametrize("loss", [full_softmax, partial(full_softmax, label_smoothing=0.1), plain])
def test_the_logits_of_all_positions_are_never_in_memory(loss):
    n_positions, n_items = 4 * CHUNK, 500
    case = make(n_positions, n_items)
    with Largest() as largest:
        loss(*case).backward()
    if loss is plain:  # the measure itself: it sees the T x N logits of the plain loss
        assert largest.numel == n_positions * n_items
    else:
        assert largest.numel <= CHUNK * n_items


def test_bfloat16_inputs_get_gradients_of_their_own_type():
    users, items, bias, targets = make(300, 40)
    small = users.detach().bfloat16().requires_grad_()
    full_softmax(small, items, bias, targets).backward()
    assert small.grad.dtype == torch.bfloat16
    (exact,) = torch.autograd.grad(plain(small.detach().float().requires_grad_(), items, bias, targets), items)
    torch.testing.assert_close(items.grad, exact, rtol=1e-3, atol=1e-5)


# --- losses of drawn negatives


def as_published(name, case, negatives):
    """The losses as their papers write them, position by position; gBCE with t = 0.75."""
    users, items, bias, targets = case
    drawn, log_q = (x.expand(len(users), -1) for x in (negatives.rows, negatives.log_q.double()))
    scores = users @ items.mT + (0 if bias is None else bias)
    alpha = drawn.shape[1] / (len(items) - 1)
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    losses = []
    for own, target, rows, q in zip(scores, targets, drawn, log_q.exp(), strict=True):
        s, counts = own[target - 1], rows != target
        negative = own[rows - 1][counts]
        no = (1 - torch.sigmoid(negative)).log().sum()
        others = (negative.exp() / (len(rows) * q[counts])).sum()
        by_name = {
            "sampled_softmax": (s.exp() / (s.exp() + others)).log(),
            "gbce": (torch.sigmoid(s).pow(beta).log() + no) / (len(rows) + 1),
            "bce": (torch.sigmoid(s).log() + no) / (len(rows) + 1),
            "bpr": torch.sigmoid(s - negative).log().mean(),
        }
        losses.append(-by_name[name])
    return torch.stack(losses).mean()


def check_formula(name, case, negatives):
    assert (case[3][:, None] == negatives.rows).any(), "some negatives must be targets"
    exact = value_and_gradients(lambda *inputs: as_published(name, inputs, negatives), *doubled(case))
    found = value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_sampled_loss_is_its_papers_formula_in_value_and_gradients(name, bias):
    negatives = Negatives(torch.tensor([4, 2, 4, 11, 7]), torch.tensor([0.3, 0.1, 0.3, 0.2, 0.05]).log())
    check_formula(name, make(40, 11, bias=bias), negatives)


@pytest.fixture(params=["product", "gathered"])
def way(request, monkeypatch):
    """How scores of each position's own items come about."""
    monkeypatch.setattr(drawn_scores_module, "WHOLE", 10**9 if request.param == "product" else 0)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SAMPLED)
def test_so_it_is_with_negatives_of_each_positions_own(name, bias, way):
    q = torch.tensor([0.3, 0.1, 0.05, 0.2, 0.05, 0.1, 0.02, 0.08, 0.04, 0.03, 0.03])
    rows = torch.randint(1, 12, (40, 5), generator=torch.Generator().manual_seed(1))
    check_formula(name, make(40, 11, bias=bias), Negatives(rows, q.log()[rows - 1]))


@pytest.mark.parametrize("name", SAMPLED)
def test_negatives_that_are_the_same_for_each_position_are_shared_ones(name, way):
    case, shared = make(20, 11), drawn(4, 2, 9, 4, n_items=11)
    own = Negatives(*(x.repeat(20, 1) for x in (shared.rows, shared.log_q)))
    ways = [value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case) for negatives in (shared, own)]
    torch.testing.assert_close(*ways)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_losses_stay_finite_where_sigmoids_underflow(name):
    case = make(40, 11, scale=100.0)
    loss = partial(SAMPLED[name], negatives=drawn(4, 2, 9, n_items=11))
    assert all(found.isfinite().all() for found in value_and_gradients(loss, *case))


@pytest.mark.parametrize("bias", [True, False])
def test_sampled_softmax_over_each_item_once_is_the_full_softmax(bias):
    case = make(20, 11, bias=bias)
    sampled = partial(sampled_softmax, negatives=drawn(*range(1, 12), n_items=11))
    for ours, theirs in zip(value_and_gradients(sampled, *case), value_and_gradients(plain, *case), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_negative_that_is_the_target_is_not_counted():
    users, items, bias = (x.detach() for x in make(1, 9)[:3])
    loss = sampled_softmax(users, items, bias, torch.tensor([4]), negatives=drawn(4, 2, 4, n_items=9))
    logits = (users @ items.mT + bias)[0]
    # only item 2 is left, and stands for 9 / 3 items
    assert float(loss) == pytest.approx(float(torch.log(1 + 3 * (logits[1] - logits[3]).exp())), rel=1e-5)


def test_a_negative_that_is_the_target_of_another_position_is_counted():
    users, items, bias = (x.detach() for x in make(2, 9)[:3])
    negatives = Negatives(torch.tensor([[4, 2], [4, 2]]), torch.full((2, 2), -log(9)))
    loss = sampled_softmax(users, items, bias, torch.tensor([4, 2]), negatives=negatives)
    first, second = users @ items.mT + bias
    # each is left with one item, which stands for 9 / 2
    odds = torch.stack([(first[1] - first[3]).exp(), (second[3] - second[1]).exp()])
    assert float(loss) == pytest.approx(float(torch.log(1 + 9 / 2 * odds).mean()), rel=1e-5)


@pytest.mark.parametrize("name", SAMPLED)
def test_a_draw_of_nothing_but_targets_leaves_the_positive(name):
    users, items, bias, _ = make(1, 9)
    targets = torch.tensor([4])
    loss = SAMPLED[name](users, items, bias, targets, negatives=drawn(4, 4, n_items=9))
    positive = float(F.softplus(-(users[0] @ items[3] + bias[3])).detach())
    beta = positive_weight(2, 9, t=0.75)
    expected = {"sampled_softmax": 0, "gbce": beta * positive / 3, "bce": positive / 3, "bpr": 0}[name]
    assert float(loss.detach()) == pytest.approx(expected)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss, (users, items, bias)))


def test_gbce_without_calibration_is_bce_and_with_all_of_it_weighs_the_positive_by_the_sampling_rate():
    case, negatives = make(20, 11), drawn(4, 2, 9, n_items=11)
    assert positive_weight(3, 11, t=0) == pytest.approx(1)
    assert positive_weight(3, 11, t=1) == pytest.approx(3 / (11 - 1))
    torch.testing.assert_close(gbce(*case, negatives=negatives, t=0), bce(*case, negatives=negatives))
    rest = bce(*case, negatives=negatives) - gbce(*case, negatives=negatives, t=1)
    positive = F.softplus(-((case[0] * case[1][case[3] - 1]).sum(1) + case[2][case[3] - 1])).mean()
    torch.testing.assert_close(rest, (1 - 3 / 10) * positive / (3 + 1))


@pytest.mark.parametrize("rows", [(2,), (2, 3), (2, 3, 2, 3, 2, 3, 2, 3)])
@pytest.mark.parametrize("name", ["bce", "gbce"])
def test_a_model_that_knows_nothing_pays_least_at_the_base_score(name, rows):
    config = LossConfig(loss=name, n_negatives=len(rows))
    scores = torch.full((4,), base_score(config, 4)).requires_grad_()
    nothing = torch.zeros(3, 2), torch.zeros(4, 2)
    loss = SAMPLED[name](*nothing, scores, torch.tensor([1, 4, 4]), negatives=drawn(*rows, n_items=4))
    assert float(torch.autograd.grad(loss, scores)[0].sum()) == pytest.approx(0, abs=1e-6)


def test_losses_of_differences_have_the_base_score_nought():
    assert [base_score(LossConfig(loss=name), 100) for name in ("softmax", "sampled_softmax", "bpr")] == [0, 0, 0]


# --- scores of each position's own items


def own_items(n_positions: int, n_items: int, n_drawn: int, *, dim: int = 8):
    users, items = make(n_positions, n_items, dim)[:2]
    return users, items, torch.randint(n_items, (n_positions, n_drawn), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("n_positions", "n_items"), [(1, 1), (3, 5000), (CHUNK, 30), (CHUNK + 5, 30)])
def test_scores_of_drawn_items_are_picked_from_all_scores(n_positions, n_items, way, monkeypatch):
    monkeypatch.setattr(drawn_scores_module, "BLOCK", {"cpu": 7 * 6 * 8})  # seven positions at a time
    users, items, rows = own_items(n_positions, n_items, 6)
    direction = torch.randn(n_positions, 6, generator=torch.Generator().manual_seed(2))
    found = []
    for scores in (drawn_scores(users, items, rows), (users @ items.mT).gather(1, rows)):
        found.append([scores, *torch.autograd.grad(scores, (users, items), direction)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_their_gradients_agree_with_finite_differences(way):
    users, items, rows = own_items(5, 7, 4, dim=3)
    inputs = [x.detach().double().requires_grad_() for x in (users, items)]
    assert torch.autograd.gradcheck(partial(drawn_scores, drawn=rows), inputs)


@pytest.mark.parametrize("learned", ["users", "items"])
def test_only_what_is_learned_gets_their_gradient(learned, way):
    users, items, rows = own_items(5, 7, 4)
    case = {"users": users, "items": items}
    case = {name: x if name == learned else x.detach() for name, x in case.items()}
    (ours,) = torch.autograd.grad(drawn_scores(**case, drawn=rows).sum(), case[learned])
    (theirs,) = torch.autograd.grad((case["users"] @ case["items"].mT).gather(1, rows).sum(), case[learned])
    torch.testing.assert_close(ours, theirs)


def test_vectors_of_all_draws_are_never_in_memory(way, monkeypatch):
    n_positions, n_drawn, dim = 2 * CHUNK, 20, 16
    monkeypatch.setattr(drawn_scores_module, "BLOCK", {"cpu": 5 * n_drawn * dim})
    users, items, rows = own_items(n_positions, 40, n_drawn, dim=dim)
    with Largest() as largest:
        drawn_scores(users, items, rows).sum().backward()
    assert largest.numel == n_positions * n_drawn  # CHUNK x 40 scores of all items are as many


def test_products_with_all_items_are_rounded_where_that_is_wanted(way):
    users, items, rows = own_items(CHUNK, 500, 6, dim=64)
    found = []
    for precision in ("bfloat16", "float32"):
        with reduced_precision(precision, torch.device("cpu")):
            scores = drawn_scores(users, items, rows)
            found.append([scores, *torch.autograd.grad(scores.square().sum(), (users, items))])
    for rounded, exact in zip(*found, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.detach().abs().max()))
    if has_bfloat16(torch.device("cpu")):
        assert torch.equal(found[0][0], found[1][0]) == (way == "gathered")


# --- draws


@pytest.mark.parametrize("shape", [(40_000,), (400, 100)])
def test_popular_items_are_drawn_in_proportion_to_a_power_of_their_count_and_unseen_ones_never(shape):
    torch.manual_seed(0)
    n_positions = shape[0] if len(shape) == 2 else None
    negatives = draw_by_popularity(torch.tensor([16, 0, 1, 81, 0]), shape[-1], n_positions=n_positions, power=0.75)
    assert negatives.rows.shape == negatives.log_q.shape == shape
    assert len(negatives) == shape[-1]
    expected = torch.tensor([8, 0, 1, 27, 0]) / 36
    shares = torch.bincount(negatives.rows.flatten(), minlength=6)[1:] / 40_000
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(negatives.log_q.exp(), expected[negatives.rows - 1])


@pytest.mark.parametrize("n", [1, 30, 1000, 50_000])
def test_draws_in_proportion_are_those_of_a_search_in_all_running_sums(n):
    weights = torch.rand(2000, generator=torch.Generator().manual_seed(1), dtype=torch.double) ** 20
    weights[1990:] = 0
    torch.manual_seed(0)
    drawn = _in_proportion(weights, n)
    torch.manual_seed(0)
    sums = weights.cumsum(0)
    assert torch.equal(drawn, torch.searchsorted(sums / sums[-1], torch.rand(n, dtype=torch.double), right=True))


@pytest.mark.parametrize("n_positions", [None, 100])
def test_uniform_draws_reach_every_item_and_no_padding(n_positions):
    torch.manual_seed(0)
    negatives = draw_uniformly(7, 1000, n_positions=n_positions)
    assert negatives.rows.unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert negatives.rows.shape == ((1000,) if n_positions is None else (100, 1000))
    torch.testing.assert_close(negatives.log_q.exp(), torch.full(negatives.rows.shape, 1 / 7))


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_positions_draw_each_on_their_own(negatives):
    users, items = torch.ones(2, 1), torch.arange(1.0, 1001)[:, None]  # the score of an item is its row
    config = LossConfig(loss="bpr", n_negatives=1, negatives=negatives, negatives_for="position")
    torch.manual_seed(0)
    scores = users.requires_grad_()
    catalogue_loss(scores, items, None, torch.tensor([1, 1]), config=config, counts=torch.ones(1000)).backward()
    one, other = scores.grad.flatten().tolist()  # half of negative less target
    assert one != other


@pytest.mark.parametrize("negatives_for", ["step", "position"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_sampled_softmax_expects_the_full_sum_over_the_negatives(negatives, negatives_for):
    # exp(loss) - 1 is the sum of the other items' odds, which the draw estimates without bias
    users, items, bias, targets = (x.detach() for x in make(1, 30, dim=2))
    config = LossConfig(loss="sampled_softmax", n_negatives=10, negatives=negatives, negatives_for=negatives_for)
    torch.manual_seed(0)
    draws = [
        catalogue_loss(users, items, bias, targets, config=config, counts=torch.arange(1, 31)) for _ in range(4000)
    ]
    odds = torch.stack(draws).double().exp() - 1
    exact = float(plain(users, items, bias, targets).double().exp() - 1)
    error = float(odds.std() / len(odds) ** 0.5)
    assert error < 0.05 * exact, "the test must be able to tell"
    assert float(odds.mean()) == pytest.approx(exact, abs=4 * error)


@pytest.mark.parametrize("negatives_for", ["step", "position"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
@pytest.mark.parametrize("name", SAMPLED)
def test_negatives_are_drawn_anew_and_follow_the_seed(name, negatives, negatives_for):
    case = [x.detach() for x in make(5, 200)]
    config = LossConfig(loss=name, n_negatives=5, negatives=negatives, negatives_for=negatives_for)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(catalogue_loss(*case, config=config, counts=torch.arange(200))))
    assert losses[0] == losses[1] != losses[2]


# --- the registry and its settings


def test_settings_name_the_losses_of_the_registry():
    assert get_args(LossConfig.model_fields["loss"].annotation) == tuple(LOSSES)


EVERY_WAY = [LossConfig(loss=name) for name in LOSSES] + [
    LossConfig(loss=name, negatives_for="position", negatives=negatives, n_negatives=n_negatives)
    for name in SAMPLED
    for negatives in ("uniform", "popularity")
    for n_negatives in (1, 256)
]


@pytest.mark.parametrize("config", EVERY_WAY, ids=str)
def test_no_positions_cost_nothing_in_any_loss(config):
    users, items, bias, targets = make(0, 90)
    loss = catalogue_loss(users, items, bias, targets, config=config, counts=torch.ones(90))
    loss.backward()
    assert float(loss.detach()) == 0
    assert (items.grad == 0).all()
    assert (bias.grad == 0).all()


@pytest.mark.parametrize("config", EVERY_WAY, ids=str)
def test_a_catalogue_of_one_item_has_a_finite_loss(config):
    users, items, bias, targets = make(3, 1)
    catalogue_loss(users, items, bias, targets, config=config, counts=torch.ones(1)).backward()
    assert items.grad.isfinite().all()


@pytest.mark.parametrize("negatives_for", ["step", "position"])
@pytest.mark.parametrize("n_negatives", [20, 40])
@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_holds_scores_of_all_positions_against_all_items(name, n_negatives, negatives_for):
    n_positions, n_items = 4 * CHUNK, 700
    case = make(n_positions, n_items)
    sampled = {"n_negatives": n_negatives, "negatives": "popularity", "negatives_for": negatives_for}
    config = LossConfig(loss=name, **sampled) if name != "softmax" else LossConfig()
    with Largest() as largest:
        catalogue_loss(*case, config=config, counts=torch.ones(n_items)).backward()
    assert largest.numel <= CHUNK * n_items


def test_the_settings_reach_the_loss():
    case = [x.detach() for x in make(20, 9)]
    look = partial(catalogue_loss, *case, counts=None)
    torch.testing.assert_close(
        look(config=LossConfig(label_smoothing=0.3)), full_softmax(*case, label_smoothing=0.3), rtol=0, atol=0
    )
    torch.manual_seed(0)
    expected = gbce(*case, negatives=draw_uniformly(9, 4), t=0.5)
    torch.manual_seed(0)
    assert look(config=LossConfig(loss="gbce", n_negatives=4, gbce_t=0.5)) == expected


def test_more_negatives_than_items_are_allowed():
    case = [x.detach() for x in make(20, 5)]
    for name in SAMPLED:
        config = LossConfig(loss=name, n_negatives=100)
        assert catalogue_loss(*case, config=config, counts=None).isfinite()


def test_negatives_by_popularity_ask_for_counts():
    config = LossConfig(loss="bpr", negatives="popularity")
    with pytest.raises(ValueError, match=r"need the items' counts.*got none; .*negatives = 'uniform'"):
        catalogue_loss(*make(5, 9), config=config, counts=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_negatives": 64},
            r"n_negatives .* got n_negatives = 64 with loss = 'softmax'; set loss = 'sampled_softmax'",
        ),
        (
            {"negatives_for": "position"},
            r"setting of sampled_softmax, .*bpr, got negatives_for = 'position' with loss = 'softmax'; "
            r"set loss = 'sampled_softmax' or leave negatives_for out",
        ),
        ({"loss": "bpr", "negatives_for": "user"}, "'step' or 'position'"),
        ({"negatives": "popularity"}, r"with loss = 'softmax'; set loss = 'sampled_softmax' or leave negatives out"),
        (
            {"loss": "bpr", "label_smoothing": 0.1},
            r"setting of softmax, got .* with loss = 'bpr'; set loss = 'softmax'",
        ),
        ({"loss": "bce", "gbce_t": 0.5}, r"setting of gbce, got .* with loss = 'bce'; set loss = 'gbce'"),
        ({"label_smoothing": 1}, "less than 1"),
        ({"loss": "gbce", "gbce_t": 1.5}, "less than or equal to 1"),
        ({"loss": "bce", "n_negatives": 0}, "greater than 0"),
        ({"loss": "hinge"}, "loss: .*'softmax'.*'bpr'"),
    ],
)
def test_settings_that_would_not_be_applied_are_refused_in_one_line(settings, message):
    with pytest.raises(SettingsError, match=message) as caught:
        LossConfig.from_dict(settings)
    assert "\n" not in str(caught.value)


def test_settings_written_out_are_read_back():
    for config in EVERY_WAY:
        assert LossConfig(**config.model_dump()) == config


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("autocast", [False, True])
def test_full_softmax_on_cuda_equals_the_cpu(autocast):
    case = make(2 * CHUNK + 3, 333)
    moved = [x if x is None else x.detach().cuda().requires_grad_(x.requires_grad) for x in case]
    with torch.autocast("cuda", dtype=torch.bfloat16) if autocast else nullcontext():
        found = value_and_gradients(full_softmax, *moved)
    for ours, theirs in zip(found, value_and_gradients(full_softmax, *case), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", SAMPLED)
def test_losses_of_each_positions_own_negatives_on_cuda_equal_the_cpu(name, way):
    case = make(50, 33)
    moved = [x.detach().cuda().requires_grad_(x.requires_grad) for x in case]
    on_cuda = draw_by_popularity(torch.arange(1, 34).cuda(), 12, n_positions=50)
    assert on_cuda.rows.is_cuda
    assert draw_uniformly(33, 12, n_positions=50, device=torch.device("cuda")).log_q.is_cuda
    negatives = Negatives(on_cuda.rows.cpu(), on_cuda.log_q.cpu())
    found = value_and_gradients(partial(SAMPLED[name], negatives=on_cuda), *moved)
    expected = value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case)
    for on_gpu, on_cpu in zip(found, expected, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_losses_on_cuda_equal_the_cpu(name):
    case = make(50, 33)
    moved = [x.detach().cuda().requires_grad_(x.requires_grad) for x in case]
    torch.manual_seed(0)
    negatives = draw_by_popularity(torch.arange(1, 34), 12)
    on_cuda = draw_by_popularity(torch.arange(1, 34).cuda(), 12)
    assert on_cuda.rows.is_cuda
    assert draw_uniformly(33, 12, device=torch.device("cuda")).log_q.is_cuda
    theirs = Negatives(negatives.rows.cuda(), negatives.log_q.cuda())
    found = value_and_gradients(partial(SAMPLED[name], negatives=theirs), *moved)
    expected = value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case)
    for on_gpu, on_cpu in zip(found, expected, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-6)

"""Tests of the losses against reference implementations in float64, with explicit negatives."""

from contextlib import nullcontext
from functools import partial
from math import log

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnrec.config import SettingsError
from attnrec.losses import (
    LOSSES,
    Loss,
    LossConfig,
    Negatives,
    base_score,
    bce,
    bpr,
    catalogue_loss,
    full_softmax,
    gbce,
    sample_by_popularity,
    sample_uniformly,
    sampled_softmax,
)
from attnrec.losses import sampled_scores as sampled_scores_module
from attnrec.losses.full_softmax import CHUNK
from attnrec.losses.negatives import _sample_by_weight
from attnrec.losses.sampled import positive_weight
from attnrec.losses.sampled_scores import score_samples
from attnrec.precision import reduced_precision

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


def reference_softmax(users, items, bias, targets, *, label_smoothing=0.0):
    logits = users @ items.mT
    return F.cross_entropy(logits if bias is None else logits + bias, targets - 1, label_smoothing=label_smoothing)


def doubled(case):
    return [x.double() if x is not None and x.is_floating_point() else x for x in case]


def negatives_of(*rows: int, n_items: int) -> Negatives:
    """These item rows, as samples of a uniform distribution."""
    return Negatives(torch.tensor(rows), torch.full((len(rows),), -log(n_items)))


def value_and_gradients(loss, users, items, bias, targets):
    inputs = [x for x in (users, items, bias) if x is not None]
    value = loss(users, items, bias, targets)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


class Largest(TorchDispatchMode):
    """Records the largest number of elements of any tensor created inside the block."""

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
def test_full_softmax_equals_cross_entropy_in_value_and_gradients(n_positions, bias):
    case = make(n_positions, 37, bias=bias)
    for actual, expected in zip(
        value_and_gradients(full_softmax, *case), value_and_gradients(reference_softmax, *case), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_full_softmax_of_equal_scores_is_the_log_of_the_number_of_items():
    loss = full_softmax(torch.zeros(4, 2), torch.randn(10, 2), None, torch.tensor([1, 5, 10, 10]))
    assert float(loss) == pytest.approx(torch.log(torch.tensor(10.0)))


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_full_softmax_is_exact_if_probabilities_underflow(scale):
    case = make(CHUNK + 7, 50, scale=scale)
    exact = value_and_gradients(reference_softmax, *doubled(case))
    with torch.no_grad():
        logits = case[0] @ case[1].mT + case[2]
        assert (logits.softmax(1).gather(1, case[3][:, None] - 1) == 0).any(), "some probability must underflow"
    for actual, expected in zip(value_and_gradients(full_softmax, *case), exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("n_positions", [3, CHUNK + 5])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("bias", [True, False])
def test_label_smoothing_equals_torchs_in_value_and_gradients(n_positions, scale, bias):
    case = make(n_positions, 37, scale=scale, bias=bias)
    smooth, reference = (partial(loss, label_smoothing=0.2) for loss in (full_softmax, reference_softmax))
    exact = value_and_gradients(reference, *doubled(case))
    for actual, expected in zip(value_and_gradients(smooth, *case), exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


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


def test_gradients_are_scaled_by_the_gradient_of_the_loss():
    users, items, bias, targets = make(6, 9)
    (once,) = torch.autograd.grad(full_softmax(users, items, bias, targets), items)
    (thrice,) = torch.autograd.grad(3 * full_softmax(users, items, bias, targets), items)
    torch.testing.assert_close(thrice, 3 * once)


def test_the_gradient_propagates_to_the_computation_of_the_inputs():
    users, items, bias, targets = make(6, 9)
    (actual,) = torch.autograd.grad(full_softmax(F.normalize(users), items, bias, targets), users)
    (expected,) = torch.autograd.grad(reference_softmax(F.normalize(users), items, bias, targets), users)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learned", ["users", "items", "bias"])
def test_inputs_may_be_without_gradient(learned):
    case = dict(zip(("users", "items", "bias", "targets"), make(6, 9), strict=True))
    case = {name: x if name == learned else x.detach() for name, x in case.items()}
    (actual,) = torch.autograd.grad(full_softmax(**case), case[learned])
    (expected,) = torch.autograd.grad(reference_softmax(**case), case[learned])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_the_loss_of_no_positions_is_0():
    users, items, bias, targets = make(0, 9)
    loss = full_softmax(users, items, bias, targets)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (items.grad == 0).all()


@pytest.mark.parametrize("loss", [full_softmax, partial(full_softmax, label_smoothing=0.1), reference_softmax])
def test_the_logits_of_all_positions_are_never_in_memory(loss):
    n_positions, n_items = 4 * CHUNK, 500
    case = make(n_positions, n_items)
    with Largest() as largest:
        loss(*case).backward()
    if loss is reference_softmax:  # checks the measurement: it finds the T x N logits
        assert largest.numel == n_positions * n_items
    else:
        assert largest.numel <= CHUNK * n_items


def test_bfloat16_inputs_get_bfloat16_gradients():
    users, items, bias, targets = make(300, 40)
    small = users.detach().bfloat16().requires_grad_()
    full_softmax(small, items, bias, targets).backward()
    assert small.grad.dtype == torch.bfloat16
    (exact,) = torch.autograd.grad(
        reference_softmax(small.detach().float().requires_grad_(), items, bias, targets), items
    )
    torch.testing.assert_close(items.grad, exact, rtol=1e-3, atol=1e-5)


# --- sampled losses


def as_published(name, case, negatives):
    """The losses as in their papers, position by position; gBCE with t = 0.75."""
    users, items, bias, targets = case
    sampled, log_q = (x.expand(len(users), -1) for x in (negatives.items, negatives.log_q.double()))
    scores = users @ items.mT + (0 if bias is None else bias)
    alpha = sampled.shape[1] / (len(items) - 1)
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    losses = []
    for row, target, items_of_row, q in zip(scores, targets, sampled, log_q.exp(), strict=True):
        s, counted = row[target - 1], items_of_row != target
        negative = row[items_of_row - 1][counted]
        log_rejections = (1 - torch.sigmoid(negative)).log().sum()
        others = (negative.exp() / (len(items_of_row) * q[counted])).sum()
        by_loss = {
            "sampled_softmax": (s.exp() / (s.exp() + others)).log(),
            "gbce": (torch.sigmoid(s).pow(beta).log() + log_rejections) / (len(items_of_row) + 1),
            "bce": (torch.sigmoid(s).log() + log_rejections) / (len(items_of_row) + 1),
            "bpr": torch.sigmoid(s - negative).log().mean(),
        }
        losses.append(-by_loss[name])
    return torch.stack(losses).mean()


def check_formula(name, case, negatives):
    assert (case[3][:, None] == negatives.items).any(), "some negatives must be targets"
    exact = value_and_gradients(lambda *inputs: as_published(name, inputs, negatives), *doubled(case))
    actual_values = value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case)
    for actual, expected in zip(actual_values, exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_sampled_loss_equals_the_formula_of_its_paper_in_value_and_gradients(name, bias):
    negatives = Negatives(torch.tensor([4, 2, 4, 11, 7]), torch.tensor([0.3, 0.1, 0.3, 0.2, 0.05]).log())
    check_formula(name, make(40, 11, bias=bias), negatives)


@pytest.fixture(params=["dense", "gathered"])
def method(request, monkeypatch):
    """How the scores of sampled items are computed."""
    monkeypatch.setattr(sampled_scores_module, "MAX_DENSE_RATIO", 10**9 if request.param == "dense" else 0)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_sampled_loss_with_negatives_per_position_equals_the_formula_of_its_paper(name, bias, method):
    q = torch.tensor([0.3, 0.1, 0.05, 0.2, 0.05, 0.1, 0.02, 0.08, 0.04, 0.03, 0.03])
    rows = torch.randint(1, 12, (40, 5), generator=torch.Generator().manual_seed(1))
    check_formula(name, make(40, 11, bias=bias), Negatives(rows, q.log()[rows - 1]))


@pytest.mark.parametrize("name", SAMPLED)
def test_equal_negatives_per_position_equal_shared_negatives(name, method):
    case, shared = make(20, 11), negatives_of(4, 2, 9, 4, n_items=11)
    repeated = Negatives(*(x.repeat(20, 1) for x in (shared.items, shared.log_q)))
    results = [
        value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case) for negatives in (shared, repeated)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_losses_are_finite_if_sigmoids_underflow(name):
    case = make(40, 11, scale=100.0)
    loss = partial(SAMPLED[name], negatives=negatives_of(4, 2, 9, n_items=11))
    assert all(x.isfinite().all() for x in value_and_gradients(loss, *case))


@pytest.mark.parametrize("bias", [True, False])
def test_sampled_softmax_over_each_item_once_equals_the_full_softmax(bias):
    case = make(20, 11, bias=bias)
    sampled = partial(sampled_softmax, negatives=negatives_of(*range(1, 12), n_items=11))
    for actual, expected in zip(
        value_and_gradients(sampled, *case), value_and_gradients(reference_softmax, *case), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_negative_that_is_the_target_is_ignored():
    users, items, bias = (x.detach() for x in make(1, 9)[:3])
    loss = sampled_softmax(users, items, bias, torch.tensor([4]), negatives=negatives_of(4, 2, 4, n_items=9))
    logits = (users @ items.mT + bias)[0]
    # only item 2 remains, with weight 9 / 3
    assert float(loss) == pytest.approx(float(torch.log(1 + 3 * (logits[1] - logits[3]).exp())), rel=1e-5)


def test_a_negative_that_is_the_target_of_another_position_is_counted():
    users, items, bias = (x.detach() for x in make(2, 9)[:3])
    negatives = Negatives(torch.tensor([[4, 2], [4, 2]]), torch.full((2, 2), -log(9)))
    loss = sampled_softmax(users, items, bias, torch.tensor([4, 2]), negatives=negatives)
    first, second = users @ items.mT + bias
    # one item remains for each, with weight 9 / 2
    odds = torch.stack([(first[1] - first[3]).exp(), (second[3] - second[1]).exp()])
    assert float(loss) == pytest.approx(float(torch.log(1 + 9 / 2 * odds).mean()), rel=1e-5)


@pytest.mark.parametrize("name", SAMPLED)
def test_if_all_negatives_are_targets_only_the_positive_counts(name):
    users, items, bias, _ = make(1, 9)
    targets = torch.tensor([4])
    loss = SAMPLED[name](users, items, bias, targets, negatives=negatives_of(4, 4, n_items=9))
    positive = float(F.softplus(-(users[0] @ items[3] + bias[3])).detach())
    beta = positive_weight(2, 9, t=0.75)
    expected = {"sampled_softmax": 0, "gbce": beta * positive / 3, "bce": positive / 3, "bpr": 0}[name]
    assert float(loss.detach()) == pytest.approx(expected)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (users, items, bias)))


def test_gbce_with_t_0_is_bce_and_with_t_1_weights_the_positive_by_the_sampling_rate():
    case, negatives = make(20, 11), negatives_of(4, 2, 9, n_items=11)
    assert positive_weight(3, 11, t=0) == pytest.approx(1)
    assert positive_weight(3, 11, t=1) == pytest.approx(3 / (11 - 1))
    torch.testing.assert_close(gbce(*case, negatives=negatives, t=0), bce(*case, negatives=negatives))
    difference = bce(*case, negatives=negatives) - gbce(*case, negatives=negatives, t=1)
    positive = F.softplus(-((case[0] * case[1][case[3] - 1]).sum(1) + case[2][case[3] - 1])).mean()
    torch.testing.assert_close(difference, (1 - 3 / 10) * positive / (3 + 1))


@pytest.mark.parametrize("rows", [(2,), (2, 3), (2, 3, 2, 3, 2, 3, 2, 3)])
@pytest.mark.parametrize("name", ["bce", "gbce"])
def test_the_base_score_minimises_the_loss_of_constant_scores(name, rows):
    config = LossConfig(loss=name, n_negatives=len(rows))
    scores = torch.full((4,), base_score(config, 4)).requires_grad_()
    zero_vectors = torch.zeros(3, 2), torch.zeros(4, 2)
    loss = SAMPLED[name](*zero_vectors, scores, torch.tensor([1, 4, 4]), negatives=negatives_of(*rows, n_items=4))
    assert float(torch.autograd.grad(loss, scores)[0].sum()) == pytest.approx(0, abs=1e-6)


def test_the_base_score_of_losses_of_score_differences_is_0():
    assert [base_score(LossConfig(loss=name), 100) for name in ("softmax", "sampled_softmax", "bpr")] == [0, 0, 0]


# --- scores of sampled items


def samples(n_positions: int, n_items: int, n_sampled: int, *, dim: int = 8):
    users, items = make(n_positions, n_items, dim)[:2]
    return users, items, torch.randint(n_items, (n_positions, n_sampled), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("n_positions", "n_items"), [(1, 1), (3, 5000), (CHUNK, 30), (CHUNK + 5, 30)])
def test_scores_of_sampled_items_equal_those_picked_from_all_scores(n_positions, n_items, method, monkeypatch):
    monkeypatch.setattr(sampled_scores_module, "BLOCK", {"cpu": 7 * 6 * 8})  # seven positions at a time
    users, items, rows = samples(n_positions, n_items, 6)
    direction = torch.randn(n_positions, 6, generator=torch.Generator().manual_seed(2))
    results = []
    for scores in (score_samples(users, items, rows), (users @ items.mT).gather(1, rows)):
        results.append([scores, *torch.autograd.grad(scores, (users, items), direction)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_gradients_of_sampled_scores_equal_finite_differences(method):
    users, items, rows = samples(5, 7, 4, dim=3)
    inputs = [x.detach().double().requires_grad_() for x in (users, items)]
    assert torch.autograd.gradcheck(partial(score_samples, sampled=rows), inputs)


@pytest.mark.parametrize("learned", ["users", "items"])
def test_users_or_items_may_be_without_gradient(learned, method):
    users, items, rows = samples(5, 7, 4)
    case = {"users": users, "items": items}
    case = {name: x if name == learned else x.detach() for name, x in case.items()}
    (actual,) = torch.autograd.grad(score_samples(**case, sampled=rows).sum(), case[learned])
    (expected,) = torch.autograd.grad((case["users"] @ case["items"].mT).gather(1, rows).sum(), case[learned])
    torch.testing.assert_close(actual, expected)


def test_vectors_of_all_samples_are_never_in_memory(method, monkeypatch):
    n_positions, n_sampled, dim = 2 * CHUNK, 20, 16
    monkeypatch.setattr(sampled_scores_module, "BLOCK", {"cpu": 5 * n_sampled * dim})
    users, items, rows = samples(n_positions, 40, n_sampled, dim=dim)
    with Largest() as largest:
        score_samples(users, items, rows).sum().backward()
    assert largest.numel == n_positions * n_sampled  # CHUNK x 40 scores of all items are the same number


def test_reduced_precision_rounds_dense_scores_if_the_backend_rounds(method, matmul_backend):
    users, items, rows = samples(CHUNK, 500, 6, dim=64)
    results = []
    for precision in ("bfloat16", "float32"):
        with reduced_precision(precision, torch.device("cpu")):
            scores = score_samples(users, items, rows)
            results.append([scores, *torch.autograd.grad(scores.square().sum(), (users, items))])
    for rounded, exact in zip(*results, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.detach().abs().max()))
    is_rounded = method == "dense" and matmul_backend == "rounding"
    assert torch.equal(results[0][0], results[1][0]) == (not is_rounded)


# --- negative sampling


@pytest.mark.parametrize("shape", [(40_000,), (400, 100)])
def test_items_are_sampled_in_proportion_to_a_power_of_their_count(shape):
    torch.manual_seed(0)
    n_positions = shape[0] if len(shape) == 2 else None
    negatives = sample_by_popularity(torch.tensor([16, 0, 1, 81, 0]), shape[-1], n_positions=n_positions, power=0.75)
    assert negatives.items.shape == negatives.log_q.shape == shape
    assert len(negatives) == shape[-1]
    expected = torch.tensor([8, 0, 1, 27, 0]) / 36
    frequencies = torch.bincount(negatives.items.flatten(), minlength=6)[1:] / 40_000
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(negatives.log_q.exp(), expected[negatives.items - 1])


@pytest.mark.parametrize("n", [1, 30, 1000, 50_000])
def test_sampling_by_weight_equals_a_search_in_the_cumulative_sums(n):
    weights = torch.rand(2000, generator=torch.Generator().manual_seed(1), dtype=torch.double) ** 20
    weights[1990:] = 0
    torch.manual_seed(0)
    sampled = _sample_by_weight(weights, n)
    torch.manual_seed(0)
    sums = weights.cumsum(0)
    assert torch.equal(sampled, torch.searchsorted(sums / sums[-1], torch.rand(n, dtype=torch.double), right=True))


@pytest.mark.parametrize("n_positions", [None, 100])
def test_uniform_samples_contain_every_item_and_no_padding(n_positions):
    torch.manual_seed(0)
    negatives = sample_uniformly(7, 1000, n_positions=n_positions)
    assert negatives.items.unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert negatives.items.shape == ((1000,) if n_positions is None else (100, 1000))
    torch.testing.assert_close(negatives.log_q.exp(), torch.full(negatives.items.shape, 1 / 7))


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_positions_have_separate_samples(negatives):
    users, items = torch.ones(2, 1), torch.arange(1.0, 1001)[:, None]  # the score of an item is its row
    config = LossConfig(loss="bpr", n_negatives=1, negatives=negatives, negatives_per="position")
    torch.manual_seed(0)
    scores = users.requires_grad_()
    catalogue_loss(scores, items, None, torch.tensor([1, 1]), config=config, counts=torch.ones(1000)).backward()
    one, other = scores.grad.flatten().tolist()  # half of negative minus target
    assert one != other


@pytest.mark.parametrize("negatives_per", ["step", "position"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_sampled_softmax_is_an_unbiased_estimate_of_the_sum_over_all_items(negatives, negatives_per):
    # exp(loss) - 1 is the sum of the odds of the other items, of which the sample is an unbiased estimate
    users, items, bias, targets = (x.detach() for x in make(1, 30, dim=2))
    config = LossConfig(loss="sampled_softmax", n_negatives=10, negatives=negatives, negatives_per=negatives_per)
    torch.manual_seed(0)
    losses = [
        catalogue_loss(users, items, bias, targets, config=config, counts=torch.arange(1, 31)) for _ in range(4000)
    ]
    odds = torch.stack(losses).double().exp() - 1
    exact = float(reference_softmax(users, items, bias, targets).double().exp() - 1)
    error = float(odds.std() / len(odds) ** 0.5)
    assert error < 0.05 * exact, "the test must have enough samples"
    assert float(odds.mean()) == pytest.approx(exact, abs=4 * error)


@pytest.mark.parametrize("negatives_per", ["step", "position"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
@pytest.mark.parametrize("name", SAMPLED)
def test_negatives_depend_on_the_seed(name, negatives, negatives_per):
    case = [x.detach() for x in make(5, 200)]
    config = LossConfig(loss=name, n_negatives=5, negatives=negatives, negatives_per=negatives_per)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(catalogue_loss(*case, config=config, counts=torch.arange(200))))
    assert losses[0] == losses[1] != losses[2]


# --- the registry and its settings


def test_a_registered_loss_can_be_selected(monkeypatch):
    monkeypatch.setitem(LOSSES, "mine", Loss(lambda users, items, bias, targets: users.sum() - items.sum()))
    users, items, bias, targets = make(3, 5)
    loss = catalogue_loss(users, items, bias, targets, config=LossConfig(loss="mine"), counts=None)
    assert loss == users.sum() - items.sum()


CONFIGS = [LossConfig(loss=name) for name in LOSSES] + [
    LossConfig(loss=name, negatives_per="position", negatives=negatives, n_negatives=n_negatives)
    for name in SAMPLED
    for negatives in ("uniform", "popularity")
    for n_negatives in (1, 256)
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_any_loss_of_no_positions_is_0(config):
    users, items, bias, targets = make(0, 90)
    loss = catalogue_loss(users, items, bias, targets, config=config, counts=torch.ones(90))
    loss.backward()
    assert float(loss.detach()) == 0
    assert (items.grad == 0).all()
    assert (bias.grad == 0).all()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_catalogue_of_one_item_has_a_finite_loss(config):
    users, items, bias, targets = make(3, 1)
    catalogue_loss(users, items, bias, targets, config=config, counts=torch.ones(1)).backward()
    assert items.grad.isfinite().all()


@pytest.mark.parametrize("negatives_per", ["step", "position"])
@pytest.mark.parametrize("n_negatives", [20, 40])
@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_creates_the_scores_of_all_positions_and_items(name, n_negatives, negatives_per):
    n_positions, n_items = 4 * CHUNK, 700
    case = make(n_positions, n_items)
    sampled = {"n_negatives": n_negatives, "negatives": "popularity", "negatives_per": negatives_per}
    config = LossConfig(loss=name, **sampled) if name != "softmax" else LossConfig()
    with Largest() as largest:
        catalogue_loss(*case, config=config, counts=torch.ones(n_items)).backward()
    assert largest.numel <= CHUNK * n_items


def test_the_settings_reach_the_loss():
    case = [x.detach() for x in make(20, 9)]
    loss_with = partial(catalogue_loss, *case, counts=None)
    torch.testing.assert_close(
        loss_with(config=LossConfig(label_smoothing=0.3)), full_softmax(*case, label_smoothing=0.3), rtol=0, atol=0
    )
    torch.manual_seed(0)
    expected = gbce(*case, negatives=sample_uniformly(9, 4), t=0.5)
    torch.manual_seed(0)
    assert loss_with(config=LossConfig(loss="gbce", n_negatives=4, gbce_t=0.5)) == expected


def test_more_negatives_than_items_are_allowed():
    case = [x.detach() for x in make(20, 5)]
    for name in SAMPLED:
        config = LossConfig(loss=name, n_negatives=100)
        assert catalogue_loss(*case, config=config, counts=None).isfinite()


def test_negatives_by_popularity_need_counts():
    config = LossConfig(loss="bpr", negatives="popularity")
    with pytest.raises(ValueError, match=r"needs the counts of the items.*got None; .*negatives = 'uniform'"):
        catalogue_loss(*make(5, 9), config=config, counts=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_negatives": 64},
            r"n_negatives .* got n_negatives = 64 with loss = 'softmax'; set loss = 'sampled_softmax'",
        ),
        (
            {"negatives_per": "position"},
            r"setting of sampled_softmax, .*bpr, got negatives_per = 'position' with loss = 'softmax'; "
            r"set loss = 'sampled_softmax' or leave negatives_per out",
        ),
        ({"loss": "bpr", "negatives_per": "user"}, "'step' or 'position'"),
        ({"negatives": "popularity"}, r"with loss = 'softmax'; set loss = 'sampled_softmax' or leave negatives out"),
        (
            {"loss": "bpr", "label_smoothing": 0.1},
            r"setting of softmax, got .* with loss = 'bpr'; set loss = 'softmax'",
        ),
        ({"loss": "bce", "gbce_t": 0.5}, r"setting of gbce, got .* with loss = 'bce'; set loss = 'gbce'"),
        ({"label_smoothing": 1}, "less than 1"),
        ({"loss": "gbce", "gbce_t": 1.5}, "less than or equal to 1"),
        ({"loss": "bce", "n_negatives": 0}, "greater than 0"),
        ({"loss": "hinge"}, "loss must be one of bce, bpr, gbce, sampled_softmax, softmax, got 'hinge'"),
    ],
)
def test_settings_of_other_losses_are_rejected_in_one_line(settings, message):
    with pytest.raises(SettingsError, match=message) as caught:
        LossConfig.from_dict(settings)
    assert "\n" not in str(caught.value)


def test_settings_round_trip():
    for config in CONFIGS:
        assert LossConfig(**config.model_dump()) == config


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("autocast", [False, True])
def test_full_softmax_agrees_on_gpu_and_cpu(autocast):
    case = make(2 * CHUNK + 3, 333)
    moved = [x if x is None else x.detach().cuda().requires_grad_(x.requires_grad) for x in case]
    with torch.autocast("cuda", dtype=torch.bfloat16) if autocast else nullcontext():
        on_gpu_values = value_and_gradients(full_softmax, *moved)
    for actual, expected in zip(on_gpu_values, value_and_gradients(full_softmax, *case), strict=True):
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_losses_with_negatives_per_position_agree_on_gpu_and_cpu(name, method):
    case = make(50, 33)
    moved = [x.detach().cuda().requires_grad_(x.requires_grad) for x in case]
    on_cuda = sample_by_popularity(torch.arange(1, 34).cuda(), 12, n_positions=50)
    assert on_cuda.items.is_cuda
    assert sample_uniformly(33, 12, n_positions=50, device=torch.device("cuda")).log_q.is_cuda
    negatives = Negatives(on_cuda.items.cpu(), on_cuda.log_q.cpu())
    on_gpu_values = value_and_gradients(partial(SAMPLED[name], negatives=on_cuda), *moved)
    expected = value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case)
    for on_gpu, on_cpu in zip(on_gpu_values, expected, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_losses_agree_on_gpu_and_cpu(name):
    case = make(50, 33)
    moved = [x.detach().cuda().requires_grad_(x.requires_grad) for x in case]
    torch.manual_seed(0)
    negatives = sample_by_popularity(torch.arange(1, 34), 12)
    on_cuda = sample_by_popularity(torch.arange(1, 34).cuda(), 12)
    assert on_cuda.items.is_cuda
    assert sample_uniformly(33, 12, device=torch.device("cuda")).log_q.is_cuda
    moved_negatives = Negatives(negatives.items.cuda(), negatives.log_q.cuda())
    on_gpu_values = value_and_gradients(partial(SAMPLED[name], negatives=moved_negatives), *moved)
    expected = value_and_gradients(partial(SAMPLED[name], negatives=negatives), *case)
    for on_gpu, on_cpu in zip(on_gpu_values, expected, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-6)

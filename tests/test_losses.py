from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnrec.losses import CHUNK, full_softmax, sampled_softmax


def make(n_positions: int, n_items: int, dim: int = 8, *, scale: float = 1.0, bias: bool = True):
    random = torch.Generator().manual_seed(n_positions + n_items)
    users = (scale * torch.randn(n_positions, dim, generator=random)).requires_grad_()
    items = (scale * torch.randn(n_items, dim, generator=random)).requires_grad_()
    added = torch.randn(n_items, generator=random).requires_grad_() if bias else None
    targets = torch.randint(1, n_items + 1, (n_positions,), generator=random)
    return users, items, added, targets


def plain(users, items, bias, targets):
    logits = users @ items.mT
    return F.cross_entropy(logits if bias is None else logits + bias, targets - 1)


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
    exact = value_and_gradients(plain, *(x.double() if x.is_floating_point() else x for x in case))
    with torch.no_grad():
        logits = case[0] @ case[1].mT + case[2]
        assert (logits.softmax(1).gather(1, case[3][:, None] - 1) == 0).any(), "the world must underflow"
    for ours, theirs in zip(value_and_gradients(full_softmax, *case), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


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


@pytest.mark.parametrize("loss", [full_softmax, plain])
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


# --- sampled softmax


@pytest.fixture
def draw(monkeypatch):
    """Make the draw of negatives give these item rows."""

    def fix(*rows: int) -> None:
        monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.tensor(rows) - 1)

    return fix


@pytest.mark.parametrize("bias", [True, False])
def test_sampled_softmax_over_each_item_once_is_the_full_softmax(draw, bias):
    case = make(20, 11, bias=bias)
    draw(*range(1, 12))

    def sampled(*inputs):
        return sampled_softmax(*inputs, n_negatives=11)

    for ours, theirs in zip(value_and_gradients(sampled, *case), value_and_gradients(plain, *case), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_negative_that_is_the_target_is_not_counted(draw):
    users, items, bias = (x.detach() for x in make(1, 9)[:3])
    draw(4, 2, 4)
    loss = sampled_softmax(users, items, bias, torch.tensor([4]), n_negatives=3)
    logits = (users @ items.mT + bias)[0]
    # only item 2 is left, and stands for 9 / 3 items
    assert float(loss) == pytest.approx(float(torch.log(1 + 3 * (logits[1] - logits[3]).exp())), rel=1e-5)


def test_a_draw_of_nothing_but_targets_costs_nothing(draw):
    users, items, bias, _ = make(1, 9)
    draw(4, 4)
    assert float(sampled_softmax(users, items, bias, torch.tensor([4]), n_negatives=2).detach()) == 0


def test_sampled_softmax_expects_the_full_sum_over_the_negatives():
    # exp(loss) - 1 is the sum of the other items' odds, which the draw estimates without bias
    users, items, bias, targets = (x.detach() for x in make(1, 30, dim=2))
    torch.manual_seed(0)
    draws = torch.stack([sampled_softmax(users, items, bias, targets, n_negatives=10) for _ in range(4000)])
    odds = draws.double().exp() - 1
    exact = float(plain(users, items, bias, targets).double().exp() - 1)
    error = float(odds.std() / len(odds) ** 0.5)
    assert error < 0.05 * exact, "the test must be able to tell"
    assert float(odds.mean()) == pytest.approx(exact, abs=4 * error)


def test_negatives_are_drawn_anew_and_follow_the_seed():
    users, items, bias, targets = (x.detach() for x in make(5, 200))
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(sampled_softmax(users, items, bias, targets, n_negatives=5)))
    assert losses[0] == losses[1] != losses[2]


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

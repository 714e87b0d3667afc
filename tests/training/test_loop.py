import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from attnrec.dataset import Histories, Holdout, split_last
from attnrec.evaluation.evaluator import Evaluation
from attnrec.models import GATConfig, ItemKNNConfig, Model, SequenceConfig, SequenceModel, build_model
from attnrec.training import AugmentConfig, DivergenceError, TrainConfig, choose_device, train
from attnrec.training.ema import ExponentialMovingAverage

TINY = {"dim": 8, "heads": 2, "pooling_heads": 2, "max_length": 8, "dropout": 0.3}
CONFIGS = {"attnrec": SequenceConfig(**TINY, layers=1), "gat": GATConfig(**TINY, edges_per_step=100)}
N_BATCHES = 5  # 72 users, 16 windows a step
ALWAYS = 1e-9  # minutes between checkpoints: after every batch
CONFIG = TrainConfig(
    epochs=4, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", seed=1, checkpoint_minutes=ALWAYS
)


class KilledError(Exception):
    """The machine is gone."""


@pytest.fixture(params=CONFIGS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def seen(checkerboard) -> Histories:
    return checkerboard.histories


@pytest.fixture
def questions(seen) -> Holdout:
    return split_last(seen).validation


def untrained(kind: str = "attnrec", *, seed: int = 0, n_items: int = 12) -> Model:
    torch.manual_seed(seed)
    return build_model(CONFIGS[kind], n_items)


def disturb(model: Model, at_step: int, error: BaseException) -> Model:
    """Make the model raise `error` in its training step number `at_step`, counted from 1."""
    calls, loss = iter(range(1, 10_000)), model.loss

    def raising(batch):
        if next(calls) == at_step:
            raise error
        return loss(batch)

    model.loss = raising
    return model


def count_steps(model: Model) -> list[int]:
    steps, loss = [], model.loss
    model.loss = lambda batch: (steps.append(1), loss(batch))[1]
    return steps


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(result) -> list[float]:
    return [report["train/loss"] for report in result.epochs]


@pytest.fixture
def judged(monkeypatch):
    """Make validation give these values, epoch by epoch; returns what it was asked, and with what weights."""

    def fix(*values: float) -> list[tuple[Holdout, dict[str, torch.Tensor]]]:
        asked, coming = [], iter(values)

        def evaluate(model, holdout, **settings):
            asked.append((holdout, weights(model)))
            return Evaluation(None, {"ndcg_at_10": next(coming)}, {}, None, None)

        monkeypatch.setattr("attnrec.training.validation.evaluate", evaluate)
        return asked

    return fix


# --- what training does


def test_training_lowers_the_loss(seen):
    result = train(untrained(), seen, config=CONFIG, progress_bar=False)
    assert losses(result)[-1] < np.log(12) < losses(result)[0]  # from worse than knowing nothing to better
    assert result.stop_reason == "epochs"


def test_every_epoch_reports_loss_speed_time_and_validation(seen, questions):
    result = train(untrained(), seen, validation=questions, config=CONFIG, progress_bar=False)
    assert len(result.epochs) == 4
    for report in result.epochs:
        assert {"train/loss", "train/tokens_per_second", "train/seconds", "val/ndcg_at_10"} <= report.keys()
    times = [report["train/seconds"] for report in result.epochs]
    assert 0 < times[0] < times[-1] == result.seconds


def test_the_loss_reported_is_the_mean_over_events(seen, monkeypatch):
    # a loss that is the number of events: its mean over events is sum of squares over sum
    model = untrained()
    sizes = []

    def loss(batch):
        sizes.append(int(batch.lengths.sum()))
        return sum(parameter.sum() * 0 for parameter in model.parameters()) + sizes[-1]

    monkeypatch.setattr(model, "loss", loss)
    result = train(model, seen, config=CONFIG.model_copy(update={"epochs": 1}), progress_bar=False)
    assert losses(result) == [pytest.approx(sum(size**2 for size in sizes) / sum(sizes))]
    assert len(set(sizes)) > 1


def test_without_validation_the_last_epoch_is_kept(seen):
    model, last = untrained(), {}
    config = CONFIG.model_copy(update={"ema_decay": 0.0})
    result = train(model, seen, config=config, on_epoch=lambda *_: last.update(weights(model)), progress_bar=False)
    assert result.best_epoch == 4
    assert equal(weights(model), last)


def test_the_weights_that_were_validated_in_the_best_epoch_are_kept(seen, questions, judged, kind):
    asked = judged(0.1, 0.3, 0.2, 0.3)  # an equal value later does not take its place
    model = untrained(kind)
    result = train(model, seen, validation=questions, config=CONFIG, progress_bar=False)
    assert result.best_epoch == 2
    assert equal(weights(model), asked[1][1])
    assert not equal(weights(model), asked[3][1])
    assert not model.training


def test_the_average_of_the_weights_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = ExponentialMovingAverage(model, decay=0.15)
    model.weight.data.fill_(1.0)
    average.update(0)  # of the first average a tenth stays: (1 + 0) / (10 + 0)
    assert average.tensors()["weight"].item() == pytest.approx(0.1 * 0 + 0.9 * 1)
    model.weight.data.fill_(2.0)
    average.update(1)  # then at most the decay, which is below (1 + 1) / (10 + 1)
    assert average.tensors()["weight"].item() == pytest.approx(0.15 * 0.9 + 0.85 * 2)
    with average.applied():
        assert model.weight.item() == pytest.approx(0.15 * 0.9 + 0.85 * 2)
    assert model.weight.item() == 2


def test_the_average_is_taken_after_every_step(seen):
    model, taken = untrained(), []
    loss = model.loss
    model.loss = lambda batch: (taken.append(weights(model)), loss(batch))[1]
    config = CONFIG.model_copy(update={"ema_decay": 0.4})
    train(model, seen, config=config, on_epoch=lambda *_: taken.append(weights(model)), progress_bar=False)
    name = "item_scorer.embedding.weight"
    steps = [taken[number][name] for number in range(len(taken)) if number % (N_BATCHES + 1)]  # what is after a step
    expected = taken[0][name]
    for number, after in enumerate(steps):
        decay = min(0.4, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * after
    assert len(steps) == 4 * N_BATCHES
    torch.testing.assert_close(model.state_dict()[name], expected)


def test_averaging_changes_what_is_validated_and_never_what_is_trained(seen, questions, judged):
    asked = judged(*range(8))
    plain, averaged = (
        train(
            untrained(),
            seen,
            validation=questions,
            config=CONFIG.model_copy(update={"ema_decay": decay}),
            progress_bar=False,
        )
        for decay in (0.0, 0.999)
    )
    assert losses(averaged) == losses(plain)
    assert not equal(asked[3][1], asked[7][1])


def test_training_stops_when_patience_is_spent(seen, questions, judged):
    judged(0.1, 0.3, 0.2, 0.2, 0.2, 0.9)
    config = CONFIG.model_copy(update={"epochs": 6, "patience": 3})
    result = train(untrained(), seen, validation=questions, config=config, progress_bar=False)
    assert (len(result.epochs), result.best_epoch, result.stop_reason) == (5, 2, "patience")


def test_training_stops_in_the_middle_of_an_epoch_when_time_is_up(seen, questions):
    model = untrained()
    steps = count_steps(model)
    config = CONFIG.model_copy(update={"max_minutes": 1e-9})
    result = train(model, seen, validation=questions, config=config, progress_bar=False)
    assert len(steps) == 1
    assert (len(result.epochs), result.best_epoch, result.stop_reason) == (1, 1, "time")


def test_validation_asks_the_same_few_users_in_every_epoch(seen, questions, judged):
    asked = judged(0.1, 0.2, 0.3, 0.4)
    config = CONFIG.model_copy(update={"validation_users": 7})
    train(untrained(), seen, validation=questions, config=config, progress_bar=False)
    users = [holdout.users.tolist() for holdout, _ in asked]
    assert len(users[0]) == 7
    assert users == [users[0]] * 4
    assert users[0] != list(range(7))


def test_a_model_that_only_counts_is_fitted_at_once(seen):
    model = build_model(ItemKNNConfig(), 12)
    result = train(model, seen, config=CONFIG, progress_bar=False)
    assert (result.best_epoch, result.epochs) == (0, ())
    assert model.similarities.sum() > 0


def test_training_leaves_the_callers_random_state_alone(seen):
    torch.manual_seed(7)
    expected = torch.rand(3)
    model = untrained()
    torch.manual_seed(7)
    train(model, seen, config=CONFIG, progress_bar=False)
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_decides_not_the_callers_random_state(seen, kind):
    models = [untrained(kind), untrained(kind), untrained(kind)]
    for number, model in enumerate(models):
        torch.manual_seed(100 + number)
        config = CONFIG.model_copy(update={"seed": number // 2})
        train(model, seen, config=config, progress_bar=False)
    assert equal(weights(models[0]), weights(models[1]))
    assert not equal(weights(models[0]), weights(models[2]))


def test_memory_mapped_histories_train_the_same_model(seen, tmp_path, kind):
    seen.save(tmp_path / "histories")
    models = [untrained(kind), untrained(kind)]
    for model, histories in zip(models, [seen, Histories.load(tmp_path / "histories")], strict=True):
        train(model, histories, validation=split_last(histories).test, config=CONFIG, progress_bar=False)
    assert equal(weights(models[0]), weights(models[1]))


def test_on_a_pipe_the_progress_bar_is_a_line_per_epoch(seen, questions, capsys):
    train(untrained(), seen, validation=questions, config=CONFIG)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 4
    assert all("loss" in line and "val/ndcg_at_10" in line and "tokens/s" in line for line in lines)


def test_the_progress_bar_can_be_silent(seen, capsys):
    train(untrained(), seen, config=CONFIG, progress_bar=False)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


# --- killed and resumed


def interrupted(kind, seen, questions, path, *, at_step, config=CONFIG):
    """Kill a run in a step, then go on in a new model that has nothing but the checkpoint."""
    with pytest.raises(KilledError):
        train(
            disturb(untrained(kind), at_step, KilledError()),
            seen,
            validation=questions,
            config=config,
            checkpoint=path,
            progress_bar=False,
        )
    model = untrained(kind, seed=99)
    steps = count_steps(model)
    result = train(model, seen, validation=questions, config=config, checkpoint=path, progress_bar=False)
    return model, result, len(steps)


@pytest.mark.parametrize("at_step", range(2, 2 * N_BATCHES + 1))
def test_a_run_killed_in_any_step_goes_on_to_the_same_weights(seen, questions, kind, tmp_path, at_step):
    """With everything that draws random numbers or follows the number of steps."""
    augmentation = AugmentConfig(crop=0.5, mask=0.2, reorder=0.5)
    config = CONFIG.model_copy(update={"epochs": 2, "schedule": "cosine", "augment": augmentation})
    whole = untrained(kind)
    expected = train(whole, seen, validation=questions, config=config, progress_bar=False)
    model, result, n_steps = interrupted(
        kind, seen, questions, tmp_path / "run.safetensors", at_step=at_step, config=config
    )
    assert n_steps == 2 * N_BATCHES - (at_step - 1), "no step is done twice"
    assert equal(weights(model), weights(whole))
    assert losses(result) == losses(expected)
    assert result.best_epoch == expected.best_epoch


def test_a_run_without_a_checkpoint_inside_the_epoch_repeats_the_epoch(seen, questions, tmp_path, kind):
    config = CONFIG.model_copy(update={"checkpoint_minutes": 60})
    whole = untrained(kind)
    train(whole, seen, validation=questions, config=config, progress_bar=False)
    path = tmp_path / "run.safetensors"
    model, _, n_steps = interrupted(kind, seen, questions, path, at_step=2 * N_BATCHES + 3, config=config)
    assert n_steps == 2 * N_BATCHES
    assert equal(weights(model), weights(whole))


def test_a_run_killed_between_epochs_tells_the_earlier_ones_again(seen, tmp_path):
    def stop(epoch: int, _) -> None:
        if epoch == 2:
            raise KilledError

    whole, model, told = untrained(), untrained(seed=99), []
    train(whole, seen, config=CONFIG, progress_bar=False)
    with pytest.raises(KilledError):
        train(untrained(), seen, config=CONFIG, checkpoint=tmp_path / "run", on_epoch=stop, progress_bar=False)
    train(
        model,
        seen,
        config=CONFIG,
        checkpoint=tmp_path / "run",
        on_epoch=lambda epoch, report: told.append(epoch),
        progress_bar=False,
    )
    assert told == [1, 2, 3, 4]
    assert equal(weights(model), weights(whole))


def test_the_order_of_batches_differs_between_epochs_and_dropout_between_steps(seen):
    # or else the tests above would not need the random states
    result = train(untrained(), seen, config=CONFIG.model_copy(update={"learning_rate": 1e-12}), progress_bar=False)
    assert len(set(losses(result))) == 4


def test_a_finished_run_is_not_trained_again(seen, questions, tmp_path):
    first, again = untrained(), untrained(seed=99)
    path = tmp_path / "run.safetensors"
    one = train(first, seen, validation=questions, config=CONFIG, checkpoint=path, progress_bar=False)
    steps = count_steps(again)
    two = train(again, seen, validation=questions, config=CONFIG, checkpoint=path, progress_bar=False)
    assert steps == []
    assert equal(weights(again), weights(first))
    assert (two.best_epoch, two.epochs, two.stop_reason) == (one.best_epoch, one.epochs, one.stop_reason)


def test_a_run_given_more_epochs_goes_on(seen, tmp_path):
    path = tmp_path / "run.safetensors"
    whole, model = untrained(), untrained(seed=99)
    train(whole, seen, config=CONFIG, progress_bar=False)
    train(untrained(), seen, config=CONFIG.model_copy(update={"epochs": 2}), checkpoint=path, progress_bar=False)
    result = train(model, seen, config=CONFIG, checkpoint=path, progress_bar=False)
    assert len(result.epochs) == 4
    assert equal(weights(model), weights(whole))


def test_patience_holds_over_a_restart(seen, questions, judged, tmp_path):
    def stop(epoch: int, _) -> None:
        if epoch == 3:
            raise KilledError

    judged(0.1, 0.3, 0.2, 0.2, 0.9)
    config = CONFIG.model_copy(update={"epochs": 9, "patience": 2})
    common = {"validation": questions, "config": config, "checkpoint": tmp_path / "run", "progress_bar": False}
    with pytest.raises(KilledError):
        train(untrained(), seen, **common, on_epoch=stop)
    result = train(untrained(seed=99), seen, **common)
    assert (len(result.epochs), result.best_epoch, result.stop_reason) == (4, 2, "patience")


@pytest.mark.parametrize("change", [{"learning_rate": 0.5}, {"seed": 8}, {"batch_size": 32}, {"ema_decay": 0.5}])
def test_a_checkpoint_of_another_setting_is_refused(seen, tmp_path, change):
    train(untrained(), seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    with pytest.raises(ValueError, match="belongs to another model, catalogue or setting"):
        train(
            untrained(), seen, config=CONFIG.model_copy(update=change), checkpoint=tmp_path / "run", progress_bar=False
        )


def test_a_checkpoint_of_another_model_or_log_is_refused(seen, tmp_path, make_histories):
    train(untrained(), seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    shorter = seen.up_to(seen.lengths - 1)
    other = make_histories({"ann": "abcdefghijkl"})
    for model, histories in [(untrained("gat"), seen), (untrained(), shorter), (untrained(), other)]:
        with pytest.raises(ValueError, match="belongs to another model, catalogue or setting"):
            train(model, histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)


@pytest.mark.parametrize("change", [{"patience": 3}, {"max_minutes": 60.0}, {"checkpoint_minutes": 1.0}])
def test_budgets_may_change_between_restarts(seen, questions, tmp_path, change):
    common = {"validation": questions, "checkpoint": tmp_path / "run", "progress_bar": False}
    with pytest.raises(KilledError):
        train(disturb(untrained(), 7, KilledError()), seen, config=CONFIG, **common)
    assert train(untrained(), seen, config=CONFIG.model_copy(update=change), **common).stop_reason == "epochs"


def test_a_checkpoint_is_one_file_without_a_pickle(seen, questions, tmp_path, contains_pickle):
    path = tmp_path / "run.safetensors"
    train(untrained(), seen, validation=questions, config=CONFIG, checkpoint=path, progress_bar=False)
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]
    assert not contains_pickle(path)
    with safe_open(path, framework="pt") as file:
        kinds = {name.split("/")[0] for name in file.keys()}  # noqa: SIM118
    assert kinds == {"model", "average", "best", "optimizer", "random"}


def test_an_interrupt_by_hand_keeps_the_best_epoch_so_far(seen):
    model, at_epoch = untrained(), {}
    result = train(
        disturb(model, N_BATCHES + 3, KeyboardInterrupt()),
        seen,
        config=CONFIG.model_copy(update={"ema_decay": 0.0}),
        on_epoch=lambda epoch, _: at_epoch.update({epoch: weights(model)}),
        progress_bar=False,
    )
    assert (result.stop_reason, result.best_epoch) == ("interrupted", 1)
    assert equal(weights(model), at_epoch[1])


def test_an_interrupt_in_the_middle_of_an_epoch_keeps_what_was_validated_best_and_can_go_on(
    seen, questions, judged, tmp_path
):
    asked = judged(0.3, 0.2, 0.1, 0.4)  # two epochs, the interrupt, two more
    model, again = untrained(), untrained(seed=99)
    common = {"validation": questions, "config": CONFIG, "checkpoint": tmp_path / "run", "progress_bar": False}
    result = train(disturb(model, 2 * N_BATCHES + 3, KeyboardInterrupt()), seen, **common)
    assert (result.stop_reason, result.best_epoch, len(result.epochs)) == ("interrupted", 1, 2)
    assert equal(weights(model), asked[0][1])
    assert not model.training
    result = train(again, seen, **common)
    assert (result.stop_reason, result.best_epoch, len(result.epochs)) == ("epochs", 4, 4)
    whole = untrained()
    judged(0.3, 0.2, 0.1, 0.4)
    train(whole, seen, validation=questions, config=CONFIG, progress_bar=False)
    assert equal(weights(again), weights(whole))


def test_an_interrupt_by_hand_in_the_first_epoch_is_not_swallowed(seen):
    with pytest.raises(KeyboardInterrupt):
        train(disturb(untrained(), 2, KeyboardInterrupt()), seen, config=CONFIG, progress_bar=False)


# --- refusals


def test_a_loss_that_is_no_number_stops_training_and_says_where(seen, tmp_path):
    model = untrained()
    calls, loss = iter(range(1, 100)), model.loss
    model.loss = lambda batch: loss(batch) * (float("nan") if next(calls) == N_BATCHES + 3 else 1)
    with pytest.raises(DivergenceError, match=r"got nan in epoch 2, batch 3; lower train\.learning_rate"):
        train(model, seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)


def test_weights_saved_before_a_divergence_are_numbers(seen, tmp_path):
    model = untrained()
    calls, loss = iter(range(1, 100)), model.loss
    model.loss = lambda batch: loss(batch) * (float("nan") if next(calls) == N_BATCHES + 3 else 1)
    with pytest.raises(DivergenceError):
        train(model, seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    with safe_open(tmp_path / "run", framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys() if name.startswith("model/")]  # noqa: SIM118
    assert all(tensor.isfinite().all() for tensor in tensors)


class _NoNumberBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def test_a_gradient_that_is_no_number_never_reaches_the_weights_or_the_checkpoint(seen, tmp_path):
    model = untrained()
    calls, loss = iter(range(1, 100)), model.loss
    model.loss = lambda batch: _NoNumberBackward.apply(loss(batch)) if next(calls) == 3 else loss(batch)
    with pytest.raises(DivergenceError, match="epoch 1, batch 3"):
        train(model, seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    with safe_open(tmp_path / "run", framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys() if name.startswith(("model/", "average/"))]  # noqa: SIM118
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_a_log_with_nothing_to_learn_is_refused(make_histories):
    with pytest.raises(ValueError, match="needs a user with two events"):
        train(untrained(n_items=2), make_histories({"ann": "a", "bob": "b"}), config=CONFIG, progress_bar=False)


def test_an_unordered_set_is_refused_by_a_sequence_model(seen):
    with pytest.raises(ValueError, match="needs ordered histories"):
        train(untrained(), replace(seen, time_kind="none"), config=CONFIG, progress_bar=False)


def test_cuda_without_a_gpu_is_refused_in_one_sentence(seen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' needs a CUDA GPU that torch can see, got none") as caught:
        train(untrained(), seen, config=CONFIG.model_copy(update={"device": "cuda"}), progress_bar=False)
    assert "\n" not in str(caught.value)


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda, got 'abacus'"):
        choose_device("abacus")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"learning_rate": -1.0}, {"epoch": 3}, {"precision": "float8"}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)


# --- on a GPU

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CUDA = CONFIG.model_copy(update={"device": "cuda", "precision": "float32"})


@pytest.mark.gpu
@on_gpu
def test_training_on_cuda_equals_the_cpu(seen, questions):
    found = []
    for config in (CONFIG, CUDA):
        torch.manual_seed(0)
        model = build_model(CONFIGS["attnrec"].model_copy(update={"dropout": 0.0}), 12)
        result = train(model, seen, validation=questions, config=config, progress_bar=False)
        found.append((losses(result), weights(model.cpu())))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@on_gpu
def test_a_run_killed_on_cuda_goes_on_to_the_same_weights(seen, questions, tmp_path):
    whole = untrained()
    train(whole, seen, validation=questions, config=CUDA, progress_bar=False)
    model, *_ = interrupted("attnrec", seen, questions, tmp_path / "run", at_step=N_BATCHES + 3, config=CUDA)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(model)[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@on_gpu
def test_bfloat16_on_cuda_learns_as_float32_does(seen):
    found = [
        losses(train(untrained(), seen, config=CUDA.model_copy(update={"precision": precision}), progress_bar=False))
        for precision in ("auto", "float32")
    ]
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_the_processor_clock_does_not_run_while_the_process_waits(seen, monkeypatch):
    waits, loss = [], SequenceModel.loss

    def waiting_loss(self, batch):
        time.sleep(0.02)
        waits.append(0.02)
        return loss(self, batch)

    monkeypatch.setattr(SequenceModel, "loss", waiting_loss)
    for clock, least, most in (("wall_time", 1.0, np.inf), ("cpu_time", 0.0, 1.0)):
        waits.clear()
        config = TrainConfig(epochs=2, batch_size=4, device="cpu", threads=1, clock=clock)
        seconds = train(untrained(), seen, config=config, progress_bar=False).seconds
        assert least * sum(waits) <= seconds < most * sum(waits)

"""One step: slices whose gradients add up, halving where memory ends, learning rates, and what an epoch reports."""

import logging
import shutil
from math import ceil, cos, pi

import pytest
import torch

from attnrec.dataset import Histories, Windows
from attnrec.models import GATConfig, Model, SequenceConfig, build_model
from attnrec.training import TrainConfig, train
from attnrec.training.processes import Processes
from attnrec.training.step import POSITIONS_ON_CPU, Stepper, learning_rate, make_optimizer

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=2, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", precision="float32", seed=1
)
EVERYTHING = 10**9  # positions
N_BATCHES = 5  # 72 users, 16 windows a step
ALWAYS = 1e-9  # minutes between checkpoints: after every batch
FULL = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "7516192768 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = {"cpu": FULL, "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB.")}


class KilledError(Exception):
    """The machine is gone."""


def config_of(**changes: object) -> TrainConfig:
    return CONFIG.model_copy(update=changes)


def untrained(config=SequenceConfig, *, dropout: float = 0.0, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build_model(config(dim=8, heads=2, pooling_heads=2, max_length=8, dropout=dropout), 12)


def stepper_of(model: Model, **changes: object) -> Stepper:
    return Stepper(model, config_of(**changes), n_steps=N_BATCHES, device=CPU, processes=Processes())


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def asked(model: Model) -> list[tuple[int, int]]:
    """The shape of each batch that the loss is asked for, as it is asked."""
    shapes, loss = [], model.loss
    model.loss = lambda batch: (shapes.append(tuple(batch.items.shape)), loss(batch))[1]
    return shapes


def with_room_for(model: Model, n_rows: int, error: RuntimeError = FULL) -> Model:
    """Make the model's memory end above so many windows."""
    loss = model.loss

    def limited(batch):
        if len(batch.lengths) > n_rows:
            torch.rand(7)  # some dropout was drawn before memory ended
            raise error
        return loss(batch)

    model.loss = limited
    return model


@pytest.fixture
def gentle(monkeypatch) -> None:
    """Adam divides gradients by their size, also those of key biases, which are rounding errors around 0: not here."""

    def optimizer(model, config):
        made = make_optimizer(model, config)
        for group in made.param_groups:
            group["eps"] = 0.1
        return made

    monkeypatch.setattr("attnrec.training.step.make_optimizer", optimizer)


@pytest.fixture
def seen(checkerboard) -> Histories:
    return checkerboard.histories


@pytest.fixture
def uneven(make_histories) -> Histories:
    """Windows of 1 to 6 targets."""
    return make_histories({f"user-{n}": "abcdefghijkl"[n % 6 : n % 6 + 2 + n % 6] for n in range(24)})


# --- slices


def test_parts_learn_at_the_paces_of_the_model(checkerboard, monkeypatch):
    model = untrained()
    monkeypatch.setattr(type(model), "lr_multipliers", {"encoder": 5.0})
    (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=16).epoch(0)
    before = weights(model)
    stepper_of(model, weight_decay=0.0).step(0, batch)
    rate = learning_rate(CONFIG, 0, total_steps=N_BATCHES * CONFIG.epochs)
    matrices = {name: x for name, x in model.named_parameters() if x.ndim == 2}
    assert 0 < sum(name.startswith("encoder.") for name in matrices) < len(matrices)
    for name, after in matrices.items():  # the first step of Adam is as long as the rate
        moved = (after - before[name]).abs().max().item()
        assert moved == pytest.approx(rate * (5 if name.startswith("encoder.") else 1), rel=0.02), name


@pytest.mark.parametrize("positions", [1, 12, 40])
def test_gradients_and_weights_do_not_depend_on_how_a_batch_is_sliced(uneven, positions, gentle):
    (batch,) = Windows(uneven, max_length=8, batch_size=24).epoch(0)
    found = []
    for at_once in (EVERYTHING, positions):
        model = untrained().train()
        shapes = asked(model)
        report = stepper_of(model, microbatch_tokens=at_once, batch_size=24).step(0, batch)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append((report, gradients, weights(model), shapes))
    whole, sliced = found
    assert len(whole[3]) == 1
    assert sum(n_rows for n_rows, _ in sliced[3]) == 24
    assert all(n_rows * width <= max(positions, width) for n_rows, width in sliced[3])
    torch.testing.assert_close(sliced[0].loss, whole[0].loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(sliced[0].norm, whole[0].norm, rtol=1e-5, atol=0)
    for kind in (1, 2):
        for name, tensor in whole[kind].items():
            torch.testing.assert_close(sliced[kind][name], tensor, rtol=1e-5, atol=1e-6)


def test_a_slice_is_no_wider_than_its_longest_window(make_histories):
    histories = make_histories({"ann": "abc", "bob": "abcdefg"})
    model = untrained()
    shapes = asked(model)
    (batch,) = Windows(histories, max_length=8, batch_size=2).epoch(0)
    stepper_of(model, microbatch_tokens=1).step(0, batch)
    assert sorted(shapes) == [(1, 2), (1, 6)]


def test_the_loss_of_a_sliced_step_is_the_mean_over_targets(uneven):
    # a loss that is the number of windows: slices count by their targets
    (batch,) = Windows(uneven, max_length=8, batch_size=24).epoch(0)
    model = untrained()
    model.loss = lambda part: len(part.lengths) + 0 * sum(parameter.sum() for parameter in model.parameters())
    stepper = stepper_of(model, microbatch_tokens=12, batch_size=24)
    width = batch.items.shape[1]
    slices = [batch.lengths[first : first + 12 // width] for first in range(0, 24, 12 // width)]
    expected = sum(len(lengths) * int(lengths.sum()) for lengths in slices) / int(batch.lengths.sum())
    assert stepper.step(0, batch).loss.item() == pytest.approx(expected)


def test_on_the_cpu_a_slice_stays_in_cache_unless_told_otherwise(seen):
    model = untrained()
    shapes = asked(model)
    batch = next(Windows(seen, max_length=8, batch_size=16).epoch(0))
    n_times = 1280 // len(batch.lengths)
    many = batch._each(lambda column: column.repeat(n_times, *[1] * (column.ndim - 1)))
    stepper_of(model, batch_size=1280).step(0, many)
    n_parts = ceil(1280 * batch.items.shape[1] / POSITIONS_ON_CPU)
    assert n_parts == 2
    assert [n_rows for n_rows, _ in shapes] == [640, 640], "even parts"


def test_graph_attention_is_never_cut(seen):
    model = untrained(GATConfig)
    shapes = asked(model)
    train(model, seen, config=config_of(epochs=1, microbatch_tokens=1), progress_bar=False)
    assert sorted(n_rows for n_rows, _ in shapes) == [8, 16, 16, 16, 16]


# --- memory


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_batch_that_does_not_fit_is_halved_once_and_gives_the_same_weights(seen, caplog, error, gentle):
    whole, halved = untrained(), with_room_for(untrained(), 8, error)
    train(whole, seen, config=config_of(microbatch_tokens=EVERYTHING), progress_bar=False)
    shapes = asked(halved)
    with caplog.at_level(logging.WARNING):
        train(halved, seen, config=config_of(microbatch_tokens=EVERYTHING), progress_bar=False)
    assert [record.message for record in caplog.records] == [
        "a step did not fit into memory: from now on its windows are computed in twice as many parts"
    ]
    assert [n_rows for n_rows, _ in shapes].count(16) == 1, "the first try"
    assert len(shapes) == 1 + 2 * 2 * N_BATCHES
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(halved)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_halved_step_drops_what_the_slices_of_half_the_size_would(seen):
    """The draws of the try that failed are taken back."""
    models = [with_room_for(untrained(dropout=0.3), 8), untrained(dropout=0.3)]
    (batch,) = Windows(seen, max_length=8, batch_size=16).epoch(0, first_batch=N_BATCHES - 1)
    for model, positions in zip(models, (EVERYTHING, batch.items.shape[1] * -(-len(batch.lengths) // 2)), strict=True):
        torch.manual_seed(5)
        stepper_of(model.train(), microbatch_tokens=positions).step(0, batch)
    assert equal(weights(models[0]), weights(models[1]))


def test_a_run_that_goes_on_remembers_that_it_was_halved(seen, tmp_path, caplog):
    common = {"config": config_of(microbatch_tokens=EVERYTHING, checkpoint_minutes=ALWAYS), "progress_bar": False}
    killed = with_room_for(untrained(dropout=0.3), 8)
    shapes, loss = asked(killed), killed.loss

    def raising(batch):
        if len(shapes) == 9:
            raise KilledError
        return loss(batch)

    killed.loss = raising
    with pytest.raises(KilledError):
        train(killed, seen, checkpoint=tmp_path / "run", **common)
    assert "did not fit" in caplog.text
    caplog.clear()
    again, straight = (with_room_for(untrained(dropout=0.3), 8) for _ in range(2))
    shapes = asked(again)
    train(again, seen, checkpoint=tmp_path / "run", **common)
    assert max(n_rows for n_rows, _ in shapes) == 8
    assert "did not fit" not in caplog.text
    train(straight, seen, **common)
    assert equal(weights(again), weights(straight))


def test_what_does_not_fit_in_halves_is_said_with_the_arithmetic(seen):
    model = with_room_for(untrained(), 7)
    width = next(Windows(seen, max_length=8, batch_size=16, seed=CONFIG.seed).epoch(0)).items.shape[1]
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(MemoryError) as caught:
        train(model, seen, config=config_of(microbatch_tokens=EVERYTHING), progress_bar=False)
    said = str(caught.value)
    assert f"got 8 windows x {width} positions = {8 * width} at once" in said
    assert f"{n_parameters:,} parameters x 5" in said
    assert "lower train.microbatch_tokens or train.batch_size (now 16), model.max_length or model.dim" in said
    assert "nan" not in said
    assert caught.value.__cause__ is None
    assert "\n" not in said


@pytest.mark.parametrize(("config", "positions"), [(GATConfig, EVERYTHING), (SequenceConfig, 1)])
def test_what_cannot_be_halved_is_not_tried_twice(seen, caplog, config, positions):
    model = with_room_for(untrained(config), 0)
    shapes = asked(model)
    with pytest.raises(MemoryError, match="a step must fit into memory"):
        train(model, seen, config=config_of(microbatch_tokens=positions), progress_bar=False)
    assert len(shapes) == 1
    assert caplog.text == ""


def test_other_errors_stay_what_they_are(seen):
    model = with_room_for(untrained(), 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(model, seen, config=CONFIG, progress_bar=False)


# --- learning rates


def test_the_learning_rate_warms_up_and_stays():
    config = config_of(learning_rate=0.4, warmup_steps=4)
    rates = [learning_rate(config, step, total_steps=10) for step in range(10)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, *[0.4] * 7])


def test_the_learning_rate_of_a_cosine_falls_to_nothing_at_the_last_epochs_end():
    config = config_of(learning_rate=0.4, warmup_steps=2, schedule="cosine")
    rates = [learning_rate(config, step, total_steps=4) for step in range(5)]
    expected = [0.2 * 1, 0.4 * (1 + cos(pi / 4)) / 2, 0.4 / 2, 0.4 * (1 + cos(3 * pi / 4)) / 2, 0]
    assert rates == pytest.approx(expected)


def test_without_a_warm_up_the_first_step_is_a_whole_one():
    assert learning_rate(config_of(learning_rate=0.4, warmup_steps=0), 0, total_steps=10) == 0.4


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_step_is_taken_with_the_rate_of_the_schedule(seen, monkeypatch, schedule):
    config, taken = config_of(schedule=schedule, warmup_steps=4), []
    step = torch.optim.AdamW.step

    def noting(self, *arguments):
        taken.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    train(untrained(), seen, config=config, progress_bar=False)
    rates = [learning_rate(config, number, total_steps=2 * N_BATCHES) for number in range(2 * N_BATCHES)]
    assert taken == [[rate, rate] for rate in rates]


def test_a_cosine_run_that_was_killed_goes_on_at_its_rate(seen, tmp_path):
    config = config_of(schedule="cosine", checkpoint_minutes=ALWAYS)
    whole, killed, again = (untrained(dropout=0.3) for _ in range(3))
    train(whole, seen, config=config, progress_bar=False)
    shapes, loss = asked(killed), killed.loss
    killed.loss = lambda batch: loss(batch) if len(shapes) < N_BATCHES + 2 else (_ for _ in ()).throw(KilledError())
    with pytest.raises(KilledError):
        train(killed, seen, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    train(again, seen, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    assert equal(weights(again), weights(whole))


def test_a_cosine_run_cannot_be_given_more_epochs(seen, tmp_path):
    """Its rates follow from them; a constant run can (see test_training)."""
    common = {"checkpoint": tmp_path / "run", "progress_bar": False}
    train(untrained(), seen, config=config_of(schedule="cosine"), **common)
    with pytest.raises(ValueError, match="belongs to another model, catalogue or setting"):
        train(untrained(), seen, config=config_of(schedule="cosine", epochs=3), **common)


# --- what an epoch reports


def test_every_epoch_reports_time_padding_and_memory(uneven):
    result = train(untrained(), uneven, config=config_of(epochs=3, batch_size=7), progress_bar=False)
    windows = Windows(uneven, max_length=8, batch_size=7, seed=CONFIG.seed)
    for number, report in enumerate(result.epochs):
        batches = list(windows.epoch(number))
        real = sum(int(batch.lengths.sum()) for batch in batches)
        assert report["train/padding"] == pytest.approx(1 - real / sum(batch.items.numel() for batch in batches))
        assert 0 < report["train/padding"] < 1
        assert 50 < report["train/peak_mb"] < 10_000
        assert report["train/tokens_per_second"] == pytest.approx(real / report["train/epoch_seconds"])
    assert sum(report["train/epoch_seconds"] for report in result.epochs) == pytest.approx(result.seconds)
    assert result.device == "cpu"


def test_epochs_report_their_own_time_also_after_a_restart(uneven, tmp_path):
    killed = untrained()
    shapes, loss = asked(killed), killed.loss
    killed.loss = lambda batch: loss(batch) if len(shapes) < 6 else (_ for _ in ()).throw(KilledError())
    config = config_of(epochs=3, batch_size=7, checkpoint_minutes=ALWAYS)
    with pytest.raises(KilledError):
        train(killed, uneven, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    result = train(untrained(), uneven, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    straight = train(untrained(), uneven, config=config, progress_bar=False)
    assert sum(report["train/epoch_seconds"] for report in result.epochs) == pytest.approx(result.seconds)
    padding = [[report["train/padding"] for report in run.epochs] for run in (result, straight)]
    assert padding[0] == padding[1]


def test_what_the_optimizer_knows_is_handed_back_by_parameter(seen):
    model = untrained()
    result = train(model, seen, config=CONFIG, progress_bar=False)
    assert result.moments is not None
    for name, parameter in model.named_parameters():
        assert result.moments[f"{name}/exp_avg"].shape == parameter.shape
        assert (result.moments[f"{name}/exp_avg_sq"] >= 0).all()
        assert result.moments[f"{name}/step"].item() == 2 * N_BATCHES


def test_the_share_of_the_peak_counts_all_matrix_operations(seen, monkeypatch):
    monkeypatch.setattr("attnrec.training.step.peak_flops", lambda device: 1e9)
    model = untrained()
    config = config_of(epochs=1, precision="float32")
    (report,) = train(model, seen, config=config, progress_bar=False).epochs
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "placed" not in name)
    weights -= model.config.dim  # the row of padding
    # forward, and backward to both factors: 3 products of 2 operations per weight and position; the catalogue's
    # table is one of the weights, and attention's own products come on top where the counter knows their kernel
    least = 6 * weights * report["train/tokens_per_second"] / 1e9
    assert 0.99 * least <= report["train/flops_share"] <= 1.5 * least


def test_a_cpu_has_no_share_of_a_peak(seen):
    (report,) = train(untrained(), seen, config=config_of(epochs=1), progress_bar=False).epochs
    assert "train/flops_share" not in report


@pytest.mark.filterwarnings("ignore")  # of torch.compile itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_learns_the_same(seen):
    plain, compiled = untrained(), untrained()
    straight = train(plain, seen, config=config_of(epochs=1), progress_bar=False)
    result = train(compiled, seen, config=config_of(epochs=1, compile=True), progress_bar=False)
    assert result.epochs[0]["train/loss"] == pytest.approx(straight.epochs[0]["train/loss"], rel=1e-5)

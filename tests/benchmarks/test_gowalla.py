"""The comparison on Gowalla (benchmarks/gowalla.py, bench_gowalla.py and its peers), on synthetic data."""

import json
import sys
import warnings
from dataclasses import replace
from math import log2, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import Holdout, histories_from_frame, user_batches, user_item_edges
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import build_model, model_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as when a script of that folder runs

import bench_gowalla
import gowalla
import record
from gowalla import hold_out, load_gowalla, ranked_metrics, ranked_values
from peers.graph_filters import GFCF, ChebyCF, ChebyCFConfig, GFCFConfig, plateau

N_USERS, N_ITEMS = 40, 60


@pytest.fixture(scope="module")
def lightgcn():
    pytest.importorskip("torch_geometric", reason="LightGCN needs torch_geometric")
    with warnings.catch_warnings():  # it uses deprecated parts of torch.jit and typing
        warnings.simplefilter("ignore", DeprecationWarning)
        import peers.lightgcn

    return peers.lightgcn


@pytest.fixture
def folder(tmp_path) -> Path:
    """40 users with 5 to 14 of 60 items (100 to 159) in the training file and two others in the test file."""
    random, parts = np.random.default_rng(3), {"train": [], "test": []}
    for user in range(N_USERS):
        items = random.permutation(N_ITEMS) + 100
        end = 5 + user % 10
        parts["train"] += [(user, item) for item in items[:end]]
        parts["test"] += [(user, item) for item in items[end : end + 2]]
    for name, rows in parts.items():
        pd.DataFrame(rows, columns=["user_id", "item_id"]).to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


@pytest.fixture(scope="module")
def board(checkerboard) -> Holdout:
    """The checkerboard's holdout: the target is the only item of the user's colour outside the history."""
    n_users = len(checkerboard.users)
    times, offsets = np.zeros(n_users, np.int64), np.arange(n_users + 1)
    return Holdout(checkerboard.histories, checkerboard.users, checkerboard.targets, times, offsets)


def log_of(*pairs):
    return histories_from_frame(pd.DataFrame(pairs, columns=["user_id", "item_id"]))


def pairs_of(users, items) -> set[tuple[int, int]]:
    return set(zip(users.tolist(), items.tolist(), strict=True))


# --- the two parts -------------------------------------------------------------------------------------


def test_a_random_tenth_is_held_out_and_the_other_events_are_training_events(folder):
    data, log = load_gowalla(folder), pd.read_parquet(folder / "train.parquet")
    (visible, holdout), whole = data.choosing, data.final.train
    held_out = np.random.default_rng(0).random(len(log)) < 0.1
    owners = np.repeat(visible.user_ids.ids, visible.lengths)
    assert pairs_of(owners, visible.item_ids.decode(visible.items)) == pairs_of(
        log.user_id[~held_out], log.item_id[~held_out]
    )
    users = np.repeat(holdout.users, np.diff(holdout.offsets))
    targets = whole.item_ids.decode(holdout.targets)
    assert pairs_of(whole.user_ids.decode(users), targets) == pairs_of(log.user_id[held_out], log.item_id[held_out])
    assert not visible.ordered
    assert holdout.histories is visible


def test_both_parts_have_the_same_rows_and_the_final_part_evaluates_the_test_file(folder):
    data, test = load_gowalla(folder), pd.read_parquet(folder / "test.parquet")
    for part in data.choosing, data.final:
        assert part.train.user_ids.ids.tolist() == list(range(N_USERS))
        assert part.train.item_ids.ids.tolist() == list(range(100, 100 + N_ITEMS))
    train, holdout = data.final
    assert train.n_events == len(pd.read_parquet(folder / "train.parquet"))
    users = np.repeat(holdout.users, np.diff(holdout.offsets))
    assert pairs_of(users, train.item_ids.decode(holdout.targets)) == pairs_of(test.user_id, test.item_id)


def test_a_user_without_remaining_events_is_not_evaluated():
    part = hold_out(log_of(("ann", "a"), ("bob", "a"), ("bob", "b")), share=1.0)
    assert part.train.lengths.tolist() == [0, 0]
    assert len(part.holdout.users) == 0
    # one event per user: a user with a held-out event has no remaining event
    alone = hold_out(log_of(*((user, user % 3) for user in range(200))))
    assert (alone.train.lengths == 0).sum() == (np.random.default_rng(0).random(200) < 0.1).sum() > 0
    assert len(alone.holdout.users) == 0


def test_a_test_item_without_training_events_is_a_miss(tmp_path):
    pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [7, 8, 8, 9]}).to_parquet(tmp_path / "train.parquet")
    pd.DataFrame({"user_id": [1, 1], "item_id": [5, 9]}).to_parquet(tmp_path / "test.parquet")
    train, holdout = load_gowalla(tmp_path).final
    assert holdout.targets.tolist() == [0, 3]
    metrics = ranked_metrics(lambda users: np.zeros((len(users), 4)), train, holdout)
    assert metrics == pytest.approx({"recall_at_20": 1 / 2, "ndcg_at_20": 1 / (1 + 1 / log2(3))})


def test_inconsistent_or_missing_files_raise_errors(folder):
    pd.DataFrame({"user_id": [1, 77], "item_id": [100, 100]}).to_parquet(folder / "test.parquet")
    with pytest.raises(ValueError, match=r"must have training events, got 1 without \(first: 77\)"):
        load_gowalla(folder)
    (folder / "test.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"got no .*test\.parquet; see data/README"):
        load_gowalla(folder)


def test_the_real_gowalla_files_have_the_published_sizes(real_data):
    if not (real_data / "gowalla").is_dir():
        pytest.skip("needs the Gowalla files, see data/README.md")
    data = load_gowalla(real_data / "gowalla")
    train, holdout = data.final
    assert (train.n_users, train.n_items, train.n_events) == (29_858, 40_981, 810_128)
    assert (len(holdout.users), len(holdout.targets)) == (29_858, 217_242)
    visible, held_out = data.choosing
    assert 0.09 < 1 - visible.n_events / train.n_events < 0.11
    assert len(held_out.targets) <= train.n_events - visible.n_events
    assert (visible.lengths[held_out.users] > 0).all()


# --- ranking -------------------------------------------------------------------------------------------


def test_training_items_and_items_without_events_are_excluded_from_ranks():
    train = log_of(("ann", "a"), ("ann", "b"), ("bob", "b"), ("bob", "c"), ("bob", "d"), ("bob", "e"))
    # ann: a and b she has; c has the best score, d and e are equal: d, of the smaller row, is second
    holdout = Holdout(train, np.array([0]), np.array([4, 5]), np.zeros(2, np.int64), np.array([0, 2]))
    scores = [[9.0, 8.0, 7.0, 3.0, 2.0, 2.0]]
    metrics = ranked_metrics(lambda users: np.array(scores), train, holdout)
    best = 1 + 1 / log2(3)
    assert metrics == pytest.approx({"recall_at_20": 1, "ndcg_at_20": (1 / log2(3) + 1 / log2(4)) / best})
    # without an event left, c is not recommended, and d and e are first and second
    without_c = replace(train, items=np.array([1, 2, 2, 2, 4, 5], np.int32))
    metrics = ranked_metrics(lambda users: torch.tensor(scores), without_c, holdout)
    assert metrics == pytest.approx({"recall_at_20": 1, "ndcg_at_20": 1})


def test_only_the_first_twenty_ranks_count():
    train = log_of(*(("bob", item) for item in range(40)), ("ann", 0))
    # ann's scores fall with the row and she has the first: rows 21 and 22 take places 20 and 21
    holdout = Holdout(train, np.array([0]), np.array([21, 22]), np.zeros(2, np.int64), np.array([0, 2]))
    metrics = ranked_metrics(lambda users: -np.arange(41.0)[None], train, holdout)
    assert metrics == pytest.approx({"recall_at_20": 1 / 2, "ndcg_at_20": 1 / log2(21) / (1 + 1 / log2(3))})


@pytest.mark.parametrize("batch_size", [3, 256])
def test_ranked_values_equal_those_of_evaluate(folder, monkeypatch, batch_size):
    monkeypatch.setattr(gowalla, "BATCH_SIZE", batch_size)
    train, holdout = load_gowalla(folder).choosing
    model = build_model(model_config("item_knn", {"n_neighbours": 5}), train.n_items)
    # targets: a random or unknown item, for every third user only a viewed item; user 4 has no history
    lengths = np.where(np.arange(N_USERS) == 4, 0, train.lengths)
    train = train.up_to(lengths)
    model.observe(train)
    users = np.arange(N_USERS)
    own = train.items[train.offsets[:-1]].astype(np.int64)
    extra = np.random.default_rng(1).integers(0, N_ITEMS + 1, N_USERS)
    targets = np.stack([own, np.where(users % 3, extra, own)], axis=1).ravel()
    holdout = Holdout(train, users, targets, np.zeros(len(targets), np.int64), 2 * np.arange(N_USERS + 1))

    def scores(rows):
        result = torch.zeros(len(rows), N_ITEMS + 1)
        for chosen, batch in user_batches(train, rows, max_length=50, batch_size=8):
            result[torch.from_numpy(chosen)] = model.score(batch)
        return result

    expected = evaluate(model, holdout, ks=(20,)).per_user[["recall_at_20", "ndcg_at_20"]]
    assert 10 < len(expected) < N_USERS
    assert 0 < expected["recall_at_20"].mean() < 1
    pd.testing.assert_frame_equal(ranked_values(scores, train, holdout), expected, rtol=1e-12)


def test_scores_of_the_wrong_shape_and_a_holdout_without_targets_raise_errors():
    train = log_of(("ann", "a"), ("ann", "b"))
    holdout = Holdout(train, np.array([0]), np.array([2]), np.zeros(1, np.int64), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"got \(1, 2\) for \(1, 3\)"):
        ranked_metrics(lambda users: np.zeros((1, 2)), train, holdout)
    with pytest.raises(ValueError, match="a user with a target outside the history, got none"):
        ranked_metrics(lambda users: np.zeros((len(users), 3)), train, holdout)
    with pytest.raises(ValueError, match="a user with a target outside the history, got none"):
        ranked_metrics(lambda users: np.zeros((len(users), 3)), train, holdout.select(np.array([], np.int64)))


# --- LightGCN ------------------------------------------------------------------------------------------


def test_lightgcn_ranks_the_held_out_item_first_on_the_checkerboard(lightgcn, board):
    config = lightgcn.LightGCNConfig(dim=16, batch_size=64, learning_rate=0.02, epochs=30)
    trained = lightgcn.train(board.histories, config)
    assert ranked_metrics(trained.vectors.score, board.histories, board)["ndcg_at_20"] == 1


def test_lightgcn_equals_pyg_with_an_edge_list(lightgcn):
    # a user without events, an item of one user, an item twice
    train = log_of(("ann", "a"), ("ann", "b"), ("ann", "b"), ("bob", "b"), ("cid", "c"))
    train = train.up_to(np.array([3, 1, 0]))
    edges, n_nodes = user_item_edges(train), 3 + 4
    torch.manual_seed(0)
    ours = lightgcn.light_gcn(n_nodes, lightgcn.LightGCNConfig(dim=8))
    theirs = lightgcn.LightGCN(n_nodes, 8, 3)
    theirs.load_state_dict(ours.state_dict())
    ways = torch.tensor([[0, 0, 1], [4, 5, 5]])  # ann a, ann b, bob b; users are nodes 0 to 2, padding is 3
    target_edges = torch.tensor([[0, 1, 0, 1], [4, 5, 6, 4]])
    for model, graph in (
        (ours, lightgcn.normalized_adjacency(edges)),
        (theirs, torch.cat([ways, ways.flip(0)], dim=1)),
    ):
        model.recommendation_loss(*model(graph, target_edges).chunk(2)).backward()
    assert ours.embedding.weight.grad.abs().min(1).values[[0, 1, 4, 5, 6]].all()
    torch.testing.assert_close(ours.embedding.weight.grad, theirs.embedding.weight.grad)


def test_each_pair_occurs_once_per_epoch_with_a_negative_item(lightgcn):
    # ann has 3 of 4 items, bob one, cid all
    log = [*(("ann", item) for item in "abc"), ("bob", "d"), *(("cid", item) for item in "abcd")]
    pairs, random = lightgcn.Pairs(user_item_edges(log_of(*log))), np.random.default_rng(0)
    drawn = set()
    for _ in range(50):
        batches = list(pairs.epoch(random, batch_size=3))
        assert [len(users) for users, _, _ in batches] == [3, 1]
        users, positives, negatives = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert sorted(zip(users, positives, strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 4)]
        drawn |= pairs_of(users, negatives)
    assert drawn == {(0, 4), (1, 1), (1, 2), (1, 3)}


def test_lightgcn_without_possible_negatives_raises_an_error(lightgcn):
    with pytest.raises(ValueError, match="needs a user who has an item and lacks another, got none"):
        lightgcn.train(log_of(("ann", "a"), ("bob", "a")))


def test_lightgcn_keeps_the_best_validated_epoch_and_reports_its_number(lightgcn, folder):
    train, holdout = load_gowalla(folder).choosing
    config = lightgcn.LightGCNConfig(dim=8, batch_size=50, learning_rate=0.1, epochs=8, check_minutes=0)
    checks = []
    trained = lightgcn.train(train, config, validation=holdout, on_check=lambda *check: checks.append(check))
    recalls = [recall for _, recall in trained.curve]
    assert checks == list(trained.curve)
    assert len(recalls) == trained.epochs == 8
    assert trained.vectors.epoch == 1 + recalls.index(max(recalls)) < 8
    assert ranked_metrics(trained.vectors.score, train, holdout)["recall_at_20"] == max(recalls)
    seconds = [at for at, _ in trained.curve]
    assert seconds == sorted(seconds)
    assert seconds[-1] == trained.seconds > 0
    again = lightgcn.train(train, config, validation=holdout)
    assert torch.equal(again.vectors.items, trained.vectors.items)


def test_lightgcn_starts_no_epoch_after_max_minutes(lightgcn, folder):
    train, holdout = load_gowalla(folder).choosing
    config = lightgcn.LightGCNConfig(dim=8, max_minutes=1e-9)
    trained = lightgcn.train(train, config, validation=holdout)
    assert trained.epochs == len(trained.curve) == 1  # it validates at the end, however little time has passed


# --- graph filters -------------------------------------------------------------------------------------

EVENTS = [(0, 1), (0, 2), (0, 2), (1, 1), (1, 3), (1, 4), (2, 2), (2, 5), (3, 4), (3, 5), (3, 6), (4, 1), (4, 6)]
"""5 users, 6 items; user 0 had item 2 twice."""


def dense(events=EVENTS, n_users=5, n_items=6):
    """R and R~ with a column of zeros for padding, and the degrees of items."""
    matrix = np.zeros((n_users, n_items + 1))
    for user, item in events:
        matrix[user, item] = 1
    of_users, of_items = matrix.sum(1).clip(min=1), matrix.sum(0)
    return matrix, matrix / np.sqrt(of_users[:, None] * of_items.clip(min=1)), of_items


def low_pass(normalized, count):
    right = np.linalg.svd(normalized)[2][:count]
    return right.T @ right


def test_gf_cf_equals_the_dense_formula():
    matrix, normalized, degrees = dense()
    roots = np.sqrt(degrees)
    ideal = (matrix[:, 1:] / roots[1:]) @ low_pass(normalized, 3)[1:] * roots
    expected = matrix @ (normalized.T @ normalized) + 0.3 * ideal
    scores = GFCF(log_of(*EVENTS), GFCFConfig(singular_vectors=3)).score(np.array([4, 0, 1, 2, 3]))
    np.testing.assert_allclose(scores, expected[[4, 0, 1, 2, 3]], atol=1e-6)


@pytest.mark.parametrize("stretched", [True, False])
def test_cheby_cf_equals_the_interpolated_plateau_of_the_laplacian(stretched):
    matrix, normalized, degrees = dense()
    order, flatness = 4, 1.5
    roots = np.cos(np.pi * (np.arange(5) + 0.5) / 5)
    read = np.cos(np.pi * np.arange(5) / 4) if stretched else roots
    polynomial = np.polyfit(roots, (1 - np.sign(read) * np.abs(read) ** flatness) / 2, order)
    laplacian = np.eye(7) - normalized.T @ normalized
    eigenvalues, vectors = np.linalg.eigh(laplacian)
    transfer = vectors @ np.diag(np.polyval(polynomial, 2 * eigenvalues - 1)) @ vectors.T
    scaling = np.where(degrees > 0, degrees.clip(min=1) ** 0.4, 0)
    expected = matrix / scaling.clip(min=1) @ (transfer + 0.2 * low_pass(normalized, 3)) * scaling
    config = ChebyCFConfig(order=order, flatness=flatness, stretched=stretched, singular_vectors=3)
    np.testing.assert_allclose(ChebyCF(log_of(*EVENTS), config).score(np.arange(5)), expected, atol=1e-5)


def test_the_plateau_of_degree_one_is_a_line():
    # values 1 at -1 and 0 at 1, put at the roots -1 / sqrt 2 and 1 / sqrt 2: the line (1 - sqrt 2 x) / 2
    np.testing.assert_allclose(plateau(1, 3.0, stretched=True), [1 / 2, -sqrt(2) / 2], atol=1e-6)
    # or the values (1 + s^3) / 2 and (1 - s^3) / 2 at -s and s = sqrt 1/2: slope -s^3 / (2 s) = -1/4
    np.testing.assert_allclose(plateau(1, 3.0, stretched=False), [1 / 2, -1 / 4], atol=1e-6)


@pytest.mark.parametrize("kind", [GFCF, ChebyCF])
def test_filters_rank_the_held_out_item_first_on_the_checkerboard(kind, board):
    model = kind(board.histories)
    assert ranked_metrics(model.score, board.histories, board)["ndcg_at_20"] == 1


@pytest.mark.parametrize("kind", [GFCF, ChebyCF])
def test_users_and_items_without_events_have_score_zero(kind):
    train = log_of(*EVENTS, (5, 7)).up_to(np.array([3, 3, 2, 3, 2, 0]))
    scores = kind(train).score(np.arange(6))
    assert (scores[5] == 0).all()
    assert (scores[:, [0, 7]] == 0).all()
    assert np.isfinite(scores).all()


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def run(folder, tmp_path, monkeypatch, request):
    """Return a function that runs the command on the synthetic data and returns its result line."""
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")

    def start(*arguments: str) -> dict:
        if arguments[0] == "lightgcn":
            request.getfixturevalue("lightgcn")
        monkeypatch.setattr(sys, "argv", ["bench_gowalla.py", *arguments, "--folder", str(folder)])
        bench_gowalla.main()
        return json.loads((tmp_path / "results" / "gowalla.jsonl").read_text().splitlines()[-1])

    return start


@pytest.mark.parametrize("model", bench_gowalla.RUNS)
def test_every_model_appends_its_result_line(run, model):
    line = run(model, "--epochs", "3", "--minutes", "0.5", "--batch", "16", "--seed", "4")
    assert (line["bench"], line["data"], line["model"], line["split"]) == ("gowalla", "gowalla", model, "choosing")
    assert 10 < line["n_users"] < N_USERS
    assert line["seed"] == 4
    for name in ("recall_at_20", "ndcg_at_20"):
        low, high = line["intervals"][name]
        assert 0 < low < line["metrics"][name] < high < 1
    if model in (*bench_gowalla.TRAINED, "lightgcn"):
        assert 0 < line["best_epoch"] <= line["epochs"] == 3
        assert line["tokens_per_second"] > 0
        seconds, recall = line["curve"][-1]
        assert 0 <= seconds == line["seconds"]
        assert 0 < recall < 1
    else:
        assert (line["tokens_per_second"], line["curve"]) == (None, [])


@pytest.mark.parametrize("model", ["gat", "lightgcn"])
def test_the_final_part_trains_the_given_epochs_and_evaluates_the_test_file(run, model, capsys):
    with pytest.raises(SystemExit):
        run(model, "--part", "final")
    assert "no validation: give --epochs" in capsys.readouterr().err
    line = run(model, "--part", "final", "--epochs", "2", "--minutes", "0.0001")
    assert (line["split"], line["epochs"], line["best_epoch"], line["curve"]) == ("final", 2, 2, [])
    assert line["n_users"] == N_USERS


def test_settings_reach_the_model_and_training(run):
    line = run("gat", "--epochs", "1", "--set", "dim=16", "--set", "train.learning_rate=0.02", "--batch", "8")
    assert line["settings"]["dim"] == 16
    assert {"learning_rate": 0.02, "batch_size": 8, "clock": "cpu_time"}.items() <= line["settings"]["train"].items()
    line = run("lightgcn", "--epochs", "1", "--set", "initial_std=null", "--set", "dim=4")
    assert {"dim": 4, "initial_std": None, "batch_size": 2048, "epochs": 1}.items() <= line["settings"].items()
    assert run("gf_cf", "--set", "singular_vectors=7")["settings"]["singular_vectors"] == 7
    with pytest.raises(ValueError, match="unknown key"):
        run("cheby_cf", "--set", "weigth=1")

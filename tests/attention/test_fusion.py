"""Tests of the fusion of item ids and features: ModalityFusion and the item table built on it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from attnrec.attention.fusion import ModalityFusion
from attnrec.dataset import Features
from attnrec.dataset.modalities import modalities
from attnrec.models.feature_fusion import ItemFeatureFusion

N_COLOURS, N_SIZES, DIM = 4, 5, 16
N_ROWS = N_COLOURS * N_SIZES + 1
NEW = torch.tensor([1, 7, 13, 19])  # items without events; other items have their colours and sizes
COLUMNS = ["colour", "size", "picture"]


def make_features() -> Features:
    """20 items, one per colour and size, with a picture of both; the last item and padding have no features."""
    rows = np.arange(1, N_ROWS - 1)
    colour, size = (rows - 1) % N_COLOURS, (rows - 1) // N_COLOURS
    sizes = np.full(N_ROWS, np.nan, np.float32)
    sizes[rows] = size
    pictures = np.zeros((N_ROWS, N_COLOURS + N_SIZES), np.float32)
    pictures[rows, colour] = pictures[rows, N_COLOURS + size] = 1
    categories = {"colour": (rows, colour, tuple("abcd"))}
    return Features(
        categories=categories, numbers={"size": sizes}, texts={}, vectors={"picture": pictures}, n_rows=N_ROWS
    )


def make_model(columns=COLUMNS, *, features: Features | None = None, **settings) -> ItemFeatureFusion:
    torch.manual_seed(0)
    return ItemFeatureFusion(modalities(features or make_features(), columns), dim=DIM, **settings)


@pytest.fixture
def ids() -> Tensor:
    torch.manual_seed(1)
    vectors = 0.02 * torch.randn(N_ROWS, DIM)
    vectors[0] = 0
    return vectors


HAS_ID = torch.ones(N_ROWS, dtype=torch.bool)


@pytest.fixture
def fusion() -> ModalityFusion:
    torch.manual_seed(0)
    module = ModalityFusion(8, 3, heads=2)
    torch.nn.init.ones_(module.gain)
    return module


PRESENT = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)


def test_weights_sum_to_1_and_are_0_for_a_missing_modality(fusion):
    weights = fusion(torch.randn(6, 3, 8), present=PRESENT).weights
    assert weights.sum(1).tolist() == pytest.approx([1, 1, 1, 1, 1, 0])
    assert not weights[~PRESENT].any()


def test_a_single_modality_gets_weight_1_and_an_item_without_modalities_is_zero(fusion):
    attended = fusion(torch.randn(6, 3, 8), present=PRESENT)
    assert attended.weights[3:].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert not attended.output[5].any()
    assert attended.output[:5].any(1).all()


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_the_value_of_a_missing_modality_changes_nothing(fusion, missing):
    vectors = torch.randn(6, 3, 8)
    changed = vectors.clone()
    changed[:, missing] = 100 * torch.randn(6, 8)
    one, other = fusion(vectors, present=PRESENT), fusion(changed, present=PRESENT)
    absent = ~PRESENT[:, missing]
    assert torch.equal(one.output[absent], other.output[absent])
    assert torch.equal(one.weights[absent], other.weights[absent])
    assert (one.output[~absent] != other.output[~absent]).any(1).all()


def test_no_gradient_reaches_a_missing_modality(fusion):
    vectors = torch.randn(6, 3, 8, requires_grad=True)
    fusion(vectors, present=PRESENT).output.square().sum().backward()
    assert not vectors.grad[~PRESENT].any()
    assert vectors.grad[PRESENT].any(1).all()


def test_items_are_independent(fusion):
    vectors = torch.randn(6, 3, 8)
    together = fusion(vectors, present=PRESENT).output
    for item in range(6):
        alone = fusion(vectors[item : item + 1], present=PRESENT[item : item + 1]).output
        torch.testing.assert_close(alone[0], together[item])


def test_weights_are_the_mean_over_heads(fusion):
    """Each head attends to another modality, so both have weight 1/2."""
    with torch.no_grad():
        fusion.id_query.weight.zero_()
        fusion.modality_embedding.zero_()
        fusion.query.fill_(100)
        fusion.modality_embedding[1, :4] = fusion.modality_embedding[2, 4:] = 100
    weights = fusion(torch.randn(1, 3, 8), present=PRESENT[:1]).weights
    assert weights[0].tolist() == pytest.approx([0, 0.5, 0.5])


def test_heads_must_divide_dim():
    with pytest.raises(ValueError, match="heads must divide dim, got heads=4 and dim=10"):
        ModalityFusion(10, 2)


def test_training_starts_from_the_id_vectors(ids):
    table = make_model().eval()(ids, HAS_ID)
    assert (torch.cosine_similarity(table[1:], ids[1:]) > 0.9).all()


def test_row_zero_and_items_without_modalities_stay_zero(ids):
    model, has_id = make_model(), HAS_ID.clone()
    has_id[-1] = False
    for mode in (True, False):
        table = model.train(mode)(ids + 1, has_id)
        assert not table[[0, -1]].any()
        assert table[1:-1].any(1).all()


def test_new_items_get_a_vector_from_their_features(ids):
    features = make_features()
    features.categories["colour"] = (np.array([1, 2, 3]), np.array([0, 0, 0]), ("a",))
    model = make_model(["colour"], features=features).eval()
    has_id = HAS_ID.clone()
    has_id[[1, 2]] = False
    table = model(ids, has_id)
    assert table[1].any()
    assert torch.equal(table[1], table[2])  # the same features
    assert not torch.equal(table[1], table[3])  # item 3 has an id vector
    assert torch.equal(model(ids + 1, has_id)[1], table[1])  # its id vector is ignored


def test_a_missing_column_of_an_item_changes_nothing(ids):
    features, other = make_features(), make_features()
    features.numbers["size"][3] = other.numbers["size"][3] = np.nan
    model, same = make_model(features=features).eval(), make_model(features=other).eval()
    same.columns[1].values[3] = 7
    assert torch.equal(model(ids, HAS_ID), same(ids, HAS_ID))
    same.columns[1].values[4] = 7
    assert not torch.equal(model(ids, HAS_ID)[4], same(ids, HAS_ID)[4])


def test_a_category_vector_is_the_mean_of_its_names():
    features = make_features()
    features.categories["colour"] = (np.array([2, 2, 3, 3]), np.array([0, 1, 0, 1]), ("a", "b"))
    column = make_model(["colour"], features=features).columns[0]
    names = column.embedding.weight
    torch.testing.assert_close(column()[2], (names[0] + names[1]) / 2)
    assert not column()[[0, 1, 4]].any()
    assert column.present.nonzero().flatten().tolist() == [2, 3]


def test_weights_are_reported_without_id_dropout(ids):
    model, has_id = make_model(), HAS_ID.clone()
    has_id[1] = False
    model.id_dropout = 0.9
    weights = model.train().weights(ids, has_id)
    assert model.names == ("id", "colour", "size", "picture")
    assert model.training
    assert weights.shape == (N_ROWS, 4)
    assert weights.sum(1).tolist() == pytest.approx([0] + [1] * 20)
    assert weights[1, 0] == 0
    assert weights[-1].tolist() == [1, 0, 0, 0]
    assert (weights[1:-1, 1:] > 0).all()
    assert (weights[2:, 0] > 0).all()  # no id is dropped, though the model is in training mode


def test_ids_are_dropped_in_training_only_and_only_for_items_with_features(ids):
    model = make_model(id_dropout=0.5)
    visible = model.eval()(ids, HAS_ID)
    nearby = [torch.cosine_similarity(model.train()(ids, HAS_ID), ids) > 0.9 for _ in range(200)]
    kept = torch.stack(nearby).float().mean(0)
    assert kept[1:-1].mean().item() == pytest.approx(0.5, abs=0.03)  # 19 items in 200 calls: one standard error is .008
    assert kept[-1] == 1  # it has no features
    assert torch.equal(model.eval()(ids, HAS_ID), visible)
    assert torch.equal(make_model(id_dropout=0).train()(ids, HAS_ID), visible)


def test_gradient_reaches_every_parameter_and_the_ids(ids):
    model = make_model(id_dropout=0)
    ids.requires_grad_()
    model(ids, HAS_ID)[1:].pow(3).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert ids.grad[1:].any(1).all()
    assert not ids.grad[0].any()


def test_features_are_not_saved_with_the_weights(ids):
    model, again = make_model().eval(), make_model().eval()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    torch.nn.init.normal_(model.fusion.gain)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(ids, HAS_ID), model(ids, HAS_ID))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"colour": 4, "size": 1, "picture": 8}, "column 'picture' must have the width it had in training, 9, got 8"),
        ({"colour": 4, "size": 1}, r"columns of the model, \['colour', 'size', 'picture'\], got \['colour', 'size'\]"),
        ({"size": 1, "colour": 4, "picture": 9}, r"got \['size', 'colour', 'picture'\]"),
    ],
)
def test_items_with_other_features_are_rejected(widths, message):
    model = make_model()
    model.check(modalities(make_features(), COLUMNS).widths())
    with pytest.raises(ValueError, match=message):
        model.check(widths)


def trained_cosines(id_dropout: float) -> tuple[float, float]:
    """Lowest cosine of trained and of new items with their target, the sum of a colour and a size vector."""
    torch.manual_seed(2)
    colours, sizes = torch.randn(N_COLOURS, DIM), torch.randn(N_SIZES, DIM)
    targets = (colours[None] + sizes[:, None]).flatten(0, 1)  # rows 1 to 20 are sizes x colours
    table = torch.nn.Embedding(N_ROWS, DIM, padding_idx=0)
    model = make_model(["picture"], id_dropout=id_dropout)
    has_id = HAS_ID.clone()
    has_id[NEW] = False
    trained = has_id.nonzero()[1:-1].flatten()
    torch.nn.init.normal_(table.weight, std=0.02)
    optimizer = torch.optim.AdamW([*model.parameters(), *table.parameters()], lr=0.01)
    for _ in range(300):
        vectors = model.train()(table.weight, has_id)
        loss = 1 - torch.cosine_similarity(vectors[trained], targets[trained - 1]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cosines = torch.cosine_similarity(model.eval()(table.weight, has_id)[1:], targets)
    return cosines[trained - 1].min().item(), cosines[NEW - 1].min().item()


def test_id_dropout_lets_features_predict_new_items():
    trained, new = trained_cosines(id_dropout=0.3)
    assert trained > 0.95
    assert new > 0.95
    assert trained_cosines(id_dropout=0)[1] < 0.7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_and_cpu_agree(ids):
    model = make_model().eval()
    on_cpu = model(ids, HAS_ID)
    on_cuda = model.cuda()(ids.cuda(), HAS_ID.cuda())
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-5)

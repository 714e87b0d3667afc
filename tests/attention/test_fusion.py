import numpy as np
import pytest
import torch
from torch import Tensor

from attnrec.attention.fusion import ModalityFusion
from attnrec.dataset import Features
from attnrec.dataset.modalities import modalities
from attnrec.models.fused_items import FusedItems

N_COLOURS, N_SIZES, DIM = 4, 5, 16
N_ROWS = N_COLOURS * N_SIZES + 1
NEW = torch.tensor([1, 7, 13, 19])  # items without history; their colours and sizes are known from others
COLUMNS = ["colour", "size", "picture"]


def world() -> Features:
    """20 items, each colour in each size once, and a picture of both; the last item and padding have nothing."""
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


def fused(columns=COLUMNS, *, features: Features | None = None, **settings) -> FusedItems:
    torch.manual_seed(0)
    return FusedItems(modalities(features or world(), columns), dim=DIM, **settings)


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


def test_shares_sum_to_one_and_are_zero_where_missing(fusion):
    weights = fusion(torch.randn(6, 3, 8), present=PRESENT).weights
    assert weights.sum(1).tolist() == pytest.approx([1, 1, 1, 1, 1, 0])
    assert not weights[~PRESENT].any()


def test_the_only_modality_has_all_and_an_item_without_any_is_zero(fusion):
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


def test_items_do_not_see_each_other(fusion):
    vectors = torch.randn(6, 3, 8)
    together = fusion(vectors, present=PRESENT).output
    for item in range(6):
        alone = fusion(vectors[item : item + 1], present=PRESENT[item : item + 1]).output
        torch.testing.assert_close(alone[0], together[item])


def test_heads_have_their_own_shares(fusion):
    """One head's query looks at the one modality, the other's at another: the mean says half and half."""
    with torch.no_grad():
        fusion.id_query.weight.zero_()
        fusion.modality_embedding.zero_()
        fusion.query.fill_(100)
        fusion.modality_embedding[1, :4] = fusion.modality_embedding[2, 4:] = 100
    weights = fusion(torch.randn(1, 3, 8), present=PRESENT[:1]).weights
    assert weights[0].tolist() == pytest.approx([0, 0.5, 0.5])


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="multiple of the fusion's heads, got 10 and 4"):
        ModalityFusion(10, 2)


def test_training_starts_from_the_id_vectors(ids):
    table = fused().eval()(ids, HAS_ID)
    assert (torch.cosine_similarity(table[1:], ids[1:]) > 0.9).all()


def test_row_zero_stays_zero_and_so_does_an_item_without_anything(ids):
    model, has_id = fused(), HAS_ID.clone()
    has_id[-1] = False
    for mode in (True, False):
        table = model.train(mode)(ids + 1, has_id)
        assert not table[[0, -1]].any()
        assert table[1:-1].any(1).all()


def test_new_items_get_a_vector_from_features_alone(ids):
    features = world()
    features.categories["colour"] = (np.array([1, 2, 3]), np.array([0, 0, 0]), ("a",))
    model = fused(["colour"], features=features).eval()
    has_id = HAS_ID.clone()
    has_id[[1, 2]] = False
    table = model(ids, has_id)
    assert table[1].any()
    assert torch.equal(table[1], table[2])  # the same features
    assert not torch.equal(table[1], table[3])  # which has a history
    assert torch.equal(model(ids + 1, has_id)[1], table[1])  # whatever its id vector is


def test_a_missing_column_of_an_item_changes_nothing(ids):
    features, other = world(), world()
    features.numbers["size"][3] = other.numbers["size"][3] = np.nan
    model, same = fused(features=features).eval(), fused(features=other).eval()
    same.columns[1].values[3] = 7
    assert torch.equal(model(ids, HAS_ID), same(ids, HAS_ID))
    same.columns[1].values[4] = 7
    assert not torch.equal(model(ids, HAS_ID)[4], same(ids, HAS_ID)[4])


def test_a_category_vector_is_the_mean_of_its_names():
    features = world()
    features.categories["colour"] = (np.array([2, 2, 3, 3]), np.array([0, 1, 0, 1]), ("a", "b"))
    column = fused(["colour"], features=features).columns[0]
    names = column.embedding.weight
    torch.testing.assert_close(column()[2], (names[0] + names[1]) / 2)
    assert not column()[[0, 1, 4]].any()
    assert column.present.nonzero().flatten().tolist() == [2, 3]


def test_weights_say_what_each_item_is_read_by(ids):
    model, has_id = fused(), HAS_ID.clone()
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
    assert (weights[2:, 0] > 0).all()  # none is hidden here, though the model is in training


def test_ids_are_hidden_in_training_only_and_only_where_features_stand_in(ids):
    model = fused(id_dropout=0.5)
    visible = model.eval()(ids, HAS_ID)
    nearby = [torch.cosine_similarity(model.train()(ids, HAS_ID), ids) > 0.9 for _ in range(200)]
    kept = torch.stack(nearby).float().mean(0)
    assert kept[1:-1].mean().item() == pytest.approx(0.5, abs=0.03)  # 19 items in 200 calls: one standard error is .008
    assert kept[-1] == 1  # it has nothing else
    assert torch.equal(model.eval()(ids, HAS_ID), visible)
    assert torch.equal(fused(id_dropout=0).train()(ids, HAS_ID), visible)


def test_gradient_reaches_every_parameter_and_the_ids(ids):
    model = fused(id_dropout=0)
    ids.requires_grad_()
    model(ids, HAS_ID)[1:].pow(3).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert ids.grad[1:].any(1).all()
    assert not ids.grad[0].any()


def test_what_describes_the_items_is_not_saved_with_the_weights(ids):
    model, again = fused().eval(), fused().eval()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    torch.nn.init.normal_(model.fusion.gain)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(ids, HAS_ID), model(ids, HAS_ID))


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ({"colour": 4, "size": 1, "picture": 8}, "as wide as the model's, 9, got 8 in 'picture'"),
        ({"colour": 4, "size": 1}, r"columns \['colour', 'size', 'picture'\], got \['colour', 'size'\]"),
        ({"size": 1, "colour": 4, "picture": 9}, r"got \['size', 'colour', 'picture'\]"),
    ],
)
def test_items_of_another_form_are_refused(widths, words):
    model = fused()
    model.check(modalities(world(), COLUMNS).widths())
    with pytest.raises(ValueError, match=words):
        model.check(widths)


def learned(id_dropout: float) -> tuple[float, float]:
    """Cosine of the worst known and the worst new item with a vector that is its colour's plus its size's."""
    torch.manual_seed(2)
    colours, sizes = torch.randn(N_COLOURS, DIM), torch.randn(N_SIZES, DIM)
    wanted = (colours[None] + sizes[:, None]).flatten(0, 1)  # rows 1 to 20 are sizes x colours
    table = torch.nn.Embedding(N_ROWS, DIM, padding_idx=0)
    model = fused(["picture"], id_dropout=id_dropout)
    has_id = HAS_ID.clone()
    has_id[NEW] = False
    known = has_id.nonzero()[1:-1].flatten()
    torch.nn.init.normal_(table.weight, std=0.02)
    optimizer = torch.optim.AdamW([*model.parameters(), *table.parameters()], lr=0.01)
    for _ in range(300):
        found = model.train()(table.weight, has_id)
        loss = 1 - torch.cosine_similarity(found[known], wanted[known - 1]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cosines = torch.cosine_similarity(model.eval()(table.weight, has_id)[1:], wanted)
    return cosines[known - 1].min().item(), cosines[NEW - 1].min().item()


def test_features_of_known_items_predict_new_ones_because_ids_are_hidden():
    known, new = learned(id_dropout=0.3)
    assert known > 0.95
    assert new > 0.95
    assert learned(id_dropout=0)[1] < 0.7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_table_on_cuda_equals_the_cpu(ids):
    model = fused().eval()
    on_cpu = model(ids, HAS_ID)
    on_cuda = model.cuda()(ids.cuda(), HAS_ID.cuda())
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-5)

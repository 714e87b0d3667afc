import sys
from math import log
from types import SimpleNamespace

import numpy as np
import pytest

from attnrec.dataset.text import text_vectors


def test_similar_titles_have_similar_vectors_and_others_are_orthogonal():
    first, similar, unrelated = text_vectors(["aa bb", "aa cc", "dd"])
    # words share no n-grams; of the 3 titles 2 contain aa and 1 contains bb
    shared, unique = log(4 / 3) + 1, log(4 / 2) + 1
    assert first @ similar == pytest.approx(shared**2 / (shared**2 + unique**2))
    assert first @ unrelated == pytest.approx(0, abs=1e-6)


def test_inflected_words_have_similar_vectors():
    cup, cups, pan = text_vectors(["green tea cup", "GREEN TEA CUPS", "iron pan"])
    assert cup @ cups > 0.7
    assert abs(cup @ pan) < 0.1


def test_vectors_have_length_one_and_empty_texts_are_zeros():
    vectors = text_vectors(["tea", "", "cup", "  "])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1, 0], abs=1e-6)


def test_width_is_limited_by_the_rank_of_the_corpus():
    texts = ["tea cup", "tea cup", "iron pan", "hat"]
    assert text_vectors(texts).shape == (4, 3)
    assert text_vectors(texts, dim=2).shape == (4, 2)
    assert text_vectors(["tea"]).tolist() == [[1]]
    assert text_vectors(["a", "a"]).tolist() == [[1], [1]]
    assert text_vectors(["", " "]).shape == (2, 0)
    assert text_vectors([]).shape == (0, 0)


def test_two_calls_are_bitwise_equal():
    letters = np.random.default_rng(0).choice(list("abcdef  "), size=(300, 12))
    texts = ["".join(row) for row in letters]
    first = text_vectors(texts, dim=16)
    assert first.shape == (300, 16)
    np.testing.assert_array_equal(first, text_vectors(texts, dim=16))


def test_new_texts_are_encoded_in_the_space_of_the_corpus():
    corpus = ["tea cup", "", "tea pot", "iron pan"]
    fitted = text_vectors(corpus)
    later = text_vectors(["iron pan", "zzz", "", "tea cup"], corpus=corpus)
    assert later == pytest.approx(np.stack([fitted[3], 0 * fitted[0], 0 * fitted[0], fitted[0]]), abs=1e-6)
    assert text_vectors([""], corpus=corpus).tolist() == [[0, 0, 0]]


def test_a_function_encodes_non_empty_texts_and_its_vectors_are_normalised():
    encoded = []

    def encoder(texts):
        encoded.extend(texts)
        return [[3.0, 4.0], [0.0, 0.0]]

    vectors = text_vectors(["tea", "", "pan"], encoder=encoder)
    assert encoded == ["tea", "pan"]
    assert vectors == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0, 0]]))
    assert text_vectors([""], encoder=encoder).shape == (1, 0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones(2), r"one vector per text, \(2, width\), got shape \(2,\)"),
        (np.ones((3, 4)), r"one vector per text, \(2, width\), got shape \(3, 4\)"),
        (np.ones((2, 0)), r"got shape \(2, 0\)"),
        ([[1.0, 2.0], [1.0, np.nan]], r"finite vectors, got \[ 1. nan\] for text 1"),
    ],
)
def test_functions_that_do_not_return_one_finite_vector_per_text_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        text_vectors(["tea", "pan"], encoder=lambda texts: vectors)


def test_unknown_encoders_and_widths_below_1_are_refused():
    with pytest.raises(ValueError, match="must be 'tfidf', an existing folder or a function, got 'no-such-model'"):
        text_vectors(["tea"], encoder="no-such-model")
    with pytest.raises(ValueError, match="dim must be at least 1, got dim=0"):
        text_vectors(["tea"], dim=0)


def test_a_folder_encoder_needs_sentence_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"run: pip install attnrec\[text\]"):
        text_vectors(["tea"], encoder=tmp_path)


def test_a_folder_encoder_uses_no_network_and_no_pickle(tmp_path, monkeypatch):
    arguments = {}

    class Fake:
        def __init__(self, folder, **settings):
            arguments.update(folder=folder, **settings)

        def encode(self, texts, **settings):
            return np.array([[len(text), 0.0] for text in texts])

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Fake))
    assert text_vectors(["tea", ""], encoder=str(tmp_path)).tolist() == [[1, 0], [0, 0]]
    assert arguments == {
        "folder": str(tmp_path),
        "local_files_only": True,
        "model_kwargs": {"use_safetensors": True},
    }

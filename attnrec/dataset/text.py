"""Text encoders: TF-IDF with truncated SVD, sentence-transformers, or any function; vectors have unit length.

TF-IDF of character n-grams within words, reduced by a randomised SVD (latent semantic analysis, Deerwester et al.
1990; Halko, Martinsson & Tropp 2011, arXiv:0909.4061).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TextEncoder = str | Path | Callable[[list[str]], ArrayLike]
"""\"tfidf\", the folder of a sentence-transformers model, or a function from texts to vectors (n, width)."""

# Character n-grams instead of words, because titles are short. Co-occurrence (cosine) of an item's 20 nearest items by
# text, as a share of the largest possible: .345 on ML-1M and .444 on online-retail; with words and word pairs .341 and
# .427.
N_GRAMS = (2, 4)
MAX_TERMS = 50_000  # the most frequent terms; the SVD stores a few hundred numbers per term
TOLERANCE = 1e-6  # relative to the largest singular value or to unit length; smaller values are rounding errors


def text_vectors(
    texts: Sequence[str], *, encoder: TextEncoder = "tfidf", dim: int = 128, corpus: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """Encode each text as a vector of length 1; zeros for empty texts and texts without a term of the corpus.

    Results are bitwise reproducible on one machine. Other machines can differ by rounding errors, so store the vectors
    with a trained model instead of computing them again.

    Args:
        texts: n texts.
        encoder: "tfidf" is fitted in this call; a folder or a function is applied to the non-empty texts.
        dim: width of "tfidf" vectors, reduced to the number of linearly independent texts; other encoders have a
            fixed width.
        corpus: texts to fit "tfidf" on, so that new texts get vectors in the same space; default: `texts`.

    Returns:
        (n, width) float32; width is 0 if there is nothing to encode.

    Raises:
        ValueError: if the encoder does not exist, or does not return one finite vector per text.
        ImportError: if `encoder` is a folder and sentence-transformers is not installed.
    """
    not_empty = np.array([bool(text.strip()) for text in texts], dtype=bool)
    to_encode = [text for text in texts if text.strip()]
    if encoder == "tfidf":
        fit_texts = to_encode if corpus is None else [text for text in corpus if text.strip()]
        encoded = _tfidf(to_encode, corpus=fit_texts, dim=dim)
    elif to_encode:
        encoded = _check_vectors(_encoder_function(encoder)(to_encode), n_texts=len(to_encode))
    else:
        encoded = np.zeros((0, 0))
    vectors = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
    lengths = np.linalg.norm(encoded, axis=1, keepdims=True)
    vectors[not_empty] = np.where(lengths > TOLERANCE, encoded / np.maximum(lengths, TOLERANCE), 0)
    return vectors


def _tfidf(texts: list[str], *, corpus: list[str], dim: int) -> NDArray[Any]:
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got dim={dim}; 128 is a common choice")
    if not corpus:
        return np.zeros((len(texts), 0))
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=N_GRAMS, sublinear_tf=True, max_features=MAX_TERMS)
    tfidf = vectorizer.fit_transform(corpus)
    width = min(dim, *tfidf.shape)
    _, singular_values, components = randomized_svd(tfidf, n_components=width, random_state=0)
    components = components[singular_values > TOLERANCE * singular_values[0]]
    if texts is not corpus:
        tfidf = vectorizer.transform([*texts, ""])[:-1]  # scikit-learn does not accept an empty list
    return tfidf @ components.T


def _encoder_function(encoder: TextEncoder) -> Callable[[list[str]], ArrayLike]:
    if callable(encoder):
        return encoder
    if not Path(encoder).is_dir():
        raise ValueError(
            f"a text encoder must be 'tfidf', an existing folder or a function, got {str(encoder)!r}; "
            "download the sentence-transformers model and pass its folder"
        )
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"the text encoder {str(encoder)!r} needs sentence-transformers, which is not installed; "
            "run: pip install attnrec[text]"
        ) from error
    # safetensors only, because other formats are unpickled
    model = SentenceTransformer(str(encoder), local_files_only=True, model_kwargs={"use_safetensors": True})
    return lambda texts: model.encode(texts, convert_to_numpy=True, show_progress_bar=False)


def _check_vectors(encoded: ArrayLike, *, n_texts: int) -> NDArray[np.float64]:
    vectors = np.asarray(encoded, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != n_texts or vectors.shape[1] == 0:
        raise ValueError(
            f"a text encoder must return one vector per text, ({n_texts}, width), got shape {vectors.shape}; "
            "fix the encoder"
        )
    if not np.isfinite(vectors).all():
        first = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(
            f"a text encoder must return finite vectors, got {vectors[first]} for text {first}; fix the encoder"
        )
    return vectors

"""Texts as vectors of unit length: TF-IDF and a truncated SVD, sentence-transformers, or any function.

TF-IDF of character n-grams inside words, reduced by a randomised SVD (latent semantic analysis, Deerwester et al.
1990; Halko, Martinsson & Tropp 2011, arXiv:0909.4061).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TextEncoder = str | Path | Callable[[list[str]], ArrayLike]
"""\"tfidf\", the folder of a sentence-transformers model, or a function from texts to vectors (n, width)."""

# Characters, not words, for short titles: of the co-occurrence (cosine) that an item's 20 nearest can have at most, its
# 20 nearest by text have .345 on ML-1M and .444 on online-retail; by words and pairs of words .341 and .427.
N_GRAMS = (2, 4)
MOST_TERMS = 50_000  # the most frequent ones; the SVD holds a few hundred numbers for each
ROUNDING = 1e-6  # of the largest singular value, or of unit length: what is smaller is rounding


def text_vectors(
    texts: Sequence[str], *, encoder: TextEncoder = "tfidf", dim: int = 128, corpus: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """One vector per text, of length 1; zeros where a text is empty, or has nothing in common with the corpus.

    Two calls give the same bits on one machine; on another one they may differ by rounding, so that what a model was
    trained on is better kept than made again.

    Args:
        texts: n of them.
        encoder: "tfidf" is fitted here; a folder or a function is used as it is, on the texts that are not empty.
        dim: width wanted of "tfidf", cut to the number of independent texts; the others have their own.
        corpus: what "tfidf" is fitted on instead of `texts`, so that later texts get vectors in the same space.

    Returns:
        (n, width); width is 0 where no text has anything in it.

    Raises:
        ValueError: for an encoder that does not exist, or one whose vectors are not finite or not one per text.
        ImportError: for a folder, where sentence-transformers is not installed.
    """
    filled = np.array([bool(text.strip()) for text in texts], dtype=bool)
    asked = [text for text in texts if text.strip()]
    if encoder == "tfidf":
        learned = asked if corpus is None else [text for text in corpus if text.strip()]
        found = _tfidf(asked, corpus=learned, dim=dim)
    elif asked:
        found = _checked(_function(encoder)(asked), n_texts=len(asked))
    else:
        found = np.zeros((0, 0))
    vectors = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    vectors[filled] = np.where(lengths > ROUNDING, found / np.maximum(lengths, ROUNDING), 0)
    return vectors


def _tfidf(texts: list[str], *, corpus: list[str], dim: int) -> NDArray[Any]:
    if dim < 1:
        raise ValueError(f"text vectors must be at least 1 wide, got dim={dim}; 128 is usual")
    if not corpus:
        return np.zeros((len(texts), 0))
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    terms = TfidfVectorizer(analyzer="char_wb", ngram_range=N_GRAMS, sublinear_tf=True, max_features=MOST_TERMS)
    frequencies = terms.fit_transform(corpus)
    width = min(dim, *frequencies.shape)
    _, sizes, directions = randomized_svd(frequencies, n_components=width, random_state=0)
    directions = directions[sizes > ROUNDING * sizes[0]]
    if texts is not corpus:
        frequencies = terms.transform([*texts, ""])[:-1]  # scikit-learn refuses to transform nothing
    return frequencies @ directions.T


def _function(encoder: TextEncoder) -> Callable[[list[str]], ArrayLike]:
    if callable(encoder):
        return encoder
    if not Path(encoder).is_dir():
        raise ValueError(
            f"a text encoder must be 'tfidf', a folder or a function, got {str(encoder)!r}, which is no folder here; "
            "download the sentence-transformers model first and give its folder"
        )
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"a folder as text encoder needs sentence-transformers, got {str(encoder)!r} without it; "
            "run: pip install attnrec[text]"
        ) from error
    # a model without safetensors would have to be unpickled
    model = SentenceTransformer(str(encoder), local_files_only=True, model_kwargs={"use_safetensors": True})
    return lambda texts: model.encode(texts, convert_to_numpy=True, show_progress_bar=False)


def _checked(found: ArrayLike, *, n_texts: int) -> NDArray[np.float64]:
    vectors = np.asarray(found, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != n_texts or vectors.shape[1] == 0:
        raise ValueError(
            f"a text encoder must return one vector per text, ({n_texts}, width), got shape {vectors.shape}; correct it"
        )
    if not np.isfinite(vectors).all():
        first = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(
            f"a text encoder must return finite vectors, got {vectors[first]} for text {first}; correct it"
        )
    return vectors

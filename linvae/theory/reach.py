"""Decoders of limited reach, fitted in closed form or nearly: what they leave to a latent.

Collapsed decoders for `linvae.theory.sequences`, and the same for the Gaussian theory.

Tokens (`ngram_predictions`): interpolated n-grams of the last m words h_m, with Witten and Bell's
weights, which predict new text decently without any number to choose,

    p_m(y|h_m) = (count(h_m, y) + k(h_m) p_{m-1}(y|h_{m-1})) / (count(h_m) + k(h_m))

k the number of different words seen after h_m, p_{-1} uniform; or unsmoothed frequencies, the
longest context that was seen (a decoder that has learned its training set by heart). Words are told
apart in the contexts, but predictions may be merged into classes: interpolation and merging
commute, so these are the merged predictions of the full decoder.

Binary pixels (`logistic_predictions`): logistic regression of every pixel on those that it sees,
logit p_t = b_t + w_t.y_seen, the largest likelihood with a normal prior of precision `ridge`.

Gaussian (`token_blocks`, `block_mask`): tokens as blocks of coordinates, for `Moments` and
`ARVAESpec(order=block_mask(...))`: linear prediction of embeddings from those of the last m tokens.

| symbol | argument       | shape   | unit                                                         |
|--------|----------------|---------|--------------------------------------------------------------|
| y      | tokens         | (n, T)  | words, 0 ... V - 1: first START = 0, then those that are     |
|        |                |         | predicted, the last of a sequence END = 1; -1 after that     |
| -      | classes        | (V,)    | class of every word, 0 ... K - 1                             |
| m      | order          | scalar  | words, tokens                                                |
| y      | pixels         | (n, d)  | 0 or 1                                                       |

Sources: Witten & Bell 1991, method C; logistic regression by Newton's method is textbook.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from linvae.moments import as_array, doubles
from linvae.theory.arguments import check_wholes
from linvae.theory.sequences import TokenPredictions

__all__ = [
    "block_mask",
    "causal_neighbours",
    "frequent_classes",
    "logistic_predictions",
    "ngram_predictions",
    "token_blocks",
]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
START, END = 0, 1
CHUNK = 50_000  # tokens whose counts are made dense at once
NEWTON_STEPS, NEWTON_TOLERANCE = 50, 1e-8  # gradient of the log-likelihood per sample


# --- tokens --------------------------------------------------------------------------------------


def frequent_classes(tokens: npt.ArrayLike, vocabulary: int, n_classes: int) -> Indices:
    """Class of each of `vocabulary` words, (V,): END, the most frequent words, and the rest last.

    END and the n_classes - 2 most frequent words of `tokens` (n, T) have classes 0, 1, ... in
    descending frequency after END; all others share class n_classes - 1. Raises ValueError for
    tokens that are not as documented, or n_classes outside 2 ... V - 1.
    """
    words = _checked_tokens("tokens", tokens)
    _check_vocabulary("tokens", words, vocabulary)
    if not 2 <= n_classes < vocabulary:
        raise ValueError(f"n_classes={n_classes} must be from 2 to vocabulary - 1={vocabulary - 1}")
    counts = np.bincount(words[words >= 0], minlength=vocabulary)
    counts[[START, END]] = -1
    classes = np.full(vocabulary, n_classes - 1, dtype=np.intp)
    classes[np.argsort(-counts, kind="stable")[: n_classes - 2]] = np.arange(1, n_classes - 1)
    classes[END] = 0
    return classes


def ngram_predictions(
    training: npt.ArrayLike,
    tokens: npt.ArrayLike,
    *,
    order: int,
    classes: npt.ArrayLike,
    smoothed: bool = True,
) -> TokenPredictions:
    """What n-grams of `training` that see the last `order` words predict of `tokens`, by class.

    Both (n, T) padded as in the module's table; before START stands START. `smoothed=False`:
    frequencies of the longest context seen in training, not fit for new tokens.

    Raises ValueError for tokens that are not as documented, words outside `classes`, an order < 0,
    and as `TokenPredictions` where an unsmoothed model meets what it cannot produce. Equality that
    a test checks: p_m by dictionaries of counts, word by word.
    """
    given, new = _checked_tokens("training", training), _checked_tokens("tokens", tokens)
    merged = np.asarray(classes, dtype=np.intp)
    for name, words in (("training", given), ("tokens", new)):
        _check_vocabulary(name, words, len(merged))
    if isinstance(order, bool) or order < 0:
        raise ValueError(f"order={order!r} must be an integer >= 0 in ngram_predictions")
    sequence, position = np.nonzero(new[:, 1:] >= 0)
    p = np.full((len(sequence), int(merged.max()) + 1), 1 / (merged.max() + 1))
    for seen, met in _contexts(given, new, order, len(merged)):
        _interpolate(p, seen, met, _predicted(given), merged, smoothed)
    return TokenPredictions(sequence, merged[new[sequence, position + 1]], p)


def _predicted(words: Indices) -> Indices:
    return words[:, 1:][words[:, 1:] >= 0]


def _contexts(
    training: Indices, tokens: Indices, order: int, vocabulary: int
) -> list[tuple[Indices, Indices]]:
    """For 0 ... order words: number of the context of each predicted token, -1 if not in training.

    A context of j words is that of j - 1 words and one word more, so numbers stay below N V.
    """
    seen, met = (np.zeros(len(_predicted(w)), dtype=np.intp) for w in (training, tokens))
    found = [(seen, met)]
    for back in range(1, order + 1):
        keys = seen * vocabulary + _word_before(training, back)
        known, seen = np.unique(keys, return_inverse=True)
        asked = met * vocabulary + _word_before(tokens, back)
        at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        met = np.where((met >= 0) & (known[at] == asked), at, -1)
        found.append((seen, met))
    return found


def _word_before(words: Indices, back: int) -> Indices:
    """The word `back` places before each predicted token."""
    earlier = np.full((len(words), words.shape[1] - 1), START, dtype=np.intp)
    if back < words.shape[1]:
        earlier[:, back - 1 :] = words[:, : words.shape[1] - back]
    return earlier[words[:, 1:] >= 0]


def _interpolate(
    p: Array, seen: Indices, met: Indices, words: Indices, merged: Indices, smoothed: bool
) -> None:
    """p_m from p_{m-1}, in place, where the context is known."""
    n_contexts = int(seen.max()) + 1
    ones = np.ones(len(seen))
    counts = csr_array((ones, (seen, merged[words])), (n_contexts, p.shape[1]))
    totals = np.bincount(seen)
    pairs = np.unique(seen * len(merged) + words)
    kinds = np.bincount(pairs // len(merged)) * smoothed
    rows = np.flatnonzero(met >= 0)
    for part in np.array_split(rows, len(rows) // CHUNK + 1):
        at = met[part]
        p[part] = counts[at].toarray() + kinds[at, None] * p[part]
        p[part] /= (totals + kinds)[at, None]


# --- binary pixels -------------------------------------------------------------------------------


def causal_neighbours(height: int, width: int, reach: int) -> list[Indices]:
    """The pixels that each of height x width pixels sees: before it in raster order, `reach` near.

    Near: at most `reach` rows up and columns aside; 2 reach (reach + 1) pixels away from the edges,
    as a masked convolution of 2 reach + 1 a side.
    """
    check_wholes("causal_neighbours", height=height, width=width)
    index = np.arange(height * width).reshape(height, width)
    found = []
    for row, column in np.ndindex(height, width):
        top, left = max(0, row - reach), max(0, column - reach)
        near = index[top : row + 1, left : column + reach + 1].ravel()
        found.append(near[near < index[row, column]])
    return found


def logistic_predictions(
    training: npt.ArrayLike,
    pixels: npt.ArrayLike,
    neighbours: Sequence[npt.ArrayLike],
    *,
    ridge: float = 1.0,
) -> Array:
    """p_t of `pixels` (n, d), by logistic regression in `training` (n', d) on `neighbours`.

    `ridge` > 0: precision of the prior of every weight, intercept included; a pixel that never
    varies in training then has odds of about ln n'/n', not 0.
    Raises ValueError for pixels other than 0 and 1, neighbours that do not come before their pixel,
    and RuntimeError where Newton's method does not converge. Equality that a test checks: without
    neighbours, nearly the frequencies of training.
    """
    given, new = _checked_pixels("training", training), _checked_pixels("pixels", pixels)
    if not len(neighbours) == given.shape[1] == new.shape[1]:
        raise ValueError(
            f"neighbours has {len(neighbours)} entries but training has {given.shape[1]} pixels "
            f"and pixels {new.shape[1]}"
        )
    if not ridge > 0:
        raise ValueError(f"ridge={ridge!r} must be > 0 in logistic_predictions")
    p = np.empty(new.shape)
    for t, columns in enumerate(neighbours):
        index = np.asarray(columns, dtype=np.intp)
        if np.any((index < 0) | (index >= t)):
            raise ValueError(f"neighbours[{t}] holds pixels that do not come before {t}: {index}")
        weights = _logistic_weights(_with_one(given[:, index]), given[:, t], ridge)
        p[:, t] = _sigmoid(_with_one(new[:, index]) @ weights)
    return p


def _logistic_weights(X: Array, y: Array, ridge: float) -> Array:
    w = np.zeros(X.shape[1])
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(X @ w)
        gradient = X.T @ (y - p) - ridge * w
        if np.abs(gradient).max() <= NEWTON_TOLERANCE * len(y):
            return w
        curvature = (X * (p * (1 - p))[:, None]).T @ X + ridge * np.eye(len(w))
        step = np.linalg.solve(curvature, gradient)
        w += step / max(1.0, np.abs(step).max() / 4)  # long steps leave where Newton is valid
    raise RuntimeError(
        f"logistic regression on {len(y)} samples has not converged after {NEWTON_STEPS} steps: "
        f"raise ridge={ridge}"
    )


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def _with_one(X: Array) -> Array:
    return np.column_stack([np.ones(len(X)), X])


# --- Gaussian representation ---------------------------------------------------------------------


def token_blocks(tokens: npt.ArrayLike, embedding: npt.ArrayLike, length: int) -> Array:
    """The first `length` predicted tokens of every sequence as coordinates, (n, length e).

    `embedding` (V, e): a row for every word, as `np.eye(K)[classes]` for indicators of classes.
    After the end of a sequence stands 0, the mean of no word. Raises ValueError for tokens that are
    not as documented or have fewer columns.
    """
    words, E = _checked_tokens("tokens", tokens), doubles("embedding", embedding)
    _check_vocabulary("tokens", words, len(E))
    if not 1 <= length < words.shape[1]:
        raise ValueError(f"length={length} must be from 1 to T - 1={words.shape[1] - 1}")
    chosen = words[:, 1 : length + 1]
    blocks = np.where((chosen >= 0)[:, :, None], E[chosen], 0.0)
    return blocks.reshape(len(words), -1)


def block_mask(length: int, width: int, order: int | None) -> npt.NDArray[np.bool_]:
    """Mask for `ARVAESpec(order=...)`: blocks of `width` coordinates see the last `order` blocks.

    (length width, length width); None = all blocks before. Coordinates of one block do not see each
    other, as those of a token are predicted at once.
    """
    check_wholes("block_mask", length=length, width=width)
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    seen = (distance >= 1) & (distance <= (length if order is None else order))
    return np.repeat(np.repeat(seen, width, axis=0), width, axis=1)


# --- arguments -----------------------------------------------------------------------------------


def _checked_tokens(name: str, value: npt.ArrayLike) -> Indices:
    array = as_array(name, value)
    if array.ndim != 2 or array.shape[1] < 2 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype} but must be integers, (n, T), "
            "T >= 2"
        )
    words = array.astype(np.intp)
    if np.any(words[:, 0] != START) or np.any(words[:, 1] < 0) or np.any(words[:, 1:] == START):
        raise ValueError(
            f"{name} must start every row with START={START}, nowhere else, and have a word after"
        )
    if words.min() < -1 or np.any((words[:, :-1] < 0) & (words[:, 1:] >= 0)):
        raise ValueError(f"{name} must hold words >= 0 and -1 only after the end of a row")
    return words


def _check_vocabulary(name: str, words: Indices, vocabulary: int) -> None:
    if words.max() >= vocabulary:
        raise ValueError(
            f"{name} holds word {words.max()} but there are {vocabulary}: words are 0 ... V - 1"
        )


def _checked_pixels(name: str, value: npt.ArrayLike) -> Array:
    array = doubles(name, value)
    if array.ndim != 2 or not array.size or not np.all((array == 0) | (array == 1)):
        raise ValueError(
            f"{name} has shape {array.shape} but must be (n, d) of 0 and 1: draw or round the "
            "pixels first"
        )
    return array

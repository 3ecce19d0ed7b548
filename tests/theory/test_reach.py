"""Decoders of limited reach: against counts by dictionary, against scipy, and on real data."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.optimize import minimize

from linvae import ARVAESpec, Moments, stability
from linvae.data import load_dataset
from linvae.theory.reach import (
    block_mask,
    causal_neighbours,
    frequent_classes,
    logistic_predictions,
    ngram_predictions,
    token_blocks,
)
from linvae.theory.sequences import residual_threshold, token_threshold


def random_tokens(number: int, n: int = 40, vocabulary: int = 7) -> np.ndarray:
    """START, words that follow each other in runs, END, then -1."""
    rng = np.random.default_rng(number)
    tokens = np.full((n, 9), -1)
    for row in tokens:
        length = int(rng.integers(0, 8))
        row[0], row[length + 1] = 0, 1
        row[1 : length + 1] = rng.integers(2, vocabulary, size=length)
        row[2 : length + 1 : 2] = row[1:length:2][: len(row[2 : length + 1 : 2])]
    return tokens


def by_dictionary(training, tokens, order, classes, smoothed):
    """Witten-Bell, or frequencies of the longest context seen, word by word; merged at the end."""
    vocabulary, K = len(classes), classes.max() + 1
    follows = defaultdict(Counter)
    for row in training:
        words = [0] * order + [w for w in row if w >= 0]
        for t in range(order + 1, len(words)):
            for j in range(order + 1):
                follows[tuple(words[t - j : t])][words[t]] += 1
    base = np.array([1 / K / np.sum(classes == k) for k in classes])  # uniform over classes
    found = []
    for row in tokens:
        words = [0] * order + [w for w in row if w >= 0]
        for t in range(order + 1, len(words)):
            p = base
            for j in range(order + 1):
                seen = follows.get(tuple(words[t - j : t]))
                if seen is None:
                    break
                counts = np.array([seen[w] for w in range(vocabulary)], dtype=float)
                kinds = len(seen) if smoothed else 0
                p = (counts + kinds * p) / (counts.sum() + kinds)
            found.append([p[classes == k].sum() for k in range(K)])
    return np.array(found)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 12])
@pytest.mark.parametrize("merged", [False, True])
def test_ngrams_against_dictionaries(order, merged):
    training, new = random_tokens(0), random_tokens(1)
    classes = np.array([3, 0, 1, 2, 3, 3, 3]) if merged else np.arange(7)
    found = ngram_predictions(training, new, order=order, classes=classes)
    expected = by_dictionary(training, new, order, classes, smoothed=True)
    np.testing.assert_allclose(found.predicted, expected, rtol=1e-12)
    own = ngram_predictions(training, training, order=order, classes=classes, smoothed=False)
    expected = by_dictionary(training, training, order, classes, smoothed=False)
    np.testing.assert_allclose(own.predicted, expected, rtol=1e-12)
    lengths = (new >= 0).sum(axis=1) - 1
    assert found.sequence.tolist() == np.repeat(np.arange(len(new)), lengths).tolist()
    assert found.observed.tolist() == [classes[w] for row in new for w in row[1:] if w >= 0]


def test_frequent_classes_keep_the_frequent_words_apart():
    tokens = np.array([[0, 5, 5, 3, 5, 1], [0, 3, 4, 1, -1, -1]])
    assert frequent_classes(tokens, 7, 4).tolist() == [3, 0, 3, 2, 3, 1, 3]
    assert frequent_classes(tokens, 7, 2).tolist() == [1, 0, 1, 1, 1, 1, 1]


def test_decoder_that_knows_its_sentences_by_heart_has_critical_beta_1():
    """Frequencies at full reach are the true conditionals of the sample: real equality (1)."""
    tokens = random_tokens(2, n=300)
    p = ngram_predictions(tokens, tokens, order=9, classes=np.arange(7), smoothed=False)
    found = token_threshold(p)
    assert found.critical_beta == pytest.approx(1, abs=1e-10)
    weak = ngram_predictions(tokens, tokens, order=0, classes=np.arange(7), smoothed=False)
    assert token_threshold(weak).critical_beta[0] > 1.3


# --- pixels -----------------------------------------------------------------------------------


def test_causal_neighbours_are_a_masked_square():
    near = causal_neighbours(4, 5, 1)
    assert near[0].tolist() == []
    assert near[7].tolist() == [1, 2, 3, 6]  # row 1, column 2
    assert near[5].tolist() == [0, 1]
    assert [len(x) for x in causal_neighbours(6, 6, 0)] == [0] * 36
    assert max(len(x) for x in causal_neighbours(9, 9, 3)) == 2 * 3 * 4
    seen = causal_neighbours(3, 3, 5)
    assert [x.tolist() for x in seen] == [list(range(t)) for t in range(9)]


def test_logistic_weights_against_a_general_minimiser():
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(300, 4)).cumsum(axis=1) > 0).astype(float)
    seen = [[], [0], [0, 1], [2]]
    found = logistic_predictions(y[:200], y[200:], seen, ridge=0.3)
    for t, index in enumerate(seen):
        X, new = (np.column_stack([np.ones(len(x)), x[:, index]]) for x in (y[:200], y[200:]))

        def loss(w, X=X, t=t):
            logits = X @ w
            return np.sum(np.logaddexp(0, logits) - y[:200, t] * logits) + 0.15 * w @ w

        w = minimize(loss, np.zeros(len(index) + 1), method="BFGS", options={"gtol": 1e-7}).x
        np.testing.assert_allclose(found[:, t], 1 / (1 + np.exp(-new @ w)), atol=1e-6)


def test_logistic_predictions_of_constant_and_separable_pixels_are_finite():
    y = np.tile([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]], (500, 1))
    y[:, 3] = y[:, 0]
    p = logistic_predictions(y, y, [[], [], [], [0]])
    assert 0 < p[:, 2].max() < 0.01
    assert 0.99 < p[:, 1].min() < 1
    assert np.abs(p[:, 3] - y[:, 3]).max() < 0.05
    without = logistic_predictions(y, y, [[]] * 4)[:, 0]
    assert without == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_pixels_drawn_from_the_decoder_are_at_the_edge_and_less_reach_is_above(seed):
    """A chain of pixels: reach 1 is the true conditional, its sample ratio within the noise."""
    rng = np.random.default_rng(seed)
    n, d = 3000, 20
    y = np.zeros((n, d))
    for t in range(d):
        p = 0.5 if t == 0 else 0.15 + 0.7 * y[:, t - 1]
        y[:, t] = rng.random(n) < p
    one_before = [[] if t == 0 else [t - 1] for t in range(d)]
    for neighbours, alive in ((one_before, False), ([[]] * d, True)):
        p = logistic_predictions(y[: n // 2], y[n // 2 :], neighbours)
        x = residual_threshold(y[n // 2 :] - p, p * (1 - p))
        assert (x.critical_beta[0] > 2 * x.noise_edge) == alive
        low = x.held_out_critical_beta - 1 - 4 * x.held_out_standard_error
        assert (low > 0) == alive


def test_real_pixels_leave_less_to_a_latent_the_further_the_decoder_sees():
    try:
        images = load_dataset("mnist", split="test").target[:3000]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    y = (images.reshape(-1, 28, 28)[:, 2:26:2, 2:26:2] > 0.5).reshape(-1, 144).astype(float)
    values = []
    for reach in (0, 1, 2):
        p = logistic_predictions(y[:1500], y[1500:], causal_neighbours(12, 12, reach))
        values.append(residual_threshold(y[1500:] - p, p * (1 - p)))
    held_out = [x.held_out_critical_beta for x in values]
    errors = [x.held_out_standard_error for x in values]
    assert held_out[0] > held_out[1] + 4 * errors[0]
    assert held_out[1] > held_out[2] > 1 + 2 * errors[2]


def test_real_sentences_leave_less_to_a_latent_the_further_the_decoder_sees():
    from analysis.decoder_reach import read_text

    try:
        training, new = read_text("short_yelp", None)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    given, asked = training.padded(), new.padded()
    classes = frequent_classes(given, len(training.vocabulary), 30)
    found = [
        token_threshold(ngram_predictions(given, asked, order=order, classes=classes))
        for order in (0, 1, 2)
    ]
    held_out = [x.held_out_critical_beta for x in found]
    assert held_out[0] > held_out[1] + 4 * found[0].held_out_standard_error
    assert 1.1 < held_out[2] < held_out[1] + found[1].held_out_standard_error


def test_newton_is_held_where_its_steps_would_leave_for_good():
    """Separable pixels and next to no prior: undamped, these weights run away."""
    rng = np.random.default_rng(1634)
    y = (rng.random((40, 7)) < 0.9).astype(float)
    y = np.column_stack([y, y @ rng.normal(size=7) > 0])
    p = logistic_predictions(y, y, [[]] * 7 + [range(7)], ridge=1e-6)[:, 7]
    X = np.column_stack([np.ones(40), y[:, :7]])
    # X'(y - p) = ridge w at the optimum, of weights below 100
    assert np.abs(X.T @ (y[:, 7] - p)).max() < 1e-4


# --- Gaussian representation ------------------------------------------------------------------


def test_token_blocks_are_embeddings_in_place():
    tokens = np.array([[0, 3, 2, 1], [0, 2, 1, -1]])
    E = np.arange(8.0).reshape(4, 2)
    expected = [[6, 7, 4, 5, 2, 3], [4, 5, 2, 3, 0, 0]]
    np.testing.assert_array_equal(token_blocks(tokens, E, 3), expected)
    np.testing.assert_array_equal(token_blocks(tokens, E, 1), [[6, 7], [4, 5]])


@pytest.mark.parametrize("order", [0, 1, 2, None])
def test_blocks_in_the_gaussian_theory(order):
    """Residual covariance of regressions on whole blocks, by least squares on samples."""
    tokens = random_tokens(4, n=200)
    y = token_blocks(tokens, np.random.default_rng(0).normal(size=(7, 2)), 5)
    moments = Moments.from_data(y)
    mask = block_mask(5, 2, order)
    found = stability(ARVAESpec(1, order=mask, decoder_variance=0.3), moments).critical_beta
    centred = y - y.mean(axis=0)
    residuals = centred.copy()
    for t in range(5):
        first = 0 if order is None else max(0, t - order)
        seen, now = centred[:, 2 * first : 2 * t], slice(2 * t, 2 * t + 2)
        if seen.shape[1]:
            residuals[:, now] -= seen @ np.linalg.lstsq(seen, centred[:, now], rcond=None)[0]
    expected = np.linalg.eigvalsh(residuals.T @ residuals / len(y))[::-1] / 0.3
    assert found == pytest.approx(expected, rel=1e-9)
    assert not mask[:2].any()
    assert mask.sum() == 4 * sum(t if order is None else min(t, order) for t in range(5))


# --- errors -----------------------------------------------------------------------------------

TOKENS = np.array([[0, 2, 1], [0, 1, -1]])
Y = np.eye(3)
REFUSED = {
    "floats": (lambda: token_blocks(TOKENS * 1.0, Y, 1), "tokens has shape .* float64"),
    "short": (lambda: token_blocks(TOKENS[:, :1], Y, 1), r"tokens has shape .* \(n, T\), T >= 2"),
    "start": (lambda: token_blocks(TOKENS[:, 1:], Y, 1), "must start every row with START=0"),
    "twice": (lambda: token_blocks([[0, 0, 1]], Y, 1), "START=0, nowhere else"),
    "empty": (lambda: token_blocks([[0, -1, -1]], Y, 1), "and have a word after"),
    "minus": (lambda: token_blocks([[0, 1, -2]], Y, 1), "must hold words >= 0 and -1 only after"),
    "gap": (
        lambda: token_blocks(np.array([[0, 2, -1, 2]]), Y, 1),
        "-1 only after the end of a row",
    ),
    "word": (lambda: token_blocks(TOKENS, Y[:2], 1), "tokens holds word 2 but there are 2"),
    "length": (lambda: token_blocks(TOKENS, Y, 3), "length=3 must be from 1 to T - 1=2"),
    "mask": (lambda: block_mask(0, 2, None), "length=0 must be an integer >= 1 in block_mask"),
    "width": (lambda: block_mask(2, 0, None), "width=0 must be an integer >= 1 in block_mask"),
    "height": (lambda: causal_neighbours(0, 2, 1), "height=0 must be an integer >= 1 in causal_"),
    "columns": (lambda: causal_neighbours(2, 0, 1), "width=0 must be an integer >= 1 in causal_"),
    "classes": (lambda: frequent_classes(TOKENS, 3, 3), "n_classes=3 must be from 2 to"),
    "order": (
        lambda: ngram_predictions(TOKENS, TOKENS, order=-1, classes=[0, 1, 2]),
        "order=-1 must be an integer >= 0",
    ),
    "new-word": (
        lambda: ngram_predictions(TOKENS[1:], TOKENS, order=0, classes=[0, 1, 2], smoothed=False),
        "probability 0 to 1 observed tokens",
    ),
    "gray": (lambda: logistic_predictions(Y / 2, Y, [[]] * 3), "training .* of 0 and 1: draw or"),
    "late": (
        lambda: logistic_predictions(Y, Y, [[], [1], []]),
        r"neighbours\[1\] holds pixels that do not come before 1: \[1\]",
    ),
    "number": (lambda: logistic_predictions(Y, Y, [[]]), "neighbours has 1 entries but training"),
    "ridge": (lambda: logistic_predictions(Y, Y, [[]] * 3, ridge=0), "ridge=0 must be > 0"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_the_reason(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call()


def test_words_that_are_never_met_come_last_in_their_order():
    tokens = np.array([[0, 5, 5, 3, 5, 1], [0, 3, 4, 1, -1, -1]])
    assert frequent_classes(tokens, 9, 7).tolist() == [6, 0, 4, 2, 3, 1, 5, 6, 6]


@pytest.mark.parametrize("order", [1, 2])
def test_contexts_after_the_last_of_training(order):
    """Words that are new, and larger than all."""
    training, new = random_tokens(0, vocabulary=5), random_tokens(1, vocabulary=8)
    found = ngram_predictions(training, new, order=order, classes=np.arange(8))
    expected = by_dictionary(training, new, order, np.arange(8), smoothed=True)
    np.testing.assert_allclose(found.predicted, expected, rtol=1e-12)

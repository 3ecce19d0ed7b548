"""Decoders of tokens: thresholds against the exact objective of latents over all sequences."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from scipy.optimize import minimize

from linvae import Moments, VAESpec, stability
from linvae.theory.sequences import (
    TokenPredictions,
    burst_threshold,
    residual_threshold,
    token_threshold,
)

F64 = torch.float64
NODES, QUADRATURE = np.polynomial.hermite_e.hermegauss(40)
QUADRATURE = QUADRATURE / QUADRATURE.sum()


@dataclass(frozen=True)
class Law:
    """All sequences of T of V classes, each as often as `counts` (L,) says."""

    sequences: np.ndarray  # (L, T)
    counts: np.ndarray
    V: int

    @property
    def weights(self) -> np.ndarray:
        return self.counts / self.counts.sum()

    def tokens(self, predicted: np.ndarray) -> TokenPredictions:
        """Samples that hold every sequence as often as its count; predicted (L, T, V)."""
        chosen = np.repeat(np.arange(len(self.counts)), self.counts)
        n, T = len(chosen), self.sequences.shape[1]
        return TokenPredictions(
            np.repeat(np.arange(n), T),
            self.sequences[chosen].ravel(),
            predicted[chosen].reshape(n * T, self.V),
        )


def random_law(number: int) -> Law:
    rng = np.random.default_rng(number)
    V, T = int(rng.integers(2, 4)), int(rng.integers(2, 5))
    sequences = np.array(list(itertools.product(range(V), repeat=T)))
    return Law(sequences, rng.integers(1, 12, size=len(sequences)), V)


def contexts(law: Law, reach: int | None, by_place: bool) -> np.ndarray:
    """Number of the context of every token, (L, T): the last `reach` classes, None = all."""
    names: dict[tuple, int] = {}
    found = np.empty(law.sequences.shape, dtype=int)
    for i, t in np.ndindex(found.shape):
        first = 0 if reach is None else max(0, t - reach)
        # at the start the decoder sees that there is nothing before
        missing = 0 if reach is None else max(0, reach - t)
        name = (t if by_place else None, missing, *law.sequences[i, first:t])
        found[i, t] = names.setdefault(name, len(names))
    return found


def frequencies(law: Law, context: np.ndarray) -> np.ndarray:
    """The best predictions from the contexts, (L, T, V): p_t at the optimum without a latent."""
    table = np.zeros((context.max() + 1, law.V))
    np.add.at(table, (context, law.sequences), law.weights[:, None])
    return (table / table.sum(axis=1, keepdims=True))[context]


def exact_objective(law: Law, a: np.ndarray, b: np.ndarray, beta: float, eta2: float):
    """Of (logits of contexts `a`, pulls of contexts `b`, encoder means and log variances)."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(law.sequences), law.V).to(F64)
    weights = torch.tensor(law.weights, dtype=F64)
    sizes = [(a.max() + 1) * law.V, (b.max() + 1) * law.V, len(a), len(a)]
    nodes, quadrature = torch.tensor(NODES), torch.tensor(QUADRATURE)

    def value(vector: torch.Tensor) -> torch.Tensor:
        logits, pulls, mean, log_variance = torch.split(vector, sizes)
        logits = logits.reshape(-1, law.V)[torch.tensor(a)]
        pulls = pulls.reshape(-1, law.V)[torch.tensor(b)]
        z = mean + torch.exp(log_variance / 2) * nodes[:, None]  # (nodes, L)
        with_z = logits + z[:, :, None, None] * pulls
        nats = -(torch.log_softmax(with_z, -1) * one_hot).sum((-1, -2))
        rate = (mean**2 + log_variance.exp()) / eta2 - 1 - log_variance + math.log(eta2)
        return (weights * (quadrature @ nats + beta * rate / 2)).sum()

    return value, sizes


def collapsed(law: Law, a: np.ndarray, sizes: list[int], eta2: float) -> torch.Tensor:
    vector = torch.zeros(sum(sizes), dtype=F64)
    logits = np.zeros((a.max() + 1, law.V))
    logits[a.ravel()] = np.log(frequencies(law, a)).reshape(-1, law.V)
    vector[: sizes[0]] = torch.tensor(logits.ravel())
    vector[-sizes[3] :] = math.log(eta2)
    return vector


def lowest_curvature(law: Law, a: np.ndarray, b: np.ndarray, beta: float, eta2: float) -> float:
    value, sizes = exact_objective(law, a, b, beta, eta2)
    point = collapsed(law, a, sizes, eta2)
    return float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(value, point))[0])


# reach of the decoder, of the latent's pulls, and whether the pulls know the place
FAMILIES = {
    "unigram": (0, 0, False),
    "bigram": (1, 1, False),
    "bigram-pulls-alike": (1, 0, False),
    "all-seen-pulls-alike": (None, 0, False),
    "all-seen-all-pulls": (None, None, True),
    "unigram-pulls-by-place": (0, 0, True),  # expected scores that are not 0
    "unigram-pulls-by-context": (0, 1, False),
}


def features(context: np.ndarray) -> np.ndarray:
    """One indicator per context, (L, T, contexts)."""
    return np.eye(context.max() + 1)[context]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_hessian_changes_sign_at_the_threshold(family, number):
    """Curvature of the exact objective over logits, pulls, encoder means and variances."""
    reach, pull_reach, by_place = family
    law = random_law(number)
    a, b = contexts(law, reach, reach is None), contexts(law, pull_reach, by_place)
    chosen = np.repeat(np.arange(len(a)), law.counts)
    phi = features(b)[chosen].reshape(-1, b.max() + 1)
    found = token_threshold(law.tokens(frequencies(law, a)), context=phi, centered=False)
    critical, eta2 = found.critical_beta[0], 0.5 + number / 4
    assert lowest_curvature(law, a, b, 1.02 * critical, eta2) > -1e-9
    assert lowest_curvature(law, a, b, 0.98 * critical, eta2) < -1e-6
    is_finer = reach == 0 and (by_place or pull_reach == 1)
    if not is_finer:  # the decoder can move along every pull without z: no expected score
        assert found.offset < 1e-20
        centred = token_threshold(law.tokens(frequencies(law, a)), context=phi)
        assert centred.critical_beta == pytest.approx(found.critical_beta, rel=1e-12)
    else:
        assert 1e-4 < found.offset < critical
        assert found.offset <= found.critical_beta[0] * (1 + 1e-12)


@pytest.mark.parametrize("number", range(4))
def test_descent_leaves_the_collapsed_point_below_the_threshold_only(number):
    """L-BFGS from small random perturbations."""
    law = random_law(number)
    a = contexts(law, 0, False)
    critical = token_threshold(law.tokens(frequencies(law, a))).critical_beta[0]
    for factor, leaves in ((0.98, True), (1.02, False)):
        value, sizes = exact_objective(law, a, a, factor * critical, 1.0)
        point = collapsed(law, a, sizes, 1.0)
        end = min(_descend(value, point, seed) for seed in range(8))
        gain = float(value(point)) - end
        assert (gain > 1e-7) == leaves, gain
        assert leaves or gain < 1e-10


def _descend(value, point: torch.Tensor, seed: int) -> float:
    start = point.numpy() + 1e-3 * np.random.default_rng(seed).normal(size=len(point))

    def with_gradient(x):
        vector = torch.tensor(x, dtype=F64, requires_grad=True)
        found = value(vector)
        (gradient,) = torch.autograd.grad(found, vector)
        return found.item(), gradient.numpy()

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    return minimize(with_gradient, start, jac=True, method="L-BFGS-B", options=options).fun


@pytest.mark.parametrize("number", range(10))
def test_true_conditionals_have_critical_beta_1_along_every_direction(number):
    """Martingale differences; pulls alike, by the last class, by everything, and embedded."""
    law = random_law(number)
    rng = np.random.default_rng(number)
    tokens = law.tokens(frequencies(law, contexts(law, None, True)))
    chosen = np.repeat(np.arange(len(law.counts)), law.counts)
    by_last = features(contexts(law, 1, False))[chosen].reshape(len(tokens.observed), -1)
    seen = features(contexts(law, None, True))[chosen].reshape(len(tokens.observed), -1)
    E = rng.normal(size=(law.V, 2))
    for context, embedding in ((None, None), (by_last, None), (None, E), (seen, E)):
        found = token_threshold(tokens, context=context, embedding=embedding)
        assert found.critical_beta == pytest.approx(1, abs=1e-10)
        assert found.offset < 1e-20


@pytest.mark.parametrize("number", [1, 2])
def test_true_conditionals_collapse_globally_from_beta_1(number):
    """No start of a latent model with all pulls gets below the entropy at beta = 1; 0.9 does."""
    law = random_law(number)
    a = contexts(law, None, True)
    entropy = -float(law.weights @ np.log(law.weights))
    gains = []
    for beta in (1.0, 0.9):
        value, sizes = exact_objective(law, a, a, beta, 1.0)
        point = collapsed(law, a, sizes, 1.0)
        assert float(value(point)) == pytest.approx(entropy, rel=1e-12)
        rough = point + torch.randn(len(point), generator=torch.Generator().manual_seed(number))
        gains.append(entropy - _descend(value, rough, number))
    assert gains[0] < 1e-7
    assert gains[1] > 1e-4


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_pull_at_one_token_has_ratio_1_if_predictions_are_right_given_what_is_seen(number, reach):
    law = random_law(number)
    T = law.sequences.shape[1]
    tokens = law.tokens(frequencies(law, contexts(law, reach, True)))
    places = np.tile(np.eye(T), (law.counts.sum(), 1))
    for place in range(T):
        single = token_threshold(tokens, context=places[:, [place]]).critical_beta
        assert single == pytest.approx(1, abs=1e-10)
    every = token_threshold(tokens, context=places).critical_beta
    assert len(every) == T * (law.V - 1)
    assert every[0] >= 1 - 1e-10
    assert every[0] > 1.001 or reach >= T - 1


# --- exact special cases ----------------------------------------------------------------------


def test_unigram_is_the_multinomial_of_counts():
    """Also where lengths differ: the score is counts - n p."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, size=60)
    sequence = np.repeat(np.arange(60), lengths)
    observed = rng.integers(0, 4, size=60)[sequence]  # one class in bursts
    swap = rng.random(len(observed)) < 0.5
    observed = np.where(swap, rng.integers(0, 4, size=len(observed)), observed)
    counts = np.zeros((60, 4))
    np.add.at(counts, (sequence, observed), 1)
    p = counts.sum(axis=0) / counts.sum()
    predicted = np.tile(p, (len(observed), 1))
    found = token_threshold(TokenPredictions(sequence, observed, predicted))
    spec = VAESpec(1, likelihood="multinomial")
    # the encoder of that model sees all counts; it needs S = counts - n p only
    expected = stability(spec, Moments.from_data(counts))
    assert found.critical_beta == pytest.approx(expected.critical_beta[:3], rel=1e-9)
    pulls, others = found.directions[0], expected.directions[0]
    pulls, others = (x - x @ p for x in (pulls, others))  # a pull on all classes is nothing
    assert abs(pulls @ others) == pytest.approx(np.linalg.norm(pulls) * np.linalg.norm(others))


@pytest.mark.parametrize("kind", ["two-lengths", "geometric"])
def test_length_of_independent_words(kind):
    """END has Var(n)/(E n (E n - 1)), words 1. Exact population: all sequences of few words."""
    lengths = {2: 0.5, 4: 0.5} if kind == "two-lengths" else {k: 0.5**k for k in range(1, 12)}
    word = np.array([2, 1]) / 3  # of classes 1 and 2; END is class 0
    rows, weights = [], []
    for n, share in lengths.items():
        for words in itertools.product((0, 1), repeat=n - 1):
            rows.append([*(w + 1 for w in words), 0])
            weights.append(share * np.prod(word[list(words)]))
    weights = np.array(weights) / sum(weights)
    n = np.array([len(row) for row in rows])
    mean, variance = weights @ n, weights @ n**2 - (weights @ n) ** 2
    p = np.array([1 / mean, *(word * (1 - 1 / mean))])
    # scores of weighted sequences: sqrt(n_rows weight) times each, centred already
    counts = np.array([[row.count(k) for k in range(3)] for row in rows])
    root = np.sqrt(len(rows) * weights)[:, None]
    fisher = (root**2 * n[:, None])[:, :, None] * (np.diag(p) - np.outer(p, p))
    found = residual_threshold(root * (counts - n[:, None] * p), fisher, centered=False)
    of_end = variance / (mean * (mean - 1))
    assert sorted(found.critical_beta) == pytest.approx(sorted([1.0, of_end]), rel=1e-9)
    assert of_end == pytest.approx(1 / 6 if kind == "two-lengths" else 1, abs=0.03)


def test_binary_pixels_without_reach_are_the_correlation_matrix():
    rng = np.random.default_rng(3)
    y = (rng.normal(size=(200, 6)) + rng.normal(size=(200, 1)) > 0.3).astype(float)
    p = np.tile(y.mean(axis=0), (len(y), 1))
    found = residual_threshold(y - p, p * (1 - p))
    expected = stability(VAESpec(1, likelihood="bernoulli"), Moments.from_data(y))
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-10)
    assert found.critical_beta[0] == pytest.approx(np.linalg.eigvalsh(np.corrcoef(y.T))[-1])
    full = np.einsum("nd,de->nde", p * (1 - p), np.eye(6))
    as_matrices = residual_threshold(y - p, full)
    assert as_matrices.critical_beta == pytest.approx(found.critical_beta, rel=1e-12)
    assert as_matrices.held_out_critical_beta == pytest.approx(found.held_out_critical_beta)
    one_for_all = residual_threshold(y - p, (p * (1 - p))[:1])
    assert one_for_all.critical_beta == pytest.approx(found.critical_beta, rel=1e-12)


@pytest.mark.parametrize("reach", [0, 1, 2, 3])
@pytest.mark.parametrize("alpha", [(1, 1), (1, 2), (3, 1)])
def test_bursts_against_all_sequences_of_an_urn(alpha, reach):
    """Dirichlet-multinomial counts of all sequences of four, exactly, as whole numbers."""
    T, A = 4, sum(alpha)
    sequences = np.array(list(itertools.product((0, 1), repeat=T)))
    rising = [math.prod(range(k, k + c)) for s in sequences for k, c in _counted(alpha, s)]
    law = Law(sequences, np.prod(np.reshape(rising, (-1, 2)), axis=1), 2)
    predicted = np.empty((len(sequences), T, 2))
    for i, t in np.ndindex(len(sequences), T):
        seen = sequences[i, max(0, t - reach) : t]
        predicted[i, t] = (np.array(alpha) + np.bincount(seen, minlength=2)) / (A + len(seen))
    found = token_threshold(law.tokens(predicted))
    expected = burst_threshold(length=T, concentration=A, reach=reach)
    assert found.critical_beta == pytest.approx([expected], rel=1e-10)
    if reach == 0:
        assert expected == pytest.approx(1 + (T - 1) / (1 + A))
    if reach == 3:
        assert expected == pytest.approx(1, abs=1e-12)


def _counted(alpha, sequence):
    return zip(alpha, np.bincount(sequence, minlength=2).tolist(), strict=True)


def test_bursts_far_from_both_ends():
    """T >> m >> A: about A T/m^2; and a window that is all evidence overcorrects."""
    assert burst_threshold(length=10**6, concentration=1, reach=100) == pytest.approx(
        1e6 / 100**2, rel=0.03
    )
    assert burst_threshold(length=10, concentration=2.0, reach=7) < 0.99


# --- finite samples ---------------------------------------------------------------------------


def test_noise_edge_and_held_out_value_of_well_predicted_noise():
    """True ratios 1: the sample is at the edge, the held-out value at 1 within its error."""
    rng = np.random.default_rng(5)
    n, d, errors, tops = 2000, 120, [], []
    for seed in range(8):
        p = rng.uniform(0.2, 0.8, size=(n, d))
        y = (rng.random((n, d)) < p).astype(float)
        found = residual_threshold(y - p, p * (1 - p), seed=seed)
        errors.append((found.held_out_critical_beta - 1) / found.held_out_standard_error)
        tops.append(found.critical_beta[0] / found.noise_edge)
    assert np.mean(tops) == pytest.approx(1, abs=0.02)
    assert abs(np.mean(errors)) < 4 / math.sqrt(8)
    assert 0.4 < np.std(errors) < 2


def test_held_out_value_by_hand():
    rng = np.random.default_rng(6)
    S = rng.normal(size=(50, 3)) * [1, 2, 0.5]
    F = rng.uniform(0.5, 2, size=(50, 3))
    found = residual_threshold(S, F, seed=9)
    one, other = np.array_split(np.random.default_rng(9).permutation(50), 2)
    values, variances = [], []
    for a, b in ((one, other), (other, one)):
        c = eigh(np.cov(S[a].T, bias=True), np.diag(F[a].mean(axis=0)))[1][:, -1]
        information = F[b] @ c**2
        values.append(np.var(S[b] @ c) / information.mean())
        spread = (S[b] @ c - np.mean(S[b] @ c)) ** 2 - values[-1] * information
        variances.append(np.var(spread) / information.mean() ** 2 / len(b))
    assert found.held_out_critical_beta == pytest.approx(np.mean(values), rel=1e-10)
    assert found.held_out_standard_error == pytest.approx(np.sqrt(sum(variances)) / 2, rel=1e-10)
    rows = found.to_rows()
    assert [row["direction"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["critical_beta"] for row in rows] == found.critical_beta.tolist()
    assert rows[0]["held_out_critical_beta"] == found.held_out_critical_beta


def test_information_of_tokens_along_a_direction_is_that_of_the_matrices():
    """token_threshold against per-sequence matrices formed token by token."""
    rng = np.random.default_rng(7)
    sequence = np.sort(rng.integers(0, 20, size=200))
    sequence[-1] = 19
    p = rng.dirichlet(np.ones(4), size=200)
    observed = np.array([rng.choice(4, p=row) for row in p])
    E, phi = rng.normal(size=(4, 2)), rng.normal(size=(200, 3))
    scores, fisher = np.zeros((20, 6)), np.zeros((20, 6, 6))
    for t in range(200):
        design = np.kron(phi[t], E)  # (4, 6): logits of c
        scores[sequence[t]] += design.T @ (np.eye(4)[observed[t]] - p[t])
        fisher[sequence[t]] += design.T @ (np.diag(p[t]) - np.outer(p[t], p[t])) @ design
    tokens = TokenPredictions(sequence, observed, p)
    found = token_threshold(tokens, embedding=E, context=phi, seed=1)
    expected = residual_threshold(scores, fisher, seed=1)
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-9)
    assert found.offset == pytest.approx(expected.offset, rel=1e-9)
    assert found.held_out_critical_beta == pytest.approx(expected.held_out_critical_beta, rel=1e-9)
    assert found.held_out_standard_error == pytest.approx(
        expected.held_out_standard_error, rel=1e-9
    )
    nats = -np.log(p[np.arange(200), observed]).sum() / 20
    assert tokens.nats == pytest.approx(nats, rel=1e-12)


def test_a_pull_on_all_classes_is_no_direction_however_many_tokens():
    rng = np.random.default_rng(8)
    p = rng.dirichlet(np.ones(30), size=20_000)
    off = p * (1 + rng.uniform(-5e-5, 5e-5, size=(20_000, 1)))  # sums as of single precision
    tokens = TokenPredictions(np.repeat(np.arange(500), 40), rng.integers(0, 30, 20_000), off)
    assert len(token_threshold(tokens).critical_beta) == 29


def test_offset_is_what_expected_scores_add():
    """E[S] F^-1 E[S]; along one direction the difference of the two ratios."""
    rng = np.random.default_rng(10)
    S, F = rng.normal([0.3, 0, 1], size=(200, 3)), rng.uniform(0.5, 2, size=(200, 3))
    mean, information = S.mean(axis=0), F.mean(axis=0)
    assert residual_threshold(S, F).offset == pytest.approx(np.sum(mean**2 / information))
    one, raw = (residual_threshold(S[:, 2:], F[:, 2:], centered=c) for c in (True, False))
    assert raw.critical_beta - one.critical_beta == pytest.approx([one.offset], rel=1e-10)


def test_scores_without_information_are_unstable_at_every_beta():
    S = np.random.default_rng(9).normal(size=(10, 2))
    assert residual_threshold(S, [[1.0, 0.0]]).critical_beta[0] == np.inf
    assert math.isnan(residual_threshold(S[:3], [[1.0, 1.0]]).held_out_critical_beta)


# --- errors -----------------------------------------------------------------------------------

ONES = np.ones((3, 2))
P = np.full((3, 2), 0.5)
GOOD = TokenPredictions(np.array([0, 0, 1]), np.array([0, 1, 1]), P)
REFUSED = {
    "scores": (lambda: residual_threshold([1.0, 2.0], ONES), r"scores has shape \(2,\)"),
    "fisher": (lambda: residual_threshold(ONES, np.ones((3, 3))), r"fisher has shape \(3, 3\)"),
    "rows": (lambda: residual_threshold(ONES, ONES[:2]), r"fisher has shape \(2, 2\) but scores"),
    "nan": (lambda: residual_threshold(ONES * np.nan, ONES), "scores contains NaN"),
    "certain": (lambda: residual_threshold(ONES, 0 * ONES), "nothing is left to explain"),
    "empty": (lambda: residual_threshold(np.ones((5, 0)), np.ones((1, 0))), r"scores .* q >= 1"),
    "single": (lambda: residual_threshold(np.ones((1, 3)), np.ones((1, 3))), r"scores .* n >= 2"),
    "lengths": (
        lambda: TokenPredictions([0, 1], [0], P[:2]),
        r"observed \(1,\) and sequence \(2,\)",
    ),
    "shapes": (lambda: TokenPredictions([0, 1], [0, 1], P), r"must be \(N, V\), \(N,\) and"),
    "integers": (lambda: TokenPredictions([0.0], [0], P[:1]), "sequence has shape .* float64"),
    "sums": (lambda: TokenPredictions([0], [0], [[0.5, 0.6]]), "sums to 1.1, lowest entry 0.5"),
    "one row": (lambda: TokenPredictions([0, 1], [0, 1], [[0.5, 0.5], [0.6, 0.6]]), "row 1 .* 1.2"),
    "low row": (lambda: TokenPredictions([0, 1], [0, 1], [[0.5, 0.5], [0.2, 0.1]]), "row 1 .* 0.3"),
    "undefined": (lambda: TokenPredictions([0], [0], [[np.nan, 1.0]]), "row 0 that sums to nan"),
    "logits": (lambda: TokenPredictions([0], [0], [[2.0, -1.0]]), "lowest entry -1"),
    "negative": (lambda: TokenPredictions([-1, 0], [0, 1], P[:2]), "sequence .* integers >= 0"),
    "class": (
        lambda: TokenPredictions([0, 0], [0, 2], P[:2]),
        "observed has class 2 but predicted has 2",
    ),
    "impossible": (
        lambda: TokenPredictions([0, 0], [0, 1], [[0.5, 0.5], [1, 0]]),
        "probability 0 to 1 observed tokens, the first number 1",
    ),
    "embedding": (lambda: token_threshold(GOOD, embedding=np.ones((3, 2))), r"must be \(V, e\)"),
    "no embedding": (lambda: token_threshold(GOOD, embedding=np.ones((2, 0))), r"must be \(V, e\)"),
    "context": (lambda: token_threshold(GOOD, context=np.ones((2, 1))), r"must be \(N, j\), N=3"),
    "one": (lambda: token_threshold(TokenPredictions([0], [0], P[:1])), "needs at least 2"),
    "length": (
        lambda: burst_threshold(length=0, concentration=1, reach=0),
        "length=0 must be an integer >= 1 in burst_threshold",
    ),
    "half": (lambda: burst_threshold(length=2.5, concentration=1, reach=0), "length=2.5 must be"),
    "true": (lambda: burst_threshold(length=True, concentration=1, reach=0), "length=True must be"),
    "reach": (lambda: burst_threshold(length=1, concentration=1, reach=-1), "reach=-1 must be"),
    "A": (lambda: burst_threshold(length=1, concentration=0, reach=1), "concentration=0 must be"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_the_reason(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call()


def test_a_class_that_never_occurs_may_have_any_number():
    """Two sequences, three classes, one of them unseen: in the first place or in the last."""
    p = np.random.default_rng(11).dirichlet(np.ones(3), size=6)
    sequence, observed = np.repeat([0, 1], 3), np.array([0, 1, 1, 0, 0, 1])
    last = token_threshold(TokenPredictions(sequence, observed, p))
    first = token_threshold(TokenPredictions(sequence, observed + 1, np.roll(p, 1, axis=1)))
    assert last.critical_beta == pytest.approx(first.critical_beta, rel=1e-10, abs=1e-12)
    S = np.array([np.sum(np.eye(3)[o] - q, axis=0) for o, q in zip(
        observed.reshape(2, 3), p.reshape(2, 3, 3), strict=True)])  # fmt: skip
    F = (np.diag(p.sum(axis=0)) - p.T @ p) / 2
    assert last.critical_beta[0] == pytest.approx(
        np.linalg.eigvals(np.linalg.pinv(F) @ np.cov(S.T, bias=True)).real.max(), rel=1e-9
    )


def test_one_embedded_number_is_one_direction():
    """A column e: the ratio of scores and information along it."""
    rng = np.random.default_rng(12)
    p, e = rng.dirichlet(np.ones(3), size=40), np.array([[1.0], [0.0], [-2.0]])
    sequence, observed = np.repeat(np.arange(20), 2), rng.integers(3, size=40)
    found = token_threshold(TokenPredictions(sequence, observed, p), embedding=e)
    scores = (e[observed] - p @ e).reshape(20, 2).sum(axis=1)
    information = (p @ e**2 - (p @ e) ** 2).sum() / 20
    assert found.critical_beta == pytest.approx([scores.var() / information], rel=1e-10)


def test_directions_have_unit_length():
    rng = np.random.default_rng(13)
    found = residual_threshold(rng.normal(size=(30, 4)), rng.uniform(0.5, 2.0, size=(30, 4)))
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("centered", [True, False])
def test_four_samples_are_the_fewest_to_hold_two_out(centered):
    S = np.random.default_rng(14).normal(size=(4, 1))
    found = residual_threshold(S, [[1.0]], centered=centered)
    one, other = np.array_split(np.random.default_rng(0).permutation(4), 2)
    expected = [np.var(S[half]) if centered else np.mean(S[half] ** 2) for half in (one, other)]
    assert found.held_out_critical_beta == pytest.approx(np.mean(expected), rel=1e-12)


def test_predictions_in_single_precision_are_worked_on_in_double():
    rng = np.random.default_rng(15)
    p, observed = rng.dirichlet(np.ones(4), size=30).astype(np.float32), rng.integers(4, size=30)
    found, expected = (
        token_threshold(TokenPredictions(np.arange(30) // 3, observed, given)).critical_beta
        for given in (p, p.astype(np.float64))
    )
    np.testing.assert_array_equal(found, expected)

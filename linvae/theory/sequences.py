"""Collapse of autoregressive decoders of tokens and of binary pixels.

    p(y|z) = prod_t Cat(y_t | softmax(a_t(y_<t) + z b_t(y_<t))),   p(z) = N(0, eta^2)

Collapsed, b = 0, the decoder predicts p_t = softmax(a_t): any model, a table of n-grams or an LSTM.
With its residual r_t = onehot(y_t) - p_t and its information F_t = diag p_t - p_t p_t^T,

    log p(y|z) = log p(y) + z S - z^2 J/2 + O(b^3),   S = sum_t b_t.r_t,  J = sum_t b_t.F_t b_t

so decoder weights eps b and encoder mean eps m(y) change the objective by eps^2/2 times
eta^2 E J - 2 E[m S] + beta E[m^2]/eta^2 (an encoder variance other than eta^2 is of order eps^4 and
does not matter), lowest at m = eta^2 S/beta. The collapsed point is unstable along b iff

    beta < E[S^2] / E[J]

and eta drops out; over a linear family b = sum_i c_i b_i it is the largest generalised eigenvalue
of (E[S S^T], E F), S and F of the b_i. Units do not interact at this order. **Overdispersion of the
residuals is what a latent can use**: White's information matrix test asks whether the ratio is 1.

- Expected score. Where the decoder can move along b without z, its optimum has E S = 0 and
  E[S^2] = Var S. Where it cannot, E[S]^2/E J is gained by a constant encoder mean: units that carry
  a price and no information, as in a VAE of data that are not centred. `centered` leaves it out, as
  `Moments` does, and `offset` tells how much it was.
- **A true conditional has critical beta 1 along every b, whatever the data**: the b_t.r_t are then
  martingale differences with conditional variances b_t.F_t b_t, so Var S = E J. And at beta >= 1
  collapse is globally optimal for every encoder, since objective >= -E log p_model(y) >= entropy.
  A strong decoder puts the plain VAE, beta = 1, exactly on the edge.
- A decoder of limited reach that predicts as well as can be from what it sees has E r_t = 0 given
  that. A b that acts at one token only then has ratio 1: critical beta >= 1 again, and correlation
  between residuals, what is left for z, is all that can lift it. Families that cannot single out a
  token may be below 1 (a window of m words overcorrects for bursts: `burst_threshold`).
- **Every family is a part of all directions, so its value is a lower estimate**; so is an encoder
  that cannot form S. Fixed encoder variance v: times eta^2/v.
- Lengths. Residuals of END count as any other's, and nothing is normalised by length. With words
  independent of each other and of the length n, all ratios are 1 but that of END, without memory
  Var(n)/(E n (E n - 1)): 1 for geometric lengths, less for less variable ones. A varying length is
  no direction by itself.

Binary pixels: r_t = y_t - p_t, F diagonal with p_t (1 - p_t), one direction per pixel; without
reach that is the top eigenvalue of the correlation matrix (`stability` with "bernoulli").

| symbol   | argument or field     | shape              | unit                      |
|----------|-----------------------|--------------------|---------------------------|
| S        | scores                | (n, q)             | nats per unit of c        |
| F        | fisher                | (n, q, q) or (n, q)| nats per unit of c^2      |
| y_t, p_t | observed, predicted   | (N,), (N, V)       | -, probabilities          |
| phi_t    | context               | (N, j)             | features of y_<t          |
| E        | embedding             | (V, e)             | -                         |
| c        | directions            | (r, q)             | 1/latent units            |
| beta_i   | critical_beta         | (r,)               | -                         |

Sources: the criterion and its consequences for autoregressive decoders are ours; information
matrix equality: White 1982; the test of one component against a mixture: Lindsay 1983; design
effect 1 + (T - 1) rho at reach 0: Kish 1965.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from linvae.moments import as_array, doubles
from linvae.theory.arguments import in_doubles
from linvae.theory.stability import generalised_eigenvalues

__all__ = [
    "ResidualThreshold",
    "TokenPredictions",
    "burst_threshold",
    "residual_threshold",
    "token_threshold",
]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
SUM_TOLERANCE = 1e-4  # of probabilities that a network computed in single precision


@dataclass(frozen=True, eq=False)
class ResidualThreshold:
    """Thresholds of a collapsed point over a family of q directions, from n samples.

    | field                   | meaning                                                 | shape  |
    |-------------------------|---------------------------------------------------------|--------|
    | critical_beta           | generalised eigenvalues, descending: exact for training | (r,)   |
    |                         | on these very samples; the first is the threshold       |        |
    | directions              | c of each, unit length                                  | (r, q) |
    | offset                  | E[S] F^-1 E[S], the largest part of a ratio that        | scalar |
    |                         | a non-zero expected score makes; not in critical_beta   |        |
    |                         | where centred                                           |        |
    | held_out_critical_beta  | best direction of one half, its ratio on the other,     | scalar |
    |                         | mean of both ways; NaN below 4 samples                  |        |
    | held_out_standard_error | of that value                                           | scalar |
    | n_samples               | n                                                       | int    |

    r <= q leaves out directions that change no prediction. `critical_beta[0]` of few samples is too
    high, see `noise_edge`; the held-out value has no such bias, is a fair lower estimate, and
    loses what the direction of half the samples misses. It asks for predictions that were not
    fitted to these samples: else what one half has too much the other has too little.
    """

    critical_beta: Array
    directions: Array
    offset: float
    held_out_critical_beta: float
    held_out_standard_error: float
    n_samples: int

    @property
    def noise_edge(self) -> float:
        """(1 + sqrt(r/n))^2: what critical_beta[0] comes to where all true ratios are 1.

        For Gaussian scores and large n (Marchenko & Pastur 1967); heavy tails exceed it.
        """
        return (1 + math.sqrt(len(self.critical_beta) / self.n_samples)) ** 2

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per direction; what describes the whole is repeated in each."""
        whole = {
            "offset": self.offset,
            "held_out_critical_beta": self.held_out_critical_beta,
            "held_out_standard_error": self.held_out_standard_error,
            "noise_edge": self.noise_edge,
            "n_samples": self.n_samples,
        }
        return [
            {"direction": i + 1, "critical_beta": float(beta)} | whole
            for i, beta in enumerate(self.critical_beta)
        ]


@dataclass(frozen=True, eq=False)
class TokenPredictions:
    """What a collapsed decoder predicted of N tokens of n sequences.

    `sequence` (N,): the number of the sequence, 0 ... n - 1, that each token belongs to. `observed`
    (N,): its class, 0 ... V - 1. `predicted` (N, V): p_t. Every token that the model pays for is
    one, END too, and a START that is given is not. Raises ValueError where shapes, ranges or sums
    do not fit, and where an observed class was predicted with probability 0.
    """

    sequence: Indices
    observed: Indices
    predicted: Array

    def __post_init__(self) -> None:
        """Arrays of the documented types; validate."""
        for name in ("sequence", "observed"):
            object.__setattr__(self, name, _checked_integers(name, getattr(self, name)))
        p = np.asarray(self.predicted, dtype=np.float64)
        n_tokens = len(self.sequence)
        if p.ndim != 2 or len(p) != n_tokens or self.observed.shape != (n_tokens,) or not p.size:
            raise ValueError(
                f"predicted has shape {p.shape}, observed {self.observed.shape} and sequence "
                f"{self.sequence.shape} but they must be (N, V), (N,) and (N,), N >= 1"
            )
        _check_probabilities(p)
        _check_observed(self.observed, p)
        object.__setattr__(self, "predicted", p / p.sum(axis=1, keepdims=True))

    @property
    def n_sequences(self) -> int:
        """n, sequences without a token at the end not counted."""
        return int(self.sequence.max()) + 1

    @property
    def nats(self) -> float:
        """Mean of -log p_t(y_t) per sequence: the distortion at the collapsed point."""
        p = self.predicted[np.arange(len(self.observed)), self.observed]
        return float(-np.log(p).sum() / self.n_sequences)


@in_doubles
def residual_threshold(
    scores: npt.ArrayLike, fisher: npt.ArrayLike, *, centered: bool = True, seed: int = 0
) -> ResidualThreshold:
    """Critical betas of a collapsed decoder over the directions that `scores` and `fisher` are of.

    `scores` (n, q): S of every sample, the derivative of its log-likelihood by c. `fisher`: its
    information, minus the second derivative, (n, q, q), or (n, q) where the matrices are diagonal;
    a first axis of length 1 is one for all samples. `seed` draws the halves. Binary pixels y with
    predictions p, both (n, d): `residual_threshold(y - p, p * (1 - p))`.

    Raises ValueError for shapes that do not fit, non-finite entries, or no information at all. A
    direction with scores and without information has critical beta infinity. Equality that a test
    checks: 1 along every direction if the predictions are the true conditionals.
    """
    S = _checked_array("scores", scores)
    F = _checked_array("fisher", fisher)
    if S.ndim != 2 or S.shape[0] < 2 or S.shape[1] == 0:
        raise ValueError(f"scores has shape {S.shape} but must be (n, q), n >= 2 and q >= 1")
    n, q = S.shape
    if F.ndim not in (2, 3) or F.shape[0] not in (1, n) or F.shape[1:] != (q,) * (F.ndim - 1):
        raise ValueError(
            f"fisher has shape {F.shape} but scores (n, q) = {S.shape} need (n, q, q), or (n, q) "
            "for diagonal matrices, n or 1 of them"
        )
    return _threshold(S, _GivenInformation(F), centered, seed)


def token_threshold(
    predictions: TokenPredictions,
    *,
    embedding: npt.ArrayLike | None = None,
    context: npt.ArrayLike | None = None,
    centered: bool = True,
    seed: int = 0,
) -> ResidualThreshold:
    """Critical betas over b_t = sum_j phi_tj E c_j, the latent's pull on the logits.

    Without `embedding`, E = I: a pull on every class. With one, (V, e): pulls that are linear in
    it, as in a network with tied or low-rank outputs. Without `context`, phi = 1: the same pull at
    all tokens. With one, (N, j): features of what the decoder sees there, never of y_t itself.
    Directions have j e entries, those of the first feature first.

    Raises ValueError as `residual_threshold`, and where rows do not fit the predictions. Equality
    that a test checks: `stability(VAESpec(1, likelihood="multinomial"), moments of the counts)`
    where p_t are the frequencies of the classes.
    """
    V, n_tokens = predictions.predicted.shape[1], len(predictions.observed)
    E = None if embedding is None else _checked_array("embedding", embedding)
    if E is not None and (E.ndim != 2 or len(E) != V or E.shape[1] == 0):
        raise ValueError(f"embedding has shape {E.shape} but must be (V, e), V={V} classes")
    if E is not None:
        E = E - E.mean(axis=0)  # the same directions: a pull on all classes is nothing
    phi = np.ones((n_tokens, 1)) if context is None else _checked_array("context", context)
    if phi.ndim != 2 or len(phi) != n_tokens or phi.shape[1] == 0:
        raise ValueError(f"context has shape {phi.shape} but must be (N, j), N={n_tokens} tokens")
    if predictions.n_sequences < 2:
        raise ValueError("predictions are of one sequence: a threshold needs at least 2")
    information = _TokenInformation(predictions, E, phi)
    return _threshold(information.scores(), information, centered, seed)


@in_doubles
def burst_threshold(*, length: int, concentration: float, reach: int) -> float:
    """Critical beta of words that come in bursts, for a decoder that sees the last `reach` words.

    Dirichlet-multinomial: T = `length` words, independent given frequencies that every sequence
    draws from a Dirichlet law of concentration A (> 0, the weight of the mean frequencies in words;
    correlation of two words of a sequence rho = 1/(1 + A)). The decoder predicts
    (A p + counts of the last m)/(A + m), exactly right given those; m = `reach`, at most t - 1 of
    them at token t. For directions that do not depend on position or context, all alike,

        beta = [ (sum_t A/(A + m_t))^2 + A sum_t w_t^2 ] / sum_t A (A + m_t + 1)/(A + m_t),
        w_t = 1 - sum over the u that see t of 1/(A + m_u),   m_t = min(m, t - 1)

    Reach 0: 1 + (T - 1) rho. Full reach: 1. Far from both, T >> m >> A, about A T/m^2, then below
    1: a window that is all evidence overcorrects. Raises ValueError outside the ranges.
    """
    T, m = _checked_count("length", length, 1), _checked_count("reach", reach, 0)
    A = concentration
    if isinstance(A, (bool, str)) or not (math.isfinite(A) and A > 0):
        raise ValueError(f"concentration={A!r} must be finite and > 0 in burst_threshold")
    seen = np.minimum(m, np.arange(T))
    pulls = np.cumsum(1 / (A + seen))
    until = np.minimum(np.arange(T) + m, T - 1)
    weights = 1 - (pulls[until] - pulls)
    between = np.sum(A / (A + seen)) ** 2
    information = np.sum(A * (A + seen + 1) / (A + seen))
    return float((between + A * np.sum(weights**2)) / information)


class _Information(Protocol):
    """E F over some samples, (q, q), and c.F c of each of them along a direction, (rows,)."""

    def mean(self, rows: Indices) -> Array: ...

    def along(self, c: Array, rows: Indices) -> Array: ...


@dataclass(frozen=True, eq=False)
class _GivenInformation:
    fisher: Array

    def mean(self, rows: Indices) -> Array:
        F: Array = self._of(rows).mean(axis=0)
        return F if F.ndim == 2 else np.diag(F)

    def along(self, c: Array, rows: Indices) -> Array:
        F = self._of(rows)
        values = F @ c**2 if F.ndim == 2 else np.einsum("i,nij,j->n", c, F, c)
        return np.broadcast_to(values, len(rows))

    def _of(self, rows: Indices) -> Array:
        return self.fisher if len(self.fisher) == 1 else self.fisher[rows]


@dataclass(frozen=True, eq=False)
class _TokenInformation:
    """Scores and information of tokens, E None for the identity; phi (N, j)."""

    tokens: TokenPredictions
    E: Array | None
    phi: Array

    def scores(self) -> Array:
        """Of every sequence, (n, j e)."""
        t = self.tokens
        n, V = t.n_sequences, t.predicted.shape[1]
        blocks = []
        for feature in self.phi.T:
            of_sequence = csr_array(
                (feature, (t.sequence, np.arange(len(feature)))), (n, len(self.phi))
            )
            counts = csr_array((feature, (t.sequence, t.observed)), (n, V)).toarray()
            blocks.append(self._embedded(counts - of_sequence @ t.predicted))
        return np.concatenate(blocks, axis=1)

    def mean(self, rows: Indices) -> Array:
        chosen = np.isin(self.tokens.sequence, rows)
        p, phi = self.tokens.predicted[chosen], self.phi[chosen]
        j = phi.shape[1]
        blocks = [[self._block(p, phi[:, a] * phi[:, b]) for b in range(j)] for a in range(j)]
        return np.block(blocks) / len(rows)

    def _block(self, p: Array, weights: Array) -> Array:
        """Sum of weights (diag p - p p^T), embedded."""
        together = (p * weights[:, None]).T @ p
        # = diag(weights @ p) - together, with rows that sum to 0: a pull on all classes is nothing
        F = np.diag(together.sum(axis=1)) - together
        return self._embedded(self._embedded(F).T)

    def along(self, c: Array, rows: Indices) -> Array:
        C = c.reshape(self.phi.shape[1], -1)
        pulls = C if self.E is None else C @ self.E.T  # (j, V)
        p, phi = self.tokens.predicted, self.phi
        first = np.sum((p @ pulls.T) * phi, axis=1)
        # E_p[(sum_j phi_j b_j)^2]: one product per pair of features, no (N, V) of pulls
        second = sum(
            phi[:, a] * phi[:, b] * (p @ (pulls[a] * pulls[b]))
            for a in range(len(pulls))
            for b in range(len(pulls))
        )
        of_tokens = second - first**2
        t = self.tokens
        return np.asarray(np.bincount(t.sequence, of_tokens, t.n_sequences)[rows], np.float64)

    def _embedded(self, matrix: Array) -> Array:
        return matrix if self.E is None else matrix @ self.E


def _threshold(S: Array, information: _Information, centered: bool, seed: int) -> ResidualThreshold:
    everything = np.arange(len(S))
    F = information.mean(everything)
    if not np.diag(F).max() > 0:
        raise ValueError(
            "fisher is zero in every direction: all predictions are certain, nothing is left to "
            "explain"
        )
    values, vectors = generalised_eigenvalues(second := _second_moment(S, centered), F, second)
    mean = S.mean(axis=0)
    # without the larger of the two, an offset that is rounding of a mean would be infinite
    raw = np.outer(mean, mean)
    offset = generalised_eigenvalues(raw, F, raw + second)[0][0]
    held_out, error = _held_out(S, information, centered, seed)
    lengths = np.linalg.norm(vectors, axis=0)
    return ResidualThreshold(
        critical_beta=values,
        directions=(vectors / lengths).T,
        offset=float(offset),
        held_out_critical_beta=held_out,
        held_out_standard_error=error,
        n_samples=len(S),
    )


def _second_moment(S: Array, centered: bool) -> Array:
    S = S - S.mean(axis=0) if centered else S
    return S.T @ S / len(S)


def _held_out(
    S: Array, information: _Information, centered: bool, seed: int
) -> tuple[float, float]:
    """Best direction of one half, its ratio on the other: mean of both ways, standard error.

    The halves' errors are taken as independent. NaN where a half has no information of the best.
    """
    if len(S) < 4:
        return math.nan, math.nan
    halves = np.array_split(np.random.default_rng(seed).permutation(len(S)), 2)
    values, errors = [], []
    for one, other in (halves, halves[::-1]):
        F, second = information.mean(one), _second_moment(S[one], centered)
        c = generalised_eigenvalues(second, F, second)[1][:, 0]
        value, error = _ratio(S[other] @ c, information.along(c, other), centered)
        values.append(value)
        errors.append(error)
    return float(np.mean(values)), math.hypot(*errors) / 2


def _ratio(score: Array, information: Array, centered: bool) -> tuple[float, float]:
    """E[S^2]/E[J] along one direction, and its standard error by the spread of S^2 - ratio J."""
    squares = (score - score.mean() if centered else score) ** 2
    mean = float(information.mean())
    if not mean > 0:
        return math.nan, math.nan
    ratio = float(squares.mean()) / mean
    error = float(np.std(squares - ratio * information)) / mean / math.sqrt(len(score))
    return ratio, error


# --- arguments -----------------------------------------------------------------------------------


def _checked_array(name: str, value: npt.ArrayLike) -> Array:
    array = doubles(name, value)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} contains NaN or infinite entries: remove those samples")
    return array


def _checked_integers(name: str, value: npt.ArrayLike) -> Indices:
    array = as_array(name, value)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype} but must be integers >= 0, "
            "(N,), in TokenPredictions"
        )
    return array.astype(np.intp)


def _checked_count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ValueError(f"{name}={value!r} must be an integer >= {least} in burst_threshold")
    return int(value)


def _check_probabilities(p: Array) -> None:
    sums = p.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())  # NaN before all others
    if not (p.min() >= 0 and abs(float(sums[worst]) - 1) <= SUM_TOLERANCE):
        raise ValueError(
            f"predicted has a row {worst} that sums to {sums[worst]:.6g}, lowest entry "
            f"{p.min():.6g}, but rows must be probabilities: give softmax(logits)"
        )


def _check_observed(observed: Indices, p: Array) -> None:
    if observed.max() >= p.shape[1]:
        raise ValueError(f"observed has class {observed.max()} but predicted has {p.shape[1]}")
    impossible = np.flatnonzero(p[np.arange(len(p)), observed] == 0)
    if len(impossible):
        raise ValueError(
            f"predicted gives probability 0 to {len(impossible)} observed tokens, the first number "
            f"{impossible[0]}: the data have no likelihood there; smooth the predictions"
        )

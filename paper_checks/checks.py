"""What a check is, how its verdict follows from a gap and a bound, and the numerics they share.

A claim is a function that returns a `Finding`: the gap between what the paper says and what is
found, the bound that the gap has to meet and, where the paper slips, the gap of the corrected
claim. Nobody writes a verdict down:

| verdict                  | when                                              |
|--------------------------|---------------------------------------------------|
| holds                    | gap <= bound                                      |
| holds with a correction  | gap > bound, but the gap of the correction is not |
| does not hold            | both are above the bound                          |
| not checkable            | there is nothing to compute; the reason says why  |

A gap that is not a number meets no bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.optimize import minimize as scipy_minimise
from threadpoolctl import ThreadpoolController

from linvae.data import Dataset, MissingDataError, load_dataset
from linvae.moments import Moments
from linvae.theory import Solution

Array = npt.NDArray[np.float64]
Loss = Callable[[Array], Array]  # (points, numbers) -> (points,)

HOLDS = "holds"
CORRECTED = "holds with a correction"
FAILS = "does not hold"
NOT_CHECKABLE = "not checkable"
VERDICTS = (HOLDS, CORRECTED, FAILS, NOT_CHECKABLE)

# Bounds that many checks share.
ROUNDING = 1e-9  # the same number by two formulas: sums of a few dozen terms of size 1 to 100
ROOT_OF_ROUNDING = 1e-6  # singular values: the root turns rounding of 1e-14 into 1e-7
MINIMISED = 1e-4  # singular values of a numerical minimum, worst next to a threshold
DIFFERENCES = 1e-5  # thresholds from second differences with step 1e-3


@dataclass(frozen=True)
class Finding:
    """`gap` of the claim as it stands, `corrected` that of its correction, in `unit`s."""

    gap: float = math.nan
    bound: float = math.nan
    unit: str = ""
    note: str = ""
    corrected: float | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """One of VERDICTS, from the numbers."""
        if self.reason:
            return NOT_CHECKABLE
        if self.gap <= self.bound:
            return HOLDS
        if self.corrected is not None and self.corrected <= self.bound:
            return CORRECTED
        return FAILS

    @property
    def evidence(self) -> str:
        """The numbers in words."""
        if self.reason:
            return self.reason
        text = " ".join(f"gap {self.gap:.3g} {self.unit} (bound {self.bound:.2g})".split())
        if self.corrected is not None:
            text += f", corrected {self.corrected:.2g}"
        return f"{text}; {self.note}" if self.note else text


def not_checkable(reason: str) -> Finding:
    """A claim with nothing to compute."""
    return Finding(reason=reason)


@dataclass(frozen=True)
class Check:
    """One row of the table; `gap` and `bound` are None where nothing was computed."""

    paper: str
    claim: str
    where: str
    verdict: str
    evidence: str
    gap: float | None
    bound: float | None
    seconds: float


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper and the function that checks it."""

    text: str
    where: str
    find: Callable[[], Finding]


@dataclass(frozen=True)
class Paper:
    """A paper and its claims in reading order."""

    name: str
    title: str
    claims: list[Claim] = field(default_factory=list)

    def claim(self, where: str) -> Callable[[Callable[[], Finding]], Callable[[], Finding]]:
        """Register a function; the first line of its docstring is the claim."""

        def register(find: Callable[[], Finding]) -> Callable[[], Finding]:
            text = (find.__doc__ or find.__name__).strip().splitlines()[0].rstrip(".")
            self.claims.append(Claim(text, where, find))
            return find

        return register

    def run(self) -> Iterator[Check]:
        """Check one claim after the other."""
        threads = ThreadpoolController()
        for claim in self.claims:
            start = time.perf_counter()
            # matrices of 4 to 60 rows: more threads than one only get in each other's way
            with threads.limit(limits=1, user_api="blas"):
                found = claim.find()
            yield Check(
                paper=self.name,
                claim=claim.text,
                where=f"{self.title}, {claim.where}",
                verdict=found.verdict,
                evidence=found.evidence,
                gap=None if found.reason else float(found.gap),
                bound=None if found.reason else float(found.bound),
                seconds=time.perf_counter() - start,
            )


# --- matrices -----------------------------------------------------------------------------------


def random_covariance(rng: np.random.Generator, dim: int) -> Array:
    """Full covariance with eigenvalues between 0.1 and 4."""
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return np.asarray((basis * np.exp(rng.uniform(-2.3, 1.4, size=dim))) @ basis.T)


def eigenvalues(C: Array) -> Array:
    """Descending."""
    return np.asarray(np.linalg.eigvalsh(C)[::-1], dtype=np.float64)


def root(C: Array) -> Array:
    """Symmetric square root."""
    values, vectors = np.linalg.eigh(C)
    square_root: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return square_root


def singular_gap(matrix: Array, expected: npt.ArrayLike) -> float:
    """Largest difference of the singular values from `expected`, both sorted; NaN stays NaN."""
    found = np.linalg.svd(matrix, compute_uv=False)
    claimed = np.sort(np.asarray(expected, dtype=float))[::-1]
    return float(np.abs(found[: len(claimed)] - claimed).max())


def largest(values: Iterable[float]) -> float:
    """Maximum in which a NaN wins."""
    return float(np.max(np.fromiter(values, dtype=float)))


def diagonal(variances: npt.ArrayLike) -> Moments:
    """Moments of independent coordinates."""
    return Moments.from_covariance(np.diag(np.asarray(variances, dtype=float)))


def loss_of(solution: Solution, dim: int) -> float:
    """The objective without d/2 log(2 pi s), which the published losses leave out."""
    return solution.objective - dim / 2 * math.log(2 * math.pi * solution.decoder_variance)


# --- numbers for a model of one level -----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Setting:
    """A random problem: covariance, roots of its eigenvalues, and the numbers of a model."""

    C: Array
    theta: Array
    k: int
    beta: float
    s: float
    eta2: float
    sigma2: Array

    @cached_property
    def moments(self) -> Moments:
        """Moments with this covariance."""
        return Moments.from_covariance(self.C)


@cache
def settings(count: int, dim: int = 4, seed: int = 0) -> tuple[Setting, ...]:
    """`count` random problems with 1 to dim - 1 latent units."""
    return tuple(_setting(number, dim, seed) for number in range(count))


def _setting(number: int, dim: int, seed: int) -> Setting:
    rng = np.random.default_rng([seed, number])
    C = random_covariance(rng, dim)
    k = int(rng.integers(1, dim))
    beta, s, eta2 = np.exp(rng.uniform([-1, -2, -1], [1, 0, 1]))
    sigma2 = np.exp(rng.uniform(-2, 0.5, size=k))
    return Setting(C, np.sqrt(eigenvalues(C)), k, beta, s, eta2, sigma2)


# --- minimisation without any theory ------------------------------------------------------------


def unpack(points: Array, *shapes: tuple[int, ...]) -> list[Array]:
    """Cut the last axis of (points, numbers) into matrices (points, *shape)."""
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(points, cuts, axis=-1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def gradient(loss: Loss, x: Array, step: float = 1e-5) -> tuple[float, Array]:
    """Value and central differences, all points in one call."""
    shift = step * np.eye(len(x))
    values = loss(np.concatenate([x[None], x + shift, x - shift]))
    n = len(x)
    return float(values[0]), (values[1 : n + 1] - values[n + 1 :]) / (2 * step)


def minimise(loss: Loss, size: int, seed: int, starts: int = 3) -> Array:
    """The best of `starts` descents from random points."""
    rng = np.random.default_rng(seed)
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-8, "maxcor": 30}
    found = [
        scipy_minimise(
            lambda x: gradient(loss, x), rng.normal(size=size) * 0.7,
            jac=True, method="L-BFGS-B", options=options,
        )
        for _ in range(starts)
    ]  # fmt: skip
    best: Array = min(found, key=lambda result: result.fun).x
    return best


def hessian(loss: Loss, x: Array, step: float = 1e-3) -> Array:
    """Second differences; exact up to step^2 times the fourth derivative."""
    n = len(x)
    shift = step * np.eye(n)
    plus = (shift[:, None] + shift[None]).reshape(-1, n)
    minus = (shift[:, None] - shift[None]).reshape(-1, n)
    f = loss(np.concatenate([x + plus, x + minus, x - minus, x - plus])).reshape(4, n, n)
    second: Array = (f[0] - f[1] - f[2] + f[3]) / (4 * step**2)
    return second


def curvature(loss: Loss, x: Array) -> float:
    """Lowest eigenvalue of the Hessian: negative at a saddle."""
    return float(np.linalg.eigvalsh(hessian(loss, x))[0])


def critical_beta(loss: Callable[[Array, float], Array], x: Array, guess: float) -> float:
    """The beta at which the point `x` becomes stable, within a factor 30 of `guess`."""
    return crossing(lambda beta: curvature(lambda points: loss(points, beta), x), guess)


def crossing(function: Callable[[float], float], guess: float) -> float:
    """Zero of a function of a positive number within a factor 30 of `guess`."""
    low, high = math.log(guess / 30), math.log(guess * 30)
    return math.exp(brentq(lambda log: function(math.exp(log)), low, high, xtol=1e-12))


def kl_by_quadrature(mean: float, deviation: float) -> float:
    """KL(N(mean, deviation^2) || N(0, 1)) from the integral itself, nats."""
    z = mean + deviation * np.linspace(-12, 12, 4001)  # the trapezoid rule is exact on a Gaussian
    log_q = -((z - mean) ** 2) / (2 * deviation**2) - math.log(deviation)
    weight = np.exp(log_q) / math.sqrt(2 * math.pi)
    return float(np.sum(weight * (log_q + z**2 / 2)) * (z[1] - z[0]))


# --- data, and an estimator of two papers -------------------------------------------------------


def real_data(name: str) -> Dataset | None:
    """A dataset where its files are found (LINVAE_DATA, user cache), else None."""
    try:
        return load_dataset(name)
    except MissingDataError:
        return None


def needs_data(name: str) -> Finding:
    """The verdict without the files."""
    return not_checkable(f"not checkable here: needs data ({name}; set LINVAE_DATA)")


def batch_information(mean: Array, variance: float, rng: np.random.Generator) -> float:
    """Mutual information as both codes estimate it from a batch of posteriors, nats.

    Exact E log q(z|x), minus log of the batch's own mixture at one draw per member.
    """
    B, k = mean.shape
    z = mean + math.sqrt(variance) * rng.normal(size=mean.shape)
    square = np.sum((z[:, None] - mean[None]) ** 2, axis=-1)
    log_q = -square / (2 * variance) - k / 2 * math.log(2 * math.pi * variance)
    aggregate = np.logaddexp.reduce(log_q, axis=1) - math.log(B)
    return float(-k / 2 * math.log(2 * math.pi * math.e * variance) - aggregate.mean())
